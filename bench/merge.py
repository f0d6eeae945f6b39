"""Four specialists become one model of the same size: what is left of each one's gain, by method.

    python -m bench.merge --seeds 0 1 2        about half an hour a seed on one core; interrupted, it goes on
    python -m bench.merge --methods distill ram
    python -m bench.merge --quick              two specialists, little of each

The base is the apprentice after a glimpse of all four jobs, so that it knows a little of each. A specialist is the base
after one of them: it imitates demonstrations and then learns by trial and error with V, as `journeyman learn` does. The
gain is its success on the job's split `test` less the base's; what a merged model keeps of it is
(merged - base) / (specialist - base), for each job. The seed fixes all but the base: demonstrations, practice, masks,
the distillation's episodes.

What a method of weights leaves open (scale, density, threshold) is chosen for each seed by the mean success on the
jobs' splits `valid`, out of the choices below, and then reported on `test`. `distill` is `journeyman merge` as it is:
from the plain average, the student is shown the teachers' successes, then plays; `shown` is only the
first of these, `played` only the second, with more steps. Their episodes and seconds of processor are reported.

Measurements are kept in ~/.cache/journeyman-bench/merge until the folder is deleted. Writes bench/results/merge.json
and bench/results/merge.png after each seed: `retained_gain_percent_<method>`, the mean over jobs;
`retained_gain_percent_min`, the least of any job by `distill`, as a mean over seeds;
`retained_gain_percent_<method>_<job>`; success under `details`.
"""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from bench.amalgamation.picture import draw
from bench.amalgamation.specialists import SPECIALTIES, specialist, taught_a_little
from bench.common import FOLDER, Results, parser
from journeyman.amalgamate import distill
from journeyman.engine.native import NativeEngine
from journeyman.exam.exam import ExamConfig, examine
from journeyman.jobs import resolve
from journeyman.learn.distill import DistillConfig
from journeyman.learn.merge import MergeConfig, merge_models
from journeyman.learn.school import SchoolConfig
from journeyman.model.load import LoadedModel, load
from journeyman.model.render import Renderer
from journeyman.run import write_atomically

CACHE = Path.home() / ".cache" / "journeyman-bench" / "merge"
VALID_SHARE = 4
"""On `valid` a quarter of the tasks is asked: it only has to tell a method's choices apart."""
CHOICES: Mapping[str, Sequence[MergeConfig]] = {
    "average": [MergeConfig("average")],
    "task": [MergeConfig("task", scale=scale) for scale in (0.4, 0.7)],
    "ties": [MergeConfig("ties", density=density) for density in (0.2, 0.6)],
    "dare": [MergeConfig("dare", density=0.5, scale=scale) for scale in (0.4, 0.7)],
    "ram": [MergeConfig("ram", threshold=threshold) for threshold in (1e-5, 3e-3)],
}

DISTILLATIONS: Mapping[str, DistillConfig] = {
    "distill": DistillConfig(),
    "shown": DistillConfig(steps=0),
    "played": DistillConfig(watched=0, steps=100),
}
METHODS = [*CHOICES, *DISTILLATIONS]
DEFAULT = "distill"
"""What `journeyman merge` does unless another method is named."""
LITTLE = replace(DistillConfig(), watched=100, steps=2, school=SchoolConfig(updates=10))
"""To see that it works."""

Success = dict[str, float]
"""By job."""


class Measured:
    """What was measured before, kept in a file for each seed."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.known: dict[str, Success] = json.loads(file.read_text()) if file.exists() else {}

    def get(self, name: str, measure: Callable[[], Success]) -> Success:
        """The measurement of this name, made now if it was not before."""
        if name not in self.known:
            self.known[name] = measure()
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.file, json.dumps(self.known, indent=1))
            print(f"  {self.file.stem} {name}: {shown(self.known[name])}", flush=True)
        return self.known[name]


def success(model: LoadedModel, jobs: Sequence[str], split: str, share: int = 1) -> Success:
    """Of each job, the share of episodes that succeeded: the same tasks and draws for every model."""
    found: Success = {}
    for name in jobs:
        taught = SPECIALTIES[name]
        config = ExamConfig(tasks=max(taught.tasks // share, 12), attempts=taught.attempts, splits=(split,))
        job = resolve(taught.spec)
        engine = NativeEngine(model.model, slots=128, context=1024)
        [result], _ = examine(engine, Renderer(model.tokenizer), list, {job.name: job}, config, step=0)
        found[name] = result.success
    return found


def by_weights(
    models: Sequence[LoadedModel], base: LoadedModel, method: str, jobs: Sequence[str], seed: int, measured: Measured
) -> Success:
    """The method's best choice on `valid`, on `test`."""

    def merged(config: MergeConfig) -> LoadedModel:
        seeded = MergeConfig(config.method, config.scale, config.density, config.threshold, seed)
        return merge_models(models, base if config.needs_base else None, seeded)

    def valid(config: MergeConfig) -> float:
        found = measured.get(f"valid {config}", lambda: success(merged(config), jobs, "valid", VALID_SHARE))
        return statistics.fmean(found.values())

    choices = CHOICES[method]
    best = max(choices, key=valid) if len(choices) > 1 else choices[0]
    return measured.get(f"test {best}", lambda: success(merged(best), jobs, "test"))


def distilled(models: Mapping[str, Path], jobs: Sequence[str], config: DistillConfig, seed: int, out: Path) -> Success:
    """Success of what the average of the specialists becomes when it is taught by them; what it cost beside it."""
    start = merge_models([load(path) for path in models.values()], None, MergeConfig("average"))
    teachers = {SPECIALTIES[name].spec: path for name, path in models.items()}
    shutil.rmtree(out, ignore_errors=True)
    before = time.process_time()
    for record in distill(teachers, out, start, config, seed):
        if record["kind"] == "distill" and record["step"] % 20 == 0:
            print(f"  step {record['step']}: divergence {record['policy/divergence']:.4f}", flush=True)
    seconds = time.process_time() - before
    return success(load(out), jobs, "test") | {"seconds": seconds}


def measure(seed: int, jobs: Sequence[str], methods: Sequence[str], little: bool, cache: Path) -> dict[str, Success]:
    """Success on `test` of the base, each specialist on its own job, and of each method's model on all."""
    measured = Measured(cache / f"seed{seed}-{'-'.join(jobs)}.json")
    base = load(taught_a_little(cache))
    table = {"base": measured.get("test base", lambda: success(base, jobs, "test"))}
    models = {name: specialist(name, seed, cache) for name in jobs}
    table["specialists"] = {
        name: measured.get(f"test specialist {name}", lambda n=name, m=model: success(m, [n], "test"))[name]
        for name, model in models.items()
    }
    paths = {name: cache / f"{name}-{seed}" / "model" for name in jobs}
    for method in methods:
        if method in CHOICES:
            table[method] = by_weights(list(models.values()), base, method, jobs, seed, measured)
            continue
        config, out = LITTLE if little else DISTILLATIONS[method], cache / f"{method}-{seed}-merged"
        table[method] = measured.get(f"test {config}", lambda c=config, o=out: distilled(paths, jobs, c, seed, o))
    return table


def kept(table: Mapping[str, Success], method: str, job: str) -> float:
    """Percent of the specialist's gain."""
    gain = table["specialists"][job] - table["base"][job]
    assert gain > 0, f"the specialist of {job} gained nothing"
    return 100 * (table[method][job] - table["base"][job]) / gain


def shown(found: Success) -> str:
    return "  ".join(f"{job} {share:.1%}" for job, share in found.items())


def record(
    results: Results, tables: Mapping[int, Mapping[str, Success]], jobs: Sequence[str], methods: Sequence[str]
) -> None:
    """Figures of all seeds measured so far."""
    for seed, table in tables.items():
        for method in methods:
            by_job = {job: kept(table, method, job) for job in jobs}
            for job, percent in by_job.items():
                results.sample(f"retained_gain_percent_{method}_{job}", seed, percent, "percent")
            results.sample(f"retained_gain_percent_{method}", seed, float(np.mean(list(by_job.values()))), "percent")
            if method in DISTILLATIONS:
                results.sample(f"seconds_{method}", seed, table[method]["seconds"], "s")
    if DEFAULT in methods:
        means = {j: float(np.mean([kept(t, DEFAULT, j) for t in tables.values()])) for j in jobs}
        results.figure("retained_gain_percent_min", min(means.values()), "percent")
    for method, config in DISTILLATIONS.items():
        if method in methods:
            episodes = (config.watched + config.steps * config.tasks) * len(jobs)
            results.figure(f"episodes_{method}", episodes, "episodes")
    results.detail("success", {str(seed): table for seed, table in tables.items()})


def main() -> None:
    command = parser(__doc__)
    command.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    options = command.parse_args()
    torch.set_num_threads(1)
    jobs = ["maze", "hops"] if options.quick else list(SPECIALTIES)
    tables: dict[int, dict[str, Success]] = {}
    for seed in options.seeds:  # what is written is complete after each
        tables[seed] = measure(seed, jobs, options.methods, options.quick, CACHE)
        results = Results("merge", seeds=sorted(tables), quick=options.quick)
        record(results, tables, jobs, options.methods)
        results.write()
        if not options.quick:
            every = {m: {j: [kept(t, m, j) for t in tables.values()] for j in jobs} for m in options.methods}
            draw(every, FOLDER / "merge.png")


if __name__ == "__main__":
    main()
