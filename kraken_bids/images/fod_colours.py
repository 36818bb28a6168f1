# SPDX-License-Identifier: MIT
"""Fibre orientation distributions as colours: how much fibre runs along each axis."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Values of the three real, orthonormal harmonics along x, y and z (rows).
_ALONG_AXES = np.array([
    [0.5, -np.sqrt(5) / 4, np.sqrt(15) / 4],
    [0.5, -np.sqrt(5) / 4, -np.sqrt(15) / 4],
    [0.5, np.sqrt(5) / 2, 0.0],
]) / np.sqrt(np.pi)  # fmt: skip


def orientation_colours(coefficients: NDArray[np.floating]) -> NDArray[np.float32]:
    """Amplitude of smoothed FODs along the axes of the room, as red, green and blue.

    Parameters
    ----------
    coefficients
        (X, Y, Z, 3), harmonics (0, 0), (2, 0) and (2, 2) in MRtrix3's basis.

    Returns
    -------
    NDArray
        (X, Y, Z, 3), 0 to 1: fibres from left to right are red, from back to front green, from
        below to above blue. 1 is the 99th percentile of what is above 0.

    Notes
    -----
    With harmonics of order 2 alone, an amplitude along an axis takes three of the six
    coefficients: the others are 0 there.
    """
    found = np.nan_to_num(coefficients) @ _ALONG_AXES.T.astype(np.float32)
    found = found.clip(0)
    there = found[found > 0]
    top = float(np.percentile(there, 99)) if there.size else 1.0
    colours: NDArray[np.float32] = (found / top).clip(0, 1).astype(np.float32)
    return colours
