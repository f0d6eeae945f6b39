"""Where the model is unsure a teacher answers; what it said is kept as its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from journeyman.errors import UsageError
from journeyman.serve.teacher import Teacher
from tests.serve.live import RENDERER, Live, judged, scripted

UNSURE: dict[str, Any] = {"threshold": 1.0, "on_unsure": "teacher"}


@contextmanager
def taught(tmp_path: Path, *texts: str) -> Iterator[Live]:
    """A server whose teacher is another of our servers, which says these texts in turn."""
    for name in ("teacher", "pupil"):
        (tmp_path / name).mkdir()
    with (
        Live(tmp_path / "teacher", scripted(*texts)) as teacher,
        Live(
            tmp_path / "pupil",
            scripted("west", "west, perhaps"),
            judged(),
            teacher=f"{teacher.url}/v1",
            teacher_model="apprentice",
        ) as pupil,
    ):
        yield pupil


@pytest.mark.parametrize("stream", [False, True])
def test_the_teacher_answers_and_is_kept_as_such(tmp_path: Path, stream: bool) -> None:
    with taught(tmp_path, "go east, then north") as live:
        asked = live.chat("A1 to B2", journeyman=UNSURE, stream=stream)
        assert asked.status_code == 200 and "go east, then north" in asked.text and "west" not in asked.text
        (summary,) = live.store.browse().episodes
        own, teachers = live.store.whole(summary.id).turns
        assert (own.by, own.finish, own.completion.tolist()) == ("policy", "abstained", RENDERER.reply_ids("west"))
        assert (teachers.by, teachers.finish, teachers.spans) == ("teacher", "stop", ())
        assert teachers.completion.tolist() == RENDERER.reply_ids("go east, then north")
        assert np.isnan(teachers.values).all() and np.array_equal(teachers.prompt, own.prompt)
        if not stream:
            ours = asked.json()["journeyman"]["choices"][0]
            assert (ours["by"], ours["abstained"], ours["turn_id"], ours["value"]) == (
                "teacher",
                False,
                teachers.id,
                None,
            )
            assert ours["withheld"]["turn_id"] == own.id and ours["withheld"]["value"] < 1
        live.http.post("/v1/feedback", json={"episode_id": summary.id, "value": 1})
        (learned,) = live.store.whole(summary.id).trajectories()
        assert not learned.mask.any(), "nothing of it was sampled, and what was withheld earns nothing"
        assert learned.taught.tolist() == list(range(len(own.prompt), len(learned)))
        assert not live.store.verify()


def test_the_conversation_goes_on_from_what_the_teacher_said(tmp_path: Path) -> None:
    with taught(tmp_path, "go east") as live:
        first = live.chat("A1 to B1", journeyman=UNSURE).json()
        id = first["episode_id"]
        second = live.chat("A1 to B1", "go east", "and then?", journeyman={"episode_id": id}).json()
        ours = second["journeyman"]["choices"][0]
        assert (ours["continues"], ours["by"]) == ("next", "policy")
        turns = live.store.whole(id).turns
        assert turns[2].prompt.tolist()[: len(turns[1].tokens)] == turns[1].tokens.tolist()
        live.d.episodes._episodes.clear()  # as after a restart
        said = second["choices"][0]["message"]["content"]
        third = live.chat("A1 to B1", "go east", "and then?", said, "and?", journeyman={"episode_id": id}).json()
        assert third["journeyman"]["choices"][0]["continues"] == "next"


def test_who_is_sure_asks_nobody(tmp_path: Path) -> None:
    with taught(tmp_path, "go east") as live:
        sure = live.chat("A1 to B1", journeyman={**UNSURE, "threshold": 0.0}).json()
        assert sure["choices"][0]["message"]["content"] == "west"
        assert sure["journeyman"]["choices"][0]["by"] == "policy"
        assert "journeyman_handed_over_total{" not in live.http.get("/metrics").text


def test_a_teacher_that_is_silent_leaves_it_unsaid(tmp_path: Path) -> None:
    with Live(tmp_path, scripted("west"), judged(), teacher="http://127.0.0.1:9/v1", teacher_model="x") as live:
        answer = live.chat("A1 to B1", journeyman=UNSURE).json()
        assert answer["choices"][0]["message"]["refusal"] and answer["journeyman"]["choices"][0]["abstained"]
        assert 'journeyman_handed_over_total{teacher="silent"} 1.0' in live.http.get("/metrics").text
        (turn,) = live.store.whole(answer["episode_id"]).turns
        assert (turn.by, turn.finish) == ("policy", "abstained")


def test_others_are_served_while_the_teacher_thinks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    thinking, done = threading.Event(), threading.Event()

    def answer(self: Teacher, messages: Any, max_tokens: int) -> str:
        thinking.set()
        assert done.wait(60)
        return "go east"

    with taught(tmp_path, "go east") as live:
        monkeypatch.setattr(Teacher, "answer", answer)
        slow = threading.Thread(target=live.chat, args=("A1 to B1",), kwargs={"journeyman": UNSURE})
        slow.start()
        assert thinking.wait(60)
        assert live.chat("A1 to B1").status_code == 200
        done.set()
        slow.join()


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"journeyman": {"on_unsure": "teacher"}}, "invalid_value"),
        (
            {"journeyman": UNSURE, "tools": [{"type": "function", "function": {"name": "look"}}]},
            "unsupported_parameter",
        ),
    ],
)
def test_what_cannot_be_handed_over_is_refused(tmp_path: Path, fields: dict[str, Any], code: str) -> None:
    with taught(tmp_path, "go east") as live:
        refused = live.chat("A1 to B1", **fields)
        assert refused.status_code == 400 and refused.json()["error"]["code"] == code
        text = live.http.post("/v1/completions", json={"model": "apprentice", "prompt": "A1", "journeyman": UNSURE})
        assert text.status_code == 400 and text.json()["error"]["code"] == "unsupported_parameter"


def test_without_a_teacher_nothing_is_handed_over(tmp_path: Path) -> None:
    with Live(tmp_path, scripted("west"), judged()) as live:
        refused = live.chat("A1 to B1", journeyman=UNSURE)
        assert refused.status_code == 400 and refused.json()["error"]["code"] == "no_teacher"


def test_a_teacher_needs_an_address_and_a_model() -> None:
    for url, model in (("ftp://x/v1", "m"), ("http://x/v1", "")):
        with pytest.raises(UsageError):
            Teacher(url, model, 1.0)
