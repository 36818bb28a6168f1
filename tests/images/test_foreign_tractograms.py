# SPDX-License-Identifier: MIT
from __future__ import annotations

import errno
import json
import zipfile

import nibabel as nib
import numpy as np
import pytest

from kraken_bids.errors import InputError, ResourceError
from kraken_bids.images import foreign_tractograms
from kraken_bids.images.foreign_tractograms import convert_tractogram
from kraken_bids.images.tractogram_space import require_inside

#: A grid of 2.5 mm, turned and shifted, as scanners have it.
AFFINE = np.array([[-2.5, 0, 0, 60], [0, 2.4, -0.5, -70], [0, 0.7, 2.4, -50], [0, 0, 0, 1]])
SHAPE = (48, 56, 40)


@pytest.fixture
def streamlines(rng) -> list[np.ndarray]:
    """Streamlines of 2 to 60 points in mm, in the middle of the grid."""
    centre = AFFINE[:3, :3] @ (np.array(SHAPE) / 2) + AFFINE[:3, 3]
    return [
        (centre + rng.uniform(-35, 35, 3) + np.cumsum(rng.normal(0, 0.5, (n, 3)), axis=0)).astype(
            "f4"
        )
        for n in rng.integers(2, 60, 40)
    ]


def write_trk(path, streamlines):
    header = {"dimensions": np.array(SHAPE, "i2"), "voxel_to_rasmm": AFFINE.astype("f4"),
              "voxel_sizes": np.linalg.norm(AFFINE[:3, :3], axis=0).astype("f4"),
              "voxel_order": b"LAS"}  # fmt: skip
    tractogram = nib.streamlines.Tractogram(streamlines, affine_to_rasmm=np.eye(4))
    nib.streamlines.save(tractogram, str(path), header=header)
    return path


def write_trx(path, streamlines, *, dtype="float32", last=True, compression=0, **changes):
    points = np.concatenate(streamlines).astype(f"<{np.dtype(dtype).str[1:]}")
    starts = np.concatenate([[0], np.cumsum([len(item) for item in streamlines])]).astype("<u8")
    header = {"DIMENSIONS": SHAPE, "VOXEL_TO_RASMM": AFFINE.tolist(),
              "NB_VERTICES": len(points), "NB_STREAMLINES": len(streamlines)}  # fmt: skip
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("header.json", json.dumps({**header, **changes}))
        archive.writestr(f"positions.3.{dtype}", points.tobytes())
        archive.writestr("offsets.uint64", (starts if last else starts[:-1]).tobytes())
        archive.writestr("dpv/fa.float32", np.zeros(len(points), "<f4").tobytes())
    return path


def read(file):
    return nib.streamlines.load(file).streamlines


@pytest.mark.parametrize("chunk", [10, 1_000_000])
@pytest.mark.parametrize("kind", ["trk", "trx", "trx without its last offset", "packed trx"])
def test_points_are_those_of_the_file_in_mm(streamlines, tmp_path, monkeypatch, chunk, kind):
    monkeypatch.setattr(foreign_tractograms, "CHUNK_POINTS", chunk)
    if kind == "trk":
        file = write_trk(tmp_path / "a.trk", streamlines)
    else:
        file = write_trx(
            tmp_path / "a.trx", streamlines, last="without" not in kind,
            compression=zipfile.ZIP_DEFLATED if "packed" in kind else zipfile.ZIP_STORED,
        )  # fmt: skip
    converted = convert_tractogram(file, tmp_path / "a.tck")
    assert int(nib.streamlines.load(converted, lazy_load=True).header["count"]) == 40
    for found, expected in zip(read(converted), streamlines, strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_half_precision_is_read(streamlines, tmp_path):
    file = write_trx(tmp_path / "a.trx", streamlines, dtype="float16")
    for found, expected in zip(
        read(convert_tractogram(file, tmp_path / "a.tck")), streamlines, strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=0.05)


def test_what_is_tck_already_is_left_where_it_is(tmp_path):
    file = tmp_path / "a.tck"
    file.touch()
    assert convert_tractogram(file, tmp_path / "b.tck") == file


@pytest.mark.parametrize("share", [0.05, 0.5, 0.98])
@pytest.mark.parametrize("kind", ["trk", "trx"])
def test_file_that_is_cut_short_is_refused_and_leaves_nothing(streamlines, tmp_path, kind, share):
    write = {"trk": write_trk, "trx": write_trx}[kind]
    file = write(tmp_path / f"a.{kind}", streamlines)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(InputError, match=rf"a\.{kind}\). Copy or make the file again"):
        convert_tractogram(file, tmp_path / "b.tck")
    assert not (tmp_path / "b.tck").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"NB_VERTICES": 7}, "offsets that do not fit"),
        ({"NB_STREAMLINES": 39}, "offsets that do not fit|another number"),
        ({"NB_STREAMLINES": "many"}, "damaged"),
    ],
)
def test_trx_that_contradicts_itself_is_refused(streamlines, tmp_path, changes, message):
    file = write_trx(tmp_path / "a.trx", streamlines, **changes)
    with pytest.raises(InputError, match=message):
        convert_tractogram(file, tmp_path / "b.tck")


def test_points_that_are_no_numbers_are_refused(streamlines, tmp_path):
    streamlines[3][0, 1] = np.nan
    file = write_trx(tmp_path / "a.trx", streamlines)
    with pytest.raises(InputError, match="no numbers"):
        convert_tractogram(file, tmp_path / "b.tck")


@pytest.mark.parametrize("kind", ["trk", "trx"])
def test_empty_tractogram_is_refused(tmp_path, kind):
    if kind == "trk":
        file = write_trk(tmp_path / "a.trk", [])
    else:
        file = write_trx(tmp_path / "a.trx", [np.empty((0, 3))], NB_STREAMLINES=0, last=False)
    with pytest.raises(InputError, match=r"0 streamlines|do not fit"):
        convert_tractogram(file, tmp_path / "b.tck")


def test_full_disk_is_told(streamlines, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    file = write_trx(tmp_path / "a.trx", streamlines)
    monkeypatch.setattr(foreign_tractograms, "_write_tck", fail)
    with pytest.raises(ResourceError, match=r"No space left.*--work-dir"):
        convert_tractogram(file, tmp_path / "b.tck")


@pytest.fixture
def mask_file(tmp_path):
    mask = np.zeros(SHAPE, np.uint8)
    mask[6:-6, 6:-6, 6:-6] = 1
    nib.save(nib.Nifti1Image(mask, AFFINE), tmp_path / "mask.nii.gz")
    return tmp_path / "mask.nii.gz"


def test_tractogram_in_the_brain_is_taken(streamlines, tmp_path, mask_file):
    file = convert_tractogram(write_trx(tmp_path / "a.trx", streamlines), tmp_path / "a.tck")
    assert require_inside(file, mask_file, where="a.trx") > 0.95


@pytest.mark.parametrize(
    "change",
    [
        lambda points: points - AFFINE[:3, 3] * [-1, 1, 1],  # from the corner, as TrackVis has it
        lambda points: points + np.array([0, 60, 0]),
        lambda points: 2 * points,
    ],
)
def test_tractogram_elsewhere_is_refused(streamlines, tmp_path, mask_file, change):
    moved = [change(item) for item in streamlines]
    file = convert_tractogram(write_trx(tmp_path / "a.trx", moved), tmp_path / "a.tck")
    with pytest.raises(InputError, match=r"% of the tractogram's points lie in the brain mask"):
        require_inside(file, mask_file, where="a.trx")
