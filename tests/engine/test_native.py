"""The engine samples what the trainer would compute, whatever shares its batch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from journeyman.engine.base import Reply, Sampling
from journeyman.engine.native import NativeEngine, uniform
from journeyman.errors import UsageError
from journeyman.model.decoder import Decoder, DecoderConfig
from journeyman.model.texts import StopTexts

VOCAB = 60
END = 5


def make_model(kv_heads: int = 4, window: int | None = None) -> Decoder:
    torch.manual_seed(0)
    config = replace(DecoderConfig.tiny(VOCAB, width=32, layers=2, positions=256), kv_heads=kv_heads)
    if window:
        config = replace(config, windows=(window, window))
    model = Decoder(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)  # far from uniform, so that a wrong mask shows
    return model.requires_grad_(False)


def trainer_logprobs(model: Decoder, tokens: list[int]) -> torch.Tensor:
    """log pi(token i | before) for i >= 1, in one square forward pass."""
    row = torch.tensor([tokens])
    return model.logits(model.hidden(row)).log_softmax(-1)[0, :-1].gather(-1, row[0, 1:, None])[:, 0]


def converse(
    engine: NativeEngine, prompts: list[list[int]], turns: int, limit: int
) -> list[tuple[list[int], list[float]]]:
    """Several turns with every prompt at once; tokens and log-probabilities (nan where read) of each."""
    rng = np.random.default_rng(0)
    logs: dict[int, tuple[list[int], list[float], list[int]]] = {}
    for number, prompt in enumerate(prompts):
        sequence = engine.open(seed=number)
        logs[sequence] = (list(prompt), [np.nan] * len(prompt), [0])
        engine.submit(sequence, prompt, Sampling(max_tokens=1 + number % limit, stop=frozenset({END})))
    while engine.busy:
        for reply in engine.step():
            tokens, logprobs, count = logs[reply.sequence]
            tokens += reply.tokens
            logprobs += reply.logprobs
            count[0] += 1
            if count[0] < turns and reply.finish != "context":
                more = rng.integers(0, VOCAB, 1 + len(tokens) % 7).tolist()
                tokens += more
                logprobs += [np.nan] * len(more)
                engine.submit(reply.sequence, more, Sampling(max_tokens=limit, stop=frozenset({END})))
            else:
                engine.close(reply.sequence)
    return [(tokens, logprobs) for tokens, logprobs, _ in logs.values()]


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("chunk", [3, 512])
def test_logprobs_are_the_trainers(kv_heads: int, window: int | None, chunk: int) -> None:
    model = make_model(kv_heads, window)
    engine = NativeEngine(model, slots=5, context=200, chunk=chunk)
    prompts = [np.random.default_rng(i).integers(0, VOCAB, 1 + i * 3 % 17).tolist() for i in range(12)]
    worst = 0.0
    for tokens, logprobs in converse(engine, prompts, turns=3, limit=12):
        expected = trainer_logprobs(model, tokens)
        sampled = ~np.isnan(logprobs)
        difference = np.abs(np.array(logprobs)[sampled] - expected.numpy()[sampled[1:]])
        worst = max(worst, float(difference.max()))
    assert worst < 1e-4


def play_alone(model: Decoder, prompt: list[int], seed: int) -> Reply:
    engine = NativeEngine(model, slots=1)
    engine.submit(engine.open(seed), prompt, Sampling(max_tokens=20))
    while True:
        if replies := engine.step():
            return replies[0]


def test_a_sequence_does_not_depend_on_its_neighbours() -> None:
    model = make_model()
    engine = NativeEngine(model, slots=4)
    prompts = [[1 + i, 2, 3 + i] * (i + 1) for i in range(9)]
    asked = {engine.open(seed=100 + i): i for i in range(9)}
    for sequence, i in asked.items():
        engine.submit(sequence, prompts[i], Sampling(max_tokens=20))
    seen = 0
    while engine.busy:
        for reply in engine.step():
            number = asked[reply.sequence]
            assert reply.tokens == play_alone(model, prompts[number], 100 + number).tokens
            engine.close(reply.sequence)
            seen += 1
    assert seen == 9


def test_replies_end_in_the_same_order_whatever_went_before() -> None:
    """What arrives together is scored together, and sums in another order round otherwise: a resumed run differed."""
    engine = NativeEngine(make_model(), slots=4)

    def ended() -> list[int]:
        opened = [engine.open(seed=n) for n in range(4)]
        for sequence in opened:
            engine.submit(sequence, [7, 8], Sampling(max_tokens=2))
        found: list[int] = []
        while len(found) < 4:
            found += [opened.index(reply.sequence) for reply in engine.step()]
        for n in (2, 0, 3, 1):
            engine.close(opened[n])
        return found

    assert ended() == ended()


def test_a_fork_continues_as_the_original_would() -> None:
    model = make_model(kv_heads=2)
    engine = NativeEngine(model, slots=4)
    first = engine.open(seed=1)
    engine.submit(first, [1, 2, 3], Sampling(max_tokens=6))
    while engine.busy:
        engine.step()
    twins = [engine.fork(first, seed=9) for _ in range(2)]
    engine.submit(first, [], Sampling(temperature=0.0, max_tokens=5))
    for twin in twins:
        engine.submit(twin, [], Sampling(temperature=0.0, max_tokens=5))
    replies: list[Reply] = []
    while engine.busy:
        replies += engine.step()
    assert len({reply.tokens for reply in replies}) == 1
    with pytest.raises(UsageError, match="no free slot"):
        engine.fork(first, 1), engine.fork(first, 2)


def test_ends_by_stop_token_length_and_context() -> None:
    model = make_model()
    engine = NativeEngine(model, slots=2, context=16)
    anything = frozenset(range(VOCAB))
    finishes: list[str] = []
    for sampling, prompt in (
        (Sampling(stop=anything), [1]),
        (Sampling(max_tokens=3), [1]),
        (Sampling(max_tokens=500), [1] * 10),
        (Sampling(max_tokens=500), [1] * 40),
    ):
        sequence = engine.open(0)
        engine.submit(sequence, prompt, sampling)
        while engine.busy:
            for reply in engine.step():
                finishes.append(reply.finish)
                assert len(reply.tokens) <= 16
        engine.close(sequence)
    assert finishes == ["stop", "length", "context", "context"]


def test_top_p_and_temperature_keep_to_their_support() -> None:
    model = make_model()
    engine = NativeEngine(model, slots=200)
    for seed in range(200):
        engine.submit(engine.open(seed), [7, 8, 9], Sampling(top_p=0.5, max_tokens=1))
    probabilities = model.logits(model.hidden(torch.tensor([[7, 8, 9]])))[0, -1].softmax(-1)
    ordered, order = probabilities.sort(descending=True)
    nucleus = set(order[: int((ordered.cumsum(-1) - ordered < 0.5).sum())].tolist())
    sampled = {reply.tokens[0] for reply in engine.step()}
    assert sampled == nucleus


@given(st.integers(0, 2**63), st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_draws_are_uniforms_of_seed_and_position(seed: int, position: int) -> None:
    draw = uniform(np.array([seed], np.uint64), np.array([position]))
    assert 0 <= draw[0] < 1
    assert draw == uniform(np.array([seed], np.uint64), np.array([position]))


def test_draws_cover_the_interval_evenly() -> None:
    seeds = np.arange(20_000, dtype=np.uint64)
    draws = uniform(seeds, np.full(len(seeds), 3))
    counts, _ = np.histogram(draws, bins=20, range=(0, 1))
    # 1,000 expected in each bin with standard deviation 31: 5 of them leave odds of about 1 in 10^5
    assert np.abs(counts - 1000).max() < 155


@pytest.mark.parametrize("whole", [True, False])
def test_a_reply_ends_with_the_token_that_completes_a_text(whole: bool) -> None:
    """Each token spells two letters of a ring of thirty, so texts begin and end within tokens."""
    letters = "abcdefghijklmnopqrstuvwxyzABCD"
    pieces = [(letters[token % 30] + letters[(token * 7 + 3) % 30]).encode() for token in range(VOCAB)]
    model, tokens = make_model(), list(range(7, 12))

    def replies(*texts: str) -> list[Reply]:
        engine = NativeEngine(model, slots=6, context=100)
        if not whole:
            engine.model.whole = None
        for seed in range(6):  # the last ones have no texts to stop at
            stop_texts = StopTexts(texts, pieces) if texts and seed < 4 else None
            engine.submit(engine.open(seed), tokens, Sampling(max_tokens=60, stop_texts=stop_texts))
        found: list[Reply] = []
        while engine.busy:
            found += engine.step()
        return sorted(found, key=lambda reply: reply.sequence)

    free = replies()
    said = [b"".join(pieces[token] for token in reply.tokens).decode() for reply in free]
    texts = said[0][31:34], said[1][20:22]
    for number, (reply, before, text) in enumerate(zip(replies(*texts), free, said, strict=True)):
        ends = [text.find(t) + len(t) for t in texts if t in text]
        if number >= 4 or not ends:
            assert reply.tokens == before.tokens
            continue
        assert reply.finish == "stop"
        assert reply.tokens == before.tokens[: -(-min(ends) // 2)]


def test_a_model_of_another_shape_is_refused() -> None:
    """The compiled loops would read beyond its weights."""
    engine = NativeEngine(make_model(), slots=2)
    with pytest.raises(ValueError, match="another shape"):
        engine.load(make_model(kv_heads=2), 1)


def test_engines_of_one_process_work_at_the_same_time() -> None:
    """As where a shadow answers beside the release: neither meets what the other works on."""

    def say(model: Decoder) -> tuple[list[int], list[float]]:
        engine = NativeEngine(model, slots=1, context=256)
        engine.submit(engine.open(seed=0), [1, 2, 3], Sampling(max_tokens=200))
        (reply,) = [reply for _ in iter(lambda: engine.busy, False) for reply in engine.step()]
        return reply.tokens, reply.logprobs

    models = [make_model(), make_model(kv_heads=2)]
    alone = [say(model) for model in models]
    with ThreadPoolExecutor(2) as threads:
        for _ in range(20):
            assert list(threads.map(say, models)) == alone
