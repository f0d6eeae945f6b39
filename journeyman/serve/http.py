"""What stands around all routes: limits on size and time, errors in one shape, one log line per request.

A slow or endless client is dropped: its head must arrive in time (`PatientProtocol`), its body in time and in size
(`Around`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import h11
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.h11_impl import H11Protocol

from journeyman.errors import JourneymanError
from journeyman.experience.ids import uuid7
from journeyman.serve.deployment import Deployment
from journeyman.serve.errors import ApiError, error_body, from_ours

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


PATIENCE = 4
"""A request up to so many times too large is heard to its end, and dropped: a client that is still sending when its
connection closes does not see the answer."""


class Around:
    """ASGI middleware around an app."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], d: Deployment) -> None:
        self.app, self.d = app, d

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status, id = time.monotonic(), 0, uuid7()
        headers = dict(scope["headers"])

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", id.encode())]
            await send(message)

        limited = _limited(receive, self.d.config.largest, self.d.config.request_seconds)
        try:
            length = headers.get(b"content-length", b"0")
            if length.isdigit() and int(length) > PATIENCE * self.d.config.largest:
                await _too_large(self.d.config.largest)(scope, receive, answer)
            else:
                await self.app(scope, limited, answer)
        except Exception as error:  # a defect of ours: say so, and stay up
            self.d.log.write("error", request=id, error=f"{type(error).__name__}: {error}")
            if not status:
                body = error_body(500, "something of ours broke; it is logged", "internal_error")
                await JSONResponse(body, 500)(scope, receive, answer)
        finally:
            self._note(scope, id, status, time.monotonic() - started)

    def _note(self, scope: Scope, id: str, status: int, seconds: float) -> None:
        route = scope.get("route")
        path = str(getattr(route, "path", "other"))
        self.d.metrics.requests.labels(path, str(status or 499)).inc()
        self.d.metrics.seconds.labels(path).observe(seconds)
        if path in ("/healthz", "/readyz", "/metrics", "/v1/activity"):
            return
        self.d.log.write(
            "request",
            scope.get("journeyman.said"),
            request=id,
            method=scope["method"],
            route=path,
            status=status or 499,
            seconds=round(seconds, 6),
            key=scope.get("journeyman.key", ""),
            **scope.get("journeyman.log", {}),
        )


def _too_large(most: int) -> JSONResponse:
    body = error_body(413, f"a request has at most {most} bytes", "request_too_large")
    return JSONResponse(body, 413, headers={"Connection": "close"})


def _limited(receive: Receive, most: int, seconds: float) -> Receive:
    """The same, until the body is too large or takes too long."""
    deadline = time.monotonic() + seconds
    size, whole = 0, False

    async def limited() -> Message:
        nonlocal size, whole
        if whole:  # only the end of the connection is still to come
            return await receive()
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                message = await receive()
        except TimeoutError:
            raise HTTPException(408, f"the request did not arrive within {seconds:g} s") from None
        size += len(message.get("body", b""))
        whole = not message.get("more_body", False)
        if size <= most:
            return message
        if whole or size > PATIENCE * most:
            raise HTTPException(413, f"a request has at most {most} bytes")
        return {**message, "body": b""}

    return limited


def handle_errors(app: FastAPI) -> None:
    """Let every error have OpenAI's shape."""

    @app.exception_handler(ApiError)
    async def ours(request: Request, error: Exception) -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        assert isinstance(error, ApiError)
        request.scope.setdefault("journeyman.log", {})["error"] = error.code
        return JSONResponse(error.body, error.status, headers=error.headers)

    @app.exception_handler(JourneymanError)
    async def known(request: Request, error: Exception) -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        assert isinstance(error, JourneymanError)
        found = from_ours(error)
        request.scope.setdefault("journeyman.log", {})["error"] = found.code
        return JSONResponse(found.body, found.status, headers=found.headers)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: Exception) -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        assert isinstance(error, RequestValidationError)
        first = max(error.errors(), key=lambda one: len(one["loc"]))  # of what a field may be, what came closest
        where = ".".join(str(part) for part in first["loc"] if not _of_types(part))
        invalid = first["type"] == "json_invalid"
        message = f"the body is no JSON: {first.get('ctx', {}).get('error', '')}" if invalid else first["msg"]
        text = message if invalid or not where else f"{where}: {message}"
        return JSONResponse(error_body(400, text, "invalid_json" if invalid else "invalid_value", where or None), 400)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: Exception) -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        assert isinstance(error, HTTPException)
        codes = {404: "not_found", 405: "method_not_allowed", 408: "request_timeout", 413: "request_too_large"}
        code = codes.get(error.status_code, "invalid_request")
        headers = dict(error.headers or {}) | ({"Connection": "close"} if error.status_code in (408, 413) else {})
        body = error_body(error.status_code, str(error.detail), code)
        return JSONResponse(body, error.status_code, headers=headers)


def _of_types(part: int | str) -> bool:
    """Whether a part of an error's place is no field but a place of the request, or one of a field's types."""
    return part in ("body", "query", "path", "header", "str", "int", "float", "bool") or "[" in str(part)


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that waits for a request's head only so long. uvicorn itself waits for ever."""

    patience: float = 30.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop()
        elif self._timer is None:
            self._wait()

    def _wait(self) -> None:
        self._timer = self.loop.call_later(self.patience, self._give_up)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()
