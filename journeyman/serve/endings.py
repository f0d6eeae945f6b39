"""What became of a reply, in the words of clients and of the store."""

from __future__ import annotations

from typing import Any

from journeyman.experience.records import Finish as Kept
from journeyman.experience.records import VersionSpan
from journeyman.serve.service import Finished
from journeyman.serve.tools import Said


def message_of(said: Said, value: float | None, threshold: float | None, turn: str) -> dict[str, Any]:
    """The reply as a message; with a threshold, the admission that it is unsure."""
    if threshold is not None:
        refusal = (
            f"I am unsure: I expect my answer to be right with a chance of {value:.2f}, asked for {threshold:.2f}."
        )
        return {"role": "assistant", "content": None, "refusal": refusal}
    message: dict[str, Any] = {"role": "assistant", "content": said.content, "refusal": None}
    if said.calls:
        message["content"] = said.content or None
        message["tool_calls"] = [
            {
                "id": f"call_{turn.replace('-', '')[-20:]}{number:02d}",
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for number, call in enumerate(said.calls)
        ]
    return message


def kept_as(finished: Finished, said: Said, unsure: bool) -> Kept:
    """How the store says that it ended."""
    if unsure:
        return "abstained"
    if finished.finish == "stop":
        return "tool_calls" if said.calls else "stop"
    return "length" if finished.finish == "context" else finished.finish


def spans_of(finished: Finished, probability: float) -> tuple[VersionSpan, ...]:
    """Which version made which tokens. Weights that took another's place were assigned as that was."""
    starts = [*(start for _, start in finished.versions), len(finished.tokens)]
    versions = [version for version, _ in finished.versions]
    return tuple(
        VersionSpan(version, start, stop, probability)
        for version, start, stop in zip(versions, starts, starts[1:], strict=False)
        if stop > start
    )
