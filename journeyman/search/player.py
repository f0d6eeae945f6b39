"""Plays drafts on: from where they paused, or in a fork from any of their tokens; to their end, or for some turns.

Contract of the loop in :meth:`Player.play`: that of `rollout/runner.py`, for all of its orders at once and until the
last of them is done. A fork's environment is a new one that is told all replies again: it follows from the task and the
replies alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from journeyman.engine.base import Engine, Reply
from journeyman.errors import UsageError
from journeyman.jobs.base import Job
from journeyman.model.render import Renderer
from journeyman.rollout.environments import Environments
from journeyman.rollout.runner import Attempt, Episode, RolloutConfig, advance, begin, exchanged, past_of, trajectory_of
from journeyman.search.draft import UNKNOWN, Draft
from journeyman.types import Ending, Outcome


@dataclass(frozen=True)
class Order:
    """What is to become of a draft that has not ended.

    Attributes:
        draft: where to go on.
        seed: of what is sampled from here on, in a fork that leaves the draft as it is. None: the draft itself goes on,
            by its own seed, and is used up.
        turns: replies after which it pauses; None: it is played to its end.
        keep: whether the engine holds it after its end, so that one can go back into it.
    """

    draft: Draft
    seed: int | None = None
    turns: int | None = None
    keep: bool = False


@dataclass
class _Play:
    """One order under way."""

    order: Order
    episode: Episode
    sequence: int
    said: tuple[int, ...]
    """Tokens of the reply that is due that the draft had already, which the episode is given with the rest of it."""
    logprobs: tuple[float, ...]
    spent: int = 0
    key: int = -1

    @property
    def due(self) -> bool:
        """Whether it pauses here."""
        turns, start = self.order.turns, len(self.order.draft.trajectory.turns)
        return turns is not None and len(self.episode.turns) - start >= turns

    def whole(self, reply: Reply) -> Reply:
        """The reply with what of it had been said before."""
        tokens, logprobs = self.said + reply.tokens, self.logprobs + reply.logprobs
        self.said, self.logprobs = (), ()
        return replace(reply, tokens=tokens, logprobs=logprobs)


class Player:
    """Plays orders, many at once, against one engine.

    Args:
        jobs: by the name that `Task.job` holds.
        environments: where environments run; nobody else may use them meanwhile.
    """

    def __init__(
        self,
        engine: Engine,
        renderer: Renderer,
        jobs: Mapping[str, Job],
        config: RolloutConfig,
        environments: Environments,
    ) -> None:
        self.engine, self.renderer, self.jobs = engine, renderer, jobs
        self.config, self.environments = config, environments
        self._sequences: set[int] = set()
        self._keys: set[int] = set()

    def begin(self, attempt: Attempt) -> Draft:
        """The draft that has nothing but its prompt. One whose prompt does not fit has ended."""
        episode = self._episode(attempt)
        fits = len(episode.tokens) < self.engine.context
        error = f"the prompt has {len(episode.tokens)} tokens and the context holds {self.engine.context}"
        outcome = UNKNOWN if fits else Outcome(0.0, Ending.FAILED, error, "engine")
        made = trajectory_of(episode, outcome, self.engine.version, self.config.temperature)
        return Draft.of(attempt, made, ended=not fits)

    def play(self, orders: Sequence[Order]) -> list[tuple[Draft, int]]:
        """What became of each order, and how many tokens the engine was given to read and sampled for it.

        Raises:
            UsageError: a draft has ended, or the engine has no slot for another fork.
        """
        plays = [self._start(order) for order in orders]  # all forks, before any draft goes on itself
        by_sequence = {play.sequence: play for play in plays}
        by_key: dict[int, _Play] = {}
        for play in plays:
            self._enter(play)
            by_key[play.key] = play
        made: dict[int, Draft] = {}
        while len(made) < len(plays):
            for answer in self.environments.answers(wait=not self.engine.busy):
                play = by_key[answer.key]
                outcome = advance(self.engine, self.renderer, play.episode, answer)
                if outcome is None and not play.due:
                    self._submit(play)
                else:
                    made[play.sequence] = self._draft(play, outcome)
            for reply in self.engine.step():
                play = by_sequence[reply.sequence]
                play.spent += len(reply.tokens)
                reply = play.whole(reply)
                text = self.renderer.text(reply.tokens)
                play.episode.sampled(reply, text)
                self.environments.step(play.key, text)
        return [(made[play.sequence], play.spent) for play in plays]

    def release(self, draft: Draft) -> None:
        """Let go of what is held for a draft that will not be used again."""
        self._close(draft.sequence, draft.environment)

    def close(self) -> None:
        """Let go of everything."""
        for sequence in tuple(self._sequences):
            self._close(sequence, None)
        for key in tuple(self._keys):
            self._close(None, key)

    # -- inside -----------------------------------------------------------------------------------------

    def _episode(self, attempt: Attempt) -> Episode:
        return begin(self.renderer, self.jobs[attempt.task.job], attempt, self.config)

    def _start(self, order: Order) -> _Play:
        """The order's episode as it stands, and a sequence that holds as much of it as there is to be had."""
        draft, t = order.draft, order.draft.trajectory
        if draft.ended:
            raise UsageError("a draft that has ended cannot go on", fix="go back into it: draft.until(position)")
        if draft.sequence is None:
            sequence = self.engine.open(draft.attempt.seed if order.seed is None else order.seed)
        elif order.seed is None:
            sequence = draft.sequence
        else:
            sequence = self.engine.fork(draft.sequence, order.seed, draft.held)
        self._sequences.add(sequence)
        start = len(t) - int(t.mask[t.turns[-1].stop if t.turns else 0 :].sum())  # where the reply that is due begins
        episode = self._episode(draft.attempt)
        episode.tokens, episode.unread = t.tokens[:start].tolist(), t.tokens[draft.held :].tolist()
        episode.mask, episode.logprobs = t.mask[:start].tolist(), t.logprobs[:start].tolist()
        episode.turns = list(draft.sealed.turns)
        return _Play(order, episode, sequence, tuple(t.tokens[start:].tolist()), tuple(t.logprobs[start:].tolist()))

    def _enter(self, play: _Play) -> None:
        """Go on in the draft's own environment, or ask for one in the same state."""
        order, attempt = play.order, play.order.draft.attempt
        if order.seed is None and order.draft.environment is not None:
            play.key = order.draft.environment
            self._submit(play)
        else:
            past = [*past_of(attempt), *exchanged(play.episode.turns)]
            play.key = self.environments.open(self.jobs[attempt.task.job], attempt.task, past)
            self._keys.add(play.key)

    def _submit(self, play: _Play) -> None:
        """Ask the engine for the next reply, or for the rest of one."""
        episode = play.episode
        play.spent += len(episode.unread)
        sampling = replace(episode.sampling, max_tokens=episode.sampling.max_tokens - len(play.said))
        self.engine.submit(play.sequence, episode.unread, sampling)
        episode.unread = []

    def _draft(self, play: _Play, outcome: Outcome | None) -> Draft:
        """What the play has come to; it has ended if there is an outcome."""
        attempt, episode = play.order.draft.attempt, play.episode
        made = trajectory_of(episode, outcome or UNKNOWN, self.engine.version, self.config.temperature)
        if outcome is None:
            held = len(made) - len(episode.unread)
            return Draft.of(attempt, made, ended=False, sequence=play.sequence, held=held, environment=play.key)
        if play.order.keep:
            self._close(None, play.key)
            return Draft.of(attempt, made, ended=True, sequence=play.sequence, held=len(made))
        self._close(play.sequence, play.key)
        return Draft.of(attempt, made, ended=True)

    def _close(self, sequence: int | None, key: int | None) -> None:
        if sequence in self._sequences:
            self._sequences.remove(sequence)
            self.engine.close(sequence)
        if key in self._keys:
            self._keys.remove(key)
            self.environments.forget(key)
