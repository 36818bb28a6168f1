# SPDX-License-Identifier: MIT
"""The benchmark of what the table of trust finds: its corruptions, on a cohort made at once."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from kraken_bids.model.krakencoder import Krakencoder
from kraken_bids.model.training import train_krakencoder

FLAVORS = ("FCcorr_fs86_hpf", "FCpcorr_fs86_hpf", "SCifod2act_fs86_volnorm",
           "SCsdstream_fs86_volnorm")  # fmt: skip
N_EDGES = 3655
BAD = np.array([2, 11, 17])


@pytest.fixture(scope="module")
def benchmark():
    file = Path(__file__).parents[1] / "benchmarks" / "trust.py"
    spec = importlib.util.spec_from_file_location("trust_benchmark", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def simulate(n, seed):
    """Connectomes whose flavors share five factors: possible ones of their kinds."""
    population, rng = np.random.default_rng(1), np.random.default_rng(seed)
    factors = rng.standard_normal((n, 5))
    found = {}
    for name in FLAVORS:
        edges = population.uniform(0.3, 0.7, N_EDGES)
        edges = edges + 0.05 * factors @ population.standard_normal((5, N_EDGES))
        edges += 0.02 * rng.standard_normal(edges.shape)
        found[name] = np.clip(edges, 0.0, 0.95)
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    bundle = train_krakencoder(
        simulate(40, 0), tmp_path_factory.mktemp("trust") / "model", n_components=8,
        latent_size=16, epochs=60, learning_rate=0.02,
    )  # fmt: skip
    return Krakencoder(bundle, device="cpu")


@pytest.mark.parametrize(
    ("name", "concern", "n_found"),
    [
        ("regions shuffled: FC of one atlas", "unlike", 3),
        ("regions by alphabet: SC of one atlas", "unlike", 3),
        ("left and right exchanged: all FC", "unlike", 3),
        ("Fisher z: all FC", "unlike", 3),
        # people are not that different: who resembles the other one is not told apart
        ("another participant's: all SC", "disagrees", 2),
    ],
)
def test_corruptions_are_found_and_only_they(benchmark, model, name, concern, n_found):
    one = next(row for row in benchmark.corruptions() if row.name == name)
    cohort = simulate(30, 7)
    spoilt = benchmark.corrupt(cohort, one, BAD, 3)
    for flavor in FLAVORS:
        changed = (spoilt[flavor] != cohort[flavor]).any(axis=1)
        assert set(np.flatnonzero(changed)) == (set(BAD) if one.chosen(flavor) else set())
    found = benchmark.judge(model, spoilt, "none")
    for flavor in filter(one.chosen, FLAVORS):
        rows = {row for row in range(30) if concern in found[flavor][row]}
        assert len(rows & set(BAD)) >= n_found
    doubted = {row for flavor in FLAVORS for row in range(30) if found[flavor][row]}
    assert doubted <= set(BAD)


def test_clean_cohort_raises_no_concern(benchmark, model):
    found = benchmark.judge(model, simulate(30, 7), "meanfit+meanshift")
    assert benchmark.doubted(found, np.arange(30), list(FLAVORS)) == (0, 0, 0)
