# SPDX-License-Identifier: MIT
from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import pytest

from kraken_bids.errors import InputError, ResourceError
from kraken_bids.images import tractograms
from kraken_bids.images.tractograms import (
    describe_bias,
    iterate_streamlines,
    read_header,
    unpack_tractogram,
)


@pytest.fixture
def streamlines():
    rng = np.random.default_rng(3)
    sizes = [2, 1, 40, 7, 2]
    return [np.cumsum(rng.normal(size=(size, 3)), axis=0).astype(np.float32) for size in sizes]


@pytest.fixture
def tractogram(tmp_path, streamlines):
    file = tmp_path / "tracts.tck"
    made = nib.streamlines.Tractogram(streamlines, affine_to_rasmm=np.eye(4))
    nib.streamlines.TckFile(made).save(str(file))
    return file


def write_tck(file, streamlines, datatype, code):
    """A .tck file by its format: header, triplets, NaN after each streamline, Inf at the end."""
    header = f"mrtrix tracks\ndatatype: {datatype}\ncount: {len(streamlines)}\nfile: . 90\nEND\n"
    rows = [row for line in streamlines for row in (*line, np.full(3, np.nan))]
    data = np.array([*rows, np.full(3, np.inf)]).astype(code)
    file.write_bytes(header.encode().ljust(90) + data.tobytes())
    return file


@pytest.mark.parametrize(("datatype", "code"), tractograms.DATATYPES.items())
@pytest.mark.parametrize("chunk", [1, 4, 7, 1000])
def test_ends_and_lengths_are_those_of_the_streamlines(
    monkeypatch, tmp_path, streamlines, chunk, datatype, code
):
    monkeypatch.setattr(tractograms, "CHUNK_POINTS", chunk)
    file = write_tck(tmp_path / "tracts.tck", streamlines, datatype, code)
    parts = list(iterate_streamlines(file))
    ends = np.concatenate([part.ends for part in parts])
    np.testing.assert_array_equal(ends, [[line[0], line[-1]] for line in streamlines])
    lengths = np.concatenate([part.lengths_mm for part in parts])
    expected = [np.linalg.norm(np.diff(points, axis=0), axis=1).sum() for points in streamlines]
    np.testing.assert_allclose(lengths, expected, rtol=1e-5)
    assert (len(parts) > 1) == (chunk < 50)


def test_a_streamline_without_points_keeps_its_place(tmp_path):
    empty, point, line = np.empty((0, 3)), np.ones((1, 3)), np.array([[0, 0, 0], [0, 3, 4.0]])
    streamlines = [empty, empty, line, empty, point]
    file = write_tck(tmp_path / "tracts.tck", streamlines, "Float32LE", "<f4")
    (made,) = iterate_streamlines(file)
    assert made.lengths_mm.tolist() == [0, 0, 5, 0, 0]
    assert np.isnan(made.ends).all(axis=(1, 2)).tolist() == [True, True, False, True, False]
    np.testing.assert_array_equal(made.ends[2], line)
    np.testing.assert_array_equal(made.ends[4], [[1, 1, 1]] * 2)


def test_what_follows_the_last_mark_is_no_streamline(tmp_path, streamlines):
    file = write_tck(tmp_path / "tracts.tck", streamlines, "Float32LE", "<f4")
    with file.open("ab") as stream:
        np.zeros(50, dtype="<f4").tofile(stream)
    assert sum(len(part.ends) for part in iterate_streamlines(file)) == len(streamlines)


def test_tractogram_without_streamlines_is_refused(tmp_path):
    file = tmp_path / "empty.tck"
    made = nib.streamlines.Tractogram([], affine_to_rasmm=np.eye(4))
    nib.streamlines.TckFile(made).save(str(file))
    with pytest.raises(InputError, match=r"holds 0 streamlines \(.*empty\.tck\)\. Look at"):
        list(iterate_streamlines(file))


def test_tractogram_cut_short_is_refused(tractogram):
    tractogram.write_bytes(tractogram.read_bytes()[:-40])
    with pytest.raises(InputError, match="cut short: it has no end mark"):
        list(iterate_streamlines(tractogram))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"TRACK\x00 something else", "does not begin as a .tck file does"),
        (b"mrtrix tracks\ncount: 3\nEND\n", "without known 'datatype' and 'file'"),
        (b"", "does not begin"),
    ],
)
def test_file_of_another_kind_is_refused(tmp_path, content, message):
    file = tmp_path / "other.tck"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_header(file)


def test_missing_tractogram_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_header(tmp_path / "none.tck")


def test_compressed_tractogram_is_unpacked(tmp_path, tractogram):
    packed = tmp_path / "tracts.tck.gz"
    packed.write_bytes(gzip.compress(tractogram.read_bytes()))
    unpacked = unpack_tractogram(packed, tmp_path / "out.tck")
    assert unpacked.read_bytes() == tractogram.read_bytes()


def test_uncompressed_tractogram_stays_where_it_is(tmp_path, tractogram):
    assert unpack_tractogram(tractogram, tmp_path / "out.tck") == tractogram
    assert not (tmp_path / "out.tck").exists()


def test_compressed_tractogram_cut_short_is_refused_and_leaves_nothing(tmp_path, tractogram):
    packed = tmp_path / "tracts.tck.gz"
    packed.write_bytes(gzip.compress(tractogram.read_bytes())[:-12])
    with pytest.raises(InputError, match=r"damaged or cut short.*tracts\.tck\.gz"):
        unpack_tractogram(packed, tmp_path / "out.tck")
    assert not (tmp_path / "out.tck").exists()


def test_full_disk_is_told(tmp_path, tractogram):
    packed = tmp_path / "tracts.tck.gz"
    packed.write_bytes(gzip.compress(tractogram.read_bytes()))
    with pytest.raises(ResourceError, match=r"cannot unpack.*--work-dir"):
        unpack_tractogram(packed, tmp_path / "no folder" / "out.tck")


TRAINING = {
    "act": "5tt.mif", "seed_dynamic": "fod.mif", "min_dist": "2.5", "max_dist": "300",
    "step_size": "0.625", "max_angle": "45", "threshold": ".06", "fod_power": "0.25",
    "backtrack": "0",
}  # fmt: skip


def test_training_recipe_has_no_bias():
    assert describe_bias(TRAINING, algorithm="ifod2act") == ()


def test_differences_from_the_training_are_told():
    header = {**TRAINING, "min_dist": "30", "backtrack": "1", "crop_at_gmwmi": "1"}
    assert describe_bias(header, algorithm="ifod2act") == (
        "shortest streamline 30 mm",
        "backtracking",
        "ends cropped at the border of grey and white matter",
    )


def test_a_header_without_notes_is_told():
    assert describe_bias({}, algorithm="ifod2act") == (
        "no anatomical constraints noted",
        "seeding not dynamic",
    )
