# SPDX-License-Identifier: MIT
"""Quality measures over a cohort: how they are spread, who is unusual, what is published."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..console import n_of
from .anchors import FIRST, LIMITS, PUBLISHED, SIMILARITY, Limit
from .canvas import BLUE, INK, ORANGE, VERMILION, Drawing, new_figure, require, style
from .html import Grid, Notice, Picture
from .latent_map import FAR_SDS, far_from

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Values of each measure by its column: session and number.
Measures = Mapping[str, Sequence[tuple[str, float]]]

#: Sessions with a measure without which none of them is called unusual.
LEAST_SESSIONS = 10
#: Names written into a panel.
_MOST_NAMES = 3
#: Size of the figure in bytes.
FIGURE_BYTES = 120_000
_COLUMNS = 3


def is_shown(column: str) -> bool:
    """Whether the spread of a measure is drawn; similarities have a figure of their own."""
    known = column in FIRST or column in PUBLISHED or _limit(column) is not None
    return known and not column.startswith(SIMILARITY)


def _limit(column: str) -> Limit | None:
    return next((limit for limit in LIMITS if limit.column == column), None)


@dataclass(frozen=True, eq=False)
class Spread:
    """Values of one measure over a cohort.

    Parameters
    ----------
    column
        Name of the measure.
    labels, values
        (n,): sessions, and their numbers.
    """

    column: str
    labels: tuple[str, ...]
    values: np.ndarray

    @property
    def outliers(self) -> tuple[int, ...]:
        """Rows that are unusual in this cohort, the most unusual first."""
        return _rows_beyond(self.values, *far_from(self.values, least=LEAST_SESSIONS))

    @property
    def beyond_limit(self) -> tuple[int, ...]:
        """Rows beyond what is usual anywhere, the farthest first."""
        limit = _limit(self.column)
        if limit is None:
            return ()
        return _rows_beyond(self.values, limit.least, limit.most)

    @property
    def named(self) -> tuple[int, ...]:
        """All rows that are told by name, each once."""
        return tuple(dict.fromkeys((*self.beyond_limit, *self.outliers)))


def _rows_beyond(values: np.ndarray, low: float, high: float) -> tuple[int, ...]:
    """Rows below one bound or above the other, the farthest first."""
    beyond = np.maximum(low - values, values - high)
    return tuple(int(row) for row in np.argsort(-beyond, kind="stable") if beyond[row] > 0)


def read_spreads(measures: Measures) -> list[Spread]:
    """Take the measures that are drawn and differ between sessions, in the order of the tables."""
    found = []
    for column, pairs in measures.items():
        values = np.array([value for _, value in pairs])
        if is_shown(column) and len(values) > 1 and np.isfinite(values).all() and np.ptp(values):
            found.append(Spread(column, tuple(label for label, _ in pairs), values))
    return found


def spread_warnings(spreads: Sequence[Spread]) -> Iterator[Notice]:
    """Say whose measures are beyond what is usual anywhere."""
    for spread in spreads:
        limit, rows = _limit(spread.column), spread.beyond_limit
        if limit is not None and rows:
            names = tuple(f"{spread.labels[row]} ({spread.values[row]:.3g})" for row in rows)
            count = n_of(len(rows), "session")
            yield Notice(
                f"{spread.column} is outside what is usual in {count}",
                limit.meaning,
                limit.advice,
                names,
            )


def spread_grid(spreads: Sequence[Spread]) -> Grid:
    """Make a table with a row a measure, outliers by name."""
    rows = []
    for spread in spreads:
        anchor = PUBLISHED.get(spread.column)
        outliers = ", ".join(
            f"{spread.labels[row]} ({spread.values[row]:.3g})" for row in spread.outliers
        )
        numbers = (np.median(spread.values), spread.values.min(), spread.values.max())
        rows.append([
            spread.column,
            str(len(spread.values)),
            *(f"{number:.5g}" for number in numbers),
            anchor.text if anchor else "",
            str(len(spread.beyond_limit)) if _limit(spread.column) else "n/a",
            outliers,
        ])
    columns = ("measure", "sessions", "median", "least", "largest", "published",
               "outside the usual", "outliers in this cohort")  # fmt: skip
    return Grid.of("Spread of the quality measures", columns, rows)


def spread_pictures(spreads: Sequence[Spread]) -> list[Picture]:
    """Draw the spread of all measures, if there are any."""
    if not spreads:
        return []
    return [
        Picture.drawn(
            draw_spreads(spreads),
            alt=f"Spread of {len(spreads)} quality measures over the cohort; the same numbers and "
            "the names of outliers are in the table below",
            caption="Each point is a session. Black line and orange bar: published mean and its "
            "spread (the young healthy adults of the training data). Red line: limit of what is "
            f"usual anywhere. Named, the {_MOST_NAMES} farthest at most: beyond that limit, or "
            f"more than {FAR_SDS:g} standard deviations (from the median absolute deviation) from "
            "the cohort's median.",
        )
    ]


def draw_spreads(spreads: Sequence[Spread]) -> Drawing:
    """Draw the values of each measure as points in a panel of its own, with what is published.

    Parameters
    ----------
    spreads
        Measures.

    Raises
    ------
    UsageError
        If there is none.
    """
    require(spreads, "measure")
    n_columns = min(_COLUMNS, len(spreads))
    n_rows = -(-len(spreads) // n_columns)
    figure = new_figure(3.1 * n_columns, 0.95 * n_rows + 0.1)
    # Points are moved apart by a fixed pattern: the same data give the same file.
    rng = np.random.default_rng(0)
    for place, spread in enumerate(spreads, start=1):
        _draw_spread(figure.add_subplot(n_rows, n_columns, place), spread, rng)
    return Drawing(figure, n_colours=64, max_bytes=FIGURE_BYTES)


def _draw_spread(axes: Axes, spread: Spread, rng: np.random.Generator) -> None:
    anchor, limit = PUBLISHED.get(spread.column), _limit(spread.column)
    heights = rng.uniform(-0.3, 0.3, len(spread.values))
    size = float(np.clip(40 / np.sqrt(len(spread.values)), 1.0, 4.0))
    if anchor is not None and anchor.low is not None and anchor.high is not None:
        axes.barh(0, anchor.high - anchor.low, left=anchor.low, height=1.0, color=ORANGE,
                  alpha=0.45)  # fmt: skip
    if anchor is not None and anchor.mean is not None:
        axes.plot([anchor.mean] * 2, [-0.5, 0.5], color=INK, linewidth=1.3)
    axes.plot(spread.values, heights, "o", ms=size, color=BLUE, alpha=0.75, markeredgewidth=0)
    low, high = axes.get_xlim()
    for end in (limit.least, limit.most) if limit is not None else ():
        near = min(spread.values.min(), end), max(spread.values.max(), end)
        # A limit that is far from all that is there would only squeeze the points.
        if np.isfinite(end) and near[1] - near[0] < 4 * (high - low) and end > 0:
            axes.plot([end] * 2, [-0.5, 0.5], color=VERMILION, linewidth=1.3)
    for row in spread.named[:_MOST_NAMES]:
        axes.annotate(spread.labels[row], (spread.values[row], heights[row]), fontsize=6,
                      color=INK, xytext=(2, 2), textcoords="offset points")  # fmt: skip
    axes.set_yticks([])
    axes.set_ylim(-0.6, 0.75)
    axes.margins(x=0.1)
    style(axes, title=spread.column)
    axes.title.set_fontsize(8)
    axes.tick_params(labelsize=7)
    axes.locator_params(axis="x", nbins=5)  # long numbers would run into each other
