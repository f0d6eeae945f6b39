"""Optimizers: AdamW for everything, or Muon for the matrices inside and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from journeyman.errors import UsageError


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights move."""

    name: Literal["adamw", "muon"] = "adamw"
    """muon orthogonalizes the updates of inner matrices (kellerjordan.github.io/posts/muon)."""
    learning_rate: float | None = None
    """Peak learning rate; when not given, by the model's width: see `fitted`."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    beta2: float = 0.99
    """Adam's second moment decay; RL's gradients change faster than pre-training's."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    warmup: int = 0
    """Updates during which the learning rate rises from 0."""

    def __post_init__(self) -> None:
        if self.learning_rate is not None and self.learning_rate <= 0:
            raise UsageError(f"learning_rate must be above 0, got {self.learning_rate}")

    def fitted(self, width: int, times: float = 1.0) -> OptimizerConfig:
        """Where no learning rate was given: `times` 5e-4 up to width 96, falling with its power 1.6 above.

        That is what measured best for a tiny policy, 3e-5 for SmolLM2-135M (width 576) and 1e-6, which is usual,
        for a model of seven billion (width 4096). `times` is above 1 for whatever bears more: V, schooling, and
        low-rank adapters (`rate` of model/lora.py).
        """
        if self.learning_rate is not None:
            return self
        return replace(self, learning_rate=times * 5e-4 * min(96 / width, 1) ** 1.6)


class Optimizer:
    """One or two torch optimizers behind one face, with warm-up and clipping."""

    def __init__(self, config: OptimizerConfig, modules: Iterable[nn.Module]) -> None:
        if config.learning_rate is None:
            raise ValueError("fit the configuration to a model's width first")
        self.config, self.learning_rate = config, config.learning_rate
        named = [(n, p) for m in modules for n, p in m.named_parameters() if p.requires_grad]
        self.parameters = [p for _, p in named]
        muon: list[nn.Parameter] = []
        if config.name == "muon":
            muon = [p for n, p in named if p.dim() == 2 and "embed" not in n and "head" not in n]
        inside = {id(p) for p in muon}
        rest = [p for p in self.parameters if id(p) not in inside]
        self.optimizers: list[torch.optim.Optimizer] = []
        if rest:
            betas = (0.9, config.beta2)
            self.optimizers.append(
                torch.optim.AdamW(rest, self.learning_rate, betas, weight_decay=config.weight_decay, fused=True)
            )
        if muon:
            self.optimizers.append(
                torch.optim.Muon(
                    muon,
                    self.learning_rate,
                    weight_decay=config.weight_decay,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        self.updates = 0

    def step(self, scale: float = 1.0) -> float:
        """Clip, move the weights at `scale` times the learning rate, clear the gradients.

        Returns:
            The gradient's norm before clipping.
        """
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm))
        self.updates += 1
        rise = min(1.0, self.updates / self.config.warmup) if self.config.warmup else 1.0
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * rise * scale
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        return {"updates": self.updates, "optimizers": [o.state_dict() for o in self.optimizers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
