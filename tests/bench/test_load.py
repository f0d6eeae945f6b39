"""The load script's clients hear what a server says, and its figures are what they say they are."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path

import pytest

from bench.load import Pace, cost, quantiles
from bench.serving import Heard, Streamer, chat_body
from tests.serve.live import RENDERER, Live, scripted


async def hear(live: Live, bodies: list[bytes]) -> list[Heard]:
    """What one client hears that asks for these, one after another."""
    host, _, port = live.url.removeprefix("http://").partition(":")
    left, heard = iter(bodies), list[Heard]()
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(lambda: Streamer(lambda: next(left, None), heard.append), host, int(port))
    await client.done
    return heard


def test_a_client_hears_each_answer_to_its_end(tmp_path: Path) -> None:
    with Live(tmp_path, scripted("in a maze", "north", pace=1)) as live:
        heard = asyncio.run(hear(live, [chat_body("apprentice", f"{number}?", 30) for number in range(4)]))
        assert len(live.store.browse().episodes) == 4
    assert [one.tokens for one in heard] == [len(RENDERER.reply_ids(text)) for text in ("in a maze", "north")] * 2
    assert all(one.asked < one.first <= one.ended for one in heard)
    assert all(before.ended <= after.asked for before, after in pairwise(heard))


def test_a_client_does_not_pass_over_a_failure(tmp_path: Path) -> None:
    with Live(tmp_path, scripted("in a maze")) as live, pytest.raises(RuntimeError, match="400"):
        asyncio.run(hear(live, [b'{"model": "x"}']))


def test_cost_is_of_pairs() -> None:
    rounds = [{"on": Pace(rate * 0.9, 0), "off": Pace(rate, 0), "engine": Pace(1, 1)} for rate in (10.0, 100.0, 1000.0)]
    assert cost(rounds) == pytest.approx((10, 10, 10)), "however the machine's speed changes between rounds"


def test_quantiles_are_medians_over_rounds() -> None:
    rounds = [{"on": Pace(1, 1, first=(span,) * 9 + (9 * span,))} for span in (0.001, 0.002, 0.1)]
    assert quantiles(rounds, "on", "first")["p50"] == pytest.approx(2)
