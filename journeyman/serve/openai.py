"""What clients may ask, in OpenAI's shapes. What a request asks for and we do not do is refused, never passed over.

Fields without an effect on the answer (`user`, `metadata`, `store`...) and fields not named here are accepted.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from journeyman.search.strategies import Name as Strategy
from journeyman.search.strategies import SearchConfig

LONGEST_TOKENS = 1 << 31
LONGEST_JOB = 500
Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class Shape(BaseModel):
    """Strict enough that nothing is guessed; numbers are finite."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class Text(Shape):
    """A part of a message that is text."""

    type: Literal["text"]
    text: str


class Function(Shape):
    """The function of a tool call; `arguments` is JSON as a text."""

    name: Name
    arguments: str


class ToolCall(Shape):
    """A call that the assistant made."""

    id: str = ""
    type: Literal["function"] = "function"
    function: Function


class ChatMessage(Shape):
    """One message. `developer` is read as `system`."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Text] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None

    @property
    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or self.refusal or ""


class FunctionDefinition(Shape):
    """What a tool is called, does and takes (JSON Schema)."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Shape):
    """A function that the model may call."""

    type: Literal["function"]
    function: FunctionDefinition


class ChosenFunction(Shape):
    """The name of the function to call."""

    name: Name


class ToolChoice(Shape):
    """A function that must be called."""

    type: Literal["function"]
    function: ChosenFunction


class ResponseFormat(Shape):
    """How the answer is to look; only `text` can be promised."""

    type: Literal["text", "json_object", "json_schema"]


class StreamOptions(Shape):
    """What a stream has beside the answer."""

    include_usage: bool = False


class Extension(Shape):
    """What goes beyond OpenAI, in one key of the request."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    episode_id: str | None = Field(None, description="The episode that this turn goes on with.")
    job: Annotated[str, StringConstraints(max_length=LONGEST_JOB)] = Field(
        "", description="The job that this is, where the server does several."
    )
    think: int = Field(
        1, ge=1, le=64, description="Tokens to spend on the answer, as a multiple of those of a plain one."
    )
    strategy: Strategy = Field(SearchConfig().strategy, description="How the search for the answer spends them.")
    threshold: float | None = Field(
        None, ge=0, le=1, description="With a value below this the answer says that it is unsure."
    )
    on_unsure: Literal["abstain", "teacher"] = Field(
        "abstain", description="What happens then: nothing is answered, or the server's teacher answers."
    )
    return_tokens: bool = Field(
        False, description="Give the exact ids of the prompt's and the answer's tokens, and log-probabilities."
    )

    @property
    def search(self) -> SearchConfig:
        """How the answer is searched for."""
        return SearchConfig(think=self.think, strategy=self.strategy)


class Common(Shape):
    """What chat and text completions share."""

    model: str
    n: int = Field(1, ge=1, le=128)
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1, le=LONGEST_TOKENS)
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, max_length=500)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, float] | None = None
    journeyman: Extension = Field(default_factory=lambda: Extension.model_validate({}))

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts to stop at."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def limit(self) -> int | None:
        """Most tokens of an answer."""
        return self.max_tokens


class ChatRequest(Common):
    """A conversation, and how it is to go on."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, le=LONGEST_TOKENS)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool = True
    response_format: ResponseFormat | None = None
    modalities: list[str] | None = None
    functions: list[Any] | None = None

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(Common):
    """A text (or tokens), and how it is to go on."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: bool = False
    suffix: str | None = None
    best_of: int | None = Field(None, ge=1)
