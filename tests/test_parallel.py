"""Jobs on all cores: in order, on one thread each, and none left behind."""

import os
import subprocess
import sys
import time

import pytest
import torch

from cliphelpers.parallel import in_parallel, thread_pool


def test_jobs_come_back_in_order_from_threads_with_one_thread_each():
    threads = torch.get_num_threads()
    jobs = in_parallel(lambda n: (n, torch.get_num_threads()), range(8))
    assert jobs == [(n, 1) for n in range(8)]
    assert torch.get_num_threads() == threads


def test_a_failed_job_raises_its_error_and_leaves_the_threads_as_they_were():
    threads = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        in_parallel(lambda n: 1 / n, [1, 0, 2])
    assert torch.get_num_threads() == threads


def test_after_an_error_what_has_not_begun_is_left_alone():
    begun = []

    def job():
        begun.append(1)
        time.sleep(0.02)

    with pytest.raises(KeyboardInterrupt), thread_pool() as pool:
        first, *_ = [pool.submit(job) for _ in range(200)]
        first.result()
        raise KeyboardInterrupt
    assert 0 < len(begun) < 150


COUNT = "from cliphelpers.parallel import CORES; print(CORES)"
ONE = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
QUOTA = """
import builtins, io, os
quota, exists, opened = "/sys/fs/cgroup/cpu.max", os.path.exists, builtins.open
told = lambda path: path == quota and io.StringIO("150000 100000")
os.path.exists = lambda path: path == quota or exists(path)
builtins.open = lambda path, *more, **named: told(path) or opened(path, *more, **named)
os.cpu_count = lambda: 64
os.sched_getaffinity = lambda process: range(64)
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be chosen here")
@pytest.mark.parametrize(
    ("before", "cores"),
    [(ONE, 1), (QUOTA, 2), (QUOTA.replace("150000", "max"), 16)],  # one and a half; 64, of which 16
)
def test_cores_are_those_that_the_process_may_use(before, cores):
    told = subprocess.run([sys.executable, "-c", before + COUNT], capture_output=True, text=True)
    assert told.stdout.strip() == str(cores), told.stderr
