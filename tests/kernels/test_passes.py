"""All layers in one call give what single operations give, forward and backward."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from journeyman.kernels import compiled, passes
from journeyman.kernels.attention import Layout, Segment
from journeyman.kernels.whole import has_tiles
from journeyman.model.decoder import Decoder, DecoderConfig, Packed

pytestmark = pytest.mark.skipif(compiled.library() is None, reason="no compiler")

CONFIGS = {
    "plain": DecoderConfig.tiny(50, width=96, layers=3),
    "grouped": dataclasses.replace(DecoderConfig.tiny(50, width=128, layers=2), kv_heads=2),
    "windowed": dataclasses.replace(DecoderConfig.tiny(50, width=128, layers=2), windows=(7, None)),
    "wide heads": DecoderConfig.tiny(50, width=192, layers=1, heads=2),
}


def families(seed: int) -> Packed:
    """Prompts of 3 to 90 tokens, each with up to four endings of 1 to 80."""
    rng = np.random.default_rng(seed)
    segments: list[Segment] = []
    positions: list[int] = []
    total = 0
    for _ in range(10):
        prompt, begin = int(rng.integers(3, 90)), total
        for length, shared in [(prompt, 0), *((int(n), prompt) for n in rng.integers(1, 80, rng.integers(0, 5)))]:
            segments.append(Segment(total, total + length, begin if shared else 0, shared))
            positions += range(shared, shared + length)
            total += length
    tokens = torch.from_numpy(rng.integers(0, 50, total))
    return Packed(tokens, torch.tensor(positions), Layout.of(segments))


def outcome(model: Decoder, packed: Packed, dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
    """Hidden states, and gradients of all weights of a weighted sum of them."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        hidden = model.model.packed(packed)
    assert hidden.dtype is dtype
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1))
    (hidden.float() * weights).sum().backward()
    return hidden.detach().float(), [p.grad for p in model.parameters() if p.grad is not None]


def model_of(name: str) -> Decoder:
    torch.manual_seed(0)
    model = Decoder(CONFIGS[name])
    for parameter in model.parameters():  # norms that are not all 1, and attention that is not all alike
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def farness(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", CONFIGS)
def test_as_single_operations(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, packed = model_of(name), families(0)
    hidden, grads = outcome(model, packed, torch.float32)
    monkeypatch.setattr(passes, "MOST_WEIGHTS", 0)
    expected_hidden, expected = outcome(model, packed, torch.float32)
    assert len(grads) == len(expected) > 9
    assert 0 < farness(hidden, expected_hidden) < 1e-5  # not 0: another way of computing it
    assert max(farness(*pair) for pair in zip(grads, expected, strict=True)) < 1e-4


@pytest.mark.skipif(not has_tiles(), reason="no AMX")
@pytest.mark.parametrize("name", CONFIGS)
def test_bfloat16_is_as_near_as_single_operations_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, packed = model_of(name), families(1)
    hidden, grads = outcome(model, packed, torch.bfloat16)
    monkeypatch.setattr(passes, "MOST_WEIGHTS", 0)
    other_hidden, others = outcome(model, packed, torch.bfloat16)
    exact_hidden, exact = outcome(model, packed, torch.float32)
    assert farness(hidden, exact_hidden) < 1.2 * farness(other_hidden, exact_hidden)
    for found, other, right in zip(grads, others, exact, strict=True):
        assert farness(found, right) < 1.3 * farness(other, right) < 0.1


def test_without_a_gradient_the_same_hidden_states() -> None:
    model, packed = model_of("plain"), families(2)
    hidden, _ = outcome(model, packed, torch.float32)
    with torch.no_grad():
        assert torch.equal(model.model.packed(packed), hidden)


def test_the_same_bits_each_time() -> None:
    model, packed = model_of("plain"), families(3)
    first, second = outcome(model, packed, torch.float32), outcome(model, packed, torch.float32)
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(*pair) for pair in zip(first[1], second[1], strict=True))


def test_families_are_what_shares_a_beginning() -> None:
    segments = [Segment(0, 5), Segment(5, 8, 0, 5), Segment(8, 17, 0, 5), Segment(17, 23), Segment(23, 30)]
    layout = Layout.of(segments)
    assert layout.families.tolist() == [0, 3, 4, 5]
    assert layout.largest_family == 17
    assert layout.chunks(100).tolist() == [0, 5]
    assert layout.chunks(14).tolist() == [0, 3, 5]  # a larger family stays whole
    assert layout.chunks(1).tolist() == [0, 3, 4, 5]


@pytest.mark.parametrize(
    ("case", "fits"),
    [("small", True), ("one long family", False), ("beyond the keys", False), ("half weights", False)],
)
def test_when_it_is_used(case: str, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    model, packed = model_of("plain"), families(0)
    if case == "one long family":
        packed = Packed(torch.zeros(300, dtype=torch.int64), torch.arange(300), Layout.rows(1, 300))
    if case == "beyond the keys":
        monkeypatch.setattr(passes, "MOST_KEYS", 50)
    if case == "half weights":
        model = model.to(torch.bfloat16)
    shape = model.config.shape
    assert shape is not None
    weights = [weight for layer in model.model.layers for weight in layer.weights()]  # type: ignore[operator]
    assert passes.fits(shape, weights, packed.layout) is fits
