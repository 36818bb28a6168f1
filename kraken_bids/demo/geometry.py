# SPDX-License-Identifier: MIT
"""A participant's own shape: how MNI space, the T1w image and ACPC space lie to each other.

Points travel; images travel the other way. A file ``from-A_to-B`` resamples images of A onto B,
hence holds the map of points of B to points of A.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from .template import apply_affine

#: Grid of the displacement fields: 5 mm over the head in MNI space.
FIELD_SHAPE = (42, 50, 43)
FIELD_AFFINE = np.array(
    [[5.0, 0, 0, -102], [0, 5.0, 0, -142], [0, 0, 5.0, -88], [0, 0, 0, 1]], dtype=np.float64
)
_N_BUMPS = 60
_BUMP_WIDTH_MM = 24.0
#: Standard deviation of a bump's displacement; with 60 bumps the root mean square is about 2 mm.
_BUMP_MM = 1.0


@dataclass(frozen=True)
class Grid:
    """A voxel grid in some space.

    Parameters
    ----------
    shape
        Three numbers of voxels.
    affine
        (4, 4), voxel indices to mm.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    @property
    def positions(self) -> NDArray[np.float64]:
        """Positions of the voxel centres: (X, Y, Z, 3), mm."""
        voxels = np.stack(np.meshgrid(*map(np.arange, self.shape), indexing="ij"), axis=-1)
        return apply_affine(self.affine, voxels)


@dataclass(frozen=True)
class Geometry:
    """Maps of points between a participant's spaces.

    Parameters
    ----------
    forward, inverse
        (42, 50, 43, 3), displacement in mm on the field grid: of MNI points towards the
        participant's shape, and back.
    shape_to_t1w
        (4, 4): affine from the shaped MNI frame to the T1w frame (turn, shift, size, shear).
    t1w_to_acpc
        (4, 4): rigid.
    t1w_turn
        (3, 3): rotation of the voxel axes of the T1w image against its world axes.
    """

    forward: NDArray[np.float32]
    inverse: NDArray[np.float32]
    shape_to_t1w: NDArray[np.float64]
    t1w_to_acpc: NDArray[np.float64]
    t1w_turn: NDArray[np.float64]

    def mni_to_t1w(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Map points (..., 3) of MNI space to the T1w image's space."""
        return apply_affine(self.shape_to_t1w, points + displacement(self.forward, points))

    def t1w_to_mni(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Map points (..., 3) of the T1w image's space to MNI space."""
        shaped = apply_affine(np.linalg.inv(self.shape_to_t1w), points)
        return shaped + displacement(self.inverse, shaped)

    def acpc_to_mni(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Map points (..., 3) of ACPC space to MNI space."""
        return self.t1w_to_mni(apply_affine(np.linalg.inv(self.t1w_to_acpc), points))

    @property
    def shape_to_acpc(self) -> NDArray[np.float64]:
        """(4, 4): affine from the shaped MNI frame to ACPC space."""
        return self.t1w_to_acpc @ self.shape_to_t1w


def draw_geometry(rng: np.random.Generator) -> Geometry:
    """Draw a participant's shape and the position of the head in the scanner.

    The head is turned by up to 10 degrees, some 5 % larger or smaller along each axis, and
    smoothly deformed by some 2 mm; the T1w grid is oblique. ACPC space undoes the head's turn,
    up to a remainder of 1 or 2 degrees and a few mm.
    """
    turn = Rotation.from_euler("xyz", rng.uniform(-10, 10, 3), degrees=True).as_matrix()
    stretch = np.diag(rng.uniform(0.95, 1.05, 3)) + 0.01 * rng.normal(size=(3, 3))
    shape_to_t1w = _homogeneous(turn @ stretch, rng.uniform(-12, 12, 3))
    remainder = Rotation.from_euler("xyz", rng.uniform(-2, 2, 3), degrees=True).as_matrix()
    rigid = _homogeneous(remainder @ turn.T, rng.uniform(-4, 4, 3))
    rigid[:3, 3] -= rigid[:3, :3] @ shape_to_t1w[:3, 3]
    oblique = Rotation.from_euler("xyz", rng.uniform(-9, 9, 3), degrees=True).as_matrix()
    forward = _draw_field(rng)
    return Geometry(forward, _invert_field(forward), shape_to_t1w, rigid, oblique)


def template_geometry() -> Geometry:
    """The shape of the template itself: every map is the identity."""
    still = np.zeros((*FIELD_SHAPE, 3), dtype=np.float32)
    return Geometry(still, still, np.eye(4), np.eye(4), np.eye(3))


def displacement(field: NDArray[np.floating], points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Interpolate a displacement field linearly: (..., 3), mm; zero outside the grid."""
    voxels = np.moveaxis(apply_affine(np.linalg.inv(FIELD_AFFINE), points), -1, 0)
    return np.stack(
        [ndimage.map_coordinates(field[..., axis], voxels, order=1, output=np.float64)
         for axis in range(3)],
        axis=-1,
    )  # fmt: skip


def _draw_field(rng: np.random.Generator) -> NDArray[np.float32]:
    """A sum of Gaussian bumps of displacement, zero at the border of the grid."""
    points = Grid(FIELD_SHAPE, FIELD_AFFINE).positions.reshape(-1, 3)
    centres = rng.uniform([-75, -110, -55], [75, 75, 85], size=(_N_BUMPS, 3))
    vectors = rng.normal(0, _BUMP_MM, size=(_N_BUMPS, 3))
    field = np.zeros(points.shape)
    for centre, vector in zip(centres, vectors, strict=True):
        squared = ((points - centre) ** 2).sum(axis=1)
        field += np.exp(-squared / (2 * _BUMP_WIDTH_MM**2))[:, None] * vector
    shaped = field.reshape(*FIELD_SHAPE, 3)
    for axis, length in enumerate(FIELD_SHAPE):
        ramp = np.clip(np.minimum(np.arange(length), length - 1 - np.arange(length)) / 3, 0, 1)
        shaped *= ramp.reshape([-1 if axis == other else 1 for other in range(4)])
    return shaped.astype(np.float32)


def _invert_field(field: NDArray[np.float32], *, iterations: int = 25) -> NDArray[np.float32]:
    """Field of the inverse map, by fixed-point iteration ``u(q) = -d(q + u(q))``."""
    points = Grid(FIELD_SHAPE, FIELD_AFFINE).positions
    inverse = np.zeros_like(points)
    for _ in range(iterations):
        inverse = -displacement(field, points + inverse)
    return inverse.astype(np.float32)


def _homogeneous(matrix: NDArray[np.floating], shift: NDArray[np.floating]) -> NDArray[np.float64]:
    """A 4 x 4 matrix from a 3 x 3 one and a translation."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix, shift
    return affine


def grid_around(
    points: NDArray[np.floating],
    axes: NDArray[np.floating],
    *,
    voxel_mm: float,
    margin_mm: float,
) -> Grid:
    """Lay an isotropic grid around points.

    Parameters
    ----------
    points
        (n_points, 3), mm.
    axes
        (3, 3), unit vectors of the voxel axes as columns.
    voxel_mm, margin_mm
        Voxel size and room around the points.
    """
    along = points @ axes
    low = along.min(axis=0) - margin_mm
    counts = np.ceil((along.max(axis=0) + margin_mm - low) / voxel_mm).astype(int) + 1
    affine = _homogeneous(axes * voxel_mm, axes @ low)
    return Grid((int(counts[0]), int(counts[1]), int(counts[2])), affine)
