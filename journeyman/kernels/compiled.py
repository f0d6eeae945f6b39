"""Compiles `kernels.cpp` once per machine and calls it through ctypes.

The library lands in the user's cache folder (`XDG_CACHE_HOME` or `~/.cache`), named by a hash of the source, the
compiler's flags, the processor and torch's version, so that a change of any of them compiles anew (two seconds).
Where there is no compiler, :func:`library` gives None and `reference.py` does the work, slower.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = (
    *("-O3", "-march=native", "-std=c++17", "-fPIC", "-shared", "-fopenmp"),
    *(("-mprefer-vector-width=512",) if platform.machine() in ("x86_64", "AMD64") else ()),
    # what -ffast-math allows, but for its belief that nothing is infinite or NaN and its change to the whole process
    *("-fno-math-errno", "-fno-trapping-math", "-fassociative-math", "-fno-signed-zeros", "-freciprocal-math"),
)

logger = logging.getLogger(__name__)


class _Entry(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("function", ctypes.c_void_p))


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled loops, or None where they cannot be compiled (said once, as a warning in the log)."""
    if os.environ.get("JOURNEYMAN_COMPILED", "1") == "0":
        return None
    try:
        return ctypes.CDLL(str(_built()))
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("the fused loops could not be compiled, so all will be slower: %s", _reason(error))
        return None


TYPES = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "f": ctypes.c_float}
"""Arguments by letter: a pointer, an int64, a float."""


@functools.cache
def function(name: str, signature: str) -> Callable[..., None]:
    """A function of the library that returns nothing, by the letters of its arguments."""
    compiled = library()
    assert compiled is not None
    return ctypes.CFUNCTYPE(None, *(TYPES[letter] for letter in signature))((name, compiled))


@functools.cache
def addresses(dtype: torch.dtype) -> dict[str, int]:
    """Where each loop for this type begins; empty where there is none."""
    compiled = library()
    maker = {torch.float32: "float32_loops", torch.bfloat16: "bfloat16_loops"}.get(dtype)
    if compiled is None or maker is None:
        return {}
    first = getattr(compiled, maker)
    first.restype = ctypes.POINTER(_Entry)
    entries, found = first(), dict[str, int]()
    while entries[len(found)].name:
        entry = entries[len(found)]
        found[entry.name.decode()] = entry.function
    return found


def _built() -> Path:
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise OSError("no C++ compiler found (c++, g++ or clang++; or name one in CXX)")
    # torch brings an OpenMP runtime of its own; a second one beside it would fight for the same cores
    own = sorted(Path(torch.__file__).parent.glob("lib/libgomp*"))
    flags = [flag for flag in FLAGS if not (own and flag == "-shared")]
    key = hashlib.sha256(
        "\n".join([*_sources(), compiler, *FLAGS, torch.__version__, _processor()]).encode()
    ).hexdigest()[:16]
    target = _cache() / f"loops-{key}.so"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / "loops.so"
        if own:
            compiled = Path(folder) / "loops.o"
            _run([compiler, *flags, "-c", str(SOURCE), "-o", str(compiled)])
            _run([compiler, "-shared", str(compiled), str(own[0]), "-o", str(made)])
        else:
            _run([compiler, *flags, str(SOURCE), "-o", str(made)])
        os.replace(made, target)  # whole or not at all: several processes may compile at once
    return target


def _sources() -> list[str]:
    return [path.read_text() for path in sorted(SOURCE.parent.iterdir()) if path.suffix in (".cpp", ".h")]


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "journeyman"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _reason(error: Exception) -> str:
    said = getattr(error, "stderr", None)
    return str(said).strip().splitlines()[0] if said else str(error)
