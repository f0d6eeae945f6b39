"""What was served is given back exactly, joined to episodes, with what was said of it."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journeyman.errors import NotKept, StoreConflict, UnknownName, UsageError
from journeyman.experience import REWARD, EpisodeFilter, Feedback, Metric, Store, VersionSpan, made_at, uuid7
from journeyman.experience.served_codec import decode_feedback, decode_turn, encode_feedback, encode_turn
from journeyman.types import Ending
from tests.experience.helpers import START, following, make, same_turn, served

texts = st.text(st.characters(), max_size=12)  # lone surrogates and controls, too
tokens = st.lists(st.integers(0, 3), max_size=8)
json = st.recursive(st.none() | st.booleans() | st.integers() | texts, lambda x: st.lists(x, max_size=3))
messages = st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": json}), max_size=3).map(tuple)


def test_ids_are_uuids_of_version_7_in_order() -> None:
    ids = [uuid7() for _ in range(2000)]
    assert ids == sorted(set(ids))
    assert all(id[14] == "7" and id[19] in "89ab" for id in ids)
    first = made_at(ids[0])
    assert first is not None and START < first < START + 1e9
    assert made_at("step000003-1") is None and made_at(ids[0].upper()) is None
    assert made_at("f47ac10b-58cc-4372-a567-0e02b2c3d479") is None, "version 4"


@given(tokens, tokens, tokens, tokens, messages, messages, st.dictionaries(texts, json, max_size=3), texts)
@settings(max_examples=60)
def test_codec_gives_back_a_turn_after_another(
    prompt: list[int],
    completion: list[int],
    prompt2: list[int],
    completion2: list[int],
    said: tuple[Any, ...],
    said2: tuple[Any, ...],
    parameters: dict[str, Any],
    reply: str,
) -> None:
    one = served(prompt, completion, messages=said, reply={"content": reply}, parameters=parameters)
    two = served(prompt2, completion2, messages=said2, reply={"content": reply}, episode=one.episode, after=one.id)
    assert same_turn(decode_turn(*encode_turn(one, None), None), one)
    back = decode_turn(*encode_turn(two, one), one)
    assert same_turn(replace(back, values=two.values), two)


def test_what_two_turns_share_is_kept_once() -> None:
    one = served(range(1000), range(100), messages=({"role": "user", "content": "word " * 500},))
    two = following(one, [7, 8], [9])
    record, columns = encode_turn(two, one)
    assert len(record) < 800 and len(columns) == 4 * 3 + 4 * 1 + 4 * 3
    assert same_turn(decode_turn(record, columns, one), two)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none(), texts, texts, st.lists(texts))
def test_codec_gives_back_feedback(value: float | bool | None, comment: str, correction: str, tags: list[str]) -> None:
    f = Feedback("e", value=value, comment=comment, correction=correction, tags=tuple(tags), idempotency_key="k")
    back = decode_feedback(encode_feedback(f))
    assert back == f and type(back.value) is type(f.value)


@pytest.mark.parametrize(
    ("others", "says"),
    [
        ({"logprobs": np.zeros(3, np.float32)}, "2 log-probabilities and 5 values"),
        ({"values": np.zeros(4, np.float32)}, "got 2 and 4"),
        ({"spans": (VersionSpan(1, 0, 1),)}, "must cover the 2 tokens"),
        ({"spans": (VersionSpan(1, 0, 2), VersionSpan(2, 1, 2))}, "must cover the 2 tokens"),
        ({"spans": (VersionSpan(1, 0, 2, probability=0.0),)}, r"\(0, 1\]"),
        ({"spans": (VersionSpan(1, 0, 2, probability=float("nan")),)}, r"\(0, 1\]"),
        ({"finish": "stopped"}, "finish must be one of"),
        ({"episode": ""}, "episode is empty"),
        ({"user": "a\0b"}, "user must be printable"),
        ({"key": "\ud800"}, "key must be printable"),
        ({"job": "x" * 501}, "at most 500"),
        ({"started": float("nan")}, "times must be finite"),
    ],
)
def test_impossible_turns_are_refused(others: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        served(**others)


@pytest.mark.parametrize(
    ("others", "says"),
    [
        ({}, "says nothing"),
        ({"value": float("nan")}, "finite"),
        ({"value": float("inf")}, "finite"),
        ({"preferred_to": "e"}, "preferred to itself"),
        ({"value": 1, "source": "cat"}, "source must be"),
        ({"value": 1, "idempotency_key": "a\nb"}, "printable"),
    ],
)
def test_impossible_feedback_is_refused(others: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Feedback("e", **others)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("m", "int", "turn", "max"), "type must be"),
        (("m", "float", "run", "max"), "level must be"),
        (("m", "float", "turn", "best"), "optimize must be"),
        (("m", "float", "turn", "max", 1.0, 1.0), "low must be below high"),
        (("m", "float", "turn", "max", float("-inf")), "finite"),
        (("m", "boolean", "turn", "max", 0.0), "no bounds"),
        (("", "boolean", "turn", "max"), "empty"),
    ],
)
def test_impossible_metrics_are_refused(given: tuple[Any, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Metric(*given)


def test_turns_join_one_episode(store: Store) -> None:
    one = served(user="ada", key="k1", job="maze", version=7)
    two = following(one, [6], [7, 8], version=8, finish="length", user="ada", key="k1", ended=START + 9)
    store.record([one]).result()
    store.record([two]).result()
    episode = store.whole(one.episode)
    assert [t.id for t in episode.turns] == [one.id, two.id]
    assert same_turn(episode.turns[0], one) and same_turn(replace(episode.turns[1], values=two.values), two)
    s = episode.summary
    assert (s.turns, s.versions, s.ending, s.job, s.user, s.key) == (2, (7, 8), "truncated", "maze", "ada", "k1")
    assert (s.started, s.updated, s.reward, s.origin) == (START, START + 9, None, "served")
    assert s.value == pytest.approx(two.values[-1])


def test_recording_again_is_safe_and_other_content_is_refused(store: Store) -> None:
    turn = served()
    store.record([turn]).result()
    store.record([turn, served()]).result()
    with pytest.raises(StoreConflict, match="other content"):
        store.record([served(), replace(turn, error="other")]).result()
    assert len(store.browse().episodes) == 2, "all of them or none"
    with pytest.raises(UsageError, match="another episode"):
        store.record([served(after=turn.id)]).result()
    store.add([make("a")])
    with pytest.raises(StoreConflict, match="kept whole"):
        store.record([served(episode="a")]).result()
    assert store.verify() == []


@given(st.lists(st.tuples(st.integers(-1, 5), st.integers(0, 9), tokens, tokens), min_size=1, max_size=6))
@settings(max_examples=60)
def test_each_sampled_token_is_learned_from_once(plan: list[tuple[int, int, list[int], list[int]]]) -> None:
    """Turns go on from any earlier one (or none), rewriting as much of it as they like."""
    from journeyman.experience.outcomes import paths

    turns = [served([1, 2], [3])]
    for before, cut, more, completion in plan:
        after = turns[before] if 0 <= before < len(turns) else None
        kept = [] if after is None else after.tokens.tolist()[: max(0, len(after.tokens) + 3 - cut)]
        turns.append(served(kept + more, completion, episode=turns[0].episode, after=after and after.id))
    found = paths(turns)
    assert sorted(t.id for p in found for t in p.turns) == sorted(t.id for t in turns)
    for path in found:
        assert len(path.tokens) == len(path.mask) == len(path.logprobs) == len(path.values)
        for turn, start in zip(path.turns, path.starts, strict=True):
            stop = start + len(turn.completion)
            assert np.array_equal(path.tokens[:stop], turn.tokens), "exactly what was read and made"
            assert path.mask[start:stop].all() and np.array_equal(path.logprobs[start:stop], turn.logprobs)
    assert sum(int(p.mask.sum()) for p in found) == sum(len(t.completion) for t in turns)


def test_a_rewritten_prefix_begins_another_trajectory(store: Store) -> None:
    one = served([1, 2], [3, 4], messages=({"role": "user", "content": "hi"},))
    two = following(one, [5], [6])
    rewritten = served([1, 2, 3, 9], [7], episode=one.episode, after=two.id)
    store.record([one, two, rewritten]).result()
    assert store.whole(one.episode).trajectories() == [], "nobody has said what became of it"
    store.give(Feedback(one.episode, value=0.75)).result()
    first, second = store.whole(one.episode).trajectories()
    assert (first.id, second.id) == (one.episode, f"{one.episode}/1") and first.group == second.group
    assert first.tokens.tolist() == [1, 2, 3, 4, 5, 6] and first.mask.tolist() == [False] * 2 + [True] * 2 + [
        False,
        True,
    ]
    assert second.tokens.tolist() == [1, 2, 3, 9, 7] and second.mask.tolist() == [False] * 4 + [True]
    assert second.logprobs.tolist() == [0, 0, -0.125, 0, -0.125], "V may hear the other's log-probabilities"
    assert first.outcome.reward == second.outcome.reward == 0.75
    assert [t.observation for t in first.turns] == ["and then?", ""] and first.task.messages[0].content == "hi"


def test_choices_share_their_prompt(store: Store) -> None:
    first = served()
    choices = [following(first, [6], [7, n], request="r", choice=n) for n in range(3)]
    store.record([first, *choices]).result()
    store.give(Feedback(first.episode, value=True)).result()
    found = store.whole(first.episode).trajectories()
    assert [t.tokens.tolist()[-2:] for t in found] == [[7, 0], [7, 1], [7, 2]]
    assert [int(t.mask.sum()) for t in found] == [4, 2, 2]


@pytest.mark.parametrize(
    ("finish", "ending"),
    [
        ("stop", Ending.TERMINATED),
        ("length", Ending.TRUNCATED),
        ("cancelled", Ending.TRUNCATED),
        ("error", Ending.FAILED),
    ],
)
def test_how_a_request_ended_is_how_the_episode_ended(store: Store, finish: Any, ending: Ending) -> None:
    turn = served(finish=finish, error="boom" if finish == "error" else "")
    store.record([turn]).result()
    store.give(Feedback(turn.episode, value=1)).result()
    (trajectory,) = store.whole(turn.episode).trajectories()
    assert trajectory.outcome.ending is ending and trajectory.outcome.success == (finish != "error")
    assert store.browse(EpisodeFilter(ending=ending.value)).episodes[0].id == turn.episode


def test_feedback_is_kept_with_all_that_it_says(store: Store) -> None:
    one, other = served(), served()
    store.record([one, other]).result()
    store.declare(Metric("seconds", "float", "turn", "min", 0.0))
    given = [
        Feedback(
            one.episode, value=False, source="model", explanation="it says so", tags=("a", "b"), key="k", user="u"
        ),
        Feedback(one.episode, comment="no \ud800 \0 good"),
        Feedback(one.episode, correction="good evening", turn=one.id),
        Feedback(one.episode, preferred_to=other.episode),
        Feedback(one.episode, value=12.5, metric="seconds", turn=one.id),
        Feedback(one.episode, value=True, source="human"),
    ]
    assert [store.give(f).result() for f in given] == given
    episode = store.whole(one.episode)
    assert list(episode.feedback) == given and episode.summary.feedback == len(given)
    assert store.whole(other.episode).feedback == (given[3],), "a preference is about both"
    assert episode.turn_reward(one.id, Metric("seconds", "float", "turn", "min", 0.0)) == -12.5
    assert {f.name for f in fields(Feedback)} == set(vars_of(given[0]))
    assert store.verify() == []


def vars_of(feedback: Feedback) -> dict[str, Any]:
    import json as standard

    return {k: v for k, v in standard.loads(encode_feedback(feedback)).items() if k != "kind"}


def test_the_same_key_again_changes_nothing(store: Store) -> None:
    turn = served()
    store.record([turn]).result()
    first = store.give(Feedback(turn.episode, value=1, key="k", idempotency_key="1")).result()
    again = store.give(Feedback(turn.episode, value=1, key="k", idempotency_key="1")).result()
    assert again == first and store.give(first).result() == first
    store.give(Feedback(turn.episode, value=1, key="other", idempotency_key="1")).result()
    store.give(Feedback(turn.episode, value=1, key="k")).result()
    assert store.whole(turn.episode).summary.feedback == 3
    with pytest.raises(StoreConflict, match="'1' was used"):
        store.give(Feedback(turn.episode, value=0, key="k", idempotency_key="1")).result()
    with pytest.raises(StoreConflict):
        store.give(Feedback(turn.episode, id=turn.id, value=0)).result()


def test_feedback_may_come_before_the_episode(store: Store) -> None:
    turn = served()
    with pytest.raises(NotKept) as refused:
        store.give(Feedback(turn.episode, value=1)).result()
    assert not refused.value.erased
    with pytest.raises(NotKept):
        store.give(Feedback(turn.episode, preferred_to=uuid7()), under_way=True).result()
    store.give(Feedback(turn.episode, value=1), under_way=True).result()
    store.give(Feedback(turn.episode, comment="of a turn", turn=turn.id), under_way=True).result()
    assert store.browse().episodes == () and store.news().episodes == ()
    store.record([turn]).result()
    (summary,) = store.browse().episodes
    assert (summary.feedback, summary.reward, summary.turns, summary.started) == (2, 1.0, 1, START)
    (episode,) = store.news().episodes
    assert len(episode.feedback) == 2 and len(episode.trajectories()) == 1


def test_wrong_feedback_is_refused(store: Store) -> None:
    one, other = served(), served()
    store.record([one, other]).result()
    store.add([make("a")])
    store.declare(Metric("ok", "boolean", "turn", "max"))
    wrong: list[tuple[Feedback, type[Exception]]] = [
        (Feedback(one.episode, value=1.5), UsageError),
        (Feedback(one.episode, value=1, metric="rewards"), UnknownName),
        (Feedback(one.episode, value=1, metric="ok", turn=one.id), UsageError),
        (Feedback(one.episode, value=True, metric="ok"), UsageError),
        (Feedback(one.episode, value=True, turn=one.id), UsageError),
        (Feedback(one.episode, value=True, metric="ok", turn=other.id), UsageError),
        (Feedback(one.episode, comment="x", turn="nowhere"), UsageError),
        (Feedback(one.episode, preferred_to=uuid7()), NotKept),
        (Feedback("a", comment="x", turn="1"), UsageError),
    ]
    for feedback, error in wrong:
        with pytest.raises(error):
            store.give(feedback).result()
    assert store.info().kinds == {"metric": 1, "trajectory": 1, "turn": 2}
    store.give(Feedback("a", value=True, metric="ok", turn="0")).result()


def test_metrics_are_declared_once(store: Store, where: str) -> None:
    metric = Metric("seconds", "float", "episode", "min", 0.0, 60.0)
    store.declare(metric)
    store.declare(metric)
    store.declare(REWARD)
    with Store(where) as other:
        assert other.metrics() == {"reward": REWARD, "seconds": metric}
        for changed in (replace(metric, optimize="max"), replace(REWARD, high=2.0)):
            with pytest.raises(StoreConflict, match="declared otherwise"):
                other.declare(changed)
    assert metric.reward(15.0) == 0.75 and metric.reward(0.0) == 1.0
    assert (
        Metric("m", "float", "turn", "max").reward(-3) == -3 and Metric("m", "boolean", "turn", "min").reward(True) == 0
    )


def test_each_key_has_one_vote(store: Store) -> None:
    turn = served()
    store.record([turn]).result()
    for n in range(9):
        store.give(Feedback(turn.episode, value=1.0, key="loud", user=f"u{n}")).result()
    store.give(Feedback(turn.episode, value=1.0, key="quiet")).result()
    store.give(Feedback(turn.episode, value=0.0, key="quiet")).result()
    (summary,) = store.browse().episodes
    assert summary.reward == 0.5 and summary.feedback == 11
    assert store.whole(turn.episode).reward() == 0.5


def test_a_graders_outcome_stays(store: Store) -> None:
    store.add([make("a", reward=1.0)])
    store.give(Feedback("a", value=0.0, comment="looks wrong to me")).result()
    (summary,) = store.browse().episodes
    assert summary.reward == 1.0 and summary.feedback == 1
    episode = store.whole("a")
    assert episode.reward() == 0.0 and episode.trajectories()[0].outcome.reward == 1.0


def test_lists_narrow_and_have_pages(store: Store) -> None:
    turns = [
        served(user="ada", key="k1", job="maze", version=1, started=START, ended=START),
        served(user="bob", key="k1", job="maze", version=2, started=START + 10, ended=START + 10),
        served(user="ada", key="k2", job="hops", version=2, started=START + 20, ended=START + 20, finish="length"),
    ]
    ids = [turn.episode for turn in turns]
    store.record(turns).result()
    store.add([make("a", step=3)])
    store.give(Feedback(ids[0], value=1)).result()
    store.give(Feedback(ids[1], value=0.5)).result()
    store.give(Feedback(ids[2], comment="?")).result()

    def found(**tests: Any) -> list[str]:
        return [s.id for s in store.browse(EpisodeFilter(**tests)).episodes]

    assert found() == ["a", ids[2], ids[1], ids[0]]
    assert found(user="ada") == [ids[2], ids[0]] and found(user="ada", key="k1") == [ids[0]]
    assert found(job="maze", origin="served") == [ids[1], ids[0]] and found(origin="learning", split="train") == ["a"]
    assert found(version=2) == [ids[2], ids[1]] and found(version=4) == ["a"] and found(version=9) == []
    assert found(since=START + 10, until=START + 20) == [ids[1]]
    assert found(outcome="success") == ["a", ids[0]] and found(outcome="failure") == [ids[1]]
    assert found(outcome="unknown") == [ids[2]] and found(ending="truncated") == [ids[2]]
    assert found(has_feedback=False) == ["a"] and found(has_feedback=True) == [ids[2], ids[1], ids[0]]
    pages: list[list[str]] = []
    cursor = None
    while not pages or cursor is not None:
        page = store.browse(cursor=cursor, limit=2)
        cursor = page.cursor
        pages.append([s.id for s in page.episodes])
        if len(pages) == 1:
            store.record([served()]).result()  # what comes meanwhile moves nothing
    assert pages == [["a", ids[2]], [ids[1], ids[0]]]
    for wrong in ({"limit": 0}, {"limit": 1001}, {"cursor": "x"}, {"cursor": "²"}, {"cursor": "9" * 30}):
        with pytest.raises(UsageError):
            store.browse(**wrong)
    with pytest.raises(UsageError, match="outcome must be"):
        found(outcome="good")


def test_news_come_once_each_time_something_is_new(store: Store) -> None:
    one, two = served(), served()
    store.record([one]).result()
    store.add([make("a")])
    store.record([two]).result()
    news = store.news(limit=1)
    assert [e.summary.id for e in news.episodes] == [one.episode]
    news = store.news(news.cursor)
    assert [e.summary.id for e in news.episodes] == [two.episode]
    assert store.news(news.cursor) == type(news)((), news.cursor)
    store.give(Feedback(one.episode, value=1)).result()
    (again,) = store.news(news.cursor).episodes
    assert again.summary.id == one.episode and again.reward() == 1.0


def test_a_preference_is_news_of_both(store: Store) -> None:
    one, two = served(), served()
    store.record([one, two]).result()
    store.give(Feedback(one.episode, preferred_to=two.episode)).result()
    news = store.news(2, limit=1)
    assert {e.summary.id for e in news.episodes} == {one.episode, two.episode} and news.cursor == 3
