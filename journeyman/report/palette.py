"""The colours of V: orange where failure is expected, blue where success is, the page's own colour between.

Both arms are made in OKLCH (https://www.w3.org/TR/css-color-4/#ok-lab), whose lightness and chroma are
perceptually even, so equal steps of V look equal. Orange and blue stay apart for all common forms of colour
blindness, and lightness changes alike on both sides, so neither arm shouts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.resources import files

STEPS = 21
"""Shades in the scale, odd so that the middle one is neutral."""


@dataclass(frozen=True)
class Scale:
    """One diverging scale.

    Attributes:
        middle: OKLCH lightness at V = 1/2.
        end: OKLCH lightness at both ends.
        chroma: OKLCH chroma at both ends.
    """

    middle: float
    end: float
    chroma: float

    def rgb(self, share: float) -> tuple[int, int, int]:
        """The colour (0..255) of V scaled to 0..1; anything outside is taken as the nearer end."""
        away = 2 * min(max(share, 0.0), 1.0) - 1
        strength = abs(away)
        lightness = self.middle + (self.end - self.middle) * strength
        return oklch(lightness, self.chroma * strength, 55.0 if away < 0 else 250.0)

    def hex(self, share: float) -> str:
        """The same as ``#rrggbb``."""
        return "#{:02x}{:02x}{:02x}".format(*self.rgb(share))


LIGHT = Scale(middle=0.975, end=0.76, chroma=0.135)
"""Behind dark text on a light page."""
DARK = Scale(middle=0.275, end=0.50, chroma=0.12)
"""Behind light text on a dark page."""
TERMINAL = Scale(middle=0.36, end=0.54, chroma=0.13)
"""Behind white text on a terminal whose own colours nobody knows."""
BEAD = Scale(middle=0.72, end=0.62, chroma=0.15)
"""For beads on a line, on either page: stronger than behind text."""


def shade(share: float) -> int:
    """The index 0..STEPS-1 of the shade that stands for V scaled to 0..1."""
    return round(min(max(share, 0.0), 1.0) * (STEPS - 1))


def oklch(lightness: float, chroma: float, hue: float) -> tuple[int, int, int]:
    """OKLCH (hue in degrees) to sRGB, 0..255, clipped to the gamut (Björn Ottosson's matrices)."""
    a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    narrow = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        _gamma(4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * narrow),
        _gamma(-1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * narrow),
        _gamma(-0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * narrow),
    )


def css() -> str:
    """The shades as classes: ``.v0`` to ``.v20`` behind text, ``.b0``... for beads; light, dark as the page."""
    shares = [i / (STEPS - 1) for i in range(STEPS)]
    behind = "".join(f".v{i}{{background:light-dark({LIGHT.hex(x)},{DARK.hex(x)})}}" for i, x in enumerate(shares))
    return behind + "".join(f".b{i}{{fill:{BEAD.hex(x)};stop-color:{BEAD.hex(x)}}}" for i, x in enumerate(shares))


def look() -> str:
    """The style sheet that all pages share: `look.css` and the shades."""
    return f"{files('journeyman.report').joinpath('look.css').read_text('utf-8')}{css()}\n"


def _gamma(linear: float) -> int:
    clipped = min(max(linear, 0.0), 1.0)
    encoded = 12.92 * clipped if clipped <= 0.0031308 else 1.055 * clipped ** (1 / 2.4) - 0.055
    return round(255 * encoded)
