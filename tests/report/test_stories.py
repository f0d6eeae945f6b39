"""Choosing episodes: those that tell most, and those asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from journeyman.errors import UnknownName, UsageError
from journeyman.report.run import read_run
from journeyman.report.stories import exam_step, find_trajectories, read_candidates, tell
from journeyman.report.trace import known_values
from journeyman.types import Trajectory

MakeRun = Callable[..., Path]
Make = Callable[..., Trajectory]


def test_candidates_are_those_of_the_first_and_the_last_exam(make_run: MakeRun) -> None:
    candidates = read_candidates(read_run(make_run(steps=8)))
    assert {exam_step(t.id) for t in candidates} == {0, 8}
    learned_only = read_candidates(read_run(make_run(exams=False, name="other")))
    assert learned_only and {exam_step(t.id) for t in learned_only} == {None}


def test_each_job_tells_before_and_after_a_foreseen_failure_and_a_recovery(make_run: MakeRun) -> None:
    stories = tell(read_candidates(read_run(make_run(tasks=40))))
    assert [story.job for story in stories] == ["maze"] * 3 + ["hops"] * 3
    for job in ("maze", "hops"):
        pair, failure, recovery = (story for story in stories if story.job == job)
        (_, before), (_, after) = pair.episodes
        assert before.task == after.task and not before.outcome.success and after.outcome.success
        assert "never practised" in pair.why
        ((_, failed),) = failure.episodes
        values = [value for _, value in known_values(failed)]
        assert not failed.outcome.success and max(values[: len(values) // 2]) > values[-1] + 0.15
        ((_, recovered),) = recovery.episodes
        values = [value for _, value in known_values(recovered)]
        assert recovered.outcome.success and min(values) < values[-1] - 0.15
    assert len({t.id for story in stories for _, t in story.episodes}) == 8


def test_without_values_there_is_still_something_to_read(make_run: MakeRun) -> None:
    stories = tell(read_candidates(read_run(make_run(values=False, exams=False))))
    assert [story.title for story in stories] == ["A success", "A success"]
    assert tell([]) == []


def test_only_failures(make_trajectory: Make) -> None:
    lost = make_trajectory("hops", "exam-000000-hops-test-g0001-m00", "train", 4, 0.0)
    assert not lost.outcome.success
    (story,) = tell([lost], per_job=1)
    assert story.title in ("An attempt", "A failure it saw coming")
    assert story.episodes[0][0] == "before practice"


def test_episodes_are_found_by_what_they_are(make_run: MakeRun) -> None:
    folder = make_run(steps=8, tasks=30)
    found = find_trajectories(folder, job="hops", split="test", outcome="failure", limit=2)
    assert len(found) == 2 and all(t.task.job == "hops" and not t.outcome.success for t in found)
    (latest,) = find_trajectories(folder, job="maze", split="test", outcome="success")
    assert exam_step(latest.id) == 8
    (exact,) = find_trajectories(folder, id=latest.id)
    assert exact.id == latest.id
    assert len(find_trajectories(folder, id="exam-000000-maze", limit=5)) == 5
    (cut,) = find_trajectories(folder, outcome="truncated")
    assert cut.outcome.ending == "truncated"


def test_what_is_not_there_is_said_with_what_is(make_run: MakeRun) -> None:
    folder = make_run(("hops",), steps=8)
    with pytest.raises(UnknownName, match="did you mean exam-000008-hops-test-g0001-m00"):
        find_trajectories(folder, id="exam-000008-hops-test-g0001-m0x")
    with pytest.raises(UnknownName, match="success"):
        find_trajectories(folder, outcome="sucess")
    with pytest.raises(UsageError, match=r"no episode with job maze, outcome failed\n.*hops/more_hops"):
        find_trajectories(folder, job="maze", outcome="failed")
    (folder / "experience.sqlite").unlink()
    with pytest.raises(UsageError, match="no episodes in"):
        find_trajectories(folder)
