"""The picture of continual.py: the matrix of success on each job after each stage, a panel for each way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from bench.continual import Compared


def draw(found: Mapping[tuple[int, int], Compared], ways: Sequence[str], best: str, file: Path) -> None:
    """Means over seeds, of the first order that was measured; the framed field is the job just learned."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    number = min(order for order, _ in found)
    own = [c for (order, _), c in found.items() if order == number]
    order = own[0].order
    columns = min(len(ways), 4)
    rows = -(-len(ways) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.1 * columns + 0.6, 3.1 * rows + 0.7), layout="constrained", squeeze=False
    )
    for axis, way in zip(axes.flat, ways, strict=False):
        matrix = 100 * np.mean([c.runs[way].matrix for c in own], 0)
        axis.imshow(matrix, vmin=0, vmax=100, cmap="Blues")
        for (row, column), percent in np.ndenumerate(matrix):
            colour = "white" if percent > 55 else "0.2"
            axis.text(column, row, f"{percent:.0f}", ha="center", va="center", fontsize=8, color=colour)
        for place in range(len(order)):
            axis.add_patch(plt.Rectangle((place - 0.5, place - 0.5), 1, 1, fill=False, ec="#e8590c", lw=1.4))
        axis.set_title(f"{way} (the default)" if way == best else way, loc="left", fontsize=11, fontweight="bold")
        axis.set_xticks(
            range(len(order)), [name.replace("_", " ") for name in order], rotation=40, ha="right", fontsize=8
        )
        axis.set_yticks(range(len(order)), [f"after {i + 1}" for i in range(len(order))], fontsize=8)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    for axis in list(axes.flat)[len(ways) :]:
        axis.set_axis_off()
    figure.suptitle("solved of each job's held-out tasks (%)", fontsize=10, x=0.01, y=1.04, ha="left", color="0.3")
    figure.savefig(file, dpi=150, bbox_inches="tight")
    plt.close(figure)
