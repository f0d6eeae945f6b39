"""What bench/ writes: the format, and that partial runs add up."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from bench.common import FOLDER, Results, interval, shown


def check_format(content: dict[str, Any]) -> None:
    """Raise unless this is what every script writes."""
    for name, figure in content["figures"].items():
        assert set(figure) == {"value", "low", "high", "unit"}, name
        assert math.isfinite(figure["value"]) and figure["unit"], name
        if figure["low"] is not None:
            assert figure["low"] <= figure["value"] + 1e-9 and figure["value"] <= figure["high"] + 1e-9, name
    assert {"command", "date", "machine", "versions", "seeds"} <= content.keys()
    explained = {name for run in content["runs"] for name in run["figures"]}
    assert explained == content["figures"].keys(), "every figure has the run it comes from"


def test_committed_results_have_the_format() -> None:
    for path in sorted(FOLDER.glob("*.json")):
        content = json.loads(path.read_text())
        assert content["name"] == path.stem.removesuffix(".quick")
        check_format(content)


def test_a_run_is_written_whole(tmp_path: Path) -> None:
    results = Results("demo", seeds=[0], folder=tmp_path)
    results.figure("kills_episodes_lost", 0, "episodes", low=0, high=5.8)
    results.detail("curve", [[0, 0.1]])
    content = json.loads(results.write().read_text())
    check_format(content)
    assert content["figures"] == {"kills_episodes_lost": {"value": 0, "low": 0, "high": 5.8, "unit": "episodes"}}
    assert content["details"] == {"curve": [[0, 0.1]]}
    assert content["seeds"] == [0]


def test_partial_runs_add_up(tmp_path: Path) -> None:
    for seed, percent in ((0, 90.0), (1, 94.0)):
        results = Results("demo", seeds=[seed], folder=tmp_path)
        results.sample("after_percent_maze", seed, percent, "percent", bounds=(0, 100))
        results.write()
    Results("demo", folder=tmp_path).write()
    last = Results("demo", folder=tmp_path)
    last.figure("lost", 0, "episodes")
    content = json.loads(last.write().read_text())
    check_format(content)
    figure = content["figures"]["after_percent_maze"]
    assert figure["value"] == 92 and figure["low"] < 90 and figure["high"] == 100, "cut at 100"
    assert content["seeds"] == [0, 1]
    assert [run["figures"] for run in content["runs"]] == [
        ["after_percent_maze"],
        ["after_percent_maze"],
        ["lost"],
    ]


def test_a_repeated_seed_replaces_its_sample_and_its_run(tmp_path: Path) -> None:
    for percent in (10.0, 20.0):
        results = Results("demo", seeds=[3], folder=tmp_path)
        results.sample("after", 3, percent, "percent")
        results.write()
    content = json.loads(results.path.read_text())
    check_format(content)
    assert content["figures"]["after"] == {"value": 20, "low": None, "high": None, "unit": "percent"}
    assert len(content["runs"]) == 1


def test_a_figure_that_no_longer_holds_goes(tmp_path: Path) -> None:
    first = Results("demo", seeds=[0], folder=tmp_path)
    first.figure("ratio", 2, "times")
    first.sample("after", 0, 20, "percent")
    first.write()
    second = Results("demo", seeds=[1], folder=tmp_path)
    second.without("ratio")
    content = json.loads(second.write().read_text())
    check_format(content)
    assert list(content["figures"]) == ["after"]
    assert [run["figures"] for run in content["runs"]] == [["after"], []]


def test_the_quick_form_leaves_the_full_one_alone(tmp_path: Path) -> None:
    full, quick = Results("demo", folder=tmp_path), Results("demo", quick=True, folder=tmp_path)
    assert full.path != quick.path
    assert quick.path.name == "demo.quick.json"


@pytest.mark.parametrize(
    ("value", "low", "high"), [(math.nan, None, None), (1, 2, 3), (1, 0, None), (math.inf, None, None)]
)
def test_impossible_figures_are_refused(value: float, low: float | None, high: float | None) -> None:
    with pytest.raises(ValueError, match="x "):
        Results("demo").figure("x", value, "s", low=low, high=high)


def test_names_that_are_no_names_are_refused() -> None:
    for name in ("", "a b", "../a", "a/b"):
        with pytest.raises(ValueError, match="name"):
            Results(name)


def test_the_interval_is_students() -> None:
    low, high = interval([1.0, 2.0, 3.0])
    assert low == pytest.approx(2 - 2.4841, abs=1e-3) and high == pytest.approx(2 + 2.4841, abs=1e-3)
    assert interval([1.0]) == (None, None)
    assert shown({"value": 2.0, "low": None, "high": None, "unit": "s"}) == "2 s"
