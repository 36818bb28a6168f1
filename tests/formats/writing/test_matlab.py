# SPDX-License-Identifier: MIT
"""MATLAB files in the reference's layout: what SciPy writes and what we write read alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from kraken_bids.errors import Problems, UsageError
from kraken_bids.formats.outputs import Latents, OutputFacts
from kraken_bids.formats.writing.opening import check_output, open_output

IDS = ("01", "subject2", "a3")
N_EDGES = {"FCcorr_fs86_hpf": 3655, "SCifod2act_tiny4_count": 6}
SOURCES = ("SCifod2act_tiny4_count", "fusion.noself")
FUSIONS = {"fusion": ("SCifod2act_tiny4_count", "FCcorr_fs86_hpf")}


class Given:
    """A prediction that is there already, as a writer takes it."""

    def __init__(self, source, target, values):
        self.source, self.target, self.values = source, target, values
        self.shape, self.n_inputs = values.shape, np.ones(len(values), dtype=np.int64)

    def batches(self):
        for start in range(0, len(self.values), 2):
            yield start, self.values[start : start + 2]

    def columns(self, start, stop):
        return self.values[:, start:stop]


def edges(source, target, n=3):
    seed = SOURCES.index(source) * 10 + len(target)
    width = N_EDGES.get(target, 8)
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


def facts(**changes):
    pairs = [(source, target) for source in SOURCES for target in N_EDGES]
    inputs = {"FCcorr_fs86_hpf": "fc.mat", "SCifod2act_tiny4_count": "dir/sc.mat"}
    values = {"n_edges": N_EDGES, "latent_size": 8, "connectomes": pairs, "latents": SOURCES,
              "model_name": "models/a.pt", "fusions": FUSIONS, "inputs": inputs}  # fmt: skip
    return OutputFacts(**{**values, **changes})


def write(path, ids=IDS, **changes):
    told = facts(**changes)
    with open_output(path, participants=ids, facts=told) as writer:
        # Target by target, as the engine goes: other than in the file.
        for source, target in sorted(told.connectomes, key=lambda pair: pair[1]):
            writer.add_connectomes(Given(source, target, edges(source, target, len(ids))))
        for source in told.latents:
            values = edges(source, "encoded", len(ids))
            writer.add_latents(Latents(source, values, np.ones(len(ids), dtype=np.int64)))
    return path


def write_as_reference(path, predicted, ids=IDS):
    content = {
        "checkpoint": "models/a.pt",
        "recordfile": "",
        "inputfiles": ["fc.mat", "dir/sc.mat"],
        "subjects": list(ids),
        "inputtypes": list(predicted),
        "outputtypes": list(next(iter(predicted.values()))),
        "predicted_alltypes": predicted,
        "fusionmode_inputtypes": {name: list(members) for name, members in FUSIONS.items()},
    }
    savemat(path, content, format="5", do_compression=True, long_field_names=True)
    return path


def assert_alike(found, expected, where=""):
    assert type(found) is type(expected), where
    if isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key in expected:
            assert_alike(found[key], expected[key], f"{where}/{key}")
    elif isinstance(expected, np.ndarray) and expected.dtype.names:
        assert found.dtype.names == expected.dtype.names, where
        assert found.shape == expected.shape, where
        for key in expected.dtype.names:
            assert_alike(found[key], expected[key], f"{where}/{key}")
    elif isinstance(expected, np.ndarray) and expected.dtype == object:
        assert found.shape == expected.shape, where
        for one, other in zip(found.flat, expected.flat, strict=True):
            assert_alike(one, other, f"{where}[]")
    elif isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype, where
        np.testing.assert_array_equal(found, expected, err_msg=where)
    else:
        assert found == expected, where


def without_header(content):
    return {key: value for key, value in content.items() if not key.startswith("__")}


@pytest.mark.parametrize("simplify", [False, True], ids=["as stored", "simplified"])
@pytest.mark.parametrize("ids", [IDS, ("01",)], ids=["several", "one"])
def test_a_file_reads_as_one_of_the_reference(tmp_path, ids, simplify):
    targets = ("encoded", *N_EDGES)
    predicted = {
        source: {target: edges(source, target, len(ids)) for target in targets}
        for source in SOURCES
    }
    theirs = write_as_reference(tmp_path / "theirs.mat", predicted, ids)
    ours = write(tmp_path / "ours.mat", ids)
    found, expected = (
        without_header(loadmat(path, simplify_cells=simplify)) for path in (ours, theirs)
    )
    if simplify:
        expected["recordfile"] = str(expected["recordfile"])
        found["recordfile"] = str(found["recordfile"])
    assert_alike(found, expected)


def test_square_output_is_a_cell_of_matrices(tmp_path):
    def cell(rows):
        size = {3655: 86, 6: 4}[rows.shape[1]]
        cells = np.empty(len(rows), dtype=object)
        for row, values in enumerate(rows):
            cells[row] = np.full((size, size), np.nan, dtype=np.float32)
            upper = np.triu_indices(size, 1)
            cells[row][upper] = cells[row].T[upper] = values
        return cells

    predicted = {
        source: {target: cell(edges(source, target)) for target in N_EDGES} for source in SOURCES
    }
    theirs = write_as_reference(tmp_path / "theirs.mat", predicted)
    ours = write(tmp_path / "ours.mat", square=True, latents=())
    assert_alike(*(without_header(loadmat(path)) for path in (ours, theirs)))


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("{input}.mat", ["SCifod2act_tiny4_count.mat", "fusion.noself.mat"]),
        ("to_{TRG}.mat", ["to_FCcorr_fs86_hpf.mat", "to_SCifod2act_tiny4_count.mat",
                          "to_encoded.mat"]),
        ("{s}-{o}.mat", [f"{source}-{target}.mat" for source in SOURCES
                         for target in (*N_EDGES, "encoded")]),
    ],
)  # fmt: skip
def test_placeholders_deal_predictions_out(tmp_path, name, files):
    write(tmp_path / name)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(files)
    n_found = 0
    for file in tmp_path.iterdir():
        for source, targets in loadmat(file, simplify_cells=True)["predicted_alltypes"].items():
            for target, values in targets.items():
                np.testing.assert_array_equal(values, edges(source, target))
                n_found += 1
    assert n_found == 6


def test_unknown_placeholders_are_refused():
    with pytest.raises(UsageError, match=r"\{outpt\} is unknown .*'output'"):
        check_output(Path("to_{outpt}.mat"))
    with pytest.raises(UsageError, match=r"are for \.mat files"):
        check_output(Path("to_{output}.npz"))


def test_what_a_matlab_file_cannot_hold_is_refused_before_work(tmp_path):
    sizes = {f"FCcorr_atlas{i}_hpf": 96141 for i in range(15)}
    told = facts(n_edges=sizes, connectomes=[("fusion", target) for target in sizes])
    with pytest.raises(Problems, match=r"GB are more .*Put \{output\} and \{input\} into"):
        check_output(Path("all.mat"), n_participants=1000, facts=told)
    check_output(Path("{output}.mat"), n_participants=1000, facts=told)
    with pytest.raises(Problems, match=r"of 6000 participants: 2\.3 GB"):
        check_output(Path("{output}.mat"), n_participants=6000, facts=told)
    with pytest.raises(Problems, match="cannot be that of a field"):
        check_output(Path("a.mat"), n_participants=1, facts=facts(latents=("x" * 64,)))


def test_a_prediction_that_never_comes_is_no_file(tmp_path):
    opened = open_output(tmp_path / "a.mat", participants=IDS, facts=facts())
    message = r"never handed over: .*fusion\.noself to encoded"
    with pytest.raises(ValueError, match=message), opened:
        pass
    assert list(tmp_path.iterdir()) == []
