"""The report of a run: one HTML file that needs nothing else, for screens, phones and paper."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from journeyman.errors import StoreError
from journeyman.report import charts, details, palette
from journeyman.report.curves import learning_curve, smoothed
from journeyman.report.run import Comparison, Run, count_parameters, model_folder, read_run
from journeyman.report.stories import read_candidates, tell
from journeyman.report.trace import Pieces, known_values
from journeyman.report.traces_html import legend, stories_html
from journeyman.report.words import count, duration, esc, interval, listed, percent, plural


def write_report(run_folder: Path | str, pieces: Pieces | None = None) -> Path:
    """Write `report.html` into a run folder, replacing the one before at once.

    Args:
        run_folder: of a run that is finished, under way or interrupted; what is missing is said to be.
        pieces: ids to the text of each token; None: the tokenizer of the run's own model, and without one
            the traces are coloured turn by turn.

    Raises:
        RunError: the folder is no run.
    """
    folder = Path(run_folder)
    page = render_page(read_run(folder), pieces or own_pieces(folder))
    path = folder / "report.html"
    draft = path.with_suffix(".html.new")
    draft.write_text(page, "utf-8", errors="replace")
    draft.replace(path)
    return path


def own_pieces(run_folder: Path) -> Pieces | None:
    """The text of tokens according to the run's own tokenizer; None where it has none that can be read."""
    folder = model_folder(run_folder)
    if folder is None:
        return None
    from transformers import AutoTokenizer  # seconds to import, and a run without a model does not need it

    from journeyman.model.render import Renderer

    tokenizers: Any = AutoTokenizer
    try:
        return Renderer(tokenizers.from_pretrained(folder, local_files_only=True)).pieces
    except Exception:  # whatever is wrong with a tokenizer, the report is worth having without it
        return None


def render_page(run: Run, pieces: Pieces | None) -> str:
    """The whole page as text."""
    style = files("journeyman.report").joinpath("page.css").read_text("utf-8")
    title = f"Learning {listed(run.jobs)}" if run.jobs else "A run that has not begun"
    body = [
        _opening(run, title),
        _curves(run),
        _knowledge(run),
        _traces(run, pieces),
        details.exam_table(run),
        details.about(run),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{esc(title)} · Journeyman</title>\n<style>\n{palette.look()}{style}</style>\n</head>\n"
        f"<body>\n<main>\n{chr(10).join(body)}\n</main>\n</body>\n</html>\n"
    )


def summary(run: Run) -> str:
    """What happened, in one or two plain sentences."""
    if not run.learn:
        return "Nothing has been practised yet, so there is nothing to compare."
    practised = (
        f"In {duration(run.seconds)}, {_model(run)} practised {listed(run.jobs)} by trial and error, "
        f"in {count(run.trajectories)} attempts."
    )
    compared = [c for job in run.jobs if (c := run.headline(job)) is not None and c.after is not None]
    if not compared:
        return f"{practised} It has not been examined since, so whether it got better is not known yet."
    unseen = all(comparison.kind != "practised" for comparison in compared)
    tasks = "tasks it had never seen" if unseen else "exam tasks"
    return f"{practised} On {tasks}, {_changes(compared)}."


def _changes(compared: Sequence[Comparison]) -> str:
    """What became of each job: "it went from 24% to 93% solved at maze and from 31% to 89% at hops"."""
    better: list[str] = []
    other: list[str] = []
    for comparison in compared:
        assert comparison.after is not None and comparison.change is not None
        before, after = percent(comparison.before.success), percent(comparison.after.success)
        where = f" at {comparison.job}" if len(compared) > 1 else ""
        _, low, high = comparison.change
        if low > 0:
            better.append(f"from {before} to {after}{' solved' if not better else ''}{where}")
        elif high < 0:
            other.append(f"it got worse{where}, from {before} to {after} solved")
        else:
            other.append(f"there is no clear change{where} ({before} solved before, {after} after)")
    return "; ".join(([f"it went {listed(better)}"] if better else []) + other)


def _model(run: Run) -> str:
    folder = model_folder(run.folder)
    parameters = count_parameters(folder) if folder else None
    size = f" of {count(parameters)} parameters" if parameters else ""
    return f"a language model{size}{', schooled a little on demonstrations first,' if run.school else ''}"


def _opening(run: Run, title: str) -> str:
    cards = "".join(_card(run, comparison) for job in run.jobs if (comparison := run.headline(job)) is not None)
    facts = [
        (run.state, ""),
        (count(run.step), "steps"),
        (count(run.trajectories), "attempts"),
        (count(run.tokens), "tokens"),
        (duration(run.seconds), ""),
    ]
    notes = "".join(f'<p class="notice">{esc(note)}</p>' for note in details.state_notes(run))
    return (
        f'<p class="eyebrow">Journeyman · run {esc(run.folder.resolve().name)}</p>\n<h1>{esc(title)}</h1>\n'
        f'<p class="lead">{esc(summary(run))}</p>\n{notes}'
        + (f'<div class="cards">{cards}</div>\n' if cards else "")
        + f'<ul class="facts">{"".join(f"<li><b>{esc(a)}</b> {esc(b)}</li>" for a, b in facts)}</ul>'
    )


def _card(run: Run, comparison: Comparison) -> str:
    tasks = plural(comparison.last.tasks, "task")
    what = {
        "held out": f"of {tasks} it never saw, of the kind it practised",
        "generalization": f"of {tasks} beyond what it practised (split {comparison.split})",
        "practised": f"of {tasks} it practised; there was no held-out exam",
    }[comparison.kind]
    figures = [("was", "before practice", comparison.before), ("now", "after", comparison.after)]
    shown = [
        f'<div class="{style}"><b>{percent(exam.success)}</b><small>{esc(label)}<br>'
        f"{interval(exam.low, exam.high)}</small></div>"
        for style, label, exam in figures
        if exam is not None
    ]
    beyond = [
        f"{esc(c.split)} {percent(c.before.success)}" + (f" → {percent(c.after.success)}" if c.after else "")
        for c in run.comparisons(comparison.job)
        if c.kind == "generalization" and c is not comparison and c.split != comparison.split
    ]
    further = f"<p>Beyond what it practised: {', '.join(beyond)}</p>" if beyond else ""
    arrow = '<span class="arrow">→</span>'
    return (
        f'<div class="card"><h3>{esc(comparison.job)}</h3><div class="big">{arrow.join(shown)}</div>'
        f"<p>solved {esc(what)} <small>(95% intervals)</small></p>{further}</div>"
    )


def _curves(run: Run) -> str:
    head = "<section><h2>Learning curve</h2>"
    if not run.learn:
        return f'{head}<p class="empty">No step of practice has been recorded yet.</p></section>'
    wide = len(run.jobs) == 1
    figures: list[str] = []
    for job in run.jobs:
        headline = run.headline(job)
        exams = [
            (run.trajectories_at(exam.step), exam)
            for exam in run.exams
            if headline is not None and (exam.job, exam.split) == (job, headline.split)
        ]
        chart = charts.learning_chart(learning_curve(run, job), exams, float(run.trajectories), wide)
        figures.append(f'<figure class="{"wide-chart" if wide else ""}"><h3>{esc(job)}</h3>{chart}</figure>')
    key = (
        '<ul class="legend"><li><i class="key dot" style="background:var(--soft);opacity:.5"></i>'
        "one step of practice</li>"
        '<li><i class="key" style="background:var(--accent);height:.2em;vertical-align:.25em"></i>'
        "practice, smoothed, with its 95% band</li>"
    )
    if run.exams:
        key += '<li><i class="key dot" style="background:var(--ink)"></i>exam, with its 95% interval</li>'
    unseen = all(exam.split != "train" for exam in run.exams)
    exams = " Exams use tasks that practice never showed." if run.exams and unseen else ""
    return (
        f"{head}<p>Share of attempts that solved the task, as practice went on.{exams}</p>"
        f'{key}</ul><div class="{"one" if wide else "grid"}">{"".join(figures)}</div></section>'
    )


def _knowledge(run: Run) -> str:
    head = "<section><h2>How early did it know?</h2>"
    known = [(job, *run.knowledge(job)) for job in run.jobs]
    known = [(job, first, last) for job, first, last in known if last is not None and last.knowledge is not None]
    if not known:
        return f'{head}<p class="empty">{_why_unknown(run)}</p>{_knowing(run)}</section>'
    halves = [
        f"{percent(last.knowledge.auc[1])} of the time{f' at {esc(job)}' if len(known) > 1 else ''}"
        for job, _, last in known
        if last.knowledge and last.knowledge.auc[1] is not None
    ]
    told = f" Half-way through, it is right <b>{listed(halves)}</b>; a coin toss would be 50%." if halves else ""
    rows: list[str] = []
    for job, first, last in known:
        assert last.knowledge is not None
        early = charts.early_chart(first, last)
        if last.knowledge.auc == (None, None, None):
            alike = "All attempts of the exams ended alike, so there was nothing to tell apart."
            early = f'<p class="empty">{alike}</p>'
        calibration = charts.reliability_chart(last.knowledge, job)
        name = esc(job)
        where = f"exam on {esc(last.split)} after {plural(last.step, 'step')}, {plural(last.episodes, 'attempt')}"
        rows.append(
            f"<figure><h3>{name}: how early</h3>{early}<figcaption>V ranks success above failure: {where}. "
            "Bars: 95% intervals."
            + (' <i class="key ring"></i>before practice.' if first else "")
            + f"</figcaption></figure><figure><h3>{name}: does it mean what it says?</h3>{calibration}"
            "<figcaption>On the dashed line, of the attempts given 70% at half-way just 70% succeed. Larger "
            f"dots: more attempts.{_error(last.knowledge.brier)}</figcaption>"
            f"{details.calibration(run.calibration, job)}</figure>"
        )
    return (
        f"{head}<p>After every token the model itself says how likely it is to succeed: this is its <b>value "
        "function V</b>. Take one attempt that will succeed and one that will fail, and let V read only the "
        f"first part of both: how often does it rank them rightly?{told}</p>"
        f'<div class="grid">{"".join(rows)}</div>{_knowing(run)}</section>'
    )


def _why_unknown(run: Run) -> str:
    if not run.exams:
        return "No exam has been held yet; it is exams that show how early V knew."
    return "This run has no value function, so it cannot say how early it knew."


def _error(brier: float | None) -> str:
    if brier is None:
        return ""
    return f" Mean squared error (Brier): {brier:.3f}; 0 is perfect, 0.25 is always saying 50%."


def _knowing(run: Run) -> str:
    figures: list[str] = []
    for job in run.jobs:
        lines = [
            (label, line)
            for share, label in ((25, "¼ read"), (50, "½ read"), (75, "¾ read"))
            if len(line := smoothed(run, f"{job}/value/auc_{share}")) > 1
        ]
        if lines:
            chart = charts.knowing_chart(lines, float(run.trajectories))
            figures.append(f"<figure><h3>{esc(job)}: learning to know</h3>{chart}</figure>")
    if not figures:
        return ""
    return (
        f'<div class="grid">{"".join(figures)}</div><p><small>How rightly V ranked the attempts of each step '
        "of practice, before it learned from them; smoothed over neighbouring steps.</small></p>"
    )


def _traces(run: Run, pieces: Pieces | None) -> str:
    head = "<section><h2>Attempts, with V along the text</h2>"
    try:
        stories = tell(read_candidates(run))
    except StoreError as error:
        return f'{head}<p class="empty">The attempts cannot be read: {esc(error.mistake)}.</p></section>'
    if not stories:
        return f'{head}<p class="empty">No attempts have been recorded yet.</p></section>'
    episodes = [episode for story in stories for _, episode in story.episodes]
    several = any(len(episode.turns) > 1 for episode in episodes)
    bold = " Bold is what the model wrote, the rest is what it was shown." if several else ""
    if not any(known_values(episode) for episode in episodes):
        intro = f"<p>V was not computed for these attempts, so the text is not coloured.{bold}</p>"
    else:
        how = "Each token" if pieces is not None else "Each turn"
        intro = (
            f"<p>{how} is coloured by V after reading it: what the model expected of the attempt at that "
            f"moment.{bold}</p>{legend()}"
        )
    return f"{head}{intro}{stories_html(stories, pieces)}</section>"
