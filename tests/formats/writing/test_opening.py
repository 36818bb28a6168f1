# SPDX-License-Identifier: MIT
"""Predictions into files: which formats there are, and that they appear whole or not at all."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import pytest

from kraken_bids.connectome.edges import edges_to_matrix
from kraken_bids.errors import InputError, UsageError
from kraken_bids.formats.inputs import Wanted
from kraken_bids.formats.outputs import Latents, OutputFacts
from kraken_bids.formats.reading.hdf5 import open_hdf5
from kraken_bids.formats.writing.opening import check_output, open_output

N_EDGES = {"FCcorr_fs86_hpf": 3655, "SCifod2act_tiny4_count": 6}
IDS = ("01", "02", "a3")


@dataclass
class Given:
    """A prediction that is there already, as a writer takes it."""

    source: str
    target: str
    values: np.ndarray
    n_inputs: np.ndarray = field(default_factory=lambda: np.ones(len(IDS), dtype=np.int64))

    @property
    def shape(self):
        return self.values.shape

    def batches(self):
        for start in range(0, len(self.values), 2):
            yield start, self.values[start : start + 2]

    def columns(self, start, stop):
        return self.values[:, start:stop]


@pytest.fixture
def predictions():
    """Latents of two sources, and from each both flavors; one participant has none."""
    rng = np.random.default_rng(0)
    found = []
    for source in ("SCifod2act_tiny4_count", "fusion.noself"):
        n_inputs = np.array([1, 0, 2])
        values = rng.normal(size=(3, 8)).astype(np.float32)
        values[1] = np.nan
        found.append(Latents(source, values, n_inputs))
        for target, n in N_EDGES.items():
            values = rng.normal(size=(3, n)).astype(np.float32)
            values[1] = np.nan
            found.append(Given(source, target, values, n_inputs))
    return found


def facts(predictions, **changes):
    sources = [item.source for item in predictions if isinstance(item, Latents)]
    pairs = [(item.source, item.target) for item in predictions if isinstance(item, Given)]
    return OutputFacts(n_edges=N_EDGES, latent_size=8, connectomes=pairs, latents=sources,
                       model_name="tiny", model_sha256="0" * 64,
                       fusions={"fusion": ("SCifod2act_tiny4_count",)}, **changes)  # fmt: skip


def write(path, predictions, *, told=(), **changes):
    announced = facts(told or predictions, **changes)
    with open_output(path, participants=IDS, facts=announced) as writer:
        for item in predictions:
            if isinstance(item, Latents):
                writer.add_latents(item)
            else:
                writer.add_connectomes(item)
    return path


def test_npz_holds_arrays_by_source_and_target(tmp_path, predictions):
    with np.load(write(tmp_path / "out.npz", predictions)) as stored:
        assert tuple(stored["participants"]) == IDS
        for item in predictions:
            name = f"{item.source}__{getattr(item, 'target', 'encoded')}"
            assert stored[name].dtype == np.float32
            np.testing.assert_array_equal(stored[name], item.values)


def test_npz_holds_matrices_if_asked(tmp_path, predictions):
    with np.load(write(tmp_path / "out.npz", predictions, square=True)) as stored:
        matrices = stored["fusion.noself__SCifod2act_tiny4_count"]
        values = predictions[-1].values
    np.testing.assert_array_equal(matrices, edges_to_matrix(values, diagonal=np.nan))


def test_equal_predictions_make_equal_npz_files(tmp_path, predictions):
    first, second = (write(tmp_path / name, predictions) for name in ("a.npz", "b.npz"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("name", ["out.npz", "out.h5", "out.mat", "out"])
def test_nothing_is_left_of_an_output_that_fails(tmp_path, predictions, name):
    broken = [*predictions[:2], Given("a", "FCcorr_fs86_hpf", None)]
    told = [*predictions, Given("a", "FCcorr_fs86_hpf", predictions[1].values)]
    with pytest.raises((AttributeError, TypeError)):
        write(tmp_path / name, broken, told=told)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["out.csv", "out.nzp", "out.tar.gz"])
def test_unknown_kinds_of_output_are_refused(name):
    with pytest.raises(UsageError, match=r"of no kind that is written .*\.npz"):
        check_output(Path(name))


def test_a_folder_that_ends_as_a_file_does_is_refused(tmp_path):
    (tmp_path / "out.npz").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        check_output(tmp_path / "out.npz")


def test_hdf5_holds_data_sets_by_source_and_target(tmp_path, predictions):
    path = write(tmp_path / "out.h5", predictions, provenance={"Site": "here"})
    with h5py.File(path) as stored:
        assert tuple(stored["participants"].asstr()) == IDS
        assert json.loads(stored["facts"].asstr()[()])["Site"] == "here"
        for item in predictions:
            found = stored[f"{item.source}/{getattr(item, 'target', 'encoded')}"]
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, item.values)


@pytest.mark.parametrize("square", [False, True])
def test_predictions_in_hdf5_are_read_back_as_input(tmp_path, predictions, square):
    last = [item for item in predictions if item.source == "fusion.noself"]
    path = write(tmp_path / "out.h5", last, square=square)
    inputs = open_hdf5(path, Wanted(N_EDGES, latent_size=8))
    assert set(inputs) == set(N_EDGES)
    for item in last[1:]:
        found = inputs[item.target]
        assert found.participants == IDS
        np.testing.assert_array_equal(found.read([0, 2]), item.values[[0, 2]])
        np.testing.assert_array_equal(found.read([1, 2]), item.values[1:])
    latents = open_hdf5(path, Wanted(N_EDGES, latent_size=8, name="encoded"))
    np.testing.assert_array_equal(latents["encoded"].read([0, 1, 2]), last[0].values)


def test_without_a_model_all_flavors_of_an_hdf5_file_are_read(tmp_path, predictions):
    path = write(tmp_path / "out.h5", predictions[:3])
    assert {name: item.n_columns for name, item in open_hdf5(path, Wanted({})).items()} == N_EDGES


def test_a_flavor_from_several_sources_is_no_input(tmp_path, predictions):
    path = write(tmp_path / "out.h5", predictions)
    with pytest.raises(UsageError, match=r"from 2 sources: .*--predict-from"):
        open_hdf5(path, Wanted(N_EDGES))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (Wanted({"FCcorr_fs86_hpf": 6}), "has 3 x 3655 values of FCcorr_fs86_hpf for 3"),
        (Wanted({"FCcorr_shen268_hpf": 35778}), "has no flavor that the model has"),
        (Wanted(N_EDGES, name="FCcor_fs86_hpf"), "Did you mean 'FCcorr_fs86_hpf'"),
    ],
)
def test_what_is_not_in_an_hdf5_file_is_told(tmp_path, predictions, wanted, message):
    path = write(tmp_path / "out.h5", predictions[3:])
    with pytest.raises(InputError, match=message):
        open_hdf5(path, wanted)


def test_other_hdf5_files_are_told_apart(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = np.zeros(3)
    with pytest.raises(InputError, match="is no HDF5 file of predictions"):
        open_hdf5(tmp_path / "other.h5", Wanted(N_EDGES))
    (tmp_path / "text.h5").write_text("text")
    with pytest.raises(InputError, match="cannot be read as an HDF5 file"):
        open_hdf5(tmp_path / "text.h5", Wanted(N_EDGES))
