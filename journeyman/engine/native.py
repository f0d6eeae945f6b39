"""The native engine: continuous batching over a cache of shared blocks, on the trainer's own weights.

One step feeds every busy row its unread tokens, up to `chunk` of them in all beside one per row, and samples one
token in each row that has read everything. All layers but attention see the flat tokens of all rows, without
padding. A single token attends straight to its row's blocks, whatever their number; rows that read many tokens at once
do as when learning (`kernels/attention.py`).

Shapes: R busy rows, N flat tokens, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from journeyman import machine
from journeyman.engine.base import Engine, Finish, Reply, Sampling, check_fork
from journeyman.engine.cache import BlockCache, Ints
from journeyman.engine.packed import packed
from journeyman.errors import UsageError
from journeyman.kernels.attention import Rows, squares
from journeyman.kernels.loops import loops
from journeyman.kernels.whole import LONG
from journeyman.model.decoder import Attend, Decoder, DecoderConfig
from journeyman.model.texts import MATCHED, Table

FEW = 8
"""A row that reads at most this many tokens lets each attend by itself, as when it samples."""

STRIDE, LONGEST_STRIDE = 8, 16
"""One step samples an eighth of a usual reply in each row, and at most sixteen tokens: a longer stride costs less, and
a row that ends early waits for the others."""

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

NEVER = -1
"""Stands for no token in the list of those that end a reply."""


@dataclass
class _Sequence:
    """Book-keeping of one open sequence. `tokens[read:]` are not in the cache yet."""

    seed: int
    slot: int = -1
    busy: bool = False
    reply_start: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    waiting: tuple[int, ...] = ()


class NativeEngine(Engine):
    """Samples from a copy of a :class:`Decoder`'s weights, which `load` renews.

    Args:
        model: the weights.
        slots: sequences in flight; more wait in line.
        context: longest sequence, at most the model's positions.
        chunk: tokens of prompts that are read in one step; bounds memory, and how long a long prompt holds up others.
        dtype: arithmetic of matrix products and type of the cache; the weights' own when not given.
    """

    def __init__(
        self,
        model: Decoder,
        *,
        slots: int = 64,
        context: int | None = None,
        chunk: int = 2048,
        dtype: torch.dtype | None = None,
    ) -> None:
        machine.prepare()
        self.config = model.config
        self.context = min(context or self.config.max_positions, self.config.max_positions)
        if slots < 1 or chunk < 1:
            raise UsageError(f"the engine needs at least one slot and a chunk of one, got {slots} and {chunk}")
        self.slots, self.chunk = slots, chunk
        self.model = packed(model, dtype or model.head.dtype)
        self.device = self.model.device
        self.run = loops(self.device.type, self.model.dtype)
        self.cache = BlockCache(self.config, slots, self.context, self.model.dtype, self.device)
        self.tokens: Ints = np.zeros((slots, self.context + 1), np.int64)
        self.logprobs = np.zeros((slots, self.context + 1), np.float32)
        self.read: Ints = np.zeros(slots, np.int64)
        self.known: Ints = np.zeros(slots, np.int64)
        self.limit: Ints = np.zeros(slots, np.int64)
        self.active = np.zeros(slots, bool)
        self.steady: tuple[Ints, Ints, Bools] | None = None
        """Busy rows that all go on by one token, as they did in the last step; None after any change."""
        self.starting = np.zeros(slots, bool)
        """Rows that may yet find their beginning in the cache."""
        self.seeds = np.zeros(slots, np.uint64)
        self.temperature = np.ones(slots, np.float32)
        self.top_p = np.ones(slots, np.float32)
        self.stop: Ints = np.full((slots, 1), NEVER, np.int64)
        self.texts: list[Table | None] = [None] * slots
        """What each row's reply stops at, as a table from state and token to state."""
        self.addresses = np.zeros(slots, np.uint64)
        """Of the tables; 0 for none."""
        self.state: Ints = np.zeros(slots, np.int64)
        self.owner: list[int] = [-1] * slots
        self.free = list(range(slots - 1, -1, -1))
        self.line: deque[int] = deque()
        self.sequences: dict[int, _Sequence] = {}
        self.next_id = 0
        self.usual = 32.0
        """Tokens of a reply, averaged over the last ones."""

    # -- the contract ---------------------------------------------------------------------------------

    def load(self, model: Decoder, version: int) -> None:
        if _widths(model.config) != _widths(self.config):  # the compiled loops would read beyond the weights
            raise ValueError("the engine was made for a model of another shape: make one for this model")
        self.model.load(model)
        self.cache.forget()
        self.version = version

    def open(self, seed: int) -> int:
        self.next_id += 1
        self.sequences[self.next_id] = _Sequence(seed)
        return self.next_id

    def fork(self, sequence: int, seed: int, length: int | None = None) -> int:
        source = self.sequences[sequence]
        if source.busy:
            raise UsageError("a sequence can be forked only while it is idle")
        held = len(source.waiting) if source.slot < 0 else int(self.known[source.slot])
        check_fork(length, held)
        if source.slot < 0:
            twin = self.open(seed)
            self.sequences[twin].waiting = source.waiting[:length]
            return twin
        if not self.free:
            raise UsageError(f"no free slot to fork into: all {self.slots} are taken", fix="give the engine more slots")
        twin = self.open(seed)
        slot = self._seat(twin)
        self.known[slot] = held if length is None else length
        self.read[slot] = min(self.read[source.slot], self.known[slot] - 1)  # the last is read again, in its own block
        self.cache.fork(source.slot, slot, int(self.read[slot]))
        for column in (self.tokens, self.logprobs):
            column[slot] = column[source.slot]
        self.starting[slot] = False
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

    def partial(self, sequence: int, start: int = 0) -> tuple[tuple[int, ...], tuple[float, ...]]:
        entry = self.sequences[sequence]
        if not entry.busy or entry.slot < 0:
            return (), ()
        span = slice(entry.reply_start + start, int(self.known[entry.slot]))
        return tuple(self.tokens[entry.slot, span].tolist()), tuple(self.logprobs[entry.slot, span].tolist())

    def close(self, sequence: int) -> None:
        entry = self.sequences.pop(sequence)
        if entry.slot >= 0:
            self.active[entry.slot] = False
            self.steady = None
            self.owner[entry.slot] = -1
            self.cache.release(entry.slot)
            self.free.append(entry.slot)
            if len(self.free) == self.slots:  # begin anew: the order in which replies end must not follow from the past
                self.free.sort(reverse=True)
        elif entry.busy:
            self.line.remove(sequence)
        while self.line and self.free:
            self._admit(self.line.popleft())

    @property
    def busy(self) -> bool:
        return bool(self.active.any())

    @torch.inference_mode()
    def step(self) -> list[Reply]:
        steady = self.steady
        if steady is None:
            rows: Ints = np.flatnonzero(self.active)
            if not len(rows):
                return []
            full = rows[self.known[rows] >= self.context]
            if len(full):
                return self._finish(full, "context")
            rows, counts = self._scheduled(rows)
            ready = self.read[rows] + counts == self.known[rows]
        else:
            rows, counts, ready = steady
        token, logprob, made = self._forward(rows, counts, ready)
        self.read[rows] += counts + np.maximum(made - 1, 0)
        if steady is None:
            for row in rows[self.starting[rows]].tolist():
                self.cache.wrote(row, 0, int(self.read[row]))
            self.starting[rows[ready]] = False
            if ready.sum() == self.active.sum():
                self.steady = rows, np.ones(len(rows), np.int64), np.ones(len(rows), bool)
        return self._take(rows, token, logprob, made)

    # -- slots ----------------------------------------------------------------------------------------

    def _seat(self, sequence: int) -> int:
        slot = self.free.pop()
        entry = self.sequences[sequence]
        entry.slot, self.owner[slot] = slot, sequence
        self.read[slot] = self.known[slot] = 0
        self.seeds[slot] = np.uint64(entry.seed & 0xFFFFFFFFFFFFFFFF)
        self.starting[slot] = True
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
        self._ends(slot, sampling.stop)
        table = None if sampling.stop_texts is None else sampling.stop_texts.table(self.config.vocab_size)
        self.texts[slot], self.addresses[slot] = table, 0 if table is None else table.ctypes.data
        self.state[slot] = 0
        self.active[slot] = True
        self.steady = None

    def _ends(self, slot: int, stop: frozenset[int]) -> None:
        """Note the tokens that end this row's replies."""
        if len(stop) > self.stop.shape[1]:
            wider = np.full((self.slots, len(stop)), NEVER, np.int64)
            wider[:, : self.stop.shape[1]] = self.stop
            self.stop = wider
        self.stop[slot] = NEVER
        self.stop[slot, : len(stop)] = list(stop)

    def _scheduled(self, rows: Ints) -> tuple[Ints, Ints]:
        """The rows of this step and how many tokens each reads: one where it samples, a share of `chunk` else."""
        counts = self.known[rows] - self.read[rows]
        if not self.starting[rows].any() and counts.max() == 1:
            return rows, counts
        left = self.chunk
        for place, row in enumerate(rows.tolist()):
            if self.starting[row] and not self.cache.names[row] and not self.read[row]:
                found = self.cache.begin(row, self.tokens[row, : self.known[row]])
                if found is None:
                    counts[place] = 0
                    continue
                self.read[row] = found
                counts[place] = self.known[row] - found
            if counts[place] > 1:
                counts[place] = min(counts[place], left)
                left -= counts[place]
        going = counts > 0
        return rows[going], counts[going]

    # -- one forward pass -----------------------------------------------------------------------------

    def _forward(self, rows: Ints, counts: Ints, ready: Bools) -> tuple[Ints, Floats, Ints]:
        """Read the unread tokens of each row into the cache and sample in those that are `ready`.

        Returns:
            Tokens and log-probabilities [R, most], and how many of them each row has made.
        """
        at, known = self.read[rows], self.known[rows]
        row_of = rows if len(rows) == counts.sum() else np.repeat(rows, counts)
        position = at if row_of is rows else np.arange(len(row_of)) + np.repeat(at + counts - np.cumsum(counts), counts)
        tokens = self.tokens[row_of, position]
        if self.model.whole is not None and counts.max() <= LONG and not (self.top_p[rows] < 1).any():
            cache, room = self.cache, np.where(ready, np.minimum(self.limit[rows] - known, self.stride), 0)
            cache.reserve(rows, at + counts + np.maximum(room - 1, 0))
            draws = uniform(self.seeds[rows, None], known[:, None] + np.arange(self.stride))
            state = self.state[rows]
            found = self.model.whole(
                tokens, row_of, position, counts, room, self.temperature[rows], draws, self.stop[rows],
                self.addresses[rows], state,
                cache.keys, cache.values, cache.table,
            )  # fmt: skip
            self.state[rows] = state
            return found
        self.cache.reserve(rows, at + counts)
        row, place, flat = (torch.from_numpy(x).to(self.device) for x in (row_of, position, tokens))
        hidden = self.model.hidden(flat, place, self._attention(rows, counts, row, place))
        last = (np.cumsum(counts) - 1)[ready]
        if len(last) < len(hidden):
            hidden = hidden[torch.from_numpy(last).to(self.device)]
        token, logprob = np.empty((len(rows), 1), np.int64), np.empty((len(rows), 1), np.float32)
        if len(last):
            token[ready, 0], logprob[ready, 0] = self._sample(rows[ready], hidden)
            for row, chosen in zip(rows[ready].tolist(), token[ready, 0].tolist(), strict=True):
                table = self.texts[row]
                if table is not None:
                    self.state[row] = table[self.state[row], chosen]
        return token, logprob, ready.astype(np.int64)

    @property
    def stride(self) -> int:
        return min(max(round(self.usual / STRIDE), 1), LONGEST_STRIDE)

    def _attention(self, rows: Ints, counts: Ints, row: Tensor, place: Tensor) -> Attend:
        """What each of the flat tokens, at (row, place), attends to in this step."""
        cache, config = self.cache, self.config
        table = torch.from_numpy(cache.table).to(self.device)
        many = counts > FEW
        groups = []
        alone = None
        if many.any():
            starts = np.cumsum(counts) - counts
            groups = squares(starts[many], counts[many], self.read[rows[many]], rows[many], self.device)
            alone = torch.from_numpy(np.flatnonzero(np.repeat(~many, counts))).to(self.device)

        def attend(layer: int, qkv: Tensor) -> Tensor:
            keys, values, window = cache.keys[layer], cache.values[layer], config.window(layer)
            self.run.store(qkv, keys, values, table, row, place)
            out = qkv.new_empty(len(qkv), config.heads, config.head_width)
            if alone is None:
                self.run.attend(qkv, out, keys, values, table, row, place, window)
                return out
            if len(alone):
                some = out[alone]
                self.run.attend(qkv[alone], some, keys, values, table, row[alone], place[alone], window)
                out[alone] = some
            for members, lengths, square in groups:
                key, value = cache.gathered(layer, members, lengths)
                found = Rows.of_cache(self.run, qkv[:, : config.heads], key, value, square, window)
                self.run.ungather(found.attended()[0], out, square.query)
            return out

        return attend

    # -- sampling -------------------------------------------------------------------------------------

    def _sample(self, rows: Ints, hidden: Tensor) -> tuple[Ints, Floats]:
        """A token for each row after its hidden state, and its log-probability."""
        logits = self.model.logits(hidden)
        temperature = torch.from_numpy(self.temperature[rows]).to(self.device)
        draws = torch.from_numpy(uniform(self.seeds[rows], self.known[rows])).to(self.device)
        choice, chosen = self.run.sample(logits, temperature, draws)
        if (self.top_p[rows] < 1).any():
            choice, chosen = self._nucleus(rows, logits, temperature, draws, choice, chosen)
        return choice.cpu().numpy(), chosen.cpu().numpy()

    def _nucleus(
        self, rows: Ints, logits: Tensor, temperature: Tensor, draws: Tensor, choice: Tensor, chosen: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Draw again, where asked for, from the smallest set of tokens that has the mass `top_p` (1904.09751)."""
        top_p = torch.from_numpy(self.top_p[rows]).to(self.device)
        logprobs = (logits.float() / torch.where(temperature == 0, 1.0, temperature)[:, None]).log_softmax(-1)
        ordered, order = logprobs.exp().sort(-1, descending=True)
        beyond = ordered.cumsum(-1) - ordered >= top_p[:, None]
        mass = ordered.masked_fill(beyond, 0.0).cumsum(-1, dtype=torch.float64)
        place = torch.searchsorted(mass, (draws * mass[:, -1])[:, None], right=True)
        drawn = order.gather(-1, place.clamp_(max=logits.shape[-1] - 1))
        again = (top_p < 1) & (temperature > 0)
        choice = torch.where(again, drawn.squeeze(-1), choice)
        return choice, torch.where(again, logprobs.gather(-1, drawn).squeeze(-1), chosen)

    def _take(self, rows: Ints, tokens: Ints, logprobs: Floats, made: Ints) -> list[Reply]:
        """Note what was sampled; the replies that this ends."""
        at = self.known[rows]
        if made.min() == tokens.shape[1]:  # the usual case, without looking for who has made how many
            place = rows[:, None], at[:, None] + np.arange(tokens.shape[1])
            self.tokens[place], self.logprobs[place] = tokens, logprobs
        else:
            who, which = np.nonzero(np.arange(tokens.shape[1]) < made[:, None])
            place = rows[who], at[who] + which
            self.tokens[place], self.logprobs[place] = tokens[who, which], logprobs[who, which]
        self.known[rows] = at + made
        last = tokens[np.arange(len(rows)), np.maximum(made - 1, 0)]
        stopped = ((self.stop[rows] == last[:, None]).any(1) | (self.state[rows] == MATCHED)) & (made > 0)
        over = stopped | ((at + made >= self.limit[rows]) & (made > 0))
        if not over.any():
            return []
        return self._finish(rows[stopped], "stop") + self._finish(rows[over & ~stopped], "length")

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
            self.usual += (len(reply.tokens) - self.usual) / 32
            entry.busy = False
            self.active[slot] = False
            self.steady = None
            replies.append(reply)
        return replies


def _widths(config: DecoderConfig) -> tuple[int, ...]:
    """What the cache and the loops were made for."""
    c = config
    return c.vocab_size, c.hidden_size, c.intermediate_size, c.layers, c.heads, c.kv_heads, c.head_width


def uniform(seeds: npt.NDArray[np.uint64], positions: Ints) -> npt.NDArray[np.float64]:
    """Uniforms in [0, 1) by hashing (seed, position) with splitmix64 (Steele et al. 2014): no state, so a draw
    does not depend on what else is in the batch."""
    with np.errstate(over="ignore"):
        z = seeds + (positions.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) / float(1 << 53)
