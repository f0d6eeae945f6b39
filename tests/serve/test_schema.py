"""schemathesis on the OpenAPI description: whatever fits it, and what does not, no 5xx comes of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from journeyman.serve.keys import Keys
from tests.serve.live import Live, judged, native

pytest.importorskip("schemathesis")
pytestmark = pytest.mark.slow
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def attack(url: str, key: str, folder: Path, *options: str) -> None:
    """A full run: examples, the edges of every field, and requests made up at random, right and wrong."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--checks", CHECKS]
    command += ["--max-examples", "40", "--seed", "1", "--no-color", "-H", f"Authorization: Bearer {key}", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def test_the_api(tmp_path: Path) -> None:
    key = Keys(tmp_path / "keys.json").add("tester", ("use", "feedback"))[1]
    with Live(tmp_path, native(judged(), context=128), judged()) as live:
        attack(live.url, key, tmp_path)
        assert live.chat("still up?", headers={"Authorization": f"Bearer {key}"}).status_code == 200


def test_the_administration(tmp_path: Path) -> None:
    key = Keys(tmp_path / "keys.json").add("tester", ("admin",))[1]
    with Live(tmp_path, native(judged(), context=128), judged()) as live:
        attack(live.admin, key, tmp_path, "--exclude-path", "/admin/drain", "--exclude-path-regex", "/admin/keys/.*")
        assert live.http.get("/healthz").status_code == 200
