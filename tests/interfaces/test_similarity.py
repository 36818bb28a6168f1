# SPDX-License-Identifier: MIT
"""Measured connectomes beside a model's training means: what is read, and what never fails."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kraken_bids.connectome.edges import edges_to_matrix
from kraken_bids.interfaces.similarity import CompareWithMean
from kraken_bids.model.bundle import Bundle, write_bundle
from kraken_bids.model.layers import FlavorModel, Layer
from kraken_bids.model.transforms import Transform

FC, COUNT, OTHER = "FCcorr_toy_hpf", "SCsdstream_toy_count", "FCpcorr_toy_hpf"
MEAN = np.array([1, 2, 3, 4, 5, 6], dtype=np.float32)


@pytest.fixture
def bundle(tmp_path):
    """A model of one flavor of a four-region atlas."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    scales = {name: np.float32([1.0]) for name in ("input_scale", "output_scale")}
    transform = Transform("pca", {"mean": MEAN, "components": draw(2, 6), **scales})
    flavor = FlavorModel(
        n_edges=6, transform=transform, encoder=(Layer(draw(3, 2), draw(3)),),
        decoder=(Layer(draw(2, 3), draw(2)),),
    )  # fmt: skip
    return write_bundle(tmp_path / "model", flavors={FC: flavor}, latent_size=3, provenance={})


def compare(folder, matrices, **inputs):
    """Run the node; give its quality measures."""
    folder.mkdir(exist_ok=True)
    np.savez(folder / "connectomes.npz", **matrices)
    (folder / "given.json").write_text(json.dumps({"fd_mean_mm": 0.1, "regions": {}}))
    node = CompareWithMean(
        connectomes_file=str(folder / "connectomes.npz"), qc_file=str(folder / "given.json"),
        **inputs,
    )  # fmt: skip
    return json.loads(Path(node.run(cwd=str(folder)).outputs.qc_file).read_text())


@pytest.fixture
def matrices():
    edges = np.array([1.0, 2, 3, 4, 6, 5])
    return {
        FC: edges_to_matrix(edges, diagonal=1.0),
        OTHER: edges_to_matrix(edges),
        COUNT: edges_to_matrix(edges),
    }


def test_correlations_are_those_of_the_upper_triangle(tmp_path, bundle, matrices):
    quality = compare(tmp_path / "a", matrices, model_dir=str(bundle.path))
    expected = np.corrcoef([1, 2, 3, 4, 6, 5], MEAN)[0, 1]
    assert quality[f"training_mean_r_{FC}"] == pytest.approx(expected)
    assert quality["training_mean_of"] == {"Name": "model", "SHA256": bundle.sha256}
    assert quality["fd_mean_mm"] == 0.1
    assert quality[f"training_mean_r_{OTHER}"] is None  # a published flavor that it lacks
    assert f"training_mean_r_{COUNT}" not in quality


def test_missing_regions_are_left_out(tmp_path, bundle, matrices):
    matrices[FC][3], matrices[FC][:, 3] = np.nan, np.nan
    quality = compare(tmp_path / "a", matrices, model_dir=str(bundle.path))
    present = np.corrcoef([1, 2, 4], [1, 2, 4])[0, 1]  # edges 0-1, 0-2, 1-2
    assert quality[f"training_mean_r_{FC}"] == pytest.approx(present)


def test_of_the_model_the_mean_alone_is_read(tmp_path, bundle, matrices, monkeypatch):
    read = []
    arrays = Bundle.arrays
    monkeypatch.setattr(
        Bundle, "arrays", lambda self, names, **rest: read.extend(names) or arrays(self, names)
    )
    compare(tmp_path / "a", matrices, model_dir=str(bundle.path))
    assert read == [f"transform.{FC}.mean"]


def test_without_a_model_the_measures_are_empty(tmp_path, matrices):
    quality = compare(tmp_path / "a", matrices)
    assert quality[f"training_mean_r_{FC}"] is None
    assert "training_mean_of" not in quality


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_damaged_model_costs_no_connectome(tmp_path, bundle, matrices, caplog, damage):
    if damage == "gone":
        bundle.weights_file.unlink()
    else:
        bundle.weights_file.write_bytes(bundle.weights_file.read_bytes()[:-4])
    quality = compare(tmp_path / "a", matrices, model_dir=str(bundle.path))
    assert quality[f"training_mean_r_{FC}"] is None
    assert "No correlation with the training mean" in caplog.text


def test_a_mean_of_another_size_tells_nothing(tmp_path, bundle):
    matrices = {FC: edges_to_matrix(np.arange(10.0))}
    quality = compare(tmp_path / "a", matrices, model_dir=str(bundle.path))
    assert quality[f"training_mean_r_{FC}"] is None
