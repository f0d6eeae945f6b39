"""The comparison is fair and resumable: same tasks, same charge, same number of trials; figures follow from curves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.common import Results
from bench.efficiency import runs
from bench.efficiency.methods import DEFAULT, METHODS, TRIALS, shared
from bench.efficiency.picture import band, draw
from bench.efficiency.report import Curves, figures, table
from bench.efficiency.runs import Order, finished, play, read_curve
from bench.efficiency.stats import Curve
from bench.efficiency.subjects import SUBJECTS, Subject
from bench.efficiency.trl_run import practised
from bench.sample_efficiency import possible, wanted
from journeyman.config import LearnConfig
from journeyman.jobs import resolve
from journeyman.stages import practice

ORDER = Order("maze", "grpo", 0, DEFAULT, "test", 256)


def curve(*success: float, every: int = 512, minutes: float = 0.1) -> Curve:
    """Exams every so many trajectories, each step of which took the same."""
    spent = tuple(every * i for i in range(len(success)))
    return Curve(spent, tuple(30 * s for s in spent), tuple(minutes * i for i in range(len(success))), success)


@pytest.mark.parametrize("job", SUBJECTS)
def test_every_method_is_charged_alike(job: str) -> None:
    subject = SUBJECTS[job]
    assert subject.budget % subject.exam_every == 0
    assert 0 < subject.thresholds[0] < subject.thresholds[1] < subject.thresholds[2] < 1
    assert subject.single_turn == (resolve(subject.spec).max_turns == 1)
    for name, method in METHODS.items():
        for settings in method.trials_of(subject):
            base = shared(subject, "apprentice", 0, settings, "test", subject.budget)
            config = base if method.configure is None else method.configure(base, settings)
            step = config.tasks * config.repeats
            assert config.steps * step == subject.budget, name
            assert config.exam == base.exam and config.exam_every * step == max(subject.exam_every, step), name
            assert config.jobs == base.jobs and config.model == base.model and config.seed == base.seed, name


def test_every_method_has_as_many_trials() -> None:
    for subject in SUBJECTS.values():
        assert {len(method.trials_of(subject)) for method in METHODS.values()} == {len(TRIALS)}
        assert all(method.default_of(subject) in method.trials_of(subject) for method in METHODS.values())
    with pytest.raises(ValueError, match=r"every method gets \d+ trials"):
        replace(METHODS["grpo"], trials=TRIALS[1:])
    with pytest.raises(ValueError, match="among the trials"):
        replace(METHODS["grpo"], default={**DEFAULT, "learning_rate": 1.0})


def test_trl_sees_our_tasks_in_our_order() -> None:
    job = resolve("countdown")
    config = LearnConfig(jobs=(job.name,), tasks=16, seed=7)
    learning: Any = SimpleNamespace(jobs={job.name: job}, config=config)
    ours = [task.index for step in range(5) for task in practice(learning, step)]
    assert practised(job.splits["train"], 7, 5, 16) == ours


def test_runs_go_seed_by_seed_and_leave_out_what_trl_cannot_do() -> None:
    orders = wanted(["maze", "countdown"], ["grpo", "trl"], [4, 5], None)
    assert [(o.seed, o.job, o.method) for o in orders] == [
        (seed, job, method)
        for seed in (4, 5)
        for job, method in (("maze", "grpo"), ("countdown", "grpo"), ("countdown", "trl"))
    ]
    assert not possible("frozenlake", "trl"), "several turns"


def test_the_time_of_exams_is_not_counted(tmp_path: Path) -> None:
    steps = [
        {"kind": "school", "step": 0},
        *(
            {
                "kind": "learn", "step": s, "trajectories": 128 * s, "tokens": 1000 * s, "seconds": 999.0 * s,
                "time/collect": 2.0, "time/update": 1.0,
            }
            for s in (1, 2, 3, 4)
        ),
    ]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(s) + "\n" for s in steps))
    exams = [{"step": s, "success": x} for s, x in ((0, 0.1), (2, 0.2), (4, 0.5))]
    (tmp_path / "exams.jsonl").write_text("".join(json.dumps(e) + "\n" for e in exams))
    assert read_curve(tmp_path) == Curve((0, 256, 512), (0, 2000, 4000), (0.0, 0.1, 0.2), (0.1, 0.2, 0.5))


def test_a_run_is_kept_whole_and_known_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Subject("maze,size=3,max_turns=4", "long", (0.7, 0.8, 0.9), 256, 128)
    monkeypatch.setattr(runs, "SUBJECTS", {"maze": small})
    file = tmp_path / "work" / f"{ORDER.name}.json"
    play(ORDER, file, tmp_path / "cache")
    found = finished(file, ORDER)
    assert found is not None and found.trajectories == (0, 128, 256)
    assert found.tokens[0] == 0 < found.tokens[1] < found.tokens[2]
    assert 0 == found.minutes[0] < found.minutes[1] < found.minutes[2]
    assert not list((tmp_path / "cache" / "runs").iterdir()), "what is finished needs no folder"
    kept = json.loads(file.read_text())
    assert kept["config"]["model"] == "apprentice" and kept["provenance"]["seeds"] == [0]
    for other in (replace(ORDER, settings={**DEFAULT, "learning_rate": 1e-3}), replace(ORDER, split="valid")):
        assert finished(file, other) is None, "made by another order"
    assert finished(tmp_path / "nowhere.json", ORDER) is None


MAZE, COUNTDOWN = (SUBJECTS[job].thresholds[1] for job in ("maze", "countdown"))
CURVES: Curves = {
    "maze": {
        "grpo": {0: curve(0.1, 0.1, 0.1, MAZE, MAZE, MAZE), 1: curve(0.1, 0.1, 0.1, MAZE, MAZE, MAZE)},
        "value": {0: curve(0.1, MAZE, MAZE, MAZE, minutes=0.2), 1: curve(0.1, 0.1, MAZE, MAZE)},
    },
    "countdown": {
        "grpo": {0: curve(0.0, COUNTDOWN, COUNTDOWN, minutes=0.1)},
        "trl": {0: curve(0.0, 0.0, COUNTDOWN, COUNTDOWN, minutes=0.4)},
    },
}


def test_ratios_follow_from_curves(tmp_path: Path) -> None:
    results = Results("sample_efficiency", seeds=[0, 1], folder=tmp_path)
    figures(results, CURVES, whole=True)
    found = json.loads(results.write().read_text())["figures"]
    # GRPO is there at the third exam, 1,536 trajectories; with V at the first and at the second
    ratio = found["trajectories_ratio_maze"]
    assert (ratio["low"], ratio["high"]) == (pytest.approx(1.5), pytest.approx(3)) and ratio["unit"] == "times"
    assert ratio["value"] == pytest.approx((3 * 1.5) ** 0.5)
    assert found["minutes_ratio_maze"]["value"] == pytest.approx((0.3 / 0.2 * 0.3 / 0.2) ** 0.5)
    assert found["minutes_ratio_trl_countdown"]["value"] == pytest.approx(0.8 / 0.1), "TRL's over ours"
    assert "trajectories_ratio_long" not in found, "a median over some of its jobs is not the median"
    assert found["final_percent_grpo_maze"]["value"] == pytest.approx(100 * MAZE)


def test_a_part_of_the_jobs_has_its_median_in_the_quick_form(tmp_path: Path) -> None:
    results = Results("sample_efficiency", seeds=[0, 1], quick=True, folder=tmp_path)
    figures(results, CURVES, whole=False)
    found = json.loads(results.write().read_text())["figures"]
    assert found["trajectories_ratio_long"] == found["trajectories_ratio_maze"]


def test_censored_runs_show(tmp_path: Path) -> None:
    curves = {"maze": {"grpo": {0: curve(0.5, 0.5, 0.5)}, "value": {0: curve(0.5, 0.9, 0.9)}}}
    results = Results("sample_efficiency", seeds=[0], folder=tmp_path)
    figures(results, curves, whole=True)
    found = json.loads(results.write().read_text())["figures"]
    assert found["trajectories_ratio_maze"]["unit"] == "times (at least)"
    lines = table(curves).splitlines()
    assert "> 1,024" in lines[2] and "> 1,024" not in lines[3].split("80%")[1] and "≥ 2.0" in lines[3]
    assert all(line.count("|") == lines[0].count("|") for line in lines)


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    draw(CURVES, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_band_goes_as_far_as_all_its_seeds() -> None:
    spent, low, mean, high = band([curve(0.0, 0.5, 1.0), curve(0.2, 0.3, every=256)])
    assert spent.tolist() == [0, 256]
    assert low.tolist() == pytest.approx([0, 0.25])
    assert mean.tolist() == pytest.approx([0.1, 0.275])
    assert high.tolist() == pytest.approx([0.2, 0.3])
