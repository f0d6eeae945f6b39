"""What a decoder is made of, as differentiable functions on the fused loops.

The residual stream is float32; what goes into matrix products is of type T: bfloat16 under autocast, else the
weights' own. Each function saves what its gradient needs and no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from journeyman.kernels.loops import loops


def product_type(weight: Tensor) -> torch.dtype:
    """The type T of matrix products with this weight: autocast's where that is on."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


class _AddNorm(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, delta: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        total, out = torch.empty_like(x), torch.empty_like(x, dtype=dtype)
        rstd = torch.empty(len(x), device=x.device)
        scale = weight.float()
        loops(x.device.type, dtype).norm(x, delta, scale, total, out, rstd, eps)
        ctx.save_for_backward(total, rstd, scale)
        ctx.weight_type, ctx.has_delta = weight.dtype, delta is not None
        ctx.set_materialize_grads(False)
        return total, out

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor | None, grad_out: Tensor | None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        total, rstd, scale = ctx.saved_tensors
        if grad_out is None:  # only the sum was used
            return grad_total, None, None, None, None
        if grad_total is not None:
            grad_total = grad_total.contiguous()
        run = loops(total.device.type, grad_out.dtype)
        grad_x, grad_delta, grad_weight = run.norm_backward(
            total, rstd, scale, grad_total, grad_out.contiguous(), ctx.has_delta
        )
        return grad_x, grad_delta, grad_weight.to(ctx.weight_type), None, None


def add_norm(x: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The residual stream x + delta [N, D] in float32, and its root-mean-square norm in T (1910.07467).

    Args:
        delta: what the block before adds, in T; None at the beginning.
    """
    return _AddNorm.apply(x, delta, weight, eps, product_type(weight))  # pyright: ignore[reportReturnType]


class _SwiGLU(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = x.new_empty(len(x), x.shape[1] // 2)
        loops(x.device.type, x.dtype).swiglu(x, out)
        ctx.save_for_backward(x)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        out = torch.empty_like(x)
        loops(x.device.type, x.dtype).swiglu_backward(x, grad.contiguous(), out)
        return out


def swiglu(x: Tensor) -> Tensor:
    """silu(gate) * up [N, I] of gate and up side by side [N, 2I] (2002.05202)."""
    return _SwiGLU.apply(x)  # pyright: ignore[reportReturnType]


class _Rotate(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, position: Tensor, turned: int) -> Tensor:
        out = torch.empty_like(x)
        loops(x.device.type, x.dtype).rotate(x, out, cos, sin, position, turned, 1.0)
        ctx.save_for_backward(cos, sin, position)
        ctx.turned = turned
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        grad = grad.contiguous()
        out = torch.empty_like(grad)
        cos, sin, position = ctx.saved_tensors
        loops(grad.device.type, grad.dtype).rotate(grad, out, cos, sin, position, ctx.turned, -1.0)
        return out, None, None, None, None


def rotate(x: Tensor, cos: Tensor, sin: Tensor, position: Tensor, turned: int) -> Tensor:
    """Turn the first `turned` heads of x [N, heads, E] by their integer positions [N] (2104.09864)."""
    return _Rotate.apply(x, cos, sin, position, turned)  # pyright: ignore[reportReturnType]


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype, count: int, *parameters: Tensor) -> Tensor:
        weights, biases = parameters[:count], parameters[count:]
        weight = joined(weights, dtype)
        ctx.save_for_backward(x, weight)
        ctx.weights, ctx.biases = ([(len(p), p.dtype) for p in part] for part in (weights, biases))
        return F.linear(x, weight, joined(biases, dtype) if biases else None)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        of_x = grad @ weight if ctx.needs_input_grad[0] else None
        if not any(ctx.needs_input_grad[3:]):
            return of_x, *[None] * (2 + len(ctx.weights) + len(ctx.biases))
        of_weights = _apart(weight_gradient(grad, x), ctx.weights)
        of_biases = _apart(grad.float().sum(0), ctx.biases) if ctx.biases else []
        return of_x, None, None, *of_weights, *of_biases


def _apart(whole: Tensor, parts: Sequence[tuple[int, torch.dtype]]) -> list[Tensor]:
    pieces = whole.split([length for length, _ in parts])
    return [piece.to(dtype) for piece, (_, dtype) in zip(pieces, parts, strict=True)]


def linear(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> Tensor:
    """x [N, D] times several weights [outputs, D] side by side, as one product in T: [N, sum of outputs]."""
    given = [bias for bias in biases if bias is not None]
    return _Linear.apply(x, product_type(weights[0]), len(weights), *weights, *given)  # pyright: ignore[reportReturnType]


def joined(parts: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Weights under each other, in the given type."""
    if len(parts) == 1:
        return parts[0].to(dtype)
    out = parts[0].new_empty((sum(len(part) for part in parts), *parts[0].shape[1:]), dtype=dtype)
    start = 0
    for part in parts:
        out[start : start + len(part)] = part
        start += len(part)
    return out


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """grad^T x [outputs, D] of grad [N, outputs] and x [N, D].

    oneDNN's bfloat16 product of a transposed left side ran at 1.2 TFLOP/s where that of a contiguous one reached 2.4.
    """
    if grad.dtype is not torch.bfloat16 or grad.device.type != "cpu":
        return grad.t() @ x
    run = loops("cpu", x.dtype)
    return run.transposed(run.transposed(x.contiguous(), x.dtype) @ grad, torch.float32)


SAME = 512
"""Products with a vocabulary are filled up to a multiple of so many rows: oneDNN takes three milliseconds for a shape
that it has not seen before."""

LOGITS = 2**28
"""Logits that are kept for the gradient; more are computed a second time, in pieces of this many."""


class _LogProbability(Function):
    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, token: Tensor, temperature: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        head, states = weight.to(dtype), states.to(dtype)
        run = loops(states.device.type, dtype)
        size = max(LOGITS // len(weight), 1)
        kept: list[Tensor] = []
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for part in _pieces(len(states), size):
            logits = F.linear(states[part], head)
            found.append(run.log_probability(logits, token[part], temperature[part]))
            if len(states) <= size:
                kept.append(logits)
        logprob, entropy, lse = (torch.cat(column) for column in zip(*found, strict=True))
        ctx.save_for_backward(states, head, token, temperature, entropy, lse, *kept)
        ctx.size, ctx.weight_type = size, weight.dtype
        ctx.set_materialize_grads(False)
        return logprob, entropy

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_entropy: Tensor | None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        states, head, token, temperature, entropy, lse, *kept = ctx.saved_tensors
        run = loops(states.device.type, states.dtype)
        grad = torch.zeros_like(lse) if grad is None else grad.contiguous()
        grad_states, grad_head = torch.empty_like(states), None
        for part in _pieces(len(states), ctx.size):
            logits = kept[0] if kept else F.linear(states[part], head)
            run.log_probability_backward(
                logits, token[part], temperature[part], entropy[part], lse[part], grad[part],
                None if grad_entropy is None else grad_entropy[part].contiguous(),
            )  # fmt: skip
            grad_states[part] = logits @ head
            if ctx.needs_input_grad[1]:  # not where the head is frozen
                piece = weight_gradient(logits, states[part]).to(ctx.weight_type)
                grad_head = piece if grad_head is None else grad_head.add_(piece)
        return grad_states, grad_head, None, None, None


def log_probability(states: Tensor, weight: Tensor, token: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies, float32 [A] each, of tokens [A] chosen in hidden states [A, D].

    The logits [A, V] of the head's `weight` [V, D] exist once, in T, and become their own gradient in place.

    Args:
        temperature: float32 [A], above 0.
    """
    count = len(token)
    if not count:
        none = states.sum() * 0.0  # still a function of the states
        return none.expand(0), none.expand(0)
    extra = -count % SAME
    token, temperature = F.pad(token, (0, extra)), F.pad(temperature, (0, extra), value=1.0)
    states = F.pad(states, (0, 0, 0, extra))
    logprob, entropy = _LogProbability.apply(states, weight, token, temperature, product_type(weight))  # pyright: ignore[reportGeneralTypeIssues]
    return logprob[:count], entropy[:count]


def _pieces(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]
