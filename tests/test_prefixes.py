"""V by itself: the same values as the learner's, in the order asked, as soon as asked; mistakes named by their line."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from journeyman import Message, Trajectory, value_of
from journeyman.engine.native import NativeEngine
from journeyman.errors import UnknownName, UsageError
from journeyman.jobs import resolve
from journeyman.model.calibration import Calibration, Scaling
from journeyman.model.load import load, save
from journeyman.model.render import Renderer
from journeyman.model.value import ValueConfig, ValueFunction
from journeyman.prefixes import PrefixScorer, estimate_lines
from journeyman.report.trace import trace_record
from journeyman.rollout.runner import RolloutConfig, attempts, rollout
from journeyman.types import conversation

MAZE = "maze,size=4"
CALIBRATED = Calibration(
    overall=Scaling((0,), (1.0,), (1.0,)), jobs={MAZE: Scaling((0, 16), (2.0, 0.5), (-1.0, 0.5))}, notes=()
)
ASK = [{"role": "user", "content": "go to the hall"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The apprentice with a V of no sense, but with differences."""
    torch.manual_seed(0)
    loaded = load("apprentice")
    value = ValueFunction.start(ValueConfig(), loaded.model)
    assert value.ear is not None
    torch.nn.init.normal_(value.head.weight, std=0.2)
    torch.nn.init.normal_(value.ear.weight, std=0.2)
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    save(folder, loaded.model, loaded.tokenizer, value, CALIBRATED)
    return folder


@pytest.fixture(scope="module")
def scorer(folder: Path) -> PrefixScorer:
    return PrefixScorer(load(folder))


@pytest.fixture(scope="module")
def played(folder: Path) -> list[Trajectory]:
    """Eight episodes in the maze, with the log-probabilities that their engine recorded."""
    loaded = load(folder)
    job = resolve(MAZE)
    orders = attempts(list(job.tasks("test", 4)), repeats=2, prefix="e", seed=0)
    engine = NativeEngine(loaded.model, slots=8, context=512)
    config = RolloutConfig(max_turns=6)
    return sorted(rollout(engine, Renderer(loaded.tokenizer), {MAZE: job}, orders, config), key=lambda t: t.id)


def lines(*records: object) -> io.BytesIO:
    return io.BytesIO(b"".join((r if isinstance(r, bytes) else json.dumps(r).encode()) + b"\n" for r in records))


def test_values_are_those_of_the_learner(scorer: PrefixScorer, played: list[Trajectory]) -> None:
    estimates = list(estimate_lines(scorer, lines(*(trace_record(t) for t in played))))
    assert [e.id for e in estimates] == [t.id for t in played]
    for estimate, t in zip(estimates, scorer.learner.score(played), strict=True):
        assert estimate.raw == float(t.values[-1])
        assert len(estimate.turns) == len(t.turns) + 1 and estimate.turns[-1] == estimate.value
        after_two = t.turns[2].start - 1  # the state in which the third reply is chosen
        written = sum(turn.stop - turn.start for turn in t.turns[:2])
        expected = CALIBRATED.jobs[MAZE].probability(t.values[[after_two]], [written])
        assert estimate.turns[2] == pytest.approx(float(expected[0]))
    assert len({round(e.raw, 4) for e in estimates}) > 4


def test_messages_are_tokens_as_they_were_sampled(scorer: PrefixScorer, played: list[Trajectory]) -> None:
    whole = [t for t in played if all(t.tokens[turn.stop - 1] in scorer.renderer.end_ids for turn in t.turns)]
    assert len(whole) > 4
    for t in whole:
        said = [{"role": m.role, "content": m.content} for m in conversation(t.task, t.turns)]
        while said[-1]["role"] != "assistant":  # the answer to the last reply was never read
            said.pop()
        prefix = scorer.read({"messages": said, "job": MAZE}, 1).trajectory
        assert prefix.tokens.tolist() == t.tokens.tolist() and prefix.mask.tolist() == t.mask.tolist()
        assert [(a.start, a.stop) for a in prefix.turns] == [(a.start, a.stop) for a in t.turns]
        assert np.isnan(prefix.logprobs[prefix.mask]).all()


def test_log_probabilities_that_are_missing_are_the_policys(scorer: PrefixScorer, played: list[Trajectory]) -> None:
    bare = [{k: v for k, v in trace_record(t).items() if k != "logprobs"} for t in played]
    read = [scorer.read(record, 1).trajectory for record in bare]
    filled = scorer.learner.with_logprobs(read)
    for t, one in zip(played, filled, strict=True):
        assert one.logprobs == pytest.approx(t.logprobs, abs=0.1)  # bfloat16 where the processor has tiles for it
        assert not one.logprobs[~one.mask].any()
    cooler = scorer.learner.with_logprobs([replace(t, temperature=0.5) for t in read])
    assert any(abs(a.logprobs - b.logprobs).max() > 0.1 for a, b in zip(cooler, filled, strict=True))


def test_what_v_is_given_has_log_probabilities(
    scorer: PrefixScorer, played: list[Trajectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Trajectory] = []
    score = scorer.learner.score

    def listen(trajectories: list[Trajectory]) -> list[Trajectory]:
        given.extend(trajectories)
        return score(trajectories)

    monkeypatch.setattr(scorer.learner, "score", listen)
    records = [trace_record(t) for t in played]
    for record in records[::2]:
        record["logprobs"] = None
    list(estimate_lines(scorer, lines(*records)))
    assert [t.tokens.tolist() for t in given] == [t.tokens.tolist() for t in played]
    assert all(np.isfinite(t.logprobs).all() and (t.logprobs[t.mask] < 0).any() for t in given)
    assert all((a.logprobs == b.logprobs).all() for a, b in zip(given[1::2], played[1::2], strict=True))


def test_a_conversation_that_has_not_begun_or_waits_for_a_reply(scorer: PrefixScorer) -> None:
    first, second = scorer.estimate(
        [
            scorer.read({"messages": ASK}, 1),
            scorer.read({"messages": [*ASK, {"role": "assistant", "content": "north"}, *ASK]}, 2),
        ]
    )
    assert (first.id, len(first.turns), second.id, len(second.turns)) == (1, 1, 2, 2)
    waiting = scorer.read({"messages": [*ASK, {"role": "assistant", "content": "north"}, *ASK]}, 1).trajectory
    opened = scorer.renderer.open([Message("user", "go to the hall")])
    assert not waiting.mask[-1] and waiting.tokens[: len(opened)].tolist() == opened
    assert first.turns[0] == pytest.approx(second.turns[0], abs=0.02)


def test_the_calibration_is_that_of_the_job(folder: Path, played: list[Trajectory]) -> None:
    record = {k: v for k, v in trace_record(played[0]).items() if k != "job"}
    plain, named = (next(value_of(folder, [record], job=job)) for job in (None, MAZE))
    own, other = value_of(folder, [{**record, "job": MAZE}, {**record, "job": "never heard of"}])
    assert own.turns == pytest.approx(named.turns) and other.turns == pytest.approx(plain.turns)
    assert plain.raw == pytest.approx(named.raw) and plain.value != pytest.approx(named.value)
    odds = plain.value / (1 - plain.value) / (plain.raw / (1 - plain.raw))
    assert odds == pytest.approx(np.e, rel=1e-3)  # T = 1 and b = 1 for all jobs together
    with pytest.raises(UnknownName, match="did you mean maze,size=4"):
        next(value_of(folder, [record], job="maze,size=5"))


def test_trajectories_of_a_store_can_be_asked_about(folder: Path, played: list[Trajectory]) -> None:
    told = list(value_of(folder, played, batch=3))
    again = list(value_of(folder, (trace_record(t) for t in played)))
    assert [e.id for e in told] == [t.id for t in played]
    assert [e.raw for e in told] == pytest.approx([e.raw for e in again], abs=0.02)


def test_an_episode_that_is_none_is_named(folder: Path) -> None:
    with pytest.raises(UsageError, match="episode 2: an episode has `messages`"):
        list(value_of(folder, [{"messages": ASK}, {}]))


def test_order_is_kept_over_batches(scorer: PrefixScorer, played: list[Trajectory]) -> None:
    records = [{**trace_record(t), "id": f"{n}-{t.id}"} for n in range(16) for t in played]
    assert len(lines(*records).getvalue()) > 3 << 16  # several reads
    estimates = list(estimate_lines(scorer, lines(*records)))
    assert [e.id for e in estimates] == [r["id"] for r in records]
    raw = np.array([e.raw for e in estimates]).reshape(16, len(played))
    assert raw == pytest.approx(np.broadcast_to(raw[0], raw.shape), abs=0.02)


def test_a_slow_producer_gets_each_answer_before_its_next_line(scorer: PrefixScorer) -> None:
    out, into = os.pipe()
    with open(out, "rb") as stream:
        answers = estimate_lines(scorer, stream)
        for number in range(3):
            line = json.dumps({"messages": ASK, "id": number}).encode()
            os.write(into, line[:9])
            os.write(into, line[9:] + b"\n")
            assert next(answers).id == number  # would wait for ever if it waited for more
        os.write(into, json.dumps({"messages": ASK, "id": "unended"}).encode())
        os.close(into)
        assert [e.id for e in answers] == ["unended"]


def test_alarm_is_the_first_turn_below(scorer: PrefixScorer) -> None:
    estimate = scorer.estimate([scorer.read({"messages": ASK}, 1)])[0]
    fell = replace(estimate, turns=(0.5, 0.1, 0.05, 0.6), value=0.6)
    assert (fell.alarm(0.2), fell.alarm(0.55), fell.alarm(0.05)) == (1, 0, None)


MISTAKES: list[tuple[object, str]] = [
    (b"{", "this is no JSON"),
    (b"\xff\xfe", "this is no JSON"),
    (b"[" * 100_000, "this is no JSON"),
    ([1, 2], "an episode is a JSON object"),
    ({"id": 1}, "an episode has `messages`"),
    ({"messages": []}, "at least one message"),
    ({"messages": [{"role": "user"}]}, "message 1 must be an object with a text"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "message 1 must be an object with a text"),
    ({"messages": [{"role": "usr", "content": "x"}]}, "did you mean user?"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, "opens with a message that is not the assistant's"),
    ({"messages": [*ASK, *([{"role": "assistant", "content": "x"}] * 2)]}, "a reply needs something to reply to"),
    ({"messages": ASK, "id": 1.5}, "`id` must be a text or a whole number"),
    ({"messages": ASK, "id": True}, "`id` must be a text or a whole number"),
    ({"messages": ASK, "job": 3}, "`job` must be a text"),
    ({"messages": ASK, "temperature": -1}, "`temperature` must be a number from 0 to 100"),
    ({"messages": [{"role": "user", "content": "far " * 5000}]}, "the model reads at most"),
    ({"tokens": [1, "a"], "mask": [False, True]}, "`tokens` must be a list of whole numbers"),
    ({"tokens": [1, 2]}, "`mask` must be a list of 2"),
    ({"tokens": [1, 2], "mask": [False, 1]}, "`mask` must be a list of 2"),
    ({"tokens": [1, 2], "mask": [True, True]}, "begins with a prompt"),
    ({"tokens": [], "mask": []}, "begins with a prompt"),
    ({"tokens": [1, 10**20], "mask": [False, True]}, "a token that the model does not know"),
    ({"tokens": [1, -1], "mask": [False, True]}, "a token that the model does not know"),
    ({"tokens": [1, 2], "mask": [False, True], "logprobs": [0]}, "`logprobs` must be a list of 2 numbers"),
    ({"tokens": [1, 2], "mask": [False, True], "logprobs": [0, None]}, "no number of at most 0"),
    (b'{"tokens": [1, 2], "mask": [false, true], "logprobs": [0, NaN]}', "no number of at most 0"),
]


@pytest.mark.parametrize(("record", "says"), MISTAKES, ids=[says for _, says in MISTAKES])
def test_a_bad_line_is_named(scorer: PrefixScorer, record: object, says: str) -> None:
    good: dict[str, Any] = {"messages": ASK}
    answers = estimate_lines(scorer, lines(good, b"", record, good))
    assert next(answers).id == 1  # what came before it is answered
    with pytest.raises(UsageError, match="line 3: ") as error:
        next(answers)
    assert says in str(error.value)
    skipped: list[UsageError] = []
    rest = estimate_lines(scorer, lines(good, b"  ", record, good), skipped.append)
    assert [e.id for e in rest] == [1, 4]
    assert len(skipped) == 1 and skipped[0].mistake.startswith("line 3: ")


def test_without_a_value_function_there_is_nothing_to_ask() -> None:
    with pytest.raises(UsageError, match=r"apprentice has no value function[\s\S]*Fix: "):
        next(value_of("apprentice", []))


def test_an_empty_stream_has_no_answers(scorer: PrefixScorer) -> None:
    assert list(estimate_lines(scorer, lines())) == [] == list(estimate_lines(scorer, lines(b"", b" ")))
