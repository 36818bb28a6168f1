# SPDX-License-Identifier: MIT
"""Regularised precision, partial correlation, and the search for lambda."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm, logm

from kraken_bids.connectome.edges import edges_to_matrix, matrix_to_edges
from kraken_bids.connectome.partial import (
    mean_precision,
    partial_correlation,
    regularized_precision,
    search_lambda,
)
from kraken_bids.connectome.spectra import MatrixMean, in_order
from kraken_bids.errors import InputError, UsageError

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
#: Rounding of float32, in which the reference program's matrices are stored.
SINGLE = 1e-6

A = np.array([[1, 0.5, 0.2], [0.5, 1, 0.3], [0.2, 0.3, 1]])
B = np.array([[1, 0.7, 0.1], [0.7, 1, 0.4], [0.1, 0.4, 1]])


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def draw_correlations(rng, n, n_regions, n_volumes):
    return np.stack([
        np.corrcoef((rng.normal(size=(n_volumes, n_regions)) @ mixing).T)
        for mixing in rng.normal(size=(n, n_regions, n_regions)) + 2 * np.eye(n_regions)
    ])


@pytest.fixture
def correlations(rng):
    return draw_correlations(rng, 5, 12, 60)


@pytest.fixture
def covariances(rng, correlations):
    scale = rng.uniform(0.5, 20, size=(5, 12))
    return correlations * scale[:, :, None] * scale[:, None, :]


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "cases" / "regularize.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def golden_inputs():
    with np.load(GOLDEN / "inputs" / "FCcorr_fs86_hpf.npz") as stored:
        return edges_to_matrix(stored["data"].astype(np.float64), diagonal=1.0)


def plain_errors(correlations, target, lambdas):
    """Errors of a search as its definition says, a matrix at a time."""
    upper = np.triu_indices(len(target), k=1)
    errors = []
    for lambda_ in lambdas:
        distances = []
        for matrix in correlations:
            w, V = np.linalg.eigh(matrix)
            scale = np.trace(matrix) / len(matrix)
            loaded = np.maximum(w, 0) + lambda_ * scale
            kept = loaded > 1e-6 * scale
            precision = (V[:, kept] / loaded[kept]) @ V[:, kept].T
            distances.append(np.linalg.norm((precision - target)[upper]))
        errors.append(np.mean(distances))
    return np.array(errors)


def test_precision_and_partial_correlation_by_hand():
    precision = regularized_precision(A, 0.1)
    expected = [
        [1.151079, -0.503597, -0.071942],
        [-0.503597, 1.202467, -0.236382],
        [-0.071942, -0.236382, 0.986639],
    ]
    np.testing.assert_allclose(precision, expected, atol=5e-7)
    partial = matrix_to_edges(partial_correlation(precision))
    np.testing.assert_allclose(partial, [0.428050, 0.067508, 0.217020], atol=5e-7)


def test_search_by_hand():
    found = search_lambda([A, B])
    target = [
        [1.729724, -1.156863, 0.190508],
        [-1.156863, 1.955882, -0.563725],
        [0.190508, -0.563725, 1.195410],
    ]
    np.testing.assert_allclose(found.target, target, atol=5e-7)
    assert found.raw == pytest.approx(0.0905350, abs=5e-8)
    assert found.error == pytest.approx(0.423589, abs=5e-7)
    assert found.lambda_ == found.raw
    assert search_lambda([A, B], decimals=2).lambda_ == 0.09
    assert found.n_matrices == 2


@pytest.mark.parametrize(
    ("case", "lambda_", "is_partial"),
    [("pcorr_search", 0.11, True), ("prec_search", 0.11, False), ("pcorr_lambda_0.2", 0.2, True)],
)
def test_matrices_equal_the_reference(golden, golden_inputs, case, lambda_, is_partial):
    result = regularized_precision(golden_inputs[:2], lambda_)
    if is_partial:
        result = partial_correlation(result)
    expected = golden[f"{case}__edges"]
    difference = np.abs(matrix_to_edges(result)[:, ::29] - expected).max()
    assert difference <= SINGLE * np.abs(expected).max()
    assert golden[f"{case}__lambda"][0] == lambda_


@pytest.mark.parametrize("n_threads", [1, 2])
def test_search_equals_the_reference(golden, golden_inputs, n_threads):
    found = search_lambda(iter(golden_inputs), decimals=2, n_threads=n_threads)
    assert [found.lambda_, found.raw] == golden["pcorr_search__lambda"].tolist()
    grid = np.column_stack([found.tried, found.errors])
    np.testing.assert_allclose(grid, golden["pcorr_search__grid"], rtol=1e-12)


def test_search_with_geometric_mean_equals_the_reference(golden, golden_inputs):
    found = search_lambda(golden_inputs, decimals=2, geometric=True)
    assert [found.lambda_, found.raw] == golden["pcorr_geometric__lambda"].tolist()


@pytest.mark.parametrize("kind", ["correlations", "covariances", "low rank", "negative"])
def test_errors_equal_their_definition(rng, correlations, covariances, kind):
    matrices = {
        "correlations": correlations,
        "covariances": covariances,
        "low rank": draw_correlations(rng, 4, 12, 7),
        "negative": correlations - 0.3 * np.eye(12),
    }[kind]
    target = mean_precision(draw_correlations(rng, 3, 12, 200))
    found = search_lambda(matrices, target)
    np.testing.assert_allclose(
        found.errors, plain_errors(matrices, target, found.tried), rtol=1e-10
    )
    assert found.raw == found.tried[np.argmin(found.errors)]
    assert np.array_equal(found.tried, np.sort(found.tried))


def test_error_is_exact_where_it_vanishes(correlations):
    # The closed form alone would be off by the root of the rounding, some 1e-7.
    found = search_lambda(correlations[:1], regularized_precision(correlations[0], 0.0))
    assert found.raw == 0
    assert found.error < 1e-12 * np.linalg.norm(found.target)


@given(seed=st.integers(0, 2**32 - 1), lambda_=st.floats(0.01, 0.9))
@settings(max_examples=20, deadline=None)
def test_search_finds_the_lambda_that_a_target_was_made_with(seed, lambda_):
    matrix = draw_correlations(np.random.default_rng(seed), 1, 6, 30)
    found = search_lambda(matrix, regularized_precision(matrix[0], lambda_), n_loops=8)
    assert found.raw == pytest.approx(lambda_, abs=1e-5)


def test_units_of_a_covariance_change_no_lambda(correlations):
    # The search and the final step scale lambda alike; the reference program's search does not.
    target = mean_precision(correlations)
    found = search_lambda(correlations, target)
    scaled = search_lambda(400 * correlations, target / 400)
    assert scaled.raw == found.raw
    np.testing.assert_allclose(
        400 * regularized_precision(400 * correlations, scaled.lambda_),
        regularized_precision(correlations, found.lambda_),
        atol=1e-12,
    )


def test_next_loop_goes_to_the_neighbours_of_the_best(correlations):
    target = regularized_precision(correlations[0], 5.0)  # best beyond what is searched
    found = search_lambda(correlations[:1], target, grid_size=5, n_loops=2)
    expected = [0, 0.25, 0.5, 0.75, 0.75, 0.8125, 0.875, 0.9375, 1, 1]
    np.testing.assert_allclose(found.tried, expected)
    assert found.raw == 1


def test_search_reads_a_generator_once_and_spools(monkeypatch, correlations):
    expected = search_lambda(correlations)
    monkeypatch.setattr("kraken_bids.connectome.partial.SPOOL_BYTES", 1)  # to a file at once
    spooled = search_lambda(matrix for matrix in correlations)
    np.testing.assert_array_equal(spooled.errors, expected.errors)


def test_partial_correlation_is_that_of_the_inverse(correlations):
    expected = np.linalg.inv(correlations + 0.06 * np.eye(12))
    result = regularized_precision(correlations, 0.06)
    np.testing.assert_allclose(result, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(result, result.swapaxes(1, 2))
    partial = partial_correlation(result)
    np.testing.assert_array_equal(partial, partial.swapaxes(1, 2))
    assert not np.diagonal(partial, axis1=1, axis2=2).any()
    assert np.abs(partial).max() <= 1


def test_ridge_is_a_share_of_the_mean_variance(covariances):
    scale = np.trace(covariances[0]) / 12
    expected = np.linalg.inv(covariances[0] + 0.1 * scale * np.eye(12))
    np.testing.assert_allclose(regularized_precision(covariances[0], 0.1), expected, rtol=1e-9)


@pytest.mark.parametrize("lambda_", [0.0, -0.1, np.nan, np.inf])
def test_singular_matrices_and_senseless_lambdas_are_refused(rng, lambda_):
    singular = draw_correlations(rng, 2, 12, 7)
    with pytest.raises(InputError, match=r"12 regions cannot be inverted .*matrix 1.*larger"):
        regularized_precision(singular, lambda_)


def test_negative_eigenvalues_are_refused_unless_allowed():
    matrix = np.array([[1, 0.9, -0.9], [0.9, 1, 0.9], [-0.9, 0.9, 1]])
    with pytest.raises(InputError, match="3 regions cannot be inverted"):
        regularized_precision(matrix, 0.1)
    allowed = regularized_precision(matrix, 0.1, allow_indefinite=True)
    np.testing.assert_allclose(allowed, np.linalg.inv(matrix + 0.1 * np.eye(3)), atol=1e-12)


def test_mean_precision_leaves_small_and_negative_eigenvalues_out(rng):
    V = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    w = np.array([-0.2, 1e-8, 0.5, 2.0])
    expected = (V[:, 2:] / w[2:]) @ V[:, 2:].T
    np.testing.assert_allclose(mean_precision([(V * w) @ V.T]), expected, atol=1e-10)


@pytest.mark.filterwarnings("ignore:logm result may be inaccurate")
def test_geometric_mean_equals_that_by_matrix_functions(correlations):
    logs = [logm(np.linalg.inv(matrix)) for matrix in correlations]
    expected = expm(np.mean(logs, axis=0).real)
    np.testing.assert_allclose(mean_precision(correlations, geometric=True), expected, atol=1e-9)
    mean = MatrixMean(geometric=True)
    for matrix in np.linalg.inv(correlations):
        mean.add((matrix + matrix.T) / 2)
    np.testing.assert_allclose(mean.result(), expected, atol=1e-9)


def test_geometric_mean_of_singular_matrices_is_refused(rng):
    with pytest.raises(InputError, match="matrix 1 has eigenvalues of 0 or less"):
        mean_precision(draw_correlations(rng, 2, 12, 7), geometric=True)


def test_mean_takes_each_value_over_those_who_have_it():
    mean = MatrixMean()
    mean.add(np.array([[1.0, np.nan], [np.nan, np.nan]]))
    mean.add(np.array([[3.0, 5.0], [5.0, np.nan]]))
    np.testing.assert_array_equal(mean.result(), [[2, 5], [5, np.nan]])


@pytest.mark.parametrize(
    ("matrices", "target", "message"),
    [
        ([], None, "no complete matrix"),
        ([A, np.eye(4)], None, "matrix 2 has 4 regions, the first one 3"),
        ([A], np.eye(4), "target has shape"),
    ],
    ids=["none", "other size", "other target"],
)
def test_search_refuses_what_does_not_fit(matrices, target, message):
    with pytest.raises(InputError, match=message):
        search_lambda(matrices, target)


@pytest.mark.parametrize(
    "options",
    [{"grid_size": 2}, {"n_loops": 0}, {"bounds": (0.5, 0.5)}, {"bounds": (-1, 1)}],
    ids=str,
)
def test_search_refuses_a_grid_that_is_none(options):
    with pytest.raises(UsageError, match="cannot be"):
        search_lambda([A, B], **options)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_results_come_in_the_order_of_items(n_threads):
    taken = []

    def items():
        for number in range(50):
            taken.append(number)
            yield number

    results = in_order(lambda number: number**2, items(), n_threads=n_threads)
    assert next(results) == 0
    assert len(taken) <= 2 * n_threads
    assert list(results) == [number**2 for number in range(1, 50)]
