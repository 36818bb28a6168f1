# SPDX-License-Identifier: MIT
"""The page of a cohort: who is in it, how well it is predicted, how it was adapted."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ..bids.names import page_path
from ..bids.own_atlas import GROUP, PARTICIPANT
from ..errors import InputError, KrakenBIDSError
from ..flavors import Flavor
from .anchors import SIMILARITY
from .cohort_figures import draw_adaptation, draw_identification, draw_latents
from .found import (
    FoundSession,
    Rows,
    find_participants,
    find_sessions,
    flavor_order,
    read_json,
    read_rows,
    read_session,
)
from .html import Cell, Grid, Notice, Picture, as_text, n_of, provenance, render
from .participant_page import DRAWN_SOURCES, Matrix, pair_picture
from .search_section import find_searches, lambda_warnings, search_grid, search_pictures
from .similarity_section import (
    read_similarities,
    similarity_grid,
    similarity_pictures,
    similarity_warnings,
)

_log = logging.getLogger(__name__)

#: Sessions over which measured and predicted matrices are averaged for the page.
N_AVERAGED = 10
#: Quality measures of the cohort's table: heading and column.
_COHORT_MEASURES: tuple[tuple[str, str], ...] = (
    ("mean FD (mm)", "fd_mean_mm"),
    ("minutes kept", "kept_minutes"),
    ("outliers (%)", "percent_outliers"),
    ("tSNR", "tsnr_median"),
    ("iFOD2 streamlines", "ifod2act_n_streamlines"),
    ("fs86 iFOD2 density", "ifod2act_fs86_density"),
)
#: Columns that are lists: too long for a page.
_LONG = frozenset({"flavors"})
_SECTIONS = (
    ("cohort", "Cohort"),
    ("flavors", "Flavors"),
    ("identification", "Identification"),
    ("predictions", "Predictions"),
    ("lambda", "Partial correlations"),
    ("adaptation", "Adaptation"),
    ("latents", "Latents"),
    ("provenance", "Provenance"),
)


def build_group_page(
    dataset_dir: Path,
    output_dir: Path,
    *,
    page_dir: Path | None = None,
    problems: Sequence[str] = (),
) -> str:
    """Build the page of a cohort from the files of both data sets.

    Whatever is absent is left out, with a line that says so.

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

    Returns
    -------
    str
        HTML that needs no other file and no network.
    """
    sessions = list(_cohort(dataset_dir, output_dir))
    group_dir = dataset_dir / "group"
    quality_rows = read_rows(group_dir / "desc-kraken_qc.tsv")
    adaptation_file = next(iter(sorted(group_dir.glob("*_adaptation.json"))), None)
    adaptation = read_json(adaptation_file) if adaptation_file else {}
    description = read_json(dataset_dir / "dataset_description.json")
    people = {measured.participant for measured, _ in sessions}
    pictures, text = _prediction_pictures(sessions)
    searches = list(find_searches(group_dir))
    similarities = read_similarities(read_rows(group_dir / "desc-participant_qc.tsv"))
    sections = _SECTIONS if searches else tuple(row for row in _SECTIONS if row[0] != "lambda")
    context = {
        "title": str(description.get("Name", "")) or dataset_dir.name or "Cohort",
        "lead": f"{n_of(len(sessions), 'session')} of {n_of(len(people), 'participant')}",
        "sections": sections,
        "warnings": [
            *(Notice(problem) for problem in problems),
            *_warnings(sessions, quality_rows),
            *similarity_warnings(similarities),
            *lambda_warnings([measured for measured, _ in sessions], searches),
        ],
        "cohort": _cohort_grid(sessions, output_dir, page_dir or dataset_dir),
        "participant_quality": _table(
            "What the model was given", group_dir / "desc-participant_qc.tsv"
        ),
        "flavors": _flavor_grid(sessions),
        "similarity": similarity_grid(similarities),
        "similarity_figures": similarity_pictures(similarities),
        "identification": _table("Quality of the predictions", group_dir / "desc-kraken_qc.tsv"),
        "identification_figures": _identification(quality_rows),
        "prediction_figures": pictures,
        "prediction_text": text,
        "search": search_grid(searches),
        "search_figures": [picture for one in searches for picture in search_pictures(one)],
        "adaptation": _adaptation_grid(adaptation),
        "adaptation_figures": _adaptation(adaptation_file),
        "latent_figures": list(_latents(dataset_dir)),
        "provenance": [*provenance(description), *_model(sessions)],
    }
    return render("group.html", context)


def _cohort(dataset_dir: Path, output_dir: Path) -> Iterator[tuple[FoundSession, FoundSession]]:
    """Every session, as measured and as predicted, without reading a matrix."""
    for participant in find_participants(output_dir):
        for session in find_sessions(output_dir, participant):
            yield (
                read_session(output_dir, participant, session),
                read_session(dataset_dir, participant, session),
            )


def _warnings(
    sessions: Sequence[tuple[FoundSession, FoundSession]], quality_rows: Rows
) -> Iterator[Notice]:
    """Say what is unusual in the cohort."""
    for group, name in (("FC", "functional"), ("SC", "structural")):
        without = tuple(
            measured.label
            for measured, _ in sessions
            if not any(item.flavor.group == group for item in measured.measured)
        )
        if without:
            yield Notice(
                f"{len(without)} of {n_of(len(sessions), 'session')} without {name} connectomes",
                "their latents rest on the other modality alone", names=without,
            )  # fmt: skip
    unpredicted = tuple(measured.label for measured, made in sessions if not made.predicted)
    if unpredicted:
        yield Notice(f"{len(unpredicted)} of {n_of(len(sessions), 'session')} without predictions",
                     "they were not in the cohort, or the group level has not run since",
                     "Run the group level again.", unpredicted)  # fmt: skip
    yield from _label_origins(sessions)
    missing = _missing_regions(sessions)
    if missing:
        yield Notice(
            f"{n_of(len(missing), 'session')} with missing regions",
            "the training mean stands in their place when the model is used", names=missing,
        )  # fmt: skip
    if 0 < len(sessions) < 20:
        yield Notice(
            f"the cohort has {n_of(len(sessions), 'session')}",
            "an adaptation fitted on fewer than 20 is shaky, and shares of so few participants "
            "move in large steps",
            "Read the numbers below with that in mind.",
        )
    if sessions and not quality_rows:
        yield Notice("there is no table of prediction quality", advice="Run the group level.")


def _label_origins(sessions: Sequence[tuple[FoundSession, FoundSession]]) -> Iterator[Notice]:
    """Sessions with the group's labels of an atlas, where others have their own."""
    found: dict[str, set[str]] = {}
    for measured, _ in sessions:
        for item in measured.measured:
            origin = str(item.sidecar.get("LabelOrigin", ""))
            found.setdefault(origin, set()).add(measured.label)
    own, group = found.get(PARTICIPANT, set()), found.get(GROUP, set())
    if own and group:
        yield Notice(
            f"labels of coco439 are the participant's own in {n_of(len(own), 'session')} and the "
            f"group's in {n_of(len(group), 'session')}",
            "sizes of regions differ between these, and with them connectomes",
            "Measure them again with --coco439 group, or add what own labels need.",
            tuple(sorted(group)),
        )


def _missing_regions(sessions: Sequence[tuple[FoundSession, FoundSession]]) -> tuple[str, ...]:
    """Sessions with missing regions, and how many by atlas."""
    lines = []
    for measured, _ in sessions:
        counts: dict[str, int] = {}
        for quality in measured.qualities:
            for atlas, entry in quality.regions.items():
                n_missing = len(entry.get("missing") or [])
                counts[atlas] = max(counts.get(atlas, 0), n_missing)
        words = [f"{atlas} {count}" for atlas, count in counts.items() if count]
        if words:
            lines.append(f"{measured.label} ({', '.join(words)})")
    return tuple(lines)


def _cohort_grid(
    sessions: Sequence[tuple[FoundSession, FoundSession]], output_dir: Path, page_dir: Path
) -> Grid:
    """A row a session, with links to the participants' pages."""
    rows = []
    for measured, made in sessions:
        kinds = [item.flavor.group for item in measured.measured]
        cells: list[str | Cell] = [_page_link(measured, output_dir, page_dir)]
        cells += [str(kinds.count("FC")), str(kinds.count("SC")), str(len(made.predicted))]
        cells += [_mean(_values(measured, column)) for _, column in _COHORT_MEASURES]
        rows.append(cells)
    columns = ("session", "functional", "structural", "predicted",
               *(name for name, _ in _COHORT_MEASURES))  # fmt: skip
    return Grid.of("Cohort", columns, rows)


def _values(session: FoundSession, column: str) -> list[float]:
    """A measure of all series of a session, or of the combined runs where there are such."""
    qualities = [quality for quality in session.qualities if quality.number(column) is not None]
    combined = [quality for quality in qualities if quality.is_combined]
    return [number for quality in combined or qualities
            if (number := quality.number(column)) is not None]  # fmt: skip


def _mean(values: Sequence[float]) -> str:
    """Mean over the series of a session, as text."""
    if not values:
        return "n/a"
    mean = float(np.mean(values))
    return f"{mean:.0f}" if mean.is_integer() else f"{mean:.4g}"


def _page_link(session: FoundSession, output_dir: Path, page_dir: Path) -> Cell:
    """The session's name, leading to its page if there is one."""
    for label in (session.session, None):
        page = output_dir / page_path(session.participant, label)
        if page.is_file():
            relative = Path(os.path.relpath(page, page_dir)).as_posix()
            return Cell(session.label, link=quote(relative))
    return Cell(session.label)


def _flavor_grid(sessions: Sequence[tuple[FoundSession, FoundSession]]) -> Grid:
    """How many sessions have each flavor, measured and predicted."""
    counts: dict[Flavor, list[int]] = {}
    for measured, made in sessions:
        for column, flavors in enumerate((
            {item.flavor for item in measured.measured},
            {item.flavor for item in made.predicted},
        )):
            for flavor in flavors:
                counts.setdefault(flavor, [0, 0])[column] += 1
    rows = [
        [str(flavor), flavor.recipe.measure, *map(str, counts[flavor])]
        for flavor in sorted(counts, key=flavor_order)
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
            partial(draw_identification, usable),
            alt="Top-1 identification, average rank and residual correlation by source and "
            "target; the same numbers are in the table below",
            caption="Sources are columns, targets are rows; white is chance or worse.",
        )
    ]


def _prediction_pictures(
    sessions: Sequence[tuple[FoundSession, FoundSession]],
) -> tuple[list[Picture], str]:
    """Mean measured beside mean predicted connectomes, over the first sessions with both."""
    drawn = {
        (item.flavor, item.source)
        for _, made in sessions
        for item in made.predicted
        if item.source == DRAWN_SOURCES[item.flavor.group]
    }
    names = sorted(drawn, key=lambda row: flavor_order(row[0]))
    pictures, most = [], 0
    for flavor, source in names:
        pair, n_sessions = _mean_pair(sessions, str(flavor), source)
        if pair is not None:
            pictures.append(pair_picture(str(flavor), *pair, source))
            most = max(most, n_sessions)
    text = (
        f"Means over {n_of(most, 'session')} that were both measured and predicted from the "
        "other modality."
    )
    return pictures, text if pictures else ""


def _mean_pair(
    sessions: Sequence[tuple[FoundSession, FoundSession]], flavor: str, source: str
) -> tuple[tuple[Matrix, Matrix] | None, int]:
    """Mean measured and predicted matrix over at most `N_AVERAGED` sessions."""
    sums: list[Matrix] = []
    count = 0
    for measured, made in sessions:
        first = measured.matrix(flavor)
        second = next(
            (item for item in made.predicted
             if str(item.flavor) == flavor and item.source == source), None,
        )  # fmt: skip
        if first is None or second is None:
            continue
        try:
            pair = [item.read() for item in (first, second)]
        except InputError as error:
            _log.warning("Left out of the page: %s", error)
            continue
        if pair[0].shape != pair[1].shape or (sums and pair[0].shape != sums[0].shape):
            continue
        sums = [total + one for total, one in zip(sums, pair, strict=True)] if sums else pair
        count += 1
        if count == N_AVERAGED:
            break
    return ((sums[0] / count, sums[1] / count) if count else None), count


def _adaptation_rows(content: Any, path: tuple[str, ...] = ()) -> Iterator[list[str]]:
    """Find the fit of each flavor in the adaptation's JSON, wherever it is nested."""
    if not isinstance(content, Mapping):
        return
    lower = {str(key).lower(): value for key, value in content.items()}
    if path and "slope" in lower:
        flavor = next((part for part in reversed(path) if part.count("_") == 2), path[-1])
        site = "/".join(part for part in path if part != flavor and part.lower() != "flavors")
        keys = (("slope",), ("intercept",), ("r_squared", "rsquared", "r2"),
                ("n_participants", "nparticipants"))  # fmt: skip
        values = [next((str(lower[key]) for key in row if key in lower), "n/a") for row in keys]
        yield [flavor, site, *values]
        return
    for key, value in content.items():
        yield from _adaptation_rows(value, (*path, str(key)))


def _adaptation_grid(adaptation: Mapping[str, Any]) -> Grid:
    """Line fitted from the cohort's mean to the training mean, a row a flavor."""
    columns = ("flavor", "site", "slope", "intercept", "R²", "participants")
    return Grid.of("Adaptation", columns, _adaptation_rows(adaptation))


def _adaptation(adaptation_file: Path | None) -> list[Picture]:
    """Cohort means against training means, from the arrays beside the JSON."""
    file = adaptation_file.with_suffix(".safetensors") if adaptation_file else None
    if file is None or not file.is_file():
        return []
    import safetensors
    from safetensors.numpy import load_file

    try:
        arrays = load_file(file)
    except (OSError, safetensors.SafetensorError) as error:
        _log.warning("Left out of the page: %s cannot be read: %s", file, error)
        return []
    rows = {row[0]: row for row in _adaptation_rows(read_json(file.with_suffix(".json")))}
    means = {}
    for flavor, row in rows.items():
        before, target = (
            next((value for key, value in arrays.items() if flavor in key and name in key), None)
            for name in ("source_mean", "target_mean")
        )
        if before is not None and target is not None and before.shape == target.shape:
            slope, intercept = (float(value) for value in row[2:4])
            means[flavor] = (before, slope * before + intercept, target)
    if not means:
        return []
    return [
        Picture.drawn(
            partial(draw_adaptation, means),
            alt="Edges of the cohort's mean against those of the training mean, before and after",
            caption="Each point is an edge; on the line both means agree. Shown after the line "
            "was fitted, before any shift of single edges.",
        )
    ]


def _latents(dataset_dir: Path) -> Iterator[Picture]:
    """Latents of every fusion over the cohort."""
    for file in sorted((dataset_dir / "group").glob("desc-*_latent.tsv")):
        rows = read_rows(file)
        columns = [
            name for name in (rows[0] if rows else {}) if name[:1] == "z" and name[1:].isdigit()
        ]
        if not columns:
            continue
        values = np.array([
            [float(row[name]) if row[name] not in {"n/a", ""} else np.nan for name in columns]
            for row in rows
        ])
        names = [_row_label(row) for row in rows]
        fusion = file.name.removeprefix("desc-").removesuffix("_latent.tsv")
        try:
            yield Picture.drawn(
                partial(draw_latents, values, names),
                alt=f"Latents of {fusion}: principal components and values of each participant",
                caption=f"Latents of {fusion}, {len(columns)} dimensions",
            )
        except KrakenBIDSError as error:
            _log.info("No figure of %s: %s", file.name, error)


def _row_label(row: Mapping[str, str]) -> str:
    """Participant (and session) of a row."""
    session = row.get("session_id", "")
    name = row.get("participant_id", "")
    return f"{name}_{session}" if session and session != "n/a" else name


def _model(sessions: Sequence[tuple[FoundSession, FoundSession]]) -> list[tuple[str, str]]:
    """Model, adaptation and cohort, as the first prediction's sidecar says."""
    keys = ("Model", "Adaptation", "AdaptationFile", "CohortSize", "PredictedFrom")
    for _, made in sessions:
        for item in made.predicted:
            found = [(key, as_text(item.sidecar[key])) for key in keys if key in item.sidecar]
            if found:
                return found
    return []
