"""A made-up run that looks like a real one: two jobs, V along every token, exams before and after.

Nothing is learned here. A scripted player with a given skill plays small mazes and record look-ups, and V is
worked out from how far it is from the goal, with noise; so falls and rises of V are where they should be.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from journeyman.experience.store import Store
from journeyman.types import Ending, Message, Outcome, Task, Trajectory, Turn

MOVES = {"north": (0, -1), "south": (0, 1), "west": (-1, 0), "east": (1, 0)}
ROOMS = ("hall", "attic", "studio", "library", "cellar", "kitchen", "office", "archive", "garden", "workshop")
NAMES = ("Ada", "Bea", "Carl", "Dora", "Emil", "Fay", "Gus", "Hana", "Ivo", "June")
RELATIONS = ("sister", "manager", "mentor", "neighbour")
TOWNS = ("Oslo", "Lima", "Kyoto", "Tunis", "Quito")


class WordTokens:
    """A tokenizer of words and spaces whose ids mean the same in the whole test session."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}

    def encode(self, text: str) -> list[int]:
        found = re.findall(r"<\|\w+\|>|\s?\w+|\s|[^\w\s]", text)
        assert "".join(found) == text
        return [self.ids.setdefault(piece, len(self.ids)) for piece in found]

    def pieces(self, ids: Sequence[int]) -> list[str]:
        texts = list(self.ids)
        return [texts[i] for i in ids]


TOKENS = WordTokens()


@dataclass
class Writer:
    """Builds the columns of one trajectory, message by message."""

    rng: np.random.Generator
    tokens: list[int] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)

    def add(self, text: str, sampled: bool, value: float) -> None:
        """V goes to its new value over the last tokens of the text, as it does while reading."""
        ids = TOKENS.encode(text)
        start = self.values[-1] if self.values else value
        for i in range(len(ids)):
            share = max(0.0, (i + 2 - len(ids)) / 2) if len(ids) > 1 else 1.0
            noise = self.rng.normal(0, 0.012)
            self.values.append(float(np.clip(start + (value - start) * share + noise, 0.004, 0.996)))
        self.tokens += ids
        self.mask += [sampled] * len(ids)

    def prompt(self, messages: Sequence[Message], value: float) -> None:
        for message in messages:
            self.add(f"<|im_start|>{message.role}\n{message.content}<|im_end|>\n", False, value)
        self.add("<|im_start|>assistant\n", False, value)

    def turn(self, reply: str, observation: str, value: float, answered: float, last: bool, reward: float) -> None:
        start = len(self.tokens)
        self.add(f"{reply}<|im_end|>", True, value)
        self.turns.append(Turn(start, len(self.tokens), reply, observation, reward))
        if observation and not last:
            text = f"\n<|im_start|>user\n{observation}<|im_end|>\n<|im_start|>assistant\n"
            self.add(text, False, answered)

    def finish(self, id: str, task: Task, step: int, outcome: Outcome) -> Trajectory:
        size = len(self.tokens)
        return Trajectory(
            id=id,
            task=task,
            group=id.rsplit("-", 1)[0],
            step=step,
            policy_version=max(step, 0),
            temperature=1.0,
            tokens=np.array(self.tokens, np.int32),
            mask=np.array(self.mask, bool),
            logprobs=np.where(self.mask, -0.1, 0.0).astype(np.float32),
            values=np.array(self.values, np.float32).reshape(size),
            turns=tuple(self.turns),
            outcome=outcome,
        )


def play_maze(id: str, split: str, index: int, skill: float, step: int = -1, limit: int = 24) -> Trajectory:
    """A walk to a goal on a 5x5 floor; V falls with every step away from it."""
    layout = np.random.default_rng(index + 1000 * len(split))
    rng = np.random.default_rng([index, int(skill * 1000), len(id)])
    at = [int(v) for v in layout.integers(0, 5, 2)]
    goal = [4 - at[0], (at[1] + 3) % 5]
    room = f"the {layout.choice(ROOMS)}"

    def far() -> int:
        return abs(at[0] - goal[0]) + abs(at[1] - goal[1])

    def value(left: int) -> float:
        return 1 / (1 + math.exp(-(1.5 + 3.2 * skill - 1.1 * far() * (1 - 0.75 * skill) - 22 / (left + 1) / 4)))

    prompt = Message("user", f"You are in a building you have not seen before. Reach {room}. Say where to go.")
    task = Task("maze", split, index, (prompt,), {"goal": goal}, level=far())
    writer = Writer(rng)
    writer.prompt(task.messages, value(limit))
    ending, reward = Ending.TRUNCATED, 0.0
    for number in range(1, limit + 1):
        better = [m for m, (dx, dy) in MOVES.items() if abs(at[0] + dx - goal[0]) + abs(at[1] + dy - goal[1]) < far()]
        move = str(rng.choice(better if rng.random() < skill else list(MOVES)))
        dx, dy = MOVES[move]
        inside = 0 <= at[0] + dx < 5 and 0 <= at[1] + dy < 5
        if inside:
            at = [at[0] + dx, at[1] + dy]
        arrived = far() == 0
        seen = "You arrived." if arrived else f"{'The ' + ROOMS[(at[0] * 3 + at[1]) % 10] if inside else 'A wall'}."
        reward = 1.0 if arrived else 0.0
        writer.turn(move, seen, value(limit - number), value(limit - number), arrived or number == limit, reward)
        if arrived:
            writer.values[-1] = 0.985
            ending = Ending.TERMINATED
            break
    return writer.finish(id, task, step, Outcome(reward, ending))


def play_hops(id: str, split: str, index: int, skill: float, step: int = -1) -> Trajectory:
    """A question over records, answered with look-ups; a wrong look-up costs V, noticing it gives it back."""
    layout = np.random.default_rng(index + 77)
    rng = np.random.default_rng([index, int(skill * 1000), 5])
    hops = 2 if split == "test" else 4
    people = [str(name) for name in layout.permutation(NAMES)[: hops + 1]]
    asked = [str(relation) for relation in layout.choice(RELATIONS, hops)]
    town = str(layout.choice(TOWNS))
    chain = f"{people[0]}'s {asked[0]}" + "".join(f"'s {relation}" for relation in asked[1:])
    task = Task(
        "hops",
        split,
        index,
        (
            Message("system", "Answer with the tool: lookup <name> <relation>. End with: answer <place>."),
            Message("user", f"In which town does {chain} work?"),
        ),
        level=hops,
    )
    writer = Writer(rng)
    level = 0.15 + 0.7 * skill
    writer.prompt(task.messages, level)
    lost = False
    for hop, relation in enumerate(asked):
        wrong = rng.random() > 0.35 + 0.6 * skill
        if wrong:
            other = str(rng.choice([r for r in RELATIONS if r != relation]))
            stranger = str(rng.choice([n for n in NAMES if n not in people]))
            level = max(0.06, level - 0.45)
            writer.turn(f"lookup {people[hop]} {other}", stranger, level, level - 0.02, False, 0.0)
            lost = rng.random() > skill
            if lost:
                break
            level = min(0.9, level + 0.35)
        level = min(0.95, level + 0.5 * skill / hops)
        writer.turn(f"lookup {people[hop]} {relation}", people[hop + 1], level, level + 0.02, False, 0.0)
    said = str(rng.choice([t for t in TOWNS if t != town])) if lost else town
    writer.turn(f"answer {said}", "", 0.02 if lost else 0.98, 0.0, True, 0.0 if lost else 1.0)
    return writer.finish(id, task, step, Outcome(0.0 if lost else 1.0, Ending.TERMINATED))


PLAYERS: dict[str, Callable[..., Trajectory]] = {"maze": play_maze, "hops": play_hops}
SPLITS = {"maze": ("test", "buildings"), "hops": ("test", "more_hops")}
RATES = {
    ("maze", "test"): (0.24, 0.93),
    ("maze", "buildings"): (0.21, 0.46),
    ("hops", "test"): (0.31, 0.89),
    ("hops", "more_hops"): (0.08, 0.41),
}


def exam_line(
    step: int, job: str, split: str, success: float, known: float | None, tasks: int = 200
) -> dict[str, object]:
    """A line of exams.jsonl with plausible calibration."""
    error = 1.96 * math.sqrt(max(success * (1 - success), 0.004) / tasks)
    value = None
    if known is not None:
        rng = np.random.default_rng(len(split) + step)
        bins = [(i + 0.5) / 10 for i in range(10)]
        value = {
            "auc_25": 0.5 + 0.45 * known,
            "auc_50": 0.5 + 0.8 * 0.55 * known + 0.04,
            "auc_75": min(0.99, 0.5 + 0.5 * known),
            "brier": 0.25 - 0.19 * known,
            "explained_variance": 0.7 * known,
            "reliability": [
                [b, float(np.clip(b + rng.normal(0, 0.05), 0, 1)), int(40 + 500 * abs(b - 0.5) ** 2)] for b in bins
            ],
        }
    return {
        "step": step,
        "job": job,
        "split": split,
        "tasks": tasks,
        "episodes": tasks,
        "success": success,
        "low": max(0.0, success - error),
        "high": min(1.0, success + error),
        "reward": success,
        "failed": 0,
        "tokens": 61 * tasks,
        "seconds": 4.1,
        "value": value,
    }


def learn_lines(jobs: Sequence[str], steps: int, values: bool) -> list[dict[str, object]]:
    """Lines of metrics.jsonl: a rise from the exam rates before to those after."""
    rng = np.random.default_rng(3)
    lines: list[dict[str, object]] = []
    tokens = 0
    for step in range(1, steps + 1):
        line: dict[str, object] = {"kind": "learn", "step": step, "seconds": 21 + 5.6 * step}
        tokens += int(256 * rng.uniform(58, 66))
        line |= {"trajectories": 256 * step, "tokens": tokens}
        for number, job in enumerate(jobs):
            low, high = RATES[job, "test"]
            share = 1 / (1 + math.exp(-(step / steps - 0.35 - 0.12 * number) * 11))
            rate = rng.binomial(128, low + (high - low) * share) / 128
            line |= {f"{job}/success": rate, f"{job}/reward": rate, f"{job}/failed": 0.0}
            known = 1 - math.exp(-step / steps * 4)
            for share, top in ((25, 0.78), (50, 0.89), (75, 0.96)) if values else ():
                auc = float(0.52 + (top - 0.52) * known + rng.normal(0, 0.02))
                line[f"{job}/value/auc_{share}"] = None if rng.random() < 0.05 else auc
        line |= {"time/collect": 3.6, "time/update": 1.5, "time/value": 0.4, "policy/entropy": 0.9}
        lines.append(line)
    return lines


MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """A function that writes a run folder and returns it; its arguments leave parts out."""

    def make(
        jobs: Sequence[str] = ("maze", "hops"),
        *,
        steps: int = 48,
        exams: bool = True,
        values: bool = True,
        finished: bool = True,
        tasks: int = 12,
        name: str = "demo",
    ) -> Path:
        return write_run(tmp_path / name, jobs, steps, exams, values, finished, tasks)

    return make


def write_run(
    folder: Path, jobs: Sequence[str], steps: int, exams: bool, values: bool, finished: bool, tasks: int
) -> Path:
    folder.mkdir(parents=True)
    config = {
        "jobs": list(jobs),
        "model": "tiny",
        "seed": 0,
        "steps": steps,
        "learn": {"learning_rate": 0.003, "clip_low": 0.2, "clip_high": 0.28, "group": 8},
        "value": {"placement": "twin", "target": "bernoulli", "warmup_steps": 4},
        "exam": {"tasks": 200, "attempts": 1, "temperature": 1.0},
        "versions": {"journeyman": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "python": "3.11.7"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    lines: list[dict[str, object]] = [
        {"kind": "school", "step": 10 * i, "loss": 3.1 / i, "seconds": 2.0 * i, "tokens": 40_000} for i in (1, 2, 9)
    ]
    lines += learn_lines(jobs, steps, values)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    played: list[Trajectory] = []
    results: list[dict[str, object]] = []
    for job in jobs:
        for split in SPLITS[job]:
            for step, skill in ((0, 0.12), (steps // 2, 0.6), (steps, 0.9)) if exams else ():
                low, high = RATES[job, split]
                success = low if step == 0 else high if step == steps else (low + 2 * high) / 3
                known = (0.35 + 0.6 * step / steps) if values else None
                results.append(exam_line(step, job, split, success, known))
                for index in range(tasks):
                    id = f"exam-{step:06d}-{job}-{split}-g{index:04d}-m00"
                    played.append(PLAYERS[job](id, split, index, skill if split == "test" else skill * 0.7))
        played += [PLAYERS[job](f"s000001-{job}-g{i:04d}-m00", "train", i, 0.3, step=1) for i in range(tasks)]
    if exams:
        (folder / "exams.jsonl").write_text("".join(json.dumps(line) + "\n" for line in results))
    if not values:
        for trajectory in played:
            trajectory.values.fill(np.nan)
    with Store(folder / "experience.sqlite") as store:
        store.add(played)
    if finished:
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text("{}")
    return folder


@pytest.fixture
def pieces() -> Callable[[Sequence[int]], list[str]]:
    """The text of each token of the made-up runs."""
    return TOKENS.pieces


@pytest.fixture
def make_trajectory() -> Callable[..., Trajectory]:
    """One made-up episode: make_trajectory("maze", "an-id", "test", index, skill)."""

    def make(job: str, id: str, split: str, index: int, skill: float, step: int = -1) -> Trajectory:
        return PLAYERS[job](id, split, index, skill, step)

    return make
