# SPDX-License-Identifier: MIT
"""Figure of a search for lambda: error against lambda."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .canvas import BLUE, FAINT, INK, VERMILION, Drawing, new_figure, style


def draw_search(
    tried: NDArray[np.floating],
    errors: NDArray[np.floating],
    *,
    best: float,
    title: str,
) -> Drawing:
    """Draw the mean distance to the target against lambda.

    Parameters
    ----------
    tried, errors
        (n,), in increasing order of lambda.
    best
        Lambda that was chosen.
    title
        What was searched on.

    """
    figure = new_figure(5.2, 3.4)
    axes = figure.add_subplot()
    style(axes, title=title, xlabel="lambda", ylabel="mean distance to the target precision")
    axes.grid(color=FAINT, alpha=0.25, linewidth=0.5)
    axes.plot(tried, errors, "-", color=BLUE, linewidth=1.2)
    axes.plot(tried, errors, "o", color=BLUE, markersize=3)
    axes.axvline(best, color=VERMILION, linewidth=1.0, linestyle="--")
    axes.annotate(
        f"{best:.4g}",
        (best, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(4, -11),
        textcoords="offset points",
        color=VERMILION,
        fontsize=9,
    )
    axes.tick_params(labelcolor=INK)
    return Drawing(figure)
