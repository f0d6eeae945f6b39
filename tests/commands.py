"""The command line as a person meets it."""

from __future__ import annotations

import pytest

from journeyman.cli import main


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Its exit status, what it printed, and its errors in one line."""
    code = 0
    try:
        main(list(words))
    except SystemExit as error:
        code = int(error.code or 0)
    out, err = capsys.readouterr()
    return code, out, " ".join(err.split())
