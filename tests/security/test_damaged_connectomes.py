# SPDX-License-Identifier: MIT
"""Damaged connectomes in all formats, and tables of series: read, or refused in our words."""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from kraken_bids.atlases import load_atlas
from kraken_bids.bids.cohort import read_sites
from kraken_bids.bids.confounds import read_confounds
from kraken_bids.bids.prediction_file import find_predictions, read_matrix
from kraken_bids.bids.series_tables import read_series
from kraken_bids.bids.writers import read_connectome, write_connectome
from kraken_bids.bids.xcp_d import read_left_out
from kraken_bids.errors import KrakenBIDSError
from kraken_bids.formats.reading.correlations import open_correlations
from kraken_bids.formats.reading.opening import open_inputs
from kraken_bids.model_commands.given_inputs import read_ids
from tests.security.damage import Make, Read

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


def _connectomes(name: str) -> Make:
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


def _confounds(which: str) -> Make:
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


KINDS: dict[str, Make] = {
    **{f"connectomes {name}": _connectomes(name) for name in _CONNECTOMES},
    "connectome of ours": _connectome,
    "predictions .h5": _prediction_file,
    "confounds .tsv": _confounds("table"),
    "confounds .json": _confounds("sidecar"),
    "series of regions": _series_table,
    "outliers .tsv": _outliers,
    "participants.tsv": _participants,
}


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_end_in_words(read_damaged, kind):
    assert read_damaged(kind, KINDS[kind]) == []
