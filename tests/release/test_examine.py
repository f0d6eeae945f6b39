"""Evidence from real (tiny) models: a model passes for itself, a spoilt one does not, every reading sees its part."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit

from journeyman.jobs.user import load_class
from journeyman.learn.learner import Learner, UpdateConfig
from journeyman.learn.school import SchoolConfig, demonstrations, school
from journeyman.model.load import LoadedModel
from journeyman.model.render import Renderer
from journeyman.model.tiny import fresh
from journeyman.model.value import ValueConfig, ValueFunction
from journeyman.release.examine import Examination, ExaminationConfig, Subject
from journeyman.release.gate import GateConfig, Verdict
from journeyman.release.gather import Player, audit, drift, play_both, regraded, right, rules, search, success
from journeyman.release.probe import ask, fit, predicted, states
from journeyman.release.rules import Rule

Letters = load_class(str(Path(__file__).parents[2] / "examples" / "story" / "letters.py"), "Letters")

JOB = Letters("sort")


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    """Knows some of the job, with a V that knows nothing."""
    torch.manual_seed(0)
    loaded = fresh("tiny,width=32,layers=1,heads=2,vocab=290,positions=64", [JOB])
    learner = Learner(loaded.model, None, UpdateConfig(), keep_reference=False)
    lessons = demonstrations([JOB], 60, 0, Renderer(loaded.tokenizer))
    for _ in school(learner, lessons, SchoolConfig(batch=32), 40, seed=0):
        pass
    return replace(loaded, value=ValueFunction.start(ValueConfig(placement="head"), loaded.model))


def player(loaded: LoadedModel) -> Player:
    return Player(loaded, slots=64, context=64)


def test_a_model_against_itself_differs_in_nothing(model: LoadedModel) -> None:
    """Both draw the same random numbers, so every pair is equal and nothing has drifted."""
    ours, theirs = player(model), player(replace(model, model=copy.deepcopy(model.model)))
    both = play_both(ours, theirs, JOB, list(JOB.tasks("test", 12)), 2)
    assert len(both.candidate) == 24
    assert [t.turns[0].reply for t in both.candidate] == [t.turns[0].reply for t in both.release]
    sample = success(both)
    assert sample.candidate == sample.release and len(sample.candidate) == 12
    assert max(drift(both, theirs).candidate) < 1e-3
    found = search(ours, theirs, JOB, list(JOB.tasks("test", 4)), tries=2)
    assert found.candidate == found.release and len(found.candidate) == 4


def test_what_moved_shows_as_drift_and_what_is_forbidden_as_broken(model: LoadedModel) -> None:
    other = copy.deepcopy(model.model)
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.5)
    ours, theirs = player(replace(model, model=other, value=None)), player(model)
    both = play_both(ours, theirs, JOB, list(JOB.tasks("test", 8)))
    assert np.mean(drift(both, theirs).candidate) > 0.05
    (broken,) = rules(both.candidate, [Rule("silence", r"\w")])
    spoke = [any(c.isalnum() for c in t.turns[0].reply) for t in both.candidate]
    assert broken.candidate == tuple(1.0 - s for s in spoke)


def test_an_independent_grader_sees_what_was_hacked(model: LoadedModel) -> None:
    one = player(model)
    both = play_both(one, one, Letters("sort", leaky=True), list(JOB.tasks("test", 6)))
    hacked = [replace(t, turns=(replace(t.turns[0], reply="!"),)) for t in both.candidate]
    paid = [replace(t, outcome=replace(t.outcome, reward=1.0)) for t in hacked]
    assert {regraded(JOB, t) for t in paid} == {0.0} and {regraded(both.job, t) for t in paid} == {1.0}
    sample = audit(replace(both, candidate=paid), JOB)
    assert set(sample.candidate) == {0.0} and set(sample.release) <= {1.0}


def test_the_probe_reads_what_is_there() -> None:
    """Logistic data: a probe fitted to half of it knows the other half nearly as well as who knows the truth. The
    difference is below 0.03 for this fixed seed."""
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(800, 8)), np.array([2.0, -2, 1, 0, 0, 0, 0, 0])
    chance = expit(x @ weights)
    y = (rng.random(800) < chance).astype(float)
    said = predicted(x, y, [f"task{i}" for i in range(800)])
    assert np.mean((said - y) ** 2) - np.mean((chance - y) ** 2) < 0.03
    assert np.mean((said - y) ** 2) < np.mean((y.mean() - y) ** 2) - 0.05
    assert ask(fit(x, y), x[:3]).shape == (3,)
    assert predicted(x[:1], y[:1], ["a"]).tolist() == [y[0]]  # nothing to fit


def test_states_are_those_before_the_answer(model: LoadedModel) -> None:
    played = player(model).play(JOB, list(JOB.tasks("test", 3)))
    found = states(model.model, played)
    for row, t in zip(found, played, strict=True):
        alone = model.model.hidden(torch.tensor(t.tokens[: t.prompt_length])[None].long())
        assert np.allclose(row, alone[0, -1].detach().numpy(), atol=1e-4)


def test_an_examination_ends_when_the_gate_is_sure(model: LoadedModel) -> None:
    """Against itself, every claim but "better" is shown sooner or later; against a mute one, ability is refuted."""
    config = ExaminationConfig(tasks=60, rounds=4, beside=10, tries=1, parts=100)
    gate = GateConfig(
        **dict.fromkeys(("ability", "calibration", "inside", "abstention", "audit", "rules"), 0.3),
        search=0.9,
        drift=0.9,
        demands=("ability", "audit", "inside", "drift", "calibration", "abstention"),
    )
    ours, theirs = player(model), player(replace(model, model=copy.deepcopy(model.model)))
    subject = Subject(JOB, rules=(Rule("no !", "!{9}"),))
    examination = Examination(ours, theirs, [subject], config, gate)
    judgements = list(examination.rounds())
    assert judgements[-1].verdict is Verdict.PASS and all(j.verdict is Verdict.INCONCLUSIVE for j in judgements[:-1])
    assert examination.episodes == 2 * 60 * len(judgements)

    class Mute(Player):
        def play(self, *given: object, **named: object) -> list:  # type: ignore[type-arg, override]
            spoken = super().play(*given, **named)  # type: ignore[arg-type]
            return [replace(t, outcome=replace(t.outcome, reward=0.0)) for t in spoken]

    class Able(Player):
        def play(self, *given: object, **named: object) -> list:  # type: ignore[type-arg, override]
            spoken = super().play(*given, **named)  # type: ignore[arg-type]
            return [replace(t, outcome=replace(t.outcome, reward=1.0)) for t in spoken]

    worse = Examination(Mute(model, slots=64, context=64), Able(model, slots=64, context=64), [subject], config, gate)
    (judgement,) = worse.rounds()
    assert judgement.verdict is Verdict.FAIL and judgement.of(Verdict.FAIL)[0].aspect == "ability"
    assert right(player(model).play(JOB, [JOB.task("test", 0)])[0]) in (0.0, 1.0)
