"""A user's own job: `my_job.py:MyJob`."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from journeyman.errors import UnknownName, UsageError
from journeyman.jobs.base import Job


def load_class(file: str, name: str) -> Callable[..., Job]:
    """The job class `name` of a Python file.

    Raises:
        UsageError: the file is missing, does not run, or the class is no job.
        UnknownName: the file has no such class; the message lists its jobs.
    """
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"no file {file}", fix="write one to start from: journeyman new my_job.py")
    module = _run(path)
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
    return _named(jobs[name], f"{file}:{name}")


def _named(kind: Callable[..., Job], specification: str) -> Callable[..., Job]:
    """The class, given the name it was asked for by unless it names itself."""
    if not getattr(kind, "name", ""):
        kind.name = specification  # type: ignore[attr-defined]
    return kind


def _run(path: Path) -> ModuleType:
    """The file as a module under a stable name, so that its classes can be pickled."""
    name = f"journeyman_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path]
        line = getattr(error, "lineno", None) or (frames[-1].lineno if frames else None)
        raise UsageError(
            f"{path} does not run",
            reason=f"line {line}: {type(error).__name__}: {error}",
            fix="mend the file",
        ) from error
    return module
