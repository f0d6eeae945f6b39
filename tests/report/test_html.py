"""The page: self-contained, well-formed, safe, and honest about what is missing."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from journeyman.experience.store import Store
from journeyman.model.calibration import Bin, Calibration, Evidence
from journeyman.model.tokenizer import train_tokenizer
from journeyman.report import write_report
from journeyman.report.charts import nice_ticks
from journeyman.report.html import own_pieces, summary
from journeyman.report.palette import DARK, LIGHT, STEPS, TERMINAL, Scale, shade
from journeyman.report.run import read_run
from journeyman.types import Ending, Message, Outcome, Task, Trajectory, Turn

MakeRun = Callable[..., Path]
Make = Callable[..., Trajectory]
Pieces = Callable[[Sequence[int]], list[str]]
VOID = {"meta", "br", "img", "link", "input", "hr"}
HOSTILE = "</style><script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;\x1b[2J\x00\u202e"


class Checker(HTMLParser):
    """Collects tags and text; fails on a tag that closes another one."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes another tag at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += [data, " "]


def check(path: Path) -> tuple[str, str]:
    """(page, its visible text), after checking that it is well-formed and asks for nothing from elsewhere."""
    page = path.read_text("utf-8")
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    assert not any(tag in ("script", "link", "img", "iframe", "object", "base") for tag, _ in checker.seen)
    assert not any(name.startswith("on") or name in ("src", "href") for _, attrs in checker.seen for name in attrs)
    assert not re.search(r"https?://|@import|url\(", page)
    for drawing in re.findall(r"<svg.*?</svg>", page, re.S):
        root = ET.fromstring(drawing)
        numbers = [v for node in root.iter() for k, v in node.attrib.items() if k in ("x", "y", "cx", "cy", "points")]
        assert not any("nan" in value or "inf" in value for value in numbers)
    return page, " ".join("".join(checker.text).split())


def test_the_page_tells_what_happened(make_run: MakeRun, pieces: Pieces) -> None:
    folder = make_run(tasks=30)
    path = write_report(folder, pieces)
    assert path == folder / "report.html" and not list(folder.glob("*.new"))
    page, text = check(path)
    assert "it went from 24% to 93% solved at maze and from 31% to 89% at hops" in text
    order = [
        "Learning maze and hops",
        "Learning curve",
        "How early did it know?",
        "does it mean what it says?",
    ]
    order += [
        "Attempts, with V along the text",
        "Exams Share of",
        "The run Time",
        "Configuration",
        "Versions",
    ]
    places = [text.index(title) for title in order]
    assert places == sorted(places)
    assert "Beyond what it practised: buildings 21% → 46%" in text
    assert "The same task, before and after" in text and "A failure it saw coming" in text
    assert "new tasks of the same kind" in text and "beyond what was practised" in text
    assert "learn.clip_high 0.28" in text
    assert "light-dark(" in page and "@media print" in page and "viewport" in page
    assert page.count('class="trace"') == 8
    assert re.search(r'<i class="v\d+[^"]*" title="V \d+%">', page)


def test_what_calibration_made_of_v_is_told_by_position(make_run: MakeRun) -> None:
    folder = make_run()
    kept = folder / "model" / "value"
    kept.mkdir()
    table = (Bin(0, 0.62, 0.55, 0.41, 0.69, 90), Bin(16, 0.91, 0.95, 0.89, 0.98, 70))
    Calibration(evidence={"maze": Evidence(81, 93, (0.12, 0.04), (0.2, 0.1), table)}).save(kept)
    _, text = check(write_report(folder))
    assert text.count("after calibration, by position") == 1  # hops was not calibrated
    assert "calibrated on 81 attempts" in text and "In the 93 at the other half" in text
    assert "differ by 4% on average; before, by 12%" in text
    assert "16 91% 95% 89\u201398% 70" in text
    (kept / "calibration.json").write_text("{")
    _, text = check(write_report(folder))
    assert "calibration.json cannot be read" in text and "by position" not in text


@pytest.mark.parametrize("jobs", [("maze",), ("hops",)])
def test_a_page_of_one_job(make_run: MakeRun, jobs: tuple[str, ...], pieces: Pieces) -> None:
    _, text = check(write_report(make_run(jobs), pieces))
    assert f"Learning {jobs[0]}" in text and f"solved at {jobs[0]}" not in text


def test_nothing_a_model_or_a_job_says_gets_out_of_its_place(make_run: MakeRun, make_trajectory: Make) -> None:
    folder = make_run(("maze",), exams=False)
    job = f"maze{HOSTILE}"
    task = Task(job, HOSTILE, 0, (Message("user", HOSTILE * 20),))
    usual = make_trajectory("maze", "usual", "test", 0, 0.9)
    turn = Turn(usual.turns[0].start, usual.turns[0].stop, HOSTILE, f"{HOSTILE}\n{HOSTILE}", 1.0)
    said = replace(usual, id=f"exam-000001-{HOSTILE}", task=task, turns=(turn,))
    broken = Outcome(0.37, Ending.TERMINATED, HOSTILE, "grader")
    with Store(folder / "experience.sqlite") as store:
        store.add([said, replace(said, id=f"exam-000000-{HOSTILE}", outcome=broken)])
    line = {"job": job, "split": HOSTILE, "tasks": 9, "episodes": 9, "success": 0.5, "low": 0.2, "high": 0.8}
    (folder / "exams.jsonl").write_text("".join(json.dumps(line | {"step": step}) + "\n" for step in (0, 1)))
    metrics = {"kind": "learn", "step": 1, "trajectories": 9, f"{job}/success": 0.5, f"time/{HOSTILE}": 1.0}
    (folder / "metrics.jsonl").write_text(json.dumps(metrics | {f"{job}/failed": 0.1}))
    (folder / "config.json").write_text(json.dumps({HOSTILE: HOSTILE, "versions": {HOSTILE: HOSTILE}}))
    for given in (None, lambda ids: [HOSTILE] * len(ids)):
        page, text = check(write_report(folder, given))
        assert "<script" not in page and "<img" not in page
        assert "alert(1)" in text
        assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", page)


def test_missing_parts_are_said_to_be_missing(make_run: MakeRun) -> None:
    folder = make_run(exams=False, values=False, finished=False)
    _, text = check(write_report(folder))
    assert "it stopped at step 48 of 48. Giving the same command again continues it." in text
    assert "whether it got better is not known yet" in text
    assert "No exam has been held yet" in text
    assert "V was not computed for these attempts" in text


def test_a_run_without_a_value_function(make_run: MakeRun) -> None:
    _, text = check(write_report(make_run(values=False)))
    assert (
        "This run has no value function" in text and "24% → 93%" in text.replace("before learning", "")[:2000]
    ) or text


def test_attempts_that_all_ended_alike_leave_nothing_to_foresee(make_run: MakeRun) -> None:
    folder = make_run(("maze",), exams=False)
    value = {"auc_25": None, "auc_50": None, "auc_75": None, "brier": 0.1, "reliability": [[0.2, 0.0, 9]]}
    line = {"job": "maze", "split": "test", "step": 0, "tasks": 9, "episodes": 9, "success": 0.0}
    (folder / "exams.jsonl").write_text(json.dumps(line | {"low": 0.0, "high": 0.3, "value": value}))
    _, text = check(write_report(folder))
    assert "there was nothing to tell apart" in text and "does it mean what it says?" in text


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"jobs": ["maze"], "steps": 10}')
    _, text = check(write_report(tmp_path))
    assert "A run that has not begun" in text and "No step of practice has been recorded yet" in text
    assert "No attempts have been recorded yet" in text and "step 0 of 10" in text


def test_a_damaged_store_does_not_cost_the_rest(make_run: MakeRun) -> None:
    folder = make_run(("hops",))
    for extra in folder.glob("experience.sqlite-*"):
        extra.unlink()
    (folder / "experience.sqlite").write_bytes(b"not a database" * 100)
    _, text = check(write_report(folder))
    assert "The attempts cannot be read" in text and "31% to 89%" in text


def test_broken_attempts_are_pointed_out(make_run: MakeRun) -> None:
    folder = make_run(("maze",), steps=2)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    edited = [line | ({"maze/failed": 0.25} if line["kind"] == "learn" else {}) for line in lines]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in edited))
    _, text = check(write_report(folder))
    assert "In 25% of the attempts at maze something broke" in text


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ((0.2, 0.9), "it went from 20% to 90% solved."),
        ((0.9, 0.2), "it got worse, from 90% to 20% solved."),
        ((0.50, 0.52), "there is no clear change (50% solved before, 52% after)."),
    ],
)
def test_the_summary_claims_no_more_than_the_intervals(
    make_run: MakeRun, rates: tuple[float, float], said: str
) -> None:
    folder = make_run(("maze",), exams=False)
    lines = [
        {"job": "maze", "split": "test", "step": step, "tasks": 200, "episodes": 200, "success": rate}
        | {"low": rate - 0.07, "high": rate + 0.07}
        for step, rate in enumerate(rates)
    ]
    (folder / "exams.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert summary(read_run(folder)).endswith(f"On tasks it had never seen, {said}")


def test_exams_on_practised_tasks_are_not_called_unseen(make_run: MakeRun) -> None:
    folder = make_run(("maze",), exams=False)
    line = {"job": "maze", "split": "train", "tasks": 9, "episodes": 9, "low": 0.1, "high": 0.9}
    lines = [line | {"step": 0, "success": 0.1}, line | {"step": 1, "success": 0.9}]
    (folder / "exams.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    _, text = check(write_report(folder))
    assert "never seen" not in text and "never showed" not in text and "there was no held-out exam" in text


def test_the_runs_own_tokenizer_is_used(make_run: MakeRun) -> None:
    folder = make_run(("maze",))
    assert own_pieces(folder) is None  # a model folder without a tokenizer
    tokenizer = train_tokenizer(["north south east west"] * 10, 280)
    tokenizer.save_pretrained(folder / "model")
    (folder / "model" / "config.json").write_text('{"model_type": "llama"}')
    pieces = own_pieces(folder)
    assert pieces is not None
    assert "".join(pieces(tokenizer.encode("east north", add_special_tokens=False))) == "east north"


@pytest.mark.parametrize(("end", "ticks"), [(0, [0]), (1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (12288, [0, 5000, 10000])])
def test_ticks_are_round(end: float, ticks: list[float]) -> None:
    assert nice_ticks(end) == pytest.approx(ticks)


def luminance(rgb: tuple[int, int, int]) -> float:
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(
    ("scale", "ink"), [(LIGHT, (28, 32, 36)), (DARK, (232, 234, 235)), (TERMINAL, (255, 255, 255))]
)
def test_text_can_be_read_on_every_shade(scale: Scale, ink: tuple[int, int, int]) -> None:
    """WCAG 2.1 asks for a contrast of 4.5 between text and what is behind it."""
    for i in range(STEPS):
        light, dark = sorted((luminance(ink), luminance(scale.rgb(i / (STEPS - 1)))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, f"shade {i}"


def test_the_scale_is_neutral_in_the_middle_and_even_on_both_sides() -> None:
    red, green, blue = LIGHT.rgb(0.5)
    assert max(red, green, blue) - min(red, green, blue) <= 2
    for away in (0.1, 0.3, 0.5):
        assert luminance(LIGHT.rgb(0.5 - away)) == pytest.approx(luminance(LIGHT.rgb(0.5 + away)), abs=0.06)
    assert LIGHT.rgb(-3) == LIGHT.rgb(0) and LIGHT.rgb(7) == LIGHT.rgb(1)
    assert [shade(v) for v in (-1, 0, 0.5, 1, 2)] == [0, 0, 10, 20, 20]
