# SPDX-License-Identifier: MIT
"""From arrays to files: names, contents, sidecars."""

import dataclasses
import json
import logging

import numpy as np
import pytest

from kraken_bids.atlases import load_atlas
from kraken_bids.bids.export import (
    Target,
    save_connectomes,
    save_figures,
    save_quality,
    save_timeseries,
    save_tractograms,
)
from kraken_bids.bids.regularization import withheld_atlases
from kraken_bids.bids.writers import read_connectome, write_json

QUALITY = {
    "n_volumes": 5,
    "repetition_time_s": 2.0,
    "outlier_volumes": [0, 3],
    "regions": {"fs86": {"missing": ["Left-Thalamus-Proper"]}},
}


@pytest.fixture
def target(tmp_path):
    entities = (("sub", "01"), ("task", "rest"))
    return Target(tmp_path, entities, "func", "T1w", ("bids:fmriprep:bold",), QUALITY)


@pytest.fixture
def connectomes_file(tmp_path, rng):
    matrix = rng.random((86, 86))
    matrix = (matrix + matrix.T) / 2
    matrix[1, :] = matrix[:, 1] = np.nan
    file = tmp_path / "connectomes.npz"
    np.savez(file, FCcorr_fs86_hpf=matrix, FCpcorr_fs86_hpf=matrix)
    return file


def test_connectome_keeps_its_numbers_and_says_what_is_missing(target, connectomes_file):
    paths = save_connectomes(target, connectomes_file)
    assert [path.name for path in paths[:2]] == [
        "sub-01_task-rest_space-T1w_atlas-fs86_meas-FCcorrHPF_relmat.tsv",
        "sub-01_task-rest_space-T1w_atlas-fs86_meas-FCcorrHPF_relmat.json",
    ]
    written, names = read_connectome(paths[0])
    with np.load(connectomes_file) as arrays:
        np.testing.assert_allclose(written, arrays["FCcorr_fs86_hpf"], rtol=1e-6)
    assert names == load_atlas("fs86").region_names
    sidecar = json.loads(paths[1].read_text())
    assert sidecar["MissingNodes"] == ["Left-Thalamus-Proper"]
    assert sidecar["Sources"] == ["bids:fmriprep:bold"]


def test_another_pipeline_marks_every_name(target, connectomes_file, tmp_path):
    marked = dataclasses.replace(target, mark="simple")
    series_file = tmp_path / "series.npz"
    np.savez(series_file, fs86_hpf=np.zeros((5, 86)), fs86_hpfgsr=np.zeros((5, 86)))
    figure = tmp_path / "figure.png"
    figure.write_bytes(b"PNG")
    for save, content in (
        (save_connectomes, connectomes_file),
        (save_timeseries, series_file),
        (save_figures, [("qc", figure)]),
    ):
        plain = {path.name for path in save(target, content)}
        other = {path.name for path in save(marked, content)}
        assert not plain & other
        assert all("desc-" in name and "imple" in name for name in other)
    assert save_quality(marked)[0].name == "sub-01_task-rest_desc-fcSimple_qc.tsv"
    assert "sub-01_task-rest_space-T1w_atlas-fs86_desc-hpfgsrSimple_timeseries.tsv" in {
        path.name for path in save_timeseries(marked, series_file)
    }


def test_few_degrees_of_freedom_are_warned_of(target, caplog):
    quality = {
        "dof_hpf": 172.0, "pcorr_dof_per_region_fs86": 2.0, "pcorr_dof_per_region_shen268": 0.64,
    }  # fmt: skip
    with caplog.at_level(logging.WARNING):
        save_quality(dataclasses.replace(target, quality=quality))
    assert "sub-01_task-rest: 172 degrees of freedom are 0.64 (shen268) a region" in caplog.text
    assert "fs86" not in caplog.text


def test_partial_correlations_without_support_are_not_there(target, tmp_path, caplog):
    matrix = np.eye(86)
    both, one = tmp_path / "both.npz", tmp_path / "one.npz"
    np.savez(both, FCcorr_fs86_hpf=matrix, FCpcorr_fs86_hpf=matrix)
    np.savez(one, FCcorr_fs86_hpf=matrix)
    given = {"pcorr_lambda_fs86": 0.06, "pcorr_lambda_source_fs86": "given"}
    made = save_connectomes(dataclasses.replace(target, quality=given), both)
    partial = next(path for path in made if path.name.endswith("FCpcorrHPF_relmat.json"))
    facts = json.loads(partial.read_text())
    assert (facts["Regularization"], facts["RegularizationSource"]) == (
        0.06, "given (--pcorr-lambda)",
    )  # fmt: skip
    session_dir = partial.parents[1]
    assert withheld_atlases(session_dir) == []
    quality = {"dof_hpf": 40.2, "pcorr_withheld_fs86": 1, "n_missing_regions_fs86": 2,
               "pcorr_dof_per_region_fs86": 0.5}  # fmt: skip
    short = dataclasses.replace(target, quality=quality)
    with caplog.at_level(logging.WARNING):
        save_quality(short)
    assert (
        "FCpcorr_fs86_hpf is not made: 40 degrees of freedom are fewer than the 84" in caplog.text
    )
    assert "a region (2 or more are good" not in caplog.text
    paths = save_connectomes(short, one)
    assert not partial.exists()
    assert not partial.with_suffix(".tsv").exists()
    sidecar = json.loads(paths[1].read_text())
    assert sidecar["PartialCorrelation"].startswith("not made: 40 degrees of freedom")
    assert "Regularization" not in sidecar
    assert withheld_atlases(session_dir) == ["fs86"]


def test_runs_without_partial_correlations_are_no_matter_where_the_average_has_one(tmp_path):
    func = tmp_path / "sub-01" / "func"
    for part, made in (("_run-1", False), ("_run-2", False), ("", True)):
        stem = f"sub-01_task-rest{part}_space-T1w_atlas-fs86_meas-{{}}_relmat"
        facts = {} if made else {"PartialCorrelation": "not made"}
        for meas in ("FCcorrHPF", "FCpcorrHPF") if made else ("FCcorrHPF",):
            write_json(func / f"{stem.format(meas)}.json", facts)
            (func / f"{stem.format(meas)}.tsv").touch()
    assert withheld_atlases(tmp_path / "sub-01") == []
    (func / f"{stem.format('FCpcorrHPF')}.tsv").unlink()
    write_json(func / f"{stem.format('FCcorrHPF')}.json", {"PartialCorrelation": "not made"})
    assert withheld_atlases(tmp_path / "sub-01") == ["fs86"]


def test_only_flavors_asked_for_are_written(target, connectomes_file):
    paths = save_connectomes(target, connectomes_file, wanted=["FCpcorr_fs86_hpf"])
    assert [path.name.split("meas-")[1] for path in paths] == [
        "FCpcorrHPF_relmat.tsv",
        "FCpcorrHPF_relmat.json",
    ]


def test_series_say_which_volumes_were_left_out(target, tmp_path, rng):
    file = tmp_path / "series.npz"
    np.savez(file, fs86_hpf=rng.random((5, 86)))
    table, sidecar = save_timeseries(target, file)
    assert len(table.read_text().splitlines()) == 6
    assert json.loads(sidecar.read_text())["OutlierVolumes"] == [0, 3]


def test_quality_has_plain_columns_and_lists_in_the_sidecar(target):
    table, sidecar = save_quality(target)
    assert table.read_text() == "n_volumes\trepetition_time_s\n5\t2\n"
    content = json.loads(sidecar.read_text())
    assert content["OutlierVolumes"] == [0, 3]
    assert content["Regions"]["fs86"]["missing"] == ["Left-Thalamus-Proper"]
    assert "Description" in content["n_volumes"]


def test_tractograms_are_kept_under_their_algorithm(tmp_path):
    target = Target(tmp_path / "out", (("sub", "01"),), "dwi", "ACPC")
    tracks = tmp_path / "tracks.tck"
    tracks.write_bytes(b"mrtrix tracks")
    (path,) = save_tractograms(target, [("ifod2act", tracks)])
    assert path.name == "sub-01_space-ACPC_desc-ifod2act_streamlines.tck"
    assert path.read_bytes() == b"mrtrix tracks"


def test_missing_regions_are_told_with_what_where_and_what_to_do(target, caplog):
    save_quality(target)
    (record,) = caplog.records
    told = record.getMessage()
    assert told.startswith("sub-01_task-rest: 1 of 86 regions of fs86 are missing from the BOLD")
    assert "Left-Thalamus-Proper" in told
    assert "Look whether the field of view covers them" in told
