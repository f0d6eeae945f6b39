"""Players: who makes attempts in place of `rollout`, where the words and the deeds are not ours to step through.

An attempt by a player may leave several trajectories, its *trails*: where it speaks in several conversations, or goes
back and says something else. All have the attempt's outcome. One trail, the attempt's own, has its id; the others are
named for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from journeyman.engine.base import Engine
from journeyman.errors import JobError
from journeyman.experience.store import Store
from journeyman.model.decoder import Decoder
from journeyman.model.render import Renderer
from journeyman.rollout.runner import Attempt, RolloutConfig
from journeyman.types import Ending, Trajectory


class Player(ABC):
    """The contract. What it does need not follow from the attempts' seeds."""

    @abstractmethod
    def play(
        self, engine: Engine, policy: Decoder, renderer: Renderer, orders: Sequence[Attempt], config: RolloutConfig
    ) -> Iterator[Trajectory]:
        """Make the attempts; yields each trajectory when it is whole, an attempt's own after its other trails.

        Args:
            engine: samples with the policy's weights; the player's alone until it is done.
        """


def trail_of(attempt: Attempt, number: int) -> tuple[str, str]:
    """Id and group of an attempt's trail; of number 0, which is its own, they are the attempt's.

    A further trail is compared with those of the same number, not with one of its own attempt.
    """
    return (f"{attempt.id}-t{number:02d}", f"{attempt.group}-t{number:02d}") if number else (attempt.id, attempt.group)


def is_trail(trajectory: Trajectory) -> bool:
    """Whether it is a further trail: of an attempt that counts already."""
    return trajectory.group.rpartition("-")[2].startswith("t")


def going_on(
    player: Player,
    store: Store,
    engine: Engine,
    policy: Decoder,
    renderer: Renderer,
    orders: Sequence[Attempt],
    config: RolloutConfig,
) -> Iterator[Trajectory]:
    """The attempts: those that were kept before the run was killed as they were, for a player might not do the same
    again; the others are made. Those that failed come last.

    Raises:
        JobError: all failed; none is given then, and so none kept.
    """
    kept = list(store.episodes(prefix=orders[0].group.rpartition("-")[0] + "-"))
    yield from kept
    done = {t.id for t in kept}
    rest = [order for order in orders if order.id not in done]
    failed: list[Trajectory] = []
    for t in player.play(engine, policy, renderer, rest, config) if rest else ():
        if t.outcome.ending is Ending.FAILED:
            failed.append(t)
        else:
            done.add(t.id)
            yield t
    if failed and not done:
        raise JobError(
            f"all {len(rest)} attempts failed",
            reason=f"the first: {failed[0].outcome.error}",
            fix="mend what makes or grades them, and give the same command again: the run goes on from here",
        )
    yield from failed
