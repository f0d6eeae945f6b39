"""The stages of a run: what each line of the loop does. See `loop.py` for their order."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from journeyman.config import LearnConfig
from journeyman.engine.base import Engine
from journeyman.engine.native import NativeEngine
from journeyman.errors import UsageError
from journeyman.exam.exam import ExamConfig, examine, splits_of
from journeyman.exam.platt import calibrate
from journeyman.experience.store import Store
from journeyman.jobs import resolve
from journeyman.jobs.agent import AgentJob
from journeyman.jobs.base import Job
from journeyman.learn.batch import usable
from journeyman.learn.credit import RECENT, foresight, lambda_returns, trust
from journeyman.learn.learner import Learner
from journeyman.learn.lessons import due, lessons, study
from journeyman.learn.monte_carlo import Estimate, estimates
from journeyman.learn.school import demonstrations, school
from journeyman.model.decoder import Decoder
from journeyman.model.load import find, load, save
from journeyman.model.lora import adapt, load_adapter
from journeyman.model.render import Renderer
from journeyman.model.tiny import TinyConfig, fresh, is_tiny
from journeyman.rollout.asking import Asking, left
from journeyman.rollout.branch import choose, continuations, is_branch
from journeyman.rollout.environments import Environments
from journeyman.rollout.oversight import Oversight, Rule
from journeyman.rollout.player import Player, going_on, is_trail
from journeyman.rollout.practice import opening, practised
from journeyman.rollout.runner import Attempt, RolloutConfig, attempts, environments_for, rollout
from journeyman.rollout.stopping import (
    Doubt,
    Stopping,
    as_stopped,
    doubt,
)
from journeyman.rollout.teachers import Teacher, teacher_for
from journeyman.run import Progress, RunFolder
from journeyman.types import Task, Trajectory

Record = dict[str, Any]


@dataclass
class Learning:
    """What a run holds while it goes: see :func:`begin`."""

    config: LearnConfig
    run: RunFolder
    store: Store
    jobs: Mapping[str, Job]
    learner: Learner
    engine: Engine
    environments: Environments
    tokenizer: Any
    renderer: Renderer
    progress: Progress
    started: float
    teacher: Teacher | None = None
    player: Player | None = None
    history: list[list[Trajectory]] = field(default_factory=list[list[Trajectory]])
    """Usable episodes of the last steps, oldest first: as many steps as V or the policy learns from again."""
    lessons: list[Trajectory] = field(default_factory=list[Trajectory])
    """Where a teacher is asked, all that is worth imitating, oldest first."""
    candidates: dict[str, list[Trajectory]] = field(default_factory=dict[str, list[Trajectory]])
    """By job, the prompts among which V chose what is practised in the present step; none where it did not choose."""
    collect_seconds: float = 0.0
    """Spent on the episodes of the present step."""
    step_started: float = 0.0
    ahead: Future[list[Trajectory]] | None = None
    """The next step's episodes, being played while this step's are learned from; None without a lag."""
    background: ThreadPoolExecutor | None = None
    closing: threading.Event = field(default_factory=threading.Event)

    def close(self) -> None:
        """Leave nothing running."""
        self.closing.set()
        if self.background is not None:
            self.background.shutdown()
        self.environments.close()


def check(config: LearnConfig, folder: Path, player: Player | None = None) -> dict[str, Job]:
    """The run's jobs. What is misspelt is found here, so that no folder is made for it.

    Raises:
        UsageError, CheckpointError: a job, a split or a model is not there.
    """
    if (config.agent is None) != (player is None):
        raise UsageError("an agent needs a player, and a player an agent", fix="call journeyman.agents.learn")
    agent = None if config.agent is None else AgentJob(config.agent)
    jobs = {name: agent or resolve(name) for name in config.jobs}
    for job in jobs.values():
        splits_of(job, config.exam.splits)
    if is_tiny(config.model):
        TinyConfig.parse(config.model)
    elif not (folder / "config.json").exists():  # a run to be continued has a model of its own
        find(config.model)
    return jobs


def begin(
    config: LearnConfig, jobs: Mapping[str, Job], run: RunFolder, store: Store, player: Player | None = None
) -> Learning:
    """Everything in place: from the newest undamaged checkpoint, or from the start."""
    if config.threads:
        torch.set_num_threads(config.threads)
    for checkpoint, restored, trainer in run.restore():
        progress = restored
        loaded = load(str(checkpoint))
        reference = load(str(run.path / "reference")).model
        weights, policy = reference.state_dict(), loaded.model
        if config.lora is not None:  # the checkpoint has W + B A: W is the reference's
            policy = reference
            load_adapter(checkpoint / "adapter", policy, config.lora)
        learner = Learner(policy, loaded.value if config.uses_value else None, config.updating)
        learner.load_state_dict(trainer["learner"])
        if learner.reference is not None:
            learner.reference.load_state_dict(weights)
        break
    else:
        progress = Progress()
        torch.manual_seed(config.seed)
        loaded = fresh(config.model, list(jobs.values())) if is_tiny(config.model) else load(config.model)
        if config.lora is not None:
            config.lora.check(loaded.model)
        learner = new_learner(config, loaded.model)
    run.rewind(progress)
    s = Learning(
        config=config,
        run=run,
        store=store,
        jobs=jobs,
        learner=learner,
        engine=native_engine(learner, slots=config.slots, context=config.context),
        environments=environments_for(config.rollout),
        tokenizer=loaded.tokenizer,
        renderer=Renderer(loaded.tokenizer),
        progress=progress,
        started=time.monotonic() - progress.seconds,
        teacher=teacher(config, jobs, store, progress.step),
        player=player,
    )
    if config.lag:
        half = max(torch.get_num_threads() // 2, 1)
        s.background = ThreadPoolExecutor(1, initializer=lambda: torch.set_num_threads(half))
        torch.set_num_threads(max(torch.get_num_threads() - half, 1))
    publish(s)
    for step in range(max(progress.step - remembered(config), 0), progress.step):
        remember(s, usable(store.episodes(min_step=step, max_step=step)))
    if s.teacher is not None:
        s.lessons = lessons(store.episodes(min_step=0, max_step=progress.step - 1))
    return s


def go_to_school(s: Learning) -> Iterator[Record]:
    """Imitate the jobs' experts; what the model knows then is the reference of later KLs, and what adapters adapt."""
    config = s.config.school
    updates = s.config.school_updates
    schooled = bool(config.demonstrations and updates)
    if schooled:
        lessons = demonstrations(list(s.jobs.values()), config.demonstrations, s.config.seed, s.renderer)
        for number, metrics in enumerate(school(s.learner, lessons, config, updates, seed=s.config.seed)):
            record = {"kind": "school", "step": number, "seconds": time.monotonic() - s.started, **metrics}
            s.run.log("metrics", record)
            yield record
    save(s.run.path / "reference", s.learner.policy, s.tokenizer)
    if s.config.lora is not None:
        adapt(s.learner.policy, s.config.lora, s.config.seed)
    if schooled or s.config.lora is not None:
        s.learner = new_learner(s.config, s.learner.policy)
        publish(s)
    s.progress.phase = "learn"


def collect_and_record(s: Learning, step: int) -> list[Trajectory]:
    """Play this step's episodes. Each is scored by V and on disk soon after it ends; in the order asked."""
    s.step_started = time.monotonic()
    source = iter(s.ahead.result()) if s.ahead is not None else play(s, step)
    s.ahead = None
    episodes: list[Trajectory] = []
    while fresh_ones := list(itertools.islice(source, 64)):
        while is_trail(fresh_ones[-1]):  # an attempt is kept whole or not at all
            fresh_ones.append(next(source))
        scored = score(s, fresh_ones)
        s.store.add(scored)
        episodes += scored
    s.collect_seconds = time.monotonic() - s.step_started
    if s.background is not None and step + 1 < s.config.steps and not checkpoint_due(s, step + 1):
        s.ahead = s.background.submit(lambda: list(play(s, step + 1)))
    return sorted(episodes, key=lambda t: t.id)


def play(s: Learning, step: int) -> Iterator[Trajectory]:
    """This step's episodes, each as it ends."""
    config = s.config
    orders = attempts(practice(s, step), repeats=config.repeats, prefix=f"step{step:06d}", seed=config.seed, step=step)
    for trajectory in made(s, orders, config.rollout):
        if s.closing.is_set():
            return
        yield trajectory


def made(s: Learning, orders: Sequence[Attempt], config: RolloutConfig) -> Iterator[Trajectory]:
    """Attempts, made by the run's player or else by our own rollout."""
    if s.player is None:
        return rollout(s.engine, s.renderer, s.jobs, orders, config, s.environments, oversight(s))
    return going_on(s.player, s.store, s.engine, s.learner.policy, s.renderer, orders, config)


def score(s: Learning, episodes: Sequence[Trajectory]) -> list[Trajectory]:
    """The episodes with V along them; what a player had made before the run was killed has it already."""
    new = iter(s.learner.score([t for t in episodes if np.isnan(t.values).all()]))
    return [next(new) if np.isnan(t.values).all() else t for t in episodes]


def oversight(s: Learning) -> Oversight | None:
    """What V may do while this step's episodes are played: nothing before the warm-up is over."""
    stopping, asking, p = s.config.stopping, s.config.asking, s.progress
    if p.step < s.config.warmup:
        return None
    rules: list[Rule] = []
    if s.teacher is not None:
        rules.append(Asking(asking, s.teacher, left(asking, p.turns, p.taught, p.step, s.config.steps)))
    if stopping.every:
        rules.append(Stopping(stopping, in_doubt(s)))
    return Oversight(s.learner.score, rules) if rules else None


def in_doubt(s: Learning) -> dict[str, Doubt]:
    """By job, where V has lately left the end of an episode open."""
    return {job: doubt(steps, s.config.stopping) for job, steps in s.progress.prospects.items()}


def teacher(config: LearnConfig, jobs: Mapping[str, Job], store: Store, step: int) -> Teacher | None:
    """Who is asked from this step on, if anybody."""
    if not config.asking.budget:
        return None
    told = {t.id: t.turns for t in store.episodes(min_step=step)} if config.asking.teacher == "person" else {}
    seconds = config.rollout.seconds_per_step
    return teacher_for(config.asking.teacher, jobs, told, seconds=seconds, slots=config.slots, context=config.context)


def practice(s: Learning, step: int) -> list[Task]:
    """The tasks of this step, of each job's split `train` and without replacement where there are enough: drawn
    uniformly, and once V has warmed up chosen by it."""
    config, count = s.config.practice, s.config.tasks
    s.candidates = {}
    tasks: list[Task] = []
    for number, (name, job) in enumerate(s.jobs.items()):
        size = job.splits["train"]
        offered = count if step < s.config.warmup else max(min(count * config.candidates, size), count)
        rng = np.random.default_rng((s.config.seed, step, 0, number))
        drawn = [job.task("train", int(index)) for index in rng.choice(size, offered, replace=size < offered)]
        if offered > count:
            read = s.candidates[name] = s.learner.score([opening(task, s.renderer) for task in drawn])
            drawn = practised(read, count, config, rng, low=s.config.value.low, high=s.config.value.high)
        tasks += drawn
    return tasks


def branch_out(s: Learning, episodes: Sequence[Trajectory], step: int) -> tuple[list[Trajectory], list[Estimate]]:
    """Once the policy learns, go on from states of this step's episodes that V is unsure of; recorded like these."""
    config = s.config
    if not config.branch.share or step < config.warmup:
        return [], []
    settle(s)
    started = time.monotonic()
    forks = choose(usable(episodes), config.branch, low=config.value.low, high=config.value.high)
    orders = continuations(forks, config.branch.continuations, config.seed)
    played = rollout(s.engine, s.renderer, s.jobs, orders, config.rollout, s.environments)
    branches = s.learner.score(sorted(played, key=lambda t: t.id))
    s.store.add(branches)
    s.collect_seconds += time.monotonic() - started
    return branches, estimates(forks, branches, config.credit)


def trusted(s: Learning, episodes: Sequence[Trajectory]) -> dict[str, float]:
    """How far V is trusted at each job, by the steps before this one; then note how it did in this one."""
    weights: dict[str, float] = {}
    if s.learner.value is None:
        return weights
    config = s.config.credit
    for name in s.jobs:
        history = s.progress.foresight.setdefault(name, [])
        weights[name] = trust(history)
        own = [t for t in episodes if t.task.job == name]
        found = foresight(own, gamma=config.gamma, unit=config.unit, bootstrap_truncated=config.bootstrap_truncated)
        if found is not None:
            history[:] = [*history, found][-RECENT:]
    return weights


def update_value(s: Learning, fresh_ones: Sequence[Trajectory], rng: np.random.Generator) -> Record:
    """Teach V this step's outcomes, and again those of the last steps."""
    if s.learner.value is None:
        return {}
    config = s.config.credit
    episodes = [*chain.from_iterable(last(s.history, s.config.replay)), *fresh_ones]
    returns = partial(
        lambda_returns,
        gamma=config.gamma,
        lam=config.lambda_value,
        unit=config.unit,
        bootstrap_truncated=config.bootstrap_truncated,
    )
    targets, foreseen = returns(episodes), None
    if any(t.verdict for t in episodes):
        early = returns([as_stopped(t) for t in episodes])
        foreseen = [np.append(v, target[len(v) :]) for v, target in zip(early, targets, strict=True)]
    return s.learner.update_value(episodes, targets, rng, foreseen)


def imitate(s: Learning, episodes: Sequence[Trajectory], rng: np.random.Generator) -> Record:
    """Where a teacher is asked, gather what is worth imitating; when there is far more of it than before, study it."""
    if s.teacher is None:
        return {}
    s.lessons += lessons(episodes)
    record: Record = {"policy/lessons": len(s.lessons)}
    if s.progress.step >= s.config.warmup and due(len(s.lessons), s.progress.studied, s.config.school):
        record |= study(s.learner, s.lessons, s.config.school, s.config.asking.updates, int(rng.integers(1 << 31)))
        s.progress.studied = len(s.lessons)
        publish(s)
    return record


def learned_from(s: Learning, fresh_ones: Sequence[Trajectory]) -> list[Trajectory]:
    """What the policy learns from: this step's episodes, with V from before it learned their outcomes, and those of the
    last steps, with V as it is now. Branches are no lesson for the policy."""
    old = [t for step in last(s.history, s.config.policy_replay) for t in step if not is_branch(t)]
    return [*s.learner.score(old), *fresh_ones]


def remember(s: Learning, episodes: Sequence[Trajectory]) -> None:
    """Keep this step's usable episodes as long as they are needed."""
    s.history = last([*s.history, list(episodes)], remembered(s.config))


def remembered(config: LearnConfig) -> int:
    """Steps whose episodes are learned from again."""
    return max(config.replay if config.uses_value else 0, config.policy_replay)


def last(steps: Sequence[list[Trajectory]], count: int) -> list[list[Trajectory]]:
    """The last `count` of them."""
    return list(steps[-count:]) if count else []


def log_step(s: Learning, episodes: Sequence[Trajectory], metrics: Record) -> Record:
    """Count the step as done and write its line."""
    s.progress.step += 1
    s.progress.trajectories += sum(not is_trail(t) for t in episodes)
    s.progress.tokens += sum(len(t) for t in chain(episodes, *s.candidates.values()))
    s.progress.turns += sum(len(t.turns) for t in episodes)
    s.progress.taught += sum(turn.by == "teacher" for t in episodes for turn in t.turns)
    s.progress.seconds = time.monotonic() - s.started
    counts = {k: getattr(s.progress, k) for k in ("step", "seconds", "trajectories", "tokens", "turns", "taught")}
    spent = {
        "time/collect": s.collect_seconds,
        "time/update": time.monotonic() - s.step_started - s.collect_seconds,
    }
    record = {"kind": "learn", **counts, **spent, "policy/version": s.learner.version, **metrics}
    s.run.log("metrics", record)
    return record


def take_exam(s: Learning, config: ExamConfig) -> Iterator[Record]:
    """Examine every job; results go to `exams.jsonl`, the episodes to the store."""
    settle(s)
    results, episodes = examine(
        s.engine,
        s.renderer,
        partial(score, s),
        s.jobs,
        config,
        step=s.progress.step,
        rollouts=s.config.rollout,
        environments=s.environments,
        play=None if s.player is None else partial(made, s),
    )
    s.store.add(episodes)
    for result in results:
        record = result.as_dict()
        s.run.log("exams", record)
        yield {"kind": "exam", **record}


def examine_when_due(s: Learning) -> Iterator[Record]:
    """The whole exam after the last step, every `exam_every` steps one on the splits asked for or else on `test`."""
    config, step = s.config, s.progress.step
    if step == config.steps:
        yield from take_exam(s, config.exam)
    elif config.exam_every and step % config.exam_every == 0:
        yield from take_exam(s, replace(config.exam, splits=config.exam.splits or ("test",)))


def checkpoint_when_due(s: Learning) -> None:
    """After the last step, and every `checkpoint_every` steps."""
    if checkpoint_due(s, s.progress.step):
        save_checkpoint(s)


def checkpoint_due(s: Learning, steps: int) -> bool:
    """Whether a checkpoint is saved after so many steps. Nobody plays ahead over it: a continued run could not."""
    return steps == s.config.steps or steps % s.config.checkpoint_every == 0


def finish(s: Learning) -> None:
    """Leave the learned model where a person looks for it, with V calibrated by the last exam on the split `test`."""
    calibration = None
    if s.learner.value is not None:
        held_out = s.store.episodes(split="test", prefix=f"exam-{s.progress.step:06d}-")
        calibration = calibrate(list(held_out), seed=s.config.seed)
    save(s.run.path / "model", s.learner.policy, s.tokenizer, s.learner.value, calibration)


def save_checkpoint(s: Learning) -> None:
    """Everything needed to go on from here."""
    s.progress.seconds = time.monotonic() - s.started
    s.run.checkpoint(
        s.progress,
        lambda folder: save(folder, s.learner.policy, s.tokenizer, s.learner.value),
        {"learner": s.learner.state_dict()},
    )


def publish(s: Learning) -> None:
    """Let the engine sample from the learner's present weights, once it is done with what it was asked before."""
    settle(s)
    s.engine.load(s.learner.policy, s.learner.version)


def settle(s: Learning) -> None:
    """Let the engine finish what it plays ahead."""
    if s.ahead is not None:
        wait([s.ahead])


def native_engine(learner: Learner, *, slots: int, context: int) -> NativeEngine:
    """An engine for the learner's policy, in the learner's precision."""
    return NativeEngine(learner.policy, slots=slots, context=context, dtype=getattr(torch, learner.precision))


def new_learner(config: LearnConfig, policy: Decoder) -> Learner:
    """A learner that has not tried anything yet."""
    return Learner.start(policy, config.value if config.uses_value else None, config.updating)
