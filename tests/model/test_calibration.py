"""A calibration keeps the order of V, is the identity where there is none, and survives with the checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from journeyman.errors import CheckpointError, UsageError
from journeyman.model.calibration import Bin, Calibration, Evidence, Scaling
from journeyman.model.decoder import Decoder
from journeyman.model.load import find, load, save
from journeyman.model.value import ValueConfig, ValueFunction

KEPT = Calibration(
    overall=Scaling((0, 4), (1.5, 0.7), (0.1, -0.2)),
    jobs={"maze,size=4": Scaling((0,), (2.0,), (0.3,))},
    evidence={"maze,size=4": Evidence(10, 12, (0.2, 0.1), (0.25, 0.2), (Bin(0, 0.5, 0.4, 0.1, 0.8, 12),))},
    notes=("sums: V is left as it is",),
)


@given(
    st.lists(st.floats(0, 1, width=32), min_size=2, max_size=20),
    st.integers(0, 10_000),
    st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)),
    st.tuples(st.floats(-3, 3), st.floats(-3, 3)),
)
def test_the_order_at_one_position_stays(
    values: list[float], written: int, temperature: tuple[float, float], bias: tuple[float, float]
) -> None:
    ascending = np.array(sorted(values), np.float32)
    chances = Scaling((0, 64), temperature, bias).probability(ascending, written)
    assert (np.diff(chances) >= 0).all() and 0 <= chances.min() <= chances.max() <= 1


def test_between_positions_it_changes_steadily_and_beyond_them_not_at_all() -> None:
    scaling = Scaling((0, 15, 63), (1.0, 4.0, 4.0), (0.0, 1.0, 1.0))
    log_temperature, bias = scaling.at([0, 3, 15, 63, 100_000])
    # log2(1 + tokens) is 0, 2, 4, 6: three tokens are half of the way to fifteen
    assert np.exp(log_temperature) == pytest.approx([1, 2, 4, 4, 4])
    assert bias == pytest.approx([0, 0.5, 1, 1, 1])
    halves = scaling.probability(np.full(3, 0.5, np.float32), [0, 15, 63])
    assert halves == pytest.approx([0.5, 1 / (1 + np.exp(-1)), 1 / (1 + np.exp(-1))])


def test_without_a_calibration_v_is_left_alone_bit_for_bit() -> None:
    values = np.array([0.0, 1e-9, 0.3, 1.0, -2.0], np.float32)
    assert Calibration().of("maze").probability(values, np.arange(5)) is values


@pytest.mark.parametrize(
    ("written", "temperature", "bias"),
    [((0,), (0.0,), (0.0,)), ((0, 4), (1.0,), (0.0,)), ((4, 4), (1.0, 1.0), (0.0, 0.0)), ((0,), (1.0,), (np.inf,))],
)
def test_impossible_scalings_are_refused(
    written: tuple[int, ...], temperature: tuple[float, ...], bias: tuple[float, ...]
) -> None:
    with pytest.raises(UsageError, match="scaling"):
        Scaling(written, temperature, bias)


def test_it_survives_with_the_checkpoint(tmp_path: Path) -> None:
    loaded = load("apprentice")
    assert loaded.calibration == Calibration()
    value = ValueFunction.start(ValueConfig(placement="head"), loaded.model)
    save(tmp_path / "model", loaded.model, loaded.tokenizer, value, KEPT)
    assert load(tmp_path / "model").calibration == KEPT
    save(tmp_path / "model", loaded.model, loaded.tokenizer, value)
    assert load(tmp_path / "model").calibration == Calibration()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text[:-40], "cannot be read"),
        (lambda text: text.replace('"version": 1', '"version": 2'), "knows version 1"),
        (lambda text: text.replace('"bias"', '"bais"'), "cannot be read"),
        (lambda text: "[]", "cannot be read"),
        (lambda text: text.replace("1.5", "-1.5"), "temperatures must be above 0"),
    ],
)
def test_what_is_damaged_is_named(change, says: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    KEPT.save(tmp_path)
    file = tmp_path / "calibration.json"
    assert json.loads(file.read_text())["version"] == 1
    file.write_text(change(file.read_text()))
    with pytest.raises(CheckpointError, match=says):
        Calibration.load(tmp_path)


def test_a_damaged_one_does_not_pass_for_none(tmp_path: Path) -> None:
    shutil.copytree(find("apprentice"), tmp_path / "model")
    model: Decoder = load("apprentice").model
    ValueFunction.start(ValueConfig(placement="head"), model).save(tmp_path / "model" / "value")
    (tmp_path / "model" / "value" / "calibration.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"calibration\.json"):
        load(tmp_path / "model")
