# SPDX-License-Identifier: MIT
"""Ready-made inputs: what is refused, and what is computed of series."""

from __future__ import annotations

import numpy as np
import pytest

from kraken_bids.connectome.denoising import Denoising
from kraken_bids.connectome.functional_run import FunctionalSettings
from kraken_bids.connectome.given import check_given, describe_given, process_given_series
from kraken_bids.errors import InputError
from kraken_bids.flavors import Flavor

REGIONS = {"fs86": [["Left-A", "L"], ["Right-A", "R"], ["Left-B", "L"], ["Right-B", "R"]]}


def square(edges, diagonal=0.0):
    matrix = np.full((4, 4), float(diagonal))
    matrix[np.triu_indices(4, 1)] = edges
    matrix.T[np.triu_indices(4, 1)] = edges
    return matrix


R = (0.1, -0.2, 0.3, 0.4, 0.5, 0.9)
GOOD = {
    "correlation": ("FCcorr_fs86_hpf", square(R), np.ones(4)),
    "without diagonal": ("FCcorr_fs86_hpf", square(R), np.zeros(4)),
    "missing region": ("FCcorr_fs86_hpf", square(R), np.array([1, 1, 0, np.nan])),
    "rows": ("FCcorr_fs86_hpf", square(R), None),
    "partial": ("FCpcorr_fs86_hpf", square(R), -np.ones(4)),
    "count": ("SCifod2act_fs86_count", square([0, 3, 900, 1.5, 2, 7]), np.full(4, 8.0)),
    "volnorm": ("SCifod2act_fs86_volnorm", square([0, 0.3, 9, 0.01, 0.2, 1]), None),
}


@pytest.mark.parametrize("case", GOOD)
def test_what_can_be_a_connectome_passes(case):
    name, matrix, diagonal = GOOD[case]
    check_given(Flavor.parse(name), matrix, diagonal=diagonal)


BAD = {
    "z": ("FCcorr_fs86_hpf", square((*R[:5], 1.47)), None, "of 1.47"),
    "small z": ("FCcorr_fs86_hpf", square(R), np.full(4, np.inf), "inf on the diagonal"),
    "covariance": ("FCcorr_fs86_hpf", square(R), np.array([1, 0.9, 1.2, 1]), "1.2 on the"),
    "precision": ("FCpcorr_fs86_hpf", square(R), np.full(4, 1.9), "1.9 on the diagonal"),
    "negative": ("SCsdstream_fs86_count", square([0, 3, 9, -1, 2, 7]), None, "-1 streamlines"),
    "divided": ("SCsdstream_fs86_count", square([0, 0.3, 2, 0.1, 0.2, 0.7]), None, "no stream"),
    "counts": ("SCsdstream_fs86_volnorm", square([0, 3, 9, 1, 2, 7]), None, "whole numbers"),
    "nothing": ("SCsdstream_fs86_count", np.full((4, 4), np.nan), None, "no edge has a value"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_the_flavor_is_refused(case):
    name, matrix, diagonal, message = BAD[case]
    with pytest.raises(InputError, match=message) as caught:
        check_given(Flavor.parse(name), matrix, diagonal=diagonal)
    assert caught.value.fix


def test_levels_and_missing_regions_are_told():
    partly = square(R, 1.0)
    partly[3] = partly[:, 3] = np.nan
    qc = describe_given({"FCcorr_fs86_hpf": partly}, regions=REGIONS)
    assert qc["origin"] == "given"
    assert qc["mean_FCcorr_fs86_hpf"] == pytest.approx(np.mean([0.1, -0.2, 0.4]))
    assert qc["homotopic_FCcorr_fs86_hpf"] == pytest.approx(0.1)
    assert qc["n_missing_regions_fs86"] == 1
    assert qc["regions"] == {"fs86": {"missing": ["Right-B"]}}
    streamlines = {
        "SCifod2act_fs86_volnorm": square([0, 0.5, 1, 0, 2, 0.5]),
        "SCifod2act_fs86_count": square([0, 50, 100, 0, 200, 50]),
    }
    qc = describe_given(streamlines, regions=REGIONS)
    assert qc["ifod2act_fs86_level"] == 4.0
    assert qc["ifod2act_fs86_density"] == pytest.approx(4 / 6)
    assert qc["mean_SCifod2act_fs86_count"] == pytest.approx(400 / 6)


@pytest.fixture
def settings():
    return FunctionalSettings(2.0, REGIONS, Denoising(), {"fs86": 0.06})


def test_series_are_correlated_over_the_volumes_kept(settings):
    series = np.random.default_rng(2).normal(size=(40, 4))
    series[:, 2] = np.nan
    is_left_out = np.isin(np.arange(40), (5, 6))
    found = process_given_series(
        {"fs86_hpf": series, "fs86_hpfgsr": series[::-1]},
        is_left_out=is_left_out,
        settings=settings,
        dof=20.0,
    )
    kept = np.array([0, 1, 3])
    expected = np.corrcoef(series[~is_left_out][:, kept].T)
    matrix = found.connectomes["FCcorr_fs86_hpf"]
    np.testing.assert_allclose(matrix[np.ix_(kept, kept)], expected, atol=1e-12)
    assert np.isnan(matrix[2]).all()
    precision = np.linalg.inv(expected + 0.06 * np.eye(3))
    partial = found.connectomes["FCpcorr_fs86_hpf"]
    assert partial[0, 1] == pytest.approx(
        -precision[0, 1] / np.sqrt(precision[0, 0] * precision[1, 1])
    )
    assert set(found.connectomes) == {"FCcorr_fs86_hpf", "FCpcorr_fs86_hpf", "FCcorr_fs86_hpfgsr"}
    assert (found.qc["n_kept"], found.qc["outlier_volumes"]) == (38, [5, 6])
    assert found.qc["pcorr_dof_per_region_fs86"] == pytest.approx(20 / 3)
    assert found.qc["regions"]["fs86"]["missing"] == ["Left-B"]
    assert {"gcor_hpf", "gcor_hpfgsr"} <= set(found.qc)


def test_a_constant_region_is_missing_and_none_at_all_refused(settings):
    series = np.random.default_rng(2).normal(size=(40, 4))
    series[:, 1] = 3.0
    is_left_out = np.zeros(40, dtype=bool)
    found = process_given_series({"fs86_hpf": series}, is_left_out=is_left_out, settings=settings)
    assert found.qc["regions"]["fs86"]["missing"] == ["Right-A"]
    assert np.isnan(found.timeseries["fs86_hpf"][:, 1]).all()
    with pytest.raises(InputError, match="no region"):
        process_given_series(
            {"fs86_hpf": np.ones((40, 4))}, is_left_out=is_left_out, settings=settings
        )
