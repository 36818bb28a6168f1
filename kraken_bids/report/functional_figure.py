# SPDX-License-Identifier: MIT
"""A functional run over time: motion, signal changes, and its regions before and after."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .canvas import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    VERMILION,
    Drawing,
    colour_map,
    new_figure,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Framewise displacement marked in the figure, in mm (Power et al., 2014).
_FD_MARKS_MM = (0.2, 0.5)
#: Grey levels of the carpets reach so many standard deviations to either side.
CARPET_LIMIT = 2.0
#: Colours of the mean signals that are drawn, by name.
_SIGNAL_COLOURS = {"global": GREEN, "WM": ORANGE, "CSF": BLUE}

Traces = Mapping[str, NDArray[Any]]


def draw_functional_qc(traces: Traces) -> Drawing:
    """Draw motion, signal changes and the series of all regions over time.

    Parameters
    ----------
    traces
        ``repetition_time_s``; ``framewise_displacement_mm``, ``dvars``, ``global_signal``,
        ``is_outlier``, (T,) each; ``series``, (T, R), z-scored. If there are: ``denoised_series``,
        (T, R), likewise; ``region_groups``, (R,), regions of one group together; ``tissue_names``
        (n,) and ``tissue_signals`` (T, n). Volumes that count as outliers are shaded.

    """
    carpets = {"before": np.asarray(traces["series"], dtype=np.float64)}
    if "denoised_series" in traces:
        carpets["after"] = np.asarray(traces["denoised_series"], dtype=np.float64)
    seconds, step = _times(traces, len(carpets["before"]))
    outliers = np.asarray(traces["is_outlier"]).astype(bool)
    figure = new_figure(9.0, 4.0 + 2.3 * len(carpets))
    grid = figure.add_gridspec(3 + len(carpets), 1, height_ratios=[1, 1, 1, *[2.3] * len(carpets)])
    for row, draw in enumerate((_draw_motion, _draw_dvars, _draw_signals)):
        axes = figure.add_subplot(grid[row])
        draw(axes, traces, seconds)
        _shade(axes, seconds, outliers, step)
        axes.set_xlim(seconds[0] - step / 2, seconds[-1] + step / 2)
        axes.tick_params(labelbottom=False)
    figure.axes[0].set_title(_describe_outliers(outliers), fontsize=10, color=INK)
    groups = [str(name) for name in traces.get("region_groups", np.array([]))]
    for row, (name, series) in enumerate(carpets.items(), start=3):
        axes = figure.add_subplot(grid[row])
        _draw_carpet(axes, series, (seconds[0] - step / 2, seconds[-1] + step / 2), groups)
        title = f"regions {name} denoising (z; black and white: ∓{CARPET_LIMIT:g} or beyond)"
        is_last = row == 2 + len(carpets)
        style(axes, title=title, xlabel="time (s)" if is_last else "")
        axes.tick_params(labelbottom=is_last)
        if groups:
            axes.tick_params(axis="y", labelsize=7.5, length=0)
        else:
            axes.set_ylabel("region", fontsize=9, color=INK)
    return Drawing(figure, n_colours=256)


def _times(traces: Traces, n_volumes: int) -> tuple[NDArray[np.float64], float]:
    """Time of each volume, and between volumes, in s."""
    step = float(np.asarray(traces["repetition_time_s"]).ravel()[0])
    return np.arange(n_volumes, dtype=np.float64) * step, step


def _describe_outliers(outliers: NDArray[np.bool_]) -> str:
    return f"shaded: {outliers.sum()} outliers ({100 * outliers.mean():.0f} %), left out"


def _draw_motion(axes: Axes, traces: Traces, seconds: NDArray[np.float64]) -> None:
    """Framewise displacement, with the usual limits as far as they are in sight."""
    values = np.asarray(traces["framewise_displacement_mm"], dtype=np.float64)
    if not np.isfinite(values).any():
        _say_unknown(axes, "motion is not known")
        style(axes, ylabel="FD (mm)")
        return
    axes.plot(seconds, values, color=VERMILION, linewidth=0.9)
    style(axes, ylabel="FD (mm)")
    top = axes.get_ylim()[1]
    for mark in _FD_MARKS_MM:
        if 0.15 * top < mark <= 1.5 * top:  # lower ones would lie upon each other
            axes.axhline(mark, color=INK, linewidth=0.5, linestyle=":")
            axes.text(1.003, mark, f"{mark:g}", transform=axes.get_yaxis_transform(), fontsize=7,
                      va="center")  # fmt: skip
    axes.set_ylim(bottom=0)


def _draw_dvars(axes: Axes, traces: Traces, seconds: NDArray[np.float64]) -> None:
    """DVARS before denoising."""
    values = np.asarray(traces["dvars"], dtype=np.float64)
    if np.isfinite(values).any():
        axes.plot(seconds, values, color=BLUE, linewidth=0.9)
    else:
        _say_unknown(axes, "no scale: the series came denoised")
    style(axes, ylabel="DVARS\n(‰)")


def _draw_signals(axes: Axes, traces: Traces, seconds: NDArray[np.float64]) -> None:
    """Global signal and mean signals of tissues before denoising, z-scored."""
    signals = {"global": np.asarray(traces["global_signal"], dtype=np.float64)}
    for name, values in zip(
        traces.get("tissue_names", ()), np.transpose(traces.get("tissue_signals", ())), strict=True
    ):
        signals[str(name)] = np.asarray(values, dtype=np.float64)
    for name, values in signals.items():
        if name not in _SIGNAL_COLOURS:
            continue  # grey matter would hide under the global signal
        spread = np.nanstd(values) if np.isfinite(values).any() else 0.0
        z = (values - np.nanmean(values)) / spread if spread > 0 else np.zeros(len(values))
        axes.plot(seconds, z, color=_SIGNAL_COLOURS[name], linewidth=0.8, label=name)
    style(axes, ylabel="mean signal\n(z)")
    if len(signals) > 1:
        axes.legend(loc="upper right", ncols=3, frameon=False, fontsize=7, borderpad=0.1)


def _say_unknown(axes: Axes, words: str) -> None:
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", fontsize=9)
    axes.set_yticks([])


def _draw_carpet(
    axes: Axes, series: NDArray[np.float64], span: tuple[float, float], groups: list[str]
) -> None:
    """Draw series as rows of grey, with the names of groups of regions at the left."""
    n_regions = series.shape[1]
    axes.imshow(
        series.T, aspect="auto", cmap=colour_map("gray"), vmin=-CARPET_LIMIT, vmax=CARPET_LIMIT,
        interpolation="nearest", interpolation_stage="data",
        extent=(*span, n_regions + 0.5, 0.5),
    )  # fmt: skip
    start, ticks, names = 1, [], []
    for name, members in itertools.groupby(groups):
        stop = start + len(list(members))
        if start > 1:
            axes.axhline(start - 0.5, color=VERMILION, linewidth=0.7)
        if stop - start >= 0.04 * n_regions:  # smaller ones have no room for a name
            ticks.append((start + stop - 1) / 2)
            has_room = stop - start >= 0.2 * n_regions
            names.append(name.replace(", ", "\n" if has_room else " "))
        start = stop
    if names:
        axes.set_yticks(ticks, names)


def _shade(
    axes: Axes, seconds: NDArray[np.floating], outliers: NDArray[np.bool_], step: float
) -> None:
    """Shade the volumes that count as outliers, one band a run of volumes."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], outliers, [False]]).astype(int)))
    for first, stop in zip(edges[::2], edges[1::2], strict=True):
        axes.axvspan(
            seconds[first] - step / 2, seconds[stop - 1] + step / 2, color=ORANGE, alpha=0.35,
            linewidth=0,
        )  # fmt: skip
