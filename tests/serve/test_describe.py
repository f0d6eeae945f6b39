"""The page of the API is that of the code."""

from __future__ import annotations

from pathlib import Path

from journeyman.serve.describe import page

PAGE = Path(__file__).parent.parent.parent / "docs" / "api.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == page(), "write it anew: python -m journeyman.serve.describe docs/api.md"
