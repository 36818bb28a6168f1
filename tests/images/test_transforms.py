# SPDX-License-Identifier: MIT
from pathlib import Path

import h5py
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from kraken_bids.errors import InputError
from kraken_bids.images.transforms import AffineMap, DisplacementMap, chain, read_transform
from kraken_bids.plan import TransformStep

CENTRE = (3.0, -5.0, 7.0)


@pytest.fixture
def points():
    """Points in and around a field of 60 mm, LPS."""
    return np.random.default_rng(3).uniform(-40, 40, (400, 3))


def through(maps, points):
    for point_map in maps:
        points = point_map(points)
    return points


def itk_points(transform, points):
    return np.array([transform.TransformPoint(point) for point in points.tolist()])


def affine_transform():
    matrix = np.array([[1.05, 0.08, -0.02], [-0.06, 0.97, 0.11], [0.03, -0.1, 1.02]])
    return sitk.AffineTransform(matrix.ravel().tolist(), (4.0, -2.5, 1.5), CENTRE)


def euler_transform(*, zyx=False):
    transform = sitk.Euler3DTransform(CENTRE, 0.2, -0.1, 0.3, (2.0, 1.0, -3.0))
    transform.SetComputeZYX(zyx)
    return transform


def displacement_transform(*, seed=0, size=(15, 16, 17), spacing=(4.0, 4.2, 3.9)):
    """A smooth field of up to some 6 mm on an oblique grid."""
    rng = np.random.default_rng(seed)
    coarse = sitk.GetImageFromArray(rng.normal(0, 4, (4, 4, 4, 3)), isVector=True)
    coarse.SetSpacing([(n - 1) * s / 3 for n, s in zip(size, spacing, strict=True)])
    rotation = euler_transform().GetMatrix()
    for image in (coarse, field := sitk.Image(*size, sitk.sitkVectorFloat64)):
        image.SetDirection(rotation)
        image.SetOrigin((-25.0, -30.0, -28.0))
    field.SetSpacing(spacing)
    field = sitk.Resample(coarse, field, sitk.Transform(3, sitk.sitkIdentity), sitk.sitkLinear)
    return sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))


MATRICES = {
    "affine": affine_transform,
    "euler": euler_transform,
    "euler-zyx": lambda: euler_transform(zyx=True),
    "versor": lambda: sitk.VersorRigid3DTransform((1.0, -2.0, 1.5), 0.6, (1.0, 2.0, 3.0), CENTRE),
    "similarity": lambda: sitk.Similarity3DTransform(
        1.2, (1.0, -2.0, 1.5), 0.6, (1.0, 2.0, 3.0), CENTRE
    ),
    "translation": lambda: sitk.TranslationTransform(3, (1.0, -2.0, 3.0)),
    "identity": lambda: sitk.Transform(3, sitk.sitkIdentity),
}


@pytest.mark.parametrize(
    ("kind", "extension"),
    [
        (kind, extension)
        for kind in MATRICES
        for extension in (".txt", ".tfm", ".mat", ".h5")
        if (kind, extension) != ("identity", ".mat")  # it has no numbers to write
    ],
)
def test_matrix_transforms_map_points_as_itk_does(tmp_path, points, kind, extension):
    transform = MATRICES[kind]()
    file = tmp_path / f"xfm{extension}"
    sitk.WriteTransform(transform, str(file))
    (point_map,) = read_transform(file)
    assert isinstance(point_map, AffineMap)
    np.testing.assert_allclose(point_map(points), itk_points(transform, points), atol=1e-9)


def test_displacement_field_maps_points_as_itk_does(tmp_path, points):
    transform = displacement_transform()
    expected = itk_points(transform, points)
    file = tmp_path / "xfm.h5"
    sitk.WriteTransform(transform, str(file))
    (point_map,) = read_transform(file)
    assert isinstance(point_map, DisplacementMap)
    is_moved = np.any(expected != points, axis=1)
    assert 0.1 < is_moved.mean() < 0.9  # points beside the field stay where they are
    np.testing.assert_allclose(point_map(points), expected, atol=1e-5)


def test_composite_applies_the_last_transform_first(tmp_path, points):
    parts = [affine_transform(), displacement_transform(), euler_transform()]
    composite = sitk.CompositeTransform(parts)
    file = tmp_path / "xfm.h5"
    sitk.WriteTransform(composite, str(file))
    maps = read_transform(file)
    expected = itk_points(composite, points)
    np.testing.assert_allclose(through(maps, points), expected, atol=1e-5)
    assert not np.allclose(through(maps[::-1], points), expected, atol=0.5)


def test_composite_with_more_than_ten_transforms_keeps_their_order(tmp_path, points):
    rng = np.random.default_rng(5)
    parts = [
        sitk.Euler3DTransform(CENTRE, *rng.normal(0, 0.2, 3), rng.normal(0, 5, 3))
        for _ in range(12)
    ]
    composite = sitk.CompositeTransform(parts)
    file = tmp_path / "xfm.h5"
    sitk.WriteTransform(composite, str(file))
    np.testing.assert_allclose(
        through(read_transform(file), points), itk_points(composite, points), atol=1e-8
    )


def test_composite_text_file_is_read(tmp_path, points):
    composite = sitk.CompositeTransform([affine_transform(), euler_transform()])
    file = tmp_path / "xfm.txt"
    sitk.WriteTransform(composite, str(file))
    np.testing.assert_allclose(
        through(read_transform(file), points), itk_points(composite, points), atol=1e-9
    )


def test_older_spelling_and_single_precision_are_read(tmp_path, points):
    """ITK before 5 writes ``TranformParameters``; ANTs writes floats."""
    transform = displacement_transform()
    sitk.WriteTransform(sitk.CompositeTransform([affine_transform(), transform]),
                        str(tmp_path / "new.h5"))  # fmt: skip
    with h5py.File(tmp_path / "new.h5") as new, h5py.File(tmp_path / "old.h5", "w") as old:
        for key, entry in new["TransformGroup"].items():
            group = old.create_group(f"TransformGroup/{key}")
            kind = entry["TransformType"][0].decode().replace("double", "float")
            group["TransformType"] = np.array([kind.encode()])
            if "TransformParameters" in entry:
                values = entry["TransformParameters"][()].astype(np.float32)
                group.create_dataset("TranformParameters", data=values, compression="gzip")
                group["TranformFixedParameters"] = entry["TransformFixedParameters"][()]
    new_points = through(read_transform(tmp_path / "new.h5"), points)
    old_points = through(read_transform(tmp_path / "old.h5"), points)
    np.testing.assert_allclose(old_points, new_points, atol=1e-4)


def write(transform, file):
    sitk.WriteTransform(transform, str(file))
    return file


def test_chain_maps_target_points_to_source_points(tmp_path, points):
    first = write(affine_transform(), tmp_path / "from-A_to-B.txt")
    second = write(euler_transform(), tmp_path / "from-B_to-C.txt")
    maps = chain([TransformStep(first, "A", "B"), TransformStep(second, "B", "C")])
    # Points of C go through the second file to B, then through the first one to A.
    expected = itk_points(affine_transform(), itk_points(euler_transform(), points))
    np.testing.assert_allclose(through(maps, points), expected, atol=1e-9)
    assert len(maps) == 1  # two matrices become one


def test_inverted_step_undoes_the_file(tmp_path, points):
    file = write(sitk.CompositeTransform([affine_transform(), euler_transform()]),
                 tmp_path / "from-B_to-A.h5")  # fmt: skip
    forward = chain([TransformStep(file, "B", "A")])
    backward = chain([TransformStep(file, "A", "B", inverted=True)])
    np.testing.assert_allclose(through(backward, through(forward, points)), points, atol=1e-9)
    expected = itk_points(affine_transform().GetInverse(), points)
    expected = itk_points(euler_transform().GetInverse(), expected)
    np.testing.assert_allclose(through(backward, points), expected, atol=1e-9)


def test_inverted_displacement_field_is_refused(tmp_path):
    file = write(displacement_transform(), tmp_path / "from-B_to-A.h5")
    with pytest.raises(InputError, match=r"other direction.*from-B_to-A\.h5.*from- and to-"):
        chain([TransformStep(file, "A", "B", inverted=True)])


def test_matrix_without_inverse_is_refused(tmp_path):
    flat = sitk.AffineTransform((1, 0, 0, 0, 1, 0, 0, 0, 0), (0, 0, 0))
    file = write(flat, tmp_path / "xfm.txt")
    with pytest.raises(InputError, match=r"no inverse.*xfm\.txt"):
        chain([TransformStep(file, "A", "B", inverted=True)])


def test_steps_that_do_not_join_are_refused(tmp_path):
    steps = [
        TransformStep(Path("one.h5"), "MNI152NLin6Asym", "T1w"),
        TransformStep(Path("two.txt"), "ACPC", "T1w"),
    ]
    with pytest.raises(InputError, match=r"ends in T1w.*begins in ACPC.*one\.h5, two\.txt"):
        chain(steps)


DAMAGED = {
    "truncated.h5": lambda file: file.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 40),
    "other.h5": lambda file: h5py.File(file, "w").close(),
    "matrix.txt": lambda file: file.write_text("1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n"),
    "flirt.mat": lambda file: file.write_text("1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n"),
    "empty.txt": lambda file: file.write_text("#Insight Transform File V1.0\n"),
    "binary.txt": lambda file: file.write_bytes(b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_files_of_another_format_are_refused_with_their_name(tmp_path, name):
    file = tmp_path / name
    DAMAGED[name](file)
    with pytest.raises(InputError, match=rf"{name}.*Give the file that fMRIPrep"):
        read_transform(file)


def test_cut_composite_file_is_refused(tmp_path):
    file = write(displacement_transform(), tmp_path / "cut.h5")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError, match=r"cannot be read as an ITK transform.*cut\.h5"):
        read_transform(file)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"missing .*none\.h5"):
        read_transform(tmp_path / "none.h5")


def test_unknown_extension_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"'\.lta' is no transform format known here"):
        read_transform(tmp_path / "xfm.lta")


def test_unknown_type_is_refused_with_its_name(tmp_path):
    spline = sitk.BSplineTransformInitializer(sitk.Image(8, 8, 8, sitk.sitkUInt8), [2, 2, 2])
    file = write(spline, tmp_path / "xfm.txt")
    with pytest.raises(InputError, match=r"type not known here: BSplineTransform"):
        read_transform(file)


def test_list_of_head_motion_transforms_is_refused(tmp_path):
    one = write(affine_transform(), tmp_path / "one.txt").read_text()
    body = one.split("\n", 1)[1]
    file = tmp_path / "hmc.txt"
    file.write_text(one + body)
    with pytest.raises(InputError, match="holds 2 transforms where one is needed"):
        read_transform(file)


def test_too_few_parameters_are_refused(tmp_path):
    file = tmp_path / "xfm.txt"
    file.write_text("#Insight Transform File V1.0\n#Transform 0\n"
                    "Transform: AffineTransform_double_3_3\nParameters: 1 0 0\n"
                    "FixedParameters: 0 0 0\n")  # fmt: skip
    with pytest.raises(InputError, match="AffineTransform has 3 and 3 parameters"):
        read_transform(file)


def test_parameters_that_are_not_numbers_are_refused(tmp_path):
    file = tmp_path / "xfm.txt"
    file.write_text("#Insight Transform File V1.0\nTransform: TranslationTransform_double_3_3\n"
                    "Parameters: 1 nan 0\nFixedParameters:\n")  # fmt: skip
    with pytest.raises(InputError, match="not numbers"):
        read_transform(file)
