"""Jobs on all cores: in order, on one thread each, and none left behind."""

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
