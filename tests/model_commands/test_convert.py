# SPDX-License-Identifier: MIT
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kraken_bids.model.bundle import open_bundle
from kraken_bids.model.projection import PCAProjection
from kraken_bids.model_commands.cli import main

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "model"
MINI, TRANSFORMS = str(GOLDEN / "mini.pt"), str(GOLDEN / "mini_ioxfm.npy")
FLAVOR = "SCsdstream_fs86_volnorm"


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    """A bundle made by ``convert``."""
    folder = tmp_path_factory.mktemp("convert") / "b"
    arguments = ["--checkpoint", MINI, "--transforms", TRANSFORMS, "--output", str(folder)]
    assert main(["convert", *arguments, "--name", "mini"]) == 0
    return folder


def test_there_and_back_again_is_the_same_model(mini, tmp_path, capsys):
    prefix = str(tmp_path / "out" / "again")
    assert main(["convert", "--model", str(mini), "--to-reference", prefix]) == 0
    files = capsys.readouterr().out.split()
    assert files == [f"{prefix}.pt", f"{prefix}_ioxfm.npy"]
    arguments = ["--checkpoint", files[0], "--transforms", files[1]]
    assert main(["convert", *arguments, "--output", str(tmp_path / "b")]) == 0
    assert "5 flavors, SHA-256" in capsys.readouterr().out
    assert open_bundle(tmp_path / "b").sha256 == open_bundle(mini).sha256


@pytest.mark.parametrize("source", ["--transforms", "--model"])
def test_a_projection_is_taken_out(mini, tmp_path, capsys, source):
    given = TRANSFORMS if source == "--transforms" else str(mini)
    code = main(
        ["convert", source, given, "--flavor", FLAVOR, "--pairs-with", "mini", "--projection",
         str(tmp_path / "p"), "--name", "mine"]
    )  # fmt: skip
    assert code == 0
    assert f"{FLAVOR}, 3655 edges to 32 scores" in capsys.readouterr().out
    projection = PCAProjection.from_pretrained(tmp_path / "p")
    assert (projection.flavor, projection.pairs_with) == (FLAVOR, "mini")
    mean = open_bundle(mini).training_mean(FLAVOR)
    np.testing.assert_array_equal(projection.mean_, mean)
    assert (tmp_path / "p" / "README.md").read_text().count("# mine\n") == 1


def test_a_failed_checkpoint_is_refused(tmp_path, capsys):
    nan = str(GOLDEN / "nan_example.pt")
    arguments = ["--checkpoint", nan, "--transforms", TRANSFORMS]
    assert main(["convert", *arguments, "--output", str(tmp_path / "b")]) == 3
    assert "its training failed" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing is to be made"),
        (["--output", "o", "--projection", "p"], "--output and --projection is to be made"),
        (["--output", "o"], "a bundle is made of checkpoints"),
        (["--output", "o", "--model", "m"], "a bundle is made of checkpoints, not of a bundle"),
        (["--output", "o", "--checkpoint", MINI, "--flavor", "x"], "is of a projection only"),
        (["--to-reference", "r"], "files are made of a bundle"),
        (["--to-reference", "r", "--checkpoint", MINI], "files are made of a bundle"),
        (["--to-reference", "r", "--model", "none"], "neither a folder nor the name"),
        (["--projection", "p"], "made of one transform file or of one bundle"),
        (["--projection", "p", "--transforms", "a", "b"], "made of one transform file"),
        (["--projection", "p", "--transforms", TRANSFORMS], "none is named"),
        (["--projection", "p", "--transforms", TRANSFORMS, "--flavor", "x"], "'x' is not in it"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(
    arguments, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["convert", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
