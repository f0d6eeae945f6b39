"""Which weights are served, by number: each set of weights has one for good, kept in `versions.json`."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from journeyman.errors import UsageError
from journeyman.model.decoder import Decoder
from journeyman.model.weights import weights_digest
from journeyman.run import write_atomically


@dataclass(frozen=True)
class Version:
    """Weights that were served.

    Attributes:
        number: 1, 2, 3... in the order they first were.
        digest: sha256 of the weights.
        source: where they were loaded from.
        since: when they were first served, in Unix seconds.
    """

    number: int
    digest: str
    source: str
    since: float

    @property
    def fingerprint(self) -> str:
        """The digest in short, for OpenAI's `system_fingerprint`."""
        return f"fp_{self.digest[:12]}"


class Versions:
    """All versions that a server has served.

    Raises:
        UsageError: the file is there and cannot be read.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            kept: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
            self.all = [Version(**one) for one in kept]
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(f"the versions in {file} cannot be read", reason=str(error), fix="restore it") from error

    def of(self, model: Decoder, source: str) -> Version:
        """The version that these weights are, a new one where they were never served."""
        digest = weights_digest(model)
        known = next((version for version in self.all if version.digest == digest), None)
        if known is not None:
            return known
        new = Version(len(self.all) + 1, digest, source, time.time())
        self.all.append(new)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.file, json.dumps([asdict(one) for one in self.all], indent=1) + "\n")
        return new
