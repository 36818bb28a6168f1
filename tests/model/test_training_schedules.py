# SPDX-License-Identifier: MIT
"""Both schedules against slow loops over plain torch modules."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from kraken_bids.errors import UsageError
from kraken_bids.model.training import TrainingOptions
from kraken_bids.model.training.coders import Buffers, Coders, Dropout, unit_rows
from kraken_bids.model.training.cohort_checks import check_precision
from kraken_bids.model.training.losses import parse_loss
from kraken_bids.model.training.network import Network
from kraken_bids.model.training.order import draw_pairs, rounds, split_batches
from kraken_bids.model.training.products import Rows
from kraken_bids.model.training.schedules import EPOCHS
from kraken_bids.model.training.similarity import similarity_step
from kraken_bids.model.training.validation import validate

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


def record_kinds(monkeypatch):
    """Kinds of numbers that layers give."""
    kinds, forward = [], Coders.forward

    def spy(self, *arguments):
        found = forward(self, *arguments)
        kinds.append(found.dtype)
        return found

    monkeypatch.setattr(Coders, "forward", spy)
    return kinds


@pytest.mark.parametrize("case", CASES)
def test_mixed_precision_is_near_single_precision(monkeypatch, case):
    kinds, trained, losses = record_kinds(monkeypatch), [], []
    for precision in ("float32", "bfloat16"):
        kinds.clear()
        # no loss whose gradient is larger the nearer it comes
        options = make_options(
            precision=precision, loss="mse.w10+enceye+latentdist", learning_rate=1e-2, epochs=20,
            **CASES[case],
        )  # fmt: skip
        groups = ["fc", "sc", "fc"] if options.intergroup else None
        network, features = make_network(options, groups), make_features()
        loss = parse_loss(options.loss)
        losses.append([EPOCHS["joint"](network, features, loss, e).mean for e in range(20)])
        assert set(kinds) <= {getattr(torch, precision)}
        assert (len(kinds) == 0) == network.is_plain
        kinds.clear()
        validate(network, features, loss)
        assert set(kinds) <= {torch.float32}  # as the bundle is computed
        trained.append(network)
    assert losses[0][-1] < 0.8 * losses[0][0]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.02)
    for mixed, single in zip(trained[1].parts, trained[0].parts, strict=True):
        assert mixed.values.dtype == mixed.first.dtype == torch.float32
        assert not torch.equal(mixed.values, single.values)


def test_mixed_precision_is_refused_where_it_cannot_be(monkeypatch):
    with pytest.raises(UsageError, match="published program computes in float32"):
        make_options(precision="bfloat16", schedule="reference")
    with pytest.raises(UsageError, match=r"float16 cannot be .*Did you mean 'bfloat16'"):
        make_options(precision="float16")
    options = make_options(precision="bfloat16")
    check_precision(options, "cpu")
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    check_precision(options, "cuda:0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    check_precision(make_options(), "cuda:0")
    with pytest.raises(UsageError, match=r"bfloat16 .* by Old GPU \(--precision\)"):
        check_precision(options, "cuda:0")


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


def test_values_kept_are_those_that_draws_in_turn_keep():
    shares, shapes = (0.5, 0.3, 0.0), ((3, 5), (7,), (2,))
    rooms = [torch.full((4, *shape), torch.nan) for shape in shapes]
    scales = Dropout((1, 2), "cpu").choose(list(zip(shares, rooms, strict=True)))
    again = Dropout((1, 2), "cpu")
    assert scales == pytest.approx([2, 1 / 0.7, 1], rel=1e-4)
    assert torch.isnan(rooms[2]).all()
    for number in range(4):
        for share, room, scale in zip(shares[:2], rooms, scales, strict=False):
            drawn = again.draw(share, *room.shape[1:])
            torch.testing.assert_close(room[number] * scale, drawn, rtol=0, atol=0)


def test_buffers_serve_other_shapes_from_the_same_memory():
    buffers = Buffers("cpu")
    large = buffers("x", 3, 4).fill_(1)
    assert buffers("x", 2, 5).eq(1).all()
    assert buffers("x", 2, 5).data_ptr() == large.data_ptr()
    assert buffers("x", 4, 4).shape == (4, 4)
    assert buffers("y", 3, 4).data_ptr() != large.data_ptr()


def test_split_batches_are_those_of_their_participants():
    features, order = make_features(), torch.tensor([4, 0, 8, 3, 1, 7, 6, 2, 5])
    n_features = torch.tensor([float(size) for size in SIZES.values()])
    batches = list(split_batches(features, n_features, order, 2, Buffers("cpu")))
    assert [x.shape[1] for x, _ in batches] == [5, 4]
    for people, (x, truth) in zip((order[:5], order[5:]), batches, strict=True):
        torch.testing.assert_close(x, features[:, people], rtol=0, atol=0)
        direct = Rows.make(features[:, people], n_features)
        for name, expected in vars(direct).items():
            torch.testing.assert_close(getattr(truth, name), expected)
        torch.testing.assert_close(truth.values(), features[:, people])


#: A term without a closed form, of no weight to speak of, sends a step the general way.
GENERAL = "corrtrace.w1e-30"


@pytest.mark.parametrize("normalize", [True, False], ids=["unit", "free"])
@pytest.mark.parametrize("output_dropout", [None, 0.0])
@pytest.mark.parametrize("schedule", EPOCHS)
def test_steps_written_out_are_those_of_automatic_differentiation(
    schedule, output_dropout, normalize
):
    networks = []
    for text in (TEXT, f"{TEXT}+{GENERAL}"):
        options = make_options(
            schedule=schedule, dropout=0.5, output_dropout=output_dropout, normalize=normalize,
            learning_rate=1e-3, loss=text,
        )  # fmt: skip
        networks.append(make_network(options))
        for epoch in range(options.epochs):
            EPOCHS[schedule](networks[-1], make_features(), parse_loss(text), epoch)
    plain, general = networks
    assert parse_loss(plain.options.loss).is_closed
    assert not parse_loss(general.options.loss).is_closed
    start = make_network(plain.options)
    for name in ("encoders", "decoders"):
        mine, theirs, first = (getattr(x, name).values for x in (plain, general, start))
        assert (mine - first).abs().max().item() > 1.5e-3
        torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("normalize", [True, False], ids=["unit", "free"])
def test_latents_are_pulled_as_automatic_differentiation_pulls_them(normalize):
    options = make_options(schedule="reference", normalize=normalize, dropout=0.5)
    network, features = make_network(options), make_features()
    weights = network.encoders.tensors[0][1:].clone().requires_grad_()
    bias = network.encoders.tensors[1][1:].clone().requires_grad_()
    held = network.encode(network.encoders, features)
    factors = Dropout((5,), "cpu").draw(0.5, 2, N, options.latent_size)
    z = network.unit((features[1:] @ weights + bias) * factors)
    pairs = [(z[0], held[0]), (z[1], held[0]), (z[1], held[1])]
    expected = sum(2 * (mine - other).square().mean() for mine, other in pairs)
    optimizer = torch.optim.AdamW(
        [weights, bias], lr=options.learning_rate, weight_decay=options.weight_decay
    )
    (10.0 * expected).backward()
    optimizer.step()
    first = network.encoders.values[0].clone()
    found = similarity_step(network, features, 10.0, Dropout((5,), "cpu"))
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    after = network.encoders.tensors
    assert torch.equal(network.encoders.values[0], first)
    assert network.encoders.steps.tolist() == [0, 1, 1]
    torch.testing.assert_close(after[0][1:], weights.detach(), rtol=0, atol=1e-6)
    torch.testing.assert_close(after[1][1:], bias.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", ["linear", "deep"])
def test_latents_are_dropped_before_they_are_brought_to_length_one(case):
    options = make_options(dropout=0.5, latent_size=8, **CASES[case])
    network, features = make_network(options), make_features()
    factors = network.encoders.draw(Dropout((4,), "cpu"), N, 0.5, 0.5)
    found = network.encode(network.encoders, features, factors)
    dropped = factors[-1] == 0
    assert dropped.shape == found.shape
    assert 0.3 < float(dropped.float().mean()) < 0.7
    assert torch.equal(found == 0, dropped)
    is_left = ~dropped.all(-1)
    torch.testing.assert_close(found.norm(dim=-1), is_left.float())
    before = network.encoders.forward(features, [*factors[:-1], None]) * ~dropped
    torch.testing.assert_close(found, nn.functional.normalize(before, dim=-1))


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
