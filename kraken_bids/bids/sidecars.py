# SPDX-License-Identifier: MIT
"""Contents of JSON sidecars: what a file holds, from what it was made, and what its numbers mean.

Keys of matrices are those of BIDS extension proposal 17, then ours. The words come from the
tables of `kraken_bids.flavors` and from those here.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .. import __version__
from ..flavors import Flavor
from .writers import MISSING

SOFTWARE = f"kraken-bids {__version__}"

#: What the label of ``desc-`` of a denoised series says.
VARIANTS: dict[str, str] = {
    "hpf": "denoised, high-pass filtered",
    "hpfgsr": "denoised with the grey-matter signal regressed, high-pass filtered",
}

#: What a space of label images is, where it is no template of TemplateFlow.
SPATIAL_REFERENCES: dict[str, str] = {
    "T1w": "The participant's own anatomical image, as the preprocessing program wrote it",
    "ACPC": "The participant's anatomical image, rigidly aligned to the AC-PC line by QSIPrep",
    "boldref": "Reference image of the functional run",
}

#: Scale of predicted edges: as the model predicts them, or mapped back through the adaptation.
SCALES: dict[str, str] = {
    "training": "the model's training data",
    "input": "the connectomes given as input",
}

#: Keys of a connectome's sidecar by the quality measure that they repeat.
QUALITY_KEYS: dict[str, dict[str, str]] = {
    "FC": {
        "NumberOfVolumes": "n_volumes",
        "NumberOfRetainedVolumes": "n_kept",
        "RepetitionTime": "repetition_time_s",
        "NumberOfRuns": "n_runs",
    },
    "SC": {
        "StreamlineCount": "{algorithm}_n_streamlines",
        "AssignmentRadius": "assignment_radius_mm",
    },
}


def bids_uri(path: Path, dataset_name: str, root: Path) -> str:
    """Address of a file in a data set, as ``bids:<dataset>:<path>``.

    Parameters
    ----------
    path
        File under `root`.
    dataset_name
        Its key in ``DatasetLinks``; empty for the data set that the sidecar is in.
    root
        Folder of the data set.

    Examples
    --------
    >>> bids_uri(Path("/data/fmriprep/sub-01/anat/a.nii.gz"), "fmriprep", Path("/data/fmriprep"))
    'bids:fmriprep:sub-01/anat/a.nii.gz'
    """
    return f"bids:{dataset_name}:{quote(path.relative_to(root).as_posix())}"


def connectome_sidecar(
    flavor: Flavor,
    *,
    sources: Iterable[str] = (),
    quality: Mapping[str, Any] | None = None,
    missing: Iterable[str] = (),
) -> dict[str, Any]:
    """Sidecar of a measured connectome.

    Parameters
    ----------
    flavor
        Its type.
    sources
        BIDS URIs of the files that it was made from.
    quality
        Quality measures of the series; those that the matrix depends on are repeated.
    missing
        Names of regions without row and column.
    """
    quality = quality or {}
    regularization = quality.get(f"pcorr_lambda_{flavor.atlas}")
    return {
        "Description": f"Measured connectome of atlas {flavor.atlas}: {flavor.recipe.measure}",
        **_matrix_keys(flavor),
        "Sources": list(sources),
        **_quality_keys(flavor, quality),
        **(
            {"Regularization": regularization}
            if flavor.kind == "FCpcorr" and regularization is not None
            else {}
        ),
        "MissingNodes": list(missing),
        "Predicted": False,
    }


def prediction_sidecar(
    flavor: Flavor,
    *,
    source: str,
    predicted_from: Sequence[str] = (),
    sources: Iterable[str] = (),
    model_name: str = "",
    model_sha256: str = "",
    adaptation: str = "none",
    adaptation_file: str | None = None,
    cohort_size: int | None = None,
    missing_regions: Mapping[str, Sequence[str]] | None = None,
    filled_edges: Mapping[str, int] | None = None,
    scale: str = "training",
) -> dict[str, Any]:
    """Sidecar of a predicted connectome.

    Parameters
    ----------
    flavor
        Its type.
    source
        Flavor or fusion that it was predicted from.
    predicted_from
        Flavors really used.
    sources
        BIDS URIs of their connectomes.
    model_name, model_sha256
        The model and the SHA-256 of its weights.
    adaptation, adaptation_file
        Mode, and BIDS URI of the fitted numbers if any.
    cohort_size
        Sessions that the adaptation was fitted on.
    missing_regions
        Names by atlas of regions that the measured connectomes lack; None if that is not known.
    filled_edges
        Edges filled with the training mean, by flavor; likewise.
    scale
        A key of `SCALES`.
    """
    return {
        "Description": f"Connectome of atlas {flavor.atlas} predicted by the Krakencoder from "
        f"{source}, in the scale of {SCALES[scale]}",
        **_matrix_keys(flavor),
        "Sources": list(sources),
        "Predicted": True,
        "PredictionSource": source,
        "PredictedFrom": list(predicted_from),
        **_model_keys(
            model_name, model_sha256, adaptation, adaptation_file, cohort_size, missing_regions,
            filled_edges,
        ),
    }  # fmt: skip


def latent_sidecar(
    *,
    cohort: bool = False,
    sources: Iterable[str] = (),
    model_name: str = "",
    model_sha256: str = "",
    adaptation: str = "none",
    adaptation_file: str | None = None,
    cohort_size: int | None = None,
    missing_regions: Mapping[str, Sequence[str]] | None = None,
    filled_edges: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Sidecar of a table of latents; parameters as in `prediction_sidecar`.

    Parameters
    ----------
    cohort
        Whether rows are sessions of a cohort instead of sources of one session.
    """
    rows = "a row a session of the cohort" if cohort else "a row a flavor or fusion"
    first = (
        {
            "participant_id": {"Description": "Participant"},
            "session_id": {"Description": "Session"},
        }
        if cohort
        else {"source": {"Description": "Flavor or fusion that the latent was made from"}}
    )
    return {
        "Description": f"Vectors of the Krakencoder's latent space, {rows}; columns z000 and on "
        "are its dimensions",
        **first,
        "n_inputs": {"Description": "Number of flavors that the latent is the mean of"},
        "Sources": list(sources),
        **_model_keys(
            model_name, model_sha256, adaptation, adaptation_file, cohort_size, missing_regions,
            filled_edges,
        ),
    }  # fmt: skip


def timeseries_sidecar(
    atlas: str,
    desc: str,
    *,
    sources: Iterable[str] = (),
    quality: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Sidecar of a table of denoised series, a column a region.

    Parameters
    ----------
    atlas
        Name.
    desc
        ``hpf`` or ``hpfgsr``.
    sources
        BIDS URIs.
    quality
        Quality measures of the run.
    """
    quality = quality or {}
    regions = quality.get("regions", {}).get(atlas, {})
    repetition_time = quality.get("repetition_time_s")
    return {
        "Description": f"Mean series of the regions of atlas {atlas}, {VARIANTS[desc]}; a row a "
        "volume, a column a region, n/a where a region is missing",
        **({"RepetitionTime": repetition_time} if repetition_time is not None else {}),
        **({"SamplingFrequency": 1 / repetition_time} if repetition_time else {}),
        "NodeFiles": [_node_file(atlas)],
        "SoftwareFilters": {
            "High-pass": {
                "Cutoff (Hz)": quality.get("high_pass_hz", MISSING),
                "Kind": "cosine weights",
            }
        },
        "Software": SOFTWARE,
        "Sources": list(sources),
        "MissingNodes": list(regions.get("missing", ())),
    }


def labels_sidecar(atlas: str, *, space: str, sources: Iterable[str] = ()) -> dict[str, Any]:
    """Sidecar of a label image on the grid of the data.

    ``SpatialReference`` stands here and not in the root's sidecar of the atlas: BIDS requires it
    for spaces that are no templates, and warns where a lower file overrides a higher one.

    Parameters
    ----------
    atlas
        Name.
    space
        Label of the space.
    sources
        BIDS URIs.
    """
    return {
        "Description": f"Regions of atlas {atlas} on the grid of the data, by index",
        "SpatialReference": SPATIAL_REFERENCES.get(space, space),
        "Resolution": "Grid on which connectomes were measured",
        "Software": SOFTWARE,
        "Sources": list(sources),
    }


def quality_sidecar(
    columns: Iterable[str],
    *,
    regions: Mapping[str, Any] | None = None,
    sources: Iterable[str] = (),
) -> dict[str, Any]:
    """Sidecar of a table of quality measures.

    Parameters
    ----------
    columns
        Names of the table's columns.
    regions
        Coverage, missing regions and so on, by atlas; written as ``Regions``.
    sources
        BIDS URIs.
    """
    return {
        "Description": "Quality of the series and of the connectomes made from it",
        "Software": SOFTWARE,
        "Sources": list(sources),
        **{column: _column(column) for column in columns},
        "Regions": dict(regions or {}),
    }


def _matrix_keys(flavor: Flavor) -> dict[str, Any]:
    recipe = flavor.recipe
    return {
        "RelationshipMeasure": recipe.measure,
        "MeasureDescription": recipe.description,
        "MeasureUnits": recipe.units,
        "Weighted": True,
        "Directed": False,
        "ValidDiagonal": False,
        "NonNegative": flavor.group == "SC",
        "StorageFormat": "Full",
        "NodeFiles": [_node_file(flavor.atlas)],
        "Software": SOFTWARE,
        "KrakencoderFlavor": str(flavor),
    }


def _node_file(atlas: str) -> str:
    return f"bids::atlas-{atlas}_dseg.tsv"


def _quality_keys(flavor: Flavor, quality: Mapping[str, Any]) -> dict[str, Any]:
    names = {
        key: column.format(algorithm=flavor.kind.removeprefix("SC"))
        for key, column in QUALITY_KEYS[flavor.group].items()
    }
    found = {key: quality[column] for key, column in names.items() if column in quality}
    if flavor.group == "FC" and "kept_minutes" in quality:
        found["RetainedSeconds"] = round(60 * float(quality["kept_minutes"]), 3)
    return found


def _model_keys(
    name: str,
    sha256: str,
    adaptation: str,
    adaptation_file: str | None,
    cohort_size: int | None,
    missing_regions: Mapping[str, Sequence[str]] | None,
    filled_edges: Mapping[str, int] | None,
) -> dict[str, Any]:
    keys: dict[str, Any] = {
        "Model": {"Name": name, "SHA256": sha256},
        "Adaptation": adaptation,
        "Software": SOFTWARE,
    }
    if missing_regions is not None:
        keys["MissingRegions"] = {atlas: list(names) for atlas, names in missing_regions.items()}
    if filled_edges is not None:
        keys["FilledEdges"] = dict(filled_edges)
    if adaptation_file is not None:
        keys["AdaptationFile"] = adaptation_file
    if cohort_size is not None:
        keys["CohortSize"] = cohort_size
    return keys


#: Description and units of quality measures by the pattern of their name; the first that fits.
#: ``{}`` stands for what the asterisk matched.
QUALITY_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("n_volumes", "Volumes of the series", ""),
    ("repetition_time_s", "Time between volumes", "s"),
    ("n_outliers", "Volumes left out: motion, global signal, not yet steady", ""),
    ("percent_outliers", "Share of volumes left out", "percent"),
    ("n_kept", "Volumes that correlations rest on", ""),
    ("kept_minutes", "Time that correlations rest on", "min"),
    ("n_runs", "Runs combined", ""),
    ("fd_mean_mm", "Mean framewise displacement (Power)", "mm"),
    ("fd_max_mm", "Largest framewise displacement", "mm"),
    ("percent_fd_above_*", "Share of volumes with framewise displacement above {}", "percent"),
    ("composite_motion_max_mm", "Largest displacement of a brain-sized box between volumes", "mm"),
    ("dvars_median", "Median DVARS before denoising", ""),
    ("dvars_max", "Largest DVARS before denoising", ""),
    ("tsnr_median", "Median over regions of the temporal signal-to-noise ratio", ""),
    ("gcor_*", "Global correlation, {}: mean over all pairs of regions", ""),
    ("percent_variance_removed_*", "Median share of the regions' variance removed, {}", "percent"),
    ("n_regressors_*", "Nuisance regressors, {}", ""),
    ("dof_*", "Degrees of freedom left, {}", ""),
    ("n_voxels_*", "Voxels of the tissue {}", ""),
    ("component_gap_*", "Gap of variance after the fourth component, {}; near 0: arbitrary", ""),
    ("has_onset_regressor", "1 if the transient at the onset of the scan was regressed", ""),
    ("is_eroded_*", "1 if the mask of {} was eroded", ""),
    ("mean_*", "Mean edge of {}", ""),
    ("sd_*", "Standard deviation of the edges of {}", ""),
    ("min_eigenvalue_*", "Smallest eigenvalue of the correlation matrix, {}", ""),
    ("min_*", "Smallest edge of {}", ""),
    ("max_*", "Largest edge of {}", ""),
    ("homotopic_*", "Mean edge between the same regions of both hemispheres, {}", ""),
    ("n_missing_regions_*", "Regions without signal, {}", ""),
    ("n_missing_edges_*", "Edges of missing regions, {}", ""),
    ("pcorr_lambda_*", "Regularisation of the partial correlation, {}", ""),
    ("pcorr_condition_*", "Condition number of the regularised correlation matrix, {}", ""),
    ("assignment_radius_mm", "Radius of the search for a region around streamline ends", "mm"),
    ("n_b0", "Volumes without diffusion weighting", ""),
    ("shells", "b-values of the shells", "s/mm2"),
    ("directions", "Directions of each shell", ""),
    ("voxel_mm", "Voxel size of the series", "mm"),
    ("*_source", "Whether the tractogram of {} was tracked or given", ""),
    ("*_n_streamlines_wanted", "Streamlines of {} asked for", ""),
    ("*_n_streamlines", "Streamlines of {} used", ""),
    ("*_n_seeds", "Seeds that tracking of {} started from", ""),
    ("*_within_region_fraction", "Share of streamlines with both ends in one region, {}", ""),
    ("*_unassigned_fraction", "Share of streamlines with an end in no region, {}", ""),
    ("*_assigned_fraction", "Share of streamlines that join two regions, {}", ""),
    ("*_density", "Share of pairs of regions that a streamline joins, {}", ""),
    ("*_level", "Sum of the volume-normalised connectome, {}", ""),
    ("*_n_idle_regions", "Regions that no streamline ends in, {}", ""),
    ("*_median_length_mm", "Median length of streamlines, {}", "mm"),
    ("*_mean_length_mm", "Mean length of streamlines, {}", "mm"),
    ("*_bias", "How {} was made otherwise than the training connectomes", ""),
)  # fmt: skip


def _column(name: str) -> dict[str, str]:
    """Description and units of a quality measure; its name in words if it is not in the table."""
    for pattern, description, units in QUALITY_COLUMNS:
        if fnmatch.fnmatchcase(name, pattern):
            prefix, _, suffix = pattern.partition("*")
            rest = name.removeprefix(prefix).removesuffix(suffix)
            described = {"Description": description.format(rest)}
            return {**described, "Units": units} if units else described
    return {"Description": name.replace("_", " ")}
