# SPDX-License-Identifier: MIT
"""From the workflows' arrays to the files of the data set: names, tables and sidecars together."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..atlases import load_atlas
from ..flavors import Flavor
from ..plan import Entities
from ..storage import atomic_path
from .names import format_entities, marked, output_path
from .sidecars import (
    assignments_sidecar,
    connectome_sidecar,
    labels_sidecar,
    quality_sidecar,
    timeseries_sidecar,
    withheld_reason,
)
from .writers import MISSING, format_rows, write_bytes, write_connectome, write_json, write_table

_log = logging.getLogger(__name__)

#: Fewer degrees of freedom a region make partial correlations noisy.
FEW_DOF_PER_REGION = 2.0

#: Keys of `Target.origins` that all sidecars repeat; those of label images have all of them.
ORIGIN_KEYS = ("LabelOrigin", "LabelOriginReason")

#: Value of the quality measure ``origin`` of series and connectomes that are ready-made.
GIVEN = "given"
_WHERE = {"func": "the BOLD image", "dwi": "the diffusion image"}

#: So many missing regions are named in a warning; the page and the sidecars name all.
LISTED_REGIONS = 3


@dataclass(frozen=True)
class Target:
    """Where outputs of one series go, and what they come from.

    Parameters
    ----------
    dataset_dir
        Root of the data set.
    entities
        Those of the source, without ``space``, ``res``, ``den`` and ``desc``.
    datatype
        ``func`` or ``dwi``.
    space
        Label of the space of the data.
    sources
        BIDS URIs of the files used.
    quality
        The quality measures; sidecars repeat those that a connectome depends on.
    mark
        Key of `kraken_bids.bids.names.OFF_RECIPE` where the series was not denoised by the
        models' recipe: part of the names, so that nobody takes one for the other.
    origins
        Keys of sidecars that say whose labels are used, by atlas.
    """

    dataset_dir: Path
    entities: Entities
    datatype: str
    space: str
    sources: tuple[str, ...] = ()
    quality: Mapping[str, Any] = field(default_factory=dict)
    mark: str = ""
    origins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def path(self, name: str, **labels: str) -> Path:
        """Full path of an output (a key of `kraken_bids.bids.names.OUTPUTS`)."""
        return self.dataset_dir / output_path(
            name, self.entities, datatype=self.datatype, **labels
        )

    def regions(self, atlas: str) -> Mapping[str, Any]:
        """Coverage, volumes and missing regions of an atlas."""
        found: Mapping[str, Any] = self.quality.get("regions", {}).get(atlas, {})
        return found

    def origin(self, atlas: str) -> dict[str, Any]:
        """Whose labels are used, in short."""
        keys = self.origins.get(atlas, {})
        return {key: keys[key] for key in ORIGIN_KEYS if key in keys}


def read_quality(path: Path) -> dict[str, Any]:
    """Read quality measures that a workflow handed over."""
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content


def save_connectomes(
    target: Target, connectomes_file: Path, *, wanted: Sequence[str] = ()
) -> list[Path]:
    """Write each measured connectome as a labelled table with its sidecar.

    Parameters
    ----------
    target
        Where to.
    connectomes_file
        (n_regions, n_regions) by flavor, ``.npz``.
    wanted
        Flavors to write; empty: all.
    """
    written = []
    with np.load(connectomes_file, allow_pickle=False) as connectomes:
        for name in sorted(set(connectomes.files) & set(wanted or connectomes.files)):
            flavor = Flavor.parse(name)
            path = target.path(
                "connectome",
                space=target.space,
                atlas=flavor.atlas,
                meas=flavor.meas,
                desc=marked("", target.mark),
            )
            write_connectome(path, connectomes[name], load_atlas(flavor.atlas).region_names)
            sidecar = connectome_sidecar(
                flavor,
                sources=target.sources,
                quality=target.quality,
                missing=target.regions(flavor.atlas).get("missing", ()),
                mark=target.mark,
            )
            sidecar |= target.origin(flavor.atlas) | target.quality.get("known", {}).get(name, {})
            written += [path, _sidecar(path, sidecar)]
    _remove_withheld(target, wanted)
    return written


def _remove_withheld(target: Target, wanted: Sequence[str]) -> None:
    """Remove partial correlations of an earlier run of which there are none any more."""
    for atlas in _withheld(target):
        flavor = Flavor.parse(f"FCpcorr_{atlas}_hpf")
        if wanted and str(flavor) not in wanted:
            continue
        path = target.path(
            "connectome",
            space=target.space,
            atlas=atlas,
            meas=flavor.meas,
            desc=marked("", target.mark),
        )
        if path.exists():
            _log.info("removed %s: made with other options, too few degrees of freedom", path)
        for file in (path, path.with_suffix(".json")):
            file.unlink(missing_ok=True)


def _withheld(target: Target) -> list[str]:
    """Atlases without a partial correlation, for want of degrees of freedom."""
    prefix = "pcorr_withheld_"
    return [
        key.removeprefix(prefix)
        for key, value in target.quality.items()
        if key.startswith(prefix) and value
    ]


def save_timeseries(target: Target, timeseries_file: Path) -> list[Path]:
    """Write each denoised series as a table, a column a region, with its sidecar."""
    written = []
    with np.load(timeseries_file, allow_pickle=False) as series:
        for name in sorted(series.files):
            atlas, _, desc = name.partition("_")
            path = target.path(
                "timeseries", space=target.space, atlas=atlas, desc=marked(desc, target.mark)
            )
            header = "\t".join(load_atlas(atlas).region_names).encode()
            write_bytes(path, b"\n".join([header, *format_rows(series[name])]) + b"\n")
            sidecar = timeseries_sidecar(
                atlas, desc, sources=target.sources, quality=target.quality, mark=target.mark
            )
            sidecar |= _outliers(target) | target.origin(atlas)
            written += [path, _sidecar(path, sidecar)]
    return written


def save_labels(target: Target, labels_files: Iterable[tuple[str, Path]]) -> list[Path]:
    """Copy the label images used, by atlas, with their sidecars."""
    written = []
    for atlas, labels_file in labels_files:
        path = target.path("atlas_labels", space=target.space, atlas=atlas)
        with atomic_path(path) as temporary:
            shutil.copyfile(labels_file, temporary)
        sidecar = labels_sidecar(atlas, space=target.space, sources=target.sources)
        sidecar |= target.origins.get(atlas, {})
        written += [path, _sidecar(path, sidecar)]
    return written


def save_tractograms(target: Target, tractograms: Iterable[tuple[str, Path]]) -> list[Path]:
    """Copy streamlines, by algorithm."""
    written = []
    for algorithm, tractogram in tractograms:
        path = target.path("tractogram", space=target.space, desc=algorithm)
        with atomic_path(path) as temporary:
            shutil.copyfile(tractogram, temporary)
        written.append(path)
    return written


def save_assignments(target: Target, assignments: Iterable[tuple[str, Path]]) -> list[Path]:
    """Copy the regions in which each streamline ends, by algorithm, with their sidecars."""
    written = []
    for algorithm, assignments_file in assignments:
        path = target.path("assignments", space=target.space, desc=algorithm)
        with atomic_path(path) as temporary:
            shutil.copyfile(assignments_file, temporary)
        with np.load(assignments_file, allow_pickle=False) as arrays:
            names = arrays.files
        sidecar = assignments_sidecar(
            names, algorithm=algorithm, sources=target.sources, quality=target.quality
        )
        written += [path, _sidecar(path, sidecar)]
    return written


def save_quality(target: Target) -> list[Path]:
    """Write the quality measures as a table of one row; its sidecar describes the columns."""
    name, desc = {
        "func": ("functional_qc", "fc"),
        "dwi": ("structural_qc", "sc"),
    }[target.datatype]
    path = target.path(name, desc=marked(desc, target.mark))
    row = {
        key: value for key, value in target.quality.items() if not isinstance(value, (dict, list))
    }
    write_table(path, tuple(row), [tuple(row.values())])
    sidecar = quality_sidecar(
        tuple(row), regions=target.quality.get("regions", {}), sources=target.sources
    )
    sidecar |= _outliers(target)
    if "training_mean_of" in target.quality:  # whose mean it is that training_mean_r_* tells of
        sidecar["TrainingMeanOf"] = target.quality["training_mean_of"]
    _tell_missing(target)
    _tell_support(target)
    return [path, _sidecar(path, sidecar)]


def _tell_missing(target: Target) -> None:
    """Warn of regions without row and column: they are easily overlooked in a table."""
    for atlas, entry in target.quality.get("regions", {}).items():
        missing = list(entry.get("missing", ()))
        if missing:
            listed = ", ".join(missing[:LISTED_REGIONS])
            _log.warning(
                "%s: %d of %d regions of %s are missing from %s (%s%s): their rows are "
                "%s. Look whether the field of view covers them, and at the page",
                format_entities(target.entities),
                len(missing),
                load_atlas(atlas).n_regions,
                atlas,
                _WHERE[target.datatype]
                if target.quality.get("origin") != GIVEN
                else "what was given",
                listed,
                ", …" if len(missing) > LISTED_REGIONS else "",
                MISSING,
            )


def _tell_support(target: Target) -> None:
    """Warn of partial correlations that are not made, or rest on few degrees of freedom."""
    for atlas in _withheld(target):
        _log.warning(
            "%s: FCpcorr_%s_hpf is %s",
            format_entities(target.entities),
            atlas,
            withheld_reason(target.quality, atlas),
        )
    prefix = "pcorr_dof_per_region_"
    few = {
        key.removeprefix(prefix): float(value)
        for key, value in target.quality.items()
        if key.startswith(prefix)
        and value is not None
        and value < FEW_DOF_PER_REGION
        and key.removeprefix(prefix) not in _withheld(target)
    }
    if few:
        _log.warning(
            "%s: %.0f degrees of freedom are %s a region (2 or more are good, below 1 a partial "
            "correlation is what lambda makes of it). Combine more runs, or take FCpcorr with "
            "caution",
            format_entities(target.entities),
            target.quality.get("dof_hpf", float("nan")),
            ", ".join(f"{value:.2g} ({atlas})" for atlas, value in few.items()),
        )


def _outliers(target: Target) -> dict[str, list[int]]:
    """Volumes left out, from 0, where the series has them: needed to use the series again."""
    volumes = target.quality.get("outlier_volumes")
    return {} if volumes is None else {"OutlierVolumes": list(volumes)}


def save_figures(target: Target, figures: Sequence[tuple[str, Path]]) -> list[Path]:
    """Copy figures, by their ``desc`` label, into the participant's folder of figures."""
    written = []
    suffix = {"func": "bold", "dwi": "dwi"}[target.datatype]
    for desc, figure in figures:
        path = target.path("figure", suffix=suffix, desc=marked(desc, target.mark))
        with atomic_path(path) as temporary:
            shutil.copyfile(figure, temporary)
        written.append(path)
    return written


def _sidecar(path: Path, content: Mapping[str, Any]) -> Path:
    sidecar = path.with_name(path.name.split(".")[0] + ".json")
    write_json(sidecar, content)
    return sidecar
