# SPDX-License-Identifier: MIT
"""Sums over edges, read in pieces, against whole connectomes."""

from __future__ import annotations

import numpy as np
import pytest

from kraken_bids.model import agreement, cohort_evaluation, identification
from kraken_bids.model.agreement import COHORT, TRAINING
from kraken_bids.model.cohort_evaluation import (
    SourcePredictions,
    TargetEvaluation,
    TargetSpace,
    weights_of,
)
from kraken_bids.model.evaluation import correlate_rows
from kraken_bids.model.metrics import METRICS, take_metrics
from kraken_bids.model.transforms import Transform

N, N_EDGES, N_COMPONENTS = 23, 700, 6
# Small numbers computed by hand and by the reference program's own functions.
MEASURED = np.float32([
    [1, 2, 3, 4, 5, 7], [2, 1, 4, 3, 6, 5], [5, 3, 1, 2, 2, 1], [1, 5, 2, 6, 1, 4]
])  # fmt: skip
PREDICTED = np.float32([
    [1, 2, 2, 4, 6, 6], [3, 1, 3, 3, 5, 7], [4, 4, 1, 1, 3, 2], [2, 2, 3, 5, 4, 4]
])  # fmt: skip


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def small_pieces(monkeypatch):
    """Batches and blocks of a few participants, so that there are several."""
    monkeypatch.setattr(cohort_evaluation, "BATCH_VALUES", 5 * N_EDGES)
    monkeypatch.setattr(cohort_evaluation, "_EXACT_VALUES", 2 * N_EDGES)
    monkeypatch.setattr(identification, "BLOCK_ENTRIES", 7 * N)
    monkeypatch.setattr(agreement, "_CACHED_ENTRIES", 3 * N)


@pytest.fixture
def cohort(rng):
    """Origin, components, weights of predictions, measured connectomes (one is missing)."""
    origin = 3 * rng.standard_normal(N_EDGES).astype(np.float32)
    components = rng.standard_normal((N_COMPONENTS, N_EDGES)).astype(np.float32)
    weights = rng.standard_normal((N, N_COMPONENTS)).astype(np.float32)
    measured = origin + weights @ components + 2 * rng.standard_normal((N, N_EDGES))
    measured[4] = np.nan
    noisy = weights + rng.standard_normal(weights.shape).astype(np.float32)
    return origin, components, noisy, measured.astype(np.float32)


def evaluate(measured, predicted, *, space=None, weights=None, present=None, **options):
    """Agreement of one source."""
    n, n_edges = measured.shape
    space = space or TargetSpace(np.zeros(n_edges, np.float32), None, has_training_mean=False)
    present = np.ones(n, bool) if present is None else present
    source = SourcePredictions("s", present, weights, lambda rows: predicted[rows])
    evaluation = TargetEvaluation(lambda a, b: measured[a:b], n, space, [source])
    return next(iter(evaluation.results(**options)))


@pytest.mark.parametrize("in_space", [True, False], ids=["PCA", "other transforms"])
@pytest.mark.parametrize("mean", [COHORT, TRAINING], ids=["cohort", "training"])
@pytest.mark.usefixtures("small_pieces")
def test_sums_give_what_whole_connectomes_give(cohort, in_space, mean):
    origin, components, weights, measured = cohort
    predicted = origin + weights @ components
    present = np.arange(N) != 7
    found = evaluate(
        measured,
        predicted,
        space=TargetSpace(origin, components if in_space else None),
        weights=weights if in_space else None,
        present=present,
        residual_mean=mean,
    )
    cohort_mean = np.nanmean(measured.astype(np.float64), axis=0)
    rows = np.flatnonzero(present & (np.arange(N) != 4))
    np.testing.assert_array_equal(found.rows, rows)
    x, p = measured[rows].astype(np.float64), predicted[rows].astype(np.float64)
    taken = cohort_mean if mean == COHORT else origin
    for got, first, second in (
        (found.agreement.plain, x, p),
        (found.agreement.residual, x - taken, p - taken),
        (found.agreement.double_residual, x - cohort_mean, p - p.mean(axis=0)),
    ):
        expected = correlate_rows(first, second)
        np.testing.assert_allclose(got.own, np.diagonal(expected), atol=1e-6)
        np.testing.assert_allclose(got.best_correlation, expected.max(axis=1), atol=1e-6)
        off = ~np.eye(len(rows), dtype=bool)
        assert got.other == pytest.approx(expected[off].mean(), abs=1e-6)
        places = identification.ranks(expected)
        np.testing.assert_array_equal(got.forward.rank, np.diagonal(places))
        places = identification.ranks(expected.T)
        np.testing.assert_array_equal(got.reverse.rank, np.diagonal(places))
    expected = 1 - (x - p).var(axis=0).sum() / x.var(axis=0).sum()
    assert found.agreement.explained_variance == pytest.approx(expected, abs=1e-6)


def test_metrics_are_the_reference_programs():
    metrics = take_metrics(evaluate(MEASURED, PREDICTED).agreement)
    expected = {
        "top1": 1, "top_n": 1, "average_rank": 1,
        "top1_reverse": 0.5, "top_n_reverse": 0.75, "average_rank_reverse": 0.8125,
        "top1_both": 0.75, "top_n_both": 0.875, "average_rank_both": 0.90625,
        "correlation": 0.724804, "correlation_other": 0.002112,
        "correlation_other_upper": 0.117523, "residual_correlation": 0.619103,
        "double_residual_correlation": 0.725570, "explained_variance": 0.586957,
    }  # fmt: skip
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=2e-6)


def test_metrics_of_perfect_predictions_are_perfect():
    metrics = take_metrics(evaluate(MEASURED, MEASURED).agreement)
    for metric in METRICS:
        if "other" not in metric.name:
            assert metrics[metric.name] == pytest.approx(1, abs=1e-9), metric.name


@pytest.mark.parametrize("in_space", [True, False], ids=["PCA", "other transforms"])
def test_predictions_alike_for_all_score_as_chance(cohort, in_space):
    origin, components, weights, measured = cohort
    same = np.repeat(weights[:1], N, axis=0)
    found = evaluate(
        measured,
        origin + same @ components,
        space=TargetSpace(origin, components if in_space else None),
        weights=same if in_space else None,
    ).agreement
    metrics = take_metrics(found, n_best=3)
    for metric in METRICS:
        if metric.name in {"top1", "top_n", "average_rank"}:
            assert metrics[metric.name] == pytest.approx(metric.chance(N - 1, 3))
    assert np.isnan(metrics["double_residual_correlation"])


def test_one_participant_has_a_correlation_only():
    metrics = take_metrics(evaluate(MEASURED[:1], PREDICTED[:1]).agreement)
    assert metrics["correlation"] == pytest.approx(0.939508, abs=1e-6)
    assert metrics["top1"] == 1
    for name in ("residual_correlation", "double_residual_correlation", "explained_variance",
                 "correlation_other"):  # fmt: skip
        assert np.isnan(metrics[name])


def test_nobody_to_compare_is_no_agreement():
    found = evaluate(MEASURED, PREDICTED, present=np.zeros(4, bool))
    assert found.agreement is None
    assert found.rows.size == 0


def test_mean_is_that_of_all_with_the_measured_flavor():
    """Sources that fewer participants have are free of the same mean as the others."""
    found = evaluate(MEASURED, PREDICTED, present=np.array([True, True, False, True]))
    mean = MEASURED.mean(axis=0)
    expected = correlate_rows(MEASURED - mean, PREDICTED - mean)
    np.testing.assert_allclose(
        found.agreement.residual.own, np.diagonal(expected)[[0, 1, 3]], atol=1e-9
    )


def test_training_mean_must_be_there():
    with pytest.raises(ValueError, match="no training mean"):
        evaluate(MEASURED, PREDICTED, residual_mean=TRAINING)


@pytest.mark.parametrize("kind", ["pca", "tsvd"])
def test_weights_are_what_the_transform_makes_of_features(rng, kind):
    parameters = {
        "components": rng.standard_normal((3, 8)).astype(np.float32),
        "input_scale": np.float32([2.5]),
        "output_scale": np.float32([100]),
    }
    if kind == "pca":
        parameters["mean"] = rng.standard_normal(8).astype(np.float32)
    transform = Transform(kind, parameters)
    features = rng.standard_normal((4, 3)).astype(np.float32)
    origin = parameters.get("mean", np.zeros(8))
    np.testing.assert_allclose(
        origin + weights_of(transform, features) @ parameters["components"],
        transform.inverse(features),
        rtol=1e-5,
        atol=1e-6,
    )
    space = TargetSpace.of(transform, 8)
    np.testing.assert_array_equal(space.origin, origin)
    assert space.has_training_mean == (kind == "pca")
