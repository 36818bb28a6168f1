# SPDX-License-Identifier: MIT
"""The page of a participant: what was found, its quality, its connectomes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..atlases import atlas_names, load_atlas
from ..bids.names import OFF_RECIPE, marked
from ..errors import InputError
from ..flavors import Flavor
from .anchors import ANCHORS, FIRST, beyond
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
from .html import Cell, Grid, Notice, Picture, as_text, n_of, provenance, render
from .matrices import draw_connectomes, draw_predictions, edge_correlation

_log = logging.getLogger(__name__)

#: Size of one heat map of a page in bytes, so that a page of 40 stays below 2 MB.
MATRIX_BYTES, PAIR_BYTES = 30_000, 36_000
#: Sources whose predictions are drawn, by the group of the target: from the other modality.
DRAWN_SOURCES: dict[str, str] = {"FC": "fusionSC", "SC": "fusionFC"}
#: Suffix of the figure of a series by its folder.
FIGURE_SUFFIXES: dict[str, str] = {"func": "bold", "dwi": "dwi"}
_CAPTIONS: dict[str, str] = {
    "bold": "Motion, signal changes and the series of all regions over time; outliers are shaded",
    "dwi": "Tissues and streamline density on the background, and the streamlines' lengths",
}
_LOW_COVERAGE = 0.5
#: What coverage is a share of, and what a low one means, by the folder of the series.
_COVERAGE: dict[str, tuple[str, str]] = {
    "func": ("the image", "their values rest on few voxels"),
    "dwi": ("the brain mask", "few streamlines can reach them"),
}
_SECTIONS = (
    ("inputs", "Inputs"),
    ("quality", "Quality"),
    ("connectomes", "Connectomes"),
    ("predictions", "Predictions"),
    ("provenance", "Provenance"),
)
_SETTINGS = (
    "KrakencoderFlavor",
    "NumberOfVolumes",
    "NumberOfRetainedVolumes",
    "NumberOfRuns",
    "RepetitionTime",
    "RetainedSeconds",
    "Regularization",
    "StreamlineCount",
    "AssignmentRadius",
    "SpatialReference",
    "ConfigurationHash",
    "Denoising",
    "DegreesOfFreedom",
    "OffRecipe",
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
    predicted = [
        group
        for dataset in sorted(output_dir.glob("derivatives/krakencoder-*"))
        for part in found
        for group in _predicted_groups(dataset, part, matrices[part.label])
    ]
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
        "provenance": [*provenance(description), *_settings(found), *_plain(settings or {})],
    }
    return render("participant.html", context)


def session_warnings(
    session: FoundSession, matrices: Mapping[str, Matrix], *, prefix: bool = False
) -> Iterator[Notice]:
    """Say what is unusual in a session, the missing regions by name.

    Parameters
    ----------
    session
        Files found.
    matrices
        Measured connectomes by flavor, (R, R).
    prefix
        Whether to name the session in each line.
    """
    start = f"{session.label}: " if prefix else ""
    for text in session.unreadable:
        yield Notice(f"{start}{text}", advice="Remove the file or rename it.")
    for quality in session.qualities:
        for value, limit in beyond(quality.values):
            yield Notice(
                f"{start}{quality.title}: {limit.column} is {value:.3g}",
                limit.meaning,
                limit.advice,
            )
        inside, consequence = _COVERAGE.get(quality.datatype, _COVERAGE["func"])
        for atlas, entry in quality.regions.items():
            names = _low_coverage(atlas, entry)
            if names:
                count = n_of(len(names), "region")
                yield Notice(
                    f"{start}{quality.title}: {count} of {atlas} less than half inside {inside}",
                    consequence, names=names,
                )  # fmt: skip
    yield from _empty_regions(matrices, start)
    for mark in sorted({found.mark for found in session.off_recipe}):
        count = n_of(sum(found.mark == mark for found in session.off_recipe), "connectome")
        yield Notice(
            f"{start}{count} marked desc-{mark}: {OFF_RECIPE[mark]}",
            "not the recipe that the published models were trained on; drawn here only where "
            "there is none of the recipe",
            "The group level takes them only if it is given the same --denoising.",
        )


def _empty_regions(matrices: Mapping[str, Matrix], start: str) -> Iterator[Notice]:
    """Regions that are missing, or that no streamline reaches, by atlas and modality."""
    told: set[tuple[str, ...]] = set()
    for name, matrix in matrices.items():
        flavor = Flavor.parse(name)
        names = _region_names(flavor.atlas, len(matrix))
        gone = np.isnan(matrix).all(axis=0)
        missing = tuple(names[index] for index in np.flatnonzero(gone))
        if missing and (flavor.group, flavor.atlas, *missing) not in told:
            told.add((flavor.group, flavor.atlas, *missing))
            modality = {"FC": "functional", "SC": "structural"}[flavor.group]
            yield Notice(
                f"{start}{n_of(len(missing), 'region')} of {flavor.atlas} missing in the "
                f"{modality} connectomes",
                "outside the image, without signal, or covered too little (--min-coverage); "
                "their rows and columns hold n/a, and the training mean stands in their place "
                "when the model is used",
                "Look at the field of view and at the transforms if this is not expected.",
                missing,
            )
        with np.errstate(invalid="ignore"):
            idle = ~(matrix > 0).any(axis=0) & ~gone
        if flavor.group == "SC" and idle.any() and (flavor.kind, flavor.atlas) not in told:
            told.add((flavor.kind, flavor.atlas))
            yield Notice(
                f"{start}{n_of(int(idle.sum()), 'region')} of {flavor.atlas} reached by no "
                f"streamline in {name}",
                "more streamlines or another seeding may reach them",
                names=tuple(names[index] for index in np.flatnonzero(idle)),
            )


def _region_names(atlas: str, n_regions: int) -> tuple[str, ...]:
    """Names of an atlas's regions; numbers where the atlas is not ours."""
    if atlas in atlas_names() and load_atlas(atlas).n_regions == n_regions:
        return load_atlas(atlas).region_names
    return tuple(str(index + 1) for index in range(n_regions))


def _low_coverage(atlas: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Regions that are there, but less than half covered."""
    coverage = entry.get("coverage", [])
    if not isinstance(coverage, list):
        return ()
    names = _region_names(atlas, len(coverage))
    missing = set(entry.get("missing") or ())
    return tuple(
        name
        for name, share in zip(names, coverage, strict=True)
        if isinstance(share, (int, float)) and 0 < share < _LOW_COVERAGE and name not in missing
    )


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
    first = [row for column, row in rows.items() if column in ANCHORS or column in FIRST]
    rest = [row for column, row in rows.items() if column not in ANCHORS and column not in FIRST]
    pictures = [_figure(file) for file in session.figures if _belongs(file, quality)]
    return {
        "title": f"{session.label}, {quality.title}",
        "figures": [picture for picture in pictures if picture is not None],
        "grid": Grid.of(quality.title, columns, first),
        "more": Grid.of(f"{quality.title}, all other measures", columns, rest),
    }


def _belongs(figure: Path, quality: Quality) -> bool:
    """Whether a figure shows a series: its suffix and entities are those of the series."""
    suffix = figure.name.split(".")[0].rpartition("_")[2]
    return (
        suffix == FIGURE_SUFFIXES.get(quality.datatype)
        and series_entities(figure.name) == quality.entities
        and parse_entities(figure.name).get("desc") == marked("qc", quality.mark)
    )


def _figure(file: Path) -> Picture | None:
    """A figure of the participant's folder."""
    suffix = file.name.split(".")[0].rpartition("_")[2]
    caption = _CAPTIONS.get(suffix, file.stem)
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
                low = str(len(_low_coverage(atlas, entry)))
                size = len(shares) or (
                    load_atlas(atlas).n_regions if atlas in atlas_names() else 0
                )
                row = [f"{part.label}, {quality.title}", atlas, str(size), str(len(missing))]
                rows.append([*row, low, median])
    columns = ("series", "atlas", "regions", "missing", "less than half covered",
               "median coverage")  # fmt: skip
    return Grid.of("Coverage of regions", columns, rows)


def _measured_groups(session: FoundSession, matrices: Mapping[str, Matrix]) -> list[Any]:
    """Heat maps by atlas."""
    groups: dict[str, list[Picture]] = {}
    for name, matrix in matrices.items():
        atlas = name.split("_")[1]
        groups.setdefault(atlas, []).append(_matrix_picture(name, matrix))
    return [
        {"title": f"{session.label}, atlas {atlas}", "figures": pictures}
        for atlas, pictures in groups.items()
    ]


def _matrix_picture(name: str, matrix: Matrix) -> Picture:
    """One connectome, with its numbers in words."""
    edges = matrix[np.triu_indices(len(matrix), k=1)]
    edges = edges[np.isfinite(edges)]
    if not edges.size:
        words = "no edge"
    elif name.startswith("SC"):
        words = f"density {np.count_nonzero(edges) / edges.size:.3f}, sum {edges.sum():.4g}"
    else:
        words = f"mean edge {edges.mean():.3f}, standard deviation {edges.std():.3f}"
    caption = f"{name}: {words}"
    draw = partial(draw_connectomes, {name: matrix}, max_bytes=MATRIX_BYTES)
    return Picture.drawn(draw, alt=f"Matrix of {name}, {len(matrix)} regions", caption=caption)


def _predicted_groups(
    dataset_dir: Path, session: FoundSession, matrices: Mapping[str, Matrix]
) -> Iterator[dict[str, Any]]:
    """Predictions of one data set for one session, measured ones beside them."""
    predicted = read_session(dataset_dir, session.participant, session.session).predicted
    if not predicted:
        return
    pictures, rows = [], []
    for item in predicted:
        name = str(item.flavor)
        if name not in matrices or item.source != DRAWN_SOURCES[item.flavor.group]:
            continue
        try:
            matrix = item.read()
        except InputError as error:
            _log.warning("Left out of the page: %s", error)
            continue
        if matrix.shape != matrices[name].shape:
            continue
        correlation = edge_correlation(matrices[name], matrix)
        rows.append([name, item.source, f"{correlation:.4f}"])
        pictures.append(pair_picture(name, matrices[name], matrix, item.source))
    sources = ", ".join(sorted({item.source for item in predicted}))
    yield {
        "title": f"{session.label}, {dataset_dir.name}",
        "text": f"{len(predicted)} connectomes were predicted, from {sources}. Shown: flavors "
        "that were measured too, predicted from the other modality. Grey: missing regions.",
        "figures": pictures,
        "grid": Grid.of("Correlation of predicted with measured edges",
                        ("flavor", "predicted from", "correlation with the measured one"), rows),
        "n_predicted": len(predicted),
        "session": session.label,
    }  # fmt: skip


def pair_picture(name: str, measured: Matrix, predicted: Matrix, source: str) -> Picture:
    """Measured beside predicted connectome."""
    correlation = edge_correlation(measured, predicted)
    draw = partial(
        draw_predictions, {name: (measured, predicted)}, source=source, max_bytes=PAIR_BYTES
    )
    words = f"{name}, measured and predicted from {source}"
    return Picture.drawn(draw, alt=f"{words}: r = {correlation:.2f}", caption=words)


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
