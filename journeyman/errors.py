"""Every error a user can meet. Each message shows the mistake, the reason and the fix.

JourneymanError
├── UsageError          the command or the configuration is wrong
│   └── UnknownName     a job, model, split or run nobody knows; carries the nearest names
├── JobError            a job breaks its contract (validate() says where)
├── CheckpointError     a folder that is no checkpoint, or a damaged one
├── EngineError         the engine that samples failed: it raised, or its weights could not be replaced
├── StoreError          the experience store cannot keep or give back what was asked
│   ├── StoreUnavailable    its database cannot be read or written now: nothing was acknowledged
│   ├── StoreConflict       the id, the name or the idempotency key was used for something else
│   └── NotKept             an episode it has never seen, or that was erased
└── RunError            a run folder is locked, foreign or damaged
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class JourneymanError(Exception):
    """The root: catch this to catch everything we raise on purpose."""

    def __init__(self, mistake: str, *, reason: str = "", fix: str = "") -> None:
        parts = [mistake]
        if reason:
            parts.append(f"Why: {reason}")
        if fix:
            parts.append(f"Fix: {fix}")
        super().__init__("\n".join(parts))
        self.mistake, self.reason, self.fix = mistake, reason, fix


class UsageError(JourneymanError, ValueError):
    """The command line or a configuration is wrong."""


class UnknownName(UsageError):
    """A name nobody knows. The message lists the nearest known ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, fix: str = "") -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known) or 'none'}"
        super().__init__(f"unknown {kind} {name!r}: {hint}", fix=fix)
        self.nearest = near


class JobError(JourneymanError):
    """A job breaks its contract."""


class CheckpointError(JourneymanError):
    """A folder is no checkpoint, or a damaged one."""


class EngineError(JourneymanError):
    """The engine that samples failed."""


class StoreError(JourneymanError):
    """The experience store cannot keep or give back what was asked."""


class StoreUnavailable(StoreError):
    """The database cannot be read or written now. Nothing was acknowledged; the same again later is safe."""


class StoreConflict(StoreError):
    """The id, the name or the idempotency key was used for something else."""


class NotKept(StoreError):
    """An episode that the store has never seen, or that was erased; `erased` says which."""

    def __init__(self, id: str, *, erased: bool = False) -> None:
        state = "was erased" if erased else "is not kept"
        reason = "its user asked for it, or it had reached the age limit" if erased else "the store has never seen it"
        super().__init__(f"the episode {id} {state}", reason=reason)
        self.erased = erased


class RunError(JourneymanError):
    """A run folder is in use, belongs to another configuration, or is damaged."""
