"""The loop end to end, small: it learns, it resumes to the same weights, it survives damage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from journeyman import ExamConfig, LearnConfig, SchoolConfig, Store, learn
from journeyman.errors import JourneymanError, RunError, UsageError
from journeyman.learn.credit import CreditConfig
from journeyman.model.load import find
from journeyman.recipes import demo
from journeyman.rollout.asking import AskingConfig
from journeyman.rollout.runner import RolloutConfig
from journeyman.rollout.stopping import StoppingConfig
from journeyman.run import RunFolder, read_lines
from journeyman.stages import Record
from journeyman.types import Ending

CONFIG = LearnConfig(
    jobs=("maze,size=3",),
    model="tiny,width=32,layers=2,heads=2",
    steps=6,
    tasks=4,
    repeats=4,
    school=SchoolConfig(demonstrations=40, updates=30),
    exam=ExamConfig(tasks=10, splits=("test",)),
    exam_every=3,
    checkpoint_every=2,
    value_warmup=1,
    replay=2,
    context=512,
    threads=1,
)


def finish(config: LearnConfig, folder: Path) -> list[Record]:
    return list(learn(config, folder))


def weights(folder: Path) -> dict[str, bytes]:
    files = ("model/model.safetensors", "model/value/value.safetensors")
    return {
        f"{file}:{name}": tensor.numpy().tobytes()
        for file in files
        if (folder / file).exists()
        for name, tensor in load_file(folder / file).items()
    }


def stop_after(records: Iterator[Record], count: int) -> None:
    list(islice(records, count))
    records.close()  # type: ignore[attr-defined]  # what a signal does to the generator


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    finish(CONFIG, folder)
    return folder


def test_a_run_leaves_what_it_promises(whole: Path) -> None:
    learned = [r for r in read_lines(whole / "metrics.jsonl") if r["kind"] == "learn"]
    assert [r["step"] for r in learned] == list(range(1, 7))
    assert learned[-1]["trajectories"] == 6 * 16
    exams = read_lines(whole / "exams.jsonl")
    assert [e["step"] for e in exams] == [0, 3, 6]
    with Store(whole / "experience.sqlite") as store:
        assert store.count() == 6 * 16 + 3 * 10
        assert store.verify() == []
        assert all(t.values.min() >= 0 for t in store.episodes(limit=5))
    assert (whole / "model" / "config.json").exists()


@pytest.mark.parametrize("stops", [(10,), (33,), (36,), (20, 5, 3)])
def test_interrupted_and_resumed_equals_uninterrupted(whole: Path, tmp_path: Path, stops: tuple[int, ...]) -> None:
    folder = tmp_path / "run"
    for count in stops:
        stop_after(learn(CONFIG, folder), count)
    finish(CONFIG, folder)
    assert weights(folder) == weights(whole)

    def told(path: Path) -> list[str]:
        untimed = [{k: v for k, v in r.items() if "time" not in k and k != "seconds"} for r in read_lines(path)]
        return [json.dumps(r) for r in untimed]

    assert told(folder / "metrics.jsonl") == told(whole / "metrics.jsonl")
    assert told(folder / "exams.jsonl") == told(whole / "exams.jsonl")


def test_with_workers_the_same_episodes_are_played_and_a_run_may_go_on_without(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for record in (learning := learn(replace(CONFIG, rollout=RolloutConfig(workers=2)), folder)):
        if record["kind"] == "learn" and record["step"] == 2:
            break
    learning.close()  # type: ignore[attr-defined]
    with Store(whole / "experience.sqlite") as one, Store(folder / "experience.sqlite") as other:
        # up to the policy's first update: what is learned from episodes in another order may differ in rounding
        alone, there = ({t.id: t.tokens.tolist() for t in s.episodes(min_step=0, max_step=1)} for s in (one, other))
    assert there == alone and len(there) == 32
    finish(CONFIG, folder)
    with pytest.raises(RunError, match="its rollout differ"):
        next(learn(replace(CONFIG, rollout=RolloutConfig(workers=2, top_p=0.5)), folder))


def test_a_damaged_last_checkpoint_is_passed_over(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    stop_after(learn(CONFIG, folder), 38)
    last = sorted((folder / "checkpoints").glob("step-*"))[-1]
    weights_file = last / "model.safetensors"
    weights_file.write_bytes(weights_file.read_bytes()[:-7] + b"damaged")
    finish(CONFIG, folder)
    assert weights(folder) == weights(whole)


def test_a_finished_run_goes_on_when_asked_for_more(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    finish(replace(CONFIG, steps=2), folder)
    assert finish(replace(CONFIG, steps=2), folder) == []
    more = finish(replace(CONFIG, steps=4), folder)
    assert [r["step"] for r in more if r["kind"] == "learn"] == [3, 4]


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    stop_after(learn(CONFIG, folder), 2)
    with pytest.raises(RunError, match="seed differ"):
        next(learn(replace(CONFIG, seed=1), folder))


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = learn(CONFIG, folder)
    next(first)
    with pytest.raises(RunError, match="in use"):
        next(learn(CONFIG, folder))
    first.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("rule", ["grpo", "rloo"])
def test_rules_without_a_value_function(rule: str, tmp_path: Path) -> None:
    config = replace(CONFIG, steps=1, credit=CreditConfig(rule=rule))  # type: ignore[arg-type]
    records = finish(config, tmp_path / "run")
    learned = next(r for r in records if r["kind"] == "learn")
    assert learned["policy/version"] == 1 and "value/loss" not in learned
    assert not (tmp_path / "run" / "model" / "value").exists()


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["gae", "rloo"])
def test_practice_makes_better(tmp_path: Path, rule: str) -> None:
    """From 22% to about 80% in trials: by far more than two intervals that just do not touch."""
    exam = ExamConfig(tasks=100, attempts=2, splits=("test",))
    credit = CreditConfig(rule=rule)  # type: ignore[arg-type]
    config = replace(demo(), jobs=("hops,min_hops=2",), steps=20, tasks=32, credit=credit, exam=exam, threads=1)
    records = finish(config, tmp_path / "run")
    before, after = (next(r for r in records if r["kind"] == "exam" and r["step"] == s) for s in (0, 20))
    assert after["low"] > before["high"], (before, after)


def test_a_run_that_never_began_may_be_given_another_configuration(tmp_path: Path) -> None:
    RunFolder.open(tmp_path / "run", asdict(replace(CONFIG, steps=9, seed=2))).close()  # and killed right then
    stop_after(learn(CONFIG, tmp_path / "run"), 1)
    with pytest.raises(RunError, match="holds another run"):
        finish(replace(CONFIG, seed=1), tmp_path / "run")


@pytest.mark.parametrize(
    "wrong",
    [
        {"jobs": ("maize",)},
        {"jobs": ("maze,size=3", "not_there.py:Mine")},
        {"model": "./not-there"},
        {"model": "aprentice/"},
        {"model": "tiny,widht=32"},
        {"exam": ExamConfig(splits=("tset",))},
    ],
    ids=str,
)
def test_what_is_misspelt_leaves_no_folder(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(JourneymanError):
        finish(replace(CONFIG, **wrong), tmp_path / "runs" / "mine")
    assert not list(tmp_path.iterdir())


def test_a_run_goes_on_without_the_model_it_began_with(tmp_path: Path) -> None:
    shutil.copytree(find("apprentice"), tmp_path / "first")
    config = replace(CONFIG, model=str(tmp_path / "first"), steps=1)
    finish(config, tmp_path / "run")
    shutil.rmtree(tmp_path / "first")
    assert [r["step"] for r in finish(replace(config, steps=2), tmp_path / "run") if r["kind"] == "learn"] == [2]


def test_with_a_lag_episodes_are_one_update_older_and_a_run_still_repeats(tmp_path: Path) -> None:
    config = replace(CONFIG, lag=1, checkpoint_every=3, exam_every=0, update=replace(CONFIG.update, minibatches=1))
    records = finish(config, tmp_path / "whole")
    steps = [r for r in records if r["kind"] == "learn"]
    assert all(r["mismatch/kl"] >= 0 and r["mismatch/max"] < 20 for r in steps[1:])
    with Store(tmp_path / "whole" / "experience.sqlite") as store:
        versions = [{t.policy_version for t in store.episodes(min_step=k, max_step=k)} for k in range(6)]
    # the first step only warms V up; nobody plays ahead over the checkpoint after the third
    assert versions == [{0}, {0}, {0}, {2}, {2}, {3}]
    part = tmp_path / "part"
    learning = learn(config, part)
    for record in learning:
        if record["kind"] == "learn" and record["step"] == 5:
            break
    learning.close()
    finish(config, part)
    whole, resumed = (load_file(f / "model" / "model.safetensors") for f in (tmp_path / "whole", part))
    assert all((whole[name] == resumed[name]).all() for name in whole)


def test_with_stopping_a_run_still_repeats(tmp_path: Path) -> None:
    stopping = StoppingConfig(every=1, low=0.5, high=0.6, play_out=0.3, skill=-99.0)
    config = replace(CONFIG, jobs=("hops,min_hops=2",), model="apprentice", stopping=stopping, exam_every=0)
    records = finish(config, tmp_path / "whole")
    stopped = [r["hops,min_hops=2/stopped"] for r in records if r["kind"] == "learn"]
    assert stopped[0] == 0 < stopped[-1] < 1, "nobody is stopped during the warm-up"
    with Store(tmp_path / "whole" / "experience.sqlite") as store:
        endings = {t.outcome.ending for t in store.episodes(min_step=0) if t.verdict}
        assert all(t.verdict is None for t in store.episodes(prefix="exam-")), "exams are played to their end"
    assert endings > {Ending.STOPPED}
    part = tmp_path / "part"
    for record in (learning := learn(config, part)):
        if record["kind"] == "learn" and record["step"] == 5:
            break
    learning.close()  # type: ignore[attr-defined]
    finish(config, part)
    assert weights(part) == weights(tmp_path / "whole")


def test_with_a_teacher_a_run_still_repeats_and_keeps_its_budget(tmp_path: Path) -> None:
    asking = AskingConfig(budget=0.1, enough=1.0, replies=4, rehearsals=2)
    config = replace(CONFIG, jobs=("hops,min_hops=2",), model="apprentice", asking=asking, exam_every=0)
    steps = [r for r in finish(config, tmp_path / "whole") if r["kind"] == "learn"]
    assert all(r["taught"] <= 0.1 * r["turns"] for r in steps)
    assert [r["hops,min_hops=2/taught"] > 0 for r in steps] == [False] + [True] * 5, "not during the warm-up"
    with Store(tmp_path / "whole" / "experience.sqlite") as store:
        led = list(store.episodes(taught=True))
        assert sum(turn.by == "teacher" for t in led for turn in t.turns) == steps[-1]["taught"]
        assert all(t.step > 0 and t.turns[0].by == "teacher" for t in led), "exams have no teacher"
    part = tmp_path / "part"
    for record in (learning := learn(config, part)):
        if record["kind"] == "learn" and record["step"] == 5:
            break
    learning.close()  # type: ignore[attr-defined]
    finish(config, part)
    assert weights(part) == weights(tmp_path / "whole")


@pytest.mark.parametrize("use", [{"stopping": StoppingConfig(every=1)}, {"asking": AskingConfig(budget=0.1)}])
def test_what_needs_v_is_refused_where_v_cannot_look(use: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="grpo has none"):
        replace(CONFIG, credit=CreditConfig(rule="grpo"), **use)
    with pytest.raises(UsageError, match="needs lag 0"):
        replace(CONFIG, lag=1, **use)
