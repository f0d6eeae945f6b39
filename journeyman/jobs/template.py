"""What `journeyman new my_job.py` writes: a small working job, and a test of it."""

from __future__ import annotations

from pathlib import Path

from journeyman.errors import UsageError

JOB = '''"""A job of your own: put the letters of a word in order. Change it into yours.

Learn it:   journeyman learn {file}:MyJob --school.demonstrations 200 --school.updates 200
Check it:   journeyman jobs validate {file}:MyJob
"""

from journeyman import Env, Job, Message, StepResult, Task

LETTERS = "abcdefgh"


class MyJob(Job):
    about = "put letters in order"
    max_turns = 1  # replies before an episode is cut
    max_reply_tokens = 16
    splits = {{"train": 5000, "test": 500, "longer": 500}}  # test: held out; others: your own questions

    def task(self, split: str, index: int) -> Task:
        rng = self.rng(split, index)  # depends on (split, index) alone: the same task on every machine
        length = 6 if split == "longer" else int(rng.integers(2, 6))
        word = "".join(rng.choice(list(LETTERS), length))
        while split != "train" and sum(map(ord, word)) % 5 or split == "train" and sum(map(ord, word)) % 5 == 0:
            word = "".join(rng.choice(list(LETTERS), length))  # a word is in train or held out, never in both
        message = Message("user", f"sort {{' '.join(word)}}")
        return Task(self.name, split, index, (message,), {{"word": word}}, level=length)

    def env(self, task: Task) -> Env:
        return MyEnv(task.data["word"])


class MyEnv(Env):
    def __init__(self, word: str) -> None:
        self.answer = " ".join(sorted(word))

    def step(self, reply: str) -> StepResult:
        """Grade the reply. For more turns, return an observation without `terminated`."""
        return StepResult(reward=float(reply.strip() == self.answer), terminated=True)

    def expert(self) -> str:
        """The right reply, for validation and demonstrations; leave it out if nobody knows it."""
        return self.answer
'''

TEST = '''"""Run with: pytest {test}"""

from pathlib import Path

from journeyman import resolve
from journeyman.jobs.validate import validate


def test_the_job_keeps_its_contract() -> None:
    found = validate(resolve(f"{{Path(__file__).with_name('{file}')}}:MyJob"), per_split=200)
    assert found.passed, found
'''


def write_example(path: Path) -> list[Path]:
    """Write the example and its test; the files written.

    Raises:
        UsageError: the name does not end in .py, or one of the files exists.
    """
    if path.suffix != ".py" or not path.stem.isidentifier():
        raise UsageError(f"{path} is no name for a Python module", fix="give one like my_job.py")
    test = path.with_name(f"test_{path.name}")
    for file in (path, test):
        if file.exists():
            raise UsageError(f"{file} exists", reason="nothing is overwritten", fix="give another name")
    try:
        path.write_text(JOB.format(file=path.name))
        test.write_text(TEST.format(file=path.name, test=test.name))
    except OSError as error:
        raise UsageError(f"cannot write {path}", reason=str(error)) from error
    return [path, test]
