"""What there is to look at: a store, the run it belongs to, and what both say of how the learner is doing.

Nothing here grows with the store: figures are of its latest episodes, and are made again only when something has come.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from journeyman.errors import JourneymanError
from journeyman.exam.calibration import early_knowledge
from journeyman.exam.stats import mean_interval
from journeyman.experience.records import EpisodeFilter, EpisodeSummary
from journeyman.experience.store import Store
from journeyman.experience.tail import Tail
from journeyman.report import charts
from journeyman.report.curves import learning_curve
from journeyman.report.html import own_pieces, summary
from journeyman.report.run import Exam, Run, model_folder, parse_exams, read_run
from journeyman.report.trace import Pieces
from journeyman.types import SUCCESS, Trajectory

T = TypeVar("T")
WINDOW = 4000
"""Episodes, the latest, that versions are compared by."""
PATIENCE = 10.0
"""Seconds for which such figures are good enough, whatever comes meanwhile."""
JUDGED = 300
"""Episodes, the latest with an outcome, that V is held against. Each is read whole."""


@dataclass(frozen=True)
class Evidence:
    """What the latest episodes say of one version.

    Attributes:
        version: its number; of an episode of several, the last.
        episodes, feedback: how many there were, and pieces of feedback on them.
        value: mean V at their ends; None without V.
        judged: of how many the outcome is known.
        success, low, high: the share of those that succeeded, with its 95% interval; None where none is known.
        first, last: when the first and the last of them began.
    """

    version: int
    episodes: int
    feedback: int
    value: float | None
    judged: int
    success: float | None
    low: float | None
    high: float | None
    first: float | None
    last: float | None


class Archive:
    """A store and its run, for people to look at.

    Args:
        run: the run's folder; None where the store is of none.
        pieces: the text of tokens; None: the tokenizer of the run's own model.
    """

    def __init__(self, store: Store, run: Path | None, pieces: Pieces | None = None) -> None:
        self.store = store
        self.run = run if run is not None and (run / "config.json").exists() else None
        self.journal = Tail(store)
        self._pieces = pieces
        self._lock = threading.Lock()
        self._made: dict[str, tuple[Any, Any]] = {}

    def pieces(self, t: Trajectory) -> list[str] | None:
        """The text of each token; None where nobody knows: without a tokenizer, or of another one's tokens."""
        return self.texts(t.tokens.tolist()) if t.policy_version >= 0 else None

    def texts(self, tokens: Sequence[int]) -> list[str] | None:
        """The same of tokens that were served."""
        pieces = self._pieces or self._once("pieces", 0, self._own_pieces)
        try:
            return None if pieces is None else pieces(tokens)
        except (IndexError, OverflowError, TypeError):  # what tokenizers say of ids that they do not have
            return None

    def _own_pieces(self) -> Pieces | None:
        return own_pieces(self.run) if self.run is not None and model_folder(self.run) is not None else None

    def read(self) -> Run | None:
        """The run as it stands; None where there is none."""
        if self.run is None:
            return None
        folder = self.run
        return self._once("run", _state(folder), lambda: _read(folder))

    def learning(self) -> list[dict[str, Any]]:
        """What became of each job of the run: first and last exam, and charts as SVG."""
        run = self.read()
        if run is None or self.run is None:
            return []
        return self._once("learning", _state(self.run), lambda: [_job(run, job) for job in run.jobs])

    def told(self) -> str:
        """What happened in the run, in a sentence or two."""
        run = self.read()
        return "" if run is None else summary(run)

    def evidence(self, key: str | None = None) -> list[Evidence]:
        """What the latest served episodes say of each version, the newest first.

        Args:
            key: of this API key's episodes alone.
        """
        return self._of_late(f"evidence {key}", lambda: _evidence(self._latest(WINDOW, key=key)))

    def judgement(self, key: str | None = None) -> dict[str, Any] | None:
        """What V knew of the latest served episodes whose outcome feedback has told; None where it was not asked."""
        return self._of_late(f"judgement {key}", lambda: self._judge(key))

    def _judge(self, key: str | None) -> dict[str, Any] | None:
        known = [e for e in self._latest(WINDOW, key=key, has_feedback=True) if e.reward is not None][:JUDGED]
        told = [self.store.whole(one.id) for one in known]
        trajectories = [t for episode in told for t in episode.trajectories()[:1]]
        report = early_knowledge(trajectories)
        if report is None:
            return None
        wins = mean_interval([float(t.outcome.success) for t in trajectories])
        line = {"step": 0, "job": "served", "split": "served", "tasks": len(known), "episodes": len(known)}
        line |= {"success": wins.mean, "low": wins.low, "high": wins.high, "value": report}
        (exam,) = parse_exams([line])
        return {"episodes": len(known), **_known(None, exam, "served")}

    def _latest(self, most: int, **wanted: Any) -> list[EpisodeSummary]:
        found: list[EpisodeSummary] = []
        cursor: str | None = None
        while len(found) < most:
            page = self.store.browse(EpisodeFilter(origin="served", **wanted), cursor=cursor, limit=1000)
            found += page.episodes
            cursor = page.cursor
            if cursor is None:
                break
        return found[:most]

    def _of_late(self, name: str, make: Callable[[], T]) -> T:
        """What was made of the store as it is, or as it was a moment ago."""
        with self._lock:
            known = self._made.get(name)
        if known is not None and time.monotonic() - known[0][1] < PATIENCE:
            return known[1]
        stand = self.store.changes().cursor
        if known is not None and known[0][0] == stand:
            return known[1]
        made = make()
        with self._lock:
            self._made[name] = ((stand, time.monotonic()), made)
        return made

    def _once(self, name: str, state: Any, make: Callable[[], T]) -> T:
        """What was made of this state; made where it was of another."""
        with self._lock:
            known = self._made.get(name)
        if known is None or known[0] != state:
            known = (state, make())
            with self._lock:
                self._made[name] = known
        return known[1]


def _evidence(episodes: Sequence[EpisodeSummary]) -> list[Evidence]:
    versions: dict[int, list[EpisodeSummary]] = {}
    for one in episodes:
        if one.versions:
            versions.setdefault(one.versions[-1], []).append(one)
    rows: list[Evidence] = []
    for version, own in sorted(versions.items(), reverse=True):
        judged = [float(one.reward >= SUCCESS) for one in own if one.reward is not None]
        values = [one.value for one in own if one.value is not None]
        times = [one.started for one in own if one.started is not None]
        wins = mean_interval(judged) if judged else None
        rows.append(
            Evidence(
                version=version,
                episodes=len(own),
                feedback=sum(one.feedback for one in own),
                value=sum(values) / len(values) if values else None,
                judged=len(judged),
                success=wins and wins.mean,
                low=wins and wins.low,
                high=wins and wins.high,
                first=min(times, default=None),
                last=max(times, default=None),
            )
        )
    return rows


def _state(folder: Path) -> tuple[tuple[int, int], ...]:
    """What changes when the run's logs do."""
    files = (folder / name for name in ("config.json", "metrics.jsonl", "exams.jsonl", "model/config.json"))
    return tuple((found.st_mtime_ns, found.st_size) for file in files if file.exists() and (found := file.stat()))


def _read(folder: Path) -> Run | None:
    try:
        return read_run(folder)
    except (JourneymanError, OSError):
        return None


def _job(run: Run, job: str) -> dict[str, Any]:
    headline = run.headline(job)
    exams = [
        (run.trajectories_at(exam.step), exam)
        for exam in run.exams
        if headline is not None and (exam.job, exam.split) == (job, headline.split)
    ]
    curve = learning_curve(run, job)
    first, last = run.knowledge(job)
    return {
        "job": job,
        "exams": [_exam(exam) for exam in run.exams if exam.job == job],
        "split": headline and headline.split,
        "kind": headline and headline.kind,
        "learning": charts.learning_chart(curve, exams, float(run.trajectories)) if curve.raw or exams else None,
        **(_known(first, last, job) if last is not None else {"early": None, "calibration": None, "brier": None}),
    }


def _known(first: Exam | None, last: Exam, job: str) -> dict[str, Any]:
    known = last.knowledge
    ranked = known is not None and known.auc != (None, None, None)
    return {
        "early": charts.early_chart(first, last) if ranked else None,
        "calibration": charts.reliability_chart(known, job) if known is not None else None,
        "brier": known and known.brier,
    }


def _exam(exam: Exam) -> dict[str, Any]:
    kept = asdict(exam)
    return {name: kept[name] for name in ("step", "split", "tasks", "episodes", "success", "low", "high")}
