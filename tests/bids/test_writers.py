# SPDX-License-Identifier: MIT
"""Labelled tables: every digit of a float32, read back as written; odd spellings, clear errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kraken_bids.bids.prediction_file import add_prediction, find_predictions, read_matrix
from kraken_bids.bids.writers import format_rows, read_connectome, write_connectome, write_table
from kraken_bids.connectome.edges import edges_to_matrix
from kraken_bids.errors import InputError

NAMES = ("a", "b", "c")


def table(path, *rows, header="region\ta\tb\tc"):
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


@given(arrays.arrays(np.float32, (3, 3), elements=st.floats(width=32, allow_infinity=False)))
@settings(max_examples=200, deadline=None)
def test_a_matrix_reads_back_as_the_same_float32(tmp_path_factory, matrix):
    path = tmp_path_factory.getbasetemp() / "matrix.tsv"
    write_connectome(path, matrix, NAMES)
    found, names = read_connectome(path, NAMES)
    np.testing.assert_array_equal(found.astype(np.float32), matrix)
    assert names == NAMES


def test_numbers_are_written_shortest():
    values = np.array([[0.1, 5, np.nan], [1 / 3, -2e-9, 7e9], [16777217, 100.0, 1.05]])
    assert format_rows(values) == [
        b"0.1\t5\tn/a", b"0.33333334\t-2e-9\t7000000000", b"16777216\t100\t1.05"
    ]  # fmt: skip
    assert format_rows(np.array([[0, 10.0], [2, 300]])) == [b"0\t10", b"2\t300"]
    assert format_rows(np.zeros((0, 2))) == []


def test_infinity_is_written_so_that_its_reader_learns_of_it(tmp_path):
    matrix = np.array([[1, np.inf, np.nan], [-np.inf, 2.5, 0], [0, 0, 0]])
    write_connectome(tmp_path / "a.tsv", matrix, NAMES)
    assert "a\t1\tinf\tn/a\n" in (tmp_path / "a.tsv").read_text()
    np.testing.assert_array_equal(read_connectome(tmp_path / "a.tsv")[0], matrix)


def test_equal_matrices_make_equal_files(tmp_path):
    matrix = np.random.default_rng(0).normal(size=(3, 3))
    for name in ("a.tsv", "b.tsv"):
        write_connectome(tmp_path / name, matrix.astype(np.float32), NAMES)
    write_connectome(tmp_path / "c.tsv", matrix, NAMES)
    contents = {(tmp_path / name).read_bytes() for name in ("a.tsv", "b.tsv", "c.tsv")}
    assert len(contents) == 1


def test_other_spellings_are_read(tmp_path):
    path = table(tmp_path / "a.tsv", "a\t+1\t1.\t.5", "b\tnan\t 2 \tn/a", "c\t1E3\t\t007")
    found, _ = read_connectome(path)
    expected = [[1, 1, 0.5], [np.nan, 2, np.nan], [1000, np.nan, 7]]
    np.testing.assert_array_equal(found, expected)


def test_lines_that_end_as_on_windows_are_read(tmp_path):
    (tmp_path / "a.tsv").write_bytes(b"region\ta\tb\r\na\t0\t1.5\r\nb\t1.5\t0\r\n")
    found, names = read_connectome(tmp_path / "a.tsv")
    np.testing.assert_array_equal(found, [[0, 1.5], [1.5, 0]])
    assert names == ("a", "b")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a\t1\t2\t3", "b\t1\t2\t3"], "not a whole labelled matrix"),
        (["a\t1\t2\t3", "b\t1\t2", "c\t1\t2\t3\t4"], "not a whole labelled matrix"),
        (["a\t1\t2\t3", "c\t1\t2\t3", "b\t1\t2\t3"], "other names in its first column"),
        (["a\t1\t2\t3", "b\t1\t2\tx", "c\t1\t2\t3"], "holds text where a number must be"),
        (["a\t1\t2,3\t3", "b\t1\t2\t3", "c\t1\t2\t3"], "holds text where a number must be"),
        (["a\t1\ttrue\t3", "b\t1\t2\t3", "c\t1\t2\t3"], "holds text where a number must be"),
        (["a\t1\t[2]\t3", "b\t1\t2\t3", "c\t1\t2\t3"], "holds text where a number must be"),
    ],
    ids=["too few rows", "ragged", "other order", "text", "comma", "truth", "brackets"],
)
def test_what_is_no_matrix_is_told(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        read_connectome(table(tmp_path / "a.tsv", *rows))


@pytest.mark.parametrize("content", [b"", b"region\n", b"region\ta\na\t1", b"\n"])
def test_what_is_cut_short_is_told(tmp_path, content):
    (tmp_path / "a.tsv").write_bytes(content)
    with pytest.raises(InputError, match="not a whole labelled matrix"):
        read_connectome(tmp_path / "a.tsv")


def test_other_regions_and_other_files_are_told(tmp_path):
    path = table(tmp_path / "a.tsv", "a\t1\t2\t3", "b\t1\t2\t3", "c\t1\t2\t3")
    with pytest.raises(InputError, match="has 3 regions that are not those of the atlas"):
        read_connectome(path, ("a", "c", "b"))
    (tmp_path / "b.tsv").write_bytes(b"region\t\xff\n\xff\t1\n")
    with pytest.raises(InputError, match="cannot be read"):
        read_connectome(tmp_path / "b.tsv")
    with pytest.raises(InputError, match="cannot be read"):
        read_connectome(tmp_path / "none.tsv")


def test_tables_take_many_numbers_as_their_last_columns(tmp_path):
    numbers = np.array([[0.1, np.nan], [3, 1e-9]], dtype=np.float32)
    write_table(tmp_path / "a.tsv", ["x", "n", "z0", "z1"], [("s", 1), (None, 0.25)],
                numbers=numbers)  # fmt: skip
    assert (tmp_path / "a.tsv").read_text().splitlines() == [
        "x\tn\tz0\tz1", "s\t1\t0.1\tn/a", "n/a\t0.25\t3\t1e-9"
    ]  # fmt: skip


def test_a_session_keeps_its_predictions_in_one_file(tmp_path):
    path = tmp_path / "sub-01" / "sub-01_relmat.h5"
    edges = np.arange(6, dtype=np.float32)
    add_prediction(path, "01", source="fusion", target="a", edges=edges + 1)
    add_prediction(path, "01", source="fusion", target="a", edges=edges)
    add_prediction(path, "01", source="b", target="a", edges=edges)
    assert find_predictions(path) == (("b", "a"), ("fusion", "a"))
    found = read_matrix(path, source="fusion", target="a", diagonal=1)
    np.testing.assert_array_equal(found, edges_to_matrix(edges, diagonal=1))
    with pytest.raises(InputError, match="cannot be read as an HDF5 file of predictions"):
        read_matrix(path, source="c", target="a")
    path.write_bytes(b"x")
    with pytest.raises(InputError, match="cannot be read as an HDF5 file of predictions"):
        find_predictions(path)
