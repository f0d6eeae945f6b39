"""Transfer between jobs, on a stream worked out by hand."""

from __future__ import annotations

import pytest

from journeyman.exam.transfer import average_accuracy, backward_transfer, forward_transfer

MATRIX = [[0.8, 0.3, 0.1], [0.6, 0.9, 0.2], [0.7, 0.8, 1.0]]
FRESH = [0.0, 0.1, 0.3]


def test_the_definitions_are_avalanches() -> None:
    assert average_accuracy(MATRIX) == pytest.approx((0.7 + 0.8 + 1.0) / 3)
    assert backward_transfer(MATRIX) == pytest.approx(((0.7 - 0.8) + (0.8 - 0.9)) / 2)
    assert forward_transfer(MATRIX, FRESH) == pytest.approx(((0.3 - 0.1) + (0.2 - 0.3)) / 2)


def test_a_stream_has_a_row_for_each_stage() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        backward_transfer(MATRIX[:2])
