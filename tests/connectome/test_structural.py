# SPDX-License-Identifier: MIT
from __future__ import annotations

import numpy as np
import pytest

from kraken_bids.connectome.structural import (
    build_connectomes,
    normalise_by_volume,
    place_counts,
    scale_counts,
    tabulate_pairs,
    tractogram_bytes,
)
from kraken_bids.errors import InputError

#: Three labels: 4 streamlines between 1 and 2, 1 between 2 and 3, 2 within 3, 3 + 5 unassigned.
TABLE = np.array([[5, 1, 2, 0], [1, 0, 4, 0], [2, 4, 0, 1], [0, 0, 1, 2]], dtype=float)


def test_counts_keep_their_rows_when_the_last_regions_are_absent():
    counts = place_counts(TABLE, 5)
    expected = np.zeros((5, 5))
    expected[0, 1] = expected[1, 0] = 4
    expected[1, 2] = expected[2, 1] = 1
    np.testing.assert_array_equal(counts.between, expected)
    np.testing.assert_array_equal(counts.within, [0, 0, 2, 0, 0])


def test_every_streamline_is_counted_once():
    counts = place_counts(TABLE, 5)
    assert counts.n_unassigned == 8
    assert counts.n_streamlines == 4 + 1 + 2 + 8


def test_labels_beyond_the_atlas_are_refused():
    with pytest.raises(InputError, match=r"holds label 3, the atlas has 2 regions\. Give a label"):
        place_counts(TABLE, 2)


def test_counts_are_scaled_to_five_million():
    np.testing.assert_allclose(scale_counts(np.array([[0, 3]]), n_streamlines=15), [[0, 1e6]])


def test_an_empty_tractogram_is_refused():
    with pytest.raises(InputError, match="0 streamlines"):
        build_connectomes(np.zeros((3, 3)), present=np.ones(2, bool), volumes_mm3=np.ones(2))


def test_volume_normalisation_divides_by_mean_volume_in_training_voxels():
    # 10 and 30 voxels of 1.25 mm: mean 20.
    volumes = np.array([10.0, 30.0, 0.0]) * 1.25**3
    counts = np.array([[7, 40, 9], [40, 0, 9], [9, 9, 0]], dtype=float)
    normalised = normalise_by_volume(counts, volumes)
    np.testing.assert_allclose(normalised, [[0, 2, 0], [2, 0, 0], [0, 0, 0]])


def test_volume_normalisation_does_not_depend_on_the_voxel_size():
    counts = np.array([[0, 12], [12, 0]], dtype=float)
    fine = normalise_by_volume(counts, np.array([800, 1600]) * 1.0**3)
    coarse = normalise_by_volume(counts, np.array([100, 200]) * 2.0**3)
    np.testing.assert_allclose(fine, coarse)


def test_volume_normalised_times_mean_volume_is_a_whole_number_of_streamlines():
    rng = np.random.default_rng(0)
    counts = np.triu(rng.integers(0, 50, (6, 6)), 1)
    counts = counts + counts.T
    voxels = rng.integers(5, 900, 6)
    normalised = normalise_by_volume(counts, voxels * 1.953125)
    np.testing.assert_allclose(normalised * (voxels[:, None] + voxels) / 2, counts, atol=1e-9)


def test_missing_regions_become_nan_and_keep_their_place():
    present = np.array([True, True, True, False, True])
    volumes = np.array([8.0, 8, 8, 0, 0])
    made = build_connectomes(TABLE, present=present, volumes_mm3=volumes)
    assert np.isnan(made.count).all(axis=1).tolist() == [False, False, False, True, False]
    # Region 5 is in the image that streamlines are assigned with, but has no volume.
    assert np.isnan(made.volnorm).all(axis=1).tolist() == [False, False, False, True, True]
    assert made.count[0, 1] == pytest.approx(4 * 5e6 / 15)
    assert made.volnorm[0, 1] == pytest.approx(4 * 5e6 / 15 * 1.953125 / 8)
    np.testing.assert_array_equal(made.volnorm, made.volnorm.T)


def test_quality_tells_where_streamlines_end():
    made = build_connectomes(TABLE, present=np.ones(5, bool), volumes_mm3=np.full(5, 1.953125))
    assert made.quality == pytest.approx({
        "assigned_fraction": 5 / 15,
        "within_region_fraction": 2 / 15,
        "unassigned_fraction": 8 / 15,
        "density": 2 / 10,
        "level": 5e6 / 3,
        "n_idle_regions": 2,
    })


def test_room_grows_with_streamlines_and_finer_points():
    one = tractogram_bytes(1_000_000, point_spacing_mm=[0.625])
    assert tractogram_bytes(5_000_000, point_spacing_mm=[0.625]) == pytest.approx(5 * one)
    assert tractogram_bytes(1_000_000, point_spacing_mm=[0.625, 0.375]) > 2 * one
    assert tractogram_bytes(1_000_000, point_spacing_mm=[]) == 0


PAIRS = np.int16([[1, 2], [2, 1], [2, 2], [0, 1], [3, 2], [0, 0]])


def test_pairs_are_counted_whichever_end_comes_first():
    table = tabulate_pairs(PAIRS, n_regions=4)
    expected = np.zeros((5, 5))
    expected[1, 2] = expected[2, 1] = 2
    expected[2, 3] = expected[3, 2] = 1
    expected[0, 1] = expected[1, 0] = 1
    expected[2, 2] = expected[0, 0] = 1
    np.testing.assert_array_equal(table, expected)
    counts = place_counts(table, 4)
    assert counts.n_streamlines == len(PAIRS)
    # Region 1: two streamlines to 2, one to nowhere; 2: those two, one within it, one to 3.
    np.testing.assert_array_equal(counts.n_ends, [3, 5, 1, 0])


def test_weights_are_summed_in_place_of_counting():
    weights = np.float32([0.5, 0.25, 2, 1, 4, 8])
    table = tabulate_pairs(PAIRS, n_regions=4, weights=weights)
    assert table[1, 2] == table[2, 1] == 0.75
    assert table[2, 2] == 2
    np.testing.assert_array_equal(
        tabulate_pairs(PAIRS, n_regions=4, weights=np.ones(6)), tabulate_pairs(PAIRS, n_regions=4)
    )


def test_connectomes_of_weights_are_scaled_as_counts_are():
    volumes = np.full(4, 1.953125)
    counted = tabulate_pairs(PAIRS, n_regions=4)
    made = build_connectomes(
        counted, present=np.ones(4, bool), volumes_mm3=volumes, weighted=0.5 * counted
    )
    np.testing.assert_allclose(made.sift2, 0.5 * made.count)
    np.testing.assert_allclose(made.sift2_volnorm, 0.5 * made.volnorm)
    assert made.count[1, 2] == pytest.approx(5e6 / 6)
