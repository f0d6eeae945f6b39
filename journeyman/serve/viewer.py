"""The page over a store alone: `journeyman view RUN`. Reads, and nothing else; no model, this machine only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request

from journeyman.experience.store import Store
from journeyman.serve import looking
from journeyman.serve.access import Bearer
from journeyman.serve.archive import Archive
from journeyman.serve.config import is_loopback
from journeyman.serve.errors import ApiError
from journeyman.serve.http import handle_errors
from journeyman.serve.looking import View
from journeyman.serve.pages import add_pages
from journeyman.serve.sockets import Server, listen, until_signalled, url

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Window:
    """A door through which whoever is on this machine sees everything."""

    archive: Archive
    name: str

    async def admit(self, request: Request, bearer: Bearer) -> View:
        """Everything.

        Raises:
            ApiError: 403, the request came by another name: a web page's, that was pointed at this machine.
        """
        host = (request.url.hostname or "").strip("[]")
        if not is_loopback(host):
            raise ApiError(403, f"this viewer does not go by the name {host!r}", "host_not_allowed")
        return View(self.archive)

    def about(self) -> Mapping[str, Any]:
        """Nothing is served here."""
        return {"name": self.name, "live": False, "serving": None, "traffic": []}


def viewer(archive: Archive, name: str) -> FastAPI:
    """The application."""
    app = FastAPI(title="Journeyman's viewer", docs_url=None, redoc_url=None, version="1")
    app.include_router(looking.router)
    handle_errors(app)
    app.state.door = Window(archive, name)
    add_pages(app)
    return app


def look_at(store: Store, run: Path | None, port: int, ready: Callable[[str], None]) -> None:
    """Show a store's episodes until SIGTERM or SIGINT.

    Args:
        run: the run's folder, where the store is a run's.
        port: on 127.0.0.1; 0 takes a free one.
        ready: called with the address when it listens.

    Raises:
        UsageError: the port is taken.
    """
    name = run.resolve().name if run is not None else Path(store.where).stem
    app = viewer(Archive(store, run), name)

    async def show() -> None:
        config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None, access_log=False, server_header=False)
        server = Server(config)
        serving = asyncio.ensure_future(server.serve(sockets=[listener]))
        ended = asyncio.ensure_future(until_signalled())
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        ready(url(listener))
        await asyncio.wait({serving, ended}, return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        ended.cancel()
        await asyncio.gather(serving, ended, return_exceptions=True)

    with listen(HOST, port) as listener:
        asyncio.run(show())
