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


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_inspect_ai_runs_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    inspect_ai = pytest.importorskip("inspect_ai")
    from inspect_ai.dataset import Sample
    from inspect_ai.model import GenerateConfig, get_model
    from inspect_ai.scorer import includes
    from inspect_ai.solver import generate

    samples = [Sample(input="where am I?", target=target) for target in ("maze", "maze", "nowhere")]
    with Live(tmp_path, scripted("in a maze")) as live:
        model = get_model(
            "openai-api/journeyman/apprentice",
            base_url=f"{live.url}/v1",
            api_key="none",
            config=GenerateConfig(max_tokens=30, temperature=0.7, seed=1),
        )
        task = inspect_ai.Task(dataset=samples, solver=generate(), scorer=includes())
        (log,) = inspect_ai.eval(task, model=model, log_dir=str(tmp_path / "logs"), display="none")
        assert log.status == "success", log.error
        assert log.results.scores[0].metrics["accuracy"].value == pytest.approx(2 / 3)
        assert len(live.store.browse().episodes) == 3


def test_the_standard_library(tmp_path: Path) -> None:
    with Live(tmp_path, native()) as live:
        body = json.dumps({"model": "apprentice", "messages": ASK, "max_tokens": 5}).encode()
        request = urllib.request.Request(f"{live.url}/v1/chat/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as response:
            assert json.load(response)["object"] == "chat.completion"
