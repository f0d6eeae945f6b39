"""A picture of a run for a README: its learning curves, and one episode with V along the text."""

# matplotlib leaves its keyword arguments untyped, which makes every one of its methods partly unknown.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from journeyman.errors import UsageError
from journeyman.report.curves import learning_curve
from journeyman.report.html import own_pieces
from journeyman.report.palette import BEAD, LIGHT
from journeyman.report.run import Run, read_run
from journeyman.report.stories import exam_step, read_candidates, tell
from journeyman.report.trace import END, Pieces, Span, View, turns_worth_reading, view
from journeyman.report.words import percent, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, HAIR, PAPER = "#1c2024", "#5d656d", "#e4e5e2", "#ffffff"
COLOURS = ("#0b66b3", "#c2570c", "#4b7f52", "#8a4f9e")
"""Of the jobs' curves: told apart by lightness too."""
SIZES = ((44, 11), (52, 13), (62, 15))
"""(columns, rows) the text may take: the fewest into which it fits, else the most, cut."""
WIDTH, STRIP = 12.0, (0.565, 0.42)
"""The picture's width in inches; the left edge and the width of the episode in it."""
ADVANCE = 0.602
"""Width of a character of DejaVu Sans Mono, which matplotlib carries, in units of its size."""
Cell = tuple[int, int, Span, bool]
"""(row, column, stretch of text, whether the model wrote it)."""


def draw_run(run_folder: Path, png_path: Path, pieces: Pieces | None = None) -> Path:
    """Draw learning curves beside an episode with V along its text; returns `png_path`.

    Args:
        pieces: ids to the text of each token; None: the tokenizer of the run's own model.

    Raises:
        RunError: the folder is no run.
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(
            "a picture needs matplotlib", reason=str(error), fix="pip install 'journeyman[plot]'"
        ) from None
    run = read_run(run_folder)
    episode = _episode(run, pieces or own_pieces(run_folder))
    figure = Figure(figsize=(WIDTH if episode else 7.0, 4.4), dpi=160, facecolor=PAPER)
    FigureCanvasAgg(figure)
    if episode is None:
        _curves(figure.add_axes((0.1, 0.14, 0.8, 0.72)), run)
    else:
        _curves(figure.add_axes((0.052, 0.125, 0.375, 0.745)), run)
        _strip(figure, *episode)
    figure.savefig(png_path, facecolor=PAPER)
    return png_path


def _episode(run: Run, pieces: Pieces | None) -> tuple[str, View] | None:
    """The last episode of the story in which V moves most without going to and fro, with its label."""
    views = [
        (label, view(trajectory, None if pieces is None else pieces(trajectory.tokens.tolist())))
        for story in tell(read_candidates(run))
        for label, trajectory in story.episodes
    ]
    views = [(label, seen) for label, seen in views if len(seen.series) > 1]

    def telling(item: tuple[str, View]) -> float:
        values = [value for _, value in item[1].series]
        way = sum(abs(after - before) for before, after in pairwise(values))
        moved = max(values) - min(values)
        learned = 0.2 if exam_step(item[1].trajectory.id) else 0.0
        return moved - 0.1 * (way - moved) + learned - 0.03 * abs(len(item[1].trajectory.turns) - 7)

    return max(views, key=telling, default=None)


def _curves(axes: Axes, run: Run) -> None:
    _plain(axes)
    end = max(float(run.trajectories), 1.0)
    ends: list[tuple[float, str, str]] = []
    for i, job in enumerate(run.jobs):
        colour = COLOURS[i % len(COLOURS)]
        curve = learning_curve(run, job)
        xs = [point.x for point in curve.smooth]
        axes.fill_between(
            xs,
            [point.low for point in curve.smooth],
            [point.high for point in curve.smooth],
            color=colour,
            alpha=0.15,
            linewidth=0,
        )
        axes.plot(xs, [point.mean for point in curve.smooth], color=colour, linewidth=2)
        headline = run.headline(job)
        split = headline.split if headline else ""
        exams = [exam for exam in run.exams if (exam.job, exam.split) == (job, split)]
        for exam in exams:
            x = run.trajectories_at(exam.step) + 0.009 * i * end  # side by side where they would overlap
            axes.plot([x, x], [exam.low, exam.high], color=colour, linewidth=1.4)
            axes.plot([x], [exam.success], "o", color=colour, markersize=6.5, markeredgecolor=PAPER)
        last = exams[-1].success if exams else curve.smooth[-1].mean if curve.smooth else 0.0
        before = f"{percent(exams[0].success)} → " if len(exams) > 1 else ""
        ends.append((last, f"{_short_name(job)}\n{before}{percent(last)}", colour))
    for y, (_, label, colour) in zip(_apart([last for last, _, _ in ends], 0.15), ends, strict=True):
        axes.text(end * 1.04, y, label, color=colour, va="center", fontsize=10, fontweight="bold")
    axes.set_xlim(-0.02 * end, end * 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
    ticks = [tick for tick in axes.get_xticks() if 0 <= tick <= end]
    axes.set_xticks(ticks, [short(tick) for tick in ticks])
    axes.set_xlabel("attempts", color=SOFT, fontsize=10, loc="left")
    _title(axes, "It learns: share of attempts that solve the task")
    note = "line: practice, dots: exams on new tasks"
    axes.text(1.0, -0.135, note, transform=axes.transAxes, ha="right", color=SOFT, fontsize=8.5)


def _short_name(job: str) -> str:
    """A job without where it comes from and its options: "gymnasium:Taxi-v3,size=5" -> "Taxi-v3"."""
    name = job.split(",")[0].split(":")[-1]
    return name if len(name) <= 14 else name[:13] + "…"


def _strip(figure: Figure, label: str, seen: View) -> None:
    line = figure.add_axes((STRIP[0], 0.665, STRIP[1], 0.205))
    _plain(line)
    places = [at for at, _ in seen.series]
    values = [value for _, value in seen.series]
    line.plot(places, values, color="#b8bdc1", linewidth=1.2, zorder=1)
    line.scatter(places, values, s=9, c=[BEAD.hex(value) for value in values], zorder=2)
    line.axhline(0.5, color=SOFT, linewidth=0.7, linestyle=(0, (3, 4)))
    for moment in (seen.fall, seen.rise):
        if moment is not None:
            colour, sign, shift = ("#b4490a", "v", 0.13) if moment.fell else ("#0b66b3", "^", -0.13)
            line.plot([moment.position], [moment.after + shift], sign, color=colour, markersize=6)
    line.set_ylim(-0.08, 1.08)
    line.set_yticks([0, 1], ["0%", "100%"])
    line.set_xticks([])
    _title(line, f"It knows: V along an attempt at {_short_name(seen.trajectory.task.job)}")
    text = figure.add_axes((STRIP[0], 0.09, STRIP[1], 0.54))
    text.set_axis_off()
    _write(text, seen)
    verdict = "solved" if seen.trajectory.outcome.success else "not solved"
    note = f"{verdict}, {label.removesuffix(' of practice')}"
    figure.text(0.985, 0.035, note, ha="right", color=SOFT, fontsize=8.5)
    figure.text(0.565, 0.035, "expects failure", color=SOFT, fontsize=8.5)
    ramp = figure.add_axes((0.641, 0.034, 0.06, 0.026))
    ramp.set_axis_off()
    ramp.imshow([[LIGHT.rgb(i / 40) for i in range(41)]], aspect="auto")
    figure.text(0.707, 0.035, "expects success", color=SOFT, fontsize=8.5)


def _write(axes: Axes, seen: View) -> None:
    """The text in cells of one character, with V behind each."""
    from matplotlib.font_manager import findfont, get_font
    from matplotlib.patches import Rectangle

    font = get_font(findfont("DejaVu Sans Mono"))
    cells, columns, rows = _layout(seen)
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)
    for row, column, span, bold in cells:
        if row >= rows:
            break
        if span.value is not None:
            colour = LIGHT.hex(span.value)
            axes.add_patch(Rectangle((column, row + 0.05), len(span.text), 0.9, color=colour, linewidth=0))
        drawable = (character if font.get_char_index(ord(character)) else "\ufffd" for character in span.text)
        axes.text(
            column,
            row + 0.71,
            "".join(drawable),
            parse_math=False,
            family="DejaVu Sans Mono",
            fontsize=72 * WIDTH * STRIP[1] / columns / ADVANCE,
            fontweight="bold" if bold and span.text != END else "normal",
            color=SOFT if span.value is None or span.text == END else INK,
        )


def _layout(seen: View) -> tuple[list[Cell], int, int]:
    """A row a turn, wrapped: the cells, and the columns and rows they are for."""
    for columns, rows in SIZES:
        cells = _cells(seen, columns)
        if not cells or cells[-1][0] < rows:
            return cells, columns, rows
    columns, rows = SIZES[-1]
    return _cells(seen, columns), columns, rows


def _cells(seen: View, columns: int) -> list[Cell]:
    cells: list[Cell] = []
    asked = [passage.text for passage in seen.passages if passage.turn == 0][-1:]
    prompt = textwrap.wrap(" ".join(asked), columns, max_lines=2, placeholder=" …")
    row = column = -1
    for row, line in enumerate(prompt):
        cells.append((row, 0, Span(line, None, None), False))
    keep, turn = turns_worth_reading(seen, ends=2), 0
    for passage in seen.passages:
        if passage.turn == 0 or passage.turn not in keep:
            continue
        if passage.turn != turn:
            row, column = row + 1, 0
            if passage.turn > turn + 1:
                cells.append((row, 0, Span("…", None, None), False))
                row += 1
            turn = passage.turn
        if passage.speaker == "environment":
            row, column = _flow(cells, row, column, Span(" → ", None, None), False, columns)
        for span in passage.spans:
            row, column = _flow(cells, row, column, span, passage.speaker == "assistant", columns)
    return cells


def _flow(cells: list[Cell], row: int, column: int, span: Span, bold: bool, columns: int) -> tuple[int, int]:
    for i, line in enumerate(span.text.split("\n")):
        if i:
            row, column = row + 1, 0
        while line:
            if column >= columns or (column and columns - column < len(line) <= columns):
                row, column = row + 1, 0
            here, line = line[: columns - column], line[columns - column :]
            cells.append((row, column, replace(span, text=here), bold))
            column += len(here)
    return row, column


def _plain(axes: Axes) -> None:
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=SOFT, length=0, labelsize=9)
    axes.grid(axis="y", color=HAIR, linewidth=0.8)
    axes.set_axisbelow(True)


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", color=INK, fontsize=11.5, fontweight="bold", pad=12)


def _apart(positions: Sequence[float], gap: float) -> list[float]:
    """The same places, moved until they are `gap` apart and none is above 1 - gap / 2."""
    order = sorted(range(len(positions)), key=lambda i: -positions[i])
    placed = list(positions)
    above = 1.0 + gap / 2
    for i in order:
        placed[i] = above = min(placed[i], above - gap)
    return placed
