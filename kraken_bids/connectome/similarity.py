# SPDX-License-Identifier: MIT
"""How much connectomes are like a mean connectome."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def correlate_with_mean(
    edges: NDArray[np.floating], mean: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Correlate connectomes with a mean connectome, over the edges that both have (Pearson).

    A correlation does not notice another scale or offset: what it is low for is another order of
    the regions, another flavor, or noise.

    Parameters
    ----------
    edges
        (n, n_edges), upper triangles; NaN for edges of missing regions.
    mean
        (n_edges,).

    Returns
    -------
    NDArray
        (n,), -1 … 1; NaN where fewer than two edges are left or one side is constant.
    """
    return compare_with_mean(edges, mean)[0]


def compare_with_mean(
    edges: NDArray[np.floating], mean: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Correlation with a mean connectome, and slope of the line from it to each connectome.

    Parameters
    ----------
    edges, mean
        As for `correlate_with_mean`.

    Returns
    -------
    correlation
        (n,), as `correlate_with_mean` gives it.
    slope
        (n,), ``cov(x, m) / var(m)``: 1 for a connectome in the scale of the mean, whatever its
        noise. NaN where the correlation is.
    """
    correlation, slope = np.full((2, len(edges)), np.nan)
    for row, values in enumerate(edges):
        both = np.isfinite(values) & np.isfinite(mean)
        if both.sum() < 2:
            continue
        one, other = (side[both].astype(np.float64) for side in (values, mean))
        one, other = one - one.mean(), other - other.mean()
        if np.ptp(values[both]) > 0 and np.ptp(mean[both]) > 0:
            norms = np.linalg.norm(one), np.linalg.norm(other)
            correlation[row] = np.clip(one @ other / float(norms[0] * norms[1]), -1.0, 1.0)
            slope[row] = one @ other / float(norms[1]) ** 2
    return correlation, slope
