"""Who may look at what a server keeps: the door of `looking.py` where there are API keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from journeyman.serve.access import Bearer, caller
from journeyman.serve.deployment import Deployment
from journeyman.serve.errors import ApiError
from journeyman.serve.keys import EVERYBODY
from journeyman.serve.looking import View

check = caller("feedback", counted=False)
"""The page asks every few seconds, which is not to take from what its reader may ask of the model."""


@dataclass(frozen=True)
class Gate:
    """A key sees its own episodes, one with the scope `admin` all; without any key, whoever is on this machine."""

    d: Deployment

    async def admit(self, request: Request, bearer: Bearer) -> View:
        """What this caller may look at.

        Raises:
            ApiError: 401 or 403, the key does not hold for it.
        """
        d = self.d
        who = await check(request, d, bearer)
        if who.key is EVERYBODY and d.config.open:
            raise ApiError(403, "where everybody is let in, only a key shows what was said", "insufficient_scope")
        sees_all = who.key.may("admin") or not len(d.keys)
        return View(d.archive, None if sees_all else who.key.id)

    def about(self) -> Mapping[str, Any]:
        """What is served here."""
        d = self.d
        return {
            "name": d.name,
            "live": True,
            "serving": d.version.number,
            "traffic": d.metrics.traffic.read(),
        }
