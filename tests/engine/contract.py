"""What every engine promises, as checks that `test_contract.py` runs on each.

A check gets a :class:`Bench`: a fresh engine of `SLOTS` slots and a context of `CONTEXT` that samples from a copy
of `model`, and the tolerance of its log-probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from journeyman.engine.base import Engine, Reply, Sampling
from journeyman.engine.native import NativeEngine
from journeyman.errors import UsageError
from journeyman.model.decoder import Decoder, DecoderConfig

VOCAB, SLOTS, CONTEXT = 60, 4, 64
END = 2
"""Also the end token that Llama's configuration has where it is told of none."""

GREEDY = Sampling(temperature=0.0, max_tokens=6)


@dataclass(frozen=True)
class Bench:
    """An engine under test."""

    engine: Engine
    model: Decoder
    tolerance: float


Check = Callable[[Bench], None]
CONTRACT: list[Check] = []


def promised(check: Check) -> Check:
    """Add a check to the contract."""
    CONTRACT.append(check)
    return check


def make_model(seed: int = 0) -> Decoder:
    """A tiny decoder whose distributions are far from uniform, so that a token read wrongly shows."""
    torch.manual_seed(seed)
    model = Decoder(DecoderConfig.tiny(VOCAB, width=128, layers=2, positions=256))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    return model.requires_grad_(False)


def expected(model: Decoder, tokens: Sequence[int], temperature: float = 1.0) -> list[float]:
    """log pi(token i | before) for i >= 1, as the trainer computes them: in one pass."""
    row = torch.tensor([list(tokens)])
    logits = model.logits(model.hidden(row)).float() / temperature
    return logits.log_softmax(-1)[0, :-1].gather(-1, row[0, 1:, None])[:, 0].tolist()


def agrees(bench: Bench, read: Sequence[int], reply: Reply, temperature: float = 1.0) -> None:
    """The reply's log-probabilities are the trainer's."""
    theirs = expected(bench.model, [*read, *reply.tokens], temperature)[len(read) - 1 :]
    assert len(reply.logprobs) == len(reply.tokens)
    worst = max((abs(a - b) for a, b in zip(reply.logprobs, theirs, strict=True)), default=0.0)
    assert worst < bench.tolerance, f"log-probabilities differ from the trainer's by up to {worst}"


def finish(engine: Engine) -> dict[int, Reply]:
    """Step until all is idle; the replies by sequence."""
    replies: dict[int, Reply] = {}
    steps = 0
    while engine.busy:
        for reply in engine.step():
            assert reply.sequence not in replies, "a sequence replied twice"
            replies[reply.sequence] = reply
        steps += 1
        assert steps < 2000, "the engine stays busy and gives no reply"
    assert engine.step() == []
    return replies


def ask(engine: Engine, sequence: int, tokens: Sequence[int], sampling: Sampling) -> Reply:
    engine.submit(sequence, tokens, sampling)
    return finish(engine)[sequence]


@promised
def a_stop_token_ends_a_reply_and_belongs_to_it(bench: Bench) -> None:
    engine = bench.engine
    reply = ask(engine, engine.open(0), [7], Sampling(max_tokens=9, stop=frozenset(range(VOCAB))))
    assert reply.finish == "stop"
    assert len(reply.tokens) == 1
    agrees(bench, [7], reply)


@promised
def the_limit_ends_a_reply(bench: Bench) -> None:
    engine = bench.engine
    reply = ask(engine, engine.open(0), [7, 8], Sampling(max_tokens=5))
    assert reply.finish == "length"
    assert len(reply.tokens) == 5
    agrees(bench, [7, 8], reply)


@promised
def a_reply_under_way_is_told_as_it_will_be(bench: Bench) -> None:
    engine = bench.engine
    sequence = engine.open(0)
    engine.submit(sequence, [7, 8], Sampling(max_tokens=40))
    told: list[tuple[tuple[int, ...], tuple[float, ...]]] = []
    replies: list[Reply] = []
    while not replies:
        replies = engine.step()
        told.append(engine.partial(sequence))
        assert engine.partial(sequence, 2) == (told[-1][0][2:], told[-1][1][2:])
    assert told.pop() == ((), ()), "an idle sequence has nothing under way"
    (reply,) = replies
    for tokens, logprobs in told:
        assert tokens == reply.tokens[: len(tokens)] and logprobs == reply.logprobs[: len(logprobs)]
    if isinstance(engine, NativeEngine):
        assert told and told[-1][0], "it tells what it has"


@promised
def no_other_token_ends_a_reply(bench: Bench) -> None:
    """In particular none that the model's configuration calls its end: of 160 tokens 1 in 60 is that one."""
    engine = bench.engine
    for seed in range(SLOTS):
        engine.submit(engine.open(seed), [5], Sampling(temperature=2.0, max_tokens=40))
    replies = finish(engine).values()
    assert [len(reply.tokens) for reply in replies] == [40] * SLOTS
    assert any(END in reply.tokens for reply in replies), "the check is blind: choose other seeds"


@promised
def a_full_context_ends_a_reply(bench: Bench) -> None:
    engine = bench.engine
    sequence = engine.open(0)
    prompt = [3] * (CONTEXT - 10)
    reply = ask(engine, sequence, prompt, Sampling(max_tokens=500))
    assert reply.finish == "context"
    assert len(reply.tokens) == 10
    agrees(bench, prompt, reply)
    assert ask(engine, sequence, [1], Sampling()) == Reply(sequence, (), (), "context")


@promised
def a_prompt_that_fills_the_context_gets_no_reply(bench: Bench) -> None:
    engine = bench.engine
    for length in (CONTEXT, CONTEXT + 9):
        sequence = engine.open(0)
        assert ask(engine, sequence, [1] * length, Sampling()) == Reply(sequence, (), (), "context")
    almost = ask(engine, engine.open(0), [1] * (CONTEXT - 1), Sampling())
    assert (len(almost.tokens), almost.finish) == (1, "context")


@promised
def turns_append_to_what_was_read_and_said(bench: Bench) -> None:
    engine = bench.engine
    rng = np.random.default_rng(0)
    talks = {engine.open(seed): list[int]() for seed in range(SLOTS)}
    for turn in range(4):
        for sequence, talk in talks.items():
            fresh = rng.integers(0, VOCAB, 1 + (sequence + turn) % 5).tolist()
            engine.submit(sequence, fresh, Sampling(max_tokens=1 + turn, stop=frozenset({END})))
            talk += fresh
        for sequence, reply in finish(engine).items():
            agrees(bench, talks[sequence], reply)
            talks[sequence] += reply.tokens


@promised
def logprobs_are_of_the_distribution_at_the_temperature(bench: Bench) -> None:
    """At 0 they are of the one at 1; and neighbours have temperatures of their own."""
    engine = bench.engine
    asked = {engine.open(9): temperature for temperature in (0.0, 0.3, 1.0, 1.7)}
    for sequence, temperature in asked.items():
        engine.submit(sequence, [4, 9, 1], Sampling(temperature=temperature, max_tokens=12))
    for sequence, reply in finish(engine).items():
        agrees(bench, [4, 9, 1], reply, asked[sequence] or 1.0)


@promised
def forks_go_on_as_the_original_would(bench: Bench) -> None:
    engine = bench.engine
    first = engine.open(seed=1)
    said = ask(engine, first, [1, 2, 3], Sampling(max_tokens=6))
    twins = [engine.fork(first, seed=9), engine.fork(first, seed=10)]
    for sequence in (first, *twins):
        engine.submit(sequence, [], GREEDY)
    replies = finish(engine)
    assert len({replies[sequence].tokens for sequence in (first, *twins)}) == 1
    agrees(bench, [1, 2, 3, *said.tokens], replies[first])
    engine.close(first)  # the twins do without it
    for twin in twins:
        history = [1, 2, 3, *said.tokens, *replies[twin].tokens, twin]
        agrees(bench, history, ask(engine, twin, [twin], Sampling(max_tokens=4)))


@promised
def forks_draw_by_their_own_seeds(bench: Bench) -> None:
    engine = bench.engine
    first = engine.open(seed=1)
    ask(engine, first, [1, 2, 3], Sampling(max_tokens=1))
    twins = [engine.fork(first, seed) for seed in (5, 5, 6)]
    for twin in twins:
        engine.submit(twin, [8], Sampling(temperature=2.0, max_tokens=20))
    replies = finish(engine)
    alike, same, other = (replies[twin].tokens for twin in twins)
    assert alike == same
    assert other != same


@promised
def the_same_seed_gives_the_same_reply_whoever_else_is_asked(bench: Bench) -> None:
    engine = bench.engine
    sampling = Sampling(temperature=1.5, max_tokens=20)
    alone = engine.open(seed=2**63 + 7)
    first = ask(engine, alone, [1, 2], sampling)
    engine.close(alone)
    crowd = [engine.open(seed) for seed in (0, 1, 2**63 + 7, 3)]
    for place, sequence in enumerate(crowd):
        engine.submit(sequence, [1, 2] if place == 2 else [place] * 9, sampling)
    replies = finish(engine)
    assert replies[crowd[2]].tokens == first.tokens
    assert len({reply.tokens for reply in replies.values()}) == len(crowd)


@promised
def many_more_sequences_than_slots_take_turns(bench: Bench) -> None:
    engine = bench.engine
    prompts = {engine.open(seed): [1 + seed, 2, seed] * (1 + seed % 4) for seed in range(5 * SLOTS)}
    for sequence, prompt in prompts.items():
        engine.submit(sequence, prompt, Sampling(max_tokens=1 + sequence % 7))
    seen: set[int] = set()
    while engine.busy:
        for reply in engine.step():
            agrees(bench, prompts[reply.sequence], reply)
            assert len(reply.tokens) == 1 + reply.sequence % 7
            engine.close(reply.sequence)  # gives its slot to one that waits
            seen.add(reply.sequence)
    assert seen == set(prompts)


@promised
def what_is_closed_while_busy_gives_no_reply(bench: Bench) -> None:
    engine = bench.engine
    sequences = [engine.open(seed) for seed in range(SLOTS + 3)]
    for sequence in sequences:
        engine.submit(sequence, [sequence, 1], Sampling(max_tokens=8))
    full = engine.open(0)
    engine.submit(full, [1] * CONTEXT, Sampling())
    engine.close(full)
    gone = {sequences[0], sequences[-1]}  # one that is sampled, one that waits
    engine.step()
    for sequence in gone:
        engine.close(sequence)
    replies: list[Reply] = []
    while engine.busy:
        for reply in engine.step():
            replies.append(reply)
            engine.close(reply.sequence)
    assert {reply.sequence for reply in replies} == set(sequences) - gone
    assert all(len(reply.tokens) == 8 for reply in replies)
    agrees(bench, [5], ask(engine, engine.open(1), [5], Sampling(max_tokens=3)))


@promised
def a_busy_sequence_is_left_alone(bench: Bench) -> None:
    engine = bench.engine
    sequence = engine.open(0)
    engine.submit(sequence, [1], GREEDY)
    with pytest.raises(UsageError):
        engine.submit(sequence, [1], GREEDY)
    with pytest.raises(UsageError):
        engine.fork(sequence, 1)
    agrees(bench, [1], finish(engine)[sequence])


@promised
def an_idle_engine_is_not_busy(bench: Bench) -> None:
    engine = bench.engine
    assert not engine.busy
    assert engine.step() == []
    sequence = engine.open(0)
    assert not engine.busy
    engine.submit(sequence, [1], GREEDY)
    assert engine.busy
    finish(engine)
    assert not engine.busy
    assert engine.context == CONTEXT


@promised
def loaded_weights_sample_from_then_on(bench: Bench) -> None:
    engine, later = bench.engine, Bench(bench.engine, make_model(1), bench.tolerance)
    version = engine.version
    sequence, prompt = engine.open(0), [6] * 40
    said = ask(engine, sequence, prompt, GREEDY)
    agrees(bench, prompt, said)
    assert engine.version == version
    engine.load(later.model, version + 3)
    assert engine.version == version + 3
    agrees(later, prompt, ask(engine, engine.open(1), prompt, GREEDY))  # nothing of before is in a cache
    engine.load(bench.model, version + 4)
    agrees(bench, prompt, ask(engine, engine.open(2), prompt, GREEDY))


@promised
def a_fork_may_take_only_the_beginning(bench: Bench) -> None:
    """From any token on, those of the prompt and those that begin a block included; the original is left as it was."""
    engine = bench.engine
    first, prompt = engine.open(seed=1), list(range(3, 20))
    talk = [*prompt, *ask(engine, first, prompt, Sampling(max_tokens=20)).tokens]
    for length in (1, 16, 17, 18, 32, len(talk) - 1, len(talk)):
        twin = engine.fork(first, seed=9, length=length)
        agrees(bench, talk[:length], ask(engine, twin, [], GREEDY))
        engine.close(twin)
        twin = engine.fork(first, seed=9, length=length)
        agrees(bench, [*talk[:length], 7], ask(engine, twin, [7], GREEDY))
        engine.close(twin)
    for length in (0, -1, len(talk) + 1):
        with pytest.raises(UsageError, match=f"from 1 to the {len(talk)} tokens that the sequence holds, got {length}"):
            engine.fork(first, seed=9, length=length)
    agrees(bench, talk, ask(engine, first, [], GREEDY))
