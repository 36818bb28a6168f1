# SPDX-License-Identifier: MIT
"""Figure of the quality of a diffusion series."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .canvas import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    VERMILION,
    Drawing,
    colour_map,
    new_figure,
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

#: Tissues by place, in the order in which they are drawn: small ones on top of large ones.
_DRAWN = (3, 2, 0, 4, 1)

#: Rows of planes, by the array that they show.
_ROWS: dict[str, str] = {
    "five_tissue": "five tissues",
    "orientation": "fibres: left-right red, back-front green, up-down blue",
    "density": "streamline density (log)",
}
#: Name and colour by algorithm.
_ALGORITHMS: dict[str, tuple[str, str]] = {
    "ifod2act": ("iFOD2 with ACT", BLUE),
    "sdstream": ("SD_STREAM", ORANGE),
}


def draw_structural_qc(overview: Mapping[str, NDArray[Any]]) -> Drawing:
    """Draw tissues and streamline density on the background, and the streamlines' lengths.

    Parameters
    ----------
    overview
        ``background`` and ``density``, (X, Y, Z); ``five_tissue``, (X, Y, Z, 5); ``affine``,
        (4, 4), voxel to RAS mm; ``orientation``, (X, Y, Z, 3), how much fibre runs along x, y and
        z, 0 to 1; ``lengths_ifod2act`` and ``lengths_sdstream``, (N,) mm; ``ends_<algorithm>_
        <atlas>``, (R,), ends of streamlines in each region. What is absent or empty is left out.

    """
    affine = np.asarray(overview["affine"], dtype=np.float64)
    background, sizes = to_ras(np.asarray(overview["background"], dtype=np.float32), affine)
    volumes = {
        key: to_ras(np.asarray(overview[key], dtype=np.float32), affine)[0]
        for key in _ROWS
        if key in overview and np.size(overview[key])
    }
    centre = _centre(volumes.get("five_tissue"), background)
    rows = [key for key in _ROWS if key in volumes] or ["background"]
    atlases = [key.split("_", 2)[2] for key in overview if key.startswith("ends_")]
    atlases = list(dict.fromkeys(atlases))
    heights = [2.9] * len(rows) + [1.6] + [1.6] * bool(atlases)
    figure = new_figure(9.0, sum(heights) + 0.3)
    grid = figure.add_gridspec(len(heights), 3, height_ratios=heights)
    for row, key in enumerate(rows):
        for plane in range(3):
            axes = figure.add_subplot(grid[row, plane])
            _draw_plane(axes, background, volumes.get(key), key, (plane, centre[plane]), sizes)
    _draw_lengths(figure.add_subplot(grid[len(rows), :]), overview)
    if atlases:
        below = grid[-1, :].subgridspec(1, len(atlases))
        for column, atlas in enumerate(atlases):
            _draw_ends(figure.add_subplot(below[0, column]), overview, atlas)
    if "five_tissue" in volumes:
        _name_tissues(figure, volumes["five_tissue"])
    return Drawing(figure, n_colours=256)


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
        for tissue in _DRAWN:
            fraction = np.nan_to_num(overlay[..., tissue].take(index, axis=plane)).T
            if fraction.max() > 0.5:
                colour = TISSUES[tissue][1]
                axes.contour(fraction, levels=[0.5], colors=[colour], linewidths=0.8)
    elif key == "density" and overlay is not None:
        values = np.nan_to_num(overlay.take(index, axis=plane)).T
        high = float(np.percentile(overlay[overlay > 0], 99)) if (overlay > 0).any() else 1.0
        seen = np.ma.masked_less_equal(np.log1p(values), 0)
        colours = colour_map("inferno", missing="none")
        axes.imshow(seen, cmap=colours, vmin=0, vmax=np.log1p(high), alpha=0.8, **look)
    elif key == "orientation" and overlay is not None:
        colours = np.nan_to_num(overlay.take(index, axis=plane)).transpose(1, 0, 2).clip(0, 1)
        axes.imshow(np.dstack([colours, colours.max(axis=-1) > 0.05]), **look)
    axes.set_axis_off()
    if plane == 1:
        axes.set_title(_ROWS.get(key, ""), fontsize=10)
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


def _draw_ends(axes: Axes, overview: Mapping[str, NDArray[Any]], atlas: str) -> None:
    """Draw how many streamline ends the regions of an atlas have, fewest first."""
    for algorithm, (name, colour) in _ALGORITHMS.items():
        ends = np.sort(np.asarray(overview.get(f"ends_{algorithm}_{atlas}", []), dtype=np.float64))
        if ends.size:
            axes.plot(np.arange(1, ends.size + 1), ends, color=colour, linewidth=1.2,
                      label=f"{name}: {np.count_nonzero(ends == 0)} without")  # fmt: skip
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=0)
    style(axes, title=atlas, xlabel="regions, by their ends", ylabel="streamline ends")
    axes.legend(frameon=False, fontsize=7, loc="lower right")


def _draw_lengths(axes: Axes, overview: Mapping[str, NDArray[Any]]) -> None:
    """Draw histograms of streamline lengths of both algorithms."""
    for algorithm, (label, colour) in _ALGORITHMS.items():
        lengths = np.asarray(overview.get(f"lengths_{algorithm}", []), dtype=np.float64)
        if lengths.size:
            axes.hist(lengths, bins=60, histtype="step", color=colour, linewidth=1.2,
                      label=f"{label}: {lengths.size:,} drawn, median {np.median(lengths):.0f} mm",
                      weights=np.full(lengths.size, 100 / lengths.size))  # fmt: skip
    style(axes, xlabel="streamline length (mm)", ylabel="% of streamlines")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)
