# SPDX-License-Identifier: MIT
from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from kraken_bids.demo.regions import draw_atlas, segment_template
from kraken_bids.demo.template import AFFINE, load_template
from kraken_bids.errors import InputError
from kraken_bids.images.alignment import (
    Misfit,
    Scan,
    kinds_of_atlas,
    kinds_of_tissues,
    measure_misfit,
    require_place,
    require_sides,
)
from kraken_bids.images.five_tissue import tissue_groups

FRONT_TO_BACK = (0, 1, 0)


@pytest.fixture(scope="module")
def scan() -> Scan:
    """The template on 4 mm: fluid bright as in b = 0 images, noise, one side brighter."""
    template = load_template()
    bright = 3 * template.csf + 1.4 * template.grey + template.white
    every = (slice(None, None, 2),) * 3
    image = ndimage.gaussian_filter(bright, 0.8)[every]
    slope = np.linspace(0.8, 1.2, image.shape[0])[:, None, None]
    image = image * slope + np.random.default_rng(0).normal(0, 0.15, image.shape)
    affine = AFFINE @ np.diag([2, 2, 2, 1])
    return Scan(image, affine, template.brain[every], affine)


@pytest.fixture(scope="module")
def kinds() -> dict[str, np.ndarray]:
    """FreeSurfer's labels of the template, and an atlas's."""
    return {
        "FreeSurfer": tissue_groups(segment_template()),
        "shen268": kinds_of_atlas(draw_atlas("shen268"), AFFINE),
    }


def moved(shift=(0, 0, 0), *, degrees=0.0, axis=(0, 0, 1)) -> np.ndarray:
    """Affine of labels that a wrong transform has moved."""
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_rotvec(np.deg2rad(degrees) * np.array(axis)).as_matrix()
    turn[:3, 3] = shift
    return turn @ AFFINE


@pytest.mark.parametrize(
    ("labels", "shift", "degrees", "axis"),
    [
        ("FreeSurfer", (12, 0, 0), 0, (1, 0, 0)),
        ("shen268", (0, 12, 0), 0, (1, 0, 0)),
        ("shen268", (0, -12, 0), 0, (1, 0, 0)),
        ("shen268", (0, 0, 12), 0, (1, 0, 0)),
        ("shen268", (0, 0, 0), 15, (1, 0, 0)),
        ("FreeSurfer", (0, 0, 0), 15, FRONT_TO_BACK),
        ("shen268", (0, 0, 0), -15, FRONT_TO_BACK),
        ("FreeSurfer", (0, 0, 0), 15, (0, 0, 1)),
    ],
)
def test_twelve_mm_and_fifteen_degrees_about_any_axis_are_found(
    labels, shift, degrees, axis, kinds, scan
):
    wrong = moved(shift, degrees=degrees, axis=axis)
    misfit = measure_misfit(kinds[labels], wrong, scan)
    assert misfit.is_wrong
    if degrees:
        assert misfit.turn_degrees == pytest.approx(abs(degrees), abs=4)
    else:
        assert misfit.shift_mm == pytest.approx(12, abs=3)


@pytest.mark.parametrize("labels", ["FreeSurfer", "shen268"])
@pytest.mark.parametrize(
    "right",
    [
        AFFINE,
        moved((2, -3, 2), degrees=3, axis=(1, 0, 0)),
        moved(degrees=5, axis=FRONT_TO_BACK),
    ],
)
def test_what_registrations_err_by_is_taken(labels, right, kinds, scan):
    assert not measure_misfit(kinds[labels], right, scan).is_wrong


def test_contrast_does_not_matter(kinds, scan):
    inverse = replace(scan, image=4 - scan.image)
    turned = moved(degrees=20, axis=FRONT_TO_BACK)
    assert measure_misfit(kinds["shen268"], turned, inverse).is_wrong
    assert not measure_misfit(kinds["shen268"], AFFINE, inverse).is_wrong


@pytest.mark.parametrize(
    "reach", [(slice(None), slice(None), slice(20, None)), (slice(None), slice(25), slice(None))]
)
def test_series_that_does_not_cover_the_brain_is_taken(reach, kinds, scan):
    affine = scan.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [part.start or 0 for part in reach]
    part = Scan(scan.image[reach], affine, scan.mask[reach], affine)
    misfit = measure_misfit(kinds["shen268"], AFFINE, part)
    assert not misfit.is_wrong
    assert misfit.covered < 0.75


def test_head_of_another_size_is_taken(kinds, scan):
    larger = np.diag([1.15, 1.15, 1.15, 1.0])
    grown = replace(scan, affine=larger @ scan.affine, mask_affine=larger @ scan.mask_affine)
    assert not measure_misfit(kinds["FreeSurfer"], larger @ AFFINE, grown).is_wrong


def test_image_without_contrast_is_compared_by_its_outline(kinds, scan):
    blank = replace(scan, image=np.ones_like(scan.image))
    assert not measure_misfit(kinds["shen268"], AFFINE, blank).is_wrong
    assert measure_misfit(kinds["shen268"], moved((0, 15, 0)), blank).is_wrong


def test_misfit_is_wrong_only_where_moving_far_gains():
    assert Misfit(0.2, 0.25, 1.0, 12, 0).is_wrong
    assert Misfit(0.2, 0.25, 1.0, 0, 12).is_wrong
    assert not Misfit(0.2, 0.25, 1.0, 7, 9).is_wrong
    assert not Misfit(0.2, 0.205, 1.0, 12, 12).is_wrong
    assert Misfit(0.2, 0.25, 1.0).gain == pytest.approx(0.25)


def require(kinds, affine, scan, **options) -> None:
    require_place(
        kinds, affine, scan, what="labels", where="a.nii.gz; b.h5", fix="Look at b.h5.", **options
    )


def test_misplaced_labels_are_refused_with_size_place_and_remedy(kinds, scan):
    message = r"labels lie 1\d mm and \d degrees off the brain.*\d% better.*a\.nii\.gz; b\.h5"
    with pytest.raises(InputError, match=message):
        require(kinds["shen268"], moved((0, 0, 15)), scan)
    require(kinds["shen268"], AFFINE, scan)


def test_misplaced_labels_are_taken_with_force(kinds, scan, caplog):
    with caplog.at_level(logging.WARNING):
        require(kinds["shen268"], moved((0, 0, 15)), scan, force=True)
    assert "mm and" in caplog.text
    assert "--force was given" in caplog.text


def test_misplaced_labels_of_a_slab_are_warned_of(kinds, scan, caplog):
    affine = scan.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [0, 0, 20]
    slab = Scan(scan.image[:, :, 20:], affine, scan.mask[:, :, 20:], affine)
    with caplog.at_level(logging.WARNING):
        require(kinds["FreeSurfer"], AFFINE, slab)
        assert not caplog.records
        require(kinds["FreeSurfer"], moved((0, 20, 0)), slab)
    assert "too little to be sure: Look at b.h5." in caplog.text


def test_nothing_is_said_of_what_is_smaller_than_a_brain(kinds, scan):
    small = np.zeros_like(scan.mask)
    small[20:30, 20:30, 20:30] = True
    require(kinds["shen268"], moved((0, 0, 40)), replace(scan, mask=small))


def test_swapped_sides_are_refused():
    codes = segment_template()
    left, right = (codes > 1000) & (codes < 2000), codes > 2000
    require_sides(left, right, AFFINE, what="fs86", where="a.nii.gz")
    require_sides(left, right, moved(degrees=30), what="fs86", where="a.nii.gz")
    mirrored = np.diag([-1.0, 1, 1, 1]) @ AFFINE
    with pytest.raises(InputError, match=r"swapped.*fs86 lie \d\d mm further.*a\.nii\.gz"):
        require_sides(left, right, mirrored, what="fs86", where="a.nii.gz")


def test_kinds_between_regions_are_told_from_outside():
    labels = np.zeros((30, 30, 30), dtype=int)
    labels[5:25, 5:25, 5:25] = 7
    labels[12:17, 12:17, 12:25] = 0  # open to one side
    kinds = kinds_of_atlas(labels, np.diag([2.0, 2.0, 2.0, 1.0]))
    assert (kinds[5, 5, 5], kinds[14, 14, 14], kinds[1, 1, 1]) == (1, 2, 0)


def test_kinds_of_tissues_are_those_of_most_share():
    tissues = np.zeros((1, 1, 3, 5))
    tissues[0, 0, 1] = 0.6, 0, 0.4, 0, 0
    tissues[0, 0, 2] = 0, 0, 0.2, 0.1, 0
    assert kinds_of_tissues(tissues).ravel().tolist() == [0, 1, 0]
