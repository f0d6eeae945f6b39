"""Jobs by name: built in, adapted from other packages, or a user's own file.

maze                       maze,size=4,seed=1
reasoning_gym:spell_backward,max_word_len=6
gymnasium:FrozenLake-v1
my_job.py:MyJob
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module

from journeyman.errors import UnknownName, UsageError
from journeyman.jobs.base import Env, Job

__all__ = ["Env", "Job", "builtin", "resolve"]

BUILT_IN = {
    "scan": "journeyman.jobs.scan:Scan",
    "hops": "journeyman.jobs.hops:Hops",
    "maze": "journeyman.jobs.maze:Maze",
    "countdown": "journeyman.jobs.countdown:Countdown",
}
ADAPTERS = {
    "reasoning_gym": "journeyman.jobs.reasoning_gym:ReasoningGym",
    "gymnasium": "journeyman.jobs.gymnasium:Gymnasium",
}


def builtin() -> list[str]:
    """Names of the built-in jobs."""
    return list(BUILT_IN)


def resolve(spec: str) -> Job:
    """The job that a specification names; `resolve(job.name)` equals the job.

    Raises:
        UnknownName: nobody knows the name.
        UsageError: an option is unknown or its value cannot be read, or a user's file cannot be used.
    """
    head, *options = spec.split(",")
    kind, colon, argument = head.partition(":")
    if colon and kind.endswith(".py"):
        from journeyman.jobs.user import load_class

        return _make(load_class(kind, argument), (), options, head)
    if kind in ADAPTERS:
        if not argument:
            raise UsageError(f"{kind} needs the name of what to adapt", fix=f"write {kind}:NAME")
        return _make(_import(ADAPTERS[kind]), (argument,), options, head)
    if head not in BUILT_IN:
        known = [*BUILT_IN, *(f"{name}:NAME" for name in ADAPTERS)]
        raise UnknownName("job", head, known, fix="see `journeyman jobs`, or give your own as my_job.py:MyJob")
    return _make(_import(BUILT_IN[head]), (), options, head)


def _import(path: str) -> Callable[..., Job]:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def _make(factory: Callable[..., Job], arguments: tuple[str, ...], options: list[str], head: str) -> Job:
    """Call a job's constructor with options read by its annotations."""
    parameters = dict(list(inspect.signature(factory).parameters.items())[len(arguments) :])
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    read: dict[str, object] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            raise UsageError(f"cannot read the option {option!r} of {head}", fix="write options as name=value")
        if name not in parameters and not open_ended:
            raise UnknownName(f"option of {head}", name, parameters)
        kind = str(parameters[name].annotation) if name in parameters else ""
        read[name] = _read(head, name, value, kind)
    return factory(*arguments, **read)


def _read(head: str, name: str, value: str, kind: str) -> object:
    """A value by its annotation; without one, as the plainest type it can be read as."""
    if kind in ("str", "<class 'str'>"):
        return value
    readers: dict[str, Callable[[str], object]] = {"int": int, "float": float, "bool": _boolean}
    for reader in [readers[kind]] if kind in readers else [int, float, _boolean, str]:
        try:
            return reader(value)
        except ValueError:
            continue
    raise UsageError(f"{name} of {head} must be of type {kind}, got {value!r}")


def _boolean(value: str) -> bool:
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise ValueError(value)
