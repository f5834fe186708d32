"""Freed memory stays with the process, for the next layer or step.

Otherwise each large block goes back to the operating system and comes again as zeroed pages: nearly
half of EfficientNet-Lite0's time. mallopt(3)
"""

import ctypes
import sys

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_GLIBC = hasattr(_LIBC, "mallopt")
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


def keep_freed():
    """Keep it from now on: to be called before anything has started a thread, as numpy does.

    Threads that have allocated before, such as a notebook kernel's, have heaps of their own, which
    keep no large block. There only the environment variable MALLOC_ARENA_MAX=1 helps.
    """
    if _GLIBC:
        _LIBC.mallopt(_M_MMAP_MAX, 0)
        _LIBC.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        _LIBC.mallopt(_M_ARENA_MAX, 1)  # one heap for all threads, so that they share it


def give_back():
    """Give the operating system what is free now."""
    if _GLIBC:
        _LIBC.malloc_trim(0)
