"""From what a client asks to what is to be sampled: checked, placed in its episode, and tokenized."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from journeyman.engine.base import Sampling
from journeyman.errors import UsageError
from journeyman.experience.ids import uuid7
from journeyman.experience.records import check_name
from journeyman.release.gate import Power
from journeyman.serve.asks import Ask
from journeyman.serve.deployment import Deployment
from journeyman.serve.episodes import Episode, Place, Turn, manner_of, place, trails
from journeyman.serve.errors import ApiError
from journeyman.serve.fleet import Assigned
from journeyman.serve.gateway import drawn_seed
from journeyman.serve.keys import Key
from journeyman.serve.openai import ChatRequest, Common, CompletionRequest, ToolChoice
from journeyman.serve.prompts import Manner
from journeyman.serve.service import History
from journeyman.serve.talk import Listener

T = TypeVar("T")
SHORT = 2000
"""Characters that are tokenized on the event loop, in well under a millisecond."""


@dataclass(frozen=True)
class Caller:
    """Who asks.

    Attributes:
        key: their key.
        address: where from.
        session: their own name for what they are at.
        episode: the id of the episode that they go on with, by a header.
        came: when they did, in Unix seconds.
        trace: headers that say which trace their request is part of.
    """

    key: Key
    address: str
    session: str | None = None
    episode: str | None = None
    came: float = field(default_factory=time.time)
    trace: Mapping[str, str] = field(default_factory=dict[str, str])


async def chat_asks(d: Deployment, body: ChatRequest, caller: Caller) -> list[Ask]:
    """What a conversation's request wants.

    Raises:
        ApiError, UsageError: it cannot be done, or not as asked.
    """
    _refuse_of_chat(body)
    _check(d, body)
    if body.journeyman.on_unsure == "teacher":
        _check_hand_over(d, body)
    tools = [tool.model_dump(exclude_none=True) for tool in body.tools or ()]
    forced = body.tool_choice == "required" or isinstance(body.tool_choice, ToolChoice)
    if forced and not tools:
        raise ApiError(400, "tool_choice: there are no tools to choose from", "invalid_value", param="tool_choice")
    size = sum(len(message.text) for message in body.messages)
    if size > d.context * d.prompts.longest:
        raise _too_long(d, None)
    if body.messages[-1].role == "assistant":
        raise ApiError(400, "messages: the last one must not be the assistant's", "invalid_value", param="messages")
    manner = await asyncio.to_thread(d.prompts.manner, tools) if tools else d.prompts.plain
    lead = _lead(body, manner)
    marks = trails(manner_of(tools), body.messages)
    episode = await _episode(d, body, caller)
    tools_called = manner.names if body.tool_choice != "none" else ()
    assigned = _assigned(d, body, episode, tools_called)
    where = place(episode, marks)
    with _noticed(episode):
        history, held = await _done(size, partial(_chat_history, d, body, manner, where, lead))
    shown = manner if body.tool_choice != "none" else Manner(manner.renderer)
    stops = body.stops
    if manner.calls is not None and manner.calls.end is not None and not body.parallel_tool_calls:
        stops = (*stops, manner.calls.end)
    asked = {"tools": tools, "tool_choice": body.model_dump()["tool_choice"]} if tools else {}
    record = _record(d, body, caller, asked) | {
        "messages": [message.model_dump(exclude_none=True) for message in body.messages]
    }
    sampling = await _sampling(d, body, stops, len(history), d.power(assigned.member))
    listener = Listener(d.prompts.renderer, body.stops, shown, lead)
    return _choices(
        d,
        body,
        caller,
        0,
        assigned=assigned,
        episode=episode,
        place=where,
        history=history,
        held=held,
        sampling=sampling,
        listener=listener,
        trail=marks[-1],
        must_call=forced,
        record=record,
    )


async def completion_asks(d: Deployment, body: CompletionRequest, caller: Caller) -> list[Ask]:
    """What a bare text's request wants: `n` choices for each of its prompts.

    Raises:
        ApiError, UsageError: it cannot be done, or not as asked.
    """
    _refuse_of_completion(body)
    _check(d, body)
    if body.journeyman.on_unsure == "teacher":
        raise _unsupported("journeyman.on_unsure", "a teacher goes on with conversations, not with bare text")
    prompts = _prompts(body)
    if len(prompts) * body.n > d.config.choices:
        raise ApiError(400, f"at most {d.config.choices} answers to one request", "invalid_value", param="n")
    listener = Listener(d.prompts.renderer, body.stops, Manner(d.prompts.renderer))
    asks: list[Ask] = []
    for prompt in prompts:
        episode = await _episode(d, body, caller) if len(prompts) == 1 else d.episodes.begin(caller.key.id)
        with _noticed(episode):
            where, history, held = await _done(len(prompt), partial(_bare_history, d, episode, prompt))
        text = prompt if isinstance(prompt, str) else d.prompts.renderer.text(prompt)
        record = _record(d, body, caller, {"text": text})
        assigned = _assigned(d, body, episode)
        sampling = await _sampling(d, body, body.stops, len(history), d.power(assigned.member))
        asks += _choices(
            d,
            body,
            caller,
            len(asks),
            assigned=assigned,
            episode=episode,
            place=where,
            history=history,
            held=held,
            sampling=sampling,
            listener=listener,
            trail=None,
            text=text,
            record=record,
        )
    return asks


async def _done(size: int, work: Callable[[], T]) -> T:
    """What the work comes to. A long text must not keep others waiting, so it goes to a thread; the way there and back
    takes longer than to tokenize a short one."""
    return work() if size <= SHORT else await asyncio.to_thread(work)


def _choices(d: Deployment, body: Common, caller: Caller, first: int, **common: Any) -> list[Ask]:
    """An ask for each of a prompt's choices, numbered from `first` on."""
    ours = body.journeyman
    seed = body.seed
    if d.terms is not None:  # a client's own would make all attempts alike
        where: Place = common["place"]
        again = len(common["episode"].turns) if where.joint in ("branch", "rewritten") else 0
        seed = d.terms.seeds.get(caller.session or "")
        seed = None if seed is None else seed + again
    return [
        Ask(
            index=first + choice,
            seed=drawn_seed(seed, choice),
            reseed=body.seed is not None and d.terms is None,
            threshold=ours.threshold,
            hand_over=d.prompts.reply_ids if ours.on_unsure == "teacher" else None,
            search=ours.search,
            seconds=d.power(common["assigned"].member).seconds,
            streamed=body.stream,
            came=caller.came,
            trace=caller.trace,
            **common,
        )
        for choice in range(body.n)
    ]


# -- what is not done -----------------------------------------------------------------------------------------


def _check(d: Deployment, body: Common) -> None:
    for name, harmless in (("frequency_penalty", 0), ("presence_penalty", 0), ("logit_bias", {})):
        if getattr(body, name) not in (None, harmless):
            raise _unsupported(name, "the distribution that is sampled from is the model's own")
    if body.n > d.config.choices:
        raise ApiError(400, f"n: at most {d.config.choices} answers to one request", "invalid_value", param="n")
    if any(not stop for stop in body.stops):
        raise ApiError(400, "stop: a text to stop at is empty", "invalid_value", param="stop")
    search = body.journeyman.search
    if search.think > 1 and body.temperature == 0:
        reason = "journeyman.think: at temperature 0 there is nothing to search among"
        raise ApiError(400, reason, "invalid_value", param="journeyman.think")


def _check_hand_over(d: Deployment, body: ChatRequest) -> None:
    """Raises ApiError: nobody could answer in the model's place."""
    param = "journeyman.on_unsure"
    if d.gateway.teacher is None:
        raise ApiError(400, f"{param}: this server has no teacher", "no_teacher", param=param)
    if body.journeyman.threshold is None:
        raise ApiError(400, f"{param}: a threshold says what is unsure", "invalid_value", param=param)
    if body.tools:
        raise _unsupported(param, "a teacher answers in words, and cannot call tools for the model")


def _assigned(d: Deployment, body: Common, episode: Episode, tools: Collection[str] = ()) -> Assigned:
    """The version that answers, and may call these tools.

    Raises:
        ApiError: it cannot do what is asked, or there is none of that name.
    """
    found = d.assign(body.model, body.user or "", episode, tools)
    ours, search, slots = body.journeyman, body.journeyman.search, found.member.service.engine.slots
    if not found.member.judges and (ours.threshold is not None or (search.think > 1 and search.asks_value)):
        reason = f"{d.name} has no value function: it cannot tell how sure it is"
        raise ApiError(400, reason, "no_value_function", param="journeyman")
    if search.think > 1 and search.slots > slots:
        reason = f"journeyman.think: the server has slots for at most {slots}"
        raise ApiError(400, reason, "invalid_value", param="journeyman.think")
    return found


def _refuse_of_chat(body: ChatRequest) -> None:
    if body.functions:
        raise _unsupported("functions", "they were replaced by `tools`")
    if body.modalities not in (None, [], ["text"]):
        raise _unsupported("modalities", "the model writes text only")
    if body.top_logprobs:
        raise _unsupported("top_logprobs", "the engine keeps the log-probability of the token that it drew, only")
    if body.response_format is not None and body.response_format.type != "text":
        raise _unsupported(
            "response_format", f"nothing makes the model write what {body.response_format.type} promises; ask in words"
        )


def _refuse_of_completion(body: CompletionRequest) -> None:
    if body.logprobs:
        raise _unsupported(
            "logprobs", "the engine keeps the log-probability of the token that it drew, only: ask for 0"
        )
    if body.echo:
        raise _unsupported("echo", "the answer holds what is new")
    if body.suffix:
        raise _unsupported("suffix", "the model writes forward only")
    if body.best_of is not None and body.best_of != body.n:
        raise _unsupported("best_of", "use journeyman.think, which chooses by V")


def _unsupported(field: str, reason: str) -> ApiError:
    return ApiError(400, f"{field} is not supported: {reason}", "unsupported_parameter", param=field)


def _too_long(d: Deployment, tokens: int | None) -> ApiError:
    length = "far more" if tokens is None else f"{tokens}"
    message = f"the model reads at most {d.context} tokens, answer included, and the prompt has {length}"
    return ApiError(400, message, "context_length_exceeded", param="messages")


# -- what is ------------------------------------------------------------------------------------------------


async def _episode(d: Deployment, body: Common, caller: Caller) -> Episode:
    id = body.journeyman.episode_id or caller.episode
    if id is not None:
        return await d.episodes.find(id, caller.key.id)
    if caller.session is not None:
        episode = await d.episodes.session(caller.key.id, caller.session)
        if d.terms is not None and len(episode.turns) + body.n > d.terms.calls:
            episode.full = True
            raise ApiError(400, f"a session has at most {d.terms.calls} answers", "context_length_exceeded")
        return episode
    return d.episodes.begin(caller.key.id)


@contextmanager
def _noticed(episode: Episode) -> Generator[None]:
    """Let the episode know when it has no room for a request."""
    try:
        yield
    except ApiError as error:
        episode.full = error.code == "context_length_exceeded"
        raise


def _chat_history(d: Deployment, body: ChatRequest, manner: Manner, where: Place, lead: str) -> tuple[History, int]:
    """All tokens before the reply, and how many of them are the turn's before."""
    forced = d.prompts.encode(lead) if lead else []
    if where.turn is None:
        history, held = History.of([*d.prompts.opening(body.messages, manner), *forced]), 0
    else:
        before = where.turn.history
        ended = int(before.tokens[-1]) in d.prompts.renderer.end_ids
        new = d.prompts.further(body.messages[where.agreed :], manner, ended=ended)
        history, held = before.then(History.of([*new, *forced])), len(before)
    if len(history) >= d.context:
        raise _too_long(d, len(history))
    return history, held


def _bare_history(d: Deployment, episode: Episode, prompt: str | list[int]) -> tuple[Place, History, int]:
    """Where bare text (or tokens) goes on in its episode, all tokens before the reply, and how many are known."""
    if isinstance(prompt, str) and len(prompt) > d.context * d.prompts.longest:
        raise _too_long(d, None)
    before: Turn | None = None
    history, held = History.of(), 0
    for turn in episode.turns.values():
        said = turn.history
        if int(said.tokens[-1]) in d.prompts.renderer.end_ids:
            continue  # the model is done there, and the text does not show it
        begins = (
            prompt.startswith(turn.text) if isinstance(prompt, str) else prompt[: len(said)] == said.tokens.tolist()
        )
        if begins and len(said) > held:
            before, history, held = turn, said, len(said)
    if isinstance(prompt, str):
        new = d.prompts.encode(prompt[len(before.text) if before is not None else 0 :])
    else:
        new = prompt[held:]
    history = history.then(History.of(new))
    vocabulary = d.loaded.model.config.vocab_size
    if not len(history):
        raise ApiError(400, "prompt: it has no token", "invalid_value", param="prompt")
    if int(history.tokens.min()) < 0 or int(history.tokens.max()) >= vocabulary:
        raise ApiError(400, f"prompt: tokens lie in 0 to {vocabulary - 1}", "invalid_value", param="prompt")
    if len(history) >= d.context:
        raise _too_long(d, len(history))
    if before is None:
        return Place(None, 0, "first" if episode.last is None else "rewritten"), history, 0
    return Place(before, 0, "next" if before is episode.last else "branch"), history, held


def _prompts(body: CompletionRequest) -> list[str | list[int]]:
    """The request's prompts, each as a text or as tokens."""
    given: Any = body.prompt
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        given = [given]
    if not given:
        raise ApiError(400, "prompt: there is none", "invalid_value", param="prompt")
    for one in given:
        if not isinstance(one, str) and any(not 0 <= token < 1 << 31 for token in one):
            raise ApiError(400, "prompt: there is a token that none is", "invalid_value", param="prompt")
    return given


def _lead(body: ChatRequest, manner: Manner) -> str:
    """What the reply must begin with, for a tool to be called."""
    if manner.calls is None or body.tool_choice in (None, "auto", "none"):
        return ""
    if not isinstance(body.tool_choice, ToolChoice):
        return manner.calls.beginning(None)
    name = body.tool_choice.function.name
    if name not in manner.names:
        raise ApiError(400, f"tool_choice: there is no tool {name!r}", "invalid_value", param="tool_choice")
    return manner.calls.beginning(name)


async def _sampling(d: Deployment, body: Common, stops: Sequence[str], length: int, power: Power) -> Sampling:
    limit = body.limit
    if limit is not None and limit > d.context:
        message = f"max_tokens: the model reads at most {d.context} tokens, answer included, got {limit}"
        raise ApiError(400, message, "context_length_exceeded", param="max_tokens")
    texts = await asyncio.to_thread(d.prompts.stop_texts, stops) if stops else None
    temperature, top_p = (1.0 if given is None else given for given in (body.temperature, body.top_p))
    most = min(limit or d.context, d.context - length, power.tokens)
    if d.terms is not None:
        temperature, top_p, most = d.terms.temperature, 1.0, min(most, d.terms.max_tokens or most)
    try:
        return Sampling(
            temperature=temperature,
            top_p=top_p,
            max_tokens=most,
            stop=d.prompts.renderer.end_ids,
            stop_texts=texts,
        )
    except UsageError as error:
        raise ApiError(400, str(error), "invalid_value") from error


def _record(d: Deployment, body: Common, caller: Caller, more: dict[str, Any]) -> dict[str, Any]:
    """What the store keeps of the request."""
    check_name("user", body.user or "", empty=True)
    check_name("journeyman.job", body.journeyman.job, empty=True)
    asked = body.model_dump(include={"seed", "top_p", "stop", "n"}, exclude_none=True)
    if body.model != d.name:  # a version of the client's choice: nothing was left to chance
        asked["model"] = body.model
    if body.limit is not None:
        asked["max_tokens"] = body.limit
    ours = body.journeyman.model_dump(include={"think", "strategy", "threshold", "on_unsure"}, exclude_defaults=True)
    return {
        "request": uuid7(),
        "parameters": {**asked, **({"journeyman": ours} if ours else {}), **more},
        "key": caller.key.id,
        "user": body.user or "",
        "job": body.journeyman.job or d.config.job,
    }
