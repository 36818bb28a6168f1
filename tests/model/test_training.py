# SPDX-License-Identifier: MIT
import numpy as np
import pytest
import torch

from kraken_bids.errors import ModelError, Problems, ResourceError, UsageError
from kraken_bids.model.bundle import open_bundle
from kraken_bids.model.evaluation import evaluate_connectomes
from kraken_bids.model.krakencoder import Krakencoder
from kraken_bids.model.training import Records, train_krakencoder
from kraken_bids.model.training.pca import OUTPUT_SCALE, fit_pca
from kraken_bids.model.training.splits import Split, draw_split

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


def test_progress_is_told_each_epoch(tmp_path):
    told = []
    train_krakencoder(
        simulate(20), tmp_path / "model", progress=lambda *step: told.append(step), **QUICK
    )
    assert [epoch for epoch, _ in told] == list(range(1, 61))


@pytest.mark.parametrize(("schedule", "share"), [("joint", 0.65), ("reference", 0.15)])
def test_loss_of_others_falls(tmp_path, schedule, share):
    # an optimizer that is ten times too slow, or stops after a sixth, leaves 0.9 and 0.6
    given = {**QUICK, "schedule": schedule, "split": draw_split(60, validation=0.3)}
    still = {**given, "epochs": 1, "learning_rate": 1e-9}
    found = [
        train_krakencoder(simulate(60), tmp_path / f"m{number}", **options)
        for number, options in enumerate((still, given))
    ]
    untrained, trained = (bundle.config["provenance"]["validation"] for bundle in found)
    assert trained["loss"] < share * untrained["loss"]
    assert trained["top1"] > 0.95


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


def test_one_participant_is_told_to_be_too_few(tmp_path):
    with pytest.raises(Problems) as found:
        train_krakencoder(simulate(1), tmp_path / "model", **QUICK)
    told = str(found.value)
    assert told.count("Train on more participants.") == 2
    assert "1 to" not in told


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


@pytest.mark.parametrize("shape", [(12, 50), (50, 12), (12, 12)], ids=["wide", "tall", "square"])
def test_pca_in_blocks_is_exact(rng, monkeypatch, shape):
    # up to the number of dimensions, of which centring takes one
    n_components = min(shape) - 1
    values = rng.standard_normal(shape) + 100
    monkeypatch.setattr("kraken_bids.model.training.pca._BLOCK_BYTES", 8 * 5 * min(shape))
    monkeypatch.setattr("kraken_bids.model.training.pca._LEAST_EDGES", 1)
    fit = fit_pca(values, n_components)
    centred = values - values.mean(axis=0)
    u, s, vt = np.linalg.svd(centred, full_matrices=False)
    components = fit.transform.parameters["components"]
    sign = np.sign(np.take_along_axis(vt, np.abs(vt).argmax(axis=1)[:, None], axis=1))
    np.testing.assert_allclose(components, (sign * vt)[:n_components], atol=1e-5)
    scores = (u * s * sign.T)[:, :n_components]
    np.testing.assert_allclose(fit.scores, scores * (100 / np.linalg.norm(scores)), atol=1e-4)
    np.testing.assert_allclose(fit.transform.training_mean, values.mean(axis=0), rtol=1e-6)


@pytest.mark.parametrize("shape", [(12, 50), (50, 12)], ids=["wide", "tall"])
def test_pca_of_some_participants_is_that_of_their_rows(rng, shape):
    values, rows = rng.standard_normal(shape), np.array([7, 2, 9, 4, 11, 0])
    some, alone = fit_pca(values, 3, rows=rows), fit_pca(values[rows], 3)
    np.testing.assert_array_equal(some.scores, alone.scores)
    for name, expected in alone.transform.parameters.items():
        np.testing.assert_array_equal(some.transform.parameters[name], expected)
    assert some.transform.n_participants == len(rows)


def test_transforms_are_fitted_on_those_who_train(tmp_path):
    data = simulate(30)
    split = draw_split(30, validation=0.2, test=0.2)
    bundle = train_krakencoder(data, tmp_path / "model", split=split, **QUICK)
    fit = fit_pca(data[FLAVORS[0]][split.train], QUICK["n_components"])
    found = Krakencoder(bundle, device="cpu")
    np.testing.assert_allclose(
        bundle.training_mean(FLAVORS[0]), fit.transform.training_mean, rtol=1e-5
    )
    assert found.bundle.config["provenance"]["n_participants"] == len(split.train)
    assert bundle.config["provenance"]["n_validation"] == len(split.validation)
    assert bundle.config["provenance"]["validation"]["average_rank"] > 0.8


def test_transforms_at_hand_are_used(tmp_path):
    data = simulate(20)
    transform = fit_pca(data[FLAVORS[0]], 5).transform
    given = {**QUICK, "epochs": 2, "n_components": 3}
    bundle = train_krakencoder(
        data, tmp_path / "model", transforms={FLAVORS[0]: transform}, **given
    )
    rows = bundle.config["flavors"]
    assert [rows[flavor]["n_features"] for flavor in FLAVORS] == [5, 3, 3]
    latents = Krakencoder(bundle, device="cpu").encode(data)
    assert all(np.isfinite(values).all() for values in latents.values())


def test_transform_of_another_size_is_refused(tmp_path):
    data = simulate(20)
    transform = fit_pca(data[FLAVORS[0]][:, :30], 5).transform
    with pytest.raises(ModelError, match=rf"60 edges, its transform takes 30 \({FLAVORS[0]}"):
        train_krakencoder(data, tmp_path / "m", transforms={FLAVORS[0]: transform}, **QUICK)


@pytest.mark.parametrize("schedule", ["joint", "reference"])
def test_interrupted_training_goes_on_exactly(tmp_path, schedule):
    given = {**QUICK, "epochs": 6, "schedule": schedule, "dropout": 0.5}
    data, split = simulate(30), draw_split(30, validation=0.2)
    whole = train_krakencoder(data, tmp_path / "whole", split=split, **given)

    def kill(epoch, _loss):
        if epoch == 5:  # behind the checkpoint of epoch 4
            raise KeyboardInterrupt

    records = tmp_path / "records"
    with pytest.raises(KeyboardInterrupt):
        train_krakencoder(
            data, tmp_path / "whole2", split=split, progress=kill,
            records=Records(records, every=2), **given,
        )  # fmt: skip
    again = train_krakencoder(
        data, tmp_path / "whole2", split=split, records=Records(records, every=2, resume=True),
        **given,
    )  # fmt: skip
    assert again.sha256 == whole.sha256
    lines = (records / "training.tsv").read_text("utf-8").splitlines()
    assert [line.split("\t")[0] for line in lines] == ["epoch", "1", "2", "3", "4", "5", "6"]


def test_checkpoint_of_another_training_is_refused(tmp_path):
    given = {**QUICK, "epochs": 2}
    train_krakencoder(simulate(20), tmp_path / "model", records=Records(tmp_path / "r"), **given)
    again = Records(tmp_path / "r", resume=True)
    with pytest.raises(ResourceError, match="other data, or with other options"):
        train_krakencoder(simulate(20, seed=1), tmp_path / "model", records=again, **given)
    nowhere = Records(tmp_path / "s", resume=True)
    with pytest.raises(ResourceError, match="no checkpoint to go on from"):
        train_krakencoder(simulate(20), tmp_path / "model", records=nowhere, **given)


def test_early_stopping_takes_the_best_weights(tmp_path):
    given = {**QUICK, "epochs": 200, "validate_every": 2, "early_stopping": 10}
    split = draw_split(30, validation=0.3)
    told = []
    bundle = train_krakencoder(
        simulate(30), tmp_path / "model", split=split, **given,
        progress=lambda epoch, _loss: told.append(epoch),
    )  # fmt: skip
    n_epochs = bundle.config["provenance"]["n_epochs"]
    assert told[-1] < 200
    assert n_epochs <= told[-1] - 10


def test_training_with_hidden_layers_and_groups(tmp_path):
    given = {**QUICK, "epochs": 3, "hidden_sizes": (12,), "intergroup": True}
    bundle = train_krakencoder(simulate(20), tmp_path / "model", **given)
    assert set(bundle.config["intergroup"]) == {"fc->sc", "sc->fc"}
    assert bundle.config["flavors"][FLAVORS[0]]["encoder"][0]["n_out"] == 12
    new = simulate(5, seed=3)
    model = Krakencoder(bundle, device="cpu")
    latents = model.encode({FLAVORS[0]: new[FLAVORS[0]]})
    assert np.isfinite(latents[FLAVORS[0]]).all()


def test_all_that_cannot_be_is_told(tmp_path):
    with pytest.raises(Problems, match=r"(?s)--dropout.*--activation.*'foo' is no term"):
        train_krakencoder(simulate(20), tmp_path / "m", dropout=1.0, activation="step", loss="foo")


def test_reference_schedule_wants_full_batches_and_all_epochs(tmp_path):
    with pytest.raises(ModelError, match="20 training participants do not fill a batch of 41"):
        train_krakencoder(simulate(20), tmp_path / "m", schedule="reference", n_components=4)
    with pytest.raises(UsageError, match="--early-stopping"):
        train_krakencoder(simulate(20), tmp_path / "m", schedule="reference", early_stopping=3)


def test_one_validation_participant_cannot_be_ranked(tmp_path):
    split = Split(np.arange(19), np.array([19]), np.array([], dtype=int))
    with pytest.raises(ModelError, match="1 validation participants"):
        train_krakencoder(simulate(20), tmp_path / "m", split=split, **QUICK)


@pytest.mark.parametrize("schedule", ["joint", "reference"])
def test_pair_whose_loss_is_no_number_is_named(tmp_path, schedule):
    given = {**QUICK, "learning_rate": 1e30, "schedule": schedule}
    with pytest.raises(ModelError, match=rf"{FLAVORS[0]} to {FLAVORS[0]}"):
        train_krakencoder(simulate(20), tmp_path / "model", **given)


def test_split_is_the_published_programs():
    split = draw_split(10, validation=0.1, test=0.2)
    assert split.train.tolist() == [0, 5, 3, 9, 6, 2, 4]
    assert split.validation.tolist() == [1]
    assert split.test.tolist() == [7, 8]
    assert split.labels()[7] == "test"


@pytest.mark.parametrize("seed", range(3))
def test_families_stay_together(seed):
    families = [f"f{row // 3}" for row in range(60)]
    split = draw_split(60, validation=0.2, test=0.2, groups=families, seed=seed)
    parts = [split.train, split.validation, split.test]
    assert sorted(np.concatenate(parts).tolist()) == list(range(60))
    named = [{families[row] for row in part.tolist()} for part in parts]
    assert sum(len(part) for part in named) == len(set(families))
    assert [len(part) for part in parts] == [36, 12, 12]


@pytest.fixture
def rng():
    return np.random.default_rng(3)
