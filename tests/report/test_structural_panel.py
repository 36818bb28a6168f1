# SPDX-License-Identifier: MIT
from __future__ import annotations

import numpy as np
import pytest

from kraken_bids.errors import UsageError
from kraken_bids.report.anchor_figure import ANCHOR_BYTES, anchored, draw_anchors
from kraken_bids.report.anchors import PUBLISHED
from kraken_bids.report.canvas import encode_png
from kraken_bids.report.connectome_panels import PANEL_BYTES, draw_structural_panel
from kraken_bids.report.matrix_sheet import count_scale


def counts(n_regions, rng):
    upper = np.triu(rng.poisson(1, (n_regions, n_regions)) * 3.0, 1)
    return upper + upper.T


def test_panel_shows_what_there_is_and_stays_small(rng):
    matrices = {
        "SCifod2act_fs86_volnorm": counts(86, rng),
        "SCsdstream_coco439_volnorm": counts(439, rng),
        "SCifod2act_fs86_sift2": np.zeros((86, 86)),
    }
    matrices["SCifod2act_fs86_volnorm"][4] = np.nan
    assert 1000 < len(encode_png(draw_structural_panel(matrices))) <= PANEL_BYTES


def test_limits_are_stated_and_hold_almost_all_edges():
    matrix = np.zeros((50, 50))
    upper = np.triu_indices(50, k=1)
    matrix[upper] = np.geomspace(0.5, 5000, upper[0].size)
    scale = count_scale(matrix[upper], "count")
    assert "limits 0.55 to 5000" in scale.label
    assert (scale.norm.vmin, scale.norm.vmax) == (0.55, 5000)


def test_without_a_structural_connectome_there_is_nothing_to_draw():
    with pytest.raises(UsageError, match="no structural connectome to draw"):
        draw_structural_panel({"FCcorr_fs86_hpf": np.eye(86)})


def test_measures_of_tractograms_are_drawn_beside_the_published_values():
    columns = [name for name in PUBLISHED if name.startswith(("ifod2act", "sdstream"))]
    values = dict.fromkeys(columns, "0.1") | {
        "ifod2act_n_seeds": "7",
        "sdstream_fs86_level": "n/a",
    }
    rows = anchored(values)
    assert [name for name, _ in rows] == [
        name for name in columns if name != "sdstream_fs86_level"
    ]
    assert len(rows) == 7
    assert 1000 < len(encode_png(draw_anchors(rows))) <= ANCHOR_BYTES
