# SPDX-License-Identifier: MIT
"""Functional connectomes: correlation, averages over runs, partial correlation."""

import numpy as np
import pytest

from kraken_bids.atlases import load_atlas
from kraken_bids.connectome.functional import (
    add_partial,
    average_runs,
    combine_runs,
    correlate,
    describe_conditioning,
    describe_level,
    functional_connectomes,
    global_correlation,
    homotopic_pairs,
    partial_correlation,
)
from kraken_bids.errors import InputError


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def series(rng):
    mixing = rng.normal(size=(12, 12))
    return rng.normal(size=(200, 12)) @ mixing + rng.normal(size=12) * 1000


def test_correlation_equals_numpy(series):
    np.testing.assert_allclose(correlate(series), np.corrcoef(series.T), atol=1e-12)


def test_correlation_leaves_outliers_out(series):
    is_outlier = np.zeros(200, dtype=bool)
    is_outlier[[3, 50, 51]] = True
    spoilt = series.copy()
    spoilt[is_outlier] = 1e6
    expected = np.corrcoef(series[~is_outlier].T)
    np.testing.assert_allclose(correlate(spoilt, is_outlier=is_outlier), expected, atol=1e-12)


@pytest.mark.parametrize("value", [np.nan, 0.0, 1234.5678], ids=["missing", "zero", "constant"])
def test_region_without_signal_keeps_its_place(series, value):
    spoilt = series.copy()
    spoilt[:, 4] = value
    matrix = correlate(spoilt)
    assert np.isnan(matrix[4]).all()
    assert np.isnan(matrix[:, 4]).all()
    others = np.arange(12) != 4
    expected = correlate(series)[np.ix_(others, others)]
    np.testing.assert_allclose(matrix[np.ix_(others, others)], expected, atol=1e-12)


def test_one_volume_cannot_be_correlated(series):
    with pytest.raises(InputError, match="1 volumes are too few"):
        correlate(series[:1])


def test_average_equals_covariance_of_concatenated_z_scores(rng):
    runs = [rng.normal(size=(n, 5)) @ rng.normal(size=(5, 5)) for n in (40, 90, 61)]
    z = np.vstack([(run - run.mean(0)) / run.std(0) for run in runs])
    average = average_runs([correlate(run) for run in runs], [40, 90, 61])
    np.testing.assert_allclose(average, z.T @ z / len(z), atol=1e-12)


def test_region_missing_in_one_run_is_taken_from_the_other(series):
    full = correlate(series)
    partial = full.copy()
    partial[2] = partial[:, 2] = np.nan
    np.testing.assert_allclose(average_runs([full, partial], [10, 30]), full, atol=1e-12)


def test_regions_never_seen_together_are_not_both_kept(series):
    first, second = correlate(series), correlate(series)
    first[2] = first[:, 2] = np.nan
    second[5] = second[:, 5] = np.nan
    average = average_runs([first, second], [1, 1])
    missing = np.isnan(average).all(axis=0)
    assert missing[[2, 5]].sum() == 1
    assert not np.isnan(average[np.ix_(~missing, ~missing)]).any()


def test_partial_correlation_of_two_regions_by_hand():
    # (C + 0.06 I) = [[1.06, r], [r, 1.06]], whose inverse has ratio -r / 1.06 off the diagonal.
    partial = partial_correlation(np.array([[1.0, 0.5], [0.5, 1.0]]))
    np.testing.assert_allclose(partial, [[0, 0.5 / 1.06], [0.5 / 1.06, 0]], atol=1e-14)


def test_unregularised_partial_correlation_equals_that_of_residuals(series):
    others = np.column_stack([np.ones(200), series[:, 2:]])
    residual = series[:, :2] - others @ np.linalg.lstsq(others, series[:, :2], rcond=None)[0]
    expected = np.corrcoef(residual.T)[0, 1]
    partial = partial_correlation(correlate(series), regularization=0.0)
    assert partial[0, 1] == pytest.approx(expected, abs=1e-9)


def test_partial_correlation_is_symmetric_with_empty_diagonal(series):
    partial = partial_correlation(correlate(series), regularization=0.1)
    np.testing.assert_array_equal(partial, partial.T)
    assert not np.diag(partial).any()


def test_partial_correlation_ignores_missing_regions(series):
    spoilt = series.copy()
    spoilt[:, 0] = np.nan
    partial = partial_correlation(correlate(spoilt))
    assert np.isnan(partial[0]).all()
    expected = partial_correlation(correlate(series[:, 1:]))
    np.testing.assert_allclose(partial[1:, 1:], expected, atol=1e-12)


@pytest.mark.parametrize("regularization", [0.0, -0.1])
def test_singular_correlation_is_refused(rng, regularization):
    matrix = correlate(rng.normal(size=(8, 12)))
    with pytest.raises(InputError, match=r"12 regions cannot be inverted with lambda .*larger"):
        partial_correlation(matrix, regularization=regularization)


def test_all_flavors_are_made(series):
    is_outlier = np.zeros(200, dtype=bool)
    connectomes = functional_connectomes(
        {"toy_hpf": series, "toy_hpfgsr": series[:, ::-1]},
        is_outlier=is_outlier,
        pcorr_lambda={"toy": 0.2},
    )
    assert list(connectomes) == ["FCcorr_toy_hpf", "FCcorr_toy_hpfgsr", "FCpcorr_toy_hpf"]
    np.testing.assert_array_equal(
        connectomes["FCpcorr_toy_hpf"],
        partial_correlation(connectomes["FCcorr_toy_hpf"], regularization=0.2),
    )


def test_combined_partial_correlation_is_that_of_the_average(rng):
    runs = [
        add_partial(
            {"FCcorr_toy_hpf": correlate(rng.normal(size=(n, 6)))}, pcorr_lambda={"toy": 1}
        )
        for n in (30, 50)
    ]
    combined = combine_runs(runs, [30, 50], pcorr_lambda={"toy": 1})
    average = average_runs([run["FCcorr_toy_hpf"] for run in runs], [30, 50])
    np.testing.assert_array_equal(combined["FCcorr_toy_hpf"], average)
    np.testing.assert_array_equal(
        combined["FCpcorr_toy_hpf"], partial_correlation(average, regularization=1)
    )


def test_global_correlation_is_the_mean_of_all_pairs(series):
    spoilt = np.column_stack([series, np.full(200, np.nan)])
    assert global_correlation(spoilt) == pytest.approx(np.corrcoef(series.T).mean())


@pytest.mark.parametrize(("atlas", "n_pairs"), [("fs86", 43), ("coco439", 215), ("shen268", 0)])
def test_namesakes_in_both_hemispheres_are_paired(atlas, n_pairs):
    regions = load_atlas(atlas).regions
    pairs = homotopic_pairs(
        [region.name for region in regions], [region.hemisphere for region in regions]
    )
    assert pairs.shape == (n_pairs, 2)
    assert len(np.unique(pairs)) == 2 * n_pairs


def test_level_of_a_small_connectome():
    nan = np.nan
    matrix = np.array([
        [1, 0.2, 0.4, nan],
        [0.2, 1, 0.6, nan],
        [0.4, 0.6, 1, nan],
        [nan, nan, nan, nan],
    ])
    level = describe_level(matrix, np.array([[0, 2], [1, 3]]))
    assert level.mean == pytest.approx(0.4)
    assert (level.minimum, level.maximum, level.homotopic) == (0.2, 0.6, 0.4)
    assert level.n_missing_edges == 3


def test_conditioning_of_two_regions():
    lowest, condition = describe_conditioning(
        np.array([[1.0, 0.5], [0.5, 1.0]]), regularization=0.5
    )
    assert (lowest, condition) == (pytest.approx(0.5), pytest.approx(2.0))
