# SPDX-License-Identifier: MIT
"""Markers of finished work."""

import dataclasses
import os

import pytest

from kraken_bids.completion import (
    fingerprint,
    finished_outputs,
    is_finished,
    mark_finished,
    marker_path,
    remove_stale,
)
from kraken_bids.settings import StructuralOptions


@pytest.fixture
def dataset(tmp_path):
    """A data set with two outputs and their marker."""
    outputs = [tmp_path / "sub-01" / name for name in ("a.tsv", "b.tsv")]
    outputs[0].parent.mkdir()
    for path in outputs:
        path.write_text("content")
    mark_finished(tmp_path, "sub-01", "key", outputs)
    return tmp_path


def test_marked_work_is_finished(dataset):
    assert is_finished(dataset, "sub-01", "key")


def test_other_settings_are_not_finished(dataset):
    assert not is_finished(dataset, "sub-01", "other key")


@pytest.mark.parametrize("damage", ["gone", "cut short"])
def test_work_with_a_damaged_output_is_not_finished(dataset, damage):
    output = dataset / "sub-01" / "b.tsv"
    output.unlink() if damage == "gone" else output.write_text("con")
    assert not is_finished(dataset, "sub-01", "key")


def test_a_page_may_be_drawn_again(dataset):
    page = dataset / "sub-01.html"
    page.write_text("<p>measured</p>")
    mark_finished(dataset, "sub-01", "key", [dataset / "sub-01" / "a.tsv", page])
    page.write_text("<p>measured</p><p>predicted</p>")
    assert is_finished(dataset, "sub-01", "key")
    page.write_text("")
    assert not is_finished(dataset, "sub-01", "key")


def test_unreadable_marker_marks_nothing(dataset):
    marker_path(dataset, "sub-01").write_text('{"key": "key", "outp')
    assert finished_outputs(dataset, "sub-01") == ("", {})


def test_missing_output_cannot_be_marked(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        mark_finished(tmp_path, "sub-01", "key", [tmp_path / "absent.tsv"])
    assert not marker_path(tmp_path, "sub-01").exists()


def test_fingerprint_changes_with_a_value_and_with_a_file(tmp_path):
    file = tmp_path / "input.nii.gz"
    file.write_text("first")
    options = StructuralOptions()
    before = fingerprint(options, file)
    assert fingerprint(options, file) == before
    assert fingerprint(dataclasses.replace(options, n_streamlines=7), file) != before
    file.write_text("other")
    os.utime(file, ns=(1, 1))
    assert fingerprint(options, file) != before


def test_stale_outputs_are_removed_but_nothing_outside(dataset, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "precious"
    outside.write_text("keep")
    relative = os.path.relpath(outside, dataset)
    removed = remove_stale(dataset, ["sub-01/a.tsv", "sub-01/b.tsv", relative], ["sub-01/b.tsv"])
    assert removed == [dataset / "sub-01" / "a.tsv"]
    assert outside.exists()
    assert (dataset / "sub-01" / "b.tsv").exists()


def test_pages_are_never_stale(dataset):
    (dataset / "group.html").write_text("a page")
    assert remove_stale(dataset, ["group.html"], []) == []
    assert (dataset / "group.html").exists()
