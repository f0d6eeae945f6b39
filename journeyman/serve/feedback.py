"""The routes by which people and programs say what became of episodes. `looking.py` has those that read."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import Field, StrictBool, StringConstraints

from journeyman.experience.records import Feedback, Metric
from journeyman.serve.access import Reporter, Served
from journeyman.serve.errors import ApiError
from journeyman.serve.openai import Shape
from journeyman.serve.replies import Reply, failures

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
    d.metrics.said(kept.metric)
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
