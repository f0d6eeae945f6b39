"""A server as a process of its own, for measuring it and for killing it; and clients that cost little themselves."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LISTENS = re.compile(r"served at http://([\w.]+):(\d+)/v1")


class Forked:
    """Something of ours as a process of its own. It is forked from one that has imported everything: most of a start is
    that.

    Args:
        main: what it does.
        arguments: what it is given.
        folder: where it runs; its standard error goes to a file there.
        log: name of that file.
    """

    def __init__(self, main: Callable[..., None], arguments: Sequence[Any], folder: Path, log: str) -> None:
        self.main, self.arguments, self.folder, self.log = main, arguments, folder, folder / log
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["journeyman.cli", "journeyman.serve.server", "bench.common"])

    def start(self) -> None:
        """Start it."""
        self.log.write_text("")
        self._process = self._context.Process(target=_be, args=(self.main, self.arguments, self.folder, self.log))
        self._process.start()

    @property
    def id(self) -> int:
        """Of the process."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.is_alive()

    def cpu(self) -> float:
        """Seconds of CPU that it has taken."""
        fields = Path(f"/proc/{self.id}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.id, number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._process.kill()
        self._process.join()

    def stop(self) -> None:
        """Let it finish what is under way."""
        self._process.terminate()
        self._process.join()


class Process(Forked):
    """A server; `main` is `journeyman.cli.main`, or something that says in the same words where it listens."""

    def __init__(self, main: Callable[..., None], arguments: Sequence[Any], folder: Path) -> None:
        super().__init__(main, arguments, folder, "server.log")
        self.host, self.port = "", 0

    def start(self) -> None:
        """Start it, and wait until it listens."""
        super().start()
        while (found := LISTENS.search(self.log.read_text())) is None:
            if not self.alive:
                raise RuntimeError(f"no server: {self.log.read_text()[-2000:]}")
            time.sleep(0.02)
        self.host, self.port = found[1], int(found[2])


def _be(main: Callable[..., None], arguments: Sequence[Any], folder: Path, file: Path) -> None:
    """The process."""
    os.chdir(folder)
    with file.open("a") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())
    main(*arguments)


@dataclass(frozen=True)
class Heard:
    """One streamed answer: when it was asked for, when its first text and its end came (monotonic seconds), and its
    tokens."""

    asked: float
    first: float
    ended: float
    tokens: int


class Streamer(asyncio.Protocol):
    """A client on one connection: asks, hears the stream to its end, and asks again. It reads as little of the answers
    as it can, for it shares the machine with the server.

    Args:
        request: gives the next body, or None to ask no more.
        told: hears of each answer.
    """

    def __init__(self, request: Callable[[], bytes | None], told: Callable[[Heard], None]) -> None:
        self.request, self.told = request, told
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._heard = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._ask()

    def _ask(self) -> None:
        body = self.request()
        if body is None:
            self.transport.close()
            return
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
        self._heard.clear()
        self._first = 0.0
        self._asked = time.monotonic()
        self.transport.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)

    def data_received(self, data: bytes) -> None:
        self._heard += data
        if len(self._heard) > 12 and not self._heard.startswith(b"HTTP/1.1 200"):
            self._fail(RuntimeError(f"no answer but {bytes(self._heard[:500])!r}"))
            return
        if not self._first and self._heard.count(b"data: ", 0, 4096) > 1:  # the first chunk says only who speaks
            self._first = time.monotonic()
        if not data.endswith(b"0\r\n\r\n"):
            return
        ended = time.monotonic()
        if not self._heard.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
            self._fail(RuntimeError(f"no answer but {bytes(self._heard[-500:])!r}"))
            return
        usage = re.search(rb'"completion_tokens": ?(\d+)', self._heard)
        assert usage is not None
        self.told(Heard(self._asked, self._first, ended, int(usage[1])))
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            if exc is None and self._heard.endswith(b"0\r\n\r\n"):
                self.done.set_result(None)
            else:
                self.done.set_exception(exc or ConnectionError("the server hung up"))

    def _fail(self, error: Exception) -> None:
        self.done.set_exception(error)
        self.transport.close()


def chat_body(model: str, text: str, max_tokens: int) -> bytes:
    """A request for a streamed answer that says at its end how many tokens it has."""
    messages = [{"role": "user", "content": text}]
    options = {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps({"model": model, "messages": messages, "max_tokens": max_tokens, **options}).encode()


async def ask_for(
    host: str, port: int, clients: int, seconds: float, warm: float, body: Callable[[int], bytes]
) -> list[Heard]:
    """What so many clients hear, each asking again as soon as it is answered: answers that ended within `seconds`,
    after the first `warm` ones.

    Args:
        body: the n-th request.
    """
    loop, heard, count = asyncio.get_running_loop(), list[Heard](), 0
    begins = time.monotonic() + warm
    ends = begins + seconds

    def request() -> bytes | None:
        nonlocal count
        count += 1
        return body(count) if time.monotonic() < ends else None

    made = [await loop.create_connection(lambda: Streamer(request, heard.append), host, port) for _ in range(clients)]
    await asyncio.gather(*(streamer.done for _, streamer in made))
    return [one for one in heard if begins <= one.ended < ends]
