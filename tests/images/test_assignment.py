# SPDX-License-Identifier: MIT
"""The search for regions around streamlines' ends, against the real ``tck2connectome``."""

from __future__ import annotations

import shutil
import subprocess

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from kraken_bids.errors import InputError
from kraken_bids.images.assignment import RegionSearch

needs_mrtrix = pytest.mark.skipif(
    shutil.which("tck2connectome") is None, reason="MRtrix3 is not there"
)

N_STREAMLINES = 4000
SHIFT = np.array([-20, 7.5, 3])


def grid(axes, shift=SHIFT):
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes, shift
    return affine


OBLIQUE = Rotation.from_euler("xyz", [12, -23, 31], degrees=True).as_matrix()
GRIDS = {
    "training voxels": (np.diag([1.25, 1.25, 1.25]), 4.0),
    "left to right": (np.diag([-2.0, 2, 2]), 4.0),
    "anisotropic": (np.diag([1, 2, 3.5]), 4.0),
    "axes exchanged": (np.array([[0, 2, 0], [0, 0, 1.25], [-1.5, 0, 0]]), 3.0),
    "small radius": (np.diag([2.0, 2, 2]), 0.7),
    "oblique": (OBLIQUE * [1.3, 1.7, 2.1], 5.0),
}
SHAPE = (26, 30, 22)


@pytest.fixture(scope="module")
def labels():
    """Folds of 30 regions in a quarter of the voxels."""
    rng = np.random.default_rng(4)
    smooth = ndimage.gaussian_filter(rng.random(SHAPE), 1.5)
    inside = np.argwhere(smooth > np.quantile(smooth, 0.75))
    seeds = cKDTree(inside[rng.choice(len(inside), 30, replace=False)])
    values = np.zeros(SHAPE, dtype=np.int16)
    values[tuple(inside.T)] = seeds.query(inside)[1] + 1
    return values


def mrtrix_regions(points, labels, affine, folder, *, radius):
    """What ``tck2connectome`` assigns to the points, two of them a streamline."""
    nib.save(nib.Nifti1Image(labels, affine), folder / "labels.nii.gz")
    made = nib.streamlines.Tractogram(points.reshape(-1, 2, 3), affine_to_rasmm=np.eye(4))
    nib.streamlines.TckFile(made).save(str(folder / "tracts.tck"))
    command = [
        "tck2connectome", "tracts.tck", "labels.nii.gz", "counts.csv", "-quiet",
        "-keep_unassigned", "-out_assignments", "regions.txt", "-nthreads", "0",
        "-assignment_radial_search", str(radius),
    ]  # fmt: skip
    subprocess.run(command, check=True, cwd=folder)
    return np.loadtxt(folder / "regions.txt", comments="#", dtype=int).ravel()


@needs_mrtrix
@pytest.mark.parametrize(
    ("name", "spacing"),
    [
        *[(name, None) for name in GRIDS],
        # Ties: ends midway between voxel centres, and on them. On an oblique grid rounding
        # errors decide, in MRtrix3 as here.
        *[(name, 0.5) for name in GRIDS if name != "oblique"],
    ],
)
def test_regions_are_those_of_tck2connectome(labels, tmp_path, name, spacing):
    axes, radius = GRIDS[name]
    affine = grid(axes)
    rng = np.random.default_rng(5)
    voxels = rng.uniform(-6, np.array(SHAPE) + 6, (2 * N_STREAMLINES, 3))  # some outside
    if spacing:
        voxels = np.round(voxels / spacing) * spacing
    points = (voxels @ affine[:3, :3].T + affine[:3, 3]).astype(np.float32)
    expected = mrtrix_regions(points, labels, affine, tmp_path, radius=radius)
    found = RegionSearch([labels], affine, radius_mm=radius).assign(points)[:, 0]
    assert 0.005 < (expected > 0).mean() < 0.8
    np.testing.assert_array_equal(found, expected)


def nearest_by_hand(points, labels, affine, *, radius):
    """Nearest of all labelled voxel centres, closer than the radius."""
    voxels = np.argwhere(labels > 0)
    centres = voxels @ affine[:3, :3].T + affine[:3, 3]
    distances = np.linalg.norm(points[:, None].astype(float) - centres, axis=-1)
    best = distances.argmin(axis=1)
    near = distances[np.arange(len(points)), best] < radius
    return np.where(near, labels[tuple(voxels[best].T)], 0)


@pytest.mark.parametrize("name", GRIDS)
def test_regions_are_those_of_the_nearest_centre(labels, name):
    axes, radius = GRIDS[name]
    affine = grid(axes)
    voxels = np.random.default_rng(6).uniform(-4, np.array(SHAPE) + 4, (600, 3))
    points = (voxels @ affine[:3, :3].T + affine[:3, 3]).astype(np.float32)
    search = RegionSearch([labels, labels % 7], affine, radius_mm=radius)
    found = search.assign(points)
    for column, atlas in enumerate((labels, labels % 7)):
        expected = nearest_by_hand(points, atlas, affine, radius=radius)
        np.testing.assert_array_equal(found[:, column], expected)
    np.testing.assert_array_equal(search.assign(points), found)  # from what it has learnt


def test_the_radius_itself_is_too_far():
    labels = np.zeros((9, 3, 3), dtype=np.int16)
    labels[4, 1, 1] = 5
    search = RegionSearch([labels], np.eye(4), radius_mm=2.0)
    points = np.array([[2, 1, 1], [2.0001, 1, 1], [6, 1, 1], [5.9999, 1, 1], [4, 1, 1]])
    assert search.assign(points)[:, 0].tolist() == [0, 5, 0, 5, 5]


def test_ends_that_are_nowhere_have_no_region():
    labels = np.full((3, 3, 3), 2, dtype=np.int16)
    search = RegionSearch([labels], np.eye(4), radius_mm=4.0)
    points = np.array([[np.nan] * 3, [np.inf, 0, 0], [1e30, 0, 0], [-90, 0, 0], [1, 1, 1]])
    assert search.assign(points)[:, 0].tolist() == [0, 0, 0, 0, 2]


@pytest.mark.parametrize("radius", [0.0, 4.0])
def test_an_image_without_labels_and_a_search_without_reach_give_no_region(radius):
    labels = np.zeros((3, 3, 3), dtype=np.int16)
    assert not RegionSearch([labels], np.eye(4), radius_mm=radius).assign(np.ones((4, 3))).any()
    full = RegionSearch([labels + 1], np.eye(4), radius_mm=0.0)
    assert not full.assign(np.ones((4, 3))).any()


def test_a_wide_search_has_more_neighbours_than_16_bits_count(labels):
    affine = grid(np.diag([1.0, 1, 1]))
    points = np.float32([[-45, 20, 10], [-20, 7.5, 3], [40, 20, 10]])
    found = RegionSearch([labels], affine, radius_mm=30.0).assign(points)[:, 0]
    np.testing.assert_array_equal(found, nearest_by_hand(points, labels, affine, radius=30.0))


def test_a_sheared_grid_is_refused():
    sheared = np.eye(4)
    sheared[0, 1] = 0.2
    with pytest.raises(InputError, match=r"not at right angles\. Resample"):
        RegionSearch([np.ones((3, 3, 3), dtype=int)], sheared, radius_mm=4.0)
