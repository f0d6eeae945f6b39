"""The routes that read: episodes in lists and whole, as traces, and what they say of the learner.

The web page needs nothing else. They are the same on a server (`journeyman serve`) and over a run's store alone
(`journeyman view`); who may look, and at what, is for the door of the application to say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field

from journeyman.errors import NotKept
from journeyman.experience.outcomes import Episode
from journeyman.experience.records import EpisodeFilter, EpisodeSummary, Feedback, ServedTurn
from journeyman.serve.access import Bearer
from journeyman.serve.archive import Archive
from journeyman.serve.openai import Shape
from journeyman.serve.releases import rollouts, standing
from journeyman.serve.replies import Reply, failures
from journeyman.serve.traces import trace
from journeyman.types import Trajectory

SNIPPET = 160
"""Characters of what an episode begins with that a list shows."""


@dataclass(frozen=True)
class View:
    """What somebody may look at: everything, or the episodes of one API key (`key`)."""

    archive: Archive
    key: str | None = None


class Door(Protocol):
    """Who may look, and what the page is told of the place. An application has one as `state.door`."""

    async def admit(self, request: Request, bearer: Bearer) -> View:
        """What this caller may look at. Raises ApiError: nothing."""
        ...

    def about(self) -> Mapping[str, Any]:
        """The fields `name`, `live`, `serving` and `traffic` of :class:`Overview`."""
        ...


async def door(request: Request) -> Door:
    """A dependency: the application's door."""
    return request.app.state.door


async def looker(request: Request, bearer: Bearer, at: Annotated[Door, Depends(door)]) -> View:
    """A dependency: who looks."""
    return await at.admit(request, bearer)


Looking = Annotated[View, Depends(looker)]


class EpisodeReply(Reply):
    """An episode in short."""

    id: str
    object: Literal["episode"]
    origin: str = Field(description="`served`, or `learning`: played by the learning loop.")
    job: str
    split: str
    step: int | None
    ending: str
    reward: float | None
    value: float | None = Field(description="V after its last token, as V itself has it.")
    turns: int
    feedback: int
    versions: list[int]
    started: float | None
    updated: float | None


class ListedEpisode(EpisodeReply):
    """An episode in a list."""

    opening: str = Field(description="The beginning of what was asked last in its first prompt.")


class EpisodeList(Reply):
    """Some of them, newest first."""

    object: Literal["list"]
    data: list[ListedEpisode]
    next: str | None = Field(description="The cursor of the next page.")


class WholeEpisode(EpisodeReply):
    """An episode with its turns and what was said of it."""

    items: list[dict[str, Any]] = Field(description="Turns; of an episode of learning, its one trajectory.")
    said: list[dict[str, Any]] = Field(description="Feedback, in the order it came.")


class TraceSpan(Reply):
    """A stretch of text, as a rule one token."""

    text: str
    value: float | None = Field(description="V after reading it.")
    position: int | None = Field(description="Of its token in the sequence.")
    call: bool = Field(description="Part of a tool call.")


class TracePassage(Reply):
    """What one speaker says at once."""

    speaker: Literal["system", "user", "assistant", "tool", "environment"]
    turn: int = Field(description="From 1; 0 is the prompt.")
    spans: list[TraceSpan]


class TraceMoment(Reply):
    """Where V moved most within one span."""

    position: int
    turn: int
    text: str
    before: float
    after: float


class TraceTurn(Reply):
    """One reply: tokens `start` to `stop`."""

    id: str = Field(description="For feedback on this turn.")
    start: int
    stop: int
    reward: float | None
    by: str
    finish: str | None
    versions: list[int]


class TracePath(Reply):
    """One sequence of tokens. An episode has several where its conversation branched."""

    id: str
    forked: int | None = Field(description="Its first token of its own, where it left another path.")
    ending: str
    reward: float | None
    error: str
    turns: list[TraceTurn]
    passages: list[TracePassage]
    series: list[tuple[int, float]] = Field(description="Position and V, from the first sampled token's state on.")
    fall: TraceMoment | None
    rise: TraceMoment | None
    sampled: int = Field(description="Tokens that the model wrote.")
    by_token: bool = Field(description="Whether spans are tokens; else, without a tokenizer, they are turns.")


class TraceOther(Reply):
    """Another attempt at the same task: an exam's, one of practice, or a branch of an episode (`parent`)."""

    id: str
    kind: Literal["exam", "practice", "branch"]
    step: int | None
    parent: str | None
    turn: int | None = Field(description="Of the parent, counted from 0: the branch went on before it.")
    position: int | None = Field(description="The last token that a branch of this very episode shares with it.")
    reward: float | None
    value: float | None
    ending: str


class Trace(EpisodeReply):
    """An episode for reading: its text with V along it, and what was said of it."""

    task: str | None
    level: int
    paths: list[TracePath]
    others: list[TraceOther]
    said: list[dict[str, Any]] = Field(description="Feedback, in the order it came.")


class Activity(Reply):
    """What has come since."""

    object: Literal["activity"]
    cursor: int = Field(description="To ask with next time.")
    data: list[ListedEpisode] = Field(description="Episodes of which something has come, the latest last.")
    traffic: list[dict[str, float]] = Field(
        description="What the server did in the last half hour, by spans of ten seconds: `at` (Unix seconds), "
        "`answers`, `prompt_tokens`, `completion_tokens`, `value` and `valued` (sum and number), `feedback`."
    )


class Overview(Reply):
    """The learner at a glance."""

    object: Literal["overview"]
    name: str
    live: bool = Field(description="Whether a model is served here, and feedback taken.")
    serving: int | None = Field(description="The version that is served.")
    told: str = Field(description="What happened in the run, in a sentence or two; empty where there is none.")
    state: str | None = Field(description="`running`, `finished` or `interrupted`: of the run.")
    step: int | None
    steps: int | None
    jobs: list[dict[str, Any]] = Field(
        description="Each job of the run: its exams, and charts as SVG to be coloured by the page's style sheet."
    )
    versions: list[dict[str, Any]] = Field(
        description="Versions of the weights, the newest first: what the registry says of each (`parents`, `aliases`, "
        "`share` of the traffic, `verdict` of the gate, `quarantine`, `trouble`), and what the latest served episodes "
        "say of it (`success` with its 95% interval where feedback is known)."
    )
    rollouts: list[dict[str, Any]] = Field(
        description="The latest 20, the newest first: the stages with the present one, and every decision with the "
        "readings it was made by (means of candidate and release; `shown` and `refuted`: logs of the e-values)."
    )
    judgement: dict[str, Any] | None = Field(
        description="Of the latest served episodes whose outcome is known: how early V knew, and its calibration."
    )


class EpisodeQuery(Shape):
    """Which episodes: all that is given holds."""

    job: str | None = Field(None, max_length=500)
    split: str | None = Field(None, max_length=500)
    user: str | None = Field(None, max_length=500)
    key: str | None = Field(None, max_length=500)
    ending: str | None = Field(None, max_length=500)
    version: int | None = Field(None, ge=0, lt=1 << 62)
    since: float | None = None
    until: float | None = None
    outcome: Literal["success", "failure", "unknown"] | None = None
    has_feedback: bool | None = None
    origin: Literal["served", "learning"] | None = None
    least: float | None = Field(None, description="V after its last token is at least this.")
    most: float | None = Field(None, description="V after its last token is at most this.")
    search: str | None = Field(
        None,
        min_length=1,
        max_length=500,
        description="Part of its id, or said in it. A page may end before it is full.",
    )
    cursor: str | None = Field(None, max_length=500)
    limit: int = Field(50, ge=1, le=1000)


router = APIRouter(responses=failures())


@router.get("/v1/episodes", response_model=EpisodeList, responses=failures(503))
async def episodes(at: Looking, wanted: Annotated[EpisodeQuery, Query()]) -> dict[str, Any]:
    """Episodes, newest first. A key sees its own; one with the scope `admin`, all. Without any key, whoever is on
    this machine sees all."""
    given = wanted.model_dump(exclude={"cursor", "limit"})
    if at.key is not None:
        given["key"] = at.key
    store = at.archive.store
    page = await asyncio.to_thread(store.browse, EpisodeFilter(**given), cursor=wanted.cursor, limit=wanted.limit)
    return {"object": "list", "data": await asyncio.to_thread(listed, at, page.episodes), "next": page.cursor}


@router.get("/v1/episodes/{id:path}", response_model=WholeEpisode, responses=failures(404, 410, 503))
async def episode(id: str, at: Looking) -> dict[str, Any]:
    """One episode, whole: its turns with tokens, V along them, and all feedback."""
    found = await asyncio.to_thread(seen, at, id)
    return await asyncio.to_thread(whole, at.archive, found)


@router.get("/v1/traces/{id:path}", response_model=Trace, responses=failures(404, 410, 503))
async def traced(id: str, at: Looking) -> dict[str, Any]:
    """One episode for reading: its text in spans with V after each, turn by turn, and other attempts at its task."""
    found = await asyncio.to_thread(seen, at, id)
    laid_out = await asyncio.to_thread(trace, at.archive, found)
    return {**summary(found.summary), **laid_out, "said": [said(one) for one in found.feedback]}


@router.get("/v1/activity", response_model=Activity, responses=failures(503))
async def activity(
    at: Looking,
    place: Annotated[Door, Depends(door)],
    cursor: Annotated[int | None, Query(ge=0, lt=1 << 62, description="That of the last answer.")] = None,
) -> dict[str, Any]:
    """Of which episodes something has come since the cursor; without one, only the cursor to begin with. Costs little
    when nothing has: made to be asked every few seconds."""
    found = await asyncio.to_thread(at.archive.store.changes, cursor)
    ours = [one for one in found.episodes if at.key in (None, one.key)]
    return {
        "object": "activity",
        "cursor": found.cursor,
        "data": await asyncio.to_thread(listed, at, ours),
        "traffic": place.about()["traffic"],
    }


@router.get("/v1/overview", response_model=Overview, responses=failures(503))
async def overview(at: Looking, place: Annotated[Door, Depends(door)]) -> dict[str, Any]:
    """The learner at a glance: the run's learning curves, what is served, how its versions do, and what V knew."""
    return await asyncio.to_thread(glance, at, place.about())


def glance(at: View, about: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`overview` answers."""
    archive = at.archive
    run = archive.read()
    known = {one.version: asdict(one) for one in archive.evidence(at.key)}
    events = archive.journal.read()
    registry = standing(events)
    return {
        "object": "overview",
        "name": about["name"],
        "live": about["live"],
        "serving": about["serving"],
        "told": archive.told(),
        "state": run and run.state,
        "step": run and run.step,
        "steps": run and run.steps,
        "jobs": archive.learning(),
        "versions": [
            {"version": number, **known.get(number, {"episodes": 0}), **registry.get(number, {})}
            for number in sorted({*known, *registry}, reverse=True)
        ],
        "rollouts": rollouts(events),
        "judgement": archive.judgement(at.key),
    }


def seen(at: View, id: str) -> Episode:
    """The whole episode. Raises NotKept: there is none that this caller may look at."""
    found = at.archive.store.whole(id)
    if at.key not in (None, found.summary.key):
        raise NotKept(id)
    return found


def listed(at: View, found: Sequence[EpisodeSummary]) -> list[dict[str, Any]]:
    """Episodes as lists show them."""
    words = at.archive.store.openings([one.id for one in found])
    return [{**summary(one), "opening": words.get(one.id, "").strip()[:SNIPPET]} for one in found]


def summary(one: EpisodeSummary) -> dict[str, Any]:
    """An episode in short."""
    fields = EpisodeSummary.__slots__
    return {"object": "episode", **{name: _plain(getattr(one, name)) for name in fields}}


def whole(archive: Archive, found: Episode) -> dict[str, Any]:
    """An episode with everything that is known of it."""
    if found.trajectory is not None:
        items = [trajectory(archive, found.trajectory)]
    else:
        items = [turn(archive, one) for one in found.turns]
    return {**summary(found.summary), "items": items, "said": [said(one) for one in found.feedback]}


def turn(archive: Archive, one: ServedTurn) -> dict[str, Any]:
    """A served turn."""
    prompt, completion = one.prompt.tolist(), one.completion.tolist()
    return {
        "id": one.id,
        "after": one.after,
        "request": one.request,
        "choice": one.choice,
        "messages": list(one.messages),
        "reply": dict(one.reply),
        "parameters": dict(one.parameters),
        "by": one.by,
        "finish": one.finish,
        "temperature": one.temperature,
        "started": one.started,
        "ended": one.ended,
        "versions": [
            {name: getattr(s, name) for name in ("version", "start", "stop", "probability")} for s in one.spans
        ],
        "prompt_token_ids": prompt,
        "token_ids": completion,
        "logprobs": one.logprobs.tolist(),
        "pieces": archive.texts([*prompt, *completion]) or [],
        "values": numbers(one.values),
    }


def trajectory(archive: Archive, t: Trajectory) -> dict[str, Any]:
    """A trajectory of the learning loop."""
    tokens = t.tokens.tolist()
    return {
        "id": t.id,
        "messages": [{"role": message.role, "content": message.content} for message in t.task.messages],
        "turns": [{"start": one.start, "stop": one.stop, "reply": one.reply, "observation": one.observation,
                   "reward": one.reward, "by": one.by} for one in t.turns],
        "token_ids": tokens,
        "mask": t.mask.tolist(),
        "logprobs": t.logprobs.tolist(),
        "pieces": archive.pieces(t) or [],
        "values": numbers(t.values),
    }  # fmt: skip


def said(one: Feedback) -> dict[str, Any]:
    """A piece of feedback."""
    hidden = ("idempotency_key",)
    return {name: _plain(getattr(one, name)) for name in Feedback.__slots__ if name not in hidden}


def numbers(values: Any) -> list[float | None]:
    """Values for JSON, in six digits; null where there is none."""
    return [None if np.isnan(value) else round(float(value), 6) for value in values]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
