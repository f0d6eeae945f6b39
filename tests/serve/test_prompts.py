"""Conversations and tools as the model reads them."""

from __future__ import annotations

from typing import Any

import pytest

from journeyman.serve.errors import ApiError
from journeyman.serve.openai import ChatMessage
from journeyman.serve.prompts import Prompts
from journeyman.serve.tools import CallFormat
from tests.model.templates import tokenizer_with
from tests.serve.live import APPRENTICE

LOOK: Any = {"type": "function", "function": {"name": "look", "description": "What is there"}}
WITH_TOOLS = (
    "{%- if tools -%}<|system|>{% for tool in tools %}{{ tool['function']['name'] }} <tool_call>{% endfor %}<|end|>"
    "{%- endif -%}"
    "{%- for message in messages -%}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)


def messages(*said: tuple[str, Any]) -> list[ChatMessage]:
    return [ChatMessage.model_validate({"role": role, "content": content}) for role, content in said]


def text(prompts: Prompts, tokens: list[int]) -> str:
    return str(prompts.tokenizer.decode(tokens))


def test_a_template_that_knows_tools_shows_them_itself() -> None:
    prompts = Prompts(tokenizer_with(WITH_TOOLS))
    manner = prompts.manner([LOOK])
    assert (manner.preamble, manner.calls, manner.names) == ("", CallFormat(), {"look"})
    assert text(prompts, prompts.opening(messages(("user", "?")), manner)).startswith(
        "<|system|>look <tool_call><|end|>"
    )
    assert prompts.manner([LOOK]) is manner, "the same tools are not asked about twice"


def test_to_one_that_does_not_they_are_described() -> None:
    prompts = Prompts(APPRENTICE.tokenizer)
    manner = prompts.manner([LOOK])
    alone = text(prompts, prompts.opening(messages(("user", "?")), manner))
    assert alone.startswith("<|system|>Tools:") and '"name": "look"' in alone and alone.endswith("<|assistant|>")
    joined = text(prompts, prompts.opening(messages(("developer", "be brief"), ("user", "?")), manner))
    assert joined.startswith("<|system|>be brief\n\nTools:") and joined.count("<|system|>") == 1


def test_parts_of_a_message_are_one_text() -> None:
    prompts = Prompts(APPRENTICE.tokenizer)
    parts = [{"type": "text", "text": "A1 "}, {"type": "text", "text": "to B1"}]
    split, whole = (prompts.opening(messages(("user", said)), prompts.plain) for said in (parts, "A1 to B1"))
    assert split == whole


def test_calls_of_a_conversation_begun_elsewhere_are_written_out() -> None:
    prompts = Prompts(APPRENTICE.tokenizer)
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at":"E4"}'}}
    said = messages(("user", "?"))
    said.append(ChatMessage.model_validate({"role": "assistant", "content": None, "tool_calls": [call]}))
    said += messages(("tool", "a wall"))
    shown = text(prompts, prompts.opening(said, prompts.manner([LOOK])))
    assert '<tool_call>\n{"name": "look", "arguments": {"at": "E4"}}\n</tool_call><|end|><|tool|>a wall' in shown


def test_texts_to_stop_at_take_only_so_much_memory() -> None:
    prompts = Prompts(APPRENTICE.tokenizer)
    assert prompts.stop_texts(()) is None and prompts.stop_texts(("a",)) is not None
    for texts in (("a" * 50_000,), tuple("abcdefghijklmnopq")):
        with pytest.raises(ApiError) as refused:
            prompts.stop_texts(texts)
        assert refused.value.status == 400
