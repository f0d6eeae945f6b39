"""Engines: what turns weights into replies."""

from journeyman.engine.base import Engine, Finish, Reply, Sampling

__all__ = ["Engine", "Finish", "Reply", "Sampling"]
