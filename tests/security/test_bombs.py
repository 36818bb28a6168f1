# SPDX-License-Identifier: MIT
"""Small files that unpack to gigabytes, or claim to: refused before memory or disk is full."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import resource
import struct
import zipfile
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest

from kraken_bids.bids.derivatives import read_description
from kraken_bids.bids.image_files import check_image
from kraken_bids.bids.prediction_file import read_matrix
from kraken_bids.errors import KrakenBIDSError
from kraken_bids.formats.reading.opening import open_inputs
from kraken_bids.images import stream, tractograms
from kraken_bids.images.diffusion import read_values
from kraken_bids.images.foreign_tractograms import convert_tractogram
from kraken_bids.images.resample import label_values, open_image
from kraken_bids.images.streamline_ends import read_labels
from kraken_bids.images.transforms import read_transform
from kraken_bids.model.pickles import read_numpy_object, read_torch_file
from kraken_bids.model.transform_files import read_transforms

FLAVOR = "FCcorr_toy_hpf"
#: Bytes that refusing may take.
MEMORY_BYTES = 192 << 20
MEGABYTE = gzip.compress(bytes(1 << 20), 9)


def bomb(path: Path, head: bytes, n_megabytes: int) -> Path:
    """A gzipped file of a head and zeros; members one behind the other are one file."""
    path.write_bytes(gzip.compress(head) + MEGABYTE * n_megabytes)
    return path


def header(shape, *, offset: int = 352) -> bytes:
    """A NIfTI header of bytes, whatever follows."""
    head = nib.Nifti1Header()
    head.set_data_dtype(np.uint8)
    head["dim"][: len(shape) + 1] = [len(shape), *shape]
    head["vox_offset"] = offset
    head["magic"] = b"n+1"
    head["sform_code"], head["srow_x"], head["srow_y"], head["srow_z"] = 1, *np.eye(4)[:3]
    return head.binaryblock + bytes(4)


def read_label_image(path):
    label_values(open_image(path))


def read_label_images(path):
    read_labels({"fs86": path})


def read_series(path):
    for _ in stream.iterate_volumes(stream.read_header(path)):
        pass


@pytest.fixture
def refused(in_child, tmp_path):
    """Reads in a child: refused in words, with little memory and few new bytes on the disk."""

    def check(read, path, words):
        def work():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            try:
                read(path)
            except KrakenBIDSError as error:
                found = [] if words in str(error) else [f"other words: {error}"]
            else:
                found = ["was read"]
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
            return found if grown < MEMORY_BYTES else [*found, f"took {grown >> 20} MB"]

        assert in_child(work) == []
        # Sparse files have a size, but no blocks.
        assert sum(file.stat().st_blocks * 512 for file in tmp_path.iterdir()) < 64 << 20

    return check


@pytest.mark.parametrize("read", [read_label_image, read_label_images, read_values, read_series])
def test_an_image_of_zeros_without_end_is_refused(tmp_path, refused, read):
    shape = (2000, 2000, 500, 4) if read is read_series else (2000, 2000, 500)
    path = bomb(tmp_path / "x.nii.gz", header(shape), 2000 * (len(shape) == 3) or 7700)
    refused(read, path, "promises")


@pytest.mark.parametrize("read", [read_label_image, read_label_images, read_values])
@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_a_header_that_promises_more_than_the_file_has_is_refused(
    tmp_path, refused, read, extension
):
    path = tmp_path / f"x{extension}"
    content = header((20000, 20000, 200)) + bytes(100)
    path.write_bytes(gzip.compress(content) if extension == ".nii.gz" else content)
    refused(read, path, "promises")


@pytest.mark.parametrize(
    "read", [read_label_image, read_label_images, read_values, read_series, check_image]
)
def test_extensions_without_end_are_refused(tmp_path, refused, read):
    # nibabel reads extensions when it opens a file.
    head = (
        header((2, 2, 2, 2), offset=1 << 31)[:348] + b"\1\0\0\0" + struct.pack("<ii", 1 << 30, 6)
    )
    path = bomb(tmp_path / "x.nii.gz", head, 2048)
    refused(read, path, "")


def test_what_follows_the_values_is_not_read(tmp_path, in_child):
    path = bomb(tmp_path / "x.nii.gz", header((2, 2, 2)) + bytes(8), 1 << 12)

    def work():
        read_label_image(path)
        check_image(path)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        read_values(path)
        return (
            [] if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - grown < 1 << 17 else ["x"]
        )

    assert in_child(work) == []


TCK_HEAD = b"mrtrix tracks\ndatatype: Float32LE\ncount: 1\nfile: . 67\nEND\n"


def test_a_tractogram_of_zeros_without_end_is_refused(tmp_path, refused):
    path = bomb(tmp_path / "x.tck.gz", TCK_HEAD.ljust(67), 200)
    refused(
        lambda path: convert_tractogram(path, tmp_path / "out.tck"), path, "100 times its size"
    )
    assert not (tmp_path / "out.tck").exists()


def test_a_streamline_without_end_is_refused(tmp_path, refused):
    path = tmp_path / "x.tck"
    with path.open("wb") as file:
        file.write(TCK_HEAD.ljust(67))
        file.truncate(4 << 30)
    refused(lambda path: list(tractograms.iterate_streamlines(path)), path, "a streamline of more")


def test_a_header_of_a_tractogram_without_end_is_refused(tmp_path, refused):
    path = tmp_path / "x.tck"
    with path.open("wb") as file:
        file.write(b"mrtrix tracks\n")
        file.truncate(4 << 30)
    refused(tractograms.read_header, path, "header without END")


def claim(path: Path, n_bytes: int) -> Path:
    """Have all members of an archive claim a size, in both places where it stands."""
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        at = content.find(mark)
        while at >= 0:
            content[at + place : at + place + 4] = struct.pack("<I", n_bytes)
            at = content.find(mark, at + 4)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["header.json", "offsets.uint64", "positions.3.float32"])
def test_an_archive_of_streamlines_that_claims_gigabytes_is_refused(tmp_path, refused, name):
    path = tmp_path / "x.trx"
    n = (3 << 30) // 8 - 1
    members = {"header.json": json.dumps({"NB_VERTICES": 8, "NB_STREAMLINES": n}).encode(),
               "offsets.uint64": bytes(16), "positions.3.float32": bytes(96)}  # fmt: skip
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, members.pop(name))
    claim(path, 3 << 30)
    with zipfile.ZipFile(path, "a") as archive:
        for other, content in members.items():
            archive.writestr(other, content)
    refused(lambda path: convert_tractogram(path, tmp_path / "out.tck"), path, "tractogram")
    assert not (tmp_path / "out.tck").exists()


def open_connectomes(path):
    for found in open_inputs([f"{FLAVOR}={path}"], {FLAVOR: 6}, latent_size=0).values():
        found.read(range(found.n))


@pytest.mark.parametrize("n_bytes", [1000, 3 << 30])
def test_arrays_that_claim_gigabytes_are_refused(tmp_path, refused, n_bytes):
    buffer = io.BytesIO()
    description = {"descr": "<f8", "fortran_order": False, "shape": (1 << 26, 6)}
    np.lib.format.write_array_header_1_0(buffer, description)
    (tmp_path / "x.npy").write_bytes(buffer.getvalue())
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.npy", buffer.getvalue() + bytes(1000))
    claim(tmp_path / "x.npz", n_bytes)
    for name in ("x.npy", "x.npz"):
        refused(open_connectomes, tmp_path / name, "cannot be read")


def test_a_header_of_an_array_without_end_is_refused(tmp_path, refused):
    head = b"\x93NUMPY\2\0" + struct.pack("<I", 0xFFFFFFF0)
    path = tmp_path / "x.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("data.npy", "w") as member,
    ):
        member.write(head)
        for _ in range(256):
            member.write(bytes(1 << 20))
    refused(open_connectomes, path, "cannot be read")


def pickled(path: Path, content: bytes, storage: bytes = b"") -> Path:
    """A reference file with this pickle, as ``.npy`` or ``.pt``."""
    if path.suffix == ".npy":
        with path.open("wb") as file:
            description = {"descr": "|O", "fortran_order": False, "shape": ()}
            np.lib.format.write_array_header_1_0(file, description)
            file.write(content)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", content)
            archive.writestr("x/data/0", storage)
    return path


def test_lists_of_lists_do_not_grow_out_of_a_pickle(tmp_path, refused):
    nested: list = [1]
    for _ in range(28):
        nested = [nested, nested]
    path = pickled(tmp_path / "x.npy", pickle.dumps(nested, 2))
    refused(read_numpy_object, path, "not an array of one object")


STORAGE = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\6tQ"


def test_a_tensor_of_more_values_than_its_storage_is_refused(tmp_path, refused):
    shape = b"J\0\0\0\x10K\1\x86"  # (2**28, 1), of one value again and again
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\0" + shape + b"K\0K\0\x86\x89}tR"
    )
    path = pickled(tmp_path / "x.pt", b"\x80\2" + tensor + b".", bytes(24))
    refused(read_torch_file, path, "of 6 values")


def test_a_storage_that_claims_gigabytes_is_refused(tmp_path, refused):
    path = pickled(tmp_path / "x.pt", b"\x80\2N.", bytes(24))
    refused(read_torch_file, claim(path, 3 << 30), "claims to unpack")


def test_one_array_made_again_and_again_is_refused(tmp_path, refused):
    shared = bytes(4 << 20)
    content = pickle.dumps([_Again(shared) for _ in range(400)], 2)
    path = pickled(tmp_path / "x.npy", content)
    assert path.stat().st_size < 8 << 20
    refused(read_numpy_object, path, "more arrays than the file has bytes")


class _Again:
    """Pickles as an array of 4 MB, of bytes that all share; a copy, for it is big-endian."""

    def __init__(self, content: bytes) -> None:
        self.state = (1, (1 << 19,), np.dtype(">f8"), False, content)

    def __reduce__(self):
        rebuild, arguments, _ = np.zeros(1).__reduce__()
        return rebuild, arguments, self.state


def declare(path: Path, name: str, shape) -> h5py.File:
    """A file that declares an array of which nothing is stored."""
    file = h5py.File(path, "w")
    file.create_dataset(name, shape=shape, dtype="f4", chunks=(1 << 10,) * len(shape))
    return file


def test_a_field_of_gigabytes_that_is_not_there_is_refused(tmp_path, refused):
    path = tmp_path / "x.h5"
    with declare(path, "TransformGroup/0/TransformParameters", (1 << 30,)) as file:
        file["TransformGroup/0/TransformType"] = np.array([
            b"DisplacementFieldTransform_float_3_3"
        ])
        file["TransformGroup/0/TransformFixedParameters"] = np.ones(18)
    refused(read_transform, path, "declares")


@pytest.mark.parametrize("name", ["participants", f"fusion/{FLAVOR}"])
def test_predictions_of_gigabytes_that_are_not_there_are_refused(tmp_path, refused, name):
    path = tmp_path / "x.h5"
    with declare(path, name, (1 << 20, 1 << 12)) as file:
        if name != "participants":
            file.create_dataset("participants", data=["sub-01"], dtype=h5py.string_dtype())
        else:
            file[f"fusion/{FLAVOR}"] = np.ones((1, 6))
    refused(open_connectomes, path, "declares")
    if name != "participants":
        read = lambda path: read_matrix(path, source="fusion", target=FLAVOR)  # noqa: E731
        refused(read, path, "declares")


def test_parameters_of_gigabytes_that_are_not_there_are_refused(tmp_path, refused):
    path = tmp_path / "x.h5"
    declare(path, f"{FLAVOR}/input_mean", (1 << 32,)).close()
    refused(lambda path: read_transforms([path]), path, "declares")


@pytest.mark.parametrize("kind", ["link", "external", "virtual"])
def test_values_in_another_file_are_not_read(tmp_path, refused, kind):
    other, path = tmp_path / "other.h5", tmp_path / "x.h5"
    with h5py.File(other, "w") as file:
        file["secret"] = np.ones((1, 6), "f4")
    with h5py.File(path, "w") as file:
        file.create_dataset("participants", data=["sub-01"], dtype=h5py.string_dtype())
        name = f"fusion/{FLAVOR}"
        if kind == "link":
            file.create_group("fusion")[FLAVOR] = h5py.ExternalLink(str(other), "secret")
        elif kind == "external":
            where = [(str(other), 0, 24)]
            file.create_dataset(name, shape=(1, 6), dtype="f4", external=where)
        else:
            layout = h5py.VirtualLayout(shape=(1, 6), dtype="f4")
            layout[:] = h5py.VirtualSource(str(other), "secret", shape=(1, 6))
            file.create_virtual_dataset(name, layout)
    refused(open_connectomes, path, "lies in another file")


def test_a_sidecar_of_gigabytes_is_refused(tmp_path, refused):
    with (tmp_path / "dataset_description.json").open("wb") as file:
        file.truncate(8 << 30)
    refused(lambda path: read_description(path.parent), tmp_path / "dataset_description.json",
            "more than 64 MB")  # fmt: skip
