"""Programs that no one here wrote, unchanged: `llm`, `inspect_ai`, and the standard library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.serve.live import Live, native, scripted

ASK: Any = [{"role": "user", "content": "where am I?"}]


@pytest.mark.slow
def test_llm(tmp_path: Path) -> None:
    """The command line tool `llm`, streaming and not, with its own conversation going on."""
    pytest.importorskip("llm")
    with Live(tmp_path, scripted("in a maze", "at E4", "to the north")) as live:
        known = [{"model_id": "ours", "model_name": "apprentice", "api_base": f"{live.url}/v1"}]
        (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(known))  # JSON is YAML
        environment = {**os.environ, "LLM_USER_PATH": str(tmp_path), "LLM_LOAD_PLUGINS": ""}

        def say(*words: str) -> str:
            command = [sys.executable, "-m", "llm", "prompt", "-m", "ours", *words]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)
            assert done.returncode == 0, done.stderr
            return done.stdout.strip()

        assert say("where am I?") == "in a maze"
        assert say("--no-stream", "where am I?", "-s", "be brief") == "at E4"
        assert say("-c", "and now?") == "to the north"
        roles = [message["role"] for message in live.store.whole(live.store.browse().episodes[0].id).turns[0].messages]
        assert roles == ["system", "user", "assistant", "user"]


EVALUATION = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate


@task
def places():
    samples = [Sample(input="where am I?", target=target) for target in ("maze", "maze", "nowhere")]
    return Task(dataset=samples, solver=generate(), scorer=includes())
"""


@pytest.mark.slow
def test_inspect_ai_runs_an_evaluation(tmp_path: Path) -> None:
    pytest.importorskip("inspect_ai")
    (tmp_path / "places.py").write_text(EVALUATION)
    with Live(tmp_path, scripted("in a maze")) as live:
        at = {"JOURNEYMAN_BASE_URL": f"{live.url}/v1", "JOURNEYMAN_API_KEY": "none"}
        options = [
            "--display",
            "none",
            "--log-format",
            "json",
            "--log-dir",
            "logs",
            "--max-tokens",
            "30",
            "--seed",
            "1",
        ]
        command = [sys.executable, "-m", "inspect_ai", "eval", "places.py"]
        command += ["--model", "openai-api/journeyman/apprentice", *options]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, **at})
        assert done.returncode == 0, done.stdout + done.stderr
        (log,) = (json.loads(file.read_text()) for file in (tmp_path / "logs").glob("*.json"))
        assert log["status"] == "success"
        assert log["results"]["scores"][0]["metrics"]["accuracy"]["value"] == pytest.approx(2 / 3)
        assert len(live.store.browse().episodes) == 3


def test_the_standard_library(tmp_path: Path) -> None:
    with Live(tmp_path, native()) as live:
        body = json.dumps({"model": "apprentice", "messages": ASK, "max_tokens": 5}).encode()
        request = urllib.request.Request(f"{live.url}/v1/chat/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as response:
            assert json.load(response)["object"] == "chat.completion"
