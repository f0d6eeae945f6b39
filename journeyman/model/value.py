"""The value function: from a prefix, the expected final outcome.

Three places to put it (`ValueConfig.placement`):

    twin     a trunk of its own, started as a copy of the policy's: strongest, twice the compute
    head     a head on the policy's hidden states, whose gradient stops there: nearly free
    shared   the same head with the gradient going through: the policy's trunk learns to know, too

and three ways to say an expectation (`ValueConfig.target`):

    bernoulli   one logit for outcomes in [low, high]; for 0/1 outcomes it is the exact likelihood
    two_hot     a histogram, the return split between its two nearest bins (1707.06887; 2301.04104, eq. 9)
    hl_gauss    a histogram, the return smeared by a Gaussian of 0.75 bin widths (2403.03950, section 3.1)

Shapes: N flat tokens, D hidden, F features of what is heard, C outputs of the head (1, or the number of bins).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from journeyman.errors import CheckpointError, UsageError
from journeyman.model.decoder import Decoder, DecoderConfig, Packed, Trunk
from journeyman.model.lora import plain_copy
from journeyman.types import FloatArray

HEARD = 3
"""Features of :func:`heard`."""


@dataclass(frozen=True)
class ValueConfig:
    """Where the value function lives and what it predicts."""

    placement: Literal["twin", "head", "shared"] = "twin"
    target: Literal["bernoulli", "two_hot", "hl_gauss"] = "bernoulli"
    low: float = 0.0
    """The least return a task can give."""
    high: float = 1.0
    """The greatest return a task can give."""
    bins: int = 51
    """Bins of the histogram targets."""
    hears: bool = True
    """Whether V is told, beside each token, how likely the policy found what it sampled so far: see :func:`heard`."""

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise UsageError(f"value: low must be below high, got {self.low} and {self.high}")
        if self.bins < 2:
            raise UsageError(f"value: bins must be at least 2, got {self.bins}")


def heard(logprobs: FloatArray) -> FloatArray:
    """How sure the policy was, until each token of an episode: float32 [T, HEARD].

    The log-probability of the token itself (0 where it was not sampled), a quarter of their sum so far, and the
    least of them so far. A policy that says something against its own habit says it with a low probability: that is
    on record, and tells V sooner than the words do (docs/value.md has the figures).

    Args:
        logprobs: [T], of what it sampled, at the temperature it was sampled at; 0 where it sampled nothing.
    """
    own = logprobs.astype(np.float32)
    return np.stack([own, np.cumsum(own) / 4, np.minimum.accumulate(own)], 1).astype(np.float32)


class ValueFunction(nn.Module):
    """V(prefix) for every prefix of a sequence at once."""

    support: Tensor

    def __init__(self, config: ValueConfig, decoder: DecoderConfig, trunk: Trunk | None) -> None:
        super().__init__()
        if (trunk is None) == (config.placement == "twin"):
            raise ValueError("a twin has a trunk of its own, the other placements have none")
        self.config = config
        self.trunk = trunk
        self.head = nn.Linear(decoder.hidden_size, 1 if config.target == "bernoulli" else config.bins)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.ear = nn.Linear(HEARD, decoder.hidden_size, bias=False) if config.hears else None
        if self.ear is not None:
            nn.init.zeros_(self.ear.weight)
        self.register_buffer("support", torch.linspace(config.low, config.high, config.bins), persistent=False)

    @staticmethod
    def start(config: ValueConfig, policy: Decoder) -> ValueFunction:
        """A value function that knows nothing yet; a twin starts from the policy's trunk."""
        trunk = plain_copy(policy.model) if config.placement == "twin" else None
        return ValueFunction(config, policy.config, trunk)

    def forward(self, packed: Packed, policy: Decoder, heard_NF: Tensor) -> Tensor:
        """Head outputs [N, C] after reading each token; `policy` is read unless this is a twin."""
        return self.judge(self.states(packed, policy, heard_NF))

    def states(self, packed: Packed, policy: Decoder, heard_NF: Tensor) -> Tensor:
        """Hidden states [N, D] that the head reads; without a gradient into a policy that is only listened to.

        A twin hears beside each token that it reads; the others, whose trunk is the policy's, after it.
        """
        told = None if self.ear is None else self.ear(heard_NF)
        if self.trunk is not None:
            return self.trunk.packed(packed, told)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.placement != "head"):
            states = policy.model.packed(packed)
        return states if told is None else states + told

    def judge(self, states: Tensor) -> Tensor:
        """Head outputs [..., C], float32, of hidden states [..., D]."""
        return self.head(states).float()

    def expectation(self, outputs: Tensor) -> Tensor:
        """Expected return [...] of head outputs [..., C]."""
        c = self.config
        if c.target == "bernoulli":
            return c.low + (c.high - c.low) * outputs.squeeze(-1).sigmoid()
        return outputs.softmax(-1) @ self.support

    def loss(self, outputs: Tensor, returns: Tensor) -> Tensor:
        """Cross-entropy [...] of head outputs [..., C] against returns [...], clipped to [low, high]."""
        c = self.config
        returns = returns.clamp(c.low, c.high)
        if c.target == "bernoulli":
            share = (returns - c.low) / (c.high - c.low)
            return F.binary_cross_entropy_with_logits(outputs.squeeze(-1), share, reduction="none")
        target = self._two_hot(returns) if c.target == "two_hot" else self._hl_gauss(returns)
        return -(target * outputs.log_softmax(-1)).sum(-1)

    def _two_hot(self, returns: Tensor) -> Tensor:
        position = (returns - self.config.low) / (self.support[1] - self.support[0])
        below = position.floor().clamp(0, self.config.bins - 2)
        weight = (position - below).unsqueeze(-1)
        lower = F.one_hot(below.long(), self.config.bins)
        return lower * (1 - weight) + lower.roll(1, -1) * weight

    def _hl_gauss(self, returns: Tensor) -> Tensor:
        width = self.support[1] - self.support[0]
        edges = torch.cat([self.support - width / 2, self.support[-1:] + width / 2])
        scaled = (edges - returns.unsqueeze(-1)) / (0.75 * width * 2**0.5)
        mass = torch.erf(scaled).diff(dim=-1)
        return mass / mass.sum(-1, keepdim=True)

    def save(self, folder: Path) -> None:
        """Write `value.safetensors` and `value.json` into the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in self.state_dict().items()}, folder / "value.safetensors")
        (folder / "value.json").write_text(json.dumps(asdict(self.config), indent=2))

    @staticmethod
    def load(folder: Path, policy: Decoder) -> ValueFunction:
        """Read back what :meth:`save` wrote.

        Raises:
            CheckpointError: the files are missing, damaged, or belong to another model's shape.
        """
        try:
            kept: dict[str, Any] = {"hears": False, **json.loads((folder / "value.json").read_text())}
            config = ValueConfig(**kept)
            value = ValueFunction.start(config, policy)
            value.load_state_dict(load_file(folder / "value.safetensors"))
        except Exception as error:
            raise CheckpointError(
                f"no usable value function in {folder}",
                reason=str(error),
                fix="start learning with a fresh one",
            ) from error
        return value
