"""All layers of a small model forward in one call, and backward in another (`passes.h`).

Between the products of a small model, calls, allocations and trips to memory are most of the time of learning. Here
every thread takes some sequences through all layers by itself. Larger models, long sequences and other devices take
the way of single operations (`functions.py`, `attention.py`); both give the same but for rounding.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from journeyman.kernels import compiled
from journeyman.kernels.attention import Layout
from journeyman.kernels.functions import product_type
from journeyman.kernels.whole import has_tiles, structure

MOST_WEIGHTS = 2**22
"""A thread goes through all weights for each chunk of tokens, and has a sum of gradients for each."""

MOST_KEYS = 512
"""Longer sequences are better served by attention in matrix products of their own."""

CHUNK = 256
"""Tokens that a thread takes through all layers at once, where sequences that share a beginning are not more."""

WHOLE = 32
"""Widths must be multiples of this."""

_Model = structure("_Model", "weights windows cos sin packed", "count D I H K E", (("eps", ctypes.c_float),))
_Pass = structure(
    "_Pass", "x position segments chunks", "count N layers backward",
    tuple((name, ctypes.c_void_p) for name in ("kept", "hidden", "grad_hidden", "grad_x", "grad_weights")),
)  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """What the layers of a decoder are: counts and widths as in `loops.h`, and each layer's window (0: none)."""

    count: int
    D: int
    I: int  # noqa: E741
    H: int
    K: int
    E: int
    eps: float
    windows: tuple[int, ...]

    @property
    def size(self) -> int:
        """Weights of all layers and the final norm."""
        return self.count * (self.D * self.products + 2 * self.D) + self.D

    @property
    def products(self) -> int:
        """Outputs and inputs, beside D, of a layer's products."""
        return (self.H + 2 * self.K) * self.E + self.H * self.E + 3 * self.I

    @property
    def whole(self) -> bool:
        """Whether the compiled passes can do it."""
        widths = (self.D, self.I, self.H * self.E, (self.H + 2 * self.K) * self.E)
        return self.size <= MOST_WEIGHTS and not any(width % WHOLE for width in widths)


def fits(shape: Shape, weights: Sequence[Tensor], layout: Layout) -> bool:
    """Whether the passes can do this, and threads would have about equal shares of it."""
    dtype = product_type(weights[0])
    if not shape.whole or any(w.device.type != "cpu" or w.dtype is not torch.float32 for w in weights):
        return False
    if dtype not in (torch.float32, torch.bfloat16) or (dtype is torch.bfloat16 and not has_tiles()):
        return False
    if compiled.library() is None or layout.most_keys > MOST_KEYS:
        return False
    return layout.largest_family * torch.get_num_threads() <= max(1.25 * layout.tokens, CHUNK)


class _Layers(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, layout: Layout, shape: Shape, learning: bool,
        *parts: Tensor,
    ) -> Tensor:  # fmt: skip
        dtype = product_type(parts[0])
        library = compiled.library()
        assert library is not None
        weights = torch.cat([part.detach().flatten() for part in parts])
        segments, chunks = layout.table, layout.chunks(CHUNK)
        copies = 1 if dtype is torch.float32 else 2
        packed = weights.new_empty(copies * shape.count * shape.D * shape.products, dtype=dtype)
        windows = np.array(shape.windows, np.int64)
        model = _Model(
            weights.data_ptr(), windows.ctypes.data, cos.data_ptr(), sin.data_ptr(), packed.data_ptr(),
            shape.count, shape.D, shape.I, shape.H, shape.K, shape.E, shape.eps,
        )  # fmt: skip
        name = "float32" if dtype is torch.float32 else "bfloat16"
        hidden = x.new_empty(x.shape, dtype=dtype)
        given = _Pass(
            x.data_ptr(), positions.data_ptr(), segments.ctypes.data, chunks.ctypes.data, len(chunks) - 1, len(x),
            shape.count if learning else 1, learning, None, hidden.data_ptr(),
        )  # fmt: skip
        room = getattr(library, f"{name}_room")
        room.restype = ctypes.c_int64
        kept = torch.empty(room(ctypes.byref(model), ctypes.byref(given)), dtype=torch.uint8)
        given.kept = kept.data_ptr()
        getattr(library, f"{name}_forward")(ctypes.byref(model), ctypes.byref(given))
        if not learning:
            return hidden
        ctx.model, ctx.given, ctx.name, ctx.shapes = model, given, name, [part.shape for part in parts]
        ctx.kept = (weights, windows, cos, sin, packed, x, positions, segments, chunks, kept, hidden)
        return hidden

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        library = compiled.library()
        assert library is not None
        grad = grad.contiguous()
        weights, x = ctx.kept[0], ctx.kept[5]
        of_weights, of_x = torch.empty_like(weights), torch.empty_like(x)
        given = ctx.given
        given.grad_hidden, given.grad_x, given.grad_weights = grad.data_ptr(), of_x.data_ptr(), of_weights.data_ptr()
        getattr(library, f"{ctx.name}_backward")(ctypes.byref(ctx.model), ctypes.byref(given))
        ctx.kept = None
        pieces = of_weights.split([shape.numel() for shape in ctx.shapes])
        return of_x, *[None] * 6, *(piece.view(shape) for piece, shape in zip(pieces, ctx.shapes, strict=True))


def layers(
    x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, layout: Layout, shape: Shape, weights: Sequence[Tensor]
) -> Tensor:
    """Final hidden states [N, D] of embeddings x [N, D] (float32).

    Args:
        weights: of each layer the norm before attention, q, k, v, output, the norm before the MLP, gate, up, down;
            then the final norm.
    """
    return _Layers.apply(x, positions, cos, sin, layout, shape, torch.is_grad_enabled(), *weights)  # pyright: ignore[reportReturnType]
