"""What more tokens per answer are worth, by strategy: success against tokens, with V and without.

    python -m bench.search --tune                 V's dials on the split `valid`, with a seed of its own
    python -m bench.search --seeds 0 1 2          every job; interrupted, the same command goes on
    python -m bench.search --jobs hops countdown
    python -m bench.search --quick                one job, few tasks

For each job one policy is fixed, half learned: the apprentice, or a tiny model schooled until it succeeds at times. V
learns from 2,048 of its episodes at training tasks, as in a run (bench/value_quality.py); the seed fixes these, V's
start and all sampling. Then held-out tasks, the same for all, are answered with 1, 2, 4, 8 and 16 times the tokens of a
plain attempt. What a strategy has the engine read and sample is charged, whether it becomes the answer or not; V's own
reading is reported apart. `likeliest` is best of n without V: the attempt of the highest probability.

A majority needs answers that can be compared, so on `maze` and `frozenlake` there is none: what one says there last is
a step. Intervals are of the mean over tasks, each with all its seeds, by bootstrap; comparisons are paired.

Measurements are kept in ~/.cache/journeyman-bench/search until the folder is deleted. Writes bench/results/search.json
and bench/results/search.png.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bench.common import FOLDER, Results, parser
from bench.value_quality import SUBJECTS, lessons, play, policy_of
from journeyman.exam.stats import Interval, bootstrap_interval
from journeyman.jobs import resolve
from journeyman.learn.learner import Learner, UpdateConfig
from journeyman.model.load import LoadedModel, load, save
from journeyman.model.render import Renderer
from journeyman.model.value import ValueConfig
from journeyman.rollout.runner import attempts, rollout
from journeyman.run import write_atomically
from journeyman.search.runner import Found, search
from journeyman.search.strategies import SearchConfig
from journeyman.stages import native_engine
from journeyman.types import Trajectory

CACHE = Path.home() / ".cache" / "journeyman-bench" / "search"
EPISODES = 2048
"""That V learns from."""
TASKS = 300
THINK = (2, 4, 8, 16)
COMPARED = 8
"""Times the tokens, where strategies are compared with the majority."""
COMPARABLE = ("hops", "countdown", "scan")
"""Jobs whose last replies are answers."""
STRATEGIES = {name: ("vote", "likeliest", "weighted", "best", "correct") for name in COMPARABLE} | {
    name: ("likeliest", "best", "beam", "correct") for name in ("maze", "frozenlake")
}
STRATEGIES["hops"] = (*STRATEGIES["hops"], "beam")
TUNING_SEED = 1000
"""Apart from those that are reported."""
TUNED = [SearchConfig(COMPARED, "correct", fall=fall) for fall in (0.03, 0.1, 0.3)] + [
    SearchConfig(COMPARED, "beam", width=width) for width in (1, 2, 4)
]


@dataclass(frozen=True)
class Cell:
    """One strategy at one budget: what became of each task."""

    success: tuple[int, ...]
    tokens: tuple[int, ...]
    value_tokens: tuple[int, ...]

    @staticmethod
    def of(found: Sequence[Found]) -> Cell:
        columns = [(int(f.trajectory.outcome.success), f.tokens, f.value_tokens) for f in found]
        return Cell(*zip(*columns, strict=True))


class Bench:
    """One job and one seed: measures cells, and keeps them."""

    def __init__(self, name: str, seed: int, split: str, tasks: int, episodes: int) -> None:
        self.name, self.seed = name, seed
        self.file = CACHE / f"{name}-{seed}-{split}-{tasks}-{episodes}.json"
        self.kept: dict[str, Any] = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.split, self.tasks, self.episodes = split, tasks, episodes
        self._ready: tuple[Learner, LoadedModel] | None = None

    def cell(self, config: SearchConfig, *, likelihood: bool = False) -> Cell:
        """One cell, from the file or measured now."""
        key = json.dumps({**asdict(config), "likelihood": likelihood})
        if key not in self.kept:
            self.kept[key] = asdict(self._measure(config, likelihood))
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.file, json.dumps(self.kept))
        return Cell(**{name: tuple(column) for name, column in self.kept[key].items()})

    def _measure(self, config: SearchConfig, likelihood: bool) -> Cell:
        self._ready = self._ready or taught(self.name, self.seed, self.episodes)
        learner, loaded = self._ready
        job = resolve(SUBJECTS[self.name].job)
        jobs, renderer = {job.name: job}, Renderer(loaded.tokenizer)
        engine = native_engine(learner, slots=128, context=1024)
        orders = attempts(
            list(job.tasks(self.split, self.tasks)), repeats=1, prefix=f"search-{self.seed}", seed=self.seed
        )
        if config.think == 1:
            played = sorted(rollout(engine, renderer, jobs, orders), key=lambda t: t.id)
            return Cell.of([Found(t, len(t), 0) for t in played])
        plain = float(np.mean(self.cell(SearchConfig()).tokens))
        score = probability if likelihood else learner.score
        return Cell.of(search(engine, renderer, score, jobs, orders, config, plain))


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


def config_of(strategy: str, think: int) -> tuple[SearchConfig, bool]:
    """A line of the picture as a configuration, and whether likelihood stands in for V."""
    likelihood = strategy == "likeliest"
    return SearchConfig(think, "best" if likelihood else strategy), likelihood  # type: ignore[arg-type]


def mean_over_tasks(rows: Sequence[Sequence[float]]) -> Interval:
    """Of [seeds, tasks]: the mean, with an interval over tasks."""
    by_task: npt.NDArray[np.float64] = np.asarray(rows, float).mean(0)
    return bootstrap_interval(lambda sample: float(sample.mean()), by_task)


def table_of(benches: Sequence[Bench], strategies: Sequence[str], think: Sequence[int]) -> dict[str, list[list[Cell]]]:
    """By strategy: for each budget, plain first, a cell per seed."""
    plain = [bench.cell(SearchConfig()) for bench in benches]
    table: dict[str, list[list[Cell]]] = {}
    for strategy in strategies:
        table[strategy] = [plain]
        for times in think:
            config, likelihood = config_of(strategy, times)
            cells = [bench.cell(config, likelihood=likelihood) for bench in benches]
            table[strategy].append(cells)
            success = float(np.mean([cell.success for cell in cells]))
            print(f"{benches[0].name:11} {strategy:9} {times:3} {success:.3f}", flush=True)
    return table


def curves(table: dict[str, list[list[Cell]]], think: Sequence[int]) -> dict[str, list[dict[str, Any]]]:
    """For people and for the picture: a row per strategy and budget."""
    plain = float(np.mean([cell.tokens for cell in next(iter(table.values()))[0]]))
    found: dict[str, list[dict[str, Any]]] = {}
    for strategy, columns in table.items():
        found[strategy] = []
        for times, cells in zip((1, *think), columns, strict=True):
            success = mean_over_tasks([cell.success for cell in cells])
            row = {
                "think": times,
                "tokens": float(np.mean([cell.tokens for cell in cells])) / plain,
                "value_tokens": float(np.mean([cell.value_tokens for cell in cells])) / plain,
                "success": success.mean,
                "low": success.low,
                "high": success.high,
                "seeds": [float(np.mean(cell.success)) for cell in cells],
            }
            found[strategy].append({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
    return found


def figures(results: Results, name: str, table: dict[str, list[list[Cell]]], think: Sequence[int]) -> None:
    """Success of each strategy at the budget of comparison, and what the default gains over the majority there."""
    column = 1 + list(think).index(COMPARED)
    base = "vote" if "vote" in table else "plain"
    cells = {strategy: columns[column] for strategy, columns in table.items()}
    cells["plain"] = next(iter(table.values()))[0]
    for strategy, own in cells.items():
        success = mean_over_tasks([[100 * s for s in cell.success] for cell in own])
        label = f"success_{strategy}{'' if strategy == 'plain' else f'_at_{COMPARED}'}_percent_{name}"
        results.figure(label, success.mean, "percent", low=success.low, high=success.high)
    default = SearchConfig().strategy
    pairs = zip(cells[default], cells[base], strict=True)
    gain = mean_over_tasks([100 * (np.array(a.success) - np.array(b.success)) for a, b in pairs])
    label = f"gain_over_{base}_at_{COMPARED}_points_{name}"
    results.figure(label, gain.mean, "percentage points", low=gain.low, high=gain.high)
    used = float(np.mean([cell.tokens for cell in cells[default]]) / np.mean([cell.tokens for cell in cells["plain"]]))
    results.figure(f"tokens_{default}_at_{COMPARED}_times_{name}", used, "times a plain attempt's")


def draw(rows: dict[str, dict[str, list[dict[str, Any]]]], file: Path) -> None:
    """Success over tokens; a panel per job, a line per strategy with its interval."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = [name for name in STRATEGIES if name in rows]
    figure, axes = plt.subplots(1, len(names), figsize=(3.1 * len(names), 3.4), layout="constrained", squeeze=False)
    colours = dict(zip(("vote", "likeliest", "weighted", "best", "beam", "correct"), plt.cm.tab10.colors, strict=False))
    for axis, name in zip(axes[0], names, strict=True):
        for strategy, row in rows[name].items():
            tokens, success = [point["tokens"] for point in row], [100 * point["success"] for point in row]
            axis.plot(tokens, success, marker="o", ms=3, color=colours[strategy], label=strategy)
            low, high = ([100 * point[end] for point in row] for end in ("low", "high"))
            axis.fill_between(tokens, low, high, alpha=0.12, color=colours[strategy], lw=0)
        axis.set(title=name, xscale="log", xlabel="tokens, of a plain attempt's", ylim=(0, None))
        axis.set_xticks((1, *THINK), [f"{times}x" for times in (1, *THINK)])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("held-out tasks solved, percent")
    handles = {label: h for axis in axes[0] for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False)
    figure.savefig(file, dpi=130)


def tune(jobs: Sequence[str], results: Results) -> None:
    """Every setting on `valid`; scan has no such split, and takes what the others find."""
    rows: list[dict[str, Any]] = []
    for name in jobs:
        if "valid" not in resolve(SUBJECTS[name].job).splits:
            continue
        bench = Bench(name, TUNING_SEED, "valid", TASKS, EPISODES)
        plain = float(np.mean(bench.cell(SearchConfig()).tokens))
        for config in TUNED:
            if config.strategy in STRATEGIES[name]:
                cell = bench.cell(config)
                rows.append({"job": name, **asdict(config), "success": float(np.mean(cell.success))})
                rows[-1]["tokens"] = float(np.mean(cell.tokens)) / plain
                print(rows[-1], flush=True)
    results.detail("tuning", rows)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--jobs", nargs="+", choices=list(STRATEGIES), default=list(STRATEGIES))
    options.add_argument("--tune", action="store_true", help="compare settings on the split valid instead")
    chosen = options.parse_args()
    results = Results("search", seeds=[TUNING_SEED] if chosen.tune else chosen.seeds, quick=chosen.quick)
    if chosen.tune:
        tune(chosen.jobs, results)
        results.write()
        return
    names = ["hops"] if chosen.quick else chosen.jobs
    tasks, episodes, think = (48, 512, (COMPARED,)) if chosen.quick else (TASKS, EPISODES, THINK)
    rows: dict[str, Any] = {}
    for name in names:
        benches = [Bench(name, seed, "test", tasks, episodes) for seed in chosen.seeds]
        table = table_of(benches, STRATEGIES[name], think)
        rows[name] = curves(table, think)
        figures(results, name, table, think)
        results.detail(f"curves_{name}", rows[name])
    results.write()
    if not chosen.quick:
        draw(rows, FOLDER / "search.png")


if __name__ == "__main__":
    main()
