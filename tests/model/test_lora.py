"""Adapters: the base to begin with, its neighbour afterwards, and a plain checkpoint for everybody else."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from journeyman.engine.packed import PackedDecoder
from journeyman.errors import CheckpointError, UnknownName, UsageError
from journeyman.model.auto import wrap
from journeyman.model.decoder import Decoder, DecoderConfig, Packed
from journeyman.model.load import load, save
from journeyman.model.lora import TARGETS, LoRAConfig, adapt, is_adapted, load_adapter, plain_copy
from journeyman.model.tokenizer import train_tokenizer
from journeyman.model.value import HEARD, ValueConfig, ValueFunction
from journeyman.model.weights import fill
from tests.model.families import random_model

TOKENS = torch.arange(24).view(2, 12) % 16


HF = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}
THEIRS = random_model("qwen2", **HF)
"""Biases on queries, keys and values; fewer of the latter two than of the first."""


def base() -> Decoder:
    return fill(DecoderConfig.from_hf(THEIRS.config), THEIRS.state_dict(), torch.float32, source=Path())


def trained(policy: Decoder, updates: int = 3) -> Decoder:
    optimizer = torch.optim.Adam([p for p in policy.parameters() if p.requires_grad], 0.02)
    for _ in range(updates):
        logits(policy).log_softmax(-1)[..., 3].sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return policy


def logits(model: Decoder) -> torch.Tensor:
    return model.logits(model.hidden(TOKENS))


def adapted(config: LoRAConfig | None = None) -> Decoder:
    policy = base()
    adapt(policy, config or LoRAConfig(4), 0)
    return policy


def test_adapters_begin_at_the_base() -> None:
    assert torch.equal(logits(adapted()), logits(base()))


@pytest.mark.parametrize("targets", [TARGETS, ("q_proj", "v_proj"), ("down_proj",)])
def test_nothing_but_adapters_is_learned(targets: tuple[str, ...]) -> None:
    policy = adapted(LoRAConfig(4, targets=targets))  # type: ignore[arg-type]
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    trained(policy)
    changed = {name for name, p in policy.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {n for n in before if n.endswith(("lora_A", "lora_B"))}
    assert {name.split(".")[-2] for name in changed} == set(targets)
    assert (logits(policy) - logits(base())).abs().max() > 0.01


def test_the_weight_is_the_sum_and_so_are_its_gradients() -> None:
    policy = trained(adapted(LoRAConfig(4, alpha=6.0)))
    q = policy.model.layers[0].self_attn.q_proj
    assert torch.allclose(q.weight, q.base + 1.5 * q.lora_B @ q.lora_A, atol=1e-6)
    weight = q.weight.detach().requires_grad_()
    q.weight.square().sum().backward()
    weight.square().sum().backward()
    assert torch.allclose(q.lora_A.grad, 1.5 * q.lora_B.T @ weight.grad, atol=1e-5)
    assert torch.allclose(q.lora_B.grad, 1.5 * weight.grad @ q.lora_A.T, atol=1e-5)


def test_the_sum_is_float32_under_autocast() -> None:
    q = trained(adapted()).model.layers[0].self_attn.q_proj
    exact = q.weight
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(q.weight, exact)


def test_a_merged_copy_is_plain_and_shares_nothing() -> None:
    policy = trained(adapted())
    copied = plain_copy(policy)
    assert not is_adapted(copied) and is_adapted(policy)
    assert torch.equal(logits(copied), logits(policy))
    assert all(p.requires_grad for p in copied.parameters())
    assert [n for n, _ in copied.named_parameters()] == [n for n, _ in base().named_parameters()]
    mine = {p.data_ptr() for p in policy.parameters()}
    assert not mine & {p.data_ptr() for p in copied.parameters()}


def test_an_ordinary_copy_keeps_its_adapters() -> None:
    policy = trained(adapted())
    copied = copy.deepcopy(policy)
    before = logits(policy)
    assert torch.equal(logits(trained(copied)), logits(trained(policy)))
    assert not torch.equal(logits(policy), before)


def test_a_twin_starts_from_the_merged_trunk_and_learns_all_of_it() -> None:
    policy = trained(adapted())
    value = ValueFunction.start(ValueConfig(), policy)
    rows = Packed.rows(TOKENS)
    assert torch.equal(value.states(rows, policy, torch.zeros(len(rows.tokens), HEARD)), policy.model.packed(rows))
    assert not is_adapted(value) and all(p.requires_grad for p in value.parameters())


def test_an_engine_takes_the_sum() -> None:
    policy = trained(adapted())
    engine = PackedDecoder(adapted(), torch.float32)
    engine.load(policy)
    mlp, x = policy.model.layers[1].mlp, torch.randn(3, 32)
    for part, found in zip((mlp.gate_proj, mlp.up_proj), engine.layers[1].gate_up(x).split(48, 1), strict=True):
        assert torch.allclose(found, x @ part.weight.T, atol=1e-5)
        assert not torch.allclose(found, x @ part.base.T, atol=1e-3)


def test_a_checkpoint_is_merged_and_has_adapters_beside_it(tmp_path: Path) -> None:
    policy = trained(adapted(LoRAConfig(4, alpha=6.0, targets=("q_proj", "k_proj", "down_proj"))))
    save(tmp_path / "out", policy, train_tokenizer(["a b c"], 300))
    assert list(load_file(tmp_path / "out" / "model.safetensors")) == sorted(base().state_dict())
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert (theirs(TOKENS).logits - logits(policy)).abs().max() < 1e-5
    assert torch.equal(logits(load(tmp_path / "out").model), logits(policy))

    shapes = {name: tuple(t.shape) for name, t in load_file(tmp_path / "out/adapter/adapter_model.safetensors").items()}
    sides = {"self_attn.q_proj": (32, 32), "self_attn.k_proj": (16, 32), "mlp.down_proj": (32, 48)}
    wanted = {}
    for layer in range(2):
        for module, (outputs, inputs) in sides.items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            wanted |= {f"{name}.lora_A.weight": (4, inputs), f"{name}.lora_B.weight": (outputs, 4)}
    assert shapes == wanted
    config = json.loads((tmp_path / "out/adapter/adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 6.0)
    assert config["target_modules"] == ["q_proj", "k_proj", "down_proj"]


def test_adapters_come_back_exactly_on_their_base(tmp_path: Path) -> None:
    policy = trained(adapted())
    save(tmp_path / "out", policy, train_tokenizer(["a b c"], 300))
    again = base()
    load_adapter(tmp_path / "out" / "adapter", again, LoRAConfig(4))
    for (name, a), (other, b) in zip(policy.named_parameters(), again.named_parameters(), strict=True):
        assert name == other and torch.equal(a, b) and a.requires_grad == b.requires_grad


def test_adapters_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no usable adapter"):
        load_adapter(tmp_path, base(), LoRAConfig(4))
    save(tmp_path / "out", adapted(), train_tokenizer(["a b c"], 300))
    for config in (LoRAConfig(5), LoRAConfig(4, targets=("q_proj",))):
        with pytest.raises(CheckpointError, match=r"of another shape or without a place: base_model"):
            load_adapter(tmp_path / "out" / "adapter", base(), config)


def test_what_cannot_be_is_refused() -> None:
    for rank in (0, -3):
        with pytest.raises(UsageError, match=rf"rank must be at least 1, got {rank}(.|\n)*Why:(.|\n)*Fix:"):
            LoRAConfig(rank)
    with pytest.raises(UsageError, match=r"alpha must be a number above 0(.|\n)*Fix:"):
        LoRAConfig(4, alpha=0.0)
    with pytest.raises(UnknownName, match="did you mean q_proj"):
        LoRAConfig(4, targets=("q_prj",))  # type: ignore[arg-type]
    for targets in ((), ("q_proj", "q_proj")):
        with pytest.raises(UsageError, match="at least one projection, and each once"):
            LoRAConfig(4, targets=targets)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="rank 17 is above the smaller side of k_proj, 16"):
        adapt(base(), LoRAConfig(17), 0)
    with pytest.raises(UsageError, match=r"family 'gpt_neox' cannot be adapted(.|\n)*Why:(.|\n)*Fix:"):
        adapt(other_architecture(), LoRAConfig(4), 0)


def other_architecture() -> Decoder:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return wrap(GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=20, max_position_embeddings=16, **shape)))
