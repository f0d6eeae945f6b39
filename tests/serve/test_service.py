"""The thread that drives the engine: everybody's reply is what it would be alone."""

from __future__ import annotations

import queue
from typing import Any

import numpy as np
import pytest
import torch

from journeyman import machine
from journeyman.engine.base import Engine, Sampling
from journeyman.engine.fake import ScriptedEngine
from journeyman.serve.judge import Judge
from journeyman.serve.service import Failed, Finished, History, Order, Progress, Service, Started
from tests.serve.live import APPRENTICE, RENDERER, Slow, judged, native, saying, scripted, until

PROMPT = RENDERER.encode("<|user|>A1 to B1<|end|><|assistant|>")
JUDGE = Judge(judged())


def order(seed: int = 0, tokens: list[int] | None = None, **options: Any) -> Order:
    sampling = Sampling(max_tokens=options.pop("max_tokens", 24), stop=RENDERER.end_ids)
    return Order(History.of(tokens or PROMPT), sampling, seed, **options)


class Asking:
    """One asker and what it is told."""

    def __init__(self, service: Service, order: Order) -> None:
        self.events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.asked = service.ask(order, self.events.put)

    def all(self) -> list[Any]:
        """Everything until the end."""
        events: list[Any] = []
        while not events or not isinstance(events[-1], Finished | Failed):
            events.append(self.events.get(timeout=60))
        return events

    def end(self) -> Finished:
        last = self.all()[-1]
        assert isinstance(last, Finished), last
        return last


@pytest.fixture
def service(request: pytest.FixtureRequest) -> Any:
    engine: Engine = getattr(request, "param", None) or native(judged())
    service = Service(engine, JUDGE)
    yield service
    service.close()
    assert not service.alive


@pytest.mark.parametrize(("given", "threads"), [(None, 3), ("2", 2)])
def test_a_small_model_leaves_a_core_to_those_who_ask(
    given: str | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(machine, "cores", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS")
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    service = Service(native(judged()), JUDGE)
    try:
        assert service.call(torch.get_num_threads).result() == threads
    finally:
        service.close()
        torch.set_num_threads(before)


def test_many_at_once_say_what_each_says_alone(service: Service) -> None:
    alone = [Asking(service, order(seed)).end() for seed in range(20)]
    together = [Asking(service, order(seed)) for seed in range(20)]
    for one, other in zip(alone, (asking.end() for asking in together), strict=True):
        assert one.tokens == other.tokens
        assert one.value is not None and other.value is not None
        assert abs(one.value - other.value) < 1e-4
        assert len(one.values) == len(PROMPT) + len(one.tokens)


def test_a_stream_tells_the_reply_in_pieces(service: Service) -> None:
    whole = Asking(service, order(3)).end()
    events = Asking(service, order(3, streamed=True)).all()
    assert isinstance(events[0], Started)
    told = [event for event in events if isinstance(event, Progress)]
    tokens = tuple(token for event in told for token in event.tokens)
    assert whole.tokens[: len(tokens)] == tokens and events[-1].tokens == whole.tokens


def test_a_next_turn_reads_only_what_is_new(service: Service) -> None:
    first = Asking(service, order(1, keep="first")).end()
    assert service.kept == 1
    held = [*PROMPT, *first.tokens]
    further = [*held, *RENDERER.observe("B1", ended=first.tokens[-1] in RENDERER.end_ids)]
    anew = Asking(service, order(1, further)).end()
    events = Asking(service, order(1, further, after="first", held=len(held))).all()
    assert events[0] == Started(len(held))
    assert events[-1].tokens == anew.tokens and service.kept == 0


def test_a_seed_of_its_own_holds_in_a_next_turn(service: Service) -> None:
    first = Asking(service, order(1, keep="first")).end()
    held = [*PROMPT, *first.tokens]
    further = [*held, *RENDERER.observe("B1", ended=first.tokens[-1] in RENDERER.end_ids)]
    anew = Asking(service, order(7, further)).end()
    kept = Asking(service, order(7, further, after="first", held=len(held), reseed=True)).end()
    assert kept.tokens == anew.tokens


def test_who_needs_a_slot_takes_that_of_an_idle_one() -> None:
    service = Service(scripted("yes", slots=2), JUDGE)
    for number in range(5):
        Asking(service, order(keep=str(number))).end()
    assert service.kept == 2
    Asking(service, order(after="0", held=3)).end()  # long gone: all is read again
    service.close()


def test_cancelling_frees_the_slot_and_tells_what_was_said() -> None:
    engine = Slow(saying("north north north north north north"), slots=1, pace=1)
    service = Service(engine, JUDGE)
    long, next = Asking(service, order(max_tokens=1000, streamed=True)), Asking(service, order(max_tokens=1))
    while not isinstance(long.events.get(timeout=60), Progress):
        pass
    service.cancel(long.asked)
    assert next.end().finish == "length"
    cancelled = long.end()
    assert cancelled.finish == "cancelled" and cancelled.tokens
    assert service.running == service.waiting == 0
    service.close()


def test_a_reply_out_of_time_is_cut() -> None:
    service = Service(Slow(saying("north " * 50), pace=1), JUDGE)
    cut = Asking(service, order(max_tokens=1000, seconds=0.1)).end()
    assert cut.finish == "timeout"
    service.close()


def test_new_weights_take_over_within_a_reply() -> None:
    engine = Slow(saying("north " * 12), pace=1)
    service = Service(engine, JUDGE)
    service.load(APPRENTICE.model, JUDGE, 1).result()
    asking = Asking(service, order(max_tokens=1000, streamed=True, keep="old"))
    while not isinstance(asking.events.get(timeout=60), Progress):
        pass
    service.load(APPRENTICE.model, JUDGE, 2).result()
    (old, zero), (new, boundary) = asking.end().versions
    assert (old, zero, new) == (1, 0, 2) and boundary > 0
    service.load(APPRENTICE.model, JUDGE, 3).result()
    assert service.kept == 0, "what old weights have read is forgotten"
    service.close()


def test_an_engine_that_fails_fails_its_requests_and_nothing_else() -> None:
    class Failing(ScriptedEngine):
        broken = True

        def step(self) -> list[Any]:
            if self.broken:
                raise RuntimeError("out of memory")
            return super().step()

    engine = Failing(saying("yes"))
    service = Service(engine, JUDGE)
    events = Asking(service, order()).all()
    assert isinstance(events[-1], Failed) and "out of memory" in str(events[-1].error)
    assert service.broken is not None
    engine.broken = False
    assert Asking(service, order()).end().finish == "stop"
    until(lambda: service.broken is None)
    service.close()


def test_who_still_waits_when_it_closes_is_told() -> None:
    service = Service(Slow(saying("north " * 50), pace=1, slots=1), JUDGE)
    asking = [Asking(service, order(max_tokens=1000)) for _ in range(3)]
    service.close()
    assert all(isinstance(one.all()[-1], Failed) for one in asking)


def test_values_without_a_value_function_are_none() -> None:
    service = Service(scripted("yes"), Judge(APPRENTICE))
    said = Asking(service, order()).end()
    assert said.value is None and np.isnan(said.values).all()
    service.close()
