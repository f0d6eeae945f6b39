"""How a model goes through the stream: each way of remembering as one function of a stage."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.lifelong.stream import CHAPTERS, FEW, PAST, Look, imitate, practise, resolved, shown
from journeyman.engine.native import NativeEngine
from journeyman.jobs import resolve
from journeyman.learn.credit import CreditConfig
from journeyman.learn.distill import DistillConfig, distill, play
from journeyman.learn.learner import Keeper, Learner, UpdateConfig
from journeyman.learn.merge import MergeConfig, merge
from journeyman.learn.optimizer import OptimizerConfig
from journeyman.learn.remember import Anchor, anchored, elastic, keepers, stay_close
from journeyman.model.decoder import Decoder
from journeyman.model.lora import LoRAConfig, adapt, plain_copy
from journeyman.model.render import Renderer
from journeyman.types import Trajectory

FISHER = 48
"""Episodes of a job from which its Fisher information is estimated."""
BATCH = 32
"""Episodes of earlier jobs beside every update."""
CONSOLIDATION = DistillConfig(steps=12, tasks=12, minibatches=2)


@dataclass
class Stand:
    """Where a model stands in the stream; what a way of remembering may look at."""

    policy: Decoder
    renderer: Renderer
    memory: dict[str, list[Trajectory]] = field(default_factory=dict[str, list[Trajectory]])
    """Of earlier jobs, by the job's own name: what the apprentice did well, and then the demonstrations."""
    anchor: Anchor | None = None


Stage = Callable[[Stand, str, int, Look | None], None]
"""Learn one job: changes where the model stands."""


def learner_of(policy: Decoder, keepers: Sequence[Keeper] = ()) -> Learner:
    learner = Learner(policy, None, UpdateConfig(), keep_reference=False)
    learner.keepers = list(keepers)
    return learner


def stage(stand: Stand, name: str, seed: int, look: Look | None, keepers: Sequence[Keeper] = ()) -> None:
    """Imitate, practise, and put the demonstrations by."""
    lessons = shown(name, seed, stand.renderer)
    learner = learner_of(stand.policy, keepers)
    imitate(learner, lessons, CHAPTERS[name].updates, seed, look)
    practise(learner, [name], stand.renderer, seed)
    stand.memory[lessons[0].task.job] = lessons


def naive(stand: Stand, name: str, seed: int, look: Look | None) -> None:
    """Go on learning; practice on policy is all that keeps anything."""
    stage(stand, name, seed, look)


def by_few(stand: Stand, name: str, seed: int, look: Look | None) -> None:
    """Say a few episodes of each earlier job again."""
    few = {job: episodes[:FEW] for job, episodes in stand.memory.items()}
    stage(stand, name, seed, look, keepers(stand.policy, few, seed=seed))


def by_kl(stand: Stand, name: str, seed: int, look: Look | None) -> None:
    """In the states of the same episodes, answer as the model did before this job."""
    release = copy.deepcopy(stand.policy)
    stage(stand, name, seed, look, [stay_close(release, dict(stand.memory), batch=BATCH, seed=seed)])


def by_default(stand: Stand, name: str, seed: int, look: Look | None) -> None:
    """As the library does it."""
    release = copy.deepcopy(stand.policy)
    stage(stand, name, seed, look, keepers(release, dict(stand.memory), seed=seed))


def by_ewc(weight: float) -> Stage:
    """Elastic weight consolidation."""

    def learn(stand: Stand, name: str, seed: int, look: Look | None) -> None:
        if stand.anchor is None:
            stand.anchor = held(stand, PAST)
        stage(stand, name, seed, look, [elastic(stand.anchor, weight=weight)])
        stand.anchor = held(stand, [CHAPTERS[name].spec], seed)

    return learn


def held(stand: Stand, specs: Sequence[str], seed: int = 0) -> Anchor:
    """The anchor after these jobs."""
    for job in map(resolve, specs):
        engine = NativeEngine(stand.policy, slots=128, context=1024)
        tasks = [job.task("train", index) for index in range(FISHER)]
        played = play(engine, stand.renderer, {job.name: job}, tasks, "fisher", seed, -1)
        stand.anchor = anchored(learner_of(stand.policy), played, stand.anchor)
    assert stand.anchor is not None
    return stand.anchor


def by_lora(stand: Stand, name: str, seed: int, look: Look | None) -> None:
    """Adapters that begin anew with the job and are merged at its end."""
    adapt(stand.policy, LoRAConfig(16), seed)
    stage(stand, name, seed, look)
    stand.policy = plain_copy(stand.policy)


def by_consolidation(stand: Stand, name: str, seed: int, look: Look | None) -> None:
    """Learn in a copy; then, from the average of both, be graded by the copy at the new job and by the model before it
    at all others."""
    release, earlier = copy.deepcopy(stand.policy), [job for job in stand.memory if job not in resolved([name])]
    stage(stand, name, seed, look)
    specialist = stand.policy
    jobs = {job: resolve(job) for job in stand.memory}
    teachers = {job: release if job in earlier else specialist for job in jobs}
    student = copy.deepcopy(release)
    student.load_state_dict(merge([release.state_dict(), specialist.state_dict()], None, MergeConfig("average")))
    rate = OptimizerConfig(warmup=10).fitted(student.config.hidden_size, 2)
    learner = Learner(student, None, UpdateConfig(policy=rate), keep_reference=False)
    engine = NativeEngine(student, slots=128, context=1024)
    for _ in distill(learner, engine, stand.renderer, jobs, teachers, CONSOLIDATION, CreditConfig("gae"), seed=seed):
        pass
    stand.policy = student


STRATEGIES: Mapping[str, Stage] = {
    "naive": naive,
    "replay": by_default,
    "ewc": by_ewc(1.0),
    "lora": by_lora,
    "kl": by_kl,
    "few": by_few,
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
