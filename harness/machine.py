"""This machine: its cores, memory, processor and the versions of what computes."""

from __future__ import annotations

import ctypes
import gc
import importlib.metadata
import os
import platform
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch


def usable_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory(control_group: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc")) -> int:
    """Bytes of this machine's memory, or of what a container was given of it, that can be had without swapping."""
    try:
        lines = (proc / "meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return total_memory(control_group)  # no Linux
    try:
        limit, used = (int((control_group / f"memory.{name}").read_text()) for name in ("max", "current"))
        statistics = (control_group / "memory.stat").read_text().splitlines()
        reclaimable = sum(int(line.split()[1]) for line in statistics if line.startswith("inactive_file "))
    except (OSError, ValueError):
        return free
    return min(free, limit - used + reclaimable)


def total_memory(control_group: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of this machine's memory, or of what a container was given of it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(total, int((control_group / "memory.max").read_text()))
    except (OSError, ValueError):
        return total


def free_device_memory(device: torch.device) -> int:
    """Bytes of a GPU's memory that can be had; what torch holds for reuse, after an earlier run, is free as well."""
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held


def versions() -> dict[str, str | None]:
    """Versions of all that computes."""
    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": importlib.metadata.version("torchvision"),
        "cuda": torch.version.cuda,
        "cudnn": None if cudnn is None else str(cudnn),
    }


def cpu_name() -> str:
    """The processor's product name: libraries choose their kernels, and so the order of sums, by it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


# Parameters of mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_LARGE = 1 << 30


@cache
def keep_freed_memory() -> None:
    """Once a process: have glibc keep what is freed, so that the next step's activations find their pages in place.

    By its own rules it gives large blocks back to the system, and on the CPU a training step then spends time on
    having the same pages mapped and zeroed again. Other C libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_TRIM_THRESHOLD, -1)
    # Before 2.35 glibc does not take so high a threshold; then it is to map nothing at all.
    if not mallopt(_MMAP_THRESHOLD, _LARGE):
        mallopt(_MMAP_MAX, 0)


@contextmanager
def uncollected() -> Iterator[None]:
    """While entered, no garbage is collected, what there was of it before: an old CUDA graph that is freed during a
    recording makes the new one void, and since 2.9 torch does not see to it."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def chain_of(error: BaseException) -> list[BaseException]:
    """An error and those behind it, each once."""
    found = [error]
    for each in found:
        behind = (each.__cause__, each.__context__)
        found += [other for other in behind if other is not None and all(other is not known for known in found)]
    return found


def forget(error: BaseException) -> None:
    """Take their local variables from the calls that an error, or one behind it, went through.

    Whoever keeps the error would else keep the network and the batch that these calls held.
    """
    for each in chain_of(error):
        traceback.clear_frames(each.__traceback__)


@cache
def spare_the_collector() -> None:
    """Once a process: what the imports made stays, so that no garbage collection has to walk over it again.

    A run walks over all of torch otherwise, while it draws and once more when the process ends. To be called before
    the first optimizer is built, which imports Triton: what Triton made and is frozen is never freed, and nanobind
    then prints a page of leaks.
    """
    if "triton" not in sys.modules:
        gc.freeze()
