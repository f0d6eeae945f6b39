"""The picture of merge.py: what each method keeps of each specialist's gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

SHOWN = {
    "average": "average",
    "task": "task arithmetic",
    "ties": "TIES",
    "dare": "DARE",
    "ram": "RAM",
    "played": "played, graded\nby the specialists",
    "shown": "shown what the\nspecialists do",
    "distill": "shown, then played\n(the default)",
}
COLOURS = ("#1f6feb", "#e8590c", "#2f9e44", "#8a8f98")
BAR = 95


def draw(kept: Mapping[str, Mapping[str, Sequence[float]]], file: Path) -> None:
    """Bars are means over seeds, dots are seeds; the dashed line is the bar to be passed.

    Args:
        kept: percent of the gain, of each seed, by method and job.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    methods = [name for name in SHOWN if name in kept]
    jobs = list(next(iter(kept.values())))
    figure, axis = plt.subplots(figsize=(8.6, 3.4), layout="constrained")
    width = 0.8 / len(jobs)
    for number, (job, colour) in enumerate(zip(jobs, COLOURS, strict=False)):
        places = np.arange(len(methods)) + (number - (len(jobs) - 1) / 2) * width
        axis.bar(
            places, [np.mean(kept[m][job]) for m in methods], 0.9 * width, color=colour, alpha=0.75, label=job, zorder=2
        )
        for place, method in zip(places, methods, strict=True):
            seeds = kept[method][job]
            axis.plot([place] * len(seeds), seeds, ".", color="0.15", ms=4, zorder=3)
    axis.axhline(BAR, color="0.35", lw=0.9, ls=(0, (4, 3)), zorder=1)
    axis.axhline(0, color="0.35", lw=0.7, zorder=1)
    axis.set_xticks(range(len(methods)), [SHOWN[m] for m in methods], fontsize=9)
    axis.set_ylabel("kept of the gain (%)")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", alpha=0.18, lw=0.7)
    axis.legend(frameon=False, ncols=len(jobs), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figure.savefig(file, dpi=150)
    plt.close(figure)
