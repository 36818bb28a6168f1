# SPDX-License-Identifier: MIT
"""How much functional edges go with head motion over the cohort (QC-FC)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .canvas import BLUE, INK, Drawing, new_figure, require, style
from .html import Grid, Picture

#: Measure of motion that edges are correlated with.
MOTION = "fd_mean_mm"
#: With fewer sessions nothing is said: correlations would be chance.
LEAST_SESSIONS = 10
#: Size of the figure in bytes.
FIGURE_BYTES = 50_000
#: Two-sided 5 % of a normal distribution, and its median absolute value.
_CRITICAL_Z, _MEDIAN_Z = 1.959964, 0.674490


class MotionSums:
    """Sums from which each edge's correlation with motion is made, a session at a time."""

    def __init__(self) -> None:
        self._sums: NDArray[np.float64] | None = None

    def add(self, matrix: NDArray[np.floating], motion: float) -> None:
        """Add a session.

        Parameters
        ----------
        matrix
            (R, R); edges that are NaN do not count. Of another size than the first: left out.
        motion
            Mean framewise displacement in mm.
        """
        edges = matrix[np.triu_indices(len(matrix), k=1)]
        there = np.isfinite(edges)
        known = np.where(there, edges, 0.0)
        weights = there.astype(np.float64)
        rows = (weights, known, known**2, weights * motion, weights * motion**2, known * motion)
        if self._sums is None:
            self._sums = np.stack(rows)
        elif self._sums.shape[1] == len(edges):
            self._sums += np.stack(rows)

    @property
    def n_sessions(self) -> int:
        """Sessions behind the edges that most have."""
        return 0 if self._sums is None else int(self._sums[0].max(initial=0))

    def correlations(self) -> NDArray[np.float64]:
        """Pearson correlation over sessions of each edge with motion, (E,).

        Edges that are missing in a session, or do not vary, are left out.

        Notes
        -----
        As QC-FC in Ciric et al., Benchmarking of participant-level confound regression strategies
        for the control of motion artifact in studies of functional connectivity, NeuroImage 154
        (2017), without covariates.
        """
        if self._sums is None:
            return np.zeros(0)
        n, x, xx, f, ff, xf = self._sums
        whole = n == self.n_sessions
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = (xx - x**2 / n) * (ff - f**2 / n)
            found: NDArray[np.float64] = (xf - x * f / n) / np.sqrt(spread)
        kept: NDArray[np.bool_] = whole & (spread > 1e-20) & np.isfinite(found)
        return np.asarray(found[kept])


def motion_grid(sums: Mapping[str, MotionSums]) -> Grid:
    """Make a table with a row a flavor; those with too few sessions are left out."""
    rows = []
    for name, values in _told(sums).items():
        n = sums[name].n_sessions
        width = 1 / np.sqrt(n - 3)
        z = np.abs(np.arctanh(np.clip(values, -0.999999, 0.999999)))
        numbers = (np.median(np.abs(values)), np.tanh(_MEDIAN_Z * width), np.median(values))
        share = 100 * float((z > _CRITICAL_Z * width).mean())
        rows.append([name, str(n), *(f"{number:.4f}" for number in numbers), f"{share:.1f}"])
    columns = (
        "flavor",
        "sessions",
        "median |r|",
        "by chance",
        "median r",
        "edges with p < 0.05 (%)",
    )
    return Grid.of("Edges and head motion", columns, rows)


def _told(sums: Mapping[str, MotionSums]) -> dict[str, NDArray[np.float64]]:
    """Correlations of the flavors with enough sessions."""
    found = {name: one.correlations() for name, one in sums.items()
             if one.n_sessions >= LEAST_SESSIONS}  # fmt: skip
    return {name: values for name, values in found.items() if values.size}


def motion_pictures(sums: Mapping[str, MotionSums]) -> list[Picture]:
    """Draw the correlations of all flavors, if there are any."""
    told = _told(sums)
    if not told:
        return []
    widths = {name: 1 / np.sqrt(sums[name].n_sessions - 3) for name in told}
    return [
        Picture.drawn(
            draw_motion(told, widths),
            alt="Distribution over edges of the correlation of each edge with head motion, by "
            "flavor; medians are in the table below",
            caption="Correlation of each edge with the session's mean framewise displacement, "
            "over sessions. Black: what chance alone would give. A distribution that is wider, or "
            "moved to one side, says that motion is in the connectomes (or goes with what is "
            "studied).",
        )
    ]


def draw_motion(
    correlations: Mapping[str, NDArray[np.floating]],
    widths: Mapping[str, float],
) -> Drawing:
    """Draw histograms of the correlations of edges with motion, a panel a flavor.

    Parameters
    ----------
    correlations
        (E,) by flavor.
    widths
        Standard deviation that chance would give them (of Fisher's z), by flavor.

    Raises
    ------
    UsageError
        If there is no flavor.
    """
    require(correlations, "correlation")
    n_columns = min(3, len(correlations))
    n_rows = -(-len(correlations) // n_columns)
    figure = new_figure(3.1 * n_columns, 1.5 * n_rows + 0.2)
    for place, (name, values) in enumerate(correlations.items(), start=1):
        axes = figure.add_subplot(n_rows, n_columns, place)
        axes.hist(
            values, bins=np.linspace(-1, 1, 61).tolist(), density=True, color=BLUE, alpha=0.6
        )
        r = np.linspace(-0.995, 0.995, 301)
        z = np.arctanh(r) / widths[name]
        chance = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) / widths[name] / (1 - r**2)
        axes.plot(r, chance, color=INK, linewidth=1)
        axes.axvline(0, color=INK, linewidth=0.5, linestyle=":")
        axes.set_xlim(-1, 1)
        axes.set_yticks([])
        style(
            axes, title=name, xlabel="r with mean FD" if place > (n_rows - 1) * n_columns else ""
        )
        axes.title.set_fontsize(8)
    return Drawing(figure, n_colours=48, max_bytes=FIGURE_BYTES)
