# SPDX-License-Identifier: MIT
from __future__ import annotations

import numpy as np
import pytest

from kraken_bids.atlases import load_atlas
from kraken_bids.demo.regions import (
    CSF_CODES,
    WHITE_CODES,
    draw_atlas,
    partition,
    segment_template,
)
from kraken_bids.demo.template import AFFINE, load_template


def centre(mask):
    """Centre of a mask in MNI mm."""
    return AFFINE[:3, :3] @ np.argwhere(mask).mean(axis=0) + AFFINE[:3, 3]


def test_segmentation_has_all_regions_and_tissues_of_freesurfer():
    codes = segment_template()
    wanted = {region.code for region in load_atlas("fs86").regions}
    wanted |= {*WHITE_CODES, *CSF_CODES, 16}
    assert set(np.unique(codes)) == wanted | {0}
    sizes = {code: np.count_nonzero(codes == code) * 8 for code in wanted}
    assert min(sizes[region.code] for region in load_atlas("fs86").regions) > 1000
    assert not codes[~load_template().brain].any()


@pytest.mark.parametrize(
    ("code", "place"),
    [
        (10, (-12, -19, 8)),  # left thalamus
        (53, (27, -24, -13)),  # right hippocampus
        (1021, (-12, -78, 8)),  # left pericalcarine
        (2028, (9, 28, 48)),  # right superior frontal
        (8, (-25, -66, -38)),  # left cerebellar cortex
    ],
)
def test_regions_lie_where_they_lie_in_a_brain(code, place):
    assert np.linalg.norm(centre(segment_template() == code) - place) < 14


@pytest.mark.parametrize("name", ["shen268", "coco439"])
def test_template_atlases_have_every_region_on_its_side(name):
    atlas, labels = load_atlas(name), draw_atlas(name)
    sizes = np.bincount(labels.ravel(), minlength=atlas.n_regions + 1)[1:] * 8
    assert len(sizes) == atlas.n_regions
    assert sizes.min() > 400
    x = AFFINE[0, 0] * np.arange(labels.shape[0]) + AFFINE[0, 3]
    for region in atlas.regions[::7]:
        sides = x[np.argwhere(labels == region.index)[:, 0]]
        if region.hemisphere == "L":
            assert (sides < 0).all()
        if region.hemisphere == "R":
            assert (sides > 0).all()


def test_namesakes_mirror_each_other():
    labels = draw_atlas("coco439")
    names = {region.name: region.index for region in load_atlas("coco439").regions}
    for right, left in (("R_V1_ROI", "L_V1_ROI"), ("Thal_VL_R", "Thal_VL_L")):
        here, there = centre(labels == names[right]), centre(labels == names[left])
        assert np.linalg.norm(here * [-1, 1, 1] - there) < 4


def test_partition_leaves_no_part_empty_and_ignores_the_order_of_places(rng):
    places = rng.uniform(0, 20, (300, 3))
    parts = partition(places, 25)
    assert np.bincount(parts, minlength=25).min() > 0
    order = rng.permutation(300)
    assert np.array_equal(partition(places[order], 25), parts[order])
