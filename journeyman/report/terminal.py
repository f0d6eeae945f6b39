"""A run and its episodes on a terminal, drawn with rich."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.style import Style
from rich.table import Table
from rich.text import Text

from journeyman.report.curves import learning_curve, smoothed
from journeyman.report.details import state_notes
from journeyman.report.html import own_pieces
from journeyman.report.palette import TERMINAL
from journeyman.report.run import Comparison, Run, parse_exams, read_run
from journeyman.report.stories import find_trajectories
from journeyman.report.trace import END, Moment, Passage, Span, View, trace_record, view
from journeyman.report.traces_html import outcome_words
from journeyman.report.words import EN_DASH, count, duration, interval, percent, plural, points, visible
from journeyman.types import Trajectory

GOOD, BAD = "dodger_blue1", "dark_orange"
BLOCKS = "▁▂▃▄▅▆▇█"


class Sparkline:
    """Numbers in 0..1 as one line of blocks that fills the width it is given; NaN leaves a gap.

    Attributes:
        values: what to draw, evenly spaced.
        coloured: by the scale of V, else plain.
        marks: (index into `values`, sign, style) to set on a line of their own underneath.
        widest: cells it takes at most.
    """

    def __init__(
        self,
        values: Sequence[float],
        *,
        coloured: bool = True,
        marks: Sequence[tuple[int, str, str]] = (),
        widest: int = 100,
    ) -> None:
        self.values = values
        self.coloured = coloured
        self.marks = marks
        self.widest = widest

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(min(8, options.max_width), min(self.widest, max(len(self.values), 8), options.max_width))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        size = len(self.values)
        width = min(options.max_width, self.widest, max(size, 1))
        line, below = Text(no_wrap=True), [" "] * width
        for cell in range(width):
            start = cell * size // width
            inside = [v for v in self.values[start : max((cell + 1) * size // width, start + 1)] if v == v]
            if not inside:
                line.append(" ")
                continue
            share = min(max(sum(inside) / len(inside), 0.0), 1.0)
            colour = "rgb({},{},{})".format(*TERMINAL.rgb(share)) if self.coloured else "default"
            line.append(BLOCKS[min(int(share * len(BLOCKS)), len(BLOCKS) - 1)], Style.parse(colour))
        yield line
        if self.marks:
            styles: dict[int, str] = {}
            for at, sign, style in self.marks:
                cell = min(at * width // max(size, 1), width - 1)
                below[cell], styles[cell] = sign, style
            yield Text.assemble(*((sign, styles.get(cell, "")) for cell, sign in enumerate(below)), no_wrap=True)


def render_trace(trajectory: Trajectory, pieces: Sequence[str] | None = None) -> RenderableType:
    """One episode: its prompt, its turns with every token coloured by V, V as a line, the moments it moved.

    Args:
        pieces: the text of each token (`Renderer.pieces`); without them whole turns are coloured.
    """
    seen = view(trajectory, pieces)
    outcome = trajectory.outcome
    verdict = Text(f"{'✓' if outcome.success else '✗'} {outcome_words(outcome)}", _verdict_style(outcome.success))
    head = Text.assemble(
        (visible(trajectory.task.id), "bold"),
        f"  {plural(len(trajectory.turns), 'turn')}, {plural(int(trajectory.mask.sum()), 'token')} written  ",
        verdict,
    )
    parts: list[RenderableType] = [head, Text(visible(trajectory.id), "dim"), Text()]
    parts += [
        Padding(Text(passage.text.strip(), "italic"), (0, 0, 1, 2)) for passage in seen.passages if passage.turn == 0
    ]
    parts.append(_talk(seen))
    parts += [Text(), *_line(seen)]
    return Group(*parts)


def render_summary(run_folder: Path) -> RenderableType:
    """A run at a glance: its state, before and after, the curves, time and tokens.

    Raises:
        RunError: the folder is no run.
    """
    run = read_run(run_folder)
    state = (run.state, GOOD if run.state == "finished" else "yellow")
    head = Text.assemble((visible(str(run_folder)), "bold"), "  ", state)
    parts: list[RenderableType] = [head]
    parts += [Text(note, "yellow") for note in state_notes(run)]
    parts += [Text(), _costs(run), Text()]
    parts.append(_exams(run) if run.exams else Text("No exam has been held yet.", "dim"))
    parts += [
        Text(),
        _curves(run) if run.learn else Text("No step of practice has been recorded yet.", "dim"),
    ]
    return Group(*parts)


def _costs(run: Run) -> Text:
    figures = [
        (duration(run.seconds), ""),
        (count(run.step), " steps"),
        (count(run.trajectories), " attempts"),
        (count(run.tokens), " tokens"),
    ]
    text = Text("  ").join(Text.assemble((figure, "bold"), (unit, "dim")) for figure, unit in figures)
    spent = run.time_spent()
    total = sum(seconds for _, seconds in spent)
    if total:
        shares = ", ".join(f"{visible(name)} {percent(seconds / total)}" for name, seconds in spent[:4])
        text.append(f"\nof the time: {shares}", "dim")
    return text


def _exams(run: Run) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("exam", "split", "before", "after", "change", "V half-way (AUC)"):
        table.add_column(name, justify="left" if name in ("exam", "split") else "right", no_wrap=name != "exam")
    for comparison in run.comparisons():
        table.add_row(*_exam(comparison))
    return table


def _exam(comparison: Comparison) -> list[Text]:
    held_out = comparison.kind == "held out"
    cells = [Text(visible(comparison.job)), Text(visible(comparison.split), "bold" if held_out else "")]
    for exam in (comparison.before, comparison.after):
        if exam is None:
            cells.append(Text(EN_DASH, "dim"))
            continue
        shown = (percent(exam.success), "bold" if held_out else "")
        cells.append(Text.assemble(shown, (f" {interval(exam.low, exam.high)}", "dim")))
    change = comparison.change
    if change is None:
        cells.append(Text(EN_DASH, "dim"))
    else:
        style = GOOD if change[1] > 0 else BAD if change[2] < 0 else "dim"
        cells.append(Text(f"{points(change[0])} points", style))
    auc = comparison.last.auc(2)
    cells.append(Text.assemble(percent(auc[0]), (f" {interval(*auc[1:])}", "dim")) if auc else Text(EN_DASH, "dim"))
    return cells


def _curves(run: Run) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, max_width=24)
    table.add_column()
    table.add_column(justify="right", no_wrap=True)
    for job in run.jobs:
        curve = learning_curve(run, job)
        if curve.smooth:
            means = [point.mean for point in curve.smooth]
            ends = f"{percent(means[0])} → {percent(means[-1])}"
            table.add_row(Text(visible(job)), Sparkline(means, coloured=False, widest=60), f"{ends} solved")
        known = [auc for _, auc in smoothed(run, f"{job}/value/auc_50")]
        if known:
            drawn = [2 * auc - 1 for auc in known]  # from a coin toss to certainty
            ends = f"{percent(known[0])} → {percent(known[-1])}"
            table.add_row(Text("  V half-way", "dim"), Sparkline(drawn, coloured=False, widest=60), f"{ends} AUC")
    return table


def _verdict_style(success: bool) -> str:
    return f"bold {GOOD if success else BAD}"


def _talk(seen: View) -> Table:
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(justify="right", style="dim", no_wrap=True)
    table.add_column(ratio=1)
    turns: dict[int, list[Passage]] = {}
    for passage in seen.passages:
        if passage.turn:
            turns.setdefault(passage.turn, []).append(passage)
    for turn, passages in turns.items():
        text = Text()
        for passage in passages:
            if passage.speaker != "assistant":
                text.append("\n" if "\n" in passage.text.strip() else " ")
                text.append("→ ", "dim")
            for span in passage.spans:
                text.append_text(_span(seen, span, bold=passage.speaker == "assistant"))
        table.add_row(str(turn) if len(turns) > 1 else "", text)
    return table


def _span(seen: View, span: Span, bold: bool) -> Text:
    style = Style(bold=bold and span.text != END)
    if span.value is not None:
        background = "rgb({},{},{})".format(*TERMINAL.rgb(span.value))
        style += Style.parse(f"white on {background}")
    text = Text(span.text, style)
    if seen.fall is not None and span.position == seen.fall.position:
        text.append("▼", "bold white")
    if seen.rise is not None and span.position == seen.rise.position:
        text.append("▲", "bold white")
    return text


def _line(seen: View) -> list[RenderableType]:
    if not seen.series:
        return [Text("V was not computed for this episode.", "dim")]
    places = {at: i for i, (at, _) in enumerate(seen.series)}
    moved = [moment for moment in (seen.fall, seen.rise) if moment is not None]
    marks = [(places.get(m.position, 0), "▼" if m.fell else "▲", BAD if m.fell else GOOD) for m in moved]
    words = Text.assemble("V began at ", (percent(seen.series[0][1]), "bold"))
    for moment in sorted(moved, key=lambda moment: moment.position):
        words.append_text(_moment(moment))
    words.append_text(Text.assemble(", ended at ", (percent(seen.series[-1][1]), "bold")))
    return [Sparkline([value for _, value in seen.series], marks=marks), words]


def _moment(moment: Moment) -> Text:
    sign, style = ("▼", BAD) if moment.fell else ("▲", GOOD)
    text = " ".join(moment.text.split()) or "a blank"
    return Text.assemble(
        ", ",
        (sign, style),
        f" {percent(moment.before)} → ",
        (percent(moment.after), "bold"),
        f" at “{text if len(text) <= 24 else text[:23] + '…'}” (turn {moment.turn})",
    )


def exam_table(results: Sequence[Mapping[str, Any]]) -> Table:
    """Results of one exam (`ExamResult.as_dict()`), a row per job and split.

    The last column says how well V knew; or, where answers were searched for, what one took.
    """
    exams = parse_exams(results)
    searches = list(dict.fromkeys(exam.search for exam in exams if exam.search))
    last = f"tokens ({', '.join(searches)})" if searches else "V half-way (AUC)"
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("exam", "split", "solved", "95% interval", "tasks", last):
        table.add_column(name, justify="left" if name in ("exam", "split") else "right", no_wrap=name != "exam")
    for exam in exams:
        broke = f", {exam.failed} broke" if exam.failed else ""
        auc = exam.auc(2)
        known = f"{percent(auc[0])} {interval(*auc[1:])}" if auc else EN_DASH
        table.add_row(
            Text(visible(exam.job)),
            Text(visible(exam.split)),
            Text(percent(exam.success), "bold"),
            Text(interval(exam.low, exam.high)),
            Text(f"{exam.tasks}{broke}"),
            Text(f"{exam.tokens / max(exam.episodes, 1):,.0f}" if searches else known),
        )
    return table


def show_traces(
    run_folder: Path,
    *,
    id: str | None = None,
    job: str | None = None,
    split: str | None = None,
    outcome: str | None = None,
    count: int = 1,
    as_json: bool = False,
    console: Console | None = None,
) -> None:
    """Print the latest `count` episodes that match, with V along the text, or as JSON lines.

    Raises:
        UsageError, UnknownName: as `find_trajectories`.
    """
    console = console or Console()
    found = find_trajectories(run_folder, id=id, job=job, split=split, outcome=outcome, limit=count)
    pieces = own_pieces(run_folder)
    for number, trajectory in enumerate(found):
        texts = None if pieces is None else pieces(trajectory.tokens.tolist())
        if as_json:
            console.file.write(json.dumps(trace_record(trajectory, texts)) + "\n")
            continue
        if number:
            console.print()
        console.print(render_trace(trajectory, texts))
