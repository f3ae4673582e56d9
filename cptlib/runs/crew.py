"""Threads that take parts of a step, each computing alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Made = TypeVar("Made")


class Crew:
    """Calls a function side by side. In its threads every operation of torch is computed by that thread alone.

    Threads that share each operation of a small model wait for each other at the end of every one; threads that have
    sequences of their own meet once a step.

    Parameters
    ----------
    size : int
        Threads. One is the caller's own.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        # its threads end when nothing refers to it any more
        self._pool = ThreadPoolExecutor(size, initializer=_settle) if size > 1 else None
        if self._pool is not None:  # all begin now: one that an interrupt meets while it begins would not be waited for
            met = threading.Barrier(size)
            list(self._pool.map(lambda _: met.wait(), range(size)))

    def __call__(self, work: Callable[[Item], Made], items: Sequence[Item]) -> list[Made]:
        """`work` of every item, in their order.

        What one raises, or an interrupt, is raised when no thread is at work any more, and ends the crew.
        """
        if self._pool is None:
            return [work(item) for item in items]
        try:
            return list(self._pool.map(work, items))
        except BaseException:
            self._pool.shutdown()
            raise


def _settle() -> None:
    torch.set_num_threads(1)  # of this thread's operations, and of MKL's products in the whole process
    torch.set_flush_denormal(True)  # a mode of each thread
