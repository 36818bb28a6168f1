# SPDX-License-Identifier: MIT
"""The page of a cohort: who is in it, how well it is predicted, how it was adapted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..console import n_of
from .adaptation_section import fit_grid, fit_pictures, read_fits
from .anchors import SIMILARITY
from .cohort_figures import draw_identification
from .cohort_summary import (
    COHORT_MEASURES,
    CohortSummary,
    SampledMatrices,
    list_sessions,
    sample_matrices,
    summarize_cohort,
)
from .found import Rows, flavor_order, read_json, read_rows
from .html import Cell, Grid, Notice, Picture, provenance, render
from .latent_map import LatentMap, find_maps
from .latent_section import colour_columns, map_pictures, outlier_warnings, participants_tables
from .matrices import Pair
from .methods_page import find_methods
from .motion_section import motion_grid, motion_pictures
from .prediction_section import pair_picture
from .quality_section import read_spreads, spread_grid, spread_pictures, spread_warnings
from .search_section import find_searches, lambda_warnings, search_grid, search_pictures
from .similarity_section import (
    read_similarities,
    similarity_grid,
    similarity_pictures,
    similarity_warnings,
)
from .trust_section import (
    basis_words,
    doubt_grid,
    find_trust,
    flavor_grid,
    trust_pictures,
    trust_warnings,
)

#: Columns that are lists: too long for a page.
_LONG = frozenset({"flavors"})
_SECTIONS = (
    ("cohort", "Cohort"),
    ("quality", "Quality"),
    ("flavors", "Flavors"),
    ("trust", "Trust"),
    ("identification", "Identification"),
    ("predictions", "Predictions"),
    ("lambda", "Partial correlations"),
    ("adaptation", "Adaptation"),
    ("latents", "Latents"),
    ("provenance", "Provenance"),
    ("methods", "Methods"),
)


def build_group_page(
    dataset_dir: Path,
    output_dir: Path,
    *,
    page_dir: Path | None = None,
    problems: Sequence[str] = (),
    participants_file: Path | None = None,
) -> str:
    """Build the page of a cohort from the files of both data sets.

    Whatever is absent is left out, with a line that says so. Sessions are looked at one by one.

    Parameters
    ----------
    dataset_dir
        Root of the data set of predictions.
    output_dir
        Root of the data set of measured connectomes.
    page_dir
        Folder that the page will lie in, for the links to the participants' pages; `dataset_dir`
        if None.
    problems
        What kept participants from being used, for the box of warnings.
    participants_file
        ``participants.tsv`` of the BIDS folder; that of `dataset_dir` is read, too.

    Returns
    -------
    str
        HTML that needs no other file and no network.
    """
    sessions = list_sessions(output_dir)
    summary = summarize_cohort(sessions, dataset_dir, output_dir, page_dir or dataset_dir)
    sampled = sample_matrices(sessions, summary, dataset_dir)
    group_dir = dataset_dir / "group"
    quality_rows = read_rows(group_dir / "desc-kraken_qc.tsv")
    fits = read_fits(group_dir)
    description = read_json(dataset_dir / "dataset_description.json")
    searches = list(find_searches(group_dir))
    similarities = read_similarities(read_rows(group_dir / "desc-participant_qc.tsv"))
    spreads = read_spreads(summary.measures)
    trust = find_trust(dataset_dir)
    maps = list(find_maps(dataset_dir).values())
    columns, left_out = colour_columns(
        participants_tables(participants_file, dataset_dir / "participants.tsv")
    )
    pictures, text = _prediction_pictures(sampled, summary)
    context = {
        "title": str(description.get("Name", "")) or dataset_dir.name or "Cohort",
        "lead": f"{n_of(len(sessions), 'session')} of "
        f"{n_of(len(summary.participants), 'participant')}",
        "sections": tuple(row for row in _SECTIONS if searches or row[0] != "lambda"),
        "warnings": [
            *(Notice(problem) for problem in problems),
            *summary.warnings(),
            *_unevaluated(summary, quality_rows),
            *spread_warnings(spreads),
            *similarity_warnings(similarities),
            *trust_warnings(trust),
            *outlier_warnings(maps),
            *lambda_warnings(summary.lambdas, searches),
        ],
        "cohort": _cohort_grid(summary, columns),
        "participant_quality": _table(
            "What the model was given", group_dir / "desc-participant_qc.tsv"
        ),
        "spread": spread_grid(spreads),
        "spread_figures": spread_pictures(spreads),
        "motion": motion_grid(sampled.motion),
        "motion_figures": motion_pictures(sampled.motion),
        "n_sampled": n_of(sampled.n_sessions, "session"),
        "flavors": _flavor_grid(summary),
        "similarity": similarity_grid(similarities),
        "similarity_figures": similarity_pictures(similarities),
        "trust": flavor_grid(trust),
        "trust_text": basis_words(trust),
        "trust_figures": trust_pictures(trust),
        "doubts": doubt_grid(trust),
        "identification": _table("Quality of the predictions", group_dir / "desc-kraken_qc.tsv"),
        "identification_figures": _identification(quality_rows),
        "prediction_figures": pictures,
        "prediction_text": text,
        "search": search_grid(searches),
        "search_figures": [picture for one in searches for picture in search_pictures(one)],
        "adaptation": fit_grid(fits),
        "adaptation_figures": fit_pictures(fits),
        "latent_maps": map_pictures(maps, {**columns, **_measured_columns(summary)}),
        "columns_left_out": left_out,
        "latents": _latent_grid(maps),
        "provenance": [*provenance(description), *summary.model],
        "methods": find_methods({"Predicted connectomes": dataset_dir / "logs"}),
    }
    return render("group.html", context)


def _unevaluated(summary: CohortSummary, quality_rows: Rows) -> list[Notice]:
    """Say that nobody has looked how good the predictions are."""
    if not summary.labels or quality_rows:
        return []
    return [Notice("there is no table of prediction quality", advice="Run the group level.")]


def _measured_columns(summary: CohortSummary) -> dict[str, dict[str, str]]:
    """Measures of quality that latents should not go with, by session, as text."""
    found = {}
    for heading, column in COHORT_MEASURES[:2]:
        pairs = summary.measures.get(column, [])
        if len({value for _, value in pairs}) > 1:
            found[heading] = {label: str(value) for label, value in pairs}
    return found


def _cohort_grid(summary: CohortSummary, columns: Mapping[str, Mapping[str, str]]) -> Grid:
    """A row a session, with what participants.tsv says and links to the participants' pages."""
    rows = []
    for label, row in zip(summary.labels, summary.rows, strict=True):
        participant = label.partition("_ses-")[0]
        told: list[str | Cell] = [values.get(participant) or "n/a" for values in columns.values()]
        rows.append([row[0], *told, *row[1:]])
    names = ("session", *columns, "functional", "structural", "predicted",
             *(name for name, _ in COHORT_MEASURES), "lacks")  # fmt: skip
    return Grid.of("Cohort", names, rows)


def _flavor_grid(summary: CohortSummary) -> Grid:
    """How many sessions have each flavor, measured and predicted."""
    rows = [
        [str(flavor), flavor.recipe.measure, *map(str, summary.counts[flavor])]
        for flavor in sorted(summary.counts, key=flavor_order)
    ]
    columns = ("flavor", "measure", "sessions measured", "sessions predicted")
    return Grid.of("Flavors", columns, rows)


def _table(title: str, file: Path) -> Grid:
    """A table of the data set without empty columns, explained as its sidecar does."""
    rows = read_rows(file)
    columns = [
        name
        for name in (rows[0] if rows else ())
        if name not in _LONG
        and not name.startswith(SIMILARITY)  # a section of their own
        and any(row.get(name) not in {"n/a", "", None} for row in rows)
    ]
    sidecar = read_json(file.with_suffix(".json"))
    meanings = [
        (column, str(sidecar[column]["Description"]))
        for column in columns
        if isinstance(sidecar.get(column), Mapping) and "Description" in sidecar[column]
    ]
    cells = [[row.get(name, "") for name in columns] for row in rows]
    return Grid.of(title, columns, cells, meanings=meanings)


def _identification(rows: Rows) -> list[Picture]:
    """Heat map of the measures of identification."""
    usable = [row for row in rows if "source" in row and "target" in row]
    if not usable:
        return []
    return [
        Picture.drawn(
            draw_identification(usable),
            alt="Top-1 identification, average rank and residual correlation by source and "
            "target; the same numbers are in the table below",
            caption="Sources are columns, targets are rows; white is chance or worse.",
        )
    ]


def _prediction_pictures(
    sampled: SampledMatrices, summary: CohortSummary
) -> tuple[list[Picture], str]:
    """Mean measured beside mean predicted connectomes, over sessions with both."""
    pairs = {flavor: sampled.pairs[flavor] for flavor in sorted(sampled.pairs, key=flavor_order)}
    pictures = [
        pair_picture(Pair(str(flavor), first.mean, second.mean, summary.drawn_source(flavor)))
        for flavor, (first, second) in pairs.items()
    ]
    most = max((first.n for first, _ in pairs.values()), default=0)
    text = (
        f"Means over {n_of(most, 'session')} that were both measured and predicted, from the "
        f"other modality where that was measured. {_looked_at(sampled, summary)}"
    )
    return pictures, text if pictures else ""


def _looked_at(sampled: SampledMatrices, summary: CohortSummary) -> str:
    n_all = len(summary.labels)
    if sampled.n_sessions == n_all:
        return ""
    return f"They are of {sampled.n_sessions} sessions spread evenly over all {n_all:,}."


def _latent_grid(maps: Sequence[LatentMap]) -> Grid:
    """How far latents lie from their mean, a row a fusion."""
    rows = []
    for found in maps:
        numbers = (*(100 * found.shares), np.median(found.distances), found.distances.max())
        far = ", ".join(found.outliers) if np.isfinite(found.far) else "n/a"
        rows.append([found.fusion, str(len(found.labels)),
                     *(f"{number:.4g}" for number in numbers), far])  # fmt: skip
    columns = ("fusion", "sessions", "first component (%)", "second (%)",
               "median distance from the mean", "largest", "unusually far")  # fmt: skip
    return Grid.of("Latents of the cohort", columns, rows)
