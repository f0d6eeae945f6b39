"""Where an improver stands: pure, from the journal alone. Whoever is killed goes on from here.

    waiting ──▶ learning ──▶ examining ──▶ releasing ──▶ waiting
                                 └── fail, inconclusive ──▶ settling ──▶ waiting

Learning leaves nothing behind until its candidate is proposed: one killed in the middle begins again. Everything after
that is an event. A candidate that a person proposes (`Registry.point("candidate", ...)`) is examined like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from journeyman.experience.journal import Event
from journeyman.release.book import Book
from journeyman.release.gate import Judgement, Verdict, latest
from journeyman.release.rollout import State

TOPIC = "improve"


class Doing(StrEnum):
    """What comes next."""

    WAITING = "waiting"
    EXAMINING = "examining"
    BEGINNING = "beginning"
    RELEASING = "releasing"
    SETTLING = "settling"


@dataclass(frozen=True)
class Standing:
    """What the journal says.

    Attributes:
        doing: what comes next.
        release: the version that is served.
        candidate: the version that is examined or released; None while there is none.
        judgement: what the gate said of it.
        learned: number of the entry up to which the release has learned.
        tried: number of the entry up to which any candidate has.
        judged, released: candidates so far, and those of them that became the release.
        paused: whether somebody wants it to rest.
        why: of what ended the last candidate.
    """

    doing: Doing
    release: int | None
    candidate: int | None
    judgement: Judgement | None
    learned: int
    tried: int
    judged: int
    released: int
    paused: bool
    why: str = ""

    def goes_on(self, before: Standing) -> bool:
        """Whether what was begun then is still what is to be done: with this candidate, against this release."""
        return (self.doing, self.candidate, self.release) == (before.doing, before.candidate, before.release)

    @staticmethod
    def of(events: Sequence[Event]) -> Standing:
        """Read the journal."""
        book, rollout = Book.of(events), State.of(events)
        release, candidate = book.aliases.get("release"), book.aliases.get("candidate")
        judgements = {number: latest(found) for number, found in book.evidence.items()}
        judged = {number for number, judgement in judgements.items() if judgement is not None}
        judgement = judgements.get(candidate or 0)
        own = [event.data for event in events if event.topic == TOPIC]
        learned = {data["version"]: data["cursor"] for data in own if data["what"] == "learned"}
        line = {release, *book.ancestors(release)} if release else set[int]()
        released = {move.version for move in book.moves if move.alias == "release"}
        orders = [data["what"] for data in own if data["what"] in ("pause", "resume")]
        doing, why = _next(book, rollout, candidate, judgement)
        return Standing(
            doing=doing,
            release=release,
            candidate=candidate if doing is not Doing.WAITING else None,
            judgement=judgement,
            learned=max((cursor for version, cursor in learned.items() if version in line), default=0),
            tried=max(learned.values(), default=0),
            judged=len(judged),
            released=len(released & judged),
            paused=orders[-1:] == ["pause"],
            why=why,
        )


def _next(book: Book, rollout: State | None, candidate: int | None, judgement: Judgement | None) -> tuple[Doing, str]:
    if rollout is not None and rollout.under_way:
        return Doing.RELEASING, rollout.why
    if candidate is None:
        return Doing.WAITING, ""
    if candidate == book.aliases.get("release"):
        return Doing.SETTLING, "it is the release"
    if candidate in book.quarantined:
        return Doing.SETTLING, "it is in quarantine"
    if rollout is not None and rollout.candidate == candidate:
        return Doing.SETTLING, rollout.why
    if judgement is None:
        return Doing.EXAMINING, ""
    if judgement.verdict is Verdict.PASS:
        return Doing.BEGINNING, ""
    return Doing.SETTLING, f"the gate says {judgement.verdict}"
