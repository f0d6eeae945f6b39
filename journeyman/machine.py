"""What this machine has, and how the process makes the best of it. Nothing here is for the user to set.

Freed memory goes back to the kernel by default, and every page of the next tensor is then faulted in and zeroed
anew: learning spent nearly half of its time in that (docs/performance.md). So the process keeps what it frees, and
asks for large pages. Threads follow the cores that the process may use, not those that the machine has.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import platform
from pathlib import Path

import torch

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
"""torch reads this at its first large tensor: large pages for tensors of two megabytes and more."""

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
"""mallopt's parameters (malloc.h)."""


@functools.cache
def prepare() -> None:
    """Allocator and threads, once per process. Settings of the user's own (MALLOC_*, OMP_NUM_THREADS) stay."""
    if platform.libc_ver()[0] == "glibc" and not any(name.startswith("MALLOC_") for name in os.environ):
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, -1)
        libc.mallopt(_TOP_PAD, 2**26)
    gc.freeze()  # what is imported by now stays; looking through it for garbage took 5% of small rollouts
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), cores()))


def leave_a_core() -> None:
    """Let arithmetic that is called from this thread leave a core to other threads: those of a team wait for each other
    by spinning, and where one has lost its core to somebody else, all burn theirs until it is back."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(cores() - 1, 1))


def cores() -> int:
    """Cores that this process may use: what it is bound to, and no more than its control group's quota."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(min(bound, round(int(quota) / int(period))), 1)
    except (OSError, ValueError):  # no quota, or no control groups
        return bound


def memory(device: torch.device) -> int:
    """Bytes of memory in all, of the device or of what the process may use. In all and not free: how a step is cut
    into micro-batches, and so its rounding, should be the same when a run is continued."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return total
