# SPDX-License-Identifier: MIT
"""Flavors that are added to a model by way of its latents."""

import numpy as np
import pytest
import torch

from kraken_bids.errors import ModelError, Problems, UsageError
from kraken_bids.model.evaluation import evaluate_connectomes
from kraken_bids.model.krakencoder import Krakencoder
from kraken_bids.model.merging import merge_bundles
from kraken_bids.model.training import TrainingOptions, train_krakencoder
from kraken_bids.model.training.losses import parse_loss
from kraken_bids.model.training.network import Network
from kraken_bids.model.training.splits import draw_split
from kraken_bids.model.training.targets import targeted_epoch

from .test_training import FLAVORS, QUICK, simulate

OLD, NEW = FLAVORS[:2], FLAVORS[2]
N_TRAIN = 80


def latents_of(model, connectomes):
    return model.fuse(model.encode({name: connectomes[name] for name in OLD}))


@pytest.fixture(scope="module")
def added(tmp_path_factory):
    """A base of two flavors, the third one added to it, and a model of all three."""
    folder, data = tmp_path_factory.mktemp("added"), simulate(N_TRAIN)
    base = train_krakencoder({name: data[name] for name in OLD}, folder / "base", **QUICK)
    latents = latents_of(Krakencoder(base, device="cpu"), data)
    new = train_krakencoder(
        {NEW: data[NEW]}, folder / "new", target_latents=latents, **QUICK,
        provenance={"latents_of": {"name": base.name, "sha256": base.sha256}},
    )  # fmt: skip
    merged = merge_bundles([base, new], folder / "merged")
    together = train_krakencoder(data, folder / "together", **QUICK)
    return [Krakencoder(bundle, device="cpu") for bundle in (base, merged, together)]


def judge(model, source, target, n=40):
    new = simulate(n, seed=7)
    latents = (
        latents_of(model, new)
        if source == "fused"
        else model.encode({source: new[source]})[source]
    )
    predicted = model.decode(latents, [target])[target]
    return evaluate_connectomes(new[target], predicted, n_permutations=10)


def test_old_flavors_are_predicted_bit_by_bit_as_before(added):
    base, merged, _ = added
    new = simulate(10, seed=4)
    found = [model.encode({name: new[name] for name in OLD}) for model in (base, merged)]
    for name in OLD:
        np.testing.assert_array_equal(found[0][name], found[1][name], strict=True)
        decoded = [model.decode(found[0][name], OLD) for model in (base, merged)]
        for target in OLD:
            np.testing.assert_array_equal(decoded[0][target], decoded[1][target], strict=True)


@pytest.mark.parametrize("source", ["fused", *FLAVORS])
def test_new_flavor_is_predicted_as_well_as_if_trained_together(added, source):
    _, merged, together = added
    found, expected = judge(merged, source, NEW), judge(together, source, NEW)
    assert found.top1 > 0.75  # chance is 0.025
    assert found.average_rank > expected.average_rank - 0.02
    assert found.residual_correlation > expected.residual_correlation - 0.05


@pytest.mark.parametrize("target", OLD)
def test_new_flavor_predicts_an_old_one_nearly_as_the_other_old_one_does(added, target):
    base, merged, _ = added
    (other,) = set(OLD) - {target}
    found, expected = judge(merged, NEW, target), judge(base, other, target)
    assert found.top1 > 0.7  # chance is 0.025
    # its encoder never met the old decoders: up to 0.052 less was measured (0.927 for 0.978)
    assert found.residual_correlation > expected.residual_correlation - 0.08


def make_options(**changes):
    given = {"latent_size": 4, "batch_size": 4, "epochs": 3, "dropout": 0.0}
    return TrainingOptions(**{**given, **changes}).resolved()


def test_flavors_are_trained_as_if_alone():
    # one step of each epoch takes everybody, and first weights are copied
    options = make_options(batch_size=9)
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(2, 9, 5, generator=generator)
    target = torch.nn.functional.normalize(torch.randn(9, 4, generator=generator))
    loss = parse_loss(options.loss)
    both = Network.initial({"a": 5, "b": 5}, ["all"] * 2, options, "cpu")
    alone = Network.initial({"b": 5}, ["all"], options, "cpu")
    for ours, theirs in zip(alone.parts, both.parts, strict=True):
        for tensor, other in zip(ours.tensors, theirs.tensors, strict=True):
            tensor.copy_(other[1:])
    for epoch in range(3):
        targeted_epoch(both, features, target, loss, epoch)
        targeted_epoch(alone, features[1:], target, loss, epoch)
    for ours, theirs in zip(alone.parts, both.parts, strict=True):
        for tensor, other in zip(ours.tensors, theirs.tensors, strict=True):
            torch.testing.assert_close(tensor, other[1:], rtol=0, atol=2e-5)


def test_loss_of_an_epoch_is_that_of_its_terms():
    options = make_options(batch_size=9, loss="mse.w3+latentsimloss.w7+enceye.w2")
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 9, 5, generator=generator)
    u = torch.nn.functional.normalize(torch.randn(9, 4, generator=generator))
    network = Network.initial({"a": 5}, ["all"], options, "cpu")
    (w_in, b_in), (w_out, b_out) = ([t[0].clone() for t in p.tensors] for p in network.parts)
    z = torch.nn.functional.normalize(x[0] @ w_in + b_in)
    outputs = [(given @ w_out + b_out - x[0]).square().mean() for given in (z, u)]
    eye = torch.linalg.matrix_norm(torch.corrcoef(torch.cat([u, z]))[:9, 9:] - torch.eye(9))
    found = targeted_epoch(network, x, u, parse_loss(options.loss), 0)
    assert float(found.output) == pytest.approx(3 * float(sum(outputs)) / 2, rel=1e-5)
    assert float(found.latent) == pytest.approx(2 * float(eye), rel=1e-5)
    assert found.between == pytest.approx(7 * float((z - u).square().mean()), rel=1e-5)


def test_target_is_seen_in_validation(tmp_path):
    data, split = simulate(40), draw_split(40, validation=0.3)
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((40, QUICK["latent_size"]))
    bundle = train_krakencoder(
        {NEW: data[NEW]}, tmp_path / "m", target_latents=noise, split=split, **QUICK
    )
    # from its own latents a flavor may be told apart, from noise nobody can be
    assert bundle.config["provenance"]["validation"]["average_rank"] < 0.8
    assert "latents that are there already" in bundle.config["provenance"]["method"]


def test_latents_of_others_are_refused(tmp_path):
    data = {NEW: simulate(20)[NEW]}
    for shape, message in (((19, 16), r"\(19, 16\), 20 participants"), ((20, 8), r"16 values")):
        with pytest.raises(ModelError, match=message):
            train_krakencoder(data, tmp_path / "m", target_latents=np.zeros(shape), **QUICK)
    nan = np.full((20, 16), np.nan)
    with pytest.raises(ModelError, match="NaN or infinity"):
        train_krakencoder(data, tmp_path / "m", target_latents=nan, **QUICK)


def test_options_of_flavors_that_meet_are_refused(tmp_path):
    data, zeros = {NEW: simulate(20)[NEW]}, np.zeros((20, 16))
    with pytest.raises(Problems, match=r"(?s)--schedule.*--intergroup"):
        train_krakencoder(
            data, tmp_path / "m", target_latents=zeros, schedule="reference", intergroup=True,
            **QUICK,
        )  # fmt: skip
    with pytest.raises(UsageError, match="--intergroup"):
        train_krakencoder(data, tmp_path / "m", target_latents=zeros, intergroup=True, **QUICK)
