# SPDX-License-Identifier: MIT
"""Both schedules against slow loops over plain torch modules."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from kraken_bids.model.training import TrainingOptions
from kraken_bids.model.training.coders import Coders, Dropout, unit_rows
from kraken_bids.model.training.losses import parse_loss
from kraken_bids.model.training.network import Network
from kraken_bids.model.training.schedules import EPOCHS, draw_pairs, rounds

from .test_training_losses import DIRECT

SIZES = {"FCcorr_a_hpf": 6, "SCsdstream_a_volnorm": 5, "FCpcorr_a_hpf": 6}
TEXT = "correye+enceye.w10+neidist+encdist.w10+mse.w1000+latentsimloss.w10000"
N = 9


def make_options(**changes):
    given = {"latent_size": 4, "batch_size": 4, "dropout": 0.0, "epochs": 2, "loss": TEXT}
    return TrainingOptions(**{**given, **changes}).resolved()


def make_network(options, groups=None):
    groups = groups or ["all"] * len(SIZES)
    return Network.initial(SIZES, groups, options, "cpu")


def make_features():
    generator = torch.Generator().manual_seed(3)
    features = torch.zeros(len(SIZES), N, max(SIZES.values()))
    for row, size in enumerate(SIZES.values()):
        features[row, :, :size] = torch.randn(N, size, generator=generator)
    return features


class Plain:
    """The same network as lists of `torch.nn` modules, one for each flavor."""

    def __init__(self, network):
        self.options, self.network = network.options, network
        sizes = list(SIZES.values())
        latent = [network.options.latent_size] * len(sizes)
        self.encoders = self._copy(network.encoders, sizes, latent)
        self.decoders = self._copy(network.decoders, latent, sizes)
        n_ways = len(network.ways) if network.crossings else 0
        self.crossings = self._copy(network.crossings, latent[:1] * n_ways, latent[:1] * n_ways)
        self.modules = [*self.encoders, *self.decoders, *self.crossings]

    def _copy(self, coders, n_in, n_out):
        if coders is None:
            return []
        activation = {"relu": nn.ReLU, "tanh": nn.Tanh}[coders.activation]
        made = []
        for flavor, (first, last) in enumerate(zip(n_in, n_out, strict=True)):
            parts = []
            layers = coders.layers(flavor, first, last, ())
            for number, layer in enumerate(layers):
                linear = nn.Linear(layer.n_in, layer.n_out)
                linear.weight.data = torch.tensor(layer.weight)
                linear.bias.data = torch.tensor(layer.bias)
                parts += [linear] + [activation()] * (number < len(layers) - 1)
            made.append(nn.Sequential(*parts))
        return made

    def parameters(self):
        return [p for module in self.modules for p in module.parameters()]

    def encode(self, flavor, x):
        return nn.functional.normalize(self.encoders[flavor](x))

    def cross(self, z, source, target):
        way = self.network.way(source, target)
        return z if way < 0 else nn.functional.normalize(self.crossings[way](z))

    def path_loss(self, features, rows, source, target):
        sizes = list(SIZES.values())
        z = self.encode(source, features[source, rows, : sizes[source]])
        y = self.decoders[target](self.cross(z, source, target))
        x = features[target, rows, : sizes[target]]
        terms = parse_loss(self.options.loss).weights
        total = sum(w * DIRECT[t](x, y, False) for t, w in terms.items() if not t.startswith("enc")
                    and t in DIRECT)  # fmt: skip
        return total + sum(
            w * DIRECT[t](z, z, True) for t, w in terms.items() if t.startswith("enc")
        )

    def latents(self, features):
        return [
            self.encode(flavor, features[flavor, :, :size])
            for flavor, size in enumerate(SIZES.values())
        ]


def plain_reference_epoch(plain, optimizer, features, epoch):
    """One pair after the other, as the description of the published program says."""
    options, n_flavors = plain.options, len(SIZES)
    generator = torch.Generator().manual_seed(options.seed + epoch)
    order = torch.randperm(N, generator=generator)
    for source, target in draw_pairs(n_flavors, options.seed, epoch):
        for start in range(0, N - options.batch_size + 1, options.batch_size):
            rows = order[start : start + options.batch_size]
            optimizer.zero_grad(set_to_none=True)
            plain.path_loss(features, rows, source, target).backward()
            optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        held = plain.latents(features)
    moving = plain.latents(features)
    total = torch.zeros(())
    for i, k in itertools.product(range(n_flavors), repeat=2):
        if plain.network.crossings is not None and i != k:
            with torch.no_grad():
                target = plain.cross(held[k], k, i)
            total = total + (moving[i] - target).square().mean()
        elif plain.network.crossings is None and k < i:
            total = total + 2 * (moving[i] - held[k]).square().mean()
    (10000 * total).backward()
    optimizer.step()


def plain_joint_epoch(plain, optimizer, features, epoch):
    """All pairs in each step, one forward pass a pair."""
    options, n_flavors = plain.options, len(SIZES)
    generator = torch.Generator().manual_seed(options.seed + epoch)
    order = torch.randperm(N, generator=generator)
    batches = torch.tensor_split(order, -(-N // options.batch_size))
    for number, rows in enumerate(batches):
        optimizer.zero_grad(set_to_none=True)
        pairs = list(itertools.product(range(n_flavors), repeat=2))
        total = sum(plain.path_loss(features, rows, i, k) for i, k in pairs) / len(pairs)
        z = plain.latents(features[:, rows])
        apart = [(z[i] - plain.cross(z[k], k, i)).square().mean() for i, k in pairs if i != k]
        (total + 10000 * torch.stack(apart).mean()).backward()
        done = (epoch * len(batches) + number) / (options.epochs * len(batches))
        optimizer.param_groups[0]["lr"] = options.learning_rate * (1 + np.cos(np.pi * done)) / 2
        optimizer.step()


PLAIN_EPOCHS = {"reference": plain_reference_epoch, "joint": plain_joint_epoch}
CASES = {
    "linear": {},
    "deep": {"hidden_sizes": (7,), "activation": "tanh"},
    "intergroup": {"intergroup": True},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("schedule", EPOCHS)
def test_epochs_are_those_of_a_plain_loop(schedule, case):
    options = make_options(schedule=schedule, learning_rate=1e-3, **CASES[case])
    groups = ["fc", "sc", "fc"] if options.intergroup else None
    network, features = make_network(options, groups), make_features()
    plain = Plain(network)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=options.learning_rate, weight_decay=0.01)
    start = network.encoders.tensors[0].clone()
    for epoch in range(options.epochs):
        EPOCHS[schedule](network, features, parse_loss(options.loss), epoch)
        PLAIN_EPOCHS[schedule](plain, optimizer, features, epoch)
    mine = [p for module in Plain(network).modules for p in module.parameters()]
    assert (network.encoders.tensors[0] - start).abs().max().item() > 1.5e-3
    for found, expected in zip(mine, plain.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_weights_of_padding_stay_zero():
    options = make_options(schedule="reference", learning_rate=1e-2, dropout=0.5)
    network = make_network(options)
    for epoch in range(2):
        EPOCHS["reference"](network, make_features(), parse_loss(TEXT), epoch)
    assert torch.all(network.encoders.tensors[0][1, 5:] == 0)
    assert torch.all(network.decoders.tensors[0][1, :, 5:] == 0)
    assert torch.all(network.decoders.tensors[1][1, :, 5:] == 0)


@pytest.mark.parametrize("n_flavors", [1, 3, 15])
def test_rounds_keep_the_order_of_pairs_that_share_a_coder(n_flavors):
    pairs = list(itertools.product(range(n_flavors), repeat=2))
    order = [pairs[i] for i in np.random.default_rng(1).permutation(len(pairs))]
    found = rounds(order)
    assert sorted(pair for one in found for pair in one) == pairs
    place = {pair: number for number, one in enumerate(found) for pair in one}
    for a, b in itertools.combinations(order, 2):
        if a[0] == b[0] or a[1] == b[1]:
            assert place[a] < place[b]
    if n_flavors == 15:
        assert len(found) < 50


@pytest.mark.parametrize("n_flavors", [1, 2, 5, 15])
def test_all_pairs_are_drawn_once(n_flavors):
    drawn = draw_pairs(n_flavors, 0, 3)
    assert sorted(drawn) == list(itertools.product(range(n_flavors), repeat=2))


def test_every_order_of_pairs_may_be_drawn():
    orders = [draw_pairs(2, seed, epoch) for seed in range(60) for epoch in range(40)]
    counts = Counter(map(tuple, orders))
    assert len(counts) == 24
    # 2400 draws of 24 orders: 100 are expected, 9.8 is a standard deviation
    assert all(abs(count - 100) < 4.5 * 9.8 for count in counts.values())


def test_rounds_keep_the_order_of_pairs_that_share_a_transform():
    assert rounds([(0, 2), (1, 3)], lambda _i, _j: 0) == [[(0, 2)], [(1, 3)]]
    assert rounds([(0, 2), (1, 3)]) == [[(0, 2), (1, 3)]]


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_dropout_keeps_the_mean(share):
    factors = Dropout((1, 2), "cpu").draw(share, 40, 50, 60)
    values = torch.unique(factors)
    assert values.tolist() == pytest.approx([0, 1 / (1 - share)], rel=1e-4)
    assert float((factors == 0).float().mean()) == pytest.approx(share, abs=0.006)
    again = Dropout((1, 2), "cpu").draw(share, 40, 50, 60)
    assert torch.equal(factors, again)
    assert not torch.equal(factors, Dropout((1, 3), "cpu").draw(share, 40, 50, 60))


def test_no_dropout_draws_nothing():
    assert Dropout((1,), "cpu").draw(0.0, 5) is None


@pytest.mark.parametrize("schedule", EPOCHS)
def test_latents_that_dropout_zeroes_whole_are_survived(schedule):
    options = make_options(schedule=schedule, dropout=0.9, latent_size=4, learning_rate=1e-2)
    network = make_network(options)
    for epoch in range(options.epochs):  # a row of four is zeroed whole two times out of three
        found = EPOCHS[schedule](network, make_features(), parse_loss(TEXT), epoch)
        assert np.isfinite(found.mean + found.between)
    for part in network.parts:
        assert all(bool(torch.isfinite(tensor).all()) for tensor in part.state())


def test_row_without_length_has_a_gradient_that_is_a_number():
    rows = torch.zeros(2, 3)
    rows[1] = torch.tensor([3.0, 4.0, 0.0])
    rows.requires_grad_()
    units = unit_rows(rows)
    torch.testing.assert_close(units, torch.tensor([[0.0, 0, 0], [0.6, 0.8, 0]]))
    assert torch.isfinite(torch.autograd.grad(units.sum(), rows)[0]).all()


def test_first_weights_are_those_of_linear_layers():
    generator = torch.Generator().manual_seed(0)
    coders = Coders.initial(
        [100, 80], n_in=[100, 25], n_out=[80, 80], activation="relu", generator=generator
    )
    weight = coders.tensors[0]
    assert float(weight[0].abs().max()) == pytest.approx(0.1, rel=1e-2)
    assert float(weight[1, :25].abs().max()) == pytest.approx(0.2, rel=1e-2)
    assert torch.all(weight[1, 25:] == 0)
