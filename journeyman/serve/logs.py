"""One JSON line per request on standard error: what happened; what was said only where that is asked for."""

from __future__ import annotations

import json
import sys
import time
from typing import Any, TextIO


class Log:
    """Writes lines.

    Args:
        prompts: whether what was asked and answered is written, too.
        stream: where to; standard error when not given.
    """

    def __init__(self, prompts: bool = False, stream: TextIO | None = None) -> None:
        self.prompts, self.stream = prompts, stream

    def write(self, event: str, said: dict[str, Any] | None = None, **facts: Any) -> None:
        """One line. `said` is left out unless prompts are logged."""
        line = {"time": round(time.time(), 3), "event": event, **facts}
        if self.prompts and said:
            line |= said
        print(json.dumps(line, default=str), file=self.stream or sys.stderr, flush=True)
