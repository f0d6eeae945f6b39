"""Texts that end a reply, wherever their characters fall on tokens: an automaton over tokens.

The automaton of Aho and Corasick (1975) over bytes, run through every token of the vocabulary from each of its states
once, gives a table from state and token to state. An engine then needs one look-up for each token that it samples.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from journeyman.errors import UsageError

_PLAIN = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
_OTHERS = sorted(set(range(256)) - set(_PLAIN))
_BYTES = {chr(byte): byte for byte in _PLAIN} | {chr(256 + n): byte for n, byte in enumerate(_OTHERS)}
"""The letter that stands for each byte in byte-level vocabularies (GPT-2's)."""


def spelled_bytes(token: str) -> bytes:
    """What a token of a byte-level vocabulary is spelled for."""
    return b"".join(bytes([_BYTES[c]]) if c in _BYTES else c.encode() for c in token)


class Pieces:
    """What each token adds to a text, as the tokens come. A character spread over several of them shows at its last.

    A tokenizer may write a token in one way at the beginning of a text and in another behind others, so each is decoded
    together with the ones before it.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._before: list[int] = []
        self._new: list[int] = []

    def feed(self, token: int) -> str:
        """What the next token adds."""
        self._new.append(token)
        text = self._text()
        if text.endswith("\ufffd"):  # perhaps a character of which more bytes are to come
            return ""
        self._before, self._new = self._new, []
        return text

    def rest(self) -> str:
        """What was held back for tokens that do not come."""
        text = self._text()
        self._before, self._new = self._new, []
        return text

    def _text(self) -> str:
        return self._decode(self._before + self._new)[len(self._decode(self._before)) :]


MATCHED = -1
"""The state after a whole text."""

Table = npt.NDArray[np.int32]


class StopTexts:
    """What ends a reply beside tokens. State 0 is where a reply begins.

    Args:
        texts: each at least one character long.
        pieces: the bytes that each token of the vocabulary adds to a reply's text; none for special ones.

    Raises:
        UsageError: a text is empty.

    Example:
        >>> StopTexts(["ab"], [b"a", b"b", b"xa"]).table(3).tolist()  # rows: nothing yet, or an `a`
        [[1, 0, 1], [1, -1, 1]]
    """

    def __init__(self, texts: Sequence[str], pieces: Sequence[bytes]) -> None:
        if not all(texts):
            raise UsageError(
                "stop: a text to stop at is empty",
                reason="every reply would end before it began",
                fix="leave it out, or give at least one character",
            )
        self.texts = tuple(texts)
        self._table = _over_tokens(_over_bytes([text.encode() for text in texts]), pieces)
        self.table = lru_cache(maxsize=2)(self._widened)

    def after(self, state: int, token: int) -> int:
        """The state after one more token."""
        return int(self._table[state, token]) if token < self._table.shape[1] else 0

    def _widened(self, vocabulary: int) -> Table:
        """int32 [states, vocabulary]: the state after each token. Tokens that no piece is known of lead to 0."""
        out = np.zeros((len(self._table), vocabulary), np.int32)
        width = min(vocabulary, self._table.shape[1])
        out[:, :width] = self._table[:, :width]
        return out


def _over_bytes(words: Sequence[bytes]) -> Table:
    """[states, 256]: the longest beginning of any word that the bytes so far end with, or MATCHED."""
    following: list[dict[int, int]] = [{}]
    ends = {0: False}
    for word in words:
        state = 0
        for byte in word:
            if byte not in following[state]:
                following[state][byte] = len(following)
                ends[len(following)] = False
                following.append({})
            state = following[state][byte]
        ends[state] = True
    table: Table = np.zeros((len(following), 256), np.int32)
    line = deque([(0, 0)])  # a state, and the longest shorter one that its bytes end with
    while line:
        state, shorter = line.popleft()
        ends[state] |= ends[shorter]
        table[state] = table[shorter]
        for byte, child in following[state].items():
            line.append((child, 0 if state == 0 else int(table[shorter, byte])))
            table[state, byte] = child
    over = np.array([ends[state] for state in range(len(following))])
    return np.where(over[table], MATCHED, table).astype(np.int32)


def _over_tokens(table: Table, pieces: Sequence[bytes]) -> Table:
    """[states, tokens]: the state after all bytes of each token."""
    lengths = np.array([len(piece) for piece in pieces])
    data = np.zeros((len(pieces), max(int(lengths.max(initial=0)), 1)), np.uint8)
    for row, piece in zip(data, pieces, strict=True):
        row[: len(piece)] = np.frombuffer(piece, np.uint8)
    states = np.repeat(np.arange(len(table), dtype=np.int32)[:, None], len(pieces), 1)
    for place in range(data.shape[1]):
        going = np.flatnonzero(lengths > place)
        before = states[:, going]
        states[:, going] = np.where(before == MATCHED, MATCHED, table[before, data[going, place]])
    return states
