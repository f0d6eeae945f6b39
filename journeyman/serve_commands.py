"""`journeyman serve`, `view` and `keys`: a model in service."""

from __future__ import annotations

import webbrowser
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from tyro.conf import Positional

from journeyman.errors import UsageError
from journeyman.progress import print_lines
from journeyman.run import folder_of
from journeyman.serve.config import ServeConfig

console = Console(stderr=True)


@dataclass(frozen=True)
class Serve:
    """Serve a model over an OpenAI-compatible API, and keep every episode and what became of it."""

    model: Positional[str]
    """A run folder, a checkpoint folder, `apprentice`, `smollm2-135m`, or a Hub name."""
    config: Annotated[ServeConfig, tyro.conf.arg(name="")] = field(default_factory=ServeConfig)

    def __call__(self) -> None:
        try:
            from journeyman.serve.server import Addresses, Deployment, serve
        except ModuleNotFoundError as error:
            raise needs_serve("serving", error) from error

        def ready(d: Deployment, at: Addresses) -> None:
            if d.notice:
                console.print(d.notice, highlight=False)
            console.print(
                f"{d.name} is served at {at.api}/v1, administration at {at.admin}, episodes in {d.store.where}"
            )

        serve(self.model, self.config, ready)


@dataclass(frozen=True)
class View:
    """Look at a run's episodes in the browser, with V along their text. Nothing is served or changed; only this
    machine can look."""

    run: Positional[str]
    """A run's folder, a store's file, or the URL of a database."""
    port: int = 8002
    """Port on 127.0.0.1; 0 takes a free one."""
    open: bool = True
    """Open the browser."""

    def __call__(self) -> None:
        try:
            from journeyman.serve.viewer import look_at
        except ModuleNotFoundError as error:
            raise needs_serve("the viewer", error) from error
        from journeyman.store_commands import open_store

        def ready(address: str) -> None:
            console.print(f"{self.run} can be looked at on {address}; Ctrl-C ends it")
            if self.open:
                webbrowser.open(address)

        if not 0 <= self.port < 1 << 16:
            raise UsageError(f"view: port must lie in 0 to 65535, got {self.port}")
        with open_store(self.run) as store:
            look_at(store, Path(self.run) if Path(self.run).is_dir() else None, self.port, ready)


@dataclass(frozen=True)
class Keys:
    """The API keys of a served model: list them, make one, or revoke one. Without any, only this machine may use it."""

    model: Positional[str]
    """As `journeyman serve` takes it."""
    add: str | None = None
    """Make a key of this name, and print it: it is shown once."""
    scopes: tuple[Literal["use", "feedback", "admin"], ...] = ("use", "feedback")
    """What the new key holds for."""
    per_minute: int | None = None
    """Requests that it may make in a minute; by default as the server has it."""
    feedback_per_day: int | None = None
    """Pieces of feedback that it may give in a day, which bounds how much it can weigh; by default any number."""
    revoke: str | None = None
    """Let the key of this id hold no longer."""

    def __call__(self) -> None:
        from journeyman.serve.keys import Keys as Known

        keys = Known(folder_of(self.model) / "keys.json")
        if self.add is not None:
            print(
                keys.add(self.add, self.scopes, per_minute=self.per_minute, feedback_per_day=self.feedback_per_day)[1]
            )
        elif self.revoke is not None:
            console.print(f"revoked {keys.revoke(self.revoke).name}")
        else:
            print_lines(key.public() for key in keys.all())


def needs_serve(what: str, error: ModuleNotFoundError) -> UsageError:
    """Something of the extra `serve` is not installed."""
    return UsageError(f"{what} needs more", reason=str(error), fix="pip install 'journeyman[serve]'")
