# SPDX-License-Identifier: MIT
"""Damaged images, gradients, streamlines, transforms, surfaces: read, or refused in our words."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
import scipy.io

from kraken_bids.atlases import load_atlas
from kraken_bids.bids.image_files import check_image, header_repetition_time
from kraken_bids.bids.ready_diffusion import read_tractogram_header
from kraken_bids.images import stream, tractograms
from kraken_bids.images.cortical_areas import read_areas, read_vertices
from kraken_bids.images.diffusion import read_gradients, read_values
from kraken_bids.images.foreign_tractograms import convert_tractogram
from kraken_bids.images.resample import label_values, open_image
from kraken_bids.images.streamline_ends import read_labels, read_weights
from kraken_bids.images.tractogram_space import sample_points
from kraken_bids.images.transforms import read_transform
from tests.security.damage import Make, Read


def _image(folder: Path, name: str, values: np.ndarray, kind: type = nib.Nifti1Image) -> Path:
    path = folder / name
    nib.save(kind(values, np.diag([2.0, 2.0, 2.0, 1.0])), path)
    return path


def _series(n_volumes: int = 6) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(4, 5, 3, n_volumes)).astype(np.float32)


def _labels() -> np.ndarray:
    return (np.arange(60).reshape(4, 5, 3) % 7).astype(np.int16)


def _stream(name: str, kind: type = nib.Nifti1Image) -> Make:
    def make(folder: Path) -> tuple[Path, Read]:
        path = _image(folder, name, _series(), kind)

        def read() -> None:
            header = stream.read_header(path)
            for _ in stream.iterate_volumes(header):
                pass

        return path, read

    return make


def _on_grid(folder: Path) -> tuple[Path, Read]:
    series = stream.read_header(_image(folder, "series.nii.gz", _series()))
    path = _image(folder, "mask.nii.gz", _labels())
    return path, lambda: stream.load_on_grid(path, series, kind="brain mask")


def _checked_image(folder: Path) -> tuple[Path, Read]:
    path = _image(folder, "x_bold.nii.gz", _series())
    return path, lambda: (check_image(path), header_repetition_time(path))


def _label_image(name: str, kind: type = nib.Nifti1Image) -> Make:
    def make(folder: Path) -> tuple[Path, Read]:
        path = _image(folder, name, _labels(), kind)
        return path, lambda: label_values(open_image(path))

    return make


def _values(folder: Path) -> tuple[Path, Read]:
    path = _image(folder, "x.nii.gz", _series())
    return path, lambda: read_values(path)


def _label_images(folder: Path) -> tuple[Path, Read]:
    path = _image(folder, "x.nii.gz", _labels())
    return path, lambda: read_labels({"fs86": path})


def _gradients(which: str) -> Make:
    def make(folder: Path) -> tuple[Path, Read]:
        directions = np.random.default_rng(0).normal(size=(12, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        bval, bvec = folder / "x.bval", folder / "x.bvec"
        bval.write_text("0 " + " ".join(["1000"] * 12) + "\n")
        np.savetxt(bvec, np.vstack([np.zeros(3), directions]).T)
        return {"bval": bval, "bvec": bvec}[which], lambda: read_gradients(
            bval, bvec, n_volumes=13
        )

    return make


def _weights(folder: Path) -> tuple[Path, Read]:
    path = folder / "weights.txt"
    path.write_text("# command\n" + " ".join(str(i / 4) for i in range(20)) + "\n")
    return path, lambda: read_weights(path, n_streamlines=20)


def _streamlines() -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    return [rng.normal(size=(n, 3)).astype(np.float32) for n in (3, 9, 2, 20)]


def _tck(folder: Path, name: str = "x.tck") -> Path:
    tractogram = nib.streamlines.Tractogram(_streamlines(), affine_to_rasmm=np.eye(4))
    nib.streamlines.save(tractogram, str(folder / "x.tck"))
    if name.endswith(".gz"):
        (folder / name).write_bytes(gzip.compress((folder / "x.tck").read_bytes()))
    return folder / name


def _tractogram(name: str) -> Make:
    def make(folder: Path) -> tuple[Path, Read]:
        path = folder / name
        if name.endswith(".trk"):
            tractogram = nib.streamlines.Tractogram(_streamlines(), affine_to_rasmm=np.eye(4))
            nib.streamlines.save(tractogram, str(path))
        elif name.endswith(".trx"):
            _write_trx(path)
        else:
            _tck(folder, name)

        def read() -> None:
            read_tractogram_header(path)
            out_file = folder / "out.tck"
            try:
                converted = convert_tractogram(path, out_file)
                list(tractograms.iterate_streamlines(converted))
                sample_points(converted)
            finally:
                out_file.unlink(missing_ok=True)

        return path, read

    return make


def _write_trx(path: Path) -> None:
    streamlines = _streamlines()
    lengths = [len(points) for points in streamlines]
    header = {"DIMENSIONS": [9, 9, 9], "VOXEL_TO_RASMM": np.eye(4).tolist(),
              "NB_VERTICES": sum(lengths), "NB_STREAMLINES": len(lengths)}  # fmt: skip
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", json.dumps(header))
        archive.writestr("offsets.uint32", np.cumsum([0, *lengths]).astype("<u4").tobytes())
        archive.writestr("positions.3.float32", np.concatenate(streamlines).tobytes())


def _transform(name: str) -> Make:
    def make(folder: Path) -> tuple[Path, Read]:
        path = folder / name
        numbers = np.array([1.0, 0, 0, 0, 1, 0, 0, 0, 1, 3.0, 0, 0])
        if name.endswith(".txt"):
            path.write_text(
                "#Insight Transform File V1.0\n#Transform 0\n"
                "Transform: AffineTransform_double_3_3\n"
                f"Parameters: {' '.join(map(str, numbers))}\nFixedParameters: 0 0 0\n"
            )
        elif name.endswith(".mat"):
            columns = {"AffineTransform_double_3_3": numbers[:, None], "fixed": np.zeros((3, 1))}
            scipy.io.savemat(path, columns, format="4")
        else:
            _write_composite(path, numbers)
        return path, lambda: read_transform(path)

    return make


def _write_composite(path: Path, numbers: np.ndarray) -> None:
    fixed = np.concatenate([[4, 5, 3], np.zeros(3), np.ones(3), np.eye(3).ravel()])
    with h5py.File(path, "w") as file:
        file["TransformGroup/0/TransformType"] = np.array([b"CompositeTransform_double_3_3"])
        file["TransformGroup/1/TransformType"] = np.array([b"AffineTransform_double_3_3"])
        file["TransformGroup/1/TransformParameters"] = numbers
        file["TransformGroup/1/TransformFixedParameters"] = np.zeros(3)
        group = file.create_group("TransformGroup/2")
        group["TransformType"] = np.array([b"DisplacementFieldTransform_float_3_3"])
        group.create_dataset("TransformParameters", data=np.zeros(180, "f4"), compression="gzip")
        group["TransformFixedParameters"] = fixed


def _annotation(folder: Path) -> tuple[Path, Read]:
    names = load_atlas("coco439").region_names
    areas = ["???", *(name for name in names if name.startswith("L_") and name.endswith("_ROI"))]
    areas.append("L_H_ROI")
    colours = np.arange(1, len(areas) + 1)
    table = np.column_stack([colours, colours, colours, 0 * colours, 0 * colours])
    path = folder / "lh.HCP-MMP1.annot"
    labels = np.arange(400) % len(areas)
    nib.freesurfer.write_annot(path, labels, table, areas, fill_ctab=True)
    return path, lambda: read_areas(path, "lh", names=names)


def _surface(folder: Path) -> tuple[Path, Read]:
    path = folder / "lh.white"
    points = np.random.default_rng(0).normal(size=(50, 3))
    nib.freesurfer.write_geometry(path, points, np.array([[0, 1, 2]]))
    return path, lambda: read_vertices(path)


KINDS: dict[str, Make] = {
    "series .nii.gz": _stream("x_bold.nii.gz"),
    "series .nii": _stream("x_bold.nii"),
    "series NIfTI-2": _stream("x_bold.nii", nib.Nifti2Image),
    "mask on a grid": _on_grid,
    "check of an image": _checked_image,
    "labels .nii.gz": _label_image("x_dseg.nii.gz"),
    "labels .mgz": _label_image("x.mgz", nib.MGHImage),
    "values of an image": _values,
    "labels for streamlines": _label_images,
    "bval": _gradients("bval"),
    "bvec": _gradients("bvec"),
    "SIFT2 weights": _weights,
    "tractogram .tck": _tractogram("x.tck"),
    "tractogram .tck.gz": _tractogram("y.tck.gz"),
    "tractogram .trk": _tractogram("x.trk"),
    "tractogram .trx": _tractogram("x.trx"),
    "transform .h5": _transform("x.h5"),
    "transform .txt": _transform("x.txt"),
    "transform .mat": _transform("x.mat"),
    "annotation": _annotation,
    "surface": _surface,
}


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_end_in_words(read_damaged, kind):
    assert read_damaged(kind, KINDS[kind]) == []
