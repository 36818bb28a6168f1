# SPDX-License-Identifier: MIT
from __future__ import annotations

import numpy as np

from kraken_bids.demo.population import (
    N_FACTORS,
    N_NETWORKS,
    draw_factors,
    draw_signals,
    make_population,
)


def test_the_same_seed_gives_the_same_population():
    first, second = make_population(4), make_population(4)
    assert np.array_equal(first.bump_centres, second.bump_centres)
    assert not np.array_equal(first.bump_centres, make_population(5).bump_centres)


def test_networks_mirror_each_other_and_factors_change_them(rng, population):
    positions = rng.uniform(-60, 60, (20, 3))
    nobody = np.zeros(N_FACTORS)
    base = population.network_loadings(positions, nobody)
    assert base.shape == (20, N_NETWORKS)
    np.testing.assert_allclose(population.network_loadings(positions * [-1, 1, 1], nobody), base)
    someone = draw_factors(1, rng)[0]
    change = population.network_loadings(positions, someone) - base
    np.testing.assert_allclose(population.network_loadings(positions, -someone), base - change)
    assert np.abs(change).max() > 0.1


def test_fibre_density_is_one_without_factors_and_bounded_with_any(rng, population):
    maps = population.factor_maps(rng.uniform(-60, 60, (50, 3)))
    assert np.array_equal(population.fibre_density(maps, np.zeros(N_FACTORS)), np.ones(50))
    density = population.fibre_density(maps, np.full(N_FACTORS, 100.0))
    assert np.exp(-1.01) < density.min() < density.max() < np.exp(1.01)


def test_signals_are_slow_and_of_unit_variance(rng):
    signals = draw_signals(3, 400, rng, repetition_time_s=2.0)
    np.testing.assert_allclose(signals.std(axis=1), 1)
    power = np.abs(np.fft.rfft(signals, axis=1)) ** 2
    frequencies = np.fft.rfftfreq(400, 2.0)
    assert power[:, 0].max() < 1e-6
    assert power[:, frequencies > 0.2].mean() < 0.2 * power[:, frequencies < 0.08].mean()
