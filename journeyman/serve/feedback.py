"""The routes of experience: what became of episodes is said here, and episodes are read."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query
from pydantic import Field, StrictBool, StringConstraints

from journeyman.errors import NotKept
from journeyman.experience.outcomes import Episode
from journeyman.experience.records import EpisodeFilter, EpisodeSummary, Feedback, Metric, ServedTurn
from journeyman.serve.access import Reporter, Served
from journeyman.serve.deployment import Deployment
from journeyman.serve.errors import ApiError
from journeyman.serve.keys import EVERYBODY
from journeyman.serve.openai import Shape
from journeyman.serve.prepare import Caller
from journeyman.serve.replies import Reply, failures
from journeyman.types import Trajectory

Name = Annotated[str, StringConstraints(min_length=1, max_length=500)]
LongText = Annotated[str, StringConstraints(max_length=100_000)]


class FeedbackRequest(Shape):
    """What somebody says of an episode or a turn: at least one of value, comment, correction and preferred_to."""

    episode_id: Name
    turn_id: Name | None = Field(None, description="The turn it is about; none: the whole episode.")
    metric: Name = Field("reward", description="What `value` is a value of.")
    value: StrictBool | Annotated[float, Field(strict=True)] | None = None
    comment: LongText = ""
    correction: LongText | None = Field(None, description="The answer as it should have been.")
    preferred_to: Name | None = Field(None, description="Another episode of the same task, worse than this one.")
    source: Literal["human", "model", "code"] = "human"
    explanation: LongText = ""
    tags: list[Annotated[str, StringConstraints(max_length=100)]] = Field(default_factory=list[str], max_length=50)
    user: str = Field("", max_length=500, description="The end user who says it.")
    idempotency_key: Name | None = Field(None, description="The same again, by the same API key, changes nothing.")


class FeedbackKept(Reply):
    """What is on the disk."""

    id: str
    object: Literal["feedback"]
    episode_id: str


class MetricRequest(Shape):
    """What a number or a boolean means, declared once."""

    name: Name
    type: Literal["boolean", "float"]
    level: Literal["turn", "episode"] = "episode"
    optimize: Literal["min", "max"] = "max"
    low: float | None = None
    high: float | None = None


class MetricReply(MetricRequest):
    """A metric that is known."""


class MetricList(Reply):
    """All metrics that are known."""

    object: Literal["list"]
    data: list[MetricReply]


class EpisodeReply(Reply):
    """An episode in short."""

    id: str
    object: Literal["episode"]
    ending: str
    reward: float | None
    value: float | None
    turns: int
    feedback: int


class EpisodeList(Reply):
    """Some of them, newest first."""

    object: Literal["list"]
    data: list[EpisodeReply]
    next: str | None = Field(description="The cursor of the next page.")


class WholeEpisode(Reply):
    """An episode with its turns and what was said of it."""

    id: str
    object: Literal["episode"]
    items: list[dict[str, Any]] = Field(description="Turns; of an episode of learning, its one trajectory.")
    said: list[dict[str, Any]] = Field(description="Feedback, in the order it came.")


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
    cursor: str | None = Field(None, max_length=500)
    limit: int = Field(50, ge=1, le=1000)


router = APIRouter(responses=failures())


@router.post("/v1/feedback", response_model=FeedbackKept, status_code=201, responses=failures(404, 409, 410, 503))
async def give(body: FeedbackRequest, d: Served, who: Reporter) -> dict[str, Any]:
    """Say what became of an episode. Answered when it is on the disk: 201 means kept, 503 means not."""
    amount = who.key.feedback_per_day
    wait = 0.0 if amount is None else d.feedback_rates.take(who.key.id, amount)
    if wait:
        raise ApiError(429, f"at most {amount} pieces of feedback in a day", "rate_limit_exceeded", retry_after=wait)
    given = body.model_dump(exclude={"episode_id", "turn_id", "tags"})
    said = Feedback(episode=body.episode_id, turn=body.turn_id, tags=tuple(body.tags), key=who.key.id, **given)
    kept = await asyncio.wrap_future(d.store.give(said, under_way=d.episodes.knows(body.episode_id)))
    d.metrics.feedback.labels(kept.metric).inc()
    return {"id": kept.id, "object": "feedback", "episode_id": kept.episode}


@router.post("/v1/metrics", response_model=MetricReply, status_code=201, responses=failures(409, 503))
async def declare(body: MetricRequest, d: Served, who: Reporter) -> dict[str, Any]:
    """Declare a metric. The same again changes nothing; another meaning for the same name is refused."""
    await asyncio.to_thread(d.store.declare, Metric(**body.model_dump()))
    return body.model_dump()


@router.get("/v1/metrics", response_model=MetricList, responses=failures(503))
async def metrics(d: Served, who: Reporter) -> dict[str, Any]:
    """All metrics that were declared."""
    known = await asyncio.to_thread(d.store.metrics)
    fields = ("name", "type", "level", "optimize", "low", "high")
    return {"object": "list", "data": [{f: getattr(m, f) for f in fields} for m in known.values()]}


@router.get("/v1/episodes", response_model=EpisodeList, responses=failures(503))
async def episodes(
    d: Served,
    who: Reporter,
    wanted: Annotated[EpisodeQuery, Query()],
) -> dict[str, Any]:
    """Episodes, newest first. A key sees its own; one with the scope `admin`, all. Without any key, whoever is on
    this machine sees all."""
    if who.key is EVERYBODY and d.config.open:
        raise ApiError(403, "where everybody is let in, only a key shows what was said", "insufficient_scope")
    given = wanted.model_dump(exclude={"cursor", "limit"})
    if not sees_all(d, who):
        given["key"] = who.key.id
    page = await asyncio.to_thread(d.store.browse, EpisodeFilter(**given), cursor=wanted.cursor, limit=wanted.limit)
    return {"object": "list", "data": [summary(one) for one in page.episodes], "next": page.cursor}


@router.get("/v1/episodes/{id:path}", response_model=WholeEpisode, responses=failures(404, 410, 503))
async def episode(id: str, d: Served, who: Reporter) -> dict[str, Any]:
    """One episode, whole: its turns with tokens, V along them, and all feedback."""
    found = await asyncio.to_thread(d.store.whole, id)
    if not sees_all(d, who) and found.summary.key != who.key.id:
        raise NotKept(id)
    return await asyncio.to_thread(whole, d, found)


def sees_all(d: Deployment, who: Caller) -> bool:
    """Whether these are all episodes to them: an administrator's key, or a server without keys."""
    return who.key.may("admin") or not len(d.keys)


def summary(one: EpisodeSummary) -> dict[str, Any]:
    """An episode in short."""
    fields = EpisodeSummary.__slots__
    return {"object": "episode", **{name: _plain(getattr(one, name)) for name in fields}}


def whole(d: Deployment, found: Episode) -> dict[str, Any]:
    """An episode with everything that is known of it."""
    items = [turn(d, one) for one in found.turns]
    if found.trajectory is not None:
        items = [trajectory(d, found.trajectory)]
    return {**summary(found.summary), "items": items, "said": [said(one) for one in found.feedback]}


def turn(d: Deployment, one: ServedTurn) -> dict[str, Any]:
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
        "pieces": d.prompts.renderer.pieces([*prompt, *completion]),
        "values": numbers(one.values),
    }


def trajectory(d: Deployment, t: Trajectory) -> dict[str, Any]:
    """A trajectory of the learning loop."""
    tokens = t.tokens.tolist()
    known = t.policy_version >= 0 and max(tokens, default=0) < d.loaded.model.config.vocab_size
    return {
        "id": t.id,
        "messages": [{"role": message.role, "content": message.content} for message in t.task.messages],
        "turns": [{"start": one.start, "stop": one.stop, "reply": one.reply, "observation": one.observation,
                   "reward": one.reward, "by": one.by} for one in t.turns],
        "token_ids": tokens,
        "mask": t.mask.tolist(),
        "logprobs": t.logprobs.tolist(),
        "pieces": d.prompts.renderer.pieces(tokens) if known else [],
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
