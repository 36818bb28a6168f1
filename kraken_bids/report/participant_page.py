# SPDX-License-Identifier: MIT
"""The page of a participant: what was found, its quality, its connectomes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..atlases import atlas_names, load_atlas
from ..bids.names import marked
from ..errors import InputError
from .anchor_figure import anchored, draw_anchors
from .anchors import ANCHORS, FIRST, SIMILARITY
from .connectome_panels import draw_functional_panel, draw_structural_panel
from .coverage_figure import low_coverage
from .found import (
    FoundMatrix,
    FoundSession,
    Quality,
    find_sessions,
    parse_entities,
    read_json,
    read_session,
    series_entities,
)
from .html import Cell, Grid, Notice, Picture, as_text, provenance, render
from .latent_section import place_in_cohort
from .methods_page import find_methods
from .notices import session_warnings
from .prediction_section import find_predicted, predicted_groups
from .trust_section import basis_words, session_grid, session_trust
from .trust_section import session_warnings as trust_warnings

_log = logging.getLogger(__name__)

#: Suffix of the figures of a series by its folder.
FIGURE_SUFFIXES: dict[str, str] = {"func": "bold", "dwi": "dwi"}
#: Figures of a series by label of ``desc-`` and suffix, in the order of the page.
_CAPTIONS: dict[tuple[str, str], str] = {
    ("qc", "bold"): "Motion, signal changes and the series of all regions over time, before and "
    "after denoising; outliers are shaded, and grey levels are standard deviations of each region",
    ("coverage", "bold"): "Share of each region's voxels that have signal, on slices of the atlas",
    (
        "qc",
        "dwi",
    ): "Tissues, directions of fibres and streamline density on the background; the streamlines' "
    "lengths, and how many of their ends lie in each region",
}
_SECTIONS = (
    ("inputs", "Inputs"),
    ("quality", "Quality"),
    ("connectomes", "Connectomes"),
    ("predictions", "Predictions"),
    ("trust", "Trust"),
    ("latents", "Latents"),
    ("provenance", "Provenance"),
    ("methods", "Methods"),
)
_SETTINGS = (
    "KrakencoderFlavor",
    "NumberOfVolumes",
    "NumberOfRetainedVolumes",
    "NumberOfRuns",
    "RepetitionTime",
    "RetainedSeconds",
    "Regularization",
    "RegularizationSource",
    "StreamlineCount",
    "AssignmentRadius",
    "SpatialReference",
    "ConfigurationHash",
    "Denoising",
    "DegreesOfFreedom",
    "OffRecipe",
    "LabelOrigin",
    "LabelOriginReason",
)

Matrix = NDArray[np.float64]


def build_participant_page(
    output_dir: Path,
    participant: str,
    session: str | None = None,
    *,
    problems: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> str:
    """Build the page of a participant from the files of the data set.

    Whatever is absent is left out, with a line that says so.

    Parameters
    ----------
    output_dir
        Root of the data set of measured connectomes; predictions are looked for in
        ``derivatives/krakencoder-*`` below it.
    participant
        Label without ``sub-``.
    session
        Label without ``ses-``; None for all sessions there are.
    problems
        What kept a part from being processed, for the box of warnings.
    settings
        Settings to list, by name.

    Returns
    -------
    str
        HTML that needs no other file and no network.
    """
    sessions = (session,) if session else find_sessions(output_dir, participant)
    found = [read_session(output_dir, participant, label) for label in sessions]
    matrices = {}
    warnings = [Notice(problem) for problem in problems]
    for part in found:
        read, unread = _read_matrices(part.measured)
        matrices[part.label] = read
        warnings += [*unread, *session_warnings(part, read, prefix=len(found) > 1)]
    datasets = sorted(output_dir.glob("derivatives/krakencoder-*"))
    pairs = find_predicted(datasets, found)
    predicted = predicted_groups(pairs, matrices)
    places = [
        place
        for dataset in datasets
        for part in found
        if (place := place_in_cohort(dataset, part, prefix=_prefix(part, found))) is not None
    ]
    warnings += [notice for place in places for notice in place.notices]
    trust = []
    for dataset in datasets:
        for part in found:
            table = session_trust(dataset, part)
            if table is not None:
                title = f"{part.label}, {dataset.name}"
                grid = session_grid(table)
                trust.append({"title": title, "grid": grid, "text": basis_words([table])})
                start = f"{_prefix(part, found)}{dataset.name}: "
                warnings += trust_warnings(table, prefix=start)
    name = f"sub-{participant}" + (f"_ses-{session}" if session else "")
    description = read_json(output_dir / "dataset_description.json")
    context = {
        "title": name,
        "lead": str(description.get("Name", "")) or "Measured connectomes",
        "sections": _SECTIONS,
        "warnings": warnings,
        "summary": _summary(found, predicted),
        "absent": _absent(found),
        "sources": _sources(found),
        "qualities": [_quality(quality, part) for part in found for quality in part.qualities],
        "other_figures": [
            picture
            for part in found
            for file in part.figures
            if not any(_belongs(file, quality) for quality in part.qualities)
            and (picture := _figure(file)) is not None
        ],
        "coverage": _coverage(found),
        "measured": [
            group for part in found for group in _measured_groups(part, matrices[part.label])
        ],
        "predicted": predicted,
        "places": places,
        "trust": trust,
        "provenance": [*provenance(description), *_settings(found), *_plain(settings or {})],
        "methods": find_methods({
            **{part.label: output_dir / "logs" / part.label for part in found},
            **{pair.dataset: output_dir / "derivatives" / pair.dataset / "logs" for pair in pairs},
        }),
    }
    return render("participant.html", context)


def _prefix(part: FoundSession, found: Sequence[FoundSession]) -> str:
    """What a line about one of several sessions begins with."""
    return f"{part.label}: " if len(found) > 1 else ""


def _read_matrices(found: Sequence[FoundMatrix]) -> tuple[dict[str, Matrix], list[Notice]]:
    """Read connectomes by flavor; what cannot be read becomes a warning."""
    matrices, warnings = {}, []
    for item in found:
        try:
            matrices[str(item.flavor)] = item.read()
        except InputError as error:
            _log.warning("Left out of the page: %s", error)
            warnings.append(Notice(f"{item.file.name} {error.what}", advice=error.fix))
    return matrices, warnings


def _summary(found: Sequence[FoundSession], predicted: Sequence[Mapping[str, Any]]) -> Grid:
    """Count what there is, a row a session."""
    rows = []
    for part in found:
        kinds = [item.flavor.group for item in part.measured]
        n_predicted = sum(
            group["n_predicted"] for group in predicted if group["session"] == part.label
        )
        runs = [quality.datatype for quality in part.qualities]
        counts = (
            runs.count("func"),
            runs.count("dwi"),
            kinds.count("FC"),
            kinds.count("SC"),
            n_predicted,
        )
        rows.append([part.label, *(str(count) for count in counts)])
    columns = (
        "session",
        "functional runs",
        "diffusion series",
        "functional connectomes",
        "structural connectomes",
        "predicted connectomes",
    )
    return Grid.of("What was found and made", columns, rows)


def _absent(found: Sequence[FoundSession]) -> list[str]:
    """Lines that say which modality is not there."""
    lines = []
    for part in found:
        groups = {item.flavor.group for item in part.measured}
        for group, name in (("FC", "functional"), ("SC", "structural")):
            if group not in groups:
                lines.append(f"{part.label} has no {name} connectomes.")
    return lines


def _sources(found: Sequence[FoundSession]) -> list[str]:
    """BIDS addresses of the files that the connectomes were made from."""
    sources = {
        str(source)
        for part in found
        for item in part.measured
        for source in item.sidecar.get("Sources", [])
    }
    return sorted(sources)


def _quality(quality: Quality, session: FoundSession) -> dict[str, Any]:
    """Quality of a series: its figures, and its numbers with their meaning."""
    columns = ("measure", "value", "meaning", "training data")
    rows: dict[str, list[str | Cell]] = {
        column: [column, value, quality.description(column), Cell(ANCHORS.get(column, ""))]
        for column, value in quality.values.items()
    }
    told = [column for column, value in quality.values.items() if value != "n/a"]
    is_first = {
        column: column in told
        and (column in ANCHORS or column in FIRST or column.startswith(SIMILARITY))
        for column in rows
    }
    first = [row for column, row in rows.items() if is_first[column]]
    rest = [row for column, row in rows.items() if not is_first[column]]
    files = [file for file in session.figures if _belongs(file, quality)]
    pictures = [_figure(file) for file in sorted(files, key=_order)]
    pictures.append(_anchors(quality))
    return {
        "title": f"{session.label}, {quality.title}",
        "figures": [picture for picture in pictures if picture is not None],
        "grid": Grid.of(quality.title, columns, first),
        "more": Grid.of(f"{quality.title}, all other measures", columns, rest),
    }


def _anchors(quality: Quality) -> Picture | None:
    """Measures beside the published values, where there are any of both."""
    rows = anchored(quality.values)
    if not rows:
        return None
    return Picture.drawn(
        draw_anchors(rows),
        alt=f"{len(rows)} measures of the {quality.title} beside published values; the same "
        "numbers are in the table below",
        caption="Values of this series beside those of the published model's training data. Those "
        "are young healthy adults, scanned for an hour; in red: not usual anywhere.",
    )


def _belongs(figure: Path, quality: Quality) -> bool:
    """Whether a figure shows a series: its suffix and entities are those of the series."""
    suffix = _suffix(figure)
    labels = {marked(desc, quality.mark) for desc, of in _CAPTIONS if of == suffix}
    return (
        suffix == FIGURE_SUFFIXES.get(quality.datatype)
        and series_entities(figure.name) == quality.entities
        and parse_entities(figure.name).get("desc") in labels
    )


def _order(figure: Path) -> int:
    """Place of a figure among those of its series."""
    desc = parse_entities(figure.name).get("desc", "")
    labels = [label for label, suffix in _CAPTIONS if suffix == _suffix(figure)]
    return next(place for place, label in enumerate(labels) if desc.startswith(label))


def _suffix(file: Path) -> str:
    return file.name.split(".")[0].rpartition("_")[2]


def _figure(file: Path) -> Picture | None:
    """A figure of the participant's folder, with the words for its kind."""
    desc, suffix = parse_entities(file.name).get("desc", ""), _suffix(file)
    captions = (words for (label, of), words in _CAPTIONS.items()
                if of == suffix and desc.startswith(label))  # fmt: skip
    caption = next(captions, file.stem)
    return Picture.read(file, alt=f"{caption} ({file.stem})", caption=caption)


def _coverage(found: Sequence[FoundSession]) -> Grid:
    """Coverage of the regions, a row a series and atlas."""
    rows = []
    for part in found:
        for quality in part.qualities:
            for atlas, entry in quality.regions.items():
                shares = entry.get("coverage") or []
                numbers = [share for share in shares if isinstance(share, (int, float))]
                missing = entry.get("missing") or []
                median = f"{float(np.median(numbers)):.3f}" if numbers else "n/a"
                low = str(len(low_coverage(atlas, entry)))
                size = len(shares) or (
                    load_atlas(atlas).n_regions if atlas in atlas_names() else 0
                )
                row = [f"{part.label}, {quality.title}", atlas, str(size), str(len(missing))]
                rows.append([*row, low, median])
    columns = ("series", "atlas", "regions", "missing", "less than half covered",
               "median coverage")  # fmt: skip
    return Grid.of("Coverage of regions", columns, rows)


def _measured_groups(session: FoundSession, matrices: Mapping[str, Matrix]) -> Iterator[Any]:
    """The panels of functional and of structural connectomes, each with its numbers."""
    functional = {name: matrix for name, matrix in matrices.items() if name.startswith("FC")}
    structural = {name: matrix for name, matrix in matrices.items() if name.startswith("SC")}
    if functional:
        yield _functional_group(session, functional)
    if structural:
        yield _structural_group(session, structural)


def _functional_group(session: FoundSession, matrices: Mapping[str, Matrix]) -> dict[str, Any]:
    """All functional connectomes in one picture, and their numbers."""
    rows = []
    for name, matrix in matrices.items():
        edges = _edges(matrix)
        missing = int(np.isnan(matrix).all(axis=0).sum())
        numbers = [edges.mean(), edges.std(), edges.min(), edges.max()] if edges.size else []
        words = [f"{number:.3f}" for number in numbers] or ["n/a"] * 4
        rows.append([name, str(len(matrix)), str(missing), *words])
    columns = ("connectome", "regions", "missing", "mean edge", "SD", "least", "largest")
    panel = Picture.drawn(
        draw_functional_panel(matrices),
        alt=f"Matrices of {', '.join(matrices)}; their numbers are in the table below",
        caption="A row an atlas, a column a recipe with colours of its own. Regions stand left, "
        "then right, in the same order: edges between namesakes lie along the middle of the upper "
        "right quarter. Grey: missing.",
    )
    return {
        "title": f"{session.label}, functional",
        "is_functional": True,
        "panels": [panel],
        "grid": Grid.of("Functional connectomes", columns, rows),
    }


def _edges(matrix: Matrix) -> Matrix:
    """Edges that there are, of the upper triangle."""
    edges = matrix[np.triu_indices(len(matrix), k=1)]
    return edges[np.isfinite(edges)]


def _structural_group(session: FoundSession, matrices: Mapping[str, Matrix]) -> dict[str, Any]:
    """All structural connectomes in one picture, and their numbers."""
    rows = []
    for name, matrix in matrices.items():
        edges = _edges(matrix)
        missing = int(np.isnan(matrix).all(axis=0).sum())
        words = ["n/a"] * 3
        if edges.size:
            density = np.count_nonzero(edges) / edges.size
            words = [f"{density:.3f}", f"{edges.sum():.4g}", f"{edges.max():.4g}"]
        rows.append([name, str(len(matrix)), str(missing), *words])
    columns = ("connectome", "regions", "missing", "density", "sum", "largest")
    weighted = {name: matrix for name, matrix in matrices.items() if "_sift2" in name}
    unweighted = {name: matrices[name] for name in matrices if name not in weighted}
    panels = [
        Picture.drawn(
            draw_structural_panel(shown),
            alt=f"Matrices of {', '.join(shown)}; their numbers are in the table below",
            caption="A row an atlas, a column a recipe with colours of its own, on a logarithmic "
            "scale. Regions stand left, then right, in the same order. White: no streamline. "
            "Grey: missing.",
        )
        for shown in (unweighted, weighted)
        if shown
    ]
    return {
        "title": f"{session.label}, structural",
        "is_functional": False,
        "panels": panels,
        "grid": Grid.of("Structural connectomes", columns, rows),
    }


def _settings(found: Sequence[FoundSession]) -> list[tuple[str, str]]:
    """Keys of the sidecars that say how connectomes were made, each value once."""
    entries: dict[str, dict[str, None]] = {}
    for part in found:
        for item in part.measured:
            for key in _SETTINGS:
                if key in item.sidecar:
                    entries.setdefault(key, {})[as_text(item.sidecar[key])] = None
    return [(key, "; ".join(values)) for key, values in entries.items()]


def _plain(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Settings as text."""
    return [(str(key), as_text(value)) for key, value in settings.items()]
