"""The improver's process: what it says is passed on, and one that dies again and again is started ever less often."""

from __future__ import annotations

import time
from multiprocessing import Pipe
from types import SimpleNamespace
from typing import Any

import pytest

from journeyman.improve import ImproveConfig, beside
from journeyman.improve.beside import Beside
from journeyman.stages import Record


class Dying:
    """A process that says something and dies."""

    def __init__(self, *, target: Any, args: tuple[Any, ...], daemon: bool) -> None:
        self.say, self.exitcode, self.looks = args[-1], 2, iter([True])

    def start(self) -> None:
        self.say.send({"kind": "improve", "what": "failed", "why": "a test"})

    def is_alive(self) -> bool:
        return next(self.looks, False)

    def terminate(self) -> None: ...

    def join(self, timeout: float) -> None: ...

    def kill(self) -> None: ...


def dying(told: list[Record]) -> Beside:
    made = Beside("nowhere", ImproveConfig(), told.append)
    made._context = SimpleNamespace(Pipe=Pipe, Process=Dying)  # type: ignore[assignment]
    return made


def count(told: list[Record], what: str) -> int:
    return sum(record["what"] == what for record in told)


def until(true: Any) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_one_that_dies_is_started_again_ever_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much it said before it died."""
    monkeypatch.setattr(beside, "PAUSES", (0.0, 0.0, 60.0))
    told: list[Record] = []
    with dying(told):
        until(lambda: count(told, "died") == 3)
        time.sleep(0.5)
    assert count(told, "died") == count(told, "failed") == 3


def test_one_that_has_long_worked_is_started_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "PAUSES", (0.0, 60.0))
    monkeypatch.setattr(beside, "LONG", 0.0)
    told: list[Record] = []
    with dying(told):
        until(lambda: count(told, "died") > 3)
