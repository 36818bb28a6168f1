# SPDX-License-Identifier: MIT
"""Sheets and small PNG files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from kraken_bids.report.canvas import (
    MAX_BYTES,
    Drawing,
    encode_png,
    new_figure,
    robust_limit,
    save_png,
)


def noise_sheet(rng):
    figure = new_figure(6, 6)
    figure.add_subplot().imshow(rng.random((600, 600)), interpolation="nearest")
    return figure


def test_noise_is_given_up_until_the_file_fits(rng):
    drawing = Drawing(noise_sheet(rng))
    assert len(encode_png(drawing)) <= MAX_BYTES
    assert len(encode_png(replace(drawing, max_bytes=10 * MAX_BYTES))) > MAX_BYTES


def test_a_simple_sheet_keeps_its_resolution(tmp_path):
    figure = new_figure(4, 3)
    figure.add_subplot().plot([0, 1], [0, 1])
    size = save_png(Drawing(figure, dpi=100), tmp_path / "line.png")
    assert size == (tmp_path / "line.png").stat().st_size
    with Image.open(tmp_path / "line.png") as image:
        assert image.size == (400, 300)
        assert image.mode == "P"


@pytest.mark.parametrize(
    ("values", "limit"),
    [([0.1, -0.523], 0.53), ([np.nan, 0.0], 1.0), ([], 1.0), ([12.3, 45.6], 46.0)],
    ids=["two digits up", "nothing but zero", "nothing", "large"],
)
def test_limits_of_colours_are_round_and_positive(values, limit):
    assert robust_limit(np.array(values), percent=100) == pytest.approx(limit)


def test_names_are_no_formulas_but_powers_of_ten_are():
    figure = new_figure(4, 3)
    axes = figure.add_subplot()
    axes.bar(["$a_1$", "b"], [1, 10_000])
    axes.set_yscale("log")
    encode_png(Drawing(figure))
    assert [label.get_parse_math() for label in axes.get_xticklabels()] == [False, False]
    labels = axes.get_yticklabels()
    assert any("10^{4}" in label.get_text() for label in labels)
    assert all(label.get_parse_math() for label in labels)
