# SPDX-License-Identifier: MIT
"""Masks of white matter, CSF and grey matter from a FreeSurfer segmentation.

The codes are those that the published model's training connectomes were cleaned with: the
segmentation's white matter with that of the cerebellum, its ventricles and other fluid, and the
cortex with subcortical grey matter, cerebellar cortex and brainstem.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..errors import InputError

#: FreeSurfer codes by tissue. Cortex is 3 and 42 in ``aseg``, 1000-1035 and 2000-2035 in
#: ``aparc+aseg``.
TISSUE_CODES: dict[str, tuple[int, ...]] = {
    "WM": (2, 7, 41, 46, 77, 78, 79, 85, 251, 252, 253, 254, 255),
    "CSF": (4, 5, 14, 15, 24, 31, 43, 44, 63, 72, 213, 221),
    "GM": (
        *(3, 42, *range(1000, 1036), *range(2000, 2036)),
        *(8, 10, 11, 12, 13, 16, 17, 18, 26, 28, 47, 49, 50, 51, 52, 53, 54, 58, 60),
    ),
}

#: Voxels that must be left after erosion; below, the whole tissue is taken.
MIN_ERODED_VOXELS = 10


@dataclass(frozen=True)
class TissueMask:
    """Mask of one tissue.

    Parameters
    ----------
    mask
        (n_x, n_y, n_z), bool.
    is_eroded
        Whether the tissue's outermost voxels were left out.
    """

    mask: NDArray[np.bool_]
    is_eroded: bool


def tissue_masks(codes: NDArray[np.integer]) -> dict[str, TissueMask]:
    """Make masks of white matter and CSF, eroded, and of grey matter, whole.

    Parameters
    ----------
    codes
        (n_x, n_y, n_z), FreeSurfer codes on the grid of the series.

    Returns
    -------
    dict
        By ``WM``, ``CSF`` and ``GM``. White matter and CSF lose one voxel in a box of
        3 x 3 x 3; if fewer than `MIN_ERODED_VOXELS` remain, the tissue is left whole.

    Raises
    ------
    InputError
        If a tissue has fewer than `MIN_ERODED_VOXELS` voxels at all.
    """
    masks = {}
    for tissue, accepted in TISSUE_CODES.items():
        whole = np.isin(codes, accepted)
        if np.count_nonzero(whole) < MIN_ERODED_VOXELS:
            raise InputError(
                f"the segmentation has {np.count_nonzero(whole)} voxels of {tissue} on the grid "
                f"of the series; {MIN_ERODED_VOXELS} are needed",
                fix="Look at the segmentation and its transforms, or use --compcor columns with "
                "--gsr-source global_signal.",
            )
        masks[tissue] = TissueMask(whole, False) if tissue == "GM" else _eroded(whole)
    return masks


def _eroded(whole: NDArray[np.bool_]) -> TissueMask:
    """Take a voxel off all around, within the box that holds the tissue: the rest is empty."""
    box = ndimage.find_objects(whole.astype(np.uint8))[0]
    mask = np.zeros_like(whole)
    mask[box] = ndimage.binary_erosion(whole[box], structure=np.ones((3, 3, 3)))
    is_eroded = bool(np.count_nonzero(mask) >= MIN_ERODED_VOXELS)
    return TissueMask(mask if is_eroded else whole, is_eroded)
