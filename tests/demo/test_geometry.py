# SPDX-License-Identifier: MIT
from __future__ import annotations

import numpy as np
import pytest

from kraken_bids.demo.geometry import FIELD_AFFINE, draw_geometry, grid_around, template_geometry
from kraken_bids.demo.template import apply_affine
from kraken_bids.demo.transform_files import (
    write_affine_mat,
    write_affine_text,
    write_composite,
)

sitk = pytest.importorskip("SimpleITK")

LPS = np.array([-1, -1, 1])


@pytest.fixture
def points(rng):
    """Places inside a head, MNI mm."""
    return rng.uniform([-65, -95, -45], [65, 65, 75], size=(200, 3))


def itk_map(path, points):
    """Where ITK says that a file's map takes points."""
    transform = sitk.ReadTransform(str(path))
    return np.array([transform.TransformPoint(tuple(point * LPS)) for point in points]) * LPS


def test_maps_to_the_participant_and_back_undo_each_other(geometry, points):
    back = geometry.t1w_to_mni(geometry.mni_to_t1w(points))
    assert np.linalg.norm(back - points, axis=1).max() < 0.2
    acpc = apply_affine(geometry.t1w_to_acpc, geometry.mni_to_t1w(points))
    assert np.linalg.norm(geometry.acpc_to_mni(acpc) - points, axis=1).max() < 0.2


def test_deformation_is_smooth_and_individual(geometry, points):
    moved = geometry.mni_to_t1w(points) - apply_affine(geometry.shape_to_t1w, points)
    assert 0.5 < np.sqrt((moved**2).sum(axis=1).mean()) < 4
    other = draw_geometry(np.random.default_rng(6))
    assert not np.allclose(other.mni_to_t1w(points), geometry.mni_to_t1w(points), atol=1)


def test_acpc_space_is_a_turned_t1w_space_near_to_mni(geometry, points):
    rotation = geometry.t1w_to_acpc[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.degrees(np.arccos((np.trace(rotation) - 1) / 2)) > 2
    acpc = apply_affine(geometry.t1w_to_acpc, geometry.mni_to_t1w(points))
    assert np.linalg.norm(acpc - points, axis=1).mean() < 10


def test_template_geometry_is_the_identity(points):
    assert np.array_equal(template_geometry().acpc_to_mni(points), points)


def test_grid_holds_all_points(geometry, points):
    grid = grid_around(points, geometry.t1w_turn, voxel_mm=3.0, margin_mm=4.0)
    voxels = apply_affine(np.linalg.inv(grid.affine), points)
    assert (voxels > 1).all()
    assert (voxels < np.array(grid.shape) - 2).all()
    np.testing.assert_allclose(np.linalg.norm(grid.affine[:3, :3], axis=0), 3.0)


def test_itk_reads_composites_as_we_mean_them(geometry, points, tmp_path):
    write_composite(tmp_path / "to.h5", ((geometry.forward, FIELD_AFFINE), geometry.shape_to_t1w))
    back = np.linalg.inv(geometry.shape_to_t1w)
    write_composite(tmp_path / "back.h5", (back, (geometry.inverse, FIELD_AFFINE)))
    in_t1w = geometry.mni_to_t1w(points)
    np.testing.assert_allclose(itk_map(tmp_path / "to.h5", points), in_t1w, atol=1e-9)
    np.testing.assert_allclose(
        itk_map(tmp_path / "back.h5", in_t1w), geometry.t1w_to_mni(in_t1w), atol=1e-9
    )


@pytest.mark.parametrize(
    ("write", "name"), [(write_affine_text, "a.txt"), (write_affine_mat, "a.mat")]
)
def test_itk_reads_affines_as_we_mean_them(write, name, geometry, points, tmp_path):
    write(tmp_path / name, geometry.t1w_to_acpc)
    expected = apply_affine(geometry.t1w_to_acpc, points)
    np.testing.assert_allclose(itk_map(tmp_path / name, points), expected, atol=1e-9)
