"""The report's last sections: the exam table, and what the run was made of and cost."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any, cast

from journeyman.model.calibration import Calibration
from journeyman.report import charts
from journeyman.report.run import Comparison, Exam, Run, flatten, number
from journeyman.report.words import EN_DASH, count, duration, esc, interval, percent, plural, points

PACKAGES = ("journeyman", "torch", "transformers", "numpy")
TAGS = {
    "practised": ("", "tasks that were practised"),
    "held out": ("in", "new tasks of the same kind"),
    "generalization": ("", "beyond what was practised"),
}


def state_notes(run: Run) -> list[str]:
    """What a reader has to know before trusting the page."""
    notes = list(run.notes)
    stands = f"step {run.step}" + (f" of {run.steps}" if run.steps else "")
    if run.state == "running":
        notes.insert(0, f"This run is still going on ({stands}). What is shown is all there is so far.")
    if run.state == "interrupted":
        again = "Giving the same command again continues it."
        notes.insert(0, f"This run is not finished: it stopped at {stands}. {again}")
    for job in run.jobs:
        shares = [share for line in run.learn if (share := number(line, f"{job}/failed")) is not None]
        if any(shares):
            broken = percent(sum(shares) / len(shares))
            notes.append(
                f"In {broken} of the attempts at {job} something broke, so nothing was learned from them. "
                f"`journeyman trace {run.folder} --outcome failed` shows the errors."
            )
    return notes


def exam_table(run: Run) -> str:
    """Each split of each job before and after, with intervals clustered by task."""
    head = "<section><h2>Exams</h2>"
    if not run.exams:
        return f'{head}<p class="empty">No exam has been held yet.</p></section>'
    bodies: list[str] = []
    for job in run.jobs:
        comparisons = run.comparisons(job)
        if comparisons:
            rows = "".join(_row(comparison) for comparison in comparisons)
            bodies.append(f'<tbody><tr class="job"><th colspan="6" scope="rowgroup">{esc(job)}</th></tr>{rows}</tbody>')
    return (
        f"{head}<p>Share of tasks solved. Intervals are at 95% and clustered: attempts at one task count as "
        "one observation. <i>New tasks of the same kind</i> come from the distribution practised; <i>beyond "
        "what was practised</i> asks for generalization, in the way the split's name says.</p>"
        '<div class="scroll"><table><thead><tr><th scope="col">split</th><th scope="col">before</th>'
        '<th scope="col">after</th><th scope="col" class="draw">0 to 100%</th><th scope="col">change, '
        'points</th><th scope="col">V\'s AUC<small>half-way</small></th></tr></thead>'
        f"{''.join(bodies)}</table></div></section>"
    )


def _row(comparison: Comparison) -> str:
    style, meaning = TAGS[comparison.kind]
    last = comparison.last
    change = comparison.change
    moved = EN_DASH
    if change is not None:
        difference, low, high = change
        moved = f"<b>{points(difference)}</b><small>{points(low)} to {points(high)}</small>"
    broke = f", {last.failed} broke" if last.failed else ""
    auc = last.auc(2)
    knew = f"<b>{percent(auc[0])}</b><small>{interval(*auc[1:])}</small>" if auc else EN_DASH
    return (
        f'<tr><th scope="row">{esc(comparison.split)} <small><span class="tag {style}">{meaning}</span> '
        f"{plural(last.tasks, 'task')}{broke}</small></th>"
        f"<td>{_figure(comparison.before)}</td><td>{_figure(comparison.after)}</td>"
        f'<td class="draw">{charts.dumbbell(comparison)}</td><td>{moved}</td><td>{knew}</td></tr>'
    )


def _figure(exam: Exam | None) -> str:
    if exam is None:
        return EN_DASH
    return f"<b>{percent(exam.success)}</b><small>{interval(exam.low, exam.high)}</small>"


def calibration(kept: Calibration, job: str) -> str:
    """What the calibration made of V on tasks it was not fitted to, by position; empty where there is none."""
    evidence = kept.evidence.get(job)
    if evidence is None:
        return ""
    rows = "".join(
        f"<tr><td>{count(row.written)}</td><td>{percent(row.predicted)}</td><td><b>{percent(row.observed)}</b> "
        f"<small>{interval(row.low, row.high)}</small></td><td>{count(row.episodes)}</td></tr>"
        for row in evidence.table
    )
    before, after = (percent(error) for error in evidence.error)
    return (
        f'<details class="more"><summary>after calibration, by position</summary><p><small><code>journeyman value'
        f"</code> tells a chance of success: V, calibrated on {plural(evidence.fitted, 'attempt')} at half of the "
        f"exam's tasks. In the {count(evidence.asked)} at the other half, what it says and what comes true differ by "
        f"{after} on average; before, by {before}.</small></p>"
        '<div class="scroll"><table><thead><tr><th scope="col">tokens written</th><th scope="col">predicted</th>'
        '<th scope="col">came true</th><th scope="col">attempts</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></details>"
    )


def about(run: Run) -> str:
    """Time, tokens, configuration and versions."""
    spent = run.time_spent()
    key = "".join(
        f'<li><svg class="key" viewBox="0 0 9 9"><rect width="9" height="9" rx="2" class="part{min(i, 5)}"/>'
        f"</svg>{esc(name)} {duration(seconds)}</li>"
        for i, (name, seconds) in enumerate(spent)
    )
    bar = f'<div class="one">{charts.time_bar(spent)}<ul class="legend">{key}</ul></div>' if spent else ""
    rows = flatten({key: value for key, value in run.config.items() if key != "versions"})
    configured = _pairs(rows) if rows else '<p class="empty">The configuration could not be read.</p>'
    return (
        f"<section><h2>The run</h2><h3>Time and tokens</h3>{_pairs(_costs(run))}{bar}"
        f'<h3 style="margin-top:2rem">Configuration</h3>{configured}'
        f'<h3 style="margin-top:2rem">Versions</h3>{_pairs(_versions(run))}</section>'
        f"<footer>Made by <code>journeyman report {esc(str(run.folder))}</code>. More of the attempts: "
        f"<code>journeyman trace {esc(str(run.folder))}</code>.</footer>"
    )


def _costs(run: Run) -> list[tuple[str, str]]:
    rows = [
        ("time, without pauses", duration(run.seconds)),
        ("steps of practice", count(run.step)),
        ("attempts in practice", count(run.trajectories)),
        ("tokens read and written in practice", count(run.tokens)),
    ]
    if run.school:
        schooled = sum(number(line, "tokens") or 0.0 for line in run.school)
        rows.append(("tokens of schooling before practice", count(schooled)))
    if run.exams:
        rows.append(("attempts in exams", count(sum(exam.episodes for exam in run.exams))))
        rows.append(("tokens in exams", count(sum(exam.tokens for exam in run.exams))))
    if run.seconds and run.tokens:
        rows.append(("tokens a second", count(run.tokens / run.seconds)))
    return rows


def _versions(run: Run) -> list[tuple[str, str]]:
    recorded: Any = run.config.get("versions")
    if isinstance(recorded, dict):
        return [(str(name), str(version)) for name, version in cast("dict[str, Any]", recorded).items()]
    rows = [("python", platform.python_version())]
    for package in PACKAGES:
        try:
            rows.append((package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            continue
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return [*rows, ("machine", machine), ("as of", "the writing of this page")]


def _pairs(rows: list[tuple[str, str]]) -> str:
    cells = "".join(f"<div><dt>{esc(name)}</dt><dd>{esc(value)}</dd></div>" for name, value in rows)
    return f'<dl class="pairs">{cells}</dl>'
