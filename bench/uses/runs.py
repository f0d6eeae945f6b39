"""Learning runs that are played once: a run that was interrupted is continued, and one that is finished is read.

All use what Journeyman settles by itself for jobs of several turns (docs/value.md).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import journeyman
from bench.common import parser
from bench.efficiency.runs import read_curve
from bench.efficiency.stats import Curve
from journeyman.config import LearnConfig
from journeyman.exam.exam import ExamConfig
from journeyman.loop import learn
from journeyman.run import read_lines, write_atomically

STEP = 32
"""Episodes of one step."""
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


def learning(spec: str, seed: int, budget: int, *, exam_every: int, attempts: int) -> LearnConfig:
    """A run of so many trajectories from the apprentice.

    Args:
        exam_every: trajectories between exams on held-out tasks.
        attempts: episodes of each of (at most) 200 tasks in an exam.
    """
    return LearnConfig(
        jobs=(spec,),
        model="apprentice",
        steps=budget // STEP,
        tasks=STEP,
        repeats=1,
        seed=seed,
        exam=ExamConfig(tasks=200, attempts=attempts, splits=("test",)),
        exam_every=exam_every // STEP,
        checkpoint_every=32,
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


def asked_for(
    about: str | None, jobs: Mapping[str, object], headline: str, arms: Iterable[str] = ()
) -> argparse.Namespace:
    """The command line of a bench over these jobs: `jobs`, `arms` where there are several, `seeds`, `cache`
    and `quick`, which plays the headline's job with one seed."""
    command = parser(about)
    command.set_defaults(seeds=[0, 1, 2])
    command.add_argument("--jobs", nargs="+", choices=list(jobs), default=list(jobs))
    if names := list(arms):
        command.add_argument("--arms", nargs="+", choices=names, default=names)
    command.add_argument("--cache", type=Path, default=CACHE, help="where runs under way and finished are kept")
    chosen = command.parse_args()
    if chosen.quick:
        chosen.jobs, chosen.seeds = [headline], chosen.seeds[:1]
    return chosen
