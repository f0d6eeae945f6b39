"""The script that kills would see a loss, and sees none where there is none."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from bench.feedback_kills import judge, post_all, serve_episodes
from journeyman.experience import Feedback, Store


class Unreliable:
    """Answers from this process; a "kill" forgets what it has not kept yet. `careless` ones answer before they keep."""

    def __init__(self, store: Store, careless: bool) -> None:
        self._store, self._careless = store, careless
        self._lock = threading.Lock()
        self._unkept: list[Feedback] = []
        self._dead = True

    def start(self) -> None:
        self._dead = False

    def post(self, fields: dict[str, Any]) -> str | None:
        with self._lock:
            if self._dead:
                return None
            feedback = Feedback(**fields)
            if not self._careless:
                return self._store.give(feedback).result().id
            self._unkept.append(feedback)
            if len(self._unkept) == 5:
                for waiting in self._unkept:
                    self._store.give(waiting).result()
                self._unkept.clear()
            return feedback.id

    def kill(self) -> None:
        with self._lock:
            self._dead = True
            self._unkept.clear()


def losses(folder: Path, careless: bool) -> tuple[int, int, list[str]]:
    with Store(folder / f"{careless}.sqlite") as store:
        episodes = serve_episodes(store, 3)
        tally = post_all(Unreliable(store, careless), episodes, posts=64, kills=3, clients=4, seed=0)
        assert len(tally.acknowledged) == 64
        return judge(store, episodes, tally)


def test_what_is_kept_before_the_answer_survives(tmp_path: Path) -> None:
    assert losses(tmp_path, careless=False) == (0, 0, [])


def test_what_is_answered_too_early_is_seen_to_be_lost(tmp_path: Path) -> None:
    lost, _, problems = losses(tmp_path, careless=True)
    assert lost >= 4 and not problems, "64 is no multiple of 5: the last four are never kept, whatever the kills find"
