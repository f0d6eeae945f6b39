"""Clients that no one here wrote, unchanged: litellm, inspect_ai."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.serve.live import Live, native, scripted

pytestmark = pytest.mark.filterwarnings("default")
ASK: Any = [{"role": "user", "content": "where am I?"}]


@pytest.mark.slow
def test_litellm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks the network for prices
    litellm = pytest.importorskip("litellm")
    litellm.telemetry = False
    call = 'I look.\n<tool_call>\n{"name": "look", "arguments": {"at": "E4"}}\n</tool_call>'
    look = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    with Live(tmp_path, scripted("in a maze", "at E4", call)) as live:
        known: Any = {"model": "openai/apprentice", "api_base": f"{live.url}/v1", "api_key": "none", "messages": ASK}
        assert litellm.completion(**known).choices[0].message.content == "in a maze"
        pieces = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(**known, stream=True)]
        assert "".join(pieces) == "at E4"
        (made,) = litellm.completion(**known, tools=[look]).choices[0].message.tool_calls
        assert json.loads(made.function.arguments) == {"at": "E4"}
        with pytest.raises(litellm.exceptions.NotFoundError):
            litellm.completion(**{**known, "model": "openai/gpt-9"})


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_smallest_client_of_all(tmp_path: Path) -> None:
    """The standard library's, so that nothing depends on a client's kindness."""
    import urllib.request

    with Live(tmp_path, native()) as live:
        body = json.dumps({"model": "apprentice", "messages": ASK, "max_tokens": 5}).encode()
        request = urllib.request.Request(f"{live.url}/v1/chat/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as response:
            assert json.load(response)["object"] == "chat.completion"
