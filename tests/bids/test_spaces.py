# SPDX-License-Identifier: MIT
from __future__ import annotations

from pathlib import Path

import pytest

from kraken_bids.bids.files import parse_name
from kraken_bids.bids.spaces import SpaceGraph, space_name, transform_steps
from kraken_bids.errors import InputError


def graph(program, *names, datatype="anat", **options):
    files = [parse_name(Path(datatype, f"sub-01_{name}")) for name in names]
    return transform_steps(files, program, **options)


def ways(steps):
    return [(step.source, step.target, step.inverted) for step in steps]


def test_the_way_within_one_space_is_empty():
    assert SpaceGraph().route("T1w", "T1w") == ()


def test_affines_go_both_ways_and_warps_one():
    steps = graph("qsiprep", "from-anat_to-ACPC_mode-image_xfm.mat")
    assert ways(steps.route("T1w", "ACPC")) == [("T1w", "ACPC", False)]
    assert ways(steps.route("ACPC", "T1w")) == [("ACPC", "T1w", True)]
    steps = graph("fmriprep", "from-T1w_to-MNI152NLin6Asym_mode-image_xfm.h5")
    assert steps.route("MNI152NLin6Asym", "T1w") is None


def test_a_forward_file_is_preferred_to_an_inverse():
    steps = graph(
        "qsiprep",
        "from-ACPC_to-anat_mode-image_xfm.mat",
        "from-anat_to-ACPC_mode-image_xfm.mat",
    )
    assert ways(steps.route("T1w", "ACPC")) == [("T1w", "ACPC", False)]


def test_the_shortest_way_is_taken():
    steps = graph(
        "fmriprep",
        "from-MNI152NLin6Asym_to-T1w_mode-image_xfm.h5",
        "from-T1w_to-MNI152NLin2009cAsym_mode-image_xfm.h5",
        "from-MNI152NLin6Asym_to-MNI152NLin2009cAsym_mode-image_xfm.h5",
    )
    assert len(steps.route("MNI152NLin6Asym", "MNI152NLin2009cAsym")) == 1


@pytest.mark.parametrize(
    ("program", "label", "space"),
    [
        ("fmriprep", "T1w", "T1w"),
        ("fmriprep", None, "boldref"),
        ("fmriprep", "scanner", "boldref"),
        ("qsiprep", "T1w", "ACPC"),
        ("qsiprep", "ACPC", "ACPC"),
        ("qsiprep", "T1wNative", "T1w"),
        ("qsiprep", "anat", "T1w"),
        ("qsirecon", None, "ACPC"),
        ("qsiprep", "MNI152NLin2009cAsym", "MNI152NLin2009cAsym"),
    ],
)
def test_labels_mean_other_spaces_in_other_programs(program, label, space):
    assert space_name(label, program) == space


def test_transforms_of_head_motion_and_raw_images_are_not_used():
    steps = graph(
        "fmriprep",
        "task-rest_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt",
        datatype="func",
        func=True,
    )
    assert steps.steps == ()
    assert graph("fmriprep", "from-orig_to-T1w_mode-image_xfm.txt").steps == ()
    assert graph("qsiprep", "from-orig_to-anat_mode-image_xfm.txt").steps == ()


def test_both_missing_legs_are_named():
    with pytest.raises(InputError) as error:
        SpaceGraph().require(
            "MNI152NLin6Asym", "ACPC", participant="sub-01", searched=[Path("/data/sub-01")]
        )
    message = str(error.value)
    assert "sub-01_from-MNI152NLin6Asym_to-T1w_mode-image_xfm.h5 (fMRIPrep)" in message
    assert "sub-01_from-anat_to-ACPC_mode-image_xfm.mat (QSIPrep)" in message
    assert "/data/sub-01" in message
