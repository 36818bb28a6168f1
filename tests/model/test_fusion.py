# SPDX-License-Identifier: MIT
from __future__ import annotations

import logging

import numpy as np
import pytest

from kraken_bids.errors import ModelError, UsageError
from kraken_bids.model.fusion import fuse, resolve_fusions, resolve_members, select_members

FLAVORS = (
    "FCcorr_fs86_hpf",
    "SCsdstream_fs86_volnorm",
    "SCsdstream_shen268_volnorm",
    "FCpcorr_shen268_hpf",
)
#: Two latents of two participants and their mean, computed by hand.
Z1 = np.float32([[0.980581, -0.196116], [0.707107, 0.707107]])
Z2 = np.float32([[0.316228, 0.948683], [-0.707107, 0.707107]])


def test_fusion_is_the_plain_mean():
    fused = fuse({"a": Z1, "b": Z2})
    np.testing.assert_allclose(fused.latent, [[0.648404, 0.376284], [0, 0.707107]], atol=1e-6)
    assert fused.n_inputs.tolist() == [2, 2]


def test_normalised_fusion_has_length_one():
    fused = fuse({"a": Z1, "b": Z2}, normalize=True)
    np.testing.assert_allclose(fused.latent, [[0.864910, 0.501927], [0, 1]], atol=1e-6)


def test_each_participants_mean_is_over_the_flavors_that_they_have():
    latents = {
        "a": np.float32([[1, 2], [np.nan, np.nan], [np.nan, np.nan]]),
        "b": np.float32([[3, 4], [5, 6], [np.nan, np.nan]]),
    }
    fused = fuse(latents)
    np.testing.assert_array_equal(fused.latent, [[2, 3], [5, 6], [np.nan, np.nan]])
    assert fused.n_inputs.tolist() == [2, 1, 0]
    assert np.isnan(latents["a"][1]).all()


def test_unknown_members_are_told():
    with pytest.raises(ModelError, match="no latents of c to fuse"):
        fuse({"a": Z1}, ["a", "c"])
    with pytest.raises(ModelError, match="no latents of any flavor"):
        fuse({"a": Z1}, [])


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["all"], FLAVORS),
        (["SC"], FLAVORS[1:3]),
        (["FC"], (FLAVORS[0], FLAVORS[3])),
        (["fs86"], FLAVORS[:2]),
        (["FCpcorr"], FLAVORS[3:]),
        ([FLAVORS[3], "fs86"], (*FLAVORS[:2], FLAVORS[3])),
        (["coco439"], ()),
    ],
)
def test_tokens_choose_flavors_in_their_order(tokens, expected):
    assert resolve_members(tokens, FLAVORS, known=["FCcorr_coco439_hpf"]) == expected


def test_unknown_tokens_are_told_with_the_nearest_name():
    with pytest.raises(UsageError, match=r"'FCcorr_fs68_hpf' names no flavor.*FCcorr_fs86_hpf"):
        resolve_members(["FCcorr_fs68_hpf"], FLAVORS)


def test_empty_fusions_are_left_out_and_said(caplog):
    with caplog.at_level(logging.WARNING):
        fusions = resolve_fusions(
            [("fusion", ("all",)), ("fusionFC", ("FC",))], FLAVORS[1:3], known=FLAVORS
        )
    assert fusions == {"fusion": FLAVORS[1:3]}
    assert "fusionFC is left out: none of its flavors (FC) is there" in caplog.text


def test_a_fusion_may_not_be_called_as_a_flavor():
    with pytest.raises(UsageError, match="called as a flavor"):
        resolve_fusions([(FLAVORS[0], ("all",))], FLAVORS)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [("", FLAVORS), ("noself", FLAVORS[1:]), ("noatlas", FLAVORS[2:])],
)
def test_variants_leave_members_out(variant, expected):
    assert select_members(FLAVORS, FLAVORS[0], variant=variant) == expected


def test_unknown_variants_are_told():
    with pytest.raises(UsageError, match=r"'nosel' is unknown. Did you mean 'noself'"):
        select_members(FLAVORS, FLAVORS[0], variant="nosel")
