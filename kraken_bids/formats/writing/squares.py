# SPDX-License-Identifier: MIT
"""Partial correlations, or precision matrices, of a cohort into files.

`MATRIX_WRITERS` and `MEAN_WRITERS` are the tables of formats. Files appear when all is written.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...atlases import atlas_names, load_atlas
from ...bids.dataset import DatasetInfo, write_dataset_files
from ...bids.names import output_path
from ...bids.predictions import session_entities
from ...bids.sidecars import connectome_sidecar
from ...bids.writers import write_connectome, write_json, write_table
from ...errors import UsageError
from ...flavors import Flavor
from ...storage import atomic_path
from .tree import read_ids

#: A variable of a MATLAB 5 file holds less than this many bytes.
MATLAB_LIMIT = 2**31

PARTICIPANT_COLUMNS = {
    "participant_id": {"Description": "Participant"},
    "original_id": {"Description": "Participant, as the input spells it"},
}

PARTIAL, PRECISION = "partialcorr", "precision"


@dataclass(frozen=True)
class MatrixFacts:
    """What files say of the matrices in them.

    Parameters
    ----------
    lambda_, lambda_raw
        As applied, and as found or given.
    kind
        `PARTIAL` or `PRECISION`, the reference program's words.
    n_regions
        Number of rows of a matrix.
    flavor
        Flavor of the partial correlations, or None if it is not known.
    """

    lambda_: float
    lambda_raw: float
    kind: str
    n_regions: int
    flavor: Flavor | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """Fields as the reference program names them."""
        return {"lambda": self.lambda_, "lambda_raw": self.lambda_raw, "conntype": self.kind}

    @property
    def region_names(self) -> tuple[str, ...]:
        """Names of the atlas's regions; ``region001`` and so on where it is not known."""
        atlas = self.flavor.atlas if self.flavor else ""
        if atlas in atlas_names() and load_atlas(atlas).n_regions == self.n_regions:
            return load_atlas(atlas).region_names
        return tuple(f"region{number:03d}" for number in range(1, self.n_regions + 1))


Matrices = Iterable[NDArray[np.float64]]


def check_matrix_output(path: Path, *, participants: Sequence[str], facts: MatrixFacts) -> None:
    """Refuse an output that cannot be written, before work is done.

    Raises
    ------
    KrakenBIDSError
        If the format cannot hold so much, or ids make no names of files.
    """
    if not path.suffix:
        read_ids(participants)
    n_bytes = len(participants) * facts.n_regions**2 * 4
    if path.suffix.lower() == ".mat" and n_bytes >= MATLAB_LIMIT:
        raise UsageError(
            f"{len(participants)} matrices of {facts.n_regions} regions are too much for .mat",
            where=f"--output {path}",
            fix="Write .npz.",
        )


def write_npz(
    path: Path, participants: Sequence[str], matrices: Matrices, facts: MatrixFacts
) -> None:
    """Write ``data`` (n, R, R), float32, with ``subjects`` and facts; a matrix at a time."""
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        small = {"subjects": np.array(participants, dtype=np.str_), **facts.fields}
        for name, value in small.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, np.asarray(value), allow_pickle=False)
        with archive.open("data.npy", "w", force_zip64=True) as member:
            shape = (len(participants), facts.n_regions, facts.n_regions)
            np.lib.format.write_array_header_1_0(
                member, {"descr": "<f4", "fortran_order": False, "shape": shape}
            )
            for matrix in matrices:
                member.write(matrix.astype("<f4").tobytes())


def write_matlab(
    path: Path, participants: Sequence[str], matrices: Matrices, facts: MatrixFacts
) -> None:
    """Write ``data`` (n, R, R) and, as the reference program does, ``C``, a cell a participant.

    ``data`` is what all programs of the field read, ``C`` what its own tool for the
    regularisation reads and writes. All matrices are held in memory.
    """
    from scipy.io import savemat

    data = np.stack([matrix.astype(np.float32) for matrix in matrices])
    cells = np.empty((len(data), 1), dtype=object)
    cells[:, 0] = list(data)
    subjects = np.array(participants, dtype=object)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        savemat(stream, {"data": data, "C": cells, "subjects": subjects, **facts.fields})


def fill_tree(
    root: Path, participants: Sequence[str], matrices: Matrices, facts: MatrixFacts
) -> None:
    """Write a BIDS data set of partial correlations into a folder.

    The caller sees to it that the folder appears whole. Ids lose what is neither letter nor
    digit; ``participants.tsv`` keeps them as they were.
    """
    if facts.flavor is None or facts.kind != PARTIAL:
        raise ValueError("a data set needs a flavor of partial correlations")
    flavor, names = facts.flavor, facts.region_names
    rows = read_ids(participants)
    atlases = (flavor.atlas,) if flavor.atlas in atlas_names() else ()
    info = DatasetInfo(
        name="kraken-bids: partial correlations",
        text="Regularised partial correlations, computed from correlations.",
        atlases=atlases,
        outputs=("connectome",),
    )
    write_dataset_files(root, info)
    for row, matrix in zip(rows, matrices, strict=True):
        path = root / output_path(
            "connectome",
            session_entities(row.participant, row.session),
            datatype=flavor.datatype,
            atlas=flavor.atlas,
            meas=flavor.meas,
        )
        missing = [names[region] for region in np.flatnonzero(np.isnan(matrix).all(axis=0))]
        quality = {f"pcorr_lambda_{flavor.atlas}": facts.lambda_}
        write_connectome(path, matrix, names)
        write_json(
            path.with_suffix(".json"),
            connectome_sidecar(flavor, quality=quality, missing=missing),
        )
    originals = {f"sub-{row.participant}": row.original for row in rows}
    write_table(root / "participants.tsv", tuple(PARTICIPANT_COLUMNS), list(originals.items()))
    write_json(root / "participants.json", PARTICIPANT_COLUMNS)


def _write_mean_npz(path: Path, mean: NDArray[np.float64], facts: MatrixFacts) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, allow_pickle=False, C=mean, **facts.fields)


def _write_mean_npy(path: Path, mean: NDArray[np.float64], facts: MatrixFacts) -> None:
    del facts  # an array alone
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, mean, allow_pickle=False)


def _write_mean_matlab(path: Path, mean: NDArray[np.float64], facts: MatrixFacts) -> None:
    from scipy.io import savemat

    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        savemat(stream, {"C": mean, **facts.fields})


def _write_mean_table(path: Path, mean: NDArray[np.float64], facts: MatrixFacts) -> None:
    write_connectome(path, mean, facts.region_names)


#: Writers of a cohort's matrices by extension; a folder has none, and is filled by `fill_tree`.
MATRIX_WRITERS: Mapping[str, Callable[[Path, Sequence[str], Matrices, MatrixFacts], None]] = {
    ".npz": write_npz,
    ".mat": write_matlab,
}

#: Writers of one matrix, which serves as a target: float64, but in a table float32.
MEAN_WRITERS: Mapping[str, Callable[[Path, NDArray[np.float64], MatrixFacts], None]] = {
    ".mat": _write_mean_matlab,
    ".npz": _write_mean_npz,
    ".npy": _write_mean_npy,
    ".tsv": _write_mean_table,
}
