# SPDX-License-Identifier: MIT
"""Contents of JSON sidecars: what a file holds, from what it was made, and what its numbers mean.

Keys of matrices are those of BIDS extension proposal 17, then ours. The words come from the
tables of `kraken_bids.flavors` and from those here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .. import __version__
from ..atlases import load_atlas
from ..flavors import Flavor
from ..settings import LAMBDA_SOURCES
from .names import OFF_RECIPE
from .quality_columns import describe_column, describe_region_measures
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
        "FiveTissueSource": "{algorithm}_five_tissue",
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
    mark: str = "",
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
    mark
        A key of `OFF_RECIPE` where the series was not denoised by the models' recipe.
    """
    quality = quality or {}
    return {
        "Description": f"Measured connectome of atlas {flavor.atlas}: {flavor.recipe.measure}",
        **_matrix_keys(flavor),
        **_measured_as(flavor, quality, mark),
        "Sources": list(sources),
        **_quality_keys(flavor, quality),
        **_regularization(flavor, quality),
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
    regularization: Mapping[str, float] | None = None,
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
    regularization
        Lambda of the partial correlations used, by flavor; None if it was not searched for.
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
            filled_edges, regularization,
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
    regularization: Mapping[str, float] | None = None,
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
            filled_edges, regularization,
        ),
    }  # fmt: skip


def timeseries_sidecar(
    atlas: str,
    desc: str,
    *,
    sources: Iterable[str] = (),
    quality: Mapping[str, Any] | None = None,
    mark: str = "",
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
    mark
        A key of `OFF_RECIPE` where the series was not denoised by the models' recipe.
    """
    quality = quality or {}
    variant = VARIANTS[desc]
    if mark:
        variant = OFF_RECIPE[mark] + (_BRAIN_SIGNAL if desc.endswith("gsr") else "")
    elif quality.get("gsr_source") == "global_signal":
        variant = variant.replace(_GREY_MATTER, _BRAIN_MASK)
    regions = quality.get("regions", {}).get(atlas, {})
    repetition_time = quality.get("repetition_time_s")
    return {
        "Description": f"Mean series of the regions of atlas {atlas}, {variant}; a row a "
        "volume, a column a region, n/a where a region is missing",
        **({"RepetitionTime": repetition_time} if repetition_time is not None else {}),
        **({"SamplingFrequency": 1 / repetition_time} if repetition_time else {}),
        "NodeFiles": [_node_file(atlas)],
        "SoftwareFilters": {"High-pass": _high_pass(quality, mark)},
        **_denoising(quality, mark),
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


def assignments_sidecar(
    arrays: Iterable[str],
    *,
    algorithm: str,
    sources: Iterable[str] = (),
    quality: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Sidecar of the regions in which each streamline of a tractogram ends.

    Parameters
    ----------
    arrays
        Names of the file's arrays: atlases, lengths, and weights if there are any.
    algorithm
        ``ifod2act`` or ``sdstream``.
    sources
        BIDS URIs.
    quality
        Quality measures of the series.
    """
    quality = quality or {}
    meanings = {
        "lengths_mm": "Length of each streamline, 32-bit",
        "sift2_weights": "SIFT2 weight of each streamline, 32-bit",
    }
    regions = "Index of the region of first and last point, 16-bit, (streamlines, 2); 0: none"
    keys = QUALITY_KEYS["SC"]
    columns = {key: column.format(algorithm=algorithm) for key, column in keys.items()}
    return {
        "Description": f"Regions in which each streamline of {algorithm} ends (NumPy archive)",
        "Arrays": {name: meanings.get(name, regions) for name in arrays},
        **{key: quality[column] for key, column in columns.items() if column in quality},
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
        **{column: describe_column(column) for column in columns},
        "Regions": dict(regions or {}),
        "RegionMeasures": describe_region_measures(regions or {}),
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


#: The signal regressed for the gsr flavors: in the words of the tables, and otherwise.
_GREY_MATTER, _BRAIN_MASK = "grey-matter signal", "global signal of the brain mask"
_BRAIN_SIGNAL = f", {_BRAIN_MASK} regressed"

#: Keys of what denoised a series, in the sidecar's ``Denoising``, by the quality measure.
DENOISING_KEYS: dict[str, str] = {
    "Strategy": "denoising",
    "DenoisedBy": "denoised_by",
    "Components": "compcor",
    "GlobalSignal": "gsr_source",
    "Outliers": "outliers",
    "HighPassCutoff": "high_pass_hz",
    "HighPassEdge": "high_pass_edge_hz",
    "MinimumCoverage": "min_coverage",
}


def _denoising(quality: Mapping[str, Any], mark: str) -> dict[str, Any]:
    """How a series was denoised, and whether that is how the models' connectomes were."""
    keys = {key: quality[name] for key, name in DENOISING_KEYS.items() if name in quality}
    told: dict[str, Any] = {"Denoising": keys} if keys else {}
    if mark:
        told["OffRecipe"] = (
            f"{OFF_RECIPE[mark]}; not the recipe of the connectomes that the published models "
            "were trained on"
        )
    return told


def _high_pass(quality: Mapping[str, Any], mark: str) -> dict[str, Any]:
    if "denoised_by" in quality:
        cutoff = quality.get("high_pass_hz") or MISSING
        return {"Cutoff (Hz)": cutoff, "Kind": f"by {quality['denoised_by']}"}
    if mark:
        return {"Kind": "cosine columns of the confounds table, regressed"}
    return {"Cutoff (Hz)": quality.get("high_pass_hz", MISSING), "Kind": "cosine weights"}


def _measured_as(flavor: Flavor, quality: Mapping[str, Any], mark: str) -> dict[str, Any]:
    """What is to be said of a functional connectome beyond its flavor's recipe."""
    if flavor.group != "FC":
        return {}
    told = _denoising(quality, mark)
    is_gsr = flavor.processing.endswith("gsr")
    if mark:
        signal = _BRAIN_SIGNAL if is_gsr else ""
        told["MeasureDescription"] = f"series {OFF_RECIPE[mark]}{signal}"
    elif is_gsr and quality.get("gsr_source") == "global_signal":
        words = flavor.recipe.description
        told["MeasureDescription"] = words.replace(_GREY_MATTER, _BRAIN_MASK)
    dof = quality.get(f"dof_{flavor.processing}")
    if dof is not None:
        told["DegreesOfFreedom"] = round(float(dof), 3)
    return told


def _regularization(flavor: Flavor, quality: Mapping[str, Any]) -> dict[str, Any]:
    """Lambda of a partial correlation; of a correlation, why there is no partial one."""
    if (flavor.kind, flavor.processing) == ("FCcorr", "hpf"):
        reason = withheld_reason(quality, flavor.atlas)
        return {"PartialCorrelation": reason} if reason else {}
    value = quality.get(f"pcorr_lambda_{flavor.atlas}")
    if flavor.kind != "FCpcorr" or value is None:
        return {}
    source = quality.get(f"pcorr_lambda_source_{flavor.atlas}", "")
    told = {"RegularizationSource": lambda_source_words(source)} if source else {}
    return {"Regularization": value, **told}


def lambda_source_words(source: str) -> str:
    """Where a lambda comes from, with what that means.

    Examples
    --------
    >>> lambda_source_words("default")
    'default (our choice: none is published for this atlas)'
    """
    meaning = LAMBDA_SOURCES.get(source, "")
    return f"{source} ({meaning})" if meaning else source


def withheld_reason(quality: Mapping[str, Any], atlas: str) -> str:
    """Why there is no partial correlation of an atlas; empty if there is one.

    Parameters
    ----------
    quality
        Measures of the series.
    atlas
        Name.
    """
    if not quality.get(f"pcorr_withheld_{atlas}"):
        return ""
    dof = quality.get("dof_hpf")
    n_missing = quality.get(f"n_missing_regions_{atlas}") or 0
    n_present = load_atlas(atlas).n_regions - int(n_missing)
    left = (
        f"{quality.get('n_kept', 'too few')} volumes"
        if dof is None
        else (f"{float(dof):.0f} degrees of freedom")
    )
    return (
        f"not made: {left} are fewer than the {n_present} regions of {atlas}, so that it would be "
        f"what lambda makes of it. Combine more runs, or fix lambda: --pcorr-lambda {atlas}=0.06"
    )


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
    if flavor.group == "SC":
        columns = (f"{flavor.kind.removeprefix('SC')}_bias", "fods_bias")
        told = [phrase for column in columns if (phrase := str(quality.get(column) or ""))]
        found |= {"DifferencesFromTraining": "; ".join(told)} if told else {}
    return found


def _model_keys(
    name: str,
    sha256: str,
    adaptation: str,
    adaptation_file: str | None,
    cohort_size: int | None,
    missing_regions: Mapping[str, Sequence[str]] | None,
    filled_edges: Mapping[str, int] | None,
    regularization: Mapping[str, float] | None,
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
    if regularization is not None:
        keys["InputRegularization"] = dict(regularization)
    if adaptation_file is not None:
        keys["AdaptationFile"] = adaptation_file
    if cohort_size is not None:
        keys["CohortSize"] = cohort_size
    return keys
