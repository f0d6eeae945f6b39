"""A model being served, with everything around it: the engine's thread, the store, keys, versions, figures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from journeyman import machine
from journeyman.api import open_model
from journeyman.engine.base import Engine
from journeyman.errors import CheckpointError, JourneymanError, StoreConflict, UnknownName, UsageError
from journeyman.experience.store import Store
from journeyman.model.decoder import Decoder
from journeyman.model.load import LoadedModel
from journeyman.model.weights import weights_digest
from journeyman.release.book import Version
from journeyman.release.gate import Power
from journeyman.release.registry import Registry
from journeyman.run import experience_of, folder_of
from journeyman.serve.archive import Archive
from journeyman.serve.config import ServeConfig
from journeyman.serve.episodes import Episode, Episodes
from journeyman.serve.errors import ApiError
from journeyman.serve.fleet import Assigned, Fleet, Member
from journeyman.serve.following import Follower
from journeyman.serve.gateway import Gateway
from journeyman.serve.judge import Judge
from journeyman.serve.keys import Keys
from journeyman.serve.limits import RateLimit
from journeyman.serve.logs import Log
from journeyman.serve.metrics import Metrics
from journeyman.serve.prompts import Prompts
from journeyman.serve.service import Service
from journeyman.serve.shadow import Shadow
from journeyman.serve.terms import Terms
from journeyman.serve.weights import Beginning, beginning, registered
from journeyman.stages import native_engine

if TYPE_CHECKING:
    from journeyman.serve.telemetry import Telemetry

CACHE = 1 / 4
"""Share of the memory that the engine's cache may take."""
LEAST_CONTEXT = 1024
MINUTE, DAY = 60.0, 86400.0


class Deployment:
    """A model, served: one version of it, or several side by side.

    Args:
        loaded: the first version.
        engine: samples with it; nobody else may use it.
        store: keeps the episodes, and the versions with what was decided about them; closed with this.
        folder: where the keys are.
        terms: on which answers are given to agents that are learned from; the engine has the model's weights then.
        begun: what the registry says of the first version; found out where it is not given.

    Raises:
        UsageError, CheckpointError: a file in the folder cannot be read, the model has no usable chat template, or it
            is not to be served.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        engine: Engine,
        store: Store,
        folder: Path,
        config: ServeConfig,
        terms: Terms | None = None,
        begun: Beginning | None = None,
    ) -> None:
        self.config, self.store, self.terms, self.context = config, store, terms, engine.context
        self.name = config.name or loaded.source
        self.keys = Keys(folder / "keys.json")
        self.registry = Registry(store)
        if terms is not None:  # the learner counts its versions itself
            version = Version(engine.version, weights_digest(loaded.model), loaded.source, at=time.time())
            begun = Beginning(loaded, version)
        begun = begun or beginning(self.registry, loaded, folder, follows=self.follows)
        self.prompts = Prompts(begun.loaded.tokenizer)
        self.notice = begun.notice
        """Why something else is served than what was asked for; empty where it is not."""
        if terms is None:
            engine.load(begun.loaded.model, begun.version.number)
        self.fleet = Fleet(Member(begun.version, begun.loaded, Service(engine, Judge(begun.loaded, config.job))))
        self.metrics, self.log = Metrics(), Log(config.log_prompts)
        self.shadow = Shadow(self.fleet, store, self.metrics, config.reply_seconds)
        self.gateway = Gateway(self.fleet, store, self.metrics, config, self.shadow)
        self.powers: Mapping[int, Power] = {}
        """What a version may do; one that is not named, all."""
        self.follower = Follower(self)
        if config.telemetry:
            self.gateway.telemetry = _telemetry(self.name)
        self.episodes = Episodes(config.episodes, lambda id: store.whole(id).turns)
        self.archive = Archive(store, folder.parent, self.prompts.renderer.pieces)
        self.rates, self.feedback_rates = RateLimit(MINUTE), RateLimit(DAY)
        self.draining = False
        self.changing = asyncio.Lock()
        """Held by whoever loads versions or lets one have other weights."""
        self._leaving: set[asyncio.Task[None]] = set()
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
        config = replace(config, name=config.name or Path(source).resolve().name)
        store = Store(experience_of(source, config.store))
        try:
            begun = beginning(Registry(store), loaded, folder, follows=not config.also)
            model = begun.loaded.model
            context = min(config.context or fitting(model, config.slots), model.config.max_positions)
            engine = native_engine(Judge(begun.loaded, config.job).learner, slots=config.slots, context=context)
            d = Deployment(loaded, engine, store, folder, config, begun=begun)
            if d.notice:
                d.log.write("notice", notice=d.notice)
        except BaseException:
            store.close()
            raise
        shares: dict[int, float] = {}
        for other, share in config.others:
            found = open_model(other)
            member = d.member(found, registered(d.registry, found))  # in the order given: it has the versions' numbers
            d.fleet.add(member)
            shares[member.number] = share
        d.fleet.divide({d.version.number: max(1 - sum(shares.values()), 0.0), **shares})
        return d

    @property
    def follows(self) -> bool:
        """Whether the traffic is what the log says: not where shares are given by hand, nor for agents that are learned
        from."""
        return self.terms is None and not self.config.also

    # -- the release --------------------------------------------------------------------------------------

    @property
    def version(self) -> Version:
        """Which weights most requests get."""
        return self.fleet.release.version

    @property
    def loaded(self) -> LoadedModel:
        """The model that they are of."""
        return self.fleet.release.loaded

    @property
    def service(self) -> Service:
        """Its engine and V."""
        return self.fleet.release.service

    # -- what clients may ask for -------------------------------------------------------------------------

    @property
    def names(self) -> dict[str, Member]:
        """What clients may call the model: by its name, or one of its versions."""
        versions = {f"{self.name}@{one.number}": one for one in self.fleet.members if not one.leaving}
        return {self.name: self.fleet.release, **versions}

    def assign(self, name: str, user: str, episode: Episode, tools: Iterable[str] = ()) -> Assigned:
        """Which version answers: the one that is asked for, or that the user, or else the episode, is assigned to. An
        episode stays with its version as long as that is served.

        What only some versions may do is done by the release, whoever asks: no lot is drawn, so that those who are
        compared with a canary ask for nothing that it could not be asked for. Nor does anybody get a version whose
        engine failed.

        Args:
            tools: that may be called.

        Raises:
            ApiError: 404, there is no such model; 400, the one that is asked for may not call these.
        """
        member, release = self._named(name), self.fleet.release
        if name != self.name:
            if not self.power(member).may_call(tools):
                raise ApiError(400, f"{name} may not call these tools yet", "beyond_power", param="tools")
            return Assigned(member)
        tried = [one for one in self.fleet.members if self.fleet.share(one)]
        if not all(self.power(one).may_call(tools) for one in tried):
            return Assigned(release)
        old = episode.assigned
        if old is not None and any(one.number == old[0] and not one.leaving for one in self.fleet.members):
            new = Assigned(self.fleet.of(old[0]), old[1])
        else:
            new = self.fleet.assign(f"user {user}" if user else f"episode {episode.id}")
            episode.assigned = new.member.number, new.probability
        return new if new.member.healthy else Assigned(release)

    def power(self, member: Member) -> Power:
        """What a version may do."""
        return self.powers.get(member.number, Power())

    def _named(self, name: str) -> Member:
        found = self.names.get(name)
        if found is None and self.terms is not None:  # an agent asks for the model that it always asked for
            return self.fleet.release
        if found is None:
            raise ApiError(404, UnknownName("model", name, self.names).mistake, "model_not_found", param="model")
        return found

    def model(self, id: str) -> dict[str, Any]:
        """The model as /v1/models shows it.

        Raises:
            ApiError: 404, there is no such model.
        """
        member = self._named(id)
        ours = {
            "version": member.number,
            "digest": member.version.digest,
            "source": member.version.source,
            "state": "release" if member is self.fleet.release else "candidate",
            "share": self.fleet.share(member),
            "value_function": member.judges,
            "context": self.context,
        }
        created = int(member.version.at)
        return {"id": id, "object": "model", "created": created, "owned_by": "journeyman", "journeyman": ours}

    def unready(self) -> str | None:
        """Why no new work is taken now; None where it is."""
        if self.draining:
            return "the server is shutting down"
        if not self.fleet.release.healthy:
            return f"the engine failed: {self.service.broken}"
        return None if self.gateway.keeping else "experience cannot be written"

    # -- versions come and go -----------------------------------------------------------------------------

    async def load(self, source: str) -> Member:
        """Serve one more version; nobody gets it but who asks for it by name, until it has a share.

        Raises:
            UsageError, CheckpointError: not there, or it does not fit. Nothing has changed.
            StoreConflict: it is served already.
        """
        async with self.changing:
            loaded = await self._opened(source)
            member = await asyncio.to_thread(lambda: self.member(loaded, registered(self.registry, loaded)))
            try:
                self.fleet.add(member)
            except StoreConflict:
                await asyncio.to_thread(member.service.close)
                raise
            self.log.write("loaded", version=member.number, source=member.version.source)
            return member

    def divide(self, shares: Mapping[int, float]) -> None:
        """Give each version its share of the requests, from the next one on.

        Raises:
            UnknownName, UsageError: they are no shares of what is served. Nothing has changed.
        """
        self.fleet.divide(shares)
        self.log.write("shares", shares={str(number): share for number, share in shares.items()})

    def dismiss(self, number: int) -> Member:
        """Serve a version no longer; what is under way is finished, then its engine goes.

        Raises:
            UnknownName: it is not served. StoreConflict: it still has a share.
        """
        member = self.fleet.dismiss(number)
        self.log.write("dismissed", version=number)
        task = asyncio.get_running_loop().create_task(self.fleet.emptied(member))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        return member

    async def replace(self, source: str) -> Version:
        """Let the release have other weights from now on, without a pause. Where the log is followed, it says so first.

        Raises:
            UsageError, CheckpointError: not there, in quarantine, of another shape or tokenizer. Nothing has changed.
            StoreConflict: another version that is served has them.
        """
        async with self.changing:
            loaded = await self._opened(source)
            self._check_texts(loaded)
            release = self.fleet.release
            if replace(loaded.model.config, hf={}) != replace(self.loaded.model.config, hf={}):  # `hf`: the file's own
                raise _misfit(loaded, "its shape is another", "load it as a version of its own: POST /admin/versions")
            version = await asyncio.to_thread(registered, self.registry, loaded)
            if any(one.number == version.number for one in self.fleet.members if one is not release):
                raise StoreConflict(f"version {version.number} is served already", fix="give it the largest share")
            judge = Judge(loaded, self.config.job)
            if self.follows:
                why = f"put in its place by hand: {source}"
                await asyncio.to_thread(self.registry.point, "release", version.number, why)
            await asyncio.wrap_future(release.service.load(loaded.model, judge, version.number))
            release.loaded, release.version = loaded, version
            self.log.write("weights", version=version.number, source=version.source)
            return version

    async def _opened(self, source: str) -> LoadedModel:
        try:
            return await asyncio.to_thread(open_model, source)
        except (OSError, ValueError) as error:  # no name of a file: too long, or with a null character
            if isinstance(error, JourneymanError):
                raise
            raise UsageError(f"{source[:80]!r} cannot be a model", reason=str(error)[:200]) from error

    def member(self, loaded: LoadedModel, version: Version) -> Member:
        """A version with an engine of its own, with as many slots as the first.

        Raises:
            CheckpointError: it does not fit what is served.
        """
        self._check_texts(loaded)
        if loaded.model.config.max_positions < self.context:
            reason = f"it reads {loaded.model.config.max_positions} tokens, and the others {self.context}"
            raise _misfit(loaded, reason, "serve all with a smaller --context")
        judge = Judge(loaded, self.config.job)
        engine = native_engine(judge.learner, slots=self.config.slots, context=self.context)
        engine.load(loaded.model, version.number)
        return Member(version, loaded, Service(engine, judge))

    def _check_texts(self, new: LoadedModel) -> None:
        """Tokens of one version must mean the same to all: an episode may go on with another."""
        old = self.loaded.tokenizer
        same = old.get_vocab() == new.tokenizer.get_vocab() and old.chat_template == new.tokenizer.chat_template
        if not same:
            raise _misfit(new, "its tokenizer or its chat template is another", "serve it with a server of its own")

    def _watch(self) -> None:
        watch = self.metrics.watch
        for name, what in (
            ("running", "Replies under way."),
            ("waiting", "Orders in line for a slot."),
            ("kept", "Idle sequences whose cache is kept."),
        ):
            watch(f"journeyman_{name}", what, partial(self._total, name))
        watch("journeyman_outstanding", "Answers asked for and not there yet.", lambda: self.gateway.outstanding)
        watch("journeyman_version", "Version of the release.", lambda: self.version.number)
        unserved = "Versions that the log asks for and that cannot be served."
        watch("journeyman_unserved", unserved, lambda: len(self.follower.failures))
        watch("journeyman_ready", "Whether new work is taken.", lambda: float(self.unready() is None))

    def _total(self, name: str) -> float:
        return float(sum(getattr(member.service, name) for member in self.fleet.members))

    async def close(self) -> None:
        """Let go of everything; what was said is kept first."""
        await self.shadow.close()
        await self.gateway.settle()
        for task in tuple(self._leaving):
            task.cancel()
        await asyncio.to_thread(self.fleet.close)
        await asyncio.to_thread(self.store.close)
        if self.gateway.telemetry is not None:
            await asyncio.to_thread(self.gateway.telemetry.close)


def _telemetry(name: str) -> Telemetry:
    try:
        from journeyman.serve.telemetry import Telemetry  # takes a while to import, and most do without
    except ModuleNotFoundError as error:
        fix = "pip install 'journeyman[telemetry]'"
        raise UsageError("telemetry needs more", reason=str(error), fix=fix) from error
    return Telemetry(name)


def _misfit(loaded: LoadedModel, reason: str, fix: str) -> CheckpointError:
    return CheckpointError(f"{loaded.source} does not fit what is served", reason=reason, fix=fix)


def fitting(model: Decoder, slots: int) -> int:
    """Longest context for which the cache of all slots takes its share of the memory."""
    c = model.config
    each = 2 * c.layers * c.kv_heads * c.head_width * torch.empty(0, dtype=model.head.dtype).element_size()
    room = int(CACHE * machine.memory(model.head.device) / (slots * each))
    return min(c.max_positions, max(room, LEAST_CONTEXT))
