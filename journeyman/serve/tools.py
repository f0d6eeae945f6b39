"""Tool calls as the model writes them: found in its replies, and written for it where a client rewrote a conversation.

Two ways are known, and which of them a chat template speaks is asked of the template:

    tagged   <tool_call>{"name": "look", "arguments": {"at": "E4"}}</tool_call>      Hermes, Qwen
    bare     {"name": "look", "parameters": {"at": "E4"}}                            Llama 3.1

To a template that knows nothing of tools they are described in a system message, and calls are tagged.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

OPEN, CLOSE = "<tool_call>", "</tool_call>"


@dataclass(frozen=True)
class Call:
    """A call of a function; `arguments` is a JSON object as a text."""

    name: str
    arguments: str


@dataclass(frozen=True)
class Said:
    """A reply taken apart."""

    content: str
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True)
class CallFormat:
    """How calls are written. `tagged` or bare; `field` is what the arguments are called."""

    tagged: bool = True
    field: str = "arguments"

    def spell(self, call: Call) -> str:
        """A call as the model would write it."""
        try:
            arguments: object = json.loads(call.arguments)
        except ValueError:
            arguments = call.arguments
        body = json.dumps({"name": call.name, self.field: arguments}, ensure_ascii=False)
        return f"{OPEN}\n{body}\n{CLOSE}" if self.tagged else body

    def beginning(self, name: str | None) -> str:
        """What a reply begins with that must be a call, of this function or of any."""
        first = f"{OPEN}\n" if self.tagged else ""
        body = '{"name": "' if name is None else f'{{"name": {json.dumps(name)}, "{self.field}": '
        return first + body

    @property
    def end(self) -> str | None:
        """The text after which there is no second call."""
        return CLOSE if self.tagged else None

    def parse(self, text: str, known: Collection[str]) -> Said:
        """Find the calls in a reply. What is no well-formed call of a known function stays text."""
        if not self.tagged:
            call = _call(text.strip(), known)
            return Said(text) if call is None else Said("", (call[0],))
        content, *rest = text.split(OPEN)
        calls: list[Call] = []
        for part in rest:
            found = _call(part.lstrip(), known)
            if found is None:
                content += OPEN + part
            else:
                calls.append(found[0])
                content += found[1].lstrip().removeprefix(CLOSE)
        return Said(content.rstrip() if calls else content, tuple(calls))

    def may_begin(self, text: str) -> int:
        """Where in a reply under way a call may begin: what comes before can be shown. Its length, if nowhere."""
        if not self.tagged:
            return 0 if text.lstrip()[:1] in ("", "{") else len(text)
        found = text.find(OPEN)
        return found if found >= 0 else len(text) - overlap(text, OPEN)


def overlap(text: str, sign: str) -> int:
    """How many of the last characters of a text may be the beginning of a sign."""
    return next((size for size in range(min(len(sign) - 1, len(text)), 0, -1) if text.endswith(sign[:size])), 0)


def _call(text: str, known: Collection[str]) -> tuple[Call, str] | None:
    """The call that a text begins with, and what follows it."""
    try:
        found, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    given = cast(Mapping[str, Any], found)
    name, arguments = given.get("name"), given.get("arguments", given.get("parameters", {}))
    if name not in known or not isinstance(arguments, dict):
        return None
    return Call(str(name), json.dumps(arguments, ensure_ascii=False)), text[end:]


def format_of(template: str) -> CallFormat:
    """How the template's model writes calls."""
    if OPEN not in template and ('"parameters"' in template or "'parameters'" in template):
        return CallFormat(tagged=False, field="parameters")
    return CallFormat()


def described(tools: Sequence[Mapping[str, Any]]) -> str:
    """What a model whose template knows nothing of tools is told of them."""
    lines = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    example = '{"name": ..., "arguments": {...}}'
    return f"Tools:\n{lines}\nTo call one, write {OPEN}\n{example}\n{CLOSE}"
