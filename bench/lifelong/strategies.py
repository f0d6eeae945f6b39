"""How a model goes through the stream: each way of remembering as one function of a stage."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.lifelong.stream import CHAPTERS, KEPT, Look, imitate, practise, resolved, shown
from journeyman.engine.native import NativeEngine
from journeyman.learn.credit import CreditConfig
from journeyman.learn.distill import DistillConfig, distill, play
from journeyman.learn.learner import Keeper, Learner, UpdateConfig
from journeyman.learn.merge import MergeConfig, merge
from journeyman.learn.optimizer import OptimizerConfig
from journeyman.learn.remember import Anchor, anchored, elastic, replay, stay_close
from journeyman.model.decoder import Decoder
from journeyman.model.lora import LoRAConfig, adapt, plain_copy
from journeyman.model.render import Renderer
from journeyman.types import Trajectory

FISHER = 48
"""Episodes of a job from which its Fisher information is estimated."""
CONSOLIDATION = DistillConfig(steps=12, tasks=12)


@dataclass
class Stand:
    """Where a model stands in the stream; what a way of remembering may look at."""

    policy: Decoder
    renderer: Renderer
    memory: dict[str, list[Trajectory]] = field(default_factory=dict[str, list[Trajectory]])
    """Demonstrations of earlier jobs, by the job's own name."""
    anchor: Anchor | None = None


Stage = Callable[[Stand, str, int, Look | None], None]
"""Learn one job: changes where the model stands."""


def learner_of(policy: Decoder, keepers: Sequence[Keeper] = ()) -> Learner:
    learner = Learner(policy, None, UpdateConfig(), keep_reference=False)
    learner.keepers = list(keepers)
    return learner


def stage(stand: Stand, name: str, seed: int, look: Look | None, keepers: Sequence[Keeper] = ()) -> None:
    """Imitate, practise, and put some demonstrations by."""
    lessons = shown(name, seed, stand.renderer)
    learner = learner_of(stand.policy, keepers)
    imitate(learner, lessons, CHAPTERS[name].updates, seed, look)
    practise(learner, [name], stand.renderer, seed)
    stand.memory[lessons[0].task.job] = lessons[:KEPT]


def naive(stand: Stand, name: str, seed: int, look: Look | None) -> None:
    """Go on learning; practice on policy is all that keeps anything."""
    stage(stand, name, seed, look)


def by_replay(stand: Stand, name: str, seed: int, look: Look | None) -> None:
    """Say earlier demonstrations again, 16 beside every update."""
    stage(stand, name, seed, look, [replay(dict(stand.memory), seed=seed)] if stand.memory else [])


def by_kl(stand: Stand, name: str, seed: int, look: Look | None) -> None:
    """In the states of the same episodes, answer as the model did before this job."""
    release = copy.deepcopy(stand.policy)
    stage(stand, name, seed, look, [stay_close(release, dict(stand.memory), seed=seed)] if stand.memory else [])


def by_both(stand: Stand, name: str, seed: int, look: Look | None) -> None:
    """Replay and kl, half each."""
    release, memory = copy.deepcopy(stand.policy), dict(stand.memory)
    both = [replay(memory, weight=0.5, seed=seed), stay_close(release, memory, weight=0.5, seed=seed)]
    stage(stand, name, seed, look, both if memory else [])


def by_ewc(weight: float) -> Stage:
    """Elastic weight consolidation."""

    def learn(stand: Stand, name: str, seed: int, look: Look | None) -> None:
        stage(stand, name, seed, look, [elastic(stand.anchor, weight=weight)] if stand.anchor else [])
        engine = NativeEngine(stand.policy, slots=128, context=1024)
        jobs = resolved([name])
        [job] = jobs.values()
        tasks = [job.task("train", index) for index in range(FISHER)]
        played = play(engine, stand.renderer, jobs, tasks, "fisher", seed, -1)
        stand.anchor = anchored(learner_of(stand.policy), played, stand.anchor)

    return learn


def by_lora(stand: Stand, name: str, seed: int, look: Look | None) -> None:
    """Adapters that begin anew with the job and are merged at its end."""
    adapt(stand.policy, LoRAConfig(16), seed)
    stage(stand, name, seed, look)
    stand.policy = plain_copy(stand.policy)


def by_consolidation(stand: Stand, name: str, seed: int, look: Look | None) -> None:
    """Learn in a copy; then, from the average of both, be graded by the copy at the new job and by the model before it
    at all others."""
    if not stand.memory:
        return stage(stand, name, seed, look)
    release = copy.deepcopy(stand.policy)
    stage(stand, name, seed, look)
    specialist, learned = stand.policy, [n for n in CHAPTERS if set(resolved([n])) <= stand.memory.keys()]
    jobs = resolved(learned)
    teachers = {job: specialist if job in resolved([name]) else release for job in jobs}
    student = copy.deepcopy(release)
    student.load_state_dict(merge([release.state_dict(), specialist.state_dict()], None, MergeConfig("average")))
    rate = OptimizerConfig(warmup=10).fitted(student.config.hidden_size, 2)
    learner = Learner(student, None, UpdateConfig(policy=rate), keep_reference=False)
    engine = NativeEngine(student, slots=128, context=1024)
    for _ in distill(learner, engine, stand.renderer, jobs, teachers, CONSOLIDATION, CreditConfig("gae"), seed=seed):
        pass
    stand.policy = student
    return None


STRATEGIES: Mapping[str, Stage] = {
    "naive": naive,
    "replay": by_replay,
    "kl": by_kl,
    "both": by_both,
    "ewc": by_ewc(100.0),
    "lora": by_lora,
    "consolidation": by_consolidation,
}


def joint(stand: Stand, names: Sequence[str], seed: int) -> None:
    """All jobs at once, with as many updates and episodes of each as the stream gives it."""
    balanced: list[Trajectory] = []
    for name in names:
        lessons, need = shown(name, seed, stand.renderer), 32 * CHAPTERS[name].updates
        balanced += [lessons[i % len(lessons)] for i in range(need)]
    learner = learner_of(stand.policy)
    imitate(learner, balanced, sum(CHAPTERS[name].updates for name in names), seed)
    practise(learner, names, stand.renderer, seed)
