"""What became of an attempt: by the grader's word, or by the feedback that the agent gave."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, cast

from journeyman.experience.outcomes import Episode, paths
from journeyman.types import SUCCESS


class NoGrade(Exception):
    """Nobody said, or not in a way that can be understood; in words."""


def read_grade(printed: str) -> float:
    """The reward that a grader printed: a number, or {"reward": 0.5}, or {"success": true}.

    Raises:
        NoGrade: it is no finite number, or `reward` and `success` contradict each other.
    """
    text = printed.strip()
    try:
        grade: object = json.loads(text)
    except ValueError:
        raise NoGrade(f"the grader must print a number or a JSON object, got {text[:200]!r}") from None
    if not isinstance(grade, dict):
        return _number(grade, text)
    given = cast(Mapping[str, object], grade)
    success = given.get("success")
    if success is not None and not isinstance(success, bool):
        raise NoGrade(f"the grader's success must be true or false, got {success!r}")
    if "reward" not in given:
        if success is None:
            raise NoGrade(f"the grader must print a reward or a success, got {text[:200]!r}")
        return float(success)
    reward = _number(given["reward"], text)
    if success is not None and success != (reward >= SUCCESS):
        raise NoGrade(f"the grader says success {success} and reward {reward:g}: a success is a reward of 1")
    return reward


def _number(value: object, text: str) -> float:
    if not isinstance(value, int | float):
        raise NoGrade(f"the grader must print a number, got {text[:200]!r}")
    if not math.isfinite(value):
        raise NoGrade(f"the grader's reward must be finite, got {value}")
    return float(value)


def transcript(episode: Episode) -> dict[str, Any]:
    """What was said, in OpenAI's shape: the conversation of the last answer, and that of every trail."""
    trails = [path.turns[-1] for path in paths(episode.turns)]
    said = {turn.id: [*turn.messages, turn.reply] for turn in trails}
    last = episode.turns[-1]
    return {"messages": [*last.messages, last.reply], "trails": list(said.values())}
