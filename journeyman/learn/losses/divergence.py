"""How far two policies are apart, exactly over the vocabulary: what distillation and remembering make small.

    reverse:  L = sum_states  sum_v pi(v) (log pi(v) - log q(v))      KL(pi || q)
    forward:  L = sum_states  sum_v  q(v) (log q(v) - log pi(v))      KL(q || pi)

with pi the policy that learns and q the teacher, both at the temperature of the episode. Reverse, in the states of the
student's own episodes, is on-policy distillation (2306.13649, section 3; "On-Policy Distillation", Lu and Thinking
Machines Lab, 2025; several teachers: 2606.30406): each token is graded, and what the student will never say costs
nothing. The last two estimate the divergence from the token that was sampled; here all tokens of the vocabulary are
summed over, the same in expectation without the noise of the draw. As there, no gradient goes through which states
are met (a discount of 0).

Shapes: A states, D hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any, Literal, cast

from torch import Tensor
from torch.utils.checkpoint import checkpoint

Direction = Literal["reverse", "forward"]
PIECE = 1024
"""States whose logits exist at once."""


def divergence_loss(
    hidden: Tensor,
    head: Tensor,
    teacher_hidden: Tensor,
    teacher_head: Tensor,
    temperature: Tensor,
    direction: Direction = "reverse",
) -> tuple[Tensor, dict[str, float]]:
    """The sum over states, in nats.

    Args:
        hidden: the policy's states [A, D]; the teacher's [A, D'] may be of another width.
        head: the policy's vocabulary [V, D]; the teacher's is [V, D'].
        temperature: float32 [A], above 0.
    """
    total = hidden.sum() * 0.0  # still a function of the states where there are none
    for start in range(0, len(hidden), PIECE):
        part = slice(start, start + PIECE)
        inputs = (hidden[part], head, teacher_hidden[part], teacher_head, temperature[part], direction)
        total = total + cast(Tensor, cast(Any, checkpoint)(_piece, *inputs, use_reentrant=False))
    return total, {"divergence": total.item()}


def _piece(
    hidden: Tensor,
    head: Tensor,
    teacher_hidden: Tensor,
    teacher_head: Tensor,
    temperature: Tensor,
    direction: Direction,
) -> Tensor:
    ours = (hidden @ head.T).float().div(temperature[:, None]).log_softmax(-1)
    theirs = (teacher_hidden @ teacher_head.T).float().div(temperature[:, None]).log_softmax(-1)
    p, q = (ours, theirs) if direction == "reverse" else (theirs, ours)
    return (p.exp() * (p - q)).sum()
