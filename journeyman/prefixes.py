"""V by itself: episodes so far come in as JSON, what V expects of them goes out.

An episode comes as messages, or as the tokens of a trajectory (what `journeyman trace RUN --json` prints has them):

    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}], "id": 7, "job": "maze"}
    {"tokens": [...], "mask": [...], "logprobs": [...], "temperature": 1.0, "id": "a", "job": "maze"}

`messages`, or `tokens` and `mask`, are needed, all else may be missing, and fields that are not named here are passed
over. A V that hears how sure the policy was needs the log-probabilities; where they are not given the policy itself,
whose replies these should be, tells them in one more pass.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, get_args

import numpy as np
import numpy.typing as npt

from journeyman.errors import UnknownName, UsageError
from journeyman.learn.learner import Learner, UpdateConfig
from journeyman.model.load import LoadedModel
from journeyman.model.render import Renderer
from journeyman.types import Ending, FloatArray, Message, Outcome, Role, Task, Trajectory, Turn

EXAMPLE = '{"messages": [{"role": "user", "content": "..."}]}'
READ = 1 << 16
"""Bytes of one read: as much as a pipe holds."""


@dataclass(frozen=True)
class ValueEstimate:
    """What V expects of an episode so far.

    Attributes:
        id: the episode's; where it has none, the number of its line.
        value: the chance of success now, as the checkpoint's calibration has it; V itself where it has none.
        raw: V itself.
        turns: `value` after 0, 1, 2... turns, each a reply with what was answered; the last of them is now.
    """

    id: str | int
    value: float
    raw: float
    turns: tuple[float, ...]

    def alarm(self, below: float) -> int | None:
        """The turns after which it was first below; None: never."""
        return next((number for number, value in enumerate(self.turns) if value < below), None)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, in six digits."""
        turns = [round(value, 6) for value in self.turns]
        return {"id": self.id, "value": round(self.value, 6), "raw": round(self.raw, 6), "turns": turns}


@dataclass(frozen=True)
class Prefix:
    """An episode so far, and the id it came with."""

    id: str | int
    trajectory: Trajectory


class PrefixScorer:
    """A checkpoint's V, ready to be asked.

    Args:
        loaded: a model with its value function.
        job: whose calibration to use where an episode names no job.
        temperature: at which replies were sampled, where an episode does not say.

    Raises:
        UsageError: there is no value function, or the temperature is negative.
        UnknownName: nothing is known of the job.
    """

    def __init__(self, loaded: LoadedModel, *, job: str | None = None, temperature: float = 1.0) -> None:
        if loaded.value is None:
            raise UsageError(
                f"{loaded.source} has no value function",
                reason="it was not learned with one: a model as it was published, or a run by grpo or rloo",
                fix="give a run or a checkpoint of `journeyman learn JOB --credit.rule gae`, the default rule",
            )
        if not 0 <= temperature <= 100:
            raise UsageError(f"temperature must lie in 0 to 100, got {temperature}")
        self.calibration = loaded.calibration
        known = {*self.calibration.evidence, *self.calibration.jobs}
        if job is not None and known and job not in known:
            fix = "leave it out: what holds for all jobs together is used then"
            raise UnknownName("job of this checkpoint", job, known, fix=fix)
        self.job, self.temperature = job or "", temperature
        self.hears = loaded.value.config.hears
        self.learner = Learner(loaded.model, loaded.value, UpdateConfig(), keep_reference=False)
        self.renderer = Renderer(loaded.tokenizer)

    def read(self, record: object, number: int, unit: str = "episode") -> Prefix:
        """An episode so far from its JSON, as bytes or parsed; a trajectory is taken as it is.

        Args:
            number: its id if it has none.
            unit: what is numbered, for the error.

        Raises:
            UsageError: it is none, or the model cannot read it.
        """
        if isinstance(record, Trajectory):
            return Prefix(record.id, record)
        try:
            return self._read(_parsed(record) if isinstance(record, bytes) else record, number)
        except UsageError as error:
            raise UsageError(f"{unit} {number}: {error.mistake}", reason=error.reason, fix=error.fix) from error

    def _read(self, record: object, number: int) -> Prefix:
        if not isinstance(record, Mapping):
            raise UsageError("an episode is a JSON object", reason=_got(record), fix=f"write it as {EXAMPLE}")
        fields = cast(Mapping[str, Any], record)
        if "tokens" in fields:
            tokens, mask, logprobs = _columns(fields)
        elif "messages" in fields:
            rendered = self.renderer.so_far(_messages(fields["messages"]))
            tokens, mask = rendered.tokens, rendered.mask
            logprobs = np.where(mask, np.nan, 0.0).astype(np.float32)
        else:
            raise UsageError("an episode has `messages`, or `tokens` and `mask`", fix=f"write it as {EXAMPLE}")
        self._check(tokens, mask)
        id = _field(fields, "id", number, "a text or a whole number", lambda one: type(one) in (str, int))
        job = _field(fields, "job", self.job, "a text", lambda one: isinstance(one, str))
        hot = _field(
            fields, "temperature", self.temperature, "a number from 0 to 100", lambda one: _is_number(one, 0, 100)
        )
        return Prefix(id, under_way(job, hot, tokens, mask, logprobs))

    def estimate(self, prefixes: Sequence[Prefix]) -> list[ValueEstimate]:
        """What V expects of each, in the order given."""
        trajectories = [prefix.trajectory for prefix in prefixes]
        if self.hears:
            unrated = [i for i, t in enumerate(trajectories) if np.isnan(t.logprobs).any()]
            for i, rated in zip(unrated, self.learner.with_logprobs([trajectories[i] for i in unrated]), strict=True):
                trajectories[i] = rated
        scored = self.learner.score(trajectories)
        return [self._estimate(prefix.id, t) for prefix, t in zip(prefixes, scored, strict=True)]

    def _estimate(self, id: str | int, t: Trajectory) -> ValueEstimate:
        places = [*(turn.start - 1 for turn in t.turns), len(t) - 1]
        values, written = t.values[places], t.mask.cumsum()[places]
        turns = self.calibration.of(t.task.job).probability(values, written).tolist()
        return ValueEstimate(id, turns[-1], float(values[-1]), tuple(turns))

    def _check(self, tokens: Sequence[int], mask: Sequence[bool]) -> None:
        """Whether the model can read this."""
        config = self.learner.policy.config
        if len(tokens) > config.max_positions:
            raise UsageError(
                f"the episode has {len(tokens)} tokens", reason=f"the model reads at most {config.max_positions}"
            )
        if not tokens or mask[0]:
            raise UsageError("an episode begins with a prompt: at least one token whose mask is false")
        if not 0 <= min(tokens) <= max(tokens) < config.vocab_size:
            raise UsageError(
                "there is a token that the model does not know",
                reason=f"its tokens are 0 to {config.vocab_size - 1}",
                fix="give messages, or tokens of this very model",
            )


class Readable(Protocol):
    """What a binary file has."""

    def read1(self, size: int, /) -> bytes: ...


def estimate_lines(
    scorer: PrefixScorer, stream: Readable, skip: Callable[[UsageError], None] | None = None
) -> Iterator[ValueEstimate]:
    """What V expects of the episodes in a stream of JSON lines, in their order; empty lines are passed over.

    A batch is what one read brings: of a fast producer many lines, of a slow one each line as soon as it is there. So
    at most :data:`READ` bytes wait, and the line they end in.

    Args:
        skip: called with what is wrong with a line, which is then left out. When not given, what came before it is
            still answered, and the error raised.

    Raises:
        UsageError: a line is no episode; the message has its number.
    """
    for lines in _batches(stream):
        prefixes: list[Prefix] = []
        wrong: UsageError | None = None
        for number, line in lines:
            try:
                prefixes.append(scorer.read(line, number, "line"))
            except UsageError as error:
                if skip is None:
                    wrong = error
                    break
                skip(error)
        yield from scorer.estimate(prefixes)
        if wrong is not None:
            raise wrong


def _batches(stream: Readable) -> Iterator[list[tuple[int, bytes]]]:
    """Lines with their numbers, from 1, as reads bring them; without the empty ones."""
    number, rest = 0, b""
    while block := stream.read1(READ):
        *lines, rest = (rest + block).split(b"\n")
        yield [(number + i, line) for i, line in enumerate(lines, 1) if line.strip()]
        number += len(lines)
    if rest.strip():
        yield [(number + 1, rest)]


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            "this is no JSON", reason=str(error), fix=f"write one object per line, as {EXAMPLE}"
        ) from error


def _messages(given: object) -> list[Message]:
    if not isinstance(given, list) or not given:
        raise UsageError("`messages` must be a list with at least one message", reason=_got(given))
    messages: list[Message] = []
    for number, one in enumerate(cast(list[Any], given), 1):
        if not isinstance(one, dict) or not isinstance(one.get("content"), str):
            fix = 'write {"role": "user", "content": "..."}'
            raise UsageError(f"message {number} must be an object with a text as its `content`", fix=fix)
        message = cast(Mapping[str, Any], one)
        if message.get("role") not in get_args(Role):
            raise UnknownName(f"role of message {number}", str(message.get("role")), get_args(Role))
        messages.append(Message(message["role"], message["content"]))
    return messages


def _columns(fields: Mapping[str, Any]) -> tuple[list[int], list[bool], FloatArray]:
    """Tokens, mask and log-probabilities; NaN where a sampled token's is not given."""
    tokens, mask, given = fields["tokens"], fields.get("mask"), fields.get("logprobs")
    if not isinstance(tokens, list) or not all(type(token) is int for token in cast(list[Any], tokens)):
        raise UsageError("`tokens` must be a list of whole numbers")
    count = len(cast(list[int], tokens))
    if not isinstance(mask, list) or [type(one) for one in cast(list[Any], mask)] != [bool] * count:
        raise UsageError(
            f"`mask` must be a list of {count} times true or false, for each token",
            fix="write true for the tokens that the policy sampled, false for those it read",
        )
    sampled = np.array(mask, bool)
    logprobs = np.where(sampled, np.nan, 0.0).astype(np.float32)
    if given is not None:
        if not isinstance(given, list) or len(cast(list[Any], given)) != count:
            raise UsageError(f"`logprobs` must be a list of {count} numbers, one for each token")
        own = [one for one, inside in zip(cast(list[Any], given), sampled, strict=True) if inside]
        if not all(_is_number(one, -1e6, 1e-3) for one in own):  # rounded, that of a certainty may be above 0
            raise UsageError(
                "there is a sampled token whose log-probability is no number of at most 0",
                fix="leave `logprobs` out: the policy computes them",
            )
        logprobs[sampled] = own
    return cast(list[int], tokens), sampled.tolist(), logprobs


def under_way(
    job: str, temperature: float, tokens: npt.ArrayLike, mask: npt.ArrayLike, logprobs: FloatArray
) -> Trajectory:
    """What is known so far as a trajectory, its turns without their texts; its outcome is none yet."""
    sampled = np.asarray(mask, bool)
    edges = np.flatnonzero(np.diff(sampled, prepend=False, append=False))
    turns = tuple(Turn(start, stop, "", "", 0.0) for start, stop in edges.reshape(-1, 2).tolist())
    return Trajectory(
        id="",
        task=Task(job, "", 0, ()),
        group="",
        step=-1,
        policy_version=-1,
        temperature=temperature,
        tokens=np.asarray(tokens, np.int32),
        mask=sampled,
        logprobs=logprobs,
        values=np.full(len(sampled), np.nan, np.float32),
        turns=turns,
        outcome=Outcome(0.0, Ending.TRUNCATED),
    )


def _field(fields: Mapping[str, Any], name: str, default: Any, what: str, fits: Callable[[Any], bool]) -> Any:
    """What a field holds, or the default where it is missing or null."""
    given = fields.get(name)
    if given is None:
        return default
    if not fits(given):
        raise UsageError(f"`{name}` must be {what}", reason=_got(given))
    return given


def _is_number(given: object, low: float, high: float) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool) and low <= given <= high


def _got(given: object) -> str:
    shown = repr(given)
    return f"got {shown if len(shown) <= 60 else shown[:59] + '…'}"
