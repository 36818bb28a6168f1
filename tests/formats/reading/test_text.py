# SPDX-License-Identifier: MIT
from __future__ import annotations

import logging

import numpy as np
import pytest

from kraken_bids.atlases import load_atlas
from kraken_bids.bids.writers import write_connectome, write_table
from kraken_bids.connectome.edges import edges_to_matrix, n_edges
from kraken_bids.errors import InputError, KrakenBIDSError, Problems, UsageError
from kraken_bids.formats.inputs import Wanted
from kraken_bids.formats.reading.text import open_text

FLAVOR = "FCcorr_toy_hpf"
N_REGIONS = 5
N_EDGES = n_edges(N_REGIONS)
WANTED = Wanted({FLAVOR: N_EDGES}, latent_size=4, name=FLAVOR)
IDS = ["s1", "s2", "s30"]


@pytest.fixture
def edges(rng):
    return rng.normal(size=(3, N_EDGES)).astype(np.float32)


def write(path, rows, *, separator="\t", header=None, ids=None, comment="", digits=9):
    """A table or matrix as text."""
    lines = [comment] if comment else []
    lines += [separator.join(header)] if header else []
    for place, row in enumerate(rows):
        cells = [f"{value:.{digits}g}" if np.isfinite(value) else "n/a" for value in row]
        lines.append(separator.join([*([ids[place]] if ids else []), *cells]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def only(path, wanted=WANTED):
    inputs = open_text(path, wanted)
    assert list(inputs) == [wanted.name]
    return inputs[wanted.name]


def columns(*leading, n=N_EDGES):
    return [*leading, *(f"edge{place}" for place in range(n))]


@pytest.mark.parametrize("separator", ["\t", ",", " "], ids=["tab", "comma", "blanks"])
@pytest.mark.parametrize(
    ("ids", "header", "expected"),
    [
        (IDS, columns("participant_id"), tuple(IDS)),
        (["sub-01", "sub-02", "sub-03"], columns("subject"), ("01", "02", "03")),
        (["sub-01", "sub-02", "sub-03"], None, ("01", "02", "03")),
        (["100307", "100408", "101107.0"], None, ("100307", "100408", "101107")),
        (IDS, columns("Proband"), tuple(IDS)),
        (None, columns(), None),
        (None, None, None),
    ],
    ids=["header", "prefixes", "no-header", "numbers", "other-header", "no-ids", "bare"],
)
def test_a_table_has_a_row_a_participant(tmp_path, edges, separator, ids, header, expected):
    path = write(tmp_path / "t.txt", edges, separator=separator, header=header, ids=ids)
    found = only(path)
    assert (found.participants, found.n, found.n_columns) == (expected, 3, N_EDGES)
    np.testing.assert_array_equal(found.read([0, 2]), edges[[0, 2]])
    assert found.read([1]).dtype == np.float32


@pytest.mark.parametrize("cell", ["n/a", "NaN", "", "nan", "NA"])
def test_missing_values_are_nan(tmp_path, edges, cell):
    path = write(tmp_path / "t.csv", edges, separator=",", header=columns("subject"), ids=IDS)
    lines = path.read_text().splitlines()
    cells = lines[2].split(",")
    cells[4] = cell
    lines[2] = ",".join(cells)
    path.write_text("\n".join(lines))
    rows = only(path).read([0, 1])
    assert np.flatnonzero(np.isnan(rows[1])).tolist() == [3]
    assert not np.isnan(rows[0]).any()


@pytest.mark.parametrize("text", ["+1.5", "1.", ".5", "1E-3", "-0.25e+2", "007"])
def test_numbers_are_read_in_every_spelling(tmp_path, edges, text):
    path = write(tmp_path / "t.tsv", edges, ids=IDS, header=columns("subject"))
    lines = path.read_text().splitlines()
    lines[1] = "\t".join([*lines[1].split("\t")[:-1], text])
    path.write_text("\n".join(lines))
    assert only(path).read([0])[0, -1] == np.float32(float(text))


def test_comments_marks_and_windows_lines_do_not_disturb(tmp_path, edges):
    path = write(tmp_path / "t.csv", edges, separator=",", ids=[f'"{i}"' for i in IDS],
                 header=columns("subject"), comment="# mine\n! yes\n\n% mine")  # fmt: skip
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    found = only(path)
    assert found.participants == tuple(IDS)
    np.testing.assert_array_equal(found.read([0, 1, 2]), edges)


def test_sessions_are_part_of_the_id(tmp_path, edges):
    rows = [["sub-1", "ses-a"], ["sub-1", "ses-b"], ["sub-2", "n/a"]]
    write_table(tmp_path / "t.tsv", columns("participant_id", "session_id"),
                [[*ids, *row] for ids, row in zip(rows, edges.tolist(), strict=True)])  # fmt: skip
    assert only(tmp_path / "t.tsv").participants == ("1_ses-a", "1_ses-b", "2")


@pytest.mark.parametrize(
    ("header", "ids"),
    [(None, None), (["", *"abcde"], list("abcde")), (["region", *"abcde"], list("abcde")),
     (list("abcde"), None), (list("abcde"), list("abcde")), (None, list("abcde"))],
    ids=["bare", "corner", "named-corner", "header", "no-corner", "rows"],
)  # fmt: skip
@pytest.mark.parametrize("separator", ["\t", ","])
def test_a_square_matrix_is_one_participant(tmp_path, edges, header, ids, separator):
    matrix = edges_to_matrix(edges[0], diagonal=1.0)
    path = write(tmp_path / "sub-07_ses-b_FC.txt", matrix, separator=separator, header=header,
                 ids=ids)  # fmt: skip
    found = only(path)
    assert (found.participants, found.n_columns) == (("07_ses-b",), N_EDGES)
    np.testing.assert_array_equal(found.read([0]), edges[:1])


def test_a_matrix_without_entities_is_named_by_its_file(tmp_path, edges):
    path = write(tmp_path / "anna.csv", edges_to_matrix(edges[0]), separator=" ")
    assert only(path).participants == ("anna",)


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)], ids=["same", "reversed"])
def test_named_regions_are_put_in_the_order_of_the_atlas(tmp_path, rng, order):
    names = load_atlas("fs86").region_names
    expected = rng.normal(size=n_edges(86)).astype(np.float32)
    matrix = edges_to_matrix(expected)[order, order]
    write_connectome(tmp_path / "sub-1_atlas-fs86_meas-FCcorrHPF_relmat.tsv", matrix,
                     names[order])  # fmt: skip
    inputs = open_text(next(tmp_path.iterdir()), Wanted({"FCcorr_fs86_hpf": expected.size}))
    assert list(inputs) == ["FCcorr_fs86_hpf"]
    np.testing.assert_allclose(inputs["FCcorr_fs86_hpf"].read([0])[0], expected, rtol=1e-6)


def test_regions_that_a_matrix_lacks_are_missing_edges(tmp_path, rng, caplog):
    names = load_atlas("fs86").region_names
    expected = rng.normal(size=n_edges(86)).astype(np.float32)
    matrix = np.delete(np.delete(edges_to_matrix(expected), 3, 0), 3, 1)
    write_connectome(tmp_path / "sub-1.tsv", matrix, [*names[:3], *names[4:]])
    found = only(tmp_path / "sub-1.tsv",
                 Wanted({"FCcorr_fs86_hpf": expected.size}, name="FCcorr_fs86_hpf"))  # fmt: skip
    row = edges_to_matrix(found.read([0])[0], diagonal=0.0)
    assert np.isnan(row[3, :3]).all()
    assert np.isnan(row).sum() == 2 * 85
    assert "1 regions of fs86 are missing" in caplog.text


def test_regions_of_another_version_are_refused(tmp_path, rng):
    names = list(load_atlas("fs86").region_names)
    names[5] = "Somewhere"
    write_connectome(tmp_path / "sub-1.tsv", edges_to_matrix(rng.normal(size=3655)), names)
    found = only(tmp_path / "sub-1.tsv", Wanted({"FCcorr_fs86_hpf": 3655}, name="FCcorr_fs86_hpf"))
    with pytest.raises(InputError, match=r"Somewhere are not of the atlas fs86.*participant 1"):
        found.read([0])


def test_strange_names_keep_their_order_and_are_told(tmp_path, rng, caplog):
    edges = rng.normal(size=3655).astype(np.float32)
    write_connectome(tmp_path / "sub-1.tsv", edges_to_matrix(edges), [f"r{i}" for i in range(86)])
    found = only(tmp_path / "sub-1.tsv", Wanted({"FCcorr_fs86_hpf": 3655}, name="FCcorr_fs86_hpf"))
    np.testing.assert_allclose(found.read([0])[0], edges, rtol=1e-6)
    assert "not those of fs86" in caplog.text


@pytest.mark.parametrize(
    ("name", "leading", "rows", "expected"),
    [
        ("fusion", ["participant_id", "session_id", "n_inputs"],
         [["sub-1", "ses-a", 2], ["sub-2", "n/a", 1]], ("1_ses-a", "2")),
        ("encoded", ["subject"], [["x"], ["y"]], ("x", "y")),
        ("encoded", [], [[], []], None),
    ],
    ids=["ours", "ids", "bare"],
)  # fmt: skip
def test_latents_are_read_from_tables(tmp_path, rng, name, leading, rows, expected):
    latents = rng.normal(size=(2, 4)).astype(np.float32)
    table = [[*cells, *latent.tolist()] for cells, latent in zip(rows, latents, strict=True)]
    write_table(tmp_path / "t.tsv", [*leading, "z000", "z001", "z002", "z003"], table, digits=9)
    found = only(tmp_path / "t.tsv", Wanted({}, latent_size=4, name=name))
    assert found.participants == expected
    np.testing.assert_array_equal(found.read([0, 1]), latents)


def test_a_session_s_latents_are_chosen_by_source(tmp_path, rng):
    latents = rng.normal(size=(2, 4)).astype(np.float32)
    header = ["source", "n_inputs", "z000", "z001", "z002", "z003"]
    rows = [["fusion", 2, *latents[0].tolist()], ["fusionSC", 1, *latents[1].tolist()]]
    write_table(tmp_path / "sub-1_latent.tsv", header, rows, digits=9)
    found = only(tmp_path / "sub-1_latent.tsv", Wanted({}, latent_size=4, name="fusionSC"))
    assert found.participants == ("1",)
    np.testing.assert_array_equal(found.read([0]), latents[1:])
    with pytest.raises(InputError, match="latents of fusion, fusionSC: which one is meant"):
        open_text(tmp_path / "sub-1_latent.tsv", Wanted({}, latent_size=4, name="encoded"))


def test_a_file_s_name_tells_the_flavor(tmp_path, edges):
    flavors = {"FCcorr_fs86_hpf": 3655, "FCcorr_toy_hpf": N_EDGES}
    path = write(tmp_path / "study_FCcorr_toy_hpf.csv", edges, ids=IDS)
    assert list(open_text(path, Wanted(flavors))) == ["FCcorr_toy_hpf"]
    with pytest.raises(UsageError, match=r"does not tell which flavor.*FLAVOR="):
        open_text(write(tmp_path / "x.csv", edges), Wanted(flavors))
    path = write(tmp_path / "FCcorr_shen268_hpf.csv", edges)
    with pytest.raises(UsageError, match="FCcorr_shen268_hpf, which the model lacks"):
        open_text(path, Wanted(flavors))


@pytest.mark.parametrize("n_rows", [2, 3])
def test_any_size_is_taken_where_none_is_known(tmp_path, edges, n_rows):
    path = write(tmp_path / "t.csv", edges[:n_rows], ids=IDS[:n_rows], header=columns("subject"))
    found = only(path, Wanted({}, name=FLAVOR))
    assert (found.n, found.n_columns) == (n_rows, N_EDGES)
    path = write(tmp_path / "sub-1.csv", edges_to_matrix(edges[0], diagonal=1.0))
    assert only(path, Wanted({}, name=FLAVOR)).n_columns == N_EDGES


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("subject,{}\n", "holds a header and no row"),
        (
            "1,2,3\n4,5\n6,7,8\n",
            r"rows differ in their number of cells: 3 in most, not in 4 \(2\)",
        ),
        ("1,2,3\n4,5,6\n", r"2 rows of 3 values, the flavor has 5 regions \(10 edges\)"),
        ("1\x002\n", "no plain text"),
        ("subject,{}\ns1,{}\ns1,{}\n", "participants s1 come more than once"),
        ("subject,{}\ns1,{}\n,{}\n", "some rows have no id"),
    ],
    ids=["empty", "comments", "header", "uneven", "size", "binary", "twice", "no-id"],
)
def test_what_is_no_table_is_refused_on_opening(tmp_path, text, message):
    ones = ",".join("1" for _ in range(N_EDGES))
    (tmp_path / "t.csv").write_text(text.replace("subject,{}", "subject,a" + "," * 9)
                                    .replace("{}", ones))  # fmt: skip
    with pytest.raises((InputError, Problems), match=message):
        open_text(tmp_path / "t.csv", WANTED)


@pytest.mark.parametrize(
    ("value", "message"),
    [("abc", r"'abc' is no number.*participant s2"), ("1_0", "'1_0' is no number"),
     ("1,5", "'1,5' is no number"), ("inf", "participants s2: infinite values"),
     ("0x10", "is no number")],
)  # fmt: skip
def test_cells_that_are_no_numbers_are_named(tmp_path, edges, value, message):
    path = write(tmp_path / "t.tsv", edges, ids=IDS, header=columns("subject"))
    lines = path.read_text().splitlines()
    lines[2] = "\t".join([*lines[2].split("\t")[:-1], value])
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match=message):
        only(path).read([0, 1, 2])


def test_constant_and_asymmetric_matrices_are_refused(tmp_path, edges):
    path = write(tmp_path / "t.tsv", np.zeros((1, N_EDGES)), ids=["s1"])
    with pytest.raises(InputError, match="s1: all edges have the same value"):
        only(path).read([0])
    path = write(tmp_path / "sub-9.tsv", np.triu(edges_to_matrix(edges[0])))
    with pytest.raises(InputError, match="participants 9: only the upper triangle is filled"):
        only(path).read([0])


def test_a_shape_that_fits_two_readings_is_refused_unless_the_header_decides(tmp_path):
    three = Wanted({FLAVOR: 3}, name=FLAVOR)
    values = np.array([[1.0, 0.2, 0.3], [0.2, 1.0, 0.4], [0.3, 0.4, 1.0]])
    with pytest.raises(InputError, match="could be one matrix of 3 regions, or 3 participants"):
        open_text(write(tmp_path / "bare.tsv", values), three)
    table = write(tmp_path / "t.tsv", values, ids=IDS, header=["subject", "a", "b", "c"])
    assert only(table, three).n == 3
    matrix = write(tmp_path / "m.tsv", values, ids=list("abc"), header=["", *"abc"])
    assert only(matrix, three).n == 1


def test_rows_are_read_when_asked_for(tmp_path, edges):
    path = write(tmp_path / "t.tsv", edges, ids=IDS)
    found = only(path)
    path.write_bytes(path.read_bytes()[:-30])
    np.testing.assert_array_equal(found.read([0]), edges[:1])
    with pytest.raises(InputError, match=r"has changed since it was opened|is no number"):
        found.read([2])


def test_latents_that_are_not_asked_for_are_refused(tmp_path, edges):
    path = write(tmp_path / "t.tsv", edges, ids=IDS)
    with pytest.raises(UsageError, match="latents"):
        open_text(path, Wanted({FLAVOR: N_EDGES}, name="encoded"))


def test_reading_tells_nothing_of_what_is_usual(tmp_path, edges, caplog):
    caplog.set_level(logging.WARNING)
    only(write(tmp_path / "t.tsv", edges, ids=IDS)).read([0, 1, 2])
    assert not caplog.records


def damaged(content, rng):
    """The content with some bytes changed, or cut short."""
    content = bytearray(content)
    if rng.random() < 0.3:
        content = content[: rng.integers(1, len(content))]
    for _ in range(rng.integers(0, 6)):
        content[rng.integers(len(content))] = rng.integers(256)
    return bytes(content)


@pytest.mark.parametrize("kind", ["table", "matrix"])
def test_damaged_files_end_in_words(tmp_path, edges, rng, kind):
    values = edges if kind == "table" else edges_to_matrix(edges[0])
    names = IDS if kind == "table" else list("abcde")
    header = columns("subject") if kind == "table" else None
    path = write(tmp_path / "t.tsv", values, ids=names, header=header)
    whole, n_told = path.read_bytes(), 0
    for _ in range(100):
        path.write_bytes(damaged(whole, rng))
        try:
            found = only(path)
            found.read(range(found.n))
        except KrakenBIDSError:
            n_told += 1
    assert n_told > 50
