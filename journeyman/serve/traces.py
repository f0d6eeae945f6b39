"""Episodes laid out for reading: the text in spans with V after each, for the trace viewer.

The same layout as the report's (report/trace.py), with what a deployment adds: several paths where a conversation
branched, who says what comes back to the model, and tool calls told apart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from journeyman.experience.outcomes import Episode, Path, paths
from journeyman.experience.records import EpisodeSummary, ServedTurn
from journeyman.report.stories import exam_step
from journeyman.report.trace import Passage, view
from journeyman.rollout.branch import forked_from
from journeyman.serve.archive import Archive
from journeyman.serve.tools import CLOSE, OPEN
from journeyman.types import Trajectory

CALL = re.compile(f"{OPEN}.*?(?:{CLOSE}|$)", re.DOTALL)


def trace(archive: Archive, episode: Episode) -> dict[str, Any]:
    """What the trace viewer shows of an episode, beside its summary and its feedback."""
    trajectories = episode.readable()
    if episode.trajectory is not None:
        task = episode.trajectory.task
        others = archive.store.attempts(episode.summary.id)
        return {
            "task": f"{task.job}/{task.split}/{task.index}",
            "level": task.level,
            "paths": [_laid_out(archive, trajectory, None) for trajectory in trajectories],
            "others": [_other(episode.trajectory, one) for one in others],
        }
    told = zip(trajectories, paths(episode.turns), strict=True)
    laid_out = [_laid_out(archive, trajectory, path) for trajectory, path in told]
    return {"task": None, "level": 0, "paths": laid_out, "others": []}


def _laid_out(archive: Archive, t: Trajectory, path: Path | None) -> dict[str, Any]:
    pieces = archive.pieces(t)
    seen = view(t if path is None else _whole_replies(t, path.turns, pieces), pieces)
    turns = [None] * len(t.turns) if path is None else path.turns
    return {
        "id": t.id,
        "forked": None if path is None else _forked(path),
        "ending": t.outcome.ending.value,
        "reward": None if t.outcome.reward != t.outcome.reward else t.outcome.reward,
        "error": t.outcome.error,
        "turns": [_turn(number, turn, t) for number, turn in enumerate(turns)],
        "passages": [_passage(passage, turns) for passage in seen.passages],
        "series": [[position, round(value, 4)] for position, value in seen.series],
        "fall": seen.fall and asdict(seen.fall),
        "rise": seen.rise and asdict(seen.rise),
        "sampled": int(t.mask.sum()),
        "by_token": pieces is not None,
    }


def _whole_replies(t: Trajectory, served: Sequence[ServedTurn], pieces: Sequence[str] | None) -> Trajectory:
    """The same with tool calls in the text of the replies, which a message has beside its text."""
    turns = list(t.turns)
    for number, turn in enumerate(served):
        calls = turn.reply.get("tool_calls") or ()
        if calls and pieces is not None:
            text = "".join(pieces[turns[number].start : turns[number].stop])
            end = text.rfind(CLOSE)
            turns[number] = replace(turns[number], reply=text if end < 0 else text[: end + len(CLOSE)])
        elif calls:
            spelled = [f"{OPEN}{json.dumps(call['function'], ensure_ascii=False)}{CLOSE}" for call in calls]
            turns[number] = replace(turns[number], reply="\n".join([turns[number].reply, *spelled]).strip())
    return replace(t, turns=tuple(turns))


def _forked(path: Path) -> int | None:
    """Where a path left another one: its first token of its own; None of the first path."""
    first = path.turns[0]
    own = next((i for i, sampled in enumerate(path.mask) if sampled), len(path.tokens))
    return own if first.after is not None or first.choice else None


def _turn(number: int, turn: ServedTurn | None, t: Trajectory) -> dict[str, Any]:
    """For feedback: a served turn by its id, one of the learning loop by its number."""
    place = t.turns[number]
    return {
        "id": str(number) if turn is None else turn.id,
        "start": place.start,
        "stop": place.stop,
        "reward": place.reward if turn is None else None,
        "by": place.by,
        "finish": None if turn is None else turn.finish,
        "versions": [t.policy_version] if turn is None else sorted({span.version for span in turn.spans}),
    }


def _passage(passage: Passage, turns: Sequence[ServedTurn | None]) -> dict[str, Any]:
    speaker: str = passage.speaker
    if speaker == "environment":
        speaker = _who(passage.turn, turns)
    marked = _calls(passage) if speaker == "assistant" else [False] * len(passage.spans)
    return {
        "speaker": speaker,
        "turn": passage.turn,
        "spans": [
            {
                "text": span.text,
                "value": None if span.value is None else round(span.value, 4),
                "position": span.position,
                "call": call,
            }
            for span, call in zip(passage.spans, marked, strict=True)
        ],
    }


def _who(turn: int, turns: Sequence[ServedTurn | None]) -> str:
    """Who answers a turn: a tool or the user, as the next messages say; in the learning loop, the environment."""
    if not 1 <= turn < len(turns):
        return "environment" if not turns or turns[0] is None else "tool"
    before, after = turns[turn - 1], turns[turn]
    if before is None or after is None:
        return "environment"
    roles = {message.get("role") for message in after.messages[len(before.messages) + 1 :]}
    return "tool" if roles == {"tool"} else "user"


def _calls(passage: Passage) -> list[bool]:
    """Which spans are part of a tool call."""
    found = [match.span() for match in CALL.finditer(passage.text)]
    marked: list[bool] = []
    at = 0
    for span in passage.spans:
        stop = at + len(span.text)
        marked.append(any(at < end and begin < stop for begin, end in found))
        at = stop
    return marked


def _other(of: Trajectory, one: EpisodeSummary) -> dict[str, Any]:
    """Another attempt at the same task; a branch with the token after which it went its own way."""
    parent, turn = forked_from(one.id) or (None, None)
    ours = parent == of.id and turn is not None and turn < len(of.turns)
    step = exam_step(one.id)
    return {
        "id": one.id,
        "kind": "exam" if step is not None else "practice" if parent is None else "branch",
        "step": one.step if step is None else step,
        "parent": parent,
        "turn": turn,
        "position": of.turns[turn].start - 1 if ours and turn is not None else None,
        "reward": one.reward,
        "value": one.value,
        "ending": one.ending,
    }
