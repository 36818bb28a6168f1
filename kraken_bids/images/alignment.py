# SPDX-License-Identifier: MIT
"""How far one brain would have to be moved to lie upon another: a check of rigid transforms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize
from scipy.spatial.transform import Rotation

#: Distance of the points that brains are compared at, and width of their softened borders, in mm.
SPACING_MM, SOFTENING_MM = 8.0, 4.0
#: Shift, turn, and gain of the overlap (Dice) from which a transform is taken for wrong. Real
#: brains in place were to be moved by 1.5 mm and 1.9 degrees; of 15 mm and of 20 degrees about two
#: of the axes all were found. Turns about the axis from front to back, in which a brain is nearly
#: round, may not be.
MOST_SHIFT_MM, MOST_TURN_DEGREES, LEAST_GAIN = 8.0, 10.0, 0.01


@dataclass(frozen=True)
class Misfit:
    """How two brains lie.

    Parameters
    ----------
    dice, best_dice
        Overlap as they are, and after the best rigid movement: 0 (apart) to 1 (one).
    shift_mm, turn_degrees
        Size of that movement: of the centre, and around it.
    """

    dice: float
    best_dice: float
    shift_mm: float
    turn_degrees: float

    @property
    def is_wrong(self) -> bool:
        """Whether they are taken to lie elsewhere: moving far makes them overlap better."""
        far = self.shift_mm > MOST_SHIFT_MM or self.turn_degrees > MOST_TURN_DEGREES
        return far and self.best_dice - self.dice > LEAST_GAIN


def measure_misfit(
    moving: NDArray[np.bool_],
    moving_affine: NDArray[np.floating],
    fixed: NDArray[np.bool_],
    fixed_affine: NDArray[np.floating],
) -> Misfit:
    """Find the rigid movement that makes two brains overlap best.

    Parameters
    ----------
    moving, fixed
        (X, Y, Z), brains on grids of their own; neither may be empty.
    moving_affine, fixed_affine
        (4, 4), voxel indices to mm of one space.

    Notes
    -----
    Both are softened, so that the overlap changes smoothly, and compared at points 8 mm apart
    within the field of view of `fixed`: a series that does not cover the brain is not moved.
    """
    points = _points(fixed, fixed_affine)
    there = _Soft(fixed, fixed_affine)(points)
    brain = _Soft(moving, moving_affine)
    centre = np.average(points, axis=0, weights=there)

    def place(parameters: NDArray[np.floating]) -> NDArray[np.float64]:
        turn = Rotation.from_rotvec(parameters[3:] / 20).as_matrix()  # 1 is about 3 degrees
        return np.asarray((points - centre) @ turn.T + centre + parameters[:3])

    def overlap(parameters: NDArray[np.floating]) -> float:
        here = brain(place(parameters))
        return float(2 * np.minimum(here, there).sum() / max(here.sum() + there.sum(), 1e-9))

    start = np.zeros(6)
    found = optimize.minimize(
        lambda parameters: -overlap(parameters), start, method="Powell",
        options={"xtol": 0.05, "ftol": 1e-4, "maxfev": 600},
    )  # fmt: skip
    turn = float(np.rad2deg(np.linalg.norm(found.x[3:] / 20)))
    return Misfit(overlap(start), -float(found.fun), float(np.linalg.norm(found.x[:3])), turn)


def _points(mask: NDArray[np.bool_], affine: NDArray[np.floating]) -> NDArray[np.float64]:
    """Points about every 8 mm of an image's grid: (n, 3), mm."""
    steps = np.maximum(np.rint(SPACING_MM / np.linalg.norm(affine[:3, :3], axis=0)), 1)
    axes = [np.arange(0, size, int(step)) for size, step in zip(mask.shape, steps, strict=True)]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return np.asarray(index @ affine[:3, :3].T + affine[:3, 3])


class _Soft:
    """A brain with softened borders, to be looked up anywhere."""

    def __init__(self, mask: NDArray[np.bool_], affine: NDArray[np.floating]) -> None:
        sigma = SOFTENING_MM / np.linalg.norm(affine[:3, :3], axis=0)
        self._values = ndimage.gaussian_filter(mask.astype(np.float32), sigma)
        self._to_voxels = np.linalg.inv(affine)

    def __call__(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Values at points (n, 3) in mm; 0 outside of the image."""
        index = points @ self._to_voxels[:3, :3].T + self._to_voxels[:3, 3]
        return np.asarray(
            ndimage.map_coordinates(self._values, index.T, order=1), dtype=np.float64
        )
