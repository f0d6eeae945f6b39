"""Tensors from a checkpoint's files into a decoder, every one accounted for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from journeyman.errors import CheckpointError
from journeyman.model.decoder import Decoder, DecoderConfig, Rotary

STALE = ("rotary_emb.inv_freq", "masked_bias", "attn.bias")
"""Tensors in old checkpoints that are computed, not learned."""

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def fill(config: DecoderConfig, tensors: Mapping[str, Tensor], dtype: torch.dtype, *, source: Path) -> Decoder:
    """A decoder with a copy of these weights, on the CPU.

    As `transformers` does: a checkpoint saved without its head is one of the body; and a head that differs
    from the embedding it should be tied to stands for itself.

    Raises:
        CheckpointError: a tensor is missing, misshapen, holds NaN or infinity, or has no place in the model.
    """
    state = {name: tensor for name, tensor in tensors.items() if not name.endswith(STALE)}
    if "embed_tokens.weight" in state:
        state = {f"model.{name}": tensor for name, tensor in state.items()}
    head, embedding = state.get(HEAD), state.get(EMBEDDING)
    if config.tied and head is not None:
        if embedding is None:
            state[EMBEDDING] = head
        elif not torch.equal(head, embedding):
            config = replace(config, tied=False, hf={**config.hf, "tie_word_embeddings": False})
    decoder = _bare(config)
    wanted = decoder.state_dict()
    _check(state, wanted, source)
    # Copies: what a file maps into memory is not aligned, and the last bits of a matrix product depend on it.
    decoder.load_state_dict({name: state[name].to(dtype, copy=True) for name in wanted}, assign=True)
    return decoder


def _bare(config: DecoderConfig) -> Decoder:
    """A decoder without weights: neither their memory nor the time to initialize them."""
    with torch.device("meta"):
        decoder = Decoder(replace(config, rope={"rope_type": "default", "rope_theta": 1.0}))
    decoder.config = decoder.model.config = config
    decoder.model.rotary = Rotary(config)
    return decoder


def _check(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: Path) -> None:
    problems = [f"{name} is missing" for name in wanted if name not in state]
    for name, tensor in state.items():
        if name not in wanted:
            if name.startswith("model."):
                problems.append(f"{name} has no place in the model")
        elif tensor.shape != wanted[name].shape:
            problems.append(f"{name} has shape {list(tensor.shape)}, not {list(wanted[name].shape)}")
        elif not tensor.sum(dtype=torch.float32).isfinite():  # 20 times faster than to look at each value
            problems.append(f"{name} holds values that are not finite numbers")
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(
            f"the weights in {source} do not fit their configuration",
            reason="; ".join(problems[:3]) + more,
            fix="put back the config.json the weights were saved with, or copy the checkpoint again",
        )


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, from one file or from several with an index.

    Raises:
        CheckpointError: there are none, or a file is missing or damaged.
    """
    for stem, suffix in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        index, single = folder / f"{stem}{suffix}.index.json", folder / f"{stem}{suffix}"
        if not index.exists() and not single.exists():
            continue
        names = [single.name]
        if index.exists():
            try:
                names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise _damaged(index, error) from error
        state: dict[str, Tensor] = {}
        for name in names:
            state.update(_read_file(folder / name))
        return state
    raise CheckpointError(
        f"{folder} has no weights",
        reason="it holds neither model.safetensors nor an index of several files",
        fix="copy or download the checkpoint again",
    )


def _read_file(file: Path) -> dict[str, Tensor]:
    if not file.exists():
        raise CheckpointError(
            f"{file} is missing", reason="the index names it", fix="copy or download the checkpoint again"
        )
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        return dict(torch.load(file, map_location="cpu", weights_only=True, mmap=True))
    except Exception as error:  # SafetensorError, UnpicklingError, EOFError, RuntimeError, ...
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{file} is damaged", reason=str(error), fix="copy or download the checkpoint again")


def weights_digest(model: Decoder) -> str:
    """sha256 of all weights, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
