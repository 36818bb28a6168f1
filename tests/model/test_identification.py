# SPDX-License-Identifier: MIT
"""Places, ties and p values, in blocks and at once."""

from __future__ import annotations

import numpy as np
import pytest

from kraken_bids.model.identification import Scan, draw_orders, identify, ranks

CORRELATIONS = np.array([
    [0.9, 0.1, 0.3],
    [0.8, 0.5, 0.5],
    [0.2, 0.7, 0.6],
])  # fmt: skip


@pytest.fixture
def rng():
    return np.random.default_rng(4)


def test_rows_and_columns_are_ranked():
    found = identify(CORRELATIONS)
    # Row 1: .8 is higher, .5 is shared. Row 2: .7 is higher.
    np.testing.assert_array_equal(found.forward.rank, [0, 1.5, 1])
    # Column 1: .7 is higher. Columns 0 and 2: nothing is.
    np.testing.assert_array_equal(found.reverse.rank, [0, 1, 0])
    np.testing.assert_array_equal(found.best, [0, 0, 1])
    np.testing.assert_array_equal(found.best_correlation, [0.9, 0.8, 0.7])


def test_shares_count_ties_by_their_odds():
    forward = identify(CORRELATIONS).forward
    assert forward.share_within(1) == pytest.approx(1 / 3)
    assert forward.share_within(2) == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert forward.average_rank == pytest.approx(1 - (0 + 1.5 + 1) / 3 / 3)


def test_others_are_all_entries_off_the_diagonal_or_above_it():
    found = identify(CORRELATIONS)
    assert found.other == pytest.approx((0.1 + 0.3 + 0.8 + 0.5 + 0.2 + 0.7) / 6)
    assert found.other_upper == pytest.approx((0.1 + 0.3 + 0.5) / 3)


def test_own_prediction_is_best_where_it_shares_the_top():
    found = identify(np.array([[0.4, 0.4], [0.4, 0.4]]))
    np.testing.assert_array_equal(found.best, [0, 1])


def test_missing_correlations_come_last():
    found = identify(np.array([[np.nan, 0.1], [np.nan, np.nan]]))
    np.testing.assert_array_equal(found.forward.rank, [1, 0.5])
    np.testing.assert_array_equal(found.best, [1, -1])
    assert np.isnan(found.best_correlation[1])


@pytest.mark.parametrize("size", [1, 4, 11, 30])
def test_blocks_give_what_the_whole_matrix_gives(rng, size):
    correlations = np.round(rng.standard_normal((23, 23)), 1)  # with ties
    orders = draw_orders(23, 50, seed=1)
    whole = identify(correlations, n_permutations=50, seed=1)
    scan = Scan(np.diagonal(correlations), orders=orders)
    for start in range(0, 23, size):
        scan.add(start, correlations[start : start + size])
    parts = scan.result()
    for side in ("forward", "reverse"):
        np.testing.assert_array_equal(getattr(whole, side).rank, getattr(parts, side).rank)
    np.testing.assert_array_equal(whole.best, parts.best)
    assert whole.p_permutation == parts.p_permutation
    assert whole.other == pytest.approx(parts.other)
    assert whole.other_upper == pytest.approx(parts.other_upper)


def test_own_places_are_those_of_all_places(rng):
    correlations = np.round(rng.standard_normal((17, 17)), 1)
    found = identify(correlations)
    np.testing.assert_array_equal(found.forward.rank, np.diagonal(ranks(correlations)))
    np.testing.assert_array_equal(found.reverse.rank, np.diagonal(ranks(correlations.T)))


def test_rounding_tells_nobody_apart(rng):
    correlations = 0.5 + 1e-14 * rng.standard_normal((9, 9))
    assert identify(correlations).forward.average_rank == pytest.approx(0.5 + 0.5 / 9)
    assert (ranks(correlations) == 4).all()


def test_ties_of_all_places_are_shared():
    np.testing.assert_array_equal(
        ranks(np.array([[0.5, 0.9, 0.5, np.nan, 0.1, np.nan]])), [[1.5, 0, 1.5, 4.5, 3, 4.5]]
    )


def test_one_participant_has_nobody_to_be_taken_for():
    found = identify(np.array([[0.3]]), n_permutations=10)
    assert found.forward.average_rank == 1
    assert np.isnan([found.other, found.other_upper, found.p_permutation]).all()


def test_small_cohorts_are_dealt_in_every_order():
    assert len(draw_orders(4, 10)) == 24
    assert draw_orders(9, 10).shape == (10, 9)
    assert (np.sort(draw_orders(9, 10), axis=1) == np.arange(9)).all()
