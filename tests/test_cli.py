"""A user's mistake gets an error with its fix, never a stack trace."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch

from journeyman.cli import main
from journeyman.model.load import load, save
from journeyman.model.value import ValueConfig, ValueFunction
from journeyman.search.strategies import STRATEGIES
from tests.commands import command


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("learn", "mase"), "did you mean maze?"),
        (("learn",), "no job to learn"),
        (("learn", "maze,size=99"), "size must lie in 3 to 10"),
        (("learn", "maze", "--school.updates", "-3"), "command.config.school: school: demonstrations and updates"),
        (("learn", "maze", "--model", "tiny,width=7"), "width"),
        (("learn", "maze", "--lora.rank", "-1"), "Fix: give one such as 16"),
        (("learn", "maze", "--lora.alpha", "3"), "Fix: add --lora.rank 16"),
        (("learn", "no_such_file.py:Mine"), "journeyman new"),
        (("exam", "no/such/run", "maze"), "Fix:"),
        (("exam", "apprentice", "maze", "--think", "8"), "the strategy best needs a value function"),
        (("exam", "apprentice", "maze", "--think", "0"), "think must be at least 1, got 0"),
        (
            ("exam", "apprentice", "hops", "--think", "2", "--strategy", "vote", "--temperature", "0"),
            "nothing to search",
        ),
        (("exam", "apprentice", "maze", "--strategy", "votes"), "correct"),
        (("value", "no/such/run"), "Fix:"),
        (("value", "apprentice"), "apprentice has no value function"),
        (("show", "nowhere"), "is no run folder"),
        (("trace", "nowhere"), "is no run folder"),
        (("report", "nowhere"), "is no run folder"),
        (("jobs", "validat"), "did you mean validate?"),
        (("jobs", "validate"), "no job to validate"),
        (("school", "words.txt", "--out", "there"), "from scratch needs a job"),
        (("bench", "sample-eficiency"), "did you mean sample-efficiency"),
        (("merge", "apprentice", "--into", "m", "--method", "average"), "1 model is too few"),
        (("merge", "apprentice", "apprentice", "--into", "m", "--method", "ties"), "ties needs the base"),
        (("merge", "apprentice", "apprentice", "--into", "/"), "is not an empty folder"),
        (("merge", "apprentice", "apprentice", "--into", "m"), "specialist of"),
        (
            ("merge", "apprentice", "apprentice", "--into", "m", "--jobs", "maze", "--method", "ram"),
            "of no use without",
        ),
        (("merge", "apprentice", "no/such", "--into", "m", "--method", "average"), "Fix:"),
        (("distill", "apprentice", "--job", "mase", "--out", "m"), "did you mean maze?"),
        (("distill", "apprentice", "--job", "maze", "--out", "/"), "is not an empty folder"),
    ],
)
def test_mistakes_are_shown_with_their_fix(
    words: tuple[str, ...],
    says: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = command(capsys, *words)
    assert code == 2 and "Traceback" not in err
    assert says in err
    assert not (tmp_path / "runs").exists()


def test_a_rank_that_no_matrix_has(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = command(capsys, "learn", "maze", "--model", "tiny,width=16,heads=2", "--lora.rank", "17")
    assert code == 2 and "smaller side of q_proj, 16" in err and "Fix:" in err


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command(capsys, "--help")
    assert code == 0 and "examples:" in out


def test_learn_takes_its_options_from_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = (
        "--steps 1 --tasks 2 --repeats 2 --school.demonstrations 4 --school.updates 2 --exam.tasks 2 --lora.rank 4"
    )
    words = f"learn maze,size=3 --model tiny,width=16,heads=2,layers=1 {options} --exam.splits test --json".split()
    code, out, err = command(capsys, *words, "--context", "256", "--run", str(tmp_path / "run"))
    assert code == 0, err
    kinds = [json.loads(line)["kind"] for line in out.splitlines()]
    assert kinds == ["school", "school", "exam", "learn", "exam"]
    assert (tmp_path / "run" / "report.html").exists()
    assert json.loads((tmp_path / "run" / "model" / "adapter" / "adapter_config.json").read_text())["r"] == 4
    code, out, _ = command(capsys, "trace", str(tmp_path / "run"), "--json", "--count", "2")
    assert code == 0 and len(out.splitlines()) == 2


def test_merge_writes_a_checkpoint(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Of a model and itself the average is that model; distilled by itself it stays near."""
    out = str(tmp_path / "merged")
    code, _, err = command(capsys, "merge", "apprentice", "apprentice", "--into", out, "--method", "average")
    assert code == 0 and "it has no value function" in err
    ours, theirs = (load(name).model.state_dict() for name in (out, "apprentice"))
    assert all(torch.allclose(tensor, theirs[name]) for name, tensor in ours.items())
    options = "--distill.steps 1 --distill.tasks 2 --distill.watched 0"
    words = f"{options} --jobs maze,size=3 hops --json".split()
    code, lines, err = command(capsys, "merge", out, "apprentice", "--into", str(tmp_path / "both"), *words)
    assert code == 0, err
    [record] = [json.loads(line) for line in lines.splitlines()]
    assert record["kind"] == "distill" and abs(record["policy/divergence"]) < 1e-2
    assert load(tmp_path / "both").value is None


def test_value_answers_line_by_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load("apprentice")
    value = ValueFunction.start(ValueConfig(), loaded.model)  # says 1/2 of everything
    save(tmp_path / "model", loaded.model, loaded.tokenizer, value)
    asks = [{"role": "user", "content": "hall"}, {"role": "assistant", "content": "north"}]
    good = json.dumps({"messages": asks, "id": "a"})

    def value_of(text: str, *words: str) -> tuple[int, list[dict[str, object]], str]:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        code, out, err = command(capsys, "value", str(tmp_path / "model"), *words)
        return code, [json.loads(line) for line in out.splitlines()], err

    answer = {"id": "a", "value": 0.5, "raw": 0.5, "turns": [0.5, 0.5]}
    assert value_of(f"{good}\n\n{good}") == (0, [answer, answer], "")
    assert value_of(good, "--last", "--alarm", "0.6") == (0, [{"id": "a", "value": 0.5, "raw": 0.5, "alarm": 0}], "")
    assert value_of(good, "--alarm", "0.4")[1][0]["alarm"] is None
    code, answers, err = value_of(f"{good}\n[/bold]\n{good}")
    assert (code, answers) == (2, [answer]), err
    assert "line 2: this is no JSON" in err and "Why:" in err and "Fix:" in err
    code, answers, err = value_of(f"{good}\n[/bold]\n{good}", "--skip-bad")
    assert (code, answers) == (0, [answer, answer]) and "line 2: this is no JSON" in err, err


def test_exam_thinks_longer_and_says_how(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = command(capsys, "exam", "--help")
    assert code == 0 and all(f"{name}:" in out for name in STRATEGIES), "help says which there are, and what they do"
    words = "exam apprentice maze,size=3,max_turns=6 --think 3 --strategy stepwise --tasks 3 --splits test --json"
    code, out, err = command(capsys, *words.split())
    assert code == 0, err
    (result,) = [json.loads(line) for line in out.splitlines()]
    assert (result["think"], result["strategy"], result["value_tokens"]) == (3, "stepwise", 0)


def test_a_new_job_works_as_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert command(capsys, "new", str(tmp_path / "mine.py"))[0] == 0
    code, out, _ = command(capsys, "jobs", "validate", f"{tmp_path / 'mine.py'}:MyJob", "--tasks", "20", "--json")
    assert code == 0 and all(not json.loads(line)["problems"] for line in out.splitlines())
    assert command(capsys, "new", str(tmp_path / "mine.py"))[0] == 2


def test_bench_runs_a_script_of_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "bench"
    folder.mkdir()
    (folder / "common.py").touch()
    (folder / "some_thing.py").write_text("import sys; open('said', 'w').write(' '.join(sys.argv[1:])); sys.exit(3)")
    monkeypatch.setattr("journeyman.cli.REPOSITORY", tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["bench", "some-thing", "--quick", "--seeds", "4", "5"])
    assert ended.value.code == 3, "the script's own"
    assert (tmp_path / "said").read_text() == "--quick --seeds 4 5"


def test_bench_says_that_an_installed_package_has_no_scripts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("journeyman.cli.REPOSITORY", tmp_path)
    code, _, err = command(capsys, "bench", "demo")
    assert code == 2 and "not of the installed package" in err and "Fix: clone the repository" in err
