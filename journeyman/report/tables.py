"""Tables for the terminal, and the same rows for scripts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from journeyman.jobs import builtin, resolve
from journeyman.jobs.validate import validate

Row = dict[str, Any]

ADAPTED = (
    ("reasoning_gym:NAME", "any data set of reasoning-gym, e.g. reasoning_gym:spell_backward"),
    ("gymnasium:ID", "a text-rendered discrete environment, e.g. gymnasium:FrozenLake-v1"),
    ("FILE.py:CLASS", "your own; `journeyman new my_job.py` writes one to start from"),
)


def job_rows() -> list[Row]:
    """The built-in jobs with their splits and sizes, then what can be adapted."""
    rows: list[Row] = []
    for name in builtin():
        job = resolve(name)
        rows.append({"job": name, "about": job.about, "splits": dict(job.splits), "max_turns": job.max_turns})
    return rows + [{"job": name, "about": about, "splits": {}, "max_turns": None} for name, about in ADAPTED]


def jobs_table(rows: Sequence[Row]) -> Table:
    """The jobs as a table."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("job", "what", "splits"):
        table.add_column(name, no_wrap=name == "job")
    for row in rows:
        splits = ", ".join(f"{split} {size:,}" for split, size in row["splits"].items())
        table.add_row(f"[bold]{row['job']}[/]", row["about"], splits)
    return table


def validation_rows(name: str, tasks: int) -> list[Row]:
    """One row per split of the job: tasks checked, how often the expert earned 1, what is wrong."""
    found = validate(resolve(name), per_split=tasks)
    return [
        {
            "split": split.split,
            "tasks": split.tasks,
            "expert": split.expert_success,
            "problems": list(split.problems),
        }
        for split in found.splits
    ]


def validation_table(name: str, rows: Sequence[Row]) -> Table:
    """A job's validation as a table."""
    table = Table(title=name, title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("split", "tasks", "expert", "problems"):
        table.add_column(column)
    for row in rows:
        expert = "none" if row["expert"] is None else f"{row['expert']:.1%}"
        problems = "\n".join(row["problems"]) or "[green]none[/]"
        table.add_row(row["split"], f"{row['tasks']:,}", expert, problems)
    return table
