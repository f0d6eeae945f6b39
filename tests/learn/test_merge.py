"""Merging: each rule on numbers worked out by hand, what must stay as it was, and what cannot be merged."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from journeyman.errors import UsageError
from journeyman.learn.merge import RULES, MergeConfig, Method, merge, merge_models
from journeyman.model.decoder import Decoder, DecoderConfig
from journeyman.model.load import LoadedModel
from journeyman.model.tokenizer import SMALLEST, train_tokenizer
from journeyman.model.value import ValueConfig, ValueFunction

BASE = torch.tensor([1.0, 1.0, 1.0, 1.0])
TASKS = torch.tensor([[4.0, -2.0, 0.0, 1.0], [2.0, 3.0, 0.0, -5.0]])


def merged(config: MergeConfig, tasks: Tensor = TASKS, base: Tensor | None = BASE) -> Tensor:
    models = [{"w": t if base is None else base + t} for t in tasks]
    return merge(models, None if base is None else {"w": base}, config)["w"]


@pytest.mark.parametrize(
    ("config", "change"),
    [
        (MergeConfig("average"), [3.0, 0.5, 0.0, -2.0]),
        (MergeConfig("task", scale=0.5), [3.0, 0.5, 0.0, -2.0]),
        # half of each is kept: [4, -2, 0, 0] and [0, 3, 0, -5]; signs elected +, +, (+), -
        (MergeConfig("ties", density=0.5), [4.0, 3.0, 0.0, -5.0]),
        # all is kept; 4 and 2 agree, -2 loses to 3, 1 loses to -5
        (MergeConfig("ties", density=1.0, scale=2.0), [6.0, 6.0, 0.0, -10.0]),
        (MergeConfig("dare", density=1.0, scale=1.0), [6.0, 1.0, 0.0, -4.0]),
        # up to 2 nothing counts as moved: 4 and 3 and -5 are each one model's own
        (MergeConfig("ram", threshold=2.0), [4.0, 3.0, 0.0, -5.0]),
        (MergeConfig("ram"), [3.0, 0.5, 0.0, -2.0]),
    ],
    ids=str,
)
def test_rules_do_what_their_papers_say(config: MergeConfig, change: list[float]) -> None:
    torch.testing.assert_close(merged(config), BASE + torch.tensor(change))


def test_an_average_needs_no_base() -> None:
    torch.testing.assert_close(merged(MergeConfig("average"), base=None), TASKS.mean(0))


@pytest.mark.parametrize("method", ["average", "ties", "ram"])
def test_equal_models_merge_into_themselves(method: Method) -> None:
    """Of means this is exact; ties with everything kept."""
    config = MergeConfig(method, density=1.0 if method == "ties" else None)
    torch.testing.assert_close(merged(config, TASKS[[0, 0, 0]]), BASE + TASKS[0])


def test_dare_keeps_the_mean() -> None:
    """200,000 masks of density 0.1: the mean of 0 or 10 has a deviation of 3 / sqrt(200,000) = 0.0067, and six of them
    are once in five hundred million."""
    tasks = torch.ones(1, 200_000).repeat(2, 1)
    found = merged(MergeConfig("dare", scale=0.5, density=0.1), tasks, torch.zeros(200_000))
    assert abs(float(found.mean()) - 1.0) < 6 * 0.0067 / 2**0.5
    assert set(found.unique().tolist()) == {0.0, 5.0, 10.0}
    again = merged(MergeConfig("dare", scale=0.5, density=0.1), tasks, torch.zeros(200_000))
    other = merged(MergeConfig("dare", scale=0.5, density=0.1, seed=1), tasks, torch.zeros(200_000))
    assert torch.equal(found, again) and not torch.equal(found, other)


def test_low_precision_stays_and_whole_numbers_are_left_alone() -> None:
    models = [{"w": torch.full((2,), 1.0 + i, dtype=torch.bfloat16), "n": torch.tensor([7])} for i in range(2)]
    found = merge(models, None, MergeConfig("average"))
    assert found["w"].dtype is torch.bfloat16 and found["w"].tolist() == [1.5, 1.5] and found["n"].tolist() == [7]


def make_model(seed: int, value: ValueConfig | None = None, text: str = "a b c") -> LoadedModel:
    torch.manual_seed(seed)
    tokenizer = train_tokenizer([text * 3], SMALLEST + 4)
    policy = Decoder(DecoderConfig.tiny(len(tokenizer), width=16, layers=1, heads=2, positions=32))
    v = None if value is None else ValueFunction.start(value, policy)
    if v is not None:
        torch.nn.init.normal_(v.head.weight)
    return LoadedModel(policy, tokenizer, v, f"model{seed}")


@pytest.mark.parametrize("placement", ["twin", "head"])
@pytest.mark.parametrize("method", list(RULES))
def test_the_value_function_is_merged_by_the_same_rule(method: Method, placement: str) -> None:
    """A base without one stands for what each began as: its own trunk, a head and an ear of zeros."""
    config = MergeConfig(method)
    models = [make_model(seed, ValueConfig(placement=placement)) for seed in range(3)]  # type: ignore[arg-type]
    base = make_model(9)
    found = merge_models(models, base if config.needs_base else None, config).value
    assert found is not None
    heads = [{"head.weight": m.value.head.weight.detach()} for m in models if m.value is not None]
    zero = {"head.weight": torch.zeros_like(heads[0]["head.weight"])} if config.needs_base else None
    if method != "dare":  # whose masks depend on what else is drawn
        torch.testing.assert_close(found.head.weight.detach(), merge(heads, zero, config)["head.weight"])
    without = merge_models([*models[:2], replace(models[2], value=None)], base, config)
    assert without.value is None


def test_models_are_not_changed() -> None:
    models = [make_model(seed) for seed in range(2)]
    before = [p.detach().clone() for m in models for p in m.model.parameters()]
    result = merge_models(models, None, MergeConfig("average"))
    for p in result.model.parameters():
        p.data.add_(1)
    assert all(
        torch.equal(a, b) for a, b in zip(before, (p for m in models for p in m.model.parameters()), strict=True)
    )


@pytest.mark.parametrize(
    ("models", "base", "method", "says"),
    [
        ([0], None, "average", "1 model is too few"),
        ([0, 1], None, "ties", "ties needs the base"),
        ([0, 1], "wide", "task", "the base is of another shape"),
        ([0, "words"], None, "average", "unlike tokenizers"),
    ],
)
def test_what_cannot_be_merged_is_refused(models: list[object], base: object, method: Method, says: str) -> None:
    def made(what: object) -> LoadedModel | None:
        if what == "wide":
            model = make_model(0)
            return replace(model, model=Decoder(replace(model.model.config, intermediate_size=64)))
        if what == "words":
            return make_model(0, text="d e f")
        return None if what is None else make_model(int(str(what)))

    given = [model for model in map(made, models) if model is not None]
    with pytest.raises(UsageError, match=says):
        merge_models(given, made(base), MergeConfig(method))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "ties", "density": 0.0}, "density must lie above 0 and at most at 1, got 0.0"),
        ({"method": "task", "density": 0.5}, "task keeps all entries"),
        ({"method": "average", "scale": 0.5}, "an average has no scale"),
        ({"method": "ram", "threshold": -1.0}, "threshold must be at least 0, got -1.0"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        MergeConfig(**options)  # type: ignore[arg-type]
