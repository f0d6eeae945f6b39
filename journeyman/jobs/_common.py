"""What the built-in jobs share."""

from __future__ import annotations

from collections.abc import Mapping

from journeyman.errors import UnknownName, UsageError


def check_place(job: str, splits: Mapping[str, int], split: str, index: int) -> None:
    """Refuse a task that is not there.

    Raises:
        UnknownName: the job has no such split.
        UsageError: the split has no such index.
    """
    if split not in splits:
        raise UnknownName(f"split of {job}", split, splits)
    if not 0 <= index < splits[split]:
        raise UsageError(f"{job}/{split} has tasks 0 to {splits[split] - 1}, asked for {index}")


def specification(name: str, options: Mapping[str, object], defaults: Mapping[str, object]) -> str:
    """The name that rebuilds a job: its kind and the options that are not the defaults."""
    given = [f"{key}={value}" for key, value in options.items() if value != defaults[key]]
    return ",".join([name, *given])
