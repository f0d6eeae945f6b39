"""The command line. Thin: every command is a call that the Python API has, too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, cast

import tyro
from rich.console import Console
from rich.text import Text
from tyro.conf import Positional

from journeyman.config import LearnConfig
from journeyman.errors import JourneymanError, UnknownName, UsageError
from journeyman.exam.exam import ExamConfig
from journeyman.improve_commands import Improve, Up
from journeyman.learn.school import SchoolConfig
from journeyman.merge_commands import Distill, Merge
from journeyman.progress import default_folder, follow, follow_school, print_lines
from journeyman.release_commands import ReleaseCommand
from journeyman.search.strategies import SearchConfig
from journeyman.serve_commands import Keys, Serve, View, needs_serve
from journeyman.store_commands import StoreCommand

console = Console(stderr=True)
EXAMPLES = """
examples:
  journeyman jobs                                    what can be learned
  journeyman learn maze,size=4                       a tiny model, taught a little, then left to practise
  journeyman learn reasoning_gym:spell_backward --model smollm2-135m
  journeyman learn my_job.py:MyJob --model ./checkpoint --run runs/mine
  journeyman learn --agent "python agent.py" --tasks tasks.jsonl --grade "python grade.py" --model ./checkpoint
  journeyman show runs/mine; journeyman trace runs/mine; journeyman report runs/mine
  journeyman exam runs/mine maze --attempts 4
  journeyman exam runs/mine maze --think 8           the same model, with eight times the tokens for each answer
  journeyman value runs/mine --alarm 0.2 < episodes.jsonl
  journeyman merge runs/a runs/b --into both         what two runs of one model learned, in one
  journeyman store verify runs/mine                  derive every hash of what was kept again
  journeyman release list runs/mine                  versions, where they came from and where they stand
  journeyman serve runs/mine --port 8000             an OpenAI-compatible API that keeps every episode
  journeyman up runs/mine --improve.jobs maze        the same, and it goes on learning from what is said of them
  journeyman view runs/mine                          its episodes in the browser, with V along their text
  journeyman bench sample-efficiency --quick         measure what is claimed, in a checkout of the repository
"""
REPOSITORY = Path(__file__).resolve().parent.parent
"""Where bench/ lies, if this is a checkout."""


@dataclass(frozen=True)
class Learn:
    """Teach a model one or more jobs by trial and error. The same command again continues an interrupted run."""

    config: Annotated[LearnConfig, tyro.conf.arg(name="")]
    run: Path | None = None
    """Folder of the run; by default runs/<jobs>-<model>."""
    json: bool = False
    """Print log records as JSON lines on standard output, and nothing else."""

    def __call__(self) -> None:
        if self.config.agent is None:
            from journeyman.loop import learn
        else:
            try:
                from journeyman.agents import learn
            except ModuleNotFoundError as error:
                raise needs_serve("learning from an agent", error) from error
        folder = self.run or default_folder(self.config)
        follow(learn(self.config, folder), self.config, folder, self.json)
        finish(folder, self.json)


@dataclass(frozen=True)
class School:
    """Teach a model by demonstrations of a job's expert, or by the text of a file; no trial and error."""

    job: Positional[str]
    """A job whose expert demonstrates, or a path to a text file (*.txt)."""
    out: Path
    """Folder for the checkpoint."""
    model: str = "tiny"
    """What to start from: `tiny`, `apprentice`, `smollm2-135m`, a checkpoint folder, a Hub name."""
    seed: int = 0
    """Fixes everything random."""
    school: Annotated[SchoolConfig, tyro.conf.arg(name="")] = field(default_factory=SchoolConfig)
    json: bool = False
    """Print records as JSON lines."""

    def __call__(self) -> None:
        from journeyman.api import school

        records = school(self.job, self.out, self.model, self.school, self.seed)
        follow_school(records, self.school.updates_for(from_scratch=True), self.json)
        console.print(f"the checkpoint is in {self.out}")


@dataclass(frozen=True)
class Exam:
    """Examine a checkpoint or a run on a job's held-out splits."""

    model: Positional[str]
    """A run folder, a checkpoint folder, `apprentice`, `smollm2-135m`, or a Hub name."""
    job: Positional[str]
    """The job to examine on."""
    exam: Annotated[ExamConfig, tyro.conf.arg(name="")] = field(default_factory=ExamConfig)
    search: Annotated[SearchConfig, tyro.conf.arg(name="")] = field(default_factory=SearchConfig)
    json: bool = False
    """Print results as JSON lines."""

    def __call__(self) -> None:
        from journeyman.api import exam
        from journeyman.report.terminal import exam_table

        results = [result.as_dict() for result in exam(self.model, self.job, self.exam, search=self.search)]
        if self.json:
            print_lines(results)
        else:
            Console().print(exam_table(results))


@dataclass(frozen=True)
class Value:
    """What a model's value function expects of episodes so far: one JSON object per line comes in, one goes out.

    In: {"messages": [{"role": "user", "content": "..."}, ...], "id": 7, "job": "maze"}, or the lines that
    `journeyman trace RUN --json` prints. Out: {"id": 7, "value": 0.81, "raw": 0.77, "turns": [0.4, 0.52, 0.81]}:
    the chance of success now, calibrated; V itself; the chance after 0, 1, 2... turns."""

    model: Positional[str]
    """A run folder, a checkpoint folder, or a Hub name, with a value function."""
    job: str | None = None
    """Whose calibration to use where a line names no job; none: that of all jobs together."""
    last: bool = False
    """Leave `turns` out."""
    alarm: float | None = None
    """Add `alarm`: the turns after which the chance was below this for the first time, null where it never was."""
    temperature: float = 1.0
    """At which replies were sampled, where a line does not say."""
    skip_bad: bool = False
    """Report a line that is no episode and go on, instead of ending there."""

    def __call__(self) -> None:
        from journeyman.api import open_model
        from journeyman.prefixes import PrefixScorer, Readable, estimate_lines

        scorer = PrefixScorer(open_model(self.model), job=self.job, temperature=self.temperature)
        lines = cast(Readable, sys.stdin.buffer)
        for estimate in estimate_lines(scorer, lines, report_error if self.skip_bad else None):
            shown = estimate.as_dict()
            if self.last:
                del shown["turns"]
            if self.alarm is not None:
                shown["alarm"] = estimate.alarm(self.alarm)
            print(json.dumps(shown), flush=True)


@dataclass(frozen=True)
class Jobs:
    """List the jobs with their splits, or check one: `journeyman jobs validate maze`."""

    words: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Nothing, or `validate JOB [JOB...]`."""
    tasks: int = 1000
    """Tasks of each split that validate checks."""
    json: bool = False
    """Print as JSON lines."""

    def __call__(self) -> None:
        from journeyman.report.tables import job_rows, jobs_table, validation_rows, validation_table

        if not self.words:
            rows = job_rows()
            print_lines(rows) if self.json else Console().print(jobs_table(rows))
            return
        if self.words[0] != "validate":
            raise UnknownName("word after `jobs`", self.words[0], ["validate"])
        if len(self.words) == 1:
            raise UsageError("no job to validate", fix="name one: journeyman jobs validate maze")
        for name in self.words[1:]:
            rows = validation_rows(name, self.tasks)
            print_lines(rows) if self.json else Console().print(validation_table(name, rows))
            if any(row["problems"] for row in rows):
                sys.exit(1)


@dataclass(frozen=True)
class New:
    """Write a small working job of your own, with a test, to start from."""

    path: Positional[Path]
    """The file to write, e.g. my_job.py."""

    def __call__(self) -> None:
        from journeyman.jobs.template import write_example

        for file in write_example(self.path):
            console.print(f"wrote {file}")


@dataclass(frozen=True)
class Show:
    """A run at a glance: state, results, curves, time and tokens."""

    run: Positional[Path]
    """The run's folder."""
    json: bool = False
    """Print the last record of each kind as JSON lines."""

    def __call__(self) -> None:
        from journeyman.report.terminal import render_summary
        from journeyman.run import read_config, read_lines

        read_config(self.run)
        if self.json:
            for name in ("metrics", "exams"):
                print_lines(read_lines(self.run / f"{name}.jsonl")[-1:])
        else:
            Console().print(render_summary(self.run))


@dataclass(frozen=True)
class Trace:
    """Episodes of a run with the value function along their text: where it knew it was going right or wrong."""

    run: Positional[Path]
    """The run's folder."""
    id: Positional[str | None] = None
    """An episode's id; without one, the latest that match."""
    job: str | None = None
    """Only this job's episodes."""
    split: str | None = None
    """Only this split's."""
    outcome: str | None = None
    """`success` or `failure`."""
    count: int = 3
    """How many."""
    json: bool = False
    """Print episodes as JSON lines."""

    def __call__(self) -> None:
        from journeyman.report.terminal import show_traces
        from journeyman.run import read_config

        read_config(self.run)
        show_traces(
            self.run,
            id=self.id,
            job=self.job,
            split=self.split,
            outcome=self.outcome,
            count=self.count,
            as_json=self.json,
        )


@dataclass(frozen=True)
class Report:
    """Write a run's report: one self-contained HTML file."""

    run: Positional[Path]
    """The run's folder."""

    def __call__(self) -> None:
        from journeyman.report import write_report
        from journeyman.run import read_config

        read_config(self.run)
        print(write_report(self.run))


@dataclass(frozen=True)
class Demo:
    """The whole story in minutes: a tiny apprentice that has only watched others learns two jobs by trial and error
    with a value function, and is examined before and after."""

    run: Path = Path("runs/demo")
    """Folder of the run."""
    seed: int = 0
    """Another seed, another run of the dice."""
    model: Literal["apprentice", "smollm2-135m"] = "apprentice"
    """`smollm2-135m` is the slower demo, with a real language model."""
    steps: int | None = None
    """Fewer or more learning steps than the recipe's."""
    json: bool = False
    """Print log records as JSON lines."""

    def __call__(self) -> None:
        from journeyman import recipes
        from journeyman.loop import learn

        config = recipes.demo(self.seed) if self.model == "apprentice" else recipes.demo_llm(self.seed)
        if self.steps is not None:
            config = replace(config, steps=self.steps)
        follow(learn(config, self.run), config, self.run, self.json)
        finish(self.run, self.json)


@dataclass(frozen=True)
class Bench:
    """Measure again what README and docs claim, by a script of the repository's folder bench/. Each has more options:
    `python -m bench.NAME --help`."""

    name: Positional[str]
    """Such as `sample-efficiency`, `value-quality` or `demo`."""
    quick: bool = False
    """A small version, to see that it works."""
    seeds: tuple[int, ...] = ()
    """One run for each; none given: the script's own."""

    def __call__(self) -> None:
        folder = REPOSITORY / "bench"
        if not (folder / "common.py").exists():
            raise UsageError(
                f"there is no {folder}",
                reason="the scripts are part of the repository, not of the installed package",
                fix="clone the repository, `pip install -e .` there, and give the command again",
            )
        parts = ("__init__", "common", "peers", "serving")
        known = {file.stem.replace("_", "-") for file in folder.glob("*.py") if file.stem not in parts}
        if self.name.replace("_", "-") not in known:
            raise UnknownName("script of bench/", self.name, known)
        options = ["--quick"] * self.quick + (["--seeds", *map(str, self.seeds)] if self.seeds else [])
        module = f"bench.{self.name.replace('-', '_')}"
        sys.exit(subprocess.run([sys.executable, "-m", module, *options], cwd=REPOSITORY).returncode)


def report_error(error: JourneymanError) -> None:
    """An error on the terminal."""
    console.print(Text.assemble(("error:", "bold red"), f" {error}"))


def tasks_of_agents(arguments: Sequence[str]) -> list[str]:
    """The arguments with `--tasks FILE` spelled out: a number is how many tasks a step has, a file has those of an
    agent."""
    if not any(word.partition("=")[0] in ("--agent", "--agent.command") for word in arguments):
        return list(arguments)
    told: list[str] = []
    for word, following in zip(arguments, [*arguments[1:], ""], strict=False):
        name, equals, value = word.partition("=")
        of_agent = name == "--tasks" and not (value if equals else following).lstrip("-").isdigit()
        told.append(f"--agent.tasks{equals}{value}" if of_agent else word)
    return told


def finish(folder: Path, as_json: bool) -> None:
    """Write the report and say where everything is."""
    from journeyman.report import write_report
    from journeyman.report.terminal import render_summary

    report = write_report(folder)
    if not as_json:
        console.print(render_summary(folder))
        console.print(f"report      {report}\ncheckpoint  {folder / 'model'}\ntraces      journeyman trace {folder}")


Stored = Annotated[StoreCommand, tyro.conf.subcommand(name="store")]
Released = Annotated[ReleaseCommand, tyro.conf.subcommand(name="release")]
Taught = School | Exam | Value | Merge | Distill
Served = Serve | Improve | Up | View | Keys | Stored | Released
Command = Learn | Taught | Served | Jobs | New | Show | Trace | Report | Demo | Bench


@dataclass(frozen=True)
class CommandLine:
    """What was typed. Given the bare union, tyro wraps it in a field whose made-up name shows in its errors."""

    command: Annotated[Command, tyro.conf.arg(name="")]


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `journeyman` command."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        line = tyro.cli(
            Annotated[CommandLine, tyro.conf.OmitSubcommandPrefixes],
            args=tasks_of_agents(sys.argv[1:] if arguments is None else arguments),
            prog="journeyman",
            description="A language model that knows how it is doing, and so learns on the job.\n" + EXAMPLES,
        )
        line.command()
    except JourneymanError as error:
        report_error(error)
        sys.exit(2)
    except KeyboardInterrupt:
        console.print("\nstopped. Nothing recorded is lost: give the same command again to continue.")
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
