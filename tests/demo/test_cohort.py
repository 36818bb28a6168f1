# SPDX-License-Identifier: MIT
from __future__ import annotations

import numpy as np
import pytest

from kraken_bids.demo.cohort import (
    Tractogram,
    assign_edges,
    fs86_labels,
    simulate_functional,
    simulate_structural,
    streamline_weights,
)
from kraken_bids.demo.population import N_FACTORS, draw_factors
from kraken_bids.demo.template import AFFINE, apply_affine

N_EDGES = 86 * 85 // 2


@pytest.fixture
def tractogram(rng):
    """Straight lines between voxels of regions."""
    labels = fs86_labels()
    voxels = np.argwhere(labels > 0)
    ends = apply_affine(AFFINE, voxels[rng.integers(0, len(voxels), (3000, 2))])
    share = np.linspace(0, 1, 5)[:, None]
    return Tractogram(ends, ends[:, :1] * (1 - share) + ends[:, 1:] * share)


def test_streamlines_are_assigned_to_the_regions_they_end_in(tractogram):
    labels = fs86_labels()
    edges = assign_edges(tractogram.ends, labels)
    rows, columns = np.triu_indices(86, k=1)
    voxels = np.rint(apply_affine(np.linalg.inv(AFFINE), tractogram.ends)).astype(int)
    regions = np.sort(labels[tuple(np.moveaxis(voxels, -1, 0))].astype(int), axis=1) - 1
    joined = regions[:, 0] != regions[:, 1]
    assert (edges[~joined] == -1).all()
    assert np.array_equal(rows[edges[joined]], regions[joined, 0])
    assert np.array_equal(columns[edges[joined]], regions[joined, 1])


def test_a_streamline_that_ends_far_from_all_regions_joins_none(tractogram):
    away = tractogram.ends + np.array([0, 0, 200])
    assert (assign_edges(away, fs86_labels()) == -1).all()


def test_streamlines_come_up_where_fibres_are_dense(tractogram, population):
    weights = streamline_weights(tractogram, population, np.eye(N_FACTORS)[:2])
    np.testing.assert_allclose(weights.mean(axis=1), 1)
    density = population.fibre_density(
        population.factor_maps(tractogram.samples[:, 2]), np.eye(N_FACTORS)[0]
    )
    assert np.corrcoef(weights[0], density)[0, 1] > 0.5


def test_structural_cohort_is_reproducible_and_individual(tractogram, population):
    factors = draw_factors(3, np.random.default_rng(0))
    first, second = (
        simulate_structural(
            {"SCifod2act": tractogram}, {"fs86": fs86_labels()}, population, factors,
            n_streamlines=2000, rng=np.random.default_rng(1),
        )["SCifod2act_fs86_volnorm"]
        for _ in range(2)
    )  # fmt: skip
    assert first.shape == (3, N_EDGES)
    assert np.array_equal(first, second)
    assert (first >= 0).all()
    assert not np.array_equal(first[0], first[1])


@pytest.mark.slow
def test_functional_cohort_tells_participants_apart_by_their_factors(population):
    factors = np.repeat(draw_factors(2, np.random.default_rng(3)), 2, axis=0)
    cohort = simulate_functional(
        {"fs86": fs86_labels()}, population, factors, n_volumes=200,
        rng=np.random.default_rng(1),
    )  # fmt: skip
    assert set(cohort) == {"FCcorr_fs86_hpf", "FCcorr_fs86_hpfgsr", "FCpcorr_fs86_hpf"}
    edges = cohort["FCcorr_fs86_hpf"]
    assert edges.shape == (4, N_EDGES)
    similarity = np.corrcoef(edges)
    assert min(similarity[0, 1], similarity[2, 3]) > max(similarity[0, 2:].max(), 0.5)
