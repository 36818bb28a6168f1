# SPDX-License-Identifier: MIT
"""Figures of ``kraken-model train``, drawn of the tables of its records."""

from __future__ import annotations

import math
from pathlib import Path

#: Names in the folder of records.
CURVES_NAME, HEATMAPS_NAME = "training.png", "validation.png"


def draw_records(folder: Path, *, taken: int = 0) -> None:
    """Draw losses by epoch and, if anybody watched, metrics of all pairs of flavors.

    Parameters
    ----------
    folder
        Of the records.
    taken
        Epoch whose weights were taken; 0 for the last.
    """
    from ..model.training.records import LOG_NAME, PAIRS_NAME, read_log, read_pairs
    from ..report.canvas import save_png
    from ..report.metric_figures import MetricPanel, draw_metrics
    from ..report.training_figure import draw_training
    from ..storage import atomic_path

    with atomic_path(folder / CURVES_NAME) as temporary:
        save_png(draw_training(read_log(folder / LOG_NAME), taken=taken), temporary)
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
