# SPDX-License-Identifier: MIT
"""Means of regions in one pass over the volumes."""

import numpy as np
import pytest

from kraken_bids.connectome.parcellation import centred_gram, parcellate, partition
from kraken_bids.errors import InputError

SHAPE = (7, 6, 5)
N_VOLUMES = 12


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.fixture
def image(rng):
    return rng.normal(1000, 30, (*SHAPE, N_VOLUMES))


@pytest.fixture
def labels(rng):
    coarse = rng.integers(0, 4, SHAPE)
    fine = rng.integers(0, 9, SHAPE)
    fine[fine == 5] = 0  # region 5 has no voxel
    return {"coarse": coarse, "fine": fine}


@pytest.fixture
def mask(rng):
    return rng.random(SHAPE) < 0.8


def volumes_of(image):
    return (np.ravel(image[..., t], order="F") for t in range(image.shape[3]))


def run_on(image, labels, mask, *, tissues=None, **arguments):
    cells = partition(labels, {"coarse": 3, "fine": 8}, mask=mask, tissues=tissues)
    return parcellate(volumes_of(image), cells, n_volumes=image.shape[3], **arguments)


def test_series_are_means_over_voxels(image, labels, mask):
    run = run_on(image, labels, mask)
    for atlas, n_regions in (("coarse", 3), ("fine", 8)):
        for index in range(1, n_regions + 1):
            chosen = labels[atlas] == index
            column = run.series[atlas][:, index - 1]
            if chosen.any():
                np.testing.assert_allclose(column, image[chosen].mean(axis=0), rtol=1e-13)
            else:
                assert np.isnan(column).all()
    assert run.series["fine"].shape == (N_VOLUMES, 8)
    assert run.n_voxels["fine"][4] == 0


def test_voxels_that_are_zero_throughout_do_not_count(image, labels, mask):
    empty = labels["fine"] == 2
    empty[:, 3:] |= labels["coarse"][:, 3:] == 1
    image[empty] = 0
    image[(labels["coarse"] == 2), 4] = 0  # one volume only: still signal
    run = run_on(image, labels, mask)
    good = (labels["coarse"] == 1) & ~empty
    np.testing.assert_allclose(run.series["coarse"][:, 0], image[good].mean(axis=0), rtol=1e-13)
    assert run.n_good["coarse"][0] == good.sum() < run.n_voxels["coarse"][0]
    assert run.n_good["fine"][1] == 0
    assert np.isnan(run.series["fine"][:, 1]).all()
    assert run.series["coarse"][4, 1] == pytest.approx(0)


def test_whole_numbers_with_slope_and_intercept_are_scaled(labels, mask, rng):
    stored = rng.integers(-3000, 3000, (*SHAPE, N_VOLUMES)).astype(np.int16)
    stored[0] = 50  # true value 0 throughout
    true = 0.1 * stored - 5.0
    scaled = run_on(stored, labels, mask, slope=0.1, intercept=-5.0)
    plain = run_on(np.where(stored == 50, 0, true), labels, mask)
    for name in ("series", "tsnr", "n_good"):
        for atlas in labels:
            np.testing.assert_allclose(
                getattr(scaled, name)[atlas], getattr(plain, name)[atlas], rtol=1e-9, atol=1e-9
            )
    np.testing.assert_allclose(scaled.dvars, plain.dvars, rtol=1e-9)
    np.testing.assert_allclose(scaled.global_signal, plain.global_signal, rtol=1e-9)


def test_values_that_are_not_finite_count_as_zero(image, labels, mask):
    image[0, 0, 0, 3] = np.nan
    image[1, 1, 1, 5] = np.inf
    clean = np.nan_to_num(image, nan=0, posinf=0)
    spoilt, expected = run_on(image, labels, mask), run_on(clean, labels, mask)
    np.testing.assert_array_equal(spoilt.series["coarse"], expected.series["coarse"])
    np.testing.assert_array_equal(spoilt.dvars, expected.dvars)


@pytest.mark.parametrize("dtype", [">i2", "<u1", "<u2", ">u2", "<i1", ">f4", "<f8", ">f8", "<i4"])
def test_stored_types_give_the_same_result(labels, mask, rng, dtype):
    stored = rng.integers(1, 120, (*SHAPE, N_VOLUMES))
    tissues = {"CSF": rng.random(SHAPE) < 0.3}
    run = run_on(stored.astype(dtype), labels, mask, tissues=tissues)
    expected = run_on(stored.astype(float), labels, mask, tissues=tissues)
    np.testing.assert_array_equal(run.series["fine"], expected.series["fine"])
    np.testing.assert_array_equal(run.dvars, expected.dvars)
    np.testing.assert_array_equal(run.tsnr["coarse"], expected.tsnr["coarse"])
    np.testing.assert_array_equal(run.grams["CSF"], expected.grams["CSF"])


def test_large_whole_numbers_are_summed_without_overflow(labels, mask):
    stored = np.full((*SHAPE, 3), 65_535, dtype=np.uint16)
    stored[..., 1] = 0
    run = run_on(stored, labels, mask)
    np.testing.assert_array_equal(run.series["coarse"][:, 0], [65_535, 0, 65_535])
    np.testing.assert_allclose(run.dvars[1:], 1500)  # the median mean is two thirds of 65 535


@pytest.mark.parametrize(("n_volumes_a_block", "n_voxels_a_tile"), [(1, 10_000), (5, 7), (12, 1)])
def test_blocks_and_tiles_do_not_change_the_result(
    monkeypatch, image, labels, mask, rng, n_volumes_a_block, n_voxels_a_tile
):
    image[(labels["coarse"] == 2) & (labels["fine"] == 1)] = 0
    image[0, 0, 0, 3] = np.nan
    tissues = {"WM": rng.random(SHAPE) < 0.3}
    whole = run_on(image, labels, mask, tissues=tissues)
    monkeypatch.setattr("kraken_bids.connectome.parcellation.BLOCK_VOLUMES", n_volumes_a_block)
    monkeypatch.setattr("kraken_bids.connectome.parcellation.TILE_VOXELS", n_voxels_a_tile)
    pieces = run_on(image, labels, mask, tissues=tissues)
    for atlas in labels:
        np.testing.assert_allclose(pieces.series[atlas], whole.series[atlas], rtol=1e-13)
        np.testing.assert_allclose(pieces.tsnr[atlas], whole.tsnr[atlas], rtol=1e-9)
        np.testing.assert_array_equal(pieces.n_good[atlas], whole.n_good[atlas])
    np.testing.assert_allclose(pieces.dvars, whole.dvars, rtol=1e-12)
    np.testing.assert_array_equal(pieces.grams["WM"], whole.grams["WM"])


def test_global_signal_dvars_and_tsnr_follow_their_definitions(image, labels, mask):
    run = run_on(image, labels, mask)
    inside = image[mask]
    np.testing.assert_allclose(run.global_signal, inside.mean(axis=0), rtol=1e-12)
    change = np.sqrt((np.diff(inside, axis=1) ** 2).mean(axis=0))
    scale = 1000 / np.median(inside.mean(axis=1))
    np.testing.assert_allclose(run.dvars, [np.nan, *(change * scale)], rtol=1e-10)
    region = image[labels["coarse"] == 3]
    tsnr = (region.mean(axis=1) / region.std(axis=1)).mean()
    assert run.tsnr["coarse"][2] == pytest.approx(tsnr, rel=1e-9)


def test_tissue_means_and_gram_matrices_follow_their_definitions(image, labels, mask, rng):
    tissues = {name: rng.random(SHAPE) < 0.3 for name in ("WM", "CSF", "GM")}
    run = run_on(image, labels, mask, tissues=tissues)
    assert set(run.grams) == {"WM", "CSF"}
    for name, chosen in tissues.items():
        np.testing.assert_allclose(run.tissue_means[name], image[chosen].mean(axis=0), rtol=1e-12)
        assert run.n_tissue[name] == chosen.sum()
    centred = image[tissues["CSF"]] - image[tissues["CSF"]].mean(axis=1, keepdims=True)
    gram = centred.T @ centred
    np.testing.assert_allclose(run.grams["CSF"], gram, atol=1e-5 * np.abs(gram).max())


def test_gram_matrix_does_not_depend_on_blocks(monkeypatch, rng):
    series = rng.normal(500, 3, (9, 100)).astype(np.float32)
    whole = centred_gram(series)
    monkeypatch.setattr("kraken_bids.connectome.parcellation.GRAM_BLOCK", 7)
    np.testing.assert_allclose(centred_gram(series), whole, rtol=1e-4, atol=1e-3)


def test_single_volume_has_means_but_no_change(image, labels, mask):
    run = run_on(image[..., :1], labels, mask)
    assert np.isfinite(run.series["coarse"]).all()
    assert np.isnan(run.dvars).all()
    assert np.isnan(run.tsnr["coarse"]).all()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (4, r"label image of coarse holds values from 0 to 4; the atlas has .* 0 to 3"),
        (-1, r"label image of coarse holds values from -1 to 3"),
        (1.5, r"label image of coarse"),
    ],
)
def test_labels_of_another_atlas_are_refused(labels, mask, value, message):
    labels["coarse"] = labels["coarse"].astype(float)
    labels["coarse"][0, 0, 0] = value
    with pytest.raises(InputError, match=message):
        partition(labels, {"coarse": 3, "fine": 8}, mask=mask)


def test_empty_mask_is_refused(labels):
    with pytest.raises(InputError, match="brain mask is empty"):
        partition(labels, {"coarse": 3, "fine": 8}, mask=np.zeros(SHAPE, dtype=bool))
