# SPDX-License-Identifier: MIT
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kraken_bids.model.bundle import open_bundle, write_bundle
from kraken_bids.model.layers import FlavorModel, Layer
from kraken_bids.model.transforms import Transform
from kraken_bids.model_commands.cli import main

MINI = str(Path(__file__).parents[1] / "data" / "golden" / "model" / "mini.pt")
SC, FC = "SCsdstream_toy_count", "FCcorr_toy_hpf"


@pytest.fixture
def models(tmp_path):
    """Two bundles that share one flavor's name, but not its weights."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    for name in ("a", "b"):
        flavors = {
            flavor: FlavorModel(
                6,
                Transform("cfeat", {"mean": draw(6)}),
                (Layer(draw(3, 6), draw(3), ("normalize",)),),
                (Layer(draw(6, 3), draw(6)),),
            )
            for flavor in (SC, f"FCcorr_{name}_hpf")
        }
        write_bundle(tmp_path / name, flavors=flavors, latent_size=3, provenance={})
    return [str(tmp_path / name) for name in ("a", "b")]


def test_models_are_merged(models, tmp_path, capsys):
    code = main(
        ["merge", "--models", *models, "--output", str(tmp_path / "m"), "--rename",
         f"b:{SC}=SCsdstream_toy_sift2", f"FCcorr_a_hpf={FC}", "--flavors", FC, SC,
         "SCsdstream_toy_sift2", "--name", "joined"]
    )  # fmt: skip
    assert code == 0
    assert "3 flavors, SHA-256" in capsys.readouterr().out
    merged = open_bundle(tmp_path / "m")
    assert (merged.name, merged.flavors) == ("joined", (FC, SC, "SCsdstream_toy_sift2"))
    np.testing.assert_array_equal(
        merged.training_mean("SCsdstream_toy_sift2"), open_bundle(models[1]).training_mean(SC)
    )


def test_one_is_preferred(models, tmp_path):
    arguments = ["merge", "--models", *models, "--output", str(tmp_path / "m")]
    assert main([*arguments, "--prefer", "b"]) == 0
    np.testing.assert_array_equal(
        open_bundle(tmp_path / "m").training_mean(SC), open_bundle(models[1]).training_mean(SC)
    )


def test_one_flavor_is_told_as_one(models, tmp_path, capsys):
    arguments = ["merge", "--models", *models, "--output", str(tmp_path / "m")]
    assert main([*arguments, "--prefer", "b", "--flavors", SC]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'm'}: 1 flavor, SHA-256 ")


def test_what_cannot_be_merged_is_told(models, tmp_path, capsys):
    output = ["--output", str(tmp_path / "m")]
    assert main(["merge", "--models", *models, *output]) == 3
    assert f"both have {SC}, with different weights" in capsys.readouterr().err
    assert main(["merge", "--models", models[0], MINI, "none", *output]) == 2
    error = capsys.readouterr().err
    assert "mini.pt). Make a bundle of it first" in error
    assert "'none' is neither a folder nor" in error
    assert main(["merge", "--models", *models, *output, "--rename", "x"]) == 2
    assert "'x' is not NAME=VALUE" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()
