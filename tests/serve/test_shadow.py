"""Shadows: asked what the release was asked, seen by nobody, held against the release, and erased with its turn."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from journeyman.experience import Feedback, Store
from journeyman.experience.records import SHADOW, SHADOW_KEY
from journeyman.model.load import load
from journeyman.model.weights import weights_digest
from journeyman.prefixes import under_way
from journeyman.release.gate import Power
from journeyman.release.registry import Registry
from journeyman.release.rollout import RolloutPlan, State
from journeyman.release.steering import Rollout, observed
from journeyman.serve import fleet, following
from tests.serve.live import APPRENTICE, Live, judged, native, until
from tests.serve.test_versions import other_weights

FLAT = 0.3
"""A factor of the weights that makes a model say all sorts of things."""
PLAN = RolloutPlan(shares=(0.0, 1.0), least=100)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "EVERY", 0.02)
    monkeypatch.setattr(fleet, "LINGER", 0.2)


@contextmanager
def shadowed(folder: Path, factor: float, loaded: Any = None, power: Power | None = None) -> Iterator[Live]:
    """A server with a shadow that is the release but for a factor of its weights."""
    loaded = loaded or judged()
    with Live(folder, native(loaded), loaded, slots=4) as live, Store(folder / "experience.sqlite") as store:
        source = other_weights(folder / "new", factor)
        number = Registry(store).add(weights_digest(load(source).model), source, parents=[1]).number
        Rollout(store).begin(number, PLAN, power=power)
        until(lambda: live.d.shadow.member is not None)
        yield live


def heard(live: Live, episode: str) -> list[Feedback]:
    """What shadows made of an episode."""
    return [one for one in live.store.whole(episode).feedback if one.metric == SHADOW.name]


def counted(live: Live, what: str) -> bool:
    return f'journeyman_shadow_total{{what="{what}"}}' in live.http.get("/metrics").text


def test_the_same_is_asked_and_judged_by_the_releases_v(tmp_path: Path) -> None:
    with shadowed(tmp_path, FLAT) as live:
        answer = live.chat("A1 to C3", user="ann", max_tokens=12, seed=7).json()
        id = answer["episode_id"]
        until(lambda: bool(heard(live, id)))
        (said,) = heard(live, id)
        (turn,) = live.store.whole(id).turns
        assert (said.turn, said.source, said.key, said.tags) == (turn.id, "model", SHADOW_KEY, ("shadow", "version 2"))
        assert turn.spans[0].version == 1, "nobody sees it"
        alone = live.chat("A1 to C3", model="apprentice@2", max_tokens=12, seed=7)
        assert said.comment == alone.json()["choices"][0]["message"]["content"] != turn.reply["content"]
        assert len(live.d.prompts.encode(said.comment)) > 1
        (again,) = live.store.whole(alone.json()["episode_id"]).turns
        mask = np.arange(len(again.tokens)) >= len(again.prompt)
        logprobs = np.concatenate([np.zeros(len(again.prompt), np.float32), again.logprobs])
        (judgement,) = live.d.service.judge.judge([under_way("", 1.0, again.tokens, mask, logprobs)])
        assert judgement.value is not None
        assert said.value == pytest.approx(judgement.value - answer["value"], abs=1e-5) != 0

        state = State.of(live.store.events())
        assert state is not None
        pairs = list(observed(live.store, state))
        assert [(one.unit, one.version, one.figures) for one in pairs] == [
            ("ann", 2, {"shadow": said.value}),
            ("ann", 1, {"shadow": 0.0}),
        ]
        summary = live.store.whole(id).summary
        assert (summary.feedback, summary.reward) == (0, None), "nobody said anything"
        live.store.erase(user="ann")
        assert said.comment not in "".join(str(row) for row in _rows(tmp_path))


def _rows(folder: Path) -> list[Any]:
    import sqlite3

    with sqlite3.connect(folder / "experience.sqlite") as connection:
        return connection.execute("SELECT record FROM log WHERE kind = 'feedback'").fetchall()


def test_without_a_v_neither_is_better(tmp_path: Path) -> None:
    with shadowed(tmp_path, FLAT, APPRENTICE) as live:
        id = live.chat("A1 to C3", max_tokens=4).json()["episode_id"]
        until(lambda: bool(heard(live, id)))
        assert [one.value for one in heard(live, id)] == [0.0]


def test_one_that_breaks_counts_against_it_and_costs_nobody_an_answer(tmp_path: Path) -> None:
    with shadowed(tmp_path, 1.01) as live:

        def step() -> list[Any]:
            raise RuntimeError("NaN")

        assert live.d.shadow.member is not None
        live.d.shadow.member.service.engine.step = step
        answers = [live.chat("A1 to C3", max_tokens=4) for _ in range(3)]
        assert {answer.status_code for answer in answers} == {200}
        id = answers[0].json()["episode_id"]
        until(lambda: bool(heard(live, id)))
        assert [(one.value, one.explanation) for one in heard(live, id)] == [(-1.0, "it broke: RuntimeError: NaN")]


def test_a_slow_one_is_left_out_and_nobody_waits_for_it(tmp_path: Path) -> None:
    with shadowed(tmp_path, 1.01) as live:
        assert live.d.shadow.member is not None
        engine = live.d.shadow.member.service.engine
        step = engine.step
        engine.step = lambda: (time.sleep(0.3), step())[1]
        answers = [live.chat("A1 to C3", max_tokens=4) for _ in range(30)]  # each takes it a second
        assert {answer.status_code for answer in answers} == {200}
        until(lambda: counted(live, "skipped"))
        engine.step = step


def test_it_may_do_what_it_might_do_as_a_canary(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "search", "parameters": {"type": "object", "properties": {}}}}
    with shadowed(tmp_path, FLAT, power=Power(tokens=1, tools=())) as live:
        armed = live.chat("A1 to C3", max_tokens=12, tools=[tool]).json()["episode_id"]
        plain = live.chat("A1 to C3", max_tokens=12, seed=7).json()["episode_id"]
        until(lambda: bool(heard(live, plain)))
        (said,) = heard(live, plain)
        assert len(live.d.prompts.encode(said.comment)) <= 1, "seed 7 says more"
        assert not heard(live, armed)
