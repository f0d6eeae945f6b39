"""Where a request goes on in its episode."""

from __future__ import annotations

import asyncio

import pytest

from journeyman.errors import NotKept
from journeyman.experience.ids import uuid7
from journeyman.serve.episodes import Episode, Episodes, Turn, place, trails
from journeyman.serve.errors import ApiError
from journeyman.serve.openai import ChatMessage
from journeyman.serve.service import History, sampled


def messages(*texts: str) -> list[ChatMessage]:
    roles = ("user", "assistant")
    return [ChatMessage(role=roles[i % 2], content=text) for i, text in enumerate(texts)]  # type: ignore[arg-type]


def turn(episode: Episode, *texts: str, after: Turn | None = None) -> Turn:
    """The episode's turn that ended with the last of the texts."""
    new = History.of([1, 2]).then(sampled([3], [-1.0]))
    made = Turn(uuid7(), after, trails("", messages(*texts))[-1], new)
    episode.add(made)
    return made


def test_a_first_request_begins() -> None:
    found = place(Episode("e", ""), trails("", messages("a")))
    assert (found.turn, found.agreed, found.joint) == (None, 0, "first")


def test_it_goes_on_behind_the_last_turn_it_agrees_with() -> None:
    episode = Episode("e", "")
    first = turn(episode, "a", "b")
    second = turn(episode, "a", "b", "c", "d", after=first)
    for said, where, agreed, joint in (
        (("a", "b", "c", "d", "e"), second, 4, "next"),
        (("a", " b\n", "c", "d ", "e"), second, 4, "next"),
        (("a", "b", "other"), first, 2, "branch"),
        (("a", "b", "c", "rewritten", "e"), first, 2, "branch"),
        (("a", "rewritten", "c"), None, 0, "rewritten"),
        (("a",), None, 0, "rewritten"),
    ):
        found = place(episode, trails("", messages(*said)))
        assert (found.turn, found.agreed, found.joint) == (where, agreed, joint), said
    assert place(episode, trails("other tools", messages("a", "b", "c"))).joint == "rewritten"


def test_tokens_of_a_turn_are_those_of_all_before_it() -> None:
    episode = Episode("e", "")
    second = turn(episode, "a", "b", "c", "d", after=turn(episode, "a", "b"))
    assert second.history.tokens.tolist() == [1, 2, 3, 1, 2, 3]
    assert second.history.mask.tolist() == [False, False, True] * 2


def test_calls_agree_however_their_arguments_are_laid_out() -> None:
    def call(arguments: str, id: str) -> ChatMessage:
        function = {"name": "look", "arguments": arguments}
        return ChatMessage.model_validate({"role": "assistant", "tool_calls": [{"id": id, "function": function}]})

    ask = messages("a")
    same = {trails("", [*ask, call('{"at": 1}', "x")])[-1], trails("", [*ask, call('{"at":1}', "y")])[-1]}
    assert len(same) == 1
    assert trails("", [*ask, call('{"at": 2}', "x")])[-1] not in same


def test_episodes_are_found_by_their_owner_only() -> None:
    def kept(id: str) -> list[object]:
        raise NotKept(id)

    episodes = Episodes(2, kept)  # type: ignore[arg-type]
    mine = episodes.begin("me")
    assert asyncio.run(episodes.find(mine.id, "me")) is mine
    for id, owner in ((mine.id, "you"), (uuid7(), "me"), ("../../etc/passwd", "me"), ("", "me")):
        with pytest.raises(ApiError) as caught:
            asyncio.run(episodes.find(id, owner))
        assert caught.value.status == 404
    named = asyncio.run(episodes.session("me", "job 7"))
    assert asyncio.run(episodes.session("me", "job 7")) is named
    assert asyncio.run(episodes.session("you", "job 7")) is not named
    episodes.begin("me")
    assert not episodes.knows(mine.id), "only so many stay in memory"
