"""The machine's limit: the fastest product of two large float32 matrices to be had."""

from time import perf_counter


def sgemm(sizes=(1536, 2560), repeats=6):
    """torch's and numpy's product, whichever is faster: GFLOP/s."""
    import numpy as np
    import torch

    def run():
        best = 0
        for size in sizes:
            A = torch.rand(size, size)
            for matrix in (A, A.numpy()):
                for _ in range(repeats):
                    start = perf_counter()
                    matrix @ matrix
                    best = max(best, 2 * size**3 / (perf_counter() - start) / 1e9)
        return float(np.float64(best))

    return run
