"""The picture of sample_efficiency.py: held-out success over trajectories, a panel for each job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench.efficiency.methods import BASELINE, HEADLINE, METHODS
from bench.efficiency.report import UNCLEAR, Curves, costs, pairs, ratio_shown
from bench.efficiency.stats import Curve, median_cost
from bench.efficiency.subjects import HEADLINE as LEVEL
from bench.efficiency.subjects import SUBJECTS
from journeyman.jobs import resolve

COLOURS = {
    "value": "#1f6feb",
    "value_once": "#79b0ff",
    "grpo": "#e8590c",
    "rloo": "#f2b134",
    "trl": "#8a8f98",
}
FRONT = {"value": 5, "value_once": 4, "grpo": 3}
"""Drawn over the others."""
COLUMNS = 3


def draw(curves: Curves, file: Path) -> None:
    """Mean over seeds as a line, the lowest and highest seed as a band; the middle threshold as a thin line, with a dot
    where the median seed got there."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    jobs = [n for n, s in SUBJECTS.items() if n in curves and s.length != "waiting"]  # which differ in minutes alone
    columns = min(COLUMNS, len(jobs))
    rows = -(-len(jobs) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.7 * columns + 0.4, 2.75 * rows + 0.5), layout="constrained", squeeze=False
    )
    for axis, job in zip(axes.flat, jobs, strict=False):
        panel(axis, job, curves)
    for axis in list(axes.flat)[len(jobs) :]:
        axis.set_axis_off()
    for axis in axes[:, 0]:
        axis.set_ylabel("solved, held out (%)")
    drawn = {label: line for axis in axes.flat for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    order = [method.label for method in METHODS.values() if method.label in drawn][::-1]
    figure.legend([drawn[label] for label in order], order, loc="outside upper left", ncols=len(order), frameon=False)
    figure.savefig(file, dpi=150)
    plt.close(figure)


def panel(axis: Any, job: str, curves: Curves) -> None:
    """One job's curves."""
    methods, subject = curves[job], SUBJECTS[job]
    threshold = 100 * subject.thresholds[LEVEL]
    axis.axhline(threshold, color="0.35", lw=0.8, ls=(0, (4, 3)), zorder=1)
    for name in [name for name in METHODS if name in methods]:
        spent, low, mean, high = band(list(methods[name].values()))
        style: dict[str, Any] = {"color": COLOURS[name], "zorder": FRONT.get(name, 2)}
        axis.plot(spent, 100 * mean, lw=1.9, label=METHODS[name].label, solid_capstyle="round", **style)
        axis.fill_between(spent, 100 * low, 100 * high, alpha=0.15, lw=0, **style)
        there = median_cost(list(costs(methods[name], job, "trajectories").values()))
        if not there.censored:
            axis.plot([there.cost], [threshold], "o", ms=6, mec="white", mew=1.2, **{**style, "zorder": 9})
    turns = resolve(subject.spec).max_turns
    axis.set_title(job.replace("_", " "), loc="left", fontsize=11, fontweight="bold")
    axis.set_title("one turn" if turns == 1 else f"up to {turns} turns", loc="right", fontsize=9, color="0.4")
    ratio = ratio_shown(pairs(curves, job, BASELINE, HEADLINE, "trajectories"))
    if ratio:
        takes = f"{METHODS[BASELINE].label} takes {ratio} times the attempts"
        note = "too few got there to compare" if ratio == UNCLEAR else takes
        axis.text(0.98, 0.035, note, transform=axis.transAxes, ha="right", fontsize=8.5, color="0.25")
    axis.set(ylim=(0, 100), xlim=(0, None), xlabel="attempts")
    axis.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k" if x else "0")
    axis.set_yticks((0, 25, 50, 75, 100))
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.18, lw=0.7)


def band(runs: list[Curve]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Lowest, mean and highest of the seeds, where all of them were examined: they may have played unlike numbers."""
    last = min(run.trajectories[-1] for run in runs)
    spent = np.unique([x for run in runs for x in run.trajectories if x <= last])
    success = np.array([np.interp(spent, run.trajectories, run.success) for run in runs])
    return spent, success.min(0), success.mean(0), success.max(0)
