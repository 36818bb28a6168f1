# SPDX-License-Identifier: MIT
from __future__ import annotations

import numpy as np
import pytest

from kraken_bids.connectome.adaptation import (
    ADAPTATIONS,
    RunningMean,
    compare_means,
    describe_counts,
    fill_missing,
    fit_adaptation,
    is_familiar,
    resolve_mode,
    warn_about_fits,
)
from kraken_bids.errors import ModelError, UsageError

X = np.array([[1, 2, 3, 4], [2, 2, 5, 6], [0, 5, 4, 2]], dtype=np.float32)
TARGET = np.array([0.5, 2, 2.5, 3])


def fit(mode, *, source=X, target=TARGET, n=3):
    return fit_adaptation(mode, np.nanmean(source, axis=0), target, n_participants=n)


@pytest.mark.parametrize(
    ("mode", "row", "expected"),
    [
        ("none", 0, [1, 2, 3, 4]),
        ("meanfit", 0, [0.5, 1.25, 2, 2.75]),
        ("meanshift", 0, [0.5, 1, 1.5, 3]),
        ("meanfit+meanshift", 0, [0.5, 1.25, 1.75, 3]),
        ("meanfit+meanshift", 1, [1.25, 1.25, 3.25, 4.5]),
        ("meanfit+meanshift", 2, [-0.25, 3.5, 2.5, 1.5]),
    ],
)
def test_adapted_edges_equal_cases_computed_by_hand(mode, row, expected):
    adapted = fit(mode).forward(X)
    assert adapted.dtype == np.float32
    np.testing.assert_allclose(adapted[row], expected, rtol=1e-6)


def test_the_line_equals_the_case_computed_by_hand():
    adaptation = fit("meanfit")
    assert adaptation.slope == pytest.approx(0.75)
    assert adaptation.intercept == pytest.approx(-0.25)
    assert adaptation.r_squared == pytest.approx(0.964286, abs=1e-6)


@pytest.mark.parametrize("mode", list(ADAPTATIONS))
def test_inverse_undoes_forward(mode):
    adaptation = fit(mode)
    np.testing.assert_allclose(adaptation.inverse(adaptation.forward(X)), X, atol=1e-5)


@pytest.mark.parametrize("mode", ["meanshift", "meanfit+meanshift"])
def test_shifted_cohorts_have_the_training_mean(mode):
    np.testing.assert_allclose(fit(mode).forward(X).mean(axis=0), TARGET, rtol=1e-6)


def test_the_line_is_the_least_squares_one():
    m, t = np.random.default_rng(0).normal(size=(2, 50))
    adaptation = fit_adaptation("meanfit", m, t, n_participants=30)
    slope, intercept = np.polyfit(m, t, 1)
    assert adaptation.slope == pytest.approx(slope)
    assert adaptation.intercept == pytest.approx(intercept)
    assert adaptation.r_squared == pytest.approx(np.corrcoef(m, t)[0, 1] ** 2)


def test_missing_edges_take_no_part_in_the_fit():
    wide = np.concatenate([X, np.full((3, 1), np.nan)], axis=1)
    with_gap = fit_adaptation(
        "meanfit+meanshift",
        np.append(X.mean(axis=0), np.nan),
        np.append(TARGET, 9.0),
        n_participants=3,
    )
    assert with_gap.slope == pytest.approx(fit("meanfit+meanshift").slope)
    adapted = with_gap.forward(wide)
    np.testing.assert_allclose(adapted[:, :4], fit("meanfit+meanshift").forward(X))
    assert np.isnan(adapted[:, 4]).all()


@pytest.mark.parametrize("mode", ["meanshift", "meanfit+meanshift"])
def test_one_participant_is_refused_where_all_would_become_the_mean(mode):
    with pytest.raises(ModelError, match=r"one participant .* the same for every person .*Fit it"):
        fit(mode, source=X[:1], n=1)


def test_one_participant_may_be_scaled():
    adapted = fit("meanfit", source=X[:1], n=1).forward(X)
    assert len(np.unique(adapted, axis=0)) == 3


def test_few_participants_are_warned_about_in_one_line(caplog):
    fits = {"a@x": fit("meanfit", n=19), "b@x": fit("meanshift", n=3), "c": fit("meanfit", n=20)}
    warn_about_fits(fits | {"d": fit("none", n=1)})
    (record,) = caplog.records
    assert "few participants: 19 with a@x; 3 with b@x; from 20 on" in record.message


def test_hopeless_fits_are_warned_about(caplog):
    shuffled = fit_adaptation("meanfit", [0, 1, 0, 1], [1, 1, 2, 2.1], n_participants=50)
    warn_about_fits({"FCcorr_fs86_hpf": shuffled, "b": fit("meanfit", n=30)})
    (record,) = caplog.records
    assert "FCcorr_fs86_hpf: the cohort's mean and the training mean have hardly" in record.message
    assert "(R² 0.002, slope 0.05)" in record.message


def test_scales_are_compared():
    m = np.array([1.0, 2, 3, 4, np.nan])
    slope, r_squared = compare_means(m, 3 * m - 1)
    assert (slope, r_squared) == (pytest.approx(3), pytest.approx(1))
    assert not is_familiar(slope, r_squared)
    assert is_familiar(*compare_means(m, 1.5 * m))
    assert not is_familiar(*compare_means(m, -m))
    assert not is_familiar(*compare_means(m[:1], m[:1]))


def test_some_edges_are_mapped_back_like_all():
    for mode in ADAPTATIONS:
        adaptation = fit(mode)
        y = adaptation.forward(X)
        np.testing.assert_array_equal(
            adaptation.inverse(y[:, 1:3], slice(1, 3)), adaptation.inverse(y)[:, 1:3]
        )


@pytest.mark.parametrize(
    ("source", "target", "n", "message"),
    [
        (np.ones((3, 4)), TARGET, 3, "all alike"),
        (np.full((3, 4), np.nan), TARGET, 3, "0 finite edges"),
        (X, TARGET[:3], 3, r"\(4,\) and training mean \(3,\)"),
        (X, TARGET, 0, "nobody"),
    ],
)
def test_fits_that_cannot_be_are_told(source, target, n, message):
    mean = source[0] if np.isnan(source).all() else source.mean(axis=0)
    with pytest.raises(ModelError, match=message):
        fit_adaptation("meanfit+meanshift", mean, target, n_participants=n)


def test_modes_have_one_spelling_and_aliases():
    assert resolve_mode("MeanFitShift") == "meanfit+meanshift"
    with pytest.raises(UsageError, match=r"'zscore' is unknown \(--adaptation\).*meanfit"):
        resolve_mode("zscore")


def test_running_mean_equals_the_mean_of_all():
    x = np.random.default_rng(1).normal(size=(7, 5))
    x[2] = np.nan  # lacks the flavor
    x[4, 1] = np.nan
    x[:, 3] = np.nan  # nobody has this edge
    cohort = RunningMean(5)
    cohort.add(x[:3])
    for row in x[3:]:
        cohort.add(row)
    with np.errstate(invalid="ignore"):
        expected = np.nansum(x, axis=0) / (~np.isnan(x)).sum(axis=0)
    np.testing.assert_allclose(cohort.mean, expected)
    assert cohort.counts.tolist() == [6, 5, 6, 0, 6]
    assert cohort.n_participants == 6


def test_running_mean_refuses_another_atlas():
    with pytest.raises(ModelError, match="3 edges join a mean of 5"):
        RunningMean(5).add(np.zeros((2, 3)))


def test_missing_edges_are_filled_and_counted():
    x = np.array([[1, np.nan, np.nan], [1, 2, 3], [np.nan, np.nan, np.nan]])
    filled, n_filled = fill_missing(x, np.array([7.0, 8.0, 9.0]))
    np.testing.assert_array_equal(filled, [[1, 8, 9], [1, 2, 3], [np.nan] * 3])
    assert n_filled.tolist() == [2, 0, 0]
    assert np.isnan(x[0, 1])  # the argument is left alone


def test_many_flavors_with_the_same_number_are_counted_not_named():
    counts = {f"F{i}": 6 for i in range(15)} | {"G": 5}
    assert describe_counts(counts) == "6 with 15 flavors each; 5 with G"
