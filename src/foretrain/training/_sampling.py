"""Runs one function for many seeds on all cores, keeps what is finished, and averages."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

import numpy as np
from jaxtyping import Float
from threadpoolctl import threadpool_limits

T = TypeVar("T")

Progress = Callable[[int, int, str], None]


class Stopped(Exception):
    """Raised inside a worker that was asked to stop."""


def run_seeds(
    work: Callable[[int, Callable[[], None]], T], seeds: list[int], *, workers: int
) -> Iterator[tuple[int, T]]:
    """Results as they finish, in no particular order.

    One thread per seed with one BLAS thread each: NumPy's decompositions release the interpreter, and two of them side by
    side beat one on two threads (1024 x 1024 on two cores: 119 ms against 154 ms, and 158 ms for a vmapped JAX `eigh`).
    A single seed gets all threads.

    Args:
        work: `work(seed, check)`; calls `check()` now and then, which raises when work should stop.
        seeds: The seeds.
        workers: Threads, at least 1.

    Yields:
        Seed and result. When the consumer stops early (or Ctrl-C arrives), running workers are asked to stop.
    """
    if workers == 1 or len(seeds) == 1:
        for seed in seeds:
            yield seed, work(seed, lambda: None)
        return
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise Stopped

    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        waiting: dict[Future[T], int] = {pool.submit(work, seed, check): seed for seed in seeds}
        try:
            while waiting:
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield waiting.pop(future), future.result()
        finally:
            stop.set()
            for future in waiting:
                future.cancel()


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def mean_and_error(
    values: Float[np.ndarray, "seeds *grid"],
) -> tuple[Float[np.ndarray, "*grid"], Float[np.ndarray, "*grid"]]:
    """Mean over seeds and its standard error; NaN where one seed, or a value that is not finite, gives none."""
    count = len(values)
    with np.errstate(invalid="ignore"):
        mean = values.mean(axis=0)
        spread = values.std(axis=0, ddof=1) if count > 1 else np.full(values.shape[1:], np.nan)
        return mean, np.where(np.isfinite(mean), spread / np.sqrt(count), np.nan)
