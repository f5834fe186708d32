import pytest
import torch

from cliphelpers.parallel import in_parallel


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
