"""Programs of the user's, run under a time limit: a task goes in, what they print comes out."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

KEPT = 1 << 16
"""Characters of what a program prints that are kept: the last ones."""
SHOWN = 400
"""Characters of them that an error shows."""


@dataclass(frozen=True)
class Ended:
    """A program that has ended.

    Attributes:
        code: its exit code; below 0 the signal that ended it; None: its time was over.
        stdout, stderr: the end of what it printed.
    """

    code: int | None
    stdout: str
    stderr: str

    def trouble(self, who: str, seconds: float) -> str:
        """What went wrong, in words; "" where nothing did."""
        if self.code == 0:
            return ""
        if self.code is None:
            how = f"{who} took longer than {seconds:g} s"
        elif self.code < 0:
            how = f"{who} was ended by {_signal(-self.code)}"
        else:
            how = f"{who} ended with exit code {self.code}"
        said = self.stderr.strip() or self.stdout.strip()
        return f"{how}: ...{said[-SHOWN:]}" if len(said) > SHOWN else f"{how}: {said}" if said else how


class Programs:
    """Starts programs, each in a process group of its own, and leaves none running."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._closed = False

    def run(
        self, words: Sequence[str], given: Path, environment: Mapping[str, str], seconds: float, name: str
    ) -> Ended:
        """Run one to its end, or for so many seconds. What it has started itself ends with it.

        Args:
            given: the file that it reads as its standard input. What it prints goes to files beside it.
            name: of these files.

        Raises:
            OSError: it cannot be started.
        """
        out, err = (given.with_name(f"{name}.{kind}") for kind in ("out", "err"))
        with given.open("rb") as stdin, out.open("wb") as stdout, err.open("wb") as stderr:
            with self._lock:
                if self._closed:
                    return Ended(None, "", "")
                process = subprocess.Popen(
                    list(words), stdin=stdin, stdout=stdout, stderr=stderr, env=environment, start_new_session=True
                )
                self._running.add(process)
            try:
                code: int | None = process.wait(seconds)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                _kill(process)
                with self._lock:
                    self._running.discard(process)
        return Ended(code, _end(out), _end(err))

    def close(self) -> None:
        """End those that run, and start no more."""
        with self._lock:
            self._closed = True
            for process in self._running:
                _signal_group(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    _signal_group(process)
    process.wait()


def _signal_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _end(file: Path) -> str:
    with file.open("rb") as handle:
        handle.seek(max(file.stat().st_size - KEPT, 0))
        return handle.read().decode("utf-8", "replace")


def _signal(number: int) -> str:
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"
