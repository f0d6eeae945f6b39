"""`journeyman store ...` on a store of each kind."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from journeyman.experience import Feedback, Store
from tests.commands import command
from tests.experience.helpers import START, make, served


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    return command(capsys, "store", *words)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A run's folder with three episodes in its store, one of them served to ada."""
    with Store(tmp_path / "experience.sqlite") as store:
        turn = served(user="ada", job="maze")
        store.record([turn]).result()
        store.give(Feedback(turn.episode, value=1)).result()
        store.add([make("a"), make("b")])
    return str(tmp_path)


def test_info_says_what_is_there_and_verify_finds_it_whole(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "info", folder, "--json")
    info = json.loads(out)
    assert info["entries"] == 4 and info["episodes"] == {"learning": 2, "served": 1} and info["first"] == START
    assert info["kinds"] == {"feedback": 1, "trajectory": 2, "turn": 1} and info["metrics"] == ["reward"]
    _, out, _ = run(capsys, "info", folder)
    head = f"{info['entries']}:{info['head']}"
    assert "1 served" in out and out.rstrip().endswith(head)
    code, _, err = run(capsys, "verify", folder, "--head", head)
    assert code == 0 and "4 entries" in err


def test_verify_says_what_was_changed(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    raw = sqlite3.connect(Path(folder) / "experience.sqlite")
    raw.execute("UPDATE log SET record = replace(record, 'seen', 'unseen') WHERE id = 'b'")
    raw.commit()
    raw.close()
    code, out, _ = run(capsys, "verify", f"{folder}/experience.sqlite")
    assert code == 1 and out == "the episode b is not as it was written\n"


def test_export_and_erase(folder: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    code, _, err = run(capsys, "export", folder, "--out", str(out), "--format", "trl", "--job", "maze")
    assert code == 0 and "1 lines" in err and json.loads(out.read_text())["completion"][0]["content"] == "good day"
    code, _, err = run(capsys, "erase", folder, "--user", "ada", "--why", "she asked")
    assert code == 0 and "1 episodes erased" in err
    code, _, err = run(capsys, "erase", folder, "--episodes", "a", "nobody", "--older-than", "3650")
    assert code == 0 and "1 episodes erased" in err
    assert run(capsys, "verify", folder)[0] == 0
    assert json.loads(run(capsys, "info", folder, "--json")[1])["episodes"] == {"erased": 2, "learning": 1}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("info", "nowhere"), "no store in nowhere"),
        (("verify", "{}", "--head", "x"), "NUMBER:HASH"),
        (("erase", "{}"), "nothing to erase"),
        (("export", "{}", "--out", "{}/no/such/file", "--format", "openai"), "cannot write"),
        (("info", "postgresql+psycopg://nobody@127.0.0.1:9/none"), "Fix:"),
    ],
)
def test_mistakes_are_shown_with_their_fix(
    folder: str, words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, *(word.replace("{}", folder) for word in words))
    assert code == 2 and says in err and "Traceback" not in err
