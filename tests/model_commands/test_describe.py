# SPDX-License-Identifier: MIT
from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from kraken_bids.fetch import RESOURCES_VARIABLE
from kraken_bids.model.bundle import convert_checkpoint
from kraken_bids.model_commands.cli import main

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "model"
MINI = GOLDEN / "mini.pt"


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    folder = tmp_path_factory.mktemp("describe") / "b"
    return convert_checkpoint([MINI], [GOLDEN / "mini_ioxfm.npy"], folder, name="mini").path


def test_a_bundle_and_a_checkpoint_are_described(mini, capsys):
    for what in (mini, MINI):
        assert main(["describe", str(what)]) == 0
        told = capsys.readouterr().out
        assert "latents of 16 values, of length 1" in told
        assert "5,360 weights" in told
        assert told.count(" 86 ") == 5
        assert told.count("32 -> 16 normalize") == 5
        assert '"epoch": 99' in told


def test_everything_is_told_as_json(mini, capsys):
    assert main(["describe", "--model", str(mini), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    row = found["flavors"]["FCcorr_fs86_hpf"]
    assert (row["kind"], row["atlas"], row["n_regions"], row["n_edges"], row["n_features"]) == (
        "FCcorr", "fs86", 86, 3655, 32,
    )  # fmt: skip
    assert row["n_participants"] == 43
    assert 0.98 < row["explained_variance"] < 0.99
    assert (row["encoder"], row["decoder"]) == ("32 -> 16 normalize", "16 -> 32")
    # encoder and decoder: 32 * 16 weights each, 16 and 32 biases
    assert found["n_parameters"] == 5 * (2 * 32 * 16 + 16 + 32)
    assert found["n_transform_values"] == 5 * (32 * 3655 + 3655 + 2)
    assert found["n_bytes"] == sum(file.stat().st_size for file in mini.iterdir())
    sources = {row["file"]: row["sha256"] for row in found["provenance"]["sources"]}
    assert sources["mini.pt"] == hashlib.sha256(MINI.read_bytes()).hexdigest()

    assert main(["describe", str(MINI), "--json"]) == 0
    checkpoint = json.loads(capsys.readouterr().out)
    assert set(checkpoint) == set(found)
    assert checkpoint["n_parameters"] == found["n_parameters"]
    assert checkpoint["flavors"]["FCcorr_fs86_hpf"]["encoder"] == row["encoder"]


def test_published_models_are_described_where_they_are_and_not_fetched(
    mini, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv(RESOURCES_VARIABLE, str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main(["describe", "krakencoder-2024"]) == 3
    assert "not on this machine (krakencoder-2024). Fetch it with" in capsys.readouterr().err
    shutil.copytree(mini, tmp_path / "krakencoder-2024")
    assert main(["describe", "krakencoder-2024"]) == 0
    assert "bundle mini" in capsys.readouterr().out


def test_weights_are_verified(mini, tmp_path, capsys):
    shutil.copytree(mini, tmp_path / "b")
    assert main(["describe", str(tmp_path / "b"), "--verify"]) == 0
    with (tmp_path / "b" / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"x")
    assert main(["describe", str(tmp_path / "b"), "--verify"]) == 3
    assert "was altered" in capsys.readouterr().err
    assert main(["describe", str(MINI), "--verify"]) == 3


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "0 models are given"),
        (["a", "--model", "b"], 2, "2 models are given"),
        (["krakencoder-2042"], 2, "Did you mean 'krakencoder-2024'"),
        ([str(GOLDEN)], 3, "is not a model bundle"),
        ([str(GOLDEN / "mini_ioxfm.npy")], 3, "damaged or of another kind"),
    ],
)
def test_what_cannot_be_described_is_told_in_one_line(arguments, code, message, capsys):
    assert main(["describe", *arguments]) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
