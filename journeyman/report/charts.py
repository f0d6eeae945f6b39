"""Charts as inline SVG, written by hand: they take their colours from the page's style sheet.

Every function returns one `<svg>` element. Coordinates are pixels of the chart's own frame, which the page
scales to its width; `F` below is such a frame with its two scales.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from journeyman.exam.stats import mean_interval
from journeyman.report.curves import Curve
from journeyman.report.palette import shade
from journeyman.report.run import Comparison, Exam, Knowledge
from journeyman.report.trace import Moment, View
from journeyman.report.words import count, esc, interval, percent, short

T = TypeVar("T")


@dataclass(frozen=True)
class F:
    """A frame: where data lies within the drawing."""

    width: float = 480
    height: float = 300
    left: float = 48
    right: float = 18
    top: float = 34
    bottom: float = 46
    x_low: float = 0.0
    x_high: float = 1.0
    y_low: float = 0.0
    y_high: float = 1.0

    def x(self, value: float) -> float:
        share = (value - self.x_low) / ((self.x_high - self.x_low) or 1.0)
        return round(self.left + share * (self.width - self.left - self.right), 1)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / ((self.y_high - self.y_low) or 1.0)
        return round(self.height - self.bottom - share * (self.height - self.top - self.bottom), 1)


def learning_chart(curve: Curve, exams: Sequence[tuple[float, Exam]], end: float, wide: bool = False) -> str:
    """Success against attempts: steps as dots, smoothed mean and band, exams as points with intervals."""
    ticks = nice_ticks(end)
    f = F(width=720 if wide else 480, height=330 if wide else 300, right=24, x_high=max(end, 1.0))
    body = [_axes(f, [(t, short(t)) for t in ticks], _shares(), "attempts", "solved")]
    body += [
        f'<circle class="raw" cx="{f.x(x)}" cy="{f.y(rate)}" r="1.7"><title>{percent(rate)} of the attempts '
        f"up to number {count(x)}</title></circle>"
        for x, rate in _thinned(curve.raw)
    ]
    if len(curve.smooth) > 1:
        upper = [(f.x(p.x), f.y(p.high)) for p in curve.smooth]
        lower = [(f.x(p.x), f.y(p.low)) for p in reversed(curve.smooth)]
        body.append(f'<polygon class="band" points="{_points([*upper, *lower])}"/>')
        line = [(f.x(p.x), f.y(p.mean)) for p in curve.smooth]
        body.append(f'<polyline class="line" points="{_points(line)}"/>')
    for x, exam in exams:
        note = f"exam on {exam.split}: {percent(exam.success)} ({interval(exam.low, exam.high)})"
        body.append(_whisker(f.x(x), f.y(exam.low), f.y(exam.high), "exam"))
        body.append(_dot(f.x(x), f.y(exam.success), 5, "exam", note))
    for x, exam in {exams[0], exams[-1]} if exams else ():
        right = f.x(x) > f.width / 2
        y = f.y(exam.success) + (-12 if exam.success < 0.9 else 22)
        anchor, shift = ("end", -8) if right else ("start", 9)
        body.append(_text(f.x(x) + shift, y, percent(exam.success), "value", anchor))
    return _svg(f, body, f"Learning curve of {curve.job}")


def early_chart(before: Exam | None, after: Exam) -> str:
    """AUC of V after a quarter, half, three quarters of an episode, drawn as height above a coin toss."""
    labels = [(0.25, "a quarter"), (0.5, "half"), (0.75, "three quarters")]
    known = [[exam.auc(quarter) if exam else None for quarter in (1, 2, 3)] for exam in (before, after)]
    lowest = min((found[1] for row in known for found in row if found), default=0.5)
    f = F(x_low=0.1, x_high=0.9, y_low=min(0.5, math.floor(lowest * 10) / 10))
    grid = [(tick / 10, f"{10 * tick}%") for tick in range(round(10 * f.y_low), 11)]
    body = [_axes(f, labels, grid, "of the attempt read", "ranked rightly", x_grid=False)]
    body.append(f'<line class="base" x1="{f.left}" x2="{f.width - f.right}" y1="{f.y(0.5)}" y2="{f.y(0.5)}"/>')
    body.append(_text(f.width - f.right, f.y(0.5) - 6, "coin toss", "label", "end"))
    for (at, _), old, new in zip(labels, *known, strict=True):
        x = f.x(at)
        if old:
            body.append(_whisker(x - 18, f.y(old[1]), f.y(old[2]), "ghost"))
            body.append(_dot(x - 18, f.y(old[0]), 4.5, "ghost", f"before practice: {_bounded(old)}"))
        if new:
            body.append(_whisker(x, f.y(new[1]), f.y(new[2]), "mark"))
            body.append(_dot(x, f.y(new[0]), 6, "mark", f"now: {_bounded(new)}"))
            body.append(_text(x + 12, f.y(new[0]) + 5, percent(new[0]), "value", "start"))
    return _svg(f, body, f"How early V knew the outcome at {after.job}")


def reliability_chart(knowledge: Knowledge, job: str) -> str:
    """Predicted against observed success, with Wilson's 95% intervals; a dot's area is its attempts."""
    f = F()
    body = [_axes(f, _shares(), _shares(), "predicted by V, half-way", "came true")]
    body.append(f'<line class="base" x1="{f.x(0)}" y1="{f.y(0)}" x2="{f.x(1)}" y2="{f.y(1)}"/>')
    most = max((n for _, _, n in knowledge.reliability), default=1.0)
    for predicted, observed, number in knowledge.reliability:
        solved = round(observed * number)
        bounds = mean_interval([1.0] * solved + [0.0] * (round(number) - solved))
        shown = f"{percent(observed)} ({interval(bounds.low, bounds.high)})"
        note = f"V said {percent(predicted)}; {shown} of {count(number)} attempts succeeded"
        body.append(_whisker(f.x(predicted), f.y(bounds.low), f.y(bounds.high), "faint"))
        body.append(_dot(f.x(predicted), f.y(observed), 3 + 8 * math.sqrt(number / most), "mark soft", note))
    return _svg(f, body, f"Calibration of V at {job}")


def knowing_chart(series: Sequence[tuple[str, Sequence[tuple[float, float]]]], end: float) -> str:
    """AUC of V against attempts, one line per share of the episode read."""
    lowest = min((value for _, line in series for _, value in line), default=0.5)
    f = F(height=260, right=66, x_high=max(end, 1.0), y_low=min(0.5, math.floor(10 * lowest) / 10))
    grid = [(tick / 10, f"{10 * tick}%") for tick in range(round(10 * f.y_low), 11)]
    body = [_axes(f, [(t, short(t)) for t in nice_ticks(end)], grid, "attempts", "ranked rightly")]
    ends = _apart([f.y(line[-1][1]) for _, line in series], 17)
    for i, ((label, line), y) in enumerate(zip(series, ends, strict=True)):
        drawn = [(f.x(x), f.y(value)) for x, value in _thinned(line)]
        body.append(f'<polyline class="line tone{i}" points="{_points(drawn)}"/>')
        body.append(_text(f.width - f.right + 8, y + 5, label, "label", "start"))
    return _svg(f, body, "How well V ranked attempts during practice")


def dumbbell(comparison: Comparison) -> str:
    """Before and after with their intervals on one 0..100% line."""
    f = F(width=220, height=34, left=8, right=8, top=4, bottom=4)
    body = [f'<line class="rail" x1="{f.x(0)}" x2="{f.x(1)}" y1="17" y2="17"/>']
    body += [f'<line class="rail" x1="{f.x(t)}" x2="{f.x(t)}" y1="13" y2="21"/>' for t in (0.0, 0.25, 0.5, 0.75, 1.0)]
    rows = [(comparison.before, "ghost", 11.0), (comparison.after, "mark", 23.0)]
    for exam, style, y in rows:
        if exam is None:
            continue
        note = f"{percent(exam.success)} ({interval(exam.low, exam.high)})"
        body.append(
            f'<line class="{style} wide" x1="{f.x(exam.low)}" x2="{f.x(exam.high)}" y1="{y}" y2="{y}">'
            f"<title>{note}</title></line>"
        )
        body.append(_dot(f.x(exam.success), y, 4.5, style, note))
    return _svg(f, body, "Before and after")


def value_line(seen: View) -> str:
    """V from the first sampled token to the last, its greatest fall and rise marked, turns as ticks."""
    if len(seen.series) < 2:
        return ""
    f = F(
        height=96,
        left=42,
        right=6,
        top=16,
        bottom=16,
        x_low=seen.series[0][0],
        x_high=seen.series[-1][0],
    )
    body = [f'<line class="gridline" x1="{f.left}" x2="{f.x(f.x_high)}" y1="{f.y(v)}" y2="{f.y(v)}"/>' for v in (0, 1)]
    body.append(f'<line class="base" x1="{f.left}" x2="{f.x(f.x_high)}" y1="{f.y(0.5)}" y2="{f.y(0.5)}"/>')
    body += [_text(f.left - 7, f.y(v) + 4, text, "label", "end") for v, text in ((0, "0%"), (1, "100%"))]
    body += [
        f'<line class="tick" x1="{f.x(turn.start)}" x2="{f.x(turn.start)}" y1="{f.y(0)}" y2="{f.y(0) + 4}"/>'
        for turn in seen.trajectory.turns
        if f.x_low <= turn.start <= f.x_high
    ]
    line = [(f.x(at), f.y(_unit(value))) for at, value in seen.series]
    body.append(f'<polyline class="line thick" points="{_points(line)}"/>')
    for (at, value), (x, y) in _sampled(list(zip(seen.series, line, strict=True)), 80):
        body.append(
            f'<circle class="bead b{shade(_unit(value))}" cx="{x}" cy="{y}" r="2.4">'
            f"<title>V {percent(value)} at token {at}</title></circle>"
        )
    body += [_moment(f, moment) for moment in (seen.fall, seen.rise) if moment is not None]
    return _svg(f, body, "V along the attempt")


def time_bar(spent: Sequence[tuple[str, float]]) -> str:
    """Shares of the time, longest first."""
    total = sum(seconds for _, seconds in spent) or 1.0
    body: list[str] = []
    x = 0.0
    for i, (name, seconds) in enumerate(spent):
        width = 720 * seconds / total
        box = f'x="{x:.1f}" y="0" width="{max(width - 1.5, 0.5):.1f}" height="18" rx="2"'
        note = f"{esc(name)}: {seconds:.0f} s"
        body.append(f'<rect class="part{min(i, 5)}" {box}><title>{note}</title></rect>')
        x += width
    return _svg(F(width=720, height=18), body, "Where the time went")


def nice_ticks(end: float, most: int = 5) -> list[float]:
    """0 and multiples of 1, 2 or 5 times a power of ten up to `end`, at most `most` steps."""
    if end <= 0:
        return [0.0]
    raw = end / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    return [step * i for i in range(int(end / step + 1e-9) + 1)]


def _moment(f: F, moment: Moment) -> str:
    x, y = f.x(moment.position), f.y(_unit(moment.after))
    kind = "fall" if moment.fell else "rise"
    tip, base = (y - 5, y - 13) if moment.fell else (y + 5, y + 13)
    corners = _points([(x - 5, base), (x + 5, base), (x, tip)])
    note = f"greatest {kind}: {percent(moment.before)} to {percent(moment.after)}"
    return f'<polygon class="{kind}" points="{corners}"><title>{note}</title></polygon>'


def _axes(
    f: F,
    x_ticks: Sequence[tuple[float, str]],
    y_ticks: Sequence[tuple[float, str]],
    x_label: str,
    y_label: str,
    x_grid: bool = True,
) -> str:
    bottom = f.height - f.bottom
    parts = [
        f'<line class="gridline" x1="{f.left}" x2="{f.width - f.right}" y1="{f.y(v)}" y2="{f.y(v)}"/>'
        + _text(f.left - 8, f.y(v) + 4.5, text, "label", "end")
        for v, text in y_ticks
    ]
    for value, text in x_ticks:
        if x_grid:
            parts.append(f'<line class="tick" x1="{f.x(value)}" x2="{f.x(value)}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(_text(f.x(value), bottom + 19, text, "label", "middle"))
    parts.append(_text((f.left + f.width - f.right) / 2, f.height - 6, x_label, "label", "middle"))
    parts.append(_text(0, 12, y_label, "label", "start"))
    return "".join(parts)


def _svg(f: F, body: Sequence[str], label: str) -> str:
    return f'<svg viewBox="0 0 {f.width:g} {f.height:g}" role="img" aria-label="{esc(label)}">{"".join(body)}</svg>'


def _text(x: float, y: float, text: str, style: str, anchor: str) -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{esc(text)}</text>'


def _dot(x: float, y: float, radius: float, style: str, note: str) -> str:
    title = f"<title>{esc(note)}</title>"
    return f'<circle class="{style}" cx="{x}" cy="{y}" r="{radius:.1f}">{title}</circle>'


def _bounded(found: tuple[float, float, float]) -> str:
    return f"{percent(found[0])} ({interval(found[1], found[2])})"


def _whisker(x: float, low: float, high: float, style: str) -> str:
    return f'<line class="{style}" x1="{x}" x2="{x}" y1="{low}" y2="{high}"/>'


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)


def _shares() -> list[tuple[float, str]]:
    return [(tick / 4, f"{25 * tick}%") for tick in range(5)]


def _unit(value: float) -> float:
    return min(max(value, 0.0), 1.0)


def _thinned(items: Sequence[T]) -> Sequence[T]:
    return _sampled(items, 400)


def _sampled(items: Sequence[T], most: int) -> Sequence[T]:
    """At most `most` items, evenly spaced, the last among them."""
    stride = math.ceil(len(items) / most) if items else 1
    return [item for i, item in enumerate(items) if i % stride == 0 or i == len(items) - 1]


def _apart(positions: Sequence[float], gap: float) -> list[float]:
    """Labels moved down until each is `gap` below the one above it, then back into the same middle."""
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    placed = list(positions)
    for upper, lower in pairwise(order):
        placed[lower] = max(placed[lower], placed[upper] + gap)
    drift = (sum(placed) - sum(positions)) / len(positions) if positions else 0.0
    return [y - drift for y in placed]
