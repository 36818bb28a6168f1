# SPDX-License-Identifier: MIT
"""Figures of data quality: one functional run, one diffusion series."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .canvas import (
    BLUE,
    GREEN,
    INK,
    MAX_BYTES,
    ORANGE,
    PURPLE,
    VERMILION,
    colour_map,
    new_figure,
    save_png,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Tissues of a five-tissue image, in its order, with their colours.
TISSUES: tuple[tuple[str, str], ...] = (
    ("cortical grey matter", VERMILION),
    ("subcortical grey matter", PURPLE),
    ("white matter", ORANGE),
    ("CSF", BLUE),
    ("lesion", GREEN),
)
#: Framewise displacement marked in the figure, in mm (Power et al., 2014).
_FD_MARKS_MM = (0.2, 0.5)


def draw_functional_qc(
    traces: Mapping[str, NDArray[Any]], out_file: Path | BytesIO, *, max_bytes: int = MAX_BYTES
) -> int:
    """Draw motion, signal changes and the series of all regions over time.

    Parameters
    ----------
    traces
        ``repetition_time_s``; ``framewise_displacement_mm``, ``dvars``, ``global_signal``,
        ``is_outlier``, (T,) each; ``series``, (T, R), z-scored. Volumes that count as outliers
        are shaded.
    out_file
        PNG file or buffer.
    max_bytes
        Size to stay below.

    Returns
    -------
    int
        Size of the PNG in bytes.
    """
    series = np.asarray(traces["series"], dtype=np.float64)
    seconds = np.arange(len(series)) * float(np.asarray(traces["repetition_time_s"]).ravel()[0])
    figure = new_figure(9.0, 5.6)
    grid = figure.add_gridspec(4, 1, height_ratios=(1, 1, 1, 3))
    panels = (
        ("framewise_displacement_mm", "FD (mm)", VERMILION),
        ("dvars", "DVARS", BLUE),
        ("global_signal", "global\nsignal", GREEN),
    )
    outliers = np.asarray(traces["is_outlier"]).astype(bool)
    step = float(seconds[1] - seconds[0]) if len(seconds) > 1 else 1.0
    for row, (key, label, colour) in enumerate(panels):
        axes = figure.add_subplot(grid[row])
        axes.plot(seconds, np.asarray(traces[key], dtype=np.float64), color=colour, linewidth=0.9)
        _shade(axes, seconds, outliers, step)
        style(axes, ylabel=label)
        axes.set_xlim(seconds[0] - step / 2, seconds[-1] + step / 2)
        axes.tick_params(labelbottom=False)
        if row == 0:
            _draw_motion_marks(axes)
            share = 100 * outliers.mean()
            style(axes, ylabel=label, title=f"shaded: {outliers.sum()} outliers ({share:.0f} %)")
    axes = figure.add_subplot(grid[3])
    axes.imshow(
        series.T, aspect="auto", cmap=colour_map("gray"), vmin=-2, vmax=2,
        interpolation="nearest", interpolation_stage="data",
        extent=(seconds[0] - step / 2, seconds[-1] + step / 2, series.shape[1] + 0.5, 0.5),
    )  # fmt: skip
    style(axes, xlabel="time (s)", ylabel="region")
    return save_png(figure, out_file, n_colours=256, max_bytes=max_bytes)


def _draw_motion_marks(axes: Axes) -> None:
    """Draw the usual limits of framewise displacement, as far as they are in sight."""
    top = axes.get_ylim()[1]
    for mark in _FD_MARKS_MM:
        if 0.15 * top < mark <= 1.5 * top:  # lower ones would lie upon each other
            axes.axhline(mark, color=INK, linewidth=0.5, linestyle=":")
            axes.text(1.003, mark, f"{mark:g}", transform=axes.get_yaxis_transform(), fontsize=7,
                      va="center")  # fmt: skip
    axes.set_ylim(bottom=0)


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


def draw_structural_qc(
    overview: Mapping[str, NDArray[Any]], out_file: Path | BytesIO, *, max_bytes: int = MAX_BYTES
) -> int:
    """Draw tissues and streamline density on the background, and the streamlines' lengths.

    Parameters
    ----------
    overview
        ``background`` and ``density``, (X, Y, Z); ``five_tissue``, (X, Y, Z, 5); ``affine``,
        (4, 4), voxel to RAS mm; ``lengths_ifod2act`` and ``lengths_sdstream``, (N,) mm. What is
        absent or empty is left out.
    out_file
        PNG file or buffer.
    max_bytes
        Size to stay below.

    Returns
    -------
    int
        Size of the PNG in bytes.
    """
    affine = np.asarray(overview["affine"], dtype=np.float64)
    background, sizes = to_ras(np.asarray(overview["background"], dtype=np.float32), affine)
    volumes = {
        key: to_ras(np.asarray(overview[key], dtype=np.float32), affine)[0]
        for key in ("five_tissue", "density")
        if key in overview and np.size(overview[key])
    }
    centre = _centre(volumes.get("five_tissue"), background)
    rows = [key for key in ("five_tissue", "density") if key in volumes]
    figure = new_figure(9.0, 2.9 * max(len(rows), 1) + 1.9)
    grid = figure.add_gridspec(
        max(len(rows), 1) + 1, 3, height_ratios=[2.9] * max(len(rows), 1) + [1.6]
    )
    for row, key in enumerate(rows or ["background"]):
        for plane in range(3):
            axes = figure.add_subplot(grid[row, plane])
            _draw_plane(axes, background, volumes.get(key), key, (plane, centre[plane]), sizes)
    _draw_lengths(figure.add_subplot(grid[-1, :]), overview)
    if "five_tissue" in volumes:
        _name_tissues(figure, volumes["five_tissue"])
    return save_png(figure, out_file, n_colours=256, max_bytes=max_bytes)


def to_ras(
    volume: NDArray[Any], affine: NDArray[np.floating]
) -> tuple[NDArray[Any], NDArray[np.floating]]:
    """Turn a volume's axes so that they run nearest to right, anterior and superior.

    Parameters
    ----------
    volume
        (X, Y, Z) or (X, Y, Z, C).
    affine
        (4, 4), voxel to RAS mm.

    Returns
    -------
    volume
        The same values, axes permuted and flipped.
    sizes
        (3,), voxel sizes in mm.
    """
    directions = np.asarray(affine)[:3, :3]
    sizes = np.linalg.norm(directions, axis=0)
    cosines = np.abs(directions / sizes)
    order = [-1, -1, -1]
    for _ in range(3):
        world, voxel = np.unravel_index(np.argmax(cosines), cosines.shape)
        order[int(world)] = int(voxel)
        cosines[world, :] = -1
        cosines[:, voxel] = -1
    turned = volume.transpose(*order, *range(3, volume.ndim))
    for axis, voxel_axis in enumerate(order):
        if directions[axis, voxel_axis] < 0:
            turned = np.flip(turned, axis=axis)
    return turned, sizes[order]


def _centre(five_tissue: NDArray[Any] | None, background: NDArray[Any]) -> tuple[int, ...]:
    """Find the voxel to cut through: the middle of the white matter, else of the bright part."""
    weights = five_tissue[..., 2] if five_tissue is not None else background
    weights = np.nan_to_num(np.clip(weights, 0, None)).astype(np.float64)
    if not weights.sum() > 0:
        return tuple(size // 2 for size in background.shape)
    middle = []
    for axis, size in enumerate(weights.shape):
        profile = weights.sum(axis=tuple(other for other in range(3) if other != axis))
        middle.append(int(np.round((profile * np.arange(size)).sum() / profile.sum())))
    # A step off the midline, where there is tissue to be seen on either side of it.
    middle[0] = min(middle[0] + max(1, weights.shape[0] // 25), weights.shape[0] - 1)
    return tuple(middle)


def _draw_plane(
    axes: Axes,
    background: NDArray[Any],
    overlay: NDArray[Any] | None,
    key: str,
    cut: tuple[int, int],
    sizes: NDArray[np.floating],
) -> None:
    """Draw one plane: background in grey, tissues as lines or density in colour."""
    plane, index = cut
    others = [axis for axis in range(3) if axis != plane]
    look: dict[str, Any] = {
        "origin": "lower",
        "interpolation": "nearest",
        "aspect": float(sizes[others[1]] / sizes[others[0]]),
    }
    slab = np.nan_to_num(background.take(index, axis=plane)).T
    top = float(np.percentile(background[background > 0], 99)) if (background > 0).any() else 1.0
    axes.imshow(slab, cmap=colour_map("gray"), vmin=0, vmax=top, **look)
    if key == "five_tissue" and overlay is not None:
        for tissue, (_name, colour) in enumerate(TISSUES):
            fraction = np.nan_to_num(overlay[..., tissue].take(index, axis=plane)).T
            if fraction.max() > 0.5:
                axes.contour(fraction, levels=[0.5], colors=[colour], linewidths=0.8)
    elif key == "density" and overlay is not None:
        values = np.nan_to_num(overlay.take(index, axis=plane)).T
        high = float(np.percentile(overlay[overlay > 0], 99)) if (overlay > 0).any() else 1.0
        seen = np.ma.masked_less_equal(np.log1p(values), 0)
        colours = colour_map("inferno", missing="none")
        axes.imshow(seen, cmap=colours, vmin=0, vmax=np.log1p(high), alpha=0.8, **look)
    axes.set_axis_off()
    if plane == 1:
        title = {"five_tissue": "five tissues", "density": "streamline density (log)"}
        axes.set_title(title.get(key, ""), fontsize=10)
    if plane != 0:
        for x, side in ((0.02, "L"), (0.98, "R")):
            axes.text(x, 0.02, side, transform=axes.transAxes, color="white", fontsize=9,
                      ha="left" if side == "L" else "right")  # fmt: skip


def _name_tissues(figure: Figure, five_tissue: NDArray[Any]) -> None:
    """Write the names of the tissues that are there above the planes."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, label=name)
        for tissue, (name, colour) in enumerate(TISSUES)
        if np.nanmax(five_tissue[..., tissue]) > 0.5
    ]
    if handles:
        figure.legend(
            handles=handles, loc="outside upper center", ncols=5, frameon=False, fontsize=8
        )


def _draw_lengths(axes: Axes, overview: Mapping[str, NDArray[Any]]) -> None:
    """Draw histograms of streamline lengths of both algorithms."""
    for key, label, colour in (
        ("lengths_ifod2act", "iFOD2 with ACT", BLUE),
        ("lengths_sdstream", "SD_STREAM", ORANGE),
    ):
        lengths = np.asarray(overview.get(key, []), dtype=np.float64)
        if lengths.size:
            axes.hist(lengths, bins=60, histtype="step", color=colour, linewidth=1.2,
                      label=f"{label}: {lengths.size:,} drawn, median {np.median(lengths):.0f} mm",
                      weights=np.full(lengths.size, 100 / lengths.size))  # fmt: skip
    style(axes, xlabel="streamline length (mm)", ylabel="% of streamlines")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)
