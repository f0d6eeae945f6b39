"""A model being served, with everything around it: the engine's thread, the store, keys, versions, figures."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from journeyman import machine
from journeyman.api import open_model
from journeyman.engine.base import Engine
from journeyman.errors import CheckpointError, JourneymanError, UnknownName, UsageError
from journeyman.experience.store import Store
from journeyman.model.decoder import Decoder
from journeyman.model.load import LoadedModel
from journeyman.serve.config import ServeConfig
from journeyman.serve.episodes import Episodes
from journeyman.serve.errors import ApiError
from journeyman.serve.gateway import Gateway
from journeyman.serve.judge import Judge
from journeyman.serve.keys import Keys, folder_of
from journeyman.serve.limits import RateLimit
from journeyman.serve.logs import Log
from journeyman.serve.metrics import Metrics
from journeyman.serve.prompts import Prompts
from journeyman.serve.service import Service
from journeyman.serve.terms import Terms
from journeyman.serve.versions import Version, Versions
from journeyman.stages import native_engine

CACHE = 1 / 4
"""Share of the memory that the engine's cache may take."""
LEAST_CONTEXT = 1024
MINUTE, DAY = 60.0, 86400.0


class Deployment:
    """One model, served.

    Args:
        loaded: the model.
        engine: samples with it; nobody else may use it.
        store: keeps the episodes; closed with this.
        folder: where keys and versions are.
        terms: on which answers are given to agents that are learned from; the engine has the model's weights then.

    Raises:
        UsageError, CheckpointError: a file in the folder cannot be read, or the model has no usable chat template.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        engine: Engine,
        store: Store,
        folder: Path,
        config: ServeConfig,
        terms: Terms | None = None,
    ) -> None:
        self.config, self.loaded, self.store, self.terms = config, loaded, store, terms
        self.name = config.name or loaded.source
        self.prompts = Prompts(loaded.tokenizer)
        self.keys = Keys(folder / "keys.json")
        self.versions = Versions(folder / "versions.json")
        self.version = self.versions.of(loaded.model, loaded.source)
        if terms is None:
            engine.load(loaded.model, self.version.number)
        else:
            self.version = replace(self.version, number=engine.version)
        self.service = Service(engine, Judge(loaded, config.job))
        self.metrics, self.log = Metrics(), Log(config.log_prompts)
        self.gateway = Gateway(self.service, store, self.metrics, config)
        self.episodes = Episodes(config.episodes, lambda id: store.whole(id).turns)
        self.rates, self.feedback_rates = RateLimit(MINUTE), RateLimit(DAY)
        self.draining = False
        self._replacing = asyncio.Lock()
        self._watch()

    @staticmethod
    def open(source: str, config: ServeConfig) -> Deployment:
        """Serve a run, a checkpoint folder, or a named model.

        Raises:
            UsageError, CheckpointError, StoreError: as their messages say.
        """
        loaded = open_model(source)
        folder = folder_of(source)
        folder.mkdir(parents=True, exist_ok=True)
        judge = Judge(loaded, config.job)
        context = min(config.context or fitting(loaded.model, config.slots), loaded.model.config.max_positions)
        engine = native_engine(judge.learner, slots=config.slots, context=context)
        store = Store(config.store or folder.parent / "experience.sqlite")
        name = config.name or Path(source).resolve().name
        return Deployment(loaded, engine, store, folder, replace(config, name=name))

    @property
    def judges(self) -> bool:
        """Whether the model has a value function."""
        return self.service.judge.knows

    @property
    def names(self) -> tuple[str, str]:
        """What clients may call the model: by its name, or this version of it."""
        return self.name, f"{self.name}@{self.version.number}"

    def check_model(self, name: str) -> None:
        """Raises ApiError: 404, this is not what is served."""
        if name not in self.names and self.terms is None:  # who learns asks for the model that it always asked for
            mistake = UnknownName("model", name, self.names).mistake
            raise ApiError(404, mistake, "model_not_found", param="model")

    def model(self, id: str) -> dict[str, Any]:
        """The model as /v1/models shows it."""
        ours = {
            "version": self.version.number,
            "digest": self.version.digest,
            "source": self.version.source,
            "state": "release",
            "value_function": self.judges,
            "context": self.service.context,
        }
        created = int(self.version.since)
        return {"id": id, "object": "model", "created": created, "owned_by": "journeyman", "journeyman": ours}

    def unready(self) -> str | None:
        """Why no new work is taken now; None where it is."""
        if self.draining:
            return "the server is shutting down"
        if not self.service.alive or self.service.broken is not None:
            return f"the engine failed: {self.service.broken}"
        return None if self.gateway.keeping else "experience cannot be written"

    async def replace(self, source: str) -> Version:
        """Serve other weights from now on, without a pause.

        Raises:
            UsageError, CheckpointError: not there, or of another shape or tokenizer. Nothing has changed.
        """
        async with self._replacing:
            try:
                loaded = await asyncio.to_thread(open_model, source)
            except (OSError, ValueError) as error:  # no name of a file: too long, or with a null character
                if isinstance(error, JourneymanError):
                    raise
                raise UsageError(f"{source[:80]!r} cannot be a model", reason=str(error)[:200]) from error
            self._check(loaded)
            version = await asyncio.to_thread(self.versions.of, loaded.model, loaded.source)
            judge = Judge(loaded, self.config.job)
            await asyncio.wrap_future(self.service.load(loaded.model, judge, version.number))
            self.loaded, self.version = loaded, version
            self.log.write("weights", version=version.number, source=version.source)
            return version

    def _check(self, loaded: LoadedModel) -> None:
        old, new = self.loaded, loaded
        configs = [replace(one.model.config, hf={}) for one in (old, new)]  # `hf` is what the file says beside
        same = configs[0] == configs[1] and old.tokenizer.get_vocab() == new.tokenizer.get_vocab()
        if not same or old.tokenizer.chat_template != new.tokenizer.chat_template:
            raise CheckpointError(
                f"{loaded.source} does not fit what is served",
                reason="its shape, its tokenizer or its chat template is another",
                fix="serve it with a server of its own",
            )

    def _watch(self) -> None:
        watch, service = self.metrics.watch, self.service
        watch("journeyman_running", "Replies under way.", lambda: service.running)
        watch("journeyman_waiting", "Orders in line for a slot.", lambda: service.waiting)
        watch("journeyman_kept", "Idle sequences whose cache is kept.", lambda: service.kept)
        watch("journeyman_outstanding", "Answers asked for and not there yet.", lambda: self.gateway.outstanding)
        watch("journeyman_version", "Version of the weights.", lambda: self.version.number)
        watch("journeyman_ready", "Whether new work is taken.", lambda: float(self.unready() is None))

    async def close(self) -> None:
        """Let go of everything; what was said is kept first."""
        await self.gateway.settle()
        await asyncio.to_thread(self.service.close)
        await asyncio.to_thread(self.store.close)


def fitting(model: Decoder, slots: int) -> int:
    """Longest context for which the cache of all slots takes its share of the memory."""
    c = model.config
    each = 2 * c.layers * c.kv_heads * c.head_width * torch.empty(0, dtype=model.head.dtype).element_size()
    room = int(CACHE * machine.memory(model.head.device) / (slots * each))
    return min(c.max_positions, max(room, LEAST_CONTEXT))
