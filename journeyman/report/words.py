"""Numbers and text as people read them."""

from __future__ import annotations

import html
import math
import re

EN_DASH = "\u2013"
"""Between the ends of an interval, and for what is not known."""
MINUS = "\u2212"
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """Text that cannot disturb a page or a terminal.

    A model may write anything: control characters become their pictures (ESC is shown as ␛), and
    direction overrides and lone surrogates become the replacement character.
    """

    def shown(match: re.Match[str]) -> str:
        code = ord(match[0])
        return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"

    return _CONTROL.sub(shown, text.replace("\r\n", "\n"))


def esc(text: str) -> str:
    """Text as it may stand in HTML, between tags and in quoted attributes."""
    return html.escape(visible(text))


def percent(share: float | None) -> str:
    """0.914 -> "91%"; the ends keep a digit where rounding would claim a certainty: 0.998 -> "99.8%"."""
    if share is None or not math.isfinite(share):
        return EN_DASH
    scaled = 100 * share
    near_end = 99.5 <= scaled < 100 or 0.05 <= scaled < 0.5
    return f"{min(scaled, 99.9):.1f}%" if near_end else f"{scaled:.0f}%"


def interval(low: float, high: float) -> str:
    """(0.871, 0.943) -> "87-94%", with an en dash."""
    return f"{percent(low).removesuffix('%')}{EN_DASH}{percent(high)}"


def points(change: float) -> str:
    """A difference of two shares in percentage points: 0.67 -> "+67"."""
    rounded = round(100 * change)
    return f"+{rounded}" if rounded > 0 else f"{MINUS}{-rounded}" if rounded < 0 else "±0"


def count(number: float) -> str:
    """12480 -> "12,480"; 3_214_000 -> "3.2 million"."""
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:.3g} {word}"
    return f"{number:,.0f}"


def short(number: float) -> str:
    """For axes: 12500 -> "12.5k", 3_000_000 -> "3M"."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:g}"


def duration(seconds: float | None) -> str:
    """340 -> "5 min 40 s"; 8000 -> "2 h 13 min"."""
    if seconds is None or not math.isfinite(seconds):
        return EN_DASH
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    minutes = round(seconds / 60)
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{seconds / 86400:.1f} days"


def listed(parts: list[str]) -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""


def plural(number: int, noun: str) -> str:
    """(1, "job") -> "1 job"; (2, "job") -> "2 jobs"."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"
