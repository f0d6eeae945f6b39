"""Causal attention over packed sequences that may share their beginnings, when learning.

A *layout* says which of the flat tokens attend to which. Sequences of similar length are put side by side, as rows of
a few padded squares, for attention alone; all other layers see flat tokens without padding. A row's keys are those
of a beginning that it shares with others (a group's prompt, computed once) and then its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd import Function

from journeyman.kernels.loops import LANES, Loops, loops

ROOM = 0.8
"""Rows share a square while the shortest has at least this share of the longest one's keys."""

Ints = npt.NDArray[np.int64]

SPAN = 512
"""Most queries of a row in one product; probabilities of longer rows are computed again for the gradient."""


@dataclass(frozen=True)
class Segment:
    """Consecutive flat tokens `[start, stop)` that attend to `[before, before + shared)` and causally to themselves."""

    start: int
    stop: int
    before: int = 0
    shared: int = 0

    @property
    def keys(self) -> int:
        return self.shared + self.stop - self.start


@dataclass(frozen=True)
class Square:
    """Rows of similar length, side by side.

    Attributes:
        query: flat indices [B, T] of the queries; -1 for none.
        key: flat indices [B, C] of the keys; -1 for none. None where they come from a cache.
        before: how many of a row's keys come before its first query [B].
        most_before: the greatest of any row.
    """

    query: Tensor
    key: Tensor | None
    before: Tensor
    most_before: int


@dataclass(frozen=True)
class Layout:
    """Who attends to whom among flat tokens: segments that together hold each of them once, in order."""

    segments: tuple[Segment, ...]
    device: torch.device | str = "cpu"

    @staticmethod
    def of(segments: Sequence[Segment], device: torch.device | str = "cpu") -> Layout:
        """Of segments on a device."""
        return Layout(tuple(segments), device)

    @staticmethod
    def rows(count: int, length: int, device: torch.device | str = "cpu") -> Layout:
        """`count` sequences of `length` tokens each, one after the other."""
        return Layout.of([Segment(i * length, (i + 1) * length) for i in range(count)], device)

    @property
    def tokens(self) -> int:
        return self.segments[-1].stop if self.segments else 0

    @property
    def shares(self) -> bool:
        """Whether some segments see tokens of others."""
        return bool(self.table[:, 3].any())

    @cached_property
    def squares(self) -> tuple[Square, ...]:
        """The segments as rows of squares, for attention in matrix products."""
        lengths = [s.keys for s in self.segments]
        return tuple(_square([self.segments[i] for i in rows], self.device) for rows in alike(lengths))

    @cached_property
    def table(self) -> Ints:
        """The segments as rows of start, stop, before, shared."""
        rows = [(s.start, s.stop, s.before, s.shared) for s in self.segments]
        return np.array(rows, np.int64).reshape(-1, 4)

    @property
    def most_keys(self) -> int:
        """The most that a token sees."""
        start, stop, _, shared = self.table.T
        return int((shared + stop - start).max(initial=0))

    @cached_property
    def families(self) -> Ints:
        """Where segments begin that see nothing of earlier ones, nor do those after them; and the number of all."""
        start, _, before, shared = self.table.T
        seen = np.where(shared > 0, before, start)
        least = np.minimum.accumulate(seen[::-1])[::-1]
        return np.append(np.flatnonzero(least >= start), len(self.table))

    @property
    def largest_family(self) -> int:
        """Tokens of the largest of them."""
        return int(np.diff(self._edges).max(initial=0))

    def chunks(self, size: int) -> Ints:
        """Where the segments may be cut into whole families of at most `size` tokens (or one larger family)."""
        families, edges = self.families, self._edges
        cuts, begin = [0], 0
        for number in range(1, len(edges)):
            if edges[number] - edges[begin] > size and number - 1 > begin:
                begin = number - 1
                cuts.append(int(families[begin]))
        return np.array([*cuts, len(self.table)], np.int64)

    @property
    def _edges(self) -> Ints:
        """The flat token at which each family begins, and the number of all."""
        return np.append(self.table[self.families[:-1], 0], self.tokens)


def alike(lengths: Sequence[int]) -> list[list[int]]:
    """Split rows by length, the longest first, so that in each part the shortest has `ROOM` of the longest."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    parts: list[list[int]] = []
    for i in order:
        if not parts or lengths[i] < ROOM * lengths[parts[-1][0]]:
            parts.append([])
        parts[-1].append(i)
    return parts


def squares(
    starts: Ints, counts: Ints, before: Ints, rows: Ints, device: torch.device | str
) -> list[tuple[Ints, Tensor, Square]]:
    """Queries [starts, starts + counts) of rows of a cache in which `before` tokens come before.

    Returns:
        For each square: its rows, how many keys each has by then, and the square.
    """
    found: list[tuple[Ints, Tensor, Square]] = []
    for part in alike((counts + before).tolist()):
        length = int(counts[part].max())
        column = np.arange(length)[None]
        query = np.where(column < counts[part][:, None], starts[part][:, None] + column, -1)
        index, behind, lengths = (
            torch.from_numpy(x).to(device) for x in (query, before[part], (counts + before)[part])
        )
        found.append((rows[part], lengths, Square(index, None, behind, int(before[part].max()))))
    return found


def _square(segments: Sequence[Segment], device: torch.device | str) -> Square:
    queries = max(s.stop - s.start for s in segments)
    most = max(s.keys for s in segments)
    query, key = np.full((len(segments), queries), -1, np.int64), np.full((len(segments), _rounded(most)), -1, np.int64)
    for row, s in enumerate(segments):
        query[row, : s.stop - s.start] = np.arange(s.start, s.stop)
        key[row, : s.shared] = np.arange(s.before, s.before + s.shared)
        key[row, s.shared : s.keys] = np.arange(s.start, s.stop)
    before = np.array([s.shared for s in segments], np.int64)
    index, keys, behind = (torch.from_numpy(x).to(device) for x in (query, key, before))
    return Square(index, keys, behind, int(before.max()))


def _rounded(columns: int) -> int:
    return -(-columns // LANES) * LANES


@dataclass(frozen=True)
class Rows:
    """One square's queries [B, H, T, E] with the keys and values [B * K, C, E] that they see."""

    run: Loops
    square: Square
    query: Tensor
    key: Tensor
    value: Tensor
    window: int | None

    @staticmethod
    def of(run: Loops, qkv: Tensor, heads: int, square: Square, window: int | None) -> Rows:
        """From flat queries, keys and values [N, H + 2K, E]."""
        assert square.key is not None
        kv_heads = (qkv.shape[1] - heads) // 2
        query = gathered(run, qkv[:, :heads], square.query)
        key = gathered(run, qkv[:, heads : heads + kv_heads], square.key)
        value = gathered(run, qkv[:, heads + kv_heads :], square.key)
        return Rows(run, square, query, key.flatten(0, 1), value.flatten(0, 1), window)

    @staticmethod
    def of_cache(run: Loops, query: Tensor, key: Tensor, value: Tensor, square: Square, window: int | None) -> Rows:
        """From flat queries [N, H, E], and keys and values [B, K, C, E] of a cache (0 where never written)."""
        found = gathered(run, query, square.query)
        return Rows(run, square, found, key.flatten(0, 1), value.flatten(0, 1), window)

    def attended(self) -> tuple[Tensor, list[Tensor | None]]:
        """Attended values [B, H, T, E], and the probabilities of each part (None where there are several)."""
        out = torch.empty_like(self.query)
        kept: list[Tensor | None] = []
        for part, columns in self.parts():
            probs = self.probabilities(part, columns)
            self._put(out, part, torch.bmm(probs, self.value[:, :columns]))
            kept.append(probs if self._whole else None)
        return out, kept

    def gradients(self, kept: Sequence[Tensor | None], grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of queries [B, H, T, E], and of keys and values [B, K, C, E]; `grad` is [B, H, T, E]."""
        of_query = torch.empty_like(self.query)
        of_key, of_value = torch.zeros_like(self.key), torch.zeros_like(self.value)
        scale = self.query.shape[3] ** -0.5
        for (part, columns), saved in zip(self.parts(), kept, strict=True):
            probs = self.probabilities(part, columns) if saved is None else saved
            rows = self._rows(grad, part)
            of_scores = torch.bmm(rows, self.value[:, :columns].transpose(1, 2))
            self.run.softmax_backward(probs, of_scores, scale)
            self._put(of_query, part, torch.bmm(of_scores, self.key[:, :columns]))
            of_value[:, :columns] += torch.bmm(probs.transpose(1, 2), rows)
            of_key[:, :columns] += torch.bmm(of_scores.transpose(1, 2), self._rows(self.query, part))
        batch = len(self.square.before)
        return of_query, of_key.unflatten(0, (batch, -1)), of_value.unflatten(0, (batch, -1))

    def parts(self) -> list[tuple[slice, int]]:
        """Spans of queries, and how many keys the last of each can see."""
        length = self.query.shape[2]
        spans = [slice(start, min(start + SPAN, length)) for start in range(0, length, SPAN)]
        most = self.square.most_before
        return [(span, min(_rounded(span.stop + most), self.key.shape[1])) for span in spans]

    def probabilities(self, part: slice, columns: int) -> Tensor:
        """[B * K, G * span, columns]."""
        scores = torch.bmm(self._rows(self.query, part), self.key[:, :columns].transpose(1, 2))
        span, scale = part.stop - part.start, self.query.shape[3] ** -0.5
        self.run.softmax(scores, self.square.before, span, part.start, scale, self.window)
        return scores

    @property
    def _whole(self) -> bool:
        return self.query.shape[2] <= SPAN

    def _rows(self, x: Tensor, part: slice) -> Tensor:
        """Of [B, H, T, E] the queries of a span, those that read one key head side by side: [B * K, G * span, E]."""
        span = part.stop - part.start
        return x[:, :, part].reshape(len(self.key), -1, span, x.shape[3]).flatten(1, 2)

    def _put(self, target: Tensor, part: slice, rows: Tensor) -> None:
        """The way back."""
        batch, heads, _, width = target.shape
        target[:, :, part] = rows.view(batch, heads, part.stop - part.start, width)


def gathered(run: Loops, x: Tensor, index: Tensor) -> Tensor:
    """[B, heads, T, E] of flat x [N, heads, E]."""
    out = x.new_empty(len(index), x.shape[1], index.shape[1], x.shape[2])
    run.gather(x, out, index)
    return out


class _Attention(Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int, layout: Layout, window: int | None) -> Tensor:
        run = loops(qkv.device.type, qkv.dtype)
        out = qkv.new_empty(len(qkv), heads, qkv.shape[2])
        ctx.kept = []
        for square in layout.squares:
            rows = Rows.of(run, qkv, heads, square, window)
            result, kept = rows.attended()
            run.ungather(result, out, square.query)
            if ctx.needs_input_grad[0]:
                ctx.kept.append((rows, kept))
        ctx.heads, ctx.shares, ctx.shape = heads, layout.shares, qkv.shape
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        heads, kv_heads = ctx.heads, (ctx.shape[1] - ctx.heads) // 2
        run = loops(grad.device.type, grad.dtype)
        grad = grad.contiguous()
        out = grad.new_empty(ctx.shape)
        parts = out[:, heads : heads + kv_heads], out[:, heads + kv_heads :]
        # what several rows have read gets a sum of gradients
        sums = [torch.zeros(part.shape, device=grad.device) for part in parts] if ctx.shares else []
        for rows, kept in ctx.kept:
            of_query, *of_keys = rows.gradients(kept, gathered(run, grad, rows.square.query))
            run.ungather(of_query, out[:, :heads], rows.square.query)
            for number, found in enumerate(of_keys):
                if sums:
                    run.scatter_add(found, sums[number], rows.square.key)
                else:
                    run.ungather(found, parts[number], rows.square.key)
        for part, total in zip(parts, sums, strict=False):
            part.copy_(total)
        ctx.kept = None
        return out, None, None, None


def attention(qkv: Tensor, heads: int, layout: Layout, window: int | None = None) -> Tensor:
    """Attended values [N, H, E] of flat queries, keys and values [N, H + 2K, E].

    Args:
        layout: who attends to whom.
        window: positions a query sees back, itself included; None for all. Counted over a row's keys.
    """
    return _Attention.apply(qkv, heads, layout, window)  # pyright: ignore[reportReturnType]
