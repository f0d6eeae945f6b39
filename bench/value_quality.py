"""How well, how early and after how much experience V knows what will become of an episode.

    python -m bench.value_quality --seeds 0 1 2            every job (about eight minutes on two cores)
    python -m bench.value_quality --jobs maze hops
    python -m bench.value_quality --quick                  one job, little experience

For each job one policy is fixed: the apprentice, or a tiny model schooled until it succeeds at times. It plays
training tasks; V learns from these episodes exactly as in a run, step by step; after 256, 512, 1,024 and 2,048 of them
it is asked about 400 episodes on held-out tasks that it never learns from. The policy goes on 32 times from the middle
of 64 of these: what it comes to on average is the true value there (bench/middles.py). The seed fixes the episodes and
V's start.

Writes bench/results/value_quality.json and .png. After the most experience: `auc_half_<job>`, `ev_<job>` and
`brier_<job>`; `mc_error_<job>`, the root of V's mean square error against the true values, and `mc_spread_<job>`, that
of who knows their mean and nothing else. The table over experience stands under `details`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from bench.common import FOLDER, Results, parser
from bench.middles import errors, middles
from journeyman.api import school
from journeyman.engine.native import NativeEngine
from journeyman.exam.calibration import early_knowledge
from journeyman.jobs import resolve
from journeyman.learn.credit import CreditConfig, lambda_returns
from journeyman.learn.learner import Learner, UpdateConfig
from journeyman.learn.school import SchoolConfig
from journeyman.model.load import LoadedModel, load
from journeyman.model.render import Renderer
from journeyman.model.value import ValueConfig
from journeyman.rollout.runner import attempts, rollout
from journeyman.types import Ending, Trajectory

STEP = 128
"""Episodes of one step, as in a run."""
MARKS = (256, 512, 1024, 2048)
"""Episodes V has learned from when it is asked."""
ASKED = 400
CREDIT = CreditConfig(rule="gae", unit="turn")
"""V's targets are the outcomes."""
FORKED, CONTINUATIONS = 64, 32
"""Asked episodes whose middle is gone on from, and how often."""
REPLAY = 1
"""Earlier steps whose episodes V learns from again, as in a run."""


@dataclass(frozen=True)
class Subject:
    """A job and the fixed policy that plays it."""

    job: str
    updates: int = 0
    """Of schooling, from scratch; 0: the apprentice."""


SUBJECTS: Mapping[str, Subject] = {
    "maze": Subject("maze,size=5,max_turns=30"),
    "hops": Subject("hops,min_hops=2"),
    "scan": Subject("scan", 500),
    "countdown": Subject("countdown", 400),
    "frozenlake": Subject("gymnasium:FrozenLake-v1", 60),
}


def policy_of(subject: Subject) -> LoadedModel:
    """The fixed policy: the same whatever the seed."""
    if not subject.updates:
        return load("apprentice")
    with TemporaryDirectory() as place:
        config = SchoolConfig(demonstrations=2000, updates=subject.updates)
        for _ in school(subject.job, Path(place) / "pupil", "tiny,width=96,layers=3", config):
            pass
        return load(Path(place) / "pupil")


def play(model: LoadedModel, spec: str, split: str, count: int, seed: int) -> list[Trajectory]:
    """`count` episodes at different tasks of the split (as far as there are as many)."""
    job = resolve(spec)
    order = np.random.default_rng((seed, len(split))).permutation(job.splits[split])[:count]
    tasks = [job.task(split, int(index)) for index in np.resize(order, count)]
    engine = NativeEngine(model.model, slots=STEP, context=1024)
    orders = attempts(tasks, repeats=1, prefix=f"{seed}-{split}", seed=seed)
    played = rollout(engine, Renderer(model.tokenizer), {job.name: job}, orders)
    return sorted((t for t in played if t.outcome.ending is not Ending.FAILED), key=lambda t: t.id)


def learn_and_ask(
    model: LoadedModel, subject: Subject, marks: Sequence[int], asked: int, seed: int
) -> list[dict[str, Any]]:
    """What V knew of the asked episodes after each mark."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    learned = play(model, subject.job, "train", marks[-1], seed)
    test = play(model, subject.job, "test", asked, seed)
    truth = middles(model, subject.job, test[:FORKED], CONTINUATIONS, seed, STEP)
    learner = Learner.start(copy.deepcopy(model.model), ValueConfig(), UpdateConfig())
    table: list[dict[str, Any]] = []
    for step, _ in enumerate(lessons(learner, learned, rng), 1):
        if (count := step * STEP) in marks:
            scored = learner.score(test)
            error, spread = errors(truth, {t.id: t for t in scored})
            known = {"mc_error": error, "mc_spread": spread, **(early_knowledge(scored) or {})}
            success = float(np.mean([t.outcome.success for t in test]))
            table.append({"seed": seed, "episodes": count, "success": success, **known})
    return table


def lessons(
    learner: Learner, learned: Sequence[Trajectory], rng: np.random.Generator, credit: CreditConfig = CREDIT
) -> Iterator[list[Trajectory]]:
    """Let V learn from the episodes as in a run; after each step its episodes, with V from before it learned them."""
    history: list[list[Trajectory]] = []
    for start in range(0, len(learned), STEP):
        fresh = learner.score(learned[start : start + STEP])
        history = [*history, fresh][-1 - REPLAY :]
        episodes = list(chain.from_iterable(history))
        targets = lambda_returns(
            episodes, gamma=credit.gamma, lam=credit.lambda_value, unit=credit.unit, bootstrap_truncated=False
        )
        learner.update_value(episodes, targets, rng)
        yield fresh


def draw(table: Sequence[Mapping[str, Any]], file: Path) -> None:
    """AUC at half of the episode over the experience V has learned from; a line per job, its seeds as a band."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for job in dict.fromkeys(row["job"] for row in table):
        rows = [row for row in table if row["job"] == job and row["auc_50"] is not None]
        marks = sorted({row["episodes"] for row in rows})
        curves = np.array([[r["auc_50"] for r in rows if r["episodes"] == mark] for mark in marks])
        (line,) = axis.plot(marks, curves.mean(1), marker="o", ms=3, label=job)
        axis.fill_between(marks, curves.min(1), curves.max(1), alpha=0.15, color=line.get_color())
    axis.axhline(0.5, color="grey", lw=0.8, ls=":")
    axis.set(xscale="log", xlabel="episodes V has learned from", ylabel="AUC at half of the episode", ylim=(0.3, 1))
    axis.set_xticks(MARKS, [f"{mark:,}" for mark in MARKS])
    axis.minorticks_off()
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axis.grid(alpha=0.3)
    figure.savefig(file, dpi=130)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--jobs", nargs="+", choices=list(SUBJECTS), default=list(SUBJECTS))
    chosen = options.parse_args()
    names = ["maze"] if chosen.quick else chosen.jobs
    marks, asked = ((128, 256), 64) if chosen.quick else (MARKS, ASKED)
    results = Results("value_quality", seeds=chosen.seeds, quick=chosen.quick)
    table: list[dict[str, Any]] = []
    for name in names:
        subject = SUBJECTS[name]
        model = policy_of(subject)
        for seed in chosen.seeds:
            for row in learn_and_ask(model, subject, marks, asked, seed):
                table.append({"job": name, **row})
                print({k: v for k, v in table[-1].items() if k != "reliability"}, flush=True)
            last = table[-1]
            for figure, key, unit, bounds in (
                ("auc_half", "auc_50", "AUC", (0.0, 1.0)),
                ("ev", "explained_variance", "share", (-10.0, 1.0)),
                ("brier", "brier", "squared error", (0.0, 1.0)),
                ("mc_error", "mc_error", "reward", (0.0, 1.0)),
                ("mc_spread", "mc_spread", "reward", (0.0, 1.0)),
            ):
                if last[key] is not None:
                    results.sample(f"{figure}_{name}", seed, last[key], unit, bounds=bounds)
    results.detail("table", [{k: v for k, v in row.items() if k != "reliability"} for row in table])
    results.write()
    if not chosen.quick:
        draw(table, FOLDER / "value_quality.png")


if __name__ == "__main__":
    main()
