"""Listening on a port, and until when."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Generator

import uvicorn

from journeyman.errors import UsageError


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        UsageError: the address is not ours, or taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}:{port}", reason=str(error), fix="choose another with --port (serve: --admin-port)"
        ) from error
    # Connections inherit it. asyncio sets it on sockets that name their protocol alone, which these do not; without it
    # every piece of a stream after the first waits for the client's delayed acknowledgement, 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


async def until_signalled() -> None:
    """Until SIGTERM or SIGINT."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await ended.wait()


class Server(uvicorn.Server):
    """uvicorn's server, less its signals: :func:`until_signalled` has them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def url(listener: socket.socket) -> str:
    """Where a socket listens."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
