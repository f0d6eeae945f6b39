"""`journeyman new`: what it writes works as it stands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from journeyman.errors import UsageError
from journeyman.jobs import resolve
from journeyman.jobs.template import write_example
from journeyman.jobs.validate import validate


def test_the_example_is_short_and_keeps_the_contract(tmp_path: Path) -> None:
    job_file, test_file = write_example(tmp_path / "my_job.py")
    assert (job_file.name, test_file.name) == ("my_job.py", "test_my_job.py")
    assert len(job_file.read_text().splitlines()) < 60
    found = validate(resolve(f"{job_file}:MyJob"), per_split=200)
    assert found.passed, found


@pytest.mark.slow
def test_its_test_passes(tmp_path: Path) -> None:
    test_file = write_example(tmp_path / "sorting.py")[1]
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test_file)]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("taken", ["my_job.py", "test_my_job.py"])
def test_nothing_is_overwritten(tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        write_example(tmp_path / "my_job.py")
    assert [file.name for file in tmp_path.iterdir()] == [taken]
    assert (tmp_path / taken).read_text() == "mine"


@pytest.mark.parametrize("name", ["my_job", "my-job.py", "my_job.txt", "nowhere/my_job.py"])
def test_bad_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        write_example(tmp_path / name)
