# SPDX-License-Identifier: MIT
from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kraken_bids.images.alignment import measure_misfit

AFFINE = np.diag([-4.0, 4.0, 4.0, 1.0])
AFFINE[:3, 3] = 100, -110, -90


def brain(*, rim_mm: float = 0.0) -> np.ndarray:
    """An egg of 68 x 85 x 60 mm half axes, wider behind, flat below."""
    x, y, z = np.moveaxis(np.stack(np.indices((50, 56, 46)), -1) @ AFFINE[:3, :3].T, -1, 0)
    x, y, z = x + AFFINE[0, 3], y + AFFINE[1, 3], z + AFFINE[2, 3]
    width = 64 - 0.1 * y + rim_mm
    egg = (x / width) ** 2 + (y / (85 + rim_mm)) ** 2 + (z / (60 + rim_mm)) ** 2 < 1
    return egg & (z > -35 - rim_mm)


def moved(shift=(0, 0, 0), *, degrees=0.0, axis=(0, 0, 1)) -> np.ndarray:
    """Affine of a brain that a wrong transform has moved."""
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_rotvec(np.deg2rad(degrees) * np.array(axis)).as_matrix()
    turn[:3, 3] = shift
    return turn @ AFFINE


@pytest.mark.parametrize(
    "wrong",
    [
        moved((15, 0, 0)),
        moved((0, 15, 0)),
        moved((0, 0, -15)),
        moved(degrees=20, axis=(1, 0, 0)),
        moved(degrees=20, axis=(0, 0, 1)),
    ],
)
def test_fifteen_mm_and_twenty_degrees_are_found(wrong):
    misfit = measure_misfit(brain(), wrong, brain(rim_mm=3), AFFINE)
    assert misfit.is_wrong
    assert misfit.shift_mm > 12 or misfit.turn_degrees > 15


@pytest.mark.parametrize("right", [AFFINE, moved((2, -2, 2), degrees=3, axis=(1, 0, 0))])
def test_what_registrations_err_by_is_taken(right):
    assert not measure_misfit(brain(), right, brain(rim_mm=3), AFFINE).is_wrong


def test_series_that_does_not_cover_the_brain_is_taken():
    """The upper third is outside of the field of view."""
    fixed = brain(rim_mm=3)[:, :, :28]
    misfit = measure_misfit(brain(), AFFINE, fixed, AFFINE)
    assert not misfit.is_wrong
    assert misfit.shift_mm < 5
