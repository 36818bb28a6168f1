# SPDX-License-Identifier: MIT
"""How ready-made series of regions were denoised, as far as names and sidecars tell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .files import FoundFile, parse_name, read_metadata
from .names import READY_MARK, format_entities
from .sidecars import DENOISING_KEYS
from .writers import MISSING
from .xcp_d import (
    cutoffs,
    describe_denoising,
    find_misfits,
    has_global_signal,
    read_beside,
    read_left_out,
)

#: giga_connectome's own strategies without ``gsr``: all are high-pass filtered, none low-pass.
GIGA_STRATEGIES = frozenset({"simple", "scrubbing2", "scrubbing5", "acompcor50", "icaaroma"})
#: Those of them that leave volumes out.
GIGA_SCRUBBING = frozenset({"scrubbing2", "scrubbing5"})
#: Cut-off of the cosines that its strategies regress: fMRIPrep's, one period in 128 s.
GIGA_HIGH_PASS_HZ = 1 / 128

#: What other programs regress is the signal of the brain mask, not that of grey matter.
_GLOBAL_SIGNAL: tuple[tuple[str, str | float], ...] = (("gsr_source", "global_signal"),)
#: Measures of a run of ours that stay true of its series.
KEPT_MEASURES = ("fd_", "percent_fd_", "composite_motion_", "n_regressors_", "dof_hpf")


@dataclass(frozen=True)
class Made:
    """How a series was made.

    Parameters
    ----------
    denoised_by
        In words.
    variant
        ``hpf``, or ``hpfgsr`` if the global signal was regressed.
    misfits
        In what it differs from the recipe of the models, or what is not known of it.
    high_pass_hz
        Cut-off of its high-pass filter; 0 if there was none, or it is not known.
    left_out
        Volumes that are not to be correlated, from 0.
    known
        Quality measures that sidecars repeat.
    metadata
        Of the series.
    """

    denoised_by: str
    variant: str
    misfits: tuple[str, ...] = ()
    high_pass_hz: float = 0.0
    left_out: tuple[int, ...] = ()
    known: tuple[tuple[str, str | float], ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def mark(self) -> str:
        """What marks its outputs in their names; empty if it fits."""
        return READY_MARK if self.misfits else ""


def how_made(file: FoundFile, metadata: Mapping[str, Any], *, is_empty: NDArray[np.bool_]) -> Made:
    """Say how a series was made.

    Parameters
    ----------
    file
        Its table.
    metadata
        Of its sidecars.
    is_empty
        (n_volumes,), volumes without values.

    Raises
    ------
    InputError
        If a file beside it cannot be read, or contradicts it.
    """
    if is_ours(metadata):
        return _ours(file, metadata, is_empty)
    if "denoise" in (file.label("desc") or "").lower():
        return _giga(file, metadata, is_empty)
    return _described(file, metadata, is_empty)


def is_ours(metadata: Mapping[str, Any]) -> bool:
    """Whether a sidecar is one of ours."""
    return str(metadata.get("Software", "")).startswith("kraken-bids")


def giga_strategy(desc: str) -> tuple[str, str]:
    """Strategy in a label of ``desc-`` of giga_connectome, and what older versions put before it.

    Examples
    --------
    >>> giga_strategy("100Parcels7NetworksdenoiseSimple")
    ('100Parcels7Networks', 'Simple')
    """
    match = re.fullmatch(r"(.*?)denoise(.*)", desc, re.IGNORECASE)
    return (match.group(1), match.group(2)) if match else ("", "")


def giga_variant(strategy: str) -> str:
    """Last part of a flavor's name by giga_connectome's strategy; empty if it is not its own."""
    if _giga_name(strategy) not in GIGA_STRATEGIES:
        return ""
    return "hpfgsr" if strategy.lower().endswith("gsr") else "hpf"


def _giga_name(strategy: str) -> str:
    """Name of a strategy in small letters and digits, without ``gsr``."""
    return re.sub(r"[^a-z0-9]", "", strategy.lower()).removesuffix("gsr")


def _ours(file: FoundFile, metadata: Mapping[str, Any], is_empty: NDArray[np.bool_]) -> Made:
    """A series that this program wrote."""
    told = metadata.get("Denoising")
    told = told if isinstance(told, Mapping) else {}
    known = {name: told[key] for key, name in DENOISING_KEYS.items() if key in told}
    known |= _measures_beside(file)
    program = str(metadata["Software"])
    by = str(known.pop("denoised_by", "")) or str(known.get("denoising", ""))
    volumes = metadata.get("OutlierVolumes", [])
    is_left_out = is_empty.copy()
    try:
        is_left_out[np.asarray(volumes, dtype=np.intp)] = True
    except (IndexError, ValueError, TypeError) as error:
        raise InputError(
            f"OutlierVolumes does not fit the table's {len(is_empty)} volumes",
            where=str(file.path),
            fix="Restore table and JSON of one run.",
        ) from error
    misfits = ["it is marked as made otherwise (OffRecipe)"] if "OffRecipe" in metadata else []
    if not cutoffs(metadata.get("SoftwareFilters"))[1]:
        misfits.append("it is not high-pass filtered")
    return Made(
        denoised_by=f"{program}: {by}" if by else program,
        variant=_variant(file),
        misfits=tuple(misfits),
        high_pass_hz=cutoffs(metadata.get("SoftwareFilters"))[1],
        left_out=_positions(is_left_out),
        known=tuple(known.items()),
        metadata=metadata,
    )


def _measures_beside(file: FoundFile) -> dict[str, float]:
    """Measures of a run of ours that its series cannot tell: of motion, and of freedom."""
    table = file.path.with_name(f"{format_entities(file.source)}_desc-fc_qc.tsv")
    try:
        names, values = table.read_text("utf-8").splitlines()[:2]
    except (OSError, UnicodeDecodeError, ValueError):
        return {}
    found = zip(names.split("\t"), values.split("\t"), strict=False)
    return {
        name: float(value)
        for name, value in found
        if name.startswith(KEPT_MEASURES) and value != MISSING
    }


def _giga(file: FoundFile, metadata: Mapping[str, Any], is_empty: NDArray[np.bool_]) -> Made:
    strategy = giga_strategy(file.label("desc") or "")[1]
    variant = giga_variant(strategy)
    misfits = _empty_volumes(is_empty)
    if not variant:
        misfits.append(f"'{strategy}' is none of giga_connectome's strategies")
    if _giga_name(strategy) in GIGA_SCRUBBING:
        misfits.append(f"volumes were left out by the strategy {strategy}")
    return Made(
        denoised_by=f"giga_connectome: strategy {strategy}",
        variant=variant or _variant(file),
        misfits=tuple(misfits),
        high_pass_hz=GIGA_HIGH_PASS_HZ if variant else 0.0,
        known=_GLOBAL_SIGNAL if (variant or _variant(file)) == "hpfgsr" else (),
        left_out=_positions(is_empty),
        metadata=metadata,
    )


def _described(file: FoundFile, metadata: Mapping[str, Any], is_empty: NDArray[np.bool_]) -> Made:
    """A series of XCP-D, or of a program whose sidecar says as much."""
    program = "another program"
    if not {"SoftwareFilters", "NuisanceParameters"} & set(metadata):
        images = _image_metadata(file)
        program = "XCP-D" if images else program
        metadata = {**images, **metadata}
    beside = read_beside(file, metadata)
    misfits = [*find_misfits(beside), *_empty_volumes(is_empty)]
    regressed = has_global_signal(beside)
    if file.label("desc") in {"hpf", "hpfgsr"}:
        regressed = file.label("desc") == "hpfgsr"
    if regressed is None:
        misfits.append("nothing tells whether the global signal was regressed")
    flagged = read_left_out(beside.outliers_file, n_volumes=len(is_empty), bold_file=file.path)
    told = "hpfgsr" if regressed else "hpf"
    variant = _variant(file) if regressed is None else told
    is_told = "SoftwareFilters" in metadata or "NuisanceParameters" in metadata
    return Made(
        denoised_by=describe_denoising(beside, program) if is_told else "unknown",
        variant=variant,
        misfits=tuple(misfits),
        high_pass_hz=cutoffs(metadata.get("SoftwareFilters"))[1],
        left_out=_positions(flagged | is_empty),
        known=_GLOBAL_SIGNAL if variant == "hpfgsr" else (),
        metadata=metadata,
    )


def _variant(file: FoundFile) -> str:
    """Variant as the table's own name says it."""
    return "hpfgsr" if "gsr" in (file.label("desc") or "").lower() else "hpf"


def _empty_volumes(is_empty: NDArray[np.bool_]) -> list[str]:
    n_empty = int(is_empty.sum())
    return [f"{n_empty} of its volumes have no values"] if n_empty else []


def _positions(flags: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(position) for position in np.flatnonzero(flags))


def _image_metadata(file: FoundFile) -> Mapping[str, Any]:
    """Sidecar of the denoised image that XCP-D averaged; empty if there is none."""
    folder = file.path.parent
    candidates = [parse_name(path) for path in sorted(folder.glob("*_desc-denoised_bold.json"))]
    found = next((item for item in candidates if item.source == file.source), None)
    return read_metadata(found, folder) if found else {}
