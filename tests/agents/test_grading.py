"""What a grader may print."""

from __future__ import annotations

import pytest

from journeyman.agents.grading import NoGrade, read_grade


@pytest.mark.parametrize(
    ("printed", "reward"),
    [
        ("1", 1.0),
        (" 0.5\n", 0.5),
        ("-2e-1", -0.2),
        ("true", 1.0),
        ('{"reward": 0.25}', 0.25),
        ('{"success": true}', 1.0),
        ('{"success": false, "why": "late"}', 0.0),
        ('{"reward": 0.5, "success": false}', 0.5),
        ('{"reward": 1, "success": true}', 1.0),
    ],
)
def test_read(printed: str, reward: float) -> None:
    assert read_grade(printed) == reward


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        ("", "a number or a JSON object, got ''"),
        ("good", "got 'good'"),
        ("1\n2", "got '1\\\\n2'"),
        ("NaN", "finite, got nan"),
        ("1e999", "finite, got inf"),
        ("[1]", "must print a number"),
        ('"1"', "must print a number"),
        ("{}", "a reward or a success"),
        ('{"reward": null}', "must print a number"),
        ('{"success": 1}', "true or false, got 1"),
        ('{"reward": 0, "success": true}', "a success is a reward of 1"),
        ('{"reward": 1, "success": false}', "a success is a reward of 1"),
    ],
)
def test_refused(printed: str, said: str) -> None:
    with pytest.raises(NoGrade, match=said):
        read_grade(printed)
