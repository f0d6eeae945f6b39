"""Truncated importance weights: learning from tokens that the trainer's own policy did not sample.

An engine's kernels round otherwise than the trainer's, and an engine that runs ahead samples with older weights.
Either way the tokens come from pi_engine, and an update that takes them for pi_trainer's is biased. Per token,

    w = min(pi_trainer(token) / pi_engine(token), C)

multiplied into the policy's loss takes the bias away as far as C allows; C bounds the variance, which the product
of many such ratios would not. pi_trainer is the trainer's policy *before* the update: the loss's own ratio
pi / pi_trainer stays beside it, and clipping acts on that one.

Source: Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training"
(https://fengyao.notion.site/off-policy-rl), with C as in verl's rollout correction
(https://verl.readthedocs.io/en/latest/algo/rollout_corr.html); truncation: Ionides 2008.
"""

from __future__ import annotations

import torch
from torch import Tensor

from journeyman.errors import EngineError, UsageError

LARGEST = 20.0
"""Logarithms of ratios are cut to this before they are exponentiated, as verl does."""


@torch.no_grad()
def truncated_weights(
    engine_logprobs: Tensor, trainer_logprobs: Tensor, cap: float = 2.0
) -> tuple[Tensor, dict[str, float]]:
    """Weights of sampled tokens, and how far engine and trainer are apart.

    Args:
        engine_logprobs: log pi_engine of each token when it was sampled, float32 [tokens sampled].
        trainer_logprobs: log pi_trainer of the same tokens at the same temperature, float32 [tokens sampled].
        cap: C, the largest weight, at least 1.

    Returns:
        The weights, float32 [tokens sampled], without gradient, and the metrics `mismatch/...` of
        docs/metrics.md: means over these tokens, so give it all tokens of a step at once.

    Raises:
        UsageError: the shapes differ, or C is below 1.
        EngineError: a log-probability is no finite number.
    """
    if engine_logprobs.shape != trainer_logprobs.shape:
        shapes = tuple(engine_logprobs.shape), tuple(trainer_logprobs.shape)
        raise UsageError(f"engine and trainer must give the same tokens, got shapes {shapes[0]} and {shapes[1]}")
    if not cap >= 1:
        raise UsageError(f"the cap of importance weights must be at least 1, got {cap}")
    for name, logprobs in (("engine", engine_logprobs), ("trainer", trainer_logprobs)):
        wrong = int((~logprobs.isfinite()).sum())
        if wrong:
            raise EngineError(
                f"{wrong} of {logprobs.numel()} log-probabilities of the {name} are no finite numbers",
                reason="its weights or its arithmetic overflowed",
                fix="go on from an earlier checkpoint, with a lower learning rate or in float32",
            )
    difference = trainer_logprobs.double() - engine_logprobs.double()
    log_ratio = difference.clamp(-LARGEST, LARGEST)
    ratio = log_ratio.exp()
    weights = ratio.clamp(max=cap)
    if not weights.numel():
        return weights.float(), {}
    return weights.float(), {
        "mismatch/kl": (torch.expm1(log_ratio) - log_ratio).mean().item(),
        "mismatch/max": difference.abs().max().item(),
        "mismatch/weight_mean": weights.mean().item(),
        "mismatch/truncated_share": (ratio > cap).double().mean().item(),
    }
