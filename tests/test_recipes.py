"""What comes ready-made: the demo's configuration, and the checkpoint it starts from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from journeyman import recipes
from journeyman.api import exam
from journeyman.exam.exam import ExamConfig
from journeyman.jobs import resolve
from journeyman.jobs.maze import doors
from journeyman.learn.school import demonstrations
from journeyman.loop import learn
from journeyman.model.load import load
from journeyman.model.render import Renderer
from recipes.apprentice import BUILDINGS, CARELESSNESS, CarelessHops

APPRENTICE = Path(recipes.__file__).parent / "model" / "apprentice"


def test_the_apprentice_is_small_and_plain() -> None:
    assert sum(file.stat().st_size for file in APPRENTICE.iterdir()) < 5_000_000
    ours, theirs = load("apprentice").model, AutoModelForCausalLM.from_pretrained(APPRENTICE)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize("job", recipes.demo().jobs)
def test_the_apprentice_succeeds_at_times_and_fails_more_often(job: str) -> None:
    (result,) = exam("apprentice", job, ExamConfig(tasks=100, splits=("test",)))
    assert 0.05 < result.success < 0.65


def test_a_careless_colleague_is_seldom_right() -> None:
    job = CarelessHops(2, 2)
    shown = demonstrations([job], 400, 0, Renderer(load("apprentice").tokenizer))
    right = sum(t.outcome.success for t in shown) / len(shown)
    by_luck = 1 / 8  # a random relation is the right one
    assert right == pytest.approx((1 - CARELESSNESS * (1 - by_luck)) ** 2, abs=0.08)
    assert all(turn.reply.startswith(("lookup(", "answer(")) for t in shown for turn in t.turns)


def test_nobody_has_shown_the_apprentice_the_building_of_the_demo() -> None:
    job = resolve(recipes.demo().jobs[1])
    building = job.task("train", 0).data["building"]
    assert building not in BUILDINGS
    assert all(doors(5, seed) != doors(5, building) for seed in BUILDINGS)


def test_the_demo_begins(tmp_path: Path) -> None:
    small = replace(recipes.demo(), steps=1, tasks=2, repeats=2, value_warmup=0, exam=ExamConfig(tasks=2), threads=1)
    records = list(learn(small, tmp_path / "run"))
    assert {r["kind"] for r in records} == {"exam", "learn"}
    assert (tmp_path / "run" / "model" / "value" / "value.safetensors").exists()


def test_the_recipe_of_the_slow_demo_names_what_exists() -> None:
    config = recipes.demo_llm()
    assert resolve(config.jobs[0]).max_reply_tokens == 16
    assert config.school_updates == 10
