# SPDX-License-Identifier: MIT
"""The reference program's files of transforms (``.npy``, ``.npz``, ``.h5``), and its old names.

NumPy alone; nothing in a file is executed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ResourceError
from ..hdf5_loading import UNREADABLE, own_members, plain_dataset
from .pickles import read_numpy_object
from .transforms import ALIASES, TRANSFORMS, Transform, make_transform

_log = logging.getLogger(__name__)

#: Names of before 2024-04-13 and of other spellings, and what they became.
_RENAMED = (
    (re.compile(r"FCcov_(\w+?)_(hpf|bpf|nofilt)(gsr)?_FC"), r"FCcorr_\1_\2\3"),
    (re.compile(r"FCpcorr_(\w+?)_(hpf|bpf|nofilt)_FC"), r"FCpcorr_\1_\2"),
    (re.compile(r"(\w+?)_(sdstream|ifod2act)_volnorm"), r"SC\2_\1_volnorm"),
    (re.compile(r"(SC\w+?_\w+?)_sift2count"), r"\1_sift2"),
)
_RENAMED_ATLASES = (("cocommpsuit439", "coco439"),)

#: Where our own files in the reference program's format count participants without naming them.
N_PARTICIPANTS_KEY = "train_subject_count"


def modern_name(name: str) -> str:
    """Give today's name of a flavor; any other name comes back as it is.

    Examples
    --------
    >>> modern_name("FCcov_cocommpsuit439_hpfgsr_FC")
    'FCcorr_coco439_hpfgsr'
    """
    for old, new in _RENAMED_ATLASES:
        name = name.replace(old, new)
    for pattern, replacement in _RENAMED:
        if pattern.fullmatch(name):
            return pattern.sub(replacement, name)
    return name


def read_transforms(files: Sequence[Path]) -> dict[str, Transform]:
    """Read transform files; of a flavor in several, the last is taken.

    Raises
    ------
    ModelError
        If a transform is of an unknown kind, incomplete, or holds NaN.
    ResourceError
        If a file is missing, damaged, of another kind, or asks for code to be run.
    """
    transforms = {}
    for file in files:
        for name, row in _read_rows(file).items():
            flavor = modern_name(str(name))
            if flavor in transforms:
                _log.warning("Transform of %s: the one in %s is taken", flavor, file)
            transforms[flavor] = _read_transform(row, where=f"{flavor} in {file}")
    return transforms


def _read_transform(row: Mapping[str, Any], *, where: str) -> Transform:
    """Rename a file's parameters to ours."""
    kind = row.get("type")
    if isinstance(kind, bytes):
        kind = kind.decode()
    kind = ALIASES.get(str(kind), str(kind))
    keys = TRANSFORMS[kind].reference_keys if kind in TRANSFORMS else {}
    found = {ours: row[theirs] for ours, theirs in keys.items() if theirs in row}
    return make_transform(
        kind,
        found,
        where=where,
        explained_variance=_explained_variance(row.get("pca_explained_variance_ratio")),
        n_participants=_n_participants(row),
    )


def _explained_variance(value: Any) -> float | None:
    """Read a share of variance, or one a component; NaN and nothing are not known."""
    share = np.nan if value is None else float(np.sum(value))
    return share if np.isfinite(share) else None


def _n_participants(row: Mapping[str, Any]) -> int | None:
    """Count the participants that a transform was fitted on; who they are is not kept."""
    if "train_subjects" in row:
        return int(np.size(row["train_subjects"]))
    count = row.get(N_PARTICIPANTS_KEY)
    return None if count is None else int(count)


def _read_rows(file: Path) -> dict[str, Mapping[str, Any]]:
    """Read a file's transforms as they are."""
    rows = _read_hdf5(file) if file.suffix in {".h5", ".hdf5"} else read_numpy_object(file)
    if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
        raise ResourceError(
            "holds no transforms by flavor",
            where=str(file),
            fix="Give a file that the reference program's training wrote (…_ioxfm_….npy).",
        )
    return rows


def _read_hdf5(file: Path) -> dict[str, Mapping[str, Any]]:
    """Read one group a flavor: arrays are data sets, numbers and text are attributes."""
    import h5py

    if not file.exists():
        raise ResourceError("does not exist", where=str(file), fix="Give the file's right path.")
    try:
        with h5py.File(file, "r") as content:
            return {
                name: {
                    **group.attrs,
                    **{key: plain_dataset(group, key, file=file)[()] for key in group},
                }
                for name, group in own_members(content)
            }
    except UNREADABLE as error:
        raise ResourceError(
            f"is damaged or of another kind ({error})",
            where=str(file),
            fix="Download or make the file again.",
        ) from error
