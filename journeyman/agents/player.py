"""Attempts by an agent: a program for each, which asks a server in this process for what it says.

The server samples with the run's own engine, on the weights that learn; what was said comes back as it was sampled,
with its log-probabilities and versions. Each attempt is a session of its own, named behind the API key.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from journeyman.agents.endpoint import Endpoint
from journeyman.agents.grading import NoGrade, read_grade, transcript
from journeyman.agents.process import Ended, Programs
from journeyman.engine.base import Engine
from journeyman.experience.outcomes import Episode, as_trajectory, paths
from journeyman.experience.records import REWARD, Metric
from journeyman.jobs.agent import AgentConfig, given, words_of
from journeyman.model.decoder import Decoder
from journeyman.model.render import Renderer
from journeyman.rollout.player import Player, trail_of
from journeyman.rollout.runner import Attempt, RolloutConfig
from journeyman.serve.terms import Terms
from journeyman.types import Ending, Outcome, Trajectory


@dataclass(frozen=True)
class Made:
    """What became of an attempt; `why` says it of one that failed, `where` at which boundary."""

    reward: float
    full: bool = False
    why: str = ""
    where: str = ""

    @property
    def outcome(self) -> Outcome:
        """As trajectories have it."""
        if self.why:
            return Outcome(0.0, Ending.FAILED, self.why, self.where)
        return Outcome(self.reward, Ending.TRUNCATED if self.full else Ending.TERMINATED)


class AgentPlayer(Player):
    """Lets a program make the attempts.

    Contract of :meth:`play`'s threads: each consumes attempts, one after the other, starts the agent and then the
    grader, waits for their ends, the time limit, or the caller's leave, and produces the attempt's trajectories. The
    server and the engine have threads of their own. All have ended when `play` has.
    """

    def __init__(self, config: AgentConfig) -> None:
        self.config = config

    def play(
        self, engine: Engine, policy: Decoder, renderer: Renderer, orders: Sequence[Attempt], config: RolloutConfig
    ) -> Iterator[Trajectory]:
        agent = self.config
        seeds = {str(number): order.seed for number, order in enumerate(orders)}
        terms = Terms(config.temperature, config.max_turns or agent.calls, config.max_reply_tokens, seeds)
        with (
            tempfile.TemporaryDirectory(prefix="journeyman-agent-") as place,
            Endpoint(engine, policy, renderer, terms, Path(place), agent.seconds) as endpoint,
            ThreadPoolExecutor(agent.at_once, thread_name_prefix="agent") as threads,
        ):
            attempts = _Attempts(agent, config, renderer, endpoint, Path(place))
            try:
                futures = [threads.submit(attempts.make, str(n), order) for n, order in enumerate(orders)]
                for future in as_completed(futures):
                    yield from future.result()
            finally:  # the caller may have stopped listening
                attempts.programs.close()
                threads.shutdown(cancel_futures=True)


class _Attempts:
    """Makes one attempt after the other, from any number of threads."""

    def __init__(
        self, agent: AgentConfig, config: RolloutConfig, renderer: Renderer, endpoint: Endpoint, place: Path
    ) -> None:
        self.agent, self.config, self.renderer, self.endpoint, self.place = agent, config, renderer, endpoint, place
        self.words = words_of(agent.command, "agent")
        self.grader = words_of(agent.grade, "grader") if agent.grade else None
        self.programs = Programs()

    def make(self, session: str, order: Attempt) -> list[Trajectory]:
        """Make an attempt; its trails, its own last."""
        folder = self.place / session
        folder.mkdir()
        task = given(order.task.data)
        file = folder / "task.json"
        file.write_text(json.dumps(task, ensure_ascii=False) + "\n")
        environment = {**self.endpoint.environment(session), "JOURNEYMAN_TASK": str(file)}
        try:
            words = [filled(word, task) for word in self.words]
            ended = self.programs.run(words, file, environment, self.agent.seconds, "agent")
        except OSError as error:
            return [self._nothing(order, Made(0.0, why=f"the agent cannot be started: {error}", where="agent"))]
        episode, full = self.endpoint.said(session)
        if episode is None:
            why = ended.trouble("the agent", self.agent.seconds) or "the agent asked the model nothing"
            return [self._nothing(order, Made(0.0, why=f"{why} (it made no call)", where="agent"))]
        metric = self.endpoint.deployment.store.metrics().get(self.agent.metric, REWARD)
        made = self._judged(order, episode, ended, full, folder, metric)
        return self._trails(order, episode, made, metric)

    def _judged(self, order: Attempt, episode: Episode, ended: Ended, full: bool, folder: Path, metric: Metric) -> Made:
        """What became of it. An agent that gave up because no more fitted has been cut short, not failed."""
        trouble = ended.trouble("the agent", self.agent.seconds)
        if trouble and not (full and ended.code is not None):
            return Made(0.0, why=trouble, where="agent")
        if self.grader is None:
            reward = episode.reward(metric) if metric.name == self.agent.metric else None
            if reward is None:
                why = f"nobody said how it went: there is no grader, and no feedback on {self.agent.metric!r} came"
                return Made(0.0, why=why, where="agent")
            return Made(reward, full)
        about = {"task": order.task.data, **transcript(episode), "stdout": ended.stdout, "exit_code": ended.code}
        file = folder / "attempt.json"
        file.write_text(json.dumps(about) + "\n")
        limit = self.config.seconds_per_step
        try:
            graded = self.programs.run(self.grader, file, os.environ, limit, "grader")
            why = graded.trouble("the grader", limit)
            return Made(0.0, why=why, where="grader") if why else Made(read_grade(graded.stdout), full)
        except (NoGrade, OSError) as error:
            return Made(0.0, why=str(error), where="grader")

    def _trails(self, order: Attempt, episode: Episode, made: Made, metric: Metric) -> list[Trajectory]:
        """What was said as trajectories, which share the outcome."""
        paid = metric if self.grader is None else REWARD
        found: list[Trajectory] = []
        for number, path in enumerate(paths(episode.turns)):
            t = as_trajectory(episode, path, paid, made.reward, number)
            id, group = trail_of(order, number)
            said = [
                replace(turn, reply=self.renderer.text(t.tokens[turn.start : turn.stop].tolist())) for turn in t.turns
            ]
            task = replace(order.task, messages=t.task.messages)
            outcome = made.outcome
            found.append(replace(t, id=id, group=group, step=order.step, task=task, turns=tuple(said), outcome=outcome))
        return found[::-1]

    def _nothing(self, order: Attempt, made: Made) -> Trajectory:
        """An attempt in which nothing was said: what it was to do stands in for it."""
        tokens = self.renderer.open(order.task.messages)
        count = len(tokens)
        return Trajectory(
            id=order.id,
            task=order.task,
            group=order.group,
            step=order.step,
            policy_version=self.endpoint.deployment.service.engine.version,
            temperature=self.config.temperature,
            tokens=np.asarray(tokens, np.int32),
            mask=np.zeros(count, bool),
            logprobs=np.zeros(count, np.float32),
            values=np.full(count, np.nan, np.float32),
            turns=(),
            outcome=made.outcome,
        )


def filled(word: str, task: Mapping[str, object]) -> str:
    """A word of a command with the task's fields in place of their names in braces."""

    def field(name: re.Match[str]) -> str:
        value = task.get(name[1], name[0])
        return value if isinstance(value, str) else json.dumps(value)

    return re.sub(r"\{(\w+)\}", field, word)
