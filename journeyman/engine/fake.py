"""A scripted engine: replies come from a function instead of a model. Public, for tests and for debugging jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from journeyman.engine.base import Engine, Reply, Sampling, check_fork
from journeyman.model.decoder import Decoder
from journeyman.model.texts import MATCHED


class ScriptedEngine(Engine):
    """Answers each sequence with `script(tokens read so far)`, one step after it was asked; with a `pace`, so many
    tokens in each step.

    Replies longer than the limit are cut as a real engine would cut them; log-probabilities are all -1.

    Example:
        >>> engine = ScriptedEngine(lambda read: [7, 2])
        >>> sequence = engine.open(seed=0)
        >>> engine.submit(sequence, [1], Sampling(stop=frozenset({2})))
        >>> engine.step()[0].tokens
        (7, 2)
    """

    def __init__(
        self,
        script: Callable[[list[int]], Sequence[int]],
        context: int = 1024,
        slots: int = 64,
        *,
        pace: int | None = None,
    ) -> None:
        self.script, self.context, self.slots, self.pace = script, context, slots, pace
        self._read: dict[int, list[int]] = {}
        self._asked: dict[int, Sampling] = {}
        self._due: dict[int, Reply] = {}
        self._told: dict[int, int] = {}

    def load(self, model: Decoder, version: int) -> None:
        self.version = version

    def open(self, seed: int) -> int:
        sequence = len(self._read)
        self._read[sequence] = []
        return sequence

    def fork(self, sequence: int, seed: int, length: int | None = None) -> int:
        check_fork(length, len(self._read[sequence]))
        twin = self.open(seed)
        self._read[twin] = self._read[sequence][:length]
        return twin

    def submit(self, sequence: int, tokens: Sequence[int], sampling: Sampling) -> None:
        self._read[sequence].extend(tokens)
        self._asked[sequence] = sampling

    def step(self) -> list[Reply]:
        for sequence, sampling in self._asked.items():
            self._due[sequence] = self._reply(sequence, sampling)
            self._told[sequence] = 0
        self._asked.clear()
        finished: list[Reply] = []
        for sequence, reply in list(self._due.items()):
            self._told[sequence] += self.pace or len(reply.tokens)
            if self._told[sequence] >= len(reply.tokens):
                finished.append(self._due.pop(sequence))
        return finished

    def partial(self, sequence: int, start: int = 0) -> tuple[tuple[int, ...], tuple[float, ...]]:
        if sequence not in self._due:
            return (), ()
        reply, told = self._due[sequence], self._told[sequence]
        return reply.tokens[start:told], reply.logprobs[start:told]

    def _reply(self, sequence: int, sampling: Sampling) -> Reply:
        read = self._read[sequence]
        tokens: list[int] = []
        finish = "length"
        state = 0
        for token in self.script(list(read)):
            if len(tokens) == sampling.max_tokens or len(read) + len(tokens) == self.context:
                break
            tokens.append(token)
            if sampling.stop_texts is not None:
                state = sampling.stop_texts.after(state, token)
            if token in sampling.stop or state == MATCHED:
                finish = "stop"
                break
        if finish != "stop" and len(read) + len(tokens) >= self.context:
            finish = "context"
        read.extend(tokens)
        return Reply(sequence, tuple(tokens), (-1.0,) * len(tokens), finish)

    def close(self, sequence: int) -> None:
        self._asked.pop(sequence, None)
        self._due.pop(sequence, None)
        self._read[sequence] = []

    @property
    def busy(self) -> bool:
        return bool(self._asked or self._due)
