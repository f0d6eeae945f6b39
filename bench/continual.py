"""One model meets six jobs one after another: what it knows of each after each, by way of remembering.

    python -m bench.continual --seeds 0 1 2            two orders; three to eight minutes for each way, on one core
    python -m bench.continual --ways naive kl          some of the ways, or others
    python -m bench.continual --quick                  two jobs, two ways

The model is the apprentice. A stage is one job: it imitates demonstrations (80 or 500 updates with 32 of them each),
then practises on its own episodes by RLOO (3 steps of 12 tasks, 4 episodes each), then is examined on all six jobs'
split `test`. The jobs are of five kinds, one of them twice: a later job may gain by an earlier one of its kind. The
second order is the first one backwards. What is remembered from before the stream are the apprentice's own successes at
jobs that it watched in its making (hops of one lookup; mazes in other buildings, until the stream's maze, which they
contradict); of a job of the stream, all of its demonstrations. The ways are in bench/lifelong/strategies.py; `joint`
learns all six at once, with as many updates and episodes of each.

Transfer is as Avalanche defines it (journeyman/exam/transfer.py). Figures without a suffix are those of the library's
default, `replay`, which was chosen on the jobs' splits `valid` (docs/LOG.md); the averages on `valid` are under
`details`. On the sixth job the success is also measured after none, a quarter, half and all of the imitation, and so it
is for the apprentice: `sixth_job_gain_points` is the mean difference.

Runs are kept, stage by stage, in ~/.cache/journeyman-bench/continual until the folder is deleted; results are written
after each seed, to bench/results/continual.json and bench/results/continual.png.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.common import FOLDER, Results, parser
from bench.lifelong.picture import draw
from bench.lifelong.strategies import STRATEGIES, Stand, joint, learner_of
from bench.lifelong.stream import BASE, CHAPTERS, CONTRADICTED, ORDERS, imitate, past, shown, success
from journeyman.exam.transfer import average_accuracy, backward_transfer, forward_transfer
from journeyman.model.load import load
from journeyman.model.render import Renderer
from journeyman.run import write_atomically

CACHE = Path.home() / ".cache" / "journeyman-bench" / "continual"
DEFAULT = "replay"
USUAL = ("naive", "replay", "few", "ewc", "lora")
VALID_SHARE = 2
"""On `valid` half of the tasks is asked."""
SKETCHED = 4
"""Of what only the picture shows, one task in so many is asked."""


@dataclass
class Run:
    """One way through one order; `valid` and `sixth` are known at its end."""

    matrix: list[list[float]] = field(default_factory=list[list[float]])
    """After each stage, the success on each job in the order of the stream."""
    valid: list[float] = field(default_factory=list[float])
    sixth: list[float] = field(default_factory=list[float])


def start() -> Stand:
    """The apprentice before the first job."""
    loaded = load(BASE)
    return Stand(loaded.model, Renderer(loaded.tokenizer), dict(past()))


def asked(order: Sequence[str], number: int) -> list[tuple[str, int]]:
    """The exam after a stage: each job, and one in how many of its tasks is asked."""
    last = number == len(order) - 1
    return [(name, 1 if last or place in (number, number + 1) else SKETCHED) for place, name in enumerate(order)]


def streamed(way: str, order: Sequence[str], seed: int, place: Path) -> Run:
    """Go through the stream, or through what is missing of it."""
    log, state = place / "run.json", place / "state.pt"
    run = Run(**json.loads(log.read_text())) if log.exists() else Run()
    stand = start()
    if run.matrix and len(run.matrix) < len(order):
        kept: dict[str, Any] = torch.load(state, weights_only=False)
        stand.policy.load_state_dict(kept["policy"])
        stand.anchor, stand.memory = kept["anchor"], kept["memory"]
    for number in range(len(run.matrix), len(order)):
        name, last = order[number], number == len(order) - 1
        sixth: list[float] = []

        def look(_: float, name: str = name, sixth: list[float] = sixth) -> None:
            sixth.append(success(stand.policy, [name], stand.renderer, "test")[0])

        for contradicted in CONTRADICTED.get(name, ()):
            stand.memory.pop(contradicted, None)
        STRATEGIES[way](stand, name, seed, look if last else None)
        run.matrix.append(
            [success(stand.policy, [name], stand.renderer, "test", share)[0] for name, share in asked(order, number)]
        )
        print(f"  {place.name} {name}: {shares(run.matrix[-1])}", flush=True)
        if last:
            run.sixth, run.valid = sixth, success(stand.policy, order, stand.renderer, "valid", VALID_SHARE)
        place.mkdir(parents=True, exist_ok=True)
        draft = state.with_suffix(".new")
        torch.save({"policy": stand.policy.state_dict(), "anchor": stand.anchor, "memory": stand.memory}, draft)
        draft.replace(state)
        write_atomically(log, json.dumps(run.__dict__))
    return run


def remembered(file: Path, measure: Any) -> list[float]:
    """A list that is measured once."""
    if not file.exists():
        found = measure()
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(found))
        print(f"  {file.stem}: {shares(found)}", flush=True)
    return json.loads(file.read_text())


def together(order: Sequence[str], seed: int) -> list[float]:
    """Success on each job after learning all at once."""
    stand = start()
    joint(stand, order, seed)
    return success(stand.policy, order, stand.renderer, "test")


def alone(name: str, seed: int) -> list[float]:
    """Success on one job along its imitation, by a model that has met none of the others."""
    stand, found = start(), list[float]()
    lessons = shown(name, seed, stand.renderer)
    look = lambda _: found.append(success(stand.policy, [name], stand.renderer, "test")[0])  # noqa: E731
    imitate(learner_of(stand.policy), lessons, CHAPTERS[name].updates, seed, look)
    return found


def shares(found: Sequence[float]) -> str:
    return " ".join(f"{share:.0%}" for share in found)


@dataclass(frozen=True)
class Compared:
    """Everything that was measured with one order and seed."""

    order: Sequence[str]
    fresh: list[float]
    joint: list[float]
    alone: list[float]
    runs: Mapping[str, Run]

    def figures(self, way: str) -> dict[str, float]:
        """In points."""
        run = self.runs[way]
        matrix = 100 * np.array(run.matrix)
        sixth = np.mean(np.array(run.sixth) - np.array(self.alone))
        return {
            "backward_transfer_points": backward_transfer(matrix),
            "forward_transfer_points": forward_transfer(matrix, [100 * share for share in self.fresh]),
            "gap_to_joint_points": average_accuracy(matrix) - 100 * statistics.fmean(self.joint),
            "average_percent": average_accuracy(matrix),
            "sixth_job_gain_points": 100 * float(sixth),
        }


def compare(ways: Sequence[str], number: int, order: Sequence[str], seed: int, cache: Path) -> Compared:
    """All ways with one order and seed."""
    names = sorted(order)
    size = f"{len(order)}-{seed}"
    joint_of = remembered(cache / f"joint-{size}.json", lambda: together(names, seed))
    stand = start()
    fresh = remembered(cache / f"fresh-{len(order)}.json", lambda: success(stand.policy, names, stand.renderer, "test"))
    by_name, base = dict(zip(names, joint_of, strict=True)), dict(zip(names, fresh, strict=True))
    return Compared(
        order,
        [base[name] for name in order],
        [by_name[name] for name in order],
        remembered(cache / f"alone-{order[-1]}-{seed}.json", lambda: alone(order[-1], seed)),
        {way: streamed(way, order, seed, cache / f"{way}-{len(order)}-order{number}-{seed}") for way in ways},
    )


def record(results: Results, found: Mapping[tuple[int, int], Compared], ways: Sequence[str]) -> None:
    """Figures of each way, a sample per seed: the mean over its orders."""
    for seed in sorted({seed for _, seed in found}):
        own = [c for (_, s), c in found.items() if s == seed]
        for way in ways:
            tables = [c.figures(way) for c in own]
            for name in tables[0]:
                value = statistics.fmean(t[name] for t in tables)
                unit = "points" if name.endswith("points") else "percent"
                results.sample(f"{name}_{way}", seed, value, unit)
                if way == DEFAULT:
                    results.sample(name, seed, value, unit)
        results.sample("average_percent_joint", seed, 100 * statistics.fmean(own[0].joint), "percent")
    valid = {w: statistics.fmean(100 * statistics.fmean(c.runs[w].valid) for c in found.values()) for w in ways}
    results.detail("average_percent_on_valid", valid)
    results.detail("matrices", {f"order{o}-seed{s}-{w}": c.runs[w].matrix for (o, s), c in found.items() for w in ways})


def main() -> None:
    command = parser(__doc__)
    command.add_argument("--ways", nargs="+", choices=list(STRATEGIES), default=USUAL, help="of remembering")
    command.add_argument("--orders", type=int, nargs="+", choices=[0, 1], default=[0, 1])
    options = command.parse_args()
    torch.set_num_threads(1)
    ways, orders = options.ways, options.orders
    if options.quick:
        ways, orders = ["naive", "replay"], [0]
    streams = {number: ORDERS[number][1:3] if options.quick else ORDERS[number] for number in orders}
    found: dict[tuple[int, int], Compared] = {}
    for seed in options.seeds:  # what is written is complete after each
        found |= {(n, seed): compare(ways, n, streams[n], seed, CACHE) for n in orders}
        results = Results("continual", seeds=sorted({s for _, s in found}), quick=options.quick)
        record(results, found, ways)
        results.write()
        if not options.quick:
            draw(found, ways, DEFAULT, FOLDER / "continual.png")


if __name__ == "__main__":
    main()
