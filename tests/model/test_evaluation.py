# SPDX-License-Identifier: MIT
import itertools

import numpy as np
import pytest

from kraken_bids.errors import ModelError
from kraken_bids.model.evaluation import (
    EdgeSums,
    PredictionSpace,
    correlate_rows,
    evaluate,
    evaluate_connectomes,
    permutation_p_value,
    ranks,
)

# Small numbers computed by hand and by the reference program's own functions.
MEASURED = np.array([
    [1, 2, 3, 4, 5, 7], [2, 1, 4, 3, 6, 5], [5, 3, 1, 2, 2, 1], [1, 5, 2, 6, 1, 4]
])  # fmt: skip
PREDICTED = np.array([
    [1, 2, 2, 4, 6, 6], [3, 1, 3, 3, 5, 7], [4, 4, 1, 1, 3, 2], [2, 2, 3, 5, 4, 4]
])  # fmt: skip


def test_correlations_have_measured_participants_in_rows():
    correlations = correlate_rows(MEASURED, PREDICTED)
    np.testing.assert_allclose(
        correlations[0], [0.939508, 0.866541, -0.470162, 0.738988], atol=1e-6
    )
    np.testing.assert_allclose(
        correlations[3], [0.107925, -0.211443, -0.305539, 0.360638], atol=1e-6
    )


def test_evaluation_gives_the_reference_programs_numbers():
    evaluation = evaluate_connectomes(MEASURED, PREDICTED)
    assert evaluation.top1 == evaluation.top_n == evaluation.average_rank == 1
    assert evaluation.correlation == pytest.approx(0.724804, abs=1e-6)
    assert evaluation.residual_correlation == pytest.approx(0.619103, abs=1e-6)


def test_evaluation_from_predicted_to_measured_is_another():
    evaluation = evaluate_connectomes(PREDICTED, MEASURED)
    assert (evaluation.top1, evaluation.top_n, evaluation.average_rank) == (0.5, 0.75, 0.8125)


def test_chance_levels_follow_from_the_number_of_participants():
    evaluation = evaluate_connectomes(MEASURED, PREDICTED)
    assert evaluation.top1_chance == 0.25
    assert evaluation.top_n_chance == 0.5
    assert evaluation.average_rank_chance == 0.5 + 1 / 8


def test_predictions_alike_for_all_score_as_chance():
    same = np.tile(PREDICTED[:1], (4, 1))
    evaluation = evaluate_connectomes(MEASURED, same)
    assert evaluation.top1 == evaluation.top1_chance
    assert evaluation.top_n == evaluation.top_n_chance
    assert evaluation.average_rank == evaluation.average_rank_chance
    assert evaluation.p_permutation == 1


def test_constant_prediction_never_identifies_anybody():
    broken = PREDICTED.astype(float)
    broken[0] = 3.3
    correlations = correlate_rows(MEASURED, broken)
    assert np.isnan(correlations[:, 0]).all()
    assert (ranks(correlations)[:, 0] == 3).all()


@pytest.mark.parametrize("shift", [1, 2, 3])
def test_p_value_of_small_cohorts_counts_all_orders(shift):
    places = ranks(correlate_rows(MEASURED, np.roll(PREDICTED, shift, axis=0)))
    observed = np.trace(places)
    sums = [
        sum(places[row, column] for row, column in enumerate(order))
        for order in itertools.permutations(range(4))
    ]
    assert permutation_p_value(places) == np.mean(np.array(sums) <= observed)


def test_p_value_of_perfect_identification_is_one_order_in_all():
    assert permutation_p_value(ranks(np.eye(6))) == pytest.approx(1 / 720)


def test_p_value_of_large_cohorts_is_seeded(rng):
    places = ranks(rng.standard_normal((12, 12)) + np.eye(12))
    first = permutation_p_value(places, n_permutations=500, seed=1)
    assert first == permutation_p_value(places, n_permutations=500, seed=1)
    assert 0 < first <= 1


def test_p_value_of_chance_is_uniform(rng):
    values = [permutation_p_value(ranks(rng.standard_normal((5, 5)))) for _ in range(200)]
    assert 0.4 < np.mean(values) < 0.7


def test_one_participant_has_no_residual_and_no_p_value():
    evaluation = evaluate_connectomes(MEASURED[:1], PREDICTED[:1])
    assert evaluation.correlation == pytest.approx(0.939508, abs=1e-6)
    assert np.isnan(evaluation.residual_correlation)
    assert np.isnan(evaluation.p_permutation)


def test_other_participants_on_both_sides_are_refused():
    with pytest.raises(ModelError, match=r"\(4, 6\) measured edges cannot be compared"):
        evaluate_connectomes(MEASURED, PREDICTED[:3])


def test_correlations_must_be_square():
    with pytest.raises(ValueError, match="not a square"):
        evaluate(np.zeros((3, 2)), np.zeros(3))


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def cohort(rng):
    """Measured connectomes, and predictions of a PCA with components that are not orthonormal."""
    n, n_components, n_edges = 9, 5, 800
    origin = rng.standard_normal(n_edges).astype(np.float32)
    components = rng.standard_normal((n_components, n_edges)).astype(np.float32)
    weights = rng.standard_normal((n, n_components)).astype(np.float32)
    predicted = origin + 0.1 * weights @ components
    measured = predicted + 0.3 * rng.standard_normal((n, n_edges)) + 0.05
    return origin, components, measured, predicted


def test_sums_give_the_correlations_of_whole_connectomes(cohort):
    origin, components, measured, predicted = cohort
    mean = measured.mean(axis=0)
    space = PredictionSpace(origin, components, mean)
    plain, residual = space.correlate(space.sum_up(measured), space.sum_up(predicted))
    np.testing.assert_allclose(plain, correlate_rows(measured, predicted), atol=1e-6)
    expected = correlate_rows(measured - mean, predicted - mean)
    np.testing.assert_allclose(residual, expected, atol=1e-5)


def test_sums_of_batches_are_those_of_the_cohort(cohort):
    origin, components, measured, predicted = cohort
    space = PredictionSpace(origin, components, measured.mean(axis=0))
    parts = [space.sum_up(measured[:4]).as_array(), space.sum_up(measured[4:]).as_array()]
    joined = EdgeSums.from_array(np.concatenate(parts))
    whole = space.correlate(space.sum_up(measured), space.sum_up(predicted))
    batched = space.correlate(joined, space.sum_up(predicted))
    np.testing.assert_allclose(whole, batched, atol=1e-6)


def test_share_explained_is_that_of_a_projection(cohort):
    origin, components, measured, predicted = cohort
    space = PredictionSpace(origin, components, origin)
    deviations = measured - origin
    basis = np.linalg.qr(components.T.astype(float))[0]
    expected = ((deviations @ basis) ** 2).sum(axis=1) / (deviations**2).sum(axis=1)
    np.testing.assert_allclose(
        space.explained(space.sum_up(measured).as_array()), expected, rtol=1e-4
    )
    np.testing.assert_allclose(space.explained(space.sum_up(predicted).as_array()), 1, rtol=1e-4)
