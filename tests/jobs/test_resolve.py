"""Jobs by name, and jobs in files of a user's own: what a user gets wrong is told in words."""

from __future__ import annotations

import os
import pickle
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from journeyman.errors import JobError, JourneymanError, UnknownName, UsageError
from journeyman.jobs import builtin, resolve
from journeyman.jobs.base import Job
from journeyman.types import SUCCESS

WORKING = """
    from journeyman import Env, Job, Message, StepResult, Task

    class Echo(Env):
        def __init__(self, word):
            self.word = word
        def step(self, reply):
            return StepResult(reward=float(reply == self.word), terminated=True)
        def expert(self):
            return self.word

    class MyJob(Job):
        splits = {"train": 3, "test": 2}
        def __init__(self, length: int = 2, loud: bool = False):
            self.length, self.loud = length, loud
        def task(self, split, index):
            word = "ab"[split == "test"] * (self.length + index)
            return Task(self.name, split, index, (Message("user", word),), {"word": word})
        def env(self, task):
            return Echo(task.data["word"])
"""


def write(folder: Path, source: str, name: str = "my_job.py") -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(source))
    return path


@pytest.mark.parametrize("name", builtin())
def test_built_in_jobs_are_rebuilt_by_their_names(name: str) -> None:
    job = resolve(name)
    assert job.name == name and job.about and {"train", "test"} <= set(job.splits)
    copy = pickle.loads(pickle.dumps(job))
    for split in job.splits:
        assert resolve(job.name).task(split, 1) == job.task(split, 1) == copy.task(split, 1)
        assert job.task(split, 1).job == name


def test_a_specification_has_one_spelling() -> None:
    assert resolve("maze,size=6,seed=0").name == "maze"
    assert resolve(" maze,seed=1,size=4\n").name == "maze,size=4,seed=1"
    assert resolve("scan,split=simple").name == "scan"


@pytest.mark.parametrize(
    ("spec", "error", "why"),
    [
        ("", UnknownName, "maze"),
        ("maz", UnknownName, "did you mean maze"),
        ("maze:4", UnknownName, "did you mean maze"),
        ("countdwn,numbers=3", UnknownName, "did you mean countdown"),
        ("gymnasium", UsageError, "gymnasium:NAME"),
        ("reasoning_gym:", UsageError, "reasoning_gym:NAME"),
        ("maze,siz=4", UnknownName, r"did you mean size\?\nFix: the options of maze are size=6, seed=0, max_turns=0"),
        ("maze,size", UsageError, "name=value"),
        ("maze,", UsageError, "name=value"),
        ("maze,size=four", UsageError, "size of maze must be of type int, got 'four'"),
        ("maze,size=4.5", UsageError, "size of maze must be of type int"),
        ("maze,size=99", UsageError, "3 to 10"),
        ("maze,size=4,size=5", UsageError, "given twice"),
        ("scan,split=lenght", UnknownName, "did you mean length"),
    ],
)
def test_mistakes(spec: str, error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        resolve(spec)


@given(st.text(alphabet="maze,hops=:sizd14.-py/ ", max_size=24))
def test_no_specification_ends_in_a_stack_trace(spec: str) -> None:
    try:
        assert isinstance(resolve(spec), Job)
    except JourneymanError as error:
        assert str(error)


def test_a_job_of_ones_own(tmp_path: Path) -> None:
    spec = f"{write(tmp_path, WORKING)}:MyJob"
    job = resolve(spec)
    assert job.name == spec == job.task("train", 0).job
    assert pickle.loads(pickle.dumps(job)).task("test", 1) == job.task("test", 1)
    assert resolve(f"{spec},length=3").task("train", 0).data["word"] == "aaa"
    assert resolve(f"{spec},loud=True,length=3").name == f"{spec},loud=True,length=3"


def test_a_file_is_run_again_only_when_it_changed(tmp_path: Path) -> None:
    """Two jobs of one file are of one class, so that both can be pickled; an edit is seen at once."""
    path = write(tmp_path, WORKING)
    first, second = resolve(f"{path}:MyJob"), resolve(f"{path}:MyJob,length=4")
    assert type(first) is type(second)
    pickle.dumps(first)
    before = path.stat()
    path.write_text(path.read_text().replace("ab", "cd"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as fast as a clock can miss
    assert resolve(f"{path}:MyJob").task("train", 0).data["word"] == "cc"


def test_files_of_one_name_do_not_meet(tmp_path: Path) -> None:
    for folder, letters in (("one", "ab"), ("two", "xy")):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, WORKING.replace("ab", letters))
    one, two = (resolve(f"{tmp_path / folder}/my_job.py:MyJob") for folder in ("one", "two"))
    for job, letter in ((one, "a"), (two, "x")):
        assert pickle.loads(pickle.dumps(job)).task("train", 0).data["word"] == 2 * letter


def test_a_file_may_import_what_lies_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", os.sys.path.copy())  # type: ignore[attr-defined]
    (tmp_path / "words_beside_my_job.py").write_text("LETTERS = 'pq'")
    source = WORKING.replace('"ab"', "LETTERS").replace(
        "\n    from", "\n    from words_beside_my_job import LETTERS\n    from", 1
    )
    job = resolve(f"{write(tmp_path, source)}:MyJob")
    assert job.env(job.task("test", 0)).step("qq").reward >= SUCCESS


@pytest.mark.parametrize(
    ("source", "name", "error", "why"),
    [
        (WORKING, "MyJo", UnknownName, "did you mean MyJob"),
        (WORKING, "", UsageError, r"which job of .*\nFix: .*it has MyJob"),
        (WORKING, "Echo", UsageError, "is no job"),
        (WORKING, "Job", UsageError, "lacks env, task"),
        (WORKING, "MyJob,length=x", UsageError, "length of .* must be of type int"),
        (WORKING, "MyJob,size=3", UnknownName, "length=2, loud=False"),
        ("class MyJob(:\n  pass", "MyJob", UsageError, "does not run\nWhy: line 1: SyntaxError"),
        ("\n\nimport no_such_module", "MyJob", UsageError, "line 3: ModuleNotFoundError: .*no_such_module"),
        ("def f():\n  1 / 0\n\nf()", "MyJob", UsageError, "line 2: ZeroDivisionError"),
        ("raise SystemExit('bye')", "MyJob", UsageError, "SystemExit: bye"),
        ("\0", "MyJob", UsageError, "does not run"),
        (WORKING.replace("length: int = 2", "length: int"), "MyJob", UsageError, "needs the option length"),
        (WORKING.replace("self.length, self", "1 / 0; self.length, self"), "MyJob", UsageError, "ZeroDivisionError"),
        (WORKING.replace("splits =", "splitz ="), "MyJob", JobError, "has no splits"),
        (WORKING.replace('"train": 3', '"train": 0'), "MyJob", JobError, "'train' of 0 tasks"),
        (WORKING.replace('"train": 3', '"training": 3'), "MyJob", JobError, "no split `train`"),
    ],
)
def test_mistakes_in_ones_own_file(tmp_path: Path, source: str, name: str, error: type[Exception], why: str) -> None:
    path = write(tmp_path, source)
    for _ in range(2):  # no better and no worse the second time
        with pytest.raises(error, match=why):
            resolve(f"{path}:{name}")


def test_a_file_that_is_not_there_or_is_named_without_its_job(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no file .*\nFix: .*journeyman new"):
        resolve(f"{tmp_path}/my_job.py:MyJob")
    with pytest.raises(UsageError, match="it has MyJob"):
        resolve(str(write(tmp_path, WORKING)))
