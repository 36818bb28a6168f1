# SPDX-License-Identifier: MIT
"""Head motion: displacement, outlying volumes, nuisance regressors."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

#: Thresholds of the CONN toolbox's "standard" preset: robust z of the change of the global
#: signal, and displacement between volumes in mm.
GLOBAL_SIGNAL_LIMIT = 5.0
DISPLACEMENT_LIMIT_MM = 0.9

#: Scale from an interquartile range to a standard deviation, as CONN writes it.
IQR_TO_SD = 0.7413

#: Points at the border of a head, in mm, scaling the columns of each rotation in turn.
HEAD_BOX_MM = ((70.0, 70.0, 75.0), (-70.0, -110.0, -45.0))

#: Radius in mm at which rotations count in framewise displacement (Power et al. 2012).
HEAD_RADIUS_MM = 50.0


def composite_motion(motion: FloatArray) -> FloatArray:
    """Largest displacement of six points of the head since the volume before.

    Parameters
    ----------
    motion
        (n_volumes, 6), translations in mm and rotations in rad, both x, y, z.

    Returns
    -------
    NDArray
        (n_volumes,), mm; 0 for the first volume.

    Notes
    -----
    Points are ``s * R[:, k] + t`` for both ``s`` of `HEAD_BOX_MM` and the columns ``k`` of the
    rotation, which is what the CONN toolbox's (and fmriclean's) control points come to.
    """
    rotations = _rotation_matrices(motion[:, 3:])
    points = np.stack(
        [np.asarray(scale)[:, None] * rotations + motion[:, :3, None] for scale in HEAD_BOX_MM],
        axis=1,
    )  # (n_volumes, 2, 3 coordinates, 3 points)
    moved = np.linalg.norm(np.diff(points, axis=0), axis=2).max(axis=(1, 2))
    return np.concatenate([[0.0], moved])


def _rotation_matrices(angles: FloatArray) -> FloatArray:
    """Rotations about x, y and z, one after the other, with SPM's signs: (n, 3, 3)."""
    cosine, sine = np.cos(angles), np.sin(angles)
    about = np.tile(np.eye(3), (3, len(angles), 1, 1))
    for axis, (first, second) in enumerate(((1, 2), (0, 2), (0, 1))):
        about[axis, :, first, first] = about[axis, :, second, second] = cosine[:, axis]
        about[axis, :, first, second] = sine[:, axis]
        about[axis, :, second, first] = -sine[:, axis]
    return np.asarray(about[0] @ about[1] @ about[2])


def framewise_displacement(motion: FloatArray) -> FloatArray:
    """Sum of absolute changes of position, rotations on a sphere of 50 mm.

    Parameters
    ----------
    motion
        (n_volumes, 6), mm and rad.

    Returns
    -------
    NDArray
        (n_volumes,), mm; NaN for the first volume.

    References
    ----------
    Power et al. 2012, NeuroImage 59:2142-2154.
    """
    change = np.abs(np.diff(motion, axis=0))
    summed = change[:, :3].sum(axis=1) + HEAD_RADIUS_MM * change[:, 3:].sum(axis=1)
    return np.concatenate([[np.nan], summed])


def flag_outliers(
    motion: FloatArray, global_signal: FloatArray, *, n_first: int
) -> NDArray[np.bool_]:
    """Flag volumes on both sides of a jump of the head or of the global signal.

    Parameters
    ----------
    motion
        (n_volumes, 6), mm and rad.
    global_signal
        (n_volumes,), mean over the brain.
    n_first
        Volumes at the start to flag in any case.

    Notes
    -----
    ``z = (d - median(d)) / (0.7413 IQR(d))`` with ``d`` the backward difference of the global
    signal, 0 first; a volume is flagged if ``|z| > 5`` or the composite motion is above 0.9 mm
    at this volume or the next (CONN, "standard").
    """
    change = np.concatenate([[0.0], np.diff(global_signal)])
    spread = IQR_TO_SD * float(np.subtract(*np.percentile(change, [75, 25])))
    z = (change - np.median(change)) / (spread or 1.0)
    jumps = (np.abs(z) > GLOBAL_SIGNAL_LIMIT) | (composite_motion(motion) > DISPLACEMENT_LIMIT_MM)
    is_outlier = np.zeros(len(jumps), dtype=bool)
    is_outlier[jumps] = True
    is_outlier[:-1] |= jumps[1:]
    is_outlier[:n_first] = True
    return is_outlier


def n_unsteady_volumes(repetition_time_s: float, *, skip_s: float, n_found: int = 0) -> int:
    """Volumes at the start of a run to flag.

    Parameters
    ----------
    repetition_time_s
        In s.
    skip_s
        Time to skip; 7.2 s are ten volumes of the training data.
    n_found
        Non-steady volumes that the preprocessing found.

    Examples
    --------
    >>> n_unsteady_volumes(0.72, skip_s=7.2), n_unsteady_volumes(2.0, skip_s=7.2, n_found=5)
    (10, 5)
    """
    # 7.2 / 0.72 is a hair above 10 in binary.
    return max(n_found, math.ceil(skip_s / repetition_time_s - 1e-6))


def with_differences(columns: NDArray[np.floating]) -> FloatArray:
    """Append forward differences, 0 in the last row.

    Parameters
    ----------
    columns
        (n_volumes, n) or (n_volumes,).
    """
    columns = columns.reshape(len(columns), -1)
    differences = np.diff(columns, axis=0, append=columns[-1:])
    return np.hstack([columns, differences])


def expand_motion(motion: FloatArray) -> FloatArray:
    """Parameters, their forward differences, and the squares of both.

    Parameters
    ----------
    motion
        (n_volumes, 6).

    Returns
    -------
    NDArray
        (n_volumes, 24).
    """
    columns = with_differences(motion)
    return np.hstack([columns, columns**2])
