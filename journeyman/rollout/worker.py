"""The process of a pool: it has environments, and does what it is told to them, one thing after the other.

Contract of the loop in :func:`serve`: it consumes orders `(method of _Host, arguments)`, waits for nothing else, and
produces one answer for each: `(True, what the method returned)` or `(False, what it raised, in words)`. It ends when
the other end of its pipe does.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from multiprocessing.connection import Connection, wait

from journeyman.jobs.base import Env, Job
from journeyman.jobs.user import UserFile, keep
from journeyman.rollout.environments import checked, said
from journeyman.types import StepResult


def serve(pipe: Connection) -> None:
    """What the process runs; its first answer says that it is ready."""
    os.setpgrp()  # what environments start ends with them, and Ctrl-C is for the one who gives orders
    threading.Thread(target=_end_with_parent, daemon=True).start()
    host = _Host()
    pipe.send((True, None))
    while True:
        try:
            method, given = pipe.recv()
        except EOFError:
            return
        try:
            answer = True, getattr(host, method)(*given)
        except (Exception, SystemExit) as error:
            answer = False, said(error)
        try:
            pipe.send(answer)
        except OSError:
            return
        except Exception as error:  # what cannot be pickled is noticed before anything is sent
            pipe.send((False, said(error)))


def _end_with_parent() -> None:
    """An environment that hangs must not outlive a parent that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.killpg(os.getpgrp(), signal.SIGKILL)


class _Host:
    """The environments of one process. Tasks and jobs arrive pickled, so that what is wrong with them is an answer."""

    def __init__(self) -> None:
        self.jobs: dict[int, Job] = {}
        self.envs: dict[int, Env] = {}

    def load(self, number: int, job: bytes, file: UserFile | None) -> None:
        if file is not None:
            keep(file)
        self.jobs[number] = pickle.loads(job)

    def open(self, key: int, number: int, task: bytes) -> None:
        self.envs[key] = self.jobs[number].env(pickle.loads(task))

    def step(self, key: int, reply: str) -> StepResult:
        return checked(self.envs[key].step(reply))

    def forget(self, key: int) -> None:
        self.envs.pop(key, None)
