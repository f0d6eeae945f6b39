"""Tiny random models of every family, as `transformers` makes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from journeyman.engine.base import Sampling
from journeyman.engine.native import NativeEngine
from journeyman.model.decoder import Decoder

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "llama": {"model_type": "llama", "tie_word_embeddings": False},
    "llama-llama3-rope": {"model_type": "llama", "rope_parameters": LLAMA3_ROPE},
    "llama-linear-rope": {
        "model_type": "llama",
        "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    },
    "llama-yarn": {"model_type": "llama", "rope_parameters": YARN},
    "llama-biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "smollm2": {"model_type": "llama", "tie_word_embeddings": True, "rms_norm_eps": 1e-5},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": False},
    "qwen2-tied": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen2-window": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 5,
        "max_window_layers": 1,
    },
    "qwen3": {"model_type": "qwen3", "head_dim": 20, "tie_word_embeddings": True},
    "qwen3-bias": {
        "model_type": "qwen3",
        "head_dim": 6,
        "attention_bias": True,
        "tie_word_embeddings": False,
    },
    "mistral": {"model_type": "mistral", "sliding_window": None, "tie_word_embeddings": False},
    "mistral-window": {"model_type": "mistral", "sliding_window": 5, "head_dim": 10},
}


def random_model(variant: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A model of a random tiny shape, every tensor (norms and biases, too) drawn at random."""
    rng = np.random.default_rng(seed)
    kv_heads = int(rng.choice([1, 2, 3]))
    heads = kv_heads * int(rng.choice([1, 2, 3]))
    shape = {
        "vocab_size": int(rng.integers(50, 120)),
        "hidden_size": heads * int(rng.choice([4, 8, 12])),
        "intermediate_size": int(rng.integers(20, 60)),
        "num_hidden_layers": int(rng.integers(2, 4)),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 64,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    config = AutoConfig.for_model(**{**shape, **VARIANTS[variant], **changes})
    return randomized(AutoModelForCausalLM.from_config(config, dtype=torch.float32), seed)


def randomized(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.3 * noise if "norm" in name and parameter.dim() == 1 else 0.15 * noise)
    return model.eval()


def random_tokens(model: PreTrainedModel, rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(model.config.vocab_size, (rows, length), generator=torch.Generator().manual_seed(seed))


def greedy(model: Decoder, prompt: list[int], count: int) -> list[int]:
    """The most likely continuation, the whole sequence read again for each token."""
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            tokens.append(int(model.logits(model.hidden(torch.tensor([tokens]))[0, -1]).argmax()))
    return tokens[len(prompt) :]


def engine_greedy(model: Decoder, prompt: list[int], count: int) -> list[int]:
    """The most likely continuation by the engine, with its cache."""
    engine = NativeEngine(model, slots=2, context=len(prompt) + count)
    engine.submit(engine.open(seed=0), prompt, Sampling(temperature=0.0, max_tokens=count))
    replies = []
    while not replies:
        replies = engine.step()
    return list(replies[0].tokens)
