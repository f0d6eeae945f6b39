"""Environments in processes of their own: the same episodes, nobody waits for the slow, no failure spreads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from journeyman.engine.base import Engine, Reply
from journeyman.engine.fake import ScriptedEngine
from journeyman.engine.native import NativeEngine
from journeyman.errors import UsageError
from journeyman.jobs import resolve
from journeyman.jobs.base import Job
from journeyman.model.load import load
from journeyman.model.render import Renderer
from journeyman.rollout.environments import Answer, Inline
from journeyman.rollout.pool import Pool
from journeyman.rollout.runner import RolloutConfig, attempts, rollout
from journeyman.types import Ending, StepResult, Trajectory
from tests.rollout.places import Places, Stuck

RENDERER = Renderer(load("apprentice").tokenizer)
SAID = RENDERER.reply_ids("north")
LONG = 60.0
"""A limit that no test reaches."""


class Counting(ScriptedEngine):
    """Counts its steps."""

    steps = 0

    def step(self) -> list[Reply]:
        self.steps += 1
        return super().step()


def played(job: Job, *, engine: Engine | None = None, repeats: int = 1, **where: Any) -> list[Trajectory]:
    """All tasks of the job; `where` is `workers` and `seconds`, or a pool as `environments`."""
    return sorted(playing(job, engine=engine, repeats=repeats, **where), key=lambda t: t.id)


def playing(
    job: Job,
    *,
    engine: Engine | None = None,
    repeats: int = 1,
    workers: int = 0,
    seconds: float = LONG,
    environments: Pool | None = None,
) -> Iterator[Trajectory]:
    orders = attempts(list(job.tasks("train", 6)), repeats=repeats, prefix="t", seed=0)
    config = RolloutConfig(workers=workers, seconds_per_step=seconds)
    return rollout(engine or ScriptedEngine(lambda read: SAID), RENDERER, {job.name: job}, orders, config, environments)


def content(t: Trajectory) -> tuple[Any, ...]:
    return t.id, t.tokens.tolist(), t.mask.tolist(), t.logprobs.tolist(), t.turns, t.outcome


def gone(folder: Path) -> bool:
    """Whether none of the processes runs that environments were in, or have started; waits for their last breath."""
    pids = [path.name.removeprefix("pid-") for path in folder.glob("pid-*")]
    assert pids, "there were none"
    for _ in range(500):
        states = subprocess.run(["ps", "-o", "stat=", "-p", ",".join(pids)], capture_output=True, text=True).stdout
        if all(state.startswith("Z") and "l" not in state for state in states.split()):
            return True  # of a dead leader ("Zl") other threads may still hold the pipes open
        time.sleep(0.01)
    return False


@pytest.fixture(scope="module")
def shared() -> Iterator[Pool]:
    with closing(Pool(2, LONG)) as pool:
        yield pool


def test_the_same_episodes_as_in_this_process(shared: Pool, tmp_path: Path) -> None:
    job = Places(tmp_path, "thrice", "raises", "opening-raises", "thrice")
    here, there = played(job, repeats=3), played(job, repeats=3, environments=shared)
    assert [content(t) for t in there] == [content(t) for t in here]
    assert len({path.name for path in tmp_path.glob("pid-*")}) == 3, "two processes and this one"


def test_a_real_engine_samples_the_same(shared: Pool) -> None:
    job = resolve("maze,size=3")
    here, there = (
        played(job, repeats=3, engine=NativeEngine(load("apprentice").model, slots=4, context=256), **where)
        for where in ({}, {"environments": shared})
    )
    assert [(t.tokens.tolist(), t.turns, t.outcome) for t in there] == [
        (t.tokens.tolist(), t.turns, t.outcome) for t in here
    ]
    assert len({len(t) for t in here}) > 1


def test_nobody_waits_for_a_slow_environment(shared: Pool, tmp_path: Path) -> None:
    """The slow one answers its first reply only when the other has ended, three turns later."""
    engine = Counting(lambda read: SAID)
    records = list(playing(Places(tmp_path, "waits", "tells"), engine=engine, environments=shared))
    assert [(t.task.index, t.outcome.reward, t.outcome.ending) for t in records] == [
        (1, 1.5, Ending.TERMINATED),
        (0, 1.5, Ending.TERMINATED),
    ]
    assert engine.steps <= 8, "one for each answer: whoever has nothing to do waits, and does not spin"


def test_who_waits_for_the_place_of_an_idle_sequence_does_not_spin(shared: Pool, tmp_path: Path) -> None:
    class Native(NativeEngine):
        idle = 0

        def step(self) -> list[Reply]:
            self.idle += not self.active.any()
            return super().step()

    engine = Native(load("apprentice").model, slots=1, context=256)
    threading.Timer(0.3, (tmp_path / "sign").touch).start()
    records = played(Places(tmp_path, "waits", "thrice"), engine=engine, environments=shared)
    assert len(records) == 2 and engine.idle <= 8


def test_one_that_hangs_fails_alone_and_its_neighbours_are_rebuilt(tmp_path: Path) -> None:
    job = Places(tmp_path, "thrice", "hangs", "thrice", "opening-hangs")
    first, stuck, second, never = played(job, workers=1, seconds=1.0)
    assert (stuck.outcome.ending, stuck.outcome.boundary) == (Ending.FAILED, "grader")
    assert stuck.outcome.error == "the grader gave no answer within 1 s" and len(stuck.turns) == 2
    assert (never.outcome.ending, never.outcome.boundary) == (Ending.FAILED, "environment")
    assert never.outcome.error == "TimeLimitExceeded: no answer within 1 s" and not never.turns
    alone = played(Places(tmp_path, "thrice"))[0]
    for t in (first, second):
        assert (t.turns, t.outcome, t.tokens.tolist()) == (alone.turns, alone.outcome, alone.tokens.tolist())
    assert len({path.name for path in tmp_path.glob("pid-*")}) == 4, "two took the place of another; and this one"


@pytest.mark.parametrize(("play", "how"), [("exits", "exit code 3"), ("crashes", "SIGSEGV")])
def test_one_that_takes_its_process_along_fails_alone(shared: Pool, tmp_path: Path, play: str, how: str) -> None:
    lost, *others = played(Places(tmp_path, play, "thrice", "thrice", "thrice", "thrice"), environments=shared)
    assert lost.outcome.error == f"the environment's process ended by {how}" and lost.outcome.boundary == "grader"
    assert len(lost.turns) == 2
    alone = played(Places(tmp_path, "thrice"))[0]
    assert all((t.turns, t.outcome) == (alone.turns, alone.outcome) for t in others)


@pytest.mark.parametrize("inline", [True, False])
def test_one_is_opened_where_its_past_replies_lead_or_says_that_they_lead_elsewhere(
    shared: Pool, tmp_path: Path, inline: bool
) -> None:
    home = Inline(LONG) if inline else shared
    job = Places(tmp_path, "thrice")
    past = [("north", StepResult("C1", 0.25)), ("east", StepResult("C2", 0.5))]  # who spoke is not on record
    there, elsewhere = (home.open(job, job.task("train", 0), [past[0], (r, s)]) for r, s in (past[1], past[0]))
    answers: dict[int, Answer] = {}
    while len(answers) < 2:
        answers |= {answer.key: answer for answer in home.answers(wait=True)}
    assert answers[there].error == "" and "answered the same replies otherwise" in answers[elsewhere].error
    home.step(there, "north")
    (last,) = home.answers(wait=not inline)
    assert last.result == StepResult("C3", 0.75, terminated=True, role="user")
    for key in (there, elsewhere):
        home.forget(key)


def test_one_that_cannot_be_rebuilt_fails_and_says_why(tmp_path: Path) -> None:
    fickle, again, lost, well = played(Places(tmp_path, "fickle", "again", "exits", "thrice"), workers=1)
    assert "answered the same replies otherwise" in fickle.outcome.error
    assert again.outcome.error == "the environment's process ended by exit code 4"
    assert lost.outcome.error == "the environment's process ended by exit code 3"
    assert {t.outcome.ending for t in (fickle, again, lost)} == {Ending.FAILED}
    assert well.outcome.ending is Ending.TERMINATED


def test_a_process_that_dies_while_it_has_nothing_to_do_fails_nobody(shared: Pool, tmp_path: Path) -> None:
    job = Places(tmp_path, "thrice")
    before = played(job, environments=shared)
    for path in tmp_path.glob("pid-*"):
        os.kill(int(path.name.removeprefix("pid-")), signal.SIGKILL)
    assert gone(tmp_path)
    assert [content(t) for t in played(job, environments=shared)] == [content(t) for t in before]


def test_a_job_that_cannot_travel_is_refused_and_the_pool_goes_on(shared: Pool, tmp_path: Path) -> None:
    job = Places(tmp_path, "thrice")
    job.name = "mine"
    job.secret = lambda: None  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=r"(?s)the job mine cannot be pickled.*lambda.*Fix: .*workers=0"):
        played(job, environments=shared)
    with pytest.raises(UsageError, match=r"(?s)the job places does not arrive.*no number.*workers=0"):
        played(Stuck(tmp_path, "thrice"), environments=shared)
    assert played(Places(tmp_path, "thrice"), environments=shared)[0].outcome.reward == 1.5


def test_a_job_from_a_users_file(shared: Pool, tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("REWARD = 1.0\n")
    file = tmp_path / "my_job.py"
    file.write_text(
        "from beside import REWARD\n"
        "from journeyman.jobs.base import Env, Job\n"
        "from journeyman.types import Message, StepResult, Task\n"
        "class Mine(Job):\n"
        "    splits = {'train': 2}\n"
        "    def task(self, split, index):\n"
        "        return Task(self.name, split, index, (Message('user', 'A1'),))\n"
        "    def env(self, task):\n"
        "        return Room()\n"
        "class Room(Env):\n"
        "    def step(self, reply):\n"
        "        return StepResult(reward=REWARD, terminated=True)\n"
    )
    job = resolve(f"{file}:Mine")
    file.write_text("the file is being edited\n")
    assert [t.outcome.success for t in played(job, environments=shared)] == [True, True]


def test_who_stops_listening_leaves_no_process(tmp_path: Path) -> None:
    records = playing(Places(tmp_path, "thrice", "waits", "fosters"), workers=3)
    assert next(records).task.index == 0
    records.close()  # type: ignore[attr-defined]
    assert gone(tmp_path)


def test_who_stops_listening_can_play_again_in_the_same_pool(shared: Pool, tmp_path: Path) -> None:
    records = playing(Places(tmp_path, "thrice", "waits"), environments=shared)
    assert next(records).task.index == 0
    records.close()  # type: ignore[attr-defined]
    (tmp_path / "sign").touch()
    job = Places(tmp_path, "thrice", "raises")
    assert [content(t) for t in played(job, environments=shared)] == [content(t) for t in played(job)]


UNENDED = """
import sys, time
from pathlib import Path
from journeyman.rollout.pool import Pool
from tests.rollout.places import Places

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    job = Places(folder, "thrice", "fosters")
    pool = Pool(2, 3600.0)
    for task in job.tasks("train"):
        key = pool.open(job, task)
        while not pool.answers(wait=True):
            pass
    pool.step(key, "north")
    while len(list(folder.glob("pid-*"))) < 3:
        time.sleep(0.01)
    (folder / "sign").touch()
    if sys.argv[2] == "killed":
        time.sleep(3600)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["forgets to close", "killed"])
def test_processes_end_with_the_one_they_work_for(tmp_path: Path, how: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(UNENDED)
    path = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path)
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path), how], env={**os.environ, "PYTHONPATH": path})
    while not (tmp_path / "sign").exists() and parent.poll() is None:
        time.sleep(0.01)
    if how == "killed":
        parent.kill()
    assert parent.wait() == (-signal.SIGKILL if how == "killed" else 0)
    assert gone(tmp_path)


def test_a_number_of_workers_below_zero_is_refused() -> None:
    with pytest.raises(UsageError, match="workers must be at least 0, got -1"):
        RolloutConfig(workers=-1)
