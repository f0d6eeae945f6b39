"""`journeyman release begin, look, pause...`: a rollout by hand. Who serves from the store follows what is decided."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from tyro.conf import Positional

from journeyman.errors import UsageError
from journeyman.release.gate import Verdict, latest
from journeyman.release.printed import render_decision
from journeyman.release.registry import Registry
from journeyman.release.rollout import RolloutPlan, State
from journeyman.release.steering import Rollout, observed
from journeyman.store_commands import open_store

console = Console()


@dataclass(frozen=True)
class Begin:
    """Begin to release a version, from the shadow on, with the power that the gate granted it. Nothing happens by
    itself then: `journeyman release look` decides, as often as it is called, or `journeyman improve` does."""

    store: Positional[str]
    """A run's folder, a store's file, or the URL of a database."""
    version: Positional[str]
    """A version, as `show` takes it."""
    shares: tuple[float, ...] = RolloutPlan().shares
    """Of the traffic, stage by stage, rising to 1; 0 is the shadow."""
    unexamined: bool = False
    """Release it although the gate has not passed it. It may do everything then, and its share follows from the traffic
    alone."""

    def __call__(self) -> None:
        with open_store(self.store) as store:
            book = Registry(store).book()
            version = book.find(self.version)
            judgement = latest(book.evidence.get(version.number, ()))
            passed = judgement is not None and judgement.verdict is Verdict.PASS
            if not passed and not self.unexamined:
                raise UsageError(
                    f"the gate has not passed version {version.number}",
                    reason="it was not examined" if judgement is None else f"its verdict is: {judgement.verdict}",
                    fix="have it examined (journeyman.release.examine), or take the risk with --unexamined",
                )
            plan = RolloutPlan(shares=self.shares)
            if judgement is not None and passed:
                state = Rollout(store).begin(version.number, plan, gate=judgement.evidence, power=judgement.power)
            else:
                state = Rollout(store).begin(version.number, plan)
        told(state)


@dataclass(frozen=True)
class Look:
    """Decide by what was seen since the rollout began: wait, go on, or back. As often as one likes: the tests hold
    whenever one looks."""

    store: Positional[str]
    """A run's folder, a store's file, or the URL of a database."""

    def __call__(self) -> None:
        with open_store(self.store) as store:
            rollout = Rollout(store)
            state = rollout.state()
            decision = rollout.look([] if state is None else list(observed(store, state)))
            state = rollout.state()
        console.print(render_decision(decision))
        if state is not None:
            told(state)


@dataclass(frozen=True)
class _Decide:
    store: Positional[str]
    """A run's folder, a store's file, or the URL of a database."""
    why: str
    """It stays in the log."""

    def decide(self, what: str) -> None:
        with open_store(self.store) as store:
            state = Rollout(store).act(what, self.why)
        told(state)


@dataclass(frozen=True)
class Pause(_Decide):
    """Leave the rollout at its stage until `resume`: nothing but a failure moves it."""

    def __call__(self) -> None:
        self.decide("pause")


@dataclass(frozen=True)
class Resume(_Decide):
    """Let a paused rollout go on."""

    def __call__(self) -> None:
        self.decide("resume")


@dataclass(frozen=True)
class Advance(_Decide):
    """Go on to the next stage, whatever the evidence."""

    def __call__(self) -> None:
        self.decide("advance")


@dataclass(frozen=True)
class Back(_Decide):
    """Roll the rollout back: the release has all of the traffic again."""

    def __call__(self) -> None:
        self.decide("roll back")


RolloutAction = Begin | Look | Pause | Resume | Advance | Back


def told(state: State | None) -> None:
    """Where the rollout stands."""
    if state is None:
        console.print("nothing is being rolled out")
        return
    at = f"stage {state.stage + 1} of {len(state.plan.shares)}"
    share = "in the shadow" if state.shadow else f"{state.share:.0%} of the traffic"
    console.print(f"version {state.candidate}: {state.phase}, {at}, {share}. {state.why}", highlight=False)
