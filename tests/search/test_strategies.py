"""Each strategy on scripted replies with a known V: which attempt it takes, and what that cost, to the token."""

from __future__ import annotations

import pytest

from journeyman.errors import UnknownName, UsageError
from journeyman.search.strategies import STRATEGIES, Name, SearchConfig
from journeyman.types import Ending
from tests.search.words import HEARD, IDS, PROMPT, SAID, Known, Words, find, said, table, whole


def unasked(replies: tuple[str, ...]) -> float:
    raise AssertionError("this strategy needs no V")


def last(values: dict[str, float]) -> Known:
    """V by the initial of the last reply; 1/2 before the first."""
    return lambda replies: values[replies[-1][0]] if replies else 0.5


# Whole attempts are played side by side: the first words of all, then the second ones.
SIDE_BY_SIDE = "north west east  north west east  north south south"


def test_best_takes_the_attempt_of_the_highest_value() -> None:
    found, _ = find(SearchConfig(3, "best"), SIDE_BY_SIDE, last({"n": 0.3, "w": 0.9, "e": 0.9, "s": 0.4}))
    assert said(found) == "wws", "the first of the highest V at the end, 0.4"
    assert (found.tokens, found.value_tokens) == (3 * whole(3), 3 * whole(3))


def test_vote_takes_the_commonest_last_reply_and_asks_no_value() -> None:
    found, _ = find(SearchConfig(3, "vote"), SIDE_BY_SIDE, unasked)
    assert said(found) == "wws", "the first attempt that ends in south"
    assert (found.tokens, found.value_tokens) == (3 * whole(3), 0)


@pytest.mark.parametrize(
    ("values", "takes"),
    [
        ({"nnn": 0.5, "wws": 0.2, "ees": 0.4}, "ees"),  # 0.5 against 0.6: the weightiest of the two
        ({"nnn": 0.7, "wws": 0.2, "ees": 0.4}, "nnn"),  # 0.7 against 0.6
        ({"nnn": 0.1, "wws": -9.0, "ees": 0.2}, "ees"),  # below 0 counts as 0
    ],
)
def test_weighted_votes_with_the_value_at_the_end(values: dict[str, float], takes: str) -> None:
    known: Known = lambda replies: table(values)(replies) if len(replies) == 3 else 0.5  # noqa: E731
    assert said(find(SearchConfig(3, "weighted"), SIDE_BY_SIDE, known)[0]) == takes


def test_stepwise_goes_on_from_the_commonest_reply_of_each_turn() -> None:
    words = "north east east  west south west  east north east"
    found, engine = find(SearchConfig(3, "stepwise"), words, unasked)
    assert said(found) == "ewe"
    assert all(IDS["east"][0] in read for read in engine.asked[3:]), "all of the second turn go on from the first"
    assert found.tokens == 3 * (PROMPT + SAID) + 2 * 3 * (HEARD + SAID) and found.value_tokens == 0


def test_beam_of_one_goes_on_from_the_highest_value_of_each_turn() -> None:
    known = table({"": 0.5, "n": 0.6, "w": 0.2, "e": 0.4, "nw": 0.1, "ne": 0.3, "ns": 0.7, "nse": 0.8, "nsn": 0.3})
    words = "north west east  west east south  north east north"
    found, engine = find(SearchConfig(3, "beam", width=1), words, known)
    assert said(found) == "nse"
    assert all(read[PROMPT] == IDS["north"][0] for read in engine.asked[3:])
    assert found.tokens == 3 * (PROMPT + SAID) + 2 * 3 * (HEARD + SAID)
    # V reads drafts whole: after the first two turns with the answer to them, after the last without
    assert found.value_tokens == 3 * (whole(1) + HEARD) + 3 * (whole(2) + HEARD) + 3 * whole(3)


def test_a_wide_beam_keeps_several_and_counts_the_same_words_once() -> None:
    """Of four first words two are "north": north and west go on, each itself and in a fork, and not north twice."""
    known = table({"": 0.5, "n": 0.9, "w": 0.4, "e": 0.1} | {"ne": 0.2, "nn": 0.3, "we": 0.8, "ww": 0.7})
    words = "north north west east  east east north west"
    found, engine = find(SearchConfig(4, "beam", width=2), words, known, Words(2))
    assert said(found) == "we"
    assert [read[PROMPT] for read in engine.asked[4:]] == [IDS[word][0] for word in ("north", "west") * 2]
    assert found.tokens == 4 * (PROMPT + SAID) + 4 * (HEARD + SAID)


@pytest.mark.parametrize("name", ["beam", "stepwise"])
def test_a_search_whose_tokens_run_out_goes_on_with_one_draft_alone(name: Name) -> None:
    """Two plain attempts of three turns pay for three turns of two, exactly; the fourth turn has one reply."""
    config = SearchConfig(2, name, width=1)
    words = "north east  north east  north east  north"
    found, _ = find(config, words, last({"n": 0.6, "e": 0.4}), Words(4), plain=whole(3))
    assert said(found) == "nnnn" and found.tokens == 2 * whole(3) + HEARD + SAID


FALLS = {"": 0.5, "e": 0.7, "ew": 0.2, "eww": 0.15, "ee": 0.75, "een": 0.4, "eee": 0.95, "en": 0.1}


def test_correct_goes_back_to_where_the_value_fell_most() -> None:
    found, engine = find(SearchConfig(8, "correct"), "east west west  east east", table(FALLS))
    assert said(found) == "eee" and found.trajectory.outcome.success
    place = PROMPT + SAID + HEARD
    assert [len(read) for read in engine.asked[3:]] == [place, place + SAID + HEARD], "not from the beginning"
    assert found.tokens == whole(3) + SAID + HEARD + SAID, "what the cache has is not read again"


def test_correct_gives_up_at_once_on_what_falls_again_and_keeps_what_it_had() -> None:
    """After "en" V is 0.1, more than 0.1 below the 0.7 where it began: no third turn is played."""
    rest = 2 * SAID + HEARD  # of an attempt, from the second turn on: as long as that much is left, it is tried
    tries = 1 + (whole(3) - rest) // SAID
    found, engine = find(SearchConfig(2, "correct"), "east west west" + " north" * tries, table(FALLS))
    assert said(found) == "eww" and len(engine.asked) == 3 + tries
    assert found.tokens == whole(3) + tries * SAID


def test_correct_keeps_the_better_of_two_attempts() -> None:
    """The second ends at 0.4, better than 0.15, and its own fall, from "ee" to "een", is where the third begins."""
    found, engine = find(SearchConfig(8, "correct"), "east west west  east north  east", table(FALLS))
    assert said(found) == "eee"
    assert len(engine.asked[-1]) == PROMPT + 2 * (SAID + HEARD)
    assert found.tokens == whole(3) + (SAID + HEARD + SAID) + SAID


def test_correct_begins_anew_where_the_value_never_fell() -> None:
    known = table({"": 0.3, "w": 0.35, "ww": 0.4, "www": 0.45, "e": 0.6, "ee": 0.8, "eee": 1.0})
    found, engine = find(SearchConfig(3, "correct"), "west west west  east east east", known)
    assert said(found) == "eee" and len(engine.asked[3]) == PROMPT
    assert found.tokens == 2 * whole(3)


def test_correct_goes_back_into_the_middle_of_a_single_reply() -> None:
    """One turn, so that decisions are tokens: V falls at the end token, and something else is said in its place."""
    known: Known = lambda replies: 0.5 if not replies else 0.2 if replies == ("east",) else 0.95  # noqa: E731
    found, engine = find(SearchConfig(2, "correct"), "east north", known, Words(1))
    assert [len(read) for read in engine.asked] == [PROMPT, PROMPT + 1]
    assert found.trajectory.tokens[PROMPT:].tolist() == [IDS["east"][0], IDS["north"][0]]
    assert found.tokens == whole(1) + 1 and found.trajectory.logprobs[PROMPT:].tolist() == [-1, -1]


def test_every_strategy_with_think_1_is_a_plain_attempt() -> None:
    for name in STRATEGIES:
        found, _ = find(SearchConfig(1, name), "east west south", last({"e": 0.5, "w": 0.1, "s": 0.2}))
        assert said(found) == "ews" and found.tokens == whole(3), name


def test_an_attempt_whose_environment_breaks_is_not_the_answer() -> None:
    """An environment that is rebuilt answers otherwise: the two forks of "n" break, and "n" itself goes on."""
    known = last({"n": 0.6, "w": 0.9})
    beam, _ = find(SearchConfig(3, "beam", width=1), "north north north  west west", known, Words(fickle=True))
    assert said(beam) == "nww"
    voted, _ = find(SearchConfig(3, "stepwise"), "north north north  west west", unasked, Words(fickle=True))
    assert said(voted) == "nww", "two that broke have no vote"
    corrected, _ = find(SearchConfig(8, "correct"), "east west west", table(FALLS), Words(fickle=True))
    assert said(corrected) == "eww", "there is no way back"
    assert beam.trajectory.outcome.ending is Ending.TERMINATED


def test_bad_settings_are_refused() -> None:
    with pytest.raises(UnknownName, match="did you mean vote"):
        SearchConfig(2, "votes")  # type: ignore[arg-type]
    for wrong, says in (
        ({"think": 0}, "think must be at least 1, got 0"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"fall": 0.0}, "fall must lie between 0 and 1, got 0.0"),
        ({"fall": 1.0}, "got 1.0"),
        ({"fall": float("nan")}, "got nan"),
    ):
        with pytest.raises(UsageError, match=says):
            SearchConfig(**wrong)  # type: ignore[arg-type]
