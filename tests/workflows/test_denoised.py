# SPDX-License-Identifier: MIT
"""The workflow of a series that XCP-D denoised, against correlations made by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from kraken_bids.interfaces.functional import CombineRuns
from kraken_bids.plan import FunctionalRun, LabelSource
from kraken_bids.report.canvas import save_png
from kraken_bids.report.functional_figure import draw_functional_qc
from kraken_bids.settings import FunctionalOptions
from kraken_bids.workflows.denoised import init_denoised_wf
from kraken_bids.workflows.functional import atlas_regions
from tests.workflows.test_functional import collect, load

SHAPE = (10, 10, 10)
AFFINE = np.array([[-4.0, 0, 0, 18], [0, 4, 0, -18], [0, 0, 4, -18], [0, 0, 0, 1]])
N_VOLUMES = 150
FLAGGED = (40, 41, 90)
MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")


def save(values, path):
    nib.Nifti1Image(values, AFFINE).to_filename(path)
    return path


@pytest.fixture
def series():
    """Noise without mean, as XCP-D leaves it; zero in one region."""
    labels = np.arange(np.prod(SHAPE)).reshape(SHAPE) * 86 // np.prod(SHAPE) + 1
    bold = np.random.default_rng(4).normal(0, 10, (*SHAPE, N_VOLUMES)).astype(np.float32)
    bold[labels == 7] = 0
    return labels.astype(np.int16), bold


@pytest.fixture
def run(series, tmp_path):
    labels, bold = series
    outliers = tmp_path / "outliers.tsv"
    flags = np.isin(np.arange(N_VOLUMES), FLAGGED).astype(int)
    np.savetxt(outliers, flags, fmt="%d", header="framewise_displacement", comments="")
    motion = np.random.default_rng(1).normal(0, 0.01, (N_VOLUMES, 6))
    np.savetxt(
        tmp_path / "motion.tsv", motion, delimiter="\t", header="\t".join(MOTION), comments=""
    )
    source = LabelSource("fs86", save(labels, tmp_path / "labels.nii.gz"), "MNI152NLin6Asym")
    return FunctionalRun(
        entities=(("sub", "01"), ("task", "rest")),
        space="MNI152NLin6Asym",
        resolution="2",
        bold_file=save(bold, tmp_path / "bold.nii.gz"),
        mask_file=save(np.ones(SHAPE, np.uint8), tmp_path / "mask.nii.gz"),
        confounds_file=tmp_path / "motion.tsv",
        confounds_sidecar=None,
        repetition_time_s=2.0,
        labels=(source,),
        tissues=None,
        denoised_by="XCP-D: confounds acompcor, high-pass 0.01 Hz",
        variant="hpf",
        outliers_file=outliers,
        n_regressors=30,
        high_pass_hz=0.01,
    )


def correlated(series):
    labels, bold = series
    kept = np.setdiff1d(np.arange(N_VOLUMES), FLAGGED)
    means = np.stack([bold[labels == index].mean(axis=0)[kept] for index in range(1, 87)])
    with np.errstate(invalid="ignore"):
        matrix = np.corrcoef(means.astype(float))
    matrix[6] = matrix[:, 6] = np.nan
    return matrix


@pytest.mark.filterwarnings("error")
def test_means_of_regions_are_correlated_and_nothing_else_is_done(run, series, tmp_path):
    outputs = collect(init_denoised_wf(run, options=FunctionalOptions()), tmp_path / "work")
    connectomes = load(outputs.connectomes_file)
    assert set(connectomes) == {"FCcorr_fs86_hpf", "FCpcorr_fs86_hpf"}
    expected = correlated(series)
    np.testing.assert_allclose(connectomes["FCcorr_fs86_hpf"], expected, atol=1e-6)
    present = np.delete(np.arange(86), 6)
    block = np.ix_(present, present)
    precision = np.linalg.inv(expected[block] + 0.06 * np.eye(85))
    scale = np.sqrt(np.diag(precision))
    partial = -precision / np.outer(scale, scale)
    np.fill_diagonal(partial, 0)
    np.testing.assert_allclose(connectomes["FCpcorr_fs86_hpf"][block], partial, atol=1e-6)

    qc = json.loads(Path(outputs.qc_file).read_text())
    assert (qc["n_volumes"], qc["n_kept"], qc["n_outliers"]) == (150, 147, 3)
    assert qc["outlier_volumes"] == list(FLAGGED)
    assert qc["dof_hpf"] == 147 - 1 - 30 - 6
    assert qc["denoised_by"] == run.denoised_by
    assert qc["fd_mean_mm"] > 0
    assert len(qc["regions"]["fs86"]["missing"]) == 1
    assert load(outputs.timeseries_file)["fs86_hpf"].shape == (N_VOLUMES, 86)
    assert save_png(draw_functional_qc(load(outputs.traces_file)), tmp_path / "qc.png") > 0


def test_what_is_not_known_is_left_out(run, tmp_path):
    bare = replace(run, confounds_file=None, outliers_file=None, n_regressors=None)
    outputs = collect(init_denoised_wf(bare, options=FunctionalOptions()), tmp_path / "work")
    qc = json.loads(Path(outputs.qc_file).read_text())
    assert qc["n_kept"] == N_VOLUMES
    assert not {"fd_mean_mm", "dof_hpf", "tsnr_median", "dvars_median"} & set(qc)
    assert save_png(draw_functional_qc(load(outputs.traces_file)), tmp_path / "qc.png") > 0


@pytest.mark.parametrize("variant", ["hpf", "hpfgsr"])
@pytest.mark.parametrize("is_known", [True, False], ids=["known", "bare"])
def test_runs_are_averaged_whatever_is_known_of_them(
    run, tmp_path, monkeypatch, variant, is_known
):
    run = replace(run, variant=variant)
    if not is_known:
        run = replace(run, confounds_file=None, n_regressors=None)
    outputs = collect(init_denoised_wf(run, options=FunctionalOptions()), tmp_path / "work")
    (tmp_path / "node").mkdir()
    monkeypatch.chdir(tmp_path / "node")
    combined = CombineRuns(
        connectomes_files=[outputs.connectomes_file] * 2,
        qc_files=[outputs.qc_file] * 2,
        regions=atlas_regions(["fs86"]),
        pcorr_lambda={"fs86": 0.06},
    ).run().outputs  # fmt: skip
    once, twice = load(outputs.connectomes_file), load(combined.connectomes_file)
    assert set(once) == set(twice)
    assert all(name.endswith(f"_{variant}") for name in once)
    for name, matrix in once.items():
        np.testing.assert_allclose(twice[name], matrix, atol=1e-9)
    qc = json.loads(Path(combined.qc_file).read_text())
    assert (qc["n_runs"], qc["n_kept"]) == (2, 294)
    assert ("fd_mean_mm" in qc, f"dof_{variant}" in qc) == (is_known, is_known)
    assert len(qc["regions"]["fs86"]["missing"]) == 1
