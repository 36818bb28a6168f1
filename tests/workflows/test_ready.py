# SPDX-License-Identifier: MIT
"""The workflows of ready-made inputs, and what the sinks make of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kraken_bids.atlases import load_atlas
from kraken_bids.plan import ReadyConnectome, SeriesRun, SeriesTable
from kraken_bids.report.canvas import save_png
from kraken_bids.report.functional_figure import draw_functional_qc
from kraken_bids.settings import FunctionalOptions
from kraken_bids.workflows.ready import init_given_wf, init_series_wf
from tests.bids.test_ready_series import write_series
from tests.workflows.test_functional import collect, load

N_VOLUMES = 120


@pytest.fixture
def values():
    values = np.random.default_rng(8).normal(size=(N_VOLUMES, 86))
    values[:, 4] = np.nan
    return values.round(4)


@pytest.fixture
def run(values, tmp_path):
    tables = tuple(
        SeriesTable("fs86", variant, write_series(tmp_path / f"{variant}.tsv", series))
        for variant, series in (("hpf", values), ("hpfgsr", values[::-1]))
    )
    return SeriesRun(
        entities=(("sub", "01"), ("task", "rest")),
        space="",
        tables=tables,
        repetition_time_s=2.0,
        denoised_by="another program: confounds 24P",
        left_out=(0, 1),
        high_pass_hz=0.01,
        known=(("dof_hpf", 95.0), ("fd_mean_mm", 0.1)),
    )


def test_tables_are_correlated_and_nothing_else_is_done(run, values, tmp_path):
    outputs = collect(init_series_wf(run, options=FunctionalOptions()), tmp_path / "work")
    connectomes = load(outputs.connectomes_file)
    assert set(connectomes) == {"FCcorr_fs86_hpf", "FCcorr_fs86_hpfgsr", "FCpcorr_fs86_hpf"}
    present = np.delete(np.arange(86), 4)
    block = np.ix_(present, present)
    for variant, series in (("hpf", values), ("hpfgsr", values[::-1])):
        expected = np.corrcoef(series[2:, present].T)
        found = connectomes[f"FCcorr_fs86_{variant}"]
        np.testing.assert_allclose(found[block], expected, atol=1e-12)
        assert np.isnan(found[4]).all()
    np.testing.assert_array_equal(load(outputs.timeseries_file)["fs86_hpf"], values)
    qc = json.loads(Path(outputs.qc_file).read_text())
    assert (qc["origin"], qc["n_volumes"], qc["n_kept"]) == ("given", N_VOLUMES, 118)
    assert (qc["fd_mean_mm"], qc["denoised_by"]) == (0.1, run.denoised_by)
    assert qc["pcorr_dof_per_region_fs86"] == pytest.approx(95 / 85)
    assert qc["regions"]["fs86"]["missing"] == [load_atlas("fs86").region_names[4]]
    assert save_png(draw_functional_qc(load(outputs.traces_file)), tmp_path / "qc.png") > 0


def test_connectomes_are_described_and_handed_over_as_they_are(tmp_path):
    matrix = np.corrcoef(np.random.default_rng(1).normal(size=(86, 100)))
    np.save(tmp_path / "fc.npy", matrix)
    name = "FCcorr_fs86_hpfgsr"
    given = ReadyConnectome(
        name, (("sub", "01"),), "", tmp_path / "fc.npz", "0", values_file=tmp_path / "fc.npy"
    )
    known = {name: {"Origin": "given", "Sources": ["fc.npz"], "MissingNodes": []}}
    outputs = collect(init_given_wf([given], known=known), tmp_path / "work")
    np.testing.assert_array_equal(load(outputs.connectomes_file)[name], matrix)
    qc = json.loads(Path(outputs.qc_file).read_text())
    assert qc["known"] == known
    edges = matrix[np.triu_indices(86, 1)]
    assert qc[f"sd_{name}"] == pytest.approx(edges.std())
