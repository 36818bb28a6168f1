# SPDX-License-Identifier: MIT
from __future__ import annotations

import logging

import numpy as np
import pytest
from scipy.io import savemat

from kraken_bids.connectome.edges import edges_to_matrix
from kraken_bids.errors import InputError, UsageError
from kraken_bids.model.inputs import Table, match_participants, read_table

N_REGIONS, N_EDGES = 4, 6
IDS = ["s1", "s2", "s30"]
FLAVOR = "FCcorr_toy_hpf"


@pytest.fixture
def edges(rng):
    return rng.normal(size=(3, N_EDGES)).astype(np.float32)


def cells(items):
    array = np.empty(len(items), dtype=object)
    for i, item in enumerate(items):
        array[i] = item
    return array


def read(file, **options):
    return read_table(file, FLAVOR, n_columns=N_EDGES, **options)


@pytest.mark.parametrize(
    ("field", "arrange"),
    [
        ("data", lambda m, e: m),
        ("FC", lambda m, e: m),
        ("C", lambda m, e: cells(list(m))),
        ("data", lambda m, e: np.moveaxis(m, 0, 2)),
        ("data", lambda m, e: e),
        ("data", lambda m, e: e.T),
        (FLAVOR, lambda m, e: m),
    ],
    ids=["square", "other-field", "cells", "participants-last", "triangle", "columns", "flavor"],
)
def test_mat_files_of_all_layouts_are_read(tmp_path, edges, field, arrange):
    matrices = edges_to_matrix(edges, diagonal=1.0)
    savemat(tmp_path / "c.mat", {field: arrange(matrices, edges), "subjects": cells(IDS)})
    table = read(tmp_path / "c.mat")
    np.testing.assert_array_equal(table.values, edges)
    assert table.values.dtype == np.float32
    assert table.participants == tuple(IDS)


def test_a_single_matrix_is_one_participant(tmp_path, edges):
    savemat(tmp_path / "c.mat", {"data": edges_to_matrix(edges[0]), "subjects": "s1"})
    table = read(tmp_path / "c.mat")
    np.testing.assert_array_equal(table.values, edges[:1])
    assert table.participants == ("s1",)


def test_triangles_in_another_order_are_put_in_ours(tmp_path, edges):
    columns, rows = np.tril_indices(N_REGIONS, -1)  # MATLAB's column by column
    values = edges_to_matrix(edges)[:, rows, columns]
    savemat(tmp_path / "c.mat", {"data": values, "trimask": np.stack([rows, columns])})
    np.testing.assert_array_equal(read(tmp_path / "c.mat").values, edges)


def test_participants_marked_as_missing_are_left_out(tmp_path, edges):
    content = {"data": edges_to_matrix(edges), "subjects": cells(IDS), "ismissing": [0, 1, 0]}
    savemat(tmp_path / "c.mat", content)
    table = read(tmp_path / "c.mat")
    assert table.participants == ("s1", "s30")
    np.testing.assert_array_equal(table.values, edges[[0, 2]])


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (np.array(["a   ", "bcd "]), ("a", "bcd")),
        (np.array([100307.0, 8]), ("100307", "8")),
        (np.array(["007", "8"]), ("007", "8")),
    ],
    ids=["blanks", "numbers", "zeros"],
)
def test_ids_become_clean_text(tmp_path, edges, ids, expected):
    np.savez(tmp_path / "c.npz", data=edges[:2], participants=ids)
    assert read(tmp_path / "c.npz").participants == expected


def test_npy_files_have_no_ids(tmp_path, edges):
    np.save(tmp_path / "c.npy", edges_to_matrix(edges, diagonal=np.nan))
    table = read(tmp_path / "c.npy")
    np.testing.assert_array_equal(table.values, edges)
    assert table.participants is None


def test_latents_written_by_predict_are_read(tmp_path):
    latent = np.ones((2, 3), dtype=np.float32)
    np.savez(tmp_path / "z.npz", fusion__encoded=latent, participants=["a", "b"])
    table = read_table(tmp_path / "z.npz", "encoded", n_columns=3, is_latent=True)
    np.testing.assert_array_equal(table.values, latent)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": np.zeros((3, 5, 5))}, r"\(3, 5, 5\), the flavor has 4 regions \(6 edges\)"),
        ({"data": np.zeros((3, 7))}, r"\(3, 7\), the flavor has 4 regions"),
        ({"data": np.triu(np.ones((2, 4, 4)))}, r"participant a is not symmetric"),
        ({"data": np.tril(np.ones((2, 4, 4)))}, r"participant a is not symmetric"),
        ({"data": np.zeros((2, 6)), "subjects": ["a", "a"]}, "participants a come more than once"),
        ({"data": np.zeros((3, 6))}, "names 2 participants and holds 3"),
        ({"other": np.zeros((2, 6))}, "holds other, subjects, not FCcorr_toy_hpf, data"),
    ],
    ids=["atlas", "edges", "upper", "lower", "twice", "ids", "field"],
)
def test_files_that_cannot_be_used_are_told(tmp_path, content, message):
    np.savez(tmp_path / "c.npz", **{"subjects": ["a", "b"], **content})
    with pytest.raises(InputError, match=rf"{message}.*FCcorr_toy_hpf in .*c.npz") as error:
        read(tmp_path / "c.npz")
    assert error.value.fix


def test_missing_damaged_and_unknown_files_are_told(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read(tmp_path / "none.npz")
    for name in ("bad.mat", "bad.npz", "bad.npy"):
        (tmp_path / name).write_bytes(b"not what it says" * 20)
        with pytest.raises(InputError, match="cannot be read"):
            read(tmp_path / name)
    with pytest.raises(UsageError, match=r"files of kind '.nii' are not read"):
        read(tmp_path / "c.nii")


def test_a_pickle_in_an_array_file_is_not_run(tmp_path):
    np.save(tmp_path / "c.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "c.npy")


def test_participants_are_matched_by_id_never_by_position(edges):
    tables = {
        "a": Table(edges, ("s1", "s2", "s3")),
        "b": Table(edges[::-1], ("s3", "s2", "s1")),
        "c": Table(edges[:2], ("s4", "s1")),
    }
    ids, rows = match_participants(tables)
    assert ids == ("s1", "s2", "s3", "s4")
    np.testing.assert_array_equal(rows["a"][:3], edges)
    np.testing.assert_array_equal(rows["b"][:3], edges)
    np.testing.assert_array_equal(rows["c"][[3, 0]], edges[:2])
    assert np.isnan(rows["a"][3]).all()
    assert np.isnan(rows["c"][[1, 2]]).all()


def test_inputs_without_ids_are_matched_by_position_with_a_warning(edges, caplog):
    with caplog.at_level(logging.WARNING):
        ids, rows = match_participants({"a": Table(edges, None), "b": Table(edges, None)})
    assert ids == ("1", "2", "3")
    assert "no ids" in caplog.text
    np.testing.assert_array_equal(rows["b"], edges)


def test_inputs_that_cannot_be_matched_are_told(edges):
    with pytest.raises(InputError, match="b: no ids, while other inputs have them"):
        match_participants({"a": Table(edges, ("1", "2", "3")), "b": Table(edges, None)})
    with pytest.raises(InputError, match=r"numbers of participants differ .*'b': 2"):
        match_participants({"a": Table(edges, None), "b": Table(edges[:2], None)})
