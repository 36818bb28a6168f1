# SPDX-License-Identifier: MIT
"""``kraken-model pcorr`` from files to files."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from kraken_bids.atlases import PublishedFile
from kraken_bids.bids.writers import read_connectome
from kraken_bids.connectome.partial import (
    mean_precision,
    partial_correlation,
    regularized_precision,
    search_lambda,
)
from kraken_bids.model_commands.cli import main
from kraken_bids.published import PublishedExtra, published_extras

IDS = ["p_1", "p_2", "p_3", "p_4", "p_5"]
FULL = os.environ.get("KRAKEN_GOLDEN_DIR", "")
#: The reference program's options, and ours.
OPTIONS = {
    "--applylambda": "--lambda",
    "--outputmean": "--output-mean",
    "--keepunnormalizedinputs": "--keep-scale",
    "--usegeometricmean": "--geometric",
    "--lambdagridloops": "--grid-loops",
    "--lambdagridsize": "--grid-size",
    "--lambdarange": "--lambda-range",
    "--roundlambda": "--reference-rounding",
    "--outputfigurecsv": "--search-table",
}


@pytest.fixture
def rng():
    return np.random.default_rng(21)


@pytest.fixture
def correlations(rng):
    return np.stack([np.corrcoef(rng.normal(size=(10, 40))) for _ in IDS])


@pytest.fixture
def file(tmp_path, correlations):
    path = tmp_path / "in.npz"
    np.savez(path, data=correlations, subjects=IDS)
    return path


def pcorr(*words):
    return main(["pcorr", "--threads", "1", *map(str, words)])


def test_fixed_lambda_is_used_as_given(file, correlations, tmp_path):
    out, mean = tmp_path / "out.npz", tmp_path / "mean.npy"
    given = ("--input", file, "--lambda", "0.0625", "--output", out, "--output-mean", mean)
    assert pcorr(*given) == 0
    expected = partial_correlation(regularized_precision(correlations, 0.0625))
    with np.load(out, allow_pickle=False) as stored:
        np.testing.assert_allclose(stored["data"], expected, atol=1e-7)
        assert stored["data"].dtype == np.float32
        assert stored["subjects"].tolist() == IDS
        assert stored["lambda"] == stored["lambda_raw"] == 0.0625
        assert stored["conntype"] == "partialcorr"
    np.testing.assert_allclose(np.load(mean), expected.mean(axis=0), atol=1e-14)


def test_reference_rounding_is_had_on_request(file, tmp_path, caplog):
    out = tmp_path / "out.npz"
    given = ("--input", file, "--lambda", "0.004", "--output", out)
    assert pcorr(*given, "--reference-rounding") == 0
    with np.load(out) as stored:
        assert (stored["lambda"], stored["lambda_raw"]) == (0.0, 0.004)
    assert "rounded to 0" in caplog.text


def test_search_writes_lambda_table_and_figure(file, correlations, tmp_path, capsys):
    table, figure = tmp_path / "tried.tsv", tmp_path / "tried.png"
    assert pcorr("--input", file, "--search-table", table, "--figure", figure) == 0
    found = search_lambda(correlations)
    assert float(capsys.readouterr().out) == found.lambda_
    rows = np.genfromtxt(table, names=True)
    np.testing.assert_allclose(rows["lambda"], found.tried, rtol=1e-15)
    np.testing.assert_allclose(rows["error"], found.errors, rtol=1e-13)
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_file_with_field_data_is_read_and_its_output_read_back(correlations, tmp_path, capsys):
    given, out, target = tmp_path / "in.mat", tmp_path / "out.mat", tmp_path / "target.mat"
    savemat(given, {"data": correlations, "subjects": np.array(IDS, dtype=object)})
    made = ("--input", given, "--lambda", "0", "--precision", "--output-mean", target)
    assert pcorr(*made) == 0
    assert pcorr("--input", given, "--target", target, "--output", out) == 0
    found = search_lambda(correlations, regularized_precision(correlations, 0.0).mean(axis=0))
    assert float(capsys.readouterr().out) == found.lambda_
    stored = loadmat(out, simplify_cells=True)
    expected = partial_correlation(regularized_precision(correlations, found.lambda_))
    np.testing.assert_allclose(stored["data"], expected, atol=1e-7)
    np.testing.assert_array_equal(np.stack(list(stored["C"])), stored["data"])
    assert list(stored["subjects"]) == IDS
    assert stored["lambda"] == found.lambda_
    assert stored["conntype"] == "partialcorr"


@pytest.mark.parametrize("in_file", [False, True], ids=["typed", "file"])
def test_search_on_some_is_applied_to_all(file, correlations, tmp_path, capsys, in_file):
    chosen = ["sub-p_4", "p_2"]
    if in_file:
        ids = tmp_path / "ids.txt"
        ids.write_text("sub-p_4\np_2\n")
        chosen = [ids]
    out = tmp_path / "out.npz"
    assert pcorr("--input", file, "--search-on", *chosen, "--output", out) == 0
    expected = search_lambda(correlations[[3, 1]])
    assert float(capsys.readouterr().out) == expected.lambda_
    assert np.load(out)["data"].shape == (5, 10, 10)


def test_missing_regions_stay_missing_and_are_left_out_of_the_search(
    file, correlations, tmp_path, capsys, caplog
):
    correlations[1, 3] = correlations[1, :, 3] = np.nan
    np.savez(file, data=correlations, subjects=IDS)
    out, mean = tmp_path / "out.npz", tmp_path / "mean.npz"
    assert pcorr("--input", file, "--output", out, "--output-mean", mean) == 0
    lambda_ = search_lambda(correlations[[0, 2, 3, 4]]).lambda_
    assert float(capsys.readouterr().out) == lambda_
    data = np.load(out)["data"]
    assert np.isnan(data[1, 3]).all()
    others = np.delete(np.arange(10), 3)
    block = correlations[1][np.ix_(others, others)]
    expected = partial_correlation(regularized_precision(block, lambda_))
    np.testing.assert_allclose(data[1][np.ix_(others, others)], expected, atol=1e-7)
    np.testing.assert_allclose(np.load(mean)["C"], np.nanmean(data, axis=0), atol=1e-6)
    assert "1 participant with missing regions, which stay NaN: p_2" in caplog.text
    assert "1 of them are left out" in caplog.text


def test_data_set_of_tables_is_written(tmp_path, rng):
    correlations = np.stack([np.corrcoef(rng.normal(size=(86, 200))) for _ in range(2)])
    given, out = tmp_path / "in.npz", tmp_path / "tree"
    np.savez(given, FC=correlations, subjects=["a_1", "b"])
    assert pcorr("--input", f"FCcorr_fs86_hpf={given}", "--lambda", "0.06", "--output", out) == 0
    stem = out / "sub-a1" / "func" / "sub-a1_atlas-fs86_meas-FCpcorrHPF_relmat"
    matrix, names = read_connectome(stem.with_suffix(".tsv"))
    expected = partial_correlation(regularized_precision(correlations[0], 0.06))
    np.testing.assert_allclose(matrix, expected, atol=1e-7)
    assert names[0] == "Left-Cerebellum-Cortex" or len(set(names)) == 86
    sidecar = json.loads(stem.with_suffix(".json").read_text())
    assert sidecar["Regularization"] == 0.06
    assert sidecar["KrakencoderFlavor"] == "FCpcorr_fs86_hpf"
    rows = (out / "participants.tsv").read_text().splitlines()
    assert rows == ["participant_id\toriginal_id", "sub-a1\ta_1", "sub-b\tb"]


@pytest.mark.slow
def test_validator_finds_no_error_in_the_data_set(tmp_path, rng):
    given, out = tmp_path / "in.npz", tmp_path / "tree"
    np.savez(given, data=np.corrcoef(rng.normal(size=(86, 200)))[None], subjects=["a"])
    assert pcorr("--input", f"FCcorr_fs86_hpf={given}", "--lambda", "0.06", "--output", out) == 0
    validator = Path(sys.executable).with_name("bids-validator-deno")
    done = subprocess.run(
        [validator, str(out), "--format", "json"], check=False, capture_output=True, text=True
    )
    issues = json.loads(done.stdout)["issues"]["issues"]
    assert not [issue for issue in issues if issue.get("severity") == "error"]


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["--lambda", "x"], ["'x' is no lambda", "--lambda"]),
        (["--lambda", "-1"], ["'-1' is no lambda"]),
        (["--lambda", "0.1"], ["nothing would be written"]),
        (["--output", "a.npy"], [r"files of kind '.npy' are not written", "--output"]),
        (["--lambda", "0.1", "--output", "a.npz", "--figure", "a.png"],
         ["of use only in a search"]),
        (["--target", "regtarget-fs68"], ["Did you mean 'regtarget-fs86'"]),
        (["--grid-size", "1"], ["in 3 loops of 1 lambdas"]),
        (["--lambda-range", "1", "0"], ["from 1 to 0"]),
        (["--search-on", "p_9", "p_1"], ["participants p_9 are not in", "It has p_1"]),
        (["--output", "folder"], ["needs the flavor", "FCcorr_fs86_hpf="]),
        (["--output", "folder", "--precision"], ["holds partial correlations"]),
        (["--geometric", "--output-mean", "m.npy"], ["no geometric mean"]),
        (["--output", "a.npz", "--output-mean", "a.npz"], ["written twice"]),
        (["--reference-rounding", "-1"], ["-1 decimals"]),
        (["--lambda", "x", "--output", "a.npy", "--grid-loops", "0"],
         ["is no lambda", "not written", "0 loops"]),
    ],
    ids=lambda words: " ".join(words)[:40],
)  # fmt: skip
def test_options_that_cannot_be_carried_out_are_told_together(
    file, tmp_path, monkeypatch, capsys, words, messages
):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    assert pcorr("--input", file, *words) in {2, 3}
    error = capsys.readouterr().err
    for message in messages:
        assert message in error
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("SCsdstream_fs86_count", "is no correlation"),
        ("FCpcorr_fs86_hpf", "partial correlation already"),
        ("FCcorr_fs86_hpf", "10 regions, fs86 has 86"),
        ("FCcorr", "flavor 'FCcorr' is unknown"),
    ],
)
def test_flavor_must_be_that_of_the_file(file, capsys, name, message):
    assert pcorr("--input", f"{name}={file}") in {2, 3}
    assert message in capsys.readouterr().err


def test_all_participants_that_are_no_correlation_are_named(file, correlations, tmp_path, capsys):
    correlations[1] = np.arctanh(0.99 * correlations[1])
    correlations[2, 0, 1] += 0.5
    correlations[4, 0, 1] = np.nan
    correlations[4, 1, 0] = np.nan
    np.savez(file, data=correlations, subjects=IDS)
    assert pcorr("--input", file, "--output", tmp_path / "out.npz") == 3
    error = capsys.readouterr().err
    assert "participants p_3: the matrix is not symmetric" in error
    assert "participants p_5: 1 single values are missing" in error
    assert not (tmp_path / "out.npz").exists()


def test_singular_matrices_without_lambda_are_refused_by_name(
    file, correlations, tmp_path, rng, capsys
):
    correlations[1:3] = [np.corrcoef(rng.normal(size=(10, 5))) for _ in range(2)]
    np.savez(file, data=correlations, subjects=IDS)
    out, mean = tmp_path / "out.npz", tmp_path / "mean.mat"
    given = ("--input", file, "--lambda", "0", "--output", out, "--output-mean", mean)
    assert pcorr(*given) == 3
    error = capsys.readouterr().err
    assert "participants p_2, p_3: the correlation of 10 regions cannot be inverted" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.npz"]


def test_poor_target_is_warned_of(file, tmp_path, rng, caplog):
    np.savez(file, data=[np.corrcoef(rng.normal(size=(10, 5))) for _ in IDS], subjects=IDS)
    assert pcorr("--input", file) == 0
    assert "poor target; give --target" in caplog.text


def test_published_target_is_taken_by_name(file, correlations, tmp_path, monkeypatch, capsys):
    target = tmp_path / "resources" / "published.mat"
    target.parent.mkdir()
    savemat(target, {"C": regularized_precision(correlations, 0.2).mean(axis=0)})
    sha256 = hashlib.sha256(target.read_bytes()).hexdigest()
    row = PublishedExtra(
        "regtarget-toy", "of this test", (PublishedFile("published.mat", "nowhere:", sha256),)
    )
    monkeypatch.setattr("kraken_bids.published.published_extras", lambda: {row.name: row})
    monkeypatch.setenv("KRAKEN_BIDS_RESOURCES", str(target.parent))
    assert pcorr("--input", file, "--target", "regtarget-toy") == 0
    expected = search_lambda(correlations, loadmat(target)["C"])
    assert float(capsys.readouterr().out) == expected.lambda_


@pytest.mark.parametrize("atlas", ["fs86", "shen268", "coco439"])
def test_published_targets_have_names(atlas):
    assert f"regtarget-{atlas}" in published_extras()


def test_target_of_another_atlas_and_lacking_input_are_told(file, tmp_path, capsys):
    target = tmp_path / "target.npy"
    np.save(target, 2 * np.eye(11))
    assert pcorr("--input", file, "--target", target) == 3
    assert "has 11 regions, the input has 10" in capsys.readouterr().err
    assert pcorr("--input", tmp_path / "no.mat") == 3
    assert "no.mat' does not exist (--input)" in capsys.readouterr().err


def test_folder_that_exists_is_kept(file, tmp_path, capsys):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "mine").write_text("mine")
    assert pcorr("--input", f"FCcorr_fs86_hpf={file}", "--output", tmp_path / "tree") == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "tree" / "mine").read_text() == "mine"


def test_ids_that_become_the_same_label_are_refused(tmp_path, rng, capsys):
    given, out = tmp_path / "in.npz", tmp_path / "tree"
    np.savez(given, data=[np.corrcoef(rng.normal(size=(86, 200)))] * 2, subjects=["a_1", "a1"])
    assert pcorr("--input", f"FCcorr_fs86_hpf={given}", "--lambda", "0.06", "--output", out) == 2
    assert "participants 'a_1' and 'a1' would both be a1" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.npz"]


def test_mean_target_is_the_mean_precision(correlations):
    found = search_lambda(correlations)
    np.testing.assert_allclose(found.target, mean_precision(correlations), atol=1e-12)


def full_cases():
    if not FULL:
        return []
    table = json.loads((Path(FULL) / "cases" / "regularize.json").read_text("utf-8"))
    return [
        pytest.param(case, id=case["name"]) for case in table["cases"] if not case["exit_code"]
    ]


@pytest.mark.parametrize("case", full_cases())
def test_cases_of_the_reference_program(case, tmp_path, capsys):
    folder = Path(FULL)
    for name in ("new", "train", "lowrank"):
        given = folder / "inputs" / f"regularize_{name}.mat"
        (tmp_path / f"{name}.mat").symlink_to(given)
    with np.load(folder / "cases" / "regularize.npz") as stored:
        golden = dict(stored)
    for name in ("target_mean", "target_mean_0.3"):
        savemat(tmp_path / f"{name}.mat", {"C": golden[f"{name}__{name}"].astype(np.float64)})
    words, outputs = [], {}
    for word in case["options"]:
        if word == "--partialcorr":
            continue
        text = OPTIONS.get(word, word)
        if words and words[-1].startswith("--output"):
            outputs[words[-1]] = tmp_path / "result.mat"
            text = outputs[words[-1]]
        elif words and words[-1] == "--search-table":
            text = tmp_path / "grid.tsv"
        elif str(text).endswith(".mat"):
            text = tmp_path / text
        words.append(str(text))
    if "--partialcorr" not in case["options"]:
        words.append("--precision")
    if "--roundlambda" not in case["options"]:
        words.append("--reference-rounding")
    assert main(["pcorr", *words]) == 0
    result = loadmat(tmp_path / "result.mat", simplify_cells=True)
    assert result["lambda_raw"] == pytest.approx(case["lambda_raw"], abs=1e-12)
    assert result["lambda"] == pytest.approx(case["lambda"], abs=1e-12)
    assert result["conntype"] == case["conntype"]
    keys = [key for key in golden if key.startswith(f"{case['name']}__")]
    expected = golden[next(key for key in keys if not key.endswith("__grid"))]
    data = result.get("data", result["C"])
    assert np.abs(data - expected).max() <= 1e-6 * np.abs(expected).max()
    if f"{case['name']}__grid" in golden:
        rows = np.genfromtxt(tmp_path / "grid.tsv", skip_header=1)
        np.testing.assert_allclose(rows, golden[f"{case['name']}__grid"], rtol=1e-6)
