# SPDX-License-Identifier: MIT
"""A tiny model: two flavors of a four-region atlas, latents of three values."""

from __future__ import annotations

import numpy as np
import pytest

from kraken_bids.model.bundle import write_bundle
from kraken_bids.model.layers import FlavorModel, Layer
from kraken_bids.model.transforms import Transform

N_EDGES, N_FEATURES, LATENT_SIZE = 6, 4, 3


def _make_flavor(rng: np.random.Generator, *, group: str = "") -> FlavorModel:
    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    transform = Transform(
        "pca",
        {
            "mean": draw(N_EDGES),
            "components": draw(N_FEATURES, N_EDGES),
            "input_scale": np.float32([2.0]),
            "output_scale": np.float32([100.0]),
        },
    )
    return FlavorModel(
        n_edges=N_EDGES,
        transform=transform,
        encoder=(Layer(draw(LATENT_SIZE, N_FEATURES), draw(LATENT_SIZE), ("normalize",)),),
        decoder=(Layer(draw(N_FEATURES, LATENT_SIZE), draw(N_FEATURES)),),
        group=group,
    )


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.fixture
def make_flavor(rng):
    """Make a flavor with random weights."""
    return lambda **options: _make_flavor(rng, **options)


@pytest.fixture
def tiny_bundle(tmp_path, make_flavor):
    """Two flavors, SC and FC, of one atlas."""
    return write_bundle(
        tmp_path / "tiny",
        flavors={"SCsdstream_toy_count": make_flavor(), "FCcorr_toy_hpf": make_flavor()},
        latent_size=LATENT_SIZE,
        provenance={"made_by": "a test"},
    )
