"""Blocks are shared by what they hold, counted, and given back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from journeyman.engine.base import Sampling
from journeyman.engine.cache import BlockCache
from journeyman.engine.native import NativeEngine
from journeyman.model.decoder import Decoder, DecoderConfig

CONFIG = DecoderConfig.tiny(60, width=32, layers=2, positions=256)


def make_cache(rows: int = 4, context: int = 100) -> BlockCache:
    return BlockCache(CONFIG, rows, context, torch.float32, torch.device("cpu"))


def make_engine(**options: int) -> NativeEngine:
    torch.manual_seed(0)
    return NativeEngine(Decoder(CONFIG).requires_grad_(False), **options)  # type: ignore[arg-type]


def consistent(cache: BlockCache) -> None:
    """Every block is free or held, by as many rows as are counted."""
    held = np.zeros(len(cache.holders), np.int64)
    for row, count in enumerate(cache.count):
        np.add.at(held, cache.table[row, :count], 1)
    assert (held == cache.holders).all()
    assert sorted(cache.free) == np.flatnonzero(held == 0).tolist()


def test_a_second_reader_waits_for_the_first_and_then_shares() -> None:
    cache, tokens = make_cache(), np.arange(40)
    assert cache.begin(0, tokens) == 0
    assert cache.begin(1, tokens) is None  # row 0 is about to write it
    cache.reserve(np.array([0]), np.array([40]))
    cache.wrote(0, 0, 40)
    assert cache.begin(1, tokens) == 32  # two whole blocks; the rest is its own
    assert cache.begin(2, np.r_[tokens[:20], 7, tokens[21:]]) == 16
    assert cache.begin(3, tokens[:16]) == 0  # the last token is always read
    consistent(cache)
    cache.release(0)
    assert cache.table[1, :2].tolist() == cache.table[1, :2].tolist() and cache.holders[cache.table[1, 0]] == 2
    consistent(cache)
    for row in (1, 2, 3):
        cache.release(row)
    consistent(cache)
    assert not cache.full and not cache.announced and not cache.name_of


def test_whoever_waits_goes_on_when_the_writer_leaves() -> None:
    cache, tokens = make_cache(), np.arange(40)
    cache.begin(0, tokens)
    cache.release(0)
    assert cache.begin(1, tokens) == 0
    consistent(cache)


def test_new_weights_share_nothing_with_old_ones() -> None:
    cache, tokens = make_cache(), np.arange(40)
    cache.begin(0, tokens)
    cache.reserve(np.array([0]), np.array([40]))
    cache.wrote(0, 0, 40)
    cache.forget()
    cache.wrote(0, 0, 40)
    assert cache.begin(1, tokens) == 0
    consistent(cache)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 90), st.integers(0, 2)), max_size=40))
@settings(max_examples=60, deadline=None)
def test_no_block_is_lost_or_held_twice(moves: list[tuple[int, int, int]]) -> None:
    cache = make_cache()
    for row, length, kind in moves:
        if cache.count[row] or cache.names[row]:
            cache.release(row)
        elif kind == 0 or not cache.count.any():
            found = cache.begin(row, np.arange(length) // 20)
            if found is not None:
                cache.reserve(np.array([row]), np.array([length]))
                cache.wrote(row, 0, length)
        else:
            source = int(np.argmax(cache.count))
            cache.fork(source, row, min(length, int(cache.count[source]) * 16))
        consistent(cache)


def read_tokens(engine: NativeEngine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each pass reads, as it goes."""
    seen: list[int] = []
    forward = engine._forward  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(
        engine, "_forward", lambda rows, counts, ready: seen.append(int(counts.sum())) or forward(rows, counts, ready)
    )
    return seen


def test_a_group_reads_its_prompt_once(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(slots=8, context=200)
    seen = read_tokens(engine, monkeypatch)
    for seed in range(8):
        engine.submit(engine.open(seed), list(range(50)), Sampling(max_tokens=1))
    while engine.busy:
        engine.step()
    assert seen == [50, 7 * 2]  # 48 tokens are whole blocks


def test_forks_and_later_turns_read_only_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(slots=20, context=256)
    seen = read_tokens(engine, monkeypatch)
    first = engine.open(0)
    engine.submit(first, [1 + i % 50 for i in range(200)], Sampling(max_tokens=1))
    while engine.busy:
        engine.step()
    for seed in range(16):
        engine.submit(engine.fork(first, seed), [], Sampling(max_tokens=1))
    engine.submit(first, [5, 6, 7], Sampling(max_tokens=1))
    while engine.busy:
        engine.step()
    assert sum(seen) == 200 + 16 + 4  # a fork reads the last token it knows, a turn that and its own three
    assert len(engine.cache.free) >= 20 * 16 - 13 - 17  # 13 blocks of the prefix, and one of each sequence's own


def test_many_prompts_do_not_hold_up_the_others() -> None:
    engine = make_engine(slots=6, context=256, chunk=32)
    going = engine.open(0)
    engine.submit(going, [1, 2], Sampling(max_tokens=30))
    engine.step()
    for seed in range(5):
        engine.submit(engine.open(seed), [seed + i % 40 for i in range(200)], Sampling(max_tokens=1))
    before = int(engine.known[0])
    engine.step()
    assert int(engine.known[0]) > before  # it samples on while 1,000 tokens wait to be read


@pytest.mark.parametrize("slots", [1, 3, 16])
def test_replies_do_not_depend_on_slots_and_order(slots: int) -> None:
    prompts = [[1 + (i * j) % 50 for j in range(20 + 3 * (i % 4))] for i in range(16)]
    replies = []
    for order in (range(16), reversed(range(16))):
        engine = make_engine(slots=slots, context=120)
        asked = {}
        for i in order:
            asked[sequence := engine.open(i)] = i
            engine.submit(sequence, prompts[i], Sampling(max_tokens=5 + i, stop=frozenset({3})))
        found: dict[int, tuple[int, ...]] = {}
        while engine.busy:
            for reply in engine.step():
                found[asked[reply.sequence]] = reply.tokens
                engine.close(reply.sequence)
        replies.append(found)
        consistent(engine.cache)
        assert not engine.cache.holders.any()
    assert replies[0] == replies[1] and len(replies[0]) == 16
