"""Next-token cross-entropy: schooling on text and demonstrations."""

from __future__ import annotations

from torch import Tensor


def language_loss(logprobs: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Minus the sum of the log-probabilities [tokens] of what should have been said."""
    loss = -logprobs.sum()
    return loss, {"loss": loss.item()}
