"""A look inside: a linear probe reads from the decoder's activations whether its answer will be right.

It is logistic regression on the final hidden state at the last token of the prompt, before a word of the answer is
said (linear probes: 1610.01644; what a model knows of its own answers: 2207.05221, section 5). Small enough to be
understood, and independent of V: where what it reads stops agreeing with what happens, or with what V says, something
inside has changed that success alone does not show. It is fitted to one half of the tasks and asked about the other,
and the other way round.

Shapes: B episodes, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import expit

from journeyman.learn.batch import collate, micro_batches
from journeyman.model.decoder import Decoder
from journeyman.types import Trajectory

Doubles = npt.NDArray[np.float64]
RIDGE = 10.0
"""Precision of the normal prior on weights of standardized features."""
STEPS = 25
"""Newton's steps at most; a handful are needed."""
TOKENS = 16384
"""Of one forward pass."""


@torch.no_grad()
def states(model: Decoder, episodes: Sequence[Trajectory]) -> Doubles:
    """The final hidden state before the first token that was sampled: [B, D]; zeros where none was."""
    found = np.zeros((len(episodes), model.config.hidden_size))
    for rows in micro_batches(episodes, TOKENS):
        batch = collate([episodes[i] for i in rows], device=model.head.device)
        hidden = model.model.packed(batch.packed).float().cpu().numpy()
        for place, i in zip(batch.places, rows, strict=True):
            if len(episodes[i].actions):
                found[i] = hidden[place[episodes[i].prompt_length - 1]]
    return found


def predicted(features: Doubles, right: Doubles, tasks: Sequence[str]) -> Doubles:
    """What probes that were fitted to the other half of the tasks say: the chance to be right, [B]."""
    half = {task: number % 2 for number, task in enumerate(dict.fromkeys(tasks))}
    second = np.array([half[task] for task in tasks], bool)
    said = np.full(len(right), float(right.mean()) if len(right) else 0.5)
    for asked in (second, ~second):
        if asked.any() and (~asked).any():
            weights = fit(features[~asked], right[~asked])
            said[asked] = ask(weights, features[asked])
    return said


Probe = tuple[Doubles, Doubles, Doubles]
"""Weights [D + 1] (the last one is the bias), and what features are standardized by: means and scales [D]."""


def fit(features: Doubles, right: Doubles) -> Probe:
    """Ridge logistic regression by Newton's method."""
    centre, scale = features.mean(0), features.std(0) + 1e-6
    x = np.column_stack([(features - centre) / scale, np.ones(len(features))])
    penalty = np.diag([RIDGE] * features.shape[1] + [1e-3])
    weights = np.zeros(x.shape[1])
    for _ in range(STEPS):
        p = expit(x @ weights)
        gradient = x.T @ (p - right) + penalty @ weights
        step = np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + penalty, gradient)
        weights -= step
        if np.abs(step).max() < 1e-6:
            break
    return weights, centre, scale


def ask(probe: Probe, features: Doubles) -> Doubles:
    """The chance to be right, [B]."""
    weights, centre, scale = probe
    return expit(np.column_stack([(features - centre) / scale, np.ones(len(features))]) @ weights)
