"""The documents agree with each other and with the source."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
METRIC = re.compile(r'"(?:\{\w+\}/)?((?:policy|value|time|engine|mismatch)/[a-z][a-z0-9_{}]*)"')
OURS = {"journeyman"}
OF_A_JOB = re.compile(r'f"\{(?:name|job)\}/([a-z][a-z0-9_]*)"')


def without_code(text: str) -> str:
    """The page without its blocks and spans of code, in which a bracket is no link."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(page: Path) -> set[str]:
    """The headings' anchors, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?)\s*$", text, re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        number = sum(other == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", other) is not None for other in found)
        found.add(f"{slug}-{number}" if number else slug)
    return found


def targets(page: Path) -> list[str]:
    """Where the page's links and pictures point to, outside addresses left out."""
    text = without_code(page.read_text())
    found = re.findall(r"\]\(<?([^)\s>]+)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    return [target for target in found if not re.match(r"[a-z][a-z+.-]*:", target)]


@pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    broken: list[str] = []
    for target in targets(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(target)
    assert not broken, f"{page.relative_to(ROOT)} points to what is not there: {broken}"


def test_the_python_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert "steps=40)" in code
    monkeypatch.chdir(tmp_path)
    exec(code.replace("steps=40)", "steps=1, exam=jm.ExamConfig(tasks=4))"), {})
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("maze,size=4 ") and told[-1] == "runs/maze/report.html" and Path(told[-1]).exists()


@pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])
def test_make_targets_exist(page: Path) -> None:
    made = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    spoken_of = set(re.findall(r"(?:^ {4}|`)make ([a-z][a-z-]*)", page.read_text(), re.MULTILINE))
    assert spoken_of <= made, f"{page.relative_to(ROOT)} names targets that the Makefile lacks"


def rows(page: str) -> list[list[str]]:
    """The cells of all tables of a page under docs/, heads and rules left out."""
    lines = (ROOT / "docs" / page).read_text().splitlines()
    tables = [line.strip("|").split("|") for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in tables if "`" in row[0]]


def names(cell: str) -> list[str]:
    """What a cell has in backquotes: "`low`, `high`" -> ["low", "high"]."""
    return re.findall(r"`([^`]+)`", cell)


def logged_metrics() -> set[str]:
    """Names in the source, less `<job>/`; a part that is computed is left as {...}."""
    found: set[str] = set()
    for path in (ROOT / "journeyman").rglob("*.py"):
        if "report" not in path.parts:
            text = path.read_text()
            found |= {*METRIC.findall(text), *OF_A_JOB.findall(text)}
    return found


def test_every_logged_metric_is_defined() -> None:
    defined = {name.removeprefix("<job>/") for row in rows("metrics.md") for name in names(row[0])}
    logged = logged_metrics()
    assert logged, "the patterns find no metric at all"
    patterns = {name: re.sub(r"\{\w+\}", r"\\w+", name) for name in logged}
    undefined = [name for name, pattern in patterns.items() if not any(re.fullmatch(pattern, one) for one in defined)]
    assert not undefined, f"define in docs/metrics.md (name, formula, unit, what is good): {sorted(undefined)}"


def declared() -> dict[str, str]:
    """What pyproject.toml asks for, as {package: extra}; the extra is "" for what is always needed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    found = {re.split(r"[\[=<>~! ]", r)[0]: extra for extra, group in groups.items() for r in group}
    del found["journeyman"]
    return found


def test_dependencies_are_explained() -> None:
    explained: dict[str, str] = {}
    for row in rows("dependencies.md"):
        extra, package = ("", row[0]) if len(row) == 3 else (names(row[0])[0], row[1])
        explained |= dict.fromkeys(names(package), extra)
    assert explained == declared()


def test_what_is_imported_is_declared() -> None:
    """A package that only comes along with another one may stay away with its next version."""
    homes = importlib.metadata.packages_distributions()
    packages = {re.sub(r"[-_.]+", "-", package).lower() for package in declared()}
    strangers: set[str] = set()
    for path in (ROOT / "journeyman").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in {(name or "").split(".")[0] for name in modules} - sys.stdlib_module_names - OURS:
                owners = {re.sub(r"[-_.]+", "-", home).lower() for home in homes.get(module, [module])}
                if not owners & packages:
                    strangers.add(f"{path.relative_to(ROOT)}: {module}")
    assert not strangers, f"imported, but not in pyproject.toml: {sorted(strangers)}"
