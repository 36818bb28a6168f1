# SPDX-License-Identifier: MIT
"""Label images on another grid, and what can be said of their regions there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..image_loading import MAX_VALUES, UNREADABLE, load_image, read_image
from ..plan import TransformStep
from .transforms import AffineMap, chain

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
#: Points that are mapped at a time: their coordinates stay in a core's cache.
_CHUNK_POINTS = 50_000
#: How far from a whole number a label may lie: programs that save labels with a scale factor store
#: them in steps of up to a thirtieth (of FreeSurfer's codes; less of an atlas's).
LABEL_TOLERANCE = 0.05
#: Least `overlap` with the brain mask: see `check_overlap`.
MIN_OVERLAP = 0.6


def open_image(file: Path) -> Any:
    """Open an image with nibabel; its values are read later.

    Raises
    ------
    InputError
        If the file is missing or is no image.
    """
    try:
        return load_image(file)
    except UNREADABLE as error:
        raise InputError(
            f"cannot be opened as an image: {error}",
            where=str(file),
            fix="Look whether the file is there and whole, and get it again if not.",
        ) from error


def label_values(label_img: Any) -> NDArray[np.int32]:
    """Read the values of a label image.

    Parameters
    ----------
    label_img
        nibabel image, 3-D (or 4-D with one volume), whole numbers from 0 (within
        `LABEL_TOLERANCE`), of any type.

    Returns
    -------
    NDArray
        (X, Y, Z).

    Raises
    ------
    InputError
        If the image is damaged, not 3-D, or holds other numbers.
    """
    file = str(label_img.get_filename() or "image in memory")
    try:
        values = read_image(label_img)
    except UNREADABLE as error:
        raise InputError(
            f"the label image cannot be read: {error}", where=file, fix="Get the file again."
        ) from error
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        raise InputError(
            f"a label image must have three dimensions, this one has {values.shape}",
            where=file,
            fix="Give an image with one label a voxel.",
        )
    with np.errstate(invalid="ignore"):  # NaN is told below
        labels: NDArray[np.int32] = np.rint(values).astype(np.int32)
        is_whole = bool(np.all(np.abs(values - labels) <= LABEL_TOLERANCE))
    if not is_whole or labels.min(initial=0) < 0:
        raise InputError(
            f"holds values that are no labels (from {values.min():g} to {values.max():g})",
            where=file,
            fix="Give an image of whole numbers from 0, not probabilities or intensities.",
        )
    return labels


def label_image(labels: NDArray[np.integer], affine: NDArray[np.floating]) -> Any:
    """Make a NIfTI image of the smallest integer type that holds the labels.

    Parameters
    ----------
    labels
        (X, Y, Z), from 0.
    affine
        (4, 4), voxel indices to RAS mm.
    """
    highest = int(labels.max(initial=0))
    # No uint16: not all programs of the field read it.
    dtype = next(kind for kind in (np.uint8, np.int16, np.int32) if highest <= np.iinfo(kind).max)
    image = nib.Nifti1Image(labels.astype(dtype), affine)
    image.header.set_xyzt_units("mm")
    return image


def mean_image(image: Any, *, most_volumes: int = 10) -> NDArray[np.float32]:
    """Read an image, of a series the mean of its first volumes.

    Parameters
    ----------
    image
        nibabel image, 3-D or more.
    most_volumes
        Number of volumes that are read at most.

    Returns
    -------
    NDArray
        (X, Y, Z).

    Raises
    ------
    InputError
        If it cannot be read.
    """
    try:
        if len(image.shape) < 4:
            return np.asarray(read_image(image), dtype=np.float32)
        if math.prod(image.shape[:3]) > MAX_VALUES:
            raise ValueError(f"its header promises volumes of {image.shape[:3]} voxels")
        series = np.asarray(image.dataobj[..., :most_volumes], dtype=np.float32)
    except UNREADABLE as error:
        raise InputError(
            f"the image cannot be read: {error}",
            where=str(image.get_filename() or "image in memory"),
            fix="Copy or preprocess the file again.",
        ) from error
    return np.asarray(series.mean(axis=tuple(range(3, series.ndim))), dtype=np.float32)


def isotropic_grid(
    affine: NDArray[np.floating],
    shape: Sequence[int],
    *,
    voxel_mm: float,
    margin_mm: float = 0.0,
) -> tuple[NDArray[np.float64], tuple[int, int, int]]:
    """Lay a grid of cubes over the field of view of another grid, along the same axes.

    Parameters
    ----------
    affine, shape
        The other grid: (4, 4) to RAS mm, and its size (further dimensions are left out).
    voxel_mm
        Edge of the cubes.
    margin_mm
        Room around the other grid.

    Returns
    -------
    affine, shape
        The new grid; its centre is that of the other one, which it covers in full.
    """
    affine = np.asarray(affine, dtype=np.float64)
    size = np.array(shape[:3])
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    # A thousandth of a voxel is rounding of the header, not a slice more.
    new_size = np.maximum(np.ceil((size * edges + 2 * margin_mm) / voxel_mm - 1e-3), 1).astype(int)
    grid = np.eye(4)
    grid[:3, :3] = affine[:3, :3] / edges * voxel_mm
    centre = affine[:3, :3] @ ((size - 1) / 2) + affine[:3, 3]
    grid[:3, 3] = centre - grid[:3, :3] @ ((new_size - 1) / 2)
    return grid, (int(new_size[0]), int(new_size[1]), int(new_size[2]))


def _slab_points(
    affine: NDArray[np.float64], shape: Sequence[int]
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Slices of the first axis, and the LPS points of their voxels' centres, (n, 3), C order."""
    to_lps = AffineMap(_RAS_TO_LPS @ affine)
    step = max(1, _CHUNK_POINTS // (shape[1] * shape[2]))
    for start in range(0, shape[0], step):
        slab = slice(start, min(start + step, shape[0]))
        voxels = np.indices((slab.stop - start, *shape[1:3]), dtype=np.float64).reshape(3, -1).T
        voxels[:, 0] += start
        yield slab, to_lps(voxels)


def _look_up(
    labels: NDArray[np.int32], world_to_voxel: AffineMap, points: NDArray[np.float64]
) -> NDArray[np.int32]:
    """Labels of the voxels that hold the points, 0 outside the image."""
    # Halves go up, as in ITK, so that both round alike on grids of half steps.
    voxels = np.floor(world_to_voxel(points) + 0.5).astype(np.int64)
    inside = np.all((voxels >= 0) & (voxels < labels.shape), axis=1)
    found = np.zeros(len(points), dtype=np.int32)
    found[inside] = labels[tuple(voxels[inside].T)]
    return found


def resample_together(
    label_imgs: Sequence[Any],
    steps: Sequence[TransformStep] = (),
    *,
    affine: NDArray[np.floating],
    shape: Sequence[int],
) -> tuple[NDArray[np.int32], ...]:
    """Bring label images of one space onto a grid in another, nearest neighbour.

    Each voxel's centre is taken back through all steps, once for all images, and gets the label
    of the voxel that it falls into: one interpolation, however long the way.

    Parameters
    ----------
    label_imgs
        nibabel images in the space where the first step begins, each on a grid of its own.
    steps
        In the order in which the images travel; none if the grid is in the images' space.
    affine, shape
        The grid: (4, 4), voxel indices to RAS mm, and its size (further dimensions are left out).

    Returns
    -------
    tuple of NDArray
        (X, Y, Z) for each image; 0 where the way leads out of it.

    Raises
    ------
    InputError
        If an image or a transform cannot be used.
    """
    maps = chain(steps)
    sources = [label_values(image) for image in label_imgs]
    to_voxels = [AffineMap(np.linalg.inv(_RAS_TO_LPS @ image.affine)) for image in label_imgs]
    size = (int(shape[0]), int(shape[1]), int(shape[2]))
    results = tuple(np.zeros(size, dtype=np.int32) for _ in sources)
    for slab, points in _slab_points(np.asarray(affine, dtype=np.float64), size):
        for point_map in maps:
            points = point_map(points)
        for labels, to_voxel, result in zip(sources, to_voxels, results, strict=True):
            result[slab] = _look_up(labels, to_voxel, points).reshape(result[slab].shape)
    return results


def resample_labels(
    label_img: Any,
    steps: Sequence[TransformStep] = (),
    *,
    affine: NDArray[np.floating],
    shape: Sequence[int],
) -> Any:
    """Bring one label image onto a grid; see `resample_together`.

    Returns
    -------
    nibabel image
        NIfTI, of the smallest integer type that holds its labels.
    """
    (labels,) = resample_together([label_img], steps, affine=affine, shape=shape)
    return label_image(labels, affine)


def relabel_codes(values: NDArray[np.integer], codes: Sequence[int]) -> NDArray[np.int32]:
    """Turn the codes of a source image into region indices.

    Matched by code: names change from one FreeSurfer release to the next.

    Parameters
    ----------
    values
        Codes, of any shape.
    codes
        (n_regions,), the code of each region in the atlas's order.

    Returns
    -------
    NDArray
        Of the shape of `values`: position in `codes` from 1, or 0 for other codes.

    Examples
    --------
    >>> relabel_codes(np.array([0, 1001, 8, 7]), [8, 10, 1001]).tolist()
    [0, 3, 1, 0]
    """
    known = np.asarray(codes)
    order = np.argsort(known)
    at = order[np.minimum(np.searchsorted(known, values, sorter=order), len(known) - 1)]
    return np.where(known[at] == values, at + 1, 0).astype(np.int32)


def region_volumes(
    labels: NDArray[np.integer], n_regions: int, *, affine: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Measure the volume of each region.

    Parameters
    ----------
    labels
        (X, Y, Z), region indices from 1.
    n_regions
        Number of regions of the atlas, present or not.
    affine
        (4, 4), voxel indices to mm.

    Returns
    -------
    NDArray
        (n_regions,), mm³; 0 for a missing region.
    """
    counts = np.bincount(labels.ravel(), minlength=n_regions + 1)[1 : n_regions + 1]
    return counts.astype(np.float64) * abs(float(np.linalg.det(affine[:3, :3])))


def overlap(labels: NDArray[np.integer], mask: NDArray[Any]) -> float:
    """Overlap coefficient of the labelled voxels and a mask on the same grid.

    Notes
    -----
    ``n(labels and mask) / min(n(labels), n(mask))``: 1 if one holds the other, so that neither a
    mask cut tight nor a mask of the whole head counts against the labels; 0 if either is empty.

    Examples
    --------
    >>> overlap(np.array([1, 2, 0, 4]), np.array([1, 1, 1, 0]))
    0.6666666666666666
    """
    is_labelled, is_brain = labels > 0, mask > 0
    smaller = min(int(is_labelled.sum()), int(is_brain.sum()))
    return int((is_labelled & is_brain).sum()) / smaller if smaller else 0.0


def check_overlap(
    labels: NDArray[np.integer],
    mask: NDArray[Any],
    *,
    atlas: str,
    way: str,
    minimum: float = MIN_OVERLAP,
) -> float:
    """Refuse labels that lie elsewhere than the brain: a wrong or turned transform.

    Parameters
    ----------
    labels, mask
        (X, Y, Z), on one grid.
    atlas
        Name of the atlas, for the message.
    way
        Both spaces and the files between them, for the message.
    minimum
        Least overlap coefficient.

    Returns
    -------
    float
        The overlap coefficient.

    Raises
    ------
    InputError
        If the overlap is less than `minimum`.

    Notes
    -----
    Measured: 0.99 for real BOLD, 0.69 to 0.80 for real diffusion images under a mask that lacks
    the brain's base, 0.56 to 0.66 for those turned front to back, 0.53 for a brain shifted by
    40 mm. Hence it finds gross errors, not a neighbour's transform.
    """
    share = overlap(labels, mask)
    if share < minimum:
        raise InputError(
            f"the labels of {atlas} lie beside the brain mask of the data: the overlap is "
            f"{share:.0%} of the smaller one, at least {minimum:.0%} are needed",
            where=way,
            fix="Look whether the transform and the label image belong to this participant and "
            "these spaces.",
        )
    return share
