"""The native engine: continuous batching over a slotted key/value cache, on the trainer's own decoder.

A sequence holds a row ("slot") of the cache. One step feeds every busy row its unread tokens, up to `chunk`
of them, and samples one token in each row that has read everything. Linear layers see the flat tokens of all
rows, without padding; attention runs once for all rows' last tokens, and once more, padded, for the rows
that read more than one. When the last rows of a batch finish, the remaining ones are moved to the front, so
that a view of the cache suffices and nothing is gathered.

Shapes: R busy rows, N flat tokens, C tokens of the longest chunk, S cache length in view, K key/value heads,
G query heads per key/value head, E head width, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from journeyman.engine.base import Engine, Finish, Reply, Sampling
from journeyman.errors import UsageError
from journeyman.model.decoder import Decoder

Ints = npt.NDArray[np.int64]


@dataclass
class _Sequence:
    """Book-keeping of one open sequence. `tokens[read:]` are not in the cache yet."""

    seed: int
    slot: int = -1
    busy: bool = False
    reply_start: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    waiting: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Group:
    """Rows that attend together: flat positions of their queries and the part of the cache they see."""

    flat: Tensor  # [R, C] index into the flat tokens; padding repeats a row's last token
    rows: Tensor | slice  # cache rows
    mask: Tensor  # [R, 1, G * C, S] additive, per layer window
    scatter: tuple[Tensor, Tensor] | None  # ([R, C] positions that are real, flat index of each) for padded groups


class NativeEngine(Engine):
    """Samples from a :class:`Decoder` that it shares with its owner: an in-place update is seen at once.

    Args:
        model: the weights; the cache takes their type and device.
        slots: sequences in flight; more wait in line.
        context: longest sequence, at most the model's positions.
        chunk: most tokens a row reads in one step; bounds the memory of a long prompt.
    """

    def __init__(self, model: Decoder, *, slots: int = 64, context: int | None = None, chunk: int = 512) -> None:
        config = model.config
        self.context = min(context or config.max_positions, config.max_positions)
        if slots < 1 or chunk < 1:
            raise UsageError(f"the engine needs at least one slot and a chunk of one, got {slots} and {chunk}")
        self.model, self.slots, self.chunk = model, slots, chunk
        weight = model.model.embed_tokens.weight
        self.device, self.dtype = weight.device, weight.dtype
        shape = (config.layers, slots, config.kv_heads, self.context, config.head_width)
        self.keys = torch.zeros(shape, dtype=self.dtype, device=self.device)
        self.values = torch.zeros(shape, dtype=self.dtype, device=self.device)
        self.tokens: Ints = np.zeros((slots, self.context + 1), np.int64)
        self.logprobs = np.zeros((slots, self.context + 1), np.float32)
        self.read: Ints = np.zeros(slots, np.int64)
        self.known: Ints = np.zeros(slots, np.int64)
        self.limit: Ints = np.zeros(slots, np.int64)
        self.active = np.zeros(slots, bool)
        self.seeds = np.zeros(slots, np.uint64)
        self.temperature = np.ones(slots, np.float32)
        self.top_p = np.ones(slots, np.float32)
        self.owner: list[int] = [-1] * slots
        self.free = list(range(slots - 1, -1, -1))
        self.line: deque[int] = deque()
        self.sequences: dict[int, _Sequence] = {}
        self.next_id = 0
        self.generated = 0

    # -- the contract ---------------------------------------------------------------------------------

    def open(self, seed: int) -> int:
        self.next_id += 1
        self.sequences[self.next_id] = _Sequence(seed)
        return self.next_id

    def fork(self, sequence: int, seed: int) -> int:
        source = self.sequences[sequence]
        if source.busy:
            raise UsageError("a sequence can be forked only while it is idle")
        twin = self.open(seed)
        if source.slot < 0:
            self.sequences[twin].waiting = source.waiting
            return twin
        if not self.free:
            raise UsageError(f"no free slot to fork into: all {self.slots} are taken", fix="give the engine more slots")
        self._seat(twin)
        self._copy_row(source.slot, self.sequences[twin].slot)
        return twin

    def submit(self, sequence: int, tokens: Sequence[int], sampling: Sampling) -> None:
        entry = self.sequences[sequence]
        if entry.busy:
            raise UsageError("this sequence is still sampling its last reply")
        entry.busy, entry.sampling = True, sampling
        entry.waiting = (*entry.waiting, *tokens)
        if entry.slot < 0 and (self.line or not self.free):
            self.line.append(sequence)
        else:
            self._admit(sequence)

    def close(self, sequence: int) -> None:
        entry = self.sequences.pop(sequence)
        if entry.slot >= 0:
            self.active[entry.slot] = False
            self.owner[entry.slot] = -1
            self.free.append(entry.slot)
        elif entry.busy:
            self.line.remove(sequence)
        while self.line and self.free:
            self._admit(self.line.popleft())

    @property
    def busy(self) -> bool:
        return bool(self.line) or bool(self.active.any())

    @torch.inference_mode()
    def step(self) -> list[Reply]:
        self._compact()
        rows: Ints = np.flatnonzero(self.active)
        if not len(rows):
            return []
        full = rows[self.known[rows] >= self.context]
        if len(full):
            return self._finish(full, "context")
        counts = np.minimum(self.known[rows] - self.read[rows], self.chunk)
        hidden = self._forward(rows, counts)
        self.read[rows] += counts
        ready = self.read[rows] == self.known[rows]
        last = np.cumsum(counts) - 1
        if not ready.any():
            return []
        return self._sample(rows[ready], hidden[torch.from_numpy(last[ready]).to(self.device)])

    # -- slots ----------------------------------------------------------------------------------------

    def _seat(self, sequence: int) -> int:
        slot = self.free.pop()
        entry = self.sequences[sequence]
        entry.slot, self.owner[slot] = slot, sequence
        self.read[slot] = self.known[slot] = 0
        self.seeds[slot] = np.uint64(entry.seed & 0xFFFFFFFFFFFFFFFF)
        return slot

    def _admit(self, sequence: int) -> None:
        entry = self.sequences[sequence]
        slot = entry.slot if entry.slot >= 0 else self._seat(sequence)
        start = int(self.known[slot])
        new = np.asarray(entry.waiting[: self.context - start], np.int64)
        self.tokens[slot, start : start + len(new)] = new
        truncated = len(new) < len(entry.waiting)
        entry.waiting = ()
        self.known[slot] = start + len(new)
        if self.known[slot] == 0:
            raise UsageError("a sequence needs at least one token to read before it can reply")
        if self.read[slot] == self.known[slot]:  # a fork with nothing new: read the last token again
            self.read[slot] -= 1
        entry.reply_start = int(self.known[slot])
        sampling = entry.sampling
        room = entry.reply_start if truncated else min(entry.reply_start + sampling.max_tokens, self.context)
        self.limit[slot] = room
        self.temperature[slot], self.top_p[slot] = sampling.temperature, sampling.top_p
        self.active[slot] = True

    def _copy_row(self, source: int, target: int) -> None:
        length = int(self.read[source])
        self.keys[:, target, :, :length] = self.keys[:, source, :, :length]
        self.values[:, target, :, :length] = self.values[:, source, :, :length]
        self.tokens[target], self.logprobs[target] = self.tokens[source], self.logprobs[source]
        for column in (self.read, self.known):
            column[target] = column[source]

    def _compact(self) -> None:
        """Move the rearmost rows into holes in front while that makes the view of the cache smaller."""
        self.free.sort(reverse=True)
        while self.free:
            taken = self.slots - 1
            while taken >= 0 and self.owner[taken] < 0:
                taken -= 1
            hole = self.free[-1]
            if hole > taken:
                return
            self._copy_row(taken, hole)
            for column in (self.limit, self.active, self.seeds, self.temperature, self.top_p):
                column[hole] = column[taken]
            self.active[taken] = False
            owner = self.owner[taken]
            self.owner[hole], self.owner[taken] = owner, -1
            self.sequences[owner].slot = hole
            self.free[-1] = taken
            self.free.sort(reverse=True)

    # -- one forward pass -----------------------------------------------------------------------------

    def _forward(self, rows: Ints, counts: Ints) -> Tensor:
        """Hidden states [N, D] of the unread tokens of each row, which enter the cache."""
        row_of = np.repeat(rows, counts)
        offset = np.arange(len(row_of)) - np.repeat(np.cumsum(counts) - counts, counts)
        position = self.read[row_of] + offset
        flat_row, flat_position, tokens = (
            torch.from_numpy(x).to(self.device) for x in (row_of, position, self.tokens[row_of, position])
        )
        groups = self._groups(rows, counts)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.keys[layer, flat_row, :, flat_position] = k
            self.values[layer, flat_row, :, flat_position] = v
            out = torch.empty_like(q)
            for group in groups:
                self._attend(layer, q, out, group)
            return out

        return self.model.model(tokens, flat_position, attend)

    def _groups(self, rows: Ints, counts: Ints) -> list[_Group]:
        ends = np.cumsum(counts)
        single = counts == 1
        groups: list[_Group] = []
        for members in (np.flatnonzero(single), np.flatnonzero(~single)):
            if len(members):
                groups.append(self._group(rows[members], counts[members], ends[members]))
        return groups

    def _group(self, rows: Ints, counts: Ints, ends: Ints) -> _Group:
        longest = int(counts.max())
        column = np.arange(longest)[None, :]
        real = column < counts[:, None]
        flat = np.minimum((ends - counts)[:, None] + column, (ends - 1)[:, None])
        position = np.minimum(self.read[rows][:, None] + column, (self.read[rows] + counts - 1)[:, None])
        seen = int(position.max()) + 1
        contiguous = len(rows) == rows[-1] - rows[0] + 1
        place = slice(int(rows[0]), int(rows[-1]) + 1) if contiguous else torch.from_numpy(rows).to(self.device)
        config = self.model.config
        hidden_keys = torch.arange(seen)[None, None, :] > torch.from_numpy(position)[:, :, None]
        if config.windows:
            window = max(w for w in config.windows if w is not None)
            if any(w != window for w in config.windows):
                raise UsageError("the native engine needs one attention window for all layers")
            hidden_keys |= torch.arange(seen)[None, None, :] <= torch.from_numpy(position)[:, :, None] - window
        mask = torch.zeros(hidden_keys.shape, dtype=self.dtype).masked_fill_(hidden_keys, float("-inf"))
        grouped = config.heads // config.kv_heads
        mask = mask.repeat(1, grouped, 1) if grouped > 1 else mask
        scatter = None
        if not real.all():
            scatter = (torch.from_numpy(real).to(self.device), torch.from_numpy(flat[real]).to(self.device))
        flat_index = torch.from_numpy(flat).to(self.device)
        return _Group(flat_index, place, mask.unsqueeze(1).to(self.device), scatter)

    def _attend(self, layer: int, q: Tensor, out: Tensor, group: _Group) -> None:
        """Queries of one key/value head sit side by side, so that grouped heads need no copies of the cache."""
        count, chunk = group.flat.shape
        seen = group.mask.shape[-1]
        kv_heads, width = self.keys.shape[2], self.keys.shape[4]
        grouped = q.shape[1] // kv_heads
        query = q[group.flat].view(count, chunk, kv_heads, grouped, width).permute(0, 2, 3, 1, 4)
        query = query.reshape(count, kv_heads, grouped * chunk, width)
        keys, values = self.keys[layer, group.rows, :, :seen], self.values[layer, group.rows, :, :seen]
        result = F.scaled_dot_product_attention(query, keys, values, attn_mask=group.mask)
        result = result.view(count, kv_heads, grouped, chunk, width).permute(0, 3, 1, 2, 4)
        result = result.reshape(count, chunk, q.shape[1], width)
        if group.scatter is None:
            out[group.flat] = result
        else:
            out[group.scatter[1]] = result[group.scatter[0]]

    # -- sampling -------------------------------------------------------------------------------------

    def _sample(self, rows: Ints, hidden: Tensor) -> list[Reply]:
        logits = self.model.logits(hidden).float()
        temperature = torch.from_numpy(self.temperature[rows]).to(self.device)
        greedy = temperature == 0
        logprobs = (logits / torch.where(greedy, 1.0, temperature)[:, None]).log_softmax(-1)
        choice = self._choose(rows, logprobs)
        if greedy.any():
            choice = torch.where(greedy, logits.argmax(-1), choice)
        chosen = logprobs.gather(-1, choice[:, None]).squeeze(-1)
        at = self.known[rows]
        tokens = choice.cpu().numpy()
        self.tokens[rows, at] = tokens
        self.logprobs[rows, at] = chosen.cpu().numpy()
        self.known[rows] += 1
        self.generated += len(rows)
        stopped = np.fromiter(
            (int(t) in self._sampling(r).stop for r, t in zip(rows, tokens, strict=True)), bool, len(rows)
        )
        spent = ~stopped & (self.known[rows] >= self.limit[rows])
        return self._finish(rows[stopped], "stop") + self._finish(rows[spent], "length")

    def _choose(self, rows: Ints, logprobs: Tensor) -> Tensor:
        """Inverse transform sampling with one uniform per row, hashed from its seed and position."""
        draws = torch.from_numpy(uniform(self.seeds[rows], self.known[rows])).to(self.device)
        probs = logprobs.exp()
        top_p = torch.from_numpy(self.top_p[rows]).to(self.device)
        if (top_p < 1).any():
            ordered, order = probs.sort(-1, descending=True)
            beyond = ordered.cumsum(-1) - ordered >= top_p[:, None]
            probs = probs.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), 0.0)
        mass = probs.cumsum(-1, dtype=torch.float64 if probs.shape[-1] > 4096 else torch.float32)
        return (
            torch.searchsorted(mass, (draws * mass[:, -1])[:, None].to(mass.dtype), right=True)
            .squeeze(-1)
            .clamp_(max=probs.shape[-1] - 1)
        )

    def _sampling(self, slot: int) -> Sampling:
        return self.sequences[self.owner[slot]].sampling

    def _finish(self, rows: Ints, finish: Finish) -> list[Reply]:
        replies: list[Reply] = []
        for slot in rows.tolist():
            sequence = self.owner[slot]
            entry = self.sequences[sequence]
            span = slice(entry.reply_start, int(self.known[slot]))
            full = finish == "length" and self.known[slot] >= self.context
            reply = Reply(
                sequence,
                tuple(self.tokens[slot, span].tolist()),
                tuple(self.logprobs[slot, span].tolist()),
                "context" if full else finish,
            )
            entry.busy = False
            self.active[slot] = False
            replies.append(reply)
        return replies


def uniform(seeds: npt.NDArray[np.uint64], positions: Ints) -> npt.NDArray[np.float64]:
    """Uniforms in [0, 1) by hashing (seed, position) with splitmix64 (Steele et al. 2014): no state, so a draw
    does not depend on what else is in the batch."""
    with np.errstate(over="ignore"):
        z = seeds + (positions.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) / float(1 << 53)
