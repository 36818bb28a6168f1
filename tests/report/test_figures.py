# SPDX-License-Identifier: MIT
"""Figures: small files, what is drawn where, unusual arrays."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from kraken_bids.atlases import load_atlas
from kraken_bids.errors import InputError, UsageError
from kraken_bids.flavors import CORE_FLAVORS
from kraken_bids.report import quality_figures
from kraken_bids.report.canvas import MAX_BYTES, PURPLE, encode_png
from kraken_bids.report.cohort_figures import draw_adaptation, draw_identification
from kraken_bids.report.connectome_panels import draw_functional_panel, draw_structural_panel
from kraken_bids.report.figures import FIGURES, draw_figure
from kraken_bids.report.functional_figure import draw_functional_qc
from kraken_bids.report.matrices import draw_predictions, edge_correlation
from kraken_bids.report.matrix_sheet import hemisphere_order
from kraken_bids.report.quality_figures import draw_structural_qc, to_ras


def noise(rng, n_regions):
    matrix = rng.uniform(-1, 1, (n_regions, n_regions))
    return (matrix + matrix.T) / 2


def pixels(content):
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(
    ("draw", "name"),
    [
        (draw_functional_panel, "FCcorr_coco439_hpf"),
        (draw_structural_panel, "SCifod2act_coco439_volnorm"),
    ],
    ids=["FC", "SC"],
)
def test_even_noise_of_439_regions_stays_small(rng, draw, name):
    assert 1000 < len(encode_png(draw({name: noise(rng, 439)}))) <= MAX_BYTES


def test_missing_regions_are_grey(rng):
    matrix = noise(rng, 86)
    whole = encode_png(draw_functional_panel({"FCcorr_fs86_hpf": matrix}))
    matrix[40:50], matrix[:, 40:50] = np.nan, np.nan
    holed = encode_png(draw_functional_panel({"FCcorr_fs86_hpf": matrix}))

    def share_of_grey(content):
        colours = pixels(content).astype(int)
        return ((np.ptp(colours, axis=-1) < 6) & (np.abs(colours[..., 0] - 0xB8) < 10)).mean()

    # The crossing bands cover 2 x 10/86 of the matrix, which is half of the sheet.
    assert share_of_grey(holed) - share_of_grey(whole) > 0.08


@pytest.mark.parametrize(
    "matrix",
    [np.zeros((86, 86)), np.full((86, 86), np.nan), np.eye(86)],
    ids=["zero", "all missing", "diagonal"],
)
@pytest.mark.parametrize(
    ("draw", "name"),
    [(draw_functional_panel, "FCcorr_fs86_hpf"), (draw_structural_panel, "SCsdstream_fs86_count")],
    ids=["FC", "SC"],
)
def test_matrices_without_edges_are_drawn(draw, name, matrix):
    assert len(encode_png(draw({name: matrix}))) > 1000


def test_an_unknown_atlas_is_drawn_without_groups(rng):
    assert hemisphere_order("mine", 20)[1] == []
    assert len(encode_png(draw_functional_panel({"FCcorr_mine_hpf": noise(rng, 20)}))) > 1000


@pytest.mark.parametrize(
    ("atlas", "n_regions", "names"),
    [
        ("fs86", 86, ["left", "right"]),
        ("shen268", 268, ["left", "right"]),
        ("coco439", 439, ["left", "right", "midline"]),
    ],
)
def test_regions_are_grouped_by_hemisphere_without_gaps(atlas, n_regions, names):
    order, sides = hemisphere_order(atlas, n_regions)
    assert [name for name, _ in sides] == names
    assert sorted(order) == list(range(n_regions))
    hemispheres = [load_atlas(atlas).regions[place].hemisphere for place in order]
    assert hemispheres == [
        letter for letter, (_, count) in zip("LRB", sides, strict=False) for _ in range(count)
    ]


def test_no_matrix_is_refused():
    for draw in (draw_functional_panel, draw_structural_panel):
        with pytest.raises(UsageError, match=r"no .* connectome to draw"):
            draw({})
    with pytest.raises(UsageError, match="no prediction to draw"):
        draw_predictions([])


def test_correlation_of_edges_leaves_out_missing_regions(rng):
    first, second = noise(rng, 20), noise(rng, 20)
    expected = np.corrcoef(first[1:, 1:][np.triu_indices(19, 1)],
                           second[1:, 1:][np.triu_indices(19, 1)])[0, 1]  # fmt: skip
    first[0], first[:, 0] = np.nan, np.nan
    assert edge_correlation(first, second) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(edge_correlation(first, np.ones((20, 20))))


def test_functional_figure_takes_missing_values(fake, rng):
    traces = fake.make_traces(rng, n_volumes=200, n_regions=439)
    traces["series"][:, 3] = np.nan
    traces["dvars"][0] = np.nan
    assert len(encode_png(draw_functional_qc(traces))) <= MAX_BYTES


def test_structural_figure_draws_what_is_there(fake, rng):
    overview = fake.make_overview(rng)
    whole = len(encode_png(draw_structural_qc(overview)))
    for key in ("five_tissue", "density", "lengths_sdstream", "lengths_ifod2act"):
        del overview[key]
    assert 1000 < len(encode_png(draw_structural_qc(overview))) < whole <= MAX_BYTES


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_volumes_are_turned_to_right_anterior_superior(rng, signs, order):
    volume = rng.random((4, 5, 6))
    affine = np.eye(4)
    affine[:3, :3] = np.diag([2.0, 3.0, 4.0])
    stored, stored_affine = volume, affine.copy()
    for axis, sign in enumerate(signs):
        if sign < 0:
            stored = np.flip(stored, axis)
            stored_affine[:, axis] *= -1
    stored, stored_affine[:, :3] = stored.transpose(order), stored_affine[:, order]
    turned, sizes = to_ras(stored, stored_affine)
    np.testing.assert_array_equal(turned, volume)
    np.testing.assert_allclose(sizes, [2, 3, 4])


def test_small_tissues_are_drawn_on_top_of_those_around_them(fake, rng, monkeypatch):
    overview = fake.make_overview(rng)
    inner = np.zeros(overview["five_tissue"].shape[:3])
    inner[tuple(slice(size // 3, 2 * size // 3) for size in inner.shape)] = 1
    nothing = np.zeros_like(inner)
    overview["five_tissue"] = np.stack([nothing, inner, 1 - inner, nothing, nothing], axis=-1)
    purple = np.array([int(PURPLE[start : start + 2], 16) for start in (1, 3, 5)])

    def n_purple():
        found = pixels(encode_png(draw_structural_qc(overview))).astype(int)
        return int((np.abs(found - purple).max(axis=-1) < 24).sum())

    on_top = n_purple()
    monkeypatch.setattr(quality_figures, "_DRAWN", (0, 1, 2, 3, 4))  # white matter over it
    assert on_top > n_purple() + 100


def test_cohort_figures_are_small(rng):
    rows = [
        {"source": source, "target": str(flavor), "top1": 0.5, "top1_chance": 0.1,
         "average_rank": "n/a", "residual_correlation": 0.2}
        for source in ("fusion", "fusionSC", "fusionFC") for flavor in CORE_FLAVORS
    ]  # fmt: skip
    assert len(encode_png(draw_identification(rows))) <= MAX_BYTES
    means = {str(flavor): tuple(rng.random((3, 5000))) for flavor in CORE_FLAVORS[:5]}
    assert len(encode_png(draw_adaptation(means))) <= MAX_BYTES


def test_every_kind_of_figure_is_drawn_from_a_file(fake, rng, tmp_path):
    arrays = {"functional_qc": fake.make_traces(rng), "structural_qc": fake.make_overview(rng)}
    assert set(arrays) == set(FIGURES)
    for kind, content in arrays.items():
        np.savez(tmp_path / "arrays.npz", **content)
        size = draw_figure(kind, tmp_path / "arrays.npz", tmp_path / f"{kind}.png")
        assert size == (tmp_path / f"{kind}.png").stat().st_size


def test_figure_problems_say_what_and_where(tmp_path):
    with pytest.raises(
        UsageError, match=r"figure 'functional' is unknown\. Did you mean 'functional_qc'"
    ):
        draw_figure("functional", tmp_path / "x.npz", tmp_path / "x.png")
    np.savez(tmp_path / "traces.npz", dvars=np.zeros(3))
    with pytest.raises(InputError, match=r"cannot be drawn .*'series'.*traces.npz"):
        draw_figure("functional_qc", tmp_path / "traces.npz", tmp_path / "x.png")
