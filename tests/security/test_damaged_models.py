# SPDX-License-Identifier: MIT
"""Damaged models, adaptations and records of trainings: read, or refused in our words."""

from __future__ import annotations

import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from kraken_bids.connectome.adaptation import Adaptation
from kraken_bids.model.adaptation_file import (
    fitted_lambdas,
    load_adaptations,
    load_provenance,
    save_adaptations,
)
from kraken_bids.model.bundle import open_bundle, write_bundle
from kraken_bids.model.layers import FlavorModel, Layer
from kraken_bids.model.pickles import read_numpy_object, read_torch_file
from kraken_bids.model.projection import PCAProjection
from kraken_bids.model.training.records import (
    Checkpoint,
    Pairs,
    read_checkpoint,
    read_log,
    read_pairs,
)
from kraken_bids.model.transform_files import read_transforms
from kraken_bids.model.transforms import Transform
from kraken_bids.model.weights import MappedWeights
from tests.security.damage import Make, Read

FLAVOR = "FCcorr_toy_hpf"


def _layers() -> FlavorModel:
    rng = np.random.default_rng(5)

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    scale = np.float32([2.0])
    parameters = {"mean": draw(6), "components": draw(4, 6), "input_scale": scale,
                  "output_scale": scale}  # fmt: skip
    return FlavorModel(
        n_edges=6,
        transform=Transform("pca", parameters),
        encoder=(Layer(draw(3, 4), draw(3), ("normalize",)),),
        decoder=(Layer(draw(4, 3), draw(4)),),
    )


def _bundle(which: str) -> Make:
    def make(folder: Path) -> tuple[Path, Read]:
        write_bundle(folder / "m", flavors={FLAVOR: _layers()}, latent_size=3,
                     provenance={"made_by": "a test"})  # fmt: skip

        def read() -> None:
            bundle = open_bundle(folder / "m")
            for flavor in bundle.flavors:
                bundle.flavor_model(flavor)
                bundle.training_mean(flavor)
            weights = MappedWeights(bundle)
            for flavor in bundle.flavors:
                weights.transform(bundle, flavor)
                PCAProjection.from_pretrained(folder / "m", flavor=flavor)

        return folder / "m" / which, read

    return make


def _adaptation(folder: Path) -> tuple[Path, Read]:
    means = np.random.default_rng(1).random((2, 6))
    fitted = Adaptation("meanshift", 1.0, 0.0, 0.9, *means, 9)
    path = folder / "x.safetensors"
    save_adaptations(path, {FLAVOR: fitted}, provenance={"pcorr_lambda": {FLAVOR: 0.1}})
    return path, lambda: (load_adaptations(path), load_provenance(path), fitted_lambdas(path))


def _pickled(folder: Path) -> tuple[Path, Read]:
    row = {"type": "pca", "input_transform_mean": np.arange(6.0), "n": 3,
           "ids": np.array(["a", "bc"]), "o": np.array(["x", None], dtype=object)}  # fmt: skip
    content = {FLAVOR: row}
    path = folder / "x.npy"
    np.save(path, np.array(content), allow_pickle=True)
    return path, lambda: read_numpy_object(path)


def _transform_table(folder: Path) -> tuple[Path, Read]:
    path = folder / "x.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group(FLAVOR)
        group.attrs["type"] = "zscore"
        group["input_mean"] = np.float64(1.0)
        group["input_stdev"] = np.float64(2.0)
    return path, lambda: read_transforms([path])


def _torch_file(folder: Path) -> tuple[Path, Read]:
    """As torch would write ``{"w": tensor of (3, 2)}``; torch itself takes long to load."""
    path = folder / "x.pt"
    storage = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\6tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0K\3K\2\x86K\2K\1\x86\x89}tR"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\2}X\1\0\0\0w" + tensor + b"s.")
        archive.writestr("x/byteorder", "little")
        archive.writestr("x/data/0", np.arange(6, dtype="<f4").tobytes())

    def read() -> None:
        read_torch_file(path)

    np.testing.assert_array_equal(read_torch_file(path)["w"], np.arange(6).reshape(3, 2))
    return path, read


def _checkpoint(folder: Path) -> tuple[Path, Read]:
    path = folder / "c.npz"
    arrays = [np.ones((2, 3), np.float32)]
    Checkpoint("f", 2, arrays, 0.5, 1, arrays).write(path)
    return path, lambda: read_checkpoint(path, expected="f")


def _training_log(folder: Path) -> tuple[Path, Read]:
    path = folder / "log.tsv"
    path.write_text("epoch\tloss\tvalidation\n1\t0.5\tn/a\n2\t0.25\t0.4\n")
    return path, lambda: read_log(path)


def _training_pairs(folder: Path) -> tuple[Path, Read]:
    path = folder / "pairs.tsv"
    Pairs(3, ("a", "b"), ("a", "b"), {"rank": np.eye(2), "top1": np.eye(2)}).write(path)
    return path, lambda: read_pairs(path)


KINDS: dict[str, Make] = {
    "bundle config.json": _bundle("config.json"),
    "bundle weights": _bundle("model.safetensors"),
    "adaptation": _adaptation,
    "reference .npy": _pickled,
    "reference .pt": _torch_file,
    "reference .h5": _transform_table,
    "checkpoint": _checkpoint,
    "training log": _training_log,
    "training pairs": _training_pairs,
}


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_end_in_words(read_damaged, kind):
    assert read_damaged(kind, KINDS[kind]) == []
