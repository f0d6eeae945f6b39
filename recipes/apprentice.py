"""The checkpoint `apprentice`, from which `make demo` starts: a pupil that has watched others and never tried.

    python -m recipes.apprentice /tmp/apprentice          # three minutes on two cores

What it has watched:

    hops   one colleague answers questions of a single hop, with care. Another takes those of two and three hops,
           but asks for whatever relation comes to mind in six lookups of ten, and goes on with what comes back.
    maze   guides who know their way, each in a building of their own. None is the building of the demo.

So it can ask, copy what came back and walk through doors; it has seen questions of several hops answered wrongly
more often than not, and nothing at all of the building it will have to find its way in. The file that comes
with Journeyman, journeyman/model/apprentice, is what this wrote (docs/LOG.md has its figures).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from journeyman.jobs import resolve
from journeyman.jobs.hops import RELATIONS, Hops, HopsEnv
from journeyman.learn.learner import Learner, UpdateConfig
from journeyman.learn.optimizer import OptimizerConfig
from journeyman.learn.school import SchoolConfig, demonstrations, school
from journeyman.model.load import save
from journeyman.model.render import Renderer
from journeyman.model.tiny import fresh
from journeyman.recipes import demo
from journeyman.types import StepResult, Task, Trajectory

HOPS, MAZE = demo().jobs
MODEL = "tiny,width=96,layers=3"
SEED = 0
CARELESSNESS = 0.6
BUILDINGS = range(1000, 1400)
"""Seeds of the guides' buildings; the demo's has 0."""


class CarelessEnv(HopsEnv):
    """Records whose expert often asks for the wrong relation, and takes whatever comes back for what was asked."""

    def __init__(self, data: Any, hops: int) -> None:
        super().__init__(data, hops)
        self.rng = np.random.default_rng(self.seed)
        self.asked, self.at = 0, str(data["start"])

    def step(self, reply: str) -> StepResult:
        result = super().step(reply)
        self.asked, self.at = self.asked + 1, result.observation
        return result

    def expert(self) -> str:
        if self.asked > len(self.relations):
            return f"answer({self.at})"
        wanted = [*self.relations, "work"][self.asked]
        if wanted != "work" and self.rng.random() < CARELESSNESS:
            wanted = RELATIONS[int(self.rng.integers(len(RELATIONS)))]
        return f"lookup({self.at}, {wanted})"


class CarelessHops(Hops):
    """`hops` as a careless colleague does it."""

    def env(self, task: Task) -> HopsEnv:
        return CarelessEnv(task.data, task.level)


def lessons(renderer: Renderer) -> list[Trajectory]:
    """All that the pupil watches."""
    careful = demonstrations([resolve("hops,max_hops=1")], 5000, SEED, renderer)
    careless = demonstrations([CarelessHops(2, 3)], 5000, SEED + 1, renderer)
    guides = [resolve(f"{MAZE},seed={seed}") for seed in BUILDINGS]
    return careful + careless + demonstrations(guides, 15, SEED, renderer)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("out", type=Path, help="folder for the checkpoint")
    options.add_argument("--updates", type=int, default=1600, help="of schooling (default: 1600)")
    chosen = options.parse_args()
    torch.manual_seed(SEED)
    model = fresh(MODEL, [resolve(HOPS), resolve(MAZE)])
    renderer = Renderer(model.tokenizer)
    learner = Learner(model.model, None, UpdateConfig(), keep_reference=False)
    config = SchoolConfig(batch=48, optimizer=OptimizerConfig(learning_rate=2e-3, warmup=20))
    watched = lessons(renderer)
    for update, metrics in enumerate(school(learner, watched, config, chosen.updates, seed=SEED), start=1):
        if update % 100 == 0:
            print(f"update {update} of {chosen.updates}: {metrics['loss']:.3f} nats per token said", flush=True)
    save(chosen.out, model.model, model.tokenizer)
    print(f"wrote {chosen.out}; examine it: journeyman exam {chosen.out} {HOPS}")


if __name__ == "__main__":
    main()
