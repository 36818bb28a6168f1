# SPDX-License-Identifier: MIT
import json
from dataclasses import replace

import numpy as np
import pytest

from kraken_bids.model.bundle import open_bundle
from kraken_bids.model.krakencoder import Krakencoder
from kraken_bids.model.merging import merge_bundles
from kraken_bids.model.training import train_krakencoder
from kraken_bids.model.trust import agreement
from kraken_bids.model.typical import note_typical, read_typical
from kraken_bids.model.verdicts import FEWEST_JUDGED, find_bounds, find_concerns

FLAVORS = ("FCcorr_toy_hpf", "SCsdstream_toy_count")
N_EDGES = 105


def simulate(n, seed):
    """Connectomes of fifteen regions whose flavors share four factors."""
    population, rng = np.random.default_rng(1), np.random.default_rng(seed)
    factors = rng.standard_normal((n, 4))
    return {
        name: (population.uniform(0.1, 1, N_EDGES)
               + 0.1 * factors @ population.standard_normal((4, N_EDGES))
               + 0.03 * rng.standard_normal((n, N_EDGES))).astype(np.float32)
        for name in FLAVORS
    }  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("typical") / "model"
    trained = train_krakencoder(
        simulate(40, 0), folder, n_components=6, latent_size=8, epochs=40, learning_rate=0.02
    )
    return note_typical(trained, simulate(30, 5))


def measure(bundle, connectomes):
    seen = Krakencoder(bundle, device="cpu").encode_seen(connectomes)
    agreements = agreement({name: one.latent for name, one in seen.items()}, bundle)
    return {name: {**one.measures(), "agreement": agreements[name]} for name, one in seen.items()}


def test_what_is_usual_stays_in_the_bundle(bundle):
    opened = open_bundle(bundle.path)
    opened.verify()
    for name in FLAVORS:
        found = read_typical(opened, name)
        assert set(found) == {"explained", "distance", "latent_norm", "reconstruction",
                              "agreement"}  # fmt: skip
        assert {one.n for one in found.values()} == {30}
        distances = measure(bundle, simulate(30, 5))[name]["distance"]
        assert found["distance"].median == pytest.approx(np.median(np.log(distances)))


def test_a_merged_model_keeps_it_with_the_flavors_it_takes_over(bundle, tmp_path):
    options = {"n_components": 6, "latent_size": 8, "epochs": 1}
    unwatched = train_krakencoder({"FCpcorr_toy_hpf": simulate(40, 0)[FLAVORS[0]]},
                                  tmp_path / "other", **options)  # fmt: skip
    merged = merge_bundles([bundle, unwatched], tmp_path / "merged",
                           renamed={FLAVORS[1]: "SCifod2act_toy_count"})  # fmt: skip
    for old, new in (FLAVORS[:1] * 2, (FLAVORS[1], "SCifod2act_toy_count")):
        assert read_typical(merged, new) == read_typical(bundle, old) != {}
    assert read_typical(merged, "FCpcorr_toy_hpf") == {}
    again = merge_bundles([merged, unwatched], tmp_path / "again",
                          flavors=[FLAVORS[0]])  # fmt: skip
    assert read_typical(again, FLAVORS[0]) == read_typical(bundle, FLAVORS[0])


def test_single_participants_are_judged_by_it(bundle):
    people = simulate(8, 9)
    shuffled = np.random.default_rng(2).permutation(N_EDGES)
    strange = {**people, FLAVORS[0]: people[FLAVORS[0]][:, shuffled]}
    for given, expected in ((people, 0), (strange, 8)):
        columns = measure(bundle, given)[FLAVORS[0]]
        bounds = find_bounds(FLAVORS[0], columns, read_typical(bundle, FLAVORS[0]))
        alone = find_bounds(FLAVORS[0], columns)
        values = [{name: float(column[row]) for name, column in columns.items()} for row in
                  range(8)]  # fmt: skip
        assert sum("unlike" in find_concerns(one, bounds) for one in values) == expected
        assert alone["explained"].least == -np.inf < bounds["explained"].least


def test_few_participants_leave_the_bundle_as_it_is(bundle, tmp_path):
    trained = train_krakencoder(
        simulate(20, 0), tmp_path / "few", n_components=3, latent_size=4, epochs=1
    )
    before = (tmp_path / "few/config.json").read_bytes()
    assert note_typical(trained, simulate(FEWEST_JUDGED - 1, 5)) is trained
    assert (tmp_path / "few/config.json").read_bytes() == before
    assert read_typical(trained, FLAVORS[0]) == {}


@pytest.mark.parametrize(
    "damage",
    ["x", [], {"n_participants": "30", "explained": [0, 1]}, {"explained": [0, 1]},
     {"n_participants": 30, "explained": ["0", None]}, {"n_participants": 30, "explained": [1]},
     {"n_participants": 30, "explained": [10**400, float("nan")]}],
)  # fmt: skip
def test_what_is_no_number_says_nothing(bundle, damage):
    config = json.loads(json.dumps(dict(bundle.config)))
    config["flavors"][FLAVORS[0]]["typical"] = damage
    assert read_typical(replace(bundle, config=config), FLAVORS[0]) == {}
