"""What of a reply clients see: its text up to where it was told to stop, and its tool calls; also while it grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from journeyman.model.render import Renderer
from journeyman.serve.prompts import Manner
from journeyman.serve.tools import Said, overlap


@dataclass(frozen=True)
class Listener:
    """How a reply is read.

    Attributes:
        renderer: of its tokens.
        stops: texts that end it; they are not shown.
        manner: whose calls are looked for; one without tools has none.
        lead: what the reply was made to begin with, before the tokens that were sampled.
    """

    renderer: Renderer
    stops: tuple[str, ...]
    manner: Manner
    lead: str = ""

    def read(self, tokens: Sequence[int]) -> Said:
        """A finished reply."""
        text = self.lead + self.renderer.text(tokens)
        text = text[: self.end(text, len(self.lead))]
        if self.manner.calls is None:
            return Said(text)
        return self.manner.calls.parse(text, self.manner.names)

    def end(self, text: str, start: int = 0) -> int:
        """Where the first text to stop at begins, after `start`; the text's length, if there is none."""
        found = (text.find(stop, start) for stop in self.stops)
        return min((place for place in found if place >= 0), default=len(text))


class Teller:
    """What of a reply can be shown while it grows: all that no later token can take back."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self._pieces = listener.renderer.pieces_as_they_come()
        self._text = listener.lead
        self._shown = 0

    def feed(self, tokens: Sequence[int]) -> str:
        """What can be shown now and could not before."""
        renderer = self.listener.renderer
        self._text += "".join(self._pieces.feed(token) for token in tokens if token not in renderer.end_ids)
        safe = self.listener.end(self._text, self._shown)
        safe = min([safe, *(len(self._text) - overlap(self._text, stop) for stop in self.listener.stops)])
        if self.listener.manner.calls is not None:
            safe = min(safe, self.listener.manner.calls.may_begin(self._text))
        return self._show(safe)

    def rest(self, said: Said) -> str:
        """What of the finished reply has not been shown."""
        shown = self._text[: self._shown]
        return said.content[len(shown) :] if said.content.startswith(shown) else ""

    def _show(self, until: int) -> str:
        new = self._text[self._shown : until]
        self._shown = max(self._shown, until)
        return new
