"""Direct preference optimization (DPO, 2305.18290, equation 7): what was preferred becomes likelier than what was not.

    L = - sum_pairs  log sigmoid(beta * (d(better) - d(worse))),   d(y) = log pi(y | x) - log reference(y | x)

A reply's log-probability is the sum over its tokens. beta says how far the policy may go from the reference for a
preference: it is the weight of the KL in the problem whose solution this is.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid


def preference_loss(better: Tensor, worse: Tensor, beta: float) -> tuple[Tensor, dict[str, float]]:
    """Sum of the loss over pairs.

    Args:
        better, worse: d of the preferred reply and of the other, float32 [pairs].

    Returns:
        The sum, and sums over pairs of what docs/metrics.md defines.
    """
    margin = beta * (better - worse)
    loss = -logsigmoid(margin).sum()
    ahead = (margin > 0).float().sum().item()
    return loss, {"policy/preference_loss": loss.item(), "policy/preference_ahead": ahead}
