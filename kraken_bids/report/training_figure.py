# SPDX-License-Identifier: MIT
"""Figure of a training: losses and metrics by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .canvas import (
    BLUE,
    FAINT,
    INK,
    ORANGE,
    PURPLE,
    VERMILION,
    Drawing,
    new_figure,
    require,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Metrics of the third panel: column, name in the legend, colour.
_METRICS = (
    ("validation_average_rank", "average rank", BLUE),
    ("validation_top1", "top-1", ORANGE),
    ("validation_correlation", "correlation", PURPLE),
)
#: Losses above this many times the smallest make the axis logarithmic, if all are positive.
_WIDE = 20.0


def draw_training(columns: Mapping[str, NDArray[np.floating]], *, taken: int = 0) -> Drawing:
    """Draw what the table of a training's epochs says.

    Parameters
    ----------
    columns
        (n_epochs,) each, by name in ``training.tsv``; NaN where a column says nothing. Loss of
        training (with dropout) and, in panels of their own, loss and metrics of validation: what
        is summed differs between the two losses, and so do numbers of participants.
    taken
        Epoch whose weights were taken, marked; 0 for the last.

    Raises
    ------
    UsageError
        If there is no epoch.
    """
    from matplotlib.ticker import MaxNLocator

    epochs = columns["epoch"]
    require(epochs, "epoch")
    is_watched = bool(np.isfinite(columns["validation_loss"]).any())
    n_panels = 3 if is_watched else 1
    figure = new_figure(0.4 + 3.6 * n_panels, 3.1)
    panels = [figure.add_subplot(1, n_panels, place + 1) for place in range(n_panels)]
    _draw_loss(panels[0], epochs, columns["loss"])
    style(panels[0], title="Training", xlabel="epoch", ylabel="loss, with dropout")
    if is_watched:
        _draw_loss(panels[1], epochs, columns["validation_loss"])
        style(panels[1], title="Validation", xlabel="epoch", ylabel="loss of mean pair")
        for name, label, colour in _METRICS:
            _draw_line(panels[2], epochs, columns[name], colour, label)
        lowest = float(np.nanmin(columns["validation_correlation"]))
        panels[2].set_ylim(min(0.0, lowest - 0.02), 1.02)
        style(panels[2], title="Validation, mean pair", xlabel="epoch")
        panels[2].legend(
            fontsize=7.5, labelcolor=INK, edgecolor="none", framealpha=0.85, loc="best"
        )
    for panel in panels:
        panel.grid(color=FAINT, alpha=0.25, linewidth=0.5)
        panel.set_xlim(0, float(epochs[-1]) * 1.02)
        panel.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=True, steps=[1, 2, 5, 10]))
        if taken:
            panel.axvline(taken, color=VERMILION, linewidth=0.9, linestyle="--")
    if taken:
        is_early = taken < float(epochs[-1]) / 2  # the text stays within the panel
        panels[0].annotate(
            f"epoch {taken} taken", (taken, 1.0), xycoords=("data", "axes fraction"),
            xytext=(4 if is_early else -4, -11), textcoords="offset points",
            ha="left" if is_early else "right", color=VERMILION, fontsize=8,
        )  # fmt: skip
    return Drawing(figure, dpi=130)


def _draw_loss(axes: Axes, epochs: NDArray[np.floating], losses: NDArray[np.floating]) -> None:
    known = losses[np.isfinite(losses)]
    if known.min() > 0 and known.max() > _WIDE * known.min():
        axes.set_yscale("log")
    _draw_line(axes, epochs, losses, BLUE, "")


def _draw_line(
    axes: Axes, epochs: NDArray[np.floating], values: NDArray[np.floating], colour: str, label: str
) -> None:
    known = np.isfinite(values)
    marker = "o" if known.sum() <= 2 else ""  # a line of one point is not seen
    axes.plot(
        epochs[known], values[known], color=colour, linewidth=1.2, label=label, marker=marker,
        markersize=3,
    )  # fmt: skip
