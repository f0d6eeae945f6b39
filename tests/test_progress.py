"""What a person sees of a run that goes on."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

import journeyman.progress as progress
from journeyman.config import LearnConfig


def seen(monkeypatch: pytest.MonkeyPatch, *, terminal: bool, quiet_seconds: float, steps: int = 4) -> str:
    written = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=written, force_terminal=terminal, width=120))
    monkeypatch.setattr(progress, "QUIET_SECONDS", quiet_seconds)
    records = [{"kind": "learn", "step": step, "maze/success": step / 4} for step in (1, 2)]
    progress.follow(records, LearnConfig(jobs=("maze",), steps=steps), Path("runs/m"), as_json=False)
    return written.getvalue()


def test_a_log_file_is_told_how_far_a_run_is(monkeypatch: pytest.MonkeyPatch) -> None:
    said = seen(monkeypatch, terminal=False, quiet_seconds=0.0)
    assert "learn 1 of 4  maze 25%" in said
    assert "learn 2 of 4  maze 50%" in said


def test_but_not_at_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    said = seen(monkeypatch, terminal=False, quiet_seconds=3600.0, steps=2)
    assert "learn 1 of 2" not in said
    assert said.endswith("learn 2 of 2  maze 50%\n")


def test_a_log_file_has_lines_of_any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    written, folder = io.StringIO(), Path("runs/m")
    monkeypatch.setattr(progress, "console", Console(file=written, force_terminal=False, width=40))
    exam = {"kind": "exam", "step": 0, "job": "maze,size=5,max_turns=30", "split": "test"}
    records = [{**exam, "success": 0.5, "low": 0.4, "high": 0.6}]
    progress.follow(records, LearnConfig(jobs=("maze",)), folder, as_json=False)
    assert progress.exam_line(records[0]) in written.getvalue().splitlines()


def test_a_terminal_has_its_bars_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    said = seen(monkeypatch, terminal=True, quiet_seconds=0.0)
    assert "learn 1 of 4" not in said
    assert "50%" in said
