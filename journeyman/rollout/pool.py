"""Environments in a pool of processes, for those that are slow: while they think, the engine goes on.

An environment lives in one process from its opening to its end, and waits there for its turn: one that hangs holds up
the others of its process, for as long as the time limit. A process that does not answer in time, or dies, takes all its
environments with it: the episode it was busy with fails, the others are rebuilt in the next process, by the replies
they have had, when it is their turn again. That works because environments follow from their task and the replies; one
that answers otherwise the second time fails its episode.

Processes are forked from a server that has imported Journeyman once and runs no threads of ours: the first takes as
long as that import, each further one, and each that takes the place of another, some ten milliseconds.
"""

from __future__ import annotations

import atexit
import itertools
import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

from journeyman.errors import UsageError
from journeyman.jobs.base import Job
from journeyman.jobs.user import UserFile, file_of
from journeyman.rollout.environments import OTHERWISE, Answer, Environments, Past, alike, late, said
from journeyman.rollout.guard import TimeLimitExceeded
from journeyman.rollout.worker import serve
from journeyman.types import StepResult, Task

PATIENCE = 300.0
"""Seconds for a process to start, and for a job to arrive there: both may import a lot."""
GRACE = 1.0
"""Seconds in which a process may end by itself before it is killed."""
NOBODY = 0
"""In the place of a key: what broke is no environment's, but a mistake of ours."""

_STARTING = Lock()
"""Held to start a process and to take in its end: `multiprocessing` does neither for several threads at once."""


@dataclass(frozen=True)
class _Packed:
    """A job as it travels. It is held here, too, so that its `id` names no other."""

    number: int
    job: Job
    payload: bytes
    file: UserFile | None


@dataclass
class _Life:
    """What an environment is rebuilt from."""

    job: _Packed
    task: bytes
    history: list[tuple[str, StepResult]] = field(default_factory=list[tuple[str, StepResult]])
    present: bool = False
    """Whether the present process has it."""


class _Stopped(Exception):
    """The pool was closed."""


class _Refused(Exception):
    """The process goes on; what it was told to do raised, in words."""


class _Died(Exception):
    """The process ended before it answered."""


class Pool(Environments):
    """Environments in `workers` processes, which start when they are first needed and stay until `close`.

    Args:
        workers: processes.
        seconds: limit of one answer.
    """

    def __init__(self, workers: int, seconds: float) -> None:
        self._said: SimpleQueue[tuple[int, Answer | Exception]] = SimpleQueue()
        self._workers = [_Worker(seconds, self._said) for _ in range(workers)]
        self._keys = itertools.count(1)
        self._homes: dict[int, _Worker] = {}
        self._due: set[int] = set()
        self._jobs: dict[int, _Packed] = {}
        atexit.register(self.close)

    def open(self, job: Job, task: Task, past: Past = ()) -> int:
        packed = self._packed(job)
        key = next(self._keys)
        worker = min(self._workers, key=lambda worker: worker.living)
        worker.open(key, packed, _pickled(job, task), past)
        self._homes[key] = worker
        self._due.add(key)
        return key

    def step(self, key: int, reply: str) -> None:
        self._due.add(key)
        self._homes[key].step(key, reply)

    def answers(self, *, wait: bool) -> list[Answer]:
        answers: list[Answer] = []
        assert self._due or not wait, "nothing was asked"
        while not self._said.empty() or (wait and not answers):
            key, answer = self._said.get()
            if key not in self._due and key != NOBODY:  # forgotten meanwhile
                continue
            self._due.discard(key)
            if isinstance(answer, Exception):
                raise answer
            answers.append(answer)
        return answers

    def forget(self, key: int) -> None:
        self._due.discard(key)
        self._homes.pop(key).forget(key)

    def close(self) -> None:
        atexit.unregister(self.close)
        for worker in self._workers:
            worker.stop()
        deadline = time.monotonic() + 2 * GRACE
        for worker in self._workers:
            worker.join(max(deadline - time.monotonic(), 0))

    def _packed(self, job: Job) -> _Packed:
        if id(job) not in self._jobs:
            self._jobs[id(job)] = _Packed(len(self._jobs), job, _pickled(job, job), file_of(job))
        return self._jobs[id(job)]


class _Worker:
    """One process, and the thread that talks to it.

    Contract of the thread: it consumes orders, one after the other; it waits for the process's answer to each,
    unblocked by the answer, the process's end, the time limit or `stop`; it produces one answer for each environment
    opened and each reply. All but `living`, `_orders`, `_forgotten` and `_stopping` is its own.

    Attributes:
        living: environments that have been opened here and not forgotten.
    """

    def __init__(self, seconds: float, answers: SimpleQueue[tuple[int, Answer | Exception]]) -> None:
        self.living = 0
        self._seconds = seconds
        self._answers = answers
        self._orders: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._forgotten: set[int] = set()
        self._stopping = False
        self._lives: dict[int, _Life] = {}
        self._loaded: set[int] = set()
        self._process: ForkServerProcess | None = None
        self._pid = 0
        self._pipe: Connection | None = None
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    # -- asked by the pool ----------------------------------------------------------------------------

    def open(self, key: int, job: _Packed, task: bytes, past: Past) -> None:
        self.living += 1
        self._orders.put(lambda: self._open(key, _Life(job, task, list(past))))

    def step(self, key: int, reply: str) -> None:
        self._orders.put(lambda: self._step(key, reply))

    def forget(self, key: int) -> None:
        self.living -= 1
        self._forgotten.add(key)
        self._orders.put(lambda: self._forget(key))

    def stop(self) -> None:
        self._stopping = True
        self._orders.put(None)

    def join(self, seconds: float) -> None:
        """Wait until thread and process have ended; kill the process when it takes longer than this."""
        self._thread.join(seconds)
        while self._thread.is_alive():
            if self._process is not None:
                _kill(self._pid, os.kill)
            self._thread.join(GRACE)

    # -- the thread -----------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping and (order := self._orders.get()) is not None:
            try:
                order()
            except _Stopped:
                break
            except Exception as error:
                self._answers.put((NOBODY, error))
        self._end(grace=GRACE)

    def _open(self, key: int, life: _Life) -> None:
        self._lives[key] = life
        self._answer(key, lambda: self._build(key, life), said)

    def _step(self, key: int, reply: str) -> None:
        self._answer(key, lambda: self._reply(key, self._lives[key], reply), late)

    def _forget(self, key: int) -> None:
        self._forgotten.discard(key)
        life = self._lives.pop(key)
        if life.present and self._alive():
            with suppress(_Refused, _Died, TimeLimitExceeded):
                self._ask("forget", key)

    def _answer(
        self, key: int, work: Callable[[], StepResult | None], words: Callable[[TimeLimitExceeded], str]
    ) -> None:
        """Do it, and answer with what came of it; `words` says that it took too long."""
        if key in self._forgotten:
            return
        try:
            answer: Answer | Exception = Answer(key, work())
        except TimeLimitExceeded as error:
            answer = Answer(key, error=words(error))
        except (_Refused, _Died) as error:
            answer = Answer(key, error=str(error))
        except _Stopped:
            raise
        except Exception as error:  # for the caller: the job does not get there, say
            answer = error
        self._answers.put((key, answer))

    def _build(self, key: int, life: _Life) -> None:
        """Let the process have the environment, as far as its episode has come."""
        self._bring(life.job)
        self._ask("open", key, life.job.number, life.task)
        life.present = True
        for reply, before in life.history:
            if not alike(self._ask("step", key, reply), before):
                raise _Refused(OTHERWISE)

    def _reply(self, key: int, life: _Life, reply: str) -> StepResult:
        self._bring(life.job)  # before anything is looked for in a process that may have died while it was idle
        if not life.present:
            self._build(key, life)
        result: StepResult = self._ask("step", key, reply)
        life.history.append((reply, result))
        return result

    def _bring(self, packed: _Packed) -> None:
        """Let there be a process that knows the job.

        Raises:
            UsageError: it does not start, or the job does not get there.
        """
        if not self._alive():
            self._start()
        if packed.number in self._loaded:
            return
        try:
            self._ask("load", packed.number, packed.payload, packed.file, seconds=PATIENCE)
        except (_Refused, _Died, TimeLimitExceeded) as error:
            raise UsageError(
                f"the job {packed.job.name} does not arrive in a process for environments",
                reason=str(error),
                fix="define it in a file that can be imported anywhere, or play with workers=0",
            ) from error
        self._loaded.add(packed.number)

    # -- the process ----------------------------------------------------------------------------------

    def _start(self) -> None:
        self._end()
        with _STARTING:
            if self._stopping:
                raise _Stopped
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([serve.__module__])
            self._pipe, there = context.Pipe()
            process = context.Process(target=serve, args=(there,), name="journeyman environments")
            process.start()
            there.close()
            assert process.pid is not None
            self._process, self._pid = process, process.pid
        try:
            self._take(PATIENCE)
        except (_Died, TimeLimitExceeded) as error:
            raise UsageError(
                "a process for environments does not start",
                reason=str(error),
                fix='let a script begin its work under `if __name__ == "__main__":`, or play with workers=0',
            ) from error

    def _alive(self) -> bool:
        """Whether there is a process; of one that is idle, the pipe has nothing to say but that it ended."""
        return (
            self._process is not None and self._pipe is not None and not wait([self._pipe, self._process.sentinel], 0)
        )

    def _ask(self, method: str, *given: object, seconds: float | None = None) -> Any:
        """Tell the process to do something.

        Raises:
            _Refused: it raised.
            _Died, TimeLimitExceeded: there was no answer; now there is no process.
        """
        assert self._pipe is not None
        with suppress(OSError):  # it died; `_take` says how
            self._pipe.send((method, given))
        fine, what = self._take(self._seconds if seconds is None else seconds)
        if not fine:
            raise _Refused(what)
        return what

    def _take(self, seconds: float) -> tuple[bool, Any]:
        assert self._pipe is not None and self._process is not None
        ready = wait([self._pipe, self._process.sentinel], seconds)
        if not ready:
            self._end()
            raise TimeLimitExceeded(f"no answer within {seconds:g} s")
        try:
            if self._pipe in ready:
                return self._pipe.recv()
        except (EOFError, OSError):
            pass
        raise _Died(f"the environment's process ended by {_ending(self._end(grace=GRACE))}")

    def _end(self, grace: float = 0.0) -> int | None:
        """Leave no process: it has `grace` to end by itself. Returns how it ended."""
        process, pipe = self._process, self._pipe
        if process is None:
            return None
        assert pipe is not None
        pipe.close()
        if not wait([process.sentinel], grace):
            _kill(self._pid, os.kill)
            wait([process.sentinel])
        _kill(self._pid, os.killpg)  # what environments have started
        self._process = self._pipe = None
        self._loaded.clear()
        for life in self._lives.values():
            life.present = False
        with _STARTING:
            process.join()
            code = process.exitcode
            process.close()
        return code


def _kill(pid: int, how: Callable[[int, int], None]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        how(pid, signal.SIGKILL)


def _ending(code: int | None) -> str:
    """An exit code in words: below 0 it is a signal's."""
    if code is not None and code < 0:
        with suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"


def _pickled(job: Job, what: Job | Task) -> bytes:
    """What is to travel to another process.

    Raises:
        UsageError: it cannot; the message names the job.
    """
    try:
        return pickle.dumps(what)
    except Exception as error:  # PicklingError, TypeError, AttributeError, or what a user's __reduce__ raises
        kind = "the job" if what is job else "a task of"
        raise UsageError(
            f"{kind} {job.name} cannot be pickled, and so not be played in other processes",
            reason=said(error),
            fix="keep what cannot be pickled (open files, locks, lambdas) out of it, or play with workers=0",
        ) from error
