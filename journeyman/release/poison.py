"""Feedback that may be poisoned: limited where one key would weigh too much, flagged where it looks wrong. Pure.

    limit          a key counts for at most a share of all that was said; what came first counts
    burst          a key said more within a minute than anybody does
    contradiction  a key says the opposite of a referee (a grader, code, the other keys) more often than honest
                   disagreement explains; tested by betting, so that it may be looked at after every piece

What was flagged is left out and named with its reason, for a person or `Registry.bar` to decide on. Nothing is deleted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from journeyman.errors import UsageError
from journeyman.experience.records import REWARD, SHADOW, Feedback
from journeyman.release.sequential import evidence_above


@dataclass(frozen=True)
class PoisonConfig:
    """What one key may do."""

    share: float = 0.2
    """Of all pieces, that one key's may be."""
    least: int = 50
    """Pieces that every key may give, however few others there are."""
    burst: int = 60
    """Pieces within `seconds` above which it is a burst."""
    seconds: float = 60.0
    """How long a burst's window is."""
    disagreement: float = 0.25
    """Share of its pieces in which an honest key may contradict the referee."""
    alarm: float = 0.001
    """Chance that any of the honest keys is flagged for contradicting, over all looks."""

    def __post_init__(self) -> None:
        for name in ("share", "disagreement", "alarm"):
            if not 0 < getattr(self, name) < 1:
                raise UsageError(f"poison: {name} must lie between 0 and 1, got {getattr(self, name)}")
        if self.least < 1 or self.burst < 1 or self.seconds <= 0:
            raise UsageError("poison: least and burst must be at least 1, and seconds above 0")


@dataclass(frozen=True)
class Suspicion:
    """Why some feedback was left out.

    Attributes:
        key: whose it is.
        kind: `limit`, `burst` or `contradiction`.
        why: in words, with numbers.
        feedback: ids of the pieces.
    """

    key: str
    kind: str
    why: str
    feedback: tuple[str, ...]


@dataclass(frozen=True)
class Sifted:
    """What may be learned from, in the order it came, and what was left out."""

    kept: tuple[Feedback, ...]
    suspicions: tuple[Suspicion, ...]


def sift(
    feedback: Iterable[Feedback], referee: Mapping[str, float] | None = None, config: PoisonConfig | None = None
) -> Sifted:
    """Leave out what may be poisoned.

    Args:
        feedback: of all keys, in any order; what shadows answered is none, and is left out without a word.
        referee: by episode, the reward in [0, 1] that somebody says who is trusted more than any key.
    """
    config = config or PoisonConfig()
    given = sorted((f for f in feedback if f.metric != SHADOW.name), key=lambda f: (f.at, f.id))
    by_key: dict[str, list[Feedback]] = {}
    for one in given:
        by_key.setdefault(one.key, []).append(one)
    suspicions: list[Suspicion] = []
    for key, mine in by_key.items():
        suspicions += _contradiction(key, mine, referee or {}, config, len(by_key))
        suspicions += _burst(key, mine, config)
    out = {id for s in suspicions for id in s.feedback}
    left = {key: [f for f in mine if f.id not in out] for key, mine in by_key.items()}
    most = max(config.least, int(config.share * sum(map(len, left.values()))))
    for key, mine in left.items():
        if len(mine) > most:
            why = f"{len(mine)} pieces, of which one key may give {most}"
            suspicions.append(Suspicion(key, "limit", why, tuple(f.id for f in mine[most:])))
    out |= {id for s in suspicions for id in s.feedback}
    return Sifted(tuple(f for f in given if f.id not in out), tuple(suspicions))


def _contradiction(
    key: str, mine: Sequence[Feedback], referee: Mapping[str, float], config: PoisonConfig, keys: int
) -> list[Suspicion]:
    opposed = [
        float(abs(float(f.value) - referee[f.episode]) > 0.5)
        for f in mine
        if f.episode in referee and f.value is not None and f.metric == REWARD.name
    ]
    evidence = evidence_above(opposed, config.disagreement)
    if evidence < math.log(keys / config.alarm):
        return []
    why = (
        f"contradicts the referee in {sum(opposed):.0f} of {len(opposed)} pieces, e = {math.exp(min(evidence, 50)):.3g}"
    )
    return [Suspicion(key, "contradiction", why, tuple(f.id for f in mine))]


def _burst(key: str, mine: Sequence[Feedback], config: PoisonConfig) -> list[Suspicion]:
    """All pieces that lie within some window that holds too many."""
    caught: set[str] = set()
    start = 0
    for stop, last in enumerate(mine):
        while last.at - mine[start].at > config.seconds:
            start += 1
        if stop - start + 1 > config.burst:
            caught |= {f.id for f in mine[start : stop + 1]}
    if not caught:
        return []
    why = f"{len(caught)} pieces at more than {config.burst} in {config.seconds:g} s"
    return [Suspicion(key, "burst", why, tuple(f.id for f in mine if f.id in caught))]
