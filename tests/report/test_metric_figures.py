# SPDX-License-Identifier: MIT
"""Sheets of metrics: order, means, what is left empty, and that all sizes can be drawn."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from PIL import Image

from kraken_bids.errors import UsageError
from kraken_bids.flavors import CORE_FLAVORS
from kraken_bids.report.canvas import colour_map, encode_png
from kraken_bids.report.heatmaps import linear_scale
from kraken_bids.report.metric_figures import (
    MAX_SHEET_BYTES,
    MetricPanel,
    draw_metrics,
    flavor_order,
    short_names,
    short_number,
    with_means,
)

FS86 = [str(flavor) for flavor in CORE_FLAVORS if flavor.atlas == "fs86"]
FUSIONS = ["fusion", "fusionSC", "fusionFC", "fusion.noself", "fusionSC.noself", "fusion.noatlas"]


def draw(sources, targets, values, **options):
    """Pixels of a sheet of one panel."""
    panel = MetricPanel("identified", np.asarray(values, float), chance=0.1)
    content = encode_png(draw_metrics([panel], sources, targets, **options))
    assert 1000 < len(content) <= MAX_SHEET_BYTES
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def share_of(pixels, colour):
    """Share of pixels within a little of a colour."""
    return (np.abs(pixels - np.round(255 * np.array(colour[:3]))).max(axis=-1) < 12).mean()


@pytest.mark.parametrize(
    ("flavors", "fusions"),
    [(FS86[:1], []), (FS86[:2], []), (FS86, FUSIONS[:3]),
     ([str(flavor) for flavor in CORE_FLAVORS], FUSIONS), ([], FUSIONS[:1])],
    ids=["one", "two", "five and three", "fifteen and six", "fusions alone"],
)  # fmt: skip
def test_sheets_of_all_sizes_are_drawn(rng, flavors, fusions):
    targets = flavors or FS86[:2]
    draw([*flavors, *fusions], targets, rng.random((len(flavors) + len(fusions), len(targets))))


def test_cells_take_the_colours_of_their_numbers():
    top = colour_map("viridis")(1.0)
    low = draw(FS86, FS86, np.zeros((5, 5)))
    high = draw(FS86, FS86, np.ones((5, 5)))
    assert share_of(high, top) > 0.15
    assert share_of(low, top) < 0.05


def test_pairs_that_say_nothing_new_are_left_empty():
    sources = [*FS86, "fusion", "fusion.noself"]
    values = np.ones((7, 5))
    top = colour_map("viridis")(1.0)
    whole = share_of(draw(sources, FS86, values), top)
    blank = {("fusion.noself", target) for target in FS86}
    holed = share_of(draw(sources, FS86, values, blank=blank), top)
    # One of eight rows of cells goes, and its mean with it.
    assert holed / whole == pytest.approx(7 / 8, abs=0.03)


def test_missing_numbers_are_grey():
    values = np.ones((5, 5))
    values[1:3] = np.nan
    grey = (0.722, 0.722, 0.722)
    assert share_of(draw(FS86, FS86, values), grey) > 0.05


def test_means_leave_out_fusions_and_missing_numbers():
    values = np.array([[1.0, 3.0], [5.0, math.nan], [100.0, 300.0]])
    grid = with_means(values, [0, 1, -1, -2, 2], [0, 1, -1], n_flavors=([0, 1], [0, 1]))
    np.testing.assert_array_equal(
        grid,
        [[1, 3, 2], [5, np.nan, 5], [3, 3, 3], [np.nan] * 3, [100, 300, 200]],
    )


def test_flavors_stand_by_group_kind_and_atlas():
    names = ["SCifod2act_fs86_volnorm", "FCpcorr_fs86_hpf", "FCcorr_coco439_hpf",
             "FCcorr_fs86_hpf", "SCifod2act_cc200_count"]  # fmt: skip
    assert sorted(names, key=flavor_order) == [
        "FCcorr_fs86_hpf", "FCcorr_coco439_hpf", "FCpcorr_fs86_hpf",
        "SCifod2act_fs86_volnorm", "SCifod2act_cc200_count",
    ]  # fmt: skip


def test_short_names_stay_different():
    for flavors in (FS86, [str(flavor) for flavor in CORE_FLAVORS], FS86[:1]):
        short = short_names(flavors)
        assert len(set(short.values())) == len(flavors)
    assert short_names(["FCcorr_fs86_hpf"]) == {"FCcorr_fs86_hpf": "FCcorr"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.835, ".83"),
        (1, "1.00"),
        (-0.004, ".00"),
        (-0.5, "-.50"),
        (-9.999, "-10.0"),
        (532.6, "533"),
    ],
)
def test_numbers_are_short(value, text):
    assert short_number(value) == text


def test_numbers_can_be_read_on_their_colours():
    scale = linear_scale("viridis", 0, 1)
    assert scale.text_colour(0.05) == "white"
    assert scale.text_colour(0.95) != "white"


def test_nothing_to_draw_is_refused():
    with pytest.raises(UsageError, match="no metric to draw"):
        draw_metrics([], ["a"], ["b"])
