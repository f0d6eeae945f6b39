"""The routes that ask the model: /v1/chat/completions, /v1/completions, /v1/models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from journeyman.errors import JourneymanError
from journeyman.serve.access import Looker, Served, User
from journeyman.serve.asks import Answer, Ask, Delta
from journeyman.serve.deployment import Deployment
from journeyman.serve.errors import ApiError, from_ours
from journeyman.serve.openai import ChatRequest, CompletionRequest
from journeyman.serve.prepare import chat_asks, completion_asks
from journeyman.serve.replies import ChatCompletion, Completion, Model, ModelList, failures
from journeyman.serve.shapes import Shaper, sse

STREAM = {"text/event-stream": {"schema": {"type": "string", "description": "chunks, then [DONE]"}}}


ASKING = failures(404, 410, 422, 503)

router = APIRouter(responses=failures())


@router.post("/v1/chat/completions", response_model=ChatCompletion, responses={200: {"content": STREAM}, **ASKING})
async def chat(body: ChatRequest, d: Served, who: User, request: Request) -> Response:
    """Go on with a conversation."""
    _open(d)
    await d.gateway.admit(body.n)
    asks = await chat_asks(d, body, who)
    shaper = _shaper(d, body.model, True, asks, bool(body.logprobs), body.journeyman.return_tokens)
    note(request, asks, {"messages": [message.model_dump(exclude_none=True) for message in body.messages]})
    usage = bool(body.stream_options and body.stream_options.include_usage)
    return await respond(d, request, asks, shaper, stream=body.stream, usage=usage)


@router.post("/v1/completions", response_model=Completion, responses={200: {"content": STREAM}, **ASKING})
async def complete(body: CompletionRequest, d: Served, who: User, request: Request) -> Response:
    """Go on with a bare text."""
    _open(d)
    await d.gateway.admit(body.n)
    asks = await completion_asks(d, body, who)
    shaper = _shaper(d, body.model, False, asks, body.logprobs is not None, body.journeyman.return_tokens)
    note(request, asks, {"prompt": body.prompt})
    usage = bool(body.stream_options and body.stream_options.include_usage)
    return await respond(d, request, asks, shaper, stream=body.stream, usage=usage)


@router.get("/v1/models", response_model=ModelList)
async def models(d: Served, who: Looker) -> dict[str, Any]:
    """What is served: the model by its name, which is assigned one of its versions, and each version."""
    return {"object": "list", "data": [d.model(name) for name in d.names]}


@router.get("/v1/models/{model:path}", response_model=Model, responses=failures(404))
async def model(model: str, d: Served, who: Looker) -> dict[str, Any]:
    """One of them."""
    return d.model(model)


def _open(d: Deployment) -> None:
    """Raises ApiError: the server is on its way out."""
    if d.draining:
        raise ApiError(503, "the server is shutting down", "draining", retry_after=5)


def _shaper(d: Deployment, model: str, chat: bool, asks: Sequence[Ask], logprobs: bool, return_tokens: bool) -> Shaper:
    return Shaper(
        chat, model, asks[0].assigned.member.version.digest, d.prompts.renderer, asks, logprobs, return_tokens
    )


def note(request: Request, asks: Sequence[Ask], said: dict[str, Any]) -> None:
    """What the log says of this request."""
    request.scope["journeyman.log"] = {"episode": asks[0].episode.id, "prompt_tokens": len(asks[0].history)}
    request.scope["journeyman.said"] = said


async def respond(
    d: Deployment, request: Request, asks: Sequence[Ask], shaper: Shaper, *, stream: bool, usage: bool
) -> Response:
    """The answers, whole or as a stream; a client that goes away takes its slots with it."""
    if not stream:
        answers = await _unless_gone(request, _all(d, asks))
        if answers is None:
            return Response(status_code=499)
        _note_answers(request, answers)
        shaper = replace(shaper, digest=answers[0].ask.assigned.member.version.digest)  # another may have stood in
        return JSONResponse(shaper.whole(answers), headers=shaper.headers(answers))
    events = d.gateway.answers(asks)
    try:
        started = await _unless_gone(request, anext(events))
    except BaseException:
        await events.aclose()
        raise
    if started is None:
        await events.aclose()
        return Response(status_code=499)
    chunks = _stream(request, events, shaper, usage)
    return StreamingResponse(chunks, media_type="text/event-stream", headers=_uncached(shaper.headers()))


def _uncached(headers: dict[str, str]) -> dict[str, str]:
    return {**headers, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


async def _all(d: Deployment, asks: Sequence[Ask]) -> list[Answer]:
    answers: list[Answer] = []
    async with aclosing(d.gateway.answers(asks)) as events:
        async for event in events:
            if isinstance(event, Answer):
                answers.append(event)
    return sorted(answers, key=lambda answer: answer.ask.index)


async def _stream(request: Request, events: Any, shaper: Shaper, usage: bool) -> AsyncIterator[bytes]:
    """The answers as server-sent events. What fails now fails as an event, for the head is out."""
    answers: list[Answer] = []
    held = b"".join(map(sse, shaper.first()))  # what goes along with the next piece: each costs a write of its own
    async with aclosing(events):
        try:
            async for event in events:
                if isinstance(event, Delta) and (event.text or shaper.logprobs):
                    yield held + sse(shaper.piece(event))
                    held = b""
                elif isinstance(event, Answer):
                    answers.append(event)
                    held += b"".join(map(sse, shaper.last(event)))
                    if len(answers) < len(shaper.asks):
                        yield held
                        held = b""
        except (ApiError, JourneymanError) as error:
            failure = error if isinstance(error, ApiError) else from_ours(error)
            request.scope["journeyman.log"] |= {"error": failure.code}
            yield held + sse(failure.body)
            return
    _note_answers(request, answers)
    if usage:
        held += sse(shaper.total(answers))
    yield held + sse("[DONE]")


def _note_answers(request: Request, answers: Sequence[Answer]) -> None:
    request.scope["journeyman.log"] |= {
        "completion_tokens": sum(len(answer.finished.tokens) for answer in answers),
        "value": answers[0].finished.value,
        "finish": answers[0].finish,
    }
    request.scope["journeyman.said"] |= {"answers": [answer.message for answer in answers]}


async def _unless_gone(request: Request, work: Any) -> Any:
    """What the work comes to; None where the client goes away meanwhile, and the work is left."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        return None
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
