"""Merging: models that began as one become one of the same size again, by arithmetic on their weights alone.

With W_0 the base's weights and t_k = W_k - W_0 the task vectors, a rule makes one task vector of all, and the result
is W_0 + scale * rule(t_1, ..., t_K):

    average   mean_k t_k: of the weights themselves, so that it needs no base (2203.05482, section 2)
    task      sum_k t_k (task arithmetic; 2212.04089, section 2)
    ties      trim each to its largest, elect a sign, mean of those that agree (2306.01708, algorithm 1)
    dare      sum_k m_k t_k / density, m_k random masks (2311.03099, section 3.1), which leaves the mean as it was
    ram       what several models moved is averaged, what one alone moved is kept (2601.13572, section 4.2)

Trimming and masks are by tensor, as in mergekit, to whose results these are equal (tests/learn/test_mergekit.py). The
models' value functions are merged by the same rule. No rule looks at data; `distill.py` goes on from here with some.

Shapes: K models, [...] a tensor of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from journeyman.errors import UsageError
from journeyman.model.load import LoadedModel
from journeyman.model.lora import plain_copy
from journeyman.model.value import ValueFunction

Weights = Mapping[str, Tensor]
Method = Literal["average", "task", "ties", "dare", "ram"]

SCALES: Mapping[str, float] = {"average": 1.0, "task": 0.4, "ties": 1.0, "dare": 0.4, "ram": 1.0}
DENSITIES: Mapping[str, float] = {"ties": 0.2, "dare": 0.1}
"""What the papers recommend."""


@dataclass(frozen=True)
class MergeConfig:
    """How weights become one."""

    method: Method = "average"
    """The rule: see the head of learn/merge.py."""
    scale: float | None = None
    """What the merged task vector is multiplied by; when not given, 0.4 for the sums (task, dare), else 1."""
    density: float | None = None
    """Share of each tensor's entries that ties and dare keep; when not given, 0.2 and 0.1."""
    threshold: float = 1e-5
    """For ram, the change of an entry up to which a model counts as not having moved it."""
    seed: int = 0
    """Of dare's masks."""

    def __post_init__(self) -> None:
        if self.density is not None and self.method not in DENSITIES:
            raise UsageError(f"merge: {self.method} keeps all entries", fix="leave --density out, or take ties or dare")
        if self.density is not None and not 0 < self.density <= 1:
            raise UsageError(f"merge: density must lie above 0 and at most at 1, got {self.density}")
        if self.scale is not None and self.method == "average":
            raise UsageError(
                "merge: an average has no scale",
                reason="it is of the weights themselves, whatever they began as",
                fix="leave --scale out, or take --method task with a base",
            )
        if self.threshold < 0:
            raise UsageError(f"merge: threshold must be at least 0, got {self.threshold}")

    @property
    def needs_base(self) -> bool:
        """Whether the rule speaks of changes."""
        return self.method != "average"

    @property
    def kept(self) -> float:
        """The density, given or usual."""
        return self.density if self.density is not None else DENSITIES.get(self.method, 1.0)

    @property
    def factor(self) -> float:
        """The scale, given or usual."""
        return self.scale if self.scale is not None else SCALES[self.method]


# -- rules: from task vectors [K, ...] to one [...] --------------------------------------------------------


def average(tasks: Tensor, config: MergeConfig, generator: torch.Generator) -> Tensor:
    """Their mean."""
    return tasks.mean(0)


def task_arithmetic(tasks: Tensor, config: MergeConfig, generator: torch.Generator) -> Tensor:
    """Their sum."""
    return tasks.sum(0)


def ties(tasks: Tensor, config: MergeConfig, generator: torch.Generator) -> Tensor:
    """Of each the `density` largest entries; at each entry the mean of those whose sign is the sum's."""
    trimmed = torch.stack([_largest(one, config.kept) for one in tasks])
    elected = torch.where(trimmed.sum(0) >= 0, 1.0, -1.0)
    agreeing = trimmed.sign() == elected
    return (trimmed * agreeing).sum(0) / agreeing.sum(0).clamp(min=1)


def dare(tasks: Tensor, config: MergeConfig, generator: torch.Generator) -> Tensor:
    """Sum of what chance leaves of each, made larger by as much as was dropped."""
    kept = [one * torch.bernoulli(torch.full_like(one, config.kept), generator=generator) for one in tasks]
    return torch.stack(kept).sum(0) / config.kept


def ram(tasks: Tensor, config: MergeConfig, generator: torch.Generator) -> Tensor:
    """At each entry the mean over the models that moved it: what only one moved is kept whole."""
    moved = tasks.abs() > config.threshold
    return (tasks * moved).sum(0) / moved.sum(0).clamp(min=1)


Rule = Callable[[Tensor, MergeConfig, torch.Generator], Tensor]
RULES: Mapping[str, Rule] = {"average": average, "task": task_arithmetic, "ties": ties, "dare": dare, "ram": ram}


def _largest(tensor: Tensor, density: float) -> Tensor:
    """The entries of the largest magnitude, at least one; 0 elsewhere."""
    count = max(int(density * tensor.numel()), 1)
    flat = tensor.flatten()
    top = flat.abs().topk(count).indices
    return torch.zeros_like(flat).index_copy_(0, top, flat[top]).view_as(tensor)


# -- weights and models ------------------------------------------------------------------------------------


def merge(models: Sequence[Weights], base: Weights | None, config: MergeConfig) -> dict[str, Tensor]:
    """The weights that the models' become, in the precision of the first; what is computed is float32.

    Args:
        models: state dicts of one shape, at least two.
        base: what they began as; an average does without.

    Raises:
        UsageError: too few models, no base where one is needed, or unlike names or shapes.
    """
    if len(models) < 2:
        raise UsageError(f"merge: {len(models)} model is too few", fix="give at least two")
    if base is None and config.needs_base:
        raise UsageError(
            f"merge: {config.method} needs the base",
            reason="it merges what each model learned, which is how it differs from what it began as",
            fix="give --base, such as reference/ in a run's folder, or take --method average",
        )
    for number, weights in enumerate(models[1:], 2):
        _check_alike(models[0], weights, f"model {number}")
    if base is not None:
        _check_alike(models[0], base, "the base")
    generator = torch.Generator().manual_seed(config.seed)
    rule, merged = RULES[config.method], dict[str, Tensor]()
    for name in sorted(models[0]):
        first = models[0][name]
        if not first.is_floating_point() or not first.numel():
            merged[name] = first.clone()
            continue
        begun = torch.zeros_like(first, dtype=torch.float32) if base is None else base[name].float()
        tasks = torch.stack([weights[name].float() - begun for weights in models])
        merged[name] = (begun + config.factor * rule(tasks, config, generator)).to(first.dtype)
    return merged


def merge_models(models: Sequence[LoadedModel], base: LoadedModel | None, config: MergeConfig) -> LoadedModel:
    """The models as one, with a value function where all have one; uncalibrated, since it is none of theirs.

    A base without a value function stands for the one that each model's began as: a twin of the base that knows
    nothing yet.

    Raises:
        UsageError: see :func:`merge`; or their tokenizers or kinds of value function are unlike.
    """
    if not models:
        raise UsageError("merge: no model", fix="give at least two")
    for other in [*models[1:], *([base] if base is not None else [])]:
        check_readers(models[0], other)
    weights = merge([m.model.state_dict() for m in models], None if base is None else base.model.state_dict(), config)
    policy = plain_copy(models[0].model)
    policy.load_state_dict(weights)
    return LoadedModel(policy, models[0].tokenizer, _merged_value(models, base, config), "merged")


def _merged_value(models: Sequence[LoadedModel], base: LoadedModel | None, config: MergeConfig) -> ValueFunction | None:
    values = [m.value for m in models if m.value is not None]
    if len(values) < len(models):
        return None
    kind = values[0].config
    for model, value in zip(models, values, strict=True):
        if value.config != kind:
            raise UsageError(
                f"merge: the value functions of {models[0].source} and {model.source} are of unlike kinds",
                reason=f"{kind} and {value.config}",
                fix="merge models that were learned with one configuration of V",
            )
    begun = None
    if base is not None:
        begun = base.value if base.value is not None else ValueFunction.start(kind, base.model)
    merged = deepcopy(values[0])
    merged.load_state_dict(merge([v.state_dict() for v in values], begun and begun.state_dict(), config))
    return merged


def _check_alike(first: Weights, other: Weights, who: str) -> None:
    unlike = [name for name in sorted(first.keys() | other.keys()) if _shape(first, name) != _shape(other, name)]
    if unlike:
        name = unlike[0]
        raise UsageError(
            f"merge: {who} is of another shape than the first model",
            reason=f"{len(unlike)} tensors differ, such as {name}: {_shape(first, name)} and {_shape(other, name)}",
            fix="merge models that began as the same one",
        )


def check_readers(first: LoadedModel, other: LoadedModel) -> None:
    """Make sure that a token, and a conversation, is the same to both.

    Raises:
        UsageError: it is not.
    """
    ours, theirs = _reader(first.tokenizer), _reader(other.tokenizer)
    if ours != theirs:
        what = "tokens" if ours[0] != theirs[0] else "chat template"
        raise UsageError(
            f"{first.source} and {other.source} have unlike tokenizers",
            reason=f"their {what} differ, so that the same text is not the same to both",
            fix="take models that began as the same one",
        )


def _reader(tokenizer: Any) -> tuple[dict[str, int], str | None]:
    return tokenizer.get_vocab(), tokenizer.chat_template


def _shape(weights: Weights, name: str) -> tuple[int, ...] | None:
    return tuple(weights[name].shape) if name in weights else None
