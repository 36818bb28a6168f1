# SPDX-License-Identifier: MIT
"""An adaptation is not used on partial correlations of another lambda without a word."""

import json

import numpy as np
import pytest

from kraken_bids.model.adaptation_file import load_provenance
from kraken_bids.model.bundle import write_bundle
from kraken_bids.model.layers import FlavorModel, Layer
from kraken_bids.model.transforms import Transform
from kraken_bids.model_commands.cli import main

PARTIAL = "FCpcorr_fs86_hpf"
IDS = [f"p{i}" for i in range(25)]


@pytest.fixture
def model_dir(tmp_path):
    rng = np.random.default_rng(2)
    rising = np.arange(6, dtype=np.float32)
    weights = rng.normal(size=(2, 3, 6)).astype(np.float32)
    zeros = np.zeros(6, np.float32)
    flavor = FlavorModel(
        6, Transform("cfeat", {"mean": rising}), (Layer(weights[0], zeros[:3], ("normalize",)),),
        (Layer(weights[1].T.copy(), zeros),),
    )  # fmt: skip
    return write_bundle(
        tmp_path / "model", flavors={PARTIAL: flavor}, latent_size=3, provenance={}
    ).path


@pytest.fixture
def predict(tmp_path, model_dir, capfd):
    """Run ``kraken-model predict`` on connectomes with a lambda; exit code and what it said."""

    def predict(name, *words, **stored):
        edges = np.arange(6) + np.random.default_rng(1).normal(size=(25, 6))
        np.savez(tmp_path / f"{name}.npz", data=edges, subjects=IDS, **stored)
        given = ["predict", "--model", model_dir, "--input", f"{PARTIAL}={tmp_path / name}.npz",
                 "--output", tmp_path / "out.npz", *words]  # fmt: skip
        code = main([str(word) for word in given])
        return code, capfd.readouterr().err

    return predict


@pytest.fixture
def fitted(tmp_path, predict):
    file = tmp_path / "fit.safetensors"
    words = ["--adaptation", "meanfit+meanshift", "--save-adaptation", file]
    assert predict("first", *words, **{"lambda": 0.1})[0] == 0
    return file


def test_saved_adaptation_names_the_lambda(fitted):
    assert load_provenance(fitted)["pcorr_lambda"] == {PARTIAL: 0.1}
    content = json.loads(fitted.with_suffix(".json").read_text("utf-8"))
    assert content["provenance"]["pcorr_lambda"] == {PARTIAL: 0.1}


def test_another_lambda_is_refused_and_an_unknown_one_told(predict, fitted, tmp_path, caplog):
    code, told = predict("same", "--adaptation", fitted, **{"lambda": 0.1 * (1 + 1e-9)})
    assert code == 0
    assert "lambda" not in told + caplog.text
    code, told = predict("other", "--adaptation", fitted, **{"lambda": 0.06})
    assert code == 2
    assert f"was fitted on {PARTIAL} with lambda 0.1, but those to adapt have 0.06" in told
    assert "kraken-model pcorr --input FCcorr_fs86_hpf=… --lambda 0.1" in told
    assert predict("unknown", "--adaptation", fitted)[0] == 0
    assert "that of 25 to adapt is not known" in caplog.text
    sidecar = tmp_path / "told.json"
    sidecar.write_text('{"Regularization": 0.3}')
    assert predict("told", "--adaptation", fitted)[0] == 2
