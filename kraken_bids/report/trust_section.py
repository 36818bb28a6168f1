# SPDX-License-Identifier: MIT
"""What the pages say of whether predictions can be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..bids.names import output_path
from ..bids.trust_table import CONCERNS, FITS, TRUST_LABEL, Concern
from ..console import n_of
from .canvas import BLUE, FAINT, VERMILION, Drawing, new_figure, require, style
from .found import FoundSession, Rows, read_json, read_rows
from .html import Cell, Grid, Notice, Picture

#: Size of the figure in bytes.
FIGURE_BYTES = 90_000
#: Rows of the table of connectomes that do not fit; all are in the tables of the sessions.
N_LISTED = 200
#: Median match of modalities below which a whole cohort's are those of strangers, and the sessions
#: that it takes to say so.
LEAST_COHORT_MATCH, FEWEST_SESSIONS = 0.5, 20
#: Measures that are drawn, and their axes.
_DRAWN = {
    "explained": "share within the model's components",
    "distance": "distance to the training mean",
    "agreement": "agreement with the other flavors",
}
#: Columns of the participant's table: the rest is in the file.
_SHOWN = ("flavor", "verdict", "reasons", "training_mean_r", "scale", "explained", "distance",
          "agreement", "match")  # fmt: skip
#: Columns that hold sentences.
_WORDS = frozenset({"verdict", "reasons"})


@dataclass(frozen=True)
class FoundTrust:
    """The table of trust of one session.

    Parameters
    ----------
    label
        ``sub-X`` or ``sub-X_ses-Y``.
    rows
        A row a flavor.
    sidecar
        Its JSON.
    """

    label: str
    rows: Rows
    sidecar: Mapping[str, Any]

    @property
    def n_judged(self) -> int:
        """Sessions that its bounds rest on; 0 for bounds that hold for any cohort."""
        number = self.sidecar.get("NumberOfSessionsJudgedBy", 0)
        return number if isinstance(number, int) else 0


def find_trust(dataset_dir: Path) -> list[FoundTrust]:
    """Read the tables of all sessions of a data set of predictions; damaged ones are left out."""
    pattern = f"*_desc-{TRUST_LABEL}_qc.tsv"
    files = [*dataset_dir.glob(f"sub-*/{pattern}"), *dataset_dir.glob(f"sub-*/ses-*/{pattern}")]
    found = (_read(file) for file in sorted(files))
    return [one for one in found if one.rows]


def session_trust(dataset_dir: Path, session: FoundSession) -> FoundTrust | None:
    """Read the table of one session; None if there is none."""
    entities = [("sub", session.participant)]
    entities += [("ses", session.session)] if session.session else []
    found = _read(dataset_dir / output_path("trust", entities, desc=TRUST_LABEL))
    return found if found.rows else None


def _read(file: Path) -> FoundTrust:
    rows = tuple(row for row in read_rows(file) if row.get("flavor") and row.get("verdict"))
    label = file.name.removesuffix(f"_desc-{TRUST_LABEL}_qc.tsv")
    return FoundTrust(label, rows, read_json(file.with_suffix(".json")))


def _number(row: Mapping[str, str], column: str) -> float:
    try:
        return float(row.get(column, "nan"))
    except ValueError:
        return float("nan")


def _has(row: Mapping[str, str], concern: Concern) -> bool:
    return concern.words in row["verdict"]


def trust_warnings(found: Sequence[FoundTrust]) -> Iterator[Notice]:
    """Say whose connectomes do not fit, one line a concern."""
    for concern in CONCERNS.values():
        names = []
        for one in found:
            flavors = [row["flavor"] for row in one.rows if _has(row, concern)]
            if flavors:
                words = flavors[0] if len(flavors) == 1 else n_of(len(flavors), "flavor")
                names.append(f"{one.label} ({words})")
        if names:
            yield Notice(
                f"{len(names)} of {n_of(len(found), 'session')} with connectomes that the model "
                f"should not be trusted with: {concern.words}",
                concern.meaning,
                concern.advice,
                tuple(names),
            )
    matches = [_number(one.rows[0], "modality_match") for one in found]
    matches = [match for match in matches if np.isfinite(match)]
    if len(matches) >= FEWEST_SESSIONS and np.median(matches) < LEAST_COHORT_MATCH:
        yield Notice(
            "structural and functional latents fit each other no better than those of strangers "
            f"(median match {np.median(matches):.2f}, {n_of(len(matches), 'session')})",
            "the files of one modality are those of other people, or the model cannot carry what "
            "is individual in these data from one modality to the other",
            "Compare ids of both modalities; without a mistake there, take predictions across "
            "modalities for averages.",
        )


def session_warnings(found: FoundTrust, *, prefix: str = "") -> Iterator[Notice]:
    """Say what does not fit in one session, one line a concern."""
    for concern in CONCERNS.values():
        flavors = tuple(row["flavor"] for row in found.rows if _has(row, concern))
        if flavors:
            reasons = {
                name for row in found.rows if _has(row, concern)
                for name in row.get("reasons", "").split(", ")
            }  # fmt: skip
            yield Notice(
                f"{prefix}verdict on {n_of(len(flavors), 'connectome')}: {concern.words} "
                f"({', '.join(sorted(reasons))})",
                concern.meaning,
                concern.advice,
                flavors,
            )


def basis_words(found: Sequence[FoundTrust]) -> str:
    """Say what connectomes are judged by."""
    n_judged = max((one.n_judged for one in found), default=0)
    if n_judged:
        sessions = n_of(n_judged, "session")
        return f"Judged by the {sessions} of the cohort, and by bounds that hold for any."
    return (
        f"Judged by bounds that hold for any cohort: from {FEWEST_SESSIONS} sessions on, sessions "
        "are judged by each other, too, which finds much more."
    )


def flavor_grid(found: Sequence[FoundTrust]) -> Grid:
    """Make a table with a row a flavor."""
    by_flavor: dict[str, list[Mapping[str, str]]] = {}
    for one in found:
        for row in one.rows:
            by_flavor.setdefault(row["flavor"], []).append(row)
    lines = []
    for flavor, rows in by_flavor.items():
        n_fits = sum(row["verdict"] == FITS for row in rows)
        n_of_concern = [str(sum(_has(row, one) for row in rows)) for one in CONCERNS.values()]
        medians = [_median(_number(row, column) for row in rows) for column in _DRAWN]
        lines.append([flavor, str(len(rows)), str(n_fits), *n_of_concern, *medians])
    columns = ("flavor", "connectomes", "fit", *(one.words for one in CONCERNS.values()),
               *(f"median {column}" for column in _DRAWN))  # fmt: skip
    return Grid.of("Whether predictions can be trusted", columns, lines)


def _median(values: Iterable[float]) -> str:
    there = [value for value in values if np.isfinite(value)]
    return f"{np.median(there):.4f}" if there else "n/a"


def doubt_grid(found: Sequence[FoundTrust]) -> Grid:
    """Make a table with a row a connectome that does not fit; the first `N_LISTED` of them."""
    rows: list[list[str | Cell]] = [
        [one.label, row["flavor"], Cell(row["verdict"], "words"),
         Cell(row.get("reasons", ""), "words"), *(row.get(column, "n/a") for column in _DRAWN)]
        for one in found
        for row in one.rows
        if row["verdict"] != FITS
    ]  # fmt: skip
    title = f"Connectomes that do not fit ({len(rows)}"
    title += f", the first {N_LISTED})" if len(rows) > N_LISTED else ")"
    columns = ("session", "flavor", "verdict", "reasons", *_DRAWN)
    return Grid.of(title, columns, rows[:N_LISTED])


def session_grid(found: FoundTrust) -> Grid:
    """Make the table of a session."""
    columns = [name for name in _SHOWN
               if any(row.get(name, "n/a") not in {"n/a", ""} for row in found.rows)]  # fmt: skip
    meanings = [
        (name, str(found.sidecar[name]["Description"]))
        for name in columns
        if isinstance(found.sidecar.get(name), Mapping) and "Description" in found.sidecar[name]
    ]
    cells: list[list[str | Cell]] = [
        [
            Cell(row.get(name, "n/a"), "words") if name in _WORDS else row.get(name, "n/a")
            for name in columns
        ]
        for row in found.rows
    ]
    return Grid.of(f"Trust in predictions of {found.label}", columns, cells, meanings=meanings)


def trust_pictures(found: Sequence[FoundTrust]) -> list[Picture]:
    """Draw the measures of all connectomes, if there are any."""
    rows = [row for one in found for row in one.rows]
    if not any(np.isfinite(_number(row, column)) for row in rows for column in _DRAWN):
        return []
    return [
        Picture.drawn(
            draw_trust(rows),
            alt="Share within the model's components, distance to the training mean and agreement "
            "with the other flavors of each connectome, by flavor; medians are in the table below",
            caption="Each point is a connectome; red: something of it is not usual, here or in "
            "another measure. Dotted: the root mean square distance of the training participants.",
        )
    ]


def draw_trust(
    rows: Sequence[Mapping[str, str]],
) -> Drawing:
    """Draw three measures as points, a row a flavor.

    Parameters
    ----------
    rows
        Of the tables of sessions: ``flavor``, ``verdict`` and measures as text.

    Raises
    ------
    UsageError
        If there is nothing to draw.
    """
    from matplotlib.ticker import LogLocator

    flavors = list(dict.fromkeys(row["flavor"] for row in rows))
    require(flavors, "connectome")
    figure = new_figure(10.0, 0.9 + 0.26 * len(flavors))
    panels = figure.subplots(1, len(_DRAWN), sharey=True)
    # Points of one row are moved apart by a fixed pattern: the same data give the same file.
    jitter = np.random.default_rng(0).uniform(-0.28, 0.28, len(rows))
    heights = np.array([flavors.index(row["flavor"]) for row in rows]) + jitter
    doubted = np.array([row["verdict"] != FITS for row in rows])
    for axes, (column, label) in zip(panels, _DRAWN.items(), strict=True):
        values = np.array([_number(row, column) for row in rows])
        for chosen, colour, size in ((~doubted, BLUE, 2.5), (doubted, VERMILION, 3.5)):
            axes.plot(values[chosen], heights[chosen], marker="o", markersize=size,
                      linestyle="none", color=colour, alpha=0.7, markeredgewidth=0)  # fmt: skip
        if column == "distance":
            if np.isfinite(values).any():
                axes.set_xscale("log")
                axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.xaxis.set_major_formatter("{x:g}")
                axes.xaxis.set_minor_formatter("")
            axes.axvline(1.0, color=FAINT, linewidth=0.8, linestyle=":")
        axes.grid(axis="x", linewidth=0.3)
        style(axes, xlabel=label)
    panels[0].set_yticks(range(len(flavors)), flavors)
    panels[0].set_ylim(len(flavors) - 0.5, -0.5)
    return Drawing(figure, n_colours=64, max_bytes=FIGURE_BYTES)
