# SPDX-License-Identifier: MIT
import os
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from kraken_bids.atlases import atlas_names, default_atlas_names, load_atlas
from kraken_bids.download import is_verified
from kraken_bids.errors import UsageError
from kraken_bids.flavors import CORE_ATLASES

N_REGIONS = {"fs86": 86, "cocoyeo243": 243, "shen268": 268, "coco439": 439}
#: FreeSurfer's codes: left and right subcortex, then cortex without corpus callosum (4).
CORTEX = [1, 2, 3, *range(5, 36)]
FS86_CODES = [
    *(8, 10, 11, 12, 13, 17, 18, 26, 28),
    *(47, 49, 50, 51, 52, 53, 54, 58, 60),
    *(1000 + code for code in CORTEX),
    *(2000 + code for code in CORTEX),
]

shared_dir = os.environ.get("KRAKEN_SHARED_DIR", "")
needs_images = pytest.mark.skipif(
    not shared_dir, reason="KRAKEN_SHARED_DIR names no folder with the published images"
)


def test_atlases_come_the_smallest_first():
    assert atlas_names() == tuple(N_REGIONS)


def test_atlases_of_the_published_model_are_the_default():
    assert default_atlas_names() == CORE_ATLASES
    assert not load_atlas("cocoyeo243").is_default


def test_unknown_atlas_is_refused_with_a_suggestion():
    with pytest.raises(UsageError, match=r"'fs68' is unknown.*Did you mean 'fs86'\?"):
        load_atlas("fs68")


@pytest.mark.parametrize("name", N_REGIONS)
def test_regions_are_numbered_and_named_once(name):
    atlas = load_atlas(name)
    assert atlas.n_regions == N_REGIONS[name]
    assert [region.index for region in atlas.regions] == list(range(1, atlas.n_regions + 1))
    assert len(set(atlas.region_names)) == atlas.n_regions
    assert len({region.code for region in atlas.regions}) == atlas.n_regions
    assert all(region.name and not re.search(r"[\s,]", region.name) for region in atlas.regions)


@pytest.mark.parametrize("name", ["cocoyeo243", "shen268", "coco439"])
def test_template_atlases_are_coded_by_index(name):
    regions = load_atlas(name).regions
    assert [region.code for region in regions] == [region.index for region in regions]


def test_fs86_has_freesurfers_codes_in_the_models_order():
    assert [region.code for region in load_atlas("fs86").regions] == FS86_CODES


def test_hemispheres_of_fs86_follow_from_the_codes():
    for region in load_atlas("fs86").regions:
        is_left = region.index <= 9 or 19 <= region.index <= 52
        assert region.hemisphere == ("L" if is_left else "R"), region


def test_hemispheres_of_shen268_are_right_then_left():
    hemispheres = "".join(region.hemisphere for region in load_atlas("shen268").regions)
    assert hemispheres == "R" * 133 + "L" * 135


def test_hemispheres_of_coco439_follow_the_regions():
    regions = load_atlas("coco439").regions
    assert "".join(region.hemisphere for region in regions[:52]) == "LR" * 26
    assert {region.hemisphere for region in regions[52:54]} == {"B"}  # raphe nuclei
    assert {region.hemisphere for region in regions[81:260]} == {"R"}
    assert {region.hemisphere for region in regions[260:]} == {"L"}
    # Cerebellum: lobules I-IV and V have no vermis, the eight others have L, V and R.
    cerebellum = [region.hemisphere for region in regions[54:81]]
    assert {side: cerebellum.count(side) for side in "LRB"} == {"L": 10, "R": 10, "B": 7}


def test_hemispheres_of_cocoyeo243_follow_the_regions():
    regions = load_atlas("cocoyeo243").regions
    sides = "".join(region.hemisphere for region in regions)
    # Subcortex (8 a side), cerebellum (10, 10 and the vermis), cortex (100 a side).
    assert sides == "L" * 8 + "R" * 8 + "L" * 10 + "R" * 10 + "B" * 7 + "R" * 100 + "L" * 100
    names = [region.name for region in regions]
    assert names[0] == "Left-Thalamus-Proper"
    assert names[36:43] == [
        f"Cbm_Vermis_{lobule}" for lobule in ["VI", "CrusII", "VIIb", "VIIIa", "VIIIb", "IX", "X"]
    ]
    assert all(name.startswith("rh.7Networks_") for name in names[43:143])
    assert all(name.startswith("lh.7Networks_") for name in names[143:])


@pytest.mark.parametrize("name", N_REGIONS)
def test_cards_say_source_reference_and_licence(name):
    atlas = load_atlas(name)
    assert atlas.description
    assert atlas.reference
    assert atlas.license
    assert atlas.source in {"aparc+aseg", "template"}
    assert (atlas.file("labels") is not None) == (atlas.source == "template") == bool(atlas.space)
    for _, file in atlas.files:
        assert re.fullmatch(r"[0-9a-f]{64}", file.sha256)
        assert re.fullmatch(rf"https://\S+/{re.escape(file.name)}", file.url)


PUBLISHED = [
    pytest.param(name, file, id=file.name)
    for name in N_REGIONS
    for _, file in load_atlas(name).files
]


@needs_images
@pytest.mark.parametrize(("name", "file"), PUBLISHED)
def test_published_images_hold_every_region(name, file):
    path = Path(shared_dir) / "atlases" / file.name
    assert is_verified(path, file.sha256)
    image = nib.load(path)
    assert image.shape == (182, 218, 182)
    labels = np.unique(np.asanyarray(image.dataobj))
    np.testing.assert_array_equal(labels, np.arange(N_REGIONS[name] + 1))


@needs_images
@pytest.mark.parametrize("name", ["cocoyeo243", "shen268", "coco439"])
def test_hemispheres_are_those_of_the_published_image(name):
    atlas = load_atlas(name)
    image = nib.load(Path(shared_dir) / "atlases" / atlas.file("labels").name)
    labels = np.asanyarray(image.dataobj).astype(int)
    x = nib.affines.apply_affine(image.affine, np.argwhere(labels))[:, 0]
    centre = np.bincount(labels[labels > 0], x) / np.maximum(np.bincount(labels[labels > 0]), 1)
    for region in atlas.regions:
        if region.hemisphere != "B":
            assert (centre[region.index] < 0) == (region.hemisphere == "L"), region
