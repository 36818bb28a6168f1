# SPDX-License-Identifier: MIT
from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kraken_bids.connectome.edges import edges_to_matrix
from kraken_bids.errors import InputError, KrakenBIDSError, UsageError
from kraken_bids.formats.inputs import Wanted
from kraken_bids.formats.reading import records
from kraken_bids.formats.reading.arrays import open_npy, open_npz

N_EDGES = 6
FLAVOR = "FCcorr_toy_hpf"
WANTED = Wanted({FLAVOR: N_EDGES}, 3, FLAVOR)
SAVERS = {"plain": np.savez, "compressed": np.savez_compressed}


@pytest.fixture
def edges(rng):
    return rng.normal(size=(3, N_EDGES)).astype(np.float32)


LAYOUTS = {
    "square": lambda m, e: m,
    "fortran": lambda m, e: np.asfortranarray(m),
    "participants-last": lambda m, e: np.ascontiguousarray(np.moveaxis(m, 0, 2)),
    "triangle": lambda m, e: e,
    "triangle-fortran": lambda m, e: np.asfortranarray(e),
    "float64": lambda m, e: m.astype(np.float64),
    "big-endian": lambda m, e: m.astype(">f8"),
}


@pytest.mark.parametrize("held", [records.HELD_BYTES, 0], ids=["held", "spooled"])
@pytest.mark.parametrize("arrange", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("kind", ["npy", *SAVERS])
def test_arrays_of_all_layouts_are_read(tmp_path, edges, arrange, kind, held, monkeypatch):
    monkeypatch.setattr(records, "HELD_BYTES", held)
    values = arrange(edges_to_matrix(edges, diagonal=np.nan), edges)
    if kind == "npy":
        np.save(tmp_path / "c.npy", values)
        found = open_npy(tmp_path / "c.npy", WANTED)[FLAVOR]
    else:
        SAVERS[kind](tmp_path / "c.npz", data=values, subjects=["a", "b", "c"])
        found = open_npz(tmp_path / "c.npz", WANTED)[FLAVOR]
        assert found.participants == ("a", "b", "c")
    for positions in ([0, 1, 2], [0, 2], [1]):
        rows = found.read(positions)
        np.testing.assert_array_equal(rows, edges[positions])
        assert rows.dtype == np.float32


def test_columns_are_told_by_the_number_of_ids(tmp_path, edges):
    np.savez(tmp_path / "c.npz", data=edges.T, subjects=["a", "b", "c"])
    found = open_npz(tmp_path / "c.npz", WANTED)[FLAVOR]
    np.testing.assert_array_equal(found.read([0, 1, 2]), edges)


def test_npy_files_have_no_ids(tmp_path, edges):
    np.save(tmp_path / "c.npy", edges)
    found = open_npy(tmp_path / "c.npy", WANTED)[FLAVOR]
    assert found.participants is None
    assert found.n == 3


def test_latents_written_by_predict_are_read(tmp_path):
    latent = np.arange(6, dtype=np.float32).reshape(2, 3)
    content = {"fusion__encoded": latent, "participants": ["a", "b"]}
    np.savez(tmp_path / "z.npz", **content, fusion__FCcorr_toy_hpf=np.ones((2, 6)))
    for name in ("encoded", ""):
        wanted = Wanted({FLAVOR: N_EDGES}, 3, name)
        np.testing.assert_array_equal(
            open_npz(tmp_path / "z.npz", wanted)["encoded"].read([0, 1]), latent
        )
    np.savez(tmp_path / "z.npz", **content, fusionSC__encoded=latent)
    with pytest.raises(InputError, match=r"2 arrays .fusion__encoded, fusionSC__encoded.: which"):
        open_npz(tmp_path / "z.npz", Wanted({FLAVOR: N_EDGES}, 3, "encoded"))


def test_several_flavors_are_fields_named_by_flavor(tmp_path, edges):
    np.savez(tmp_path / "all.npz", FCcorr_fs86_hpf=edges, SCifod2act_fs86_volnorm=edges[::-1])
    sizes = {"FCcorr_fs86_hpf": N_EDGES, "SCifod2act_fs86_volnorm": N_EDGES}
    found = open_npz(tmp_path / "all.npz", Wanted(sizes, 3))
    assert list(found) == list(sizes)
    np.testing.assert_array_equal(found["SCifod2act_fs86_volnorm"].read([0]), edges[[2]])


def test_the_files_name_tells_the_flavor_of_its_one_array(tmp_path, edges):
    np.savez(tmp_path / "fs86_FCcov_hpf_10subj.npz", data=edges)
    wanted = Wanted({"FCcorr_fs86_hpf": N_EDGES})
    assert list(open_npz(tmp_path / "fs86_FCcov_hpf_10subj.npz", wanted)) == ["FCcorr_fs86_hpf"]
    np.savez(tmp_path / "mine.npz", data=edges)
    with pytest.raises(UsageError, match=r"holds data: which flavor is it.*FLAVOR=.*mine.npz"):
        open_npz(tmp_path / "mine.npz", wanted)
    np.savez(tmp_path / "FCcorr_fs86_hpfgsr.npz", data=edges)
    with pytest.raises(UsageError, match=r"'FCcorr_fs86_hpfgsr' .* is not in this model"):
        open_npz(tmp_path / "FCcorr_fs86_hpfgsr.npz", wanted)


@pytest.mark.parametrize(
    ("shape", "ids", "n_columns"),
    [
        ((3, 4, 4), 3, 6),
        ((4, 4, 3), 3, 6),
        ((4, 4), None, 6),
        ((3, 10), None, 10),
        ((10, 3), 3, 10),
    ],
)
def test_sizes_come_from_the_file_where_there_is_no_model(tmp_path, shape, ids, n_columns):
    values = np.ones(shape)
    content = {"subjects": [str(row) for row in range(ids)]} if ids else {}
    np.savez(tmp_path / "c.npz", data=values, **content)
    assert open_npz(tmp_path / "c.npz", Wanted({}, 0, FLAVOR))[FLAVOR].n_columns == n_columns


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": np.zeros((2, 5, 5))}, r"\(2, 5, 5\), the flavor has 4 regions \(6 edges\)"),
        ({"data": np.zeros((2, 7))}, r"\(2, 7\), the flavor has 4 regions"),
        ({"data": np.zeros((2, 6)), "subjects": ["a", "a"]}, "participants a come more than once"),
        ({"data": np.zeros((2, 6)), "subjects": ["a", "sub-a"]}, "a come more than once"),
        ({"data": np.zeros((2, 6)), "subjects": ["a", " "]}, "participants number 2 have no id"),
        ({"data": np.zeros((3, 6))}, "names 2 participants and holds 3"),
        ({"data": np.zeros((2, 6)), "ismissing": [0, 1, 0]}, "marks 3 participants .* holds 2"),
        ({"data": np.zeros((2, 6), dtype=complex)}, "values of kind complex128"),
        ({"other": np.zeros((2, 6))}, "holds other, subjects, not FCcorr_toy_hpf, data"),
    ],
    ids=["atlas", "edges", "twice", "prefix", "empty", "ids", "missing", "complex", "field"],
)
def test_files_that_cannot_be_used_are_told(tmp_path, content, message):
    np.savez(tmp_path / "c.npz", **{"subjects": ["a", "b"], **content})
    with pytest.raises(InputError, match=rf"{message}.*FCcorr_toy_hpf in .*c.npz") as error:
        open_npz(tmp_path / "c.npz", WANTED)
    assert error.value.fix


@pytest.mark.parametrize(("opener", "end"), [(open_npy, ".npy"), (open_npz, ".npz")])
def test_a_pickle_in_an_array_file_is_not_run(tmp_path, opener, end):
    objects = np.array([{"a": 1}])
    file = tmp_path / f"c{end}"
    if end == ".npy":
        np.save(file, objects, allow_pickle=True)
    else:
        np.savez(file, data=objects)
    with pytest.raises(InputError, match="holds Python objects, which are not loaded"):
        opener(file, WANTED)


def test_wrong_latents_are_told(tmp_path):
    np.save(tmp_path / "z.npy", np.zeros((2, 4)))
    with pytest.raises(InputError, match=r"\(2, 4\), the model's latents have 3"):
        open_npy(tmp_path / "z.npy", Wanted({FLAVOR: N_EDGES}, 3, "encoded"))


def test_a_file_cut_short_after_opening_is_told(tmp_path, edges):
    file = tmp_path / "c.npy"
    np.save(file, edges)
    found = open_npy(file, WANTED)[FLAVOR]
    file.write_bytes(file.read_bytes()[:-8])
    np.testing.assert_array_equal(found.read([0, 1]), edges[:2])
    with pytest.raises(InputError, match="cut short"):
        found.read([2])


def test_missing_edges_and_missing_participants_pass(tmp_path, edges):
    edges[0, 2] = np.nan
    edges[1] = np.nan
    np.save(tmp_path / "c.npy", edges_to_matrix(edges))
    found = open_npy(tmp_path / "c.npy", WANTED)[FLAVOR]
    np.testing.assert_array_equal(found.read([0, 1, 2]), edges)


@pytest.mark.parametrize("kind", ["npy", *SAVERS])
@settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_damaged_files_are_told(tmp_path, kind, data):
    stream = io.BytesIO()
    values = np.random.default_rng(1).normal(size=(3, N_EDGES))
    if kind == "npy":
        np.save(stream, values)
    else:
        SAVERS[kind](stream, data=values, subjects=["a", "b", "c"])
    content = bytearray(stream.getvalue())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    file = tmp_path / ("c.npy" if kind == "npy" else "c.npz")
    file.write_bytes(content)
    told = str(file)
    try:
        opener = open_npy if kind == "npy" else open_npz
        found = opener(file, WANTED)[FLAVOR]
        found.read(range(found.n))
    except KrakenBIDSError as error:
        told = str(error)
    assert str(file) in told
