"""A run as it goes, in the terminal: one bar with the time left, one line per exam. It watches; it changes nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from journeyman.config import LearnConfig
from journeyman.stages import Record

console = Console(stderr=True)

QUIET_SECONDS = 30.0
"""Where no bar can move, as in a log file, a line says how far it is after so long."""


class _Bars:
    """What is going on, as bars; where output is no terminal, as a line now and then."""

    def __init__(self, bar: Progress, totals: Mapping[str, int]) -> None:
        self._bar, self._totals = bar, totals
        self._tasks = {name: bar.add_task(name, total=total, visible=False, note="") for name, total in totals.items()}
        self._said = time.monotonic()

    def show(self, name: str, done: int, note: str) -> None:
        """`done` of the whole is done."""
        self._bar.update(self._tasks[name], completed=done, visible=True, note=note)
        due = time.monotonic() - self._said >= QUIET_SECONDS or done == self._totals[name]
        if due and not console.is_terminal:
            self._said = time.monotonic()
            console.print(f"{name} {done} of {self._totals[name]}  {note}", highlight=False, soft_wrap=True)


def default_folder(config: LearnConfig) -> Path:
    """runs/<jobs>-<model>, in letters that a folder may have."""
    name = "+".join(config.jobs) + "-" + config.model
    return Path("runs") / "".join(c if c.isalnum() or c in "+-_.=" else "-" for c in name)


def follow(records: Iterable[Record], config: LearnConfig, folder: Path, as_json: bool) -> None:
    """Consume a run's records and show them: as bars, or as JSON lines on standard output."""
    if as_json:
        for record in records:
            print(json.dumps(record), flush=True)
        return
    console.print(f"run [bold]{folder}[/]: learning {', '.join(config.jobs)} with {config.model}", highlight=False)
    with _bar() as bar:
        bars = _Bars(bar, {"school": config.school_updates, "learn": config.steps})
        for record in records:
            if record["kind"] == "school":
                bars.show("school", record["step"] + 1, f"loss {record['loss']:.3f}")
            elif record["kind"] == "learn":
                bars.show("learn", record["step"], _note(record, config))
            else:
                bar.console.print(exam_line(record), highlight=False, soft_wrap=True)


def follow_school(records: Iterable[Record], updates: int, as_json: bool) -> None:
    """The same for schooling alone."""
    with _bar() as bar:
        bars = _Bars(bar, {"school": updates})
        for record in records:
            if as_json:
                print(json.dumps(record), flush=True)
            else:
                bars.show("school", record["step"] + 1, f"loss {record['loss']:.3f}")


def print_lines(records: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines on standard output, for scripts."""
    for record in records:
        print(json.dumps(record))


def exam_line(record: Record) -> str:
    """One exam result in one line."""
    text = f"exam after step {record['step']:>4}  {record['job']:<20} {record['split']:<14}"
    return f"{text} {record['success']:>6.1%}  [{record['low']:.1%}, {record['high']:.1%}]"


def _note(record: Record, config: LearnConfig) -> str:
    return "  ".join(f"{job} {record[f'{job}/success']:.0%}" for job in config.jobs)


def _bar() -> Progress:
    columns = (
        TextColumn("{task.description:<6}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal)
