"""Journeyman: a language model that knows how it is doing, and so learns on the job.

import journeyman as jm

for record in jm.learn(jm.recipes.demo(), "runs/demo"):
    print(record)
print(jm.write_report("runs/demo"))
"""

from __future__ import annotations

from journeyman import recipes
from journeyman.amalgamate import distill, merge
from journeyman.api import exam, open_model, school, value_of
from journeyman.config import LearnConfig
from journeyman.errors import JourneymanError
from journeyman.exam.exam import ExamConfig, ExamResult
from journeyman.experience.store import Store
from journeyman.improve import ImproveConfig, improve
from journeyman.jobs import resolve
from journeyman.jobs.base import Env, Job
from journeyman.learn.credit import CreditConfig
from journeyman.learn.distill import DistillConfig
from journeyman.learn.learner import UpdateConfig
from journeyman.learn.merge import MergeConfig
from journeyman.learn.school import SchoolConfig
from journeyman.loop import learn
from journeyman.model.lora import LoRAConfig
from journeyman.model.value import ValueConfig
from journeyman.prefixes import ValueEstimate
from journeyman.report import write_report
from journeyman.search.strategies import SearchConfig
from journeyman.types import Message, Outcome, StepResult, Task, Trajectory

__all__ = [
    "CreditConfig",
    "DistillConfig",
    "Env",
    "ExamConfig",
    "ExamResult",
    "ImproveConfig",
    "Job",
    "JourneymanError",
    "LearnConfig",
    "LoRAConfig",
    "MergeConfig",
    "Message",
    "Outcome",
    "SchoolConfig",
    "SearchConfig",
    "StepResult",
    "Store",
    "Task",
    "Trajectory",
    "UpdateConfig",
    "ValueConfig",
    "ValueEstimate",
    "distill",
    "exam",
    "improve",
    "learn",
    "merge",
    "open_model",
    "recipes",
    "resolve",
    "school",
    "value_of",
    "write_report",
]
__version__ = "0.1.0"
