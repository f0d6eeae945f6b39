"""The administration's routes, on a listener of their own: weights, draining, keys, and what people may ask of us."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from pydantic import Field, StringConstraints

from journeyman.errors import UnknownName
from journeyman.release.book import Version
from journeyman.serve.access import Admin, Served
from journeyman.serve.deployment import Deployment
from journeyman.serve.errors import ApiError
from journeyman.serve.fleet import Member
from journeyman.serve.keys import Scope
from journeyman.serve.openai import Shape
from journeyman.serve.replies import Reply, failures


class WeightsRequest(Shape):
    """Which weights to serve from now on."""

    source: Annotated[str, StringConstraints(min_length=1, max_length=4096)] = Field(
        description="A run folder, a checkpoint folder, or a name, as `journeyman serve` takes it."
    )


class VersionReply(Reply):
    """Weights that are known."""

    version: int
    digest: str
    source: str
    since: float


class VersionList(Reply):
    """All of them, and which is served now."""

    current: int
    data: list[VersionReply]


class ServedVersion(VersionReply):
    """A version that is served."""

    state: Literal["release", "candidate", "shadow", "leaving"]
    share: float = Field(description="Of the requests that ask for no version by name.")
    running: int = Field(description="Replies under way.")


class FailedVersion(Reply):
    """A version that the log asks for and that cannot be served. It is tried again."""

    version: int
    why: str


class ServedList(Reply):
    """All that are, and those that should be."""

    data: list[ServedVersion]
    failed: list[FailedVersion]


class SharesRequest(Shape):
    """Which version gets which share of the requests."""

    shares: dict[Annotated[int, Field(ge=1, lt=1 << 62)], float] = Field(
        description="By the version's number. They add up to 1; versions not named get none.", min_length=1
    )


class KeyRequest(Shape):
    """A key to be made."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    scopes: list[Scope] = Field(default_factory=lambda: list[Scope](("use", "feedback")), min_length=1)
    per_minute: int | None = Field(None, ge=0, lt=1 << 31)
    feedback_per_day: int | None = Field(None, ge=0, lt=1 << 31)


class KeyReply(Reply):
    """A key, less its secret."""

    id: str
    name: str
    scopes: list[Scope]
    created: float
    revoked: float | None
    per_minute: int | None
    feedback_per_day: int | None


class NewKey(KeyReply):
    """A new key, with its text: it cannot be had again."""

    key: str


class KeyList(Reply):
    """All keys there ever were."""

    data: list[KeyReply]


class EraseRequest(Shape):
    """Whose episodes to erase, or which, or those older than a time (Unix seconds)."""

    user: Annotated[str, StringConstraints(min_length=1, max_length=500)] | None = None
    episodes: list[Annotated[str, StringConstraints(max_length=500)]] = Field(default_factory=list[str])
    before: float | None = None
    why: str = Field("", max_length=500, description="Kept with the fact; no personal data.")


class Erased(Reply):
    """How many episodes are gone."""

    erased: int


class Drained(Reply):
    """That no new work is taken any more."""

    draining: bool
    outstanding: int


router = APIRouter(prefix="/admin", responses=failures())


@router.get("/weights", response_model=VersionList)
async def weights(d: Served, who: Admin) -> dict[str, Any]:
    """Which weights are known to the registry, and which most requests get."""
    book = await asyncio.to_thread(d.registry.book)
    return {"current": d.version.number, "data": [shown(version) for version in book.versions.values()]}


@router.post("/weights", response_model=VersionReply, responses=failures(409))
async def replace(body: WeightsRequest, d: Served, who: Admin) -> dict[str, Any]:
    """Let the release have other weights of its shape. Replies under way go on with them; each token's version is
    kept."""
    return shown(await d.replace(body.source))


@router.get("/versions", response_model=ServedList)
async def served(d: Served, who: Admin) -> dict[str, Any]:
    """The versions that are served side by side."""
    failed = [{"version": number, "why": failure.why} for number, failure in d.follower.failures.items()]
    return {"data": [shown_member(d, member) for member in d.fleet.members], "failed": failed}


@router.post("/versions", response_model=ServedVersion, status_code=201, responses=failures(409))
async def load(body: WeightsRequest, d: Served, who: Admin) -> dict[str, Any]:
    """Serve one more version, of the same tokenizer. It has no share yet: only who asks for it by name gets it."""
    return shown_member(d, await d.load(body.source))


@router.put("/shares", response_model=ServedList, responses=failures(404))
async def divide(body: SharesRequest, d: Served, who: Admin) -> dict[str, Any]:
    """Give the versions their shares, all at once. Episodes under way stay with their version."""
    try:
        d.divide(body.shares)
    except UnknownName as error:
        raise ApiError(404, error.mistake, "not_found") from error
    return await served(d, who)


@router.delete("/versions/{number}", response_model=ServedVersion, status_code=202, responses=failures(404, 409))
async def dismiss(number: Annotated[int, Path(ge=1, lt=1 << 62)], d: Served, who: Admin) -> dict[str, Any]:
    """Serve a version that has no share no longer. What is under way is finished; episodes go on with another."""
    try:
        return shown_member(d, d.dismiss(number))
    except UnknownName as error:
        raise ApiError(404, error.mistake, "not_found") from error


@router.post("/drain", response_model=Drained)
async def drain(d: Served, who: Admin) -> dict[str, Any]:
    """Take no new work; what is under way is finished. `DELETE` takes it back."""
    d.draining = True
    return {"draining": True, "outstanding": d.gateway.outstanding}


@router.delete("/drain", response_model=Drained)
async def resume(d: Served, who: Admin) -> dict[str, Any]:
    """Take new work again."""
    d.draining = False
    return {"draining": False, "outstanding": d.gateway.outstanding}


@router.get("/keys", response_model=KeyList)
async def keys(d: Served, who: Admin) -> dict[str, Any]:
    """All keys, less their secrets."""
    return {"data": [key.public() for key in await asyncio.to_thread(d.keys.all)]}


@router.post("/keys", response_model=NewKey, status_code=201)
async def add(body: KeyRequest, d: Served, who: Admin) -> dict[str, Any]:
    """Make a key. Its text is in the answer, and nowhere else."""
    key, text = await asyncio.to_thread(
        d.keys.add,
        body.name,
        tuple(body.scopes),
        per_minute=body.per_minute,
        feedback_per_day=body.feedback_per_day,
    )
    return {**key.public(), "key": text}


@router.delete("/keys/{id}", response_model=KeyReply, responses=failures(404))
async def revoke(id: str, d: Served, who: Admin) -> dict[str, Any]:
    """Let a key hold no longer."""
    try:
        return (await asyncio.to_thread(d.keys.revoke, id)).public()
    except UnknownName as error:
        raise ApiError(404, error.mistake, "not_found") from error


@router.post("/erase", response_model=Erased, responses=failures(503))
async def erase(body: EraseRequest, d: Served, who: Admin) -> dict[str, Any]:
    """Erase a user's episodes, or some by id or age. The hash chain still verifies."""
    count = await asyncio.to_thread(
        d.store.erase, user=body.user, episodes=body.episodes, before=body.before, why=body.why
    )
    return {"erased": count}


def shown_member(d: Deployment, member: Member) -> dict[str, Any]:
    """A version that is served, for JSON."""
    state = "leaving" if member.leaving else "release" if member is d.fleet.release else "candidate"
    if member is d.shadow.member:
        state = "shadow"
    running = member.service.running
    return {**shown(member.version), "state": state, "share": d.fleet.share(member), "running": running}


def shown(version: Version) -> dict[str, Any]:
    """A version for JSON."""
    return {
        "version": version.number,
        "digest": version.digest,
        "source": version.source,
        "since": version.at,
    }
