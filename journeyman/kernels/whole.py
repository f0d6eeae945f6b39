"""A whole step of a small model as one call: every thread takes some sequences through all layers (`loops.cpp`).

For models whose weights fit the nearest caches, what a step costs is mostly the calls between its products. This
leaves one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from journeyman.kernels import compiled

MOST_BYTES = 2**24
"""Weights up to this size are run this way."""

PANEL = 32
"""Columns of a panel: WIDE of `loops.cpp`."""

Ints = npt.NDArray[np.int64]


def _structure(name: str, pointers: str, integers: str = "", last: tuple[tuple[str, Any], ...] = ()) -> Any:
    fields = [(field, ctypes.c_void_p) for field in pointers.split()]
    fields += [(field, ctypes.c_int64) for field in integers.split()]
    return type(name, (ctypes.Structure,), {"_fields_": (*fields, *last)})


_Layer = _structure("_Layer", "before_attention qkv output before_mlp gate_up down", "window")
_Model = _structure("_Model", "embedding cos sin final head layers", "count D I H K E V", (("eps", ctypes.c_float),))
_Step = _structure(
    "_Step",
    "tokens row position starts room temperature uniform stop keys values table",
    "rows most stops table_width layer_size",
    (("token", ctypes.c_void_p), ("logprob", ctypes.c_void_p), ("made", ctypes.c_void_p)),
)


class WholeStep:
    """The weights of a small float32 model in one place, and the call that samples from them.

    Args:
        tensors: embedding, cos, sin, final, and head [D, V].
        layers: of each layer before_attention, qkv, output, before_mlp, gate_up, down (matrices [inputs, outputs])
            and its window (None for all).
        shape: D, I, H, K, E, V of `loops.cpp`.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        layers: Sequence[tuple[Mapping[str, Tensor], int | None]],
        shape: Mapping[str, int],
        eps: float,
    ) -> None:
        library = compiled.library()
        assert library is not None
        self._call = library.advance_rows
        tensors = {**tensors, "head": panels(tensors["head"])}
        layers = [
            ({name: panels(t) if t.dim() == 2 else t for name, t in weights.items()}, window)
            for weights, window in layers
        ]
        self._kept = (tensors, layers)  # the structures below hold bare addresses
        self._layers = (_Layer * len(layers))(
            *(_Layer(**{k: t.data_ptr() for k, t in weights.items()}, window=window or 0) for weights, window in layers)
        )
        self._model = _Model(
            **{name: tensor.data_ptr() for name, tensor in tensors.items()},
            layers=ctypes.addressof(self._layers), count=len(layers), **shape, eps=eps,
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
        keys: Tensor,
        values: Tensor,
        table: npt.NDArray[np.int32],
    ) -> tuple[Ints, npt.NDArray[np.float32], Ints]:
        """Read flat tokens [N] at (row, position) into the cache, `counts` of each row after each other; then sample up
        to `room` tokens in each, until one of its `stop` [rows, any] comes.

        Args:
            uniform: what tokens are drawn with [rows, most], `most` the greatest room.

        Returns:
            Tokens and their log-probabilities [rows, most], and how many each row has.
        """
        rows, most = uniform.shape
        starts = np.zeros(rows + 1, np.int64)
        np.cumsum(counts, out=starts[1:])
        token, logprob, made = np.empty((rows, most), np.int64), np.empty((rows, most), np.float32), np.empty_like(room)
        step = _Step(
            tokens.ctypes.data, row.ctypes.data, position.ctypes.data, starts.ctypes.data, room.ctypes.data,
            temperature.ctypes.data, uniform.ctypes.data, stop.ctypes.data, keys.data_ptr(), values.data_ptr(),
            table.ctypes.data, rows, most, stop.shape[1], table.shape[1], keys.stride(0),
            token.ctypes.data, logprob.ctypes.data, made.ctypes.data,
        )  # fmt: skip
        self._call(ctypes.byref(self._model), ctypes.byref(step))
        return token, logprob, made


def panels(matrix: Tensor) -> Tensor:
    """A matrix [inputs, outputs] as [outputs / 32, inputs, 32], the last panel filled up with zeros."""
    inputs, outputs = matrix.shape
    filled = torch.nn.functional.pad(matrix, (0, -outputs % PANEL))
    return filled.view(inputs, -1, PANEL).transpose(0, 1).contiguous()


def fits(weights: Sequence[Tensor]) -> bool:
    """Whether these weights can be run as whole steps: compiled, float32, on the processor, and small."""
    return (
        compiled.library() is not None
        and all(w.dtype is torch.float32 and w.device.type == "cpu" for w in weights)
        and sum(w.numel() * w.element_size() for w in weights) <= MOST_BYTES
    )
