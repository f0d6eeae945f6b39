"""Experience for other tools: Parquet for analysis, JSON lines to train with.

- Parquet: `episodes`, `turns`, `trajectories` and `feedback`, one file each; see docs/store.md.
- `openai`: `{"messages": [...], "tools": [...]}`, OpenAI's fine-tuning format.
- `trl`: `{"prompt": [...], "completion": [...]}`, TRL's conversational prompt-completion format.
- `trl-preference`: `{"prompt": [...], "chosen": [...], "rejected": [...]}`, TRL's conversational preference format.

Sources: platform.openai.com/docs/guides/supervised-fine-tuning, huggingface.co/docs/trl/dataset_formats.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

from journeyman.errors import NotKept, UsageError
from journeyman.experience.outcomes import Episode, paths
from journeyman.experience.records import EpisodeFilter, ServedTurn
from journeyman.experience.store import Store
from journeyman.types import SUCCESS, conversation

Line = dict[str, Any]
Messages = list[Line]
BATCH = 256
"""Rows that are held in memory until they are written."""
ENDS_OF_LINES = {ord(c): f"\\u{ord(c):04x}" for c in "\x85\u2028\u2029"}
"""Within JSON's strings they are allowed, and tear a line apart for readers that follow Unicode."""


def conversations(episode: Episode) -> Iterator[Line]:
    """What was said, as messages that end with an answer, and the tools that were offered; bare text is left out."""
    if episode.trajectory is not None:
        t = episode.trajectory
        messages = [{"role": m.role, "content": m.content} for m in conversation(t.task, t.turns)]
        while messages and messages[-1]["role"] != "assistant":
            messages.pop()
        if messages:
            yield {"messages": messages}
    for path in paths(episode.turns):
        last = path.turns[-1]
        if last.messages:
            yield _with_tools({"messages": [*last.messages, last.reply]}, last)


def demonstrations(episode: Episode, min_reward: float) -> Iterator[Line]:
    """Conversations to imitate: corrected answers, and what brought at least this reward."""
    for prompt, _, correction, turn in _corrections(episode):
        yield _with_tools({"messages": [*prompt, correction]}, turn)
    if episode.summary.reward is not None and episode.summary.reward >= min_reward:
        yield from conversations(episode)


def prompt_completion(line: Line) -> Line:
    """A conversation split where the last answer begins."""
    return {**line, "prompt": line["messages"][:-1], "completion": line["messages"][-1:]}


def preferences(episode: Episode, other: Callable[[str], Episode | None]) -> Iterator[Line]:
    """Answers that were preferred to others after the same prompt: corrections, and episodes compared.

    Args:
        other: the episode of an id; None where it is not kept any more.
    """
    for prompt, reply, correction, turn in _corrections(episode):
        yield _with_tools({"prompt": prompt, "chosen": [correction], "rejected": [reply]}, turn)
    for feedback in episode.feedback:
        if feedback.preferred_to is None or feedback.episode != episode.summary.id:
            continue
        worse = other(feedback.preferred_to)
        better, rest = next(conversations(episode), None), worse and next(conversations(worse), None)
        if not better or not rest:
            continue
        chosen, rejected = better["messages"], rest["messages"]
        shared = len(list(takewhile(lambda two: two[0] == two[1], zip(chosen, rejected, strict=False))))
        if 0 < shared < min(len(chosen), len(rejected)):
            del better["messages"]
            yield better | {"prompt": chosen[:shared], "chosen": chosen[shared:], "rejected": rejected[shared:]}


def _corrections(episode: Episode) -> Iterator[tuple[Messages, Line, Line, ServedTurn]]:
    """(prompt, answer, corrected answer, turn) of each correction of a served turn."""
    for feedback, turn in episode.corrections():
        if turn.messages:
            correction = {"role": "assistant", "content": feedback.correction}
            yield [dict(message) for message in turn.messages], dict(turn.reply), correction, turn


def _with_tools(line: Line, turn: ServedTurn) -> Line:
    tools = turn.parameters.get("tools")
    return line | {"tools": tools} if tools else line


def lines(store: Store, form: str, wanted: EpisodeFilter, min_reward: float = SUCCESS) -> Iterator[Line]:
    """The lines of a format, `openai`, `trl` or `trl-preference`."""
    for episode in store.every(wanted):
        match form:
            case "openai":
                yield from demonstrations(episode, min_reward)
            case "trl":
                for line in map(prompt_completion, demonstrations(episode, min_reward)):
                    del line["messages"]
                    yield line
            case _:
                yield from preferences(episode, lambda id: _still_there(store, id))


def _still_there(store: Store, id: str) -> Episode | None:
    try:
        return store.whole(id)
    except NotKept:
        return None


def write_lines(file: Path, rows: Iterable[Line]) -> int:
    """JSON lines, whole or not at all; how many.

    Raises:
        UsageError: it cannot be written.
    """
    count = 0
    draft = file.with_name(file.name + ".draft")
    try:
        with draft.open("w", encoding="utf-8", errors="backslashreplace") as out:
            for row in rows:
                out.write(json.dumps(row, ensure_ascii=False).translate(ENDS_OF_LINES) + "\n")
                count += 1
        os.replace(draft, file)
    except OSError as error:
        raise UsageError(f"cannot write {file}", reason=str(error)) from error
    return count


# -- Parquet -----------------------------------------------------------------------------------------------


def write_parquet(folder: Path, store: Store, wanted: EpisodeFilter) -> dict[str, int]:
    """The tables `episodes`, `turns`, `trajectories` and `feedback` as files of a folder; how many rows each.

    Raises:
        UsageError: pyarrow is missing, or the folder cannot be written.
    """
    try:
        import pyarrow.parquet as parquet
        from pyarrow import Table
    except ImportError as error:
        raise UsageError("Parquet needs pyarrow", reason=str(error), fix="pip install 'journeyman[export]'") from error
    schemas = _schemas()
    counts = dict.fromkeys(schemas, 0)
    rows: dict[str, list[Line]] = {name: [] for name in schemas}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        drafts = {name: folder / f"{name}.parquet.draft" for name in schemas}
        writers = {name: parquet.ParquetWriter(drafts[name], schema) for name, schema in schemas.items()}

        def flush(least: int) -> None:
            for name, waiting in rows.items():
                if len(waiting) >= least:
                    writers[name].write_table(Table.from_pylist(waiting, schema=schemas[name]))
                    counts[name] += len(waiting)
                    waiting.clear()

        for episode in store.every(wanted):
            for name, found in _rows(episode).items():
                rows[name] += found
            flush(BATCH)
        flush(1)
        for name, writer in writers.items():
            writer.close()
            os.replace(drafts[name], folder / f"{name}.parquet")
    except OSError as error:
        raise UsageError(f"cannot write into {folder}", reason=str(error)) from error
    return counts


def _schemas() -> dict[str, Any]:
    from pyarrow import bool_, float32, float64, int32, int64, list_, schema, string, struct, timestamp

    when = timestamp("us", tz="UTC")
    span = struct([("version", int64()), ("start", int32()), ("stop", int32()), ("probability", float64())])
    turn = [("start", int32()), ("stop", int32()), ("reply", string()), ("observation", string())]
    texts = {name: string() for name in ("id", "origin", "job", "key", "user", "split", "ending")}
    of_turn = ("episode", "id", "after", "request", "finish", "error", "by", "messages", "reply", "parameters")
    of_feedback = ("episode", "id", "turn", "metric", "comment", "correction", "preferred_to", "source", "explanation")
    columns: dict[str, dict[str, Any]] = {
        "episodes": {
            **texts,
            **dict.fromkeys(("step", "turns", "feedback"), int64()),
            **dict.fromkeys(("reward", "value"), float64()),
            "versions": list_(int64()),
            **dict.fromkeys(("started", "updated"), when),
        },
        "turns": {
            **dict.fromkeys(of_turn, string()),
            "choice": int32(),
            "temperature": float64(),
            **dict.fromkeys(("prompt", "completion"), list_(int32())),
            **dict.fromkeys(("logprobs", "values"), list_(float32())),
            "spans": list_(span),
            **dict.fromkeys(("started", "ended"), when),
        },
        "trajectories": {
            **dict.fromkeys(("id", "group", "task"), string()),
            "policy_version": int64(),
            "temperature": float64(),
            "tokens": list_(int32()),
            "mask": list_(bool_()),
            **dict.fromkeys(("logprobs", "values"), list_(float32())),
            "turns": list_(struct([*turn, ("reward", float64()), ("by", string())])),
        },
        "feedback": {
            **dict.fromkeys((*of_feedback, "key", "user", "idempotency_key"), string()),
            "value": float64(),
            "tags": list_(string()),
            "at": when,
        },
    }
    return {name: schema(list(fields.items())) for name, fields in columns.items()}


def _rows(episode: Episode) -> dict[str, list[Line]]:
    """An episode's rows of each table. A preference is a row of the better episode."""
    s, t = episode.summary, episode.trajectory
    own = [f for f in episode.feedback if f.episode == s.id]
    return {
        "episodes": [{**asdict(s), "started": _when(s.started), "updated": _when(s.updated)}],
        "turns": [_turn(turn) for turn in episode.turns],
        "trajectories": []
        if t is None
        else [
            {
                **{name: getattr(t, name) for name in ("id", "group", "policy_version", "temperature")},
                **{name: getattr(t, name).tolist() for name in ("tokens", "mask", "logprobs", "values")},
                "task": _json({**asdict(t.task), "data": dict(t.task.data)}),
                "turns": [
                    {**asdict(turn), "reply": _text(turn.reply), "observation": _text(turn.observation)}
                    for turn in t.turns
                ],
            }
        ],
        "feedback": [_feedback(asdict(f)) for f in own],
    }


def _turn(turn: ServedTurn) -> Line:
    plain = ("episode", "id", "after", "request", "choice", "finish", "by", "temperature")
    return {
        **{name: getattr(turn, name) for name in plain},
        **{name: getattr(turn, name).tolist() for name in ("prompt", "completion", "logprobs", "values")},
        **{name: _json(getattr(turn, name)) for name in ("messages", "reply", "parameters")},
        "spans": [asdict(span) for span in turn.spans],
        "error": _text(turn.error),
        "started": _when(turn.started),
        "ended": _when(turn.ended),
    }


def _feedback(fields: Line) -> Line:
    value = None if fields["value"] is None else float(fields["value"])
    tags = [_text(tag) for tag in fields["tags"]]
    rest = {"value": value, "tags": tags, "at": _when(fields["at"])}
    return _texts(fields, "comment", "correction", "explanation") | rest


def _texts(fields: Line, *names: str) -> Line:
    return fields | {name: _text(fields[name]) for name in names}


def _json(value: Mapping[str, Any] | Sequence[Any]) -> str:
    return _text(json.dumps(value, ensure_ascii=False)) or ""


def _text(text: str | None) -> str | None:
    """As Parquet can hold it: without lone surrogates."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode()


def _when(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
