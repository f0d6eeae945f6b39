"""A job whose environments do what a test wants, in a file that any process can import."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from journeyman.jobs.base import Env, Job
from journeyman.types import Message, StepResult, Task


class Places(Job):
    """Task number i behaves as the i-th of `plays` says; what processes tell each other lies in `folder`."""

    name, max_turns, max_reply_tokens = "places", 5, 8

    def __init__(self, folder: Path, *plays: str) -> None:
        self.folder, self.plays = folder, plays
        self.splits = {"train": len(plays)}

    def task(self, split: str, index: int) -> Task:
        return Task(self.name, split, index, (Message("user", "A1 to B1"),))

    def env(self, task: Task) -> Env:
        (self.folder / f"pid-{os.getpid()}").touch()
        play = self.plays[task.index]
        if play.startswith("opening-"):
            getattr(Place(self.folder), play.removeprefix("opening-"))()
        return Place(self.folder, play)


class Stuck(Places):
    """Pickles well, and does not come out again."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


class Place(Env):
    """Each answer tells the turn, so that one who began anew would be found out."""

    def __init__(self, folder: Path, play: str = "thrice") -> None:
        self.folder, self.play, self.turn = folder, play, 0

    def step(self, reply: str) -> StepResult:
        self.turn += 1
        answer = None if self.play == "thrice" else getattr(self, self.play)()
        return answer or self.thrice()

    def thrice(self) -> StepResult:
        return StepResult(f"C{self.turn}", reward=0.25 * self.turn, terminated=self.turn == 3, role="user")

    def tells(self) -> None:
        """Its third turn is a sign to those who wait."""
        if self.turn == 3:
            (self.folder / "sign").touch()

    def waits(self) -> None:
        self.until("sign")

    def until(self, name: str) -> None:
        while not (self.folder / name).exists():
            time.sleep(0.001)

    def hangs(self) -> None:
        if self.turn != 1:
            time.sleep(3600)

    def fosters(self) -> None:
        child = subprocess.Popen(["sleep", "3600"])
        (self.folder / f"pid-{child.pid}").touch()
        time.sleep(3600)

    def exits(self) -> None:
        if self.turn != 1:
            os._exit(3)

    def crashes(self) -> None:
        if self.turn != 1:
            os.kill(os.getpid(), signal.SIGSEGV)

    def raises(self) -> None:
        raise ValueError("the map is lost")

    def fickle(self) -> StepResult:
        return StepResult(f"process {os.getpid()}", terminated=self.turn == 4)

    def again(self) -> None:
        """Does not survive being built a second time."""
        if self.turn == 1:
            if (self.folder / "been here").exists():
                os._exit(4)
            (self.folder / "been here").touch()
