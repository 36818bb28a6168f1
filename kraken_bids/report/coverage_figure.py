# SPDX-License-Identifier: MIT
"""How much of each region a functional run covers, drawn on the brain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..atlases import atlas_names, load_atlas
from .canvas import INK, VERMILION, Drawing, colour_map, new_figure
from .heatmaps import ColourScale, add_colour_bar
from .quality_figures import to_ras

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Size of the figure in bytes: one of several of each run on a page.
COVERAGE_BYTES = 60_000
#: Horizontal slices from bottom to top, and upright ones from left to right, of each atlas.
N_AXIAL, N_SAGITTAL = 6, 2
#: Sizes in inches: a slice, a row with its title, the margin, room for the colour bar. Fixed
#: places keep all slices of one size, whatever the titles say.
_SLICE_IN, _ROW_IN, _LEFT_IN, _BAR_IN = (1.03, 1.2), 1.5, 0.1, 0.8
#: Below this share regions are named; so many of them at most.
LOW_COVERAGE, N_NAMED = 0.5, 8


def draw_coverage(
    labels: Mapping[str, tuple[NDArray[Any], NDArray[np.floating]]],
    regions: Mapping[str, Mapping[str, Any]],
) -> Drawing:
    """Draw slices of each atlas with its regions coloured by their coverage.

    Parameters
    ----------
    labels
        Label image (X, Y, Z), 0 outside and 1 … R, and affine (4, 4) to RAS mm, by atlas.
    regions
        By atlas: ``coverage`` (R,), 0 … 1, and ``missing``, names of regions that are left out.

    """
    scale, n_columns = _scale(), N_AXIAL + N_SAGITTAL
    size_in = _LEFT_IN + n_columns * _SLICE_IN[0] + _BAR_IN, len(labels) * _ROW_IN
    figure = new_figure(*size_in, layout=None)
    for row, (atlas, (image, affine)) in enumerate(labels.items()):
        volume, sizes = to_ras(coverage_values(image, regions[atlas], atlas), affine)
        bottom = size_in[1] - (row + 1) * _ROW_IN
        title = describe_low_coverage(atlas, regions[atlas])
        figure.text(_LEFT_IN / size_in[0], (bottom + _SLICE_IN[1] + 0.08) / size_in[1], title,
                    fontsize=8.5, color=INK)  # fmt: skip
        for column, (plane, index) in enumerate(choose_slices(np.isfinite(volume))):
            left = _LEFT_IN + column * _SLICE_IN[0]
            axes = figure.add_axes(_place((left, bottom, *_SLICE_IN), size_in))
            drawn = _draw_slice(axes, volume, plane, index, sizes, scale)
    left = size_in[0] - _BAR_IN + 0.1
    place = _place((left, 0.1 * size_in[1], 0.12, 0.8 * size_in[1]), size_in)
    add_colour_bar(figure, drawn, scale, inside=figure.add_axes(place))
    return Drawing(figure, n_colours=64, max_bytes=COVERAGE_BYTES)


def _place(
    inches: tuple[float, float, float, float], size_in: tuple[float, float]
) -> tuple[float, float, float, float]:
    """Left, bottom, width and height as shares of a sheet."""
    (left, bottom, width, height), (whole, tall) = inches, size_in
    return left / whole, bottom / tall, width / whole, height / tall


def _scale() -> ColourScale:
    """Colours of coverage: readable for all eyes, with missing regions in a colour apart."""
    from matplotlib.colors import Normalize

    colours = colour_map("cividis_r", missing="white", under=VERMILION)
    return ColourScale(colours, Normalize(0.0, 1.0), "share of voxels with signal (red: n/a)")


def coverage_values(
    image: NDArray[Any], entry: Mapping[str, Any], atlas: str
) -> NDArray[np.float32]:
    """Coverage of the region that each voxel belongs to.

    Parameters
    ----------
    image
        (X, Y, Z), 0 outside and 1 … R.
    entry
        ``coverage`` (R,) and ``missing`` (names).
    atlas
        Name, for the names of its regions.

    Returns
    -------
    NDArray
        (X, Y, Z): NaN outside, -1 in regions that are missing.
    """
    coverage = np.asarray(entry["coverage"], dtype=np.float32)
    missing = set(entry.get("missing") or ())
    table = np.concatenate([[np.nan], coverage]).astype(np.float32)
    for position, name in enumerate(region_names(atlas, len(coverage)), start=1):
        if name in missing:
            table[position] = -1.0
    return np.asarray(table[np.asarray(image).astype(np.intp)])


def region_names(atlas: str, n_regions: int) -> tuple[str, ...]:
    """Names of an atlas's regions; numbers where the atlas is not ours."""
    if atlas in atlas_names() and load_atlas(atlas).n_regions == n_regions:
        return load_atlas(atlas).region_names
    return tuple(str(index + 1) for index in range(n_regions))


def low_coverage(atlas: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the regions that are there, but less than half covered.

    Parameters
    ----------
    atlas
        Name.
    entry
        ``coverage`` (R,) and ``missing`` (names).
    """
    coverage = entry.get("coverage", [])
    if not isinstance(coverage, list):
        return ()
    names = region_names(atlas, len(coverage))
    missing = set(entry.get("missing") or ())
    return tuple(
        name
        for name, share in zip(names, coverage, strict=True)
        if isinstance(share, (int, float)) and 0 < share < LOW_COVERAGE and name not in missing
    )


def describe_low_coverage(atlas: str, entry: Mapping[str, Any]) -> str:
    """Title of an atlas's slices: how many regions are missing or low, and which.

    Examples
    --------
    >>> describe_low_coverage("mine", {"coverage": [1.0, 0.2, 0.0], "missing": ["3"]})
    'mine: 1 of 3 regions n/a (3), 1 below half (2)'
    """
    missing, low = list(entry.get("missing") or ()), list(low_coverage(atlas, entry))
    words = [
        f"{len(names)} {kind} ({_listed(names)})"
        for kind, names in ((f"of {len(entry['coverage'])} regions n/a", missing),
                            ("below half", low))
        if names
    ]  # fmt: skip
    return f"{atlas}: " + (", ".join(words) or "every region is covered by half or more")


def _listed(names: list[str]) -> str:
    more = [f"and {len(names) - N_NAMED} more"] if len(names) > N_NAMED else []
    return ", ".join([*names[:N_NAMED], *more])


def choose_slices(inside: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Choose slices through what is inside, evenly: axis that they cut, and position on it.

    Parameters
    ----------
    inside
        (X, Y, Z), axes to right, anterior and superior.
    """
    chosen = []
    for axis, number, margin in ((2, N_AXIAL, 0.12), (0, N_SAGITTAL, 0.3)):
        others = tuple(other for other in range(3) if other != axis)
        found = np.flatnonzero(inside.any(axis=others))
        first, last = (found[0], found[-1]) if found.size else (0, inside.shape[axis] - 1)
        steps = np.linspace(margin, 1 - margin, number)
        chosen += [(axis, round(first + step * (last - first))) for step in steps]
    return chosen


def _draw_slice(
    axes: Axes,
    volume: NDArray[np.floating],
    plane: int,
    index: int,
    sizes: NDArray[np.floating],
    scale: ColourScale,
) -> Any:
    """Draw one slice, cropped to the brain; left is left."""
    others = [axis for axis in range(3) if axis != plane]
    inside = np.isfinite(volume)
    crops = [np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis}))) for axis in others]
    ranges = [(crop[0], crop[-1] + 1) if crop.size else (0, 1) for crop in crops]
    whole = np.asarray(volume.take(index, axis=plane))
    slab = whole[slice(*ranges[0]), slice(*ranges[1])].T
    axes.set_axis_off()
    return axes.imshow(
        slab, norm=scale.norm, cmap=scale.colours, origin="lower", interpolation="nearest",
        aspect=float(sizes[others[1]] / sizes[others[0]]),
    )  # fmt: skip
