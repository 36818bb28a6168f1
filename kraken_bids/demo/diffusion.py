# SPDX-License-Identifier: MIT
"""A multi-shell diffusion series of white matter, grey matter and fluid, with noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .bold import sample_tissue
from .fibres import grow_fibres, normalise
from .geometry import Geometry, Grid
from .population import Population

#: Signal without diffusion weighting of white matter, grey matter and fluid.
_BASELINE = (1.0, 1.15, 2.0)
#: Diffusivity in mm²/s: along and across a fibre, in grey matter and in fluid.
_ALONG, _ACROSS, _GREY, _FLUID = 1.7e-3, 0.25e-3, 0.8e-3, 3.0e-3
_SCALE = 1000.0
_SIGNAL_TO_NOISE = 30.0


@dataclass(frozen=True)
class Acquisition:
    """Diffusion weighting of each volume.

    Parameters
    ----------
    bvals
        (n_volumes,), s/mm².
    directions
        (n_volumes, 3), unit vectors on the world's axes; zero where the b-value is 0.
    """

    bvals: NDArray[np.float64]
    directions: NDArray[np.float64]

    def bvecs(self, affine: NDArray[np.floating]) -> NDArray[np.float64]:
        """Directions in FSL's convention for an image: (n_volumes, 3).

        Components are along the image's voxel axes, and x is negated if the affine's determinant
        is positive.
        """
        axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        vectors = self.directions @ axes
        signs = [-1, 1, 1] if np.linalg.det(affine[:3, :3]) > 0 else [1, 1, 1]
        return np.asarray(vectors * signs, dtype=np.float64)


def plan_acquisition(shells: dict[int, int], rng: np.random.Generator) -> Acquisition:
    """Spread directions over shells and mix the volumes, one without weighting first.

    Parameters
    ----------
    shells
        Number of volumes by b-value, 0 included.
    """
    bvals = np.repeat(list(shells), list(shells.values())).astype(np.float64)
    directions = np.concatenate([
        np.zeros((count, 3)) if bval == 0 else spread_directions(count, rng)
        for bval, count in shells.items()
    ])  # fmt: skip
    first = int(np.flatnonzero(bvals == 0)[0])
    rest = np.delete(np.arange(len(bvals)), first)
    order = np.concatenate([[first], rng.permutation(rest)])
    return Acquisition(bvals[order], directions[order])


def spread_directions(
    count: int, rng: np.random.Generator, *, iterations: int = 300
) -> NDArray[np.float64]:
    """Spread directions over the half sphere by electrostatic repulsion: (count, 3)."""
    vectors = np.asarray(normalise(rng.normal(size=(count, 3))), dtype=np.float64)
    for iteration in range(iterations):
        force = np.zeros_like(vectors)
        for sign in (1, -1):
            apart = vectors[:, None] - sign * vectors[None]
            distance = np.linalg.norm(apart, axis=-1)
            distance[distance < 1e-9] = np.inf
            force += (apart / distance[..., None] ** 3).sum(axis=1)
        force -= (force * vectors).sum(axis=1, keepdims=True) * vectors
        step = 0.1 / (1 + iteration / 50) / max(np.abs(force).max(), 1e-9)
        vectors = np.asarray(normalise(vectors + step * force), dtype=np.float64)
    return vectors * np.where(vectors[:, 2:] < 0, -1, 1)


def simulate_diffusion(
    grid: Grid,
    geometry: Geometry,
    acquisition: Acquisition,
    *,
    population: Population,
    factors: NDArray[np.floating],
    rng: np.random.Generator,
) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """Simulate a preprocessed series in a participant's ACPC space.

    Parameters
    ----------
    grid
        Grid of the series in ACPC space.
    geometry
        Where the grid's voxels lie in MNI space, and how directions turn on the way.
    acquisition
        Diffusion weighting.
    population, factors
        What the participant shares and how it differs.

    Returns
    -------
    data
        (X, Y, Z, n_volumes).
    brain
        (X, Y, Z), mask.
    """
    positions = grid.positions
    points = geometry.acpc_to_mni(positions)
    tissue = sample_tissue(points, float(np.linalg.norm(grid.affine[:3, 0])))
    brain = tissue.brain
    directions, weights = participant_fibres(positions[brain], geometry)
    density = population.fibre_density(population.factor_maps(points[brain]), factors)
    white, grey, csf = (map_[brain] for map_ in (tissue.white, tissue.grey, tissue.csf))
    bias = _receive_field(positions[brain])

    data = np.zeros((*grid.shape, len(acquisition.bvals)), dtype=np.float32)
    for volume, (bval, gradient) in enumerate(
        zip(acquisition.bvals, acquisition.directions, strict=True)
    ):
        cosine = (directions @ gradient.astype(np.float32)) ** 2
        fibres = (weights * np.exp(-bval * (_ACROSS + (_ALONG - _ACROSS) * cosine))).sum(axis=1)
        signal = _BASELINE[0] * white * density * fibres
        signal += _BASELINE[1] * grey * np.exp(-bval * _GREY)
        signal += _BASELINE[2] * csf * np.exp(-bval * _FLUID)
        data[brain, volume] = signal * bias
    noise = rng.normal(0, 1 / _SIGNAL_TO_NOISE, (2, *data.shape)).astype(np.float32)
    magnitude = np.hypot(data + noise[0], noise[1])
    return np.rint(_SCALE * magnitude).astype(np.int16), brain


def participant_fibres(
    positions: NDArray[np.floating], geometry: Geometry
) -> tuple[NDArray[np.floating], NDArray[np.float32]]:
    """Fibre populations at places of a participant's ACPC space.

    Parameters
    ----------
    positions
        (n, 3), ACPC mm.
    geometry
        The participant's maps.

    Returns
    -------
    directions
        (n, 3 populations, 3), unit vectors on ACPC axes: fibres turn with the tissue that they
        lie in.
    weights
        (n, 3 populations).
    """
    points = geometry.acpc_to_mni(positions)
    template_directions, weights = grow_fibres().sample(points)
    step_mm = 2.0
    jacobian = np.stack(
        [(geometry.acpc_to_mni(positions + step) - geometry.acpc_to_mni(positions - step))
         / (2 * step_mm) for step in step_mm * np.eye(3)],
        axis=-1,
    )  # fmt: skip
    to_acpc = np.linalg.inv(jacobian)
    return normalise(np.einsum("nij,npj->npi", to_acpc, template_directions)), weights


def _receive_field(positions: NDArray[np.floating]) -> NDArray[np.float64]:
    """Smooth change of sensitivity over the head: (n,)."""
    x, y, z = (positions - positions.mean(axis=0)).T / 90
    return np.asarray(np.exp(0.15 * y - 0.1 * z + 0.1 * x**2), dtype=np.float64)
