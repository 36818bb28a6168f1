# SPDX-License-Identifier: MIT
"""Sections of a cohort's page: spread of quality, motion, adaptation by site, means."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from kraken_bids.report.adaptation_section import fit_grid, fit_pictures, read_fits
from kraken_bids.report.cohort_summary import (
    RunningMatrix,
    list_sessions,
    sample_matrices,
    summarize_cohort,
)
from kraken_bids.report.motion_section import MotionSums, motion_grid, motion_pictures
from kraken_bids.report.quality_section import (
    draw_spreads,
    read_spreads,
    spread_grid,
    spread_pictures,
    spread_warnings,
)


def texts(grid):
    """Text of every cell of a grid, with the columns' names."""
    return [dict(zip(grid.columns, [cell.text for cell in row], strict=True)) for row in grid.rows]


def pairs(values):
    return [(f"sub-{index:02d}", value) for index, value in enumerate(values)]


def test_sessions_outside_the_usual_and_outliers_are_named(rng):
    tsnr = [*rng.normal(50, 2, 14), 5.0]
    density = [*rng.normal(0.8, 0.01, 14), 0.95]
    spreads = read_spreads({"tsnr_median": pairs(tsnr), "ifod2act_fs86_density": pairs(density)})
    first, second = texts(spread_grid(spreads))
    assert first["outside the usual"] == "1"
    assert first["outliers in this cohort"] == "sub-14 (5)"
    assert second["outside the usual"] == "n/a"
    assert second["outliers in this cohort"] == "sub-14 (0.95)"
    assert second["published"] == "0.852 ± 0.019"
    (notice,) = spread_warnings(spreads)  # an outlier within the usual is no warning
    assert notice.names == ("sub-14 (5)",)
    assert len(spread_pictures(spreads)) == 1
    assert spread_pictures([]) == []


def test_measures_that_are_the_same_for_all_or_unknown_are_not_drawn():
    same, unknown = pairs([3.0, 3.0]), pairs([1.0, 2.0])
    measures = {"n_volumes": same, "mine": unknown, "training_mean_r_FCcorr_fs86_hpf": unknown}
    assert read_spreads(measures) == []


def test_edges_go_with_motion_as_their_correlation_says(rng):
    motion = rng.uniform(0.05, 0.5, 40)
    matrices = rng.normal(size=(40, 5, 5))
    matrices[:, 0, 1] += 20 * motion
    matrices[3, 2, :] = matrices[3, :, 2] = np.nan  # a region that is missing once
    sums = MotionSums()
    for matrix, value in zip(matrices, motion, strict=True):
        sums.add(matrix, value)
    rows, columns = np.triu_indices(5, k=1)
    kept = (rows != 2) & (columns != 2)
    expected = [np.corrcoef(matrices[:, row, column], motion)[0, 1]
                for row, column in zip(rows[kept], columns[kept], strict=True)]  # fmt: skip
    np.testing.assert_allclose(sums.correlations(), expected, rtol=1e-8)
    (row,) = texts(motion_grid({"FCcorr_fs86_hpf": sums}))
    assert row["sessions"] == "40"
    assert float(row["median |r|"]) == pytest.approx(np.median(np.abs(expected)), abs=1e-4)
    assert float(row["by chance"]) == pytest.approx(np.tanh(0.6745 / np.sqrt(37)), abs=1e-4)
    significant = 100 * np.mean(np.abs(np.arctanh(expected)) * np.sqrt(37) > 1.96)
    assert float(row["edges with p < 0.05 (%)"]) == pytest.approx(significant, abs=0.1)
    assert len(motion_pictures({"FCcorr_fs86_hpf": sums})) == 1


def test_of_few_sessions_nothing_is_said_of_motion(rng):
    sums = MotionSums()
    for value in range(9):
        sums.add(rng.normal(size=(4, 4)), value)
    assert motion_grid({"FCcorr_fs86_hpf": sums}).rows == ()
    assert motion_pictures({"FCcorr_fs86_hpf": sums}) == []
    assert MotionSums().correlations().size == 0


@pytest.fixture
def group_dir(tmp_path, rng):
    """Adaptation by site; names of flavors begin alike."""
    arrays, flavors = {}, {}
    for place, key in enumerate(("FCcorr_fs86_hpf@A_1", "FCcorr_fs86_hpf@B",
                                 "FCcorr_fs86_hpfgsr@B")):  # fmt: skip
        arrays[f"{key}.source_mean"] = rng.normal(place, 0.1, 50)
        arrays[f"{key}.target_mean"] = rng.normal(10 + place, 0.1, 50)
        flavors[key] = {"slope": 2.0, "intercept": 1.0, "r_squared": 0.5, "n_participants": 7}
    stem = tmp_path / "desc-meanfit_adaptation"
    save_file(arrays, f"{stem}.safetensors")
    stem.with_suffix(".json").write_text(json.dumps({"provenance": {}, "flavors": flavors}))
    return tmp_path, arrays


def test_every_site_has_its_fit_and_its_means(group_dir):
    folder, arrays = group_dir
    fits = read_fits(folder)
    rows = texts(fit_grid(fits))
    assert [(row["flavor"], row["site"]) for row in rows] == [
        ("FCcorr_fs86_hpf", "A_1"), ("FCcorr_fs86_hpf", "B"), ("FCcorr_fs86_hpfgsr", "B"),
    ]  # fmt: skip
    for row, key in zip(rows, ("FCcorr_fs86_hpf@A_1", "FCcorr_fs86_hpf@B",
                               "FCcorr_fs86_hpfgsr@B"), strict=True):  # fmt: skip
        before = arrays[f"{key}.source_mean"].mean()
        assert float(row["mean edge before"]) == pytest.approx(before, abs=1e-3)
        assert float(row["after the line"]) == pytest.approx(2 * before + 1, abs=2e-3)
        target = arrays[f"{key}.target_mean"].mean()
        assert float(row["of the training data"]) == pytest.approx(target, rel=1e-3)
        assert row["participants"] == "7"
    assert len(fit_pictures(fits)) == 1


def test_an_adaptation_whose_means_are_damaged_keeps_its_numbers(group_dir):
    folder, _ = group_dir
    (folder / "desc-meanfit_adaptation.safetensors").write_bytes(b"no")
    rows = texts(fit_grid(read_fits(folder)))
    assert rows[0]["slope"] == "2"
    assert rows[0]["mean edge before"] == "n/a"
    assert fit_pictures(read_fits(folder)) == []


def test_a_mean_counts_each_entry_over_those_that_have_it():
    mean = RunningMatrix()
    mean.add(np.array([[1.0, np.nan], [3.0, np.nan]]))
    mean.add(np.array([[2.0, 5.0], [np.nan, np.nan]]))
    np.testing.assert_array_equal(mean.mean, [[1.5, 5.0], [3.0, np.nan]])
    assert not mean.fits(np.zeros((3, 3)))


def read(file):
    return np.genfromtxt(file, skip_header=1, missing_values="n/a")[:, 1:]


def test_means_of_measured_and_predicted_are_of_the_same_sessions(cohort):
    output_dir, dataset_dir = cohort
    sessions = list_sessions(output_dir)
    summary = summarize_cohort(sessions, dataset_dir, output_dir, dataset_dir)
    sampled = sample_matrices(sessions, summary, dataset_dir)
    assert sampled.n_sessions == 3
    flavor = next(one for one in sampled.pairs if str(one) == "SCifod2act_fs86_volnorm")
    measured, predicted = sampled.pairs[flavor]
    assert measured.n == predicted.n == 2  # the third has no structural connectomes
    assert summary.drawn_source(flavor) == "fusionFC"
    for mean, root, pattern in (
        (measured, output_dir, "_space-T1w_atlas-fs86_meas-SCifod2actVN_relmat.tsv"),
        (predicted, dataset_dir, "_atlas-fs86_meas-SCifod2actVN_desc-fusionFC_relmat.tsv"),
    ):
        files = [root / f"sub-{label}" / "dwi" / f"sub-{label}{pattern}" for label in ("01", "02")]
        expected = np.mean([read(file) for file in files], axis=0)
        np.testing.assert_allclose(mean.mean, expected, rtol=1e-5, atol=1e-6)


def test_of_a_large_cohort_only_some_sessions_are_read(cohort):
    output_dir, dataset_dir = cohort
    sessions = list_sessions(output_dir)
    summary = summarize_cohort(sessions, dataset_dir, output_dir, dataset_dir)
    sampled = sample_matrices(sessions, summary, dataset_dir, n_most=2)
    assert sampled.n_sessions == 2
    structural = next(one for one in sampled.pairs if one.group == "SC")
    assert sampled.pairs[structural][0].n == 1  # the first and the last; that has none


def test_a_session_says_what_it_lacks(cohort):
    output_dir, dataset_dir = cohort
    sessions = list_sessions(output_dir)
    summary = summarize_cohort(sessions, dataset_dir, output_dir, dataset_dir)
    lacks = [row[-1].text for row in summary.rows]
    assert lacks == [
        "regions of fs86 1", "regions of fs86 1",
        "no structural connectomes; regions of fs86 1",
    ]  # fmt: skip


def test_farthest_beyond_the_usual_are_named_first():
    values = (("sub-01", 1.9), ("sub-02", 0.4), ("sub-03", 2.5), ("sub-04", 1.2))
    (spread,) = read_spreads({"pcorr_dof_per_region_fs86": values})
    assert [spread.labels[row] for row in spread.named] == ["sub-02", "sub-04", "sub-01"]


def test_few_numbers_stand_below_the_points():
    values = [(f"sub-{row:02d}", 0.01772 + row * 0.0033) for row in range(6)]
    (axes,) = draw_spreads(read_spreads({"gcor_hpfgsr": values})).figure.axes
    left, right = axes.get_xlim()
    shown = [place for place in axes.get_xticks() if left <= place <= right]
    assert 2 < len(shown) < 7  # eight of seven digits ran into each other
