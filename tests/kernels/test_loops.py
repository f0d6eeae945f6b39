"""The compiled loops compute what the ones in torch do, and both are differentiable functions' right gradients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from journeyman.kernels import compiled, functions
from journeyman.kernels.attention import Layout, Segment, attention
from journeyman.kernels.loops import BLOCK, CompiledLoops, Loops, loops
from journeyman.kernels.reference import TorchLoops

TYPES = (torch.float32, torch.bfloat16)
pytestmark = pytest.mark.skipif(compiled.library() is None, reason="needs a C++ compiler")


def rounding(dtype: torch.dtype) -> dict[str, float]:
    return {"atol": 1e-5, "rtol": 1e-5} if dtype is torch.float32 else {"atol": 2e-2, "rtol": 2e-2}


def pair(dtype: torch.dtype) -> tuple[Loops, Loops]:
    ours = loops("cpu", dtype)
    assert isinstance(ours, CompiledLoops)
    return ours, TorchLoops()


def numbers(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def alike(found: list[Tensor | None], dtype: torch.dtype) -> None:
    ours, theirs = found
    assert ours is not None and theirs is not None
    torch.testing.assert_close(ours, theirs, **rounding(dtype))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("delta", [True, False])
def test_norm_and_its_gradient(dtype: torch.dtype, delta: bool) -> None:
    x, added, weight = numbers(37, 50), numbers(37, 50, dtype=dtype, seed=1), numbers(50, seed=2)
    grad, grad_sum = numbers(37, 50, dtype=dtype, seed=3), numbers(37, 50, seed=4)
    outs = []
    for run in pair(dtype):
        total, out, rstd = torch.empty_like(x), torch.empty_like(added), torch.empty(37)
        run.norm(x, added if delta else None, weight, total, out, rstd, 1e-5)
        outs.append((total, out, rstd, *run.norm_backward(total, rstd, weight, grad_sum, grad, delta)))
    for ours, theirs in zip(*outs, strict=True):
        if theirs is not None:
            torch.testing.assert_close(ours, theirs, **rounding(dtype))
        else:
            assert ours is None


@pytest.mark.parametrize("dtype", TYPES)
def test_swiglu_rotation_and_transposition(dtype: torch.dtype) -> None:
    ours, theirs = pair(dtype)
    x, grad = numbers(29, 2 * 33, dtype=dtype) * 3, numbers(29, 33, dtype=dtype, seed=1)
    found = [torch.empty_like(grad) for _ in range(2)]
    back = [torch.empty_like(x) for _ in range(2)]
    heads = numbers(29, 5, 8, dtype=dtype, seed=2)
    turned = [torch.empty_like(heads) for _ in range(2)]
    angle, place = numbers(40, 4, seed=3), torch.arange(29) % 7 + 3
    for run, out, of_x, around in zip((ours, theirs), found, back, turned, strict=True):
        run.swiglu(x, out)
        run.swiglu_backward(x, grad, of_x)
        run.rotate(heads, around, angle.cos(), angle.sin(), place, 3, 1.0)
    for results in (found, back, turned):
        alike(list(results), dtype)
    again = torch.empty_like(heads)
    ours.rotate(turned[0], again, angle.cos(), angle.sin(), place, 3, -1.0)
    torch.testing.assert_close(again, heads, **rounding(dtype))
    for to in (dtype, torch.float32):
        for shape in ((64, 48), (70, 35), (5, 3)):
            y = numbers(*shape, dtype=dtype)
            assert torch.equal(ours.transposed(y, to), y.t().to(to))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("kv_heads", "width"), [(6, 8), (3, 24), (2, 64), (1, 32)])
@pytest.mark.parametrize("window", [None, 5])
def test_a_cache_gives_back_what_was_stored(dtype: torch.dtype, kv_heads: int, width: int, window: int | None) -> None:
    """Three rows with blocks in disorder; memory that was never written holds NaN and must not be seen."""
    lengths, heads = (1, 16, 37), 6
    table = torch.tensor([[8, 0, 0], [2, 0, 0], [5, 1, 7]], dtype=torch.int32)
    row = torch.cat([torch.full((n,), r) for r, n in enumerate(lengths)])
    place = torch.cat([torch.arange(n) for n in lengths])
    qkv = numbers(sum(lengths), heads + 2 * kv_heads, width, dtype=dtype)
    found = []
    for run in pair(dtype):
        keys = torch.full((9, kv_heads, width, BLOCK), float("nan"), dtype=dtype)
        values = torch.full((9, kv_heads, BLOCK, width), float("nan"), dtype=dtype)
        out = torch.empty(len(qkv), heads, width, dtype=dtype)
        run.store(qkv, keys, values, table, row, place)
        run.attend(qkv, out, keys, values, table, row, place, window)
        found.append(out)
    squares = Layout.of([Segment(0, 1), Segment(1, 17), Segment(17, 54)])
    found.append(attention(qkv, heads, squares, window))
    assert found[0].isfinite().all()
    alike(found[:2], dtype)
    alike([found[0], found[2]], dtype)


@pytest.mark.parametrize("dtype", TYPES)
def test_the_vocabulary(dtype: torch.dtype) -> None:
    logits, token = numbers(9, 1000, dtype=dtype) * 4, torch.arange(9) * 111
    heat, grad, of_entropy = numbers(9).abs() + 0.3, numbers(9, seed=1), numbers(9, seed=2)
    outs = []
    for run in pair(dtype):
        logprob, entropy, lse = run.log_probability(logits, token, heat)
        gradient = logits.clone()
        run.log_probability_backward(gradient, token, heat, entropy, lse, grad, of_entropy)
        outs.append((logprob, entropy, lse, gradient))
    for number, (ours, theirs) in enumerate(zip(*outs, strict=True)):
        torch.testing.assert_close(ours, theirs, **(rounding(dtype) if number == 3 else rounding(torch.float32)))


@given(st.integers(1, 700), st.floats(0.0, 0.999999), st.sampled_from([0.0, 0.3, 1.0]), st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_sampling_inverts_the_distribution(size: int, draw: float, temperature: float, seed: int) -> None:
    logits = numbers(1, size, seed=seed) * 3
    ours, theirs = pair(torch.float32)
    heat, uniform = torch.tensor([temperature]), torch.tensor([draw], dtype=torch.float64)
    token, logprob = ours.sample(logits, heat, uniform)
    distribution = (logits / (temperature or 1.0)).log_softmax(-1)[0]
    assert logprob[0] == pytest.approx(float(distribution[token[0]]), abs=1e-4)
    if temperature == 0:
        assert token[0] == logits.argmax()
        return
    mass = distribution.exp().double().cumsum(0)
    assert mass[token[0]] >= draw - 1e-5 and (token[0] == 0 or mass[token[0] - 1] <= draw + 1e-5)
    expected, _ = theirs.sample(logits, heat, uniform)
    assert abs(int(expected[0]) - int(token[0])) <= 1 or abs(float(mass[expected[0]]) - draw) < 1e-5


def reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every function run on torch's own operations."""
    for module in ("functions", "attention"):
        monkeypatch.setattr(f"journeyman.kernels.{module}.loops", lambda device, dtype: TorchLoops())


@pytest.fixture(params=["compiled", "torch"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "torch":
        reference(monkeypatch)
    yield request.param


def test_gradients_are_those_of_plain_torch(either: str) -> None:
    weight, x, delta = (numbers(*s, seed=i).requires_grad_() for i, s in enumerate(((12,), (7, 12), (7, 12))))
    total, out = functions.add_norm(x, delta, weight, 1e-5)
    plain = x + delta
    expected = torch.nn.functional.rms_norm(plain, (12,), weight, 1e-5)
    check([total, out], [plain, expected], [x, delta, weight])

    gate = numbers(7, 24, seed=4).requires_grad_()
    left, right = gate.chunk(2, -1)
    check([functions.swiglu(gate)], [torch.nn.functional.silu(left) * right], [gate])

    first, second, bias = (numbers(*s, seed=5 + i).requires_grad_() for i, s in enumerate(((5, 12), (3, 12), (5,))))
    both = torch.nn.functional.linear(x, torch.cat([first, second]), torch.cat([bias, torch.zeros(3)]))
    zero = torch.zeros(3, requires_grad=True)
    check([functions.linear(x, [first, second], [bias, zero])], [both], [x, first, second, bias])

    head, token, heat = numbers(20, 12, seed=9).requires_grad_(), torch.arange(7), torch.linspace(0.5, 2, 7)
    logprobs = (x @ head.t() / heat[:, None]).log_softmax(-1)
    picked = logprobs.gather(-1, token[:, None]).squeeze(-1)
    check(
        list(functions.log_probability(x, head, token, heat)),
        [picked, -(logprobs.exp() * logprobs).sum(-1)],
        [x, head],
    )


@pytest.mark.parametrize("most", [1, 40, 2**28])
def test_logits_in_pieces_change_nothing(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "LOGITS", most)
    x, head = numbers(7, 12).requires_grad_(), numbers(20, 12, seed=1).requires_grad_()
    token, heat = torch.arange(7), torch.ones(7)
    expected = (x @ head.t()).log_softmax(-1).gather(-1, token[:, None]).squeeze(-1)
    check([functions.log_probability(x, head, token, heat)[0]], [expected], [x, head])


@pytest.mark.parametrize("span", [3, 512])
@pytest.mark.parametrize("window", [None, 4])
def test_shared_beginnings_are_as_if_written_out(
    either: str, span: int, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two endings of one beginning, and a sequence of its own, against three whole sequences with a square mask."""
    monkeypatch.setattr("journeyman.kernels.attention.SPAN", span)
    heads, kv_heads, width = 4, 2, 8
    qkv = numbers(5 + 3 + 9 + 6, heads + 2 * kv_heads, width).requires_grad_()
    layout = Layout.of([Segment(0, 5), Segment(5, 8, 0, 5), Segment(8, 17, 0, 5), Segment(17, 23)])
    ours = attention(qkv, heads, layout, window)
    wholes = [[*range(5), *range(5, 8)], [*range(5), *range(8, 17)], [*range(17, 23)]]
    expected = torch.zeros_like(ours)
    for whole in wholes:
        q, k, v = (part.transpose(0, 1) for part in qkv[whole].split((heads, kv_heads, kv_heads), 1))
        seen = torch.ones(len(whole), len(whole), dtype=torch.bool).tril()
        seen = seen if window is None else seen.triu(1 - window)
        out = torch.nn.functional.scaled_dot_product_attention(
            q[None], k[None], v[None], attn_mask=seen, enable_gqa=True
        )
        own = [i for i, place in enumerate(whole) if place >= 5 or whole is wholes[0]]
        expected = expected.index_put((torch.tensor([whole[i] for i in own]),), out[0].transpose(0, 1)[own])
    check([ours], [expected], [qkv])


def check(ours: list[Tensor], expected: list[Tensor], inputs: list[Tensor]) -> None:
    """The same values, and the same gradients of a weighted sum of them."""
    sums = []
    for outs in (ours, expected):
        for a, b in zip(ours, expected, strict=True):
            torch.testing.assert_close(a, b, atol=2e-5, rtol=2e-5)
        loss = torch.stack([(out * numbers(*out.shape, seed=50 + i)).sum() for i, out in enumerate(outs)]).sum()
        sums.append(torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True))
    for a, b in zip(*sums, strict=True):
        torch.testing.assert_close(a, b, atol=5e-5, rtol=5e-5)
