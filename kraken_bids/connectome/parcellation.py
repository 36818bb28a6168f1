# SPDX-License-Identifier: MIT
"""Mean series of the regions of several atlases, in one pass over the volumes.

Voxels with the same labels in all atlases and masks form a *cell*. Each volume is summed by cell
once; every region, tissue and mask is then a sum of cells. Along the way come what quality control
and denoising need: global mean, DVARS, temporal signal-to-noise ratio, tissue means and the
tissues' Gram matrices, from which their principal components follow exactly.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..errors import InputError

#: Volumes that are worked on together, and voxels of a tile: together 0.6 MB in double precision,
#: which a core's cache holds. Volume by volume and voxel by voxel, memory would set the pace.
BLOCK_VOLUMES = 16
TILE_VOXELS = 4096

#: Voxels a block of the Gram product: 1024 x 1200 volumes are 10 MB in double precision.
GRAM_BLOCK = 1024

#: A variance below this share of the squared mean is rounding: the voxel is constant.
CONSTANT_VARIANCE = 1e-12

Volume = NDArray[np.floating] | NDArray[np.integer]


@dataclass(frozen=True)
class Cells:
    """Partition of the voxels by their labels in all atlases and masks.

    Parameters
    ----------
    voxels
        (n_voxels,), positions in a volume in Fortran order, those of one cell together; the
        first `n_mask` lie in the brain mask.
    starts
        (n_cells,), where each cell begins in `voxels`.
    membership
        (n_groups, n_cells), 0 or 1. Groups: the regions of all atlases, the tissues, the mask.
    atlases
        Rows of `membership` by atlas.
    masks
        Row of `membership` by tissue, and of the brain mask as ``brain``.
    n_mask
        Voxels of the brain mask.
    tissues
        Positions in `voxels` of the voxels of each tissue whose components are wanted.
    """

    voxels: NDArray[np.intp]
    starts: NDArray[np.intp]
    membership: sparse.csr_array
    atlases: dict[str, slice]
    masks: dict[str, int]
    n_mask: int
    tissues: dict[str, NDArray[np.intp]]


def partition(
    labels: Mapping[str, NDArray[np.integer]],
    n_regions: Mapping[str, int],
    *,
    mask: NDArray[np.bool_],
    tissues: Mapping[str, NDArray[np.bool_]] | None = None,
    components_of: Iterable[str] = ("WM", "CSF"),
) -> Cells:
    """Find the cells of several atlases and masks on one grid.

    Parameters
    ----------
    labels
        By atlas: (n_x, n_y, n_z), 0 outside, 1 … n_regions.
    n_regions
        By atlas; a region that no voxel has keeps its place.
    mask
        (n_x, n_y, n_z), brain mask.
    tissues
        (n_x, n_y, n_z) by tissue.
    components_of
        Tissues whose voxels' series are kept for their Gram matrix.

    Raises
    ------
    InputError
        If a label image holds other values than 0 … n_regions, or the mask is empty.
    """
    tissues = dict(tissues or {})
    if not mask.any():
        raise InputError("the brain mask is empty", fix="Look at the mask; preprocess again.")
    columns: list[NDArray] = [np.ravel(mask, order="F")]
    for atlas, image in labels.items():
        columns.append(_checked_labels(image, atlas=atlas, n_regions=n_regions[atlas]))
    columns += [np.ravel(tissue, order="F") for tissue in tissues.values()]
    used = np.flatnonzero(np.logical_or.reduce([column != 0 for column in columns]))
    # The mask is the first key, inverted, so that its voxels come first.
    table = [columns[0][used] == 0, *(column[used] for column in columns[1:])]
    order, starts = _sort_rows(table)
    table = [column[order] for column in table]
    sizes = {atlas: n_regions[atlas] for atlas in labels}
    of_tissue = dict(zip(tissues, table[1 + len(labels) :], strict=True))
    return Cells(
        voxels=used[order],
        starts=starts,
        membership=_membership(
            [column[starts] for column in table], [*sizes.values(), *[1] * len(tissues)]
        ),
        atlases=_slices(sizes),
        masks={name: sum(sizes.values()) + i for i, name in enumerate([*tissues, "brain"])},
        n_mask=int(np.count_nonzero(table[0] == 0)),
        tissues={
            name: np.flatnonzero(column)
            for name, column in of_tissue.items()
            if name in set(components_of)
        },
    )


def _checked_labels(image: NDArray, *, atlas: str, n_regions: int) -> NDArray[np.integer]:
    """Labels of an atlas as whole numbers in Fortran order."""
    flat = np.ravel(image, order="F")
    whole = flat if flat.dtype.kind in "iu" else flat.astype(np.int64)
    if not np.array_equal(whole, flat) or whole.min() < 0 or whole.max() > n_regions:
        raise InputError(
            f"the label image of {atlas} holds values from {flat.min():g} to {flat.max():g}; "
            f"the atlas has the whole numbers 0 to {n_regions}",
            where=f"--atlas-file {atlas}=",
            fix="Give a label image whose values are the indices of the atlas's regions.",
        )
    return whole


def _sort_rows(table: Sequence[NDArray]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Order that puts equal rows together, and where each kind of row begins in it."""
    key = np.zeros(len(table[0]), dtype=np.int64)
    for column in table:
        key = key * (int(column.max()) + 1) + column
    order = np.argsort(key, kind="stable")
    in_order = key[order]
    return order, np.flatnonzero(np.append(True, in_order[1:] != in_order[:-1]))


def _membership(cell_labels: Sequence[NDArray], sizes: Sequence[int]) -> sparse.csr_array:
    """Which cells make up each region and tissue and, in the last row, the brain mask."""
    rows, columns = [], []
    for labels, start in zip(cell_labels[1:], np.cumsum([0, *sizes]), strict=False):
        members = np.flatnonzero(labels)
        rows.append(start + labels[members].astype(np.int64) - 1)
        columns.append(members)
    in_mask = np.flatnonzero(cell_labels[0] == 0)
    rows.append(np.full(len(in_mask), sum(sizes)))
    columns.append(in_mask)
    row, column = np.concatenate(rows), np.concatenate(columns)
    shape = (sum(sizes) + 1, len(cell_labels[0]))
    return sparse.csr_array((np.ones(len(row)), (row, column)), shape=shape)


def _slices(sizes: Mapping[str, int]) -> dict[str, slice]:
    """Consecutive slices of given lengths."""
    ends = np.cumsum(list(sizes.values()))
    return {
        name: slice(int(end) - size, int(end))
        for (name, size), end in zip(sizes.items(), ends, strict=True)
    }


@dataclass(frozen=True)
class ParcellatedRun:
    """What one pass over a run gives.

    Parameters
    ----------
    series
        (n_volumes, n_regions) by atlas, mean over voxels with signal; NaN for regions without.
    n_voxels, n_good
        (n_regions,) by atlas: voxels of each region, and those with signal.
    tsnr
        (n_regions,) by atlas: mean over voxels of temporal mean over standard deviation.
    global_signal
        (n_volumes,), mean over the brain mask.
    dvars
        (n_volumes,), root mean square over the mask of the change since the volume before,
        times 1000 over the median of the voxels' temporal means; NaN for the first volume.
    tissue_means
        (n_volumes,) by tissue.
    grams
        (n_volumes, n_volumes) by tissue: products between volumes of the voxels' series, each
        without its mean.
    n_tissue
        Voxels with signal by tissue.
    """

    series: dict[str, NDArray[np.float64]]
    n_voxels: dict[str, NDArray[np.int64]]
    n_good: dict[str, NDArray[np.int64]]
    tsnr: dict[str, NDArray[np.float64]]
    global_signal: NDArray[np.float64]
    dvars: NDArray[np.float64]
    tissue_means: dict[str, NDArray[np.float64]]
    grams: dict[str, NDArray[np.float64]]
    n_tissue: dict[str, int]


def parcellate(
    volumes: Iterable[Volume],
    cells: Cells,
    *,
    n_volumes: int,
    slope: float = 1.0,
    intercept: float = 0.0,
) -> ParcellatedRun:
    """Average the volumes of a run by region.

    Parameters
    ----------
    volumes
        One (n_voxels_of_volume,) after the other, in Fortran order.
    cells
        As `partition` gives them.
    n_volumes
        How many volumes there are.
    slope, intercept
        From stored to true values; applied to sums, which are linear in them.

    Notes
    -----
    Voxels whose series is zero throughout count as outside the image: they are left out of every
    mean. Values that are not finite count as zero. Sums are made in double precision.
    """
    accumulator = _Accumulator(cells, n_volumes, slope=slope, intercept=intercept)
    with np.errstate(invalid="ignore", over="ignore"):  # values that are not finite
        for index, volume in enumerate(volumes):
            accumulator.add(index, volume)
    return accumulator.finish()


class _Accumulator:
    """Running sums over the volumes of one run, a block of volumes at a time."""

    def __init__(self, cells: Cells, n_volumes: int, *, slope: float, intercept: float) -> None:
        n_voxels = len(cells.voxels)
        self.cells, self.slope, self.intercept = cells, slope, intercept
        self.n_volumes, self.n_done, self.n_waiting = n_volumes, 0, 0
        self.edges = np.append(np.arange(0, n_voxels, TILE_VOXELS), n_voxels)
        # A cell ends where a tile does: each piece belongs to the groups of the whole cell.
        self.starts = np.union1d(cells.starts, self.edges[:-1])
        whole = np.searchsorted(cells.starts, self.starts, side="right") - 1
        self.membership = cells.membership[:, whole]
        self.sum, self.sum_of_squares = np.zeros(n_voxels), np.zeros(n_voxels)
        self.is_good = np.zeros(n_voxels, dtype=bool)
        self.undecided = np.arange(n_voxels)
        self.group_sums = np.empty((n_volumes, cells.membership.shape[0]))
        self.squared_change = np.zeros(n_volumes)
        self.cell_sums = np.empty((BLOCK_VOLUMES, len(self.starts)))
        self.values = np.empty((1 + BLOCK_VOLUMES, TILE_VOXELS))
        self.change = np.empty((BLOCK_VOLUMES, TILE_VOXELS))
        self.block: NDArray = np.empty((0, n_voxels))
        self.tissue_series: dict[str, NDArray] = {}

    def _begin(self, dtype: np.dtype) -> None:
        """Make room, in the image's type, for a block and the volume before it."""
        n_voxels = len(self.cells.voxels)
        self.block = np.empty((1 + BLOCK_VOLUMES, n_voxels), dtype=dtype)
        kept = dtype if dtype.itemsize < 4 else np.float32  # small whole numbers as they are
        self.tissue_series = {
            name: np.empty((self.n_volumes, len(positions)), dtype=kept)
            for name, positions in self.cells.tissues.items()
        }

    def add(self, index: int, volume: Volume) -> None:
        """Take in one volume."""
        if not index:
            self._begin(volume.dtype)
        self.n_waiting += 1
        values = self.block[self.n_waiting]
        volume.take(self.cells.voxels, mode="clip", out=values)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        if not index:
            self.block[0] = values  # nothing changes before the first volume
        self._find_signal(values)
        for name, positions in self.cells.tissues.items():
            self.tissue_series[name][index] = values[positions]
        if self.n_waiting == BLOCK_VOLUMES:
            self._sum_block()

    def _sum_block(self) -> None:
        """Add the volumes that wait to the sums, tile by tile."""
        n = self.n_waiting
        volumes = slice(self.n_done, self.n_done + n)
        firsts = np.searchsorted(self.starts, self.edges)
        for tile, (start, end) in enumerate(itertools.pairwise(self.edges)):
            values = self.values[: n + 1, : end - start]
            np.copyto(values, self.block[: n + 1, start:end])
            new, cells = values[1:], slice(firsts[tile], firsts[tile + 1])
            starts = self.starts[cells] - start
            np.add.reduceat(new, starts, axis=1, out=self.cell_sums[:n, cells])
            self.sum[start:end] += new.sum(axis=0)
            self.sum_of_squares[start:end] += np.einsum("tv,tv->v", new, new)
            n_inside = min(max(self.cells.n_mask - start, 0), end - start)
            change = self.change[:n, :n_inside]
            np.subtract(new[:, :n_inside], values[:-1, :n_inside], out=change)
            self.squared_change[volumes] += np.einsum("tv,tv->t", change, change)
        self.group_sums[volumes] = (self.membership @ self.cell_sums[:n].T).T
        self.block[0] = self.block[n]
        self.n_done, self.n_waiting = self.n_done + n, 0

    def _find_signal(self, values: NDArray) -> None:
        """Note the voxels that are not zero for the first time; few are looked at twice."""
        if not self.undecided.size:
            return
        is_signal = values[self.undecided].astype(np.float64) * self.slope + self.intercept != 0
        self.is_good[self.undecided[is_signal]] = True
        self.undecided = self.undecided[~is_signal]

    def _by_group(self, voxel_values: NDArray) -> NDArray[np.float64]:
        """Sum values of voxels by group."""
        by_cell = np.add.reduceat(voxel_values.astype(np.float64), self.starts)
        return np.asarray(self.membership @ by_cell)

    def finish(self) -> ParcellatedRun:
        """Turn the sums into means."""
        if self.n_waiting:
            self._sum_block()
        atlases, masks = self.cells.atlases, self.cells.masks
        n_voxels = self._by_group(np.ones(len(self.cells.voxels)))
        n_good = self._by_group(self.is_good)
        totals = self.group_sums * self.slope + self.intercept * n_voxels
        means, tsnr = _divide(totals, n_good), self._tsnr()
        brain = masks["brain"]
        tissues = [name for name in masks if name != "brain"]
        return ParcellatedRun(
            series={name: means[:, rows] for name, rows in atlases.items()},
            n_voxels={name: n_voxels[rows].astype(np.int64) for name, rows in atlases.items()},
            n_good={name: n_good[rows].astype(np.int64) for name, rows in atlases.items()},
            tsnr={name: tsnr[rows] for name, rows in atlases.items()},
            # All voxels of the mask count, as in fMRIPrep's global_signal.
            global_signal=totals[:, brain] / n_voxels[brain],
            dvars=self._dvars(),
            tissue_means={name: means[:, masks[name]] for name in tissues},
            grams={
                name: centred_gram(series) * self.slope**2
                for name, series in self.tissue_series.items()
            },
            n_tissue={name: int(n_good[masks[name]]) for name in tissues},
        )

    def _moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Temporal mean and variance of the voxels, as stored."""
        mean = self.sum / len(self.group_sums)
        variance = self.sum_of_squares / len(self.group_sums) - mean**2
        return mean, variance

    def _tsnr(self) -> NDArray[np.float64]:
        """Mean over the voxels of each group of temporal mean over standard deviation."""
        mean, variance = self._moments()
        varies = variance > CONSTANT_VARIANCE * mean**2
        true_mean = mean[varies] * self.slope + self.intercept
        ratio = np.zeros(len(mean))
        ratio[varies] = true_mean / (np.sqrt(variance[varies]) * abs(self.slope))
        return _divide(self._by_group(ratio), self._by_group(varies))

    def _dvars(self) -> NDArray[np.float64]:
        """Root mean square of the change between volumes, scaled to a median of 1000."""
        inside = slice(self.cells.n_mask)
        mean = self._moments()[0][inside] * self.slope + self.intercept
        change = np.sqrt(self.squared_change / self.cells.n_mask) * abs(self.slope)
        change[0] = np.nan
        return _divide(1000.0 * change, np.array(np.median(mean)))


def _divide(numerator: NDArray[np.floating], denominator: NDArray) -> NDArray[np.float64]:
    """Divide; NaN where the denominator is zero."""
    shape = np.broadcast_shapes(numerator.shape, denominator.shape)
    ratio: NDArray[np.float64] = np.full(shape, np.nan)
    np.divide(numerator, denominator, out=ratio, where=denominator != 0)
    return ratio


def centred_gram(series: NDArray) -> NDArray[np.float64]:
    """Products between volumes of voxel series without their means.

    Parameters
    ----------
    series
        (n_volumes, n_voxels).

    Returns
    -------
    NDArray
        (n_volumes, n_volumes), ``Y Y'`` with the columns of ``Y`` centred.
    """
    gram = np.zeros((len(series), len(series)))
    for start in range(0, series.shape[1], GRAM_BLOCK):
        block = series[:, start : start + GRAM_BLOCK]
        # Centring first keeps single precision enough: what is left is a few percent of the mean.
        centred = (block - block.mean(axis=0, dtype=np.float64)).astype(np.float32)
        gram += centred @ centred.T
    return gram
