"""Learning on the job: a deployed model learns from what its users say, and is released again on evidence."""

from __future__ import annotations

from journeyman.improve.config import ImproveConfig, PracticeSteps, ReleaseSteps
from journeyman.improve.improver import improve

__all__ = ["ImproveConfig", "PracticeSteps", "ReleaseSteps", "improve"]
