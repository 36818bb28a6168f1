# SPDX-License-Identifier: MIT
import numpy as np
import pytest

from kraken_bids.flavors import LEAST_SIMILARITY
from kraken_bids.model.verdicts import (
    CHANCE_MATCH,
    FEWEST_JUDGED,
    LEAST_AGREEMENT,
    LEAST_MATCH,
    RULES,
    find_bounds,
    find_concerns,
    least_similarity,
)

FC = "FCcorr_fs86_hpf"


@pytest.fixture
def usual():
    """Measures of forty connectomes that nothing is wrong with."""
    rng = np.random.default_rng(4)
    n = 40
    return {
        "training_mean_r": rng.normal(0.85, 0.02, n),
        "scale": rng.normal(1, 0.08, n),
        "impossible_edges": np.zeros(n),
        "explained": rng.normal(0.9, 0.02, n),
        "distance": rng.normal(1, 0.15, n),
        "latent_norm": rng.normal(9, 1, n),
        "reconstruction": rng.normal(0.97, 0.005, n),
        "agreement": rng.normal(0.85, 0.04, n),
        "match": rng.normal(1.8, 0.3, n),
        "modality_match": rng.normal(2.0, 0.25, n),
        "missing_regions": np.zeros(n),
        "filled_share": np.zeros(n),
    }


def row(columns, **changes):
    """The measures of the first connectome, some of them changed."""
    return {name: float(values[0]) for name, values in columns.items()} | changes


def test_every_rule_judges_a_measure_once(usual):
    assert {rule.measure for rule in RULES} == set(usual) - {"missing_regions"}
    assert len(RULES) == len({rule.measure for rule in RULES})


def test_usual_connectomes_raise_no_concern(usual):
    bounds = find_bounds(FC, usual)
    for number in range(40):
        values = {name: column[number] for name, column in usual.items()}
        assert find_concerns(values, bounds) == {}


@pytest.mark.parametrize(
    ("measure", "value", "concern"),
    [
        ("training_mean_r", 0.45, "unlike"),
        ("scale", 200.0, "unlike"),
        ("scale", -0.2, "unlike"),
        ("scale", 2.0, "unlike"),
        ("impossible_edges", 1, "unlike"),
        ("explained", 0.3, "unlike"),
        ("distance", 4.0, "unlike"),
        ("distance", 0.1, "unlike"),
        ("latent_norm", 60.0, "unlike"),
        ("latent_norm", 1.0, "unlike"),
        ("reconstruction", 0.5, "unlike"),
        ("agreement", 0.1, "disagrees"),
        ("match", -0.5, "disagrees"),
        ("modality_match", 0.8, "disagrees"),
        ("filled_share", 0.3, "filled"),
    ],
)
def test_what_is_far_from_the_cohort_raises_its_concern(usual, measure, value, concern):
    bounds = find_bounds(FC, usual)
    assert find_concerns(row(usual, **{measure: value}), bounds) == {concern: [measure]}


@pytest.mark.parametrize(
    ("measure", "value"),
    [("explained", 0.99), ("agreement", 0.99), ("match", 4.0), ("training_mean_r", 0.95)],
)
def test_better_than_usual_is_no_concern(usual, measure, value):
    assert find_concerns(row(usual, **{measure: value}), find_bounds(FC, usual)) == {}


def test_small_cohort_is_judged_by_what_holds_for_any(usual):
    few = {name: values[: FEWEST_JUDGED - 1] for name, values in usual.items()}
    bounds = find_bounds(FC, few)
    assert {one.n_sessions for one in bounds.values()} == {0}
    assert bounds["training_mean_r"].least == LEAST_SIMILARITY["FCcorr", "hpf"]
    assert bounds["agreement"].least == LEAST_AGREEMENT
    assert bounds["explained"].least == -np.inf
    assert find_concerns(row(few, explained=0.0, distance=6.0, scale=0.1), bounds) == {
        "unlike": ["scale", "distance"]
    }


def test_sessions_without_the_flavor_do_not_count(usual):
    gappy = {name: np.concatenate([v, np.full(30, np.nan)]) for name, v in usual.items()}
    assert find_bounds(FC, gappy) == find_bounds(FC, usual)
    assert find_concerns(row(usual, explained=np.nan), find_bounds(FC, usual)) == {}


def test_a_few_outliers_do_not_widen_the_bounds(usual):
    spoilt = {name: values.copy() for name, values in usual.items()}
    spoilt["distance"][:6] = 100
    bounds = find_bounds(FC, spoilt)["distance"]
    assert not bounds.hold(4.0)
    assert bounds.hold(1.0)


def test_matches_are_doubted_only_where_others_match_better(usual):
    assert find_bounds(FC, usual)["modality_match"].least == LEAST_MATCH
    assert find_bounds(FC, usual)["match"].least == CHANCE_MATCH
    weak = usual | {"modality_match": np.random.default_rng(1).normal(0.3, 0.8, 40)}
    assert find_bounds(FC, weak)["modality_match"].least < -1


def test_no_spread_at_all_leaves_room(usual):
    alike = usual | {"reconstruction": np.full(40, 0.9)}
    bounds = find_bounds(FC, alike)["reconstruction"]
    assert bounds.hold(0.88)
    assert not bounds.hold(0.5)


def test_flavors_that_are_not_ours_have_no_least_similarity():
    assert least_similarity("FCcorr_toy_hpf") == -np.inf
    assert least_similarity("anything") == -np.inf
    assert least_similarity("SCsdstream_fs86_volnorm") == 0.5
