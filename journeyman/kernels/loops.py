"""The loops between matrix products, as the engine and the learner call them: compiled, or in torch.

Every method writes into tensors that the caller brings; see `loops.h` for what each computes. Shapes: N tokens,
D hidden, I intermediate, H query heads, K key/value heads, E head width, V vocabulary, B attention rows. Tensors are
contiguous but for qkv, whose rows may lie further apart than they are long. T is the type of the products (bfloat16
or float32); what is not of that type is float32, and indices are int64.
"""

from __future__ import annotations

import ctypes
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from journeyman.kernels import compiled

LANES = 16
"""Columns of attention scores come in multiples of this."""

BLOCK = 16
"""Tokens in one block of the cache."""


class Loops(ABC):
    """What is fused."""

    @abstractmethod
    def norm(
        self, x: Tensor, delta: Tensor | None, weight: Tensor, sum: Tensor, out: Tensor, rstd: Tensor | None, eps: float
    ) -> None:
        """sum = x + delta [N, D]; out = sum * rstd * weight, with rstd [N] = (mean(sum^2) + eps)^-1/2 (1910.07467)."""

    @abstractmethod
    def norm_backward(
        self, sum: Tensor, rstd: Tensor, weight: Tensor, grad_sum: Tensor | None, grad_out: Tensor, delta: bool
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Gradients of x (float32), of delta (T, where wanted) and of the weight."""

    @abstractmethod
    def swiglu(self, x: Tensor, out: Tensor) -> None:
        """out [N, I] = silu(x[:, :I]) * x[:, I:] (2002.05202)."""

    @abstractmethod
    def swiglu_backward(self, x: Tensor, grad: Tensor, out: Tensor) -> None:
        """Its gradient [N, 2I]."""

    @abstractmethod
    def rotate(
        self, x: Tensor, out: Tensor, cos: Tensor, sin: Tensor, position: Tensor, turned: int, sign: float
    ) -> None:
        """Turn the first `turned` heads of x [N, heads, E] by their positions (2104.09864); the others are copied.

        cos and sin are [positions, E / 2]; sign -1 turns back. `out` may be `x`.
        """

    @abstractmethod
    def store(self, qkv: Tensor, keys: Tensor, values: Tensor, table: Tensor, row: Tensor, position: Tensor) -> None:
        """Put the last 2K heads of qkv [N, H + 2K, E] into the cache, at (table[row], position) of each token.

        keys [blocks, K, E, BLOCK], values [blocks, K, BLOCK, E], table [rows, blocks of a row] int32.
        """

    @abstractmethod
    def attend(
        self,
        qkv: Tensor,
        out: Tensor,
        keys: Tensor,
        values: Tensor,
        table: Tensor,
        row: Tensor,
        position: Tensor,
        window: int | None,
    ) -> None:
        """out [N, H, E]: each query sees its row's cache up to and including its own position."""

    @abstractmethod
    def gather(self, x: Tensor, out: Tensor, index: Tensor) -> None:
        """out [B, heads, T, E] = x [N, heads, E] at index [B, T]; zeros where it is negative."""

    @abstractmethod
    def ungather(self, x: Tensor, out: Tensor, index: Tensor) -> None:
        """out [N, heads, E] at index = x [B, heads, T, E]; no index but a negative one may occur twice."""

    @abstractmethod
    def scatter_add(self, x: Tensor, out: Tensor, index: Tensor) -> None:
        """out [N, heads, E] (float32) at index += x [B, heads, T, E]."""

    @abstractmethod
    def softmax(self, scores: Tensor, before: Tensor, span: int, start: int, scale: float, window: int | None) -> None:
        """scores [B, rows, C] become probabilities, in place. C is a multiple of `LANES`.

        Row r is the query `start + r % span` of its sequence: it sees the first `before` columns (one number for each
        of before's sequences, which own B / len(before) of the B in a row) and the next ones causally.
        """

    @abstractmethod
    def softmax_backward(self, probs: Tensor, grad: Tensor, scale: float) -> None:
        """grad [B, rows, C] of probabilities becomes that of scores, in place."""

    @abstractmethod
    def transposed(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """x [N, D] as a contiguous [D, N], in T or in float32."""

    @abstractmethod
    def log_probability(self, logits: Tensor, token: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of logits [A, V] at a temperature: log-probability of the token, entropy, log(sum(exp)); float32 [A]."""

    @abstractmethod
    def log_probability_backward(
        self,
        logits: Tensor,
        token: Tensor,
        temperature: Tensor,
        entropy: Tensor,
        lse: Tensor,
        grad: Tensor,
        grad_entropy: Tensor | None,
    ) -> None:
        """logits become their gradients, in place."""

    @abstractmethod
    def sample(self, logits: Tensor, temperature: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """A token for each row of logits [R, V] by inverting its distribution at uniform (float64), and its
        log-probability. Temperature 0 takes the greatest and gives the log-probability at 1."""


_SIGNATURES = {
    "norm": "ppppppiif",
    "norm_backward": "ppppppppiii",
    "swiglu": "ppii",
    "swiglu_backward": "pppii",
    "rotate": "pppppiiiif",
    "store": "ppipppippiii",
    "attend": "pippppippiiiifi",
    "gather": "pippiiii",
    "ungather": "ppipiiii",
    "scatter_add": "pppiiii",
    "transpose": "ppii",
    "transpose_float": "ppii",
    "softmax": "ppiiiiiifi",
    "softmax_backward": "ppiif",
    "log_probability": "ppppppii",
    "log_probability_backward": "pppppppii",
    "sample": "pppppii",
}
"""Arguments of each compiled loop, as `compiled.TYPES` spells them."""


class CompiledLoops(Loops):
    """`loops.h` on the processor, on as many threads as torch uses."""

    def __init__(self, dtype: torch.dtype, addresses: dict[str, int]) -> None:
        self.dtype = dtype
        calls: dict[str, Callable[..., None]] = {}
        for name, signature in _SIGNATURES.items():
            prototype = ctypes.CFUNCTYPE(None, *(compiled.TYPES[letter] for letter in signature))
            calls[name] = prototype(addresses[name])
        self._call = calls

    def norm(
        self, x: Tensor, delta: Tensor | None, weight: Tensor, sum: Tensor, out: Tensor, rstd: Tensor | None, eps: float
    ) -> None:
        self._call["norm"](
            x.data_ptr(), _pointer(delta), weight.data_ptr(), sum.data_ptr(), out.data_ptr(), _pointer(rstd),
            x.shape[0], x.shape[1], eps,
        )  # fmt: skip

    def norm_backward(
        self, sum: Tensor, rstd: Tensor, weight: Tensor, grad_sum: Tensor | None, grad_out: Tensor, delta: bool
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        count, width = sum.shape
        grad_x, grad_delta = torch.empty_like(sum), torch.empty_like(grad_out) if delta else None
        parts = torch.zeros(torch.get_num_threads(), width)
        self._call["norm_backward"](
            sum.data_ptr(), rstd.data_ptr(), weight.data_ptr(), _pointer(grad_sum), grad_out.data_ptr(),
            grad_x.data_ptr(), _pointer(grad_delta), parts.data_ptr(), len(parts), count, width,
        )  # fmt: skip
        return grad_x, grad_delta, parts.sum(0)

    def swiglu(self, x: Tensor, out: Tensor) -> None:
        self._call["swiglu"](x.data_ptr(), out.data_ptr(), *out.shape)

    def swiglu_backward(self, x: Tensor, grad: Tensor, out: Tensor) -> None:
        self._call["swiglu_backward"](x.data_ptr(), grad.data_ptr(), out.data_ptr(), *grad.shape)

    def rotate(
        self, x: Tensor, out: Tensor, cos: Tensor, sin: Tensor, position: Tensor, turned: int, sign: float
    ) -> None:
        self._call["rotate"](
            x.data_ptr(), out.data_ptr(), cos.data_ptr(), sin.data_ptr(), position.data_ptr(),
            x.shape[0], turned, x.shape[1], x.shape[2], sign,
        )  # fmt: skip

    def store(self, qkv: Tensor, keys: Tensor, values: Tensor, table: Tensor, row: Tensor, position: Tensor) -> None:
        count, heads, width = qkv.shape
        kv_heads, size = keys.shape[1], qkv.element_size()
        first = qkv.data_ptr() + (heads - 2 * kv_heads) * width * size
        self._call["store"](
            first, first + kv_heads * width * size, qkv.stride(0), keys.data_ptr(), values.data_ptr(),
            table.data_ptr(), table.shape[1], row.data_ptr(), position.data_ptr(), count, kv_heads, width,
        )  # fmt: skip

    def attend(
        self,
        qkv: Tensor,
        out: Tensor,
        keys: Tensor,
        values: Tensor,
        table: Tensor,
        row: Tensor,
        position: Tensor,
        window: int | None,
    ) -> None:
        count, heads, width = out.shape
        self._call["attend"](
            qkv.data_ptr(), qkv.stride(0), out.data_ptr(), keys.data_ptr(), values.data_ptr(),
            table.data_ptr(), table.shape[1], row.data_ptr(), position.data_ptr(),
            count, heads, keys.shape[1], width, width**-0.5, window or 0,
        )  # fmt: skip

    def gather(self, x: Tensor, out: Tensor, index: Tensor) -> None:
        self._call["gather"](x.data_ptr(), x.stride(0), out.data_ptr(), index.data_ptr(), *out.shape)

    def ungather(self, x: Tensor, out: Tensor, index: Tensor) -> None:
        self._call["ungather"](x.data_ptr(), out.data_ptr(), out.stride(0), index.data_ptr(), *x.shape)

    def scatter_add(self, x: Tensor, out: Tensor, index: Tensor) -> None:
        self._call["scatter_add"](x.data_ptr(), out.data_ptr(), index.data_ptr(), *x.shape)

    def softmax(self, scores: Tensor, before: Tensor, span: int, start: int, scale: float, window: int | None) -> None:
        batch, rows, columns = scores.shape
        self._call["softmax"](
            scores.data_ptr(), before.data_ptr(), batch, batch // len(before), rows, span, start, columns,
            scale, window or 0,
        )  # fmt: skip

    def softmax_backward(self, probs: Tensor, grad: Tensor, scale: float) -> None:
        rows, columns = probs.shape[0] * probs.shape[1], probs.shape[2]
        self._call["softmax_backward"](probs.data_ptr(), grad.data_ptr(), rows, columns, scale)

    def transposed(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        out = x.new_empty(x.shape[1], x.shape[0], dtype=dtype)
        self._call["transpose" if dtype is x.dtype else "transpose_float"](x.data_ptr(), out.data_ptr(), *x.shape)
        return out

    def log_probability(self, logits: Tensor, token: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logprob, entropy, lse = torch.empty(3, len(logits)).unbind()
        self._call["log_probability"](
            logits.data_ptr(), token.data_ptr(), temperature.data_ptr(), logprob.data_ptr(), entropy.data_ptr(),
            lse.data_ptr(), *logits.shape,
        )  # fmt: skip
        return logprob, entropy, lse

    def log_probability_backward(
        self,
        logits: Tensor,
        token: Tensor,
        temperature: Tensor,
        entropy: Tensor,
        lse: Tensor,
        grad: Tensor,
        grad_entropy: Tensor | None,
    ) -> None:
        self._call["log_probability_backward"](
            logits.data_ptr(), token.data_ptr(), temperature.data_ptr(), entropy.data_ptr(), lse.data_ptr(),
            grad.data_ptr(), _pointer(grad_entropy), *logits.shape,
        )  # fmt: skip

    def sample(self, logits: Tensor, temperature: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        token, logprob = torch.empty(len(logits), dtype=torch.int64), torch.empty(len(logits))
        self._call["sample"](
            logits.data_ptr(), temperature.data_ptr(), uniform.data_ptr(), token.data_ptr(), logprob.data_ptr(),
            *logits.shape,
        )  # fmt: skip
        return token, logprob


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


@functools.cache
def loops(device: str, dtype: torch.dtype) -> Loops:
    """The loops for tensors of this type on this device (`tensor.device.type`)."""
    from journeyman.kernels.reference import TorchLoops

    addresses = compiled.addresses(dtype) if device == "cpu" else {}
    return CompiledLoops(dtype, addresses) if addresses else TorchLoops()
