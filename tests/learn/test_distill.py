"""Distillation: the divergence by hand, each prompt to its own teacher, and a student that comes to its teacher."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from journeyman.amalgamate import Cost, cost, distill, jobs_of
from journeyman.errors import UsageError
from journeyman.learn.batch import collate
from journeyman.learn.distill import DistillConfig, add_divergence, pull
from journeyman.learn.learner import Learner, UpdateConfig
from journeyman.learn.losses import divergence
from journeyman.learn.losses.divergence import Direction, divergence_loss
from journeyman.learn.optimizer import OptimizerConfig
from journeyman.learn.school import SchoolConfig
from journeyman.model.decoder import Decoder, DecoderConfig
from journeyman.model.load import LoadedModel, load, save
from journeyman.model.value import ValueConfig, ValueFunction
from journeyman.types import Task, Trajectory
from tests.learn.helpers import make_trajectory

RNG = np.random.default_rng(0)


def make_policy(seed: int, width: int = 16) -> Decoder:
    torch.manual_seed(seed)
    return Decoder(DecoderConfig.tiny(16, width=width, layers=2, heads=2, positions=64))


def make_learner(seed: int = 0, config: UpdateConfig | None = None) -> Learner:
    return Learner.start(make_policy(seed), None, config or UpdateConfig(precision="float32"))


def episodes(job: str, count: int = 4) -> list[Trajectory]:
    made = [make_trajectory([0.0] * (6 + i), [(2, 5 + i)], [1.0], group=f"{job}{i}") for i in range(count)]
    stride = 3 if job == "b" else 1
    tokens = [(np.arange(len(t)) * stride % 16).astype(np.int32) for t in made]
    return [replace(t, id=f"{job}{i}", task=Task(job, "train", i, ()), tokens=tokens[i]) for i, t in enumerate(made)]


def gradient(learner: Learner) -> Tensor:
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in learner.policy.parameters()]
    return torch.cat([g.flatten() for g in grads]).clone()


@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_the_divergence_and_its_gradient_are_the_formulas(
    direction: Direction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(divergence, "PIECE", 2)  # of five states: cut into three
    hidden = torch.randn(5, 3, requires_grad=True)
    head, theirs, their_head = torch.randn(4, 3), torch.randn(5, 2), torch.randn(4, 2)
    temperature = torch.tensor([1.0, 1.0, 0.5, 1.0, 2.0])
    total, metrics = divergence_loss(hidden, head, theirs, their_head, temperature, direction)
    total.backward()
    logits = (hidden.detach() @ head.T / temperature[:, None]).requires_grad_(True)
    pi, q = logits.softmax(-1), (theirs @ their_head.T / temperature[:, None]).softmax(-1)
    a, b = (pi, q) if direction == "reverse" else (q, pi)
    wanted = (a * (a.log() - b.log())).sum()
    wanted.backward()
    assert logits.grad is not None and hidden.grad is not None
    torch.testing.assert_close(total, wanted)
    torch.testing.assert_close(hidden.grad, logits.grad @ head / temperature[:, None])
    assert metrics["divergence"] == pytest.approx(float(wanted.detach()), rel=1e-5)


def test_nothing_diverges_from_itself() -> None:
    learner = make_learner()
    found = add_divergence(learner, episodes("a"), {"a": copy.deepcopy(learner.policy)}, "reverse")
    assert abs(found) < 1e-5 and float(gradient(learner).abs().max()) < 1e-5


def test_each_prompt_has_its_own_teacher_and_jobs_count_alike_however_batches_are_cut() -> None:
    first, second = make_policy(1), make_policy(2, width=32)  # a teacher may be of another size
    played = [*episodes("a"), *episodes("b", 2)]
    whole, apart = make_learner(), make_learner(config=UpdateConfig(precision="float32", token_budget=8))
    total = add_divergence(whole, played, {"a": first, "b": second}, "reverse")
    parts = add_divergence(apart, episodes("a"), {"a": first}, "reverse", 0.5)
    parts += add_divergence(apart, episodes("b", 2), {"b": second}, "reverse", 0.5)
    assert total == pytest.approx(parts / 2, rel=1e-4)
    torch.testing.assert_close(gradient(whole), gradient(apart), rtol=1e-3, atol=1e-6)
    swapped = make_learner()
    add_divergence(swapped, played, {"a": second, "b": first}, "reverse")
    assert not torch.allclose(gradient(whole), gradient(swapped), rtol=0.1)


def test_a_student_comes_to_its_teacher() -> None:
    config = UpdateConfig(policy=OptimizerConfig(learning_rate=1e-2), precision="float32")
    learner, teacher = make_learner(config=config), make_policy(1)
    teacher.model.embed_tokens.weight.data.mul_(20)  # a fresh model says everything alike; this one has opinions
    found = [pull(learner, episodes("a", 8), {"a": teacher}, 2, RNG)["policy/divergence"] for _ in range(40)]
    assert found[-1] < 0.2 * found[0]
    assert learner.version == 40 and learner.updates == 80


def test_fewer_episodes_than_minibatches_are_as_far_from_their_teacher() -> None:
    config = UpdateConfig(policy=OptimizerConfig(learning_rate=1e-9), precision="float32")
    played, teachers = episodes("a", 2), {"a": make_policy(1)}
    few, many = (pull(make_learner(config=config), played, teachers, parts, RNG) for parts in (2, 8))
    assert many == pytest.approx(few)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The apprentice with a V that knows nothing: it finds its way in small mazes half of the time."""
    folder, apprentice = tmp_path_factory.mktemp("teacher") / "model", load("apprentice")
    value = ValueFunction.start(ValueConfig(), apprentice.model)
    save(folder, apprentice.model, apprentice.tokenizer, value)
    return folder


def test_a_small_student_is_shown_then_graded(teacher: Path, tmp_path: Path) -> None:
    config = DistillConfig(steps=2, tasks=8, watched=16, school=SchoolConfig(updates=3, batch=8))
    job, out = "maze,size=3", tmp_path / "student"
    records = list(distill({job: teacher}, out, "tiny,width=16,layers=1,heads=2", config))
    assert [r["kind"] for r in records] == ["school"] * 3 + ["distill"] * 2
    assert records[-1].keys() >= {"policy/divergence", "value/loss", f"{job}/success"}
    student = load(out)
    assert student.value is not None, "a teacher with a V has students with one"
    found = cost(student, job)
    known = cost(load(teacher), job)
    assert isinstance(found, Cost) and found.parameters < known.parameters / 20
    assert known.gflop == pytest.approx(2e-9 * known.parameters * known.tokens)
    with pytest.raises(UsageError, match="exists and is not an empty folder"):
        list(distill({job: teacher}, out, "tiny,width=16", config))


def test_distillation_follows_from_its_seed(teacher: Path, tmp_path: Path) -> None:
    config = DistillConfig(steps=1, tasks=4, watched=0)

    def student(name: str, seed: int) -> LoadedModel:
        list(distill({"maze,size=3": teacher}, tmp_path / name, "apprentice", config, seed))
        return load(tmp_path / name)

    def weights(model: LoadedModel) -> Tensor:
        return torch.cat([p.flatten() for p in model.model.parameters()])

    first, same, other = student("first", 3), student("same", 3), student("other", 4)
    assert torch.equal(weights(first), weights(same)) and not torch.equal(weights(first), weights(other))


def test_who_teaches_what_is_known_or_said() -> None:
    assert jobs_of(["a", "b"], ["maze,size=6", "hops"]) == {"maze": "a", "hops": "b"}
    for models, jobs, says in (
        (["a", "b"], ["maze"], "1 jobs for 2 models"),
        (["a", "b"], ["maze", "maze,size=6"], "a and b both teach maze"),
        (["nowhere"], [], "not known what nowhere is a specialist of"),
    ):
        with pytest.raises(UsageError, match=says):
            jobs_of(models, jobs)


def test_a_batch_of_nothing_is_a_function_of_the_states() -> None:
    batch = collate([replace(episodes("a")[0], mask=np.zeros(6, bool))])
    learner = make_learner()
    loss, _ = divergence_loss(
        learner.states(learner.policy, batch), learner.policy.head, torch.zeros(0, 4), torch.zeros(16, 4), torch.ones(0)
    )
    loss.backward()
    assert float(loss.detach()) == 0
