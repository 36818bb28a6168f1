# SPDX-License-Identifier: MIT
"""Figures of latents: where one lies in its cohort, and the cohort coloured by what is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .canvas import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    MISSING_COLOUR,
    ORANGE,
    PURPLE,
    VERMILION,
    Drawing,
    new_figure,
    require,
    style,
)
from .heatmaps import add_colour_bar, linear_scale
from .latent_map import LatentMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Size of a figure in bytes: a page has one for every column of participants.tsv.
FIGURE_BYTES = 60_000
#: Names are written beside the points of cohorts of up to so many sessions.
MOST_NAMES = 40
#: Colour and marker of each level, for those who do not tell the colours apart.
_LEVELS = ((BLUE, "o"), (VERMILION, "s"), (GREEN, "^"), (PURPLE, "D"), (ORANGE, "v"), (INK, "P"),
           (FAINT, "X"))  # fmt: skip
#: Numbers of more different values than that are drawn on a scale.
_MOST_LEVELS = len(_LEVELS)
OTHERS = "others"


def draw_place(
    maps: Mapping[str, LatentMap],
    latents: Mapping[str, NDArray[np.floating]],
    label: str,
) -> Drawing:
    """Draw the latents of a session among those of its cohort, a column a fusion.

    Parameters
    ----------
    maps
        Of the cohort, by fusion.
    latents
        Of the session, (latent_size,) each, by fusion; at least one that has a map.
    label
        Name of the session.

    Raises
    ------
    UsageError
        If no fusion has both.
    """
    shown = [name for name in maps if name in latents]
    require(shown, "latent")
    figure = new_figure(max(3.3 * len(shown), 4.2), 4.6)
    grid = figure.add_gridspec(2, len(shown), height_ratios=(1.9, 1))
    for column, name in enumerate(shown):
        place, distance = maps[name].place(latents[name])
        _draw_among(figure.add_subplot(grid[0, column]), maps[name], place, label)
        _draw_distance(figure.add_subplot(grid[1, column]), maps[name], distance)
    return Drawing(figure, n_colours=48, max_bytes=FIGURE_BYTES)


def _draw_among(axes: Axes, of_all: LatentMap, place: NDArray[np.floating], label: str) -> None:
    """Draw a cohort in grey, and one of it."""
    axes.plot(*of_all.scores.T, "o", ms=_point_size(len(of_all.labels)), color=FAINT,
              markeredgewidth=0, alpha=0.6)  # fmt: skip
    axes.plot(*place, "D", ms=8, color=VERMILION, markeredgecolor="white", label=label)
    axes.margins(0.12)
    axes.legend(frameon=False, fontsize=7.5, handletextpad=0.1, loc="best")
    _style_map(axes, of_all)


def _style_map(axes: Axes, of_all: LatentMap) -> None:
    first, second = (100 * share for share in of_all.shares)
    style(axes, title=of_all.fusion, xlabel=f"first component ({first:.0f} %)",
          ylabel=f"second component ({second:.0f} %)")  # fmt: skip


def _draw_distance(axes: Axes, of_all: LatentMap, distance: float) -> None:
    """Draw how far latents lie from their mean: all as bars, one as a line."""
    n_bars = min(30, max(5, len(of_all.distances) // 4))
    # from 0: two sessions lie equally far from their mean, but for rounding
    far = max(float(of_all.distances.max()), distance, 1e-6)
    axes.hist(of_all.distances, bins=np.linspace(0, far, n_bars + 1).tolist(), color=FAINT,
              alpha=0.6)  # fmt: skip
    axes.axvline(distance, color=VERMILION, linewidth=2)
    if np.isfinite(of_all.far):
        axes.axvline(of_all.far, color=INK, linewidth=1, linestyle=":")
    axes.set_xlim(left=0)
    style(axes, xlabel="distance from the cohort's mean", ylabel="sessions")


def _point_size(n_points: int) -> float:
    """Diameter of points that many can be told apart."""
    return float(np.clip(60 / np.sqrt(max(n_points, 1)), 1.0, 6.0))


def draw_coloured_map(
    maps: Sequence[LatentMap],
    values: Mapping[str, str],
    column: str,
) -> Drawing:
    """Draw the latents of a cohort, a panel a fusion, coloured by a column of a table.

    Numbers of many values are drawn on a scale, all else in a colour and a marker a value: the
    commonest, and the others together. Sessions without a value are grey crosses.

    Parameters
    ----------
    maps
        One or more.
    values
        Text by session; ``n/a`` is as good as none. Empty: all alike.
    column
        Name of the column.

    Raises
    ------
    UsageError
        If there is no map.
    """
    require(maps, "latent")
    figure = new_figure(max(3.3 * len(maps) + 0.9, 4.2), 3.5)
    known = {label: text for label, text in values.items() if text not in {"n/a", ""}}
    numbers = as_scale(list(known.values()))
    panels = [figure.add_subplot(1, len(maps), place) for place in range(1, len(maps) + 1)]
    for axes, of_all in zip(panels, maps, strict=True):
        size = _point_size(len(of_all.labels))
        without = [row for row, label in enumerate(of_all.labels) if label not in known]
        if without and known:
            axes.plot(*of_all.scores[without].T, "x", ms=size, color=MISSING_COLOUR, label="n/a")
        if numbers is not None:
            scale = linear_scale("viridis", *numbers, label=column)
            rows = [row for row, label in enumerate(of_all.labels) if label in known]
            image = axes.scatter(
                of_all.scores[rows, 0],
                of_all.scores[rows, 1],
                s=size**2,
                c=[float(known[of_all.labels[row]]) for row in rows],
                cmap=scale.colours,
                norm=scale.norm,
                linewidths=0,
            )
            if axes is panels[-1]:
                add_colour_bar(figure, image, scale, beside=axes)  # type: ignore[arg-type]
        else:
            _draw_levels(axes, of_all, known, size)
        if len(of_all.labels) <= MOST_NAMES:
            for name, at in zip(of_all.labels, of_all.scores, strict=True):
                axes.annotate(name, tuple(at), fontsize=6, xytext=(3, 3),
                              textcoords="offset points")  # fmt: skip
        axes.margins(0.15)
        _style_map(axes, of_all)
    if numbers is None and known:
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, title=column, loc="outside right upper", frameon=False,
                      fontsize=7.5, title_fontsize=8)  # fmt: skip
    return Drawing(figure, n_colours=64, max_bytes=FIGURE_BYTES)


def _draw_levels(axes: Axes, of_all: LatentMap, known: Mapping[str, str], size: float) -> None:
    """Draw the points of each value in a colour and a marker of its own."""
    if not known:
        axes.plot(*of_all.scores.T, "o", ms=size, color=BLUE, markeredgewidth=0)
        return
    level_of = level_names(list(known.values()))
    for (colour, marker), level in zip(
        _LEVELS, sorted(set(level_of.values()), key=_last_others), strict=False
    ):
        rows = [row for row, label in enumerate(of_all.labels)
                if label in known and level_of[known[label]] == level]  # fmt: skip
        axes.plot(*of_all.scores[rows].T, marker, ms=size, color=colour, linestyle="none",
                  markeredgewidth=0, label=level)  # fmt: skip


def _last_others(level: str) -> tuple[bool, str]:
    return level == OTHERS, level


def as_scale(texts: Sequence[str]) -> tuple[float, float] | None:
    """Ends of the scale of a column of numbers; None if it is one of names, or of few values.

    Examples
    --------
    >>> as_scale(["1.5", "20", "3", "4", "5", "6", "7", "8"]), as_scale(["1", "2", "1"])
    ((1.5, 20.0), None)
    """
    try:
        numbers = {float(text) for text in texts}
    except ValueError:
        return None
    if len(numbers) <= _MOST_LEVELS or not np.isfinite(list(numbers)).all():
        return None
    return min(numbers), max(numbers)


def level_names(texts: Sequence[str]) -> dict[str, str]:
    """Name that each value of a column is drawn under: its own, or `OTHERS` if it is rare.

    Examples
    --------
    >>> level_names(["A", "A", "B"])
    {'A': 'A', 'B': 'B'}
    """
    counts = Counter(texts)
    n_named = len(counts) if len(counts) <= _MOST_LEVELS else _MOST_LEVELS - 1
    named = {text for text, _ in counts.most_common(n_named)}
    return {text: text if text in named else OTHERS for text in counts}
