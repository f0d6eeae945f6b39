"""The registry in an MLflow server, for those who look for models there. Ours stays the truth: this only copies.

Each version becomes a run (what made it as parameters, the newest judgement's figures as metrics, all evidence as
`evidence.json`) and a version of one registered model, with its lineage as tags; aliases stand where ours stand. What
is there already, by the hash of its weights, is brought up to date. Needs the extra `mlflow`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from journeyman.errors import UsageError
from journeyman.release.book import ALIASES, Book, Version
from journeyman.release.gate import latest
from journeyman.release.registry import show_runs

LONGEST = 5000
"""Characters that MLflow takes in a tag or a parameter."""


def export(book: Book, uri: str, name: str) -> list[str]:
    """Copy what the book says; returns MLflow's number of each version, in the order of ours.

    Args:
        uri: of an MLflow tracking server that has a registry: ``http://...``, ``sqlite:///file``.
        name: of the registered model and of the experiment.

    Raises:
        UsageError: the extra `mlflow` is not installed, or MLflow cannot do it.
    """
    try:
        tracking, exceptions = (import_module(f"mlflow.{part}") for part in ("tracking", "exceptions"))
    except ImportError as error:
        fix = "pip install 'journeyman[mlflow]'"
        raise UsageError("an export to MLflow needs its package", reason=str(error), fix=fix) from error
    try:
        return _copied(tracking.MlflowClient(uri, uri), book, name)
    except exceptions.MlflowException as error:
        raise UsageError(f"MLflow at {uri} did not take it", reason=str(error)) from error


def _copied(client: Any, book: Book, name: str) -> list[str]:
    experiment = _named(client, name)
    there = {v.tags.get("journeyman.digest", ""): v for v in client.search_model_versions(f"name='{name}'")}
    numbers: dict[int, str] = {}
    for version in book.versions.values():
        known = there.get(version.digest) or _made(client, version, experiment, name)
        numbers[version.number] = str(known.version)
        for tag, value in _tags(book, version).items():
            client.set_model_version_tag(name, known.version, tag, value[:LONGEST])
        _judged(client, book, version, known.run_id)
    standing = book.aliases
    for alias, number in standing.items():
        client.set_registered_model_alias(name, alias, numbers[number])
    for alias in client.get_registered_model(name).aliases:
        if alias in ALIASES and alias not in standing:
            client.delete_registered_model_alias(name, alias)
    return list(numbers.values())


def _named(client: Any, name: str) -> str:
    """The experiment and the registered model of this name, made where they are not there; the experiment's id."""
    if not client.search_registered_models(f"name='{name}'"):
        client.create_registered_model(name, description="Versions of a Journeyman deployment")
    found = client.get_experiment_by_name(name)
    return client.create_experiment(name) if found is None else found.experiment_id


def _made(client: Any, version: Version, experiment: str, name: str) -> Any:
    """A run and a version of the model."""
    run = client.create_run(experiment, int(1000 * version.at), run_name=f"version {version.number}").info.run_id
    for key, value in _flat(version.config):
        client.log_param(run, key, value[:LONGEST])
    client.set_terminated(run, end_time=int(1000 * version.at))
    place = Path(version.source)
    source = place.resolve().as_uri() if place.exists() else version.source
    return client.create_model_version(name, source, run, tags={"journeyman.digest": version.digest})


def _tags(book: Book, version: Version) -> dict[str, str]:
    """What MLflow has no place for."""
    judgement = latest(book.evidence.get(version.number, ()))
    tags = {
        "version": str(version.number),
        "parents": " ".join(map(str, version.parents)),
        "entries": show_runs(version.entries),
        "data": version.data,
        "code": version.code,
        "verdict": "" if judgement is None else str(judgement.verdict),
        "quarantine": book.distrust(version.number) or "",
        "notes": "\n".join(text for _, text in book.notes.get(version.number, ())),
    }
    return {f"journeyman.{key}": value for key, value in tags.items()}


def _judged(client: Any, book: Book, version: Version, run: str) -> None:
    """What the gate found."""
    evidence = book.evidence.get(version.number, ())
    judgement = latest(evidence)
    if judgement is None:
        return
    client.log_dict(run, list(evidence), "evidence.json")
    for found in judgement.findings:
        figures = {"candidate": found.candidate, "release": found.release, "low": found.low, "high": found.high}
        for key, figure in figures.items():
            if figure is not None:
                client.log_metric(run, f"{_plain(f'{found.aspect}/{found.about}')}/{key}", figure)


def _plain(name: str) -> str:
    """Of the letters that MLflow allows in a metric's name."""
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in name)


def _flat(config: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as names with dots."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", str(value)
