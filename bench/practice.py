"""Is it worth it to let V choose what is practised? The same learning with tasks chosen by V, and drawn uniformly.

    python -m bench.practice --seeds 0 1 2          (about ten minutes of one core; a job alone: --jobs maze)
    python -m bench.practice --quick

The apprentice learns two jobs whose tasks differ in difficulty: a large maze, most of whose goals it never reaches at
first, and questions of one to three hops, the short of which it soon answers. Both sides have the same settings, seeds
and number of trajectories, V's warm-up included; what V reads to choose is charged in tokens. Exams are of the split
`test`, so of tasks as the job has them, not as they are practised.

    success    held out, after the last step
    area       mean success of all exams after the first: how early it came
    mixed      share of the groups practised after the warm-up of which some episodes succeeded and some did not
    variance   V(1 - V) of what was chosen over that of what there was to choose from

Writes bench/results/practice.json (`success_percent_<job>_<side>`, `area_...`, `mixed_...`, and what choosing gained,
paired by seed: `success_gain_points_<job>`, ...; the curves under `details`) and bench/results/practice.png.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bench.common import FOLDER, Results, parser
from journeyman.config import LearnConfig
from journeyman.exam.exam import ExamConfig
from journeyman.learn.credit import CreditConfig
from journeyman.learn.learner import UpdateConfig
from journeyman.learn.optimizer import OptimizerConfig
from journeyman.loop import learn
from journeyman.rollout.practice import PracticeConfig

JOBS: Mapping[str, str] = {"maze": "maze,size=7,max_turns=60", "hops": "hops"}
SIDES: Mapping[str, PracticeConfig] = {"chosen": PracticeConfig(candidates=4), "uniform": PracticeConfig()}
STEPS, EXAM_EVERY, WARMUP = 16, 4, 2
PARTS = ("success", "area", "mixed")


def settings(job: str, side: str, seed: int, quick: bool) -> LearnConfig:
    """A run of one side: but for `practice` the same for both."""
    return LearnConfig(
        jobs=(JOBS[job],),
        model="apprentice",
        steps=3 if quick else STEPS,
        tasks=16,
        repeats=8,
        seed=seed,
        practice=SIDES[side],
        credit=CreditConfig(rule="gae", unit="turn", lambda_policy=0.9),
        update=UpdateConfig(policy=OptimizerConfig(learning_rate=5e-4, warmup=10), minibatches=4),
        value_warmup=1 if quick else WARMUP,
        exam=ExamConfig(tasks=20 if quick else 200, splits=("test",)),
        exam_every=1 if quick else EXAM_EVERY,
        checkpoint_every=STEPS,
        threads=1,
    )


def play(job: str, side: str, seed: int, quick: bool) -> dict[str, Any]:
    """One run: its curve, and what was practised."""
    config, name = settings(job, side, seed, quick), JOBS[job]
    with TemporaryDirectory() as place:
        records = list(learn(config, Path(place) / "run"))
    exams = [r for r in records if r["kind"] == "exam"]
    steps = [r for r in records if r["kind"] == "learn"]
    late = steps[config.warmup :]
    print(f"{job}, {side}, seed {seed}: " + ", ".join(f"{exam['success']:.0%}" for exam in exams), flush=True)
    return {
        "job": job,
        "side": side,
        "seed": seed,
        "trajectories": [exam["step"] * config.tasks * config.repeats for exam in exams],
        "tokens": steps[-1]["tokens"],
        "seconds": sum(r["time/collect"] + r["time/update"] for r in steps),
        "held_out": [exam["success"] for exam in exams],
        "success": exams[-1]["success"],
        "area": float(np.mean([exam["success"] for exam in exams[1:]])),
        "mixed": float(np.mean([r[f"{name}/mixed"] for r in late])),
        "solved": [r[f"{name}/success"] for r in steps],
        "variance": [[r[f"{name}/practice/{which}"] for which in ("chosen", "offered")] for r in late]
        if side == "chosen"
        else [],
    }


def record(results: Results, job: str, seed: int, runs: Mapping[str, Mapping[str, Any]]) -> None:
    """The figures of one seed of one job."""
    for part in PARTS:
        for side, run in runs.items():
            results.sample(f"{part}_percent_{job}_{side}", seed, 100 * run[part], "percent", bounds=(0, 100))
        gain = 100 * (runs["chosen"][part] - runs["uniform"][part])
        results.sample(f"{part}_gain_points_{job}", seed, gain, "percentage points", bounds=(-100, 100))
    for side, run in runs.items():
        results.sample(f"tokens_{job}_{side}", seed, run["tokens"], "tokens", bounds=(0, float("inf")))
    chosen, offered = np.mean(runs["chosen"]["variance"], axis=0)
    results.sample(f"variance_ratio_{job}", seed, float(chosen / offered), "ratio", bounds=(0, float("inf")))


def draw(runs: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Held-out success over the trajectories played; a line per side, its seeds as a band."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    jobs = [job for job in JOBS if any(run["job"] == job for run in runs)]
    figure, row = plt.subplots(1, len(jobs), figsize=(4.5 * len(jobs), 3.4), layout="constrained", squeeze=False)
    axes = row[0]
    for axis, job in zip(axes, jobs, strict=True):
        for side in SIDES:
            own = [run for run in runs if (run["job"], run["side"]) == (job, side)]
            spent, curves = own[0]["trajectories"], 100 * np.array([run["held_out"] for run in own])
            (line,) = axis.plot(spent, curves.mean(0), marker="o", ms=3, label=side)
            axis.fill_between(spent, curves.min(0), curves.max(0), alpha=0.15, color=line.get_color())
        axis.set(title=JOBS[job], xlabel="trajectories", ylim=(0, 100))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("held-out tasks solved, %")
    axes[-1].legend(frameon=False, loc="lower right", title="tasks")
    figure.savefig(file, dpi=130)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS), help="which (default: all)")
    chosen = options.parse_args()
    results = Results("practice", seeds=chosen.seeds, quick=chosen.quick)
    for seed in chosen.seeds:
        for job in chosen.jobs:
            runs = {side: play(job, side, seed, chosen.quick) for side in SIDES}
            results.detail(f"{job}_{seed}", list(runs.values()))
            record(results, job, seed, runs)
    path = results.write()
    if not chosen.quick:  # of all seeds and jobs, those of earlier runs included
        kept = json.loads(path.read_text())["details"].values()
        draw([run for runs in kept for run in runs], FOLDER / "practice.png")


if __name__ == "__main__":
    main()
