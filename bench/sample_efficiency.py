"""How many trajectories, tokens and minutes a skill takes: by GRPO, RLOO, TRL's GRPO, and Journeyman with V.

    python -m bench.sample_efficiency --tune               settings for each job and method, by equally many trials
    python -m bench.sample_efficiency                      the comparison, three seeds; the same command again goes on
    python -m bench.sample_efficiency --check              our GRPO and TRL's with the same settings
    python -m bench.sample_efficiency --report             table and picture of what has been played so far
    python -m bench.sample_efficiency --quick              two jobs, one seed: some minutes on two cores

All start from the same checkpoint, see the same tasks in the same order (same seed), are graded alike, run on the same
machine one after the other, and are examined on the same held-out tasks at temperature 1. Jobs, thresholds and budgets
stand in bench/efficiency/subjects.py, methods in methods.py, how costs and ratios follow from curves in stats.py.
Every trajectory is charged, V's warm-up included; exams are not, for anybody. Seeds are played in turn, so that what
has been played is a comparison at any time. Tuning is examined on the split `valid`, with another seed.

Writes a file per run into bench/results/sample_efficiency/, and bench/results/sample_efficiency.json and .png;
--tune writes bench/results/sample_efficiency_tuning.json, which the other forms read.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from bench.common import FOLDER, Results, parser
from bench.efficiency.methods import METHODS, Settings
from bench.efficiency.picture import draw
from bench.efficiency.report import Curves, figures, table
from bench.efficiency.runs import Order, finished
from bench.efficiency.stats import Curve, area
from bench.efficiency.subjects import SUBJECTS

NAME = "sample_efficiency"
CACHE = Path.home() / ".cache" / "journeyman-bench"
TUNING_SEED = 1000
"""Apart from those that are reported."""
TUNING_SHARE = 2
"""A trial gets the budget divided by this."""
SAME: Settings = {"learning_rate": 2.5e-4, "tasks": 16, "minibatches": 1}
"""Of --check: one update on each step's episodes, for both."""
QUICK_JOBS, QUICK_METHODS, QUICK_BUDGET = ("maze", "countdown"), ("grpo", "value"), 3072


def place_of(order: Order, work: Path) -> Path:
    """Where the run's curve goes."""
    return work / f"{order.name}.json"


def wanted(jobs: Sequence[str], methods: Sequence[str], seeds: Sequence[int], budget: int | None) -> list[Order]:
    """The comparison's runs, seed by seed. TRL plays what it can express."""
    settings = tuned()
    return [
        Order(job, method, seed, settings(job, method), "test", budget or SUBJECTS[job].budget)
        for seed in seeds
        for job in jobs
        for method in methods
        if possible(job, method)
    ]


def possible(job: str, method: str) -> bool:
    """Whether the method can learn the job."""
    return method != "trl" or SUBJECTS[job].single_turn


def trials(options: argparse.Namespace) -> list[Order]:
    """The runs of --tune: every setting of every method once, on shorter budgets."""
    return [
        Order(job, method, TUNING_SEED, settings, "valid", SUBJECTS[job].budget // TUNING_SHARE, f"trial{number}")
        for job in options.jobs
        for number in range(len(METHODS["grpo"].trials))
        for method, settings in ((m, METHODS[m].trials[number]) for m in options.methods)
        if possible(job, method)
    ]


def check(options: argparse.Namespace) -> list[Order]:
    """The runs of --check."""
    jobs = [job for job in options.jobs if SUBJECTS[job].single_turn]
    return [
        Order(job, method, seed, SAME, "test", SUBJECTS[job].budget, "check")
        for seed in options.seeds
        for job in jobs
        for method in ("grpo", "trl")
    ]


def played(orders: list[Order], work: Path, cache: Path, *, play: bool = True) -> dict[str, Curve]:
    """The orders' curves by their names; those that are missing are played first, each in a process of its own."""
    curves: dict[str, Curve] = {}
    failed: list[str] = []
    for number, order in enumerate(orders, 1):
        file = place_of(order, work)
        curve = finished(file, order)
        if curve is None and play:
            print(f"[{number}/{len(orders)}] {order.name} {json.dumps(dict(order.settings))}", flush=True)
            command = [sys.executable, "-m", "bench.efficiency.runs", json.dumps(asdict(order)), str(file), str(cache)]
            if subprocess.run(command).returncode:
                failed.append(order.name)
            curve = finished(file, order)
        if curve is not None:
            curves[order.name] = curve
    if failed:
        print(f"failed, and to be played again by the same command: {', '.join(failed)}", file=sys.stderr)
    return curves


def compared(orders: list[Order], found: dict[str, Curve]) -> Curves:
    """The curves by job, method and seed."""
    curves: dict[str, dict[str, dict[int, Curve]]] = {}
    for order in orders:
        if order.name in found:
            curves.setdefault(order.job, {}).setdefault(order.method, {})[order.seed] = found[order.name]
    return curves


def tune(options: argparse.Namespace) -> None:
    """Play the trials, and write down the best settings of each job and method by the area under the curve."""
    results = Results(f"{NAME}_tuning", seeds=[TUNING_SEED])
    orders = trials(options)
    found = played(orders, options.work / "tuning", options.cache, play=not options.report)
    for job in options.jobs:
        for method in options.methods:
            rows = [
                {"settings": dict(o.settings), "area": area(found[o.name])}
                for o in orders
                if (o.job, o.method) == (job, method) and o.name in found
            ]
            if rows:
                best = max(rows, key=lambda row: row["area"])
                results.figure(f"tuned_area_percent_{method}_{job}", 100 * best["area"], "percent")
                results.detail(f"{job}.{method}", {"best": best["settings"], "trials": rows})
    results.write()


def tuned() -> Callable[[str, str], Settings]:
    """The settings by job and method: the best that tuning found, or the defaults."""
    file = FOLDER / f"{NAME}_tuning.json"
    kept = json.loads(file.read_text())["details"] if file.exists() else {}
    return lambda job, method: kept.get(f"{job}.{method}", {}).get("best", METHODS[method].default)


def write_check(options: argparse.Namespace) -> None:
    """How far apart our GRPO and TRL's are with the same settings, as means over the run and at its end."""
    orders = check(options)
    curves = compared(orders, played(orders, options.work / "check", options.cache, play=not options.report))
    results = Results(NAME, seeds=options.seeds)
    for job, methods in curves.items():
        for seed in methods.get("grpo", {}).keys() & methods.get("trl", {}).keys():
            ours, theirs = methods["grpo"][seed], methods["trl"][seed]
            results.sample(f"check_area_difference_{job}", seed, 100 * (area(ours) - area(theirs)), "points")
            results.sample(f"check_minutes_ratio_{job}", seed, theirs.minutes[-1] / ours.minutes[-1], "times")
    results.detail("check", {"settings": dict(SAME), "curves": as_json(curves)})
    results.write()


def as_json(curves: Curves) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Trajectories and success of every run, for `details`."""
    return {
        job: {
            f"{method}.{seed}": {"trajectories": list(c.trajectories), "success": list(c.success)}
            for method, runs in methods.items()
            for seed, c in runs.items()
        }
        for job, methods in curves.items()
    }


def main() -> None:
    options = parser(__doc__)
    options.set_defaults(seeds=[0, 1, 2])
    options.add_argument("--jobs", nargs="+", choices=list(SUBJECTS), default=list(SUBJECTS))
    options.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    options.add_argument("--tune", action="store_true", help="look for settings instead")
    options.add_argument("--check", action="store_true", help="compare our GRPO with TRL's instead")
    options.add_argument("--report", action="store_true", help="play nothing")
    options.add_argument("--work", type=Path, default=FOLDER / NAME, help="where curves are kept")
    options.add_argument("--cache", type=Path, default=CACHE, help="where start models and unfinished runs are kept")
    chosen = options.parse_args()
    if chosen.quick:
        chosen.jobs, chosen.methods, chosen.seeds = QUICK_JOBS, QUICK_METHODS, [0]
        chosen.work = chosen.cache / "quick"
    if chosen.tune:
        tune(chosen)
        return
    if chosen.check:
        write_check(chosen)
        return
    budget = QUICK_BUDGET if chosen.quick else None
    if not chosen.report:
        played(wanted(chosen.jobs, chosen.methods, chosen.seeds, budget), chosen.work, chosen.cache)
    seeds = sorted({int(file.suffixes[-2].lstrip(".")) for file in chosen.work.glob("*.json")})
    everything = wanted(list(SUBJECTS), list(METHODS), seeds, budget)
    curves = compared(everything, played(everything, chosen.work, chosen.cache, play=False))
    results = Results(NAME, seeds=seeds, quick=chosen.quick)
    figures(results, curves, whole=not chosen.quick)
    results.detail("table", table(curves).splitlines())
    results.write()
    print(table(curves))
    draw(curves, results.path.with_suffix(".png"))


if __name__ == "__main__":
    main()
