# SPDX-License-Identifier: MIT
"""Hostile names: of folders, participants, flavors and members. Nothing leaves the output folder,
tables stay tables, and scripts run what they should.
"""

from __future__ import annotations

import csv
import logging
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kraken_bids.bids.cohort import find_cohort
from kraken_bids.bids.files import participant_labels
from kraken_bids.bids.names import OUTPUTS, output_path, page_path
from kraken_bids.bids.writers import write_connectome, write_table, write_text
from kraken_bids.errors import KrakenBIDSError, ModelError, ResourceError, UsageError
from kraken_bids.formats.reading.opening import open_inputs
from kraken_bids.images.stream import read_header
from kraken_bids.model.bundle import is_plain_name, open_bundle, write_bundle
from kraken_bids.model.layers import FlavorModel, Layer
from kraken_bids.model.transforms import Transform
from kraken_bids.report.found import find_participants, find_sessions
from kraken_bids.scratch import forget_released
from kraken_bids.storage import load_json
from kraken_bids.submit.jobs import Job, Request
from kraken_bids.submit.schedulers import SCHEDULERS
from kraken_bids.submit.scripts import group_script, participant_script

#: What people, programs and attackers call things.
HOSTILE = (
    "a\nb", "a\tb", "a b", "a\rb", "..", "../../escaped", "..\\escaped", "-rf", "--help",
    ".hidden",
    "$(touch trap)", "`touch trap`", "a;touch trap", "a|b", "a&b", "*", "?", "~", "a'b", 'a"b',
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{7*7}}", "%s%n", "\u202egnp",
    "e\u0301", "\u2028", "x" * 200, "a=b", "@list", "#x", "\x1b[31m", "a\x7fb",
)  # fmt: skip
#: Those that can be the name of a file.
ON_DISK = tuple(name for name in HOSTILE if "/" not in name)


@pytest.mark.parametrize("name", sorted(set(HOSTILE) - {"x" * 200}))
def test_no_label_leads_out_of_the_data_set(name):
    for output in OUTPUTS:
        with pytest.raises(UsageError, match="cannot be part of a file name"):
            output_path(output, [("sub", name)], datatype="func", suffix="bold")
        with pytest.raises(UsageError, match="cannot be part of a file name"):
            output_path(output, [("sub", "01")], datatype="func", suffix="bold", desc=name)
    with pytest.raises(UsageError, match="cannot be part of a file name"):
        page_path("01", name)


@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
@settings(max_examples=300, deadline=None)
def test_any_text_is_refused_or_a_plain_part_of_a_name(label, desc):
    try:
        path = output_path("connectome", [("sub", label)], datatype="func", desc=desc)
    except UsageError:
        return
    assert path.parts[:2] == (f"sub-{label}", "func")
    assert len(path.parts) == 3
    assert label.isprintable()
    assert not set(str(path)) & set("\\\0\n\t '\"<>&$`;|*?~#")


@pytest.fixture
def hostile_folders(tmp_path):
    """A data set with folders of two participants and of all hostile names."""
    for name in ("01", "02+", *ON_DISK):
        (tmp_path / f"sub-{name}" / "func").mkdir(parents=True)
    (tmp_path / "sub-01" / "ses-a").mkdir()
    for name in ON_DISK:
        (tmp_path / "sub-01" / f"ses-{name}").mkdir()
    return tmp_path


def test_folders_that_are_no_labels_are_left_out_and_told(hostile_folders, caplog):
    with caplog.at_level(logging.WARNING):
        assert participant_labels(hostile_folders) == ("01", "02+")
    assert len(caplog.messages) == len(ON_DISK)
    assert all("left out" in message and message.isprintable() for message in caplog.messages)
    assert find_participants(hostile_folders) == ("01", "02+")
    assert find_sessions(hostile_folders, "01") == ("a",)


def test_the_cohort_has_no_hostile_members(hostile_folders):
    name = "sub-01_atlas-fs86_meas-SCsdstreamVN_relmat.tsv"
    for folder in [*hostile_folders.glob("sub-*"), *hostile_folders.glob("sub-01/ses-*")]:
        (folder / "dwi").mkdir()
        write_connectome(folder / "dwi" / name, np.eye(2), ("a", "b"))
    cohort = find_cohort(hostile_folders)
    assert {(one.participant, one.session) for one in cohort} == {
        ("01", None), ("02+", None), ("01", "a"),
    }  # fmt: skip


def _bundle_model() -> FlavorModel:
    ones = np.ones((2, 3), np.float32)
    layers = (Layer(ones, None, ()),), (Layer(ones.T.copy(), None, ()),)
    return FlavorModel(3, Transform("none", {}), *layers)


@pytest.mark.parametrize("name", [*HOSTILE[:6], *HOSTILE[7:10], "a/b", "/etc/x", "x" * 201, ""])
def test_names_of_flavors_are_names(tmp_path, name):
    if is_plain_name(name):
        assert name in {"a b", "..\\escaped"}
        return
    with pytest.raises(ModelError, match="cannot be the name of a flavor"):
        write_bundle(tmp_path / "m", flavors={name: _bundle_model()}, latent_size=2, provenance={})
    write_bundle(tmp_path / "m", flavors={"x": _bundle_model()}, latent_size=2, provenance={})
    config = tmp_path / "m" / "config.json"
    import json

    content = load_json(config)
    content["flavors"][name] = content["flavors"].pop("x")
    config.write_text(json.dumps(content))
    with pytest.raises(ResourceError, match="in place of"):
        open_bundle(tmp_path / "m")


@pytest.mark.parametrize("extension", [".npz", ".mat", ".tsv"])
def test_hostile_ids_come_through_or_are_refused(tmp_path, extension):
    """Ids of participants in a file: kept to the letter, or told."""
    import scipy.io

    ids = [name for name in HOSTILE if name == name.strip()]
    rows = np.random.default_rng(0).random((len(ids), 6))
    path = tmp_path / f"x{extension}"
    if extension == ".npz":
        np.savez(path, data=rows, subjects=np.array(ids))
    elif extension == ".mat":
        scipy.io.savemat(path, {"data": rows, "subject": np.array(ids, dtype=object)})
    else:
        # Lines that begin with # or % are comments, and quotes are a matter of the text format.
        ids = [
            name for name in ids if not set(name) & set('\n\t\r\u2028"') and name[0] not in "#%"
        ]
        rows = rows[: len(ids)]
        lines = ["\t".join([name, *map(str, row)]) for name, row in zip(ids, rows, strict=True)]
        path.write_text("\n".join(["participant_id\t" + "\t".join("abcdef"), *lines]) + "\n")
    (found,) = open_inputs(
        [f"FCcorr_toy_hpf={path}"], {"FCcorr_toy_hpf": 6}, latent_size=0
    ).values()
    assert found.participants == tuple(ids)
    np.testing.assert_allclose(found.read(range(found.n)), rows, rtol=1e-5)


@pytest.fixture
def hostile_job(tmp_path):
    """A job whose folder and options hold what shells like to run."""
    folder = tmp_path / "o'$(touch trap);`touch trap`\"&*"
    folder.mkdir()
    (folder / "list.txt").write_text("01 $(touch${IFS}trap) *\n")
    stub = tmp_path / "stub.sh"
    stub.write_text('#!/bin/bash\nprintf "%s\\n" "$@" > "$0.arguments"\n')
    stub.chmod(0o755)
    words = (str(stub), str(folder / "in"), "--work-dir", "$(touch trap)", "a b", "--")
    return Job(
        name="kraken",
        command=words,
        request=Request(n_cpus=1, mem_gb=1.0, minutes=1),
        folder=folder,
        list_file=folder / "list.txt",
        n_tasks=1,
    )


@pytest.mark.parametrize("scheduler", sorted(SCHEDULERS))
@pytest.mark.parametrize("write", [participant_script, group_script])
def test_scripts_run_nothing_of_the_names(tmp_path, hostile_job, scheduler, write):
    script = tmp_path / "job.sh"
    script.write_text(write(hostile_job, SCHEDULERS[scheduler]))
    done = subprocess.run(
        ["bash", str(script)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("trap"))
    told = (tmp_path / "stub.sh.arguments").read_text().splitlines()
    expected = list(hostile_job.command[1:])
    if write is participant_script:
        expected += ["--participant-label", "01", "$(touch${IFS}trap)", "*"]
    assert told == expected


def test_an_output_that_is_a_link_is_replaced_and_not_followed(tmp_path):
    outside, root = tmp_path / "outside.tsv", tmp_path / "out"
    outside.write_text("precious")
    root.mkdir()
    (root / "x.tsv").symlink_to(outside)
    write_text(root / "x.tsv", "new")
    assert outside.read_text() == "precious"
    assert (root / "x.tsv").read_text() == "new"
    assert not (root / "x.tsv").is_symlink()


def test_inputs_that_are_links_are_read(tmp_path):
    """As datalad and git-annex have them: the content lies elsewhere, under another name."""
    import nibabel as nib

    content = tmp_path / "annex" / "SHA256E-s99--abc.nii.gz"
    content.parent.mkdir()
    nib.save(nib.Nifti1Image(np.ones((2, 2, 2, 3), np.float32), np.eye(4)), content)
    link = tmp_path / "sub-01_bold.nii.gz"
    link.symlink_to(content)
    assert read_header(link).n_volumes == 3


@pytest.mark.parametrize("content", ['{"files": ["%s"]}', '{"files": 3}', "[]", "{"])
def test_markers_cannot_have_files_outside_the_working_folder_deleted(tmp_path, content):
    work, outside = tmp_path / "work" / "node", tmp_path / "precious"
    for folder in (work / "released", outside):
        folder.mkdir(parents=True)
        (folder / "x.tck").write_text("x")
    sneaky = f"{work}/../../precious/x.tck"
    from kraken_bids.interfaces.tractography import RELEASED

    (work / "released" / RELEASED).write_text(content.replace("%s", sneaky))
    forget_released({work: "key"})
    assert (outside / "x.tck").exists()
    assert not (work / "released" / RELEASED).exists()
    assert work.exists()


def test_tables_stay_tables(tmp_path):
    names = ("a", "b c", "<d>")
    write_connectome(tmp_path / "x.tsv", np.eye(3), names)
    with (tmp_path / "x.tsv").open(newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert rows[0] == ["region", *names]
    assert [row[0] for row in rows[1:]] == list(names)
    for broken in ("a\tb", "a\nb", "a\rb"):
        with pytest.raises((KrakenBIDSError, ValueError)):
            write_connectome(tmp_path / "y.tsv", np.eye(1), (broken,))
    assert not (tmp_path / "y.tsv").exists()


def test_cells_stay_cells(tmp_path):
    rows = [(name, "end") for name in HOSTILE]
    write_table(tmp_path / "x.tsv", ("name", "last"), rows)
    lines = (tmp_path / "x.tsv").read_text("utf-8").splitlines()
    assert [line.split("\t")[1:] for line in lines] == [["last"], *[["end"]] * len(HOSTILE)]
    assert lines[1].split("\t")[0] == "a b"
