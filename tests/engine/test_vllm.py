"""The vLLM engine: what it says of vLLM's failures, what it refuses, and how weights get there."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from journeyman.engine.base import Sampling
from journeyman.engine.vllm import VLLMEngine, draw_seed
from journeyman.errors import EngineError, UsageError
from journeyman.learn.importance import truncated_weights
from journeyman.model.auto import wrap
from journeyman.model.decoder import Decoder
from tests.engine import fake_vllm
from tests.engine.contract import CONTEXT, SLOTS, Bench, agrees, ask, expected, finish, make_model


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm.install(monkeypatch)


def start(model: Decoder | None = None, context: int = CONTEXT) -> tuple[VLLMEngine, fake_vllm.LLMEngine]:
    """The engine and the fake inside it."""
    engine = VLLMEngine(model or make_model(), slots=SLOTS, context=context, precision="float32")
    return engine, fake_vllm.LLMEngine.made


def test_without_vllm_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UsageError, match=r"pip install 'journeyman\[vllm\]'"):
        VLLMEngine(make_model())


@pytest.mark.usefixtures("fake")
class TestStart:
    def test_it_leaves_no_trace(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """vLLM in this process seeds its generators, and reads the configuration from a folder."""
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        model = make_model()
        before = random.getstate(), str(np.random.get_state()), torch.get_rng_state()
        start(model)
        assert random.getstate() == before[0]
        assert str(np.random.get_state()) == before[1]
        assert torch.equal(torch.get_rng_state(), before[2])
        assert list(tmp_path.iterdir()) == []

    def test_more_context_than_positions_is_refused(self) -> None:
        with pytest.raises(UsageError, match="256 positions the model has, got 257"):
            VLLMEngine(make_model(), context=257)
        assert start(context=256)[0].context == 256

    def test_other_families_are_refused(self) -> None:
        config: Any = AutoConfig.for_model(
            "gpt_neox", vocab_size=60, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
        )
        with pytest.raises(UsageError, match=r"'gpt_neox'\nWhy: it takes those of our own decoder: llama, mistral"):
            VLLMEngine(wrap(AutoModelForCausalLM.from_config(config)))

    def test_there_is_one_at_a_time(self) -> None:
        engine, inner = start()
        with pytest.raises(UsageError, match="a vLLM engine in this process already\nFix: shut it down"):
            start()
        sequence = engine.open(0)
        engine.submit(sequence, [1], Sampling())
        engine.shutdown()
        engine.shutdown()
        assert not engine.busy
        with pytest.raises(EngineError, match="this engine has ended\nWhy: it was shut down"):
            engine.step()
        engine.close(sequence)
        assert "step" in inner.failure, "vLLM's own engine still runs"
        start()

    @pytest.mark.parametrize("options", [{"slots": 0}, {"gpus": 0}, {"memory": 0.0}, {"memory": 1.0}])
    def test_impossible_options_are_refused(self, options: dict[str, float]) -> None:
        with pytest.raises(UsageError, match="must be"):
            VLLMEngine(make_model(), **options)  # pyright: ignore[reportArgumentType]

    def test_a_vllm_that_does_not_start_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(self: object, args: object) -> None:
            raise RuntimeError("no CUDA devices found")

        monkeypatch.setattr(fake_vllm.LLMEngine, "__init__", broken)
        with pytest.raises(EngineError, match="vLLM does not start\nWhy: RuntimeError: no CUDA devices found"):
            start()

    def test_untied_and_learned_families_arrive_whole(self) -> None:
        for changes in ({"tied": False}, {"qk_norm": True, "family": "qwen3"}, {"qkv_bias": True, "family": "qwen2"}):
            config = replace(make_model().config, **changes)
            if config.family != "llama":
                hf = config.to_hf().to_dict() | {"model_type": config.family}
                config = replace(config, hf={k: v for k, v in hf.items() if k != "architectures"})
            model = Decoder(config).requires_grad_(False)
            torch.nn.init.normal_(model.model.embed_tokens.weight)
            engine, _ = start(model)
            agrees(Bench(engine, model, 1e-4), [1, 2], ask(engine, engine.open(0), [1, 2], Sampling(max_tokens=8)))
            engine.shutdown()

    def test_weights_that_do_not_arrive_leave_room_for_another(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fake_vllm.LLMEngine, "reset_prefix_cache", lambda self, **_: False)
        with pytest.raises(EngineError, match="weights of version 0"):
            start()
        monkeypatch.undo()
        with pytest.raises(UsageError, match="needs vLLM"):  # and not: there is one already
            start()


@pytest.mark.usefixtures("fake")
class TestSampling:
    @pytest.mark.parametrize("temperature", [0.001, 2.5])
    def test_temperatures_that_vllm_changes_or_refuses(self, temperature: float) -> None:
        engine, inner = start()
        with pytest.raises(UsageError, match=f"temperature must be 0 or from 0.01 to 2.0, got {temperature}"):
            engine.submit(engine.open(0), [1], Sampling(temperature=temperature))
        assert not engine.busy and not inner.waiting

    def test_a_cut_distribution_is_refused(self) -> None:
        engine, _ = start()
        with pytest.raises(UsageError, match=r"top_p must be 1, got 0\.9"):
            engine.submit(engine.open(0), [1], Sampling(top_p=0.9))

    def test_an_empty_sequence_is_refused(self) -> None:
        engine, _ = start()
        with pytest.raises(UsageError, match="at least one token"):
            engine.submit(engine.open(0), [], Sampling())

    def test_slots_bound_what_is_sampled_at_once(self) -> None:
        engine, inner = start()
        for seed in range(3 * SLOTS):
            engine.submit(engine.open(seed), [seed], Sampling(max_tokens=3))
        finish(engine)
        assert inner.most_running == SLOTS

    def test_what_is_closed_is_not_sampled_any_more(self) -> None:
        engine, inner = start()
        first, second = engine.open(0), engine.open(1)
        engine.submit(first, [1], Sampling())
        engine.step()
        engine.submit(second, [1], Sampling())
        engine.close(first)
        engine.close(second)
        assert not engine.busy and not inner.running and not inner.waiting

    def test_what_was_refused_can_be_asked_again(self) -> None:
        engine, inner = start()
        sequence = engine.open(0)
        inner.failure["add_request"] = ValueError("the queue is full")
        with pytest.raises(EngineError, match="does not take a request\nWhy: ValueError: the queue is full"):
            engine.submit(sequence, [1, 2], Sampling())
        assert not engine.busy
        agrees(Bench(engine, make_model(), 1e-4), [1, 2], ask(engine, sequence, [1, 2], Sampling()))

    def test_a_failing_step_names_vllm_and_keeps_the_cause(self) -> None:
        engine, inner = start()
        engine.submit(engine.open(0), [1], Sampling())
        inner.failure["step"] = RuntimeError("CUDA error: an illegal memory access")
        with pytest.raises(EngineError, match="vLLM failed while sampling\nWhy: RuntimeError: CUDA error") as caught:
            engine.step()
        assert isinstance(caught.value.__cause__, RuntimeError)

    def test_a_reply_that_vllm_gives_up_is_no_reply(self) -> None:
        engine, inner = start()
        engine.submit(engine.open(0), [1], Sampling())
        inner.waiting[0].reason = "abort"
        with pytest.raises(EngineError, match="it ended by 'abort'"):
            finish(engine)


@pytest.mark.usefixtures("fake")
class TestLoad:
    def test_it_starts_with_the_models_weights_at_version_0(self) -> None:
        engine, inner = start()
        assert engine.version == 0
        assert torch.equal(inner.model.logits(torch.eye(128)), make_model().logits(torch.eye(128)))

    def test_weights_that_do_not_fit_change_nothing(self) -> None:
        engine, _ = start()
        other = Decoder(replace(make_model().config, intermediate_size=64))
        with pytest.raises(UsageError, match="do not fit"):
            engine.load(other, 1)
        assert engine.version == 0
        agrees(Bench(engine, make_model(), 1e-4), [1], ask(engine, engine.open(0), [1], Sampling()))

    def test_weights_that_arrive_in_part_are_never_sampled_from(self) -> None:
        engine, inner = start()
        sequence = engine.open(0)
        inner.failure["collective_rpc"] = RuntimeError("a worker died")
        with pytest.raises(EngineError, match="weights of version 4; it stays at 0\nWhy: RuntimeError: a worker died"):
            engine.load(make_model(1), 4)
        assert engine.version == 0
        for what in (
            lambda: engine.submit(sequence, [1], Sampling()),
            engine.step,
            lambda: engine.load(make_model(1), 5),
        ):
            with pytest.raises(EngineError, match="has ended\nWhy: version 4 did not arrive whole"):
                what()

    def test_a_cache_that_stays_is_a_failure(self, monkeypatch: pytest.MonkeyPatch) -> None:
        engine, inner = start()
        monkeypatch.setattr(inner, "reset_prefix_cache", lambda **_: False)
        with pytest.raises(EngineError, match="the prefix cache still holds"):
            engine.load(make_model(1), 1)
        assert engine.version == 0

    def test_a_reply_under_way_goes_on_with_the_new_weights(self) -> None:
        engine, _ = start()
        sequence, later = engine.open(3), make_model(1)
        engine.submit(sequence, [1, 2], Sampling(max_tokens=6))
        engine.step()
        engine.step()
        engine.load(later, 1)
        reply = finish(engine)[sequence]
        read = [1, 2, *reply.tokens]
        assert list(reply.logprobs[:2]) == pytest.approx(expected(make_model(), read)[1:3], abs=1e-4)
        assert list(reply.logprobs[2:]) == pytest.approx(expected(later, read)[3:], abs=1e-4)

    def test_the_trainers_next_update_does_not_reach_the_engine(self) -> None:
        model = make_model()
        engine, _ = start(model)
        with torch.no_grad():
            model.model.embed_tokens.weight.add_(1.0)
        agrees(Bench(engine, make_model(), 1e-4), [1], ask(engine, engine.open(0), [1], Sampling()))

    def test_several_gpus_get_them_through_the_host(self) -> None:
        engine = VLLMEngine(make_model(), slots=SLOTS, context=CONTEXT, gpus=2, precision="float32")
        assert fake_vllm.LLMEngine.made.args.tensor_parallel_size == 2
        agrees(Bench(engine, make_model(), 1e-4), [1], ask(engine, engine.open(0), [1], Sampling()))


def test_the_mismatch_of_a_rounded_engine_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 against float32: small, and not nothing."""
    fake_vllm.install(monkeypatch)
    check_mismatch(VLLMEngine(make_model(), slots=SLOTS, context=CONTEXT))


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_mismatch_of_vllm_itself_is_measured() -> None:
    pytest.importorskip("vllm")
    engine = VLLMEngine(make_model(), slots=SLOTS, context=CONTEXT, memory=0.2)
    check_mismatch(engine)
    engine.shutdown()


def check_mismatch(engine: VLLMEngine) -> None:
    model = make_model()
    engines, trainers = list[float](), list[float]()
    for seed in range(3 * SLOTS):
        engine.submit(engine.open(seed), [seed, 1], Sampling(max_tokens=20))
    for sequence, reply in finish(engine).items():
        engines += reply.logprobs
        trainers += expected(model, [sequence - 1, 1, *reply.tokens])[1:]
    weights, metrics = truncated_weights(torch.tensor(engines), torch.tensor(trainers))
    assert len(weights) == 3 * SLOTS * 20
    assert 1e-8 < metrics["mismatch/kl"] < 5e-3, metrics
    assert 1e-3 < metrics["mismatch/max"] < 0.5, metrics
    assert abs(metrics["mismatch/weight_mean"] - 1) < 0.02, metrics
    assert metrics["mismatch/truncated_share"] == 0


def test_draws_differ_by_seed_and_position() -> None:
    seeds = {draw_seed(seed, position) for seed in range(-50, 50) for position in range(100)}
    assert len(seeds) == 10_000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert draw_seed(5, 7) == draw_seed(5, 7)
    assert draw_seed(5, 7) == draw_seed(5 + 2**64, 7)  # seeds are taken modulo 2^64
