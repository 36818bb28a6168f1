# SPDX-License-Identifier: MIT
"""Every measure of quality of a functional run, on cases small enough for a pencil."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from kraken_bids.bids.quality_columns import (
    QUALITY_COLUMNS,
    describe_column,
    describe_region_measures,
)
from kraken_bids.connectome.denoised_run import Denoised, process_denoised_run
from kraken_bids.connectome.denoising import Confounds, Denoising
from kraken_bids.connectome.functional_qc import (
    coverage,
    describe_combined_regions,
    describe_coverage,
    describe_motion,
    describe_regions,
    describe_standardised_dvars,
    describe_variance_removed,
    describe_volumes,
    variance_removed,
)
from kraken_bids.connectome.functional_run import FunctionalSettings, process_run
from kraken_bids.connectome.parcellation import ParcellatedRun
from kraken_bids.connectome.run_traces import describe_course, group_regions, standardise
from kraken_bids.connectome.similarity import correlate_with_mean

REGIONS = {"toy": [["ctx-lh-a", "L"], ["ctx-rh-a", "R"], ["Left-b", "L"], ["Right-b", "R"]]}
N_VOLUMES = 120


def make_run(rng, *, n_good=(4, 4, 4, 4), n_volumes=N_VOLUMES):
    """A run of four regions of four voxels each; those without good ones have no series."""
    series = 1000 + rng.normal(0, 10, (n_volumes, 4)).cumsum(axis=0) / 5
    series[:, np.array(n_good) == 0] = np.nan
    grey = np.nanmean(series, axis=1)
    return ParcellatedRun(
        series={"toy": series},
        n_voxels={"toy": np.full(4, 4)},
        n_good={"toy": np.array(n_good)},
        tsnr={"toy": np.array([10.0, 20.0, 30.0, 60.0])},
        global_signal=grey + rng.normal(0, 1, n_volumes),
        dvars=np.concatenate([[np.nan], np.linspace(10, 20, n_volumes - 1)]),
        tissue_means={"WM": rng.normal(900, 1, n_volumes), "CSF": rng.normal(800, 1, n_volumes),
                      "GM": grey},
        grams={},
        n_tissue={"WM": 50, "CSF": 40, "GM": 16},
    )  # fmt: skip


def settings(**changes):
    return FunctionalSettings(
        repetition_time_s=2.0,
        regions=REGIONS,
        recipe=Denoising(compcor="columns"),
        pcorr_lambda={"toy": 0.06},
        **changes,
    )


def process(rng, **changes):
    n_good = changes.pop("n_good", (4, 4, 4, 4))
    components = {tissue: rng.normal(size=(N_VOLUMES, 5)) for tissue in ("WM", "CSF")}
    motion = rng.normal(0, 0.01, (N_VOLUMES, 6)) * [1, 1, 1, 0.01, 0.01, 0.01]
    run = make_run(rng, n_good=n_good)
    return run, process_run(
        run, Confounds(motion, components=components), settings=settings(**changes)
    )


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def test_motion_of_one_step_by_hand():
    motion = np.zeros((6, 6))
    motion[3:, 0] = 0.3  # one step of 0.3 mm
    motion[5, 3] = 0.01  # one turn of 0.01 rad: 0.5 mm on a sphere of 50 mm
    measures = describe_motion(motion, np.array([True, *[False] * 5]), repetition_time_s=2.0)
    assert measures["fd_mean_mm"] == pytest.approx((0.3 + 0.5) / 5)
    assert measures["fd_max_mm"] == pytest.approx(0.5)
    assert measures["percent_fd_above_0.2mm"] == pytest.approx(40)
    assert measures["percent_fd_above_0.5mm"] == pytest.approx(0)
    # All six points move by 0.3 mm; the turn moves the third of the lower ones the farthest:
    # from (0, 0, -45) to (0, 110 sin a, -45 cos a).
    turn = np.hypot(110 * np.sin(0.01), 45 * (1 - np.cos(0.01)))
    assert measures["composite_motion_max_mm"] == pytest.approx(turn, rel=1e-9)
    assert measures["composite_motion_mean_mm"] == pytest.approx((0.3 + turn) / 5, rel=1e-9)
    assert measures["percent_composite_motion_above_0.9mm"] == pytest.approx(20)


def test_volumes_and_minutes_by_hand():
    outliers = np.zeros(30, dtype=bool)
    outliers[[0, 7, 8]] = True
    assert describe_volumes(outliers, repetition_time_s=2.0) == {
        "n_volumes": 30,
        "repetition_time_s": 2.0,
        "n_outliers": 3,
        "percent_outliers": 10.0,
        "n_kept": 27,
        "kept_minutes": 0.9,
    }


def test_standardised_dvars_are_taken_as_they_are():
    values = np.array([np.nan, 1.0, 1.2, 3.0])
    assert describe_standardised_dvars(values) == {"std_dvars_median": 1.2, "std_dvars_max": 3.0}
    assert describe_standardised_dvars(np.full(4, np.nan)) == {}


def test_removed_variance_is_a_share_of_that_before():
    before = np.array([[1.0, 2, 5, np.nan], [3, 4, 5, np.nan], [5, 6, 5, np.nan]])
    after = np.array([[1.0, 0, 0, np.nan], [0, 0, 0, np.nan], [-1, 0, 0, np.nan]])
    # variances 8/3, 8/3 and 0 before; 2/3 and 0 after
    np.testing.assert_allclose(variance_removed(before, after), [0.75, 1.0, np.nan, np.nan])
    outlier = np.array([False, False, False, True])
    denoised = SimpleNamespace(
        is_outlier=outlier,
        series={f"toy_{name}": np.vstack([after, np.full(4, 9.0)]) for name in ("hpf", "hpfgsr")},
    )
    described = describe_variance_removed({"toy": np.vstack([before, np.full(4, 70.0)])}, denoised)
    np.testing.assert_allclose(
        described["toy"]["percent_variance_removed_hpf"], [75, 100, np.nan, np.nan]
    )


def test_coverage_by_hand(rng):
    run = make_run(rng, n_good=(4, 3, 1, 0))
    np.testing.assert_array_equal(
        coverage(run.n_good["toy"], run.n_voxels["toy"]), [1, 0.75, 0.25, 0]
    )
    assert coverage(np.array([0]), np.array([0])).tolist() == [0]
    missing = {"toy": np.array([False, False, False, True])}
    described = describe_regions(run, missing, regions=REGIONS)
    assert described["toy"]["missing"] == ["Right-b"]
    assert described["toy"]["low_coverage"] == ["Left-b"]
    assert describe_coverage(described) == {
        "coverage_median_toy": 0.5,
        "coverage_min_toy": 0.0,
        "n_low_coverage_regions_toy": 2,
    }


def test_regions_of_combined_runs_are_described_like_those_of_one():
    runs = [
        {"regions": {"toy": {"coverage": share}}} for share in ([1, 1, 0.2, 0], [1, 1, 0.4, 0])
    ]
    matrix = np.full((4, 4), 0.5)
    matrix[3], matrix[:, 3] = np.nan, np.nan
    described = describe_combined_regions(runs, {"FCcorr_toy_hpf": matrix}, regions=REGIONS)
    assert described["toy"]["missing"] == ["Right-b"]
    assert described["toy"]["low_coverage"] == ["Left-b"]
    assert describe_coverage(described)["coverage_min_toy"] == 0


def test_correlation_with_the_mean_by_hand():
    mean = np.array([1.0, 2, 3, 4])
    edges = np.array([
        [2, 4, 6, 8],  # another scale
        [8, 7, 6, 5],  # upside down
        [1, 3, 2, 4],
        [1, 3, np.nan, 4],  # an edge is missing
        [5, 5, 5, 5],
        [np.nan, np.nan, np.nan, 1],
    ], dtype=np.float32)  # fmt: skip
    three = np.corrcoef([1, 3, 4], [1, 2, 4])[0, 1]
    expected = [1, -1, 0.8, three, np.nan, np.nan]
    np.testing.assert_allclose(correlate_with_mean(edges, mean), expected, atol=1e-12)
    assert np.isnan(correlate_with_mean(edges[:1], np.full(4, 2.0))[0])


def test_every_measure_is_described(rng):
    _, done = process(rng)
    columns = {name for name, value in done.qc.items() if not isinstance(value, (dict, list))}
    columns |= {"std_dvars_median", "std_dvars_max", "denoised_by", "is_eroded_WM",
                "training_mean_r_FCcorr_fs86_hpf"}  # fmt: skip
    for column in columns:
        words = describe_column(column)["Description"]
        assert words != column.replace("_", " "), column
        assert "{}" not in words
    assert set(describe_region_measures(done.qc["regions"])) == set(done.qc["regions"]["toy"])


def test_idle_regions_are_counted_and_named_in_the_same_words():
    counted = describe_column("ifod2act_fs86_n_idle_regions")["Description"]
    named = describe_region_measures({"fs86": {"without_streamlines": {}}})["without_streamlines"]
    # streamlines within a region end there, too: it is idle all the same
    assert "no streamline joins to another" in counted
    assert "no streamline joins to another" in named


def test_millimetres_minutes_and_percentages_have_units():
    for pattern, _, units in QUALITY_COLUMNS:
        for ending, expected in (("_mm", "mm"), ("_hz", "Hz"), ("_minutes", "min")):
            assert units == expected or not pattern.endswith(ending), pattern
        assert units == "percent" or not pattern.startswith("percent_"), pattern


def test_a_run_has_every_measure(rng):
    run, done = process(rng)
    for name in (
        "fd_mean_mm", "composite_motion_mean_mm", "dvars_median", "tsnr_median", "n_outliers",
        "kept_minutes", "dof_hpf", "dof_hpfgsr", "gcor_before", "gcor_hpf", "gcor_hpfgsr",
        "percent_variance_removed_hpf", "coverage_min_toy", "n_missing_edges_toy",
        "mean_FCcorr_toy_hpf", "sd_FCcorr_toy_hpf", "min_FCcorr_toy_hpf", "max_FCcorr_toy_hpf",
        "homotopic_FCcorr_toy_hpf", "min_eigenvalue_toy", "pcorr_lambda_toy",
        "pcorr_condition_toy",
    ):  # fmt: skip
        assert np.isfinite(done.qc[name]), name
    assert done.qc["tsnr_median"] == 25
    assert done.qc["dvars_median"] == pytest.approx(15)
    kept = np.setdiff1d(np.arange(N_VOLUMES), done.qc["outlier_volumes"])
    matrix = np.corrcoef(run.series["toy"][kept].T)
    assert done.qc["gcor_before"] == pytest.approx(matrix.mean())
    assert done.qc["homotopic_FCcorr_toy_hpf"] == pytest.approx(
        (done.connectomes["FCcorr_toy_hpf"][0, 1] + done.connectomes["FCcorr_toy_hpf"][2, 3]) / 2
    )


def test_low_coverage_is_missing_everywhere(rng):
    _, done = process(rng, n_good=(4, 4, 4, 1), min_coverage=0.5)
    for matrix in done.connectomes.values():
        assert np.isnan(matrix[3]).all()
        assert np.isnan(matrix[:, 3]).all()
        assert np.isfinite(matrix[:3, :3]).all()
    for series in done.timeseries.values():
        assert np.isnan(series[:, 3]).all()
    assert done.qc["regions"]["toy"]["missing"] == ["Right-b"]
    assert (done.qc["n_missing_regions_toy"], done.qc["n_missing_edges_toy"]) == (1, 3)
    assert np.isnan(done.traces["series"][:, 3]).all()


def test_constant_series_of_a_denoised_run_are_missing(rng):
    run = make_run(rng)
    run.series["toy"][:, 1] = 7.0
    left_out = np.zeros(N_VOLUMES, dtype=bool)
    done = process_denoised_run(run, Denoised("xcp_d", "hpf", left_out), settings=settings())
    assert done.qc["regions"]["toy"]["missing"] == ["ctx-rh-a"]
    assert np.isnan(done.timeseries["toy_hpf"][:, 1]).all()
    assert np.isfinite(run.series["toy"]).all()


def test_regions_are_grouped_by_kind_and_side():
    order, groups = group_regions([["Left-b", "L"], ["ctx-rh-a", "R"], ["Vermis", "B"],
                                   ["ctx-lh-a", "L"]])  # fmt: skip
    assert order.tolist() == [3, 1, 2, 0]
    assert groups == ["cortex, left", "cortex, right", "below cortex, both", "below cortex, left"]


def test_course_of_a_run_is_z_scored_over_the_kept_volumes(rng):
    run = make_run(rng, n_good=(4, 4, 0, 4), n_volumes=6)
    outlier = np.array([True, False, False, False, False, False])
    before = run.series["toy"]
    before[0] = 1e6
    course = describe_course(
        run, before=before, after=before - 3, regions=REGIONS["toy"], motion=None,
        is_outlier=outlier, repetition_time_s=2.0, has_dvars=False,
    )  # fmt: skip
    assert course["tissue_names"].tolist() == ["WM", "CSF", "GM"]
    np.testing.assert_array_equal(course["tissue_signals"][:, 0], run.tissue_means["WM"])
    assert np.isnan(course["framewise_displacement_mm"]).all()
    assert np.isnan(course["dvars"]).all()
    kept = course["series"][1:]
    assert np.isnan(kept[:, 2]).all()
    np.testing.assert_allclose(np.delete(kept, 2, axis=1).mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.delete(kept, 2, axis=1).std(axis=0), 1, atol=1e-5)
    np.testing.assert_allclose(course["denoised_series"], course["series"], rtol=1e-4)
    assert np.isnan(standardise(np.ones((4, 1)), np.ones(4, dtype=bool))).all()
