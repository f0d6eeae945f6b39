"""Tool calls in texts, whole and as they grow."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from journeyman.serve.prompts import Manner
from journeyman.serve.talk import Listener, Teller
from journeyman.serve.tools import CLOSE, OPEN, Call, CallFormat, Said, format_of, overlap
from tests.serve.live import RENDERER

TAGGED, BARE = CallFormat(), CallFormat(tagged=False, field="parameters")
NAMES = frozenset({"look", "go"})
MANNER = Manner(RENDERER, TAGGED, "", NAMES)
LOOK = Call("look", '{"at": "E4"}')


@pytest.mark.parametrize("form", [TAGGED, BARE])
def test_what_is_spelled_is_found(form: CallFormat) -> None:
    assert form.parse(form.spell(LOOK), NAMES) == Said("", (LOOK,))


def test_text_around_calls_stays() -> None:
    text = f"Let me see.\n{TAGGED.spell(LOOK)}\n{TAGGED.spell(Call('go', '{}'))}"
    assert TAGGED.parse(text, NAMES) == Said("Let me see.", (LOOK, Call("go", "{}")))


@pytest.mark.parametrize(
    "text",
    [
        f'{OPEN}{{"name": "look", "arguments": {{"at"}}{CLOSE}',
        f'{OPEN}{{"name": "fly", "arguments": {{}}}}{CLOSE}',
        f'{OPEN}{{"name": "look", "arguments": "E4"}}{CLOSE}',
        f"{OPEN}[]{CLOSE}",
        f"{OPEN}{'[' * 100000}",
        f"so {OPEN}",
    ],
)
def test_what_is_no_call_stays_text(text: str) -> None:
    assert TAGGED.parse(text, NAMES) == Said(text)


def test_a_sign_inside_of_an_argument_is_no_sign() -> None:
    call = Call("look", json.dumps({"at": f"a{CLOSE}b"}))
    assert TAGGED.parse(TAGGED.spell(call), NAMES) == Said("", (call,))


def test_templates_are_asked_how_they_call() -> None:
    assert format_of("{{ '<tool_call>' }}").tagged
    assert format_of("""{{ '"parameters": ' }}""") == BARE
    assert format_of("nothing of the kind").tagged


@given(st.text("ab<", max_size=8), st.text("ab<", min_size=1, max_size=4))
def test_overlap_is_the_longest(text: str, sign: str) -> None:
    longest = max(size for size in range(len(sign)) if text.endswith(sign[:size]))
    assert overlap(text, sign) == longest


REPLIES = st.lists(
    st.sampled_from(["north ", "STOP", "ST", "é", "日本", OPEN, OPEN[:5], TAGGED.spell(LOOK), "\n"]), max_size=8
)


@given(REPLIES, st.sampled_from([(), ("STOP",), ("STO", "nor")]), st.booleans(), st.integers(1, 5))
def test_a_stream_shows_a_beginning_of_the_reply_and_the_rest_completes_it(
    parts: list[str], stops: tuple[str, ...], tools: bool, stride: int
) -> None:
    listener = Listener(RENDERER, stops, MANNER if tools else Manner(RENDERER))
    tokens = RENDERER.reply_ids("".join(parts))
    said, teller, shown = listener.read(tokens), Teller(listener), ""
    for start in range(0, len(tokens), stride):
        shown += teller.feed(tokens[start : start + stride])
        assert not any(stop in shown for stop in stops)
        assert not tools or not said.calls or OPEN not in shown
    if said.calls:  # white space before a call, and what follows it, do not matter
        assert said.content.startswith(shown.rstrip())
    else:
        assert shown + teller.rest(said) == said.content
