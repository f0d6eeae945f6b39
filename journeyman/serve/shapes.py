"""Answers in OpenAI's shapes. What goes beyond is at the top: `episode_id`, `value`, and the rest in `journeyman`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from journeyman.experience.ids import uuid7
from journeyman.model.render import Renderer
from journeyman.serve.asks import Answer, Ask, Delta

EPISODE, VALUE, VERSION = "journeyman-episode-id", "journeyman-value", "journeyman-version"
"""Headers of an answer."""


@dataclass(frozen=True)
class Shaper:
    """How the answers to one request look.

    Attributes:
        chat: a conversation's, or a bare text's.
        model: as the client called it.
        digest: of the weights.
        renderer: of the tokens.
        asks: what was asked.
        logprobs: whether tokens with their log-probabilities go along.
        return_tokens: whether all exact tokens do.
    """

    chat: bool
    model: str
    digest: str
    renderer: Renderer
    asks: Sequence[Ask]
    logprobs: bool = False
    return_tokens: bool = False
    id: str = field(default_factory=uuid7)
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def fingerprint(self) -> str:
        """Of the weights, in short: OpenAI's `system_fingerprint`."""
        return f"fp_{self.digest[:12]}"

    @property
    def episode(self) -> str:
        """The episode of the first choice."""
        return self.asks[0].episode.id

    # -- whole ------------------------------------------------------------------------------------------

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """All answers in one object."""
        choices = [self._choice(answer) for answer in answers]
        return {
            **self._head("chat.completion" if self.chat else "text_completion"),
            "choices": choices,
            "usage": usage(answers),
            "value": rounded(answers[0].finished.value),
            "journeyman": {"choices": [self._ours(answer) for answer in answers]},
        }

    def _choice(self, answer: Answer) -> dict[str, Any]:
        shown: dict[str, Any] = {"index": answer.ask.index}
        if self.chat:
            shown["message"] = answer.message
        else:
            shown["text"] = answer.message["content"] or ""
        return {**shown, "logprobs": self._all_logprobs(answer), "finish_reason": answer.finish}

    # -- streamed ---------------------------------------------------------------------------------------

    def first(self) -> list[dict[str, Any]]:
        """What a stream begins with: who speaks."""
        return [self._chunk(ask.index, {"role": "assistant", "content": ""}) for ask in self.asks] if self.chat else []

    def piece(self, delta: Delta) -> dict[str, Any]:
        """More of an answer."""
        shown = self._logprobs(delta.tokens, delta.logprobs)
        return self._chunk(delta.index, {"content": delta.text} if self.chat else delta.text, shown)

    def last(self, answer: Answer) -> list[dict[str, Any]]:
        """What a choice ends with: what was held back, why it ended, and what V says."""
        index, message = answer.ask.index, answer.message
        chunks: list[dict[str, Any]] = []
        shown = None
        if not answer.ask.streamed or answer.ask.buffered:
            shown = self._all_logprobs(answer)
        if answer.rest and not answer.unsure:
            chunks.append(self._chunk(index, {"content": answer.rest} if self.chat else answer.rest, shown))
        if answer.unsure and self.chat:
            chunks.append(self._chunk(index, {"refusal": message["refusal"]}))
        if self.chat and message.get("tool_calls"):
            calls = [{"index": number, **call} for number, call in enumerate(message["tool_calls"])]
            chunks.append(self._chunk(index, {"tool_calls": calls}))
        end = self._chunk(index, {} if self.chat else "", finish=answer.finish)
        ours = {"value": rounded(answer.finished.value), "journeyman": {"choices": [self._ours(answer)]}}
        return [*chunks, {**end, **ours}]

    def total(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """What `include_usage` adds at the end."""
        return {**self._head(self._of_chunks), "choices": [], "usage": usage(answers)}

    @property
    def _of_chunks(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _chunk(
        self, index: int, said: Mapping[str, Any] | str, logprobs: Any = None, finish: str | None = None
    ) -> dict[str, Any]:
        choice = {"index": index, "delta" if self.chat else "text": said, "logprobs": logprobs, "finish_reason": finish}
        return {**self._head(self._of_chunks), "choices": [choice]}

    # -- parts ------------------------------------------------------------------------------------------

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "episode_id": self.episode,
        }

    def _all_logprobs(self, answer: Answer) -> dict[str, Any] | None:
        """Those of a whole answer; what a teacher said has none."""
        own = answer.by == "policy"
        return self._logprobs(answer.finished.tokens, answer.finished.logprobs) if own else None

    def _logprobs(self, tokens: Sequence[int], logprobs: Sequence[float]) -> dict[str, Any] | None:
        """Each token with its log-probability at the request's temperature; end tokens are left out."""
        if not self.logprobs:
            return None
        said = [(t, p) for t, p in zip(tokens, logprobs, strict=True) if t not in self.renderer.end_ids]
        pieces = self.renderer.pieces([token for token, _ in said])
        if self.chat:
            content = [
                {"token": piece, "logprob": logprob, "bytes": list(piece.encode()), "top_logprobs": []}
                for piece, (_, logprob) in zip(pieces, said, strict=True)
            ]
            return {"content": content, "refusal": None}
        offsets = [sum(map(len, pieces[:place])) for place in range(len(pieces))]
        numbers = [logprob for _, logprob in said]
        return {"tokens": pieces, "token_logprobs": numbers, "top_logprobs": None, "text_offset": offsets}

    def _ours(self, answer: Answer) -> dict[str, Any]:
        """What we say of a choice beyond OpenAI's shape."""
        ask, finished = answer.ask, answer.finished
        ours: dict[str, Any] = {
            "index": ask.index,
            "episode_id": ask.episode.id,
            "turn_id": answer.turn,
            "value": rounded(finished.value),
            "abstained": answer.unsure,
            "by": answer.by,
            "continues": answer.joint,
            "versions": [{"version": version, "start": start} for version, start in finished.versions],
        }
        if answer.withheld is not None:
            turn, value = answer.withheld
            ours["withheld"] = {"turn_id": turn, "value": rounded(value)}
        if answer.thought is not None:
            spent = answer.thought
            ours["think"] = {"tokens": spent.tokens, "value_tokens": spent.value_tokens}
        if self.return_tokens:
            ours["prompt_token_ids"] = ask.history.tokens.tolist()
            ours["token_ids"] = list(finished.tokens)
            ours["logprobs"] = list(finished.logprobs)
        return ours

    def headers(self, answers: Sequence[Answer] = ()) -> dict[str, str]:
        """The same as headers; of a stream only what is known when it begins."""
        found = {EPISODE: self.episode, VERSION: self.fingerprint}
        if answers and answers[0].finished.value is not None:
            found[VALUE] = f"{answers[0].finished.value:.6f}"
        return found


def usage(answers: Sequence[Answer]) -> dict[str, Any]:
    """Tokens read and made. A prompt with several choices counts once."""
    prompts = {id(answer.ask.history): answer for answer in answers}.values()
    read = sum(len(answer.ask.history) for answer in prompts)
    made = sum(len(answer.finished.tokens) for answer in answers)
    return {
        "prompt_tokens": read,
        "completion_tokens": made,
        "total_tokens": read + made,
        "prompt_tokens_details": {"cached_tokens": sum(answer.cached for answer in prompts)},
    }


def rounded(value: float | None) -> float | None:
    """A value in six digits."""
    return None if value is None else round(value, 6)


def sse(data: Mapping[str, Any] | str) -> bytes:
    """One server-sent event."""
    return f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()
