"""API keys: who may do what, and how much. Only their hashes are kept, in `keys.json`.

A key reads `jm-<id>-<secret>`. A client may add `:<name>`: all its calls by that name are one episode.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from journeyman.errors import UnknownName, UsageError
from journeyman.run import write_atomically

Scope = Literal["use", "feedback", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)


@dataclass(frozen=True)
class Key:
    """One key, less its secret.

    Attributes:
        id: in the clear, for logs and records.
        name: whose it is.
        scopes: `use` asks the model, `feedback` says what became of it, `admin` sees all and rules.
        digest: sha256 of the secret. A secret of 256 random bits needs no slow hash.
        created: Unix seconds.
        revoked: when it ceased to hold; None: it holds.
        per_minute: requests it may make in a minute; None: as the server has it.
        feedback_per_day: pieces of feedback it may give in a day, which bounds how much it can weigh; None: any number.
    """

    id: str
    name: str
    scopes: tuple[Scope, ...]
    digest: str
    created: float
    revoked: float | None = None
    per_minute: int | None = None
    feedback_per_day: int | None = None

    def may(self, scope: Scope) -> bool:
        """Whether it holds for this."""
        return scope in self.scopes

    def public(self) -> dict[str, Any]:
        """What may be shown of it."""
        shown = asdict(self)
        del shown["digest"]
        return shown


EVERYBODY = Key("", "everybody", SCOPES[:2], "", 0.0)
"""Stands for whoever asks a server that has no keys."""


class Keys:
    """The keys of a server; the file is read again when another process has changed it.

    Raises:
        UsageError: the file is there and cannot be read.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock = threading.Lock()
        self._seen: tuple[int, int] | None = None
        self._keys: dict[str, Key] = {}
        self._read()

    def __len__(self) -> int:
        """Keys that hold."""
        self._read()
        return sum(key.revoked is None for key in self._keys.values())

    def all(self) -> list[Key]:
        """All there ever were, the oldest first."""
        self._read()
        return sorted(self._keys.values(), key=lambda key: key.created)

    def check(self, text: str) -> Key | None:
        """The key that this is; None where it is none, or was revoked."""
        self._read()
        head, _, rest = text.partition("-")
        id, _, secret = rest.partition("-")
        key = self._keys.get(id)
        expected = key.digest if key is not None else _digest("")
        right = hmac.compare_digest(_digest(secret), expected)  # in the same time, whether the id is known or not
        return key if right and head == "jm" and key is not None and key.revoked is None else None

    def add(
        self,
        name: str,
        scopes: tuple[Scope, ...] = ("use", "feedback"),
        *,
        per_minute: int | None = None,
        feedback_per_day: int | None = None,
    ) -> tuple[Key, str]:
        """A new key, and its text, which cannot be had again.

        Raises:
            UsageError: without a name or scopes.
        """
        if not name.strip() or not name.isprintable() or len(name) > 100:
            raise UsageError("a key needs a name of at most 100 printable characters")
        for scope in scopes:
            if scope not in SCOPES:
                raise UnknownName("scope", scope, SCOPES)
        if not scopes:
            raise UsageError("a key needs at least one scope", fix=f"give some of {', '.join(SCOPES)}")
        for field, amount in (("per_minute", per_minute), ("feedback_per_day", feedback_per_day)):
            if amount is not None and amount < 0:
                raise UsageError(f"key: {field} must be at least 0, got {amount}")
        id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        key = Key(id, name, tuple(scopes), _digest(secret), time.time(), None, per_minute, feedback_per_day)
        self._write(key)
        return key, f"jm-{id}-{secret}"

    def revoke(self, id: str) -> Key:
        """Let a key hold no longer.

        Raises:
            UnknownName: there is none of this id.
        """
        self._read()
        if id not in self._keys:
            raise UnknownName("key", id, self._keys)
        key = replace(self._keys[id], revoked=self._keys[id].revoked or time.time())
        self._write(key)
        return key

    def _write(self, key: Key) -> None:
        with self._lock:
            self._load()
            self._keys[key.id] = key
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.file, json.dumps([asdict(key) for key in self._keys.values()], indent=1) + "\n")
            self.file.chmod(0o600)
            self._seen = self._state()

    def _read(self) -> None:
        if self._state() != self._seen:
            with self._lock:
                self._load()

    def _load(self) -> None:
        state = self._state()
        try:
            kept: list[dict[str, Any]] = json.loads(self.file.read_text()) if state else []
            for one in kept:
                one["scopes"] = tuple(one["scopes"])
            self._keys = {one["id"]: Key(**one) for one in kept}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"the keys in {self.file} cannot be read", reason=str(error), fix="restore it") from error
        self._seen = state

    def _state(self) -> tuple[int, int] | None:
        """What changes when the file does; None where there is none."""
        try:
            found = self.file.stat()
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_ino


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
