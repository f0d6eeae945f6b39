"""The picture for a README."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from journeyman.errors import UsageError
from journeyman.report import draw_run

MakeRun = Callable[..., Path]
Pieces = Callable[[Sequence[int]], list[str]]


def size(png: Path) -> tuple[int, int]:
    head = png.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(head[16:20]), int.from_bytes(head[20:24])


def test_curves_and_an_episode_side_by_side(make_run: MakeRun, tmp_path: Path, pieces: Pieces) -> None:
    pytest.importorskip("matplotlib")
    assert size(draw_run(make_run(tasks=4), tmp_path / "run.png", pieces)) == (1920, 704)


def test_curves_alone_where_v_was_never_computed(make_run: MakeRun, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = make_run(("maze",), values=False, exams=False, tasks=2)
    assert size(draw_run(folder, tmp_path / "run.png")) == (1120, 704)


def test_matplotlib_is_an_extra(make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UsageError, match=r"pip install 'journeyman\[plot\]'"):
        draw_run(make_run(("maze",), tasks=2), tmp_path / "run.png")


def test_what_a_model_says_cannot_break_the_picture(
    make_run: MakeRun, tmp_path: Path, pieces: Pieces, recwarn: pytest.WarningsRecorder
) -> None:
    pytest.importorskip("matplotlib")
    folder = make_run(("maze",), tasks=2)
    hostile = [r"$\frac{", "\x1b[2J", "汉", "🙂", "\n", "\t", "", "x" * 300]
    draw_run(folder, tmp_path / "run.png", lambda ids: [hostile[i % len(hostile)] for i in ids])
    assert not recwarn.list
