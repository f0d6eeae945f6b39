"""From requests to tokens: messages and tools by the model's chat template, each conversation tokenized once.

Meant to be called from several threads; rendering is done by one at a time.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from journeyman.model.render import Renderer
from journeyman.model.texts import StopTexts
from journeyman.serve.errors import ApiError
from journeyman.serve.openai import ChatMessage
from journeyman.serve.tools import Call, CallFormat, described, format_of
from journeyman.types import Message, Role

REMEMBERED = 64
"""Tool sets whose renderer is kept, and renderings that each keeps."""
LARGEST_STOP = 1 << 24
"""Most entries of the table that stops at texts: states (bytes of the texts) times vocabulary."""
STOPS = 16
"""Most texts to stop at."""


@dataclass(frozen=True)
class Manner:
    """How a conversation with these tools is put to the model.

    Attributes:
        renderer: the template, with the tools where it shows them.
        calls: how calls are written; None without tools.
        preamble: what the model is told of the tools where the template does not show them.
        names: of the functions.
    """

    renderer: Renderer
    calls: CallFormat | None = None
    preamble: str = ""
    names: frozenset[str] = frozenset()


class Prompts:
    """Renders for one tokenizer.

    Raises:
        CheckpointError, UsageError: it has no chat template, or none that can be appended to.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.plain = Manner(Renderer(tokenizer, remembered=REMEMBERED))
        self.renderer = self.plain.renderer
        self._manners: OrderedDict[str, Manner] = OrderedDict()
        self._lock = threading.Lock()

    @cached_property
    def longest(self) -> int:
        """Characters of the longest token."""
        return max(map(len, self.tokenizer.get_vocab()))

    def manner(self, tools: Sequence[Mapping[str, Any]]) -> Manner:
        """How to speak where these tools can be called."""
        if not tools:
            return self.plain
        name = json.dumps(tools, sort_keys=True)
        with self._lock:
            if name not in self._manners:
                self._manners[name] = self._with_tools(tools)
                while len(self._manners) > REMEMBERED:
                    self._manners.popitem(last=False)
            self._manners.move_to_end(name)
            return self._manners[name]

    def _with_tools(self, tools: Sequence[Mapping[str, Any]]) -> Manner:
        names = frozenset(str(tool["function"]["name"]) for tool in tools)
        shown = Renderer(self.tokenizer, options={"tools": list(tools)}, remembered=REMEMBERED)
        probe = [Message("user", "?")]
        if shown.open(probe) == self.renderer.open(probe):
            return Manner(self.renderer, CallFormat(), described(tools), names)
        return Manner(shown, format_of(str(self.tokenizer.chat_template)), "", names)

    def opening(self, messages: Sequence[ChatMessage], manner: Manner) -> list[int]:
        """A conversation from its beginning to the prompt for a reply."""
        shown = [_plain(message, manner) for message in messages]
        if manner.preamble:
            first = shown.pop(0).content if shown[0].role == "system" else ""
            shown.insert(0, Message("system", f"{first}\n\n{manner.preamble}".strip()))
        with self._lock:
            return manner.renderer.so_far(shown).tokens

    def further(self, messages: Sequence[ChatMessage], manner: Manner, *, ended: bool) -> list[int]:
        """What follows a reply, to the prompt for the next one."""
        with self._lock:
            return manner.renderer.further([_plain(message, manner) for message in messages], ended=ended).tokens

    def reply_ids(self, text: str) -> list[int]:
        """Tokens of a reply that somebody else wrote, with its end token."""
        with self._lock:
            return self.renderer.reply_ids(text)

    def encode(self, text: str) -> list[int]:
        """Tokens of bare text."""
        with self._lock:
            return self.renderer.encode(text)

    def stop_texts(self, texts: Sequence[str]) -> StopTexts | None:
        """Where replies are to end."""
        if not texts:
            return None
        states = sum(len(text.encode()) for text in texts)
        if len(texts) > STOPS or states * len(self.tokenizer) > LARGEST_STOP:
            most = LARGEST_STOP // len(self.tokenizer)
            raise ApiError(400, f"stop: at most {STOPS} texts of together {most} bytes", "invalid_value", param="stop")
        with self._lock:
            return self.renderer.stop_texts(texts)


def _plain(message: ChatMessage, manner: Manner) -> Message:
    """A message as the renderer knows it; calls are written out as the model writes them."""
    role: Role = "system" if message.role == "developer" else message.role
    calls = [Call(call.function.name, call.function.arguments) for call in message.tool_calls or ()]
    spelled = [(manner.calls or CallFormat()).spell(call) for call in calls]
    return Message(role, "\n".join(part for part in (message.text, *spelled) if part))
