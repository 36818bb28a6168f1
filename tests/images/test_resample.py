# SPDX-License-Identifier: MIT
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from scipy import ndimage

from kraken_bids.errors import InputError
from kraken_bids.images.resample import (
    check_overlap,
    isotropic_grid,
    label_image,
    label_values,
    open_image,
    overlap,
    region_volumes,
    relabel_codes,
    resample_labels,
    resample_together,
)
from kraken_bids.plan import TransformStep

RAS = np.array([[2.1, 0, 0, -31.0], [0, 2.0, 0, -35.5], [0, 0, 2.3, -30.2], [0, 0, 0, 1]])
LAS = np.array([[-1.9, 0, 0, 29.7], [0, 2.2, 0, -33.1], [0, 0, 2.1, -29.3], [0, 0, 0, 1]])


def oblique(affine, angle=0.35):
    rotation = np.eye(4)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0],
                     [0, 0, 1]])  # fmt: skip
    tilt = np.array([[1, 0, 0], [0, np.cos(0.2), -np.sin(0.2)], [0, np.sin(0.2), np.cos(0.2)]])
    rotation[:3, :3] = turn @ tilt
    return rotation @ affine


GRIDS = {
    "ras": (RAS, (29, 33, 27)),
    "las": (LAS, (31, 30, 28)),
    "oblique": (oblique(RAS), (28, 32, 29)),
    "oblique-las": (oblique(LAS, -0.3), (30, 29, 27)),
    "coarse-ipr": (np.array([[0, 0, 3.7, -28.0], [0, -3.3, 0, 30.5], [-3.9, 0, 0, 31.0],
                             [0, 0, 0, 1]]), (16, 17, 15)),
}  # fmt: skip


def blobs(shape, n_labels, seed=0):
    """Labels 0 to n_labels in smooth blobs, with background."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(n_labels + 2, *shape)), (0, 2, 2, 2))
    winner = noise.argmax(axis=0)
    return np.where(winner <= n_labels, winner, 0).astype(np.int16)


def itk_transforms():
    """An affine, an oblique field of some 5 mm, and a rotation about another centre."""
    affine = sitk.AffineTransform((1.05, 0.08, -0.02, -0.06, 0.97, 0.11, 0.03, -0.1, 1.02),
                                  (4.0, -2.5, 1.5), (3.0, -5.0, 7.0))  # fmt: skip
    rigid = sitk.Euler3DTransform((1.0, 2.0, -3.0), 0.15, -0.1, 0.2, (2.0, 1.0, -3.0))
    vectors = np.random.default_rng(7).normal(0, 15, (15, 16, 17, 3))
    vectors = ndimage.gaussian_filter(vectors, (2, 2, 2, 0))
    field = sitk.GetImageFromArray(vectors, isVector=True)
    field.SetSpacing((4.0, 4.2, 3.9))
    field.SetOrigin((-30.0, -31.0, -29.0))
    field.SetDirection(rigid.GetMatrix())
    return affine, sitk.DisplacementFieldTransform(field), rigid


def itk_resample(image_file, reference_file, transform):
    resampled = sitk.Resample(
        sitk.ReadImage(str(image_file)),
        sitk.ReadImage(str(reference_file)),
        transform,
        sitk.sitkNearestNeighbor,
        0,
    )
    return sitk.GetArrayFromImage(resampled).T


def save(values, affine, file):
    image = nib.Nifti1Image(values, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.to_filename(file)
    return image


@pytest.mark.parametrize("target", GRIDS)
@pytest.mark.parametrize("source", GRIDS)
def test_composite_transform_gives_the_labels_that_itk_gives(tmp_path, source, target):
    affine, shape = GRIDS[source]
    image = save(blobs(shape, 30), affine, tmp_path / "labels.nii.gz")
    affine, shape = GRIDS[target]
    save(np.zeros(shape, dtype=np.int16), affine, tmp_path / "reference.nii.gz")
    composite = sitk.CompositeTransform(list(itk_transforms()))
    sitk.WriteTransform(composite, str(tmp_path / "xfm.h5"))

    expected = itk_resample(tmp_path / "labels.nii.gz", tmp_path / "reference.nii.gz", composite)
    step = TransformStep(tmp_path / "xfm.h5", "A", "B")
    found = np.asanyarray(resample_labels(image, [step], affine=affine, shape=shape).dataobj)
    assert found.shape == shape
    assert (expected > 0).mean() > 0.3
    assert (found == expected).mean() >= 0.999


def test_chain_of_files_is_one_interpolation(tmp_path):
    affine_part, field_part, rigid_part = itk_transforms()
    affine, shape = GRIDS["las"]
    image = save(blobs(shape, 30), affine, tmp_path / "labels.nii.gz")
    affine, shape = GRIDS["oblique"]
    save(np.zeros(shape, dtype=np.int16), affine, tmp_path / "reference.nii.gz")
    sitk.WriteTransform(affine_part, str(tmp_path / "a.mat"))
    sitk.WriteTransform(field_part, str(tmp_path / "b.h5"))
    sitk.WriteTransform(rigid_part.GetInverse(), str(tmp_path / "c.txt"))
    steps = [
        TransformStep(tmp_path / "a.mat", "A", "B"),
        TransformStep(tmp_path / "b.h5", "B", "C"),
        TransformStep(tmp_path / "c.txt", "C", "D", inverted=True),
    ]
    # A composite's last transform acts on points first: the one next to the data.
    whole = sitk.CompositeTransform([affine_part, field_part, rigid_part])
    expected = itk_resample(tmp_path / "labels.nii.gz", tmp_path / "reference.nii.gz", whole)
    (found,) = resample_together([image], steps, affine=affine, shape=shape)
    assert (found == expected).mean() >= 0.999


def test_chunks_do_not_change_the_labels(monkeypatch):
    affine, shape = GRIDS["oblique"]
    image = label_image(blobs(GRIDS["ras"][1], 9), RAS)
    whole = resample_together([image], affine=affine, shape=shape)[0]
    monkeypatch.setattr("kraken_bids.images.resample._CHUNK_POINTS", 1)
    np.testing.assert_array_equal(resample_together([image], affine=affine, shape=shape)[0], whole)


def test_own_grid_gives_the_image_back():
    labels = blobs((9, 8, 7), 5)
    image = label_image(labels, oblique(LAS))
    found = resample_labels(image, affine=oblique(LAS), shape=(9, 8, 7, 40))
    np.testing.assert_array_equal(np.asanyarray(found.dataobj), labels)


def test_images_on_other_grids_travel_together():
    first, second = label_image(blobs((9, 8, 7), 5), RAS), label_image(blobs((6, 9, 8), 4), LAS)
    affine, shape = GRIDS["coarse-ipr"]
    together = resample_together([first, second], affine=affine, shape=shape)
    for image, found in zip((first, second), together, strict=True):
        alone = resample_together([image], affine=affine, shape=shape)[0]
        np.testing.assert_array_equal(found, alone)


@pytest.mark.parametrize(
    ("highest", "dtype"), [(86, "uint8"), (255, "uint8"), (439, "int16"), (81_120, "int32")]
)
def test_smallest_integer_type_is_used(highest, dtype):
    image = label_image(np.array([[[0, highest]]]), np.eye(4))
    assert image.get_data_dtype() == dtype
    assert image.dataobj.max() == highest


def test_affine_survives_writing(tmp_path):
    label_image(blobs((9, 8, 7), 5), oblique(LAS)).to_filename(tmp_path / "labels.nii.gz")
    found = nib.load(tmp_path / "labels.nii.gz")
    np.testing.assert_allclose(found.affine, oblique(LAS), atol=1e-5)
    np.testing.assert_allclose(found.get_qform(), oblique(LAS), atol=1e-4)
    assert found.header.get_xyzt_units()[0] == "mm"


def test_labels_stored_as_floats_are_read():
    image = nib.Nifti1Image(np.array([[[0.0, 3.0]], [[439.0, 1.0]]])[..., np.newaxis], np.eye(4))
    assert label_values(image).tolist() == [[[0, 3]], [[439, 1]]]


BAD_VALUES = {
    "fractions": np.full((2, 2, 2), 0.4),
    "nan": np.full((2, 2, 2), np.nan),
    "negative": np.full((2, 2, 2), -1, dtype=np.int16),
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_values_that_are_no_labels_are_refused(name):
    with pytest.raises(InputError, match=r"values that are no labels.*whole numbers"):
        label_values(nib.Nifti1Image(BAD_VALUES[name], np.eye(4)))


def test_series_is_refused_as_label_image():
    image = nib.Nifti1Image(np.zeros((2, 2, 2, 5), dtype=np.int16), np.eye(4))
    with pytest.raises(InputError, match="three dimensions"):
        label_values(image)


def test_cut_image_is_refused_with_its_name(tmp_path):
    file = tmp_path / "labels.nii.gz"
    noise = np.random.default_rng(0).integers(0, 9000, (20, 20, 20)).astype(np.int16)
    save(noise, RAS, file)
    file.write_bytes(file.read_bytes()[:4000])
    with pytest.raises(InputError, match=r"cannot be read.*labels\.nii\.gz.*again"):
        label_values(open_image(file))


@pytest.mark.parametrize("name", ["none.nii.gz", "text.nii.gz", "text.nii"])
def test_what_is_no_image_is_refused_with_its_name(tmp_path, name):
    if name.startswith("text"):
        (tmp_path / name).write_text("not an image")
    with pytest.raises(InputError, match=f"cannot be opened as an image.*{name}"):
        open_image(tmp_path / name)


@pytest.mark.parametrize("grid", GRIDS)
def test_isotropic_grid_covers_the_field_of_view_about_its_centre(grid):
    affine, shape = GRIDS[grid]
    new_affine, new_shape = isotropic_grid(affine, (*shape, 30), voxel_mm=1.25)
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    np.testing.assert_allclose(np.linalg.norm(new_affine[:3, :3], axis=0), 1.25)
    np.testing.assert_allclose(new_affine[:3, :3] / 1.25, affine[:3, :3] / edges, atol=1e-12)
    slack = np.array(new_shape) * 1.25 - np.array(shape) * edges
    assert np.all((slack >= -0.01) & (slack < 1.25))
    centre = affine @ [*(np.array(shape) - 1) / 2, 1]
    np.testing.assert_allclose(new_affine @ [*(np.array(new_shape) - 1) / 2, 1], centre)


def test_isotropic_grid_of_the_same_voxels_is_the_grid():
    affine = oblique(np.diag([2.0, 2.0, 2.0, 1.0]))
    new_affine, new_shape = isotropic_grid(affine, (9, 8, 7), voxel_mm=2.0)
    np.testing.assert_allclose(new_affine, affine, atol=1e-12)
    assert new_shape == (9, 8, 7)


def test_codes_are_matched_whatever_their_order():
    values = np.array([[0, 2035, 8], [1004, 17, 99999]])
    assert relabel_codes(values, [8, 17, 2035, 10]).tolist() == [[0, 3, 1], [0, 2, 0]]
    assert relabel_codes(values, [2035, 10, 8, 17]).tolist() == [[0, 1, 3], [0, 4, 0]]


def test_volumes_are_in_cubic_millimetres_and_keep_missing_regions():
    labels = np.array([1, 1, 3, 0, 9]).reshape(5, 1, 1)
    volumes = region_volumes(labels, 4, affine=oblique(np.diag([-2.0, 2.0, 2.5, 1.0])))
    np.testing.assert_allclose(volumes, [20.0, 0.0, 10.0, 0.0])


def test_overlap_is_the_share_of_labels_in_the_mask():
    labels = np.array([1, 2, 0, 4])
    assert overlap(labels, np.array([1, 1, 1, 0])) == pytest.approx(2 / 3)
    assert overlap(np.zeros(4, dtype=int), np.ones(4)) == 0.0


def test_labels_beside_the_brain_are_refused_with_the_way_they_came():
    labels, mask = np.zeros((10, 10, 10), dtype=int), np.zeros((10, 10, 10))
    labels[:5], mask[2:] = 7, 1
    assert check_overlap(labels, mask, atlas="fs86", way="x") == pytest.approx(0.6)
    mask[:3] = 0
    with pytest.raises(InputError, match=r"labels of fs86 lie beside.*60%.*to T1w by xfm\.h5"):
        check_overlap(labels, mask, atlas="fs86", way="a.nii.gz in MNI, to T1w by xfm.h5")
