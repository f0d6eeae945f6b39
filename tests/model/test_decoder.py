"""The decoder computes what `transformers` computes, in every family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from journeyman.errors import CheckpointError
from journeyman.model.decoder import DecoderConfig
from journeyman.model.weights import fill
from tests.model.families import VARIANTS, engine_greedy, greedy, random_model, random_tokens


def decoder_of(model):
    return fill(DecoderConfig.from_hf(model.config), model.state_dict(), torch.float32, source=Path("memory"))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_those_of_transformers(variant: str, seed: int) -> None:
    model = random_model(variant, seed)
    decoder = decoder_of(model)
    tokens_BT = random_tokens(model, rows=2, length=40, seed=seed)
    with torch.no_grad():
        theirs = model(input_ids=tokens_BT).logits
        ours = decoder.logits(decoder.hidden(tokens_BT))
    assert (ours - theirs).abs().max() < 1e-4
    assert theirs.abs().max() > 0.1  # else the comparison would mean nothing


@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_on_the_right_is_not_seen(variant: str) -> None:
    model = random_model(variant)
    decoder = decoder_of(model)
    tokens_BT = random_tokens(model, rows=1, length=20)
    padded = torch.cat([tokens_BT, torch.zeros(1, 9, dtype=torch.int64)], 1)
    with torch.no_grad():
        torch.testing.assert_close(decoder.hidden(padded)[:, :20], decoder.hidden(tokens_BT))


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "qwen2-window"])
def test_the_engine_continues_as_the_whole_sequence_would(variant: str) -> None:
    decoder = decoder_of(random_model(variant))
    prompt = [3, 1, 4, 1, 5, 9, 2, 6]
    assert engine_greedy(decoder, prompt, 20) == greedy(decoder, prompt, 20)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_configuration_survives_the_round_trip(variant: str) -> None:
    config = random_model(variant).config
    again = DecoderConfig.from_hf(DecoderConfig.from_hf(config).to_hf())
    assert again == DecoderConfig.from_hf(config)
    assert again.to_hf().to_diff_dict() == config.to_diff_dict()


def test_a_tiny_configuration_is_a_llama() -> None:
    config = DecoderConfig.tiny(300, width=32, layers=2, heads=2)
    again = DecoderConfig.from_hf(config.to_hf())
    assert (again.family, again.head_width, again.layers, again.tied) == ("llama", 16, 2, True)


@pytest.mark.parametrize(
    "change",
    [
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}},
        {"hidden_act": "gelu"},
    ],
)
def test_what_it_does_not_compute_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(CheckpointError):
        DecoderConfig.from_hf(AutoConfig.for_model("llama", **change))
