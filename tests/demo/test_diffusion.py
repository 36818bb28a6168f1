# SPDX-License-Identifier: MIT
from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kraken_bids.demo.bold import sample_tissue
from kraken_bids.demo.diffusion import (
    participant_fibres,
    plan_acquisition,
    simulate_diffusion,
    spread_directions,
)
from kraken_bids.demo.fibres import grow_fibres, solve_potential
from kraken_bids.demo.geometry import grid_around
from kraken_bids.demo.population import N_FACTORS
from kraken_bids.demo.template import apply_affine, load_template

SHELLS = {0: 3, 1000: 20}


def tensor_directions(signal, bvals, bvecs, affine):
    """Main direction of a tensor fit by FSL's rules: (n_voxels, 3), world axes.

    FSL's vectors are along the voxel axes; with a positive determinant their x points backwards.
    """
    gradients = bvecs.copy()
    if np.linalg.det(affine[:3, :3]) > 0:
        gradients[:, 0] *= -1
    x, y, z = gradients.T
    design = -bvals[:, None] * np.column_stack([
        x * x,
        y * y,
        z * z,
        2 * x * y,
        2 * x * z,
        2 * y * z,
    ])
    design = np.column_stack([design, np.ones(len(bvals))])
    fit, *_ = np.linalg.lstsq(design, np.log(np.maximum(signal, 1)).T, rcond=None)
    xx, yy, zz, xy, xz, yz, _ = fit
    tensors = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]).transpose(2, 0, 1)
    _, vectors = np.linalg.eigh(tensors)
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return vectors[:, :, -1] @ axes.T


@pytest.mark.parametrize("flip", [[-1, -1, 1], [-1, 1, 1]], ids=["right-handed", "left-handed"])
def test_gradients_agree_with_the_fibres_on_an_oblique_grid(flip, geometry, population):
    template = load_template()
    brain_points = template.positions(template.brain)
    points = apply_affine(geometry.t1w_to_acpc, geometry.mni_to_t1w(brain_points))
    turn = Rotation.from_euler("xyz", [15, -10, 20], degrees=True).as_matrix()
    grid = grid_around(points, turn * flip, voxel_mm=6.0, margin_mm=4.0)
    rng = np.random.default_rng(0)
    acquisition = plan_acquisition(SHELLS, rng)
    data, brain = simulate_diffusion(
        grid, geometry, acquisition, population=population, factors=np.zeros(N_FACTORS), rng=rng
    )
    positions = grid.positions[brain]
    directions, weights = participant_fibres(positions, geometry)
    white = sample_tissue(geometry.acpc_to_mni(grid.positions), 6.0).white[brain]
    single = (white > 0.9) & (weights.max(axis=1) > 0.98)
    assert np.count_nonzero(single) > 50
    found = tensor_directions(
        data[brain][single].astype(float), acquisition.bvals, acquisition.bvecs(grid.affine),
        grid.affine,
    )  # fmt: skip
    true = directions[single, weights[single].argmax(axis=1)]
    angle = np.degrees(np.arccos(np.clip(np.abs((found * true).sum(axis=1)), 0, 1)))
    assert np.median(angle) < 5


def test_factors_change_the_signal_of_white_matter(geometry, population):
    template = load_template()
    points = geometry.mni_to_t1w(template.positions(template.brain))
    points = apply_affine(geometry.t1w_to_acpc, points)
    grid = grid_around(points, np.eye(3), voxel_mm=8.0, margin_mm=0)
    images = []
    for factors in (np.zeros(N_FACTORS), np.eye(N_FACTORS)[0]):
        rng = np.random.default_rng(0)
        acquisition = plan_acquisition({0: 2, 1000: 6}, rng)
        data, brain = simulate_diffusion(
            grid, geometry, acquisition, population=population, factors=factors, rng=rng
        )
        images.append(data[brain].mean(axis=1))
    positions = geometry.acpc_to_mni(grid.positions)
    density = population.fibre_density(
        population.factor_maps(positions[brain]), np.eye(N_FACTORS)[0]
    )
    white = sample_tissue(positions, 8.0).white[brain] > 0.7
    change = np.log(images[1] / images[0])[white]
    assert np.corrcoef(change, np.log(density[white]))[0, 1] > 0.9


def test_acquisition_starts_without_weighting_and_holds_all_shells():
    acquisition = plan_acquisition({0: 3, 1000: 8, 2000: 16}, np.random.default_rng(0))
    assert acquisition.bvals[0] == 0
    assert sorted(acquisition.bvals) == [0] * 3 + [1000] * 8 + [2000] * 16
    lengths = np.linalg.norm(acquisition.directions, axis=1)
    np.testing.assert_allclose(lengths, np.where(acquisition.bvals > 0, 1, 0))


def test_directions_keep_apart():
    directions = spread_directions(20, np.random.default_rng(0))
    cosines = np.abs(directions @ directions.T) - np.eye(20)
    assert np.degrees(np.arccos(cosines.max())) > 18


def test_potential_is_linear_between_two_plates():
    domain = np.zeros((7, 3, 3), dtype=bool)
    domain[1:-1] = True
    border = ~domain
    values = np.where(np.arange(7) < 3, -1.0, 1.0)[:, None, None] * np.ones((7, 3, 3))
    potential = solve_potential(domain, border, values)
    np.testing.assert_allclose(potential[:, 1, 1], np.linspace(-1, 1, 7), atol=1e-6)


def test_fibres_of_the_corpus_callosum_cross_the_midline():
    directions, weights = grow_fibres().sample(np.array([[0.0, 20.0, 14.0], [0.0, -36.0, 18.0]]))
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    assert (np.abs(directions[:, 0, 0]) > 0.85).all()
