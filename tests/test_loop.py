"""The loop end to end, small: it learns, it resumes to the same weights, it survives damage."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import islice, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, patch

import numpy as np
import pytest
from safetensors.torch import load_file

from journeyman import ExamConfig, LearnConfig, SchoolConfig, Store, learn, open_model
from journeyman.errors import JourneymanError, RunError, UsageError
from journeyman.exam.platt import calibrate
from journeyman.jobs import resolve
from journeyman.learn.credit import CreditConfig
from journeyman.learn.learner import Learner
from journeyman.model.calibration import Calibration
from journeyman.model.load import find, load
from journeyman.model.render import Renderer
from journeyman.recipes import demo
from journeyman.rollout.asking import AskingConfig
from journeyman.rollout.branch import BranchConfig
from journeyman.rollout.practice import PracticeConfig
from journeyman.rollout.runner import RolloutConfig
from journeyman.rollout.stopping import StoppingConfig
from journeyman.run import RunFolder, read_lines
from journeyman.stages import Record, practice
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

PRACTICE = replace(
    CONFIG, jobs=("hops,min_hops=2",), model="apprentice", school=SchoolConfig(demonstrations=0), exam_every=0
)
"""A job that is solved at times from the start."""


def finish(config: LearnConfig, folder: Path) -> list[Record]:
    return list(learn(config, folder))


def interrupt_at(step: int, config: LearnConfig, folder: Path) -> None:
    """Play a run until this step is logged, and interrupt it there."""
    for record in (learning := learn(config, folder)):
        if record["kind"] == "learn" and record["step"] == step:
            break
    learning.close()  # type: ignore[attr-defined]


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
    interrupt_at(2, replace(CONFIG, rollout=RolloutConfig(workers=2)), folder)
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


def test_v_is_calibrated_by_the_last_exam(whole: Path, tmp_path: Path) -> None:
    exam = ExamConfig(tasks=48, attempts=2, splits=("test", "train"))
    finish(replace(CONFIG, jobs=("maze,size=4",), steps=2, exam=exam, exam_every=0), tmp_path / "run")
    calibration = open_model(tmp_path / "run").calibration
    with Store(tmp_path / "run" / "experience.sqlite") as store:
        held_out = list(store.episodes(prefix="exam-000002-", split="test"))
    evidence = calibration.evidence["maze,size=4"]
    assert calibration == calibrate(held_out, seed=CONFIG.seed) and calibration != Calibration()
    assert evidence.fitted + evidence.asked == len(held_out) == 96
    assert open_model(whole).calibration.overall == Calibration().overall
    assert "at least 20 are needed" in open_model(whole).calibration.notes[0]  # CONFIG asks for ten tasks


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


def test_a_blend_with_branches_counts_and_keeps_all_of_them_and_repeats(tmp_path: Path) -> None:
    job = "maze,size=3,max_turns=8"  # the apprentice solves half of it
    config = replace(
        CONFIG,
        jobs=(job,),
        model="apprentice",
        steps=4,
        school=SchoolConfig(),
        credit=CreditConfig(rule="blend", lambda_policy=0.8),
        branch=BranchConfig(share=1.0, continuations=2),
        exam_every=0,
    )
    finish(config, tmp_path / "whole")
    steps = [r for r in read_lines(tmp_path / "whole" / "metrics.jsonl") if r["kind"] == "learn"]
    assert [r["value/branch_states"] > 0 for r in steps] == [False, *[True] * 3], "none while V warms up"
    assert steps[0][f"{job}/value/trust"] == 0 and any(r[f"{job}/value/trust"] > 0 for r in steps)
    with Store(tmp_path / "whole" / "experience.sqlite") as store:
        played = [list(store.episodes(min_step=k, max_step=k)) for k in range(4)]
    branches = [[t for t in step if "-b" in t.id] for step in played]
    assert [len(step) - len(own) for step, own in zip(played, branches, strict=True)] == [16] * 4
    assert [2 * r["value/branch_states"] for r in steps] == [len(own) for own in branches]
    assert steps[-1]["trajectories"] == sum(map(len, played))
    assert steps[-1]["tokens"] == sum(len(t) for step in played for t in step)
    learning = learn(config, tmp_path / "part")
    for record in learning:
        if record["kind"] == "learn" and record["step"] == 3:  # the last checkpoint is of step 2
            break
    learning.close()  # type: ignore[attr-defined]
    finish(config, tmp_path / "part")
    assert weights(tmp_path / "part") == weights(tmp_path / "whole")
    ends = [json.loads((f / "checkpoints/step-000004/state.json").read_text()) for f in tmp_path.iterdir()]
    kept = [end["progress"]["foresight"][job] for end in ends]
    assert kept[0] == kept[1] and len(kept[0]) > 2


def test_branches_need_a_value_function() -> None:
    with pytest.raises(UsageError, match="rloo has no use for branches"):
        replace(CONFIG, credit=CreditConfig(rule="rloo"), branch=BranchConfig(share=1.0))


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


def test_a_run_of_an_older_version_goes_on(tmp_path: Path) -> None:
    """What it has no word for is as it is now; what has gone since is no difference; what both know is."""
    stop_after(learn(CONFIG, tmp_path), 4)
    file = tmp_path / "config.json"
    older = json.loads(file.read_text())
    del older["ease"], older["update"]["max_kl"]
    older["stopping"]["gone"] = older["gone"] = 1
    file.write_text(json.dumps(older))
    assert finish(CONFIG, tmp_path)[-1]["step"] == CONFIG.steps
    with pytest.raises(RunError, match=r"its update differ"):
        finish(replace(CONFIG, update=replace(CONFIG.update, minibatches=3)), tmp_path)


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


def test_the_policy_learns_again_from_the_last_steps_and_a_run_still_repeats(tmp_path: Path) -> None:
    config = replace(
        CONFIG, steps=4, exam_every=0, replay=1, policy_replay=2, branch=BranchConfig(share=0.5, continuations=2)
    )
    with patch.object(Learner, "update_policy", autospec=True, side_effect=Learner.update_policy) as learned:
        finish(config, tmp_path / "whole")
    taught = [call.args[1] for call in learned.call_args_list]
    # the first step only warms V up, but the policy learns from its episodes later; branches are no lesson for it
    assert [sorted({t.step for t in ts}) for ts in taught] == [[0, 1], [0, 1, 2], [1, 2, 3]]
    assert all(len(ts) == 16 * len({t.step for t in ts}) and len({t.id for t in ts}) == len(ts) for ts in taught)
    with Store(tmp_path / "whole" / "experience.sqlite") as store:
        stored = {t.id: t for t in store.episodes(min_step=0)}
    again = [t for t in taught[-1] if t.step < 3]
    assert any((t.values != stored[t.id].values).any() for t in again), "V has changed since they were played"
    fresh = [t for t in taught[-1] if t.step == 3]
    assert all((t.values != stored[t.id].values).sum() < len(t.turns) for t in fresh), "but for what branches corrected"
    learning = learn(config, tmp_path / "part")
    stop_after(learning, 4)  # two exams, the second and the third step: a checkpoint lies behind
    finish(config, tmp_path / "part")
    assert weights(tmp_path / "whole") == weights(tmp_path / "part")


def test_without_a_value_function_the_policy_may_learn_again_all_the_same(tmp_path: Path) -> None:
    exact = replace(CONFIG.update, precision="float32")  # then engine and trainer differ by the weights' age alone
    config = replace(CONFIG, model="apprentice", steps=3, exam_every=0, policy_replay=1, update=exact)
    config = replace(config, jobs=("maze,size=5",), credit=CreditConfig(rule="rloo"))
    with patch.object(Learner, "update_policy", autospec=True, side_effect=Learner.update_policy) as learned:
        records = finish(config, tmp_path / "run")
    assert [len(call.args[1]) for call in learned.call_args_list] == [16, 32, 32]
    first, *others = [r["mismatch/max"] for r in records if r["kind"] == "learn"]
    assert first < 1e-4 < min(others), (first, others)


def test_exams_in_between_are_on_the_splits_asked_for(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=2, exam=ExamConfig(tasks=2, splits=("valid",)), exam_every=1)
    finish(config, tmp_path / "run")
    assert [(e["step"], e["split"]) for e in read_lines(tmp_path / "run" / "exams.jsonl")] == [
        (0, "valid"),
        (1, "valid"),
        (2, "valid"),
    ]


def test_with_stopping_a_run_still_repeats(tmp_path: Path) -> None:
    stopping = StoppingConfig(every=1, hopeless=0.9, play_out=0.3)
    config = replace(PRACTICE, stopping=stopping)
    with patch.object(Learner, "update_policy", autospec=True, side_effect=Learner.update_policy) as learned:
        records = finish(config, tmp_path / "whole")
    stopped = [r["hops,min_hops=2/stopped"] for r in records if r["kind"] == "learn"]
    assert stopped[0] == 0 < stopped[-1] < 1, "nobody is stopped during the warm-up"
    open_ends = [np.mean([t.verdict is None for t in call.args[1]]) for call in learned.call_args_list]
    assert [call.args[4] for call in learned.call_args_list] == pytest.approx(open_ends), "the pace is their share"
    assert min(open_ends) < 1, "of what V stops there is little to learn"
    with Store(tmp_path / "whole" / "experience.sqlite") as store:
        endings = {t.outcome.ending for t in store.episodes(min_step=0) if t.verdict}
        assert all(t.verdict is None for t in store.episodes(prefix="exam-")), "exams are played to their end"
    assert endings > {Ending.STOPPED}
    interrupt_at(5, config, tmp_path / "part")
    finish(config, tmp_path / "part")
    assert weights(tmp_path / "part") == weights(tmp_path / "whole")


def test_with_a_teacher_a_run_still_repeats_and_keeps_its_budget(tmp_path: Path) -> None:
    asking = AskingConfig(budget=0.1, enough=1.0, replies=4, updates=2)
    config = replace(PRACTICE, asking=asking, school=SchoolConfig(demonstrations=0, batch=5))
    steps = [r for r in finish(config, tmp_path / "whole") if r["kind"] == "learn"]
    assert all(r["taught"] <= 0.1 * r["turns"] for r in steps)
    assert [r["hops,min_hops=2/taught"] > 0 for r in steps] == [False] + [True] * 5, "not during the warm-up"
    with Store(tmp_path / "whole" / "experience.sqlite") as store:
        led = list(store.episodes(taught=True))
        assert sum(turn.by == "teacher" for t in led for turn in t.turns) == steps[-1]["taught"]
        assert all(t.step > 0 and t.turns[0].by == "teacher" for t in led), "exams have no teacher"
        played = list(store.episodes(min_step=0))
    gathered = [r["policy/lessons"] for r in steps]
    assert gathered[-1] == sum(t.outcome.success or bool(len(t.taught)) for t in played)
    studied = [r for r in steps if "policy/lesson_loss" in r]
    assert len(studied) >= 2 and all(b["policy/lessons"] >= 2 * a["policy/lessons"] for a, b in pairwise(studied))
    assert steps[-1]["policy/version"] == len(studied), "the policy learns by study alone"
    interrupt_at(5, config, tmp_path / "part")
    finish(config, tmp_path / "part")
    assert weights(tmp_path / "part") == weights(tmp_path / "whole")


def test_where_a_teacher_leads_every_episode_v_learns_nothing_and_the_policy_does(tmp_path: Path) -> None:
    asking = AskingConfig(budget=1.0, enough=9.0, updates=2, advance=9)
    config = replace(PRACTICE, asking=asking, repeats=1, replay=1, value_warmup=0, credit=CreditConfig("blend"))
    steps = [r for r in finish(config, tmp_path / "whole") if r["kind"] == "learn"]
    job = config.jobs[0]
    assert [r[f"{job}/taught"] for r in steps[:5]] == [0, 1, 1, 1, 1], "as soon as it is known how long episodes are"
    assert ["value/loss" in r for r in steps[:5]] == [True, True, False, False, False], "it remembers one step"
    assert [r["policy/lessons"] - steps[0]["policy/lessons"] for r in steps[:5]] == [0, 4, 8, 12, 16]


def test_with_tasks_chosen_by_v_a_run_still_repeats_and_is_charged_for_what_v_read(tmp_path: Path) -> None:
    config = replace(PRACTICE, practice=PracticeConfig(candidates=3, uniform=0.1), ease=1)
    job = config.jobs[0]
    steps = [r for r in finish(config, tmp_path / "whole") if r["kind"] == "learn"]
    failed = [1 - r[f"{job}/success"] for r in steps]
    assert [r["policy/pace"] for r in steps] == pytest.approx([np.mean(failed[: k + 1]) for k in range(len(steps))])
    assert [f"{job}/practice/chosen" in r for r in steps] == [False] + [True] * 5, "uniform while V warms up"
    assert all(0 < r[f"{job}/practice/{which}"] <= 0.25 for r in steps[1:] for which in ("offered", "chosen"))
    with Store(tmp_path / "whole" / "experience.sqlite") as store:
        played = list(store.episodes(min_step=0))
    prompts = Counter(t.task.id for t in played if t.step > 0)
    assert set(prompts.values()) == {config.repeats}, "no task twice in a step"
    read = steps[-1]["tokens"] - sum(len(t) for t in played)
    shortest, longest = (extreme(t.prompt_length for t in played) for extreme in (min, max))
    assert 5 * 12 * shortest < read < 5 * 12 * longest, "V read three prompts for each task, in five steps"
    interrupt_at(5, config, tmp_path / "part")
    finish(config, tmp_path / "part")
    assert weights(tmp_path / "part") == weights(tmp_path / "whole")


def test_of_few_tasks_all_are_candidates_and_of_too_few_v_has_no_choice() -> None:
    def draw(config: LearnConfig) -> tuple[list[int], int]:
        score = Mock(side_effect=lambda ts: [replace(t, values=np.full(len(t), 0.5, np.float32)) for t in ts])
        learning: Any = SimpleNamespace(
            config=config,
            jobs={name: resolve(name) for name in config.jobs},
            learner=SimpleNamespace(score=score),
            renderer=Renderer(load("apprentice").tokenizer),
        )
        indices = [task.index for task in practice(learning, config.warmup)]
        return indices, sum(len(call.args[0]) for call in score.call_args_list)

    size = resolve("maze,size=3").splits["train"]
    config = replace(CONFIG, tasks=size // 2 + 1, practice=PracticeConfig(candidates=2))
    indices, read = draw(config)
    assert len(set(indices)) == config.tasks and read == size
    config = replace(config, tasks=size + 5)
    indices, read = draw(config)
    assert len(indices) == config.tasks and read == 0
    assert draw(replace(config, practice=PracticeConfig())) == (indices, 0), "as without the choice"


@pytest.mark.parametrize(
    "use",
    [
        {"stopping": StoppingConfig(every=1)},
        {"asking": AskingConfig(budget=0.1)},
        {"practice": PracticeConfig(candidates=2)},
    ],
)
def test_what_needs_v_is_refused_where_v_cannot_look(use: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="grpo has none"):
        replace(CONFIG, credit=CreditConfig(rule="grpo"), **use)
    with pytest.raises(UsageError, match="needs lag 0"):
        replace(CONFIG, lag=1, **use)


def test_a_discounted_v_does_not_choose_tasks() -> None:
    with pytest.raises(UsageError, match=r"practice needs credit.gamma 1, got 0.9"):
        replace(CONFIG, credit=CreditConfig(gamma=0.9), practice=PracticeConfig(candidates=2))
