"""A run folder, read for people: whatever is there, nothing demanded.

A run may have been killed at any instant, so a torn last line is skipped, a line written twice (a resumed
run repeats the steps after its checkpoint) counts once, and everything that is missing is None or empty.
"""

from __future__ import annotations

import fcntl
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from journeyman.errors import CheckpointError, RunError
from journeyman.model.calibration import Calibration

Line = Mapping[str, Any]
State = Literal["running", "finished", "interrupted"]
Kind = Literal["practised", "held out", "generalization"]


@dataclass(frozen=True)
class Knowledge:
    """What an exam says of V: see `journeyman.exam.calibration`. None where it cannot be computed.

    Attributes:
        auc: share of (success, failure) pairs that V ranks rightly after 25, 50, 75% of the episode.
        brier: mean squared error of V as a probability of success.
        explained_variance: 1 - Var(outcome - V) / Var(outcome).
        reliability: (mean V, share of successes, count) of each bin.
    """

    auc: tuple[float | None, float | None, float | None]
    brier: float | None
    explained_variance: float | None
    reliability: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Exam:
    """One line of exams.jsonl. `low` and `high` bound the success rate with 95% confidence.

    `failed` counts episodes in which something broke; they are no successes. `search` says how answers were searched
    for (the strategy, and how often its tokens), and is empty for plain attempts.
    """

    step: int
    job: str
    split: str
    tasks: int
    episodes: int
    success: float
    low: float
    high: float
    failed: int
    tokens: float
    seconds: float
    knowledge: Knowledge | None
    search: str = ""

    def auc(self, quarter: int) -> tuple[float, float, float] | None:
        """(AUC, low, high at 95%) of V after so many quarters of the episode; None where there is none.

        Standard error of Hanley and McNeil (1982, Radiology 143), on the logit so that it stays within 0..1.
        """
        value = self.knowledge.auc[quarter - 1] if self.knowledge else None
        wins = round(self.success * self.episodes)
        losses = self.episodes - self.failed - wins
        if value is None or wins < 1 or losses < 1:
            return None if value is None else (value, value, value)
        edge = 0.5 / (wins * losses)
        a = min(max(value, edge), 1 - edge)
        spread = (wins - 1) * (a / (2 - a) - a * a) + (losses - 1) * (2 * a * a / (1 + a) - a * a)
        error = math.sqrt((a * (1 - a) + spread) / (wins * losses)) / (a * (1 - a))
        logit = math.log(a / (1 - a))
        low, high = (1 / (1 + math.exp(-(logit + sign * 1.96 * error))) for sign in (-1, 1))
        return value, min(low, value), max(high, value)


@dataclass(frozen=True)
class Comparison:
    """The first and the last exam of one split of one job; `after` is None while there is only one."""

    job: str
    split: str
    before: Exam
    after: Exam | None

    @property
    def kind(self) -> Kind:
        """What a success on this split proves."""
        known: dict[str, Kind] = {"train": "practised", "test": "held out"}
        return known.get(self.split, "generalization")

    @property
    def last(self) -> Exam:
        return self.after or self.before

    @property
    def change(self) -> tuple[float, float, float] | None:
        """(difference, low, high) at 95%, from the two intervals by Newcombe's hybrid score method.

        Newcombe (1998), method 10. It treats the exams as independent; they share their tasks, which makes
        the interval too wide rather than too narrow.
        """
        if self.after is None:
            return None
        a, b = self.before, self.after
        change = b.success - a.success
        low = change - math.hypot(b.success - b.low, a.high - a.success)
        high = change + math.hypot(b.high - b.success, a.success - a.low)
        return change, low, high


@dataclass(frozen=True)
class Run:
    """Everything the report, the terminal summary and the picture draw from, but for the episodes.

    Attributes:
        folder: where it lies.
        config: config.json, or empty.
        school: lines of kind "school", one per step, ascending.
        learn: lines of kind "learn", one per step, ascending.
        exams: one per (step, job, split), ascending.
        state: whether a process holds it, all steps are done and the model is written, or neither.
        calibration: of the final model's V; the identity as long as there is none.
        notes: what could not be read, in words.
    """

    folder: Path
    config: Mapping[str, Any]
    school: tuple[Line, ...]
    learn: tuple[Line, ...]
    exams: tuple[Exam, ...]
    state: State
    calibration: Calibration
    notes: tuple[str, ...]

    @property
    def jobs(self) -> list[str]:
        """Jobs that were practised or examined, in order of appearance."""
        practised = [key.removesuffix("/success") for line in self.learn for key in line if key.endswith("/success")]
        return list(dict.fromkeys([*practised, *(exam.job for exam in self.exams)]))

    @property
    def trajectories(self) -> int:
        return int(_last(self.learn, "trajectories"))

    @property
    def tokens(self) -> float:
        """Tokens read and written while practising."""
        return _last(self.learn, "tokens")

    @property
    def seconds(self) -> float:
        """Since the start of the run, as far as anything was logged."""
        lines = (*self.school, *self.learn)
        return max((number(line, "seconds") or 0.0 for line in lines), default=0.0)

    @property
    def step(self) -> int:
        return int(_last(self.learn, "step"))

    @property
    def steps(self) -> int | None:
        """Steps that the configuration asks for."""
        asked = number(self.config, "steps")
        return None if asked is None else int(asked)

    def trajectories_at(self, step: int) -> float:
        """Episodes practised when the exam of this step was held."""
        return max((number(line, "trajectories") or 0.0 for line in self.learn if line["step"] <= step), default=0.0)

    def comparisons(self, job: str | None = None) -> list[Comparison]:
        """First against last exam of each split: jobs in order, then train, test, the others by name."""
        found: list[Comparison] = []
        for name in self.jobs if job is None else [job]:
            splits = {exam.split for exam in self.exams if exam.job == name}
            for split in sorted(splits, key=lambda s: (s != "train", s != "test", s)):
                exams = [exam for exam in self.exams if (exam.job, exam.split) == (name, split)]
                found.append(Comparison(name, split, exams[0], exams[-1] if len(exams) > 1 else None))
        return found

    def headline(self, job: str) -> Comparison | None:
        """The comparison that counts most: held-out tasks like the practised ones, else the nearest to it."""
        ranked = sorted(
            self.comparisons(job),
            key=lambda c: ("held out", "generalization", "practised").index(c.kind),
        )
        return ranked[0] if ranked else None

    def knowledge(self, job: str) -> tuple[Exam | None, Exam | None]:
        """(first, last) exam of the headline split that says something about V.

        Where everything succeeds, V has no failure to foresee and its AUC does not exist; then an earlier
        exam, or another split of the job, speaks for it.
        """
        headline = self.headline(job)
        usable = [exam for exam in self.exams if exam.job == job and exam.knowledge is not None]
        ranked = [exam for exam in usable if exam.knowledge and exam.knowledge.auc[1] is not None] or usable
        if headline is None or not ranked:
            return None, None
        preferred = [exam for exam in ranked if exam.split == headline.split]
        chosen = preferred or [exam for exam in ranked if exam.split == ranked[-1].split]
        return (chosen[0] if len(chosen) > 1 else None), chosen[-1]

    def time_spent(self) -> list[tuple[str, float]]:
        """(what, seconds): the logged "time/..." figures, schooling, exams and the rest, longest first."""
        spent: dict[str, float] = {}
        for line in self.learn:
            for key in line:
                if key.startswith("time/"):
                    name = key.removeprefix("time/").replace("_", " ")
                    spent[name] = spent.get(name, 0.0) + (number(line, key) or 0.0)
        spent.setdefault("school", _last(self.school, "seconds"))
        if not any(name.startswith("exam") for name in spent):
            spent["exams"] = sum(exam.seconds for exam in self.exams)
        rest = self.seconds - sum(spent.values())
        if rest > 0.01 * self.seconds:
            spent["the rest"] = rest
        return sorted(((name, s) for name, s in spent.items() if s > 0), key=lambda item: -item[1])


def read_run(folder: Path) -> Run:
    """Reads a run folder. Raises RunError if it is none (no folder, or nothing of a run in it)."""
    known = ("config.json", "metrics.jsonl", "exams.jsonl", "experience.sqlite")
    if not folder.is_dir():
        raise RunError(
            f"no run folder at {folder}", fix="give the folder that `journeyman learn` wrote, e.g. runs/demo"
        )
    if not any((folder / name).exists() for name in known):
        raise RunError(
            f"{folder} is not a run folder",
            reason=f"it has none of {', '.join(known)}",
            fix="give the folder that `journeyman learn` wrote, e.g. runs/demo",
        )
    notes: list[str] = []
    metrics = _lines(folder / "metrics.jsonl", notes)
    config: Any = {}
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except FileNotFoundError:
        notes.append("config.json is missing")
    except (OSError, ValueError) as error:
        notes.append(f"config.json cannot be read ({error})")
    calibration = Calibration()
    try:
        calibration = Calibration.load(folder / "model" / "value")
    except CheckpointError as error:
        notes.append(f"{error.mistake} ({error.reason})")
    run = Run(
        folder=folder,
        config=cast("dict[str, Any]", config) if isinstance(config, dict) else {},
        school=_by_step(line for line in metrics if line.get("kind") == "school"),
        learn=_by_step(line for line in metrics if line.get("kind") == "learn"),
        exams=parse_exams(_lines(folder / "exams.jsonl", notes)),
        state="interrupted",
        calibration=calibration,
        notes=tuple(notes),
    )
    if _is_held(folder / "run.lock"):
        return replace(run, state="running")
    done = (folder / "model" / "config.json").exists() and run.step >= (run.steps or 0)
    return replace(run, state="finished" if done else "interrupted")


def parse_exams(lines: Iterable[Line]) -> tuple[Exam, ...]:
    """Exam lines as records, ascending by step; of two that tell the same, the later one counts."""
    latest: dict[tuple[int, str, str], Exam] = {}
    for line in lines:
        success, step = number(line, "success"), number(line, "step")
        if success is None or step is None:
            continue
        low, high = number(line, "low"), number(line, "high")
        exam = Exam(
            step=int(step),
            job=str(line.get("job", "?")),
            split=str(line.get("split", "?")),
            tasks=int(number(line, "tasks") or 0),
            episodes=int(number(line, "episodes") or 0),
            success=success,
            low=success if low is None else low,
            high=success if high is None else high,
            failed=int(number(line, "failed") or 0),
            tokens=number(line, "tokens") or 0.0,
            seconds=number(line, "seconds") or 0.0,
            knowledge=_knowledge(line.get("value")),
            search=f"{line['strategy']} \N{MULTIPLICATION SIGN}{line.get('think')}" if line.get("strategy") else "",
        )
        latest[exam.step, exam.job, exam.split] = exam
    return tuple(sorted(latest.values(), key=lambda exam: exam.step))


def number(line: Line, key: str) -> float | None:
    """A finite number at `key`, else None."""
    value = line.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def flatten(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested configuration as dotted rows: {"value": {"bins": 51}} -> [("value.bins", "51")]."""
    rows: list[tuple[str, str]] = []
    for key, value in config.items():
        if isinstance(value, dict) and value:
            rows += flatten(cast("dict[str, Any]", value), f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)))
    return rows


def count_parameters(folder: Path) -> int | None:
    """Parameters in a model folder, from the headers of its safetensors files; None where there are none."""
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with path.open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                if size > path.stat().st_size:
                    return None
                header: dict[str, Any] = json.loads(file.read(size))
            total += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
        except (OSError, ValueError, KeyError, TypeError):
            return None
    return total or None


def model_folder(folder: Path) -> Path | None:
    """The final model of a run, else its latest checkpoint, else None."""
    candidates = [folder / "model", *sorted(folder.glob("checkpoints/step-*"), reverse=True)]
    return next((path for path in candidates if (path / "config.json").exists()), None)


def _is_held(lock: Path) -> bool:
    """Whether a process works on the run: it holds an exclusive lock on this file."""
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _lines(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    found: list[dict[str, Any]] = []
    damaged = 0
    for text in path.read_text("utf-8", errors="replace").splitlines():
        try:
            line: Any = json.loads(text)
        except ValueError:
            damaged += 1
            continue
        if isinstance(line, dict):
            found.append(cast("dict[str, Any]", line))
    if damaged:
        notes.append(f"{path.name}: {damaged} damaged line{'s' if damaged > 1 else ''} left out")
    return found


def _by_step(lines: Iterable[dict[str, Any]]) -> tuple[Line, ...]:
    latest = {step: {**line, "step": int(step)} for line in lines if (step := number(line, "step")) is not None}
    return tuple(latest[step] for step in sorted(latest))


def _knowledge(value: Any) -> Knowledge | None:
    if not isinstance(value, dict):
        return None
    line = cast("dict[str, Any]", value)
    bins = cast("list[list[float]]", line.get("reliability") or [])
    return Knowledge(
        auc=(number(line, "auc_25"), number(line, "auc_50"), number(line, "auc_75")),
        brier=number(line, "brier"),
        explained_variance=number(line, "explained_variance"),
        reliability=tuple((float(p), float(o), float(n)) for p, o, n in bins if n > 0),
    )


def _last(lines: tuple[Line, ...], key: str) -> float:
    return next((value for line in reversed(lines) if (value := number(line, key)) is not None), 0.0)
