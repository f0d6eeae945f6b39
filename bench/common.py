"""How every script in `bench/` writes down what it measured: `bench/results/<name>.json`.

    from bench.common import Results, parser

    options = parser(__doc__).parse_args()          # --quick, --seeds 0 1 2
    results = Results("demo", seeds=options.seeds, quick=options.quick)
    for seed in options.seeds:
        ...
        results.sample("demo_seconds", seed, seconds, "s")  # one per seed: mean and 95% interval
    results.figure("kills_episodes_lost", lost, "episodes", low=0, high=5.8)  # or a figure as it is
    results.write()

The file's `figures` is a flat map from name to `{"value", "low", "high", "unit"}`; `low` and `high` bound a
95% interval and are null where none is known. Beside it stand the command, date, machine and versions of the
last run and the seeds of all, and in `runs` the same of every run that a figure still rests on: a script may
measure some figures today and the others, or more seeds of the same ones, tomorrow. The quick form writes
`<name>.quick.json`, which git ignores, and never touches what the full form measured.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.metadata
import json
import math
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scipy.stats import t as student_t

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "bench" / "results"
LETTERS = ROOT / "examples" / "story" / "letters.py"
"""Small jobs with more different held-out prompts than anybody asks."""
NAME = re.compile(r"[A-Za-z][\w.:,=+-]*")
PACKAGES = ("journeyman", "torch", "transformers", "numpy")


class Results:
    """What one run of one script measured; :meth:`write` merges it into the file."""

    def __init__(self, name: str, *, seeds: Sequence[int] = (), quick: bool = False, folder: Path = FOLDER) -> None:
        """
        Args:
            name: of the script, and of the file.
            seeds: every seed this run used.
            quick: whether this is the quick form.
            folder: where the file goes.

        Raises:
            ValueError: the name is no file name.
        """
        self.name = _checked(name)
        self.path = folder / f"{name}{'.quick' if quick else ''}.json"
        self.seeds = sorted(set(seeds))
        self.details: dict[str, Any] = {}
        self._figures: dict[str, dict[str, Any]] = {}
        self._samples: dict[str, dict[str, float]] = {}
        self._bounds: dict[str, tuple[float, float]] = {}
        self._gone: set[str] = set()

    def figure(
        self, name: str, value: float, unit: str, *, low: float | None = None, high: float | None = None
    ) -> None:
        """A figure as it is, with its 95% interval where one is known.

        Raises:
            ValueError: it is not finite, or lies outside its interval.
        """
        self._samples.pop(_checked(name), None)
        self._figures[name] = _figure(name, value, low, high, unit)

    def sample(
        self,
        name: str,
        seed: int,
        value: float,
        unit: str,
        *,
        bounds: tuple[float, float] = (-math.inf, math.inf),
    ) -> None:
        """One seed's measurement. The figure is the mean over seeds, those of earlier runs included.

        Args:
            bounds: what the quantity cannot leave, e.g. (0, 100) for a percentage; the interval is cut there.
        """
        self._samples.setdefault(_checked(name), {})[str(seed)] = float(value)
        self._bounds[name] = bounds
        self._figures[name] = _from_samples(name, self._samples[name], unit, bounds)

    def without(self, name: str) -> None:
        """A figure of earlier runs that no longer holds."""
        self._gone.add(name)

    def detail(self, name: str, value: Any) -> None:
        """Anything else worth keeping (a table, a curve), as JSON; not a figure."""
        self.details[name] = value

    def write(self) -> Path:
        """Merge into the file, replacing it whole or not at all; prints the figures. Returns its path."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self.path.with_suffix(".lock")):
            merged = self._merged(_read(self.path))
            draft = self.path.with_suffix(".draft")
            draft.write_text(json.dumps(merged, indent=2, allow_nan=False) + "\n")
            os.replace(draft, self.path)
        for name in self._figures:
            print(f"{name}: {shown(merged['figures'][name])}")
        print(f"wrote {self.path}")
        return self.path

    def _merged(self, old: Mapping[str, Any]) -> dict[str, Any]:
        figures: dict[str, Any] = {k: v for k, v in old.get("figures", {}).items() if k not in self._gone}
        outdated = self._figures.keys() | self._gone
        samples: dict[str, Any] = {k: v for k, v in old.get("samples", {}).items() if k not in outdated}
        shared: set[str] = set()
        for name, figure in self._figures.items():
            figures[name] = figure
            if name in self._samples:
                earlier = old.get("samples", {}).get(name, {})
                shared |= {name} if earlier.keys() - self._samples[name].keys() else set()
                samples[name] = dict(sorted({**earlier, **self._samples[name]}.items(), key=lambda s: int(s[0])))
                figures[name] = _from_samples(name, samples[name], figure["unit"], self._bounds[name])
        run = {**provenance(self.seeds), "figures": sorted(self._figures)}
        replaced = outdated - shared
        runs = [_without(r, replaced) for r in old.get("runs", [])]
        runs = [r for r in runs if r["figures"]] + [run]
        return {
            "name": self.name,
            "figures": dict(sorted(figures.items())),
            **{key: run[key] for key in ("command", "date", "machine", "versions")},
            "seeds": sorted({seed for r in runs for seed in r["seeds"]}),  # of all of `runs`
            "details": {**old.get("details", {}), **self.details},
            "samples": dict(sorted(samples.items())),
            "runs": runs,
        }


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options every script has; add its own. `--quick` must finish in about a minute."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="a small version, to see that it works")
    options.add_argument("--seeds", type=int, nargs="+", default=[0], help="one run for each (default: 0)")
    return options


def interval(
    values: Sequence[float], bounds: tuple[float, float] = (-math.inf, math.inf)
) -> tuple[float | None, float | None]:
    """Student's 95% interval of the mean, cut at the bounds; (None, None) for a single value."""
    if len(values) < 2:
        return None, None
    half = float(student_t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return max(mean - half, bounds[0]), min(mean + half, bounds[1])


def shown(figure: Mapping[str, Any]) -> str:
    """A figure as text: `91.2 percent [88.0, 94.4]`."""
    text = f"{figure['value']:.6g} {figure['unit']}"
    return text if figure["low"] is None else f"{text} [{figure['low']:.6g}, {figure['high']:.6g}]"


def provenance(seeds: Sequence[int]) -> dict[str, Any]:
    """Command, date, machine, versions and seeds of this process."""
    return {
        "command": command(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "seeds": list(seeds),
    }


def command() -> str:
    """What was typed, as it would be typed at the top of the repository."""
    script = Path(sys.argv[0]).resolve()
    if not script.is_relative_to(ROOT):
        return shlex.join([script.name, *sys.argv[1:]])
    module = ".".join(script.relative_to(ROOT).with_suffix("").parts)
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def machine() -> dict[str, Any]:
    """What it ran on, as far as it bears on the figures."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": _gpus(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Of Python, the packages that bear on the figures, and the source (`+` marks uncommitted changes)."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = _git("rev-parse", "--short=12", "HEAD")
    if commit:
        changed = _git("status", "--porcelain", "--", ".", ":!bench/results", ":!docs", ":!*.md")
        found["source"] = commit + ("+" if changed else "")
    return found


def _figure(name: str, value: float, low: float | None, high: float | None, unit: str) -> dict[str, Any]:
    known = [float(x) for x in (value, low, high) if x is not None]
    if not all(math.isfinite(x) for x in known):
        raise ValueError(f"{name} must be finite, got {value} in [{low}, {high}]")
    if (low is None) != (high is None):
        raise ValueError(f"{name} needs both ends of its interval or none, got [{low}, {high}]")
    slack = 1e-9 * (1 + abs(float(value)))
    if low is not None and high is not None and not low - slack <= value <= high + slack:
        raise ValueError(f"{name} must lie in its interval, got {value} in [{low}, {high}]")
    ends = {"low": None if low is None else float(low), "high": None if high is None else float(high)}
    return {"value": float(value), **ends, "unit": unit}


def _from_samples(name: str, samples: Mapping[str, float], unit: str, bounds: tuple[float, float]) -> dict[str, Any]:
    values = list(samples.values())
    for value in values:
        if not bounds[0] <= value <= bounds[1]:
            raise ValueError(f"{name} must lie in [{bounds[0]}, {bounds[1]}], got {value}")
    low, high = interval(values, bounds)
    return _figure(name, statistics.fmean(values), low, high, unit)


def _checked(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(f"a name starts with a letter and has no spaces or slashes, got {name!r}")
    return name


def _without(run: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {**run, "figures": [name for name in run["figures"] if name not in names]}


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two scripts that merge into one file do so one after the other."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()


def _gpus() -> list[str]:
    import torch  # takes seconds, and only a run that writes results needs it

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
