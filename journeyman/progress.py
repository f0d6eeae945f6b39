"""A run as it goes, in the terminal: one bar with the time left, one line per exam. It watches; it changes nothing."""

from __future__ import annotations

import json
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
        schooling = bar.add_task("school", total=config.school_updates, visible=False, note="")
        learning = bar.add_task("learn", total=config.steps, visible=False, note="")
        for record in records:
            if record["kind"] == "school":
                bar.update(schooling, completed=record["step"] + 1, visible=True, note=f"loss {record['loss']:.3f}")
            elif record["kind"] == "learn":
                bar.update(learning, completed=record["step"], visible=True, note=_note(record, config))
            else:
                bar.console.print(exam_line(record), highlight=False)


def follow_school(records: Iterable[Record], updates: int, as_json: bool) -> None:
    """The same for schooling alone."""
    with _bar() as bar:
        schooling = bar.add_task("school", total=updates, visible=not as_json, note="")
        for record in records:
            if as_json:
                print(json.dumps(record), flush=True)
            bar.update(schooling, completed=record["step"] + 1, note=f"loss {record['loss']:.3f}")


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
    return Progress(*columns, console=console)
