"""What a person sees of a run that goes on."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

import journeyman.progress as progress
from journeyman.config import LearnConfig


def seen(monkeypatch: pytest.MonkeyPatch, *, terminal: bool, quiet_seconds: float) -> str:
    written = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=written, force_terminal=terminal, width=120))
    monkeypatch.setattr(progress, "QUIET_SECONDS", quiet_seconds)
    records = [{"kind": "learn", "step": step, "maze/success": step / 4} for step in (1, 2)]
    progress.follow(records, LearnConfig(jobs=("maze",), steps=4), Path("runs/m"), as_json=False)
    return written.getvalue()


def test_a_log_file_is_told_how_far_a_run_is(monkeypatch: pytest.MonkeyPatch) -> None:
    said = seen(monkeypatch, terminal=False, quiet_seconds=0.0)
    assert "learn 1 of 4  maze 25%" in said
    assert "learn 2 of 4  maze 50%" in said


def test_but_not_at_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "learn 1 of 4" not in seen(monkeypatch, terminal=False, quiet_seconds=3600.0)


def test_a_terminal_has_its_bars_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    said = seen(monkeypatch, terminal=True, quiet_seconds=0.0)
    assert "learn 1 of 4" not in said
    assert "50%" in said
