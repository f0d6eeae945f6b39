"""Code that is not ours is called under a time limit, on whatever thread."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from journeyman.rollout.guard import TimeLimitExceeded, call_within


def here(call: Callable[[], Any]) -> Any:
    return call()


def elsewhere(call: Callable[[], Any]) -> Any:
    """Run on another thread, where no alarm can ring; raise here what it raised."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append((call(), None))
        except BaseException as error:
            found.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    result, error = found[0]
    if error:
        raise error
    return result


def forever() -> None:
    while True:
        time.sleep(0.001)


def broken() -> None:
    raise KeyError("mine")


@pytest.mark.parametrize("where", [here, elsewhere])
def test_an_answer_an_error_and_no_answer(where: Callable[[Callable[[], Any]], Any]) -> None:
    assert where(lambda: call_within(5, lambda: 7)) == 7
    with pytest.raises(KeyError, match="mine"):
        where(lambda: call_within(5, broken))
    with pytest.raises(TimeLimitExceeded, match=r"no answer within 0\.05 s"):
        where(lambda: call_within(0.05, forever))


def catching_all(once: Callable[[], Any]) -> Callable[[], None]:
    def stubborn() -> None:
        while True:
            try:
                once()
            except:  # noqa: E722
                continue

    return stubborn


@pytest.mark.parametrize("once", [lambda: sum(range(1000)), lambda: time.sleep(1)], ids=["busy", "asleep"])
def test_code_that_catches_everything_ends_all_the_same(once: Callable[[], Any]) -> None:
    with pytest.raises(TimeLimitExceeded):
        call_within(0.05, catching_all(once))
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_tidying_up_is_not_interrupted() -> None:
    done: list[bool] = []

    def tidy() -> None:
        try:
            forever()
        finally:
            time.sleep(0.05)
            done.append(True)

    with pytest.raises(TimeLimitExceeded):
        call_within(0.05, tidy)
    assert done


def test_the_alarm_of_whoever_called_is_given_back() -> None:
    rung: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: rung.append(number))
    try:
        call_within(5, lambda: None)
        signal.raise_signal(signal.SIGALRM)
        assert rung == [signal.SIGALRM]
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    finally:
        signal.signal(signal.SIGALRM, before)
