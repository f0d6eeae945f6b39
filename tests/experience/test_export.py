"""What leaves the store is what is in it, in the forms that others read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from journeyman.errors import UsageError
from journeyman.experience import EpisodeFilter, Feedback, ServedTurn, Store
from journeyman.experience.export import lines, write_lines, write_parquet
from tests.experience.helpers import START, following, make, served

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": {}}]}
ASKED = ({"role": "user", "content": "which way?"},)


@pytest.fixture
def kept(store: Store) -> Iterator[tuple[Store, list[ServedTurn]]]:
    """Two answers to one question (the first the better one, with a tool call before it), bare text, and learning's."""
    look = served(messages=ASKED, reply=CALL, parameters={"tools": TOOLS})
    seen = (*ASKED, CALL, {"role": "tool", "content": "a wall", "tool_call_id": "1"})
    good = following(look, [1], [2, 3], messages=seen, reply={"role": "assistant", "content": "left \ud800"})
    bad = served(messages=ASKED, reply={"role": "assistant", "content": "right"}, version=8)
    bare = served(messages=(), parameters={"prompt": "Once upon"})
    store.record([look, good, bad, bare]).result()
    store.add([make("a"), make("b", reward=0.0)])
    for feedback in (
        Feedback(good.episode, value=1.0, tags=("clear",)),
        Feedback(good.episode, preferred_to=bad.episode),
        Feedback(bad.episode, correction="left, of course"),
        Feedback(bare.episode, value=True, source="code"),
    ):
        store.give(feedback).result()
    yield store, [look, good, bad, bare]


def found(store: Store, form: str, **tests: Any) -> list[Any]:
    return list(lines(store, form, EpisodeFilter(**tests)))


def test_openai_lines_are_good_conversations_and_corrections(kept: tuple[Store, list[ServedTurn]]) -> None:
    store, (_, good, _, _) = kept
    first, corrected, learned = found(store, "openai")
    assert first == {"messages": [*good.messages, good.reply]}, "the last turn offered no tools"
    assert corrected == {"messages": [*ASKED, {"role": "assistant", "content": "left, of course"}]}
    assert [m["role"] for m in learned["messages"]] == ["user", "assistant"], "what came after the last answer is cut"
    assert found(store, "openai", origin="learning") == [learned] and found(store, "openai", version=8) == [corrected]
    assert len(list(lines(store, "openai", EpisodeFilter(), min_reward=0.0))) == 4


def test_trl_lines_split_where_the_last_answer_begins(kept: tuple[Store, list[ServedTurn]]) -> None:
    store, _ = kept
    for one, other in zip(found(store, "trl"), found(store, "openai"), strict=True):
        assert one["prompt"] + one["completion"] == other["messages"] and set(one) == {"prompt", "completion"}
        assert [m["role"] for m in one["completion"]] == ["assistant"]


def test_preferences_share_their_prompt(kept: tuple[Store, list[ServedTurn]]) -> None:
    store, (_, good, bad, _) = kept
    compared, corrected = found(store, "trl-preference")
    assert compared["prompt"] == list(ASKED) and compared["rejected"] == [bad.reply]
    assert compared["chosen"] == [*good.messages[1:], good.reply]
    assert corrected["chosen"][0]["content"] == "left, of course" and corrected["rejected"] == [bad.reply]
    store.erase(episodes=[bad.episode])
    assert found(store, "trl-preference") == []


def test_tools_go_along(store: Store) -> None:
    turn = served(messages=ASKED, reply=CALL, parameters={"tools": TOOLS})
    store.record([turn]).result()
    store.give(Feedback(turn.episode, value=1, correction="look first")).result()
    assert all(line["tools"] == TOOLS for form in ("openai", "trl", "trl-preference") for line in found(store, form))


def test_lines_are_json_whole_or_not_at_all(kept: tuple[Store, list[ServedTurn]], tmp_path: Path) -> None:
    store, _ = kept
    file = tmp_path / "out.jsonl"
    assert write_lines(file, lines(store, "openai", EpisodeFilter())) == 3
    assert [set(json.loads(line)) for line in file.read_text().splitlines()] == [{"messages"}] * 3

    def breaks() -> Iterator[dict[str, Any]]:
        yield {}
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_lines(file, breaks())
    assert len(file.read_text().splitlines()) == 3
    with pytest.raises(UsageError, match="cannot write"):
        write_lines(tmp_path / "no" / "folder", [])


def test_parquet_holds_everything(kept: tuple[Store, list[ServedTurn]], tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    store, turns = kept
    counts = write_parquet(tmp_path / "out", store, EpisodeFilter())
    tables = {name: parquet.read_table(tmp_path / "out" / f"{name}.parquet").to_pylist() for name in counts}
    assert counts == {name: len(rows) for name, rows in tables.items()}
    assert counts == {"episodes": 5, "turns": 4, "trajectories": 2, "feedback": 4}
    by_id = {row["id"]: row for row in tables["turns"]}
    for turn in turns:
        row = by_id[turn.id]
        assert row["prompt"] == turn.prompt.tolist() and row["completion"] == turn.completion.tolist()
        assert row["logprobs"] == turn.logprobs.tolist() and row["spans"][0]["version"] == turn.spans[0].version
        assert row["started"].timestamp() == START and json.loads(row["messages"]) == list(turn.messages)
    assert tables["trajectories"][0]["tokens"] == make("a").tokens.tolist()
    assert {row["id"]: row["reward"] for row in tables["episodes"]}["b"] == 0.0
    assert [row["value"] for row in tables["feedback"] if row["source"] == "code"] == [1.0]
    only = write_parquet(tmp_path / "out", store, EpisodeFilter(origin="learning"))
    assert only == {"episodes": 2, "turns": 0, "trajectories": 2, "feedback": 0}
