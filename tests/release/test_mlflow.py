"""What MLflow shows of the registry, by MLflow's own client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from journeyman.errors import UsageError
from journeyman.release.gate import Sample, judge
from journeyman.release.mlflow import export
from journeyman.release.registry import Registry

tracking = pytest.importorskip("mlflow.tracking", reason="mlflow-skinny is not installed (extra mlflow)")
pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A registry in a file; what is logged lies beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    return tracking.MlflowClient(uri, uri)


def standing(client: Any) -> dict[str, str]:
    """Where the aliases point; of a number or its text, as MLflow's version has it."""
    return {alias: str(number) for alias, number in client.get_registered_model("letters").aliases.items()}


def test_versions_with_lineage_and_aliases_are_there_and_brought_up_to_date(registry: Registry, client: Any) -> None:
    registry.add("a" * 64, "runs/one", config={"update": {"rate": 1e-3}})
    registry.add("b" * 64, "runs/two", parents=[1])
    registry.point("release", 1)
    registry.point("candidate", 2)
    uri = client.tracking_uri
    assert export(registry.book(), uri, "letters") == ["1", "2"]
    versions = {str(v.version): v for v in client.search_model_versions("name='letters'")}
    assert versions["2"].tags["journeyman.parents"] == "1" and versions["1"].source == "runs/one"
    assert client.get_run(versions["1"].run_id).data.params == {"update.rate": "0.001"}
    assert standing(client) == {"release": "1", "candidate": "2"}

    found = judge([Sample("ability", "sort", (1.0, 0.0, 1.0), (1.0, 1.0, 1.0))])
    registry.attach(2, found.as_dict())
    registry.point("release", 2)
    registry.point("candidate", None)
    registry.note(2, "the better one")
    assert export(registry.book(), uri, "letters") == ["1", "2"]
    after = {str(v.version): v for v in client.search_model_versions("name='letters'")}
    assert after["2"].tags["journeyman.verdict"] == found.verdict
    assert after["2"].tags["journeyman.notes"] == "the better one"
    data = client.get_run(after["2"].run_id).data
    assert data.metrics["ability/sort/candidate"] == pytest.approx(2 / 3)
    assert [a.path for a in client.list_artifacts(after["2"].run_id)] == ["evidence.json"]
    assert standing(client) == {"release": "2"}


def test_a_server_that_is_not_there_is_named(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.add("a" * 64, "runs/one")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UsageError, match=r"MLflow at http://127\.0\.0\.1:9 did not take it"):
        export(registry.book(), "http://127.0.0.1:9", "letters")
