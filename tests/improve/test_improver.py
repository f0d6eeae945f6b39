"""The improver with real (tiny) models: it learns what users say and proves it; killed anywhere, it goes on."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.improver_kills import Spell
from journeyman.errors import RunError, UsageError
from journeyman.experience import Feedback, ServedTurn, Store, VersionSpan, uuid7
from journeyman.improve import ImproveConfig, PracticeSteps, ReleaseSteps, improve
from journeyman.improve.evidence import Evidence
from journeyman.improve.improver import Improver, order, propose, standing
from journeyman.improve.standing import Doing, Standing
from journeyman.improve.study import Student, prefer_of
from journeyman.learn.credit import CreditConfig
from journeyman.learn.learner import Learner, UpdateConfig
from journeyman.learn.prefer import Pair
from journeyman.learn.school import SchoolConfig, demonstrations, school
from journeyman.model.load import load, save
from journeyman.model.render import Renderer
from journeyman.model.tiny import fresh
from journeyman.model.value import ValueConfig, ValueFunction
from journeyman.model.weights import weights_digest
from journeyman.release.examine import ExaminationConfig
from journeyman.release.gate import GateConfig
from journeyman.release.gather import Player
from journeyman.stages import Record
from journeyman.types import Trajectory


class Few(Spell):
    """With fewer tasks."""

    splits = {"train": 4000, "test": 4000}  # noqa: RUF012


OLD, NEW = Few("next", 1), Few("before", -1)
CONFIG = ImproveConfig(
    least=40,
    imitation=300,
    look=0.01,
    context=64,
    practice=PracticeSteps(rounds=1, tasks=32, repeats=1, rehearsal=64, looks=100),
    examination=ExaminationConfig(tasks=200, rounds=4, beside=40, tries=2, parts=4),
    gate=GateConfig(
        ability=0.1, audit=0.1, calibration=0.3, inside=0.3, abstention=0.3, generalization=0.4, search=0.6, drift=0.9
    ),
    release=ReleaseSteps(shares=(0.5, 1.0), least=10),
)

QUICK = replace(
    CONFIG,
    imitation=20,
    practice=replace(CONFIG.practice, rounds=0, looks=20),
    examination=replace(CONFIG.examination, tasks=40, rounds=1),
)
"""Too little to be released."""


@pytest.fixture(scope="module")
def knowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that knows one of the two jobs, with a V that knows nothing."""
    torch.manual_seed(0)
    loaded = fresh("tiny,width=32,layers=1,heads=2,vocab=290,positions=64", [OLD, NEW])
    learner = Learner(loaded.model, None, UpdateConfig(), keep_reference=False)
    lessons = demonstrations([OLD], 1000, 0, Renderer(loaded.tokenizer))
    for _ in school(learner, lessons, SchoolConfig(batch=32), 300, seed=0):
        pass
    folder = tmp_path_factory.mktemp("model") / "knowing"
    save(folder, loaded.model, loaded.tokenizer, ValueFunction.start(ValueConfig(placement="head"), loaded.model))
    return folder


@dataclass
class Place:
    """A deployment without a server: its store, its model, and users who answer for the traffic."""

    home: Path
    store: Store
    source: Path
    asked: int = 0

    def improver(self, config: ImproveConfig = CONFIG, until: Callable[[], bool] | None = None) -> Improver:
        jobs = {job.name: job for job in (OLD, NEW)}
        return Improver(self.store, self.home, str(self.source), config, jobs, (), until or patience(2000))

    def standing(self) -> Standing:
        return Standing.of(self.store.events())

    def serve(self, job: Spell, count: int, version: int = 1, *, share: float = 1.0, correct: bool = True) -> list[str]:
        """So many tasks answered by a version, with feedback on each."""
        player = Player(load(self.improver().registry.book().find(version).source), slots=64, context=64, seed=version)
        tasks = [job.task("train", 2000 + self.asked + i) for i in range(count)]
        self.asked += count
        ids: list[str] = []
        for t in player.play(job, tasks):
            turn = turn_of(t, version, share, f"user {t.task.index}")
            self.store.record([turn]).result()
            self.store.give(Feedback(turn.episode, value=t.outcome.reward, user=turn.user)).result()
            if correct and not t.outcome.success:
                answer = t.task.data["answer"]
                self.store.give(Feedback(turn.episode, correction=answer, user=turn.user)).result()
            ids.append(turn.episode)
        return ids


def turn_of(t: Trajectory, version: int, share: float, user: str) -> ServedTurn:
    """An episode of one turn, as the server keeps it."""
    start = t.prompt_length
    return ServedTurn(
        id=uuid7(),
        episode=uuid7(),
        prompt=t.tokens[:start],
        completion=t.tokens[start:],
        logprobs=t.logprobs[start:],
        values=t.values,
        spans=(VersionSpan(version, 0, len(t) - start, share),),
        finish="stop",
        started=2e9,
        ended=2e9,
        messages=[{"role": m.role, "content": m.content} for m in t.task.messages],
        reply={"role": "assistant", "content": t.turns[0].reply},
        user=user,
        job=t.task.job,
    )


@pytest.fixture
def place(tmp_path: Path, knowing: Path) -> Iterator[Place]:
    with Store(tmp_path / "experience.sqlite") as store:
        made = Place(tmp_path, store, knowing)
        registry = made.improver().registry
        registry.add(weights_digest(load(str(knowing)).model), str(knowing))
        registry.point("release", 1)
        yield made


def patience(looks: int) -> Callable[[], bool]:
    """Whether it has looked so often in vain."""
    left = iter(range(looks))
    return lambda: next(left, None) is None


def until(records: Iterator[Record], what: str) -> list[Record]:
    """All records up to one of this kind."""
    seen: list[Record] = []
    for record in records:
        seen.append(record)
        if record["what"] == what:
            return seen
    raise AssertionError(f"no {what} in {[r['what'] for r in seen]}")


def other(place: Place, folder: Path, factor: float = 1.001) -> str:
    """A checkpoint with nearly the same weights."""
    loaded = load(str(place.source))
    with torch.no_grad():
        for weights in loaded.model.parameters():
            weights *= factor
    save(folder, loaded.model, loaded.tokenizer, loaded.value)
    return str(folder)


def success(source: str, job: Spell) -> float:
    played = Player(load(source), slots=64, context=64).play(job, [job.task("test", i) for i in range(3000, 3100)])
    return float(np.mean([t.outcome.success for t in played]))


def test_from_complaints_to_the_release(place: Place) -> None:
    place.serve(OLD, 30)
    barred = place.serve(NEW, 5)
    place.improver().registry.bar(barred, "a test")
    place.serve(NEW, 60)
    seen = until(place.improver().run(), "judged")
    learning = next(r for r in seen if r["what"] == "learning")
    assert learning["weak"] == ["before"] and learning["outcomes"] == 90
    assert seen[-1]["verdict"] == "pass", seen[-1]["reasons"]

    version = place.improver().registry.book().find("candidate")
    assert version.parents == (1,) and version.config["weak"] == ["before"]
    learned = place.store.episodes_in(version.entries)
    assert len(learned) == 90 and not learned & set(barred), "what is in quarantine was left alone"
    assert success(str(place.source), NEW) < 0.3 and success(version.source, NEW) > 0.8
    assert success(version.source, OLD) > 0.8, "and what it knew it still knows"

    assert place.standing().doing is Doing.BEGINNING
    improver = place.improver(replace(CONFIG, candidates=1))
    until(improver.run(), "releasing")
    assert place.standing().doing is Doing.RELEASING
    for _ in range(30):  # neighbours are paired, so that the two take turns
        place.serve(NEW, 4, 1, share=0.5, correct=False)
        place.serve(NEW, 4, 2, share=0.5, correct=False)
    assert until(place.improver(replace(CONFIG, candidates=1)).run(), "released")[-1]["version"] == 2
    now = place.standing()
    assert (now.doing, now.release, now.released) == (Doing.WAITING, 2, 1)
    assert place.improver()._waiting_since(now.tried) == 240, "what came since is for the next"


def test_killed_in_any_state_it_goes_on(place: Place) -> None:
    """A generator that is dropped leaves what a killed process would: nothing but the store and the folder."""
    place.serve(OLD, 20)
    place.serve(NEW, 40)
    for what, next_is in (
        ("learning", Doing.WAITING),
        ("proposed", Doing.EXAMINING),
        ("examining", Doing.EXAMINING),
        ("judged", Doing.SETTLING),
    ):
        going = place.improver(QUICK).run()
        assert until(going, what)[-1]["what"] == what
        going.close()
        assert place.standing().doing is next_is
    assert until(place.improver(QUICK).run(), "held back")[-1]["version"] == 2
    assert place.store.verify() == []
    assert len(place.improver().registry.book().versions) == 2
    assert place.standing().release == 1 and place.standing().judged == 1


def test_before_any_server_it_begins_as_a_server_would(
    tmp_path: Path, knowing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers of before there was a registry keep their meaning, and places are found from any folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(knowing, "model")
    (tmp_path / "serve").mkdir()
    old = [{"digest": "1" * 64, "source": "runs/gone"}]
    (tmp_path / "serve" / "versions.json").write_text(json.dumps(old))
    with Store("experience.sqlite") as store:
        place = Place(Path(), store, Path("model"))
        assert not list(place.improver(until=patience(3)).run())
        book = place.improver().registry.book()
        assert book.aliases == {"release": 2} and book.versions[1].digest == "1" * 64
        place.serve(NEW, 40, version=2)
        seen = until(place.improver(QUICK).run(), "proposed")
        found = [place.improver().registry.book().find(name).source for name in ("release", "candidate")]
    assert found == [str(tmp_path / "model"), str(tmp_path / "candidates" / "0003")]
    assert seen[-1]["source"] == found[1]


def test_a_candidate_that_cannot_be_loaded_is_held_back(place: Place) -> None:
    registry = place.improver().registry
    registry.add("2" * 64, str(place.home / "gone"), parents=[1])
    registry.point("candidate", 2)
    dropped = until(place.improver().run(), "held back")[-1]
    assert dropped["version"] == 2 and "cannot be loaded" in dropped["why"]


def test_told_to_stop_while_it_learns_it_leaves_nothing_behind(place: Place) -> None:
    place.serve(NEW, 40)
    seen: list[Record] = []
    for record in place.improver(QUICK, lambda: bool(seen)).run():
        seen.append(record)
    assert {r["what"] for r in seen} == {"learning"} and not (place.home / "candidates").exists()
    assert place.standing().tried == 0 and len(place.improver().registry.book().versions) == 1


def test_who_proposes_while_it_learns_is_heard(place: Place, tmp_path: Path) -> None:
    """What it was learning waits, and nothing of it counts as learned."""
    place.serve(NEW, 40)
    going = place.improver(QUICK).run()
    until(going, "learning")
    version = propose(str(place.source), place.store.where, other(place, tmp_path / "other"), "by hand")
    assert until(going, "set aside")[-1]["version"] == 3
    assert place.standing().candidate == version.number == 2 and place.standing().tried == 0
    assert until(going, "examining")[-1]["version"] == 2


def test_what_is_put_into_quarantine_while_it_learns_is_left_out(place: Place) -> None:
    barred = place.serve(NEW, 60)[:5]
    improver = place.improver(QUICK)
    going = improver.run()
    until(going, "learning")
    improver.registry.bar(barred, "poison")
    assert "in quarantine" in until(going, "set aside")[-1]["why"]
    until(going, "proposed")
    learned = place.store.episodes_in(improver.registry.book().find("candidate").entries)
    assert len(learned) == 55 and not learned & set(barred)


def test_a_candidate_is_judged_against_what_is_served(place: Place, tmp_path: Path) -> None:
    """Where another version becomes the release meanwhile, the examination begins anew; in quarantine, it ends."""
    source, where = str(place.source), place.store.where
    propose(source, where, other(place, tmp_path / "candidate"), "")
    improver = place.improver(QUICK, patience(300))
    going, registry = improver.run(), improver.registry
    assert "jobs" in until(going, "examining")[-1]
    third = other(place, tmp_path / "third", 1.002)
    registry.point("release", registry.add(weights_digest(load(third).model), third).number, "by hand")
    seen = until(going, "judged")
    assert len([r for r in seen if "jobs" in r]) == 1, "once more, from the beginning"
    until(going, "held back")
    propose(source, where, other(place, tmp_path / "fourth", 1.003), "")
    until(going, "examining")
    registry.quarantine("candidate", "poison")
    assert {r["what"] for r in going} == {"examining"}, "it was not judged any more"


def test_a_damaged_version_is_held_back(place: Place, tmp_path: Path) -> None:
    loaded = load(str(place.source))
    with torch.no_grad():
        for weights in loaded.model.parameters():
            weights += weights.std() * torch.randn_like(weights)
    save(tmp_path / "damaged", loaded.model, loaded.tokenizer, loaded.value)
    source = str(place.source)
    assert propose(source, place.store.where, str(tmp_path / "damaged"), "").number == 2
    with pytest.raises(UsageError, match="is the candidate"):
        propose(source, place.store.where, str(tmp_path / "damaged"), "")
    seen = until(place.improver().run(), "held back")
    judged = next(r for r in seen if r["what"] == "judged")
    assert judged["verdict"] == "fail" and any(reason.startswith("ability") for reason in judged["reasons"])
    assert place.standing().doing is Doing.WAITING and place.standing().release == 1


def test_held_out_tasks_are_used_up_and_nothing_more_is_learned(place: Place, tmp_path: Path) -> None:
    config = replace(QUICK, examination=replace(QUICK.examination, parts=1))
    source, where = str(place.source), place.store.where
    propose(source, where, other(place, tmp_path / "first"), "")
    improver = place.improver(config, patience(300))
    going = improver.run()
    until(going, "judged")
    until(going, "held back")
    place.serve(OLD, config.least)
    propose(source, where, other(place, tmp_path / "second", 1.002), "")
    assert "asked for 40 of part 2" in until(going, "held back")[-1]["why"]
    seen = list(going)
    assert [r["what"] for r in seen] == ["worn out"] and "held-out" in seen[0]["why"]
    assert place.standing().doing is Doing.WAITING


def test_it_rests_when_told_to(place: Place) -> None:
    source = str(place.source)
    order(source, place.store.where, "pause", "a demonstration")
    place.serve(NEW, 60)
    assert [r["what"] for r in place.improver(until=patience(20)).run()] == ["paused"]
    order(source, place.store.where, "resume", "")
    assert not standing(source, place.store.where).paused
    assert next(place.improver().run())["what"] == "learning"


def test_work_is_not_held_up_by_looks(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two updates the journal is read now and then, and only what is new in it."""
    read: list[int] = []
    events = place.store.events

    def counted(after: int = 0) -> Any:
        read.append(after)
        return events(after)

    monkeypatch.setattr(place.store, "events", counted)
    going = place.improver(replace(CONFIG, look=60.0))._pace(time.monotonic(), 600)
    assert all(going() for _ in range(100)) and read == [0]
    going = place.improver(replace(CONFIG, look=1e-9))._pace(time.monotonic(), 600)
    assert going() and going()
    assert read[1] == 0 and read[2] == events()[-1].number


def test_a_pause_is_heard_while_it_learns_and_costs_no_time(place: Place) -> None:
    source = str(place.source)
    order(source, place.store.where, "pause", "")
    resume = threading.Timer(2.0, order, (source, place.store.where, "resume", ""))
    resume.start()
    started = time.monotonic()
    assert place.improver()._pace(started, 1.5)(), "it goes on with its time"
    assert time.monotonic() - started > 1.5
    resume.join()


def test_one_improver_at_a_time_and_its_lines_are_kept(tmp_path: Path, knowing: Path) -> None:
    home = tmp_path / "served"
    shutil.copytree(knowing, home)
    first = improve(str(home), replace(CONFIG, least=1, jobs=()), lambda: False)
    with Store(home / "experience.sqlite") as store:
        place = Place(home, store, home)
        registry = place.improver().registry
        registry.add(weights_digest(load(str(home)).model), str(home))
        registry.point("release", 1)
        place.serve(NEW, 3)
        assert next(first)["what"] == "learning"
        with pytest.raises(RunError, match="is in use"):
            next(improve(str(home), CONFIG))
        first.close()
    assert '"what": "learning"' in (home / "improve.jsonl").read_text()


def test_no_passes_over_the_preferences_are_none(knowing: Path) -> None:
    loaded, config = load(str(knowing)), replace(CONFIG, preference_epochs=0)
    student = Student.of(loaded, {}, (), CreditConfig(), config, teacher=None, going=lambda: True, seed=0)
    t = demonstrations([OLD], 1, 0, student.renderer)[0]
    assert prefer_of(student, Evidence(pairs=(Pair(t, t),))) == {} and student.learner.updates == 0


@pytest.mark.parametrize("wrong", [{"least": 0}, {"share": 0.0}, {"able": 1.5}, {"seconds": 0.0}, {"candidates": -1}])
def test_wrong_settings_are_told(wrong: dict[str, Any]) -> None:
    [(name, amount)] = wrong.items()
    with pytest.raises(UsageError, match=f"{name} must .*got {amount}"):
        ImproveConfig(**wrong)
