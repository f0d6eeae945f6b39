"""UUIDv7: ids that sort by the time they were made."""

from __future__ import annotations

import secrets
import threading
import time
import uuid

_lock = threading.Lock()
_last = 0


def uuid7() -> str:
    """A new UUID of version 7: 60 bits of time, 62 random ones. Those of one process are strictly increasing.

    Source: RFC 9562, section 5.7; sub-milliseconds by method 3 of section 6.2 (steps of a quarter of a microsecond).
    """
    global _last
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    now = milliseconds << 12 | (rest << 12) // 1_000_000
    with _lock:
        _last = now = max(now, _last + 1)
    bits = now >> 12 << 80 | 7 << 76 | (now & 0xFFF) << 64 | 0b10 << 62 | secrets.randbits(62)
    return str(uuid.UUID(int=bits))


def made_at(id: str) -> float | None:
    """Unix seconds at which a UUIDv7 was made; None for any other text."""
    try:
        found = uuid.UUID(id)
    except ValueError:
        return None
    return (found.int >> 80) / 1000 if found.version == 7 and str(found) == id else None
