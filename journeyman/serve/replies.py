"""What routes answer, for their description (docs/api.md, /openapi.json)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from journeyman.serve.openai import ToolCall


class Reply(BaseModel):
    """What is not named here may be there, too."""

    model_config = ConfigDict(extra="allow")


class ErrorDetail(Reply):
    """What is wrong, for people and for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(Reply):
    """OpenAI's shape of an error."""

    error: ErrorDetail


class Usage(Reply):
    """Tokens; a prompt with several choices counts once."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChoiceDetails(Reply):
    """What goes beyond OpenAI, of one choice."""

    index: int
    episode_id: str
    turn_id: str = Field(description="For feedback on this turn alone.")
    value: float | None = Field(description="The chance of success that the model itself expects; null without V.")
    abstained: bool = Field(description="Whether the answer was withheld, for its value is below the threshold.")
    by: Literal["policy", "teacher"] = Field(description="Who gave the answer.")
    withheld: dict[str, Any] | None = Field(
        None, description="The policy's own turn and its value, where a teacher gave the answer."
    )
    continues: Literal["first", "next", "branch", "rewritten"] = Field(
        description="How the turn follows the episode: `rewritten` means that the client's messages agree with no "
        "turn of it, and were tokenized anew."
    )
    versions: list[dict[str, int]] = Field(description="Which version took over at which token of the answer.")
    prompt_token_ids: list[int] | None = None
    token_ids: list[int] | None = None
    logprobs: list[float] | None = None


class Details(Reply):
    """What goes beyond OpenAI."""

    choices: list[ChoiceDetails]


class AssistantMessage(Reply):
    """The answer."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None = Field(description="The admission that it is unsure, where the answer is withheld.")
    tool_calls: list[ToolCall] | None = None


class ChatChoice(Reply):
    """One of the answers."""

    index: int
    message: AssistantMessage
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class TextChoice(Reply):
    """One of the answers."""

    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length"]


class Answered(Reply):
    """What answers have in common."""

    id: str
    created: int
    model: str
    system_fingerprint: str = Field(description="Of the weights.")
    usage: Usage
    episode_id: str
    value: float | None
    journeyman: Details


class ChatCompletion(Answered):
    """Answers to a conversation."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class Completion(Answered):
    """Answers to a bare text."""

    object: Literal["text_completion"]
    choices: list[TextChoice]


class Model(Reply):
    """A model that can be asked."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    journeyman: dict[str, Any]


class ModelList(Reply):
    """All models that can be asked."""

    object: Literal["list"]
    data: list[Model]


REASONS: dict[int, str] = {
    400: "What is asked is impossible, or not done.",
    401: "A key is needed, or it is wrong.",
    403: "The key does not hold for this.",
    404: "There is no such thing.",
    408: "The request took too long to arrive.",
    409: "The name or the idempotency key was used for something else.",
    410: "It was erased.",
    413: "The request is too large.",
    422: "The model did not do what the request demands of it.",
    429: "Too much at once; `Retry-After` says when to come again.",
    503: "Experience cannot be written, or the server is shutting down.",
}


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What may go wrong on a route: what may on every one, and these."""
    return {s: {"model": Error, "description": REASONS[s]} for s in sorted({400, 401, 403, 408, 413, 429, *statuses})}
