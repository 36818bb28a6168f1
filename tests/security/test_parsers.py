# SPDX-License-Identifier: MIT
"""Damaged and hostile files: whatever a reader meets, it says so in our own words.

A `Case` writes a whole file and reads it. Each is read whole once, then damaged in many ways, at
random but alike in every run. The reading goes on in a child process with little memory and time:
a crash of a library below, a traceback, a hang and an allocation without end all fail the test.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import re
import resource
import signal
import traceback
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pytest
import scipy.io
import tomli_w

from kraken_bids.arguments.config import apply_config
from kraken_bids.arguments.inputs import read_selection
from kraken_bids.arguments.values import Reader
from kraken_bids.atlases import load_atlas
from kraken_bids.bids.cohort import read_sites
from kraken_bids.bids.confounds import read_confounds
from kraken_bids.bids.derivatives import program_of, read_description
from kraken_bids.bids.files import parse_name, read_metadata
from kraken_bids.bids.image_files import check_image, header_repetition_time
from kraken_bids.bids.prediction_file import find_predictions, read_matrix
from kraken_bids.bids.ready_diffusion import read_tractogram_header
from kraken_bids.bids.regularization import (
    has_few_dof,
    is_withheld,
    read_lambda,
    read_lambda_source,
)
from kraken_bids.bids.series_tables import read_series
from kraken_bids.bids.writers import read_connectome, write_connectome
from kraken_bids.bids.xcp_d import read_left_out
from kraken_bids.cli import make_parser
from kraken_bids.completion import is_finished, marked_problems
from kraken_bids.connectome.adaptation import Adaptation
from kraken_bids.errors import KrakenBIDSError
from kraken_bids.formats.reading.correlations import open_correlations
from kraken_bids.formats.reading.opening import open_inputs
from kraken_bids.images import stream, tractograms
from kraken_bids.images.cortical_areas import read_areas, read_vertices
from kraken_bids.images.diffusion import read_gradients, read_values
from kraken_bids.images.foreign_tractograms import convert_tractogram
from kraken_bids.images.resample import label_values, open_image
from kraken_bids.images.streamline_ends import read_labels, read_weights
from kraken_bids.images.tractogram_space import sample_points
from kraken_bids.images.transforms import read_transform
from kraken_bids.model.adaptation_file import (
    fitted_lambdas,
    load_adaptations,
    load_provenance,
    save_adaptations,
)
from kraken_bids.model.bundle import open_bundle, write_bundle
from kraken_bids.model.layers import FlavorModel, Layer
from kraken_bids.model.pickles import read_numpy_object, read_torch_file
from kraken_bids.model.projection import PCAProjection
from kraken_bids.model.training.records import (
    Checkpoint,
    Pairs,
    read_checkpoint,
    read_log,
    read_pairs,
)
from kraken_bids.model.transform_files import read_transforms
from kraken_bids.model.transforms import Transform
from kraken_bids.model.weights import MappedWeights
from kraken_bids.model_commands.prediction_setup import read_ids
from kraken_bids.plugin_file import read_plugin
from kraken_bids.report.found import read_session
from kraken_bids.submit.submission import RECORD, read_record

#: Bytes that reading a file of some kilobytes may add to the memory of a process.
MEMORY_BYTES = 256 << 20
#: Damages a file; more may be asked for, to look for what a few do not find.
N_DAMAGES = int(os.environ.get("KRAKEN_FUZZ", "40"))

Read = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """A kind of file: its name, and how a whole one is made in a folder and read."""

    name: str
    make: Callable[[Path], tuple[Path, Read]]


# ------------------------------------------------------------------ the ways of damage

NUMBERS = tuple(
    bytes.fromhex(digits)
    for digits in (
        "ffffffff", "ffffff7f", "7fffffff", "00000000", "00000080", "ffffffffffffffff",
        "ffffffffffffff7f", "7fffffffffffffff", "0000c07f", "01000000",
    )
)  # fmt: skip
WORDS = (
    "nan", "-inf", "1e999", "-1", "9" * 400, "", "\0", "\n", "\r", "\t", "☃", "\u202e", "n/a",
    "null", '"', "'", "{", "}", "[" * 200, ":", ",", "0x10", "1e308", "9" * 5000, "-0", "()",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 10**30, 1e308, float("nan"), float("inf"), "", "x", "☃\n\t", "../..",
    [], {}, [None], [[1, 2], [3]], {"a": {"b": []}}, "9" * 5000, [[]] * 50, -(2**63), "\0",
    ["x"] * 3, {"Name": None}, [{}], 10**400, "\ud800",
)  # fmt: skip


def flip(rng: np.random.Generator, content: bytes) -> bytes:
    """Some bits turned around."""
    raw = bytearray(content)
    for _ in range(int(rng.integers(1, 9))):
        raw[rng.integers(len(raw))] ^= 1 << int(rng.integers(8))
    return bytes(raw)


def cut(rng: np.random.Generator, content: bytes) -> bytes:
    """The beginning only."""
    return content[: rng.integers(len(content))]


def overwrite(rng: np.random.Generator, content: bytes) -> bytes:
    """An absurd number in one place, mostly near the beginning, where headers are."""
    number = NUMBERS[rng.integers(len(NUMBERS))]
    end = len(content) if rng.random() < 0.5 else min(len(content), 600)
    place = int(rng.integers(max(end, 1)))
    if rng.random() < 0.7:
        place -= place % 2
    return content[:place] + number + content[place + len(number) :]


def shuffle(rng: np.random.Generator, content: bytes) -> bytes:
    """A piece left out, or written twice."""
    first, last = sorted(rng.integers(len(content) + 1, size=2))
    if rng.random() < 0.5:
        return content[:first] + content[last:]
    return content[:last] + content[first:]


def spoil_words(rng: np.random.Generator, content: bytes) -> bytes:
    """Another word in place of one."""
    text = content.decode("utf-8", "replace")
    words = list(re.finditer(r"[^\s,:;\"{}\[\]]+", text))
    if not words:
        return content
    word = words[rng.integers(len(words))]
    other = WORDS[rng.integers(len(WORDS))]
    return (text[: word.start()] + other + text[word.end() :]).encode("utf-8", "replace")


def spoil_json(rng: np.random.Generator, content: bytes) -> bytes:
    """Another value in place of one, somewhere in the tree; or nests without end."""
    try:
        tree = json.loads(content)
    except ValueError:
        return spoil_words(rng, content)
    if rng.random() < 0.1:
        return b'{"a":' * 100_000 if rng.random() < 0.5 else b"[" * 100_000 + b"]" * 100_000
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        keys = node if isinstance(node, dict) else range(len(node))
        for key in keys:
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                walk(node[key])

    if isinstance(tree, (dict, list)):
        walk(tree)
    value = VALUES[rng.integers(len(VALUES))]
    if not places or rng.random() < 0.05:
        return json.dumps(value).encode()
    node, key = places[rng.integers(len(places))]
    if isinstance(node, dict) and rng.random() < 0.2:
        del node[key]
    else:
        node[key] = value
    return json.dumps(tree).encode()


BINARY = (flip, cut, overwrite, overwrite, shuffle)
TEXT = (flip, cut, shuffle, spoil_words, spoil_words)


def damage(rng: np.random.Generator, content: bytes) -> bytes:
    """Damage a file, or what is packed into it."""
    if not content:
        return b"\0" * int(rng.integers(1, 9))
    inside = rng.random() < 0.7
    if content[:2] == b"\x1f\x8b" and inside:
        return gzip.compress(damage(rng, gzip.decompress(content)), 1)
    if content[:4] == b"PK\3\4" and inside:
        return _damage_member(rng, content)
    if content[:1] in b"{[":
        ways: tuple[Any, ...] = (flip, cut, spoil_json, spoil_json, spoil_json, spoil_json)
    elif _is_text(content):
        ways = TEXT
    else:
        ways = BINARY
    return ways[rng.integers(len(ways))](rng, content)


def _is_text(content: bytes) -> bool:
    try:
        return content.decode("utf-8").isprintable() or b"\0" not in content
    except UnicodeDecodeError:
        return False


def _damage_member(rng: np.random.Generator, content: bytes) -> bytes:
    """An archive with one member damaged, renamed, left out or doubled."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    place = int(rng.integers(len(members)))
    names = [info.filename for info, _ in members]
    way = rng.random()
    if way < 0.7:
        members[place] = (members[place][0], damage(rng, members[place][1]))
    elif way < 0.8:
        names[place] = ("../../escaped", "/tmp/escaped", "a\nb", "x" * 300)[rng.integers(4)]
    elif way < 0.9:
        del members[place], names[place]
    else:
        names.append(names[place])
        members.append(members[place])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # two members of one name are meant
        for name, (info, inside) in zip(names, members, strict=True):
            archive.writestr(name, inside, compress_type=info.compress_type)
    return buffer.getvalue()


# ---------------------------------------------------------------------- kinds of files


def _image(folder: Path, name: str, values: np.ndarray, kind: type = nib.Nifti1Image) -> Path:
    path = folder / name
    nib.save(kind(values, np.diag([2.0, 2.0, 2.0, 1.0])), path)
    return path


def _series(n_volumes: int = 6) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(4, 5, 3, n_volumes)).astype(np.float32)


def _labels() -> np.ndarray:
    return (np.arange(60).reshape(4, 5, 3) % 7).astype(np.int16)


def _stream(name: str, kind: type = nib.Nifti1Image) -> Callable[[Path], tuple[Path, Read]]:
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


def _label_image(name: str, kind: type = nib.Nifti1Image) -> Callable[[Path], tuple[Path, Read]]:
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


def _gradients(which: str) -> Callable[[Path], tuple[Path, Read]]:
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


def _tractogram(name: str) -> Callable[[Path], tuple[Path, Read]]:
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


def _transform(name: str) -> Callable[[Path], tuple[Path, Read]]:
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


FLAVOR = "FCcorr_toy_hpf"
EDGES = {FLAVOR: 6}


def _squares() -> np.ndarray:
    series = np.random.default_rng(3).normal(size=(3, 4, 20))
    return np.stack([np.corrcoef(one) for one in series])


def _read_all(path: Path) -> None:
    """Read connectomes with a model; without one, and as correlations: other code looks there."""
    text = f"{FLAVOR}={path}"

    def by_model() -> None:
        for found in open_inputs([text], EDGES, latent_size=3).values():
            found.read(range(found.n))

    def without_model() -> None:
        for found in open_inputs([text], {}, latent_size=0).values():
            found.read(range(found.n))

    def as_correlations() -> None:
        correlations = open_correlations(path, name=FLAVOR)
        for position in range(len(correlations.participants)):
            correlations.read(position)

    for read in (without_model, as_correlations):
        with contextlib.suppress(KrakenBIDSError):
            read()
    by_model()


def _connectomes(name: str) -> Callable[[Path], tuple[Path, Read]]:
    def make(folder: Path) -> tuple[Path, Read]:
        path = folder / name
        _CONNECTOMES[name](path)
        return path, lambda: _read_all(path)

    return make


def _write_mat(path: Path, *, packed: bool) -> None:
    cells = np.empty((1, 3), dtype=object)
    for place, matrix in enumerate(_squares()):
        cells[0, place] = matrix
    fields = {"FC": cells, "subject": np.array(["01", "02", "03"], dtype=object),
              "other": {"a": np.arange(3), "b": "text"}}  # fmt: skip
    scipy.io.savemat(path, fields, do_compression=packed)


def _write_mat73(path: Path) -> None:
    with h5py.File(path, "w", userblock_size=512) as file:
        file.create_dataset("data", data=_squares(), compression="gzip")
        file["data"].attrs["MATLAB_class"] = np.bytes_("double")
        ids = file.create_group("#refs#")
        references = []
        for place, text in enumerate(("01", "02", "03")):
            letters = np.array([[ord(letter)] for letter in text], dtype=np.uint16)
            ids[str(place)] = letters
            ids[str(place)].attrs["MATLAB_class"] = np.bytes_("char")
            references.append(ids[str(place)].ref)
        file.create_dataset("subject", data=np.array([references], dtype=h5py.ref_dtype))
        file["subject"].attrs["MATLAB_class"] = np.bytes_("cell")
    with path.open("r+b") as stream_:
        head = b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM"
        stream_.write(head)


def _write_npz(path: Path, *, packed: bool) -> None:
    save = np.savez_compressed if packed else np.savez
    save(path, data=_squares(), subjects=np.array(["01", "02", "03"]))


def _write_table(path: Path) -> None:
    rows = [f"sub-0{i}\t" + "\t".join(map(str, row)) for i, row in enumerate(_rows())]
    path.write_text("\n".join(["participant_id\t" + "\t".join("abcdef"), *rows]) + "\n")


def _rows() -> np.ndarray:
    return np.random.default_rng(4).random((3, 6))


def _write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("participants.tsv", "participant_id\tsubject\nsub-01\tA\nsub-02\tB\n")
        for label, matrix in zip(("01", "02"), _squares(), strict=False):
            text = "\n".join("\t".join(map(str, row)) for row in matrix)
            name = f"x/sub-{label}_atlas-toy_meas-FCcorrHPF_relmat.dense.tsv"
            archive.writestr(name, text + "\n")


def _write_h5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        text = h5py.string_dtype()
        file.create_dataset("participants", data=["sub-01", "sub-02", "sub-03"], dtype=text)
        file.create_dataset("facts", data="{}", dtype=text)
        file[f"fusion/{FLAVOR}"] = _rows().astype(np.float32)


_CONNECTOMES: dict[str, Callable[[Path], None]] = {
    "five.mat": lambda path: _write_mat(path, packed=False),
    "seven.mat": lambda path: _write_mat(path, packed=True),
    "seven3.mat": _write_mat73,
    "x.npy": lambda path: np.save(path, _squares()),
    "x.npz": lambda path: _write_npz(path, packed=False),
    "packed.npz": lambda path: _write_npz(path, packed=True),
    "table.tsv": _write_table,
    "sub-01_matrix.csv": lambda path: np.savetxt(path, _squares()[0], delimiter=","),
    "x.zip": _write_zip,
    "x.h5": _write_h5,
}


def _connectome(folder: Path) -> tuple[Path, Read]:
    path = folder / "sub-01_atlas-toy_relmat.tsv"
    write_connectome(path, _squares()[0], ("a", "b", "c", "d"))
    return path, lambda: read_connectome(path)


def _prediction_file(folder: Path) -> tuple[Path, Read]:
    path = folder / "x.h5"
    _write_h5(path)

    def read() -> None:
        for source, target in find_predictions(path):
            read_matrix(path, source=source, target=target)

    return path, read


def _confounds(which: str) -> Callable[[Path], tuple[Path, Read]]:
    def make(folder: Path) -> tuple[Path, Read]:
        table, sidecar = folder / "x.tsv", folder / "x.json"
        names = ["trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z", "a_comp_cor_00",
                 "a_comp_cor_01", "motion_outlier00", "non_steady_state_outlier00"]  # fmt: skip
        rows = ["\t".join(f"{i * k % 3}" for k in range(len(names))) for i in range(5)]
        table.write_text("\n".join(["\t".join(names), *rows]) + "\n")
        masks = (("a_comp_cor_00", "WM"), ("a_comp_cor_01", "CSF"))
        sidecar.write_text(
            json.dumps({
                name: {"Method": "aCompCor", "Mask": mask, "Retained": True}
                for name, mask in masks
            })
        )

        def read() -> None:
            found = read_confounds(table, sidecar_file=sidecar, n_volumes=5, bold_file=folder)
            found.motion()
            found.compcor("WM")
            found.non_steady()

        return {"table": table, "sidecar": sidecar}[which], read

    return make


def _series_table(folder: Path) -> tuple[Path, Read]:
    names = load_atlas("fs86").region_names
    rows = np.random.default_rng(0).random((40, 86)).round(3)
    path = folder / "sub-01_task-rest_atlas-fs86_timeseries.tsv"
    lines = ["\t".join(names), *("\t".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path, lambda: read_series(path, ["fs86", "shen268"])


def _outliers(folder: Path) -> tuple[Path, Read]:
    path = folder / "x_outliers.tsv"
    path.write_text("framewise_displacement\n" + "0\n1\n0\n0\n")
    return path, lambda: read_left_out(path, n_volumes=4, bold_file=folder)


def _participants(folder: Path) -> tuple[Path, Read]:
    path = folder / "participants.tsv"
    path.write_text("participant_id\tsite\tage\nsub-01\tA\t30\nsub-02\tB\t31\n")
    return path, lambda: (read_sites("site", path), read_ids([str(path)]))


def _json(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def _description(folder: Path) -> tuple[Path, Read]:
    made = [{"Name": "fMRIPrep", "Version": "25.2", "Container": {"Type": "docker"}}]
    content = {"Name": "x", "BIDSVersion": "1.9", "GeneratedBy": made, "SourceDatasets": [{}]}
    path = _json(folder, "dataset_description.json", content)
    return path, lambda: program_of(read_description(folder))


def _sidecar(folder: Path) -> tuple[Path, Read]:
    content = {"RepetitionTime": 2.0, "SkullStripped": True, "Sources": ["bids::x"]}
    path = _json(folder, "sub-01/func/sub-01_task-rest_bold.json", content)
    image = parse_name(path.with_name("sub-01_task-rest_bold.nii.gz"))
    return path, lambda: read_metadata(image, folder)


def _measured_sidecar(folder: Path) -> tuple[Path, Read]:
    content = {"Regularization": 0.1, "RegularizationSource": "given", "DegreesOfFreedom": 90.0,
               "NumberOfRetainedVolumes": 100, "MissingNodes": ["a"]}  # fmt: skip
    path = _json(folder, "sub-01_atlas-fs86_meas-FCcorrHPF_relmat.json", content)
    matrix = path.with_suffix(".tsv")

    def read() -> None:
        for ask in (read_lambda, read_lambda_source, has_few_dof, is_withheld):
            ask(matrix)

    return path, read


def _layers() -> FlavorModel:
    rng = np.random.default_rng(5)

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    scale = np.float32([2.0])
    parameters = {"mean": draw(6), "components": draw(4, 6), "input_scale": scale,
                  "output_scale": scale}  # fmt: skip
    return FlavorModel(
        n_edges=6,
        transform=Transform("pca", parameters),
        encoder=(Layer(draw(3, 4), draw(3), ("normalize",)),),
        decoder=(Layer(draw(4, 3), draw(4)),),
    )


def _bundle(which: str) -> Callable[[Path], tuple[Path, Read]]:
    def make(folder: Path) -> tuple[Path, Read]:
        write_bundle(folder / "m", flavors={FLAVOR: _layers()}, latent_size=3,
                     provenance={"made_by": "a test"})  # fmt: skip

        def read() -> None:
            bundle = open_bundle(folder / "m")
            for flavor in bundle.flavors:
                bundle.flavor_model(flavor)
                bundle.training_mean(flavor)
            weights = MappedWeights(bundle)
            for flavor in bundle.flavors:
                weights.transform(bundle, flavor)
                PCAProjection.from_pretrained(folder / "m", flavor=flavor)

        return folder / "m" / which, read

    return make


def _adaptation(folder: Path) -> tuple[Path, Read]:
    means = np.random.default_rng(1).random((2, 6))
    fitted = Adaptation("meanshift", 1.0, 0.0, 0.9, *means, 9)
    path = folder / "x.safetensors"
    save_adaptations(path, {FLAVOR: fitted}, provenance={"pcorr_lambda": {FLAVOR: 0.1}})
    return path, lambda: (load_adaptations(path), load_provenance(path), fitted_lambdas(path))


def _pickled(folder: Path) -> tuple[Path, Read]:
    row = {"type": "pca", "input_transform_mean": np.arange(6.0), "n": 3,
           "ids": np.array(["a", "bc"]), "o": np.array(["x", None], dtype=object)}  # fmt: skip
    content = {FLAVOR: row}
    path = folder / "x.npy"
    np.save(path, np.array(content), allow_pickle=True)
    return path, lambda: read_numpy_object(path)


def _transform_table(folder: Path) -> tuple[Path, Read]:
    path = folder / "x.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group(FLAVOR)
        group.attrs["type"] = "zscore"
        group["input_mean"] = np.float64(1.0)
        group["input_stdev"] = np.float64(2.0)
    return path, lambda: read_transforms([path])


def _torch_file(folder: Path) -> tuple[Path, Read]:
    """As torch would write ``{"w": tensor of (3, 2)}``; torch itself takes long to load."""
    path = folder / "x.pt"
    storage = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\6tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0K\3K\2\x86K\2K\1\x86\x89}tR"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\2}X\1\0\0\0w" + tensor + b"s.")
        archive.writestr("x/byteorder", "little")
        archive.writestr("x/data/0", np.arange(6, dtype="<f4").tobytes())

    def read() -> None:
        read_torch_file(path)

    np.testing.assert_array_equal(read_torch_file(path)["w"], np.arange(6).reshape(3, 2))
    return path, read


def _checkpoint(folder: Path) -> tuple[Path, Read]:
    path = folder / "c.npz"
    arrays = [np.ones((2, 3), np.float32)]
    Checkpoint("f", 2, arrays, 0.5, 1, arrays).write(path)
    return path, lambda: read_checkpoint(path, expected="f")


def _training_log(folder: Path) -> tuple[Path, Read]:
    path = folder / "log.tsv"
    path.write_text("epoch\tloss\tvalidation\n1\t0.5\tn/a\n2\t0.25\t0.4\n")
    return path, lambda: read_log(path)


def _training_pairs(folder: Path) -> tuple[Path, Read]:
    path = folder / "pairs.tsv"
    Pairs(3, ("a", "b"), ("a", "b"), {"rank": np.eye(2), "top1": np.eye(2)}).write(path)
    return path, lambda: read_pairs(path)


def _config(folder: Path) -> tuple[Path, Read]:
    path = folder / "x.toml"
    path.write_text(tomli_w.dumps({"atlases": ["fs86"], "nprocs": 3, "work_dir": "w"}))
    parser = make_parser()

    def read() -> None:
        typed = parser.parse_args(["in", "out", "participant"])
        apply_config(typed, parser, file=str(path))

    return path, read


def _selection(which: str) -> Callable[[Path], tuple[Path, Read]]:
    def make(folder: Path) -> tuple[Path, Read]:
        filters = _json(folder, "filters.json", {"bold": {"task": ["rest", None], "run": 1}})
        people = folder / "people.txt"
        people.write_text("sub-01\n02\n")
        typed = SimpleNamespace(
            participant_label=[f"@{people}"], session_id=[], task_id=[], run_id=[],
            bids_filter_file=str(filters),
        )  # fmt: skip

        def read() -> None:
            reader = Reader()
            read_selection(typed, reader)
            for problem in reader.problems:
                raise problem

        return {"filters": filters, "people": people}[which], read

    return make


def _plugin(folder: Path) -> tuple[Path, Read]:
    path = folder / "plugin.yml"
    path.write_text("plugin: MultiProc\nplugin_args:\n  n_procs: 2\n  memory_gb: 4\n")
    return path, lambda: read_plugin(path)


def _submission(folder: Path) -> tuple[Path, Read]:
    content = {"level": "participant", "scheduler": "slurm", "jobs": {"participants": "12"},
               "participants": ["01", "02"]}  # fmt: skip
    path = _json(folder, RECORD, content)
    return path, lambda: read_record(folder)


def _marker(folder: Path) -> tuple[Path, Read]:
    content = {"key": "k", "outputs": {"a.tsv": 3}, "problems": [["sub-01", "missing"]]}
    path = _json(folder, ".kraken-bids/sub-01.json", content)
    (folder / "a.tsv").write_text("abc")
    return path, lambda: (is_finished(folder, "sub-01", "k"), marked_problems(folder, "sub-01"))


def _page_source(folder: Path) -> tuple[Path, Read]:
    table = folder / "sub-01/func/sub-01_task-rest_desc-fc_qc.tsv"
    table.parent.mkdir(parents=True)
    table.write_text("n_volumes\tfd_mean_mm\n100\t0.2\n")
    content = {"n_volumes": {"Description": "volumes"}, "Regions": {"fs86": {"missing": ["a"]}}}
    path = _json(table.parent, "sub-01_task-rest_desc-fc_qc.json", content)
    return path, lambda: read_session(folder, "01", None)


CASES = (
    Case("series .nii.gz", _stream("x_bold.nii.gz")),
    Case("series .nii", _stream("x_bold.nii")),
    Case("series NIfTI-2", _stream("x_bold.nii", nib.Nifti2Image)),
    Case("mask on a grid", _on_grid),
    Case("check of an image", _checked_image),
    Case("labels .nii.gz", _label_image("x_dseg.nii.gz")),
    Case("labels .mgz", _label_image("x.mgz", nib.MGHImage)),
    Case("values of an image", _values),
    Case("labels for streamlines", _label_images),
    Case("bval", _gradients("bval")),
    Case("bvec", _gradients("bvec")),
    Case("SIFT2 weights", _weights),
    Case("tractogram .tck", _tractogram("x.tck")),
    Case("tractogram .tck.gz", _tractogram("y.tck.gz")),
    Case("tractogram .trk", _tractogram("x.trk")),
    Case("tractogram .trx", _tractogram("x.trx")),
    Case("transform .h5", _transform("x.h5")),
    Case("transform .txt", _transform("x.txt")),
    Case("transform .mat", _transform("x.mat")),
    Case("annotation", _annotation),
    Case("surface", _surface),
    *(Case(f"connectomes {name}", _connectomes(name)) for name in _CONNECTOMES),
    Case("connectome of ours", _connectome),
    Case("predictions .h5", _prediction_file),
    Case("confounds .tsv", _confounds("table")),
    Case("confounds .json", _confounds("sidecar")),
    Case("series of regions", _series_table),
    Case("outliers .tsv", _outliers),
    Case("participants.tsv", _participants),
    Case("dataset_description.json", _description),
    Case("sidecar", _sidecar),
    Case("sidecar of ours", _measured_sidecar),
    Case("bundle config.json", _bundle("config.json")),
    Case("bundle weights", _bundle("model.safetensors")),
    Case("adaptation", _adaptation),
    Case("reference .npy", _pickled),
    Case("reference .pt", _torch_file),
    Case("reference .h5", _transform_table),
    Case("checkpoint", _checkpoint),
    Case("training log", _training_log),
    Case("training pairs", _training_pairs),
    Case("configuration", _config),
    Case("filter file", _selection("filters")),
    Case("list of participants", _selection("people")),
    Case("plugin file", _plugin),
    Case("submission", _submission),
    Case("marker", _marker),
    Case("sidecar of a page", _page_source),
)


# ----------------------------------------------------------------------------- the test


def read_damaged(case: Case, folder: Path) -> list[str]:
    """Read a file after every damage; give what came out and was not in our words."""
    path, read = case.make(folder)
    whole = path.read_bytes()
    read()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wrong, n_refused = [], 0
    for seed in range(N_DAMAGES):
        rng = np.random.default_rng([seed, *case.name.encode()])
        path.write_bytes(damage(rng, whole))
        try:
            with np.errstate(all="ignore"):
                read()
        except KrakenBIDSError:
            n_refused += 1
        except BaseException as error:  # noqa: BLE001 (that is what is looked for)
            place = traceback.extract_tb(error.__traceback__)
            ours = [
                f"{one.filename}:{one.lineno}" for one in place if "kraken_bids/" in one.filename
            ]
            wrong.append(f"seed {seed}: {error!r:.200} at {ours[-1:]}")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    if grown > MEMORY_BYTES:
        wrong.append(f"took {grown >> 20} MB")
    if not n_refused and case.name not in NEVER_REFUSED:
        wrong.append("no damage was noticed")
    return wrong


#: Readers for which damage is no error: what cannot be read is as if it were not there.
NEVER_REFUSED = frozenset({"sidecar of ours", "marker", "sidecar of a page"})


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_damaged_files_end_in_words(tmp_path, case, in_child):
    wrong = in_child(lambda: read_damaged(case, tmp_path))
    assert not wrong, "\n".join(wrong)


def _broken(exception: BaseException) -> Callable[[Path], tuple[Path, Read]]:
    """A kind of file whose reader does not keep to our words."""

    def make(folder: Path) -> tuple[Path, Read]:
        path = folder / "x"
        path.write_bytes(b"whole")

        def read() -> None:
            if path.read_bytes() != b"whole":
                raise exception

        return path, read

    return make


@pytest.mark.parametrize(
    "exception", [KeyError("x"), MemoryError(), RecursionError(), AssertionError("x")], ids=repr
)
def test_other_words_are_noticed(tmp_path, exception, in_child):
    wrong = in_child(lambda: read_damaged(Case("broken", _broken(exception)), tmp_path))
    assert type(exception).__name__ in "\n".join(wrong)


def test_readers_that_notice_nothing_are_noticed(tmp_path, in_child):
    def make(folder: Path) -> tuple[Path, Read]:
        path = folder / "x"
        path.write_bytes(b"whole")
        return path, lambda: None

    assert in_child(lambda: read_damaged(Case("blind", make), tmp_path)) == [
        "no damage was noticed"
    ]


@pytest.mark.parametrize(
    ("work", "told"),
    [
        (lambda: [str(len(bytearray(3 << 30)))], "MemoryError"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV) or [], "signal 11"),
        (lambda: signal.pause() or [], "not done after 2 s"),
    ],
    ids=["memory", "crash", "hang"],
)
def test_a_child_that_breaks_is_told(work, told, in_child):
    assert told in "\n".join(in_child(work, seconds=2))
