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

from journeyman.errors import JourneymanError, UnknownName, UsageError
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

    Options that are the defaults and their order do not matter: `maze,size=6` is `maze`, and is named so.

    Raises:
        UnknownName: nobody knows the name or the option.
        UsageError: an option's value cannot be read or is out of bounds, or a user's file cannot be used.
        JobError: a user's job breaks the contract so far that no task can be asked of it.
    """
    head, *options = spec.strip().split(",")
    kind, _, argument = head.partition(":")
    if head.endswith(".py") or ".py:" in head:
        from journeyman.jobs.user import load_class, named

        file, _, name = (head if ".py:" in head else f"{head}:").rpartition(":")
        return named(_make(load_class(file, name), (), options, head), spec.strip())
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
    parameters = list(inspect.signature(factory).parameters.values())[len(arguments) :]
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    known = {p.name: p for p in parameters if p.kind not in variable}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    read: dict[str, object] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            raise UsageError(f"cannot read the option {option!r} of {head}", fix="write options as name=value")
        if name in read:
            raise UsageError(f"{head}: the option {name} is given twice")
        if name not in known and not open_ended:
            raise UnknownName(f"option of {head}", name, known, fix=_described(head, known))
        read[name] = _read(head, name, value, _type(known[name]) if name in known else "")
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in read:
            raise UsageError(f"{head} needs the option {name}", fix=f"write {head},{name}=VALUE")
    try:
        return factory(*arguments, **read)
    except JourneymanError:
        raise
    except Exception as error:  # a user's constructor, or a library behind an adapter
        raise UsageError(
            f"{','.join([head, *options])} cannot be made", reason=f"{type(error).__name__}: {error}"
        ) from error


def _type(parameter: inspect.Parameter) -> str:
    """The name of the type of an option, "" where none is given."""
    kind = parameter.annotation
    if kind is parameter.empty:
        return "" if parameter.default in (parameter.empty, None) else type(parameter.default).__name__
    return kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))


def _described(head: str, known: dict[str, inspect.Parameter]) -> str:
    """The options of a job with their types and defaults, for people."""
    if not known:
        return f"{head} takes no options"
    shown = [f"{p.name} ({_type(p)})" if p.default is p.empty else f"{p.name}={p.default}" for p in known.values()]
    return f"the options of {head} are {', '.join(shown)}"


def _read(head: str, name: str, value: str, kind: str) -> object:
    """A value by its type; without one that we can read, as the plainest type it can be read as."""
    readers: dict[str, Callable[[str], object]] = {"int": int, "float": float, "bool": _boolean, "str": str}
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
