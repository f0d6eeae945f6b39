"""The server as a process: two listeners, one deployment, and an orderly end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import uvicorn

from journeyman.errors import UsageError
from journeyman.run import folder_of
from journeyman.serve.app import administration, api
from journeyman.serve.config import ServeConfig, is_loopback
from journeyman.serve.deployment import Deployment
from journeyman.serve.http import PatientProtocol
from journeyman.serve.keys import Keys
from journeyman.serve.sockets import Server, listen, until_signalled, url


@dataclass(frozen=True)
class Addresses:
    """Where the server listens."""

    api: str
    admin: str


def serve(source: str, config: ServeConfig, ready: Callable[[Deployment, Addresses], None]) -> None:
    """Serve a model until SIGTERM or SIGINT.

    Args:
        ready: called when it listens.

    Raises:
        UsageError: nobody may be let in like that, or a port is taken. CheckpointError, StoreError: as they say.
    """
    check_open(config, len(Keys(folder_of(source) / "keys.json")))
    with listen(config.host, config.port) as listener, listen(config.admin_host, config.admin_port) as admin:
        deployment = Deployment.open(source, config)
        asyncio.run(run(deployment, listener, admin, lambda addresses: ready(deployment, addresses), until_signalled))


def check_open(config: ServeConfig, keys: int) -> None:
    """Refuse to let everybody in by mistake.

    Raises:
        UsageError: the address is no loopback and there is no key.
    """
    if not is_loopback(config.host) and not keys and not config.open:
        raise UsageError(
            f"serve: {config.host} can be reached from elsewhere, and there is no API key",
            reason="everybody could use the model, and say what its answers were worth",
            fix="make a key (journeyman keys RUN --add NAME), or let everybody in with --open",
        )


async def run(
    d: Deployment,
    listener: socket.socket,
    admin: socket.socket | None,
    ready: Callable[[Addresses], None],
    until: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    """Serve until then; take no new work any more, finish what is under way, and let go of everything.

    Args:
        admin: where the administration listens; None: nowhere.
    """
    if d.follows:
        # Before anybody is answered: who comes back in the middle of a rollout goes on with it.
        await d.follower.try_to_look()
    places = [(_server(d, api(d)), listener)]
    if admin is not None:
        places.append((_server(d, administration(d)), admin))
    servers = [server for server, _ in places]
    tasks = [asyncio.ensure_future(server.serve(sockets=[one])) for server, one in places]
    ended, checking = asyncio.ensure_future(until()), asyncio.ensure_future(d.gateway.keep_checking())
    following = asyncio.ensure_future(d.follower.follow()) if d.follows else None
    try:
        while not all(server.started for server in servers):
            await asyncio.sleep(0.01)
        ready(Addresses(url(listener), url(admin) if admin is not None else ""))
        await asyncio.wait({ended, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        d.draining = True
        d.log.write("draining", outstanding=d.gateway.outstanding)
        for server in servers:
            server.should_exit = True
        others = [ended, checking, *([following] if following is not None else [])]
        for task in others:
            task.cancel()
        await asyncio.gather(*tasks, *others, return_exceptions=True)
        await d.close()
        d.log.write("stopped")


def _server(d: Deployment, app: Any) -> Server:
    c = d.config
    patience = type("Patience", (PatientProtocol,), {"patience": c.request_seconds})
    return Server(
        uvicorn.Config(
            app,
            http=patience,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=c.connections,
            timeout_graceful_shutdown=max(round(c.drain_seconds), 1),
        )
    )
