"""Exams: ability, generalization, calibration, each with an interval."""
