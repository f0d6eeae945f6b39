"""A user's own job: `my_job.py:MyJob`."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from journeyman.errors import JobError, UnknownName, UsageError
from journeyman.jobs.base import Job


@dataclass(frozen=True)
class UserFile:
    """A file as it was when it was run, under the name of its module."""

    path: Path
    module: str
    source: bytes


_LOADED: dict[str, tuple[UserFile, ModuleType]] = {}
"""Files by their module's name, and what came of each."""


def load_class(file: str, name: str) -> Callable[..., Job]:
    """The job class `name` of a Python file.

    A file is run once and again only when it has changed, so that jobs of one file stay of one class.

    Raises:
        UsageError: the file is missing, does not run, or the class is no job.
        UnknownName: the file has no such class; the message lists its jobs.
    """
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"no file {file}", fix="write one to start from: journeyman new my_job.py")
    module = _module(path)
    jobs = {
        key: item
        for key, item in vars(module).items()
        if inspect.isclass(item) and issubclass(item, Job) and not inspect.isabstract(item)
    }
    if not name:
        raise UsageError(f"which job of {file}?", fix=f"write {file}:NAME; it has {', '.join(jobs) or 'none'}")
    if name not in jobs:
        found = getattr(module, name, None)
        if inspect.isclass(found) and issubclass(found, Job):
            missing = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
            raise UsageError(f"{name} in {file} lacks {missing}", fix="a job defines task() and env()")
        if found is not None:
            raise UsageError(f"{name} in {file} is no job", fix="let it inherit from journeyman.Job")
        raise UnknownName(f"job in {file}", name, jobs)
    if not getattr(jobs[name], "name", ""):
        jobs[name].name = f"{file}:{name}"  # for constructors that draw with `self.rng`
    return jobs[name]


def named(job: Job, specification: str) -> Job:
    """The job under the specification that rebuilds it, whatever it called itself.

    Raises:
        JobError: it has no splits, or no split `train`.
    """
    try:
        object.__setattr__(job, "name", specification)  # a frozen dataclass is a fine job
    except AttributeError as error:
        raise JobError(
            f"{specification} does not let itself be named", reason=str(error), fix="leave `name` out of the class"
        ) from error
    splits = cast(Any, getattr(job, "splits", None))
    fix = 'give it something like splits = {"train": 5000, "test": 500}'
    if not isinstance(splits, Mapping):
        raise JobError(f"{specification} has no splits", fix=fix)
    for split, size in cast(Mapping[Any, Any], splits).items():
        if not isinstance(split, str) or not isinstance(size, int) or size < 1:
            raise JobError(f"{specification} has a split {split!r} of {size!r} tasks", fix=fix)
    if "train" not in splits:
        raise JobError(f"{specification} has no split `train`", reason="it is the one learned from", fix=fix)
    return job


def file_of(job: Job) -> UserFile | None:
    """The file that the job's class comes from; None where any process can import it."""
    module = type(job).__module__
    if module not in _LOADED:
        return None
    file = _LOADED[module][0]
    return replace(file, path=file.path.resolve())


def keep(file: UserFile) -> ModuleType:
    """The module of a file, run where it has not been: then jobs of its classes can be unpickled.

    Raises:
        UsageError: it does not run.
    """
    if file.module not in _LOADED or _LOADED[file.module][0].source != file.source:
        _LOADED[file.module] = file, _run(file.path, file.module, file.source)
    return _LOADED[file.module][1]


def _module(path: Path) -> ModuleType:
    """The file as a module under a name of its own, so that its classes can be pickled.

    Raises:
        UsageError: it cannot be read or does not run.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}", reason=str(error)) from error
    name = f"journeyman_user_{path.stem}_{zlib.crc32(str(path.resolve()).encode()):08x}"
    return keep(UserFile(path, name, source))


def _run(path: Path, name: str, source: bytes) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise UsageError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    if folder not in sys.path:  # what lies beside the file can be imported, after all else
        sys.path.append(folder)
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        exec(compile(source, path, "exec"), vars(module))  # not the loader: it may take a stale .pyc for the file
    except (Exception, SystemExit) as error:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        raise UsageError(f"{path} does not run", reason=_where(error, path), fix="mend the file") from error
    return module


def _where(error: BaseException, path: Path) -> str:
    """The line of the file at which it broke, and how."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        line, what = error.lineno, error.msg
    else:
        frames = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        line, what = (frames[-1] if frames else None), str(error)
    return f"{f'line {line}: ' if line else ''}{type(error).__name__}: {what}"
