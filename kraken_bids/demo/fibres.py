# SPDX-License-Identifier: MIT
"""Nerve fibres of the template: three crossing populations in its white matter.

Each population follows the gradient of a potential that is harmonic inside white matter and is
held at +1 and -1 on the grey matter at opposite sides: left and right (callosal), front and back
(association), top and bottom (projection). Field lines of such a potential run from grey matter
to grey matter and end nowhere else.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse.linalg import spsolve

from .template import AFFINE, apply_affine, load_template, smooth

#: The potentials are solved on every second voxel of the template's grid.
_STEP = 2
_VOXEL_MM = 4.0
_WHITE_LIMIT = 0.35
_GREY_LIMIT = 0.2

#: A population weaker than this share of the strongest in a place is left out there.
_WEAK = 0.4


@dataclass(frozen=True)
class FibreField:
    """Fibre populations on a grid of 4 mm in MNI space.

    Parameters
    ----------
    directions
        (X, Y, Z, 3 populations, 3), smooth vectors along each population, MNI axes; only their
        direction counts, and not its sign.
    weights
        (X, Y, Z, 3 populations), shares that add up to one.
    affine
        (4, 4), of the grid.
    """

    directions: NDArray[np.float32]
    weights: NDArray[np.float32]
    affine: NDArray[np.float64]

    def sample(
        self, positions: NDArray[np.floating]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Sample at positions (n, 3), MNI mm.

        Returns
        -------
        directions
            (n, 3 populations, 3), unit vectors.
        weights
            (n, 3 populations).
        """
        voxels = apply_affine(np.linalg.inv(self.affine), positions).T
        vectors = np.empty((len(positions), 3, 3), dtype=np.float32)
        weights = np.empty((len(positions), 3), dtype=np.float32)
        for population in range(3):
            weights[:, population] = ndimage.map_coordinates(
                self.weights[..., population], voxels, order=1, mode="nearest"
            )
            for axis in range(3):
                vectors[:, population, axis] = ndimage.map_coordinates(
                    self.directions[..., population, axis], voxels, order=1, mode="nearest"
                )
        return normalise(vectors), weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-6)


def normalise(vectors: NDArray[np.floating]) -> NDArray[np.floating]:
    """Scale vectors (..., 3) to unit length; a zero vector stays as it is."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)


@functools.cache
def grow_fibres() -> FibreField:
    """Grow the template's fibres."""
    template = load_template()
    coarse = (slice(None, None, _STEP),) * 3
    grey, white = (smooth(map_, _VOXEL_MM)[coarse] for map_ in (template.grey, template.white))
    brain = template.brain[coarse]
    domain = brain & (white > _WHITE_LIMIT)
    border = brain & ~domain & ndimage.binary_dilation(domain) & (grey > _GREY_LIMIT)
    affine = AFFINE @ np.diag([_STEP, _STEP, _STEP, 1.0])
    positions = apply_affine(affine, np.moveaxis(np.indices(brain.shape), 0, -1))
    middle = np.median(positions[domain], axis=0) * [0, 1, 1]

    steps = np.diag(affine)[:3]
    directions, strengths = [], []
    for axis in range(3):
        side = np.sign(positions[..., axis] - middle[axis])
        gradient = _gradient(solve_potential(domain, border, side), domain, steps)
        directions.append(gradient)
        strengths.append(np.linalg.norm(gradient, axis=-1))
    return FibreField(
        np.stack(directions, axis=-2).astype(np.float32), _shares(strengths, domain), affine
    )


def solve_potential(
    domain: NDArray[np.bool_], border: NDArray[np.bool_], values: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Solve Laplace's equation by finite differences.

    Parameters
    ----------
    domain
        (X, Y, Z), voxels to solve for; no flux where it ends without a border.
    border
        (X, Y, Z), voxels held at `values`.
    values
        (X, Y, Z).

    Returns
    -------
    NDArray
        (X, Y, Z); 0 outside of domain and border.
    """
    number = np.full(domain.shape, -1)
    number[domain] = np.arange(np.count_nonzero(domain))
    known = domain | border
    size = np.count_nonzero(domain)
    diagonal, right = np.zeros(size), np.zeros(size)
    rows, columns = [], []
    for axis in range(3):
        for shift in (1, -1):
            neighbour = np.roll(number, shift, axis)[domain]
            linked = np.roll(known, shift, axis)[domain]
            held = np.roll(np.where(border, values, 0), shift, axis)[domain]
            diagonal += linked
            right += held
            inner = neighbour >= 0
            rows.append(np.flatnonzero(inner))
            columns.append(neighbour[inner])
    row, column = np.concatenate(rows), np.concatenate(columns)
    diagonal += 1e-9  # islands that touch no border have no unique solution
    matrix = sparse.csc_matrix((-np.ones(len(row)), (row, column)), shape=(size, size))
    potential = np.where(border, values, 0.0)
    potential[domain] = spsolve(matrix + sparse.diags_array(diagonal, format="csc"), right)
    return potential


def _gradient(
    potential: NDArray[np.floating], domain: NDArray[np.bool_], steps: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Gradient inside the domain, slightly smoothed, carried on to the voxels around it."""
    gradient = np.stack(np.gradient(potential), axis=-1) / steps
    gradient[~domain] = 0
    gradient = np.stack(
        [ndimage.gaussian_filter(gradient[..., axis], 0.7) for axis in range(3)], axis=-1
    )
    empty = np.linalg.norm(gradient, axis=-1) < 1e-7
    nearest = ndimage.distance_transform_edt(empty, return_distances=False, return_indices=True)
    return np.asarray(gradient[tuple(nearest)], dtype=np.float64)


def _shares(strengths: list[NDArray[np.floating]], domain: NDArray[np.bool_]) -> NDArray:
    """Weights of the populations: (X, Y, Z, 3), only the strong ones, adding up to one."""
    strength = np.stack(strengths, axis=-1)
    weights = np.clip(strength / np.percentile(strength[domain], 90, axis=0), 0.02, 1)
    weights[weights < _WEAK * weights.max(axis=-1, keepdims=True)] = 0
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True), dtype=np.float32)
