"""THE loop: collect, record, credit, update, examine.

    school      (once) imitate a few demonstrations
    repeat:
      collect   play episodes of some tasks with the present weights
      record    write V along them and put them on disk
      branch    (if asked) go on from states that V is unsure of
      credit    turn outcomes and values into advantages
      update    teach V what became of the episodes, move the policy by the advantages
      imitate   (instead, where a teacher is asked) now and then study what was worth imitating
      examine   (now and then) on splits never learned from
      save      (now and then) everything needed to continue

Nothing random has hidden state: draws follow from (seed, step), so a run killed anywhere and started again
repeats the steps since its last checkpoint exactly and ends with the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np

from journeyman import stages
from journeyman.config import LearnConfig, settled
from journeyman.learn.credit import assign
from journeyman.learn.monte_carlo import sharpened
from journeyman.rollout.player import Player
from journeyman.run import RunFolder
from journeyman.stages import Record
from journeyman.watching import look


def learn(config: LearnConfig, folder: Path | str, player: Player | None = None) -> Iterator[Record]:
    """Begin or continue the run in `folder`; yields each log record as it is written.

    Args:
        player: makes the attempts, where our own rollout does not: see :func:`journeyman.agents.learn`.

    Raises:
        RunError, UsageError, CheckpointError, StoreError: as their messages say.
    """
    folder = Path(folder)
    jobs = stages.check(config, folder, player)
    config = settled(config, jobs.values())
    may_change = frozenset({"steps", "threads", "rollout.workers"})
    with (
        RunFolder.open(folder, asdict(config), may_change=may_change) as run,
        run.store() as store,
        closing(stages.begin(config, jobs, run, store, player)) as s,
    ):
        yield from run_steps(s)


def run_steps(s: stages.Learning) -> Iterator[Record]:
    """From where the run stands to its end."""
    config = s.config
    if s.progress.phase == "school":
        yield from stages.go_to_school(s)
        yield from stages.take_exam(s, config.exam)
        stages.save_checkpoint(s)
    while s.progress.step < config.steps:
        step = s.progress.step
        rng = np.random.default_rng((config.seed, step))
        episodes = stages.collect_and_record(s, step)
        branches, found = stages.branch_out(s, episodes, step)
        metrics = look(s, episodes, found)
        usable = stages.usable(episodes)
        trusted = stages.trusted(s, usable)
        metrics |= {f"{job}/value/trust": weight for job, weight in trusted.items()}
        lived = stages.usable([*episodes, *branches])
        metrics |= stages.update_value(s, lived, rng)
        if usable and step >= config.warmup and s.teacher is None:
            played = stages.learned_from(s, sharpened(usable, found))
            advantages = assign(played, config.credit, trusted)
            metrics |= s.learner.update_policy(played, advantages, rng, metrics["policy/pace"])
            stages.publish(s)
        metrics |= stages.imitate(s, episodes, rng)
        stages.remember(s, lived)
        yield stages.log_step(s, [*episodes, *branches], metrics)
        yield from stages.examine_when_due(s)
        stages.checkpoint_when_due(s)
    stages.finish(s)
