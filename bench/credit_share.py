"""Does credit land on the turn that decides? By rule, and by how much V has learned.

    python -m bench.credit_share --seeds 0 1 2      (about two minutes on two quiet cores)
    python -m bench.credit_share --quick

The jobs are those of bench/decisive.py. A tiny model imitates random choices and then stays as it is; V learns from its
episodes as in a run. After each mark it is asked about episodes that it never learns from, and every rule gives these
credit. Two figures say how good it is, both over all turns of all episodes:

    share     sum of |A| at the decisive turns / sum of |A|. Only that turn's choice bears on the outcome (in `quit`,
              not to stop before it does, too, by a little; who stops too early decides by that)
    cosine    sum A A* / (|A| |A*|), A* being the true advantage, which is known. The gradient's signal is as the sum,
              its noise as |A|: 1 / cosine^2 is how many times more episodes the rule needs than the truth would

Writes bench/results/credit_share.json (`share_percent_<job>_<rule>` and `cosine_<job>_<rule>` after the most
experience, `after_256_...` early; all marks under `details`, by seed) and bench/results/credit_share.png.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.common import FOLDER, Results, parser
from bench.decisive import CHOICES, RIGHT, STOP, Chain, Quit
from bench.value_quality import STEP, lessons
from journeyman.engine.native import NativeEngine
from journeyman.learn.credit import CreditConfig, assign, foresight, trust
from journeyman.learn.learner import Learner, UpdateConfig
from journeyman.learn.monte_carlo import estimates, sharpened
from journeyman.learn.optimizer import OptimizerConfig
from journeyman.learn.school import SchoolConfig, demonstrate, school
from journeyman.model.load import LoadedModel
from journeyman.model.render import Renderer
from journeyman.model.tiny import fresh
from journeyman.model.value import ValueConfig
from journeyman.rollout.branch import BranchConfig, choose, continuations
from journeyman.rollout.runner import Attempt, attempts, rollout
from journeyman.types import FloatArray, Trajectory

JOBS: Mapping[str, Chain] = {"chain": Chain(), "quit": Quit()}
MARKS = (128, 256, 512, 1024)
"""Episodes V has learned from when it is asked."""
REPEATS, ASKED = 8, 256
UPDATING = UpdateConfig(value_epochs=4, value_minibatches=32, critic=OptimizerConfig(learning_rate=5e-4))
"""Many small updates of V: with the default of one pass in eight parts at twice the rate it is still blind after 2,000
episodes. A model from scratch first has to find out how to look back at what was said."""
STOPS = 0.12
"""How often a random choice is to stop, where one may."""
RULES: Mapping[str, CreditConfig] = {
    "grpo": CreditConfig(rule="grpo"),
    "rloo": CreditConfig(rule="rloo"),
    **{f"gae-{lam:g}": CreditConfig(rule="gae", lambda_policy=lam) for lam in (0.0, 0.5, 0.9, 0.95, 1.0)},
    **{f"blend-{lam:g}": CreditConfig(rule="blend", lambda_policy=lam) for lam in (0.0, 0.5, 0.9)},
}
BRANCHED = {f"branch-{lam:g}": CreditConfig(rule="gae", lambda_policy=lam) for lam in (0.5, 0.9)}
"""GAE on a V corrected by branches, which take as many tokens as the asked episodes themselves."""
SHOWN = ("rloo", "gae-1", "gae-0.9", "gae-0.5", "blend-0.5", "branch-0.5")


class Random(Chain):
    """The same job, with an expert who chooses at random: what a model has to imitate to know the form alone."""

    def __init__(self, job: Chain, seed: int) -> None:
        super().__init__(job.max_turns, job.decisive, job.luck)
        self.may_stop, self.draws = job.may_stop, np.random.default_rng((seed, 7))

    def env(self, task: Any) -> Any:
        walk = super().env(task)
        walk.expert = self.choice  # type: ignore[method-assign]
        return walk

    def choice(self) -> str:
        if self.may_stop and self.draws.random() < STOPS:
            return STOP
        return CHOICES[int(self.draws.integers(len(CHOICES)))]


def pupil(job: Chain, seed: int, updates: int) -> LoadedModel:
    """A tiny model that chooses at random."""
    torch.manual_seed(seed)
    random = Random(job, seed)
    model = fresh("tiny,width=48,layers=2", [random])
    lessons = [demonstrate(random, random.task("train", i), Renderer(model.tokenizer)) for i in range(400)]
    learner = Learner(model.model, None, UpdateConfig(), keep_reference=False)
    for _ in school(learner, lessons, SchoolConfig(), updates, seed=seed):
        pass
    return model


class Player:
    """A fixed policy at a job."""

    def __init__(self, model: LoadedModel, job: Chain) -> None:
        self.job, self.renderer = job, Renderer(model.tokenizer)
        self.engine = NativeEngine(model.model, slots=STEP, context=256)

    def play(self, orders: Sequence[Attempt]) -> list[Trajectory]:
        played = rollout(self.engine, self.renderer, {self.job.name: self.job}, orders)
        return sorted(played, key=lambda t: t.id)

    def episodes(self, split: str, count: int, prefix: str, seed: int) -> list[Trajectory]:
        start = int(np.random.default_rng((seed, len(split))).integers(self.job.splits[split] - count))
        tasks = [self.job.task(split, start + i) for i in range(count // REPEATS)]
        return self.play(attempts(tasks, repeats=REPEATS, prefix=prefix, seed=seed))


def decided(t: Trajectory, job: Chain) -> int:
    """The turn that decided this episode, from 0."""
    return min(len(t.turns), job.decisive) - 1


def true_advantages(job: Chain, learned: Sequence[Trajectory], asked: Sequence[Trajectory]) -> list[FloatArray]:
    """By turn: what each choice changed in the expected outcome, the policy's chances counted in what it played."""
    replies = [[turn.reply for turn in t.turns] for t in learned]
    at = job.decisive - 1
    right = float(np.mean([r[at] == RIGHT for r in replies if len(r) > at]))
    leaves = [
        float(np.mean([job.may_stop and r[k] == STOP for r in replies if len(r) > k])) if k < at else 0.0
        for k in range(at + 1)
    ]
    value = [job.luck + (1 - job.luck) * right * float(np.prod(1 - np.array(leaves[k:]))) for k in range(at + 1)]
    found: list[FloatArray] = []
    for t in asked:
        truth = np.zeros(len(t.turns), np.float32)
        for k, turn in enumerate(t.turns[: at + 1]):
            stopped = job.may_stop and turn.reply == STOP
            after = float(turn.reply == RIGHT) * (1 - job.luck) + job.luck if k == at else value[k + 1 if k < at else k]
            truth[k] = (job.luck if stopped else after) - value[k]
        found.append(truth)
    return found


def judged(
    job: Chain, asked: Sequence[Trajectory], given: Sequence[FloatArray], truth: Sequence[FloatArray]
) -> dict[str, float]:
    """Share and cosine of the advantages of all turns."""
    turns = [a[[turn.start for turn in t.turns]] for a, t in zip(given, asked, strict=True)]
    all_of_them, true = np.concatenate(turns).astype(float), np.concatenate(truth).astype(float)
    decisive = sum(abs(float(a[decided(t, job)])) for a, t in zip(turns, asked, strict=True))
    norms = float(np.linalg.norm(all_of_them) * np.linalg.norm(true))
    return {
        "share": decisive / (float(np.abs(all_of_them).sum()) or 1.0),
        "cosine": min(float(all_of_them @ true) / norms, 1.0) if norms else 0.0,
    }


def learn_and_ask(name: str, seed: int, marks: Sequence[int], updates: int) -> list[dict[str, Any]]:
    """Every rule's figures after each mark."""
    job = JOBS[name]
    model = pupil(job, seed, updates)
    player = Player(model, job)
    learned = player.episodes("train", marks[-1], f"train-{seed}", seed)
    asked = player.episodes("test", ASKED, f"test-{seed}", seed)
    truth = true_advantages(job, learned, asked)
    torch.manual_seed(seed)
    learner = Learner.start(copy.deepcopy(model.model), ValueConfig(), UPDATING)
    history: list[tuple[float, float]] = []
    table: list[dict[str, Any]] = []
    for number, step in enumerate(lessons(learner, learned, np.random.default_rng(seed)), 1):
        known = foresight(step, unit="turn", bootstrap_truncated=False)
        history += [] if known is None else [known]
        if (count := number * STEP) in marks:
            table += ask(player, learner, asked, truth, count, trust(history), seed)
    for row in table:
        row |= {"job": name, "seed": seed}
    ideal = judged(job, asked, [spread(t, a) for t, a in zip(asked, truth, strict=True)], truth)
    return [*table, {"job": name, "seed": seed, "rule": "truth", "episodes": 0, **ideal}]


def spread(t: Trajectory, by_turn: FloatArray) -> FloatArray:
    """Advantages of turns as advantages of tokens."""
    out = np.zeros(len(t), np.float32)
    out[[turn.start for turn in t.turns]] = by_turn
    return out


def ask(
    player: Player,
    learner: Learner,
    asked: Sequence[Trajectory],
    truth: Sequence[FloatArray],
    mark: int,
    trusted: float,
    seed: int,
) -> list[dict[str, Any]]:
    """Every rule's figures with V as it is now."""
    scored = learner.score(asked)
    forks = choose(scored, BranchConfig(share=1.0))
    branches = learner.score(player.play(continuations(forks, BranchConfig().continuations, seed)))
    corrected = sharpened(scored, estimates(forks, branches, CreditConfig(rule="gae")))
    rows: list[dict[str, Any]] = []
    for rule, config in {**RULES, **BRANCHED}.items():
        episodes = corrected if rule in BRANCHED else scored
        given = assign(episodes, replace(config, unit="turn"), {player.job.name: trusted})
        rows.append({"rule": rule, "episodes": mark, "trust": trusted, **judged(player.job, asked, given, truth)})
    return rows


def draw(table: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Share and cosine over the experience V has learned from; a line per rule, its seeds as a band."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(9, 6), layout="constrained", sharex=True, sharey="row")
    for column, job in enumerate(JOBS):
        for row, key in enumerate(("share", "cosine")):
            axis = axes[row, column]
            for rule in SHOWN:
                rows = [r for r in table if (r["job"], r["rule"]) == (job, rule)]
                marks = sorted({r["episodes"] for r in rows})
                curves = np.array([[r[key] for r in rows if r["episodes"] == mark] for mark in marks])
                (line,) = axis.plot(marks, curves.mean(1), marker="o", ms=3, label=rule)
                axis.fill_between(marks, curves.min(1), curves.max(1), alpha=0.15, color=line.get_color())
            ideal = np.mean([r[key] for r in table if (r["job"], r["rule"]) == (job, "truth")])
            axis.axhline(ideal, color="grey", lw=0.8, ls=":")
            axis.set(xscale="log", ylim=(0, 1.03), ylabel=("share on the decisive turn", "cosine with the truth")[row])
            axis.set_xticks(MARKS, [f"{mark:,}" for mark in MARKS])
            axis.minorticks_off()
            axis.grid(alpha=0.3)
        axes[0, column].set_title(job)
        axes[1, column].set_xlabel("episodes V has learned from")
    axes[0, 1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(file, dpi=130)


def main() -> None:
    chosen = parser(__doc__).parse_args()
    marks, updates = ((128, 256), 60) if chosen.quick else (MARKS, 150)
    results = Results("credit_share", seeds=chosen.seeds, quick=chosen.quick)
    for seed in chosen.seeds:
        rows = [row for name in JOBS for row in learn_and_ask(name, seed, marks, updates)]
        results.detail(f"seed_{seed}", rows)
        for row in rows:
            early = {marks[-1]: "", 0: "", 256: "after_256_"}.get(row["episodes"])
            if early is not None:
                where = f"{row['job']}_{row['rule']}"
                results.sample(f"{early}share_percent_{where}", seed, 100 * row["share"], "percent", bounds=(0, 100))
                results.sample(f"{early}cosine_{where}", seed, row["cosine"], "cosine", bounds=(-1, 1))
    path = results.write()
    if not chosen.quick:  # of all seeds, those of earlier runs included
        kept = json.loads(path.read_text())["details"]
        draw(
            [row for name, rows in kept.items() if name.startswith("seed_") for row in rows],
            FOLDER / "credit_share.png",
        )


if __name__ == "__main__":
    main()
