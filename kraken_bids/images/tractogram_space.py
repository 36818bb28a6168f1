# SPDX-License-Identifier: MIT
"""Whether a tractogram lies in the brain that it is said to belong to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..errors import InputError
from .diffusion import read_values, voxel_size
from .tractograms import DATATYPES, data_offset, read_header

#: Least share of the points that must lie in the brain mask, or within `MARGIN_MM` of it.
LEAST_INSIDE = 0.9
#: How far outside of the mask a point may lie, in mm: masks differ by program.
MARGIN_MM = 4.0
#: Places of a file that are looked at, evenly spread, and points read at each.
N_SAMPLES, SAMPLE_POINTS = 200, 500


def require_inside(file: Path, mask_file: Path, *, where: str) -> float:
    """Refuse a tractogram whose points lie outside of the brain.

    It finds tractograms of another participant's space, in voxels in place of mm, or with an
    axis turned around that the brain is not symmetric about. A swap of left and right it cannot
    find.

    Parameters
    ----------
    file
        Uncompressed ``.tck``.
    mask_file
        Brain mask in the space of the label images.
    where
        The file as it was given, for the message.

    Returns
    -------
    float
        Share of points inside.

    Raises
    ------
    InputError
        If less than `LEAST_INSIDE` of the points lie in the mask.
    """
    mask, affine = read_values(mask_file)
    inside = mask > 0.5
    steps = max(1, round(MARGIN_MM / voxel_size(affine)))
    inside = ndimage.binary_dilation(inside, iterations=steps)
    points = sample_points(file)
    index = np.rint(points @ np.linalg.inv(affine)[:3, :3].T + np.linalg.inv(affine)[:3, 3])
    on_grid = ((index >= 0) & (index < inside.shape)).all(axis=1)
    share = float(inside[tuple(index[on_grid].astype(np.intp).T)].sum()) / max(len(points), 1)
    if len(points) and share < LEAST_INSIDE:
        raise InputError(
            f"{share:.0%} of the tractogram's points lie in the brain mask: another space, or an "
            "affine or unit that is wrong",
            where=f"{where}; {mask_file}",
            fix="Give streamlines in mm, in the space of QSIPrep's series (or name another: "
            "space-T1w).",
        )
    return share


def sample_points(file: Path) -> NDArray[np.float64]:
    """Points from all over a ``.tck`` file: (n, 3), mm; none where it holds no streamline."""
    header = read_header(file)
    number = np.dtype(DATATYPES[header["datatype"]])
    start = data_offset(file, header)
    n_points = (file.stat().st_size - start) // (3 * number.itemsize)
    places = np.unique(np.linspace(0, max(n_points - SAMPLE_POINTS, 0), N_SAMPLES, dtype=np.int64))
    parts = []
    with file.open("rb") as stream:
        for place in places:
            stream.seek(start + int(place) * 3 * number.itemsize)
            values = np.fromfile(stream, dtype=number, count=3 * SAMPLE_POINTS)
            parts.append(values[: values.size // 3 * 3].reshape(-1, 3))
    points = np.concatenate(parts).astype(np.float64)
    return np.asarray(points[np.isfinite(points).all(axis=1)])
