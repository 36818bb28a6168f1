# SPDX-License-Identifier: MIT
"""Label images on any grid, against resampling written out here with world coordinates."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from kraken_bids.errors import InputError
from kraken_bids.images.resample import label_values, open_image, resample_together
from kraken_bids.images.stream import load_on_grid, read_header
from kraken_bids.plan import TransformStep

#: Places closer than this to the border between two voxels, in voxels, may fall on either side.
TIE = 1e-4
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


def affine_of(axes, edges_mm, origin_mm, turn_deg=(0, 0, 0)):
    """Voxel axes (rows: world axis and sign of each), voxel edges, origin, and a turn."""
    matrix = np.zeros((3, 3))
    for voxel_axis, letter in enumerate(axes):
        world = next(i for i, pair in enumerate(("LR", "PA", "IS")) if letter in pair)
        matrix[world, voxel_axis] = 1 if letter in "RAS" else -1
    x, y, z = np.deg2rad(turn_deg)
    about_x = [[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]]
    about_y = [[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]]
    about_z = [[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]]
    affine = np.eye(4)
    affine[:3, :3] = np.array(about_z) @ about_y @ about_x @ matrix * edges_mm
    affine[:3, 3] = origin_mm
    return affine


#: Orientation, voxel edges in mm, origin, turn in degrees, size.
GRIDS = {
    "LAS": ("LAS", (2.0, 2.0, 2.0), (30.3, -32.1, -28.2), (0, 0, 0), (30, 32, 28)),
    "RAS": ("RAS", (1.7, 1.7, 1.7), (-29.4, -31.0, -27.3), (0, 0, 0), (34, 36, 33)),
    "LPS": ("LPS", (2.3, 2.3, 2.3), (31.2, 30.7, -29.1), (0, 0, 0), (27, 28, 25)),
    "oblique LAS": ("LAS", (2.2, 2.2, 2.2), (32.1, -27.3, -24.4), (14, -9, 21), (28, 29, 27)),
    "oblique sagittal": ("PSR", (2.1, 2.4, 1.9), (-24.0, 33.1, -31.2), (-8, 11, 5), (27, 25, 31)),
    "thick slices": ("RPI", (1.5, 1.5, 5.0), (-30.6, 28.9, 27.1), (0, 6, 0), (40, 39, 12)),
    "half the brain": ("RAS", (2.0, 2.0, 2.0), (-3.3, -34.2, 1.4), (3, 0, 0), (20, 30, 15)),
}  # fmt: skip


def grid(name):
    *how, shape = GRIDS[name]
    return affine_of(*how), shape


def labels_on(shape, seed=0):
    """Labels 0 to 40 in cubes of three voxels."""
    coarse = np.random.default_rng(seed).integers(0, 41, [size // 3 + 1 for size in shape])
    fine = coarse.repeat(3, axis=0).repeat(3, axis=1).repeat(3, axis=2)
    return np.ascontiguousarray(fine[tuple(slice(size) for size in shape)]).astype(np.int16)


def world_points(affine, shape):
    """RAS mm of all voxel centres, (n, 3), C order."""
    voxels = np.indices(shape).reshape(3, -1)
    return (affine[:3, :3] @ voxels + affine[:3, 3:]).T


def look_up(labels, affine, points):
    """Label of the nearest voxel, 0 outside, and which places are ties."""
    voxels = np.linalg.inv(affine) @ np.vstack([points.T, np.ones(len(points))])
    nearest = np.rint(voxels[:3]).astype(int)
    inside = np.all((nearest >= 0) & (nearest < np.array(labels.shape)[:, None]), axis=0)
    found = np.where(inside, labels[tuple(np.where(inside, nearest, 0))], 0)
    is_tie = (np.abs(np.abs(voxels[:3] - nearest) - 0.5) < TIE).any(axis=0)
    return found, is_tie


@pytest.mark.parametrize("target", GRIDS)
@pytest.mark.parametrize("source", GRIDS)
def test_labels_go_where_world_coordinates_say(source, target):
    affine, shape = grid(source)
    labels = labels_on(shape)
    image = nib.Nifti1Image(labels, affine)
    onto, size = grid(target)
    expected, is_tie = look_up(labels, affine, world_points(onto, size))
    (found,) = resample_together([image], affine=onto, shape=size)
    assert (expected > 0).mean() > 0.1
    assert is_tie.mean() < 0.5
    different = (found.ravel() != expected) & ~is_tie
    assert not different.any()


def write_chain(folder):
    """A warp with an affine as one file and a second affine as another; and both for points."""
    rng = np.random.default_rng(2)
    vectors = rng.normal(0, 1, (12, 13, 14, 3))
    for axis in range(3):  # smooth
        vectors = vectors + np.roll(vectors, 1, axis) + np.roll(vectors, -1, axis)
    vectors *= 4 / np.abs(vectors).max()
    field = sitk.GetImageFromArray(vectors, isVector=True)
    field.SetSpacing((4.9, 5.3, 5.1))
    field.SetOrigin((-29.0, -33.0, -27.0))
    oblique = sitk.Euler3DTransform((0.0, 0.0, 0.0), 0.12, -0.2, 0.17)
    field.SetDirection(oblique.GetMatrix())
    warp = sitk.CompositeTransform([
        sitk.AffineTransform((1.03, 0.05, 0, -0.04, 0.96, 0.07, 0.02, -0.06, 1.01), (2, -1.5, 1)),
        sitk.DisplacementFieldTransform(field),
    ])
    rigid = sitk.Euler3DTransform((1.0, 0.0, -2.0), -0.08, 0.11, 0.05, (1.0, -2.0, 1.5))
    affine = sitk.AffineTransform(3)
    affine.SetMatrix(rigid.GetMatrix())
    affine.SetTranslation(rigid.TransformPoint((0.0, 0.0, 0.0)))
    sitk.WriteTransform(warp, str(folder / "warp.h5"))
    sitk.WriteTransform(affine, str(folder / "affine.txt"))
    steps = [
        TransformStep(folder / "warp.h5", "MNI152NLin6Asym", "T1w"),
        TransformStep(folder / "affine.txt", "T1w", "boldref"),
    ]
    # A point of the data goes through the last step first.
    return steps, lambda point: warp.TransformPoint(affine.TransformPoint(point))


@pytest.mark.parametrize("target", ["LAS", "oblique LAS", "thick slices"])
def test_labels_go_through_a_warp_and_an_affine_as_itk_maps_points(tmp_path, target):
    steps, map_point = write_chain(tmp_path)
    affine, shape = grid("oblique sagittal")
    labels = labels_on(shape)
    onto, size = grid(target)
    lps = world_points(onto, size) @ RAS_TO_LPS
    mapped = np.array([map_point(point) for point in lps.tolist()]) @ RAS_TO_LPS
    assert np.linalg.norm(mapped - lps @ RAS_TO_LPS, axis=1).mean() > 2
    expected, is_tie = look_up(labels, affine, mapped)
    (found,) = resample_together([nib.Nifti1Image(labels, affine)], steps, affine=onto, shape=size)
    assert (expected > 0).mean() > 0.1
    assert is_tie.mean() < 0.01
    different = (found.ravel() != expected) & ~is_tie
    assert not different.any()


def two_headed(shape, sform_code, qform_code):
    """An image whose sform and qform lie apart."""
    image = nib.Nifti1Image(labels_on(shape), np.eye(4))
    image.set_sform(grid("oblique LAS")[0], sform_code)
    image.set_qform(grid("RAS")[0], qform_code)
    return image


@pytest.mark.parametrize(("codes", "used"), [((4, 1), "oblique LAS"), ((0, 1), "RAS")])
def test_sform_is_used_and_the_qform_where_there_is_none(tmp_path, codes, used):
    two_headed((20, 21, 22), *codes).to_filename(tmp_path / "labels.nii.gz")
    image = open_image(tmp_path / "labels.nii.gz")
    onto, size = grid("LPS")
    expected, is_tie = look_up(label_values(image), grid(used)[0], world_points(onto, size))
    (found,) = resample_together([image], affine=onto, shape=size)
    assert (found.ravel() == expected)[~is_tie].all()


def test_sform_and_qform_that_disagree_place_series_and_mask_alike(tmp_path):
    affine = grid("oblique LAS")[0]
    bold = nib.Nifti1Image(np.ones((9, 8, 7, 3), dtype=np.float32), affine)
    bold.set_sform(affine, 4)
    bold.set_qform(grid("RAS")[0], 1)
    bold.to_filename(tmp_path / "bold.nii.gz")
    header = read_header(tmp_path / "bold.nii.gz")
    np.testing.assert_allclose(header.affine, affine, atol=1e-5)
    nib.Nifti1Image(np.ones((9, 8, 7), dtype=np.uint8), affine).to_filename(
        tmp_path / "mask.nii.gz"
    )
    assert load_on_grid(tmp_path / "mask.nii.gz", header, kind="brain mask").all()


def save_as(values, file, dtype, slope=None):
    image = nib.Nifti1Image(values, grid("LAS")[0])
    image.header.set_data_dtype(dtype)
    if slope is not None:
        image.header.set_slope_inter(slope, 0)
    image.to_filename(file)
    return file


STORED = [
    (np.float32, None),
    (np.float64, None),
    (np.uint16, None),
    (">f4", None),
    (np.int16, None),
]


@pytest.mark.parametrize(("dtype", "slope"), STORED)
def test_labels_are_read_however_they_are_stored(tmp_path, dtype, slope):
    labels = labels_on((9, 8, 7)).astype(np.float64)
    file = save_as(labels[..., np.newaxis], tmp_path / "labels.nii.gz", dtype, slope)
    np.testing.assert_array_equal(label_values(open_image(file)), labels)


def test_labels_that_were_saved_with_a_scale_factor_are_whole_again(tmp_path):
    labels = labels_on((9, 8, 7)).astype(np.float64)
    file = save_as(labels, tmp_path / "labels.nii.gz", np.int16)  # nibabel picks the factor
    assert open_image(file).dataobj.slope != 1
    np.testing.assert_array_equal(label_values(open_image(file)), labels)


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_several_volumes_of_labels_are_refused_in_words(tmp_path, dtype):
    file = save_as(np.zeros((4, 4, 4, 3)), tmp_path / "labels.nii.gz", dtype)
    with pytest.raises(InputError, match=r"three dimensions, this one has \(4, 4, 4, 3\).*labels"):
        label_values(open_image(file))


def test_single_volume_is_refused_as_series_in_words(tmp_path):
    file = save_as(np.zeros((4, 4, 4)), tmp_path / "boldref.nii.gz", np.float32)
    with pytest.raises(InputError, match=r"has 3 dimensions.*a BOLD series has 4.*boldref"):
        read_header(file)
