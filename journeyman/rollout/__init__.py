"""Rollouts: episodes played by an engine against jobs."""

from journeyman.rollout.runner import Attempt, RolloutConfig, attempts, rollout

__all__ = ["Attempt", "RolloutConfig", "attempts", "rollout"]
