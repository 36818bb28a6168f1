# SPDX-License-Identifier: MIT
"""What the pages say of latents: a session's among those of its cohort, and the cohort's map."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..console import n_of
from .found import FoundSession, Rows, read_rows
from .html import Cell, Grid, Notice, Picture
from .latent_figures import draw_coloured_map, draw_place
from .latent_map import FAR_SDS, LatentMap, SessionLatent, find_maps, read_session_latents

#: Columns that the cohort's map is coloured by; more are left out, which is said.
MOST_COLUMNS = 12
#: Columns that name a participant and do not describe one.
_NAMES = frozenset({"participant_id", "session_id"})
_FAR = (
    f"farther than {FAR_SDS:g} standard deviations from the median of all distances: data of poor "
    "quality, another scanner, or a brain unlike the others"
)


@dataclass(frozen=True, eq=False)
class Place:
    """A session among its cohort, for one data set of predictions.

    Parameters
    ----------
    title
        Heading.
    figure
        The session in the map of each fusion; None where there is no cohort to compare with.
    grid
        Numbers of each fusion.
    notices
        What is unusual.
    """

    title: str
    figure: Picture | None
    grid: Grid
    notices: tuple[Notice, ...] = ()


def place_in_cohort(dataset_dir: Path, session: FoundSession, *, prefix: str = "") -> Place | None:
    """Find a session's latents, and where they lie among those of the cohort.

    Parameters
    ----------
    dataset_dir
        Root of a data set of predictions.
    session
        Whose latents are meant.
    prefix
        What the lines of warnings begin with.

    Returns
    -------
    Place or None
        None where the session has no latents in this data set.
    """
    latents = read_session_latents(dataset_dir, session.participant, session.session)
    if not latents:
        return None
    maps = {name: found for name, found in find_maps(dataset_dir).items()
            if name in latents and len(found.mean) == len(latents[name].values)}  # fmt: skip
    rows: list[list[str | Cell]] = []
    notices: list[Notice] = []
    for name, latent in latents.items():
        if name in maps:
            rows.append(_place_row(name, latent, maps[name]))
            notices += _place_notice(f"{prefix}{dataset_dir.name}", name, latent, maps[name])
    title = f"{session.label}, {dataset_dir.name}"
    columns = ("latent", "flavors behind it", "first component", "second component",
               "distance from the mean", "cohort's median", "nearer to the mean")  # fmt: skip
    figure = _place_picture(maps, latents, session.label) if maps else None
    return Place(title, figure, Grid.of(f"Latents of {title}", columns, rows), tuple(notices))


def _place_row(name: str, latent: SessionLatent, of_all: LatentMap) -> list[str | Cell]:
    place, distance = of_all.place(latent.values)
    n_nearer = int((of_all.distances < distance * (1 - 1e-6)).sum())
    return [name, latent.n_inputs, *(f"{score:.3f}" for score in place), f"{distance:.3f}",
            f"{np.median(of_all.distances):.3f}",
            f"{n_nearer} of {len(of_all.distances)}"]  # fmt: skip


def _place_notice(
    start: str, name: str, latent: SessionLatent, of_all: LatentMap
) -> Iterator[Notice]:
    _, distance = of_all.place(latent.values)
    if distance > of_all.far:
        yield Notice(
            f"{start}: the latent {name} lies {distance:.3g} from the cohort's mean, where "
            f"{np.median(of_all.distances):.3g} is the median",
            _FAR,
            "Look at the quality measures above, and think of leaving the session out.",
        )


def _place_picture(
    maps: Mapping[str, LatentMap], latents: Mapping[str, SessionLatent], label: str
) -> Picture:
    values = {name: latent.values for name, latent in latents.items()}
    n_sessions = max(len(found.labels) for found in maps.values())
    return Picture.drawn(
        draw_place(maps, values, label),
        alt=f"Latents of {label} on the first two principal components of {n_sessions} sessions, "
        "and their distances from the mean; the same numbers are in the table below",
        caption=f"{label} (red) among {n_of(n_sessions, 'session')} (grey): first two principal "
        "components of the latents, with their share of the variance; below, how far latents lie "
        "from the cohort's mean. Dotted: unusually far. Data sets are small beside 128 "
        "dimensions: points that lie near each other here may be far apart in the others.",
    )


def colour_columns(tables: Sequence[Rows]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Take the columns that a cohort's map can be coloured by out of tables of participants.

    Parameters
    ----------
    tables
        Rows with ``participant_id``, the first table first: of a column of one name in several,
        the first is taken.

    Returns
    -------
    dict
        Text by participant (with ``sub-``), by column.
    list of str
        Columns left out: a value only, or names of which hardly one comes twice.
    """
    columns: dict[str, dict[str, str]] = {}
    for rows in tables:
        known = set(columns)
        for row in rows:
            label = "sub-" + row.get("participant_id", "").removeprefix("sub-")
            for name, text in row.items():
                if name not in known and name not in _NAMES:
                    columns.setdefault(name, {})[label] = text.strip()
    left_out = [name for name, values in columns.items() if not _tells(list(values.values()))]
    chosen = {name: values for name, values in columns.items() if name not in left_out}
    left_out += list(chosen)[MOST_COLUMNS:]
    return dict(list(chosen.items())[:MOST_COLUMNS]), left_out


def _tells(texts: Sequence[str]) -> bool:
    """Whether a column tells numbers or groups: several names, and not one for each."""
    known = [text for text in texts if text not in {"n/a", ""}]
    n_levels = len(set(known))
    return n_levels > 1 and (all(map(_is_number, known)) or n_levels <= max(len(known) // 2, 4))


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


@dataclass(frozen=True, eq=False)
class MapPicture:
    """The map of a cohort, coloured by a column; `name` is what it is chosen by."""

    name: str
    picture: Picture


def map_pictures(
    maps: Sequence[LatentMap], columns: Mapping[str, Mapping[str, str]]
) -> list[MapPicture]:
    """Draw the map of a cohort once for each column, or once in one colour.

    Parameters
    ----------
    maps
        By fusion; nothing is drawn without one.
    columns
        Text by participant or session, by column.
    """
    if not maps:
        return []
    n_sessions = max(len(found.labels) for found in maps)
    drawn = []
    for name in columns or ("",):
        values = columns.get(name, {})
        of_sessions = {
            label: values.get(label, values.get(label.partition("_ses-")[0], "n/a"))
            for found in maps
            for label in found.labels
        }
        by = f", by {name}" if name else ""
        picture = Picture.drawn(
            draw_coloured_map(maps, of_sessions if name else {}, name),
            alt=f"First two principal components of the latents of {n_sessions} sessions{by}",
            caption=f"First two principal components of the latents{by}, each fusion on its own "
            "components; in brackets the share of the variance.",
        )
        drawn.append(MapPicture(name or "all", picture))
    return drawn


def outlier_warnings(maps: Sequence[LatentMap]) -> Iterator[Notice]:
    """Say whose latents lie unusually far from the mean."""
    for found in maps:
        if found.outliers:
            yield Notice(
                f"{n_of(len(found.outliers), 'latent')} of {found.fusion} unusually far from the "
                "cohort's mean",
                _FAR,
                "Look at their pages.",
                found.outliers,
            )


def participants_tables(*files: Path | None) -> list[Rows]:
    """Rows of the files that there are."""
    return [read_rows(file) for file in files if file is not None and file.is_file()]
