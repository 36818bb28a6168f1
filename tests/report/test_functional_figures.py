# SPDX-License-Identifier: MIT
"""Figures of functional quality: what can be read off their pixels, titles and orders."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from kraken_bids.atlases import load_atlas
from kraken_bids.errors import UsageError
from kraken_bids.flavors import Flavor
from kraken_bids.report.anchor_figure import anchored, draw_anchors, row_limits
from kraken_bids.report.anchors import ANCHORS, LIMITS, PUBLISHED, beyond
from kraken_bids.report.canvas import encode_png
from kraken_bids.report.connectome_panels import PANEL_BYTES, draw_functional_panel
from kraken_bids.report.coverage_figure import (
    COVERAGE_BYTES,
    choose_slices,
    coverage_values,
    describe_low_coverage,
    draw_coverage,
    low_coverage,
)
from kraken_bids.report.found import read_rows
from kraken_bids.report.functional_figure import draw_functional_qc
from kraken_bids.report.matrix_sheet import connectome_scale, hemisphere_order
from kraken_bids.report.similarity_section import (
    draw_similarities,
    read_similarities,
    similarity_grid,
    similarity_pictures,
    similarity_warnings,
)

FC = "training_mean_r_FCcorr_fs86_hpf"
NAMES = load_atlas("fs86").region_names
VERMILION_RGB, DARK_RGB = (0xD5, 0x5E, 0x00), (0, 0x22, 0x4E)


def pixels(draw, *arguments):
    """What a drawing function draws, (height, width, 3)."""
    with Image.open(io.BytesIO(encode_png(draw(*arguments)))) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def share_of(image, colour):
    return float((np.abs(image - np.array(colour)).max(axis=-1) < 12).mean())


@pytest.fixture
def box():
    """A block of all 86 regions as a label image, and coverage of 1 throughout."""
    image = np.zeros((30, 30, 30), dtype=np.int16)
    image[2:28, 2:28, 2:28] = 1 + (np.arange(26**3) * 86 // 26**3).reshape(26, 26, 26)
    return (image, np.diag([2.0, 2.0, 2.0, 1.0])), {"coverage": [1.0] * 86, "missing": []}


def test_every_voxel_takes_the_coverage_of_its_region(box):
    (image, _), entry = box
    entry["coverage"][4], entry["coverage"][9], entry["missing"] = 0.25, 0.1, [NAMES[9]]
    values = coverage_values(image, entry, "fs86")
    assert np.isnan(values[image == 0]).all()
    assert (values[image == 5] == 0.25).all()
    assert (values[image == 10] == -1).all()
    assert (values[image == 86] == 1).all()


def test_low_and_missing_regions_are_named(box):
    _, entry = box
    assert describe_low_coverage("fs86", entry) == "fs86: every region is covered by half or more"
    entry["coverage"][4], entry["coverage"][9], entry["missing"] = 0.25, 0.1, [NAMES[9]]
    assert low_coverage("fs86", entry) == (NAMES[4],)
    assert describe_low_coverage("fs86", entry) == (
        f"fs86: 1 of 86 regions n/a ({NAMES[9]}), 1 below half ({NAMES[4]})"
    )
    entry["coverage"] = [0.3] * 86
    assert "85 below half" in describe_low_coverage("fs86", entry)
    assert "and 77 more" in describe_low_coverage("fs86", entry)


def test_slices_lie_inside_and_do_not_repeat(box):
    (image, _), _ = box
    chosen = choose_slices(image > 0)
    assert len(set(chosen)) == len(chosen) == 8
    assert all((image.take(index, axis=plane) > 0).any() for plane, index in chosen)
    assert len(choose_slices(np.zeros((4, 4, 4), dtype=bool))) == 8


def test_missing_regions_are_red_on_the_brain(box):
    labels, entry = box
    whole = pixels(draw_coverage, {"fs86": labels}, {"fs86": entry})
    entry["coverage"] = [0.0] * 43 + [1.0] * 43
    entry["missing"] = list(NAMES[:43])
    half = pixels(draw_coverage, {"fs86": labels}, {"fs86": entry})
    assert share_of(whole, VERMILION_RGB) < 0.001 < 0.1 < share_of(half, VERMILION_RGB)
    assert share_of(whole, DARK_RGB) > 1.5 * share_of(half, DARK_RGB)


def test_coverage_of_three_atlases_stays_small(box):
    labels, entry = box
    names = ("fs86", "mine", "yours")
    size = len(
        encode_png(draw_coverage(dict.fromkeys(names, labels), dict.fromkeys(names, entry)))
    )
    assert 1000 < size <= COVERAGE_BYTES


def test_carpet_shows_before_and_after(fake, rng):
    traces = fake.make_traces(rng)
    alone = pixels(draw_functional_qc, traces)
    after = traces | {
        "denoised_series": np.full((120, 86), 9.0),
        "region_groups": np.array(["cortex, left"] * 40 + ["cortex, right"] * 46),
        "tissue_names": np.array(["WM", "CSF", "GM"]),
        "tissue_signals": rng.normal(size=(120, 3)),
    }
    both = pixels(draw_functional_qc, after)
    assert both.shape[0] > alone.shape[0] + 150
    last = both[-220:-60, 150:900]  # beyond the limit: the carpet after denoising is white
    assert share_of(last, (255, 255, 255)) > 0.9
    assert share_of(last, VERMILION_RGB) > 0.002  # the border between both groups
    assert share_of(alone[-220:-60, 150:900], (255, 255, 255)) < 0.3


def test_carpet_says_what_is_not_known(fake, rng):
    traces = fake.make_traces(rng)
    unknown = np.full(120, np.nan)
    traces |= {"framewise_displacement_mm": unknown, "dvars": unknown}
    image = pixels(draw_functional_qc, traces)
    assert share_of(image, VERMILION_RGB) < 1e-4  # no line of motion


def test_namesakes_stand_at_one_distance():
    order, sides = hemisphere_order("fs86", 86)
    assert sides == [("left", 43), ("right", 43)]
    names = [NAMES[position].replace("rh", "lh").replace("Right", "Left") for position in order]
    assert names[:43] == names[43:]
    order, sides = hemisphere_order("coco439", 439)
    assert sorted(order) == list(range(439))
    assert [name for name, _ in sides] == ["left", "right", "midline"]
    assert hemisphere_order("mine", 5)[0].tolist() == [0, 1, 2, 3, 4]


def test_panel_orders_rows_and_columns_by_hemisphere():
    matrix = np.zeros((86, 86))
    sides = np.array([region.hemisphere for region in load_atlas("fs86").regions])
    matrix[np.ix_(sides == "L", sides == "L")] = 1.0  # two blocks in the atlas's own order
    image = pixels(draw_functional_panel, {"FCcorr_fs86_hpf": matrix})
    height, width = image.shape[:2]
    red = (image[..., 0] > 80) & (image[..., 1] < 60) & (image[..., 2] < 80)
    upper_left = red[: int(height * 0.45), : int(width * 0.5)].mean()
    assert upper_left > 0.4  # of what is left beside margins and lines
    assert red[: int(height * 0.45), int(width * 0.6) :].mean() < 0.02
    assert red[int(height * 0.5) : int(height * 0.8), : int(width * 0.5)].mean() < 0.02


def test_colours_of_a_column_have_one_stated_limit():
    small, large = np.full((4, 4), 0.1), np.full((4, 4), -0.4)
    flavor = Flavor.parse("FCcorr_fs86_hpf")
    scale = connectome_scale(flavor, [small, large])
    assert (scale.norm.vmin, scale.norm.vmax) == (-0.4, 0.4)
    assert "±0.4" in scale.label
    assert connectome_scale(flavor, [np.full((4, 4), np.nan)]).norm.vmax == 1


def test_nine_matrices_stay_small_and_gaps_are_drawn(rng):
    matrices = {
        f"{kind}_{atlas}_{processing}": np.corrcoef(rng.normal(size=(n_regions, 300)))
        for atlas, n_regions in (("fs86", 86), ("shen268", 268), ("coco439", 439))
        for kind, processing in (("FCcorr", "hpf"), ("FCcorr", "hpfgsr"), ("FCpcorr", "hpf"))
    }
    matrices["FCcorr_fs86_hpf"][7], matrices["FCcorr_fs86_hpf"][:, 7] = np.nan, np.nan
    del matrices["FCpcorr_fs86_hpf"]  # not made
    assert 100_000 < len(encode_png(draw_functional_panel(matrices))) <= PANEL_BYTES
    with pytest.raises(UsageError, match="no functional connectome"):
        draw_functional_panel({"SCsdstream_fs86_count": np.eye(86)})


def test_only_numbers_with_published_values_are_drawn():
    values = {"kept_minutes": "7", FC: "n/a", "mean_FCcorr_fs86_hpf": "0.12", "n_b0": "3"}
    assert anchored(values) == [("kept_minutes", 7.0), ("mean_FCcorr_fs86_hpf", 0.12)]
    with pytest.raises(UsageError, match="no measure with a published value"):
        draw_anchors([])


def test_a_value_beyond_the_usual_is_red():
    usual, low = (pixels(draw_anchors, [(FC, value)]) for value in (0.85, 0.1))
    assert share_of(usual, VERMILION_RGB) < 0.0005 < share_of(low, VERMILION_RGB)


def test_correlations_share_a_scale_from_0_to_1():
    low, high = row_limits(FC, 0.5)
    assert (low, high) == (pytest.approx(-0.1), pytest.approx(1.1))
    assert row_limits("mean_FCcorr_fs86_hpfgsr", 0.02)[0] < -0.007


def test_published_numbers_are_those_of_the_text():
    assert ANCHORS["mean_FCcorr_fs86_hpf"] == "0.054 ± 0.015"
    assert ANCHORS["mean_FCcorr_fs86_hpfgsr"] == "\N{MINUS SIGN}0.006 ± 0.001"
    assert ANCHORS["mean_FCpcorr_fs86_hpf"] == "0.0088 ± 0.0003"
    assert ANCHORS["sdstream_fs86_level"] == "227 ± 23"
    assert ANCHORS[FC] == "0.856 (0.80 to 0.90)"
    for anchor in PUBLISHED.values():
        numbers = [anchor.low, anchor.mean, anchor.high]
        assert [n for n in numbers if n is not None] == sorted(n for n in numbers if n is not None)


def test_no_published_mean_is_beyond_its_own_limit():
    for limit in LIMITS:
        anchor = PUBLISHED.get(limit.column)
        assert anchor is None or anchor.mean is None or limit.least <= anchor.mean <= limit.most


def test_low_similarity_is_told_with_meaning_and_advice():
    ((value, limit),) = beyond({FC: "0.05", "training_mean_r_FCpcorr_coco439_hpf": "0.3"})
    assert value == 0.05
    assert "another order" in limit.meaning
    assert "--atlas-file" in limit.advice


@pytest.fixture
def rows(tmp_path):
    """The participants' table of three sessions."""
    file = tmp_path / "desc-participant_qc.tsv"
    file.write_text(
        f"participant_id\tsession_id\t{FC}\ttraining_mean_r_SCsdstream_fs86_volnorm\n"
        "sub-01\tn/a\t0.8\t0.9\nsub-02\tses-a\t0.03\t0.95\nsub-03\tn/a\tn/a\t0.93\n"
    )
    return read_rows(file)


def test_similarities_of_a_cohort_are_read_by_flavor(rows):
    found = read_similarities(rows)
    assert found["FCcorr_fs86_hpf"] == [("sub-01", 0.8), ("sub-02_ses-a", 0.03)]
    assert len(found["SCsdstream_fs86_volnorm"]) == 3
    grid = similarity_grid(found)
    assert [cell.text for cell in grid.rows[0]] == [
        "FCcorr_fs86_hpf", "2", "0.415", "0.03", "0.8", "0.856 (0.80 to 0.90)", "1",
    ]  # fmt: skip
    (notice,) = similarity_warnings(found)
    assert notice.names == ("sub-02_ses-a (0.03)",)
    assert "1 connectome of FCcorr_fs86_hpf" in notice.what


def test_similarities_are_drawn_where_they_are(rows):
    image = pixels(draw_similarities, read_similarities(rows))
    blue = np.abs(image - np.array([0x33, 0x8E, 0xC1])).max(axis=-1) < 60
    places = np.flatnonzero(blue.any(axis=0))
    assert np.ptp(places) > 0.6 * image.shape[1]  # from 0.03 to 0.95
    assert similarity_pictures({}) == []
    with pytest.raises(UsageError, match="no correlation to draw"):
        draw_similarities({})
