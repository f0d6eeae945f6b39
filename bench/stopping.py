"""What it saves to let V stop episodes whose end it foresees, what that costs, and whether figures stay unbiased.

    python -m bench.stopping                    all jobs, three seeds; the same command again goes on
    python -m bench.stopping --jobs maze
    python -m bench.stopping --quick

*Saved*: the same learning run with and without stopping, in pairs of the same seed: as many trajectories, the same
tasks in the same order. Compared are the tokens of all episodes, warm-up included, and success in the last exam on
held-out tasks (which are never stopped). And *at equal success*: how many tokens less it takes to get where those end
that are played to their end, read off the means over seeds (:func:`saved_at_equal_success`).

*Bias*: the apprentice, as a fixed policy, plays episodes to their end, from which V learns; then as many on held-out
tasks. These are judged afterwards as a run would have: the threshold comes from the last steps, verdicts from V at the
looks, and a coin decides who is stopped. What the estimate of success then says (docs/value.md, "Stopping") is compared
with the truth, averaged over coins; and so is the naive one, by which a stopped episode has failed.

Writes bench/results/stopping.json (`stopping_tokens_saved_percent` and the like; with `_<job>`: of each job) and .png.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from bench.common import FOLDER, Results
from bench.efficiency.stats import Curve
from bench.uses.runs import asked_for, learning, played
from bench.value_quality import lessons, play
from journeyman.config import TURNS
from journeyman.jobs import resolve
from journeyman.learn.learner import Learner, UpdateConfig
from journeyman.model.load import load
from journeyman.model.value import ValueConfig
from journeyman.rollout.stopping import (
    REMEMBERED,
    Doubt,
    StoppingConfig,
    as_stopped,
    completed,
    doubt,
    prospects,
)
from journeyman.types import Trajectory, Verdict

JOBS: Mapping[str, str] = {
    "maze_large": "maze,size=7,max_turns=60",
    "maze_patient": "maze,size=5,max_turns=60",
    "maze": "maze,size=5,max_turns=30",
    "hops": "hops,min_hops=2",
}
"""In the large one two episodes of three fail, and take all 60 turns for it; in the small ones most soon succeed, and
the patient one lets those that do not wander for as long. Of `hops` nearly all succeed after the first 256."""
HEADLINE = "hops"
RULES: Mapping[str, StoppingConfig] = {
    **dict.fromkeys(JOBS, StoppingConfig(every=6)),
    "hops": StoppingConfig(every=1, certain=0.3),
}
"""What is stopped: the hopeless, and where hardly any are, the certain."""
BUDGET, EXAM_EVERY, ATTEMPTS = 2048, 512, 2
EPISODES = 512
"""Of the fixed policy, that V learns from, and as many that it judges."""
COINS = 400
"""Throws that the bias is averaged over."""
DRAWS = 2000
"""Of the bootstrap."""

Pair = tuple[Curve, Curve]
"""Played to the end, and stopped."""


def pair(job: str, seed: int, options: argparse.Namespace) -> Pair:
    """The run without stopping and the run with it."""
    budget, every, attempts = (384, 384, 1) if options.quick else (BUDGET, EXAM_EVERY, ATTEMPTS)
    base = learning(JOBS[job], seed, budget, exam_every=every, attempts=attempts)
    runs = {"full": base, "stopped": replace(base, stopping=RULES[job])}
    full, stopped = (played(config, f"stopping-{job}-{arm}-{seed}", options.cache) for arm, config in runs.items())
    return full.curve, stopped.curve


def record(results: Results, job: str, seed: int, curves: Pair) -> None:
    """The figures of one pair."""
    full, stopped = curves
    saved = 100 * (1 - stopped.tokens[-1] / full.tokens[-1])
    lost = 100 * (full.success[-1] - stopped.success[-1])
    for name in names("stopping_tokens_saved_percent", job):
        results.sample(name, seed, saved, "percent", bounds=(-100, 100))
    for name in names("stopping_success_lost_points", job):
        results.sample(name, seed, lost, "percentage points", bounds=(-100, 100))
    for arm, curve in (("full", full), ("stopped", stopped)):
        results.sample(f"final_{arm}_percent_{job}", seed, 100 * curve.success[-1], "percent", bounds=(0, 100))


def names(figure: str, job: str) -> list[str]:
    """The figure's name with the job's, and without it for the job that makes the headline."""
    return [f"{figure}_{job}", *([figure] if job == HEADLINE else [])]


def saved_at_equal_success(pairs: Sequence[Pair]) -> float:
    """Per cent of the tokens that it takes to get where those end that are not stopped; 0 where the others never do.

    Read off the means over pairs of success and of tokens, exam by exam, with straight lines between exams.
    """
    full, stopped = (
        np.mean([np.stack([one.tokens, one.success], 1) for one in side], 0).tolist()
        for side in zip(*pairs, strict=True)
    )
    end = full[-1][1]
    needed = tokens_to(end, stopped)
    return 0.0 if needed is None else 100 * (1 - needed / (tokens_to(end, full) or full[-1][0]))


def tokens_to(success: float, curve: Sequence[tuple[float, float]]) -> float | None:
    """Where the curve of (tokens, success) first gets to so much success; None where it does not."""
    for (start, below), (stop, above) in pairwise(curve):
        if above >= success:
            return float(np.interp(success, [below, above], [start, stop]))
    return None


def equal_success(results: Results, job: str, pairs: Sequence[Pair]) -> None:
    """The figure, and its 95% interval by bootstrap over the pairs."""
    draws = np.random.default_rng(0).integers(len(pairs), size=(DRAWS, len(pairs)))
    found = np.array([saved_at_equal_success([pairs[i] for i in draw]) for draw in draws])
    value = saved_at_equal_success(pairs)
    low, high = np.percentile(found, [2.5, 97.5])
    for name in names("stopping_saved_at_equal_success_percent", job):
        results.figure(name, value, "percent", low=min(float(low), value), high=max(float(high), value))


def judged(t: Trajectory, rule: StoppingConfig, goes_on: Doubt) -> Trajectory:
    """The episode, along which V is written, with the verdict that it would have had; as if it had been played on."""
    for turn in t.turns[rule.every :: rule.every]:
        value = float(t.values[turn.start - 1])
        if goes_on.over(value):
            return replace(t, verdict=Verdict(turn.start, value, rule.play_out))
    return t


def fixed_policy(job: str, seed: int, count: int) -> list[Trajectory]:
    """Episodes of the apprentice on held-out tasks, played to their end, with V along them and its verdicts, once it
    has learned from as many others."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    name, rule = resolve(JOBS[job]).name, RULES[job]
    model = load("apprentice")
    learner = Learner.start(copy.deepcopy(model.model), ValueConfig(), UpdateConfig())
    lately = list(lessons(learner, play(model, name, "train", count, seed), rng, TURNS))[-REMEMBERED:]
    goes_on = doubt([prospects(step, rule.every) for step in lately], rule)
    return [judged(t, rule, goes_on) for t in learner.score(play(model, name, "test", count, seed))]


def bias(results: Results, job: str, seed: int, verdicts: Sequence[Trajectory]) -> None:
    """How far the estimates of success are off, in percentage points, over all coins; and how much one coin matters."""
    true = np.array([t.outcome.success for t in verdicts])
    played_on = np.array([completed(t, t.outcome.success) for t in verdicts])
    stopped = np.array([completed(t, t.outcome.success) for t in map(as_stopped, verdicts)])
    spoken = np.array([t.verdict is not None for t in verdicts])
    coins = np.random.default_rng((seed, COINS)).random((COINS, len(verdicts))) < RULES[job].play_out
    estimates = 100 * np.where(coins, played_on, stopped).mean(1)
    naive = 100 * np.where(spoken & ~coins, 0, true).mean(1)
    truth = 100 * true.mean()
    saved = np.where(coins, 0, [len(t) - len(as_stopped(t)) for t in verdicts]).sum(1).mean()
    for name, value in (
        ("stopping_bias_points", estimates.mean() - truth),
        ("stopping_spread_points", estimates.std()),
        ("stopping_naive_bias_points", naive.mean() - truth),
    ):
        results.sample(f"{name}_{job}", seed, float(value), "percentage points")
    tokens = sum(len(t) for t in verdicts)
    results.sample(f"stopping_fixed_policy_saved_percent_{job}", seed, float(100 * saved / tokens), "percent")


def measured(file: Path) -> dict[str, list[Pair]]:
    """The pairs of all jobs that the results hold, those of earlier runs included."""
    details = json.loads(file.read_text())["details"]
    return {
        job: [(Curve(**one["full"]), Curve(**one["stopped"])) for one in details[f"curves_{job}"]]
        for job in JOBS
        if f"curves_{job}" in details
    }


def draw(curves: Mapping[str, Sequence[Pair]], file: Path) -> None:
    """Held-out success over tokens, a panel for each job: a thin line for each run, a thick one for their mean."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(curves), figsize=(4.4 * len(curves), 3.3), sharey=True, layout="constrained", squeeze=False
    )
    for axis, (job, pairs) in zip(axes[0], curves.items(), strict=True):
        for side, (label, color) in enumerate((("played to the end", "#e8590c"), ("stopped by V", "#1f6feb"))):
            runs = [both[side] for both in pairs]
            tokens = np.array([run.tokens for run in runs]) / 1000
            success = 100 * np.array([run.success for run in runs])
            axis.plot(tokens.T, success.T, color=color, lw=0.8, alpha=0.35)
            axis.plot(tokens.mean(0), success.mean(0), color=color, lw=2, marker="o", ms=3.5, label=label)
        axis.set_title(JOBS[job], loc="left", fontsize=10)
        axis.set(xlabel="thousand tokens played", xlim=(0, None))
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    axes[0][0].set_ylabel("solved, held out (%)")
    axes[0][-1].legend(frameon=False, loc="lower right")
    figure.savefig(file, dpi=140)
    plt.close(figure)


def main() -> None:
    chosen = asked_for(__doc__, JOBS, HEADLINE)
    results = Results("stopping", seeds=chosen.seeds, quick=chosen.quick)
    curves: dict[str, list[Pair]] = {job: [] for job in chosen.jobs}
    for seed in chosen.seeds:
        for job in chosen.jobs:
            curves[job].append(pair(job, seed, chosen))
            record(results, job, seed, curves[job][-1])
            bias(results, job, seed, fixed_policy(job, seed, 256 if chosen.quick else EPISODES))
    for job, pairs in curves.items():
        equal_success(results, job, pairs)
        kept = [{"seed": s, "full": vars(f), "stopped": vars(p)} for s, (f, p) in zip(chosen.seeds, pairs, strict=True)]
        results.detail(f"curves_{job}", kept)
    results.write()
    draw(measured(results.path), results.path.with_suffix(".png") if chosen.quick else FOLDER / "stopping.png")


if __name__ == "__main__":
    main()
