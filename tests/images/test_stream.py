# SPDX-License-Identifier: MIT
"""Reading 4-D images volume by volume."""

import gzip
import struct

import nibabel as nib
import numpy as np
import pytest
from nilearn.maskers import NiftiLabelsMasker

from kraken_bids.connectome.functional import correlate
from kraken_bids.connectome.parcellation import parcellate, partition
from kraken_bids.errors import InputError
from kraken_bids.images.stream import iterate_volumes, load_on_grid, read_header

SHAPE = (9, 8, 7)
AFFINE = np.array([[-3.0, 0, 0, 30], [0, 3, 0, -20], [0, 0, 3.5, -10], [0, 0, 0, 1]])


@pytest.fixture
def rng():
    return np.random.default_rng(1)


@pytest.fixture
def values(rng):
    return rng.normal(900, 40, (*SHAPE, 20))


def save(values, file, *, dtype=np.float32, affine=AFFINE, slope=None, intercept=0):
    img = nib.Nifti1Image(values.astype(dtype), affine)
    img.set_data_dtype(dtype)
    if slope is not None:
        img.header.set_slope_inter(slope, intercept)
    img.to_filename(file)
    return file


def read(file):
    header = read_header(file)
    volumes = [
        np.reshape(volume, header.shape, order="F") * header.slope + header.intercept
        for volume in iterate_volumes(header)
    ]
    return np.stack(volumes, axis=-1)


@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint8, np.int32])
def test_volumes_equal_nibabel(tmp_path, values, extension, dtype):
    file = save(values % 250, tmp_path / f"bold{extension}", dtype=dtype)
    np.testing.assert_array_equal(read(file), nib.load(file).get_fdata())


def test_slope_and_intercept_are_kept_apart(tmp_path, rng):
    stored = rng.integers(-3000, 3000, (*SHAPE, 4))
    file = save(stored, tmp_path / "bold.nii.gz", dtype=np.int16, slope=0.25, intercept=-7)
    header = read_header(file)
    assert (header.slope, header.intercept) == (0.25, -7)
    np.testing.assert_allclose(read(file), nib.load(file).get_fdata())


def test_big_endian_and_extended_headers_are_read(tmp_path, values):
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">f4")
    img = nib.Nifti1Image(values.astype(">f4"), AFFINE, header)
    img.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 100))
    file = tmp_path / "bold.nii.gz"
    img.to_filename(file)
    assert read_header(file).offset > 352
    np.testing.assert_array_equal(read(file), nib.load(file).get_fdata())


@pytest.mark.parametrize("n_bytes", [100, 352, 5000])
def test_gzip_of_several_members_is_read_whole(tmp_path, values, n_bytes):
    plain = save(values, tmp_path / "bold.nii").read_bytes()
    file = tmp_path / "bold.nii.gz"
    parts = [plain[start : start + n_bytes] for start in range(0, len(plain), n_bytes)]
    file.write_bytes(b"".join(gzip.compress(part, 1) for part in parts))
    np.testing.assert_array_equal(read(file), nib.load(tmp_path / "bold.nii").get_fdata())
    file.write_bytes(b"".join(gzip.compress(part, 1) for part in parts[:-1]))
    with pytest.raises(InputError, match="cut short or damaged"):
        read(file)


def test_single_volume_is_a_series_of_one(tmp_path, values):
    file = save(values[..., :1], tmp_path / "bold.nii.gz")
    assert read(file).shape == (*SHAPE, 1)


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_truncated_compressed_image_is_told(tmp_path, values, share):
    file = save(values, tmp_path / "bold.nii.gz")
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match=r"cut short or damaged.*of its 20 volumes.*bold.nii.gz"):
        read(file)


def test_image_cut_in_its_checksum_is_told(tmp_path, values):
    file = save(values, tmp_path / "bold.nii.gz")
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"cut short or damaged.*of its 20 volumes"):
        read(file)


def test_flipped_bytes_are_told(tmp_path, values):
    file = save(values, tmp_path / "bold.nii.gz")
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 50] = bytes(50)
    file.write_bytes(bytes(data))
    with pytest.raises(InputError, match="cut short or damaged"):
        list(iterate_volumes(read_header(file)))


def test_truncated_plain_image_is_told_before_it_is_read(tmp_path, values):
    file = save(values, tmp_path / "bold.nii")
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"header promises 9 x 8 x 7 x 20 values"):
        read_header(file)


@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_absurd_sizes_are_refused_before_memory_is_asked_for(tmp_path, values, extension):
    plain = save(values, tmp_path / "small.nii").read_bytes()
    absurd = bytearray(plain)
    absurd[40:56] = struct.pack("<8h", 4, 32000, 32000, 32000, 32000, 1, 1, 1)
    file = tmp_path / f"bold{extension}"
    file.write_bytes(gzip.compress(bytes(absurd)) if extension == ".nii.gz" else bytes(absurd))
    with pytest.raises(InputError, match=r"promises 32000 x 32000 x 32000 x 32000 values"):
        read_header(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "cannot be read"), (b"no image at all" * 100, "cannot be read")],
    ids=["empty", "text"],
)
def test_what_is_no_image_is_told(tmp_path, content, message):
    file = tmp_path / "bold.nii.gz"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_header(file)


def test_missing_image_is_told(tmp_path):
    with pytest.raises(InputError, match=r"does not exist \(.*bold.nii.gz\)"):
        read_header(tmp_path / "bold.nii.gz")


@pytest.mark.parametrize("shape", [SHAPE, (*SHAPE, 2, 3)])
def test_images_of_other_dimensions_are_refused(tmp_path, shape):
    file = save(np.ones(shape), tmp_path / "bold.nii.gz")
    with pytest.raises(InputError, match=rf"has {len(shape)} dimensions"):
        read_header(file)


def test_complex_values_are_refused(tmp_path):
    file = save(np.ones((*SHAPE, 3)), tmp_path / "bold.nii.gz", dtype=np.complex64)
    with pytest.raises(InputError, match="values of type complex64"):
        read_header(file)


def test_mask_of_another_shape_is_told_with_both_sizes(tmp_path, values):
    header = read_header(save(values, tmp_path / "bold.nii.gz"))
    mask_file = save(np.ones((9, 8, 6)), tmp_path / "mask.nii.gz")
    with pytest.raises(
        InputError, match=r"9 x 8 x 7 voxels, its brain mask has 9 x 8 x 6.*bold.*mask"
    ):
        load_on_grid(mask_file, header, kind="brain mask")


def test_mask_with_another_affine_is_told_with_the_distance(tmp_path, values):
    header = read_header(save(values, tmp_path / "bold.nii.gz"))
    shifted = AFFINE.copy()
    shifted[0, 3] += 2
    mask_file = save(np.ones(SHAPE), tmp_path / "mask.nii.gz", affine=shifted)
    with pytest.raises(InputError, match=r"up to 2.00 mm apart"):
        load_on_grid(mask_file, header, kind="brain mask")


def test_rounding_of_affines_is_tolerated(tmp_path, values):
    header = read_header(save(values, tmp_path / "bold.nii.gz"))
    mask_file = save(np.ones((*SHAPE, 1)), tmp_path / "mask.nii.gz", affine=AFFINE + 1e-4)
    assert load_on_grid(mask_file, header, kind="brain mask").shape == SHAPE


def test_damaged_mask_is_told(tmp_path, values):
    header = read_header(save(values, tmp_path / "bold.nii.gz"))
    mask_file = save(values[..., 0], tmp_path / "mask.nii.gz")
    mask_file.write_bytes(mask_file.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"brain mask cannot be read.*mask.nii.gz"):
        load_on_grid(mask_file, header, kind="brain mask")


@pytest.mark.parametrize(
    ("dtype", "slope", "tolerance"),
    # nilearn averages images of single precision in single precision.
    [(np.float64, None, 1e-12), (np.int16, 0.05, 1e-6), (np.float32, None, 1e-5)],
)
def test_series_and_correlations_equal_nilearn(tmp_path, values, rng, dtype, slope, tolerance):
    file = save(values, tmp_path / "bold.nii.gz", dtype=dtype, slope=slope)
    labels = {"coarse": rng.integers(0, 6, SHAPE), "fine": rng.integers(0, 30, SHAPE)}
    header = read_header(file)
    cells = partition(labels, {"coarse": 5, "fine": 29}, mask=np.ones(SHAPE, dtype=bool))
    run = parcellate(
        iterate_volumes(header),
        cells,
        n_volumes=header.n_volumes,
        slope=header.slope,
        intercept=header.intercept,
    )
    for atlas, image in labels.items():
        masker = NiftiLabelsMasker(
            nib.Nifti1Image(image.astype(np.int32), AFFINE), standardize=None, dtype="float64"
        )
        expected = masker.fit_transform(file)
        np.testing.assert_allclose(run.series[atlas], expected, rtol=min(tolerance, 1e-6))
        np.testing.assert_allclose(
            correlate(run.series[atlas]), np.corrcoef(expected.T), atol=tolerance
        )
