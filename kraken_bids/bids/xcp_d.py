# SPDX-License-Identifier: MIT
"""Series that XCP-D denoised: what was done to them, and whether that fits the recipe.

XCP-D says in the sidecar of a series how it was filtered (``SoftwareFilters``) and by which set
of confounds it was cleaned (``NuisanceParameters``); the columns regressed stand in
``*_design.tsv``, the volumes left out in ``*_outliers.tsv``.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..plan import FunctionalRun
from .anatomy import label_sources
from .confounds import MOTION_COLUMNS
from .files import FoundFile, parse_name, read_metadata
from .functional_runs import (
    FunctionalQuery,
    discarded_volumes,
    find_mask,
    read_repetition_time,
)
from .image_files import check_image
from .names import XCP_D_MARK, format_entities
from .spaces import space_name

#: Sets of confounds, in lower case: whether they hold the global signal.
GLOBAL_SIGNAL: dict[str, bool] = {
    "24p": False, "acompcor": False, "aroma": False, "none": False,
    "27p": True, "36p": True, "acompcor_gsr": True, "aroma_gsr": True, "gsr_only": True,
}  # fmt: skip
#: High-pass cutoffs, in Hz, that are near enough to the 0.01 Hz of the training data.
HIGH_PASS_RANGE_HZ = (0.0075, 0.0125)
#: Columns of ``*_outliers.tsv`` that say which volumes are left out; the first that is there.
OUTLIER_COLUMNS = ("interpolation", "framewise_displacement")


def cutoffs(filters: object, context: str = "") -> tuple[float, float]:
    """Low-pass and high-pass cutoff of a description of filters, in Hz; 0 where there is none.

    Parameters
    ----------
    filters
        ``SoftwareFilters`` of a sidecar.
    context
        Names of the keys above.

    Examples
    --------
    >>> cutoffs({"High-pass filter": {"cutoff (Hz)": 0.01, "Filter order": 2}})
    (0.0, 0.01)
    """
    low = high = 0.0
    if isinstance(filters, Mapping):
        for key, value in filters.items():
            inner = cutoffs(value, f"{context} {key}".lower())
            low, high = max(low, inner[0]), max(high, inner[1])
    elif isinstance(filters, (int, float)) and "cutoff" in context and filters > 0:
        # "Bandpass filter: Low-pass cutoff (Hz)", or "Low-pass filter: cutoff (Hz)".
        low = float(filters) if "low-pass" in context else 0.0
        high = float(filters) if "high-pass" in context else 0.0
    return low, high


def processing(sidecar: Mapping[str, Any]) -> str:
    """Last part of a flavor's name from filters and confounds; empty if they are unknown.

    Examples
    --------
    >>> processing({"NuisanceParameters": "36P", "SoftwareFilters": None})
    'nofiltgsr'
    """
    confounds = sidecar.get("NuisanceParameters")
    key = "none" if confounds is None else str(confounds).lower()
    if key not in GLOBAL_SIGNAL:
        return ""
    low, high = cutoffs(sidecar.get("SoftwareFilters"))
    if low and not high:
        return ""
    filters = "bpf" if low else "hpf" if high else "nofilt"
    return filters + ("gsr" if GLOBAL_SIGNAL[key] else "")


@dataclass(frozen=True)
class Beside:
    """What XCP-D wrote beside a series.

    Parameters
    ----------
    metadata
        Of the series.
    regressors
        Columns of the design; empty if there is no table of it.
    n_left_out
        Volumes flagged as outliers.
    outliers_file, motion_file
        Tables, or None.
    """

    metadata: Mapping[str, Any]
    regressors: tuple[str, ...]
    n_left_out: int
    outliers_file: Path | None
    motion_file: Path | None


def denoised_run(
    file: FoundFile, query: FunctionalQuery
) -> tuple[FunctionalRun, Sequence[InputError]]:
    """A run from a series that XCP-D denoised, and what keeps atlases from it.

    Labels, transforms and the brain mask come from the fMRIPrep outputs that XCP-D started from.

    Raises
    ------
    InputError
        If the series is damaged, its mask is missing, or it does not fit the recipe and
        ``--force`` was not given.
    """
    check_image(file.path)
    beside = read_beside(file, read_metadata(file, query.derivative.root))
    misfits = find_misfits(beside)
    if misfits and not query.force:
        raise InputError(
            f"XCP-D's series does not fit the recipe of the models: {'; '.join(misfits)}",
            where=str(file.path),
            fix="Run XCP-D with --lower-bpf 0.01 --upper-bpf 0 --fd-thresh 0 and the confounds "
            "that this program brings (README), give the fMRIPrep outputs only, or use --force: "
            f"names of outputs then hold desc-{XCP_D_MARK}, and no model reads them by itself.",
        )
    mask = find_mask(file, replace(query, files=query.preprocessed))
    check_image(mask.path)
    space = space_name(file.label("space"), "fmriprep")
    labels, problems = label_sources(query.images, space, query.anatomy)
    run = FunctionalRun(
        entities=file.source,
        space=space,
        resolution=file.label("res") or "",
        bold_file=file.path,
        mask_file=mask.path,
        confounds_file=beside.motion_file,
        confounds_sidecar=None,
        repetition_time_s=read_repetition_time(file, beside.metadata),
        labels=labels,
        tissues=None,
        n_dummy_discarded=discarded_volumes(file, beside.metadata),
        denoised_by=describe_denoising(beside, "XCP-D"),
        variant="hpfgsr" if _require_global_signal(file, beside) else "hpf",
        mark=XCP_D_MARK if misfits else "",
        outliers_file=beside.outliers_file,
        n_regressors=sum(name != "intercept" for name in beside.regressors) or None,
        high_pass_hz=cutoffs(beside.metadata.get("SoftwareFilters"))[1],
    )
    return run, problems


def without_concatenations(series: Sequence[FoundFile]) -> list[FoundFile]:
    """Leave out what XCP-D made of several runs: the runs themselves are averaged."""
    labelled = {
        tuple(pair for pair in file.source if pair[0] not in {"run", "dir"})
        for file in series
        if file.label("run") or file.label("dir")
    }
    return [
        file
        for file in series
        if file.label("run") or file.label("dir") or file.source not in labelled
    ]


def read_beside(file: FoundFile, metadata: Mapping[str, Any]) -> Beside:
    """Read the tables of the same scan beside a series.

    Parameters
    ----------
    file
        The series.
    metadata
        Of the series.

    Raises
    ------
    InputError
        If a table cannot be read.
    """
    found = {suffix: _table(file, suffix) for suffix in ("design", "outliers", "motion")}
    design, outliers = (_read_table(found[name]) for name in ("design", "outliers"))
    return Beside(
        metadata=metadata,
        regressors=tuple(design[0]) if design else (),
        n_left_out=sum(_are_left_out(outliers)),
        outliers_file=found["outliers"],
        motion_file=found["motion"],
    )


def _table(file: FoundFile, suffix: str) -> Path | None:
    """Table of the same scan, whatever its ``desc-``."""
    candidates = sorted(file.path.parent.glob(f"{format_entities(file.source)}*_{suffix}.tsv"))
    return next((path for path in candidates if parse_name(path).source == file.source), None)


def _read_table(path: Path | None) -> list[dict[str, str]]:
    if path is None:
        return []
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            return list(csv.DictReader(stream, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"XCP-D's table cannot be read: {error}", where=str(path), fix="Restore the file."
        ) from error


def _are_left_out(rows: Sequence[Mapping[str, str]]) -> list[bool]:
    """Which rows of a table of outliers are flagged."""
    column = next((name for name in OUTLIER_COLUMNS if rows and name in rows[0]), "")
    return [row.get(column) not in {None, "", "0", "0.0", "n/a"} for row in rows]


def read_left_out(file: Path | None, *, n_volumes: int, bold_file: Path) -> NDArray[np.bool_]:
    """Volumes of a series that are not to be correlated, (n_volumes,).

    A censored series has lost them already; an interpolated one has made up values in their
    place.

    Parameters
    ----------
    file
        ``*_outliers.tsv``, or None.
    n_volumes, bold_file
        Of the series.

    Raises
    ------
    InputError
        If the table belongs to a series of another length.
    """
    flags = np.array(_are_left_out(_read_table(file)), dtype=bool)
    n_kept = len(flags) - int(flags.sum())
    if not flags.size or n_volumes == n_kept:
        return np.zeros(n_volumes, dtype=bool)
    if len(flags) != n_volumes:
        raise InputError(
            f"the table of outliers has {len(flags)} rows, {n_kept} of them kept, the image has "
            f"{n_volumes} volumes",
            where=f"{file}; {bold_file}",
            fix="Give the table and the image of one run of XCP-D.",
        )
    return flags


def read_motion(file: Path | None, *, n_volumes: int) -> NDArray[np.float64] | None:
    """Motion of a series, (n_volumes, 6) in mm and rad; None if it is not told for its volumes.

    Parameters
    ----------
    file
        ``*_motion.tsv``, or None.
    n_volumes
        Of the series.
    """
    rows = _read_table(file)
    if len(rows) != n_volumes or not all(name in rows[0] for name in MOTION_COLUMNS):
        return None
    try:
        motion = np.array([[float(row[name]) for name in MOTION_COLUMNS] for row in rows])
    except (TypeError, ValueError):
        return None
    return motion if np.isfinite(motion).all() else None


def find_misfits(beside: Beside) -> list[str]:
    """Say in what a series differs from those that the models were trained on."""
    if "SoftwareFilters" not in beside.metadata and "NuisanceParameters" not in beside.metadata:
        return ["its sidecar does not say how it was filtered"]
    low, high = cutoffs(beside.metadata.get("SoftwareFilters"))
    least, most = HIGH_PASS_RANGE_HZ
    found = [f"it is low-pass filtered at {low:g} Hz"] if low else []
    if not high:
        found.append("it is not high-pass filtered")
    elif not least <= high <= most:
        found.append(f"it is high-pass filtered at {high:g} Hz, not at 0.01 Hz")
    if beside.n_left_out:
        found.append(f"{beside.n_left_out} of its volumes were censored or interpolated")
    if str(beside.metadata.get("NuisanceParameters")).lower() == "none":
        found.append("no confounds were regressed")
    return found


def has_global_signal(beside: Beside) -> bool | None:
    """Whether the global signal was regressed, by the design or the name of the confounds.

    Returns
    -------
    bool or None
        None if nothing tells.
    """
    if beside.regressors:
        return any(name.startswith("global_signal") for name in beside.regressors)
    return GLOBAL_SIGNAL.get(str(beside.metadata.get("NuisanceParameters")).lower())


def _require_global_signal(file: FoundFile, beside: Beside) -> bool:
    found = has_global_signal(beside)
    if found is None:
        confounds = str(beside.metadata.get("NuisanceParameters")).lower()
        raise InputError(
            f"nothing tells whether the global signal was regressed: confounds '{confounds}' are "
            "unknown, and there is no *_design.tsv",
            where=str(file.path),
            fix="Restore XCP-D's table of the design, or run XCP-D again.",
        )
    return found


def describe_denoising(beside: Beside, program: str) -> str:
    """Confounds and filters in words, for sidecars."""
    low, high = cutoffs(beside.metadata.get("SoftwareFilters"))
    parts = [f"confounds {beside.metadata.get('NuisanceParameters', 'unknown')}"]
    parts += [f"high-pass {high:g} Hz"] if high else []
    parts += [f"low-pass {low:g} Hz"] if low else []
    parts += [f"{beside.n_left_out} volumes left out"] if beside.n_left_out else []
    return f"{program}: {', '.join(parts)}"
