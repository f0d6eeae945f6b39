"""The cache of keys and values: blocks of 16 tokens, which sequences with the same beginning share.

A sequence's row of the table lists its blocks. Only full blocks are shared, by counting their holders, so nobody
writes where another reads. A new sequence finds the blocks that live ones with the same beginning have filled; while
one of them is still filling the next, it waits. A fork shares all full blocks and copies the last, partial one.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from journeyman.kernels.loops import BLOCK
from journeyman.model.decoder import DecoderConfig

Ints = npt.NDArray[np.int64]


class BlockCache:
    """Blocks for `rows` sequences of up to `context` tokens. Memory is touched only as it is written.

    Attributes:
        keys: [layers, blocks, K, E, BLOCK], the keys of a block side by side.
        values: [layers, blocks, K, BLOCK, E].
        table: int32 [rows, blocks of a row], which block holds tokens 16 i to 16 i + 15 of a row.
    """

    def __init__(
        self, config: DecoderConfig, rows: int, context: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        each = -(-context // BLOCK)
        shape = (config.layers, rows * each, config.kv_heads)
        self.keys = torch.empty(*shape, config.head_width, BLOCK, dtype=dtype, device=device)
        self.values = torch.empty(*shape, BLOCK, config.head_width, dtype=dtype, device=device)
        self.table = np.zeros((rows, each), np.int32)
        self.count: Ints = np.zeros(rows, np.int64)
        self.holders: Ints = np.zeros(rows * each, np.int64)
        self.free = list(range(rows * each - 1, -1, -1))
        self.names: list[list[bytes]] = [[] for _ in range(rows)]
        """What each row's first blocks will hold, as a digest of everything up to their end."""
        self.full: dict[bytes, int] = {}
        """Blocks by what they hold."""
        self.name_of: dict[int, bytes] = {}
        self.announced: dict[bytes, int] = {}
        """What is being written, and the row that writes it."""

    def begin(self, row: int, tokens: Ints) -> int | None:
        """Give an empty row the blocks that others have filled with its beginning; announce those it will fill.

        Returns:
            How many of the tokens need not be read (never all), or None: another row is about to write the next
            block, so ask again after the next step.
        """
        names = _names(tokens[:-1])
        found = 0
        while found < len(names) and names[found] in self.full:
            found += 1
        if found < len(names) and names[found] in self.announced:
            return None
        for name in names[:found]:
            self._append(row, self.full[name])
        for name in names[found:]:
            self.announced.setdefault(name, row)
        self.names[row] = names
        return found * BLOCK

    def reserve(self, rows: Ints, lengths: Ints) -> None:
        """Make room for the first `lengths` tokens of each row."""
        needed = -(-lengths // BLOCK)
        short = needed > self.count[rows]
        if not short.any():
            return
        for row, blocks in zip(rows[short].tolist(), needed[short].tolist(), strict=True):
            while self.count[row] < blocks:
                self._append(row, self.free.pop())

    def wrote(self, row: int, start: int, stop: int) -> None:
        """A row has written the tokens [start, stop) of its beginning: others may share the blocks that are full."""
        names = self.names[row]
        for number in range(start // BLOCK, min(stop // BLOCK, len(names))):
            name, block = names[number], int(self.table[row, number])
            if self.announced.pop(name, None) is not None:
                self.full[name], self.name_of[block] = block, name

    def fork(self, source: int, target: int, length: int) -> None:
        """Let an empty row hold the first `length` tokens of another: full blocks shared, the last one copied."""
        whole = length // BLOCK
        for block in self.table[source, :whole].tolist():
            self._append(target, block)
        if length % BLOCK:
            old, new = int(self.table[source, whole]), self.free.pop()
            self._append(target, new)
            self.keys[:, new] = self.keys[:, old]
            self.values[:, new] = self.values[:, old]

    def release(self, row: int) -> None:
        """Give back what the row holds."""
        for name in self.names[row]:
            if self.announced.get(name) == row:
                del self.announced[name]
        self.names[row] = []
        for block in self.table[row, : self.count[row]].tolist():
            self.holders[block] -= 1
            if not self.holders[block]:
                name = self.name_of.pop(block, None)
                if name is not None:
                    del self.full[name]
                self.free.append(block)
        self.count[row] = 0

    def forget(self) -> None:
        """What has been written so far is no longer shared with sequences to come: the weights have changed."""
        self.full.clear()
        self.name_of.clear()
        self.announced.clear()
        self.names = [[] for _ in self.names]

    def gathered(self, layer: int, rows: Ints, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The first `lengths` keys and values of a layer, side by side: [rows, K, whole blocks, E].

        Memory that was never written may hold anything, so values beyond a row's length are 0.
        """
        blocks = -(-int(lengths.max()) // BLOCK)
        index = torch.from_numpy(self.table[rows, :blocks].astype(np.int64)).to(self.keys.device)
        keys = self.keys[layer][index].permute(0, 2, 1, 4, 3).flatten(2, 3)
        values = self.values[layer][index].permute(0, 2, 1, 3, 4).flatten(2, 3)
        beyond = torch.arange(values.shape[2], device=values.device) >= lengths[:, None]
        return keys, values.masked_fill_(beyond[:, None, :, None], 0.0)

    def _append(self, row: int, block: int) -> None:
        self.table[row, self.count[row]] = block
        self.count[row] += 1
        self.holders[block] += 1


def _names(tokens: Ints) -> list[bytes]:
    """For each full block of the tokens, a digest of everything up to its end."""
    data = tokens.astype(np.int32)
    names: list[bytes] = []
    digest = hashlib.blake2b(digest_size=16)
    for start in range(0, len(data) - BLOCK + 1, BLOCK):
        digest.update(data[start : start + BLOCK].tobytes())
        names.append(digest.digest())
    return names
