"""Teachers: who says what to do next when V is at a loss.

A teacher is shown unfinished episodes and says the next reply of each, as text. `Expert` is the job's own
(:meth:`Env.expert`), `Model` a stronger one, `Person` whoever sits at the terminal.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape

from journeyman.engine.base import Engine, Sampling
from journeyman.engine.native import NativeEngine
from journeyman.errors import JobError
from journeyman.jobs.base import Job
from journeyman.model.load import load
from journeyman.model.render import Renderer
from journeyman.rollout.guard import FAILURES, call_within
from journeyman.types import Trajectory, Turn, conversation


class Teacher(ABC):
    """The contract. What it says is what a policy could say: a reply's text, without its end token."""

    @abstractmethod
    def replies(self, episodes: Sequence[Trajectory]) -> list[str | None]:
        """The next reply in each of these unfinished episodes; None where the teacher has none to give."""


class Expert(Teacher):
    """The job's scripted expert, in an environment rebuilt from the episode's replies.

    Args:
        jobs: by the name that `Task.job` holds.
        seconds: limit of rebuilding one environment; one that breaks or takes longer has no expert.
    """

    def __init__(self, jobs: Mapping[str, Job], seconds: float) -> None:
        self.jobs, self.seconds = jobs, seconds

    def replies(self, episodes: Sequence[Trajectory]) -> list[str | None]:
        return [self._reply(t) for t in episodes]

    def _reply(self, t: Trajectory) -> str | None:
        def ask() -> str | None:
            env = self.jobs[t.task.job].env(t.task)
            for turn in t.turns:
                env.step(turn.reply)
            return env.expert()

        try:
            return call_within(self.seconds, ask)
        except FAILURES:
            return None


class Model(Teacher):
    """A model that reads the conversation with its own tokenizer and says what it finds most likely.

    Args:
        engine: where it runs; nobody else uses it meanwhile.
        max_tokens: longest reply.
    """

    def __init__(self, engine: Engine, renderer: Renderer, max_tokens: int) -> None:
        self.engine, self.renderer = engine, renderer
        self.sampling = Sampling(temperature=0.0, max_tokens=max_tokens, stop=renderer.end_ids)

    def replies(self, episodes: Sequence[Trajectory]) -> list[str | None]:
        found: list[str | None] = [None] * len(episodes)
        places: dict[int, int] = {}
        for place, t in enumerate(episodes):
            tokens = list(self.renderer.open(t.task.messages))
            for turn in t.turns:
                tokens += self.renderer.reply_ids(turn.reply) + self.renderer.observe(turn.observation)
            if len(tokens) < self.engine.context:
                sequence = self.engine.open(0)
                self.engine.submit(sequence, tokens, self.sampling)
                places[sequence] = place
        while places:
            for reply in self.engine.step():
                found[places.pop(reply.sequence)] = self.renderer.text(reply.tokens)
                self.engine.close(reply.sequence)
        return found


class Person(Teacher):
    """Whoever sits at the terminal. An empty line, or none at all, lets the policy go on by itself.

    Args:
        told: by id, the turns of episodes that were played before an interruption and are to be repeated: nobody is
            asked twice.
    """

    def __init__(self, console: Console, told: Mapping[str, Sequence[Turn]]) -> None:
        self.console, self.told = console, told

    def replies(self, episodes: Sequence[Trajectory]) -> list[str | None]:
        return [self._again(t) if t.id in self.told else self._reply(t) for t in episodes]

    def _again(self, t: Trajectory) -> str | None:
        turn = self.told[t.id][len(t.turns)]
        return turn.reply if turn.by == "teacher" else None

    def _reply(self, t: Trajectory) -> str | None:
        self.console.rule(f"{escape(t.task.id)}: V = {float(t.values[-1]):.2f}")
        for message in conversation(t.task, t.turns):
            self.console.print(f"[bold]{message.role:>9}[/]  {escape(message.content)}", highlight=False)
        try:
            return self.console.input("[bold green]   you say[/]  ").strip() or None
        except EOFError:
            return None


def teacher_for(
    name: str,
    jobs: Mapping[str, Job],
    told: Mapping[str, Sequence[Turn]],
    *,
    seconds: float,
    slots: int,
    context: int,
) -> Teacher:
    """Who is asked: `expert`, `person`, or a model by its name.

    Args:
        jobs: by the name that `Task.job` holds.
        told: see :class:`Person`.
        seconds: limit of rebuilding one environment, for experts.
        slots, context: of a model's engine.

    Raises:
        JobError: it is to be the jobs' experts, and one job has none.
        CheckpointError, UsageError: it is to be a model that is not there.
    """
    if name == "person":
        return Person(Console(stderr=True), told)
    if name == "expert":
        for job in jobs.values():
            if job.env(job.task("train", 0)).expert() is None:
                raise JobError(
                    f"the job {job.name!r} has no expert to ask",
                    reason="its environments' expert() gives None",
                    fix="give it one, or ask a model or a person: --asking.teacher",
                )
        return Expert(jobs, seconds)
    loaded = load(name)
    engine = NativeEngine(loaded.model, slots=slots, context=context)
    return Model(engine, Renderer(loaded.tokenizer), max(job.max_reply_tokens for job in jobs.values()))
