"""A teacher: who is asked where the model is unsure of its own answer. Another model, behind an OpenAI-like API."""

from __future__ import annotations

import http.client
import json
import os
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from journeyman.errors import UsageError

KEY = "JOURNEYMAN_TEACHER_KEY"
"""The environment variable with the API key for it."""
LONGEST = 1 << 24
"""Bytes of its answer that are read."""


class NoAnswer(Exception):
    """The teacher did not answer, or not in words."""


@dataclass(frozen=True)
class Teacher:
    """A model elsewhere.

    Attributes:
        url: where its API begins, such as `https://api.example.com/v1`.
        model: its name there.
        seconds: longest wait for an answer.
    """

    url: str
    model: str
    seconds: float

    def __post_init__(self) -> None:
        """Raises UsageError where it is none."""
        if not self.url.startswith(("http://", "https://")):
            raise UsageError(f"the teacher must be an http:// or https:// address, got {self.url!r}")
        if not self.model:
            raise UsageError("the teacher has no model", fix="name one with --teacher-model")

    def answer(self, messages: Sequence[Mapping[str, Any]], max_tokens: int) -> str:
        """What it says to a conversation (OpenAI's messages). Blocks.

        Raises:
            NoAnswer: it says nothing that can be passed on.
        """
        body = {"model": self.model, "messages": list(messages), "max_tokens": max_tokens}
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        url = f"{self.url.rstrip('/')}/chat/completions"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=self.seconds) as answer:
                said = json.loads(answer.read(LONGEST))["choices"][0]["message"]["content"]
        except (OSError, http.client.HTTPException, ValueError, KeyError, IndexError, TypeError) as error:
            raise NoAnswer(f"{type(error).__name__}: {error}") from error
        if not isinstance(said, str) or not said:
            raise NoAnswer("it said nothing in words")
        return said
