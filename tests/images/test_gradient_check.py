# SPDX-License-Identifier: MIT
from __future__ import annotations

import numpy as np
import pytest

from kraken_bids.images.diffusion import GradientTable
from kraken_bids.images.gradient_check import (
    ARRANGEMENTS,
    AS_GIVEN,
    TensorSums,
    check_axes,
)

SHAPE = (24, 22, 20)
AFFINE = np.diag([-2.0, 2.5, 3.0, 1.0])


def fibres() -> np.ndarray:
    """Thin straight bundles of all directions: (X, Y, Z, 3), unit vectors on the voxel axes."""
    rng = np.random.default_rng(2)
    size_mm = np.abs(np.diag(AFFINE)[:3])
    places = np.stack(np.indices(SHAPE), axis=-1) * size_mm
    directions = np.zeros((*SHAPE, 3))
    for _ in range(60):
        along = rng.normal(size=3)
        along /= np.linalg.norm(along)
        away = places - rng.uniform(0, 1, 3) * SHAPE * size_mm
        distance = np.linalg.norm(away - (away @ along)[..., None] * along, axis=-1)
        directions[distance < 5] = along
    return directions


def gradients(rng, bvals) -> GradientTable:
    vectors = rng.normal(size=(len(bvals), 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    bvals = np.array(bvals, dtype=float)
    return GradientTable(bvals, np.where(bvals[:, None] > 0, vectors, 0))


def fitted(table: GradientTable, told: GradientTable, affine, *, noise=0.0) -> TensorSums:
    """A series measured with one table of gradients and read with another."""
    rng = np.random.default_rng(1)
    flip = [-1, 1, 1] if np.linalg.det(affine[:3, :3]) > 0 else [1, 1, 1]
    sums = TensorSums(told, np.ones(SHAPE, bool), affine)
    directions = fibres()
    for number, (bval, bvec) in enumerate(zip(table.bvals, table.bvecs * flip, strict=True)):
        signal = np.exp(-bval * (0.3e-3 + 1.4e-3 * (directions @ bvec) ** 2))
        values = 1000 * (signal + noise * rng.normal(size=SHAPE))
        sums.add(number, values.ravel(order="F"))
    return sums


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("bvals", [[0, 0] + [1000] * 20, [1000] * 20 + [3000] * 20])
def test_right_b_vectors_are_the_best(rng, bvals, sign):
    table = gradients(rng, bvals)
    check = check_axes(fitted(table, table, AFFINE * [sign, 1, 1, 1], noise=0.03))
    assert (check.best, check.gain, check.is_wrong) == (AS_GIVEN, 1.0, False)
    assert check.n_voxels > 5000


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("arrangement", ARRANGEMENTS[1:])
def test_wrong_axes_are_found_and_how_to_mend_them(rng, arrangement, sign):
    table = gradients(rng, [0, 0] + [1000] * 20)
    order, signs = arrangement
    told = GradientTable(table.bvals, table.bvecs[:, list(order)] * signs)
    check = check_axes(fitted(table, told, AFFINE * [sign, 1, 1, 1], noise=0.03))
    assert check.is_wrong
    mend, turn = check.best
    mended = told.bvecs[:, list(mend)] * turn
    dots = (mended * table.bvecs).sum(axis=1)[2:]
    np.testing.assert_allclose(dots, np.sign(dots[0]), atol=1e-12)


def test_noise_says_nothing(rng):
    table = gradients(rng, [0] + [1000] * 12)
    sums = TensorSums(table, np.ones(SHAPE, bool), AFFINE)
    for number in range(13):
        sums.add(number, np.exp(rng.normal(size=np.prod(SHAPE))))
    assert not check_axes(sums).is_wrong


def test_few_voxels_and_few_directions_say_nothing(rng):
    table = gradients(rng, [0] + [1000] * 20)
    mask = np.zeros(SHAPE, bool)
    mask[:5, :5, :5] = True
    sums = TensorSums(table, mask, AFFINE)
    sums.add(0, np.ones(np.prod(SHAPE)))
    assert check_axes(sums).gain == 1
    four = gradients(rng, [0] + [1000] * 4)
    sums = TensorSums(four, np.ones(SHAPE, bool), AFFINE)
    sums.add(1, np.ones(np.prod(SHAPE)))
    assert check_axes(sums).n_voxels == 0
