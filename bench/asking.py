"""How little a teacher has to say: success against the share of turns that are a teacher's, asked by V or at random.

    python -m bench.asking                      all jobs, three seeds; the same command again goes on
    python -m bench.asking --jobs hops --arms v_2 any_2
    python -m bench.asking --quick

From the same start as many episodes are played with a scripted expert at hand, who may say 1, 2 or 5% of all turns:
asked where V says so, as `AskingConfig` has it, or (`any`, the control) wherever it is drawn. *Alone* there is no
teacher, and the policy follows its gradient. *Fully taught* is the same start after imitating the expert's
demonstrations of 2,000 training tasks, or of all there are: every turn the teacher's. In the exam the learner is alone,
on held-out tasks.

Writes bench/results/asking.json (`asking_teacher_steps_percent_<job>`: the least share of teacher turns with which the
mean over seeds was at least 90% of that of the fully taught; absent where no budget was enough) and asking.png.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.common import FOLDER, Results, interval
from bench.uses.runs import Played, asked_for, learning, played
from journeyman.config import LearnConfig
from journeyman.learn.school import SchoolConfig
from journeyman.rollout.asking import AskingConfig

BUDGETS = (0.01, 0.02, 0.05)
CONTROL = (0.02,)
"""Budgets of the control."""
ENOUGH = 0.9
"""Of the fully taught learner's success."""
SCHOOL = SchoolConfig(demonstrations=2000, updates=AskingConfig().updates)
ATTEMPTS = 3


@dataclass(frozen=True)
class Subject:
    """A job and how it is learned here."""

    spec: str
    budget: int
    """Episodes of one run."""


ASKING = AskingConfig(enough=0.9, advance=100)
"""Nobody is led whose V says that it is not needed, and the budget of the whole run is there from the start."""
JOBS: Mapping[str, Subject] = {
    "hops": Subject("hops,min_hops=4,max_hops=6", 4096),
    "maze": Subject("maze,size=5,max_turns=30", 1536),
}
HEADLINE = "hops"
"""The apprentice has seen chains of two and three, and solves 2% of these: there is next to nothing to learn from."""


def arms(quick: bool) -> dict[str, AskingConfig | None]:
    """By name, how a run asks; None: the learner is fully taught."""
    budgets, control = ((0.05,), ()) if quick else (BUDGETS, CONTROL)
    asked = {arm_name(b): replace(ASKING, budget=b) for b in (0.0, *budgets)}
    blind = {arm_name(b, "any"): replace(ASKING, budget=b, whom="any") for b in control}
    return {"taught": None, **asked, **blind}


def arm_name(budget: float, whom: str = "v") -> str:
    """Such as `v_0.5`; `alone` where nobody is asked."""
    return f"{whom}_{100 * budget:g}" if budget else "alone"


def configured(subject: Subject, asking: AskingConfig | None, seed: int, quick: bool) -> LearnConfig:
    """A run of that arm; one that is fully taught goes to school and is examined, and no more."""
    budget = 384 if quick else subject.budget
    config = learning(subject.spec, seed, budget, exam_every=budget, attempts=1 if quick else ATTEMPTS)
    if asking is None:
        return replace(config, steps=0, school=replace(SCHOOL, updates=20) if quick else SCHOOL)
    return replace(config, asking=asking)


Runs = dict[str, dict[int, Played]]
"""By arm and seed."""


def shares(runs: Runs, least: float) -> tuple[float, list[float]] | None:
    """Of the arms in which V asks, those whose mean success was at least so much: the least mean share of teacher
    turns, in percent, and its seeds' shares. None where there is no such arm."""
    enough = [
        [100 * run.taught for run in by_seed.values()]
        for arm, by_seed in runs.items()
        if (arm == "alone" or arm.startswith("v_")) and success(by_seed) >= least
    ]
    return min(((fmean(found), found) for found in enough), default=None)


def success(by_seed: Mapping[int, Played]) -> float:
    """Mean over seeds at the last exam."""
    return fmean(run.curve.success[-1] for run in by_seed.values())


def record(results: Results, job: str, runs: Runs) -> None:
    """The job's figures."""
    for arm, by_seed in runs.items():
        for seed, run in by_seed.items():
            results.sample(
                f"success_{arm}_percent_{job}", seed, 100 * run.curve.success[-1], "percent", bounds=(0, 100)
            )
    found = shares(runs, ENOUGH * success(runs["taught"]))
    print(f"{job}: {found and found[0]}% of the turns are enough for {ENOUGH:.0%} of {success(runs['taught']):.1%}")
    if found is not None:
        low, high = interval(found[1], (0, 100))
        for name in (f"asking_teacher_steps_percent_{job}", *(["asking_teacher_steps_percent"] * (job == HEADLINE))):
            results.figure(name, found[0], "percent", low=low, high=high)


def rows(runs: Runs) -> list[dict[str, Any]]:
    """The job's table."""
    return [
        {"arm": arm, "seed": seed, "taught_percent": 100 * run.taught, "curve": vars(run.curve)}
        for arm, by_seed in runs.items()
        for seed, run in by_seed.items()
    ]


def draw(found: Mapping[str, Runs], file: Path) -> None:
    """Held-out success over the share of teacher turns, a panel for each job: dots are runs, lines their means."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(found), figsize=(4.4 * len(found), 3.4), sharey=True, layout="constrained", squeeze=False
    )
    for axis, (job, runs) in zip(axes[0], found.items(), strict=True):
        whole = 100 * success(runs["taught"])
        axis.axhline(whole, color="0.35", lw=1, label="fully taught")
        axis.axhline(ENOUGH * whole, color="0.35", lw=0.9, ls=(0, (4, 3)), label="90% of it")
        for prefix, label, color in (("v_", "asked by V", "#1f6feb"), ("any_", "asked at random", "#e8590c")):
            there = [arm for arm in runs if arm == "alone" or arm.startswith(prefix)]
            if not there:
                continue
            dots = [(100 * run.taught, 100 * run.curve.success[-1]) for arm in there for run in runs[arm].values()]
            means = [(fmean(100 * r.taught for r in runs[arm].values()), 100 * success(runs[arm])) for arm in there]
            axis.plot(*zip(*dots, strict=True), "o", ms=3.5, color=color, alpha=0.4, mew=0)
            axis.plot(*zip(*means, strict=True), color=color, lw=2, label=label)
        axis.set_title(JOBS[job].spec, loc="left", fontsize=10)
        axis.set(xlabel="turns that are a teacher's (%)", ylim=(0, 102))
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    axes[0][0].set_ylabel("solved alone, held out (%)")
    axes[0][-1].legend(frameon=False, loc="lower right")
    figure.savefig(file, dpi=140)
    plt.close(figure)


def play(job: str, options: argparse.Namespace) -> Runs:
    """The job's runs of the arms that were asked for, seed by seed; the fully taught are always among them."""
    subject, there = JOBS[job], arms(options.quick)
    runs: Runs = {arm: {} for arm in there if arm == "taught" or arm in options.arms}
    for seed in options.seeds:
        for arm in runs:
            config = configured(subject, there[arm], seed, options.quick)
            runs[arm][seed] = played(config, f"asking-{job}-{arm}-{seed}", options.cache)
    return runs


def main() -> None:
    chosen = asked_for(__doc__, JOBS, HEADLINE, arms(quick=False))
    results = Results("asking", seeds=chosen.seeds, quick=chosen.quick)
    found: dict[str, Runs] = {}
    for job in chosen.jobs:
        found[job] = play(job, chosen)
        record(results, job, found[job])
        results.detail(f"runs_{job}", rows(found[job]))
    results.write()
    draw(found, results.path.with_suffix(".png") if chosen.quick else FOLDER / "asking.png")


if __name__ == "__main__":
    main()
