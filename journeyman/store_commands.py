"""`journeyman store ...`: look into a store, check it, take data out of it, erase from it."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from tyro.conf import Positional

from journeyman.errors import UsageError
from journeyman.experience import EpisodeFilter, Store
from journeyman.experience.export import lines, write_lines, write_parquet
from journeyman.types import SUCCESS

console = Console(stderr=True)


@dataclass(frozen=True)
class Info:
    """What is in it: episodes, feedback, its size, and the head of its hash chain."""

    store: Positional[str]
    """A run's folder, a store's file, or the URL of a database."""
    json: bool = False
    """Print as JSON."""

    def __call__(self) -> None:
        with open_store(self.store) as store:
            found = asdict(store.info())
        if self.json:
            print(json.dumps(found))
            return
        for name in ("first", "last"):
            if found[name] is not None:
                found[name] = datetime.fromtimestamp(found[name], UTC).isoformat(timespec="seconds")
        for name, amount in found.items():
            shown = ", ".join(f"{n} {k}" for k, n in amount.items()) if isinstance(amount, dict) else amount
            print(f"{name:9} {', '.join(shown) if isinstance(shown, tuple) else shown}")
        print(f"\nto tell later whether the end was cut off: journeyman store verify {self.store} --head ", end="")
        print(f"{found['entries']}:{found['head']}")


@dataclass(frozen=True)
class Verify:
    """Derive every hash again, and say what is not as it was written. Ends with status 1 if anything is."""

    store: Positional[str]
    """A run's folder, a store's file, or the URL of a database."""
    head: str | None = None
    """NUMBER:HASH as `info` printed it once: the log must go on from there."""

    def __call__(self) -> None:
        head = None
        if self.head is not None:
            number, _, chain = self.head.partition(":")
            if not number.isdecimal() or not chain:
                raise UsageError(f"--head must be NUMBER:HASH, got {self.head!r}", fix="copy it from `store info`")
            head = (int(number), chain)
        with open_store(self.store) as store:
            problems, entries = store.verify(head), store.info().entries
        for problem in problems:
            print(problem)
        if problems:
            sys.exit(1)
        console.print(f"{entries} entries, every one as it was written")


@dataclass(frozen=True)
class Export:
    """Take episodes out: as Parquet, or as JSON lines to train with."""

    store: Positional[str]
    """A run's folder, a store's file, or the URL of a database."""
    out: Path
    """The file to write; for Parquet a folder."""
    format: Literal["parquet", "openai", "trl", "trl-preference"] = "parquet"
    """`openai`: fine-tuning messages; `trl`: prompt and completion; `trl-preference`: prompt, chosen, rejected."""
    min_reward: float = SUCCESS
    """What an episode must have brought to be imitated (`openai`, `trl`). Corrected answers are always taken."""
    job: str | None = None
    """Only this job's episodes."""
    version: int | None = None
    """Only those of which this version made a part."""
    origin: Literal["served", "learning"] | None = None
    """Only those that were served, or that learning played."""

    def __call__(self) -> None:
        wanted = EpisodeFilter(job=self.job, version=self.version, origin=self.origin)
        with open_store(self.store) as store:
            if self.format == "parquet":
                counts = write_parquet(self.out, store, wanted)
                console.print(", ".join(f"{n} {name}" for name, n in counts.items()) + f": {self.out}")
            else:
                count = write_lines(self.out, lines(store, self.format, wanted, self.min_reward))
                console.print(f"{count} lines: {self.out}")


@dataclass(frozen=True)
class Erase:
    """Erase a user's episodes and feedback, episodes by id, or what is old. Hashes and the fact stay."""

    store: Positional[str]
    """A run's folder, a store's file, or the URL of a database."""
    user: str | None = None
    """Whose, as clients name them."""
    key: str | None = None
    """Only under this API key's id."""
    episodes: tuple[str, ...] = ()
    """Ids."""
    older_than: float | None = None
    """Those of which nothing has come for so many days."""
    why: str = ""
    """Kept with the fact; no personal data, please."""

    def __call__(self) -> None:
        if self.user is None and not self.episodes and self.older_than is None:
            raise UsageError("nothing to erase", fix="give --user, --episodes or --older-than")
        before = None if self.older_than is None else time.time() - 86400 * self.older_than
        with open_store(self.store) as store:
            gone = store.erase(user=self.user, key=self.key, episodes=self.episodes, before=before, why=self.why)
        console.print(f"{gone} episodes erased")


Action = Info | Verify | Export | Erase


@dataclass(frozen=True)
class StoreCommand:
    """What a run or a deployment has kept: look at it, verify it, export it, erase from it."""

    action: Annotated[Action, tyro.conf.arg(name="")]

    def __call__(self) -> None:
        self.action()


def open_store(where: str) -> Store:
    """The store of a run's folder, of a file, or of a URL; none is made.

    Raises:
        UsageError: there is none.
        StoreError: it cannot be opened.
    """
    if "://" in where:
        return Store(where)
    path = Path(where) / "experience.sqlite" if Path(where).is_dir() else Path(where)
    if not path.is_file():
        raise UsageError(f"no store in {where}", fix="give a run's folder, a store's file, or the URL of a database")
    return Store(path)
