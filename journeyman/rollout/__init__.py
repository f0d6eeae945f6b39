"""Rollouts: episodes played by an engine against jobs."""

from journeyman.rollout.environments import Environments
from journeyman.rollout.runner import Attempt, RolloutConfig, attempts, environments_for, rollout

__all__ = ["Attempt", "Environments", "RolloutConfig", "attempts", "environments_for", "rollout"]
