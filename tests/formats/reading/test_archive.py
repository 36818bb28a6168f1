# SPDX-License-Identifier: MIT
from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest
from scipy.io import savemat

from kraken_bids.connectome.edges import edges_to_matrix
from kraken_bids.errors import InputError, KrakenBIDSError, Problems
from kraken_bids.formats.inputs import Wanted
from kraken_bids.formats.reading.archive import open_archive

FC, SC = "FCcorr_toy_hpf", "SCifod2act_toy_volnorm"
N_EDGES = 10
WANTED = Wanted({FC: N_EDGES, SC: N_EDGES})


@pytest.fixture
def edges(rng):
    return rng.normal(size=(3, N_EDGES)).astype(np.float32)


def text(row, separator="\t"):
    """A full matrix as the reference writes it."""
    matrix = edges_to_matrix(row, diagonal=1.0)
    return "\n".join(separator.join(f"{value:.9g}" for value in line) for line in matrix) + "\n"


def mat(row, **fields):
    file = io.BytesIO()
    savemat(file, fields or {"data": edges_to_matrix(row)}, do_compression=True)
    return file.getvalue()


def name(participant, meas, *, atlas="toy", desc="", extension="tsv"):
    desc = f"_desc-{desc}" if desc else ""
    return f"sub-{participant}_atlas-{atlas}_meas-{meas}{desc}_relmat.dense.{extension}"


def write(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return path


def test_members_are_read_by_flavor_and_participant(tmp_path, edges):
    path = write(tmp_path / "c.zip", {
        f"set/{name('0001', 'FCcorrHPF')}": text(edges[0]),
        f"set/{name('0002', 'FCcorrHPF', extension='csv')}": "# mine\n" + text(edges[1], ","),
        f"set/{name('0002', 'SCifod2actVN', desc='x', extension='mat')}": mat(edges[2]),
        "set/participants.tsv": "participant_id\tsubject\nsub-0002\tsubj02\nsub-0001\tsubj01\n",
        "set/README": "hello",
        "__MACOSX/set/._sub-0001_atlas-toy_meas-FCcorrHPF_relmat.dense.tsv": "x",
    })  # fmt: skip
    found = open_archive(path, WANTED)
    assert found[FC].participants == ("subj02", "subj01")
    assert found[SC].participants == ("subj02",)  # partly missing flavors are usual
    np.testing.assert_array_equal(found[FC].read([0, 1]), edges[[1, 0]])
    np.testing.assert_array_equal(found[SC].read([0]), edges[2:])
    assert found[FC].n_columns == N_EDGES


def test_participants_are_the_labels_without_a_table_of_subjects(tmp_path, edges):
    members = {name("b", "FCcorrHPF"): text(edges[0]), name("a", "FCcorrHPF"): text(edges[1])}
    assert open_archive(write(tmp_path / "a.zip", members), WANTED)[FC].participants == ("a", "b")
    members["participants.tsv"] = "participant_id\nsub-b\n"
    found = open_archive(write(tmp_path / "b.zip", members), WANTED)
    assert found[FC].participants == ("b", "a")


@pytest.mark.parametrize(
    ("meas", "flavor"),
    [
        ("FCcorrHPF", "FCcorr_fs86_hpf"), ("FCcorrHPFGSR", "FCcorr_fs86_hpfgsr"),
        ("FCcovBPF", "FCcorr_fs86_bpf"), ("FCcorrNFGSR", "FCcorr_fs86_nofiltgsr"),
        ("FCpcorrHPF", "FCpcorr_fs86_hpf"), ("SCifod2actVN", "SCifod2act_fs86_volnorm"),
        ("SCsdstreamSiftVN", "SCsdstream_fs86_sift2volnorm"),
        ("SCsdstreamSIFT2VN", "SCsdstream_fs86_sift2volnorm"),
        ("SCifod2actSiftCount", "SCifod2act_fs86_sift2"),
        ("SCifod2actSIFT2", "SCifod2act_fs86_sift2"), ("scifod2actcount", "SCifod2act_fs86_count"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("atlas", ["fs86", "FS86"])
def test_old_and_new_measures_are_flavors(tmp_path, rng, meas, flavor, atlas):
    row = rng.normal(size=3655).astype(np.float32)
    path = write(tmp_path / "c.zip", {name("1", meas, atlas=atlas): text(row)})
    found = open_archive(path, Wanted({flavor: 3655}))
    np.testing.assert_allclose(found[flavor].read([0])[0], row, rtol=1e-6)


def test_a_model_s_own_old_name_is_kept(tmp_path, edges):
    path = write(tmp_path / "c.zip", {name("1", "SCifod2actSiftCount"): text(edges[0])})
    old = "SCifod2act_toy_sift2count"
    assert list(open_archive(path, Wanted({old: N_EDGES}))) == [old]


def test_one_flavor_is_given_if_one_was_asked_for(tmp_path, edges):
    members = {name("1", "FCcorrHPF"): text(edges[0]), name("1", "SCifod2actVN"): text(edges[1])}
    path = write(tmp_path / "c.zip", members)
    assert list(open_archive(path, Wanted(WANTED.n_edges, name=SC))) == [SC]
    assert set(open_archive(path, Wanted({}))) == {FC, SC}
    assert open_archive(path, Wanted({}))[FC].n_columns == N_EDGES
    with pytest.raises(
        InputError, match="FCcorr_toy_hpf, SCifod2act_toy_volnorm, not FCcorr_toy_bpf"
    ):
        open_archive(path, Wanted({"FCcorr_toy_bpf": 10}, name="FCcorr_toy_bpf"))


@pytest.mark.parametrize(
    ("file", "settings", "flavor"),
    [
        ("anna_nemo_output_ifod2act_chacoconn_toy_nemoSC_mean.mat", None, "SCifod2act_toy_count"),
        ("anna_nemo_output_sdstream_chacoconn_toysubj_nemoSC_volnorm_mean.mat", None,
         "SCsdstream_toy_volnorm"),
        ("anna_nemo_output_sdstream_chacoconn_toy_nemoSC_sift2_volnorm_mean.mat", None,
         "SCsdstream_toy_sift2volnorm"),
        ("anna_nemo_output_sdstream_chacoconn_toy_nemoSC_mean.mat", {"siftweights": True},
         "SCsdstream_toy_sift2"),
    ],
    ids=["count", "subj", "sift2", "settings"],
)  # fmt: skip
def test_outputs_of_the_nemo_tool_are_read(tmp_path, edges, file, settings, flavor):
    members = {f"out/{file}": mat(edges[0])}
    if settings:
        members["out/anna_nemo_output_config.json"] = json.dumps(settings)
    found = open_archive(write(tmp_path / "n.zip", members), Wanted({flavor: N_EDGES}))
    assert found[flavor].participants == ("anna",)
    np.testing.assert_array_equal(found[flavor].read([0]), edges[:1])


def test_names_that_point_outside_touch_nothing(tmp_path, edges):
    members = {f"../../{name('1', 'FCcorrHPF')}": text(edges[0])}
    members[f"/etc/{name('2', 'FCcorrHPF')}"] = text(edges[1])
    (tmp_path / "in").mkdir()
    path = write(tmp_path / "in" / "c.zip", members)
    found = open_archive(path, WANTED)[FC]
    np.testing.assert_array_equal(found.read([0, 1]), edges[:2])
    assert [item.name for item in tmp_path.rglob("*")] == ["in", "c.zip"]


def test_members_of_absurd_size_are_refused_before_they_are_unpacked(tmp_path):
    bomb = b"0\t" * (2 << 20)
    path = write(tmp_path / "c.zip", {name("1", "FCcorrHPF"): bomb, name("2", "FCcorrHPF"): bomb})
    with pytest.raises(Problems, match=r"sub-1_\S+ claims 4194304 bytes") as told:
        open_archive(path, WANTED)
    assert len(told.value.problems) == 2
    open_archive(write(tmp_path / "d.zip", {name("1", "SCsdstreamCount"): bomb,
                                            name("1", "FCcorrHPF"): "1"}), WANTED)  # fmt: skip


def test_matrices_of_absurd_size_within_mat_members_are_refused(tmp_path):
    path = write(tmp_path / "c.zip", {
        name("1", "FCcorrHPF", extension="mat"): mat(None, data=np.zeros((900, 900))),
    })  # fmt: skip
    with pytest.raises(
        InputError, match=r"values of shape \(900, 900\), not a square .* 5 regions"
    ):
        open_archive(path, WANTED)[FC].read([0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"1\t2\n3\t4\n", r"participant 1 has 2 regions, FCcorr_toy_hpf has 5"),
        (b"1\t2\n3\n", r"no whole square matrix: 2 rows of 1 to 2 values \(sub-1_"),
        (b"", "is empty"),
        (b"1\t2\t3\n2\tx\t1\n3\t1\t1\n", "'x' is no number"),
    ],
    ids=["size", "uneven", "empty", "text"],
)
def test_members_that_are_no_connectomes_are_named(tmp_path, content, message):
    path = write(tmp_path / "c.zip", {name("1", "FCcorrHPF"): content})
    with pytest.raises(InputError, match=message):
        open_archive(path, WANTED)[FC].read([0])


def test_all_broken_members_of_a_batch_are_told_together(tmp_path, edges):
    members = {name(f"{i}", "FCcorrHPF"): "1\t2\n3\t4\n" for i in range(30)}
    found = open_archive(write(tmp_path / "c.zip", members), WANTED)[FC]
    with pytest.raises(Problems, match="participant 0 has") as told:
        found.read(range(30))
    assert len(told.value.problems) == 21
    assert "10 more problems" in str(told.value)


def test_a_participant_s_flavor_that_comes_twice_is_refused(tmp_path, edges):
    members = {
        name("1", "FCcorrHPF"): text(edges[0]),
        name("1", "FCcorrHPF", desc="b"): text(edges[0]),
    }
    with pytest.raises(InputError, match="participant 1 has FCcorr_toy_hpf twice"):
        open_archive(write(tmp_path / "c.zip", members), WANTED)


@pytest.mark.parametrize(
    ("table", "message"),
    [("id\nsub-1\n", "no column 'participant_id'"),
     ("participant_id\tsubject\nsub-1\ta\nsub-2\ta\n", "two participants have one subject")],
)  # fmt: skip
def test_broken_tables_of_participants_are_told(tmp_path, edges, table, message):
    members = {name("1", "FCcorrHPF"): text(edges[0]), "participants.tsv": table}
    with pytest.raises(InputError, match=message):
        open_archive(write(tmp_path / "c.zip", members), WANTED)


def test_what_is_no_archive_of_connectomes_is_refused(tmp_path, edges, caplog):
    (tmp_path / "a.zip").write_bytes(b"PK nothing")
    with pytest.raises(InputError, match="no zip archive"):
        open_archive(tmp_path / "a.zip", WANTED)
    with pytest.raises(InputError, match=r"no connectomes, not any flavor of the model.*relmat"):
        open_archive(write(tmp_path / "b.zip", {"x.txt": "1"}), WANTED)
    members = {name("1", "thickness"): text(edges[0])}
    with pytest.raises(InputError, match="no connectomes"):
        open_archive(write(tmp_path / "c.zip", members), WANTED)
    assert "no known flavor: sub-1_atlas-toy_meas-thickness" in caplog.text


@pytest.mark.parametrize("where", ["middle", "end"])
def test_damaged_archives_are_told(tmp_path, edges, where):
    path = write(tmp_path / "c.zip", {name("1", "FCcorrHPF"): text(edges[0])})
    content = bytearray(path.read_bytes())
    if where == "end":
        path.write_bytes(content[:-40])
        with pytest.raises(InputError, match="no zip archive"):
            open_archive(path, WANTED)
        return
    content[100:110] = bytes(10)
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be unpacked"):
        open_archive(path, WANTED)[FC].read([0])


def damaged(content, rng):
    """The content with some bytes changed, or cut short."""
    content = bytearray(content)
    if rng.random() < 0.3:
        content = content[: rng.integers(1, len(content))]
    for _ in range(rng.integers(0, 6)):
        content[rng.integers(len(content))] = rng.integers(256)
    return bytes(content)


def test_damaged_archives_end_in_words(tmp_path, edges, rng):
    path = write(tmp_path / "c.zip", {
        name("1", "FCcorrHPF"): text(edges[0]),
        name("2", "FCcorrHPF", extension="mat"): mat(edges[1]),
        "participants.tsv": "participant_id\nsub-1\nsub-2\n",
    })  # fmt: skip
    whole, n_told = path.read_bytes(), 0
    for _ in range(100):
        path.write_bytes(damaged(whole, rng))
        try:
            found = open_archive(path, WANTED)[FC]
            found.read(range(found.n))
        except KrakenBIDSError:
            n_told += 1
    assert n_told > 50
