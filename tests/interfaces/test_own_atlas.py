# SPDX-License-Identifier: MIT
from __future__ import annotations

import logging

import numpy as np

from kraken_bids.images.own_coco import OwnImage
from kraken_bids.interfaces.own_atlas import (
    label_origins,
    own_facts,
    plain_own_labels,
    tell_own_image,
)
from kraken_bids.plan import LabelSource, OwnLabels, TransformStep


def image(**changes):
    values = {"missing": (), "unusual": {}, "unlabelled": 0.0123456} | changes
    return OwnImage(np.zeros((1, 1, 1), np.int32), np.eye(4), **values)


def test_changed_files_are_another_input(tmp_path):
    for name in ("aseg.mgz", "group.nii.gz", "xfm.txt"):
        (tmp_path / name).write_bytes(b"1")
    step = TransformStep(tmp_path / "xfm.txt", "MNI152NLin6Asym", "T1w")
    files = (("aseg", tmp_path / "aseg.mgz"),)
    own = OwnLabels("volume", files, tmp_path / "group.nii.gz", (step,))
    before = plain_own_labels(own)
    assert plain_own_labels(own) == before
    for name in ("aseg.mgz", "group.nii.gz", "xfm.txt"):
        (tmp_path / name).write_bytes(b"other")
        after = plain_own_labels(own)
        assert after != before
        before = after


def test_origins_are_told_only_where_they_are_a_question(tmp_path):
    sources = [
        LabelSource("fs86", tmp_path / "aparc.mgz", "T1w", codes="freesurfer"),
        LabelSource("coco439", tmp_path / "dil1.nii.gz", "T1w", group_reason="no annotation"),
    ]
    assert label_origins(sources) == {
        "coco439": {"LabelOrigin": "group", "LabelOriginReason": "no annotation"}
    }


def test_missing_and_unusual_regions_are_told_and_kept(caplog):
    found = image(missing=("LC_L", "LC_R"), unusual={"L_V1_ROI": 5.0})
    with caplog.at_level(logging.WARNING):
        tell_own_image(found, "sub-01")
    first, second = (record.getMessage() for record in caplog.records)
    assert "2 of the regions" in first
    assert "(LC_L, LC_R)" in first
    assert "very different size" in second
    assert own_facts(found) == {
        "LabelFacts": {
            "MissingRegions": ["LC_L", "LC_R"],
            "UnusualSizes": {"L_V1_ROI": 5.0},
            "UnlabelledCortex": 0.0123,
        }
    }


def test_an_image_as_it_should_be_is_not_told_of(caplog):
    tell_own_image(image(), "sub-01")
    assert not caplog.records
