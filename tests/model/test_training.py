# SPDX-License-Identifier: MIT
import numpy as np
import pytest
import torch

from kraken_bids.errors import ModelError
from kraken_bids.model.bundle import open_bundle
from kraken_bids.model.evaluation import evaluate_connectomes
from kraken_bids.model.krakencoder import Krakencoder
from kraken_bids.model.training import (
    OUTPUT_SCALE,
    TrainingOptions,
    correlation_error,
    fit_pca,
    latent_distance,
    train_krakencoder,
    training_loss,
    unit_rows,
)

FLAVORS = ("FCcorr_fs86_hpf", "FCpcorr_fs86_hpf", "SCsdstream_fs86_volnorm")
QUICK = {
    "n_components": 8,
    "latent_size": 16,
    "epochs": 60,
    "learning_rate": 0.02,
    "batch_size": 20,
    "dropout": 0.1,
}


def simulate(n, *, seed=0, n_edges=60, noise=0.1):
    """Connectomes of flavors that share six factors a participant; their loadings are fixed."""
    loadings = np.random.default_rng(99)
    rng = np.random.default_rng(seed)
    factors = rng.standard_normal((n, 6))
    return {
        flavor: loadings.standard_normal(n_edges)
        + factors @ loadings.standard_normal((6, n_edges))
        + noise * rng.standard_normal((n, n_edges))
        for flavor in FLAVORS
    }


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return train_krakencoder(simulate(60), tmp_path_factory.mktemp("model") / "tiny", **QUICK)


@pytest.mark.parametrize("target", FLAVORS)
@pytest.mark.parametrize("source", FLAVORS)
def test_trained_model_identifies_new_participants(bundle, source, target):
    new = simulate(20, seed=5)
    model = Krakencoder(bundle, device="cpu")
    latents = model.encode({source: new[source]})
    predicted = model.decode(latents[source], [target])[target]
    evaluation = evaluate_connectomes(new[target], predicted, n_permutations=10)
    assert evaluation.top1 >= 0.75
    assert evaluation.residual_correlation > 0.6


def test_latents_have_length_one(bundle):
    latents = Krakencoder(bundle, device="cpu").encode(simulate(4, seed=1))
    for latent in latents.values():
        np.testing.assert_allclose(np.linalg.norm(latent, axis=1), 1, rtol=1e-5)


def test_same_seed_gives_the_same_bytes(bundle, tmp_path):
    torch.manual_seed(123)  # what others did with the global state does not matter
    again = train_krakencoder(simulate(60), tmp_path / "again", **QUICK)
    assert again.sha256 == bundle.sha256


def test_another_seed_gives_another_model(bundle, tmp_path):
    other = train_krakencoder(simulate(60), tmp_path / "other", seed=1, **QUICK)
    assert other.sha256 != bundle.sha256


def test_bundle_says_how_it_was_trained(bundle):
    provenance = open_bundle(bundle.path).config["provenance"]
    assert provenance["n_participants"] == 60
    assert provenance["options"]["epochs"] == 60
    assert provenance["options"]["seed"] == 0
    assert provenance["versions"]["torch"] == torch.__version__
    assert 0.9 < provenance["explained_variance"]["FCcorr_fs86_hpf"] <= 1


def test_progress_is_told_each_epoch_and_the_loss_falls(tmp_path):
    told = []
    train_krakencoder(
        simulate(20), tmp_path / "model", progress=lambda *step: told.append(step), **QUICK
    )
    assert [epoch for epoch, _ in told] == list(range(1, 61))
    assert told[-1][1] < 0.5 * told[0][1]


def test_cohort_smaller_than_a_batch_is_trained_on(tmp_path):
    options = {**QUICK, "batch_size": 41, "epochs": 100}
    bundle = train_krakencoder(simulate(12), tmp_path / "model", **options)
    data = simulate(12)
    model = Krakencoder(bundle, device="cpu")
    latent = model.encode({FLAVORS[0]: data[FLAVORS[0]]})[FLAVORS[0]]
    predicted = model.decode(latent, [FLAVORS[2]])[FLAVORS[2]]
    assert evaluate_connectomes(data[FLAVORS[2]], predicted, n_permutations=10).top1 > 0.8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.clear(), "no flavor to train on"),
        (lambda c: c.update(extra=np.zeros((3, 60))), "differ in their number of participants"),
        (lambda c: c[FLAVORS[1]].__setitem__((2, 3), np.nan), r"1 of 20 .* row 2 \(FCpcorr"),
    ],
    ids=["empty", "counts", "nan"],
)
def test_unfit_cohort_is_refused(tmp_path, change, message):
    connectomes = simulate(20)
    change(connectomes)
    with pytest.raises(ModelError, match=message):
        train_krakencoder(connectomes, tmp_path / "model", **QUICK)


def test_more_components_than_participants_are_refused(tmp_path):
    with pytest.raises(ModelError, match="8 components cannot be fitted to 8 participants"):
        train_krakencoder(simulate(8), tmp_path / "model", **QUICK)


def test_loss_that_is_no_number_stops_training(tmp_path):
    with pytest.raises(ModelError, match=r"loss of epoch \d+ is .*Lower the learning rate"):
        train_krakencoder(simulate(20), tmp_path / "model", **{**QUICK, "learning_rate": 1e30})


def test_pca_is_that_of_a_singular_value_decomposition(rng):
    values = rng.standard_normal((12, 40))
    fit = fit_pca(values, 5)
    centred = values - values.mean(axis=0)
    _, s, vt = np.linalg.svd(centred, full_matrices=False)
    components = fit.transform.parameters["components"]
    np.testing.assert_allclose(np.abs((components * vt[:5]).sum(axis=1)), 1, rtol=1e-5)
    scale = float(fit.transform.parameters["input_scale"][0])
    assert scale == pytest.approx(np.sqrt((s[:5] ** 2).sum()), rel=1e-6)
    assert fit.explained_variance == pytest.approx((s[:5] ** 2).sum() / (s**2).sum())
    assert fit.transform.explained_variance == fit.explained_variance
    assert fit.transform.n_participants == len(values)


def test_pca_of_the_published_example():
    values = [[1, 2, 0, 1], [2, 1, 1, 0], [0, 3, 1, 2], [4, 1, 0, 2], [3, 3, 3, 0]]
    fit = fit_pca(np.array(values, dtype=float), 2)
    np.testing.assert_allclose(
        fit.transform.parameters["components"],
        [[0.922336, -0.351662, 0.058553, -0.149005], [0.037759, 0.420246, 0.787948, -0.448449]],
        atol=1e-6,
    )
    np.testing.assert_allclose(fit.scores[0], [-21.546701, -18.137892], atol=1e-4)
    assert np.linalg.norm(fit.scores) == pytest.approx(OUTPUT_SCALE)
    np.testing.assert_allclose(
        fit.transform.inverse(fit.scores)[4], [2.865528, 2.748931, 3.004957, -0.237891], atol=1e-5
    )


def test_scores_are_what_the_transform_gives(rng):
    values = rng.standard_normal((15, 30))
    fit = fit_pca(values, 6)
    np.testing.assert_allclose(
        fit.transform.forward(values.astype(np.float32)), fit.scores, atol=2e-4
    )


def test_repeated_participants_span_too_few_dimensions(rng):
    values = np.tile(rng.standard_normal((3, 30)), (4, 1))
    with pytest.raises(ModelError, match="12 connectomes span 2 dimensions"):
        fit_pca(values, 5)


def test_correlation_error_gives_the_reference_programs_numbers():
    true = torch.tensor([
        [1.0, 2, 3, 4, 5, 7], [2, 1, 4, 3, 6, 5], [5, 3, 1, 2, 2, 1], [1, 5, 2, 6, 1, 4]
    ])  # fmt: skip
    predicted = torch.tensor([
        [1.0, 2, 2, 4, 6, 6], [3, 1, 3, 3, 5, 7], [4, 4, 1, 1, 3, 2], [2, 2, 3, 5, 4, 4]
    ])  # fmt: skip
    assert float(correlation_error(true, predicted)) == pytest.approx(2.090991, abs=1e-5)
    latents = torch.tensor([[0.6, 0.8, 0], [0, 0.6, 0.8], [0.8, 0, 0.6]])
    assert float(correlation_error(latents, latents)) == pytest.approx(1.224745, abs=1e-5)


def test_latent_distance_is_the_mean_over_pairs_and_participants(rng):
    latents = torch.as_tensor(rng.standard_normal((4, 5, 3)))
    pairs = [
        float((latents[i] - latents[k]).square().sum(dim=1).mean())
        for i in range(4)
        for k in range(4)
        if i != k
    ]
    assert float(latent_distance(latents)) == pytest.approx(np.mean(pairs))
    assert float(latent_distance(latents[:1])) == pytest.approx(0, abs=1e-12)


def test_latent_that_dropout_zeroed_leaves_gradients_that_are_numbers():
    latents = torch.zeros(2, 3, 4)
    latents[0, 1:] = 1.0
    latents[1] = torch.arange(12.0).reshape(3, 4)
    latents.requires_grad_()
    units = unit_rows(latents)
    decoded = units[None].expand(2, 2, 3, 4)
    loss = training_loss(torch.ones(2, 3, 4), units, decoded, TrainingOptions())
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(latents.grad).all()


@pytest.fixture
def rng():
    return np.random.default_rng(3)
