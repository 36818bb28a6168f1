# SPDX-License-Identifier: MIT
from __future__ import annotations

import json
from pathlib import Path

import pytest

from kraken_bids.bids.files import parse_name, read_metadata, same_label, select


def test_names_are_taken_apart():
    file = parse_name(Path("func/sub-01_task-rest_space-fsLR_den-91k_bold.dtseries.nii"))
    assert file.label("den") == "91k"
    assert (file.suffix, file.extension, file.datatype) == ("bold", ".dtseries.nii", "func")
    assert file.source == (("sub", "01"), ("task", "rest"))


def test_source_entities_are_in_bids_order():
    file = parse_name(Path("func/sub-01_run-1_acq-mb_task-rest_model-x_bold.nii"))
    assert [key for key, _ in file.source] == ["sub", "task", "acq", "run"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("1", "01", True), ("1", "2", False), ("a", "a", True), ("01a", "1a", False)],
)
def test_numbers_may_have_leading_zeros(one, other, same):
    assert same_label(one, other) is same


def test_selection_tells_absent_from_any():
    files = [parse_name(Path(f"anat/sub-01{part}_T1w.nii.gz")) for part in ("", "_space-ACPC")]
    assert select(files, suffix="T1w") == files
    assert select(files, suffix="T1w", space=None) == files[:1]
    assert select(files, suffix="T1w", accepted=(("space", ("*",)),)) == files[1:]
    assert select(files, suffix="T1w", accepted=(("datatype", ("func",)),)) == []


def test_the_nearest_and_most_specific_sidecar_wins(tmp_path):
    func = tmp_path / "sub-01" / "func"
    func.mkdir(parents=True)
    contents = {
        tmp_path / "bold.json": {"a": 0, "b": 0, "c": 0, "d": 0},
        tmp_path / "task-rest_bold.json": {"b": 1, "c": 1, "d": 1},
        tmp_path / "task-nback_bold.json": {"a": "other task"},
        tmp_path / "sub-01" / "sub-01_bold.json": {"c": 2, "d": 2},
        func / "sub-01_task-rest_bold.json": {"d": 3},
        func / "sub-01_task-rest_run-2_bold.json": {"d": "other run"},
    }
    for path, content in contents.items():
        path.write_text(json.dumps(content))
    file = parse_name(func / "sub-01_task-rest_run-1_bold.nii.gz")
    assert read_metadata(file, tmp_path) == {"a": 0, "b": 1, "c": 2, "d": 3}
