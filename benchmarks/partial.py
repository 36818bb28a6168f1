# SPDX-License-Identifier: MIT
"""Search for the lambda of partial correlations against two plainer ways.

Prints ratios of CPU time, which hold on any machine, measured in one run on one synthetic
cohort: an inversion for every lambda, and one decomposition with a precision matrix built for
every lambda, as the reference program does it. Run it with one thread a library::

    OMP_NUM_THREADS=1 python benchmarks/partial.py --regions 86 268 439 --participants 20
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kraken_bids.connectome.partial import mean_precision, search_lambda

GRID_SIZE, N_LOOPS = 10, 3
Errors = Callable[[NDArray], NDArray]


def draw_correlations(n: int, n_regions: int) -> NDArray:
    """Correlations of series with three times as many volumes as regions."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(n_regions, n_regions)) / np.sqrt(n_regions) + np.eye(n_regions)
    return np.stack([
        np.corrcoef((rng.normal(size=(3 * n_regions, n_regions)) @ mixing).T) for _ in range(n)
    ])


def by_inversion(matrices: NDArray, target: NDArray) -> Errors:
    upper, identity = np.triu_indices(len(target), k=1), np.eye(len(target))

    def errors(lambdas: NDArray) -> NDArray:
        return np.mean(
            [[np.linalg.norm((np.linalg.inv(matrix + lambda_ * identity) - target)[upper])
              for lambda_ in lambdas] for matrix in matrices],
            axis=0,
        )  # fmt: skip

    return errors


def by_rebuilding(matrices: NDArray, target: NDArray) -> Errors:
    upper = np.triu_indices(len(target), k=1)
    spectra = [np.linalg.eigh(matrix) for matrix in matrices]

    def errors(lambdas: NDArray) -> NDArray:
        return np.mean(
            [[np.linalg.norm(((V / (np.maximum(w, 0) + lambda_)) @ V.T - target)[upper])
              for lambda_ in lambdas] for w, V in spectra],
            axis=0,
        )  # fmt: skip

    return errors


def search(
    make_errors: Callable[[NDArray, NDArray], Errors], matrices: NDArray, target: NDArray
) -> float:
    """Search the grid as the program does."""
    errors_of = make_errors(matrices, target)
    low, high = 0.0, 1.0
    best, least = 0.0, np.inf
    for _ in range(N_LOOPS):
        grid = np.linspace(low, high, GRID_SIZE)
        errors = errors_of(grid)
        place = int(np.argmin(errors))
        if errors[place] < least:
            best, least = float(grid[place]), float(errors[place])
        low = grid[place - 1] if place else 0.0
        high = grid[place + 1] if place < GRID_SIZE - 1 else 1.0
    return best


def cpu_seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--regions", type=int, nargs="+", default=(86, 268, 439))
    parser.add_argument("--participants", type=int, default=20)
    options = parser.parse_args()
    print(f"{options.participants} participants, {N_LOOPS} loops of {GRID_SIZE} lambdas; CPU ms "
          "a participant")  # fmt: skip
    print("regions\tours\trebuilding\tinverting\tratios\tdifference of lambda")
    for n_regions in options.regions:
        matrices = draw_correlations(options.participants, n_regions)
        target = mean_precision(draw_correlations(3, n_regions) + 0.1 * np.eye(n_regions))
        ours, found = cpu_seconds(lambda m=matrices, t=target: search_lambda(iter(m), t))
        rebuilt, second = cpu_seconds(lambda m=matrices, t=target: search(by_rebuilding, m, t))
        inverted, third = cpu_seconds(lambda m=matrices, t=target: search(by_inversion, m, t))
        times = "\t".join(
            f"{1000 * seconds / options.participants:.1f}" for seconds in (ours, rebuilt, inverted)
        )
        difference = max(abs(found.raw - second), abs(found.raw - third))
        print(
            f"{n_regions}\t{times}\t{rebuilt / ours:.1f}, {inverted / ours:.1f}\t{difference:.1e}"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"peak memory of this process, all matrices included: {peak:.2f} GB")


if __name__ == "__main__":
    main()
