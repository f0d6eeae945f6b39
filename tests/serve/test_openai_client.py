"""The `openai` package, as it is: its own client against our server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serve.live import Live, scripted

openai = pytest.importorskip("openai")
ASK: Any = [{"role": "user", "content": "where am I?"}]
LOOK: Any = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "What is there",
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]},
    },
}
CALL = 'I look.\n<tool_call>\n{"name": "look", "arguments": {"at": "E4"}}\n</tool_call>'


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    with Live(tmp_path, scripted("in a maze", "at E4")) as server:
        yield server


def client(live: Live, **options: Any) -> Any:
    return openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0, **options)


def test_sync(live: Live) -> None:
    with client(live) as ours:
        assert [model.id for model in ours.models.list()] == ["apprentice", "apprentice@1"]
        answer = ours.chat.completions.create(model="apprentice", messages=ASK, logprobs=True, n=2)
        assert {choice.message.content for choice in answer.choices} == {"in a maze", "at E4"}
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage.completion_tokens == sum(len(c.logprobs.content) + 1 for c in answer.choices)
        assert answer.model_extra["episode_id"]
        raw = ours.chat.completions.with_raw_response.create(model="apprentice", messages=ASK)
        assert raw.headers["journeyman-episode-id"] == raw.parse().model_extra["episode_id"]
        assert ours.completions.create(model="apprentice", prompt="I am", max_tokens=20).choices[0].text


def test_stream(live: Live) -> None:
    with client(live) as ours:
        options = {"include_usage": True}
        chunks = list(
            ours.chat.completions.create(model="apprentice", messages=ASK, stream=True, stream_options=options)
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "in a maze"
        assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
        assert chunks[-1].usage.total_tokens > 0
        assert len(chunks) > 4, "it comes in pieces"
        with ours.chat.completions.stream(model="apprentice", messages=ASK) as stream:
            assert stream.get_final_completion().choices[0].message.content == "at E4"


def test_async(live: Live) -> None:
    async def ask() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as ours:
            create = ours.chat.completions.create
            answers = await asyncio.gather(*(create(model="apprentice", messages=ASK) for _ in range(20)))
            stream = await create(model="apprentice", messages=ASK, stream=True)
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
            return [*(answer.choices[0].message.content for answer in answers), "".join(pieces)]

    assert set(asyncio.run(ask())) == {"in a maze", "at E4"}


def test_tools_over_several_turns(tmp_path: Path) -> None:
    with Live(tmp_path, scripted(CALL, "a wall")) as live, client(live) as ours:
        messages: list[Any] = list(ASK)
        headers = {"journeyman-session": "a talk"}
        answer = ours.chat.completions.create(
            model="apprentice", messages=messages, tools=[LOOK], extra_headers=headers
        )
        choice = answer.choices[0]
        assert choice.finish_reason == "tool_calls" and choice.message.content == "I look."
        (call,) = choice.message.tool_calls
        assert call.function.name == "look" and json.loads(call.function.arguments) == {"at": "E4"}
        messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": "a wall"}]
        again = ours.chat.completions.create(model="apprentice", messages=messages, tools=[LOOK], extra_headers=headers)
        assert again.choices[0].message.content == "a wall"
        assert again.model_extra["journeyman"]["choices"][0]["continues"] == "next"
        assert again.model_extra["episode_id"] == answer.model_extra["episode_id"]


def test_streamed_tools(tmp_path: Path) -> None:
    with Live(tmp_path, scripted(CALL, pace=1)) as live, client(live) as ours:
        with ours.chat.completions.stream(model="apprentice", messages=ASK, tools=[LOOK]) as stream:
            message = stream.get_final_completion().choices[0].message
        assert message.content.strip() == "I look."
        assert json.loads(message.tool_calls[0].function.arguments) == {"at": "E4"}
        none = ours.chat.completions.create(model="apprentice", messages=ASK, tools=[LOOK], tool_choice="none")
        assert not none.choices[0].message.tool_calls and "<tool_call>" in none.choices[0].message.content


def test_a_call_can_be_demanded(tmp_path: Path) -> None:
    choice = {"type": "function", "function": {"name": "look"}}
    with Live(tmp_path, scripted('{"at": "E4"}}\n</tool_call>', "no")) as live, client(live) as ours:
        create = ours.chat.completions.create
        answer = create(model="apprentice", messages=ASK, tools=[LOOK], tool_choice=choice)
        assert json.loads(answer.choices[0].message.tool_calls[0].function.arguments) == {"at": "E4"}
        with pytest.raises(openai.UnprocessableEntityError, match="did not call"):
            create(model="apprentice", messages=ASK, tools=[LOOK], tool_choice="required")


def test_errors_are_its_own(live: Live) -> None:
    with client(live) as ours:
        with pytest.raises(openai.NotFoundError) as missing:
            ours.chat.completions.create(model="gpt-9", messages=ASK)
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as long:
            ours.chat.completions.create(model="apprentice", messages=[{"role": "user", "content": "a " * 9999}])
        assert long.value.code == "context_length_exceeded"
        with pytest.raises(openai.NotFoundError):
            ours.models.retrieve("gpt-9")
