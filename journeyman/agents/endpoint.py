"""The server that agents speak to: the engine of the learner behind OpenAI's routes, while a step's attempts last."""

from __future__ import annotations

import asyncio
import io
import os
import threading
from pathlib import Path

from journeyman.engine.base import Engine
from journeyman.experience.outcomes import Episode
from journeyman.experience.store import Store
from journeyman.model.decoder import Decoder
from journeyman.model.load import LoadedModel
from journeyman.model.render import Renderer
from journeyman.serve.config import ServeConfig
from journeyman.serve.deployment import Deployment
from journeyman.serve.server import Addresses, listen, run
from journeyman.serve.terms import Terms

HERE = "127.0.0.1"


class Endpoint:
    """The server that agents speak to, for as long as the `with` block.

    Attributes:
        deployment: what is served.
        key: of all agents; the session's name stands behind it.
    """

    def __init__(
        self, engine: Engine, policy: Decoder, renderer: Renderer, terms: Terms, place: Path, seconds: float
    ) -> None:
        config = ServeConfig(
            port=0,
            admin_port=0,
            name="policy",
            queue=1 << 20,
            queue_seconds=seconds,
            reply_seconds=seconds,
            request_seconds=seconds,
            episodes=max(len(terms.seeds), 1),
            drain_seconds=1,
        )
        loaded = LoadedModel(policy, renderer.tokenizer, None, "policy")
        self.deployment = Deployment(loaded, engine, Store(place / "said.sqlite"), place, config, terms)
        self.deployment.log.stream = io.StringIO()
        self.key, self.secret = self.deployment.keys.add("agent")
        self._listener = listen(HERE, 0)
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over: asyncio.Event | None = None
        self._broken: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="endpoint", daemon=True)
        self.url = ""

    def __enter__(self) -> Endpoint:
        self._thread.start()
        self._ready.wait()
        if self._broken is not None:
            raise self._broken
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop is not None and self._over is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        try:
            asyncio.run(run(self.deployment, self._listener, None, self._listening, self._until))
        except BaseException as error:
            self._broken = error
        finally:
            self._ready.set()

    def _listening(self, addresses: Addresses) -> None:
        self.url = f"{addresses.api}/v1"
        self._ready.set()

    async def _until(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        await self._over.wait()

    def environment(self, session: str) -> dict[str, str]:
        """What a program has to know to be heard as this session."""
        key = f"{self.secret}:{session}"
        direct = ",".join(part for part in (os.environ.get("NO_PROXY", ""), HERE) if part)
        return {
            **os.environ,
            "OPENAI_BASE_URL": self.url,
            "OPENAI_API_BASE": self.url,
            "OPENAI_API_KEY": key,
            "NO_PROXY": direct,
            "no_proxy": direct,
        }

    def said(self, session: str) -> tuple[Episode | None, bool]:
        """What was said in a session, if anything, and whether no more fitted."""
        episode = self.deployment.episodes.called(self.key.id, session)
        if episode is None or episode.last is None:
            return None, False
        return self.deployment.store.whole(episode.id), episode.full
