"""The same on a terminal."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console, RenderableType

from journeyman.report import render_summary, render_trace
from journeyman.report.terminal import Sparkline, exam_table, show_traces
from journeyman.types import Message, Trajectory

MakeRun = Callable[..., Path]
Make = Callable[..., Trajectory]
Pieces = Callable[[Sequence[int]], list[str]]


def drawn(what: RenderableType, width: int = 100, colour: bool = False) -> str:
    system = "truecolor" if colour else None
    console = Console(file=io.StringIO(), width=width, force_terminal=colour, color_system=system)
    console.print(what)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_trace_shows_text_line_and_moments(make_trajectory: Make, pieces: Pieces) -> None:
    trajectory = make_trajectory("maze", "an-id", "test", 1, 0.3)
    text = drawn(render_trace(trajectory, pieces(trajectory.tokens.tolist())))
    assert "maze/test/1" in text and "an-id" in text and "V began at" in text
    assert trajectory.turns[0].reply in text and trajectory.turns[0].observation in text
    assert ("✓ solved" if trajectory.outcome.success else "✗ not solved") in text
    coloured = drawn(render_trace(trajectory, pieces(trajectory.tokens.tolist())), colour=True)
    assert "48;2;" in coloured  # a background of its own for each V


@pytest.mark.parametrize("width", [20, 40, 100])
def test_a_trace_fits_any_width(make_trajectory: Make, width: int) -> None:
    text = drawn(render_trace(make_trajectory("hops", "an-id", "test", 1, 0.3)), width)
    assert max(len(line) for line in text.splitlines()) <= width


def test_a_model_cannot_speak_to_the_terminal(make_trajectory: Make) -> None:
    usual = make_trajectory("hops", "an-id", "test", 1, 0.9)
    evil = "\x1b[2J\x1b]0;owned\x07[bold]x[/bold]"
    task = replace(usual.task, messages=(Message("user", evil),))
    turns = (replace(usual.turns[0], reply=evil, observation=evil),)
    text = drawn(render_trace(replace(usual, id=evil, task=task, turns=turns)))
    assert "\x1b" not in text and "\x07" not in text and "[bold]x[/bold]" in text


def test_a_trace_without_values(make_trajectory: Make) -> None:
    trajectory = make_trajectory("hops", "an-id", "test", 1, 0.9)
    bare = replace(trajectory, values=np.full(len(trajectory), np.nan, np.float32))
    assert "V was not computed" in drawn(render_trace(bare))


def test_a_sparkline_fits_its_width_and_marks_its_place() -> None:
    line = Sparkline([0.0, 0.5, 1.0, float("nan")], marks=[(2, "▲", "")])
    assert drawn(line).splitlines() == ["▁▅█ ", "  ▲ "]
    assert drawn(Sparkline([i / 999 for i in range(1000)]), 10).splitlines() == ["▁▂▂▃▄▅▆▇▇█"]
    assert drawn(Sparkline([])).strip() == ""


def test_a_summary(make_run: MakeRun) -> None:
    text = drawn(render_summary(make_run()))
    for part in (
        "finished",
        "12,288 attempts",
        "+69 points",
        "buildings",
        "% solved",
        "V half-way",
        "collect",
    ):
        assert part in text
    bare = drawn(render_summary(make_run(exams=False, values=False, finished=False, name="bare")))
    assert "interrupted" in bare and "No exam has been held yet." in bare


def test_a_summary_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert "No step of practice has been recorded yet." in drawn(render_summary(tmp_path))


def test_exam_results_as_a_table() -> None:
    value = {"auc_25": 0.6, "auc_50": 0.8, "auc_75": None, "brier": 0.1, "reliability": []}
    result = {"step": 0, "job": "maze", "split": "test", "tasks": 50, "episodes": 50, "success": 0.4}
    text = drawn(exam_table([result | {"low": 0.28, "high": 0.54, "failed": 2, "value": value}]))
    assert "40%" in text and "28\u201354%" in text and "50, 2 broke" in text and "80% " in text


def test_searched_exams_tell_what_an_answer_took() -> None:
    result = {"step": 0, "job": "maze", "split": "test", "tasks": 50, "episodes": 50, "success": 0.4, "value": None}
    searched = result | {
        "low": 0.28,
        "high": 0.54,
        "think": 8,
        "strategy": "beam",
        "tokens": 61720,
        "value_tokens": 5000,
    }
    text = drawn(exam_table([searched]))
    assert "tokens (beam \N{MULTIPLICATION SIGN}8)" in text and "1,234" in text and "V half-way" not in text


def test_traces_are_printed_or_given_to_scripts(make_run: MakeRun) -> None:
    folder = make_run(("hops",), steps=6)
    console = Console(file=io.StringIO(), width=100)
    show_traces(folder, job="hops", count=2, console=console)
    show_traces(folder, outcome="success", count=3, as_json=True, console=console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert text.count("V began at") == 2
    records = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert len(records) == 3 and all(record["success"] for record in records)
