"""The clipped surrogate of PPO (1707.06347, eq. 7), with the upper clip apart (2503.14476, section 3.1).

    L = - sum_tokens  w * min(r A, clip(r, 1 - low, 1 + high) A)  -  entropy * H  +  kl * KL(pi || reference)

with r = pi(token) / pi_old(token), `pi_old` the engine's log-probability at sampling, and w = `negative` where A < 0,
else 1. The KL term is the
non-negative, low-variance estimate exp(d) - d - 1 with d = log reference - log pi (Schulman 2020, "k3").
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from journeyman.errors import UsageError


@dataclass(frozen=True)
class PolicyLossConfig:
    """The policy's loss."""

    clip_low: float = 0.2
    """The ratio is clipped below at 1 - clip_low."""
    clip_high: float = 0.28
    """The ratio is clipped above at 1 + clip_high; wider than below keeps rare tokens alive (2503.14476)."""
    negative: float | None = None
    """Weight of tokens whose advantage is below 0. To push down what went worse than expected does not say what would
    have been better, and takes from a policy that is nearly sure what it knows, above all where episodes are learned
    from again (2506.20520; 2503.14286). Not given: 1, the usual loss; 0.1 where V stands in for a group (config.py,
    `settled`)."""
    entropy: float = 0.0
    """Weight of the entropy bonus."""
    kl: float = 0.0
    """Weight of the KL to the reference (the model before learning)."""
    successes: float = 0.0
    """Weight of the log-likelihood of successful episodes (2504.05118, section 4.3)."""

    def __post_init__(self) -> None:
        if self.clip_low <= 0 or self.clip_high <= 0:
            raise UsageError(f"clips must be above 0, got {self.clip_low} and {self.clip_high}")
        if self.negative is not None and self.negative < 0:
            raise UsageError(
                f"loss: negative must be at least 0, got {self.negative}",
                reason="below 0 what went worse than expected would be learned",
                fix="0 learns from what went better alone, 1 from both alike",
            )


def policy_loss(
    config: PolicyLossConfig,
    *,
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    entropy: Tensor,
    reference_logprobs: Tensor | None = None,
    succeeded: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Sum of the loss over tokens. All tensors are [tokens sampled].

    Returns:
        The sum, and sums over tokens of what docs/metrics.md defines.
    """
    if config.negative is not None:
        advantages = torch.where(advantages < 0, config.negative * advantages, advantages)
    log_ratio = logprobs - old_logprobs
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    surrogate = torch.minimum(ratio * advantages, clipped * advantages)
    loss = -surrogate - config.entropy * entropy
    metrics = {
        "policy/entropy": entropy.detach().sum().item(),
        "policy/clip_fraction": (ratio * advantages > clipped * advantages).float().sum().item(),
        "policy/kl_old": (ratio - 1 - log_ratio).detach().sum().item(),
    }
    if reference_logprobs is not None:
        difference = reference_logprobs - logprobs
        kl = difference.exp() - difference - 1
        loss = loss + config.kl * kl
        metrics["policy/kl_reference"] = kl.detach().sum().item()
    if config.successes and succeeded is not None:
        loss = loss - config.successes * succeeded * logprobs
    total = loss.sum()
    metrics["policy/loss"] = total.item()
    return total, metrics
