"""The automaton over tokens finds texts wherever they fall on tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from journeyman.errors import UsageError
from journeyman.model.render import Renderer
from journeyman.model.texts import MATCHED, StopTexts
from journeyman.model.tokenizer import train_tokenizer

LETTERS = st.text("ab\né", max_size=4)


@given(
    st.lists(LETTERS.filter(bool), min_size=1, max_size=3),
    st.lists(LETTERS, min_size=1, max_size=6),
    st.lists(st.integers(0, 5), max_size=8),
)
def test_as_looking_for_the_text(texts: list[str], pieces: list[str], tokens: list[int]) -> None:
    tokens = [token % len(pieces) for token in tokens]
    found = StopTexts(texts, [piece.encode() for piece in pieces])
    table, state, said = found.table(len(pieces) + 1), 0, ""
    for token in tokens:
        after = found.after(state, token)
        assert after == table[state, token]
        said += pieces[token]
        assert (after == MATCHED) == any(text in said for text in texts)
        if after == MATCHED:
            break
        state = after


def test_a_token_without_a_piece_breaks_a_text() -> None:
    found = StopTexts(["ab"], [b"a", b"b"])
    assert found.after(found.after(0, 0), 7) == 0
    assert found.table(9)[1, 7] == 0


def test_an_empty_text_is_refused() -> None:
    with pytest.raises(UsageError, match="empty"):
        StopTexts(["a", ""], [b"a"])


def test_bytes_of_a_tokenizer() -> None:
    words = "the end of it: naïve café, 12 34\n\nand then — “quoted” 東京"
    renderer = Renderer(train_tokenizer([words] * 4, 400))
    pieces = renderer._bytes()  # pyright: ignore[reportPrivateUsage]
    assert b"".join(pieces[token] for token in renderer.encode(words)) == words.encode()
    assert pieces[renderer.end_id] == b""
    texts = renderer.stop_texts(["é, 1", "\n\nand"])
    assert texts is renderer.stop_texts(["é, 1", "\n\nand"])
    state, read = 0, ""
    for token in renderer.encode(words):
        state = texts.after(state, token)
        read += renderer.text([token])
        if state == MATCHED:
            break
    assert state == MATCHED and "12" not in read
