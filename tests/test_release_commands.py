"""`journeyman release ...` on a store with a small family of versions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from journeyman.experience import Store
from journeyman.release.evidence import Sample
from journeyman.release.gate import GateConfig, judge, read_judgement
from journeyman.release.registry import Registry
from journeyman.release.rollout import State
from tests.commands import command
from tests.experience.helpers import make


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    return command(capsys, "release", *words)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Version 1 begot 2, which learned from two episodes, was judged, and is the release."""
    with Store(tmp_path / "experience.sqlite") as store:
        store.add([make("a"), make("b")])
        registry = Registry(store)
        registry.add("1" * 64, "runs/one", config={"rate": 1e-3})
        registry.add("2" * 64, "runs/two", parents=[1], entries=store.entries_of(["a", "b"]), config={"rate": 2e-3})
        judgement = judge([Sample("ability", "maze", (1.0,) * 400, (1.0,) * 400)], GateConfig(demands=("ability",)))
        registry.attach(2, judgement.as_dict())
        for number in (1, 2):
            registry.point("release", number)
    return str(tmp_path)


def test_list_and_show(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "list", folder)
    assert out.splitlines()[2].split()[:2] == ["2", "22222222"] and "release" in out and "2 entries" in out
    _, out, _ = run(capsys, "list", folder, "--json")
    assert [json.loads(line)["stands"] for line in out.splitlines()] == [[], ["release"]]
    _, out, _ = run(capsys, "show", folder)
    assert out.startswith("version 2\n") and "runs/two" in out and "PASS" in out and "maze" in out
    _, out, _ = run(capsys, "show", folder, "1", "--json")
    assert json.loads(out)["source"] == "runs/one"
    code, _, err = run(capsys, "show", folder, "candidate")
    assert code == 2 and "unknown version 'candidate'" in err


def test_diff_and_note(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "diff", folder, "1", "2")
    assert [line.split() for line in out.splitlines() if line.startswith("config.rate")] == [
        ["config.rate", "0.001", "0.002"]
    ]
    run(capsys, "note", folder, "release", "seems fine")
    assert "seems fine" in run(capsys, "show", folder)[1]


def test_rollback_and_quarantine(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "version 1 is the release again" in run(capsys, "rollback", folder, "--why", "complaints")[1]
    _, out, _ = run(capsys, "quarantine", folder, "--version", "2", "--why", "poisoned")
    assert "versions 2 and 2 entries are in quarantine" in out and "the release is version 1" in out
    held = out.split("quarantine ")[1].split()[0]
    assert "quarantine, learned from 2 entries" in " ".join(run(capsys, "list", folder)[1].split())
    run(capsys, "quarantine", folder, "--lift", held, "--why", "it was not")
    assert "quarantine" not in run(capsys, "list", folder)[1]
    code, _, err = run(capsys, "quarantine", folder, "--why", "x")
    assert code == 2 and "give --version, --episodes or --lift" in err
    code, _, err = run(capsys, "rollback", folder, "--why", "again")
    assert code == 0 and err == ""


def test_a_rollout_by_hand(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Store(Path(folder) / "experience.sqlite") as store:
        Registry(store).add("3" * 64, "runs/three", parents=[2])
    assert run(capsys, "look", folder)[1] == "WAIT  nothing is being rolled out\n"
    code, _, err = run(capsys, "begin", folder, "3")
    assert code == 2 and "the gate has not passed version 3" in err and "it was not examined" in err
    _, out, _ = run(capsys, "begin", folder, "3", "--unexamined")
    assert out == "version 3: running, stage 1 of 5, in the shadow. begun\n"
    assert "WAIT 0 of 20 units" in " ".join(run(capsys, "look", folder)[1].split())
    _, out, _ = run(capsys, "advance", folder, "--why", "I know it")
    assert out == "version 3: running, stage 2 of 5, 1% of the traffic. I know it\n"
    assert "paused" in run(capsys, "pause", folder, "--why", "a holiday")[1]
    code, _, err = run(capsys, "advance", folder, "--why", "quick")
    assert code == 2 and "cannot advance now: the rollout is paused" in err
    assert "running" in run(capsys, "resume", folder, "--why", "back")[1]
    assert "rolled back" in run(capsys, "back", folder, "--why", "a complaint")[1]
    assert "version 3: rolled back" in run(capsys, "list", folder)[1]


def test_the_gates_word_comes_along(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "rollback", folder, "--why", "to have something to release")
    run(capsys, "begin", folder, "2", "--shares", "0.1", "1")
    with Store(Path(folder) / "experience.sqlite") as store:
        state = State.of(store.events())
        found = Registry(store).book().evidence[2][-1]
    assert state is not None and state.plan.shares == (0.1, 1.0)
    assert state.gate == read_judgement(found).evidence > 0 and state.power == read_judgement(found).power
