"""Do the engine that samples and the trainer that learns agree on what was sampled?

    python -m bench.logprobs              the apprentice in float32, SmolLM2-135M in float32 and bfloat16
    python -m bench.logprobs --quick      the apprentice alone

Plays episodes with the native engine and computes the same tokens' log-probabilities as the trainer does. Figures:
the greatest and the median difference over all tokens, the 99th percentile, and Schulman's k3 estimate of the KL
(nats per token). Writes bench/results/logprobs.json.
"""

from __future__ import annotations

import numpy as np
import torch

from bench.common import Results, parser
from journeyman.api import open_model
from journeyman.jobs import resolve
from journeyman.learn.batch import collate, micro_batches
from journeyman.learn.learner import Learner, UpdateConfig
from journeyman.model.render import Renderer
from journeyman.rollout.runner import attempts, rollout
from journeyman.stages import native_engine

SUMS = "reasoning_gym:chain_sum,max_terms=2,max_digits=2,max_reply_tokens=32"


def differences(model: str, job: str, precision: str, episodes: int) -> np.ndarray:
    """Trainer's less engine's log-probability of every sampled token: float64 [tokens]."""
    loaded, what = open_model(model), resolve(job)
    learner = Learner(loaded.model, None, UpdateConfig(precision=precision), keep_reference=False)  # type: ignore[arg-type]
    engine = native_engine(learner, slots=64, context=512)
    orders = attempts(list(what.tasks("train", episodes)), repeats=1, prefix="l", seed=0)
    played = list(rollout(engine, Renderer(loaded.tokenizer), {what.name: what}, orders))
    found: list[torch.Tensor] = []
    for rows in micro_batches(played, learner.token_budget):
        batch = collate([played[i] for i in rows])
        with torch.no_grad():
            ours, _ = learner.logprobs(learner.policy, batch)
        found.append(ours - batch.logprob_A)
    return torch.cat(found).double().numpy()


def main() -> None:
    options = parser(__doc__).parse_args()
    results = Results("logprobs", quick=options.quick)
    cases = [("apprentice", "maze,size=5,max_turns=30", "float32")]
    if not options.quick:
        cases += [("smollm2-135m", SUMS, "float32"), ("smollm2-135m", SUMS, "bfloat16")]
    for model, job, precision in cases:
        gap = differences(model, job, precision, 16 if options.quick else 128)
        size = np.abs(gap)
        name = f"{model.split('-')[0]}_{precision}"
        results.figure(f"max_{name}", float(size.max()), "nats")
        results.figure(f"median_{name}", float(np.median(size)), "nats")
        results.figure(f"percentile_99_{name}", float(np.percentile(size, 99)), "nats")
        results.figure(f"kl_{name}", float(np.mean(np.exp(gap) - 1 - gap)), "nats per token")
        results.detail(f"tokens_{name}", len(gap))
    results.write()


if __name__ == "__main__":
    main()
