# SPDX-License-Identifier: MIT
from __future__ import annotations

import numpy as np
import pytest

from kraken_bids.atlases import load_atlas
from kraken_bids.errors import InputError
from kraken_bids.images.five_tissue import (
    TISSUES,
    check_tissues,
    tissues_from_labels,
    tissues_from_maps,
)


@pytest.mark.parametrize(
    ("code", "tissue"),
    [
        (3, "cortical GM"), (1035, "cortical GM"), (2001, "cortical GM"), (17, "cortical GM"),
        (54, "cortical GM"), (8, "cortical GM"), (12175, "cortical GM"),
        (10, "subcortical GM"), (49, "subcortical GM"), (13, "subcortical GM"),
        (58, "subcortical GM"),
        (2, "WM"), (16, "WM"), (28, "WM"), (46, "WM"), (253, "WM"), (4035, "WM"), (5001, "WM"),
        (4, "CSF"), (14, "CSF"), (24, "CSF"), (63, "CSF"),
        (77, "pathological"), (79, "pathological"),
    ],
)  # fmt: skip
def test_freesurfer_code_becomes_tissue(code, tissue):
    labels = np.array([2, 3, code]).reshape(3, 1, 1)
    assert tissues_from_labels(labels)[2, 0, 0].tolist() == [
        float(name == tissue) for name in TISSUES
    ]


def test_unknown_and_background_codes_are_outside_of_the_brain():
    labels = np.array([2, 3, 0, 99, 14999, 20001, -1]).reshape(-1, 1, 1)
    assert not tissues_from_labels(labels)[2:].any()


def test_every_fs86_region_has_a_tissue():
    codes = [region.code for region in load_atlas("fs86").regions]
    tissues = tissues_from_labels(np.array([2, *codes]).reshape(-1, 1, 1))
    np.testing.assert_array_equal(tissues.sum(axis=-1), 1)


def test_tissues_from_labels_pass_the_check():
    check_tissues(tissues_from_labels(np.array([2, 3, 0, 4]).reshape(4, 1, 1)))


def test_labels_of_another_kind_are_refused():
    with pytest.raises(InputError, match="no voxel of white matter or none of grey matter"):
        tissues_from_labels(np.arange(200, 212).reshape(3, 2, 2))


def test_maps_are_shared_out_to_one_inside_the_brain():
    grey = np.array([0.6, 0.2, 0.1, np.nan]).reshape(4, 1, 1)
    white = np.array([0.6, 0.8, 0.1, 0.0]).reshape(4, 1, 1)
    fluid = np.array([0.0, 0.0, 0.1, 0.0]).reshape(4, 1, 1)
    tissues = tissues_from_maps(grey, white, fluid)[:, 0, 0]
    np.testing.assert_allclose(tissues[0], [0.5, 0, 0.5, 0, 0])
    np.testing.assert_allclose(tissues[1], [0.2, 0, 0.8, 0, 0], atol=1e-6)
    assert not tissues[2:].any()
    check_tissues(tissues[:, None, None])


def valid():
    tissues = np.zeros((4, 4, 4, 5), dtype=np.float32)
    tissues[:2, ..., 0] = 1
    tissues[2:, ..., 2] = 1
    return tissues


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (valid()[..., :3], r"shape \(4, 4, 4, 3\), not \(X, Y, Z, 5\)"),
        (valid()[..., 0], r"shape \(4, 4, 4\)"),
        (valid() * 255, "values from 0 to 255"),
        (valid() * np.nan, "values from nan"),
        (valid() * 0.5, "in 64 voxels the five tissues do not add up to 1"),
        (valid()[..., [0, 1, 3, 2, 4]], "no white matter"),
        (valid()[..., [2, 1, 2, 3, 4]] * [0, 0, 1, 1, 1], "no grey matter"),
    ],
)
def test_image_that_is_not_of_five_tissues_is_refused(broken, message):
    broken = np.asarray(broken)
    if message == "no grey matter":
        broken = np.zeros((4, 4, 4, 5))
        broken[..., 2] = 1
    with pytest.raises(InputError, match=message + r".*Give an image made by MRtrix3's 5ttgen"):
        check_tissues(broken, where="5tt.nii.gz")
