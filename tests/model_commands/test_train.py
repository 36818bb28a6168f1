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


def test_train_refuses_too_many_components(inputs, tmp_path, capsys):
    code = main([
        "train", "--input", *inputs, "--output", str(tmp_path / "model"),
        *QUICK, "--components", "64",
    ])  # fmt: skip
    assert code == 3
    assert "64 components cannot be fitted to 11 participants" in capsys.readouterr().err
