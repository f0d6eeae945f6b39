"""Which episodes to show: those from which a reader learns most, and those a reader asks for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from journeyman.errors import UnknownName, UsageError
from journeyman.experience.store import Store
from journeyman.report.run import Run
from journeyman.report.trace import known_values
from journeyman.report.words import percent, plural
from journeyman.types import Ending, Trajectory

RECENT = 400
"""Learning episodes to choose from where a run has no exams."""


@dataclass(frozen=True)
class Story:
    """Why an episode, or two of one task, is worth reading.

    Attributes:
        job: whose it is.
        title: a few words.
        why: a sentence.
        episodes: (label, episode), in the order to read them.
    """

    job: str
    title: str
    why: str
    episodes: tuple[tuple[str, Trajectory], ...]


def exam_step(id: str) -> int | None:
    """The step whose exam asked for the episode, from its id "exam-<step>-..."; None for a learning episode."""
    found = re.match(r"exam-(\d+)-", id)
    return int(found[1]) if found else None


def read_candidates(run: Run) -> list[Trajectory]:
    """Episodes of the first and the last exam, or without exams the last few learned from.

    Raises:
        StoreError: the run's episodes cannot be read.
    """
    path = run.folder / "experience.sqlite"
    if not path.exists():
        return []
    steps = sorted({exam.step for exam in run.exams})
    ends = dict.fromkeys((*steps[:1], *steps[-1:]))
    with Store(path) as store:
        found = [t for step in ends for t in store.episodes(prefix=f"exam-{step:06d}-")]
        return found or list(store.episodes(min_step=0, latest=True, limit=RECENT))


def tell(candidates: Iterable[Trajectory], per_job: int = 3) -> list[Story]:
    """For each job: one task before and after learning, a failure V foresaw, a recovery; else any success."""
    jobs: dict[str, list[Trajectory]] = {}
    for trajectory in candidates:
        if trajectory.outcome.ending is not Ending.FAILED and trajectory.turns:
            jobs.setdefault(trajectory.task.job, []).append(trajectory)
    stories: list[Story] = []
    for job, episodes in jobs.items():
        told: list[Story] = []
        used: set[str] = set()
        for make in (_before_and_after, _foreseen_failure, _recovery, _success):
            story = make(job, [episode for episode in episodes if episode.id not in used])
            if story is not None and len(told) < per_job:
                told.append(story)
                used |= {episode.id for _, episode in story.episodes}
        stories += told
    return stories


def find_trajectories(
    run_folder: Path,
    *,
    id: str | None = None,
    job: str | None = None,
    split: str | None = None,
    outcome: str | None = None,
    limit: int = 1,
) -> list[Trajectory]:
    """The latest episodes of a run that match, the newest last.

    Args:
        id: the whole id, or its beginning.
        outcome: "success", "failure" (not a success), or how it ended: "terminated", "truncated",
            "stopped", "failed".

    Raises:
        UsageError: the run has no episodes, or none that match.
        UnknownName: an outcome, or an id, that does not exist; the nearest ones are named.
    """
    endings = {ending.value: ending for ending in Ending}
    if outcome is not None and outcome not in ("success", "failure", *endings):
        raise UnknownName("outcome", outcome, ["success", "failure", *endings])
    path = run_folder / "experience.sqlite"
    if not path.exists():
        raise UsageError(
            f"no episodes in {run_folder}",
            reason="it has no experience.sqlite",
            fix="give a run folder that `journeyman learn` wrote, e.g. runs/demo",
        )
    ending = endings.get(outcome or "")
    found: list[Trajectory] = []
    with Store(path) as store:
        for most in (16 * limit, 1024 * limit, None):
            latest = store.episodes(job=job, split=split, ending=ending, prefix=id, latest=True, limit=most)
            found = list(islice((t for t in latest if _matches(t, outcome)), limit))
            if len(found) == limit:
                break
        if not found and id is not None and store.count():
            store.episode(id)  # names the nearest ids
        if not found:
            wanted = {"id": id, "job": job, "split": split, "outcome": outcome}
            asked = ", ".join(f"{key} {value}" for key, value in wanted.items() if value is not None)
            raise UsageError(
                f"no episode with {asked}" if asked else f"no episodes in {run_folder}",
                reason=f"the run's episodes are of {', '.join(_kinds(store.episodes())) or 'no job yet'}",
                fix="ask for less, or let the run go on",
            )
    return found[::-1]


def _kinds(episodes: Iterator[Trajectory]) -> list[str]:
    return sorted({f"{episode.task.job}/{episode.task.split}" for episode in episodes})


def _matches(trajectory: Trajectory, outcome: str | None) -> bool:
    result = trajectory.outcome
    if outcome == "success":
        return result.success
    if outcome == "failure":
        return not result.success and result.ending is not Ending.FAILED
    return outcome is None or result.ending.value == outcome


def _label(trajectory: Trajectory) -> str:
    step = exam_step(trajectory.id)
    if step is None:
        return f"in practice, step {trajectory.step}"
    return "before practice" if step == 0 else f"after {plural(step, 'step')} of practice"


def _values(trajectory: Trajectory) -> list[float]:
    return [value for _, value in known_values(trajectory)]


def _cost(trajectory: Trajectory) -> float:
    """What speaks against showing it, in units of V: very long or short, or not of the held-out split."""
    turns = min(abs(len(trajectory.turns) - 8), 16) / 50
    return len(trajectory) / 2000 + turns + (0.0 if trajectory.task.split == "test" else 0.15)


def _before_and_after(job: str, episodes: list[Trajectory]) -> Story | None:
    first = {t.task.id: t for t in episodes if exam_step(t.id) == 0 and not t.outcome.success}
    best: tuple[float, Trajectory, Trajectory] | None = None
    for after in episodes:
        before = first.get(after.task.id)
        if before is None or not exam_step(after.id) or not after.outcome.success:
            continue
        contrast = (_values(after) or [0.0])[-1] - (_values(before) or [0.0])[-1]
        score = contrast - _cost(before) - _cost(after)
        if best is None or score > best[0]:
            best = (score, before, after)
    if best is None:
        return None
    unseen = "" if best[1].task.split == "train" else " that was never practised"
    return Story(
        job,
        "The same task, before and after",
        f"One task{unseen}, attempted by the model before practice and by the model after it.",
        tuple((_label(episode), episode) for episode in best[1:]),
    )


def _foreseen_failure(job: str, episodes: list[Trajectory]) -> Story | None:
    best: tuple[float, Trajectory, float, float] | None = None
    for episode in episodes:
        values = _values(episode)
        if episode.outcome.success or len(values) < 4:
            continue
        later = sum(values[len(values) // 2 :]) / (len(values) - len(values) // 2)
        peak = max(values[: len(values) // 2])
        score = peak - later - _cost(episode) + (0.2 if exam_step(episode.id) else 0.0)
        if peak - later > 0.15 and (best is None or score > best[0]):
            best = (score, episode, peak, later)
    if best is None:
        return None
    _, episode, peak, later = best
    why = (
        f"V stood at {percent(peak)} in the first half and averaged {percent(later)} over the second: "
        "the model knew before the grader said so."
    )
    return Story(job, "A failure it saw coming", why, ((_label(episode), episode),))


def _recovery(job: str, episodes: list[Trajectory]) -> Story | None:
    best: tuple[float, Trajectory, float, float] | None = None
    for episode in episodes:
        values = _values(episode)
        if not episode.outcome.success or len(values) < 5:
            continue
        inner = range(len(values) // 10 + 1, len(values) - len(values) // 10 - 1)
        low = min(inner, key=lambda i: values[i], default=0)
        dip = min(max(values[: low + 1]), values[-1]) - values[low]
        score = dip - _cost(episode) + (0.2 if exam_step(episode.id) else 0.0)
        if dip > 0.15 and (best is None or score > best[0]):
            best = (score, episode, max(values[: low + 1]), values[low])
    if best is None:
        return None
    _, episode, high, low = best
    why = f"V fell from {percent(high)} to {percent(low)}, the model found its way back, and it succeeded."
    return Story(job, "A recovery", why, ((_label(episode), episode),))


def _success(job: str, episodes: list[Trajectory]) -> Story | None:
    """Something to look at where all else is missing: the success (or failure) that moved V most."""
    ranked = sorted(
        episodes,
        key=lambda t: (
            t.outcome.success,
            max(_values(t), default=0.0) - min(_values(t), default=0.0) - _cost(t),
        ),
    )
    if not ranked:
        return None
    episode = ranked[-1]
    won = episode.outcome.success
    why = "It solved the task." if won else "It did not solve the task."
    return Story(job, "A success" if won else "An attempt", why, ((_label(episode), episode),))
