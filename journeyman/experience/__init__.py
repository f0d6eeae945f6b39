"""Experience: what happened, kept."""

from journeyman.experience.store import Store

__all__ = ["Store"]
