# SPDX-License-Identifier: MIT
"""Flavors that are added to a model by way of its latents."""

import numpy as np
import pytest
import torch

from kraken_bids.errors import ModelError, UsageError
from kraken_bids.model.evaluation import evaluate_connectomes
from kraken_bids.model.krakencoder import Krakencoder
from kraken_bids.model.merging import merge_bundles
from kraken_bids.model.training import TrainingOptions, train_krakencoder
from kraken_bids.model.training.losses import parse_loss
from kraken_bids.model.training.network import Network
from kraken_bids.model.training.splits import draw_split
from kraken_bids.model.training.targets import reference_targeted_epoch, targeted_epoch

from . import test_training_schedules as schedules
from .test_training import FLAVORS, QUICK, simulate
from .test_training_losses import DIRECT

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


def test_new_flavor_trained_in_the_published_order_is_predicted_too(added, tmp_path):
    base, data = added[0], simulate(N_TRAIN)
    # features of so few are large: by the published weight their squared error alone would count
    new = train_krakencoder(
        {NEW: data[NEW]}, tmp_path / "new", target_latents=latents_of(base, data),
        provenance={"latents_of": {"name": base.bundle.name, "sha256": base.bundle.sha256}},
        **QUICK | {"schedule": "reference", "learning_rate": 0.01,
                   "loss": "correye+enceye.w10+neidist+encdist.w10+mse.w1"},
    )  # fmt: skip
    merged = Krakencoder(merge_bundles([base.bundle, new], tmp_path / "merged"), device="cpu")
    assert "as in the published program" in new.config["provenance"]["method"]
    for source in ("fused", *OLD):
        found = judge(merged, source, NEW)  # top1 of 0.45 to 0.475 was measured, by chance 0.025
        assert found.top1 > 0.3
        assert found.average_rank > 0.85


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


@pytest.mark.parametrize("row", [None, 1])
def test_published_order_of_steps_is_that_of_a_plain_loop(row):
    options = schedules.make_options(schedule="reference", learning_rate=1e-3)
    network, features = schedules.make_network(options), schedules.make_features()
    generator = torch.Generator().manual_seed(5)
    target = torch.nn.functional.normalize(torch.randn(schedules.N, 4, generator=generator))
    if row is not None:  # a flavor alone meets no others
        network = Network.initial({"b": 5}, ["all"], options, "cpu")
        features = features[row : row + 1, :, :5]
    plain = schedules.Plain.__new__(schedules.Plain)
    sizes = list(schedules.SIZES.values()) if row is None else [5]
    plain.encoders = plain._copy(network.encoders, sizes, [4] * len(sizes))
    plain.decoders = plain._copy(network.decoders, [4] * len(sizes), sizes)
    plain.modules = [*plain.encoders, *plain.decoders]
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=0.01)
    terms = parse_loss(options.loss).weights
    for epoch in range(3):
        order = torch.randperm(
            schedules.N, generator=torch.Generator().manual_seed(options.seed + epoch)
        )
        for flavor, size in enumerate(sizes):
            for rows in order[:8].split(4):  # batches of 4, the ninth is left out
                x, u = features[flavor, rows, :size], target[rows]
                z = plain.encode(flavor, x)
                y = plain.decoders[flavor](z)
                total = (z - u).square().mean()
                for name, weight in terms.items():
                    if name in DIRECT:
                        inner = name.startswith("enc")
                        given = (u, z) if inner else (x, y)
                        total = total + weight * DIRECT[name](*given, False)
                optimizer.zero_grad(set_to_none=True)
                total.backward()
                optimizer.step()
        if len(sizes) > 1:
            optimizer.zero_grad(set_to_none=True)
            moving = [plain.encode(i, features[i, :, :size]) for i, size in enumerate(sizes)]
            apart = sum(2 * (moving[i] - moving[k].detach()).square().mean()
                        for i in range(len(sizes)) for k in range(i))  # fmt: skip
            (10000 * apart).backward()
            optimizer.step()
        reference_targeted_epoch(network, features, target, parse_loss(options.loss), epoch)
    for coders, modules in ((network.encoders, plain.encoders),
                            (network.decoders, plain.decoders)):  # fmt: skip
        for flavor, module in enumerate(modules):
            weight, bias = (tensor[flavor] for tensor in coders.tensors)
            n_out, n_in = module[0].weight.shape
            found = weight[:n_in, :n_out].T
            torch.testing.assert_close(found, module[0].weight.detach(), rtol=0, atol=2e-5)
            torch.testing.assert_close(bias[0, :n_out], module[0].bias.detach(), rtol=0, atol=2e-5)


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


def test_latent_spaces_of_groups_are_refused(tmp_path):
    data, zeros = {NEW: simulate(20)[NEW]}, np.zeros((20, 16))
    for schedule in ("joint", "reference"):
        with pytest.raises(UsageError, match=r"does not go with latents .* \(--intergroup\)"):
            train_krakencoder(
                data, tmp_path / "m", target_latents=zeros,
                **{**QUICK, "schedule": schedule, "intergroup": True},
            )  # fmt: skip
