# SPDX-License-Identifier: MIT
"""Ready-made inputs: denoised series of regions are correlated, connectomes are looked through."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..flavors import Flavor
from .edges import matrix_to_edges
from .functional import (
    describe_level,
    functional_connectomes,
    global_correlation,
    homotopic_pairs,
    present_regions,
)
from .functional_qc import describe_connectomes, describe_support, describe_volumes
from .functional_run import FunctionalSettings, ProcessedRun, require_signal
from .run_traces import group_regions, standardise

#: By so much rounding may carry a correlation beyond 1: that of text with five digits.
ABOVE_ONE = 1e-5
#: Likewise, of a diagonal from what it should be.
DIAGONAL_TOLERANCE = 1e-3
#: What a diagonal may hold, by kind: that of a correlation is 1, or 0 where it was left out.
DIAGONALS: dict[str, tuple[float, ...]] = {"FCcorr": (1.0, 0.0), "FCpcorr": (0.0, 1.0, -1.0)}
#: Streamlines of an edge that has any, on average, below which they were no counts: those of the
#: training data have tens to hundreds, divided by volumes 0.2 at most.
LEAST_MEAN_COUNT = 1.0


def process_given_series(
    series: Mapping[str, NDArray[np.floating]],
    *,
    is_left_out: NDArray[np.bool_],
    settings: FunctionalSettings,
    dof: float = math.nan,
) -> ProcessedRun:
    """Correlate denoised series as they are, and describe the connectomes.

    Parameters
    ----------
    series
        (n_volumes, n_regions) by ``<atlas>_<variant>``; NaN columns for missing regions.
    is_left_out
        (n_volumes,), volumes that are not correlated.
    settings
        Those of the run; its recipe and coverage are not looked at.
    dof
        Degrees of freedom left of the series; NaN if not known.

    Raises
    ------
    InputError
        If no region of an atlas has signal, or fewer than two volumes are left.
    """
    connectomes = functional_connectomes(
        series,
        is_outlier=is_left_out,
        pcorr_lambda=settings.pcorr_lambda,
        dof=dof,
        given=settings.given,
    )
    kept = {
        name: np.where(present_regions(connectomes[f"FCcorr_{name}"]), values, np.nan)
        for name, values in series.items()
    }
    require_signal({name: ~present_regions(values) for name, values in kept.items()})
    first = next(iter(kept))
    first_atlas = first.partition("_")[0]
    global_correlations = {
        f"gcor_{name.partition('_')[2]}": global_correlation(values[~is_left_out])
        for name, values in kept.items()
        if name.partition("_")[0] == first_atlas
    }
    tr_s = settings.repetition_time_s
    qc = {
        **describe_volumes(is_left_out, repetition_time_s=tr_s),
        **global_correlations,
        **describe_connectomes(
            connectomes, regions=settings.regions, pcorr_lambda=settings.pcorr_lambda
        ),
        **describe_support(connectomes, dof=dof, lambda_sources=settings.lambda_sources),
        "outlier_volumes": np.flatnonzero(is_left_out).tolist(),
        "regions": describe_missing(connectomes, regions=settings.regions),
    }
    traces = _traces(kept[first], is_left_out, settings, atlas=first_atlas)
    return ProcessedRun(kept, connectomes, qc, traces)


def _traces(
    series: NDArray[np.float64],
    is_left_out: NDArray[np.bool_],
    settings: FunctionalSettings,
    *,
    atlas: str,
) -> dict[str, NDArray]:
    """Arrays of the figure, as `describe_course` has them; neither motion nor image is known."""
    order, groups = group_regions(settings.regions[atlas])
    unknown = np.full(len(series), np.nan)
    return {
        "repetition_time_s": np.array(settings.repetition_time_s),
        "framewise_displacement_mm": unknown,
        "dvars": unknown,
        "global_signal": unknown,
        "is_outlier": is_left_out,
        "tissue_names": np.array([], dtype=np.str_),
        "tissue_signals": np.empty((len(series), 0)),
        "region_groups": np.array(groups, dtype=np.str_),
        "series": standardise(series[:, order], ~is_left_out),
    }


def describe_missing(
    connectomes: Mapping[str, NDArray[np.floating]],
    *,
    regions: Mapping[str, Sequence[Sequence[str]]],
) -> dict[str, dict[str, list[str]]]:
    """Name the regions that no connectome of an atlas has, by atlas.

    Parameters
    ----------
    connectomes
        (n_regions, n_regions) by flavor name.
    regions
        Name and hemisphere of each region, by atlas.
    """
    described = {}
    for atlas, rows in regions.items():
        present = [
            has_edges(matrix)
            for name, matrix in connectomes.items()
            if name.split("_")[1] == atlas
        ]
        if present:
            missing = ~np.any(present, axis=0)
            described[atlas] = {
                "missing": [row[0] for row, is_gone in zip(rows, missing, strict=True) if is_gone]
            }
    return described


def has_edges(matrix: NDArray[np.floating]) -> NDArray[np.bool_]:
    """(n_regions,), which regions have a value beside the diagonal."""
    gaps = np.isnan(matrix)
    np.fill_diagonal(gaps, True)
    return np.asarray(~gaps.all(axis=0))


def check_given(
    flavor: Flavor, matrix: NDArray[np.floating], *, diagonal: NDArray[np.floating] | None = None
) -> None:
    """Refuse a matrix that cannot be what its flavor says.

    Parameters
    ----------
    flavor
        What it is given as.
    matrix
        (n_regions, n_regions), symmetric and finite; NaN for missing edges.
    diagonal
        (n_regions,), that of the file, if it has one.

    Raises
    ------
    InputError
        Of correlations: if one is beyond 1, or the diagonal is that of covariances or of
        Fisher's z. Of streamlines: if an edge is negative, if counts are so few that they must
        have been divided by volumes, or if what should have been divided holds whole numbers.
    """
    edges = matrix_to_edges(np.asarray(matrix, dtype=np.float64))
    edges = edges[~np.isnan(edges)]
    if not edges.size:
        raise InputError("no edge has a value", fix="Leave the participant out.")
    if flavor.group == "FC":
        _check_correlations(flavor, edges, diagonal)
    else:
        _check_streamlines(flavor, edges)


def _check_correlations(
    flavor: Flavor, edges: NDArray[np.float64], diagonal: NDArray[np.floating] | None
) -> None:
    fix = (
        "Give correlations: z = artanh(r) is turned back by tanh; covariances and precisions are "
        "divided by the roots of their diagonals."
    )
    largest = float(np.abs(edges).max())
    if largest > 1 + ABOVE_ONE:
        raise InputError(f"holds a correlation of {largest:.4g}", fix=fix)
    if diagonal is None:
        return
    told = diagonal[~np.isnan(diagonal)]
    distance = np.min([np.abs(told - value) for value in DIAGONALS[flavor.kind]], axis=0)
    if told.size and distance.max() > DIAGONAL_TOLERANCE:
        worst = float(told[np.argmax(distance)])
        raise InputError(f"holds {worst:.4g} on the diagonal of {flavor.kind}", fix=fix)


def _check_streamlines(flavor: Flavor, edges: NDArray[np.float64]) -> None:
    if (edges < 0).any():
        raise InputError(
            f"holds {edges.min():.4g} streamlines",
            fix="Give connectomes as tracked: not their logarithm, z, or residuals.",
        )
    joined = edges[edges > 0]
    if flavor.processing == "count" and joined.size and joined.mean() < LEAST_MEAN_COUNT:
        raise InputError(
            f"edges of {joined.mean():.3g} on average are no streamline counts",
            fix=f"If they were divided by volumes, give them as {_other(flavor, 'volnorm')}.",
        )
    is_whole = bool((joined == np.rint(joined)).all())
    if flavor.processing == "volnorm" and joined.size and is_whole:
        raise InputError(
            "all edges are whole numbers: streamlines that were not divided by volumes",
            fix=f"Give them as {_other(flavor, 'count')}.",
        )


def _other(flavor: Flavor, processing: str) -> str:
    return f"{flavor.kind}_{flavor.atlas}_{processing}"


def describe_given(
    connectomes: Mapping[str, NDArray[np.floating]],
    *,
    regions: Mapping[str, Sequence[Sequence[str]]],
) -> dict[str, Any]:
    """Describe connectomes that were measured elsewhere: their level, and missing regions.

    Parameters
    ----------
    connectomes
        (n_regions, n_regions) by flavor name, of one modality.
    regions
        Name and hemisphere of each region, by atlas.

    Returns
    -------
    dict
        Measures, called as those of connectomes measured here; ``regions`` by atlas.
    """
    measures: dict[str, Any] = {"origin": "given"}
    for name, matrix in connectomes.items():
        flavor = Flavor.parse(name)
        measures |= _describe_one(flavor, matrix, regions[flavor.atlas])
    described = describe_missing(connectomes, regions=regions)
    for atlas, entry in described.items():
        measures[f"n_missing_regions_{atlas}"] = len(entry["missing"])
    return {**measures, "regions": described}


def _describe_one(
    flavor: Flavor, matrix: NDArray[np.floating], rows: Sequence[Sequence[str]]
) -> dict[str, float]:
    if flavor.group == "FC":
        pairs = homotopic_pairs([row[0] for row in rows], [row[1] for row in rows])
        level = describe_level(matrix, pairs)
        return {
            f"mean_{flavor}": level.mean,
            f"sd_{flavor}": level.sd,
            f"min_{flavor}": level.minimum,
            f"max_{flavor}": level.maximum,
            f"homotopic_{flavor}": level.homotopic,
        }
    edges = matrix_to_edges(np.asarray(matrix, dtype=np.float64))
    edges = edges[~np.isnan(edges)]
    stem = f"{flavor.kind.removeprefix('SC')}_{flavor.atlas}"
    found = {f"{stem}_density": float(np.count_nonzero(edges)) / edges.size}
    if flavor.processing == "volnorm":
        found[f"{stem}_level"] = float(edges.sum())
    else:
        found[f"mean_{flavor}"] = float(edges.mean())
    return found
