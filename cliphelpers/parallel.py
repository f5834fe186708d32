"""One job a core, each on one thread: quicker than all threads on one small job after another."""

import ctypes
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits

from cliphelpers.progress import progress

CORES = min(os.cpu_count() or 1, 16)
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h
if hasattr(LIBC, "mallopt"):
    LIBC.mallopt(M_ARENA_MAX, 1)  # one heap for all threads, so that they share what is freed


@contextmanager
def keep_freed_memory():
    """Let glibc keep freed memory for the next layer or step, and give it back at the end.

    Otherwise each large block goes back to the kernel and comes again as zeroed pages, which
    takes nearly half of EfficientNet-Lite0's time on a CPU. See mallopt(3).
    """
    if not hasattr(LIBC, "mallopt"):  # another C library
        yield
        return
    try:
        LIBC.mallopt(M_MMAP_MAX, 0)
        LIBC.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        yield
    finally:
        LIBC.mallopt(M_MMAP_MAX, 65536)
        LIBC.mallopt(M_TRIM_THRESHOLD, 128 * 1024)
        LIBC.malloc_trim(0)


@contextmanager
def thread_pool():
    """A ThreadPoolExecutor whose threads, one a core, use one thread of torch's and BLAS's."""
    threads = torch.get_num_threads()
    one = {"initializer": torch.set_num_threads, "initargs": (1,)}
    try:
        with keep_freed_memory(), threadpool_limits(1), ThreadPoolExecutor(CORES, **one) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def in_parallel(function, jobs):
    """Map a function on jobs with a progress bar: list, in the order of the jobs."""
    with thread_pool() as pool:
        return list(progress(pool.map(function, jobs), total=len(jobs), unit="job"))
