"""Learning runs that are played once: a run that was interrupted is continued, and one that is finished is read.

All use the settings that needed the fewest attempts in the maze (docs/LOG.md, "what V's credit is worth in the maze"),
but for the policy's replay, which takes three times as long: one episode of each of 128 tasks a step, V of the
discounted return by TD(0.7) targets, a short lambda, and several updates from each step's episodes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import journeyman
from bench.efficiency.runs import read_curve
from bench.efficiency.stats import Curve
from journeyman.config import LearnConfig
from journeyman.exam.exam import ExamConfig
from journeyman.learn.credit import CreditConfig
from journeyman.learn.learner import UpdateConfig
from journeyman.loop import learn
from journeyman.run import read_lines, write_atomically

STEP = 128
"""Episodes of one step."""
CREDIT = CreditConfig(rule="gae", unit="turn", gamma=0.95, lambda_policy=0.5, lambda_value=0.7)
CACHE = Path.home() / ".cache" / "journeyman-bench"


@dataclass(frozen=True)
class Played:
    """What a run came to.

    Attributes:
        curve: what had been spent at each exam, and the success then.
        taught: share of its turns that a teacher said; all, where there was school and nothing else.
    """

    curve: Curve
    taught: float


def learning(spec: str, seed: int, budget: int, *, exam_every: int, attempts: int, updates: int = 8) -> LearnConfig:
    """A run of so many trajectories from the apprentice.

    Args:
        exam_every: trajectories between exams on held-out tasks.
        attempts: episodes of each of (at most) 200 tasks in an exam.
        updates: of the policy in each step.
    """
    return LearnConfig(
        jobs=(spec,),
        model="apprentice",
        steps=budget // STEP,
        tasks=STEP,
        repeats=1,
        seed=seed,
        credit=CREDIT,
        update=UpdateConfig(minibatches=updates),
        value_warmup=2,
        exam=ExamConfig(tasks=200, attempts=attempts, splits=("test",)),
        exam_every=exam_every // STEP,
        threads=1,
    )


def played(config: LearnConfig, label: str, cache: Path) -> Played:
    """Play the run, or as much as is missing of it; the cache remembers it by its settings and our source."""
    place = cache / f"{label}-{_digest(config)}"
    file = place.with_suffix(".json")
    if not file.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        for record in learn(config, place):
            if record["kind"] == "exam":
                print(f"  {label}: step {record['step']}, {record['success']:.1%}", flush=True)
        steps = [r for r in read_lines(place / "metrics.jsonl") if r["kind"] == "learn"]
        taught = steps[-1]["taught"] / steps[-1]["turns"] if steps else 1.0
        kept = {"curve": asdict(read_curve(place)), "taught": taught}
        write_atomically(file, json.dumps(kept))
        shutil.rmtree(place)
    kept = json.loads(file.read_text())
    return Played(Curve(**{name: tuple(column) for name, column in kept["curve"].items()}), kept["taught"])


def _digest(config: LearnConfig) -> str:
    """Of all that the run follows from."""
    digest = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode())
    for source in sorted(Path(journeyman.__file__).parent.rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]
