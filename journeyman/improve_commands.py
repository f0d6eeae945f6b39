"""`journeyman improve` and `journeyman up`: a deployment that goes on learning."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.text import Text
from tyro.conf import Positional

from journeyman.errors import UsageError
from journeyman.improve.config import ImproveConfig
from journeyman.serve.config import ServeConfig
from journeyman.serve_commands import Serve

console = Console(stderr=True)
COLOURS = {
    "proposed": "bold",
    "released": "bold green",
    "held back": "bold yellow",
    "died": "bold red",
    "failed": "red",
}


@dataclass(frozen=True)
class Improve:
    """Keep what is served learning from its episodes and their feedback: it learns, proposes a version, has it examined
    and releases it gradually. The server (beside it, or elsewhere on the same store) follows. Killed at any moment, it
    goes on where it was."""

    model: Positional[str]
    """What is served: a run or a checkpoint, as `journeyman serve` takes it."""
    config: Annotated[ImproveConfig, tyro.conf.arg(name="")] = field(default_factory=ImproveConfig)
    pause: bool = False
    """Let the improver that runs rest, and come back at once."""
    resume: bool = False
    """Let it go on, and come back at once."""
    propose: str | None = None
    """Propose a checkpoint as the next candidate, and come back at once: it is examined like its own."""
    status: bool = False
    """Say where it stands, and come back at once."""
    why: str = ""
    """For the log, with --pause, --resume or --propose."""
    json: bool = False
    """Print what happens as JSON lines."""

    def __call__(self) -> None:
        from journeyman.improve import improver

        if self.pause + self.resume + self.status + (self.propose is not None) > 1:
            raise UsageError("improve: --pause, --resume, --propose and --status at once", fix="give one of them")
        if self.pause or self.resume:
            improver.order(self.model, self.config.store, "pause" if self.pause else "resume", self.why)
            console.print("it rests from its next look on" if self.pause else "it goes on from its next look on")
        elif self.propose is not None:
            version = improver.propose(self.model, self.config.store, self.propose, self.why)
            console.print(f"version {version.number} is the next candidate", highlight=False)
        elif self.status:
            print_standing(improver.standing(self.model, self.config.store), self.json)
        else:
            ending = threading.Event()
            signal.signal(signal.SIGTERM, lambda *_: ending.set())
            show(improver.improve(self.model, self.config, ending.is_set), self.json)


@dataclass(frozen=True)
class Up:
    """Serve a model and keep it learning: `journeyman serve` with `journeyman improve` beside it."""

    model: Positional[str]
    """A run, a checkpoint folder, or a named model."""
    serve: Annotated[ServeConfig, tyro.conf.arg(name="")] = field(default_factory=ServeConfig)
    improve: ImproveConfig = field(default_factory=ImproveConfig)
    """How it learns."""

    def __call__(self) -> None:
        from journeyman.improve.beside import Beside

        learning = replace(self.improve, store=self.improve.store or self.serve.store)
        with Beside(self.model, learning, lambda record: print_record(record, False)):
            Serve(self.model, self.serve)()


def show(records: Iterable[dict[str, Any]], as_json: bool) -> None:
    """Print records as they come."""
    for record in records:
        print_record(record, as_json)


def print_record(record: dict[str, Any], as_json: bool) -> None:
    """One line."""
    if as_json:
        print(json.dumps(record), flush=True)
        return
    what = str(record["what"])
    rest = {k: v for k, v in record.items() if k not in ("kind", "what", "at") and v not in ([], "", None)}
    line = Text(f"improver  {what:<10}", COLOURS.get(what, "default"))
    console.print(line.append("  ".join(f"{k} {_short(v)}" for k, v in rest.items()), "default"), highlight=False)


def print_standing(standing: Any, as_json: bool) -> None:
    """Where an improver stands."""
    kept = asdict(standing)
    if as_json:
        print(json.dumps(kept))
        return
    for name in ("doing", "paused", "release", "candidate", "judged", "released", "why"):
        if kept[name] not in (None, ""):
            console.print(f"{name:10} {kept[name]}", highlight=False)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list):
        return "; ".join(map(str, value))  # type: ignore[misc]
    return str(value)
