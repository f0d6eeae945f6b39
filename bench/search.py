"""What more tokens per answer are worth, by strategy: success against tokens, with V and without.

    python -m bench.search --seeds 0 1 2          every job (about eight minutes on one core); interrupted, it goes on
    python -m bench.search --jobs hops
    python -m bench.search --tune                 the default and its dials, on the split `valid`, by a seed of its own
    python -m bench.search --quick                one job, few tasks

For each job one policy is fixed, half learned: the apprentice, or a tiny model schooled until it succeeds at times. V
learns from 2,048 of its episodes at training tasks, as in a run (bench/value_quality.py). Then held-out tasks are
answered with 1, 2, 4, 8 and 16 times the tokens of a sampled attempt. The seed draws the episodes, the tasks, V's start
and all sampling; intervals are over seeds.

What a strategy has the engine read and sample is charged, whether it becomes the answer or not; what the engine's cache
holds of a prefix is not read again. V's own reading is reported apart, and in the picture the dotted lines charge it,
too, as if V were as large as the policy (it is: a twin). V reads a draft from its beginning each time, since it has no
cache.

Without V there are: `greedy`, the most likely replies, which no more tokens make better; `likeliest`, of several
attempts that of the highest probability; and two majorities. `vote` is self-consistency, over the last replies of whole
attempts: on `hops` and `countdown` these are the answers. In a maze the last reply is a step, so there is none, and the
majority decides move by move: `stepwise` goes on from the reply given most often in each turn. On `hops` there are
both; on `countdown`, with a single turn, they are the same. "The majority" is the better of the two, as it turns out.

Measurements are kept in ~/.cache/journeyman-bench/search until the folder is deleted. Writes bench/results/search.json
and bench/results/search.png.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.common import FOLDER, Results, interval, parser
from bench.value_quality import Subject, lessons, play, policy_of
from journeyman.jobs import resolve
from journeyman.learn.learner import Learner, UpdateConfig
from journeyman.model.load import LoadedModel, load, save
from journeyman.model.render import Renderer
from journeyman.model.value import ValueConfig
from journeyman.rollout.runner import RolloutConfig, attempts, rollout
from journeyman.run import write_atomically
from journeyman.search.runner import Found, search
from journeyman.search.strategies import SearchConfig
from journeyman.stages import native_engine
from journeyman.types import Trajectory

CACHE = Path.home() / ".cache" / "journeyman-bench" / "search"
EPISODES = 2048
"""That V learns from."""
TASKS = 100
THINK = (2, 4, 8, 16)
COMPARED = 8
"""Times the tokens, where strategies are compared with the majority."""
SUBJECTS: Mapping[str, Subject] = {
    "hops": Subject("hops"),
    "maze": Subject("maze,size=5,max_turns=30"),
    "countdown": Subject("countdown", 400),
}
MAJORITIES = ("vote", "stepwise")
WITH_VALUE = ("weighted", "best", "beam", "correct")
STRATEGIES: Mapping[str, tuple[str, ...]] = {
    "hops": ("vote", "stepwise", "likeliest", "weighted", "best", "beam", "correct"),
    "maze": ("stepwise", "likeliest", "best", "beam", "correct"),
    "countdown": ("vote", "likeliest", "weighted", "best", "correct"),  # with a single turn, beam is best
}
TUNING_TASKS = 200
TUNING_SEED = 1000
"""Apart from those that are reported."""
TUNED = [
    SearchConfig(COMPARED, "stepwise"),
    SearchConfig(COMPARED, "best"),
    *(SearchConfig(COMPARED, "correct", fall=fall) for fall in (0.03, 0.1, 0.3)),
    *(SearchConfig(COMPARED, "beam", width=width) for width in (1, 2)),
]
"""The default strategy and its dials come from here."""


@dataclass(frozen=True)
class Cell:
    """One strategy at one budget and one seed, as means over tasks."""

    success: float
    tokens: float
    value_tokens: float = 0.0

    @staticmethod
    def of(found: Sequence[Found]) -> Cell:
        columns = [(f.trajectory.outcome.success, f.tokens, f.value_tokens) for f in found]
        return Cell(*np.mean(columns, axis=0).tolist())


class Bench:
    """One job and one seed: measures cells, and keeps them."""

    def __init__(self, name: str, seed: int, split: str, tasks: int, episodes: int) -> None:
        self.name, self.seed, self.episodes = name, seed, episodes
        self.file = CACHE / f"{name}-{seed}-{split}-{tasks}-{episodes}.json"
        self.kept: dict[str, Any] = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.job = resolve(SUBJECTS[name].job)
        drawn = np.random.default_rng(seed).permutation(self.job.splits[split])[:tasks]
        tasks_drawn = [self.job.task(split, int(index)) for index in drawn]
        self.orders = attempts(tasks_drawn, repeats=1, prefix=f"search-{seed}", seed=seed)
        self._ready: tuple[Learner, LoadedModel] | None = None

    def plain(self, temperature: float = 1.0) -> Cell:
        """One attempt at each task."""
        return self._kept(f"plain {temperature}", lambda: self._play(temperature))

    def searched(self, config: SearchConfig, *, likelihood: bool = False) -> Cell:
        """The same tasks by search; with likelihood in V's place, if asked for."""
        key = json.dumps({**asdict(config), "likelihood": likelihood})
        return self._kept(key, lambda: self._search(config, likelihood))

    def _kept(self, key: str, measure: Callable[[], Cell]) -> Cell:
        if key not in self.kept:
            self.kept[key] = asdict(measure())
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.file, json.dumps(self.kept))
        return Cell(**self.kept[key])

    def _prepared(self) -> tuple[Learner, LoadedModel]:
        self._ready = self._ready or taught(self.name, self.seed, self.episodes)
        return self._ready

    def _play(self, temperature: float) -> Cell:
        learner, loaded = self._prepared()
        engine, renderer = native_engine(learner, slots=128, context=1024), Renderer(loaded.tokenizer)
        config = RolloutConfig(temperature=temperature)
        played = rollout(engine, renderer, {self.job.name: self.job}, self.orders, config)
        return Cell.of([Found(t, len(t), 0) for t in played])

    def _search(self, config: SearchConfig, likelihood: bool) -> Cell:
        learner, loaded = self._prepared()
        engine, renderer = native_engine(learner, slots=128, context=1024), Renderer(loaded.tokenizer)
        score = probability if likelihood else learner.score
        jobs = {self.job.name: self.job}
        cell = Cell.of(search(engine, renderer, score, jobs, self.orders, config, self.plain().tokens))
        return replace(cell, value_tokens=0.0) if likelihood else cell  # the engine has told it already


def taught(name: str, seed: int, episodes: int) -> tuple[Learner, LoadedModel]:
    """The job's policy with a V that has learned from so many of its episodes; kept, so that it is made once."""
    policy, place = CACHE / f"{name}-policy", CACHE / f"{name}-{seed}-{episodes}"
    if not policy.exists():
        made = policy_of(SUBJECTS[name])
        save(policy, made.model, made.tokenizer)
    if not place.exists():
        model = load(str(policy))
        torch.manual_seed(seed)
        learner = Learner.start(copy.deepcopy(model.model), ValueConfig(), UpdateConfig())
        learned = play(model, SUBJECTS[name].job, "train", episodes, seed)
        for _ in lessons(learner, learned, np.random.default_rng(seed)):
            pass
        save(place, model.model, model.tokenizer, learner.value)
    loaded = load(str(place))
    return Learner(loaded.model, loaded.value, UpdateConfig(), keep_reference=False), loaded


def probability(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """In V's place: the log-probability of all that was sampled so far."""
    return [replace(t, values=np.cumsum(t.logprobs)) for t in trajectories]


def measured(bench: Bench, strategy: str, think: int) -> Cell:
    """One line of the picture at one budget."""
    if think == 1:
        return bench.plain()
    name: Any = "best" if strategy == "likeliest" else strategy
    return bench.searched(SearchConfig(think, name), likelihood=strategy == "likeliest")


Curves = dict[str, dict[int, list[Cell]]]
"""By strategy and budget, a cell for each seed."""


def curves_of(benches: Sequence[Bench], strategies: Sequence[str], think: Sequence[int]) -> Curves:
    """Every strategy at every budget."""
    curves: Curves = {"greedy": {1: [bench.plain(0.0) for bench in benches]}}
    for strategy in strategies:
        curves[strategy] = {}
        for times in (1, *think):
            cells = curves[strategy][times] = [measured(bench, strategy, times) for bench in benches]
            success = float(np.mean([cell.success for cell in cells]))
            print(f"{benches[0].name:10} {strategy:9} {times:3} {success:.3f}", flush=True)
    return curves


def rows(curves: Curves) -> dict[str, list[dict[str, Any]]]:
    """For people and for the picture: tokens as multiples of those of a sampled attempt."""
    plain = np.mean([cell.tokens for cell in curves[SearchConfig().strategy][1]])
    table: dict[str, list[dict[str, Any]]] = {}
    for strategy, column in curves.items():
        table[strategy] = []
        for times, cells in column.items():
            success = [cell.success for cell in cells]
            low, high = interval(success, (0, 1))
            row = {"success": np.mean(success), "low": low, "high": high}
            row |= {"tokens": np.mean([cell.tokens for cell in cells]) / plain}
            row |= {"value_tokens": np.mean([cell.value_tokens for cell in cells]) / plain}
            table[strategy].append(
                {"think": times} | {k: v if v is None else round(float(v), 4) for k, v in row.items()}
            )
    return table


def figures(results: Results, name: str, curves: Curves, seeds: Sequence[int]) -> None:
    """Success of each strategy at the budget of comparison, and what those with V gain over the majority there, and
    over a majority of twice the tokens."""

    def sample(label: str, values: Sequence[float], unit: str, bounds: tuple[float, float]) -> None:
        for seed, value in zip(seeds, values, strict=True):
            results.sample(f"{label}_{name}", seed, value, unit, bounds=bounds)

    def successes(strategy: str, times: int) -> list[float]:
        return [100 * cell.success for cell in curves[strategy][times]]

    sample("success_sampled_percent", successes("best", 1), "percent", (0, 100))
    sample("success_greedy_percent", successes("greedy", 1), "percent", (0, 100))
    plain = [cell.tokens for cell in curves["best"][1]]
    for strategy in [strategy for strategy in curves if strategy != "greedy"]:
        label = f"{strategy}_at_{COMPARED}"
        sample(f"success_{label}_percent", successes(strategy, COMPARED), "percent", (0, 100))
        if strategy not in WITH_VALUE:
            continue
        for kind in ("tokens", "value_tokens"):
            used = [getattr(cell, kind) / one for cell, one in zip(curves[strategy][COMPARED], plain, strict=True)]
            sample(f"{kind}_{label}_times", used, "times a sampled attempt's", (0, np.inf))
        for times in (COMPARED, 2 * COMPARED):
            if times in curves[strategy]:
                gains = np.subtract(successes(strategy, COMPARED), majority(curves, times)).tolist()
                sample(f"gain_{label}_over_majority_at_{times}_points", gains, "percentage points", (-100, 100))


def majority(curves: Curves, times: int) -> list[float]:
    """Success of the better of the majorities, in percent, a number for each seed."""
    columns = [[100 * cell.success for cell in curves[name][times]] for name in MAJORITIES if name in curves]
    return max(columns, key=lambda column: float(np.mean(column)))


def draw(table: Mapping[str, Mapping[str, list[dict[str, Any]]]], file: Path) -> None:
    """Success over tokens; a panel per job, a line per strategy with its interval, dotted with V's reading charged."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = [name for name in SUBJECTS if name in table]
    figure, axes = plt.subplots(1, len(names), figsize=(3.9 * len(names), 3.8), layout="constrained", squeeze=False)
    order = ("vote", "stepwise", "likeliest", "weighted", "best", "beam", "correct")
    colours = dict(zip(order, plt.cm.tab10.colors, strict=False)) | {"greedy": "black"}
    for axis, name in zip(axes[0], names, strict=True):
        for strategy, points in table[name].items():
            tokens, success = [p["tokens"] for p in points], [100 * p["success"] for p in points]
            marker = "*" if strategy == "greedy" else "o"
            axis.plot(tokens, success, marker=marker, ms=7 if marker == "*" else 3, color=colours[strategy],
                      label=strategy, lw=0 if marker == "*" else 1.5)  # fmt: skip
            if points[0]["low"] is not None:
                low, high = ([100 * p[end] for p in points] for end in ("low", "high"))
                axis.fill_between(tokens, low, high, alpha=0.12, color=colours[strategy], lw=0)
            if any(p["value_tokens"] for p in points):
                charged = [p["tokens"] + p["value_tokens"] for p in points]
                axis.plot(charged, success, color=colours[strategy], lw=1, ls=":")
        axis.set(title=SUBJECTS[name].job, xscale="log", xlabel="tokens, of a sampled attempt's", ylim=(0, 102))
        axis.set_xticks((1, *THINK, 32), [f"{times}x" for times in (1, *THINK, 32)])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("held-out tasks solved, percent")
    handles = {label: h for axis in axes[0] for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False)
    figure.savefig(file, dpi=130)


def tune(jobs: Sequence[str], results: Results) -> None:
    """Every setting on `valid`, beside plain attempts and a majority in each turn."""
    table: list[dict[str, Any]] = []
    for name in jobs:
        bench = Bench(name, TUNING_SEED, "valid", TUNING_TASKS, EPISODES)
        plain = bench.plain()
        turns = ("stepwise",) if name == "countdown" else ()
        rows = [("greedy", {}, bench.plain(0.0)), ("sampled", {}, plain)]
        rows += [
            (one.strategy, {"width": one.width, "fall": one.fall}, bench.searched(one))
            for one in TUNED
            if one.strategy in (*STRATEGIES[name], *turns)
        ]
        for strategy, dials, cell in rows:
            row = {"job": name, "strategy": strategy, **dials, "success": cell.success}
            row |= {"tokens": cell.tokens / plain.tokens, "value_tokens": cell.value_tokens / plain.tokens}
            table.append({key: round(x, 4) if isinstance(x, float) else x for key, x in row.items()})
            print(table[-1], flush=True)
    results.detail("tuning", table)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--jobs", nargs="+", choices=list(SUBJECTS), default=list(SUBJECTS))
    options.add_argument("--tune", action="store_true", help="compare defaults on the split valid instead")
    chosen = options.parse_args()
    results = Results("search", seeds=[TUNING_SEED] if chosen.tune else chosen.seeds, quick=chosen.quick)
    if chosen.tune:
        tune(chosen.jobs, results)
        results.write()
        return
    names = ["hops"] if chosen.quick else chosen.jobs
    tasks, episodes, think = (48, 512, (COMPARED,)) if chosen.quick else (TASKS, EPISODES, THINK)
    for name in names:
        benches = [Bench(name, seed, "test", tasks, episodes) for seed in chosen.seeds]
        curves = curves_of(benches, STRATEGIES[name], think)
        figures(results, name, curves, chosen.seeds)
        results.detail(f"curves_{name}", rows(curves))
    written = json.loads(results.write().read_text())["details"]
    if not chosen.quick:
        draw(
            {name: written[f"curves_{name}"] for name in SUBJECTS if f"curves_{name}" in written}, FOLDER / "search.png"
        )


if __name__ == "__main__":
    main()
