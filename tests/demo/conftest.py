# SPDX-License-Identifier: MIT
"""One tiny simulated data set for all tests that look at files."""

from __future__ import annotations

import numpy as np
import pytest

from kraken_bids.demo.dataset import TINY, write_dataset
from kraken_bids.demo.geometry import draw_geometry
from kraken_bids.demo.population import make_population


@pytest.fixture(scope="session")
def tiny_demo(tmp_path_factory):
    """Two participants, coarse and short, seed 3."""
    folder = tmp_path_factory.mktemp("demo") / "data"
    write_dataset(folder, n_participants=2, seed=3, size=TINY)
    return folder


@pytest.fixture
def geometry():
    """The shape and position of one head."""
    return draw_geometry(np.random.default_rng(5))


@pytest.fixture(scope="session")
def population():
    """The population that data and model share."""
    return make_population()
