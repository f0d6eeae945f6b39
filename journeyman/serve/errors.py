"""Errors as OpenAI's clients expect them: a status, and {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from journeyman.errors import CheckpointError, JourneymanError, NotKept, StoreConflict, StoreUnavailable, UsageError


class ApiError(Exception):
    """A request that is not answered as asked.

    Attributes:
        status: of HTTP.
        code: a word for programs, such as `context_length_exceeded`.
        param: the field of the request that is wrong.
        retry_after: seconds after which it may work.
    """

    def __init__(
        self, status: int, message: str, code: str, *, param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.retry_after = status, message, code, param, retry_after

    @property
    def body(self) -> dict[str, Any]:
        """The JSON body."""
        return error_body(self.status, self.message, self.code, self.param)

    @property
    def headers(self) -> dict[str, str]:
        """Headers that go with it."""
        headers: dict[str, str] = {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, round(self.retry_after)))
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers


TYPES: Mapping[int, str] = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def error_body(status: int, message: str, code: str, param: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    text = message.encode("utf-8", "replace").decode()  # a lone surrogate of the request cannot be sent back
    return {"error": {"message": text, "type": kind, "param": param, "code": code}}


def from_ours(error: JourneymanError) -> ApiError:
    """What of our own errors concerns the client, as an answer to it."""
    message = " ".join(part for part in (error.mistake, error.reason, error.fix) if part)
    if isinstance(error, StoreUnavailable):
        return ApiError(503, message, "store_unavailable", retry_after=5)
    if isinstance(error, NotKept):
        return ApiError(410 if error.erased else 404, message, "erased" if error.erased else "not_found")
    if isinstance(error, StoreConflict):
        return ApiError(409, message, "conflict")
    if isinstance(error, UsageError | CheckpointError):
        return ApiError(400, message, "invalid_value")
    return ApiError(500, message, "internal_error")
