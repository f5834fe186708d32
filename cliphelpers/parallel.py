"""One job a core, each on one thread: quicker than all threads on one small job after another.

Machines beside this one are those of a Ray cluster.
"""

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import urlsplit

import joblib
from threadpoolctl import threadpool_limits

from cliphelpers.memory import give_back
from cliphelpers.progress import progress

CORES = min(joblib.cpu_count(), 16)  # those that this process may use: affinity, cgroups' quota


@contextmanager
def thread_pool():
    """A ThreadPoolExecutor whose threads, one a core, use one thread of torch's and BLAS's.

    What has not begun at the end, such as after an error, is cancelled.
    """
    import torch  # here: a cluster's processes that decode do without its seconds and its memory

    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(CORES, initializer=torch.set_num_threads, initargs=(1,))
    with threadpool_limits(1):
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)
            give_back()


def in_parallel(function, jobs, unit="job"):
    """Map a function on jobs with a progress bar: list, in the order of the jobs."""
    with thread_pool() as pool:
        return list(progress(pool.map(function, jobs), total=len(jobs), unit=unit))


def join_cluster(address=None):
    """Connect to a Ray cluster, if this process does not use one already.

    Parameters
    ----------
    address : str, optional
        By default what RAY_ADDRESS says, or this machine alone.

    Raises
    ------
    RuntimeError
        It is no address, nobody answers there, or Ray cannot be started.
    """
    import ray  # here: few have it

    where = address or os.environ.get("RAY_ADDRESS", "here")
    try:
        there = urlsplit("//" + where.removeprefix("ray://"))  # Ray itself tries for minutes
        if there.port and not ray.is_initialized():
            socket.create_connection((there.hostname, there.port), timeout=10).close()
        ray.init(address, ignore_reinit_error=True, log_to_driver=False, logging_level="error")
    except Exception as error:  # Ray raises that itself, where a machine is slow to start
        why = (str(error).strip() or repr(error)).splitlines()[-1]  # the last of a traceback
        raise RuntimeError(f"The Ray cluster {where} cannot be used: {why}") from error
