"""Discrete gymnasium environments as text: states and actions get words.

    gymnasium:FrozenLake-v1            gymnasium:FrozenLake-v1,is_slippery=true,size=6
    gymnasium:Taxi-v4                  gymnasium:CliffWalking-v1

An episode that reaches its goal earns 1, every other one 0: arriving on the frozen lake, the passenger at the
destination, the far side of the cliff. Elsewhere: the native return, clipped to [0, 1].
"""

from __future__ import annotations

from copy import copy
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from journeyman.errors import UsageError
from journeyman.jobs._common import check_place
from journeyman.jobs.base import Env, Job
from journeyman.types import Message, StepResult, Task

WORDS = {
    "FrozenLake": ("left", "down", "right", "up"),
    "FrozenLake8x8": ("left", "down", "right", "up"),
    "CliffWalking": ("up", "right", "down", "left"),
    "CliffWalkingSlippery": ("up", "right", "down", "left"),
    "Taxi": ("south", "north", "east", "west", "pickup", "dropoff"),
}
STOPS = ("red", "green", "yellow", "blue", "taxi")
SPLITS = {"train": 10_000, "valid": 500, "test": 500}
DISCOUNT = 0.99


class Gymnasium(Job):
    """One environment; a task is a seed, and for the frozen lake also a map of its own.

    Args:
        id: the environment's name in gymnasium.
        size: FrozenLake: side of the random map that each task has; 0 keeps the standard map.
        is_slippery: FrozenLake: whether moves slip.
        max_turns: turns before the episode is cut.

    Raises:
        UsageError: gymnasium is not installed or has no such environment, or it is not discrete.
    """

    def __init__(self, id: str, size: int = 4, is_slippery: bool = False, max_turns: int = 0) -> None:
        self.id, self.size, self.is_slippery = id, size, is_slippery
        self.kind = id.rpartition("-v")[0] or id
        options = [f"size={size}"] * (size != 4) + ["is_slippery=true"] * is_slippery
        options += [f"max_turns={max_turns}"] * bool(max_turns)
        self.name = ",".join([f"gymnasium:{id}", *options])
        self.about = f"gymnasium's {id}, in words"
        made = self.make(0)
        if not (hasattr(made.observation_space, "n") and hasattr(made.action_space, "n")):
            raise UsageError(f"{id} is not discrete", fix="choose one with discrete observations and actions")
        self.words = WORDS.get(self.kind) or tuple(str(a) for a in range(int(made.action_space.n)))
        self.max_turns = max_turns or {"FrozenLake": 8 * max(size, 4), "Taxi": 60}.get(self.kind, 100)
        self.max_reply_tokens = 8
        self.splits = dict(SPLITS)

    @property
    def random_map(self) -> bool:
        """Whether each task has a map of its own."""
        return self.kind == "FrozenLake" and self.size > 0

    def make(self, seed: int) -> Any:
        """The environment of one task.

        Those we have words for are copied from one that was made once: making a taxi takes 40 ms, nearly all of it
        for the transition table, which no episode changes. The copy has no time limit but `max_turns`.
        """
        options: dict[str, Any] = {}
        if self.kind.startswith("FrozenLake"):
            options["is_slippery"] = self.is_slippery
        if self.random_map:
            options["desc"] = random_lake(self.size, seed)
        elif self.kind in WORDS:
            return copy(_made_once(self.id, tuple(options.items())))
        return _make(self.id, options)

    def task(self, split: str, index: int) -> Task:
        check_place(self.name, self.splits, split, index)
        seed = (1 + list(SPLITS).index(split)) * 1_000_000 + index
        env = self.make(seed)
        state, _ = env.reset(seed=seed)
        lines = [f"One word: {' '.join(self.words)}."]
        if self.kind.startswith("FrozenLake"):
            rows = env.unwrapped.desc.astype(str)
            lines += [" ".join("".join(row)) for row in rows]
        lines.append(self.describe(env, int(state)))
        return Task(self.name, split, index, (Message("user", "\n".join(lines)),), {"seed": seed})

    def describe(self, env: Any, state: int) -> str:
        """A state in words."""
        if self.kind == "Taxi":
            row, column, passenger, goal = (int(x) for x in env.unwrapped.decode(state))
            return f"taxi {row} {column}, passenger {STOPS[passenger]}, to {STOPS[goal]}"
        width = {"CliffWalking": 12, "CliffWalkingSlippery": 12}.get(self.kind)
        if self.kind.startswith("FrozenLake"):
            width = int(env.unwrapped.ncol)
        return f"row {state // width} column {state % width}" if width else f"state {state}"

    def env(self, task: Task) -> Env:
        return GymnasiumEnv(self, self.make(task.data["seed"]), task.data["seed"])


class GymnasiumEnv(Env):
    """One episode."""

    def __init__(self, job: Gymnasium, env: Any, seed: int) -> None:
        self.job, self.inner = job, env
        self.state = int(env.reset(seed=seed)[0])
        self.earned = 0.0

    def step(self, reply: str) -> StepResult:
        word = reply.strip().lower()
        if word not in self.job.words:
            return StepResult(f"not an action: say one of {' '.join(self.job.words)}", role="user")
        state, native, terminated, truncated, _ = self.inner.step(self.job.words.index(word))
        self.state = int(state)
        reward = self._reward(float(native), bool(terminated))
        observation = self.job.describe(self.inner, self.state)
        return StepResult(observation, reward, bool(terminated), bool(truncated), role="user")

    def _reward(self, native: float, terminated: bool) -> float:
        if self.job.kind.startswith("CliffWalking"):
            return float(terminated)
        if self.job.kind == "Taxi":
            return float(terminated and native > 0)
        before = min(max(self.earned, 0.0), 1.0)
        self.earned += native
        return min(max(self.earned, 0.0), 1.0) - before

    def expert(self) -> str | None:
        """The best action, or None where the dynamics are unknown or chance can make the best fail."""
        dynamics = getattr(self.inner.unwrapped, "P", None)
        if dynamics is None or any(len(outcomes) > 1 for outcomes in dynamics[self.state].values()):
            return None
        key = tuple(map(str, self.inner.unwrapped.desc.ravel())) if self.job.random_map else ()
        best = _best_actions(self.job.id, self.job.is_slippery, key, _Table(dynamics))
        return self.job.words[int(best[self.state])]


class _Table:
    """Dynamics passed through a cache that must not look at them: equal to any other of the same key."""

    def __init__(self, dynamics: Any) -> None:
        self.dynamics = dynamics

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Table)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=4096)
def _best_actions(id: str, slippery: bool, key: tuple[str, ...], table: _Table) -> npt.NDArray[np.intp]:
    """The greedy actions of value iteration (Bellman 1957) on the environment's own transition table."""
    rows = [
        (state, action, *outcome)
        for state, choices in table.dynamics.items()
        for action, outcomes in choices.items()
        for outcome in outcomes
    ]
    state, action, chance, following, reward, done = (np.array(column) for column in zip(*rows, strict=True))
    state, action, following = state.astype(int), action.astype(int), following.astype(int)
    value = np.zeros(int(state.max()) + 1)
    quality = np.zeros((len(value), int(action.max()) + 1))
    for _ in range(2000):
        quality[:] = 0.0
        np.add.at(quality, (state, action), chance * (reward + DISCOUNT * value[following] * ~done.astype(bool)))
        change = float(np.abs(quality.max(1) - value).max())
        value = quality.max(1)
        if change < 1e-9:
            break
    return quality.argmax(1)


def random_lake(size: int, seed: int) -> list[str]:
    """A random map with a way across, of three quarters ice."""
    rng = np.random.default_rng((size, seed))
    while True:
        lake = np.where(rng.random((size, size)) < 0.75, "F", "H")
        lake[0, 0], lake[-1, -1] = "S", "G"
        reached, stack = {(0, 0)}, [(0, 0)]
        while stack:
            row, column = stack.pop()
            for r, c in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
                if 0 <= r < size and 0 <= c < size and (r, c) not in reached and lake[r, c] != "H":
                    reached.add((r, c))
                    stack.append((r, c))
        if (size - 1, size - 1) in reached:
            return ["".join(row) for row in lake]


@lru_cache(maxsize=16)
def _made_once(id: str, options: tuple[tuple[str, Any], ...]) -> Any:
    """An environment to copy: without wrappers, and never stepped itself."""
    return _make(id, dict(options)).unwrapped


def _make(id: str, options: dict[str, Any]) -> Any:
    try:
        import gymnasium
    except ImportError as error:
        raise UsageError(
            "gymnasium is not installed", reason=str(error), fix="pip install 'journeyman[jobs]'"
        ) from error
    try:
        return gymnasium.make(id, **options)
    except Exception as error:
        raise UsageError(f"gymnasium cannot make {id!r}", reason=str(error)) from error
