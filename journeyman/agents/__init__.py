"""Agents as they are: programs that ask an OpenAI endpoint learn by another base_url. See docs/agents.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from journeyman import loop
from journeyman.agents.player import AgentPlayer
from journeyman.config import LearnConfig
from journeyman.errors import UsageError
from journeyman.stages import Record

__all__ = ["AgentPlayer", "learn"]


def learn(config: LearnConfig, folder: Path | str) -> Iterator[Record]:
    """:func:`journeyman.loop.learn` for a configuration with an agent.

    Raises:
        UsageError, RunError, CheckpointError, StoreError: as their messages say.
        JobError: every attempt of a step failed; the message has the first one's reason.
    """
    if config.agent is None:
        raise UsageError("no agent to learn from", fix="give the configuration one: agent=AgentConfig(...)")
    yield from loop.learn(config, folder, AgentPlayer(config.agent))
