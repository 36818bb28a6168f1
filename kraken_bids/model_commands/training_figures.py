# SPDX-License-Identifier: MIT
"""Figures of ``kraken-model train``, drawn of the tables of its records."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

from ..errors import ResourceError

_log = logging.getLogger(__name__)

#: Names in the folder of records.
CURVES_NAME, HEATMAPS_NAME = "training.png", "validation.png"
#: Seconds until losses are drawn for the first time, and the share of the time that goes into it.
_FIRST_S, _SHARE = 60.0, 0.02


class LiveCurves:
    """Draws losses by epoch anew while a training runs, as often as takes next to no time.

    Parameters
    ----------
    folder
        Of the records.
    clock
        Gives seconds.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, clock
        self._next = clock() + _FIRST_S

    def __call__(self) -> None:
        """Draw, if it is time."""
        start = self._clock()
        if start < self._next:
            return
        try:
            draw_curves(self._folder)
        except (OSError, ResourceError) as error:
            # a training of hours does not end for want of a figure
            _log.warning("%s cannot be drawn: %s", self._folder / CURVES_NAME, error)
        now = self._clock()
        self._next = now + max((now - start) / _SHARE, _FIRST_S)


def draw_curves(folder: Path, *, taken: int = 0) -> None:
    """Draw losses by epoch, of the table as it is; parameters as of `draw_records`."""
    from ..model.training.records import LOG_NAME, read_log
    from ..report.canvas import save_png
    from ..report.training_figure import draw_training
    from ..storage import atomic_path

    with atomic_path(folder / CURVES_NAME) as temporary:
        save_png(draw_training(read_log(folder / LOG_NAME), taken=taken), temporary)


def draw_records(folder: Path, *, taken: int = 0) -> None:
    """Draw losses by epoch and, if anybody watched, metrics of all pairs of flavors.

    Parameters
    ----------
    folder
        Of the records.
    taken
        Epoch whose weights were taken; 0 for the last.
    """
    from ..model.training.records import PAIRS_NAME, read_pairs
    from ..report.canvas import save_png
    from ..report.metric_figures import MetricPanel, draw_metrics
    from ..storage import atomic_path

    draw_curves(folder, taken=taken)
    pairs = read_pairs(folder / PAIRS_NAME)
    if pairs is None:
        (folder / HEATMAPS_NAME).unlink(missing_ok=True)
        return
    chance_rank = 0.5 + 0.5 / pairs.n
    panels = [
        MetricPanel("top-1 (1: all told apart)", pairs.values["top1"], chance=1 / pairs.n),
        MetricPanel("average rank (1: perfect)", pairs.values["average_rank"], chance=chance_rank),
        MetricPanel("correlation of features", pairs.values["correlation"], -1.0, chance=math.nan),
    ]
    with atomic_path(folder / HEATMAPS_NAME) as temporary:
        save_png(draw_metrics(panels, pairs.sources, pairs.targets), temporary)
