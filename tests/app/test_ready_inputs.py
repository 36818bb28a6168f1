# SPDX-License-Identifier: MIT
"""Ready-made series and connectomes, from the outside: the same outputs, the same predictions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kraken_bids.atlases import load_atlas
from kraken_bids.bids.writers import write_connectome
from kraken_bids.flavors import Flavor
from tests.app.conftest import Done, kraken
from tests.bids.test_ready_series import write_series
from tests.conftest import write_json

NAMES = load_atlas("fs86").region_names
FLAVORS = ("FCcorr_fs86_hpf", "SCifod2act_fs86_volnorm")
PARTICIPANTS = ("01", "02", "03", "04")


def draw(name: str, rng: np.random.Generator) -> np.ndarray:
    """A connectome that may be one of its flavor."""
    if name.startswith("FC"):
        return np.corrcoef(rng.normal(size=(86, 100)))
    values = rng.random((86, 86))
    values += values.T
    np.fill_diagonal(values, 0)
    return values


def write_measured(root: Path) -> None:
    """Connectomes as this program writes them; one participant lacks a region."""
    rng = np.random.default_rng(6)
    for participant in PARTICIPANTS:
        for name in FLAVORS:
            values, flavor = draw(name, rng), Flavor.parse(name)
            if participant == "02":
                values[8] = values[:, 8] = np.nan
            task = "task-rest_" if flavor.datatype == "func" else ""
            stem = f"sub-{participant}_{task}space-T1w_atlas-fs86_meas-{flavor.meas}_relmat"
            path = root / f"sub-{participant}" / flavor.datatype / f"{stem}.tsv"
            write_connectome(path, values, NAMES)
            write_json(path.with_suffix(".json"), {"KrakencoderFlavor": name, "Marked": 1})


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A model of two flavors of one atlas."""
    from kraken_bids.model.training import train_krakencoder

    rng = np.random.default_rng(9)
    rows = {name: rng.random((12, 3655)).astype(np.float32) for name in FLAVORS}
    folder = tmp_path_factory.mktemp("model") / "two"
    train_krakencoder(rows, folder, n_components=6, latent_size=8, epochs=5, seed=0)
    return folder


def measure(root: Path, *words: object) -> Done:
    """Run the participant level on ready-made inputs only."""
    (root / "bids").mkdir(exist_ok=True)
    return kraken(root / "bids", root / "out", "participant", "--atlases", "fs86",
                  "-w", root / "work", "--nprocs", 1, *words)  # fmt: skip


@pytest.mark.slow
def test_ready_connectomes_give_the_predictions_of_the_originals(tmp_path, model):
    write_measured(tmp_path / "given")
    done = measure(tmp_path, "-d", f"connectomes={tmp_path / 'given'}")
    assert done.code == 0, done.text
    for path in sorted((tmp_path / "given").rglob("*_relmat.tsv")):
        copy = tmp_path / "out" / path.relative_to(tmp_path / "given")
        assert copy.read_bytes() == path.read_bytes()
    for participant in PARTICIPANTS:
        folder = tmp_path / "out" / f"sub-{participant}"
        assert (folder / "func" / f"sub-{participant}_task-rest_desc-fc_qc.tsv").is_file()
        assert (folder / "dwi" / f"sub-{participant}_desc-sc_qc.tsv").is_file()
        assert (tmp_path / "out" / f"sub-{participant}.html").is_file()
    page = (tmp_path / "out" / "sub-02.html").read_text()
    assert NAMES[8] in page
    text = next((tmp_path / "out" / "sub-02").rglob("*meas-FCcorrHPF_relmat.json")).read_text()
    sidecar = json.loads(text)
    assert sidecar["MissingNodes"] == [NAMES[8]]
    assert sidecar["Origin"] == "given, not measured here"
    assert sidecar["Sources"][0].startswith("bids:given-connectomes:sub-02/func/")
    for name in ("given", "out"):
        done = kraken(tmp_path / "bids", tmp_path / name, "group", "--model", model,
                      "--output-label", "two", "-w", tmp_path / "work", "--nprocs", 1)  # fmt: skip
        assert done.code == 0, done.text
    tables = [path for path in (tmp_path / "given" / "derivatives").rglob("*.tsv")
              if path.name.endswith(("_relmat.tsv", "_latent.tsv"))]  # fmt: skip
    assert len(tables) > 4 * len(PARTICIPANTS)
    for path in tables:
        again = tmp_path / "out" / path.relative_to(tmp_path / "given")
        assert again.read_bytes() == path.read_bytes(), path.name
    assert (tmp_path / "out" / "derivatives" / "krakencoder-two" / "group.html").is_file()


@pytest.mark.slow
def test_what_is_wrong_with_one_participant_is_told_and_the_others_go_on(tmp_path):
    rng = np.random.default_rng(1)
    rows = np.stack([draw(FLAVORS[0], rng) for _ in range(3)])
    rows[1] = np.arctanh(0.999 * rows[1]) * 4
    np.savez(tmp_path / "fc.npz", data=rows, subjects=["01", "02", "03_ses-a"])
    words = ["-d", f"connectomes={FLAVORS[0]}={tmp_path / 'fc.npz'}"]
    done = measure(tmp_path, *words)
    assert done.code == 1, done.text
    told = [line for line in done.text.splitlines() if line.startswith("sub-02: ")]
    assert len(told) == 1
    assert "holds a correlation of" in told[0]
    assert "Traceback" not in done.text
    found = sorted(path.name for path in (tmp_path / "out").rglob("*_relmat.tsv"))
    assert found == [
        "sub-01_atlas-fs86_meas-FCcorrHPF_relmat.tsv",
        "sub-03_ses-a_atlas-fs86_meas-FCcorrHPF_relmat.tsv",
    ]
    done = measure(tmp_path, *words)
    assert "0 done, 2 done before, 1 with problems" in done.text


@pytest.mark.slow
def test_ready_series_are_correlated_averaged_and_marked_where_they_do_not_fit(tmp_path):
    rng = np.random.default_rng(2)
    fitting = {
        "RepetitionTime": 2.0, "NuisanceParameters": "acompcor",
        "SoftwareFilters": {"High-pass": {"Cutoff (Hz)": 0.01}},
    }  # fmt: skip
    series = {}
    for source, sidecar in {
        "task-rest_run-1": fitting, "task-rest_run-2": fitting,
        "task-nback": {"RepetitionTime": 2.0},
    }.items():  # fmt: skip
        series[source] = rng.normal(size=(110 if source.endswith("1") else 130, 86)).round(4)
        path = tmp_path / "series" / f"sub-01_ses-a_{source}_atlas-fs86_timeseries.tsv"
        write_json(write_series(path, series[source]).with_suffix(".json"), sidecar)
    words = ["-d", f"timeseries={tmp_path / 'series'}"]
    done = measure(tmp_path, *words)
    assert done.code == 1, done.text
    assert "does not say how it was filtered" in done.text
    func = tmp_path / "out" / "sub-01" / "ses-a" / "func"
    stem = "sub-01_ses-a_{}_atlas-fs86_meas-{}_relmat.tsv"
    names = {
        stem.format(source, meas)
        for source in ("task-rest_run-1", "task-rest_run-2", "task-rest")
        for meas in ("FCcorrHPF", "FCpcorrHPF")
    }
    assert {path.name for path in func.glob("*_relmat.tsv")} == names
    average = pd.read_csv(func / stem.format("task-rest", "FCcorrHPF"), sep="\t", index_col=0)
    runs = [np.corrcoef(series[f"task-rest_run-{number}"].T) for number in (1, 2)]
    expected = (110 * runs[0] + 130 * runs[1]) / 240
    np.testing.assert_allclose(average.to_numpy(), expected, atol=1e-6)
    assert (tmp_path / "out" / "sub-01_ses-a.html").is_file()

    done = measure(tmp_path, *words, "--force")
    assert done.code == 0, done.text
    marked = func / "sub-01_ses-a_task-nback_atlas-fs86_meas-FCcorrHPF_desc-ready_relmat.json"
    assert "not the recipe" in json.loads(marked.read_text())["OffRecipe"]
    assert (func / "sub-01_ses-a_task-nback_atlas-fs86_desc-hpfReady_timeseries.tsv").is_file()
    done = kraken(tmp_path / "bids", tmp_path / "out", "group", "--status", "--task-id", "nback",
                  "-w", tmp_path / "work")  # fmt: skip
    assert "left out: desc-ready" in done.text


@pytest.mark.slow
def test_series_that_this_program_wrote_give_the_same_connectomes_again(tmp_path):
    rng = np.random.default_rng(3)
    sidecar = {
        "RepetitionTime": 2.0, "NuisanceParameters": "acompcor",
        "SoftwareFilters": {"High-pass": {"Cutoff (Hz)": 0.01}},
    }  # fmt: skip
    path = tmp_path / "series" / "sub-01_task-rest_space-T1w_atlas-fs86_timeseries.tsv"
    write_json(write_series(path, rng.normal(size=(100, 86))).with_suffix(".json"), sidecar)
    assert measure(tmp_path, "-d", f"timeseries={path.parent}").code == 0
    (tmp_path / "again").mkdir()
    done = measure(tmp_path / "again", "-d", f"timeseries={tmp_path / 'out'}")
    assert done.code == 0, done.text
    for table in (tmp_path / "out").rglob("*_relmat.tsv"):
        again = tmp_path / "again" / "out" / table.relative_to(tmp_path / "out")
        assert again.read_bytes() == table.read_bytes()
