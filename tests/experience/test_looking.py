"""What lists, searches and the page's small questions ask of a store."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

from journeyman.experience import EpisodeFilter, Feedback, Store, uuid7
from journeyman.experience import query as queries
from tests.experience.helpers import following, make, served


def found(store: Store, **wanted: object) -> list[str]:
    return [one.id for one in store.browse(EpisodeFilter(**wanted)).episodes]  # type: ignore[arg-type]


def test_a_range_of_values(store: Store) -> None:
    turns = [served(completion=[4] * made) for made in (1, 2, 5)]  # V at the end is (2 + made) / 16
    store.record(turns).result()
    ids = [turn.episode for turn in turns]
    assert found(store, least=4 / 16) == [ids[2], ids[1]]
    assert found(store, most=4 / 16) == [ids[1], ids[0]]
    assert found(store, least=3.5 / 16, most=6 / 16) == [ids[1]]


def test_words_are_found_wherever_they_were_said(store: Store) -> None:
    plain = served()
    quoting = served(messages=({"role": "user", "content": 'say "50%_sure"\nor Tür'},))
    told = following(plain, [9], [8], messages=({"role": "user", "content": "and Later?"},))
    store.record([plain, quoting, told]).result()
    store.add([make("step000001-x", text="in the Cellar")])
    store.give(Feedback(quoting.episode, comment="rather Smug")).result()
    assert found(store, search="later") == [plain.episode]
    assert found(store, search='"50%_sure"\nor') == [quoting.episode]
    assert found(store, search="50_sure") == found(store, search="50%%sure") == []
    assert found(store, search="smug") == [quoting.episode]
    assert found(store, search="cellar") == found(store, search="STEP000001") == ["step000001-x"]
    assert found(store, search="cellar", origin="served") == []


def test_a_search_goes_on_page_by_page_through_the_whole_log(store: Store) -> None:
    needle = served(messages=({"role": "user", "content": "needle"},))
    store.record([needle, *(served() for _ in range(25))]).result()
    with patch.object(queries, "REACH", 10):
        cursor, pages, ids = None, 0, []
        while pages == 0 or cursor is not None:
            page = store.browse(EpisodeFilter(search="needle"), cursor=cursor)
            ids += [one.id for one in page.episodes]
            cursor, pages = page.cursor, pages + 1
    assert ids == [needle.episode] and pages == 3


def test_changes_tell_each_thing_once(store: Store) -> None:
    first = served()
    store.record([first]).result()
    start = store.changes()
    assert start.episodes == () and store.changes(start.cursor) == start
    second = served()
    store.record([second]).result()
    store.give(Feedback(first.episode, value=1)).result()
    then = store.changes(start.cursor)
    assert [one.id for one in then.episodes] == [second.episode, first.episode]
    assert then.episodes[1].reward == 1.0
    assert store.changes(then.cursor).episodes == ()
    assert [one.id for one in store.changes(start.cursor, limit=1).episodes] == [first.episode], "the latest"


def test_other_attempts_are_those_at_the_same_task(store: Store) -> None:
    base = make("step000001-g0-m00")
    elsewhere = replace(make("other"), task=replace(base.task, index=4))
    branch = replace(make("step000001-g0-m00-b02-m01"), step=1)
    turn = served()
    store.add([base, elsewhere, branch, make("exam-000000-x")])
    store.record([turn]).result()
    assert [one.id for one in store.attempts(base.id)] == [branch.id, "exam-000000-x"]
    assert store.attempts(turn.episode) == store.attempts("nowhere") == ()


def test_openings_are_what_was_asked(store: Store) -> None:
    asked = served(messages=({"role": "system", "content": "be brief"}, {"role": "user", "content": "where?"}))
    bare = served(messages=(), parameters={"text": "once upon"})
    gone = served()
    store.record([asked, bare, gone]).result()
    store.add([make("a", text="to the attic")])
    store.erase(episodes=[gone.episode])
    ids = [asked.episode, bare.episode, gone.episode, "a", "nowhere", uuid7()]
    assert store.openings(ids) == {asked.episode: "where?", bare.episode: "once upon", "a": "to the attic"}


def test_an_episode_can_be_read_before_anybody_has_judged_it(store: Store) -> None:
    turn = served()
    store.record([turn]).result()
    episode = store.whole(turn.episode)
    assert episode.trajectories() == []
    (shown,) = episode.readable()
    assert shown.tokens.tolist() == [1, 2, 3, 4, 5] and shown.outcome.reward != shown.outcome.reward
    assert not shown.outcome.success
    store.give(Feedback(turn.episode, value=1)).result()
    assert store.whole(turn.episode).readable()[0].outcome.success
