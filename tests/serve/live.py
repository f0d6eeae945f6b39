"""A real server on a real socket, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import torch

from journeyman.engine.base import Engine
from journeyman.engine.fake import ScriptedEngine
from journeyman.engine.native import NativeEngine
from journeyman.experience.store import Store
from journeyman.model.load import LoadedModel, load
from journeyman.model.render import Renderer
from journeyman.model.value import ValueConfig, ValueFunction
from journeyman.serve.config import ServeConfig
from journeyman.serve.deployment import Deployment
from journeyman.serve.server import Addresses, listen, run

APPRENTICE = load("apprentice")
RENDERER = Renderer(APPRENTICE.tokenizer)
Script = Callable[[list[int]], Sequence[int]]


def judged(seed: int = 0) -> LoadedModel:
    """The apprentice with a V that knows nothing, but says different things of different texts."""
    torch.manual_seed(seed)
    value = ValueFunction.start(ValueConfig(placement="head"), APPRENTICE.model)
    torch.nn.init.normal_(value.head.weight, std=0.5)
    return dataclasses.replace(APPRENTICE, value=value)


def saying(*texts: str) -> Script:
    """A script that says these texts in turn, for ever."""
    replies = [RENDERER.reply_ids(text) for text in texts]
    count = -1

    def reply(read: list[int]) -> Sequence[int]:
        nonlocal count
        count += 1
        return replies[count % len(replies)]

    return reply


def scripted(*texts: str, pace: int | None = 3, slots: int = 8, context: int = 1024) -> ScriptedEngine:
    """An engine that says these texts in turn, some tokens in each step."""
    return ScriptedEngine(saying(*texts), context=context, slots=slots, pace=pace)


def native(loaded: LoadedModel = APPRENTICE, *, slots: int = 8, context: int = 512) -> NativeEngine:
    """The real engine."""
    return NativeEngine(copy.deepcopy(loaded.model), slots=slots, context=context)


class Slow(ScriptedEngine):
    """One that takes its time, so that something can happen meanwhile."""

    def __init__(self, *args: Any, seconds: float = 0.01, **options: Any) -> None:
        super().__init__(*args, **options)
        self.seconds = seconds
        self.closed = 0

    def step(self) -> list[Any]:
        time.sleep(self.seconds)
        return super().step()

    def close(self, sequence: int) -> None:
        self.closed += 1
        super().close(sequence)


class Live:
    """A server that lives as long as the `with` block.

    Attributes:
        url, admin: where it listens.
        d: what is served, for looking into it; a test talks to it over its socket.
    """

    def __init__(
        self,
        folder: Path,
        engine: Engine | None = None,
        loaded: LoadedModel = APPRENTICE,
        *,
        store: Store | None = None,
        **config: Any,
    ) -> None:
        c = ServeConfig(**{"port": 0, "admin_port": 0, "drain_seconds": 2, "name": "apprentice", **config})
        self.store = store or Store(folder / "experience.sqlite")
        self.d = Deployment(loaded, engine or native(loaded), self.store, folder, c)
        self.d.log.stream = (folder / "log.jsonl").open("a")
        self.sockets: list[socket.socket] = [listen(c.host, 0), listen(c.admin_host, 0)]
        self.ready: threading.Event = threading.Event()
        self.addresses = Addresses("", "")
        self.loop: asyncio.AbstractEventLoop | None = None
        self.ended: asyncio.Event | None = None
        self.failed: BaseException | None = None
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            asyncio.run(run(self.d, *self.sockets, self._set, self._until))
        except BaseException as error:
            self.failed = error
            self.ready.set()

    def _set(self, addresses: Addresses) -> None:
        self.addresses = addresses
        self.ready.set()

    async def _until(self) -> None:
        self.loop, self.ended = asyncio.get_running_loop(), asyncio.Event()
        await self.ended.wait()

    def __enter__(self) -> Live:
        self.thread.start()
        self.ready.wait()
        assert self.failed is None, self.failed
        self.http = httpx.Client(base_url=self.url, timeout=60)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.http.close()
        self.stop()
        self.thread.join()
        assert self.d.log.stream is not None
        self.d.log.stream.close()
        assert self.failed is None, self.failed

    def stop(self) -> None:
        """What a signal does."""
        if self.thread.is_alive() and self.loop is not None and self.ended is not None:
            self.loop.call_soon_threadsafe(self.ended.set)

    @property
    def url(self) -> str:
        return self.addresses.api

    @property
    def admin(self) -> str:
        return self.addresses.admin

    def chat(self, *said: str, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        """Ask with messages of the user (and of the assistant in between)."""
        roles = ("user", "assistant")
        messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(said)]
        body = {"model": "apprentice", "messages": messages, "max_tokens": 30, **fields}
        return self.http.post("/v1/chat/completions", json=body, headers=headers or {})


def until(true: Callable[[], bool], seconds: float = 120.0) -> None:
    """Wait for something that happens in another thread."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)
