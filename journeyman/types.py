"""The records that the stages hand each other. All are frozen; none knows how it was made.

How the columns of a trajectory line up, for a one-turn episode whose prompt is ``<user> 2+2 <assistant>``
and whose reply is ``4 <end>``:

    position      0       1     2        3          4      5
    token       <user>   2+    2    <assistant>     4    <end>
    mask          0       0     0        0          1      1      sampled by the policy
    logprobs      .       .     .        .        -0.1   -0.2     log pi(token | tokens before it)
    values       V0      V1    V2       V3         V4     V5      V(tokens[:position + 1])

``values[i]`` is the expected return after *reading* token ``i``. The state in which token 4 was chosen is
``tokens[:4]``, so its value is ``values[3]``: an action at ``i`` has state value ``values[i - 1]``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Role = Literal["system", "user", "assistant", "tool"]
Speaker = Literal["policy", "teacher"]
IntArray = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]

SUCCESS = 1.0 - 1e-6
"""An episode is a success when its return is at least this; graders give 1 for a solved task."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation, e.g. ``Message("user", "jump twice")``."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Task:
    """One instance of a job, e.g. the 17th maze of the split ``test``.

    Attributes:
        job: the job's specification as the user wrote it (``"maze,size=4"``).
        split: the split's name.
        index: position within the split; (job, split, index) determine the task completely.
        messages: the conversation the episode opens with; the last one is not the assistant's.
        data: what the environment needs to run and grade it; JSON-serializable.
        level: difficulty in the job's own terms (hops, distance, length), for reports.
    """

    job: str
    split: str
    index: int
    messages: tuple[Message, ...]
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])
    level: int = 0

    @property
    def id(self) -> str:
        return f"{self.job}/{self.split}/{self.index}"


class Ending(StrEnum):
    """How an episode ended. They differ because bootstrapping does."""

    TERMINATED = "terminated"
    """The environment ended it: nothing more can be earned."""
    TRUNCATED = "truncated"
    """A limit cut it (turns, tokens, context): more might have been earned, so credit may bootstrap."""
    STOPPED = "stopped"
    """The learner itself gave it up, on its value function's advice."""
    FAILED = "failed"
    """Something broke (a grader raised, hung, returned NaN). It is recorded, and not learned from."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an episode.

    Attributes:
        reward: the return: the sum of the rewards of all turns.
        ending: how it ended.
        error: for ``failed``: what broke, in words a user can act on.
        boundary: for ``failed``: where (``"environment"``, ``"agent"``, ``"grader"``, ``"engine"``).
    """

    reward: float
    ending: Ending
    error: str = ""
    boundary: str = ""

    @property
    def success(self) -> bool:
        return self.ending is not Ending.FAILED and self.reward >= SUCCESS


@dataclass(frozen=True, slots=True)
class Turn:
    """One reply and what came back: ``tokens[start:stop]`` of the trajectory is the reply.

    What a teacher said was not sampled, so its mask is false: it is a demonstration.

    Example: ``Turn(start=4, stop=6, reply="4", observation="", reward=1.0)``.
    """

    start: int
    stop: int
    reply: str
    observation: str
    reward: float
    by: Speaker = "policy"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The value function's verdict that an episode is not worth its tokens: hopeless, or already certain.

    Example: ``Verdict(at=96, value=0.03, share=0.1)``: one in ten such episodes is played to its end all the same.

    Attributes:
        at: tokens that the episode had then.
        value: V after them.
        share: the chance that such an episode was played on.
    """

    at: int
    value: float
    share: float


@dataclass(frozen=True)
class Trajectory:
    """One finished episode, as tokens. See the module's head for how the columns line up.

    Attributes:
        id: unique within a run and a pure function of (run seed, step, group, member).
        task: the task attempted.
        group: episodes of one task in one step share it.
        step: the learning step that asked for it (-1: not asked for by learning, e.g. an exam).
        policy_version: the version of the weights that sampled it.
        temperature: at which it was sampled; ``logprobs`` are of that distribution.
        tokens: int32 [T]. Stored as sampled, never re-made from text.
        mask: bool [T], true where the policy sampled the token in this episode.
        logprobs: float32 [T], of what the policy sampled; 0 elsewhere. In the prompt of an episode that goes on from
            the middle of another, they are the other's.
        values: float32 [T], the value after reading each token; NaN where none was computed.
        turns: spans of the replies with what the environment answered.
        outcome: what became of it.
        verdict: what V said of it on the way, where it would have stopped it; whether it did, `outcome.ending` tells.
    """

    id: str
    task: Task
    group: str
    step: int
    policy_version: int
    temperature: float
    tokens: IntArray
    mask: BoolArray
    logprobs: FloatArray
    values: FloatArray
    turns: tuple[Turn, ...]
    outcome: Outcome
    verdict: Verdict | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def actions(self) -> npt.NDArray[np.intp]:
        """Positions of the sampled tokens, ascending: intp [A]."""
        return np.flatnonzero(self.mask)

    @property
    def weight(self) -> float:
        """How many episodes like this one its outcome stands for, itself included: 1 over the chance that it was seen
        (Horvitz and Thompson 1952), 0 where it was not, since V stopped the episode."""
        if self.verdict is None:
            return 1.0
        return 0.0 if self.outcome.ending is Ending.STOPPED else 1 / self.verdict.share

    @cached_property
    def taught(self) -> npt.NDArray[np.intp]:
        """Positions of the tokens that a teacher said, ascending: intp [D]."""
        spans = [np.arange(turn.start, turn.stop) for turn in self.turns if turn.by == "teacher"]
        return np.concatenate([np.zeros(0, np.intp), *spans])

    @cached_property
    def prompt_length(self) -> int:
        """Tokens before the first that was sampled."""
        return int(self.actions[0]) if len(self.actions) else len(self)

    @cached_property
    def prompt(self) -> bytes:
        """Those tokens and their log-probabilities as bytes: alike for the episodes of one group."""
        return self.tokens[: self.prompt_length].tobytes() + self.logprobs[: self.prompt_length].tobytes()


@dataclass(frozen=True, slots=True)
class StepResult:
    """What an environment answers to one reply.

    Attributes:
        observation: shown to the policy before its next turn; unused when the episode is over.
        reward: earned by this turn alone.
        terminated: the task is over by its own rules.
        truncated: the environment's own limit was reached.
        role: who speaks the observation: a tool's result or the user.
    """

    observation: str = ""
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    role: Role = "tool"


def conversation(task: Task, turns: Sequence[Turn], role: Role = "tool") -> list[Message]:
    """The episode as messages, for people and for clients that speak in messages."""
    messages = list(task.messages)
    for turn in turns:
        messages.append(Message("assistant", turn.reply))
        if turn.observation:
            messages.append(Message(role, turn.observation))
    return messages
