"""Low-rank adapters (LoRA, 2106.09685): the policy's matrices stay as they are, and small ones beside them learn.

An adapted projection's `weight` evaluates to W + (alpha / rank) B A (section 4.1). W [outputs, inputs] is frozen,
A [rank, inputs] begins random and B [outputs, rank] zero, so that learning begins at the model itself. Whoever reads
`weight` sees the sum: the trainer, the engine's `load`, and `state_dict`, whose names stay Hugging Face's. The sum
costs rank x inputs x outputs a forward pass, nothing beside the product with thousands of tokens.

A checkpoint has the sum, as any other; A and B lie beside it in `adapter/`, named as peft names them.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from journeyman.errors import CheckpointError, UnknownName, UsageError
from journeyman.model.decoder import Decoder, Layer

Target = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TARGETS: tuple[Target, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

PREFIX = "base_model.model."
"""What peft puts before a module's name."""

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class LoRAConfig:
    """Which matrices get adapters, and how large they are."""

    rank: int
    """Inner width of the adapters. 16 is plenty for trial and error, which tells little in each episode."""
    alpha: float = 32.0
    """What B A is multiplied by, before it is divided by the rank. A change acts like one of the learning rate."""
    targets: tuple[Target, ...] = TARGETS
    """The projections of each layer that are adapted; all of them do better than those of attention alone."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UsageError(
                f"lora: rank must be at least 1, got {self.rank}",
                reason="it is the inner width of the adapters",
                fix="give one such as 16, or no lora at all to learn all weights",
            )
        if not 0 < self.alpha < float("inf"):
            raise UsageError(
                f"lora: alpha must be a number above 0, got {self.alpha}",
                reason="adapters times 0 change nothing, and a negative sign only turns them around",
                fix="give one such as 32",
            )
        for target in self.targets:
            if target not in TARGETS:
                raise UnknownName("projection for lora", target, TARGETS, fix=f"choose from {', '.join(TARGETS)}")
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise UsageError(
                f"lora: targets must name at least one projection, and each once, got {list(self.targets)}",
                reason="without one nothing would learn, and a projection has one adapter",
                fix=f"choose from {', '.join(TARGETS)}",
            )

    def check(self, policy: Decoder) -> None:
        """Make sure that the policy can be adapted this way.

        Raises:
            UsageError: it is not a decoder of ours, or the rank is above a matrix's smaller side.
        """
        if type(policy) is not Decoder:
            raise UsageError(
                f"lora: a model of the family {policy.config.family!r} cannot be adapted",
                reason="transformers computes it, and its layers are not known here",
                fix="leave lora out, or take a model of the Llama, Mistral or Qwen families",
            )
        for target in self.targets:
            side = min(_projection(policy.model.layers[0], target)[1].weight.shape)
            if self.rank > side:
                raise UsageError(
                    f"lora: rank {self.rank} is above the smaller side of {target}, {side}",
                    reason="a matrix has no higher rank than its smaller side",
                    fix=f"give a rank of at most {side}; far less is usual",
                )


class Adapted(nn.Linear):
    """A projection in training: see the module's head. Its bias, where it has one, is frozen as well."""

    def __init__(self, plain: nn.Linear, rank: int, alpha: float, generator: torch.Generator) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.alpha, self.scale = alpha, alpha / rank
        self.base = plain.weight.requires_grad_(False)
        self.bias = None if plain.bias is None else plain.bias.requires_grad_(False)  # pyright: ignore[reportUnnecessaryComparison]
        bound = plain.in_features**-0.5  # Kaiming's uniform with a = sqrt(5), as peft and torch's own Linear have it
        drawn = torch.empty(rank, plain.in_features).uniform_(-bound, bound, generator=generator)
        self.lora_A = nn.Parameter(drawn.to(self.base.device))
        self.lora_B = nn.Parameter(torch.zeros(plain.out_features, rank, device=self.base.device))

    @property
    def weight(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """W + (alpha / rank) B A, summed in float32 even where autocast has products in bfloat16."""
        with torch.autocast(self.base.device.type, enabled=False):
            a, b = self.lora_A.float(), self.lora_B.float()
            return torch.addmm(self.base.float(), b, a, alpha=self.scale).to(self.base.dtype)

    def merged(self) -> nn.Linear:
        """The same as an ordinary projection, none of its memory shared and all of it to be trained."""
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        linear.weight = nn.Parameter(self.weight.detach().clone())
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.detach().clone())
        return linear

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self.weight if keep_vars else self.weight.detach()
        if self.bias is not None:
            destination[f"{prefix}bias"] = self.bias if keep_vars else self.bias.detach()


def adapt(policy: Decoder, config: LoRAConfig, seed: int) -> None:
    """Freeze the policy and put adapters on its projections; what it computes stays the same.

    Args:
        seed: fixes what A begins with.

    Raises:
        UsageError: see :meth:`LoRAConfig.check`.
    """
    config.check(policy)
    if is_adapted(policy):
        raise ValueError("the policy has adapters already")
    generator = torch.Generator().manual_seed(seed)
    policy.requires_grad_(False)
    for layer in policy.model.layers:
        for target in config.targets:
            parent, linear = _projection(layer, target)
            setattr(parent, target, Adapted(linear, config.rank, config.alpha, generator))


def reset(policy: Decoder) -> None:
    """Let the adapters change nothing, as at their beginning: B is 0."""
    for module in policy.modules():
        if isinstance(module, Adapted):
            module.lora_B.data.zero_()


def is_adapted(module: nn.Module) -> bool:
    """Whether there are adapters anywhere in it."""
    return any(isinstance(inner, Adapted) for inner in module.modules())


def rate(width: int) -> float:
    """Times the learning rate that suits all weights: 3 at width 96, rising with its root to 10 from 1067 on.

    10 was measured best for large models at every size and task ("LoRA Without Regret", Schulman and Thinking Machines
    Lab, 2025), 3 for our tiny policy (docs/LOG.md); there 10 unlearns. Between them: A begins with entries that fall
    with the root of the width, so that an equal step of B moves a wider matrix's entries less. It does not depend on
    the rank, because the sum is divided by that.
    """
    return min(3.0 * (width / 96) ** 0.5, 10.0)


def plain_copy(module: M) -> M:
    """A copy for another purpose: adapters are merged in, and where there were any, all weights are to be trained."""
    copied = copy.deepcopy(module)
    if is_adapted(copied):
        for parent in list(copied.modules()):
            for name, child in parent.named_children():
                if isinstance(child, Adapted):
                    setattr(parent, name, child.merged())
        copied.requires_grad_(True)
    return copied


def _projection(layer: nn.Module, target: Target) -> tuple[nn.Module, nn.Linear]:
    """The projection of this name, and the block it is in."""
    layer = cast(Layer, layer)
    parent = layer.self_attn if hasattr(layer.self_attn, target) else layer.mlp
    return parent, getattr(parent, target)


# -- files -------------------------------------------------------------------------------------------------


def save_adapter(folder: Path, policy: Decoder) -> None:
    """Write A and B as peft does: `adapter_config.json` and `adapter_model.safetensors`.

    Not into the folder of the merged checkpoint itself: `transformers` would add them a second time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    one = next(module for module in policy.modules() if isinstance(module, Adapted))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": len(one.lora_A),
        "lora_alpha": one.alpha,
        "lora_dropout": 0.0,
        "target_modules": [
            name for name in TARGETS if isinstance(_projection(policy.model.layers[0], name)[1], Adapted)
        ],
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    tensors = {name: tensor.detach().contiguous() for name, tensor in _tensors(policy).items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def load_adapter(folder: Path, policy: Decoder, config: LoRAConfig) -> None:
    """Put on the policy what :meth:`save_adapter` wrote. The policy is the plain one that they were trained on.

    Raises:
        CheckpointError: the files are missing, damaged, or of another shape.
    """
    adapt(policy, config, 0)
    wanted = _tensors(policy)
    try:
        found = load_file(folder / "adapter_model.safetensors")
        wrong = [name for name in wanted.keys() | found.keys() if _shape(wanted, name) != _shape(found, name)]
        if wrong:
            raise ValueError(f"missing, of another shape or without a place: {', '.join(sorted(wrong)[:3])}")
    except Exception as error:  # SafetensorError, OSError, ...
        raise CheckpointError(
            f"no usable adapter in {folder}",
            reason=str(error),
            fix="continue from another checkpoint, or begin a new run",
        ) from error
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(found[name])


def _tensors(policy: Decoder) -> dict[str, Tensor]:
    """All A and B by their names in peft's files."""
    learned = ("lora_A", "lora_B")
    return {f"{PREFIX}{name}.weight": p for name, p in policy.named_parameters() if name.endswith(learned)}


def _shape(tensors: dict[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None
