"""One run of one method: play it, examine it on the way, keep its curve.

    python -m bench.efficiency.runs ORDER OUT CACHE          ORDER as JSON; bench/sample_efficiency.py calls this

Only learning is counted: the time of exams and of saving is left out for all methods alike. Everything else is charged:
V's warm-up, its updates, and episodes that nothing was learned from. A run that was interrupted is continued.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.common import provenance, versions
from bench.efficiency.methods import METHODS, REPEATS, Settings, shared
from bench.efficiency.starts import start
from bench.efficiency.stats import Curve
from bench.efficiency.subjects import SUBJECTS, Subject
from journeyman.exam.exam import ExamConfig, examine
from journeyman.jobs import resolve
from journeyman.learn.learner import Learner, UpdateConfig
from journeyman.loop import learn
from journeyman.model.load import load
from journeyman.model.render import Renderer
from journeyman.run import read_config, read_lines, write_atomically
from journeyman.stages import native_engine


@dataclass(frozen=True)
class Order:
    """A run that is wanted."""

    job: str
    """A name in `SUBJECTS`."""
    method: str
    seed: int
    settings: Settings
    split: str
    """Examined on."""
    budget: int
    """Trajectories."""
    label: str = ""
    """Tells runs apart that differ in the settings alone."""

    @property
    def name(self) -> str:
        return ".".join([self.job, self.method, *([self.label] if self.label else []), str(self.seed)])

    @property
    def subject(self) -> Subject:
        return SUBJECTS[self.job]

    def identity(self) -> dict[str, Any]:
        """What a curve has to have been made by to be this order's: the thresholds have no part in it."""
        subject = {
            k: v for k, v in asdict(self.subject).items() if k not in ("thresholds", "length", "budget", "tuned_as")
        }
        return json.loads(json.dumps({**asdict(self), "subject": subject}))


def finished(file: Path, order: Order) -> Curve | None:
    """The curve in the file, if this order made it."""
    if not file.exists():
        return None
    kept = json.loads(file.read_text())
    if kept["order"] != order.identity():
        return None
    return Curve(**{name: tuple(column) for name, column in kept["curve"].items()})


def play(order: Order, out: Path, cache: Path) -> None:
    """Play the run and write its curve, with what it takes to do it again."""
    name = versions().get("source", "unknown")
    place = cache / "runs" / f"{order.name}-{name}"  # other code continues nobody's run
    model = start(order.subject, cache)
    curve, config = (ours if METHODS[order.method].configure else theirs)(order, model, place)
    kept = {"order": order.identity(), "curve": asdict(curve), "config": config, "provenance": provenance([order.seed])}
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = (f"{json.dumps(key)}: {json.dumps(part)}" for key, part in kept.items())
    write_atomically(out, "{\n" + ",\n".join(lines) + "\n}\n")
    shutil.rmtree(place)


def ours(order: Order, model: str, folder: Path) -> tuple[Curve, dict[str, Any]]:
    """A run of Journeyman; its folder remembers how far it came."""
    configure = METHODS[order.method].configure
    assert configure is not None
    base = shared(order.subject, model, order.seed, order.settings, order.split, order.budget)
    config = configure(base, order.settings)
    settings = json.loads(json.dumps(asdict(config)))
    if (folder / "config.json").exists() and read_config(folder) != settings:
        shutil.rmtree(folder)
    for record in learn(config, folder):
        if record["kind"] == "exam":
            print(f"  {order.name}: step {record['step']}, {record['success']:.1%}", flush=True)
    return read_curve(folder), {**settings, "model": Path(model).name}


def read_curve(folder: Path) -> Curve:
    """The curve of a run folder."""
    spent: dict[int, tuple[int, int, float]] = {0: (0, 0, 0.0)}
    seconds = 0.0
    for record in read_lines(folder / "metrics.jsonl"):
        if record["kind"] == "learn":
            seconds += record["time/collect"] + record["time/update"]
            spent[record["step"]] = (record["trajectories"], record["tokens"], seconds / 60)
    exams = read_lines(folder / "exams.jsonl")
    trajectories, tokens, minutes = zip(*(spent[exam["step"]] for exam in exams), strict=True)
    return Curve(trajectories, tokens, minutes, tuple(exam["success"] for exam in exams))


def theirs(order: Order, model: str, folder: Path) -> tuple[Curve, dict[str, Any]]:
    """A run of TRL, which keeps its weights at intervals; these are examined afterwards as ours are."""
    shutil.rmtree(folder, ignore_errors=True)
    subject = order.subject
    tasks = int(order.settings["tasks"])
    step = tasks * REPEATS
    request: dict[str, Any] = {
        "model": model, "job": subject.spec, "seed": order.seed, "settings": order.settings,
        "steps": order.budget // step, "tasks": tasks, "repeats": REPEATS,
        "keep_every": max(subject.exam_every // step, 1),
    }  # fmt: skip
    subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "bench.efficiency.trl_run", json.dumps(request), str(folder)], check=True
    )
    job = resolve(subject.spec)
    exam = shared(subject, model, order.seed, order.settings, order.split, order.budget).exam
    rows = [{"step": 0, "trajectories": 0, "tokens": 0, "minutes": 0.0}, *read_lines(folder / "spent.jsonl")]
    success = [
        examined(model if not row["step"] else str(folder / f"{row['step']}"), job, exam, row["step"]) for row in rows
    ]
    columns = {name: tuple(row[name] for row in rows) for name in ("trajectories", "tokens", "minutes")}
    return Curve(**columns, success=tuple(success)), {**request, "model": Path(model).name}


def examined(checkpoint: str, job: Any, config: ExamConfig, step: int) -> float:
    """A checkpoint's success in the exam that a run of ours would take after this step."""
    loaded = load(checkpoint)
    learner = Learner(loaded.model, None, UpdateConfig(), keep_reference=False)
    engine = native_engine(learner, slots=128, context=1024)
    results, _ = examine(engine, Renderer(loaded.tokenizer), learner.score, {job.name: job}, config, step=step)
    return results[0].success


def main() -> None:
    order, out, cache = sys.argv[1:]
    play(Order(**json.loads(order)), Path(out), Path(cache))


if __name__ == "__main__":
    main()
