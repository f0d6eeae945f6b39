"""Every engine keeps the contract."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest

from journeyman.engine.native import NativeEngine
from journeyman.engine.vllm import VLLMEngine
from tests.engine import fake_vllm
from tests.engine.contract import CONTEXT, CONTRACT, SLOTS, Bench, Check, make_model


@pytest.fixture(scope="module")
def real() -> Iterator[VLLMEngine]:
    """vLLM itself, started once: that takes a minute."""
    pytest.importorskip("vllm")
    engine = VLLMEngine(make_model(), slots=SLOTS, context=CONTEXT, precision="float32", memory=0.2)
    yield engine
    engine.shutdown()


@pytest.fixture(
    params=[
        "native",
        "vllm on a fake",
        pytest.param("vllm", marks=[pytest.mark.gpu, pytest.mark.slow, pytest.mark.filterwarnings("default")]),
    ]
)
def bench(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Bench:
    model = make_model()
    if request.param == "native":
        return Bench(NativeEngine(copy.deepcopy(model), slots=SLOTS, context=CONTEXT), model, 1e-4)
    if request.param == "vllm":
        return Bench(request.getfixturevalue("real"), model, 1e-2)
    fake_vllm.install(monkeypatch)
    return Bench(VLLMEngine(model, slots=SLOTS, context=CONTEXT, precision="float32"), model, 1e-4)


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_contract(bench: Bench, check: Check) -> None:
    check(bench)
