"""The learner: a policy, its value function, and how a step of experience changes them.

    score          write V along trajectories
    update_value   teach V what became of them
    update_policy  move the policy by advantages
    school         imitate: next-token learning on text and demonstrations

Gradients are accumulated by tokens: every micro-batch's loss is a sum, divided by the tokens of the whole
mini-batch, so the result does not depend on how it was cut (2503.20783).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from journeyman import machine
from journeyman.errors import UsageError
from journeyman.kernels.whole import has_tiles
from journeyman.learn.batch import Batch, collate, micro_batches, mini_batches
from journeyman.learn.importance import truncated_weights
from journeyman.learn.losses.language import language_loss
from journeyman.learn.losses.policy import PolicyLossConfig, policy_loss
from journeyman.learn.optimizer import Optimizer, OptimizerConfig
from journeyman.model.decoder import Decoder
from journeyman.model.lora import is_adapted, plain_copy, rate, reset
from journeyman.model.value import ValueConfig, ValueFunction
from journeyman.types import FloatArray, Trajectory

Metrics = dict[str, float]

LEAST_SCALE = 0.1
"""Advantages are divided by their standard deviation, but never by less than this: when nearly all episodes end
alike, what differs is mostly the value function's error, and magnifying it undoes what was learned."""

MINIBATCHES = 2
"""Policy updates in one pass that the fitted learning rate is meant for."""

ACTIVATIONS = 1 / 6
"""Share of the memory that the activations of one micro-batch may take."""


@dataclass(frozen=True)
class UpdateConfig:
    """How much is made of one step's experience."""

    policy: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(warmup=10))
    """The policy's optimizer. A learning rate that is not given fits two mini-batches in a step (`fitted`); where there
    are more it is smaller in proportion, so that all together go as far."""
    critic: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The value function's optimizer. A learning rate that is not given is twice what fits the width, however many
    mini-batches there are; a head's is 1e-3."""
    loss: PolicyLossConfig = field(default_factory=PolicyLossConfig)
    """The policy's loss."""
    policy_epochs: int = 1
    """Passes of the policy over one step's trajectories."""
    value_epochs: int = 1
    """Passes of the value function over them and the replayed ones."""
    minibatches: int | None = None
    """Policy updates in one pass. Few and large ones keep what is known: Adam moves as far on noise as on signal. Not
    given: 4 where V does instead of a group, else 2."""
    value_minibatches: int = 8
    """Updates of the value function in one pass."""
    max_kl: float = 0.05
    """A step's updates end early once a mini-batch shows a KL to the policy that sampled above this (nats per token;
    Schulman's k3 estimate). Clipping alone does not bound how far Adam moves a nearly deterministic policy."""
    normalize: bool = True
    """Shift advantages to mean 0 over the step's sampled tokens and scale them to variance 1. Without the shift,
    failures that are longer than successes push down more tokens than successes push up, and entropy explodes."""
    importance_cap: float | None = None
    """Compute log-probabilities anew before a step's updates, and weigh each token by min(pi / pi_engine, this): for
    episodes of older weights, or of an engine that computes otherwise (learn/importance.py). Set by `lag`."""
    token_budget: int = 16384
    """Most tokens in one micro-batch (fewer for a large model, see `ACTIVATIONS`): bounds memory, changes no result."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of matrix products; weights and optimizer stay float32. `auto`: bfloat16 from 50 million parameters
    on, and for smaller models where the processor has matrix tiles for it (AMX)."""

    def __post_init__(self) -> None:
        if self.importance_cap is not None and self.importance_cap < 1:
            raise UsageError(f"update: importance_cap must be at least 1, got {self.importance_cap}")
        for name in ("policy_epochs", "value_epochs", "minibatches", "value_minibatches", "token_budget"):
            if (amount := getattr(self, name)) is not None and amount < 1:
                raise UsageError(f"update: {name} must be at least 1, got {amount}")


Keeper = Callable[["Learner"], None]
"""Adds to the policy's gradient, before each of its updates, what keeps earlier knowledge (learn/remember.py)."""


class Learner:
    """Owns the weights that learn. `version` counts policy updates as the engine sees them, `updates` all of them."""

    def __init__(
        self,
        policy: Decoder,
        value: ValueFunction | None,
        config: UpdateConfig,
        *,
        keep_reference: bool = True,
    ) -> None:
        machine.prepare()
        self.policy, self.value, self.config = policy, value, config
        self.reference = plain_copy(policy).requires_grad_(False) if keep_reference else None
        self.device = policy.head.device
        width = policy.config.hidden_size
        self.precision = config.precision if config.precision != "auto" else self._fast()
        fitting = self._fitting()
        self.token_budget = min(config.token_budget, fitting)
        for trunk in (policy.model, None if value is None else value.trunk):
            if trunk is not None:
                trunk.keeps = fitting  # a single sequence may be longer
        times = rate(width) if is_adapted(policy) else 1.0
        self.minibatches = config.minibatches or MINIBATCHES
        each = min(MINIBATCHES / self.minibatches, 1.0)
        self.policy_optimizer = Optimizer(config.policy.fitted(width, each * times), [policy])
        self.value_optimizer: Optimizer | None = None
        if value is not None:
            shared = value.config.placement == "shared"  # what of the policy is frozen stays so
            modules = [value, policy.model] if shared else [value]
            critic = config.critic
            if value.config.placement == "head" and critic.learning_rate is None:
                critic = replace(critic, learning_rate=1e-3)
            self.value_optimizer = Optimizer(critic.fitted(width, 2 * times if shared else 2), modules)
        self.version = 0
        self.updates = 0
        self.keepers: list[Keeper] = []

    def _fast(self) -> Literal["float32", "bfloat16"]:
        """The arithmetic that pays for a model of this size here."""
        large = sum(p.numel() for p in self.policy.parameters()) >= 50e6
        return "bfloat16" if large or (self.device.type == "cpu" and has_tiles()) else "float32"

    def _fitting(self) -> int:
        """Tokens whose activations take their share of the memory."""
        each = self.policy.config.activations(2 if self.precision == "bfloat16" else 4)
        return max(int(ACTIVATIONS * machine.memory(self.device) / each), 1024)

    @staticmethod
    def start(policy: Decoder, value: ValueConfig | None, config: UpdateConfig) -> Learner:
        """A learner at its beginning: a fresh value function, or none for critic-free credit."""
        return Learner(policy, None if value is None else ValueFunction.start(value, policy), config)

    # -- looking ---------------------------------------------------------------------------------------

    @torch.inference_mode()
    def score(self, trajectories: Sequence[Trajectory]) -> list[Trajectory]:
        """The trajectories with V after each token; unchanged where there is no value function."""
        value = self.value
        if value is None or not trajectories:
            return list(trajectories)
        scored: list[Trajectory] = list(trajectories)
        for rows in micro_batches(trajectories, self.token_budget):
            batch = collate([trajectories[i] for i in rows], device=self.device)
            with self.autocast():
                outputs = value(batch.packed, self.policy, batch.heard_NF)
            values = value.expectation(outputs).cpu().numpy()
            for place, index in zip(batch.places, rows, strict=True):
                scored[index] = replace(trajectories[index], values=values[place].astype(np.float32))
        return scored

    @torch.no_grad()
    def with_logprobs(self, trajectories: Sequence[Trajectory]) -> list[Trajectory]:
        """The trajectories with the present policy's log-probabilities, at their temperature, in place of theirs."""
        told = list(trajectories)
        for rows in micro_batches(trajectories, self.token_budget):
            batch = collate([trajectories[i] for i in rows], device=self.device)
            found = self.logprobs(self.policy, batch)[0].cpu().numpy()
            start = 0
            for i in rows:
                t = trajectories[i]
                stop = start + len(t.actions)
                logprobs = np.zeros(len(t), np.float32)
                logprobs[t.mask] = found[start:stop]
                told[i], start = replace(t, logprobs=logprobs), stop
        return told

    # -- learning --------------------------------------------------------------------------------------

    def update_policy(
        self,
        trajectories: Sequence[Trajectory],
        advantages: Sequence[FloatArray],
        rng: np.random.Generator,
        pace: float = 1.0,
    ) -> Metrics:
        """Move the policy, at `pace` times its learning rate; returns means over tokens (docs/metrics.md)."""
        if self.config.normalize:
            advantages = _normalized(trajectories, advantages)
        mismatch: Metrics = {}
        if self.config.importance_cap is not None:
            trajectories, advantages, mismatch = self._corrected(trajectories, advantages, self.config.importance_cap)
        sums: defaultdict[str, float] = defaultdict(float)
        tokens, norms = 0, list[float]()
        stopped = 0.0
        for part in mini_batches(len(trajectories), self.minibatches, rng, self.config.policy_epochs):
            chosen = [trajectories[i] for i in part]
            count = sum(int(t.mask.sum()) for t in chosen)
            if not count:
                continue
            kl_before = sums["policy/kl_old"]
            for rows in micro_batches(chosen, self.token_budget):
                given = [advantages[int(part[i])] for i in rows]
                batch = collate([chosen[i] for i in rows], given, device=self.device)
                loss, metrics = self._policy_loss(batch)
                (loss / count).backward()
                for name, amount in metrics.items():
                    sums[name] += amount
            tokens += count
            norms.append(self.step_policy(pace))
            if (sums["policy/kl_old"] - kl_before) / count > self.config.max_kl:
                stopped = 1.0
                break
        self.version += 1
        means = {name: amount / max(tokens, 1) for name, amount in sums.items()}
        norm = float(np.mean(norms)) if norms else 0.0
        return {
            **means,
            **mismatch,
            "policy/grad_norm": norm,
            "policy/stopped_early": stopped,
            "policy/updates": len(norms),
        }

    def update_value(
        self,
        trajectories: Sequence[Trajectory],
        targets: Sequence[FloatArray],
        rng: np.random.Generator,
        foreseen: Sequence[FloatArray] | None = None,
    ) -> Metrics:
        """Teach V the targets at every position from the last prompt token on.

        Args:
            foreseen: what the targets would be, had V stopped every episode that it might have. With w an episode's
                weight the loss is L(foreseen) + w (L(target) - L(foreseen)), which stopping does not change on average.
        """
        value, optimizer = self.value, self.value_optimizer
        if value is None or optimizer is None or not trajectories:
            return {}
        total, count_all = 0.0, 0
        parts = self.config.value_minibatches
        for part in mini_batches(len(trajectories), parts, rng, self.config.value_epochs):
            chosen = [trajectories[i] for i in part]
            batches = [
                collate(
                    [chosen[i] for i in rows],
                    None,
                    [targets[int(part[i])] for i in rows],
                    self.device,
                    foreseen=foreseen and [foreseen[int(part[i])] for i in rows],
                )
                for rows in micro_batches(chosen, self.token_budget)
            ]
            count = sum(len(b.asked_K) for b in batches)
            for batch in batches:
                with self.autocast():
                    states = value.states(batch.packed, self.policy, batch.heard_NF)
                    outputs = value.judge(states[batch.asked_K])
                loss = value.loss(outputs, batch.return_K)
                if foreseen is not None:
                    baseline = value.loss(outputs, batch.foreseen_K)
                    loss = baseline + batch.weight_K * (loss - baseline)
                loss = loss.sum()
                (loss / count).backward()
                total += loss.item()
            count_all += count
            optimizer.step()
        return {"value/loss": total / max(count_all, 1)}

    def school(self, trajectories: Sequence[Trajectory], optimizer: Optimizer, scale: float) -> Metrics:
        """One update towards what the mask marks as said: demonstrations, or whole texts."""
        count = sum(int(t.mask.sum()) for t in trajectories)
        total = 0.0
        for rows in micro_batches(trajectories, self.token_budget):
            batch = collate([trajectories[i] for i in rows], device=self.device)
            logprobs, _ = self.logprobs(self.policy, batch)
            loss, metrics = language_loss(logprobs)
            (loss / count).backward()
            total += metrics["loss"]
        self._keep()
        optimizer.step(scale)
        return {"loss": total / count, "tokens": float(sum(len(t) for t in trajectories))}

    def step_policy(self, pace: float = 1.0) -> float:
        """Move the policy along the gradient that was accumulated, and what its keepers add; the gradient's norm."""
        self._keep()
        return self.policy_optimizer.step(pace)

    def start_again(self) -> None:
        """Make the policy the reference again: all that it has learned since is forgotten."""
        assert self.reference is not None
        if is_adapted(self.policy):
            reset(self.policy)
        else:
            self.policy.load_state_dict(self.reference.state_dict())

    # -- inside ----------------------------------------------------------------------------------------

    def _keep(self) -> None:
        for keeper in self.keepers:
            keeper(self)
        self.updates += 1

    def _policy_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        logprobs, entropy = self.logprobs(self.policy, batch)
        reference = None
        if self.reference is not None and self.config.loss.kl:
            with torch.no_grad():
                reference, _ = self.logprobs(self.reference, batch)
        return policy_loss(
            self.config.loss,
            logprobs=logprobs,
            old_logprobs=batch.logprob_A,
            advantages=batch.advantage_A,
            entropy=entropy if self.config.loss.entropy else entropy.detach(),
            reference_logprobs=reference,
            succeeded=batch.success_A,
        )

    def _corrected(
        self, trajectories: Sequence[Trajectory], advantages: Sequence[FloatArray], cap: float
    ) -> tuple[list[Trajectory], list[FloatArray], Metrics]:
        """The trajectories with the policy's log-probabilities instead of the engine's, advantages times the weights of
        the difference, and how large that is."""
        corrected = self.with_logprobs(trajectories)
        ours, theirs = (
            torch.from_numpy(np.concatenate([t.logprobs[t.mask] for t in ts])) for ts in (corrected, trajectories)
        )
        weights, metrics = truncated_weights(theirs, ours, cap)
        weighed: list[FloatArray] = []
        start = 0
        for t, a in zip(trajectories, advantages, strict=True):
            stop = start + len(t.actions)
            scaled = a.copy()
            scaled[t.mask] *= weights[start:stop].numpy()
            weighed.append(scaled)
            start = stop
        return corrected, weighed, metrics

    @torch.no_grad()
    def kl_reference(self, trajectories: Sequence[Trajectory]) -> Metrics:
        """KL(pi || reference) per sampled token, pi the policy that sampled these trajectories."""
        if self.reference is None or not trajectories:
            return {}
        batch = collate(trajectories, device=self.device)
        difference = self.logprobs(self.reference, batch)[0] - batch.logprob_A
        return {"policy/kl_reference": float((difference.exp() - difference - 1).mean())}

    def logprobs(self, model: Decoder, batch: Batch) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy of each sampled token, float32 [A]."""
        states = self.states(model, batch)
        with self.autocast():
            return model.log_probability(states, batch.token_A, batch.temperature_A)

    def states(self, model: Decoder, batch: Batch) -> Tensor:
        """Hidden states [A, D] in which the sampled tokens were chosen, as the model sees them."""
        with self.autocast():
            return model.model.packed(batch.packed)[batch.state_A]

    def autocast(self) -> torch.autocast:
        """The arithmetic that the learner computes in."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    # -- keeping ---------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs beside the weights themselves."""
        return {
            "version": self.version,
            "updates": self.updates,
            "policy": self.policy_optimizer.state_dict(),
            "critic": None if self.value_optimizer is None else self.value_optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.version, self.updates = state["version"], state.get("updates", 0)
        self.policy_optimizer.load_state_dict(state["policy"])
        if self.value_optimizer is not None and state["critic"] is not None:
            self.value_optimizer.load_state_dict(state["critic"])


def _normalized(trajectories: Sequence[Trajectory], advantages: Sequence[FloatArray]) -> list[FloatArray]:
    sampled = np.concatenate([a[t.mask] for a, t in zip(advantages, trajectories, strict=True)])
    scale = max(float(sampled.std()), LEAST_SCALE)
    return [
        np.where(t.mask, (a - sampled.mean()) / scale, 0.0).astype(np.float32)
        for a, t in zip(advantages, trajectories, strict=True)
    ]


def linear_decay(share: float) -> float:
    """From the share of the way done to the share of the peak learning rate: from 1 to 0 in a straight line."""
    return max(1.0 - share, 0.0)
