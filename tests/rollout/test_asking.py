"""Asking: who is led, by whom, how far, and that the budget is never exceeded."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from journeyman.engine.fake import ScriptedEngine
from journeyman.errors import JobError, UsageError
from journeyman.jobs import resolve
from journeyman.jobs.base import Env, Job
from journeyman.model.load import load
from journeyman.model.render import Renderer
from journeyman.rollout.asking import Asking, AskingConfig, left
from journeyman.rollout.oversight import Oversight
from journeyman.rollout.runner import attempts, rollout
from journeyman.rollout.stopping import Doubt, Stopping, StoppingConfig
from journeyman.rollout.teachers import Expert, Model, Person, Teacher, teacher_for
from journeyman.types import Ending, Message, StepResult, Task, Trajectory, Turn

RENDERER = Renderer(load("apprentice").tokenizer)
SAID = RENDERER.reply_ids("north")


class Six(Job):
    """Six turns, whatever is said; the expert would say where it is."""

    name, max_turns, max_reply_tokens = "six", 6, 8
    splits = {"train": 50}  # noqa: RUF012

    def task(self, split: str, index: int) -> Task:
        return Task(self.name, split, index, (Message("user", f"task {index}"),))

    def env(self, task: Task) -> Env:
        return SixEnv(task.index)


class SixEnv(Env):
    def __init__(self, index: int) -> None:
        self.index, self.heard = index, list[str]()

    def step(self, reply: str) -> StepResult:
        self.heard.append(reply)
        return StepResult(f"C{len(self.heard)}", terminated=len(self.heard) == 6)

    def expert(self) -> str | None:
        if self.index == 13:
            raise ValueError("the map is lost")
        return f"{self.index} after {' '.join(self.heard)}" if self.index != 7 else None


class Noting(Teacher):
    """Says `east` and keeps what it was shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, int]] = []

    def replies(self, episodes: Sequence[Trajectory]) -> list[str | None]:
        self.shown += [(t.task.id, len(t.turns)) for t in episodes]
        return ["east" for _ in episodes]


def rising(ts: Sequence[Trajectory]) -> list[Trajectory]:
    """V is 0.01 per task number at first, and rises by 0.2 a turn."""
    return [replace(t, values=np.full(len(t), 0.01 * t.task.index + 0.2 * len(t.turns), np.float32)) for t in ts]


def play(asking: Asking, tasks: int, repeats: int = 1, stopping: StoppingConfig | None = None) -> list[Trajectory]:
    job = Six()
    orders = attempts(list(job.tasks("train", tasks)), repeats=repeats, prefix="t", seed=0)
    rules = [asking, *([Stopping(stopping, {"six": Doubt(low=0.75)})] if stopping else [])]
    read: list[list[int]] = []

    def script(tokens: list[int]) -> list[int]:
        read.append(tokens)
        return SAID

    played = list(rollout(ScriptedEngine(script), RENDERER, {"six": job}, orders, oversight=Oversight(rising, rules)))
    for t in played:  # the engine has read all that is on record, and what the teacher said among it
        for turn in t.turns:
            assert turn.by == "teacher" or t.tokens[: turn.start].tolist() in read
    return sorted(played, key=lambda t: t.task.index)


def speakers(t: Trajectory) -> str:
    return "".join(turn.by[0] for turn in t.turns)


def test_the_teacher_leads_from_the_lowest_v_until_it_is_enough() -> None:
    teacher = Noting()
    config = AskingConfig(budget=0.1, enough=0.5, replies=5)
    played = play(Asking(config, teacher, 15), tasks=30)
    # 15 turns are earned: three teachers may begin; V passes 0.5 after the third turn
    assert [speakers(t) for t in played] == ["tttppp"] * 3 + ["pppppp"] * 27
    assert teacher.shown == [(f"six/train/{i}", k) for k in range(3) for i in range(3)]
    led = played[0]
    assert led.taught.tolist() == [p for turn in led.turns[:3] for p in range(turn.start, turn.stop)]
    assert led.tokens[led.turns[0].start : led.turns[0].stop].tolist() == RENDERER.reply_ids("east")
    assert not led.mask[led.taught].any() and not led.logprobs[led.taught].any()
    assert [turn.reply for turn in led.turns] == ["east"] * 3 + ["north"] * 3
    assert led.outcome.ending is Ending.TERMINATED
    assert all(not len(t.taught) for t in played[3:])


def test_the_teacher_gives_at_most_so_many_replies() -> None:
    played = play(Asking(AskingConfig(enough=9.0, replies=2), Noting(), 4), tasks=3)
    assert [speakers(t) for t in played] == ["ttpppp", "ttpppp", "pppppp"]


def test_one_attempt_at_a_task_is_led() -> None:
    played = play(Asking(AskingConfig(enough=9.0, replies=1), Noting(), 99), tasks=2, repeats=4)
    assert sorted(speakers(t) for t in played) == ["pppppp"] * 6 + ["tppppp"] * 2
    assert len({t.task.id for t in played if len(t.taught)}) == 2


def test_nobody_is_led_where_v_is_high() -> None:
    teacher = Noting()
    play(Asking(AskingConfig(enough=0.0), teacher, 999), tasks=5)
    assert not teacher.shown


def test_the_control_leads_any_and_all_the_way() -> None:
    """That the four drawn of 40 are those of the lowest V has a chance of 1 in 91,390, C(40, 4); seeds are fixed."""
    played = play(Asking(AskingConfig(replies=5, whom="any"), Noting(), 20), tasks=40)
    led = [t for t in played if len(t.taught)]
    assert [speakers(t) for t in led] == ["tttttp"] * 4
    assert [t.task.index for t in led] != [0, 1, 2, 3]
    again = play(Asking(AskingConfig(replies=5, whom="any"), Noting(), 20), tasks=40)
    assert [t.task.index for t in again if len(t.taught)] == [t.task.index for t in led]


@settings(max_examples=25)
@given(
    budget=st.floats(0, 1),
    replies=st.integers(1, 8),
    enough=st.floats(0, 2),
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=6),
)
def test_the_budget_is_never_exceeded(budget: float, replies: int, enough: float, sizes: list[int]) -> None:
    config = AskingConfig(budget=budget, enough=enough, replies=replies)
    turns = taught = 0
    for step, size in enumerate(sizes):
        played = play(Asking(config, Noting(), left(config, turns, taught, step, 9)), tasks=size)
        turns += sum(len(t.turns) for t in played)
        taught += sum(speakers(t).count("t") for t in played)
        assert taught <= budget * turns


def test_a_budget_may_be_spent_in_advance_and_is_kept_at_the_end() -> None:
    config = AskingConfig(budget=0.1, advance=100)
    assert left(config, 0, 0, 0, 10) == 0, "nothing is known of how long episodes are"
    assert left(config, 60, 0, 1, 10) == 60, "a tenth of 600 turns to be expected"
    assert left(config, 120, 60, 2, 10) == 0 and left(config, 600, 60, 10, 10) == 0
    assert left(config, 80, 60, 2, 10) == -20, "episodes have become shorter: nobody is asked until that is made up for"
    assert left(replace(config, advance=3), 60, 2, 1, 10) == 22
    assert left(replace(config, advance=0), 60, 2, 1, 10) == 4


def test_who_is_led_may_be_stopped_later() -> None:
    asking = Asking(AskingConfig(enough=0.1, replies=9), Noting(), 99)
    played = play(asking, tasks=3, stopping=StoppingConfig(every=2, play_out=1e-9))
    assert [speakers(t) for t in played] == ["tp"] * 3, "V is below 0.75 after two turns"
    assert all(t.outcome.ending is Ending.STOPPED and t.verdict for t in played)


def unfinished(index: int, *replies: str) -> Trajectory:
    t = play(Asking(AskingConfig(), Noting(), 0), tasks=1)[0]
    turns = tuple(Turn(0, 0, reply, "C1", 0.0) for reply in replies)
    return replace(t, task=Six().task("train", index), turns=turns)


def test_an_expert_is_asked_in_an_environment_that_has_heard_the_same() -> None:
    expert = Expert({"six": Six()}, seconds=5.0)
    found = expert.replies([unfinished(3), unfinished(4, "a", "b"), unfinished(7), unfinished(13)])
    assert found == ["3 after ", "4 after a b", None, None], "one that is broken has nothing to say"
    maze = resolve("maze,size=3")
    task = maze.task("train", 0)
    assert Expert({maze.name: maze}, 5.0).replies([replace(unfinished(0), task=task)]) == [maze.env(task).expert()]


def test_a_model_is_asked_in_its_own_tokens() -> None:
    read: list[list[int]] = []

    def script(tokens: list[int]) -> list[int]:
        read.append(tokens)
        return RENDERER.reply_ids("south")

    engine = ScriptedEngine(script, context=60)
    t = unfinished(1, "north")
    found = Model(engine, RENDERER, max_tokens=8).replies([t, unfinished(2, *["north"] * 30)])
    assert found == ["south", None], "what does not fit is not asked"
    assert read == [[*RENDERER.open(t.task.messages), *SAID, *RENDERER.observe("C1")]]
    assert not engine.busy


def test_a_person_is_shown_the_conversation_and_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["  east ", ""])

    def answer(*_: object) -> str:
        try:
            return next(answers)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", answer)
    screen = io.StringIO()
    told = {"before": (Turn(0, 1, "west", "C1", 0.0, by="teacher"), Turn(1, 2, "up", "C2", 0.0))}
    person = Person(Console(file=screen, width=100), told)
    asked = [replace(rising([unfinished(1, "north")])[0], id=str(i)) for i in range(3)]
    assert person.replies(asked) == ["east", None, None], "an empty line, and the end of all lines"
    shown = screen.getvalue()
    assert "task 1" in shown and "north" in shown and "C1" in shown and "V = 0.21" in shown
    again = [replace(t, id="before") for t in (unfinished(1), unfinished(1, "west"))]
    assert person.replies(again) == ["west", None], "what was said before an interruption is not asked again"


def test_a_job_without_an_expert_is_refused() -> None:
    class Silent(Six):
        def env(self, task: Task) -> Env:
            return SixEnv(7)

    with pytest.raises(JobError, match="no expert to ask"):
        teacher_for("expert", {"six": Silent()}, {}, seconds=1.0, slots=1, context=64)
    assert isinstance(teacher_for("expert", {"six": Six()}, {}, seconds=1.0, slots=1, context=64), Expert)
    assert isinstance(teacher_for("apprentice", {"six": Six()}, {}, seconds=1.0, slots=1, context=64), Model)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"budget": 1.5}, "budget must lie in"),
        ({"replies": 0}, "at least 1, got 0"),
        ({"updates": 0}, "at least 1, got 0"),
        ({"advance": -1}, "got -1"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        AskingConfig(**wrong)  # type: ignore[arg-type]
