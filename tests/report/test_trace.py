"""Laying out an episode: every sampled character is there, with the V that was read after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from journeyman.model.render import Renderer
from journeyman.model.tokenizer import train_tokenizer
from journeyman.report.trace import END, known_values, trace_record, turns_worth_reading, view
from journeyman.report.words import count, duration, interval, listed, percent, points, short, visible
from journeyman.types import Ending, Message, Outcome, Task, Trajectory, Turn

Make = Callable[..., Trajectory]
Pieces = Callable[[Sequence[int]], list[str]]


def one_turn(texts: list[str], start: int, values: list[float], reply: str) -> Trajectory:
    size = len(texts)
    return Trajectory(
        id="t",
        task=Task("sums", "test", 3, (Message("user", "2+2"),)),
        group="g",
        step=-1,
        policy_version=0,
        temperature=1.0,
        tokens=np.arange(size, dtype=np.int32),
        mask=np.arange(size) >= start,
        logprobs=np.zeros(size, np.float32),
        values=np.array(values, np.float32),
        turns=(Turn(start, size, reply, "", 1.0),),
        outcome=Outcome(1.0, Ending.TERMINATED),
    )


TEXTS = ["<user>", "2+", "2", "<assistant>", "4", "2", "<end>"]


def test_the_template_is_left_out_and_the_end_kept() -> None:
    trajectory = one_turn(TEXTS, 4, [0.5, 0.5, 0.5, 0.4, 0.9, 0.2, 0.1], "42")
    seen = view(trajectory, TEXTS)
    assert [(p.speaker, p.turn, p.text) for p in seen.passages] == [
        ("user", 0, "2+2"),
        ("assistant", 1, f"42{END}"),
    ]
    assert [span.position for span in seen.passages[1].spans] == [4, 5, 6]
    assert [at for at, _ in seen.series] == [3, 4, 5, 6]
    assert seen.rise is not None and seen.fall is not None
    assert (seen.rise.position, seen.rise.text) == (4, "4") and (seen.fall.position, seen.fall.text) == (
        5,
        "2",
    )
    assert seen.fall.before == pytest.approx(0.9) and seen.fall.after == pytest.approx(0.2)
    assert seen.fall.fell and not seen.rise.fell


def test_without_pieces_whole_turns_have_the_value_at_their_end() -> None:
    trajectory = one_turn(TEXTS, 4, [0.5, 0.5, 0.5, 0.4, 0.9, 0.2, 0.1], "42")
    (prompt, reply) = view(trajectory).passages
    assert (prompt.text, prompt.spans[0].value) == ("2+2", None)
    assert (reply.text, reply.spans[0].position) == ("42", 6)
    assert reply.spans[0].value == pytest.approx(0.1)


def test_a_reply_that_is_not_found_in_its_tokens_is_shown_as_they_are() -> None:
    seen = view(one_turn(TEXTS, 4, [0.5] * 7, "forty-two"), TEXTS)
    assert seen.passages[1].text == "42<end>"


def test_values_that_were_never_computed_leave_no_line() -> None:
    seen = view(one_turn(TEXTS, 4, [float("nan")] * 7, "42"), TEXTS)
    assert seen.series == () and seen.fall is None and seen.rise is None


def test_an_episode_that_broke_before_its_first_token_can_be_seen() -> None:
    broken = Outcome(0.0, Ending.FAILED, "TypeError: no", "environment")
    trajectory = replace(one_turn(TEXTS, 7, [0.5] * 7, ""), turns=(), outcome=broken)
    assert known_values(trajectory) == ()
    assert [p.text for p in view(trajectory, TEXTS).passages] == ["2+2"]


def test_pieces_must_fit() -> None:
    with pytest.raises(ValueError, match="3 pieces for a trajectory of 7 tokens"):
        view(one_turn(TEXTS, 4, [0.5] * 7, "42"), ["a", "b", "c"])


@pytest.mark.parametrize("job", ["maze", "hops"])
@pytest.mark.parametrize("index", range(6))
def test_all_that_was_said_is_shown_in_order(make_trajectory: Make, pieces: Pieces, job: str, index: int) -> None:
    trajectory = make_trajectory(job, "an-id", "test", index, 0.5)
    by_token = view(trajectory, pieces(trajectory.tokens.tolist()))
    by_turn = view(trajectory)
    assert by_token.series == by_turn.series
    for seen in (by_token, by_turn):
        said = [p.text.removesuffix(END) for p in seen.passages if p.speaker == "assistant"]
        assert said == [turn.reply for turn in trajectory.turns]
        answers = [p.text for p in seen.passages if p.speaker == "environment"]
        assert answers == [turn.observation for turn in trajectory.turns if turn.observation]
        prompt = [p.text for p in seen.passages if p.turn == 0]
        assert prompt == [message.content for message in trajectory.task.messages]
    positions = [s.position for p in by_token.passages for s in p.spans if s.position is not None]
    assert positions == sorted(set(positions))


def test_a_real_tokenizer_gives_the_same_text() -> None:
    renderer = Renderer(train_tokenizer(["jump twice and run", "JUMP JUMP RUN", "naïve café ☕"] * 20, 300))
    messages = (Message("system", "obey"), Message("user", "jump twice ☕"))
    prompt, reply = renderer.open(messages), renderer.reply_ids("JUMP\nnaïve café")
    size = len(prompt) + len(reply)
    trajectory = replace(
        one_turn(TEXTS, 4, [0.5] * 7, ""),
        task=Task("sums", "test", 0, messages),
        tokens=np.array([*prompt, *reply], np.int32),
        mask=np.arange(size) >= len(prompt),
        values=np.linspace(0, 1, size, dtype=np.float32),
        turns=(Turn(len(prompt), size, renderer.text(reply), "", 1.0),),
    )
    seen = view(trajectory, renderer.pieces(trajectory.tokens.tolist()))
    assert [p.text for p in seen.passages] == ["obey", "jump twice ☕", f"JUMP\nnaïve café{END}"]
    assert all(span.position is not None for p in seen.passages for span in p.spans)


def test_long_episodes_are_shortened_to_what_matters(make_trajectory: Make, pieces: Pieces) -> None:
    trajectory = make_trajectory("maze", "an-id", "test", 1, 0.05)
    seen = view(trajectory, pieces(trajectory.tokens.tolist()))
    shown = turns_worth_reading(seen)
    last = len(trajectory.turns)
    assert {0, 1, 2, 3, last - 2, last - 1, last} <= shown
    for moment in (seen.fall, seen.rise):
        assert moment is None or moment.turn in shown
    hidden = sorted(set(range(last + 1)) - shown)
    assert all(turn + 1 in hidden or turn - 1 in hidden for turn in hidden)


def test_an_episode_as_json(make_trajectory: Make, pieces: Pieces) -> None:
    trajectory = make_trajectory("hops", "an-id", "test", 1, 0.5)
    trajectory.values[0] = np.nan
    record: dict[str, Any] = trace_record(trajectory, pieces(trajectory.tokens.tolist()))
    assert record["values"][0] is None and len(record["pieces"]) == len(record["tokens"]) == len(trajectory)
    assert "pieces" not in trace_record(trajectory)


@given(st.text())
def test_visible_text_cannot_disturb(text: str) -> None:
    shown = visible(text)
    assert all(c in "\n\t" or (ord(c) >= 0x20 and not 0x7F <= ord(c) <= 0x9F) for c in shown)
    shown.encode("utf-8")
    assert visible(shown) == shown


def test_control_characters_are_shown_as_pictures() -> None:
    assert visible("\x1b[31m\r\n\u202e\ud800") == "␛[31m\n\ufffd\ufffd"


def test_numbers_in_words() -> None:
    assert [percent(x) for x in (0, 0.914, 0.998, 0.9999, 1, 0.001, None, float("nan"))] == [
        "0%",
        "91%",
        "99.8%",
        "99.9%",
        "100%",
        "0.1%",
        "\u2013",
        "\u2013",
    ]
    assert interval(0.871, 0.943) == "87\u201394%"
    assert [points(x) for x in (0.67, -0.04, 0.001)] == ["+67", "\u22124", "±0"]
    assert [count(x) for x in (12480, 3_214_000, 2e9)] == ["12,480", "3.21 million", "2 billion"]
    assert [short(x) for x in (0, 500, 12500, 3e6)] == ["0", "500", "12.5k", "3M"]
    assert [duration(x) for x in (3.21, 59, 340, 8000, 400_000, None)] == [
        "3.2 s",
        "59 s",
        "5 min 40 s",
        "2 h 13 min",
        "4.6 days",
        "\u2013",
    ]
    assert listed(["a"]) == "a" and listed(["a", "b", "c"]) == "a, b and c" and listed([]) == ""
