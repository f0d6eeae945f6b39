"""Learning by adapters: the same loop, fewer weights, the engine in step, and a run that continues exactly."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from journeyman import ExamConfig, LearnConfig, LoRAConfig, SchoolConfig, ValueConfig, learn
from journeyman.engine.base import Sampling
from journeyman.engine.native import NativeEngine
from journeyman.learn.batch import collate
from journeyman.learn.credit import CreditConfig
from journeyman.learn.learner import Learner, UpdateConfig
from journeyman.learn.losses.policy import PolicyLossConfig
from journeyman.learn.optimizer import OptimizerConfig
from journeyman.model.decoder import Decoder, DecoderConfig
from journeyman.model.load import load
from journeyman.model.lora import adapt, is_adapted, rate
from journeyman.run import read_lines
from tests.learn.helpers import make_trajectory

LORA = LoRAConfig(4)


def make_learner(
    placement: str | None = None, config: UpdateConfig | None = None, lora: LoRAConfig | None = LORA
) -> Learner:
    torch.manual_seed(0)
    policy = Decoder(DecoderConfig.tiny(16, width=32, layers=2, heads=2, positions=64))
    if lora is not None:
        adapt(policy, lora, 0)
    value = None if placement is None else ValueConfig(placement=placement)  # type: ignore[arg-type]
    return Learner.start(policy, value, config or UpdateConfig())


def update(learner: Learner, count: int = 2) -> dict[str, float]:
    ts = [make_trajectory([0.5] * (6 + i), [(3, 6 + i)], [float(i % 2)], group=f"g{i // 2}") for i in range(6)]
    advantages = [np.where(t.mask, t.outcome.reward - 0.5, 0).astype(np.float32) for t in ts]
    targets = [np.full(len(t), t.outcome.reward, np.float32) for t in ts]
    metrics: dict[str, float] = {}
    for number in range(count):
        rng = np.random.default_rng(number)
        metrics = learner.update_value(ts, targets, rng) | learner.update_policy(ts, advantages, rng)
    return metrics | learner.kl_reference(ts)


def changed(learner: Learner) -> set[str]:
    """Names of the policy's parameters that updates changed, by their last part."""
    fresh = make_learner()
    before = dict(fresh.policy.named_parameters())
    return {name.split(".")[-1] for name, p in learner.policy.named_parameters() if not torch.equal(p, before[name])}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_updates_move_the_adapters_alone(name: str, precision: str) -> None:
    config = UpdateConfig(
        policy=OptimizerConfig(name=name),  # type: ignore[arg-type]
        loss=PolicyLossConfig(kl=0.1),
        precision=precision,  # type: ignore[arg-type]
    )
    learner = make_learner(config=config)
    metrics = update(learner)
    assert changed(learner) == {"lora_A", "lora_B"}
    assert metrics["policy/kl_reference"] > 0
    assert learner.reference is not None and not is_adapted(learner.reference)
    assert not any(p.requires_grad for p in learner.reference.parameters())


@pytest.mark.parametrize(("placement", "moves"), [("twin", False), ("head", False), ("shared", True)])
def test_the_value_function_learns_beside_adapters(placement: str, moves: bool) -> None:
    """A twin learns whole, a head alone; where the trunk is shared, V moves the policy's adapters, and no more."""
    learner = make_learner(placement)
    value = learner.value
    assert value is not None
    before = [p.detach().clone() for p in value.parameters()]
    ts = [make_trajectory([0.5] * 6, [(3, 6)], [reward]) for reward in (0.0, 1.0)]
    targets = [np.full(6, t.outcome.reward, np.float32) for t in ts]
    for number in range(3):  # a head that is zero sends nothing back at first
        learner.update_value(ts, targets, np.random.default_rng(number))
    assert changed(learner) == ({"lora_A", "lora_B"} if moves else set())
    assert all(not torch.equal(a, b) for a, b in zip(before, value.parameters(), strict=True))
    assert np.isfinite(learner.score(ts)[0].values).all()


def test_learning_rates_are_larger_for_adapters() -> None:
    assert rate(96) == 3 and rate(576) == pytest.approx(7.35, abs=0.01) and rate(2048) == rate(4096) == 10
    times = rate(32)
    whole, adapters = make_learner("shared", lora=None), make_learner("shared")
    assert adapters.policy_optimizer.learning_rate == times * whole.policy_optimizer.learning_rate
    assert adapters.value_optimizer is not None and whole.value_optimizer is not None
    assert adapters.value_optimizer.learning_rate == pytest.approx(times * whole.value_optimizer.learning_rate)
    twin = make_learner("twin").value_optimizer
    assert twin is not None and twin.learning_rate == whole.value_optimizer.learning_rate
    given = make_learner(config=UpdateConfig(policy=OptimizerConfig(learning_rate=0.3)))
    assert given.policy_optimizer.learning_rate == 0.3


def test_the_optimizer_holds_no_more_than_adapters_need() -> None:
    learner = make_learner()
    update(learner)
    states = learner.policy_optimizer.optimizers[0].state.values()
    held = sum(state["exp_avg"].numel() for state in states)
    assert held == sum(p.numel() for n, p in learner.policy.named_parameters() if n.endswith(("lora_A", "lora_B")))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_engine_samples_with_what_the_learner_learns(precision: str) -> None:
    dtype = getattr(torch, precision)
    learner = make_learner(config=UpdateConfig(precision=precision))  # type: ignore[arg-type]
    engine = NativeEngine(learner.policy, slots=2, context=32, dtype=dtype)
    update(learner, 4)
    engine.load(learner.policy, 1)
    prompt = [1, 2, 3]
    engine.submit(engine.open(seed=0), prompt, Sampling(max_tokens=12))
    replies = []
    while not replies:
        replies = engine.step()
    tokens, told = list(replies[0].tokens), np.asarray(replies[0].logprobs)
    whole = make_trajectory([0.5] * (3 + len(tokens)), [(3, 3 + len(tokens))], [1.0])
    whole = replace(whole, tokens=np.asarray(prompt + tokens, np.int32))
    with torch.no_grad():
        ours, _ = learner.logprobs(learner.policy, collate([whole], device=torch.device("cpu")))
    assert np.abs(ours.numpy() - told).max() < (1e-5 if precision == "float32" else 0.02)


# -- a whole run -------------------------------------------------------------------------------------------

CONFIG = LearnConfig(
    jobs=("maze,size=3",),
    model="tiny,width=32,layers=2,heads=2",
    lora=LORA,
    steps=4,
    tasks=4,
    repeats=4,
    credit=CreditConfig(rule="gae"),
    school=SchoolConfig(demonstrations=20, updates=10),
    exam=ExamConfig(tasks=4, splits=("test",)),
    checkpoint_every=2,
    value_warmup=1,
    context=512,
    threads=1,
)
FILES = ("model.safetensors", "adapter/adapter_model.safetensors", "value/value.safetensors")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora") / "run"
    list(learn(CONFIG, folder))
    return folder


def test_a_run_learns_adapters_on_what_school_taught(run: Path) -> None:
    reference, final = load(run / "reference").model.state_dict(), load(run / "model").model.state_dict()
    moved = {name for name in final if not torch.equal(final[name], reference[name])}
    assert moved == {name for name in final if "_proj" in name}
    adapter = load_file(run / "model" / "adapter" / "adapter_model.safetensors")
    for name in moved:
        a, b = (adapter[f"base_model.model.{name.removesuffix('weight')}lora_{part}.weight"] for part in "AB")
        assert torch.allclose(final[name], reference[name] + 8.0 * b @ a, atol=1e-6)
    assert not (run / "reference" / "adapter").exists()
    assert read_lines(run / "metrics.jsonl")[-1]["policy/kl_reference"] > 0


@pytest.mark.parametrize("records", [5, 13, 14])
def test_interrupted_and_resumed_equals_uninterrupted(run: Path, tmp_path: Path, records: int) -> None:
    """Stopped in school; before the checkpoint of the second step, so back to the one after school; and after it."""
    learning = learn(CONFIG, tmp_path / "run")
    list(islice(learning, records))
    learning.close()  # type: ignore[attr-defined]
    list(learn(CONFIG, tmp_path / "run"))
    for file in FILES:
        mine, theirs = load_file(tmp_path / "run" / "model" / file), load_file(run / "model" / file)
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs), file
