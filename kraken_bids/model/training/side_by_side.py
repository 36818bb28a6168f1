# SPDX-License-Identifier: MIT
"""Parts of a step on threads of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import pairwise
from typing import TypeVar

T = TypeVar("T")

#: Threads that a step can use: it is cut in two, however many there are, so that sums are made in
#: the same order on every machine.
N_PARTS = 2


class SideBySide:
    """Runs parts of a step, one in this thread and, if there are two, the others in a second one.

    Which thread runs a part changes nothing in what it computes.

    Parameters
    ----------
    n_threads
        At least 1; more than `N_PARTS` are not used.
    """

    def __init__(self, n_threads: int = 1) -> None:
        self.n_threads = min(n_threads, N_PARTS)

    @cached_property
    def _second(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, "train")

    def __call__(self, first: Callable[[], T], others: Sequence[Callable[[], T]]) -> list[T]:
        """Give what the parts give, in their order."""
        if self.n_threads == 1:
            return [part() for part in (first, *others)]
        running = [self._second.submit(part) for part in others]
        found = [first()]
        return found + [future.result() for future in running]


def cut(n: int, n_parts: int) -> list[slice]:
    """Cut n rows into parts, the longer ones first; no part is empty."""
    size, longer = divmod(n, n_parts)
    ends = [number * size + min(number, longer) for number in range(n_parts + 1)]
    return [slice(*pair) for pair in pairwise(ends) if pair[0] < pair[1]]
