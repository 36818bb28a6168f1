# SPDX-License-Identifier: MIT
"""From counted streamlines to structural connectomes in the scale of the model's training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .edges import matrix_to_edges

#: Streamlines of each training tractogram; every count is scaled to it.
TRAINING_STREAMLINES = 5_000_000

#: Voxel of the label images of the training connectomes (1.25 mm isotropic), in mm³.
TRAINING_VOXEL_MM3 = 1.25**3


@dataclass(frozen=True)
class StreamlineCounts:
    """Where the streamlines of one tractogram end.

    Parameters
    ----------
    between
        (n_regions, n_regions), symmetric; streamlines that end in both regions, 0 on the diagonal.
    within
        (n_regions,); streamlines with both ends in one region.
    n_unassigned
        Streamlines of which one end or both lie in no region.
    n_ends
        (n_regions,); ends of streamlines in each region, wherever the other end lies.
    """

    between: NDArray[np.float64]
    within: NDArray[np.float64]
    n_unassigned: int
    n_ends: NDArray[np.float64]

    @property
    def n_streamlines(self) -> int:
        """All streamlines of the tractogram."""
        total = matrix_to_edges(self.between).sum() + self.within.sum() + self.n_unassigned
        return round(float(total))

    @property
    def idle_regions(self) -> NDArray[np.bool_]:
        """(n_regions,); regions that no streamline joins to another region."""
        idle: NDArray[np.bool_] = np.count_nonzero(self.between, axis=1) == 0
        return idle


def tabulate_pairs(
    regions: NDArray[np.integer],
    *,
    n_regions: int,
    weights: NDArray[np.floating] | None = None,
) -> NDArray[np.float64]:
    """Count streamlines, or sum their weights, by the two regions that they end in.

    Parameters
    ----------
    regions
        (n_streamlines, 2), region indices; 0 for none.
    n_regions
        Number of regions of the atlas.
    weights
        (n_streamlines,); None counts each streamline once.

    Returns
    -------
    NDArray
        (largest index + 1, largest index + 1) of atlas and streamlines, symmetric; row 0 is for
        ends in no region. A streamline within a region is counted once.
    """
    size = max(int(regions.max(initial=0)), n_regions) + 1
    first, last = regions.T
    low, high = np.minimum(first, last).astype(np.int64), np.maximum(first, last)
    wide = None if weights is None else weights.astype(np.float64)
    flat = np.bincount(low * size + high, weights=wide, minlength=size * size)
    upper = flat.reshape(size, size).astype(np.float64)
    return upper + np.triu(upper, k=1).T


def place_counts(table: NDArray[np.floating], n_regions: int) -> StreamlineCounts:
    """Put a table of counts into the atlas's full set of regions.

    Row and column of a region are its index whatever regions the image holds: a table is as large
    as the largest label present, which says nothing of the atlas.

    Parameters
    ----------
    table
        (largest label + 1, largest label + 1), symmetric; row 0 counts ends in no region.
    n_regions
        Number of regions of the atlas.

    Raises
    ------
    InputError
        If the label image holds larger labels than the atlas has regions.
    """
    n_labels = table.shape[0] - 1
    if n_labels > n_regions:
        raise InputError(
            f"the label image holds label {n_labels}, the atlas has {n_regions} regions",
            fix="Give a label image whose values are the indices of the atlas's table.",
        )
    placed, n_ends = np.zeros((n_regions, n_regions)), np.zeros(n_regions)
    placed[:n_labels, :n_labels] = table[1:, 1:]
    n_ends[:n_labels] = table[1:].sum(axis=1)
    within = np.diagonal(placed).copy()
    np.fill_diagonal(placed, 0.0)
    return StreamlineCounts(placed, within, round(float(table[0].sum())), n_ends + within)


def scale_counts(counts: NDArray[np.floating], *, n_streamlines: int) -> NDArray[np.float64]:
    """Scale counts to the five million streamlines of the training tractograms.

    Parameters
    ----------
    counts
        (n_regions, n_regions).
    n_streamlines
        Streamlines really selected.

    Raises
    ------
    InputError
        If there are none.
    """
    if n_streamlines < 1:
        raise InputError("the tractogram holds 0 streamlines", fix="Look at its making.")
    return np.asarray(counts, dtype=np.float64) * (TRAINING_STREAMLINES / n_streamlines)


def normalise_by_volume(
    counts: NDArray[np.floating], volumes_mm3: NDArray[np.floating]
) -> NDArray[np.float64]:
    r"""Divide counts by the mean volume of the two regions in training voxels.

    Parameters
    ----------
    counts
        (n_regions, n_regions), scaled to the training tractograms (`scale_counts`).
    volumes_mm3
        (n_regions,).

    Returns
    -------
    NDArray
        (n_regions, n_regions); 0 where one of the two volumes is 0, and on the diagonal.

    Notes
    -----
    .. math:: v_{ij} = 2 n_{ij} \cdot 1.953125 / (V_i + V_j)

    with volumes in mm³, so that the voxel size of the label image does not matter. With label
    images of 1.25 mm it is what ``tck2connectome -scale_invnodevol`` gives.
    """
    volumes = np.asarray(volumes_mm3, dtype=np.float64)
    usable = (volumes[:, None] > 0) & (volumes[None, :] > 0)
    sums = np.where(usable, volumes[:, None] + volumes[None, :], 1.0)
    result = np.where(usable, 2 * TRAINING_VOXEL_MM3 * counts / sums, 0.0)
    np.fill_diagonal(result, 0.0)
    return result


def mark_missing(matrix: NDArray[np.floating], missing: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Set rows and columns of missing regions to NaN.

    Parameters
    ----------
    matrix
        (n_regions, n_regions).
    missing
        (n_regions,); True for a region without voxels.
    """
    marked = np.array(matrix, dtype=np.float64)
    marked[missing, :] = np.nan
    marked[:, missing] = np.nan
    return marked


def describe_counts(
    counts: StreamlineCounts, volume_normalised: NDArray[np.floating]
) -> dict[str, float | int]:
    """Summarise how a tractogram meets an atlas.

    Parameters
    ----------
    counts
        Not scaled.
    volume_normalised
        (n_regions, n_regions); NaN is left out.

    Returns
    -------
    dict
        ``assigned_fraction`` (ends in two regions), ``within_region_fraction`` and
        ``unassigned_fraction`` of all streamlines; ``density``, the share of all edges that have a
        streamline; ``level``, the sum of volume-normalised edges; ``n_idle_regions``.
    """
    edges = matrix_to_edges(counts.between)
    total = max(counts.n_streamlines, 1)
    return {
        "assigned_fraction": float(edges.sum()) / total,
        "within_region_fraction": float(counts.within.sum()) / total,
        "unassigned_fraction": counts.n_unassigned / total,
        "density": float(np.count_nonzero(edges)) / edges.size,
        "level": float(np.nansum(matrix_to_edges(volume_normalised))),
        "n_idle_regions": int(counts.idle_regions.sum()),
    }


def tractogram_bytes(
    n_streamlines: int, *, point_spacing_mm: Sequence[float], mean_length_mm: float = 80.0
) -> int:
    """Estimate the room that tractograms take on disk.

    Parameters
    ----------
    n_streamlines
        Streamlines of each tractogram.
    point_spacing_mm
        Distance between stored points, a value a tractogram.
    mean_length_mm
        Mean length of a streamline; 80 mm is above what whole brains give (50 to 70 mm).

    Notes
    -----
    A point is three 32-bit numbers; one more triplet ends each streamline.
    """
    points = sum(mean_length_mm / spacing + 2 for spacing in point_spacing_mm)
    return int(12 * n_streamlines * points)


@dataclass(frozen=True)
class StructuralConnectomes:
    """The connectomes of one tractogram and one atlas.

    Parameters
    ----------
    count
        (n_regions, n_regions), streamlines scaled to the training tractograms; NaN for a region
        without voxels.
    volnorm
        (n_regions, n_regions), divided by region volumes; NaN also for a region without volume.
    counts
        As counted.
    quality
        As `describe_counts` gives it.
    sift2, sift2_volnorm
        The same of sums of SIFT2 weights in place of numbers of streamlines; None without weights.
    """

    count: NDArray[np.float64]
    volnorm: NDArray[np.float64]
    counts: StreamlineCounts
    quality: dict[str, float | int]
    sift2: NDArray[np.float64] | None = None
    sift2_volnorm: NDArray[np.float64] | None = None


def build_connectomes(
    table: NDArray[np.floating],
    *,
    present: NDArray[np.bool_],
    volumes_mm3: NDArray[np.floating],
    weighted: NDArray[np.floating] | None = None,
) -> StructuralConnectomes:
    """Turn a table of counts into connectomes.

    Parameters
    ----------
    table
        As `tabulate_pairs` gives it, without weights.
    present
        (n_regions,); False for a region without voxels in the label image.
    volumes_mm3
        (n_regions,); may be measured from another image than the one that streamlines are assigned
        with.
    weighted
        The same table of sums of SIFT2 weights.

    Raises
    ------
    InputError
        If the tractogram is empty or the label image holds larger labels than the atlas.

    Notes
    -----
    SIFT2 starts from weights of 1 whatever the number of streamlines, so that sums of weights grow
    with it and are scaled as counts are.
    """
    counts = place_counts(table, present.size)
    sizeless = ~present | (np.asarray(volumes_mm3) <= 0)

    def scaled(values: NDArray[np.floating]) -> NDArray[np.float64]:
        return scale_counts(values, n_streamlines=counts.n_streamlines)

    def normalised(values: NDArray[np.floating]) -> NDArray[np.float64]:
        return mark_missing(normalise_by_volume(scaled(values), volumes_mm3), sizeless)

    volnorm = normalised(counts.between)
    weights = None if weighted is None else place_counts(weighted, present.size).between
    return StructuralConnectomes(
        count=mark_missing(scaled(counts.between), ~present),
        volnorm=volnorm,
        counts=counts,
        quality=describe_counts(counts, volnorm),
        sift2=None if weights is None else mark_missing(scaled(weights), ~present),
        sift2_volnorm=None if weights is None else normalised(weights),
    )
