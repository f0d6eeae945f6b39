"""A run is a folder: everything needed to continue it, to understand it, and to use what it made.

config.json          what was asked for
run.lock             held by the one process that works on it
experience.sqlite    every episode, as it was recorded
metrics.jsonl        one JSON object per step (docs/metrics.md)
exams.jsonl          one JSON object per exam, job and split
checkpoints/         step-000010/: a Hugging Face checkpoint, value/, adapter/, trainer.pt, state.json
reference/           the model before trial and error; what adapters, where they learn, are added to
model/               the final Hugging Face checkpoint with its value function
report.html
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import torch

from journeyman.errors import CheckpointError, RunError
from journeyman.experience.store import Store
from journeyman.rollout.stopping import Prospect

KEEP = 2
"""Checkpoints kept: the last, and one before it in case the last is damaged."""


@dataclass
class Progress:
    """Where a run stands. Everything random follows from the configuration's seed and these counts.

    Attributes:
        phase: `school` or `learn`.
        step: learning steps done.
        trajectories: episodes played for learning (warm-up included, exams not).
        tokens: tokens of those episodes.
        turns: replies in them.
        taught: those of the replies that teachers gave.
        studied: lessons that were there at the last study (learn/lessons.py).
        seconds: time spent so far, over all sittings.
        foresight: by job, how much V said in each of the last steps, and how much of it came true (learn/credit.py).
        prospects: by job and for each of the last steps, how low V fell, how high it rose, and what came of it
            (rollout/stopping.py).
        failed: for each of the last steps, the share of attempts that failed at the job at which most did.
    """

    phase: str = "school"
    step: int = 0
    trajectories: int = 0
    tokens: int = 0
    turns: int = 0
    taught: int = 0
    studied: int = 0
    seconds: float = 0.0
    foresight: dict[str, list[tuple[float, float]]] = field(default_factory=dict[str, list[tuple[float, float]]])
    prospects: dict[str, list[list[Prospect]]] = field(default_factory=dict[str, list[list[Prospect]]])
    failed: list[float] = field(default_factory=list[float])


@dataclass
class RunFolder:
    """A locked run folder. Use :meth:`open`, as a context manager."""

    path: Path
    _lock: TextIOWrapper = field(repr=False)

    @staticmethod
    def open(path: Path, config: Mapping[str, Any], *, may_change: frozenset[str] = frozenset()) -> RunFolder:
        """Make the folder, or enter one that the same configuration made.

        Args:
            may_change: settings that a continued run may have different (how long to go on); a dot leads into a part.

        Raises:
            RunError: another process works on it, it belongs to another configuration, or it cannot be written.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = locked(path / "run.lock", f"the run {path}", "stop it, or choose another folder with --run")
        except OSError as error:
            raise RunError(
                f"cannot write the run folder {path}", reason=str(error), fix="choose another with --run"
            ) from error
        run = RunFolder(path, lock)
        try:
            run._claim(config, may_change)
        except BaseException:
            run.close()
            raise
        return run

    def _claim(self, config: Mapping[str, Any], may_change: frozenset[str]) -> None:
        file = self.path / "config.json"
        wanted = json.loads(json.dumps(config))
        if file.exists():
            kept, asked = (_without(may_change, settings) for settings in (read_config(self.path), wanted))
            kept, asked = _common(kept, asked), _common(asked, kept)
            differing = [k for k in asked if kept[k] != asked[k]]
            if differing and not self._untouched():
                first = differing[0]
                raise RunError(
                    f"{self.path} holds another run: its {', '.join(differing)} differ",
                    reason=f"{first} was {kept[first]!r} and is now {asked[first]!r}",
                    fix="give the command that made it to continue it, or choose another folder with --run",
                )
        write_atomically(file, json.dumps(wanted, indent=2) + "\n")

    def _untouched(self) -> bool:
        """Whether nothing has come of the run yet: its job or model was misspelt, say."""
        if any((self.path / name).exists() for name in ("metrics.jsonl", "exams.jsonl", "checkpoints")):
            return False
        if not (self.path / "experience.sqlite").exists():
            return True
        with self.store() as store:
            return store.count() == 0

    def store(self) -> Store:
        """The run's experience."""
        return Store(self.path / "experience.sqlite")

    def close(self) -> None:
        """Release the lock."""
        self._lock.close()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- logs ------------------------------------------------------------------------------------------

    def log(self, name: str, record: Mapping[str, Any]) -> None:
        """Append one JSON line to `metrics` or `exams`."""
        with (self.path / f"{name}.jsonl").open("a") as file:
            file.write(json.dumps(dict(record)) + "\n")

    def rewind(self, progress: Progress) -> None:
        """Forget log lines of steps that will be done again, and a last line cut short."""
        for name in ("metrics", "exams"):
            file = self.path / f"{name}.jsonl"
            if file.exists():
                kept = [r for r in read_lines(file) if _before(r, progress)]
                write_atomically(file, "".join(json.dumps(r) + "\n" for r in kept))

    # -- checkpoints -----------------------------------------------------------------------------------

    def checkpoint(self, progress: Progress, write_model: Any, trainer: Mapping[str, Any]) -> Path:
        """Write a checkpoint that is whole or absent, then drop the oldest beyond :data:`KEEP`.

        Args:
            write_model: called with the folder that the model and its value function go into.
            trainer: optimizer state and the like, for `torch.save`.
        """
        folder = self.path / "checkpoints" / f"step-{progress.step:06d}"
        draft = folder.with_suffix(".draft")
        for stale in (draft, folder):
            shutil.rmtree(stale, ignore_errors=True)
        draft.parent.mkdir(exist_ok=True)
        try:
            write_model(draft)
            torch.save(dict(trainer), draft / "trainer.pt")
            files = {str(f.relative_to(draft)): _digest(f) for f in sorted(draft.rglob("*")) if f.is_file()}
            state = {"progress": vars(progress), "files": files}
            write_atomically(draft / "state.json", json.dumps(state, indent=2))
        except (OSError, CheckpointError) as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise RunError(
                f"cannot write the checkpoint {folder}",
                reason=str(error),
                fix="free some disk and give the same command again: it continues from the last checkpoint",
            ) from error
        os.replace(draft, folder)
        for old in self.checkpoints()[:-KEEP]:
            shutil.rmtree(old, ignore_errors=True)
        return folder

    def checkpoints(self) -> list[Path]:
        """Finished checkpoints, oldest first."""
        return sorted(f for f in (self.path / "checkpoints").glob("step-*") if f.suffix != ".draft")

    def restore(self) -> Iterator[tuple[Path, Progress, dict[str, Any]]]:
        """Undamaged checkpoints, newest first: folder, progress, and trainer state."""
        for folder in reversed(self.checkpoints()):
            try:
                yield folder, check(folder), torch.load(folder / "trainer.pt", weights_only=False)
            except CheckpointError:
                continue


def locked(file: Path, what: str, fix: str) -> TextIOWrapper:
    """Hold a file until it is closed, or the process is gone; it names the process.

    Raises:
        RunError: another process holds it. OSError: it cannot be written.
    """
    lock = file.open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        holder = lock.read().strip() or "unknown"
        lock.close()
        raise RunError(
            f"{what} is in use", reason=f"process {holder} holds {file}", fix=f"wait for it, {fix}"
        ) from error
    lock.seek(0)
    lock.truncate()
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def folder_of(source: str) -> Path:
    """Where the keys and versions of what is served are: in the run's or checkpoint's folder, else under runs/."""
    path = Path(source)
    return (path if path.is_dir() else Path("runs") / path.name) / "serve"


def experience_of(source: str, store: str = "") -> Path | str:
    """Where the experience of what is served is: the given store, else in the folder of the run or checkpoint."""
    return store or folder_of(source).parent / "experience.sqlite"


def check(folder: Path) -> Progress:
    """Compare a checkpoint with the digests written beside it.

    Raises:
        CheckpointError: a file is missing or not as it was written.
    """
    try:
        state = json.loads((folder / "state.json").read_text())
        for name, digest in state["files"].items():
            if _digest(folder / name) != digest:
                raise CheckpointError(f"{folder / name} is damaged", reason="its digest is not the one written")
        return Progress(**state["progress"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"the checkpoint {folder} is damaged", reason=str(error)) from error


def read_config(path: Path) -> dict[str, Any]:
    """The configuration of a run folder.

    Raises:
        RunError: this is no run folder.
    """
    try:
        return json.loads((path / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} is no run folder",
            reason=f"no readable config.json ({error})",
            fix="give the folder that learn made",
        ) from error


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The JSON lines of a log; a last line cut short by a kill is left out."""
    lines: list[dict[str, Any]] = []
    if file.exists():
        for line in file.read_text().splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                break
    return lines


def write_atomically(file: Path, text: str) -> None:
    """Replace a file's content: after a crash it holds the old text or the new, never half of one."""
    draft = file.with_name(file.name + ".draft")
    with draft.open("w") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(draft, file)


def _without(names: Iterable[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings but those named; `rollout.workers` is `workers` in the part `rollout`."""
    kept = {key: value for key, value in settings.items() if key not in names}
    for part, _, name in (name.partition(".") for name in names if "." in name):
        if isinstance(kept.get(part), dict):
            kept[part] = {key: value for key, value in kept[part].items() if key != name}
    return kept


def _common(settings: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the settings that the others have, too. So a run of an older version goes on: with what has come since
    as it is now, and without what has gone."""
    return {
        key: _common(value, others[key]) if isinstance(value, dict) and isinstance(others[key], dict) else value
        for key, value in settings.items()
        if key in others
    }


def _before(record: Mapping[str, Any], progress: Progress) -> bool:
    if record.get("kind") == "school":
        return progress.phase == "learn"
    if "split" in record:  # an exam: of step 0 comes after schooling
        return progress.phase == "learn" and record["step"] <= progress.step
    return record["step"] <= progress.step


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
