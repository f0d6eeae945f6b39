"""Other architectures, through `transformers`, behind the decoder's interface."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from journeyman.errors import CheckpointError
from journeyman.model.auto import AutoDecoder, wrap
from journeyman.model.decoder import Packed
from journeyman.model.load import load, save
from journeyman.model.value import HEARD, ValueConfig, ValueFunction
from tests.model.families import engine_greedy, greedy, random_tokens, randomized
from tests.model.templates import TEXTS, train_tokenizer

SHAPE = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
KINDS: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "gpt_neox": {},
    "phi": {},
    "gemma": {"head_dim": 8, "pad_token_id": 0},
    "olmo2": {},
    "granite": {"logits_scaling": 4.0, "attention_multiplier": 0.3},
    "cohere": {"logit_scale": 0.25},
    "mixtral": {"num_local_experts": 3},
    "llama": {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}},
    "gemma3_text": {
        "head_dim": 8,
        "pad_token_id": 0,
        "sliding_window": 5,
        "layer_types": ["sliding_attention"] * 2,
    },
}


def model_of(kind: str) -> PreTrainedModel:
    config = AutoConfig.for_model(kind, **{**SHAPE, **KINDS.get(kind, {})})
    return randomized(AutoModelForCausalLM.from_config(config, dtype=torch.float32), seed=0)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_gradients_and_sampling(kind: str) -> None:
    model = model_of(kind)
    tokens_BT = random_tokens(model, rows=2, length=20)
    theirs = model(input_ids=tokens_BT).logits
    theirs.logsumexp(-1).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    decoder = wrap(model)
    ours = decoder.logits(decoder.hidden(tokens_BT))
    assert (ours - theirs).abs().max() < 1e-4
    ours.logsumexp(-1).sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-3, rtol=1e-3)
    prompt = [3, 1, 4, 1, 5, 9, 2, 6]
    assert engine_greedy(decoder, prompt, 16) == greedy(decoder, prompt, 16)


@pytest.mark.parametrize("kind", ["gpt2", "mixtral"])
def test_in_and_out(kind: str, tmp_path: Path) -> None:
    model, tokenizer = model_of(kind), train_tokenizer(TEXTS, 300)
    model.save_pretrained(tmp_path / "theirs")
    tokenizer.save_pretrained(tmp_path / "theirs")
    loaded = load(tmp_path / "theirs")
    decoder = loaded.model
    assert isinstance(decoder, AutoDecoder)
    value = ValueFunction.start(ValueConfig(placement="twin"), decoder)
    torch.nn.init.normal_(value.head.weight)
    assert value.ear is not None
    torch.nn.init.normal_(value.ear.weight)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(1.1)
    tokens_BT = random_tokens(model, rows=1, length=12)
    heard_NF = torch.randn(12, HEARD)
    said = value(Packed.rows(tokens_BT), decoder, heard_NF)
    assert not torch.allclose(said, value(Packed.rows(tokens_BT), decoder, torch.zeros(12, HEARD)))
    save(tmp_path / "ours", decoder, loaded.tokenizer, value)
    again = load(tmp_path / "ours")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert theirs.config._attn_implementation != "journeyman"
    with torch.no_grad():
        expected = decoder.logits(decoder.hidden(tokens_BT))
        torch.testing.assert_close(theirs(input_ids=tokens_BT).logits, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(again.model.logits(again.model.hidden(tokens_BT)), expected)
    assert again.value is not None
    torch.testing.assert_close(again.value(Packed.rows(tokens_BT), again.model, heard_NF), said)


def test_parameters_are_listed_once_and_dropout_is_off() -> None:
    model = model_of("gpt2")
    count = len(list(model.parameters()))
    decoder = wrap(model).train()
    assert len(list(decoder.parameters())) == count
    tokens_BT = random_tokens(model, rows=1, length=12)
    assert torch.equal(decoder.hidden(tokens_BT), decoder.hidden(tokens_BT))


@pytest.mark.parametrize("kind", ["mamba", "bloom", "gemma2", "gpt_oss"])
def test_what_cannot_be_done_this_way_is_refused(kind: str) -> None:
    config = AutoConfig.for_model(kind, **{**SHAPE, "pad_token_id": 0})
    with pytest.raises(CheckpointError, match="cannot be run"):
        wrap(AutoModelForCausalLM.from_config(config))


def test_a_damaged_checkpoint(tmp_path: Path) -> None:
    model, tokenizer = model_of("gpt2"), train_tokenizer(TEXTS, 300)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data[:1000])
    with pytest.raises(CheckpointError, match="transformers cannot load"):
        load(tmp_path)
    state = {name: tensor for name, tensor in model.state_dict().items() if "ln_f" not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(CheckpointError, match=r"missing or of another shape: .*ln_f"):
        load(tmp_path)
