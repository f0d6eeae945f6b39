"""Episodes under way: trees of turns, whose tokens are never made twice.

A request of an episode is compared, message by message, with what was said in it. It goes on behind the last turn that
it agrees with, on that turn's own tokens:

    it agrees with everything            the next turn
    it agrees with an earlier turn       a branch: the client went back, or asks for another answer
    it agrees with no turn               rewritten: it is tokenized anew, and the answer says so
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from journeyman.errors import NotKept
from journeyman.experience.ids import made_at, uuid7
from journeyman.experience.records import ServedTurn
from journeyman.serve.errors import ApiError
from journeyman.serve.openai import ChatMessage
from journeyman.serve.service import History, joined, sampled

Joint = Literal["first", "next", "branch", "rewritten"]
"""How a turn follows what is there."""


@dataclass(frozen=True, eq=False)
class Turn:
    """A turn that was answered.

    Attributes:
        id: its id, under which the service may keep its cache.
        after: the turn that it goes on from.
        trail: stands for all messages up to and with its reply.
        new: tokens since the turn before: read ones, then the reply.
        text: all of it as text, where it was bare text.
    """

    id: str
    after: Turn | None
    trail: bytes
    new: History
    text: str = ""

    @property
    def history(self) -> History:
        """All tokens up to its end."""
        turns: list[Turn] = []
        turn: Turn | None = self
        while turn is not None:
            turns.append(turn)
            turn = turn.after
        return joined([turn.new for turn in reversed(turns)])


@dataclass(eq=False)
class Episode:
    """One conversation and all its branches. Whoever began it (the id of a key) owns it."""

    id: str
    owner: str
    turns: dict[bytes, Turn] = field(default_factory=dict[bytes, Turn])
    """By their trail; of two that said the same, the later one."""
    last: Turn | None = None
    assigned: tuple[int, float] | None = None
    """The version that it stays with, and the probability with which it got it."""
    full: bool = False
    """Whether a request was refused because no more fits."""

    def add(self, turn: Turn) -> None:
        """A turn was answered."""
        self.turns[turn.trail] = self.last = turn


@dataclass(frozen=True)
class Place:
    """Where a request goes on in its episode: after `turn`, with its messages from the `agreed`-th on."""

    turn: Turn | None
    agreed: int
    joint: Joint


def place(episode: Episode, trails: Sequence[bytes]) -> Place:
    """The last turn that a conversation agrees with; `trails` stand for 0, 1, 2... of its messages."""
    for agreed in range(len(trails) - 2, 0, -1):  # at least one message is new
        turn = episode.turns.get(trails[agreed])
        if turn is not None:
            return Place(turn, agreed, "next" if turn is episode.last else "branch")
    return Place(None, 0, "first" if episode.last is None else "rewritten")


def begun(manner: str) -> bytes:
    """The trail of a conversation before its first message; `manner` stands for its tools."""
    return hashlib.sha256(manner.encode()).digest()


def onward(trail: bytes, message: ChatMessage) -> bytes:
    """The trail with one more message. White space around texts does not count, nor how arguments are laid out."""
    calls = [[call.function.name, _laid_out(call.function.arguments)] for call in message.tool_calls or ()]
    said = json.dumps([message.role, message.text.strip(), calls])
    return hashlib.sha256(trail + said.encode()).digest()


def trails(manner: str, messages: Sequence[ChatMessage]) -> list[bytes]:
    """The trails of 0, 1, 2... of the messages."""
    found = [begun(manner)]
    for message in messages:
        found.append(onward(found[-1], message))
    return found


def _laid_out(arguments: str) -> object:
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def manner_of(tools: Sequence[Mapping[str, Any]]) -> str:
    """What stands for a set of tools in a trail."""
    return json.dumps(list(tools), sort_keys=True)


class Episodes:
    """Those that may go on, the latest in memory; others are read from what was kept.

    Args:
        capacity: how many stay in memory.
        kept: an episode's turns from the store, by its id.

    The methods raise:
        ApiError: 404, there is none, or it is another key's.
    """

    def __init__(self, capacity: int, kept: Callable[[str], Sequence[ServedTurn]]) -> None:
        self.capacity, self._kept = capacity, kept
        self._episodes: OrderedDict[str, Episode] = OrderedDict()
        self._sessions: OrderedDict[tuple[str, str], str] = OrderedDict()

    def begin(self, owner: str) -> Episode:
        """A new one."""
        return self._remember(Episode(uuid7(), owner))

    async def session(self, owner: str, name: str) -> Episode:
        """The one of a client's own name for it; a new one, if the name is new."""
        id = self._sessions.get((owner, name))
        episode = self.begin(owner) if id is None else await self.find(id, owner)
        self._sessions[owner, name] = episode.id
        self._sessions.move_to_end((owner, name))
        while len(self._sessions) > self.capacity:
            self._sessions.popitem(last=False)
        return episode

    def called(self, owner: str, name: str) -> Episode | None:
        """The one of this session, where it is in memory."""
        return self._episodes.get(self._sessions.get((owner, name), ""))

    async def find(self, id: str, owner: str) -> Episode:
        """The one of this id."""
        episode = self._episodes.get(id)
        if episode is None and made_at(id) is not None:
            try:
                turns = await asyncio.to_thread(self._kept, id)
            except NotKept:
                turns = ()
            if turns:
                episode = restored(id, turns)
        if episode is None or episode.owner != owner:
            raise ApiError(404, f"there is no episode {id!r} of yours", "episode_not_found", param="episode_id")
        return self._remember(episode)

    def knows(self, id: str) -> bool:
        """Whether it is in memory: being served, though perhaps nothing of it is kept yet."""
        return id in self._episodes

    def _remember(self, episode: Episode) -> Episode:
        self._episodes[episode.id] = episode
        self._episodes.move_to_end(episode.id)
        while len(self._episodes) > self.capacity:
            self._episodes.popitem(last=False)
        return episode


def restored(id: str, turns: Sequence[ServedTurn]) -> Episode:
    """An episode as its turns were kept."""
    episode = Episode(id, turns[0].key)
    known: dict[str, Turn] = {}
    for turn in turns:
        made = sampled(turn.completion.tolist(), turn.logprobs.tolist())
        if turn.by == "teacher":
            made = History.of(turn.completion.tolist())
        after = known.get(turn.after or "")
        prompt = turn.prompt
        if after is not None:
            before = after.history.tokens
            if np.array_equal(before, prompt[: len(before)]):
                prompt = prompt[len(before) :]
            else:
                after = None
        messages = [ChatMessage.model_validate(message) for message in (*turn.messages, turn.reply)]
        trail = trails(manner_of(turn.parameters.get("tools") or ()), messages)[-1]
        text = str(turn.parameters.get("text", ""))
        known[turn.id] = Turn(turn.id, after, trail, History.of(prompt.tolist()).then(made), text)
        episode.add(known[turn.id])
    by_chance = [turn.spans[0] for turn in turns if turn.spans and "model" not in turn.parameters]
    by_lot = [span for span in by_chance if span.probability < 1]  # a turn that took more power says nothing of it
    if by_chance:
        last = (by_lot or by_chance)[-1]
        episode.assigned = last.version, last.probability
    return episode
