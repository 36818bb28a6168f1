# SPDX-License-Identifier: MIT
"""Diffusion series: gradient tables, shells, mean of the volumes without weighting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..image_loading import UNREADABLE, load_image, read_image
from .stream import SeriesHeader, iterate_volumes

#: Weighting up to which a volume counts as not weighted, in s/mm². Some scanners write 5 to 70.
B0_LIMIT = 100.0

#: Largest distance of a weighting from its shell's mean, in s/mm².
SHELL_WIDTH = 80.0

#: Least number of distinct directions, and least share of them out of any plane (1/3 if they are
#: even).
LEAST_DIRECTIONS, LEAST_OUT_OF_PLANE = 6, 0.02

#: How far the length of a gradient direction may be from 1.
DIRECTION_TOLERANCE = 0.05

#: Border of the brain mask from which no responses are taken, in mm.
BORDER_MM = 7.5


@dataclass(frozen=True)
class GradientTable:
    """The gradients of a diffusion series, in FSL's frame.

    Parameters
    ----------
    bvals
        (n_volumes,), s/mm²; 0 for volumes without weighting.
    bvecs
        (n_volumes, 3); unit length, zero for volumes without weighting.
    """

    bvals: NDArray[np.float64]
    bvecs: NDArray[np.float64]

    @property
    def shells(self) -> tuple[int, ...]:
        """Mean weighting of each shell, without b = 0, rounded to 50 s/mm²."""
        weighted = np.sort(self.bvals[self.bvals > 0])
        groups = np.split(weighted, np.flatnonzero(np.diff(weighted) > SHELL_WIDTH) + 1)
        return tuple(int(50 * round(float(group.mean()) / 50)) for group in groups)

    @property
    def reference(self) -> NDArray[np.bool_]:
        """(n_volumes,); volumes without weighting, else those of the lowest shell."""
        if (self.bvals == 0).any():
            return np.asarray(self.bvals == 0)
        lowest = float(self.bvals.min()) + SHELL_WIDTH
        return np.asarray(self.bvals <= lowest)

    @property
    def shell_sizes(self) -> tuple[int, ...]:
        """Number of volumes of each shell."""
        weighted = np.sort(self.bvals[self.bvals > 0])
        breaks = np.flatnonzero(np.diff(weighted) > SHELL_WIDTH) + 1
        return tuple(len(group) for group in np.split(weighted, breaks))


def _numbers(file: Path) -> NDArray[np.float64]:
    """Table of numbers in a text file."""
    try:
        rows = [line.split() for line in file.read_text("utf-8").splitlines() if line.strip()]
        return np.array(rows or [[]], dtype=np.float64)
    except (OSError, ValueError) as error:
        raise InputError(
            f"gradient table cannot be read: {error}",
            where=str(file),
            fix="Give the .bval and .bvec files that were written with the series.",
        ) from error


def has_unweighted(bval_file: Path) -> bool:
    """Whether a series has volumes without diffusion weighting (b up to `B0_LIMIT`).

    Raises
    ------
    InputError
        If its b-values cannot be read.
    """
    return bool((_numbers(bval_file) <= B0_LIMIT).any())


def read_gradients(bval_file: Path, bvec_file: Path, *, n_volumes: int) -> GradientTable:
    """Read FSL's two text files; weightings up to `B0_LIMIT` become 0.

    Parameters
    ----------
    bval_file, bvec_file
        A row of weightings; three rows (or three columns) of directions.
    n_volumes
        Volumes of the series.

    Raises
    ------
    InputError
        If the numbers of volumes, weightings and directions differ, no volume has a weighting, a
        direction is missing or not of unit length, or there are too few directions.
    """
    bvals = _numbers(bval_file).ravel()
    bvecs = _numbers(bvec_file)
    if bvecs.shape[0] == 3:
        bvecs = bvecs.T
    n_directions = bvecs.shape[0] if bvecs.shape[1] == 3 else 0
    if not len(bvals) == n_directions == n_volumes:
        raise InputError(
            f"{n_volumes} volumes, {len(bvals)} b-values and {n_directions} b-vectors",
            where=f"{bval_file}, {bvec_file.name}",
            fix="Give the .bval and .bvec files that were written with this series.",
        )
    weighted = bvals > B0_LIMIT
    _check_weightings(bvals, weighted, bval_file)
    lengths = np.linalg.norm(bvecs, axis=1)
    wrong = weighted & ~(np.abs(lengths - 1) <= DIRECTION_TOLERANCE)
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise InputError(
            f"{int(wrong.sum())} b-vectors of weighted volumes are not of unit length; that of "
            f"volume {first} (from 0) is {bvecs[first].tolist()}",
            where=str(bvec_file),
            fix="Give the b-vectors as QSIPrep writes them: unit length, FSL convention.",
        )
    _check_directions(bvecs[weighted], bvec_file)
    bvecs = np.where(weighted[:, None], bvecs / np.where(weighted, lengths, 1)[:, None], 0.0)
    return GradientTable(np.where(weighted, bvals, 0.0), bvecs)


def _check_weightings(
    bvals: NDArray[np.float64], weighted: NDArray[np.bool_], bval_file: Path
) -> None:
    """Ask for volumes with and without weighting, all finite."""
    if not np.isfinite(bvals).all() or (bvals < 0).any():
        raise InputError(
            "b-values are not all numbers from 0 up",
            where=str(bval_file),
            fix="Give the .bval file that was written with this series.",
        )
    if not weighted.any():
        raise InputError(
            f"no volume has b > {B0_LIMIT:g} s/mm²",
            where=str(bval_file),
            fix="Give a diffusion-weighted series.",
        )


def _check_directions(directions: NDArray[np.float64], bvec_file: Path) -> None:
    """Ask for directions enough to tell fibres, spread over space."""
    apart = np.abs(directions @ directions.T) < np.cos(np.deg2rad(1))
    # Of directions that are one, or opposite, only the first counts.
    n_distinct = sum(bool(apart[row, :row].all()) for row in range(len(directions)))
    out_of_plane = float(np.linalg.eigvalsh(directions.T @ directions / len(directions))[0])
    if n_distinct >= LEAST_DIRECTIONS and out_of_plane >= LEAST_OUT_OF_PLANE:
        return
    flat = " that lie in one plane" if n_distinct >= LEAST_DIRECTIONS else ""
    raise InputError(
        f"the weighted volumes have {n_distinct} distinct b-vectors{flat}; fibres need "
        f"{LEAST_DIRECTIONS} or more in all directions",
        where=str(bvec_file),
        fix="Give the .bvec file that was written with this series.",
    )


def average_volumes(
    header: SeriesHeader,
    selected: NDArray[np.bool_],
    *,
    visit: Callable[[int, NDArray[np.floating]], None] | None = None,
) -> NDArray[np.float32]:
    """Average some volumes of a series, reading the whole file so that damage is found.

    Parameters
    ----------
    header
        The series.
    selected
        (n_volumes,), volumes to average.
    visit
        Called with the number and the values of each volume, in Fortran's order.

    Returns
    -------
    NDArray
        (n_x, n_y, n_z).

    Raises
    ------
    InputError
        If the file is cut short or damaged, or its selected volumes hold no signal.
    """
    total = np.zeros(header.n_voxels, dtype=np.float64)
    for number, values in enumerate(iterate_volumes(header)):
        if selected[number]:
            total += np.nan_to_num(values)
        if visit is not None:
            visit(number, header.slope * values + header.intercept)
    if not total.any():
        raise InputError(
            "the volumes without (or with the least) weighting hold zeros only",
            where=str(header.file),
            fix="Look at the preprocessing of this series.",
        )
    mean = header.slope * total / max(int(selected.sum()), 1) + header.intercept
    return mean.reshape(header.shape, order="F").astype(np.float32)


def read_values(file: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Read all values of an image.

    Returns
    -------
    values
        Of the image's own shape.
    affine
        (4, 4), voxel indices to mm.

    Raises
    ------
    InputError
        If the file is missing, cut short or damaged.
    """
    try:
        image = load_image(file)
        return np.asarray(read_image(image), dtype=np.float32), np.asarray(image.affine)
    except UNREADABLE as error:
        raise InputError(
            f"the image is missing, cut short or damaged: {error}",
            where=str(file),
            fix="Copy or make the file again.",
        ) from error


def sample_nearest(
    values: NDArray,
    affine: NDArray[np.floating],
    *,
    target_affine: NDArray[np.floating],
    target_shape: Sequence[int],
) -> NDArray:
    """Bring an image onto another grid of the same space, nearest neighbour.

    Parameters
    ----------
    values
        (X, Y, Z, ...).
    affine, target_affine
        (4, 4), voxel indices to mm.
    target_shape
        Three sizes.

    Returns
    -------
    NDArray
        Of `target_shape` and the further axes of `values`; 0 outside of the image.
    """
    to_source = np.linalg.inv(affine) @ target_affine
    result = np.zeros((*target_shape, *values.shape[3:]), dtype=values.dtype)
    size = np.array(values.shape[:3])
    plane = np.stack(np.meshgrid(*map(np.arange, target_shape[:2]), indexing="ij"), axis=-1)
    # Plane by plane, so that memory does not grow with the target.
    for k in range(target_shape[2]):
        points = plane @ to_source[:3, :2].T + (to_source[:3, 2] * k + to_source[:3, 3])
        index = np.rint(points).astype(np.intp)
        inside = ((index >= 0) & (index < size)).all(axis=-1)
        result[inside, k] = values[tuple(index[inside].T)]
    return result


def region_coverage(
    labels: NDArray[np.integer], inside: NDArray[np.bool_], *, n_regions: int
) -> NDArray[np.float64]:
    """Share of each region's voxels that lie in the brain mask.

    Parameters
    ----------
    labels
        (X, Y, Z), region indices.
    inside
        (X, Y, Z), the mask on the same grid.
    n_regions
        Number of regions of the atlas.

    Returns
    -------
    NDArray
        (n_regions,), from 0 to 1; 0 for a region without voxels.
    """
    known = (labels > 0) & (labels <= n_regions)
    size = np.bincount(labels[known], minlength=n_regions + 1)[1:]
    covered = np.bincount(labels[known & inside], minlength=n_regions + 1)[1:]
    return covered / np.maximum(size, 1)


def voxel_size(affine: NDArray[np.floating]) -> float:
    """Geometric mean of the three edges of a voxel, in mm."""
    return float(np.abs(np.linalg.det(affine[:3, :3])) ** (1 / 3))


def border_voxels(affine: NDArray[np.floating]) -> int:
    """Width of a brain mask's border in which signals are not to be trusted, in voxels.

    ``dwi2response dhollander`` leaves out three voxels, meant for voxels of 2 to 2.5 mm. In
    coarser images as many would take away the whole cortex: no more than 7.5 mm are left out.

    Returns
    -------
    int
        From 1 to 3.
    """
    return max(1, min(3, int(BORDER_MM / voxel_size(affine))))
