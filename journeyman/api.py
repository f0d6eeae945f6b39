"""What the command line does, as functions: `learn` is in `loop.py`, the rest is here."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from journeyman.errors import UsageError
from journeyman.exam.exam import ExamConfig, ExamResult, examine, splits_of
from journeyman.jobs import resolve
from journeyman.learn.learner import Learner, UpdateConfig
from journeyman.learn.school import SchoolConfig, demonstrations, read_text
from journeyman.learn.school import school as lessons_learned
from journeyman.model.load import LoadedModel, load, save
from journeyman.model.render import Renderer
from journeyman.model.tiny import fresh, is_tiny
from journeyman.prefixes import PrefixScorer, ValueEstimate
from journeyman.search.runner import no_value
from journeyman.search.strategies import SearchConfig
from journeyman.stages import Record, native_engine
from journeyman.types import Trajectory


def check_free(folder: Path, fix: str = "choose another") -> None:
    """Refuse to write over what is there.

    Raises:
        UsageError: the place is taken.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not an empty folder", fix=fix)


def school(
    lesson: str, out: Path | str, model: str = "tiny", config: SchoolConfig | None = None, seed: int = 0
) -> Iterator[Record]:
    """Teach `model` by the demonstrations of a job's expert, or by the text of a `.txt` file; write it to `out`.

    Yields:
        One record per update: `kind`, `step`, `loss`, `tokens`, `seconds`.

    Raises:
        UsageError: nothing to learn, or a model from scratch is asked to learn from text alone.
        JobError: the job has no expert.
    """
    config = config or SchoolConfig()
    out = Path(out)
    check_free(out, "choose another with --out")
    torch.manual_seed(seed)
    started = time.monotonic()
    is_text = lesson.endswith(".txt")
    if is_text and is_tiny(model):
        raise UsageError(
            "a model from scratch needs a job, for its tokenizer is made for one",
            fix="school it on a job first, then give that checkpoint with --model",
        )
    jobs = [] if is_text else [resolve(lesson)]
    loaded = fresh(model, jobs) if is_tiny(model) else load(model)
    renderer = Renderer(loaded.tokenizer)
    if is_text:
        lessons = read_text(Path(lesson), renderer, min(loaded.model.config.max_positions, 512))
    else:
        lessons = demonstrations(jobs, config.demonstrations, seed, renderer)
    learner = Learner(loaded.model, None, UpdateConfig(), keep_reference=False)
    updates = config.updates_for(from_scratch=True)
    for step, metrics in enumerate(lessons_learned(learner, lessons, config, updates, seed=seed)):
        yield {"kind": "school", "step": step, "seconds": time.monotonic() - started, **metrics}
    save(out, loaded.model, loaded.tokenizer)


def exam(
    model: str | Path,
    job: str,
    config: ExamConfig | None = None,
    *,
    search: SearchConfig | None = None,
    slots: int = 64,
    context: int = 1024,
) -> Iterator[ExamResult]:
    """Examine a run, a checkpoint or a named model on a job, split by split.

    Args:
        search: how long it thinks about each task, and how; when not given, every answer is a plain attempt.

    Raises:
        UsageError: a search whose strategy needs a value function, which the model has not; and as its message says.
    """
    config, search = config or ExamConfig(), search or SearchConfig()
    loaded = open_model(model)
    if search.think > 1 and search.asks_value and loaded.value is None:
        raise no_value(search)
    learner = Learner(loaded.model, loaded.value, UpdateConfig(), keep_reference=False)
    engine = native_engine(learner, slots=max(slots, search.slots), context=context)
    examined = resolve(job)
    for split in splits_of(examined, config.splits):
        part = replace(config, splits=(split,))
        renderer = Renderer(loaded.tokenizer)
        results, _ = examine(engine, renderer, learner.score, {job: examined}, part, step=0, thinking=search)
        yield from results


def value_of(
    model: str | Path,
    episodes: Iterable[Mapping[str, Any] | Trajectory],
    *,
    job: str | None = None,
    temperature: float = 1.0,
    batch: int = 64,
) -> Iterator[ValueEstimate]:
    """What the V of a run or a checkpoint expects of episodes so far, in their order.

    Args:
        episodes: as `prefixes.py` has them, or trajectories, such as `Store.episodes()` gives.
        job: whose calibration to use where an episode names no job; none: that of all jobs together.
        temperature: at which replies were sampled, where an episode does not say.
        batch: episodes that are taken in before they are answered together; 1 where each comes only after an answer.

    Raises:
        UsageError: there is no value function, or an episode is none.
        UnknownName: the checkpoint knows nothing of the job.
    """
    scorer = PrefixScorer(open_model(model), job=job, temperature=temperature)
    numbered = enumerate(episodes, 1)
    while taken := list(islice(numbered, batch)):
        yield from scorer.estimate([scorer.read(record, number) for number, record in taken])


def open_model(name: str | Path) -> LoadedModel:
    """A model by the name of its run folder, its checkpoint folder, or as :func:`load` knows it.

    Raises:
        UsageError: the run has no finished checkpoint yet.
    """
    folder = Path(name)
    is_checkpoint = any(folder.glob("*.safetensors"))  # which was served, and so has its experience beside it
    if (folder / "experience.sqlite").exists() and not is_checkpoint:
        finished = [f for f in (folder / "model", *sorted((folder / "checkpoints").glob("step-*"))[::-1]) if f.is_dir()]
        if not finished:
            raise UsageError(f"the run {folder} has no checkpoint yet", fix="let it go on: give its command again")
        return load(str(finished[0]))
    return load(str(name))
