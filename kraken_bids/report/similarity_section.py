# SPDX-License-Identifier: MIT
"""What the page of a cohort says of how much its connectomes are like the training data."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ..console import n_of
from ..errors import UsageError
from ..flavors import Flavor
from .anchors import LIMITS, PUBLISHED, SIMILARITY
from .canvas import BLUE, INK, ORANGE, VERMILION, Drawing, new_figure, require, style
from .found import Rows, flavor_order
from .html import Grid, Notice, Picture

#: Size of the figure in bytes.
FIGURE_BYTES = 60_000

#: Correlations by flavor, each with the names of the sessions.
Similarities = Mapping[str, Sequence[tuple[str, float]]]


def read_similarities(rows: Rows) -> dict[str, list[tuple[str, float]]]:
    """Take the correlations with the training mean out of the participants' table.

    Parameters
    ----------
    rows
        Of ``desc-participant_qc.tsv``.

    Returns
    -------
    dict
        Name of the session and correlation, by flavor; those that nobody has are left out.
    """
    found: dict[str, list[tuple[str, float]]] = {}
    for row in rows:
        session = row.get("session_id", "n/a")
        label = row.get("participant_id", "") + ("" if session in {"n/a", ""} else f"_{session}")
        for column, text in row.items():
            try:
                value = float(text)
            except ValueError:
                continue
            if column.startswith(SIMILARITY) and np.isfinite(value):
                found.setdefault(column.removeprefix(SIMILARITY), []).append((label, value))
    return {name: found[name] for name in sorted(found, key=_order)}


def _order(flavor: str) -> tuple[int, str, int]:
    """As everywhere on the pages; flavors that are not ours come last."""
    try:
        return flavor_order(Flavor.parse(flavor))
    except UsageError:
        return sys.maxsize, flavor, 0


def least_usual(flavor: str) -> float | None:
    """Correlation with the training mean below which something is wrong; None if not known."""
    column = f"{SIMILARITY}{flavor}"
    return next((limit.least for limit in LIMITS if limit.column == column), None)


def similarity_warnings(similarities: Similarities) -> Iterator[Notice]:
    """Say whose connectomes are far less like the training mean than is usual."""
    for flavor, pairs in similarities.items():
        column = f"{SIMILARITY}{flavor}"
        for limit in (limit for limit in LIMITS if limit.column == column):
            low = tuple(f"{label} ({value:.2f})" for label, value in pairs if value < limit.least)
            if low:
                yield Notice(
                    f"{n_of(len(low), 'connectome')} of {flavor} with a correlation below "
                    f"{limit.least:g} with the training mean",
                    limit.meaning,
                    limit.advice,
                    low,
                )


def similarity_grid(similarities: Similarities) -> Grid:
    """Make a table with a row a flavor."""
    rows = []
    for flavor, pairs in similarities.items():
        values = [value for _, value in pairs]
        least = least_usual(flavor)
        anchor = PUBLISHED.get(f"{SIMILARITY}{flavor}")
        n_low = "n/a" if least is None else str(sum(value < least for value in values))
        rows.append([flavor, str(len(values)), f"{np.median(values):.4f}", f"{min(values):.4f}",
                     f"{max(values):.4f}", anchor.text if anchor else "", n_low])  # fmt: skip
    columns = ("flavor", "connectomes", "median", "least", "largest", "published", "unusually low")
    return Grid.of("Correlation with the training mean", columns, rows)


def similarity_pictures(similarities: Similarities) -> list[Picture]:
    """Draw the correlations of all flavors, if there are any."""
    if not similarities:
        return []
    return [
        Picture.drawn(
            draw_similarities(similarities),
            alt="Correlation of each measured connectome with the mean of the model's training "
            "data, by flavor; medians and extremes are in the table below",
            caption="Each point is a connectome as measured. Black line and orange bar: published "
            "mean and range of the training participants (fs86). Red line: below it something is "
            "wrong with a connectome, or with most of them.",
        )
    ]


def draw_similarities(similarities: Similarities) -> Drawing:
    """Draw correlations with the training mean as points, a row a flavor.

    Parameters
    ----------
    similarities
        Session and correlation by flavor.

    Raises
    ------
    UsageError
        If there is nothing to draw.
    """
    require(similarities, "correlation")
    figure = new_figure(8.0, 0.8 + 0.3 * len(similarities))
    axes = figure.add_subplot()
    # Points of one row are moved apart by a fixed pattern: the same data give the same file.
    rng = np.random.default_rng(0)
    for row, (flavor, pairs) in enumerate(similarities.items()):
        anchor, least = PUBLISHED.get(f"{SIMILARITY}{flavor}"), least_usual(flavor)
        if anchor is not None and anchor.low is not None and anchor.high is not None:
            axes.barh(row, anchor.high - anchor.low, left=anchor.low, height=0.8, color=ORANGE,
                      alpha=0.45)  # fmt: skip
        for value, colour in ((anchor.mean if anchor else None, INK), (least, VERMILION)):
            if value is not None:
                axes.plot([value, value], [row - 0.4, row + 0.4], color=colour, linewidth=1.3)
        values = np.array([value for _, value in pairs])
        heights = row + rng.uniform(-0.25, 0.25, len(values)) * (len(values) > 1)
        axes.plot(values, heights, marker="o", markersize=3.5, linestyle="none", color=BLUE,
                  alpha=0.8, markeredgewidth=0)  # fmt: skip
    axes.set_yticks(range(len(similarities)), list(similarities))
    axes.set_ylim(len(similarities) - 0.5, -0.5)
    lowest = min(value for pairs in similarities.values() for _, value in pairs)
    axes.set_xlim(min(0.0, lowest - 0.05), 1.0)
    axes.grid(axis="x", linewidth=0.3)
    style(axes, xlabel="correlation with the mean of the model's training data")
    return Drawing(figure, n_colours=64, max_bytes=FIGURE_BYTES)
