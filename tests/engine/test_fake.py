"""The scripted engine keeps its own pace."""

from __future__ import annotations

import pytest

from journeyman.engine.base import Sampling
from journeyman.engine.fake import ScriptedEngine


@pytest.mark.parametrize(("pace", "told"), [(None, []), (2, [(7, 8), (7, 8, 9, 9)]), (5, [])])
def test_a_reply_is_told_at_the_pace(pace: int | None, told: list[tuple[int, ...]]) -> None:
    engine = ScriptedEngine(lambda read: [7, 8, 9, 9, 2], pace=pace)
    sequence = engine.open(0)
    engine.submit(sequence, [1], Sampling(stop=frozenset({2})))
    found: list[tuple[int, ...]] = []
    while not (replies := engine.step()):
        found.append(engine.partial(sequence)[0])
        assert engine.busy
    assert found == told and replies[0].tokens == (7, 8, 9, 9, 2)
    assert not engine.busy and engine.partial(sequence) == ((), ())


def test_one_that_is_closed_says_no_more() -> None:
    engine = ScriptedEngine(lambda read: [7] * 10, pace=1)
    sequence = engine.open(0)
    engine.submit(sequence, [1], Sampling(max_tokens=10))
    engine.step()
    engine.close(sequence)
    assert not engine.busy and engine.step() == []
