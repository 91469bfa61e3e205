"""How this process's C library hands out memory."""

from __future__ import annotations

import ctypes
from functools import cache

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
