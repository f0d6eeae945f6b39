"""A whole step of a model as one call, and the layout of weights that it wants (`whole.h`).

For models whose weights fit the nearest caches, what a step costs is mostly the calls between its products; for larger
ones in bfloat16 on processors with AMX, it is how fast weights come from memory. This serves both.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from journeyman.kernels import compiled

MOST_APART = 2**24
"""Bytes of weights up to which every thread may read all of them."""

LONG = 128
"""Rows that read more tokens at once are better served by attention over squares (`attention.py`)."""

PANEL, DEEP = 32, 32
"""Columns of a panel, and inputs of a tile: WIDE and DEEP of `whole.h`."""

Ints = npt.NDArray[np.int64]


def structure(name: str, pointers: str, integers: str = "", last: tuple[tuple[str, Any], ...] = ()) -> Any:
    """A C structure: pointers, then 64-bit integers, then others."""
    fields = [(field, ctypes.c_void_p) for field in pointers.split()]
    fields += [(field, ctypes.c_int64) for field in integers.split()]
    return type(name, (ctypes.Structure,), {"_fields_": (*fields, *last)})


_Layer = structure("_Layer", "before_attention qkv output before_mlp gate_up down", "window")
_Model = structure(
    "_Model", "embedding cos sin final head layers", "count D I H K E V apart", (("eps", ctypes.c_float),)
)
_Step = structure(
    "_Step",
    "tokens row position starts room temperature uniform stop texts state keys values table",
    "rows most stops table_width layer_size",
    (("token", ctypes.c_void_p), ("logprob", ctypes.c_void_p), ("made", ctypes.c_void_p)),
)


class WholeStep:
    """The call that reads and samples with weights laid out in panels.

    Args:
        tensors: embedding [V, D], cos, sin, final (float32) and head (in panels).
        layers: of each layer before_attention, before_mlp (float32), qkv, output, gate_up, down (in panels), and its
            window (None for all).
        shape: D, I, H, K, E, V of `loops.h`.
        eps: of the norms.
        apart: whether every thread takes some rows by itself, and reads all weights.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        layers: Sequence[tuple[Mapping[str, Tensor], int | None]],
        shape: Mapping[str, int],
        eps: float,
        apart: bool,
    ) -> None:
        library = compiled.library()
        assert library is not None
        dtype = tensors["embedding"].dtype
        self._call = library.float32_step if dtype is torch.float32 else library.bfloat16_step
        self._kept = (tensors, layers)  # the structures below hold bare addresses
        self._layers = (_Layer * len(layers))(
            *(_Layer(**{k: t.data_ptr() for k, t in weights.items()}, window=window or 0) for weights, window in layers)
        )
        self._model = _Model(
            **{name: tensor.data_ptr() for name, tensor in tensors.items()},
            layers=ctypes.addressof(self._layers), count=len(layers), **shape,
            apart=apart, eps=eps,
        )  # fmt: skip

    def __call__(
        self,
        tokens: Ints,
        row: Ints,
        position: Ints,
        counts: Ints,
        room: Ints,
        temperature: npt.NDArray[np.float32],
        uniform: npt.NDArray[np.float64],
        stop: Ints,
        texts: npt.NDArray[np.uint64],
        state: Ints,
        keys: Tensor,
        values: Tensor,
        table: npt.NDArray[np.int32],
    ) -> tuple[Ints, npt.NDArray[np.float32], Ints]:
        """Read flat tokens [N] at (row, position) into the cache, `counts` of each row after each other; then sample up
        to `room` tokens in each, until one of its `stop` [rows, any] comes, or a text that it stops at.

        Args:
            uniform: what tokens are drawn with [rows, most], `most` the greatest room.
            texts: of each row the address of its table (`model/texts.py`), as wide as the vocabulary, or 0.
            state: where each row is in its table; moved on.

        Returns:
            Tokens and their log-probabilities [rows, most], and how many each row has.
        """
        rows, most = uniform.shape
        starts = np.zeros(rows + 1, np.int64)
        np.cumsum(counts, out=starts[1:])
        token, logprob, made = np.empty((rows, most), np.int64), np.empty((rows, most), np.float32), np.empty_like(room)
        arrays = (tokens, row, position, starts, room, temperature, uniform, stop, texts, state)
        step = _Step(
            *(array.ctypes.data for array in arrays), keys.data_ptr(), values.data_ptr(), table.ctypes.data,
            rows, most, stop.shape[1], table.shape[1], keys.stride(0),
            token.ctypes.data, logprob.ctypes.data, made.ctypes.data,
        )  # fmt: skip
        self._call(ctypes.byref(self._model), ctypes.byref(step))
        return token, logprob, made


@functools.cache
def has_tiles() -> bool:
    """Whether bfloat16 products run on this processor's matrix tiles (AMX)."""
    library = compiled.library()
    if library is None:
        return False
    library.bfloat16_tiles.restype = ctypes.c_bool
    return bool(library.bfloat16_tiles())


_PANELS = {
    (torch.float32, torch.float32): "float32_panels",
    (torch.bfloat16, torch.bfloat16): "bfloat16_panels",
    (torch.float32, torch.bfloat16): "rounded_panels",
}


def panels(weight: Tensor, dtype: torch.dtype, out: Tensor | None = None) -> Tensor | None:
    """A weight [outputs, inputs] in panels of numbers of a type, the last one filled up with zeros.

    Args:
        out: where to put them, flat; elsewhere when it is too small.

    Returns:
        None where they cannot be used.
    """
    outputs, inputs = weight.shape
    name = _PANELS.get((weight.dtype, dtype))
    if name is None or weight.device.type != "cpu" or compiled.library() is None:
        return None
    if inputs % (PANEL // 2 if dtype is torch.float32 else DEEP) or (dtype is torch.bfloat16 and not has_tiles()):
        return None
    size = -(-outputs // PANEL) * PANEL * inputs
    taken = torch.empty(size, dtype=dtype) if out is None or len(out) < size else out[:size]
    given = weight.contiguous()
    compiled.function(name, "piip")(given.data_ptr(), outputs, inputs, taken.data_ptr())
    return taken


def tiled_product(panels: Tensor, outputs: int, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """The product of x [N, inputs] with a bfloat16 weight in panels: [N, outputs]."""
    call = compiled.function("bfloat16_product", "pppiii")

    def product(x: Tensor) -> Tensor:
        out = x.new_empty(len(x), outputs)
        call(x.data_ptr(), panels.data_ptr(), out.data_ptr(), len(x), outputs, x.shape[1])
        return out if bias is None else out.add_(bias)

    return product
