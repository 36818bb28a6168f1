# SPDX-License-Identifier: MIT
"""How well every target is predicted from every source: a sheet of heat maps."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .canvas import BLUE, INK, VERMILION, Drawing, new_figure, require, style
from .heatmaps import (
    ColourScale,
    add_colour_bar,
    draw_heatmap,
    linear_scale,
    name_cells,
    say_numbers,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

#: Largest size of the sheet in bytes.
MAX_SHEET_BYTES = 3_000_000
#: Cells, and the margins for labels, titles and colour bars, in inches.
_CELL_IN = 0.30, 0.235
_TITLE_IN, _BAR_IN, _EDGE_IN = 0.46, 0.95, 0.12
#: Room for the axes' titles, and for a letter of the longest label, level and slanted.
_AXIS_IN, _LEVEL_IN, _SLANTED_IN = 0.42, 0.062, 0.054
#: Ticks of a colour bar nearer to the mark of chance than this are left out.
_NEAR_IN = 0.14
#: Least size of a panel, so that its title has room.
_LEAST_IN = 2.3, 1.2
#: What the row and column of means are called.
MEAN = "mean"


@dataclass(frozen=True, eq=False)
class MetricPanel:
    """One metric of all sources and targets.

    Parameters
    ----------
    title
        Its name, with what is perfect or what it is taken over.
    values
        (n_sources, n_targets), NaN where there is none.
    low, high
        Ends of the colour scale; a scale from negative to positive numbers has two colours.
    chance
        What predictions dealt at random would reach, or NaN.
    """

    title: str
    values: NDArray[np.floating]
    low: float = 0.0
    high: float = 1.0
    chance: float = math.nan


@dataclass(frozen=True, eq=False)
class _Layout:
    """Order of rows and columns: flavors, their mean, a gap, then fusions.

    Parameters
    ----------
    rows, columns
        Positions among sources and targets; -1 for the mean, -2 for the gap.
    """

    rows: list[int]
    columns: list[int]
    row_names: list[str] = field(default_factory=list)
    column_names: list[str] = field(default_factory=list)
    row_groups: list[str] = field(default_factory=list)
    column_groups: list[str] = field(default_factory=list)


_MEAN, _GAP = -1, -2


def draw_metrics(
    panels: Sequence[MetricPanel],
    sources: Sequence[str],
    targets: Sequence[str],
    *,
    blank: Collection[tuple[str, str]] = (),
) -> Drawing:
    """Draw a heat map a metric: sources in rows, targets in columns, numbers in cells.

    Flavors stand by group, kind and atlas, with the mean over them at the end; fusions stand
    apart below. Chance is marked at the colour bar.

    Parameters
    ----------
    panels
        The metrics.
    sources, targets
        Names of the panels' rows and columns. A source is a fusion if it is no connectome
        flavor (three parts joined by ``_``).
    blank
        Pairs of source and target that say nothing new, such as a fusion without the target's
        flavor where it never had it; drawn empty.

    Raises
    ------
    UsageError
        If there is no panel, source or target.
    """
    for needed, what in ((panels, "metric"), (sources, "source"), (targets, "target")):
        require(needed, what)
    layout = _lay_out(sources, targets)
    n_rows = math.isqrt(len(panels))
    n_columns = -(-len(panels) // n_rows)
    width = max(len(layout.columns) * _CELL_IN[0], _LEAST_IN[0])
    height = max(len(layout.rows) * _CELL_IN[1], _LEAST_IN[1])
    left_in = _AXIS_IN + _LEVEL_IN * max(len(name) for name in layout.row_names)
    bottom_in = _AXIS_IN + _SLANTED_IN * max(len(name) for name in layout.column_names)
    size = (
        left_in + n_columns * (width + _BAR_IN) + _EDGE_IN,
        bottom_in + n_rows * (height + _TITLE_IN) + _EDGE_IN,
    )
    figure = new_figure(*size, layout=None)
    for position, panel in enumerate(panels):
        row, column = divmod(position, n_columns)
        left = left_in + column * (width + _BAR_IN)
        bottom = size[1] - _EDGE_IN - (row + 1) * (height + _TITLE_IN)
        box = (left / size[0], bottom / size[1], width / size[0], height / size[1])
        bar = ((left + width + 0.08) / size[0], box[1], 0.11 / size[0], box[3])
        axes = figure.add_axes(box)
        scale = _scale(panel)
        _draw_panel(axes, panel, layout, scale, _positions(blank, sources, targets))
        is_lowest = position + n_columns >= len(panels)
        _label(axes, layout, with_rows=column == 0, with_columns=is_lowest)
        _draw_bar(figure, axes, figure.add_axes(bar), panel, scale)
    return Drawing(figure, dpi=150, n_colours=256, max_bytes=MAX_SHEET_BYTES)


def _scale(panel: MetricPanel) -> ColourScale:
    """One colour from low to high, or two that meet at zero."""
    is_two_sided = panel.low < 0 < panel.high
    name = "RdBu" if is_two_sided else "viridis"
    drawn = panel.values[np.isfinite(panel.values)]
    below = bool(drawn.size and drawn.min() < panel.low)
    above = bool(drawn.size and drawn.max() > panel.high)
    extend = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[below, above]
    return linear_scale(name, panel.low, panel.high, extend=extend)


def _positions(
    blank: Collection[tuple[str, str]], sources: Sequence[str], targets: Sequence[str]
) -> set[tuple[int, int]]:
    return {
        (sources.index(source), targets.index(target))
        for source, target in blank
        if source in sources and target in targets
    }


def with_means(
    values: NDArray[np.floating], rows: Sequence[int], columns: Sequence[int],
    *, n_flavors: tuple[Sequence[int], Sequence[int]],
) -> NDArray[np.float64]:  # fmt: skip
    """Take cells in the order of `rows` and `columns`, with means where these are negative.

    Parameters
    ----------
    values
        (n_sources, n_targets).
    rows, columns
        Positions; -1 for the mean over the flavors of `n_flavors`, -2 for an empty line.
    n_flavors
        Positions of the sources, and of the targets, that are flavors.
    """
    sources, targets = n_flavors

    def mean(cells: NDArray[np.floating]) -> float:
        kept = cells[np.isfinite(cells)]
        return float(kept.mean()) if kept.size else math.nan

    grid = np.full((len(rows), len(columns)), math.nan)
    for (i, row), (j, column) in ((a, b) for a in enumerate(rows) for b in enumerate(columns)):
        if _GAP not in {row, column}:
            block = values[list(sources) if row == _MEAN else [row]]
            grid[i, j] = mean(block[:, list(targets) if column == _MEAN else [column]])
    return grid


def _draw_panel(
    axes: Axes,
    panel: MetricPanel,
    layout: _Layout,
    scale: ColourScale,
    blank: set[tuple[int, int]],
) -> None:
    """Draw the cells, the lines between groups, and the numbers."""
    values = np.array(panel.values, dtype=np.float64)
    for cell in blank:
        values[cell] = math.nan
    flavors = (
        [row for row, group in zip(layout.rows, layout.row_groups, strict=True)
         if group in {"FC", "SC"}],
        [column for column in layout.columns if column >= 0],
    )  # fmt: skip
    grid = with_means(values, layout.rows, layout.columns, n_flavors=flavors)
    empty = {
        (i, j)
        for i, row in enumerate(layout.rows)
        for j, column in enumerate(layout.columns)
        if row == _GAP or column == _GAP or (row, column) in blank
    }
    draw_heatmap(axes, grid, scale)
    for i, j in empty:
        axes.add_patch(_cell(j, i, "white"))
    say_numbers(axes, grid, scale, size=6.2, write=short_number)
    _separate(axes, layout)
    style(axes, title=panel.title)
    axes.title.set_fontsize(9.5)


def _cell(column: int, row: int, colour: str) -> Rectangle:
    from matplotlib.patches import Rectangle

    # A little larger than the cell: no rim of the colour beneath.
    return Rectangle((column - 0.52, row - 0.52), 1.04, 1.04, facecolor=colour, edgecolor="none")


def short_number(value: float) -> str:
    """Write a number in the few letters that a cell has room for, without its leading zero.

    Examples
    --------
    >>> [short_number(value) for value in (0.8349, -0.061, 1.0, -0.001, -2.5, -182.53)]
    ['.83', '-.06', '1.00', '.00', '-2.50', '-183']
    """
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    text = f"{value:.{digits}f}"
    text = "0.00" if text == "-0.00" else text
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def _separate(axes: Axes, layout: _Layout) -> None:
    """Draw a white line where the group changes."""
    for groups, line in (
        (layout.row_groups, axes.axhline),
        (layout.column_groups, axes.axvline),
    ):
        for position in range(1, len(groups)):
            if groups[position] != groups[position - 1]:
                line(position - 0.5, color="white", linewidth=1.6)


def _label(axes: Axes, layout: _Layout, *, with_rows: bool, with_columns: bool) -> None:
    """Name rows and columns in the colours of their groups."""
    name_cells(
        axes,
        layout.column_names if with_columns else [],
        layout.row_names if with_rows else [],
    )
    axes.tick_params(length=0, labelsize=6.8, pad=2)
    axes.tick_params(axis="x", rotation=55)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for ticks, groups in (
        (axes.get_yticklabels(), layout.row_groups),
        (axes.get_xticklabels(), layout.column_groups),
    ):
        for tick, group in zip(ticks, groups, strict=False):
            tick.set_color({"FC": BLUE, "SC": VERMILION}.get(group, INK))
            tick.set_fontweight("bold" if tick.get_text() == MEAN else "normal")
    if with_rows:
        axes.set_ylabel("predicted from", fontsize=8.5, color=INK)
    if with_columns:
        axes.set_xlabel("measured and predicted", fontsize=8.5, color=INK)


def _draw_bar(
    figure: Figure, axes: Axes, bar_axes: Axes, panel: MetricPanel, scale: ColourScale
) -> None:
    """Draw the colour bar, with a mark where chance lies in place of the ticks near it."""
    bar = add_colour_bar(figure, axes.images[0], scale, inside=bar_axes)
    span = panel.high - panel.low
    ticks = dict.fromkeys(np.linspace(panel.low, panel.high, 5).tolist())
    if panel.low <= panel.chance <= panel.high:
        near = _NEAR_IN / (bar_axes.get_position().height * figure.get_figheight()) * span
        ticks = {tick: None for tick in ticks if abs(tick - panel.chance) > near}
        ticks[panel.chance] = None
        for colour, width in (("white", 2.6), (INK, 1.2)):
            bar.ax.axhline(panel.chance, color=colour, linewidth=width)
    labels = [
        f"{short_number(tick)} chance" if tick == panel.chance else short_number(tick)
        for tick in ticks
    ]
    bar.set_ticks(list(ticks), labels=labels)


def _lay_out(sources: Sequence[str], targets: Sequence[str]) -> _Layout:
    """Order rows and columns, and shorten their names."""
    flavors = [name for name in dict.fromkeys([*sources, *targets]) if _group(name)]
    names = short_names(flavors)
    rows = sorted((i for i, name in enumerate(sources) if _group(name)),
                  key=lambda i: flavor_order(sources[i]))  # fmt: skip
    columns = sorted(range(len(targets)), key=lambda j: flavor_order(targets[j]))
    layout = _Layout(rows=list(rows), columns=list(columns))
    layout.row_names.extend(names[sources[i]] for i in rows)
    layout.row_groups.extend(_group(sources[i]) for i in rows)
    layout.column_names.extend(names.get(targets[j], targets[j]) for j in columns)
    layout.column_groups.extend(_group(targets[j]) for j in columns)
    if len(rows) > 1:
        _append(layout, "row", _MEAN, MEAN)
    if len(columns) > 1:
        _append(layout, "column", _MEAN, MEAN)
    fused = [i for i, name in enumerate(sources) if not _group(name)]
    if rows and fused:
        _append(layout, "row", _GAP, "")
    for i in sorted(fused, key=lambda i: _fusion_order(sources[i])):
        _append(layout, "row", i, sources[i])
    return layout


def _append(layout: _Layout, side: str, position: int, name: str) -> None:
    group = {_MEAN: MEAN, _GAP: "gap"}.get(position, "fusion")
    (layout.rows if side == "row" else layout.columns).append(position)
    (layout.row_names if side == "row" else layout.column_names).append(name)
    (layout.row_groups if side == "row" else layout.column_groups).append(group)


def _group(name: str) -> str:
    """``FC`` or ``SC``, or empty for what is no connectome flavor, such as a fusion."""
    is_flavor = name.count("_") == 2 and name[:2] in {"FC", "SC"}
    return name[:2] if is_flavor else ""


def flavor_order(name: str) -> tuple[object, ...]:
    """Key that sorts flavors: FC before SC, full before partial correlation, then by atlas.

    Examples
    --------
    >>> names = ["SCsdstream_fs86_volnorm", "FCpcorr_fs86_hpf", "FCcorr_fs86_hpf"]
    >>> sorted(names, key=flavor_order)[0]
    'FCcorr_fs86_hpf'
    """
    kind, atlas, processing = [*name.split("_"), "", ""][:3]
    digits = "".join(letter for letter in atlas if letter.isdigit())
    return (kind[:2], "pcorr" in kind, int(digits or 0), atlas, kind, processing)


def _fusion_order(name: str) -> tuple[object, ...]:
    """Plain fusions first, then their variants, else as they came (sorting is stable)."""
    variant = name.rpartition(".")[2] if "." in name else ""
    return (variant == "noatlas", variant != "")


def short_names(flavors: Sequence[str]) -> dict[str, str]:
    """Leave out of flavors' names what all of them share.

    Parameters
    ----------
    flavors
        ``<kind>_<atlas>_<processing>`` each.

    Returns
    -------
    dict
        Short names, all different: atlas (if there are several), kind, and processing (if a
        kind has several).

    Examples
    --------
    >>> short_names(["FCcorr_fs86_hpf", "FCcorr_fs86_hpfgsr", "SCsdstream_fs86_volnorm"])
    ... # doctest: +NORMALIZE_WHITESPACE
    {'FCcorr_fs86_hpf': 'FCcorr hpf', 'FCcorr_fs86_hpfgsr': 'FCcorr hpfgsr',
     'SCsdstream_fs86_volnorm': 'SCsdstream'}
    """
    parts = {name: tuple(name.split("_")) for name in flavors}
    several_atlases = len({atlas for _, atlas, _ in parts.values()}) > 1
    short = {}
    for name, (kind, atlas, processing) in parts.items():
        ways = {p for k, _, p in parts.values() if k == kind}
        words = [*([atlas] if several_atlases else []), kind]
        words += [processing] if len(ways) > 1 else []
        short[name] = " ".join(words)
    return short
