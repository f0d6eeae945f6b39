"""The demo, seed by seed: held-out success before and after, the time it takes, and how early V knew.

    python -m bench.demo --seeds 0 1 2          the demo three times (two to four minutes each, alone on two cores)
    python -m bench.demo --quick                three learning steps instead of all

Every seed is one `journeyman demo` in a process of its own, timed from its start to its report. The checkpoint it
starts from is the same; everything else (tasks, sampling, updates) follows from the seed. Writes
bench/results/demo.json and bench/results/demo.png.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.common import FOLDER, Results, parser
from journeyman.recipes import demo
from journeyman.run import read_lines

Records = list[dict[str, Any]]


def run(seed: int, folder: Path, quick: bool) -> float:
    """The demo of one seed in `folder`; returns its seconds."""
    command = [sys.executable, "-m", "journeyman", "demo", "--seed", str(seed), "--run", str(folder)]
    started = time.monotonic()
    subprocess.run([*command, "--steps", "3"] if quick else command, check=True)
    return time.monotonic() - started


def record(results: Results, seed: int, exams: Records) -> None:
    """The figures of one seed: of each job's split `test`, and as a table of all splits."""
    last = max(exam["step"] for exam in exams)
    for exam in exams:
        job, percent = exam["job"].split(",")[0], 100 * exam["success"]
        when = {0: "before", last: "after"}.get(exam["step"])
        if when is None:
            continue
        name = job if exam["split"] == "test" else f"{job}_{exam['split']}"
        results.sample(f"heldout_{when}_percent_{name}", seed, percent, "percent", bounds=(0, 100))
        known = exam["value"] and exam["value"]["auc_50"]
        if known is not None and when == "after" and exam["split"] == "test":
            results.sample(f"auc_half_{job}", seed, known, "AUC", bounds=(0, 1))


def draw(curves: dict[int, Records], file: Path) -> None:
    """Success in practice of every seed over the episodes played, one panel per job."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    jobs = demo().jobs
    figure, axes = plt.subplots(1, len(jobs), figsize=(9, 3.2), sharey=True, layout="constrained")
    for axis, job in zip(axes, jobs, strict=True):
        for seed, steps in curves.items():
            success = [100 * step[f"{job}/success"] for step in steps]
            axis.plot([s["trajectories"] / len(jobs) for s in steps], success, lw=1.2, label=f"seed {seed}")
        axis.set(title=job, xlabel="attempts at this job", ylim=(0, 100))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("solved in practice, %")
    axes[-1].legend(frameon=False, loc="lower right")
    figure.savefig(file, dpi=130)


def main() -> None:
    options = parser(__doc__).parse_args()
    results = Results("demo", seeds=options.seeds, quick=options.quick)
    curves: dict[int, Records] = {}
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "run"
            seconds = run(seed, folder, options.quick)
            curves[seed] = [r for r in read_lines(folder / "metrics.jsonl") if r["kind"] == "learn"]
            exams = read_lines(folder / "exams.jsonl")
        results.sample("demo_seconds", seed, seconds, "s", bounds=(0, float("inf")))
        record(results, seed, exams)
    results.write()
    if not options.quick:
        draw(curves, FOLDER / "demo.png")


if __name__ == "__main__":
    main()
