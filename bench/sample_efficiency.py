"""How many trajectories, tokens and minutes a skill takes: by GRPO, RLOO, TRL's GRPO, and Journeyman with V.

    python -m bench.sample_efficiency --tune               settings for each job and method, by equally many trials
    python -m bench.sample_efficiency                      the comparison, three seeds; the same command again goes on
    python -m bench.sample_efficiency --check              our GRPO and TRL's with the same settings
    python -m bench.sample_efficiency --report             table and picture of what has been played so far
    python -m bench.sample_efficiency --quick              two jobs, one seed: some minutes on two cores

All start from the same checkpoint, see the same tasks in the same order (same seed), are graded alike, run on the same
machine with one thread each, and are examined on the same held-out tasks at temperature 1. Jobs, thresholds and budgets
stand in bench/efficiency/subjects.py, methods in methods.py, how costs and ratios follow from curves in stats.py.
Every trajectory is charged, V's warm-up included; exams are not, for anybody. Seeds are played in turn, so that what
has been played is a comparison at any time. Tuning is examined on the split `valid`, with another seed.

Writes a file per run into bench/results/sample_efficiency/, and bench/results/sample_efficiency.json and .png;
--tune writes bench/results/sample_efficiency_tuning.json, which the other forms read.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from bench.common import FOLDER, Results, parser
from bench.efficiency.methods import METHODS, TRIALS, Settings
from bench.efficiency.picture import draw
from bench.efficiency.report import Curves, figures, table
from bench.efficiency.runs import Order, finished
from bench.efficiency.starts import start
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
QUICK_JOBS, QUICK_METHODS, QUICK_BUDGET = ("maze", "countdown"), ("grpo", "value"), 6144


def place_of(order: Order, work: Path) -> Path:
    """Where the run's curve goes."""
    return work / f"{order.name}.json"


def wanted(jobs: Sequence[str], methods: Sequence[str], seeds: Sequence[int], budget: int | None) -> list[Order]:
    """The comparison's runs, seed by seed. TRL plays what it can express."""
    settings = tuned()
    return [
        Order(job, method, seed, settings(job, method), "test", played_by(method, budget or SUBJECTS[job].budget))
        for seed in seeds
        for job in jobs
        for method in methods
        if possible(job, method)
    ]


def played_by(method: str, budget: int) -> int:
    """The trajectories of the method's runs."""
    return int(METHODS[method].share * budget)


def possible(job: str, method: str) -> bool:
    """Whether the method can learn the job, and in a way of its own: with one turn nothing is learned from again."""
    single = SUBJECTS[job].single_turn
    return {"trl": single, "value_once": not single}.get(method, True)


def trials(options: argparse.Namespace) -> list[Order]:
    """The runs of --tune: every setting of every method once, on shorter budgets."""
    return [
        Order(
            job,
            method,
            TUNING_SEED,
            METHODS[method].trials_of(SUBJECTS[job])[number],
            "valid",
            played_by(method, budget),
            f"trial{number}",
        )
        for job, budget in ((j, SUBJECTS[j].budget // TUNING_SHARE) for j in options.jobs if not SUBJECTS[j].tuned_as)
        for number in range(len(TRIALS))
        for method in options.methods
        if not METHODS[method].tuned_as and possible(job, method)
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


def play(orders: list[Order], work: Path, options: argparse.Namespace) -> dict[str, Curve]:
    """The orders' curves; those that are missing are played first, each in a process of its own with one thread."""
    missing = [order for order in orders if finished(place_of(order, work), order) is None]
    for job in dict.fromkeys(order.job for order in missing):
        start(SUBJECTS[job], options.cache)  # once, before several ask for it
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}

    def one(numbered: tuple[int, Order]) -> bool:
        number, order = numbered
        print(f"[{number}/{len(missing)}] {order.name} {json.dumps(dict(order.settings))}", flush=True)
        asked = [json.dumps(asdict(order)), str(place_of(order, work)), str(options.cache)]
        return not subprocess.run([sys.executable, "-m", "bench.efficiency.runs", *asked], env=alone).returncode

    with ThreadPoolExecutor(options.at_once) as pool:
        fine = list(pool.map(one, enumerate(missing, 1)))
    if not all(fine):
        failed = ", ".join(order.name for order, well in zip(missing, fine, strict=True) if not well)
        print(f"failed, and to be played again by the same command: {failed}", file=sys.stderr)
    return found(orders, work)


def found(orders: list[Order], work: Path) -> dict[str, Curve]:
    """The curves, by their orders' names, that have been played."""
    curves = {order.name: finished(place_of(order, work), order) for order in orders}
    return {name: curve for name, curve in curves.items() if curve is not None}


def compared(orders: list[Order], played: dict[str, Curve]) -> Curves:
    """The curves by job, method and seed."""
    curves: dict[str, dict[str, dict[int, Curve]]] = {}
    for order in orders:
        if order.name in played:
            curves.setdefault(order.job, {}).setdefault(order.method, {})[order.seed] = played[order.name]
    return curves


def tune(options: argparse.Namespace) -> None:
    """Play the trials, and write down the best settings of each job and method by the area under the curve."""
    results = Results(f"{NAME}_tuning", seeds=[TUNING_SEED])
    orders = trials(options)
    work = options.work / "tuning"
    curves = found(orders, work) if options.report else play(orders, work, options)
    for job in options.jobs:
        for method in options.methods:
            rows = [
                {"settings": dict(o.settings), "area": area(curves[o.name])}
                for o in orders
                if (o.job, o.method) == (job, method) and o.name in curves
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

    def settings(job: str, method: str) -> Settings:
        key = f"{SUBJECTS[job].tuned_as or job}.{METHODS[method].tuned_as or method}"
        return kept.get(key, {}).get("best", METHODS[method].default_of(SUBJECTS[job]))

    return settings


def write_check(options: argparse.Namespace) -> None:
    """How far apart our GRPO and TRL's are with the same settings, as means over the run and at its end."""
    orders = check(options)
    work = options.work / "check"
    curves = compared(orders, found(orders, work) if options.report else play(orders, work, options))
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
    options.set_defaults(seeds=[3, 4, 5])
    options.add_argument("--jobs", nargs="+", choices=list(SUBJECTS), default=list(SUBJECTS))
    options.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    options.add_argument("--tune", action="store_true", help="look for settings instead")
    options.add_argument("--check", action="store_true", help="compare our GRPO with TRL's instead")
    options.add_argument("--at-once", type=int, default=os.cpu_count(), help="runs at a time, each with one thread")
    options.add_argument("--report", action="store_true", help="play nothing")
    options.add_argument("--work", type=Path, default=FOLDER / NAME, help="where curves are kept")
    options.add_argument("--cache", type=Path, default=CACHE, help="where start models and unfinished runs are kept")
    chosen = options.parse_args()
    if chosen.quick:
        chosen.jobs, chosen.methods, chosen.seeds = QUICK_JOBS, QUICK_METHODS, [3]
        chosen.work = chosen.cache / "quick"
    if chosen.tune:
        tune(chosen)
        return
    if chosen.check:
        write_check(chosen)
        return
    budget = QUICK_BUDGET if chosen.quick else None
    if not chosen.report:
        play(wanted(chosen.jobs, chosen.methods, chosen.seeds, budget), chosen.work, chosen)
    seeds = sorted({int(file.suffixes[-2].lstrip(".")) for file in chosen.work.glob("*.json")})
    everything = wanted(list(SUBJECTS), list(METHODS), seeds, budget)
    curves = compared(everything, found(everything, chosen.work))
    results = Results(NAME, seeds=seeds, quick=chosen.quick)
    figures(results, curves, whole=not chosen.quick)
    results.detail("table", table(curves).splitlines())
    results.write()
    print(table(curves))
    draw(curves, results.path.with_suffix(".png"))


if __name__ == "__main__":
    main()
