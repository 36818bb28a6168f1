# SPDX-License-Identifier: MIT
from types import SimpleNamespace

import numpy as np
import pytest

from kraken_bids.model.bundle import write_bundle
from kraken_bids.model.krakencoder import Krakencoder
from kraken_bids.model.layers import FlavorModel, Layer
from kraken_bids.model.training.pca import fit_pca
from kraken_bids.model.translation import AdaptedBatch
from kraken_bids.model.trust import (
    FEWEST_MATCHED,
    MEASURES,
    agreement,
    cosines,
    match,
    match_modalities,
    measure_batch,
    typical_distance,
)

SC, FC = "SCsdstream_toy_count", "FCcorr_toy_hpf"
N_EDGES, N_COMPONENTS = 15, 4
PLAIN = SimpleNamespace(intergroup=(), group=lambda _flavor: "")


@pytest.fixture
def training(rng):
    """Connectomes of six regions that a model was fitted on."""
    return {name: rng.normal(0.2, 0.1, (30, N_EDGES)) for name in (SC, FC)}


@pytest.fixture
def bundle(tmp_path, training, rng):
    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    flavors = {
        name: FlavorModel(
            N_EDGES,
            fit_pca(edges, N_COMPONENTS).transform,
            (Layer(draw(3, N_COMPONENTS), draw(3), ("normalize",)),),
            (Layer(draw(N_COMPONENTS, 3), draw(N_COMPONENTS)),),
        )
        for name, edges in training.items()
    }
    return write_bundle(tmp_path / "model", flavors=flavors, latent_size=3, provenance={})


@pytest.fixture
def given(rng):
    edges = {name: rng.normal(0.2, 0.1, (5, N_EDGES)).astype(np.float32) for name in (SC, FC)}
    edges[SC][2] = np.nan
    return edges


def test_latents_are_those_of_encode(bundle, given):
    model = Krakencoder(bundle, device="cpu")
    seen, encoded = model.encode_seen(given), model.encode(given)
    for name in given:
        np.testing.assert_array_equal(seen[name].latent, encoded[name])


def test_measures_are_those_of_their_formulas(bundle, given):
    seen = Krakencoder(bundle, device="cpu").encode_seen(given)[FC]
    transform = bundle.transform(FC)
    mean, components = (np.float64(transform.parameters[k]) for k in ("mean", "components"))
    deviation = given[FC] - mean
    within = deviation @ components.T
    explained = (within**2).sum(axis=1) / (deviation**2).sum(axis=1)
    np.testing.assert_allclose(seen.explained, explained, rtol=1e-4)
    features = transform.forward(given[FC])
    (encoder,), (decoder,) = bundle.encoder(FC), bundle.decoder(FC)
    raw = features @ encoder.weight.T + encoder.bias
    np.testing.assert_allclose(seen.latent_norm, np.linalg.norm(raw, axis=1), rtol=1e-5)
    decoded = seen.latent @ decoder.weight.T + decoder.bias
    np.testing.assert_allclose(seen.reconstruction, cosines(features, decoded), atol=1e-5)


def test_training_participants_are_at_distance_one_on_average(bundle, training):
    seen = Krakencoder(bundle, device="cpu").encode_seen(training)
    for name in training:
        assert np.sqrt(np.mean(seen[name].distance ** 2)) == pytest.approx(1, rel=1e-4)
        row = bundle.row(name)
        assert seen[name].explained.mean() == pytest.approx(row["explained_variance"], abs=0.1)


def test_missing_flavor_has_no_measures(bundle, given):
    seen = Krakencoder(bundle, device="cpu").encode_seen(given)[SC]
    for values in seen.measures().values():
        assert list(np.isnan(values)) == [False, False, True, False, False]


def test_distance_is_not_known_where_the_model_does_not_say(tiny_bundle):
    assert np.isnan(typical_distance(tiny_bundle, FC))
    seen = Krakencoder(tiny_bundle, device="cpu").encode_seen({FC: np.ones((2, 6))})[FC]
    assert np.isnan(seen.distance).all()
    assert np.isfinite(seen.latent_norm).all()


def test_transforms_without_components_explain_nothing_and_all(tmp_path, bundle, rng):
    from kraken_bids.model.transforms import Transform

    mean = bundle.training_mean(FC)
    layers = Layer(np.ones((3, N_EDGES), np.float32)), Layer(np.ones((N_EDGES, 3), np.float32))
    flavor = FlavorModel(N_EDGES, Transform("cfeat", {"mean": mean}), layers[:1], layers[1:])
    plain = write_bundle(tmp_path / "plain", flavors={FC: flavor}, latent_size=3, provenance={})
    x = rng.normal(size=(2, N_EDGES))
    seen = Krakencoder(plain, device="cpu").encode_seen({FC: x})[FC]
    assert np.isnan(seen.explained).all()
    # no normalisation here: the latent is as long as it is
    np.testing.assert_allclose(seen.latent_norm, np.linalg.norm(seen.latent, axis=1), rtol=1e-6)


def test_agreement_leaves_the_flavor_itself_out(rng):
    latents = {name: rng.normal(size=(4, 3)) for name in "abc"}
    latents["b"][1] = np.nan
    found = agreement(latents, PLAIN)
    others = latents["b"] + latents["c"]
    others[1] = latents["c"][1]
    np.testing.assert_allclose(found["a"], cosines(latents["a"], others))
    assert list(np.isnan(found["b"])) == [False, True, False, False]
    assert np.isnan(agreement({"a": latents["a"]}, PLAIN)["a"]).all()


def test_agreement_keeps_to_a_group_where_latents_differ_between_groups(rng):
    latents = {name: rng.normal(size=(4, 3)) for name in (SC, FC, "FCpcorr_toy_hpf")}
    groups = SimpleNamespace(intergroup=("fc->sc",), group=lambda name: name[:2])
    found = agreement(latents, groups)
    np.testing.assert_allclose(found[FC], cosines(latents[FC], latents["FCpcorr_toy_hpf"]))
    assert np.isnan(found[SC]).all()
    assert match_modalities(list(latents), latents.__getitem__, groups) == ({}, None)


def _by_hand(a, b):
    """Standard score of the own cosine among those with everybody else, pair by pair."""
    a, b = ((x - x.mean(axis=0)) for x in (a, b))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    table = a @ b.T
    scores = []
    for i in range(len(a)):
        row, column = np.delete(table[i], i), np.delete(table[:, i], i)
        own = table[i, i]
        scores.append(((own - row.mean()) / row.std() + (own - column.mean()) / column.std()) / 2)
    return np.array(scores)


def test_match_is_that_of_all_pairs(rng):
    a = rng.normal(size=(25, 6))
    b = a + rng.normal(size=(25, 6))
    a[3] = np.nan
    present = np.arange(25) != 3
    found = match(a, b)
    np.testing.assert_allclose(found[present], _by_hand(a[present], b[present]), atol=1e-9)
    assert np.isnan(found[3])


def test_match_tells_own_latents_from_those_of_others(rng):
    a = rng.normal(size=(60, 16))
    b = a + 0.7 * rng.normal(size=(60, 16))
    assert np.median(match(a, b)) > 2
    assert abs(np.median(match(a, np.roll(b, 1, axis=0)))) < 0.5


def test_few_participants_are_not_matched(rng):
    a = rng.normal(size=(FEWEST_MATCHED - 1, 4))
    assert np.isnan(match(a, a)).all()


def test_modalities_are_matched_by_their_sums(rng):
    latents = {name: rng.normal(size=(30, 5)) for name in (SC, "SCifod2act_toy_count", FC)}
    flavors, modalities = match_modalities(list(latents), latents.__getitem__, PLAIN)
    structural = latents[SC] + latents["SCifod2act_toy_count"]
    np.testing.assert_allclose(modalities, match(structural, latents[FC]))
    np.testing.assert_allclose(flavors[SC], match(latents[SC], latents[FC]))
    np.testing.assert_allclose(flavors[FC], match(latents[FC], structural))
    only = {FC: latents[FC]}
    assert match_modalities([FC], only.__getitem__, PLAIN) == ({}, None)


def test_batch_has_all_measures_of_what_was_measured(bundle, given):
    measured = {name: edges.copy() for name, edges in given.items()}
    measured[FC][0, :2] = 1.2, -1.5
    measured[FC][1, :5] = np.nan  # the edges of the first region
    measured[SC][0, 3] = -1
    n_filled = {FC: np.array([0, 5, 0, 0, 0]), SC: np.zeros(5, np.int64)}
    seen = Krakencoder(bundle, device="cpu").encode_seen(given)
    found = measure_batch(measured, AdaptedBatch(given, n_filled), seen, bundle)
    assert tuple(found[FC]) == MEASURES
    assert list(found[FC]["impossible_edges"]) == [2, 0, 0, 0, 0]
    assert found[SC]["impossible_edges"][0] >= 1
    assert list(found[FC]["missing_regions"]) == [0, 1, 0, 0, 0]
    assert list(found[FC]["filled_share"]) == [0, 5 / N_EDGES, 0, 0, 0]
    mean = np.float64(bundle.training_mean(FC))
    expected = np.cov(measured[FC][2], mean, ddof=0)[0, 1] / mean.var()
    assert found[FC]["scale"][2] == pytest.approx(expected, rel=1e-6)
