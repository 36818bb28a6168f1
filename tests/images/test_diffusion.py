# SPDX-License-Identifier: MIT
from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from kraken_bids.errors import InputError
from kraken_bids.images.diffusion import (
    average_volumes,
    border_voxels,
    read_gradients,
    read_values,
    region_coverage,
    sample_nearest,
)
from kraken_bids.images.stream import read_header


def write_gradients(folder, bvals, bvecs):
    np.savetxt(folder / "dwi.bval", np.atleast_2d(bvals), fmt="%g")
    np.savetxt(folder / "dwi.bvec", bvecs, fmt="%.6f")
    return folder / "dwi.bval", folder / "dwi.bvec"


def directions(n):
    vectors = np.random.default_rng(1).normal(size=(n, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


BVALS = np.array([5, 995, 1005, 2000, 60, 3000, 1000, 2000])


@pytest.fixture
def gradients(tmp_path):
    return write_gradients(tmp_path, BVALS, directions(8).T)


def test_shells_are_told_and_low_weightings_become_zero(gradients):
    table = read_gradients(*gradients, n_volumes=8)
    assert table.shells == (1000, 2000, 3000)
    assert table.shell_sizes == (3, 2, 1)
    assert table.bvals.tolist() == [0, 995, 1005, 2000, 0, 3000, 1000, 2000]
    assert not table.bvecs[[0, 4]].any()


def test_directions_in_columns_are_taken_too(tmp_path, gradients):
    turned = tmp_path / "turned.bvec"
    np.savetxt(turned, np.loadtxt(gradients[1]).T)
    expected = read_gradients(*gradients, n_volumes=8).bvecs
    np.testing.assert_array_equal(
        read_gradients(gradients[0], turned, n_volumes=8).bvecs, expected
    )


def test_three_numbers_are_told_when_volumes_and_gradients_differ(gradients):
    message = r"7 volumes, 8 b-values and 8 b-vectors \(.*dwi\.bval, dwi\.bvec\)\. Give the \.bval"
    with pytest.raises(InputError, match=message):
        read_gradients(*gradients, n_volumes=7)


def test_table_without_three_rows_is_refused(tmp_path):
    files = write_gradients(tmp_path, BVALS, directions(8)[:, :2].T)
    with pytest.raises(InputError, match="8 volumes, 8 b-values and 0 b-vectors"):
        read_gradients(*files, n_volumes=8)


@pytest.mark.parametrize(
    ("bvals", "message"),
    [
        (np.zeros(8), "no volume has b > 100"),
        (np.array([0, 1, 2, -3, 1000, 5, 6, 7]), "not all numbers from 0 up"),
        (np.array([0, 1, 2, np.nan, 1000, 5, 6, 7]), "not all numbers from 0 up"),
    ],
)
def test_unusable_weightings_are_refused(tmp_path, bvals, message):
    files = write_gradients(tmp_path, bvals, directions(8).T)
    with pytest.raises(InputError, match=message):
        read_gradients(*files, n_volumes=8)


def test_series_without_b0_is_taken_and_its_lowest_shell_is_the_reference(tmp_path):
    bvals = np.array([3000] * 4 + [1000] * 4)
    table = read_gradients(*write_gradients(tmp_path, bvals, directions(8).T), n_volumes=8)
    assert table.shells == (1000, 3000)
    assert table.reference.tolist() == [False] * 4 + [True] * 4


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.vstack([directions(5), -directions(5)]), "5 distinct b-vectors; fibres need 6"),
        (directions(1)[[0] * 10], "1 distinct b-vectors"),
        (directions(10) * [1, 1, 0], "10 distinct b-vectors that lie in one plane"),
    ],
)
def test_directions_that_tell_no_fibres_are_refused(tmp_path, vectors, message):
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = np.vstack([[0, 0, 0], vectors])
    files = write_gradients(tmp_path, np.array([0] + [1000] * 10), vectors.T)
    with pytest.raises(InputError, match=message):
        read_gradients(*files, n_volumes=11)


@pytest.mark.parametrize("scale", [0.0, 0.5, np.nan])
def test_directions_that_are_missing_or_not_of_unit_length_are_refused(tmp_path, scale):
    vectors = directions(8)
    vectors[3] *= scale
    files = write_gradients(tmp_path, BVALS, vectors.T)
    with pytest.raises(InputError, match=r"1 b-vectors .* not of unit length; that of volume 3"):
        read_gradients(*files, n_volumes=8)


@pytest.mark.parametrize("text", ["", "a b c\n", "0 1000\n0\n"])
def test_text_that_is_no_table_is_refused(tmp_path, gradients, text):
    gradients[1].write_text(text)
    with pytest.raises(InputError, match=r"b-vectors|cannot be read"):
        read_gradients(*gradients, n_volumes=8)


def test_missing_table_is_refused(tmp_path, gradients):
    with pytest.raises(InputError, match="cannot be read"):
        read_gradients(tmp_path / "none.bval", gradients[1], n_volumes=8)


@pytest.fixture
def series(tmp_path):
    values = np.random.default_rng(2).integers(0, 900, (5, 4, 3, 6)).astype(np.int16)
    image = nib.Nifti1Image(values, np.diag([2.0, 2, 2, 1]))
    image.header.set_slope_inter(0.5, 10)
    nib.save(image, tmp_path / "dwi.nii.gz")
    return tmp_path / "dwi.nii.gz"


def test_mean_of_selected_volumes_is_nibabels(series):
    selected = np.array([True, False, False, True, False, False])
    expected = nib.load(series).get_fdata()[..., [0, 3]].mean(axis=-1)
    np.testing.assert_allclose(average_volumes(read_header(series), selected), expected, rtol=1e-6)


def test_damage_behind_the_selected_volumes_is_found(series):
    header = read_header(series)
    series.write_bytes(series.read_bytes()[:-60])
    with pytest.raises(InputError, match=r"cut short or damaged.*dwi\.nii\.gz"):
        average_volumes(header, np.array([True] + 5 * [False]))


def test_reference_volumes_without_signal_are_refused(tmp_path):
    file = tmp_path / "zero.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3, 2), np.int16), np.eye(4)), file)
    with pytest.raises(InputError, match="hold zeros only"):
        average_volumes(read_header(file), np.array([True, False]))


def test_image_cut_short_is_refused(series):
    series.write_bytes(series.read_bytes()[:200])
    with pytest.raises(InputError, match="missing, cut short or damaged"):
        read_values(series)


def test_missing_image_is_refused(tmp_path):
    with pytest.raises(InputError, match="missing, cut short or damaged"):
        read_values(tmp_path / "none.nii.gz")


def test_nearest_sampling_reads_the_voxel_that_a_point_lies_in():
    values = np.arange(24).reshape(4, 3, 2)
    affine = np.diag([2.0, 2, 2, 1])
    finer = np.diag([1.0, 1, 1, 1])
    finer[:3, 3] = -0.5
    sampled = sample_nearest(values, affine, target_affine=finer, target_shape=(8, 6, 4))
    np.testing.assert_array_equal(sampled, values.repeat(2, 0).repeat(2, 1).repeat(2, 2))


def test_nearest_sampling_is_zero_outside_and_follows_a_flipped_axis():
    values = np.arange(1, 9).reshape(2, 2, 2)
    flipped = np.diag([-1.0, 1, 1, 1])
    flipped[0, 3] = 1
    sampled = sample_nearest(values, np.eye(4), target_affine=flipped, target_shape=(3, 2, 2))
    np.testing.assert_array_equal(sampled[:2], values[::-1])
    assert not sampled[2].any()


def test_coverage_is_the_share_of_a_region_in_the_mask():
    labels = np.array([1, 1, 1, 1, 2, 2, 0, 9])
    inside = np.array([1, 0, 0, 0, 1, 1, 1, 1], dtype=bool)
    assert region_coverage(labels, inside, n_regions=3).tolist() == [0.25, 1, 0]


@pytest.mark.parametrize(("voxel", "width"), [(1.25, 3), (2.5, 3), (3, 2), (4, 1), (9, 1)])
def test_border_is_narrower_in_coarse_images(voxel, width):
    assert border_voxels(np.diag([voxel, voxel, voxel, 1])) == width
