"""The shape of the source: imports point one way, files and functions stay small, public names are pinned."""

from __future__ import annotations

import ast
import graphlib
import importlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "journeyman"

LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"types", "errors", "machine"}),
    frozenset({"kernels"}),
    frozenset({"jobs", "model", "experience"}),
    frozenset({"engine"}),
    frozenset({"rollout"}),
    frozenset({"search", "learn", "exam"}),
    frozenset({"release"}),
    frozenset({"config", "run", "stages", "watching", "loop"}),
    frozenset({"prefixes"}),
    frozenset({"api", "recipes", "report", "progress"}),
    frozenset({"amalgamate", "improve", "serve"}),
    frozenset({"agents"}),
    frozenset(
        {
            "cli",
            "improve_commands",
            "merge_commands",
            "release_commands",
            "rollout_commands",
            "serve_commands",
            "store_commands",
        }
    ),
    frozenset({"__init__", "__main__"}),
)
"""A unit (a package or module right under journeyman/) imports from its own layer and those before it.

Within a layer no two units import each other, directly or in a circle.
"""

MOST_LINES = 500
LONG_FILES: dict[str, str] = {}
"""Files that may be longer, each with the reason."""

MOST_FUNCTION_LINES = 60
LONG_FUNCTIONS: dict[str, str] = {}
"""Functions (`file.py:name`) that may be longer, each with the reason."""

FILES = sorted(PACKAGE.rglob("*.py"))


def unit(path: Path) -> str:
    """The package or module right under journeyman/ that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[tuple[str, int]]:
    """(unit, line) of everything of ours that a file imports, at its top or inside a function."""
    package = path.relative_to(PACKAGE.parent).parent.parts
    found: set[tuple[str, int]] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = list(package[: len(package) + 1 - node.level]) if node.level else []
            base = start + (node.module.split(".") if node.module else [])
            names = [[*base, alias.name] if base == ["journeyman"] else base for alias in node.names]
        else:
            continue
        found |= {(name[1] if len(name) > 1 else "__init__", node.lineno) for name in names if name[0] == "journeyman"}
    return found


def known(name: str) -> str:
    """What `from journeyman import name` refers to: a unit, or a public name of `__init__`."""
    is_unit = (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()
    return name if is_unit else "__init__"


def layer(name: str) -> int:
    return next(number for number, units in enumerate(LAYERS) if name in units)


def test_every_unit_has_a_layer() -> None:
    placed = frozenset().union(*LAYERS)
    homeless = {unit(path) for path in FILES} - placed
    assert not homeless, f"add {sorted(homeless)} to LAYERS, as low as their imports allow"


def test_imports_point_one_way() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE.parent)}:{line} imports journeyman.{known(name)}"
        for path in FILES
        for name, line in sorted(imports(path))
        if unit(path) != known(name) and layer(known(name)) > layer(unit(path))
    ]
    assert not wrong, "these imports point up:\n" + "\n".join(wrong)


def test_units_of_a_layer_do_not_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for path in FILES:
        graph.setdefault(unit(path), set()).update(
            known(name) for name, _ in imports(path) if known(name) != unit(path)
        )
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"these import each other in a circle: {' -> '.join(error.args[1])}")


def test_files_are_short() -> None:
    lengths = {str(p.relative_to(PACKAGE)): len(p.read_text().splitlines()) for p in FILES}
    too_long = {name: lines for name, lines in lengths.items() if lines > MOST_LINES}
    assert too_long.keys() == LONG_FILES.keys(), (
        f"over {MOST_LINES} lines: {too_long}, allowed: {sorted(LONG_FILES)}. Look for the idea that splits "
        "it; where there is none, add the file to LONG_FILES with the reason. Take out what is short again."
    )


def test_functions_are_short() -> None:
    too_long: dict[str, int] = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MOST_FUNCTION_LINES:
                    too_long[f"{path.relative_to(PACKAGE)}:{node.name}"] = lines
    assert too_long.keys() == LONG_FUNCTIONS.keys(), (
        f"over {MOST_FUNCTION_LINES} lines: {too_long}; allowed: {sorted(LONG_FUNCTIONS)}"
    )


def test_modules_say_what_they_are() -> None:
    silent = [str(p.relative_to(PACKAGE)) for p in FILES if not ast.get_docstring(ast.parse(p.read_text()))]
    assert not silent, f"without a docstring at their head: {silent}"


PUBLIC_NAMES: list[str] = [
    "CreditConfig",
    "DistillConfig",
    "Env",
    "ExamConfig",
    "ExamResult",
    "ImproveConfig",
    "Job",
    "JourneymanError",
    "LearnConfig",
    "LoRAConfig",
    "MergeConfig",
    "Message",
    "Outcome",
    "SchoolConfig",
    "SearchConfig",
    "StepResult",
    "Store",
    "Task",
    "Trajectory",
    "UpdateConfig",
    "ValueConfig",
    "ValueEstimate",
    "distill",
    "exam",
    "improve",
    "learn",
    "merge",
    "open_model",
    "recipes",
    "resolve",
    "school",
    "value_of",
    "write_report",
]
"""What `import journeyman` promises, in the order of `__all__` (sorted as ruff's RUF022 has it).

A name added here is a promise; a name taken away breaks somebody's program: say so in CHANGELOG.md.
"""


def test_public_names_are_pinned() -> None:
    package = importlib.import_module("journeyman")
    assert list(package.__all__) == PUBLIC_NAMES
    missing = [name for name in package.__all__ if not hasattr(package, name)]
    assert not missing, f"in __all__, but not there: {missing}"
