# SPDX-License-Identifier: MIT
import numpy as np
import pytest

from kraken_bids.connectome.similarity import compare_with_mean, correlate_with_mean


@pytest.fixture
def mean():
    return np.random.default_rng(2).normal(size=200)


def test_slope_is_that_of_a_line_through_the_edges(mean):
    noise = np.random.default_rng(3).normal(size=(3, 200))
    edges = np.array([[1.0], [0.5], [300.0]]) * mean + [[0.1], [7], [-2]] + noise
    correlation, slope = compare_with_mean(edges, mean)
    expected = [np.polyfit(mean, row, 1)[0] for row in edges]
    np.testing.assert_allclose(slope, expected, rtol=1e-9)
    np.testing.assert_allclose(correlation, [np.corrcoef(mean, row)[0, 1] for row in edges])
    np.testing.assert_array_equal(correlation, correlate_with_mean(edges, mean))


def test_noise_changes_the_correlation_and_not_the_slope(mean):
    noise = np.random.default_rng(3).normal(size=(50, 200))
    correlation, slope = compare_with_mean(mean + 3 * noise, mean)
    assert correlation.mean() < 0.5
    assert slope.mean() == pytest.approx(1, abs=0.1)


def test_missing_edges_take_no_part(mean):
    edges = 2 * mean[None]
    edges[0, ::3] = np.nan
    correlation, slope = compare_with_mean(edges, mean)
    assert (correlation[0], slope[0]) == (pytest.approx(1), pytest.approx(2))
    nothing = compare_with_mean(np.stack([np.full(200, np.nan), np.ones(200)]), mean)
    assert np.isnan(nothing).all()
