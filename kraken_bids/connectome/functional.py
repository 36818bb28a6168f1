# SPDX-License-Identifier: MIT
"""Functional connectomes: correlation, its average over runs, regularised partial correlation.

A region without signal keeps its row and column, filled with NaN; estimates are made from the
other regions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .partial import partial_correlation as precision_to_partial
from .partial import regularized_precision

#: What `lambda_sources` says of an atlas whose lambda a person fixed.
GIVEN = "given"

#: Regularisation of the published model's FCpcorr connectomes (exact for fs86).
PCORR_LAMBDA = 0.06

#: Series with a smaller standard deviation, relative to their largest value, hold rounding only.
CONSTANT_LIMIT = 1e-12

_SIDE = re.compile(r"(?<![A-Za-z0-9])(?:Left|Right|lh|rh|L|R)(?![A-Za-z0-9])")


def present_regions(matrix: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Tell which regions of a connectome, or columns of a series, hold numbers.

    Parameters
    ----------
    matrix
        (n, n_regions); NaN columns are missing.
    """
    return np.asarray(~np.isnan(matrix).all(axis=0))


def correlate(
    series: NDArray[np.floating], *, is_outlier: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Correlate the series of all pairs of regions (Pearson).

    Parameters
    ----------
    series
        (n_volumes, n_regions); NaN columns for missing regions.
    is_outlier
        (n_volumes,), volumes to leave out.

    Returns
    -------
    NDArray
        (n_regions, n_regions), symmetric, diagonal 1; NaN for regions that are missing or whose
        series is constant.

    Raises
    ------
    InputError
        If fewer than two volumes are kept.
    """
    kept = np.asarray(series if is_outlier is None else series[~is_outlier], dtype=np.float64)
    if len(kept) < 2:
        raise InputError(
            f"{len(kept)} volumes are too few to correlate",
            fix="Leave the run out, or look why all its volumes are outliers.",
        )
    centred = kept - kept.mean(axis=0)
    norms = np.linalg.norm(centred, axis=0)
    scale = np.abs(kept).max(axis=0) * np.sqrt(len(kept))
    norms[~(norms > CONSTANT_LIMIT * scale)] = np.nan
    unit = centred / norms
    matrix: NDArray[np.float64] = np.clip(unit.T @ unit, -1.0, 1.0)
    np.fill_diagonal(matrix, np.where(np.isnan(norms), np.nan, 1.0))
    return matrix


def average_runs(
    matrices: Sequence[NDArray[np.floating]], n_kept: Sequence[int]
) -> NDArray[np.float64]:
    """Average the correlations of runs, weighted by their kept volumes.

    The same as the covariance of the runs' z-scored series, one after the other. A region that
    some runs lack is averaged over those that have it; two regions never seen in one run cannot
    both be kept.

    Parameters
    ----------
    matrices
        One (n_regions, n_regions) a run.
    n_kept
        (n_runs,), volumes behind each matrix.

    Notes
    -----
    ``C = sum_runs n_run corr(Y_run) / sum_runs n_run``; no Fisher transform.
    """
    stack = np.asarray(matrices, dtype=np.float64)
    weights = np.asarray(n_kept, dtype=np.float64)[:, None, None]
    is_present = ~np.isnan(stack)
    total = np.where(is_present, weights, 0.0).sum(axis=0)
    summed = np.where(is_present, stack * weights, 0.0).sum(axis=0)
    average = np.divide(summed, total, out=np.full(total.shape, np.nan), where=total > 0)
    return _without_gaps(average)


def _without_gaps(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Drop regions, the emptiest first, until every edge between those left has a value."""
    matrix = matrix.copy()
    while True:
        present = present_regions(matrix)
        n_gaps = np.where(present, np.isnan(matrix[present]).sum(axis=0), 0)
        if not n_gaps.any():
            return matrix
        worst = int(np.argmax(n_gaps))
        matrix[worst] = matrix[:, worst] = np.nan


def partial_correlation(
    correlation: NDArray[np.floating], *, regularization: float = PCORR_LAMBDA
) -> NDArray[np.float64]:
    """Turn a correlation into a regularised partial correlation.

    Parameters
    ----------
    correlation
        (n_regions, n_regions), diagonal 1, NaN rows and columns for missing regions.
    regularization
        Lambda, added to the diagonal before the matrix is inverted.

    Returns
    -------
    NDArray
        (n_regions, n_regions), symmetric, diagonal 0, NaN for missing regions.

    Raises
    ------
    InputError
        If lambda is negative or too small for the matrix to be inverted.

    Notes
    -----
    With ``P = (C + lambda I)^-1``: ``pcorr_ij = -P_ij / sqrt(|P_ii P_jj|)``. Lambda 0.06 gives
    the published fs86 connectomes from their correlations.
    """
    present = present_regions(correlation)
    result = np.full(correlation.shape, np.nan)
    if not present.any():
        return result
    block = np.ix_(present, present)
    # An average over runs that lack different regions may have negative eigenvalues.
    precision = regularized_precision(
        correlation[block], regularization, allow_indefinite=True, where="--pcorr-lambda"
    )
    result[block] = precision_to_partial(precision)
    return result


def global_correlation(series: NDArray[np.floating]) -> float:
    """Mean of all pairwise correlations (GCOR), self-correlations included.

    Parameters
    ----------
    series
        (n_volumes, n_regions); NaN columns are left out.

    Notes
    -----
    The squared norm of the mean of the unit-norm series (Saad et al. 2013).
    """
    matrix = correlate(series)
    present = present_regions(matrix)
    return float(matrix[np.ix_(present, present)].mean()) if present.any() else float("nan")


def homotopic_pairs(region_names: Sequence[str], hemispheres: Sequence[str]) -> NDArray[np.intp]:
    """Pair left regions with their right namesakes.

    Parameters
    ----------
    region_names
        (n_regions,); the side stands as ``Left``, ``lh`` or ``L`` (or its like) between
        characters that are no letters or digits.
    hemispheres
        (n_regions,): ``L``, ``R`` or ``B``.

    Returns
    -------
    NDArray
        (n_pairs, 2), positions of the left and the right region; empty for atlases whose names
        do not tell.

    Examples
    --------
    >>> homotopic_pairs(["ctx-lh-cuneus", "R_V1", "ctx-rh-cuneus"], ["L", "R", "R"]).tolist()
    [[0, 2]]
    """
    sides: dict[str, dict[str, int]] = {"L": {}, "R": {}}
    for position, (name, hemisphere) in enumerate(zip(region_names, hemispheres, strict=True)):
        if hemisphere in sides and _SIDE.search(name):
            sides[hemisphere][_SIDE.sub("*", name, count=1)] = position
    pairs = [(left, sides["R"][key]) for key, left in sides["L"].items() if key in sides["R"]]
    return np.array(pairs, dtype=np.intp).reshape(-1, 2)


@dataclass(frozen=True)
class Level:
    """Distribution of a connectome's edges; NaN where nothing can be told.

    Parameters
    ----------
    mean, sd, minimum, maximum
        Over the upper triangle.
    homotopic
        Mean over pairs of namesakes in the two hemispheres.
    n_missing_edges
        Edges of missing regions.
    """

    mean: float
    sd: float
    minimum: float
    maximum: float
    homotopic: float
    n_missing_edges: int


def describe_level(matrix: NDArray[np.floating], pairs: NDArray[np.intp]) -> Level:
    """Describe a connectome's edges.

    Parameters
    ----------
    matrix
        (n_regions, n_regions).
    pairs
        (n_pairs, 2), as `homotopic_pairs` gives them.
    """
    edges = matrix[np.triu_indices(len(matrix), k=1)]
    n_missing = int(np.isnan(edges).sum())
    edges = edges[~np.isnan(edges)]
    homotopic = matrix[pairs[:, 0], pairs[:, 1]]
    homotopic = homotopic[~np.isnan(homotopic)]
    nan = float("nan")
    return Level(
        mean=float(edges.mean()) if edges.size else nan,
        sd=float(edges.std()) if edges.size else nan,
        minimum=float(edges.min()) if edges.size else nan,
        maximum=float(edges.max()) if edges.size else nan,
        homotopic=float(homotopic.mean()) if homotopic.size else nan,
        n_missing_edges=n_missing,
    )


def describe_conditioning(
    correlation: NDArray[np.floating], *, regularization: float
) -> tuple[float, float]:
    """Smallest eigenvalue of a correlation, and the condition number of ``C + lambda I``.

    Parameters
    ----------
    correlation
        (n_regions, n_regions), NaN for missing regions.
    regularization
        Lambda.
    """
    present = present_regions(correlation)
    if not present.any():
        return float("nan"), float("nan")
    eigenvalues = np.linalg.eigvalsh(correlation[np.ix_(present, present)])
    loaded = np.abs(eigenvalues + regularization)
    return float(eigenvalues.min()), float(loaded.max() / loaded.min())


def functional_connectomes(
    series: Mapping[str, NDArray[np.floating]],
    *,
    is_outlier: NDArray[np.bool_],
    pcorr_lambda: Mapping[str, float],
    dof: float = math.nan,
    given: Collection[str] = (),
) -> dict[str, NDArray[np.float64]]:
    """Make all functional connectomes of one run.

    Parameters
    ----------
    series
        (n_volumes, n_regions) by atlas and variant: ``<atlas>_hpf``, ``<atlas>_hpfgsr``.
    is_outlier
        (n_volumes,), volumes to leave out.
    pcorr_lambda
        Regularisation by atlas.
    dof
        Degrees of freedom left; NaN if not known: the kept volumes less one then bound them.
    given
        As for `add_partial`.

    Returns
    -------
    dict
        (n_regions, n_regions) by flavor name.
    """
    if math.isnan(dof):
        dof = float(np.count_nonzero(~is_outlier) - 1)
    correlations = {
        f"FCcorr_{name}": correlate(values, is_outlier=is_outlier)
        for name, values in series.items()
    }
    return add_partial(correlations, pcorr_lambda=pcorr_lambda, dof=dof, given=given)


def is_supported(correlation: NDArray[np.floating], dof: float) -> bool:
    """Whether there are as many degrees of freedom as present regions.

    With fewer, a correlation has no inverse of its own: the partial correlation would be what
    lambda makes of it.

    Parameters
    ----------
    correlation
        (n_regions, n_regions), NaN for missing regions.
    dof
        Degrees of freedom of all runs in it.
    """
    return bool(dof >= np.count_nonzero(present_regions(correlation)))


def add_partial(
    correlations: Mapping[str, NDArray[np.float64]],
    *,
    pcorr_lambda: Mapping[str, float],
    dof: float = math.inf,
    given: Collection[str] = (),
) -> dict[str, NDArray[np.float64]]:
    """Append the partial correlations of all ``FCcorr_<atlas>_hpf`` connectomes.

    Parameters
    ----------
    correlations
        (n_regions, n_regions) by flavor name.
    pcorr_lambda
        Regularisation by atlas.
    dof
        Degrees of freedom left. No partial correlation is made of an atlas with more regions
        than that: see `is_supported`.
    given
        Atlases whose lambda a person fixed: made whatever the degrees of freedom.
    """
    atlases = [
        name.split("_")[1]
        for name, matrix in correlations.items()
        if name.endswith("_hpf") and (name.split("_")[1] in given or is_supported(matrix, dof))
    ]
    partial = {
        f"FCpcorr_{atlas}_hpf": partial_correlation(
            correlations[f"FCcorr_{atlas}_hpf"], regularization=pcorr_lambda[atlas]
        )
        for atlas in atlases
    }
    return {**correlations, **partial}


def combine_runs(
    runs: Sequence[Mapping[str, NDArray[np.float64]]],
    n_kept: Sequence[int],
    *,
    pcorr_lambda: Mapping[str, float],
    dof: float = math.nan,
    given: Collection[str] = (),
) -> dict[str, NDArray[np.float64]]:
    """Combine the connectomes of several runs: average correlations, then invert the average.

    Parameters
    ----------
    runs
        (n_regions, n_regions) by flavor name, for each run.
    n_kept
        (n_runs,), volumes behind each run.
    pcorr_lambda
        Regularisation by atlas.
    dof
        Degrees of freedom of all runs together; NaN if not known: the volumes less one a run
        then bound them.
    given
        As for `add_partial`.
    """
    if math.isnan(dof):
        dof = float(sum(n_kept) - len(n_kept))
    averages = {
        flavor: average_runs([run[flavor] for run in runs], n_kept)
        for flavor in runs[0]
        if flavor.startswith("FCcorr_")
    }
    return add_partial(averages, pcorr_lambda=pcorr_lambda, dof=dof, given=given)
