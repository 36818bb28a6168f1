# SPDX-License-Identifier: MIT
"""Files of correlations and covariances, with their diagonal."""

import numpy as np
import pytest
from scipy.io import savemat

from kraken_bids.errors import InputError, KrakenBIDSError
from kraken_bids.formats.reading.correlations import normalize, open_correlations, read_target


@pytest.fixture
def matrices():
    rng = np.random.default_rng(3)
    return np.stack([np.corrcoef(rng.normal(size=(4, 30))) for _ in range(3)])


def cells(matrices):
    stored = np.empty((len(matrices), 1), dtype=object)
    stored[:, 0] = list(matrices)
    return stored


@pytest.mark.parametrize("field", ["data", "C", "FC", "FCcorr_toy_hpf"])
@pytest.mark.parametrize("make", [np.asarray, cells, lambda m: np.moveaxis(m, 0, 2)],
                         ids=["stack", "cells", "participants last"])  # fmt: skip
def test_matlab_files_are_read_by_any_field(tmp_path, matrices, field, make):
    file = tmp_path / "a.mat"
    savemat(
        file, {field: make(matrices), "subjects": np.array(["sub-a ", "b", "c"], dtype=object)}
    )
    found = open_correlations(file, name="FCcorr_toy_hpf")
    assert found.participants == ("a", "b", "c")
    assert found.n_regions == 4
    for row, matrix in enumerate(matrices):
        np.testing.assert_array_equal(found.read(row), matrix)


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_numpy_files_are_read(tmp_path, matrices, kind):
    file = tmp_path / f"a.{kind}"
    if kind == "npy":
        np.save(file, matrices)
    else:
        np.savez(file, data=matrices, subjects=[7, 8, 9])
    found = open_correlations(file)
    assert found.participants == (("1", "2", "3") if kind == "npy" else ("7", "8", "9"))
    assert found.has_ids == (kind == "npz")
    np.testing.assert_array_equal(found.read(1), matrices[1])


def test_participants_marked_as_missing_are_left_out(tmp_path, matrices):
    file = tmp_path / "a.mat"
    savemat(file, {"C": matrices, "subjects": [1.0, 2.0, 3.0], "ismissing": [0, 1, 0]})
    found = open_correlations(file)
    assert found.participants == ("1", "3")
    np.testing.assert_array_equal(found.read(1), matrices[2])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"subjects": ["a", "b"]}, "names 2 participants and holds 3 matrices"),
        ({"subjects": ["a", "b", "a"]}, "participants a come more than once"),
        ({"ismissing": [0, 1]}, "marks 2 participants"),
        ({"ismissing": [1, 1, 1]}, "holds nobody"),
    ],
)
def test_contradictions_are_refused(tmp_path, matrices, fields, message):
    file = tmp_path / "a.npz"
    np.savez(file, data=matrices, **fields)
    with pytest.raises(InputError, match=message):
        open_correlations(file)


@pytest.mark.parametrize("kind", [".mat", ".npy", ".npz"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nonsense", b"MATLAB 5.0" * 30])
def test_damaged_files_are_refused(tmp_path, kind, content):
    file = tmp_path / f"a{kind}"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.[a-z]+"):
        open_correlations(file)


def test_doubles_in_cells_are_read_as_doubles(tmp_path, matrices):
    file = tmp_path / "a.mat"
    savemat(file, {"C": cells(matrices)}, do_compression=True)
    np.testing.assert_array_equal(open_correlations(file).read(2), matrices[2])


@pytest.mark.parametrize("name", ["", "FCcorr_toy_hpf"])
def test_edges_get_a_diagonal_of_one(tmp_path, matrices, name):
    file = tmp_path / "a.npz"
    rows, columns = np.triu_indices(4, k=1)
    np.savez(file, data=matrices[:, rows, columns], subjects=["a", "b", "c"])
    found = open_correlations(file, name=name)
    assert found.participants == ("a", "b", "c")
    np.testing.assert_allclose(found.read(1), matrices[1], atol=1e-7)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("FCpcorr_fs86_hpf.npz", {}, "is 'FCpcorr_fs86_hpf', no correlation"),
        ("SCsdstream_fs86_count.npz", {}, "is 'SCsdstream_fs86_count', no correlation"),
        ("a.npz", {"conntype": "partialcorr"}, "is 'partialcorr', no correlation"),
        ("a.npz", {"conntype": "precision"}, "is 'precision', no correlation"),
    ],
)
def test_what_says_that_it_is_no_correlation_is_refused(tmp_path, matrices, name, fields, message):
    np.savez(tmp_path / name, data=matrices, **fields)
    with pytest.raises(InputError, match=message):
        open_correlations(tmp_path / name)


def test_altered_matlab_files_end_in_no_crash(tmp_path, matrices):
    file = tmp_path / "a.mat"
    savemat(file, {"C": cells(matrices), "subjects": np.array(["a", "b", "c"], dtype=object)})
    content = file.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        altered = bytearray(content)
        for place in rng.integers(128, len(content), size=3):
            altered[place] = rng.integers(256)
        file.write_bytes(altered)
        try:
            found = open_correlations(file)
            for row in range(len(found.participants)):
                found.read(row)
        except KrakenBIDSError:
            refused += 1
    assert refused > 20


def test_pickled_arrays_are_not_opened(tmp_path, matrices):
    file = tmp_path / "a.npz"
    np.savez(file, data=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match=r"cannot be read"):
        open_correlations(file)


def test_covariances_become_correlations(matrices):
    scale = np.array([0.5, 2.0, 3.0, 100.0])
    covariance = matrices[0] * np.outer(scale, scale)
    np.testing.assert_allclose(normalize(covariance), matrices[0], atol=1e-14)
    np.testing.assert_allclose(normalize(covariance, keep_scale=True), covariance)


@pytest.mark.parametrize("diagonal", [0.0, np.nan], ids=["zero", "NaN"])
def test_absent_diagonal_is_one(matrices, diagonal):
    without = matrices[0].copy()
    np.fill_diagonal(without, diagonal)
    np.testing.assert_allclose(normalize(without), matrices[0], atol=1e-15)


@pytest.mark.parametrize(
    ("beside", "diagonal"), [(np.nan, np.nan), (np.nan, 1.0), (0.0, 0.0)], ids=str
)
def test_missing_region_stays_missing(matrices, beside, diagonal):
    spoilt = matrices[0].copy()
    spoilt[2] = spoilt[:, 2] = beside
    spoilt[2, 2] = diagonal
    result = normalize(spoilt)
    others = np.array([0, 1, 3])
    assert np.isnan(result[2]).all()
    assert np.isnan(result[:, 2]).all()
    expected = matrices[0][np.ix_(others, others)]
    np.testing.assert_allclose(result[np.ix_(others, others)], expected, atol=1e-15)


def changed(matrix, **cells_):
    matrix = matrix.copy()
    for place, value in cells_.items():
        row, column = int(place[1]), int(place[2])
        matrix[row, column] = value
    return matrix


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"c01": np.inf, "c10": np.inf}, "infinite values.*Fisher z"),
        ({"c01": np.nan, "c10": np.nan}, "1 single values are missing"),
        ({"c01": 0.9, "c10": -0.9}, "not symmetric.*--symmetrize"),
        ({"c01": 1.3, "c10": 1.3}, "holds a correlation of 1.3"),
        ({"c00": -2.0}, "region 1 has the variance -2"),
        ({"c22": 0.0}, "region 3 has the variance 0"),
    ],
)
def test_what_is_no_correlation_is_refused(matrices, change, message):
    with pytest.raises(InputError, match=message):
        normalize(changed(matrices[0], **change))


def test_matrix_without_any_value_is_refused():
    with pytest.raises(InputError, match="no region has a value"):
        normalize(np.full((3, 3), np.nan))


def test_asymmetric_matrix_is_averaged_with_its_transpose(matrices):
    spoilt = changed(matrices[0], c01=0.5, c10=0.3)
    result = normalize(spoilt, symmetrize=True)
    assert result[0, 1] == result[1, 0] == pytest.approx(0.4)


@pytest.mark.parametrize("kind", ["mat", "npz", "npy", "tsv"])
def test_targets_are_read(tmp_path, matrices, kind):
    precision = np.linalg.inv(matrices[0])
    precision = (precision + precision.T) / 2
    file = tmp_path / f"target.{kind}"
    if kind == "mat":
        savemat(file, {"C": precision, "lambda": 0.0})
    elif kind == "npz":
        np.savez(file, C=precision)
    elif kind == "npy":
        np.save(file, precision)
    else:
        rows = ["\t".join(["region", *"abcd"])]
        rows += ["\t".join([name, *map(repr, row.tolist())])
                 for name, row in zip("abcd", precision, strict=True)]  # fmt: skip
        file.write_text("\n".join(rows) + "\n")
    np.testing.assert_allclose(read_target(file), precision, rtol=1e-15)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: m[0], "diagonal is 1, as that of correlations"),
        (lambda m: m[0] - np.eye(4), "diagonal is 0, as that of partial correlations"),
        (lambda m: -np.linalg.inv(m[0]), "diagonal goes down to -"),
        (lambda m: np.triu(np.linalg.inv(m[0])), "not symmetric"),
        (lambda m: np.where(np.eye(4) == 1, np.nan, 2.0), "not complete"),
        (lambda m: m, "does not hold one square matrix"),
    ],
)
def test_targets_that_are_no_precision_are_refused(tmp_path, matrices, make, message):
    file = tmp_path / "target.npy"
    np.save(file, make(matrices))
    with pytest.raises(InputError, match=message):
        read_target(file)
