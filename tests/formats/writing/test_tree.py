# SPDX-License-Identifier: MIT
"""Predictions as a BIDS derivative data set."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kraken_bids.atlases import load_atlas
from kraken_bids.bids.writers import read_connectome
from kraken_bids.connectome.edges import edges_to_matrix
from kraken_bids.errors import Problems
from kraken_bids.formats.outputs import Latents, OutputFacts
from kraken_bids.formats.writing.opening import check_output, open_output
from kraken_bids.formats.writing.tree import parse_id, read_ids

IDS = ("01", "sub_2", "a-3")
FS86, TINY = "FCcorr_fs86_hpf", "SCifod2act_tiny4_count"
N_EDGES = {FS86: 3655, TINY: 6}


class Given:
    """A prediction that is there already, as a writer takes it."""

    def __init__(self, source, target, n_inputs):
        rng = np.random.default_rng(len(target))
        self.source, self.target, self.n_inputs = source, target, np.array(n_inputs)
        self.values = rng.normal(size=(len(n_inputs), N_EDGES[target])).astype(np.float32)
        self.values[self.n_inputs == 0] = np.nan
        self.shape = self.values.shape

    def batches(self):
        for start in range(0, len(self.values), 2):
            yield start, self.values[start : start + 2]


def facts(**changes):
    pairs = [("fusion.noself", target) for target in N_EDGES]
    values = {"n_edges": N_EDGES, "latent_size": 4, "connectomes": pairs, "latents": [TINY],
              "model_name": "tiny", "model_sha256": "f" * 64, "fusions": {"fusion": (TINY, FS86)},
              "inputs": {TINY: "data/sc.mat", FS86: "fc.npy"}, "scale": "input",
              "available": {FS86: [True, True, False]}}  # fmt: skip
    return OutputFacts(**{**values, **changes})


def write(path, ids=IDS):
    given = [Given("fusion.noself", FS86, (1, 1, 0)), Given("fusion.noself", TINY, (2, 1, 0))]
    latents = Latents(TINY, np.arange(12, dtype=np.float32).reshape(3, 4), np.array([1, 0, 1]))
    with open_output(path, participants=ids, facts=facts()) as writer:
        writer.add_connectomes(given[0])
        writer.add_latents(latents)
        writer.add_connectomes(given[1])
    return given


def test_every_participant_has_a_table_a_prediction(tmp_path):
    on_fs86, on_tiny = write(tmp_path / "out")
    root = tmp_path / "out"
    for row, label in enumerate(("01", "sub2")):
        names = {FS86: load_atlas("fs86").region_names,
                 TINY: ("region001", "region002", "region003", "region004")}  # fmt: skip
        for given, name, diagonal in (
            (on_fs86, "func/sub-{}_atlas-fs86_meas-FCcorrHPF_desc-fusionNoself_relmat.tsv", 1),
            (on_tiny, "dwi/sub-{}_atlas-tiny4_meas-SCifod2actCount_desc-fusionNoself_relmat.tsv",
             0),
        ):  # fmt: skip
            file = root / f"sub-{label}" / name.format(label)
            matrix, _ = read_connectome(file, names[given.target])
            expected = edges_to_matrix(given.values[row], diagonal=diagonal)
            np.testing.assert_array_equal(matrix.astype(np.float32), expected)
            sidecar = json.loads(file.with_suffix(".json").read_text())
            assert sidecar["Model"] == {"Name": "tiny", "SHA256": "f" * 64}
            assert sidecar["Description"].endswith(
                "in the scale of the connectomes given as input"
            )
    assert not (root / "sub-a3" / "func").exists()


def test_sidecars_name_the_inputs_that_were_there(tmp_path):
    write(tmp_path / "out")
    stem = "sub-01_atlas-{}_desc-fusionNoself_relmat.json"
    own = tmp_path / "out" / "sub-01" / "func" / stem.format("fs86_meas-FCcorrHPF")
    other = tmp_path / "out" / "sub-01" / "dwi" / stem.format("tiny4_meas-SCifod2actCount")
    assert json.loads(own.read_text())["PredictedFrom"] == [TINY]
    assert json.loads(own.read_text())["Sources"] == ["sc.mat"]
    assert json.loads(other.read_text())["PredictedFrom"] == [FS86]
    told = json.loads((tmp_path / "out" / "logs" / "prediction.json").read_text())
    assert told["Inputs"] == {TINY: "data/sc.mat", FS86: "fc.npy"}


def test_latents_and_ids_are_kept(tmp_path):
    write(tmp_path / "out")
    latent = (tmp_path / "out" / "sub-a3" / "sub-a3_latent.tsv").read_text()
    assert latent == f"source\tn_inputs\tz000\tz001\tz002\tz003\n{TINY}\t1\t8\t9\t10\t11\n"
    assert not (tmp_path / "out" / "sub-sub2" / "sub-sub2_latent.tsv").exists()
    table = (tmp_path / "out" / "participants.tsv").read_text()
    assert table.splitlines()[1:] == ["sub-01\t01", "sub-sub2\tsub_2", "sub-a3\ta-3"]


def test_an_earlier_data_set_is_replaced_whole(tmp_path):
    write(tmp_path / "out")
    write(tmp_path / "out", ids=("x", "y", "z"))
    labels = sorted(entry.name for entry in (tmp_path / "out").glob("sub-*"))
    assert labels == ["sub-x", "sub-y", "sub-z"]
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_other_folders_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(Problems, match="exists and is no data set of predictions"):
        check_output(tmp_path)
    check_output(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    check_output(tmp_path / "empty")


def test_ids_become_labels():
    assert parse_id("sub-01_ses-a_b") == parse_id("01_ses-ab")
    rows = read_ids(["01_ses-1", "01_ses-2", "b"])
    assert [(row.participant, row.session) for row in rows] == [("01", "1"), ("01", "2"),
                                                                ("b", None)]  # fmt: skip


def test_ids_that_become_the_same_are_refused():
    with pytest.raises(Problems) as caught:
        read_ids(["a_1", "a-1", "b_ses-1", "b_ses-1!", "--"])
    assert str(caught.value).count("would both be") == 2
    assert "'a_1' and 'a-1' would both be a1" in str(caught.value)
    assert "'b_ses-1' and 'b_ses-1!' would both be b" in str(caught.value)
    assert "'--' has no letter or digit" in str(caught.value)


def test_ids_are_looked_at_before_work():
    with pytest.raises(Problems, match="would both be a1"):
        check_output(Path("out"), n_participants=2, participants=["a_1", "a-1"], facts=facts())


def test_what_has_no_name_in_bids_is_refused():
    sizes = {"own": 6, "FCcorr_fs86_hpf": 6, **dict.fromkeys(("FCcorr_a+b_hpf",), 6)}
    told = facts(n_edges=sizes, connectomes=[("fusion", name) for name in sizes],
                 latents=["fusion.noself", "fusionNoself"])  # fmt: skip
    with pytest.raises(Problems) as caught:
        check_output(Path("out"), n_participants=1, facts=told)
    text = str(caught.value)
    assert "flavor 'own' has no name in BIDS" in text
    assert "flavor 'FCcorr_a+b_hpf' has no name" in text
    assert "FCcorr_fs86_hpf has 4 regions, atlas fs86 86" in text
    assert "'fusion.noself' and 'fusionNoself' have the same label" in text


@pytest.mark.slow
def test_the_data_set_is_valid(tmp_path):
    write(tmp_path / "out", ids=("01_ses-a", "01_ses-b", "x.y"))
    program = Path(sys.executable).with_name("bids-validator-deno")
    done = subprocess.run(
        [program, tmp_path / "out", "--format", "json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    issues = json.loads(done.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []
