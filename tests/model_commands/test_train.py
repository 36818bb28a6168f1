# SPDX-License-Identifier: MIT
import numpy as np
import pytest

from kraken_bids.model.bundle import open_bundle
from kraken_bids.model_commands.cli import main

FLAVORS = ("FCcorr_fs86_hpf", "SCsdstream_fs86_volnorm")
QUICK = ["--components", "4", "--latent-size", "8", "--epochs", "2", "--device", "cpu"]


@pytest.fixture
def inputs(tmp_path):
    """Two flavors of twelve participants; the second file has them in another order, one less."""
    rng = np.random.default_rng(2)
    ids = [f"p{index}" for index in range(12)]
    texts = []
    for flavor, order in zip(FLAVORS, (range(12), range(11, 0, -1)), strict=True):
        values = rng.standard_normal((12, 3655)).astype(np.float32)
        file = tmp_path / f"{flavor}.npz"
        np.savez(file, data=values[list(order)], subjects=[ids[row] for row in order])
        texts.append(f"{flavor}={file}")
    return texts


def test_train_makes_a_bundle_of_participants_with_all_flavors(inputs, tmp_path, caplog):
    assert main(["train", "--input", *inputs, "--output", str(tmp_path / "model"), *QUICK]) == 0
    bundle = open_bundle(tmp_path / "model")
    assert bundle.flavors == FLAVORS
    assert bundle.config["provenance"]["n_participants"] == 11
    assert "1 of 12 participants are left out" in caplog.text


def test_train_refuses_an_unknown_atlas(inputs, tmp_path, capsys):
    wrong = inputs[0].replace("fs86_hpf=", "fs68_hpf=")
    code = main(["train", "--input", wrong, "--output", str(tmp_path / "model"), *QUICK])
    assert code == 2
    assert "Did you mean 'fs86'" in capsys.readouterr().err


def test_train_takes_flavors_of_any_atlas(tmp_path):
    rng = np.random.default_rng(4)
    texts = []
    for flavor in ("FCcorr_mine7_hpf", "SCsdstream_mine7_volnorm"):
        np.savez(tmp_path / f"{flavor}.npz", data=rng.normal(size=(9, 21)), subjects=range(9))
        texts.append(str(tmp_path / f"{flavor}.npz"))  # the file's name tells the flavor
    assert main(["train", "--input", *texts, "--output", str(tmp_path / "model"), *QUICK]) == 0
    assert open_bundle(tmp_path / "model").n_edges("FCcorr_mine7_hpf") == 21


def test_train_refuses_an_atlas_of_another_size(inputs, tmp_path, capsys):
    wrong = inputs[0].replace("fs86_hpf=", "shen268_hpf=")
    code = main(["train", "--input", wrong, "--output", str(tmp_path / "model"), *QUICK])
    assert code == 3
    assert "holds 86 regions, atlas 'shen268' has 268" in capsys.readouterr().err


def test_train_leaves_out_participants_with_missing_edges(inputs, tmp_path, caplog):
    file = tmp_path / f"{FLAVORS[0]}.npz"
    content = dict(np.load(file))
    content["data"][3, 5] = np.nan
    np.savez(file, **content)
    assert main(["train", "--input", *inputs, "--output", str(tmp_path / "model"), *QUICK]) == 0
    assert f"{FLAVORS[0]}: participants p3 lack single edges" in caplog.text
    assert open_bundle(tmp_path / "model").config["provenance"]["n_participants"] == 10


def test_train_refuses_too_many_components(inputs, tmp_path, capsys):
    code = main([
        "train", "--input", *inputs, "--output", str(tmp_path / "model"),
        *QUICK, "--components", "64",
    ])  # fmt: skip
    assert code == 3
    assert "64 components cannot be fitted to 11 participants" in capsys.readouterr().err


def test_train_keeps_families_together_and_says_who_trained(inputs, tmp_path):
    table = tmp_path / "families.tsv"
    rows = [f"sub-p{index}\tfamily{index // 2}" for index in range(12)]
    table.write_text("\n".join(["participant_id\tfamily", *rows]) + "\n")
    code = main([
        "train", "--input", *inputs, "--output", str(tmp_path / "model"), *QUICK,
        "--components", "2", "--validation", "0.3", "--test", "0.2",
        "--group-column", f"{table}:family",
    ])  # fmt: skip
    assert code == 0
    written = (tmp_path / "model-training" / "split.tsv").read_text("utf-8").splitlines()[1:]
    part = dict(line.removeprefix("sub-").split("\t") for line in written)
    assert len(part) == 11
    assert set(part.values()) == {"train", "validation", "test"}
    assert all(part[f"p{i}"] == part[f"p{i + 1}"] for i in range(2, 11, 2))
    # the table of the split is read again, and gives the same model
    split = tmp_path / "model-training" / "split.tsv"
    again = ["--split", str(split), "--components", "2"]
    assert (
        main(["train", "--input", *inputs, "--output", str(tmp_path / "b"), *QUICK, *again]) == 0
    )
    provenance = [open_bundle(tmp_path / name).config["provenance"] for name in ("model", "b")]
    assert provenance[0]["n_participants"] == provenance[1]["n_participants"]


def test_train_goes_on_from_a_checkpoint(inputs, tmp_path):
    words = ["train", "--input", *inputs, "--output", str(tmp_path / "model"), *QUICK]
    assert main(words) == 0
    sha256 = open_bundle(tmp_path / "model").sha256
    assert main([*words, "--resume"]) == 0
    assert open_bundle(tmp_path / "model").sha256 == sha256
    assert (tmp_path / "model-training" / "training.tsv").is_file()


def test_train_tells_all_that_is_wrong_at_once(inputs, tmp_path, capsys):
    code = main([
        "train", "--input", *inputs, "--output", str(tmp_path / "model"), *QUICK,
        "--dropout", "2", "--loss", "foo", "--validation", "1", "--group-column", "nowhere.tsv:f",
    ])  # fmt: skip
    told = capsys.readouterr().err
    assert code == 3
    for text in ("--dropout", "'foo' is no term", "--validation", "nowhere.tsv"):
        assert text in told
    assert not (tmp_path / "model").exists()


def test_train_by_the_reference_schedule(inputs, tmp_path):
    code = main([
        "train", "--input", *inputs, "--output", str(tmp_path / "model"), *QUICK,
        "--schedule", "reference", "--batch-size", "5",
    ])  # fmt: skip
    assert code == 0
    options = open_bundle(tmp_path / "model").config["provenance"]["options"]
    assert options["loss"].startswith("correye+enceye.w10+neidist")
    assert options["learning_rate"] == 1e-4
    assert options["output_dropout"] == 0.5
