"""What deployment says, sorted by what can be learned from it. Pure, but for reading the store.

| what came                                | what it is here | what learns from it                                   |
| ---------------------------------------- | --------------- | ----------------------------------------------------- |
| a reward                                 | `outcomes`      | V; the policy by V's credit, corrected for the older  |
|                                          |                 | versions that answered                                |
| nothing yet                              | `pending`       | V and the policy, with V's own view of where it stands |
| a correction, a teacher's answer         | `lessons`       | imitation; so do the policy's own successes           |
| "this one is better than that one"       | `pairs`         | preference optimization                               |

What came late is heard late: an episode that was pending is an outcome as soon as somebody has said so. What is in
quarantine is left out, and so is feedback that looks poisoned (release/poison.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

import numpy as np

from journeyman.experience.outcomes import Episode
from journeyman.experience.records import REWARD, Feedback, ServedTurn
from journeyman.experience.store import Store
from journeyman.learn.lessons import lessons
from journeyman.learn.prefer import Pair
from journeyman.learn.school import taught
from journeyman.model.render import Renderer
from journeyman.release.poison import PoisonConfig, Suspicion, sift
from journeyman.types import Ending, Outcome, Task, Trajectory, Turn


@dataclass(frozen=True)
class Evidence:
    """See the module's head.

    Attributes:
        episodes: ids of all that something is learned from.
        suspicions: what feedback was left out, and why.
    """

    outcomes: tuple[Trajectory, ...] = ()
    pending: tuple[Trajectory, ...] = ()
    lessons: tuple[Trajectory, ...] = ()
    pairs: tuple[Pair, ...] = ()
    episodes: tuple[str, ...] = ()
    suspicions: tuple[Suspicion, ...] = ()

    def success(self) -> dict[str, float]:
        """By job, the mean reward that users gave."""
        given: dict[str, list[float]] = {}
        for t in self.outcomes:
            given.setdefault(t.task.job, []).append(t.outcome.reward)
        return {job: float(np.mean(rewards)) for job, rewards in given.items()}


def heard(store: Store, since: int, limit: int) -> tuple[list[Episode], int]:
    """The newest episodes of which something has come since an entry of the log, and the entry that this reaches."""
    episodes: dict[str, Episode] = {}
    while (news := store.news(since)).episodes:
        since = news.cursor
        for episode in news.episodes:
            episodes.pop(episode.summary.id, None)
            episodes[episode.summary.id] = episode
        for old in list(episodes)[: max(len(episodes) - limit, 0)]:
            del episodes[old]
    return list(episodes.values()), since


def speaks(episode: Episode) -> bool:
    """Whether somebody has said something of it that can be learned from."""
    said = any(f.value is not None or f.correction is not None or f.preferred_to is not None for f in opinions(episode))
    return said or any(turn.by == "teacher" for turn in episode.turns)


def sorted_out(
    episodes: Sequence[Episode],
    renderer: Renderer,
    *,
    barred: AbstractSet[str] = frozenset(),
    longest: int = 1 << 30,
    poison: PoisonConfig | None = None,
) -> Evidence:
    """What can be learned from these episodes.

    Args:
        barred: ids of episodes that nothing may learn from.
        longest: tokens of an episode; longer ones are left out.
    """
    kept, suspicions = _trusted([e for e in episodes if e.summary.id not in barred], poison)
    by_id = {episode.summary.id: episode for episode in kept}
    outcomes: list[Trajectory] = []
    pending: list[Trajectory] = []
    corrected: list[Trajectory] = []
    pairs: list[Pair] = []
    for episode in kept:
        if episode.reward() is not None:
            outcomes += [final(t) for t in episode.trajectories()]
        else:
            pending += episode.pending()
        corrected += [demonstrated(f, turn, renderer) for f, turn in episode.corrections()]
        pairs += preferences(episode, by_id)

    def fitting(found: Iterable[Trajectory]) -> list[Trajectory]:
        return [t for t in found if len(t) <= longest and t.outcome.ending is not Ending.FAILED]

    outcomes, pending = fitting(outcomes), fitting(pending)
    return Evidence(
        outcomes=tuple(t for t in outcomes if t.mask.any()),
        pending=tuple(t for t in pending if t.mask.any()),
        lessons=(*fitting(corrected), *lessons([*outcomes, *pending])),
        pairs=tuple(pair for pair in pairs if len(fitting([pair.better, pair.worse])) == 2),
        episodes=tuple(by_id),
        suspicions=suspicions,
    )


def opinions(episode: Episode) -> Iterator[Feedback]:
    """What was said of how good it was: the metric `reward`, corrections and preferences. All else (a shadow's answers,
    metrics of operation) is no lesson."""
    return (f for f in episode.feedback if f.value is None or f.metric == REWARD.name)


def _trusted(episodes: Sequence[Episode], config: PoisonConfig | None) -> tuple[list[Episode], tuple[Suspicion, ...]]:
    """The episodes with the feedback that may be learned from. Graders (source `code`) are the referee; of all others
    each key, or where there is one for all each user, counts for so much at most."""
    said = {f.id: f for episode in episodes for f in opinions(episode)}
    people = [f for f in said.values() if f.source != "code"]
    if len({f.key for f in people}) == 1:
        people = [replace(f, key=f.user) for f in people]
    referee = {
        f.episode: float(f.value)
        for f in said.values()
        if f.source == "code" and f.value is not None and f.turn is None
    }
    alone = len({f.key for f in people}) == 1  # there are no others whom one might outweigh
    sifted = sift([] if alone else people, referee, config)
    out = {id for suspicion in sifted.suspicions for id in suspicion.feedback}
    kept = [replace(e, feedback=tuple(f for f in opinions(e) if f.id not in out)) for e in episodes]
    return kept, sifted.suspicions


def final(t: Trajectory) -> Trajectory:
    """The trajectory, of which feedback has said what it came to: its end is no reason any more to ask V."""
    ended = t.outcome.ending is Ending.TRUNCATED
    return replace(t, outcome=replace(t.outcome, ending=Ending.TERMINATED)) if ended else t


def demonstrated(f: Feedback, turn: ServedTurn, renderer: Renderer) -> Trajectory:
    """The answer as it should have been, as a demonstration: the prompt as it was read, then the correction."""
    reply = f.correction or ""
    said = renderer.reply_ids(reply)
    start, stop = len(turn.prompt), len(turn.prompt) + len(said)
    mask = [False] * start + [True] * len(said)
    turns = (Turn(start, stop, reply, "", 1.0, "teacher"),)
    outcome = Outcome(1.0, Ending.TERMINATED)
    return taught(f.id, Task(turn.job, "served", 0, ()), [*turn.prompt.tolist(), *said], mask, turns, outcome)


def preferences(episode: Episode, others: Mapping[str, Episode]) -> Iterator[Pair]:
    """The episode and one that it was preferred to, both in one sequence of tokens each."""
    for f in episode.feedback:
        other = others.get(f.preferred_to or "")
        if f.episode != episode.summary.id or other is None:
            continue
        better, worse = episode.pending(), other.pending()
        if len(better) == len(worse) == 1 and better[0].mask.any() and worse[0].mask.any():
            yield Pair(better[0], worse[0])
