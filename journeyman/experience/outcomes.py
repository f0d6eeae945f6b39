"""What feedback says became of an episode, and its turns as trajectories: pure functions of what was kept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from journeyman.experience.records import REWARD, EpisodeSummary, Feedback, Finish, Metric, ServedTurn
from journeyman.experience.served_codec import shared
from journeyman.types import (
    BoolArray,
    Ending,
    FloatArray,
    IntArray,
    Message,
    Outcome,
    Task,
    Trajectory,
    Turn,
)

ENDINGS: dict[Finish, Ending] = {
    "stop": Ending.TERMINATED,
    "tool_calls": Ending.TERMINATED,
    "abstained": Ending.TERMINATED,
    "length": Ending.TRUNCATED,
    "cancelled": Ending.TRUNCATED,
    "timeout": Ending.TRUNCATED,
    "error": Ending.FAILED,
}
"""How an episode ended, by its last turn. To abstain is an answer: nothing more can be earned."""


@dataclass(frozen=True)
class Episode:
    """An episode with everything that is known of it.

    Attributes:
        summary: as in lists.
        turns: of a served one, in the order they were kept.
        trajectory: of one that the learning loop kept, whole.
        feedback: all of it, in the order it came.
        entry: the number of its latest entry in the log.
    """

    summary: EpisodeSummary
    turns: tuple[ServedTurn, ...]
    trajectory: Trajectory | None
    feedback: tuple[Feedback, ...]
    entry: int

    def reward(self, metric: Metric = REWARD) -> float | None:
        """What feedback says by this metric: its votes' mean, or for turns their sum; None where nobody has said."""
        if metric.level == "episode":
            return vote((f for f in self.feedback if f.turn is None), metric)
        votes = [self.turn_reward(turn.id, metric) for turn in self.turns]
        known = [v for v in votes if v is not None]
        return sum(known) if known else None

    def turn_reward(self, turn: str, metric: Metric) -> float | None:
        """What feedback says of one turn."""
        return vote((f for f in self.feedback if f.turn == turn), metric)

    def corrections(self) -> Iterator[tuple[Feedback, ServedTurn]]:
        """What should have been said instead, and the turn that it should have been said in: where none is named, the
        last."""
        turns = {turn.id: turn for turn in self.turns}
        for f in self.feedback:
            turn = turns.get(f.turn) if f.turn else next(reversed(self.turns), None)
            if f.correction is not None and f.episode == self.summary.id and turn is not None:
                yield f, turn

    def trajectories(self, metric: Metric = REWARD) -> list[Trajectory]:
        """The episode as the learner's records; none where feedback has not said what became of it.

        A trajectory ends where the client rewrote what was said, or asked for several choices; the next one begins
        with the tokens that both share, unmasked: what was sampled is learned from once. All have the same outcome.
        """
        reward = self.reward(metric)
        return [] if reward is None and self.trajectory is None else self._laid_out(metric, reward or 0.0)

    def readable(self) -> list[Trajectory]:
        """The same for people to read, as :func:`paths` has it; a reward that nobody has said is NaN."""
        reward = self.reward()
        return self._laid_out(REWARD, math.nan if reward is None else reward)

    def pending(self) -> list[Trajectory]:
        """The same as far as it has come, whatever feedback says: with a reward of 0, and cut, so that credit may go on
        in V."""
        found = [t for t in self._laid_out(REWARD, 0.0) if t.outcome.ending is not Ending.FAILED]
        return [replace(t, outcome=replace(t.outcome, ending=Ending.TRUNCATED)) for t in found]

    def _laid_out(self, metric: Metric, reward: float) -> list[Trajectory]:
        if self.trajectory is not None:
            return [self.trajectory]
        return [as_trajectory(self, path, metric, reward, number) for number, path in enumerate(paths(self.turns))]


def vote(feedback: Iterable[Feedback], metric: Metric) -> float | None:
    """The mean reward by this metric; None without any.

    Who says something twice is heard as they said it last; each key counts once, however many speak through it.
    """
    voters: dict[str, dict[tuple[str, str], float]] = {}
    for f in feedback:
        if f.value is not None and f.metric == metric.name and f.preferred_to is None:
            voters.setdefault(f.key, {})[f.user, f.source] = metric.reward(f.value)
    means = [sum(votes.values()) / len(votes) for votes in voters.values()]
    return sum(means) / len(means) if means else None


@dataclass
class Path:
    """Turns whose tokens are one sequence, so far."""

    tokens: IntArray
    mask: BoolArray
    logprobs: FloatArray
    values: FloatArray
    turns: list[ServedTurn] = field(default_factory=list[ServedTurn])
    starts: list[int] = field(default_factory=list[int])

    def add(self, turn: ServedTurn) -> None:
        """Go on with a turn whose prompt begins with all tokens there are."""
        new, made = len(turn.prompt) - len(self.tokens), len(turn.completion)
        self.turns.append(turn)
        self.starts.append(len(turn.prompt))
        self.values = np.concatenate([self.values, turn.values[len(self.tokens) :]])
        self.tokens = turn.tokens
        self.mask = np.concatenate([self.mask, np.zeros(new, bool), np.full(made, turn.by == "policy")])
        self.logprobs = np.concatenate([self.logprobs, np.zeros(new, np.float32), turn.logprobs])


def paths(turns: Sequence[ServedTurn]) -> list[Path]:
    """The turns as sequences of tokens. Each completion of the policy is masked in exactly one of them. One that was
    withheld, and whose place a teacher's has taken, is left out: what became of the episode says nothing of it."""
    taught = {(turn.request, turn.choice) for turn in turns if turn.by == "teacher" and turn.request}
    turns = [turn for turn in turns if turn.finish != "abstained" or (turn.request, turn.choice) not in taught]
    found: list[Path] = []
    homes: dict[str, Path] = {}
    by_id = {turn.id: turn for turn in turns}
    for turn in turns:
        home = homes.get(turn.after or "")
        kept = 0
        if home is not None:
            before = by_id[turn.after or ""]
            kept = shared(before.tokens, turn.prompt)
            if home.turns[-1] is before and kept == len(before.tokens):
                home.add(turn)
                homes[turn.id] = home
                continue
        empty = np.zeros(0, np.float32)
        logprobs, values = (empty, empty) if home is None else (home.logprobs[:kept], home.values[:kept])
        path = Path(turn.prompt[:kept], np.zeros(kept, bool), logprobs, values)
        path.add(turn)
        found.append(path)
        homes[turn.id] = path
    return found


def as_trajectory(episode: Episode, path: Path, metric: Metric, reward: float, number: int) -> Trajectory:
    """The path of this number of an episode as a trajectory. By a metric of episodes its last turn has the reward."""
    first, last = path.turns[0], path.turns[-1]
    of_turns = metric.level == "turn"
    turns: list[Turn] = []
    for turn, start, following in zip(path.turns, path.starts, [*path.turns[1:], None], strict=True):
        earned = (episode.turn_reward(turn.id, metric) or 0.0) if of_turns else reward if turn is last else 0.0
        new = [] if following is None else following.messages[len(turn.messages) + 1 :]
        observation = "\n".join(text_of(message) for message in new)
        stop = start + len(turn.completion)
        turns.append(Turn(start, stop, text_of(turn.reply), observation, earned, turn.by))
    messages = tuple(Message(m["role"], text_of(m)) for m in first.messages if m.get("role") in _ROLES)
    outcome = Outcome(sum(turn.reward for turn in turns), ENDINGS[last.finish], error=last.error)
    if outcome.ending is Ending.FAILED:
        outcome = Outcome(outcome.reward, outcome.ending, last.error, "engine")
    id = episode.summary.id
    return Trajectory(
        id=f"{id}/{number}" if number else id,
        task=Task(first.job, "served", 0, messages),
        group=id,
        step=-1,
        policy_version=min((span.version for turn in path.turns for span in turn.spans), default=0),
        temperature=first.temperature,
        tokens=path.tokens.astype(np.int32),
        mask=path.mask,
        logprobs=path.logprobs,
        values=path.values,
        turns=tuple(turns),
        outcome=outcome,
    )


_ROLES = ("system", "user", "assistant", "tool")


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a message in OpenAI's shape, whose content may be null or a list of parts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)
