"""Several models become one, or a large one a small one: `merge` and `distill`, from and to checkpoints."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from journeyman.api import check_free, open_model
from journeyman.config import LearnConfig, settled
from journeyman.errors import UsageError
from journeyman.exam.exam import ExamConfig, examine
from journeyman.jobs import resolve
from journeyman.jobs.base import Job
from journeyman.learn.distill import SLOTS, DistillConfig, watch
from journeyman.learn.distill import distill as distilled
from journeyman.learn.learner import Learner, UpdateConfig
from journeyman.learn.merge import MergeConfig, check_readers, merge_models
from journeyman.model.decoder import Decoder
from journeyman.model.load import LoadedModel, save
from journeyman.model.render import Renderer
from journeyman.model.tiny import is_tiny, untaught
from journeyman.model.value import ValueFunction
from journeyman.run import read_config
from journeyman.stages import Record, native_engine


@dataclass(frozen=True)
class Cost:
    """What a model makes of a job's held-out tasks, and what one of them costs.

    Attributes:
        success: share of the tasks' episodes, with its 95% interval, clustered by task.
        parameters: of the policy, without the embedding of the vocabulary.
        tokens: read and sampled in one episode.
        gflop: of one episode: twice the parameters for each token (2001.08361, section 2.1).
        seconds: of one episode, many being played at once.
    """

    job: str
    success: float
    low: float
    high: float
    parameters: int
    tokens: float
    gflop: float
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def merge(
    models: Sequence[str | Path], into: str | Path, base: str | Path | None = None, config: MergeConfig | None = None
) -> LoadedModel:
    """Merge the weights of runs or checkpoints into one checkpoint, value functions included.

    Raises:
        UsageError: there is something at `into`, or the models cannot be merged; CheckpointError: one is not there.
    """
    check_free(Path(into))
    merged = merged_weights(models, base, config or MergeConfig())
    save(into, merged.model, merged.tokenizer, merged.value)
    return merged


def merged_weights(models: Sequence[str | Path], base: str | Path | None, config: MergeConfig) -> LoadedModel:
    """The merged model itself."""
    began = None if base is None else open_model(base)
    return merge_models([open_model(model) for model in models], began, config)


def distill(
    teachers: Mapping[str, str | Path],
    out: str | Path,
    student: str | Path | LoadedModel,
    config: DistillConfig | None = None,
    seed: int = 0,
) -> Iterator[Record]:
    """Teach a student every job by that job's teacher, on the student's own episodes; write it to `out`.

    Args:
        teachers: a model's name for each job.
        student: `tiny,...` begins from nothing, with the teachers' tokenizer; a name, or a model such as
            :func:`merged_weights` gives.

    Yields:
        A record per update of imitation (`kind` "school") and per step of distillation ("distill").

    Raises:
        UsageError: there is something at `out`, or the tokenizers are unlike.
    """
    config = config or DistillConfig()
    check_free(Path(out))
    torch.manual_seed(seed)
    jobs = {job.name: job for job in map(resolve, teachers)}
    loaded = {resolve(job).name: open_model(model) for job, model in teachers.items()}
    pupil = _student(student, next(iter(loaded.values())))
    for teacher in loaded.values():
        check_readers(pupil, teacher)
    learner = _learner(pupil, list(loaded.values()), jobs, config)
    engine = native_engine(learner, slots=SLOTS, context=pupil.model.config.max_positions)
    renderer, models = Renderer(pupil.tokenizer), {name: teacher.model for name, teacher in loaded.items()}
    credit, started = settled(LearnConfig(jobs=tuple(jobs)), jobs.values()).credit, time.monotonic()
    if config.watched:
        shown = watch(learner, renderer, jobs, models, config.school, config.watched, seed=seed)
        for number, metrics in enumerate(shown):
            yield {"kind": "school", "step": number, "seconds": time.monotonic() - started, **metrics}
    taught = distilled(learner, engine, renderer, jobs, models, config, credit, seed=seed)
    for number, metrics in enumerate(taught, 1):
        yield {"kind": "distill", "step": number, "seconds": time.monotonic() - started, **metrics}
    save(out, learner.policy, pupil.tokenizer, learner.value)


def cost(model: LoadedModel, job: str, config: ExamConfig | None = None) -> Cost:
    """Success on a job's split `test` against cost per task."""
    learner = Learner(model.model, None, UpdateConfig(), keep_reference=False)
    engine = native_engine(learner, slots=SLOTS, context=model.model.config.max_positions)
    chosen = replace(config or ExamConfig(), splits=("test",))
    known = resolve(job)
    jobs = {known.name: known}
    [result], _ = examine(engine, Renderer(model.tokenizer), learner.score, jobs, chosen, step=0)
    parameters = sum(p.numel() for name, p in model.model.named_parameters() if "embed" not in name)
    tokens = result.tokens / result.episodes
    return Cost(
        job=known.name,
        success=result.success,
        low=result.low,
        high=result.high,
        parameters=parameters,
        tokens=tokens,
        gflop=2e-9 * parameters * tokens,
        seconds=result.seconds / result.episodes,
    )


def jobs_of(models: Sequence[str], given: Sequence[str]) -> dict[str, str]:
    """Which model teaches which job: as given in the models' order, or what each run learned.

    Raises:
        UsageError: it is not known, or two teach the same.
    """
    if given and len(given) != len(models):
        raise UsageError(
            f"merge: {len(given)} jobs for {len(models)} models",
            reason="each model teaches the job at its own place",
            fix="name one job for each model, in their order",
        )
    teachers: dict[str, str] = {}
    for place, model in enumerate(models):
        known = [given[place]] if given else _learned(model)
        for job in known:
            name = resolve(job).name
            if name in teachers:
                raise UsageError(
                    f"merge: {teachers[name]} and {model} both teach {name}",
                    reason="a prompt has one teacher",
                    fix="name each model's own job with --jobs",
                )
            teachers[name] = model
    return teachers


def _learned(model: str) -> list[str]:
    if not (Path(model) / "experience.sqlite").exists():
        raise UsageError(
            f"merge: it is not known what {model} is a specialist of",
            reason="it is a checkpoint, not a run",
            fix="name one job for each model, in their order: --jobs JOB JOB",
        )
    return list(read_config(Path(model))["jobs"])


def _student(student: str | Path | LoadedModel, teacher: LoadedModel) -> LoadedModel:
    if isinstance(student, LoadedModel):
        return student
    return untaught(str(student), teacher.tokenizer) if is_tiny(str(student)) else open_model(student)


def _learner(
    pupil: LoadedModel, teachers: Sequence[LoadedModel], jobs: Mapping[str, Job], config: DistillConfig
) -> Learner:
    """With a V where the student has one, or all teachers have: it is taught from the student's own outcomes."""
    policy: Decoder = deepcopy(pupil.model)
    optimizer = config.optimizer.fitted(policy.config.hidden_size, 0.5)
    update = UpdateConfig(policy=optimizer)
    kinds = [t.value.config for t in teachers if t.value is not None]
    value = deepcopy(pupil.value)
    if value is None and len(kinds) == len(teachers):
        value = ValueFunction.start(kinds[0], policy)
    return Learner(policy, value, update, keep_reference=False)
