# SPDX-License-Identifier: MIT
from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from kraken_bids.connectome.edges import edges_to_matrix, n_edges
from kraken_bids.errors import InputError, KrakenBIDSError
from kraken_bids.formats.inputs import Wanted
from kraken_bids.formats.reading import records
from kraken_bids.formats.reading.matlab import open_mat

N_REGIONS, N_EDGES = 4, 6
IDS = ["s1", "s2", "s30"]
FLAVOR = "FCcorr_toy_hpf"
WANTED = Wanted({FLAVOR: N_EDGES}, 3, FLAVOR)


@pytest.fixture
def edges(rng):
    return rng.normal(size=(3, N_EDGES)).astype(np.float32)


def cells(items):
    array = np.empty(len(items), dtype=object)
    for i, item in enumerate(items):
        array[i] = item
    return array


def read(file, wanted=WANTED):
    found = open_mat(file, wanted)[wanted.name]
    return found.participants, found.read(range(found.n))


LAYOUTS = {
    "square": ("data", lambda m, e: m),
    "other-field": ("FC", lambda m, e: m),
    "float64": ("data", lambda m, e: m.astype(np.float64)),
    "cells": ("C", lambda m, e: cells(list(m))),
    "cells-of-triangles": ("data", lambda m, e: cells(list(e))),
    "participants-last": ("data", lambda m, e: np.moveaxis(m, 0, 2)),
    "triangle": ("data", lambda m, e: e),
    "columns": ("data", lambda m, e: e.T),
    "flavor": (FLAVOR, lambda m, e: m),
    "old-name": ("FCcov_toy_hpf_FC", lambda m, e: m),
    "structure": (FLAVOR, lambda m, e: {"data": cells(list(m))}),
    "prediction": ("predicted_alltypes", lambda m, e: {"fusion": {FLAVOR: e}}),
}


@pytest.mark.parametrize("compression", [False, True], ids=["plain", "compressed"])
@pytest.mark.parametrize("held", [records.HELD_BYTES, 0], ids=["held", "spooled"])
@pytest.mark.parametrize(("field", "arrange"), LAYOUTS.values(), ids=LAYOUTS)
def test_mat_files_of_all_layouts_are_read(
    tmp_path, edges, field, arrange, held, compression, monkeypatch
):
    monkeypatch.setattr(records, "HELD_BYTES", held)
    matrices = edges_to_matrix(edges, diagonal=1.0)
    names = WANTED
    if field.startswith("FCcov"):
        field = field.replace("toy", "coco439")
        names = Wanted({"FCcorr_coco439_hpf": N_EDGES}, 3, "FCcorr_coco439_hpf")
    content = {field: arrange(matrices, edges), "subjects": cells(IDS)}
    savemat(tmp_path / "c.mat", content, do_compression=compression, long_field_names=True)
    participants, rows = read(tmp_path / "c.mat", names)
    np.testing.assert_array_equal(rows, edges)
    assert rows.dtype == np.float32
    assert participants == tuple(IDS)


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_numbers_of_all_types_are_read(tmp_path, dtype):
    edges = np.array([[1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 100]], dtype=dtype)
    savemat(tmp_path / "c.mat", {"data": edges_to_matrix(edges)})
    np.testing.assert_array_equal(read(tmp_path / "c.mat")[1], edges)


def test_rows_are_read_in_any_selection(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "HELD_BYTES", 0)
    monkeypatch.setattr(records, "BLOCK_BYTES", 150)  # two participants a block, one plane
    edges = np.random.default_rng(0).normal(size=(7, N_EDGES)).astype(np.float32)
    matrices = edges_to_matrix(edges)
    for values in (matrices, np.moveaxis(matrices, 0, 2), cells(list(matrices)), edges):
        savemat(tmp_path / "c.mat", {"data": values}, do_compression=True)
        found = open_mat(tmp_path / "c.mat", WANTED)[FLAVOR]
        for positions in ([0], [6], [1, 2, 5], [0, 3, 6], list(range(7)), []):
            np.testing.assert_array_equal(found.read(positions), edges[positions])


def test_a_single_matrix_is_one_participant(tmp_path, edges):
    for values in (edges_to_matrix(edges[0]), edges[0], cells([edges_to_matrix(edges[0])])):
        savemat(tmp_path / "c.mat", {"data": values, "subjects": "s1"})
        participants, rows = read(tmp_path / "c.mat")
        np.testing.assert_array_equal(rows, edges[:1])
        assert participants == ("s1",)


@pytest.mark.parametrize("is_mask", [False, True], ids=["indices", "mask"])
def test_triangles_in_another_order_are_put_in_ours(tmp_path, edges, is_mask):
    columns, rows = np.tril_indices(N_REGIONS, -1)  # MATLAB's column by column
    order = np.stack([rows, columns])
    if is_mask:
        rows, columns = np.tril_indices(N_REGIONS, -1)
        order = np.tril(np.ones((N_REGIONS, N_REGIONS)), -1)
    values = edges_to_matrix(edges)[:, rows, columns]
    savemat(tmp_path / "c.mat", {"data": values, "trimask": order})
    np.testing.assert_array_equal(read(tmp_path / "c.mat")[1], edges)


def test_a_mask_that_marks_other_edges_is_refused(tmp_path, edges):
    savemat(tmp_path / "c.mat", {"data": edges, "trimask": np.eye(N_REGIONS)})
    with pytest.raises(InputError, match=r"'trimask' of shape \(4, 4\) does not mark the 6 edges"):
        read(tmp_path / "c.mat")
    savemat(tmp_path / "c.mat", {"data": edges, "trimask": np.ones((2, 6))})
    with pytest.raises(InputError, match="marks an edge twice or the diagonal"):
        read(tmp_path / "c.mat")


def test_participants_marked_as_missing_are_left_out(tmp_path, edges):
    content = {"data": edges_to_matrix(edges), "subjects": cells(IDS), "ismissing": [0, 1, 0]}
    savemat(tmp_path / "c.mat", content)
    participants, rows = read(tmp_path / "c.mat")
    assert participants == ("s1", "s30")
    np.testing.assert_array_equal(rows, edges[[0, 2]])


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (np.array(["a", "bbb", "cc"]), ("a", "bbb", "cc")),
        (cells(["sub-a", "b ", "ü"]), ("a", "b", "ü")),
        (np.array([100.0, 7.0, 1234567.0]), ("100", "7", "1234567")),
        (cells([1.0, 2.0, 3.0]), ("1", "2", "3")),
    ],
    ids=["letters", "cells", "numbers", "cells-of-numbers"],
)
def test_ids_become_clean_text(tmp_path, edges, ids, expected):
    savemat(tmp_path / "c.mat", {"data": edges, "subjects": ids})
    assert read(tmp_path / "c.mat")[0] == expected


@pytest.mark.parametrize("ids", [[], "", cells([])], ids=["numbers", "text", "cells"])
def test_an_empty_field_of_ids_is_none(tmp_path, edges, ids):
    savemat(tmp_path / "c.mat", {"data": edges, "subjects": ids})
    assert read(tmp_path / "c.mat")[0] is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((3, 6)) * 1j, "does not hold numbers but complex numbers"),
        ("text", "does not hold numbers but 'text'"),
        (cells(["a", "b"]), "does not hold numbers but cells without matrices"),
        ({"other": 1.0}, "holds other, not FCcorr_toy_hpf, data"),
    ],
    ids=["complex", "text", "cells", "structure"],
)
def test_fields_that_hold_other_than_numbers_are_told(tmp_path, values, message):
    savemat(tmp_path / "c.mat", {"data": values})
    with pytest.raises(InputError, match=message):
        read(tmp_path / "c.mat")


def test_empty_arrays_as_matlab_writes_them_are_none(tmp_path, edges):
    empty = struct.pack("<II", 14, 0)
    subjects = b"".join([
        element(6, struct.pack("<II", 1, 0), "<"), element(5, struct.pack("<ii", 1, 1), "<"),
        element(1, b"subjects", "<"), empty,
    ])  # fmt: skip
    content = mat_file(array("data", edges, "<"), element(14, subjects, "<"), order="<")
    (tmp_path / "c.mat").write_bytes(content)
    assert read(tmp_path / "c.mat")[0] is None


def test_a_cell_without_an_id_is_told(tmp_path, edges):
    savemat(tmp_path / "c.mat", {"data": edges, "subjects": cells(["a", [], "c"])})
    with pytest.raises(InputError, match="participants number 2 have no id"):
        read(tmp_path / "c.mat")


def test_several_flavors_in_one_file_are_found(tmp_path, edges, caplog):
    other = "SCsdstream_fs86_volnorm"
    content = {
        FLAVOR: {"data": cells(list(edges_to_matrix(edges))), "subjects": cells(IDS)},
        "fs86_sdstream_volnorm": edges[:2],
        "FCcorr_shen268_hpf": edges,
        "notes": "text",
    }
    savemat(tmp_path / "c.mat", content, do_compression=True)
    found = open_mat(tmp_path / "c.mat", Wanted({FLAVOR: N_EDGES, other: N_EDGES}))
    assert set(found) == {FLAVOR, other}
    np.testing.assert_array_equal(found[other].read([0, 1]), edges[:2])
    assert found[FLAVOR].participants == tuple(IDS)
    assert "FCcorr_shen268_hpf left out" in caplog.text


def test_one_prediction_is_read_and_several_are_refused(tmp_path, edges):
    latents = {"fusion": {"encoded": edges[:, :3]}}
    savemat(tmp_path / "z.mat", {"predicted_alltypes": latents, "subjects": np.array(IDS)})
    wanted = Wanted({FLAVOR: N_EDGES}, 3, "encoded")
    np.testing.assert_array_equal(read(tmp_path / "z.mat", wanted)[1], edges[:, :3])
    latents["fusionSC"] = latents["fusion"]
    savemat(tmp_path / "z.mat", {"predicted_alltypes": latents})
    with pytest.raises(InputError, match=r"2 outputs .fusion to encoded, fusionSC to encoded"):
        read(tmp_path / "z.mat", wanted)


def test_a_prediction_tells_its_own_flavor(tmp_path, edges):
    other = "SCsdstream_fs86_volnorm"
    savemat(tmp_path / "p.mat", {"predicted_alltypes": {"fusion": {other: edges}}})
    sizes = {FLAVOR: N_EDGES, other: N_EDGES}
    assert list(open_mat(tmp_path / "p.mat", Wanted(sizes))) == [other]
    with pytest.raises(InputError, match=f"holds predictions of {other} .{FLAVOR} in"):
        open_mat(tmp_path / "p.mat", Wanted(sizes, 0, FLAVOR))


def test_cells_of_different_sizes_are_refused(tmp_path):
    savemat(tmp_path / "c.mat", {"data": cells([np.eye(4), np.eye(4), np.eye(3)])})
    with pytest.raises(InputError, match=r"first has shape \(4, 4\), number 3 has shape \(3, 3\)"):
        read(tmp_path / "c.mat")
    savemat(tmp_path / "c.mat", {"data": cells([np.eye(4), np.zeros((0, 0))])})
    with pytest.raises(InputError, match="number 2 has"):
        read(tmp_path / "c.mat")


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.triu(np.ones((4, 4))), "participants s2: only the upper triangle is filled"),
        (np.tril(np.ones((4, 4))), "participants s2: only the lower triangle is filled"),
        (np.arange(16.0).reshape(4, 4), "participants s2: the matrix is not symmetric"),
        (np.full((4, 4), np.inf), "participants s2: infinite values"),
        (np.zeros((4, 4)), "participants s2: all edges have the same value"),
    ],
    ids=["upper", "lower", "asymmetric", "infinite", "zero"],
)
def test_matrices_that_are_no_connectome_are_refused_by_participant(
    tmp_path, edges, matrix, message
):
    matrices = edges_to_matrix(edges)
    matrices[1] = matrix
    savemat(tmp_path / "c.mat", {"data": matrices, "subjects": cells(IDS)})
    found = open_mat(tmp_path / "c.mat", WANTED)[FLAVOR]
    np.testing.assert_array_equal(found.read([0, 2]), edges[[0, 2]])  # the others can be used
    with pytest.raises(InputError, match=rf"{message} .*{FLAVOR} in .*c.mat") as error:
        found.read([0, 1, 2])
    assert error.value.fix


def test_rounding_is_not_asymmetry_and_the_upper_triangle_counts(tmp_path, edges):
    matrices = edges_to_matrix(edges).astype(np.float64)
    matrices += np.tril(np.full((4, 4), 1e-6))
    savemat(tmp_path / "c.mat", {"data": matrices})
    np.testing.assert_array_equal(read(tmp_path / "c.mat")[1], edges)


# Files of big-endian machines and of small elements, written by hand after the format's tables.


def element(kind, content, order=">"):
    return struct.pack(f"{order}II", kind, len(content)) + content + b"\0" * (-len(content) % 8)


def array(name, values, order=">", *, kind=6, stored=9):
    flags = struct.pack(f"{order}II", kind, 0)
    dims = struct.pack(f"{order}{values.ndim}i", *values.shape)
    content = values.astype(f"{order}f8").tobytes(order="F")
    parts = [
        element(6, flags, order), element(5, dims, order), element(1, name.encode(), order),
        element(stored, content, order),
    ]  # fmt: skip
    return element(14, b"".join(parts), order)


def mat_file(*variables, order=">"):
    end = b"MI" if order == ">" else b"IM"
    return b"MATLAB 5.0".ljust(124) + struct.pack(f"{order}H", 0x0100) + end + b"".join(variables)


@pytest.mark.parametrize("is_compressed", [False, True])
def test_big_endian_files_are_read(tmp_path, edges, is_compressed):
    variable = array("data", edges)
    if is_compressed:
        packed = zlib.compress(variable)
        variable = struct.pack(">II", 15, len(packed)) + packed
    (tmp_path / "c.mat").write_bytes(mat_file(variable))
    np.testing.assert_array_equal(read(tmp_path / "c.mat")[1], edges)


def hdf5_mat(path, content):
    """Write a file as MATLAB 7.3 does."""
    with h5py.File(path, "w") as stored:
        for name, value in content.items():
            write_h5(stored, name, value)
    path.write_bytes(path.read_bytes())


def write_h5(group, name, value):
    if isinstance(value, list):
        references = []
        for number, item in enumerate(value):
            place = f"/#refs#/{name}{number}"
            write_h5(group.file, place, item)
            references.append(group.file[place].ref)
        data = np.array(references, dtype=h5py.ref_dtype)[:, np.newaxis]
        item = group.create_dataset(name, data=data)
        item.attrs["MATLAB_class"] = np.bytes_("cell")
    elif isinstance(value, str):
        item = group.create_dataset(name, data=np.array([[ord(c)] for c in value], dtype="u2"))
        item.attrs["MATLAB_class"] = np.bytes_("char")
    elif isinstance(value, dict):
        item = group.create_group(name)
        item.attrs["MATLAB_class"] = np.bytes_("struct")
        for key, inner in value.items():
            write_h5(item, key, inner)
    else:
        values = np.atleast_2d(value)
        item = group.create_dataset(name, data=values.T, chunks=True, compression="gzip")
        item.attrs["MATLAB_class"] = np.bytes_("double")


@pytest.mark.parametrize("held", [records.HELD_BYTES, 0], ids=["held", "spooled"])
@pytest.mark.parametrize(
    ("field", "arrange"),
    [
        ("data", lambda m, e: m),
        ("data", lambda m, e: np.moveaxis(m, 0, 2)),
        ("data", lambda m, e: list(m)),
        ("data", lambda m, e: e),
        ("data", lambda m, e: e.T),
        (FLAVOR, lambda m, e: {"data": list(m)}),
        ("predicted_alltypes", lambda m, e: {"fusion": {FLAVOR: e}}),
    ],
    ids=["square", "participants-last", "cells", "triangle", "columns", "structure", "prediction"],
)
def test_files_of_format_7_3_are_read(tmp_path, edges, field, arrange, held, monkeypatch):
    monkeypatch.setattr("kraken_bids.formats.reading.records.HELD_BYTES", held)
    monkeypatch.setattr("kraken_bids.formats.reading.matlab_hdf5.HELD_BYTES", held)
    matrices = edges_to_matrix(edges, diagonal=1.0)
    hdf5_mat(tmp_path / "c.mat", {field: arrange(matrices, edges), "subjects": IDS})
    participants, rows = read(tmp_path / "c.mat")
    np.testing.assert_array_equal(rows, edges)
    assert participants == tuple(IDS)


def small_file(*, compression):
    edges = np.random.default_rng(1).normal(size=(3, N_EDGES))
    stream = io.BytesIO()
    content = {
        "data": edges_to_matrix(edges), "subjects": cells(IDS), FLAVOR: {"data": edges},
        "cells": cells(list(edges_to_matrix(edges))),
    }  # fmt: skip
    savemat(stream, content, do_compression=compression)
    return stream.getvalue()


@pytest.mark.parametrize("compression", [False, True], ids=["plain", "compressed"])
@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_damaged_files_are_told_and_never_take_much_memory(tmp_path, compression, data):
    content = bytearray(small_file(compression=compression))
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    file = tmp_path / "c.mat"
    file.write_bytes(content)
    told = str(file)
    tracemalloc.start()
    try:
        found = open_mat(file, Wanted({FLAVOR: N_EDGES}))
        for one in found.values():
            one.read(range(one.n))
    except KrakenBIDSError as error:
        told = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert str(file) in told
    assert peak < 8 << 20


@pytest.mark.parametrize("keep", [0, 100, 128, 140, 300, -1])
def test_files_cut_short_are_told(tmp_path, keep):
    (tmp_path / "c.mat").write_bytes(small_file(compression=True)[:keep])
    with pytest.raises(InputError, match=r"cannot be read|holds"):
        read(tmp_path / "c.mat")


def test_files_of_other_kinds_are_told(tmp_path):
    (tmp_path / "bad.mat").write_bytes(b"not what it says" * 20)
    with pytest.raises(InputError, match=r"no MATLAB file of format 5, 7 or 7.3"):
        read(tmp_path / "bad.mat")
    (tmp_path / "bad.mat").write_bytes(b"\x89HDF\r\n\x1a\n" * 40)
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "bad.mat")


def test_memory_does_not_grow_with_participants(tmp_path, monkeypatch):
    """Peak beside the batch, for four times the participants."""
    monkeypatch.setattr(records, "HELD_BYTES", 1 << 16)
    monkeypatch.setattr(records, "BLOCK_BYTES", 1 << 16)
    peaks = []
    size = 30
    for n in (400, 1600):
        edges = np.random.default_rng(n).normal(size=(n, n_edges(size))).astype(np.float32)
        savemat(tmp_path / "c.mat", {"data": edges_to_matrix(edges)}, do_compression=True)
        found = open_mat(tmp_path / "c.mat", Wanted({FLAVOR: n_edges(size)}, 0, FLAVOR))[FLAVOR]
        tracemalloc.start()
        for start in range(0, n, 50):
            rows = found.read(range(start, start + 50))
            np.testing.assert_array_equal(rows, edges[start : start + 50])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
    assert peaks[1] < edges.nbytes
