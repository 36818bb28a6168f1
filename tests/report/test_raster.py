# SPDX-License-Identifier: MIT
"""Sheets of matrices: exact colours, regions that stay in sight, small files."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import LogNorm
from PIL import Image

from kraken_bids.report.canvas import INK_RGB, N_LEVELS, colour_map, encode_png
from kraken_bids.report.heatmaps import COARSE_LEVELS, ColourScale, linear_scale
from kraken_bids.report.matrices import Pair, draw_predictions
from kraken_bids.report.raster import Inlay, Raster, Words

GREY = (0xB8, 0xB8, 0xB8)
COUNTS = ColourScale(colour_map("viridis", under="white"), LogNorm(0.5, 80.0))


def show(raster):
    with Image.open(io.BytesIO(encode_png(raster))) as image:
        assert image.mode == "P"
        return np.asarray(image.convert("RGB"))


def sheet_of(levels, scale, *, side_in=2.0, **options):
    """A sheet with nothing but one matrix, a tenth of an inch from its edges."""
    inlay = Inlay(
        (0.1, 0.1, side_in, side_in), levels, scale.table, coarse=COARSE_LEVELS, **options
    )
    return Raster((side_in + 0.2, side_in + 0.2), (inlay,), (), 10**6, dpi=100)


@pytest.mark.parametrize("scale", [linear_scale("RdBu_r", -0.4, 0.4), COUNTS], ids=["FC", "SC"])
def test_numbers_take_the_colours_of_matplotlib(scale, rng):
    values = np.concatenate([rng.normal(0, 0.4, 300), rng.gamma(1, 30, 300), [0, 0.4, -0.4, 1e9]])
    above = values[values >= COUNTS.norm.vmin] if scale is COUNTS else values
    expected = np.round(255 * scale.colours(scale.norm(above))[:, :3])
    np.testing.assert_array_equal(scale.table[scale.levels(above)], expected)


def test_what_is_not_on_a_scale_has_colours_of_its_own():
    colours = COUNTS.table[COUNTS.levels(np.array([0.0, -3.0, np.nan, np.inf, 1e-9]))]
    assert colours[:2].tolist() == [[255, 255, 255]] * 2
    assert colours[2:4].tolist() == [list(GREY)] * 2
    assert colours[4].tolist() == COUNTS.table[0].tolist()  # few streamlines are not none


def test_pixels_have_the_very_colours_of_their_cells(rng):
    scale = linear_scale("RdBu_r", -1, 1)
    levels = scale.levels(rng.uniform(-1, 1, (20, 20)))
    image = show(sheet_of(levels, scale))
    assert image.shape == (220, 220, 3)
    centres = image[15:215:10, 15:215:10]
    np.testing.assert_array_equal(centres, scale.table[levels])
    assert (image[:10] == 255).all()


def test_missing_regions_are_seen_among_more_regions_than_pixels():
    scale = linear_scale("RdBu_r", -1, 1)
    values, missing = np.zeros((439, 439)), np.array([100, 438])
    values[missing] = values[:, missing] = np.nan
    raster = sheet_of(scale.levels(values), scale, side_in=1.0, kept=missing)
    image = show(raster)[11:109, 11:109]  # within the frame
    lines = (image == GREY).all(axis=(1, 2))
    assert lines.sum() >= 2
    assert (image == GREY).all(axis=(0, 2)).sum() == lines.sum()


def test_sides_are_parted_by_lines_of_ink():
    scale = linear_scale("RdBu_r", -1, 1)
    image = show(sheet_of(scale.levels(np.zeros((10, 10))), scale, borders=(5,)))
    assert (image[110, 11:209] == INK_RGB).all()
    assert (image[11:209, 110] == INK_RGB).all()


def test_words_are_written_where_they_belong():
    words = (Words("$x$", (0.5, 0.2), 10), Words("up", (0.1, 0.7), 10, turned=True))
    raster = replace(sheet_of(np.zeros((2, 2), np.uint8), COUNTS), size_in=(3.0, 3.0), words=words)
    raster = replace(raster, inlays=(replace(raster.inlays[0], box=(2, 2, 0.5, 0.5)),))
    dark = show(raster).max(axis=-1) < 128
    assert dark[265:295, 30:70].sum() > 20
    assert dark[215:245, 0:20].sum() > 20
    assert not dark[:200, :150].any()


def test_a_sheet_loses_colours_then_pixels_until_it_fits(rng):
    scale = linear_scale("RdBu_r", -1, 1)
    raster = sheet_of(scale.levels(rng.uniform(-1, 1, (200, 200))), scale)
    whole = len(encode_png(raster))
    merged = show(replace(raster, max_bytes=whole - 1))
    assert merged.shape == show(raster).shape
    assert len(np.unique(merged.reshape(-1, 3), axis=0)) < N_LEVELS
    small = replace(raster, max_bytes=whole // 3)
    assert len(encode_png(small)) <= whole // 3
    assert show(small).shape[0] < merged.shape[0]


def test_coarse_levels_keep_the_palest_and_are_half_as_many():
    assert len(set(COARSE_LEVELS[:N_LEVELS].tolist())) == N_LEVELS // 2
    middle = N_LEVELS // 2
    assert COARSE_LEVELS[[middle - 1, middle]].tolist() == [middle - 1, middle]
    assert np.abs(COARSE_LEVELS.astype(int) - np.arange(N_LEVELS + 2)).max() == 1
    assert COARSE_LEVELS[N_LEVELS:].tolist() == [N_LEVELS, N_LEVELS + 1]


def test_a_pair_shares_its_colours(rng):
    measured = rng.uniform(-0.2, 0.2, (86, 86))
    raster = draw_predictions([Pair("FCcorr_fs86_hpf", measured, 5 * measured, "fusionSC")])
    first, second, bar = raster.inlays
    assert (first.colours == second.colours).all()
    assert (bar.colours == first.colours).all()
    weak, strong = (one.levels[one.levels < N_LEVELS].max() for one in (first, second))
    assert weak < strong == N_LEVELS - 1
    texts = " ".join(words.text for words in raster.words)
    assert "predicted from fusionSC\nr = 1.00" in texts
    assert "limits ±" in texts
