# SPDX-License-Identifier: MIT
from __future__ import annotations

import numpy as np
import pytest

from kraken_bids.connectome.edges import edges_to_matrix, matrix_to_edges
from kraken_bids.errors import InputError
from kraken_bids.formats.reading.checks import check_rows, matrix_rows, name_some, take_triangles

WHERE = {"name": "FCcorr_toy_hpf", "where": "c.mat"}


def test_rows_of_numbers_pass_with_missing_edges():
    rows = np.array([[1, 2, 3], [1, np.nan, 2], [np.nan] * 3, [np.nan, np.nan, 1]], dtype="f4")
    check_rows(rows, ["a", "b", "c", "d"], **WHERE)
    check_rows(rows[:0], [], **WHERE)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1, np.inf, 2], "participants b: infinite values"),
        ([1, -np.inf, np.nan], "participants b: infinite values"),
        ([0, 0, 0], "participants b: all edges have the same value"),
        ([2, np.nan, 2], "participants b: all edges have the same value"),
    ],
)
def test_rows_that_are_no_connectome_are_refused_by_participant(row, message):
    rows = np.array([[1, 2, 3], row], dtype=np.float32)
    with pytest.raises(InputError, match=rf"{message} .FCcorr_toy_hpf in c.mat"):
        check_rows(rows, ["a", "b"], **WHERE)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0), (1, 2, 0)], ids=str)
def test_triangles_are_taken_whichever_way_matrices_lie(rng, axes):
    edges = rng.normal(size=(5, 15)).astype(np.float32)
    stored = np.ascontiguousarray(edges_to_matrix(edges, diagonal=9.0).transpose(axes))
    rows, states = take_triangles(stored.transpose(np.argsort(axes)))
    np.testing.assert_array_equal(rows, edges)
    assert not states.any()


def test_all_matrices_that_are_not_symmetric_are_told(rng):
    edges = rng.normal(size=(4, 6))
    matrices = edges_to_matrix(edges)
    matrices[0] = np.triu(matrices[0])
    matrices[1, 2, 0] += 1
    matrices[3, 0, 1] = np.nan  # a value on one side only
    with pytest.raises(
        InputError, match="participants b, d: the matrix is not symmetric; participants a: only"
    ):
        matrix_rows(matrices, ["a", "b", "c", "d"], **WHERE)


def test_a_triangle_of_missing_values_is_not_read_as_one_that_lacks_the_flavor(rng):
    matrix = edges_to_matrix(rng.normal(size=(1, 6)))
    matrix[0][np.triu_indices(4, 1)] = np.nan
    with pytest.raises(InputError, match="only the lower triangle is filled"):
        matrix_rows(matrix, ["a"], **WHERE)


def test_asymmetry_of_rounding_passes(rng):
    edges = rng.normal(size=(3, 6))
    matrices = edges_to_matrix(edges) + np.tril(np.full((4, 4), 1e-7), -1)
    np.testing.assert_array_equal(
        matrix_rows(matrices, ["a", "b", "c"], **WHERE),
        matrix_to_edges(matrices).astype(np.float32),
    )


def test_few_names_are_listed_whole():
    assert name_some(["a", "b"]) == "a, b"
    assert name_some(list("abcdefg")) == "a, b, c, d, e and 2 more"
