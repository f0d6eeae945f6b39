"""`journeyman release ...`: the versions of a deployment, what was found about them, and the way back. Rollouts are in
rollout_commands.py."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tyro.conf import Positional

from journeyman.errors import UsageError
from journeyman.experience.journal import Runs
from journeyman.release.book import Book, Version, differences, len_of
from journeyman.release.gate import latest
from journeyman.release.mlflow import export
from journeyman.release.printed import render_judgement
from journeyman.release.registry import Registry, show_runs
from journeyman.release.rollout import State
from journeyman.rollout_commands import RolloutAction, told
from journeyman.store_commands import open_store

console = Console()


@dataclass(frozen=True)
class List:
    """All versions: where they came from, where they stand, and which of them is not to be trusted."""

    store: Positional[str]
    """A run's folder, a store's file, or the URL of a database."""
    json: bool = False
    """Print as JSON lines."""

    def __call__(self) -> None:
        with open_store(self.store) as store:
            registry = Registry(store)
            book, reached, state = registry.book(), registry.reached(), State.of(store.events())
        if self.json:
            for version in book.versions.values():
                print(json.dumps({**asdict(version), "stands": _stands(book, version, reached)}))
            return
        table = Table(box=None, pad_edge=False, header_style="dim")
        for title in ("version", "weights", "since", "made of", "learned from", "verdict", "stands"):
            table.add_column(title, no_wrap=title != "stands")
        for version in book.versions.values():
            table.add_row(*_row(book, version, reached))
        console.print(table)
        if state is not None:
            console.print()
            told(state)


def _row(book: Book, version: Version, reached: dict[int, Runs]) -> list[str | Text]:
    judgement = latest(book.evidence.get(version.number, ()))
    stands = _stands(book, version, reached)
    bad = any(word.startswith(("quarantine", "learned")) for word in stands)
    return [
        str(version.number),
        version.digest[:8],
        _when(version.at),
        " ".join(map(str, version.parents)),
        _entries(version.entries) if version.entries else "",
        "" if judgement is None else str(judgement.verdict),
        Text(", ".join(stands), "red" if bad else "bold" if stands else ""),
    ]


def _stands(book: Book, version: Version, reached: dict[int, Runs]) -> list[str]:
    """Aliases first, then what is wrong with it."""
    number = version.number
    words: list[str] = [alias for alias, at in book.aliases.items() if at == number]
    words += ["quarantine"] if number in book.quarantined else []
    if number in reached:
        words.append(f"learned from {_entries(reached[number])} now erased or barred")
    return words


@dataclass(frozen=True)
class Show:
    """One version: its lineage, its configuration, its notes, and the gate's judgement."""

    store: Positional[str]
    """A run's folder, a store's file, or the URL of a database."""
    version: Positional[str] = "release"
    """A number, an alias (`release`, `candidate`, `canary`), or the beginning of the weights' hash."""
    json: bool = False
    """Print as JSON."""

    def __call__(self) -> None:
        with open_store(self.store) as store:
            registry = Registry(store)
            book, reached = registry.book(), registry.reached()
        version = book.find(self.version)
        judged = book.evidence.get(version.number, ())
        if self.json:
            notes = [text for _, text in book.notes.get(version.number, ())]
            print(json.dumps({**asdict(version), "notes": notes, "evidence": list(judged)}))
            return
        shown = {
            "weights": version.digest,
            "source": version.source,
            "since": _when(version.at),
            "made of": ", ".join(map(str, version.parents)),
            "came of it": ", ".join(map(str, sorted(book.descendants(version.number)))),
            "learned from": f"{_entries(version.entries)} ({show_runs(version.entries)}), {version.data[:16]}",
            "code": version.code,
            "config": json.dumps(dict(version.config)) if version.config else "",
            "stands": ", ".join(_stands(book, version, reached)),
        }
        console.print(f"version {version.number}", style="bold", highlight=False)
        for name, value in shown.items():
            if value:
                console.print(f"{name:13} {value}", highlight=False)
        for at, text in book.notes.get(version.number, ()):
            console.print(f"{_when(at):13} {text}", highlight=False)
        if (judgement := latest(judged)) is not None:
            console.print()
            console.print(render_judgement(judgement, f"version {version.number}"))


@dataclass(frozen=True)
class Diff:
    """What differs between two versions."""

    store: Positional[str]
    """A run's folder, a store's file, or the URL of a database."""
    one: Positional[str]
    """A version, as `show` takes it."""
    other: Positional[str]
    """Another."""

    def __call__(self) -> None:
        with open_store(self.store) as store:
            book = Registry(store).book()
        table = Table(box=None, pad_edge=False, header_style="dim")
        for title in ("", self.one, self.other):
            table.add_column(title, overflow="fold")
        for name, values in differences(book.find(self.one), book.find(self.other)).items():
            table.add_row(name, *(_shown(name, value) for value in values))
        console.print(table)


@dataclass(frozen=True)
class Note:
    """Write something down about a version."""

    store: Positional[str]
    """A run's folder, a store's file, or the URL of a database."""
    version: Positional[str]
    """A version, as `show` takes it."""
    text: Positional[str]
    """It stays in the log for good; no personal data, please."""

    def __call__(self) -> None:
        with open_store(self.store) as store:
            Registry(store).note(self.version, self.text)


@dataclass(frozen=True)
class Rollback:
    """Make the release before this one the release again. A server that runs on this store follows at its next look."""

    store: Positional[str]
    """A run's folder, a store's file, or the URL of a database."""
    why: str
    """It stays in the log."""

    def __call__(self) -> None:
        with open_store(self.store) as store:
            version = Registry(store).roll_back(self.why)
        console.print(f"version {version.number} is the release again", highlight=False)


@dataclass(frozen=True)
class Quarantine:
    """Take a version out with all that came of it, and keep what they learned from out of the next candidates; or keep
    single episodes out; or lift a quarantine."""

    store: Positional[str]
    """A run's folder, a store's file, or the URL of a database."""
    why: str
    """It stays in the log."""
    version: str | None = None
    """The bad version, as `show` takes it."""
    episodes: tuple[str, ...] = ()
    """Ids of episodes that nothing shall learn from any more."""
    lift: str | None = None
    """Id of a quarantine that shall hold no longer."""

    def __call__(self) -> None:
        if (self.version is not None) + bool(self.episodes) + (self.lift is not None) != 1:
            raise UsageError("nothing, or too much, to put into quarantine", fix="give --version, --episodes or --lift")
        with open_store(self.store) as store:
            registry = Registry(store)
            if self.lift is not None:
                registry.lift(self.lift, self.why)
                return
            held = (
                registry.quarantine(self.version, self.why)
                if self.version is not None
                else registry.bar(self.episodes, self.why)
            )
            release = registry.book().aliases.get("release")
        versions = f"versions {', '.join(map(str, held.versions))} and " if held.versions else ""
        console.print(f"{versions}{_entries(held.entries)} are in quarantine {held.id}", highlight=False)
        console.print(f"the release is version {release}" if release else "there is no release", highlight=False)


@dataclass(frozen=True)
class Export:
    """Copy the versions into an MLflow server, with lineage, evidence and aliases; again: bring the copy up to date."""

    store: Positional[str]
    """A run's folder, a store's file, or the URL of a database."""
    to: str
    """Of an MLflow server that has a registry: http://127.0.0.1:5000, or sqlite:///mlflow.db."""
    name: str = "journeyman"
    """Of the registered model, and of the experiment."""

    def __call__(self) -> None:
        with open_store(self.store) as store:
            book = Registry(store).book()
        numbers = export(book, self.to, self.name)
        console.print(f"{len(numbers)} versions are in {self.to} as {self.name}", highlight=False)


Action = List | Show | Diff | Note | Rollback | Quarantine | Export | RolloutAction


@dataclass(frozen=True)
class ReleaseCommand:
    """The versions of a deployment: list, show, compare, annotate, roll out, roll back, quarantine."""

    action: Annotated[Action, tyro.conf.arg(name="")]

    def __call__(self) -> None:
        self.action()


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")


def _entries(entries: Runs) -> str:
    count = len_of(entries)
    return "1 entry" if count == 1 else f"{count:,} entries"


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name in ("digest", "data"):
        return f"{value:.16}"
    return _when(value) if name == "at" else str(value)
