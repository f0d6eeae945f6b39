"""`journeyman merge` and `journeyman distill`: several models become one, or a large one a small one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from tyro.conf import Positional

from journeyman.errors import UsageError
from journeyman.exam.exam import ExamConfig
from journeyman.learn.distill import DistillConfig
from journeyman.learn.merge import MergeConfig, Method
from journeyman.stages import Record

console = Console(stderr=True)
Usual = Annotated[DistillConfig, tyro.conf.arg(name="distill")]


@dataclass(frozen=True)
class Merge:
    """Make one model of several that began as the same one and learned different jobs: from their merged weights, what
    each specialist does well is learned and then played, each prompt graded by its own; or by weights alone."""

    models: Positional[tuple[str, ...]]
    """Run folders or checkpoints, at least two."""
    into: Path
    """Folder for the checkpoint."""
    base: str | None = None
    """What they began as, such as reference/ in a run's folder; all methods but average (and its distill) need it."""
    method: Literal[Method, "distill"] = "distill"
    """How: see docs/continual.md, which has the figures."""
    start: Method = "average"
    """The weights that distill starts from."""
    scale: float | None = None
    """What the merged change is multiplied by; by default as the method's paper has it."""
    density: float | None = None
    """Share of entries that ties and dare keep; by default as their papers have it."""
    threshold: float = 1e-5
    """For ram, the change of an entry up to which a model counts as not having moved it."""
    jobs: tuple[str, ...] = ()
    """For distill: each model's job, in their order. Runs know theirs."""
    seed: int = 0
    """Fixes everything random."""
    distill: Usual = field(default_factory=DistillConfig)
    """How long, for distill."""
    json: bool = False
    """Print records as JSON lines."""

    def __call__(self) -> None:
        from journeyman import amalgamate
        from journeyman.api import check_free

        by_weights: Method = self.start if self.method == "distill" else self.method
        config = MergeConfig(by_weights, self.scale, self.density, self.threshold, self.seed)
        if self.jobs and self.method != "distill":
            raise UsageError("merge: --jobs is of no use without playing", fix="leave them or --method out")
        if self.method == "distill":
            check_free(self.into)
            teachers = amalgamate.jobs_of(self.models, self.jobs)
            start = amalgamate.merged_weights(self.models, self.base, config)
            follow(amalgamate.distill(teachers, self.into, start, self.distill, self.seed), self.json)
            has_value = (self.into / "value").exists()
        else:
            has_value = amalgamate.merge(self.models, self.into, self.base, config).value is not None
        without = "" if has_value else "; it has no value function, as not all of them have one"
        console.print(f"the checkpoint is in {self.into}{without}")


@dataclass(frozen=True)
class Distill:
    """Teach a student a job by a teacher that knows it, at a fraction of the teacher's cost: it imitates some of the
    teacher's episodes, then plays, and every token of its own is graded by the teacher."""

    teacher: Positional[str]
    """A run folder, a checkpoint, or a Hub name."""
    job: str
    """What is taught."""
    out: Path
    """Folder for the checkpoint."""
    student: str = "tiny,width=64,layers=2"
    """Who is taught: a small model from scratch, with the teacher's tokenizer, or a checkpoint that has it."""
    distill: Usual = field(default_factory=DistillConfig)
    """How long."""
    seed: int = 0
    """Fixes everything random."""
    exam: Annotated[ExamConfig, tyro.conf.arg(name="exam")] = field(default_factory=ExamConfig)
    """How much of the split `test` is asked of both at the end."""
    json: bool = False
    """Print records as JSON lines."""

    def __call__(self) -> None:
        from journeyman import amalgamate
        from journeyman.api import open_model

        follow(amalgamate.distill({self.job: self.teacher}, self.out, self.student, self.distill, self.seed), self.json)
        for who, model in (("teacher", self.teacher), ("student", str(self.out))):
            spent = amalgamate.cost(open_model(model), self.job, self.exam)
            if self.json:
                print(json.dumps({"kind": "cost", "who": who, **spent.as_dict()}))
                continue
            told = f"{spent.success:6.1%} [{spent.low:.1%}, {spent.high:.1%}]  {spent.gflop:.3g} GFLOP and"
            console.print(f"{who}  {told} {1000 * spent.seconds:.3g} ms per task", highlight=False)
        console.print(f"the checkpoint is in {self.out}")


def follow(records: Iterable[Record], as_json: bool) -> None:
    """Consume records and show them: as JSON lines, or the last of each kind on the terminal, now and then."""
    for record in records:
        if as_json:
            print(json.dumps(record), flush=True)
        elif record["kind"] == "distill" and record["step"] % 10 == 0:
            done = [
                f"{name.removesuffix('/success')} {v:.0%}" for name, v in record.items() if name.endswith("success")
            ]
            told = f"step {record['step']}  divergence {record['policy/divergence']:.4f}  {'  '.join(done)}"
            console.print(told, highlight=False)
