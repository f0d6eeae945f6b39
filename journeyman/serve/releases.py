"""What the journal says of versions and of rollouts, for the page to show: pure functions of its events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from journeyman.experience.journal import Event
from journeyman.release.book import Book, Version
from journeyman.release.gate import Verdict, latest
from journeyman.release.rollout import Guardrail, State
from journeyman.release.steering import TROUBLE, course

ROLLOUTS = 20
"""The latest that are shown."""


def standing(events: Sequence[Event]) -> dict[int, dict[str, Any]]:
    """Each version: where it came from, where it stands, and what was found about it."""
    book = Book.of(events)
    unserved = {event.data["version"]: str(event.data["why"]) for event in events if event.topic == TROUBLE}
    now = course(events)
    shares = {} if now is None else {**dict.fromkeys(now.versions, 0.0), **now.shares}
    aliases: dict[int, list[str]] = {}
    for alias, number in book.aliases.items():
        aliases.setdefault(number, []).append(alias)
    return {
        number: {
            **_origin(version),
            "aliases": aliases.get(number, []),
            "share": shares.get(number),
            "verdict": _verdict(book, number),
            "quarantine": book.distrust(number),
            "trouble": unserved.get(number),
            "notes": [{"at": at, "text": text} for at, text in book.notes.get(number, ())],
        }
        for number, version in book.versions.items()
    }


def _origin(version: Version) -> dict[str, Any]:
    return {
        "digest": version.digest,
        "source": version.source,
        "since": version.at,
        "parents": list(version.parents),
        "learned": sum(last - first + 1 for first, last in version.entries),
    }


def _verdict(book: Book, number: int) -> dict[str, Any] | None:
    """What the gate found last, in short."""
    judgement = latest(book.evidence.get(number, ()))
    if judgement is None:
        return None
    shown = len(judgement.of(Verdict.PASS))
    return {"verdict": str(judgement.verdict), "shown": shown, "claims": len(judgement.findings)}


def rollouts(events: Sequence[Event]) -> list[dict[str, Any]]:
    """The latest rollouts, the newest first, with every decision and the numbers it was made by."""
    found: list[dict[str, Any]] = []
    state: State | None = None
    for event in events:
        if event.topic != "rollout":
            continue
        data = event.data
        state = State.of([event]) if data["what"] == "begin" else _after(state, event)
        if state is None:
            continue
        if data["what"] == "begin":
            found.append({"decisions": []})
        decision = {
            "at": event.at,
            "what": data["what"],
            "why": data.get("why", ""),
            "share": state.share,
            "readings": list(data.get("readings", ())),
        }
        found[-1] = _shown(state) | {"decisions": [*found[-1]["decisions"], decision]}
    return found[::-1][:ROLLOUTS]


def _after(state: State | None, event: Event) -> State | None:
    return state.after(event.data) if state is not None and event.data["rollout"] == state.id else None


def _shown(state: State) -> dict[str, Any]:
    plan = state.plan
    return {
        "id": state.id,
        "candidate": state.candidate,
        "release": state.release,
        "begun": state.at,
        "phase": str(state.phase),
        "stages": list(plan.shares),
        "stage": state.stage,
        "share": state.share,
        "least": state.least,
        "guardrails": [_rail(rail) for rail in state.guardrails],
        "power": asdict(state.power),
    }


def _rail(rail: Guardrail) -> dict[str, Any]:
    return {"name": rail.name, "margin": rail.margin}
