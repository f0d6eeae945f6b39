"""Who may call what: API keys, scopes, rates, and, where there are no keys, only this machine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Annotated

from fastapi import Depends, Header, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from journeyman.experience.records import check_name
from journeyman.serve.config import is_loopback
from journeyman.serve.deployment import Deployment
from journeyman.serve.errors import ApiError
from journeyman.serve.keys import EVERYBODY, Key, Scope
from journeyman.serve.prepare import Caller
from journeyman.serve.timeline import TRACED

BEARER = HTTPBearer(auto_error=False, description="An API key; `:<name>` behind it makes its calls one episode.")
Bearer = Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)]


async def deployment(request: Request) -> Deployment:  # a coroutine, or FastAPI would call it on a thread
    """A dependency: what is served."""
    return request.app.state.deployment


Served = Annotated[Deployment, Depends(deployment)]


def caller(scope: Scope, *, counted: bool = True) -> Callable[..., Awaitable[Caller]]:
    """A dependency: who calls, if they may.

    Args:
        counted: whether the call counts towards the caller's rate.
    """

    async def check(request: Request, d: Served, bearer: Bearer) -> Caller:
        text, _, session = (bearer.credentials if bearer else "").partition(":")
        key = known(d, text, scope)
        check_name("session", session, empty=True)
        address = request.client.host if request.client else ""
        if key is EVERYBODY:
            _local(d, request)
        if counted:
            _rate(d, key, address)
        request.scope["journeyman.key"] = key.id
        trace = {name: found for name in TRACED if (found := request.headers.get(name)) is not None}
        return Caller(key, address, session or None, trace=trace)

    return check


async def asker(
    who: Annotated[Caller, Depends(caller("use"))],
    session: Annotated[
        str | None,
        Header(alias="journeyman-session", description="Your name for an episode, whose turns its calls are."),
    ] = None,
    episode: Annotated[
        str | None, Header(alias="journeyman-episode-id", description="The episode that this turn goes on with.")
    ] = None,
) -> Caller:
    """A dependency: who asks the model, and what they are at."""
    check_name("session", session or "", empty=True)
    return replace(who, session=session or who.session, episode=episode)


User = Annotated[Caller, Depends(asker)]
Looker = Annotated[Caller, Depends(caller("use", counted=False))]
Reporter = Annotated[Caller, Depends(caller("feedback"))]
Admin = Annotated[Caller, Depends(caller("admin"))]


def known(d: Deployment, text: str, scope: Scope) -> Key:
    """The key that this is, if it holds for that; everybody, where no keys are asked for.

    Raises:
        ApiError: 401, there is no such key; 403, it holds for other things only.
    """
    if scope != "admin" and (d.config.open or not len(d.keys)):
        return d.keys.check(text) or EVERYBODY
    key = d.keys.check(text)
    if key is None:
        reason = "the API key is wrong or was revoked" if text else "an API key is needed: Authorization: Bearer <key>"
        raise ApiError(401, reason, "invalid_api_key")
    if not key.may(scope) and not key.may("admin"):
        raise ApiError(403, f"this key does not hold for {scope!r}", "insufficient_scope")
    return key


def _local(d: Deployment, request: Request) -> None:
    """Without keys, only those who call this machine by its own name: no web page that has its own name point here."""
    host = (request.url.hostname or "").strip("[]")
    if not d.config.open and not is_loopback(host) and host != d.config.host:
        raise ApiError(403, f"without API keys this server does not go by the name {host!r}", "host_not_allowed")


def _rate(d: Deployment, key: Key, address: str) -> None:
    amount = d.config.per_minute if key.per_minute is None else key.per_minute
    if not amount and key.per_minute is None:
        return
    wait = d.rates.take(key.id or address, amount)
    if wait:
        raise ApiError(429, f"at most {amount} requests in a minute", "rate_limit_exceeded", retry_after=wait)
