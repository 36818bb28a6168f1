# SPDX-License-Identifier: MIT
"""Files of the prediction data set: latents, predicted connectomes, cohort tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..atlases import load_atlas
from ..errors import UsageError
from ..flavors import Flavor
from ..plan import Entities
from .names import format_entities, output_path
from .prediction_file import add_prediction
from .sidecars import latent_sidecar, prediction_sidecar
from .writers import write_connectome, write_json, write_table


def source_label(source: str) -> str:
    """BIDS label of a source: of a flavor its own, of a fusion its name.

    What is no letter or digit is left out, and the letter after it becomes a capital.

    Examples
    --------
    >>> source_label("fusionSC"), source_label("FCcorr_fs86_hpf"), source_label("fusion.noself")
    ('fusionSC', 'FCcorrHPFfs86', 'fusionNoself')
    """
    try:
        return Flavor.parse(source).label
    except UsageError:
        first, *others = re.split(r"[^A-Za-z0-9]+", source)
        return first + "".join(other[:1].upper() + other[1:] for other in others)


def diagonal(flavor: str) -> float:
    """Value on the diagonal of a flavor's matrices: 1 for correlations, else 0."""
    return 1.0 if Flavor.parse(flavor).kind == "FCcorr" else 0.0


def session_entities(participant: str, session: str | None) -> Entities:
    """Entities of a participant's session; no ``ses`` in data sets without sessions."""
    return (("sub", participant), *([("ses", session)] if session else []))


def identity_cells(participant: str, session: str | None) -> tuple[str, str | None]:
    """Cells ``participant_id`` and ``session_id`` of a cohort table."""
    return f"sub-{participant}", f"ses-{session}" if session else None


def latent_columns(latent_size: int) -> list[str]:
    """Names ``z000``, ``z001`` … of a latent's columns."""
    return [f"z{index:03d}" for index in range(latent_size)]


def save_latents(
    root: Path,
    entities: Entities,
    *,
    sources: Sequence[str],
    n_inputs: Sequence[int],
    latents: NDArray[np.floating],
    provenance: Mapping[str, Any],
) -> list[Path]:
    """Write a session's latents, a row a source.

    Parameters
    ----------
    root
        Data set.
    entities
        Those of the session.
    sources, n_inputs
        Flavors and fusions, and on how many flavors each rests.
    latents
        (n_sources, latent_size).
    provenance
        Keyword arguments of `kraken_bids.bids.sidecars.latent_sidecar`.
    """
    path = root / output_path("latent", entities)
    rows = [(source, int(n)) for source, n in zip(sources, n_inputs, strict=True)]
    columns = ["source", "n_inputs", *latent_columns(latents.shape[1])]
    write_table(path, columns, rows, numbers=latents)
    return [path, _sidecar(path, latent_sidecar(**provenance))]


def save_prediction(
    root: Path,
    entities: Entities,
    *,
    source: str,
    target: str,
    matrix: NDArray[np.floating],
    provenance: Mapping[str, Any],
    region_names: Sequence[str] = (),
) -> list[Path]:
    """Write one predicted connectome.

    Parameters
    ----------
    root
        Data set.
    entities
        Those of the session.
    source, target
        Flavor or fusion; flavor.
    matrix
        (n_regions, n_regions).
    provenance
        Keyword arguments of `kraken_bids.bids.sidecars.prediction_sidecar`.
    region_names
        (n_regions,); empty: those of the atlas.
    """
    flavor = Flavor.parse(target)
    path = root / output_path(
        "prediction",
        entities,
        datatype=flavor.datatype,
        atlas=flavor.atlas,
        meas=flavor.meas,
        desc=source_label(source),
    )
    names = region_names or load_atlas(flavor.atlas).region_names
    write_connectome(path, matrix, names)
    sidecar = prediction_sidecar(flavor, source=source, **provenance)
    # A linear decoder may predict less than no streamlines.
    sidecar["NonNegative"] = bool(np.nanmin(matrix) >= 0)
    return [path, _sidecar(path, sidecar)]


def add_to_session_file(
    root: Path,
    entities: Entities,
    *,
    source: str,
    target: str,
    edges: NDArray[np.floating],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Add one predicted connectome to the HDF5 file of a session.

    Parameters
    ----------
    root, entities, source, target, provenance
        As for `save_prediction`.
    edges
        (n_edges,).

    Returns
    -------
    dict
        What the sidecar is to say of it: see `save_session_sidecar`.
    """
    path = root / output_path("prediction_file", entities)
    participant = format_entities(entities).removeprefix("sub-")
    add_prediction(path, participant, source=source, target=target, edges=edges)
    sidecar = prediction_sidecar(Flavor.parse(target), source=source, **provenance)
    sidecar["NonNegative"] = bool(np.nanmin(edges) >= 0)
    sidecar["StorageFormat"] = "Upper triangle without diagonal, row by row"
    return sidecar


def save_session_sidecar(
    root: Path, entities: Entities, sidecars: Sequence[Mapping[str, Any]]
) -> Path:
    """Write the sidecar of a session's HDF5 file: what all predictions share, then each.

    Parameters
    ----------
    root, entities
        As for `save_prediction`.
    sidecars
        What `add_to_session_file` returned, of one prediction or more.
    """
    shared = {
        key: value
        for key, value in sidecars[0].items()
        if all(key in one and one[key] == value for one in sidecars)
    }
    left_out = {"Description", *shared}
    content = {
        **shared,
        "Description": "Connectomes predicted by the Krakencoder: a data set (1, n_edges) each, "
        "/<PredictionSource>/<KrakencoderFlavor>",
        "Predictions": [
            {
                "PredictionSource": one["PredictionSource"],
                "KrakencoderFlavor": one["KrakencoderFlavor"],
                **{key: value for key, value in one.items() if key not in left_out},
            }
            for one in sidecars
        ],
    }
    return _sidecar(root / output_path("prediction_file", entities), content)


def save_cohort_latents(
    root: Path,
    source: str,
    sessions: Sequence[tuple[str, str | None]],
    latents: NDArray[np.floating],
    n_inputs: Sequence[int],
    *,
    provenance: Mapping[str, Any],
) -> list[Path]:
    """Write one source's latents of a cohort, a row a session that has any.

    Parameters
    ----------
    root
        Data set.
    source
        Flavor or fusion.
    sessions
        (n,): participant and session.
    latents
        (n, latent_size); rows of NaN are left out.
    n_inputs
        (n,).
    provenance
        Keyword arguments of `kraken_bids.bids.sidecars.latent_sidecar`.
    """
    path = root / output_path("cohort_latent", desc=source_label(source))
    present = ~np.isnan(latents).any(axis=1)
    rows = [
        (*identity_cells(*session), int(n))
        for session, n, is_present in zip(sessions, n_inputs, present, strict=True)
        if is_present
    ]
    columns = ["participant_id", "session_id", "n_inputs", *latent_columns(latents.shape[1])]
    write_table(path, columns, rows, numbers=latents[present])
    return [path, _sidecar(path, latent_sidecar(cohort=True, **provenance))]


def save_cohort_mean(
    root: Path, name: str, matrix: NDArray[np.floating], *, n_sessions: int
) -> list[Path]:
    """Write the mean measured connectome of a flavor, (n_regions, n_regions)."""
    flavor = Flavor.parse(name)
    path = root / output_path("cohort_mean", atlas=flavor.atlas, meas=flavor.meas, stat="mean")
    write_connectome(path, matrix, load_atlas(flavor.atlas).region_names)
    recipe = flavor.recipe
    sidecar = {
        "Description": "Mean measured connectome of the cohort, before adaptation",
        "RelationshipMeasure": recipe.measure,
        "MeasureDescription": recipe.description,
        "MeasureUnits": recipe.units,
        "Weighted": True,
        "Directed": False,
        "ValidDiagonal": False,
        "NonNegative": flavor.group == "SC",
        "StorageFormat": "Full",
        "NodeFiles": [f"bids::atlas-{flavor.atlas}_dseg.tsv"],
        "KrakencoderFlavor": name,
        "NumberOfSessions": n_sessions,
    }
    return [path, _sidecar(path, sidecar)]


@dataclass(frozen=True)
class QualityRow:
    """One row of ``desc-kraken_qc.tsv``; `QUALITY_COLUMNS` says what the columns mean."""

    source: str
    target: str
    direction: str
    n_participants: int
    correlation: float
    residual_correlation: float
    top1: float
    top1_chance: float
    average_rank: float
    average_rank_chance: float
    p_permutation: float


#: Descriptions of the columns of ``desc-kraken_qc.tsv``.
QUALITY_COLUMNS: dict[str, str] = {
    "source": "Flavor or fusion predicted from",
    "target": "Flavor predicted and compared with the measured one",
    "direction": "Kinds of connectomes predicted from and to: SC, FC or all",
    "n_participants": "Measured connectomes compared; of a participant with several sessions each",
    "correlation": "Mean over participants of the Pearson correlation over edges between the "
    "prediction and the measured connectome, adapted to the training data",
    "residual_correlation": "The same after taking the cohort's mean measured connectome from "
    "both: what is left is individual",
    "top1": "Share of measured connectomes that correlate most with their own participant's "
    "prediction",
    "top1_chance": "Expectation of top1 for predictions dealt at random",
    "average_rank": "1 - mean(rank) / n, rank 0 where the own prediction correlates most",
    "average_rank_chance": "Expectation of average_rank for predictions dealt at random",
    "p_permutation": "Chance of so high an average_rank if predictions were dealt at random; all "
    "orders up to 7 participants, else 10000 random ones",
}


def save_prediction_qc(
    root: Path, rows: Sequence[QualityRow], *, provenance: Mapping[str, Any]
) -> list[Path]:
    """Write how well predictions agree with what was measured."""
    path = root / output_path("prediction_qc", desc="kraken")
    columns = [field.name for field in fields(QualityRow)]
    write_table(path, columns, [tuple(asdict(row).values()) for row in rows])
    described = {name: {"Description": QUALITY_COLUMNS[name]} for name in columns}
    return [path, _sidecar(path, {**provenance, **described})]


#: Descriptions of the columns of ``desc-participant_qc.tsv``; ``{}`` is a flavor or a fusion.
PARTICIPANT_COLUMNS: dict[str, str] = {
    "participant_id": "Participant",
    "session_id": "Session",
    "site": "Site, where adaptations are fitted by site",
    "n_flavors": "Measured flavors used",
    "flavors": "Measured flavors used",
    "filled_edges": "Edges of missing regions filled with the training mean, in all flavors",
    "n_problems": "Files that could not be used",
    "trust": "Whether predictions can be trusted: all that the session's desc-trust_qc.tsv says "
    "of its flavors",
    "n_doubtful": "Number of measured flavors that do not fit",
    "doubtful_flavors": "Measured flavors that do not fit",
    "modality_match": "How much better the participant's structural and functional latents fit "
    "each other than those of others: a standard score, about 0 for latents of two people",
    "explained": "Share of the connectomes' deviation from the training mean that the model's "
    "components hold, mean over flavors: low values say that the model has not seen the like",
    "training_mean_r_{}": "Pearson correlation over edges of {} as measured with the mean of the "
    "model's training data, over the edges that are there",
    "n_inputs_{}": "Flavors that the fusion {} rests on",
    "correlation_{}": "Mean over flavors of the correlation between the prediction from {} and "
    "the measured connectome",
    "residual_correlation_{}": "The same after taking the cohort's mean from both",
}


def save_participant_qc(root: Path, rows: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Write what each session brought and how well it was predicted; all rows have one form."""
    path = root / output_path("prediction_qc", desc="participant")
    columns = list(rows[0])
    write_table(path, columns, [[row[name] for name in columns] for row in rows])
    return [path, _sidecar(path, {name: _describe(name) for name in columns})]


def _describe(column: str) -> dict[str, str]:
    """Description of a column of the participants' table."""
    if column in PARTICIPANT_COLUMNS:
        return {"Description": PARTICIPANT_COLUMNS[column]}
    for name, description in PARTICIPANT_COLUMNS.items():
        prefix = name.removesuffix("{}")
        if prefix != name and column.startswith(prefix):
            return {"Description": description.format(column.removeprefix(prefix))}
    raise KeyError(column)


def _sidecar(path: Path, content: Mapping[str, Any]) -> Path:
    """Write a sidecar beside its file."""
    sidecar = path.with_suffix(".json")
    write_json(sidecar, content)
    return sidecar
