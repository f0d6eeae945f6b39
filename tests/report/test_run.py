"""Reading a run folder: whatever is there, nothing demanded; and the statistics that come with it."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from journeyman.errors import RunError
from journeyman.exam.stats import auc, mean_interval
from journeyman.report.curves import learning_curve, smooth, smoothed
from journeyman.report.run import Comparison, count_parameters, flatten, parse_exams, read_run

MakeRun = Callable[..., Path]


def exam(solved: int, tasks: int, step: int = 0, auc: float | None = None, **more: object) -> dict[str, object]:
    found = mean_interval([1.0] * solved + [0.0] * (tasks - solved))
    value = None if auc is None else {"auc_25": None, "auc_50": auc, "auc_75": float("nan"), "reliability": []}
    line = {"step": step, "job": "maze", "split": "test", "tasks": tasks, "episodes": tasks, "value": value}
    return line | {"success": found.mean, "low": found.low, "high": found.high} | more


def test_a_whole_run_is_read(make_run: MakeRun) -> None:
    run = read_run(make_run(steps=20))
    assert run.jobs == ["maze", "hops"]
    assert (run.step, run.steps, run.trajectories) == (20, 20, 20 * 256)
    assert run.state == "finished" and run.notes == ()
    assert run.tokens == run.learn[-1]["tokens"] and run.seconds == run.learn[-1]["seconds"]
    assert [(c.job, c.split, c.kind) for c in run.comparisons()] == [
        ("maze", "test", "held out"),
        ("maze", "buildings", "generalization"),
        ("hops", "test", "held out"),
        ("hops", "more_hops", "generalization"),
    ]
    headline = run.headline("maze")
    assert headline is not None and headline.after is not None
    assert (headline.split, headline.before.success, headline.after.success) == ("test", 0.24, 0.93)
    assert dict(run.time_spent())["collect"] == pytest.approx(20 * 3.6)


def test_a_step_written_twice_counts_once_and_a_torn_line_not_at_all(make_run: MakeRun) -> None:
    folder = make_run(steps=4)
    again = {"kind": "learn", "step": 4, "trajectories": 1024, "maze/success": 0.5}
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(again) + '\n{"kind": "learn", "st')
    run = read_run(folder)
    assert [line["step"] for line in run.learn] == [1, 2, 3, 4]
    assert run.learn[-1]["maze/success"] == 0.5
    assert run.notes == ("metrics.jsonl: 1 damaged line left out",)


@pytest.mark.parametrize("content", ["", "[]", "{", "null\n3\n"])
def test_nothing_of_a_run_has_to_be_sound(tmp_path: Path, content: str) -> None:
    for name in ("config.json", "metrics.jsonl", "exams.jsonl"):
        (tmp_path / name).write_text(content)
    run = read_run(tmp_path)
    assert run.jobs == [] and run.trajectories == 0 and run.state == "interrupted" and run.comparisons() == []


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run folder"):
        read_run(tmp_path)
    with pytest.raises(RunError, match="no run folder at"):
        read_run(tmp_path / "missing")


def test_the_state_of_a_run(make_run: MakeRun) -> None:
    folder = make_run(steps=5)
    (folder / "run.lock").write_text("1")
    assert read_run(folder).state == "finished"
    with (folder / "run.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert read_run(folder).state == "running"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"steps": 9}))
    assert read_run(folder).state == "interrupted"


def test_the_interval_of_a_difference_is_newcombes() -> None:
    """Newcombe 1998, Statistics in Medicine 17, table II: 56/70 against 48/80, method 10."""
    after, before = parse_exams([exam(48, 80), exam(56, 70, step=1)])[::-1]
    change = Comparison("maze", "test", before, after).change
    assert change == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)
    assert Comparison("maze", "test", before, None).change is None


def test_the_interval_of_an_auc_holds_the_true_one() -> None:
    """Exponential scores, as Hanley and McNeil assume: with scales 1 and 3 the true area is 3/4."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        scores = np.concatenate([rng.exponential(3, 40), rng.exponential(1, 60)])
        (found,) = parse_exams([exam(40, 100, auc=auc(scores, np.arange(100) < 40))])
        bounds = found.auc(2)
        assert bounds is not None
        held += bounds[1] <= 0.75 <= bounds[2]
    assert 0.92 <= held / 400 <= 0.99
    assert found.auc(1) is None and found.auc(3) is None


@pytest.mark.parametrize("area", [0.0, 0.5, 1.0])
def test_an_auc_lies_within_its_interval(area: float) -> None:
    (found,) = parse_exams([exam(9, 12, auc=area)])
    bounds = found.auc(2)
    assert bounds is not None and 0 <= bounds[1] <= area <= bounds[2] <= 1 and bounds[2] - bounds[1] < 1


def test_knowledge_comes_from_an_exam_that_has_some(make_run: MakeRun) -> None:
    folder = make_run(("maze",), exams=False)
    lines = [exam(20, 40, 0, 0.6), exam(39, 40, 5, 0.9), exam(40, 40, 9)]
    (folder / "exams.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    first, last = read_run(folder).knowledge("maze")
    assert first is not None and last is not None and (first.step, last.step) == (0, 5)
    assert read_run(folder).knowledge("hops") == (None, None)


def test_the_learning_curve_counts_all_jobs(make_run: MakeRun) -> None:
    run = read_run(make_run(steps=30))
    curve = learning_curve(run, "hops")
    assert [x for x, _ in curve.raw] == [256 * step for step in range(1, 31)]
    assert len(curve.smooth) == 30 and curve.smooth[-1].mean > curve.smooth[0].mean + 0.4
    assert learning_curve(run, "unknown").raw == ()
    assert smoothed(run, "maze/value/auc_50") and smoothed(run, "nothing") == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_the_smoothed_band_holds_its_mean(rates: list[float]) -> None:
    points = smooth([float(i) for i in range(len(rates))], rates, [64.0] * len(rates))
    assert all(0 <= p.low <= p.mean + 1e-9 and p.mean <= p.high + 1e-9 and p.high <= 1 for p in points)
    assert min(rates) - 1e-9 <= min(p.mean for p in points) and max(p.mean for p in points) <= max(rates) + 1e-9


def test_a_slope_does_not_widen_the_band_as_noise_does() -> None:
    xs, counts = [float(i) for i in range(40)], [1e6] * 40
    slope = smooth(xs, [i / 40 for i in range(40)], counts)[20]
    noise = smooth(xs, [0.5 + 0.3 * (-1) ** i for i in range(40)], counts)[20]
    assert slope.high - slope.low < 0.05 < 0.4 < noise.high - noise.low


def test_certainty_is_never_claimed_from_agreement_alone() -> None:
    points = smooth([1.0, 2.0, 3.0], [1.0, 1.0, 1.0], [8.0] * 3)
    assert all(p.mean == 1 and p.low < 0.95 for p in points)


def test_parameters_are_counted_without_loading_them(tmp_path: Path) -> None:
    assert count_parameters(tmp_path) is None
    save_file({"a": torch.zeros(3, 5), "b": torch.zeros(7)}, tmp_path / "model.safetensors", {"format": "pt"})
    assert count_parameters(tmp_path) == 22
    (tmp_path / "more.safetensors").write_bytes(b"damaged")
    assert count_parameters(tmp_path) is None


def test_configuration_is_flattened() -> None:
    config = {"jobs": ["maze"], "value": {"bins": 51, "inner": {"x": None}}, "empty": {}}
    assert flatten(config) == [
        ("jobs", '["maze"]'),
        ("value.bins", "51"),
        ("value.inner.x", "null"),
        ("empty", "{}"),
    ]
