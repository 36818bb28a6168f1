# SPDX-License-Identifier: MIT
"""fMRIPrep's table of confounds and its sidecar."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..storage import load_json
from .writers import MISSING

#: Translations in mm, then rotations in rad.
MOTION_COLUMNS = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")

#: aCompCor columns taken of each tissue.
N_COMPCOR = 5

#: Names of each tissue's aCompCor columns where there is no sidecar (fMRIPrep 21 and later).
COMPCOR_PREFIX = {"WM": "w_comp_cor_", "CSF": "c_comp_cor_"}

_NON_STEADY = re.compile(r"non_steady_state_outlier\d+")
_MOTION_OUTLIER = re.compile(r"motion_outlier\d+")


@dataclass(frozen=True)
class ConfoundsTable:
    """Columns of a table of confounds.

    Parameters
    ----------
    file
        The table.
    columns
        (n_volumes,) by name, NaN where the table says ``n/a``.
    sidecar
        Contents of the JSON file beside it; empty if there is none.
    """

    file: Path
    columns: dict[str, NDArray[np.float64]]
    sidecar: dict[str, Any]

    @property
    def n_non_steady(self) -> int:
        """Volumes at the start that fMRIPrep found not yet steady."""
        return sum(1 for name in self.columns if _NON_STEADY.fullmatch(name))

    @property
    def n_volumes(self) -> int:
        """Rows of the table."""
        return len(next(iter(self.columns.values()), ()))

    def non_steady(self) -> NDArray[np.bool_]:
        """Volumes that fMRIPrep found not yet steady, (n_volumes,)."""
        return self._flagged(_NON_STEADY)

    def motion_outliers(self) -> NDArray[np.bool_]:
        """Volumes that fMRIPrep found to be motion outliers, (n_volumes,).

        Those of framewise displacement or standardised DVARS beyond its limits (by default
        0.5 mm and 1.5): a column each. A run without any has no such column.
        """
        return self._flagged(_MOTION_OUTLIER)

    def _flagged(self, pattern: re.Pattern[str]) -> NDArray[np.bool_]:
        is_flagged = np.zeros(self.n_volumes, dtype=bool)
        for name, values in self.columns.items():
            if pattern.fullmatch(name):
                is_flagged |= values > 0
        return is_flagged

    def motion(self) -> NDArray[np.float64]:
        """Motion parameters, (n_volumes, 6), mm and rad."""
        return self._stack(MOTION_COLUMNS, fix="Run fMRIPrep again; every version writes them.")

    def compcor(self, tissue: str) -> NDArray[np.float64]:
        """First aCompCor columns of a tissue, (n_volumes, up to 5).

        Parameters
        ----------
        tissue
            ``WM`` or ``CSF``.

        Raises
        ------
        InputError
            If the table has none.
        """
        names = [
            name
            for name, about in self.sidecar.items()
            if isinstance(about, dict)
            and about.get("Method") == "aCompCor"
            and about.get("Mask") == tissue
            and about.get("Retained", True)
        ]
        if not self.sidecar:
            names = [name for name in self.columns if name.startswith(COMPCOR_PREFIX[tissue])]
        names.sort(key=lambda name: int(re.sub(r"\D", "", name) or 0))
        if not names:
            raise InputError(
                f"no aCompCor columns of {tissue} (Method aCompCor, Mask {tissue}, Retained)",
                where=str(self.file),
                fix="Give the table together with its JSON file, or use --compcor exact.",
            )
        return self._stack(names[:N_COMPCOR], fix="Use --compcor exact, or run fMRIPrep again.")

    def _stack(self, names: tuple[str, ...] | list[str], *, fix: str) -> NDArray[np.float64]:
        missing = [name for name in names if name not in self.columns]
        if missing:
            raise InputError(
                f"the table of confounds lacks {', '.join(missing)}", where=str(self.file), fix=fix
            )
        empty = [name for name in names if not np.isfinite(self.columns[name]).all()]
        if empty:
            raise InputError(
                f"the table of confounds has rows without a value in {', '.join(empty)}",
                where=str(self.file),
                fix=fix,
            )
        return np.stack([self.columns[name] for name in names], axis=1)


def read_confounds(
    file: Path, *, sidecar_file: Path | None = None, n_volumes: int, bold_file: Path
) -> ConfoundsTable:
    """Read a table of confounds.

    Parameters
    ----------
    file, sidecar_file
        TSV, and JSON or None.
    n_volumes
        Volumes of the series.
    bold_file
        The series, for messages.

    Raises
    ------
    InputError
        If a file cannot be read, or the table has another number of rows than there are volumes.
    """
    columns = _read_columns(file)
    n_rows = len(next(iter(columns.values()), ()))
    if n_rows != n_volumes:
        raise InputError(
            f"the table of confounds has {n_rows} rows, the image {n_volumes} volumes",
            where=f"{file}; {bold_file}",
            fix="Give the table and the image of one run; copy them again if one is cut short.",
        )
    sidecar = {}
    if sidecar_file is not None:
        try:
            sidecar = load_json(sidecar_file)
        except (OSError, ValueError) as error:
            raise InputError(
                f"the sidecar cannot be read: {error}",
                where=str(sidecar_file),
                fix="Copy or preprocess the file again.",
            ) from error
        if not isinstance(sidecar, dict):
            raise InputError(
                "the sidecar holds no JSON object",
                where=str(sidecar_file),
                fix="Copy or preprocess the file again.",
            )
    return ConfoundsTable(file, columns, sidecar)


def _read_columns(file: Path) -> dict[str, NDArray[np.float64]]:
    """All columns of a table; those that hold words become NaN."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"the table of confounds cannot be read: {error}",
            where=str(file),
            fix="Run fMRIPrep again, or copy the file again.",
        ) from error
    header, *rows = list(csv.reader(lines, delimiter="\t")) or [[]]
    ragged = [number for number, row in enumerate(rows, start=2) if len(row) != len(header)]
    if ragged:
        raise InputError(
            f"line {ragged[0]} of the table of confounds has not {len(header)} cells",
            where=str(file),
            fix="Copy the file again; it may be cut short.",
        )
    return {
        name: np.array([_number(row[position]) for row in rows], dtype=np.float64)
        for position, name in enumerate(header)
    }


def _number(cell: str) -> float:
    try:
        return float("nan" if cell in {MISSING, ""} else cell)
    except ValueError:
        return float("nan")
