# SPDX-License-Identifier: MIT
"""Real anatomy to start from: the MNI152 tissue templates that nilearn carries."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

#: Grid of MNI152NLin6Asym with ``res-2``, as FSL and fMRIPrep use it: 2 mm, stored leftwards.
SHAPE = (91, 109, 91)
AFFINE = np.array(
    [[-2.0, 0, 0, 90], [0, 2.0, 0, -126], [0, 0, 2.0, -72], [0, 0, 0, 1]], dtype=np.float64
)
VOXEL_MM = 2.0


@dataclass(frozen=True)
class Template:
    """Tissue maps on the 2 mm grid of MNI152NLin6Asym.

    Parameters
    ----------
    t1w
        (91, 109, 91), intensity from 0 to 1, without skull.
    grey, white, csf
        (91, 109, 91), shares that add up to one inside the brain.
    brain
        (91, 109, 91), bool.
    """

    t1w: NDArray[np.float32]
    grey: NDArray[np.float32]
    white: NDArray[np.float32]
    csf: NDArray[np.float32]
    brain: NDArray[np.bool_]

    def positions(self, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Positions of the voxels of a mask: (n_voxels, 3), MNI mm."""
        return apply_affine(AFFINE, np.argwhere(mask))


@functools.cache
def load_template() -> Template:
    """Read nilearn's 1 mm templates and bring them to the 2 mm grid."""
    from nilearn import datasets

    maps = []
    for load in (
        datasets.load_mni152_template,
        datasets.load_mni152_gm_template,
        datasets.load_mni152_wm_template,
    ):
        image = load(resolution=1)
        data = image.get_fdata(dtype=np.float32)
        maps.append(_to_grid(ndimage.gaussian_filter(data, 0.7), image.affine))
    t1w, grey, white = maps
    total = np.maximum(grey + white, 1)
    grey, white = grey / total, white / total
    brain = ndimage.binary_closing(grey + white > 0.3, iterations=3)
    brain = ndimage.binary_fill_holes(brain)
    parts, _ = ndimage.label(brain)
    brain = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    return Template(
        t1w=t1w * brain,
        grey=grey * brain,
        white=white * brain,
        csf=np.where(brain, 1 - grey - white, 0).astype(np.float32),
        brain=brain,
    )


def _to_grid(data: NDArray[np.float32], affine: NDArray[np.float64]) -> NDArray[np.float32]:
    """Sample an image on the template's grid."""
    matrix = np.linalg.inv(affine) @ AFFINE
    sampled = ndimage.affine_transform(
        data, matrix[:3, :3], matrix[:3, 3], output_shape=SHAPE, order=1
    )
    return np.asarray(np.clip(sampled, 0, 1), dtype=np.float32)


def smooth(image: NDArray, voxel_mm: float) -> NDArray[np.float32]:
    """Blur a map on the template's grid so that it can be sampled at a coarser voxel size."""
    if voxel_mm <= VOXEL_MM:
        return np.asarray(image, dtype=np.float32)
    width = np.sqrt(voxel_mm**2 - VOXEL_MM**2) / 2.355 / VOXEL_MM
    blurred = ndimage.gaussian_filter(np.asarray(image, dtype=np.float32), width)
    return np.asarray(blurred, dtype=np.float32)


def sample(image: NDArray, positions: NDArray[np.floating], *, order: int = 1) -> NDArray:
    """Values of a map on the template's grid at positions; zero outside.

    Parameters
    ----------
    image
        (91, 109, 91).
    positions
        (..., 3), MNI mm.
    order
        1 for linear, 0 for nearest neighbour (labels).

    Returns
    -------
    NDArray
        (...), of the image's type.
    """
    voxels = apply_affine(np.linalg.inv(AFFINE), positions)
    values: NDArray = ndimage.map_coordinates(
        image, np.moveaxis(voxels, -1, 0), order=order, mode="constant", prefilter=False
    )
    return values


def apply_affine(affine: NDArray[np.floating], positions: NDArray) -> NDArray[np.float64]:
    """Apply a 4 x 4 matrix to positions (..., 3)."""
    return np.asarray(positions @ affine[:3, :3].T + affine[:3, 3], dtype=np.float64)
