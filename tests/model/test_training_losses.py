# SPDX-License-Identifier: MIT
"""Every loss, value and gradient, against slow direct formulas and the reference program."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from kraken_bids.errors import Problems, UsageError
from kraken_bids.model.evaluation import evaluate_connectomes
from kraken_bids.model.training import TrainingOptions
from kraken_bids.model.training.losses import PUBLISHED, TERMS, Loss, parse_loss
from kraken_bids.model.training.network import Network
from kraken_bids.model.training.products import (
    LinearProducts,
    Rows,
    linear_products,
    predicted_products,
)
from kraken_bids.model.training.validation import validate

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "cases"
N, K, L = 9, 12, 5


def pearson(a, b):
    return torch.stack([
        torch.stack([
            ((x - x.mean()) * (y - y.mean())).sum()
            / ((x - x.mean()).square().sum() * (y - y.mean()).square().sum()).sqrt()
            for y in b
        ])
        for x in a
    ])


def euclid(a, b, same):
    zero = (a.sum() + b.sum()) * 0
    return torch.stack([
        torch.stack([
            zero if same and i == k else (x - y).square().sum().sqrt() for k, y in enumerate(b)
        ])
        for i, x in enumerate(a)
    ])


def frobenius(matrix):
    return matrix.square().sum().sqrt()


def dist(d):
    n = len(d)
    others = [d[i, k] for i in range(n) for k in range(n) if i != k]
    return d.diagonal().mean() - torch.stack(others).mean()


def neidist(d):
    n = len(d)
    nearest = [
        min(d[k, i] for k in range(n) if k != i) + min(d[i, k] for k in range(n) if k != i)
        for i in range(n)
    ]
    return d.diagonal().mean() - torch.stack(nearest).mean() / 2


def var(x, y):
    v = [(a - a.mean(0)).square().mean() for a in (x, y)]
    return ((v[1] - v[0]) / v[1]).square()


def encdot(d):
    n = len(d)
    return d.trace() / n - (d - d.trace()).sum() / (n * (n - 1))


#: From (x, y) or (u, z) to a value, as the published program's description says.
DIRECT = {
    "correye": lambda x, y, s: frobenius(pearson(x, y) - torch.eye(len(x))),
    "mse": lambda x, y, s: (x - y).square().mean(),
    "msesum": lambda x, y, s: (x - y).square().sum(),
    "relmse": lambda x, y, s: (x - y).square().sum() / x.square().sum(),
    "neidist": lambda x, y, s: neidist(euclid(x, y, s)),
    "dist": lambda x, y, s: dist(euclid(x, y, s)),
    "corrtrace": lambda x, y, s: -(pearson(x, y).trace() / len(x) - pearson(x, y).mean()),
    "corrmatch": lambda x, y, s: frobenius(pearson(x, y) - pearson(x, x)),
    "var": lambda x, y, s: var(x, y),
    "enceye": lambda u, z, s: frobenius(pearson(u, z) - torch.eye(len(u))),
    "encdist": lambda u, z, s: dist(euclid(u, z, s)),
    "encneidist": lambda u, z, s: neidist(euclid(u, z, s)),
    "encdot": lambda u, z, s: encdot(1 - u @ z.T),
    "encneidot": lambda u, z, s: neidist(1 - u @ z.T),
    "latentnormloss": lambda u, z, s: frobenius(z),
    "latentmaxradloss": lambda u, z, s: (z.square().sum(1) - 1).relu().mean(),
}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def of_kind(kind):
    return [name for name, term in TERMS.items() if term.kind == kind]


def test_every_term_has_a_direct_formula():
    assert set(DIRECT) == set(of_kind("output")) | set(of_kind("latent"))


@pytest.mark.parametrize("name", of_kind("output"))
def test_output_term(name):
    x, y = draw(N, K), draw(N, K, seed=1).requires_grad_()
    direct = DIRECT[name](x, y, False)
    found = Loss({name: 2.0}).output(output_products(x, y))[0, 0]
    assert found.item() == pytest.approx(2 * direct.item(), rel=2e-5)
    assert_same_gradient(found, 2 * direct, y)


def output_products(x, y):
    rows = Rows.make(x[None], torch.tensor([float(x.shape[1])]))
    return predicted_products(y[None], rows, keep=True)


def assert_same_gradient(found, direct, leaf):
    mine = torch.autograd.grad(found, leaf, retain_graph=True)[0]
    theirs = torch.autograd.grad(direct, leaf, retain_graph=True)[0]
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize("has_target", [False, True])
@pytest.mark.parametrize("name", of_kind("latent"))
def test_latent_term(name, has_target):
    z = (draw(N, L, seed=2) * 0.6).requires_grad_()
    target = draw(N, L, seed=3) if has_target else None
    direct = DIRECT[name](z if target is None else target, z, target is None)
    found = Loss({name: 3.0}).latent(z[None], None if target is None else target[None])[0]
    assert found.item() == pytest.approx(3 * direct.item(), rel=2e-5)
    assert_same_gradient(found, 3 * direct, z)


GOLDEN_NAMES = {
    "correye(true,pred)": "correye",
    "corrtrace(true,pred)": "corrtrace",
    "distance_loss(true,pred)": "dist",
    "distance_neighbor_loss(true,pred)": "neidist",
    "corrmatch(true,pred)": "corrmatch",
    "var_match_loss(true,pred)": "var",
    "mse(true,pred)": "mse",
    "correye(latent,latent)": "enceye",
    "correye(latent2,latent)": "enceye",
    "distance_loss(latent,latent)": "encdist",
    "distance_loss(latent2,latent)": "encdist",
    "distance_neighbor_loss(latent,latent)": "encneidist",
    "distance_neighbor_loss(latent2,latent)": "encneidist",
    "dotproduct_loss(latent,latent)": "encdot",
    "dotproduct_loss(latent2,latent)": "encdot",
    "dotproduct_neighbor_loss(latent,latent)": "encneidot",
    "dotproduct_neighbor_loss(latent2,latent)": "encneidot",
}


@pytest.fixture(scope="module")
def golden():
    arrays = {
        name: torch.from_numpy(a) for name, a in np.load(GOLDEN / "loss_vectors.npz").items()
    }
    return arrays, json.loads((GOLDEN / "loss_vectors.json").read_text("utf-8"))


@pytest.mark.parametrize("key", GOLDEN_NAMES)
def test_reference_programs_value(golden, key):
    arrays, values = golden
    name = GOLDEN_NAMES[key]
    if "true" in key:
        found = Loss({name: 1.0}).output(output_products(arrays["true"], arrays["pred"]))
    else:
        target = arrays["latent2"][None] if "latent2" in key else None
        found = Loss({name: 1.0}).latent(arrays["latent"][None], target)
    assert float(found) == pytest.approx(values[key], rel=3e-6)


def test_reference_programs_path_loss_and_its_gradients(golden):
    arrays, values = golden
    y, z = arrays["pred"].clone().requires_grad_(), arrays["latent"].clone().requires_grad_()
    loss = parse_loss(PUBLISHED)
    total = loss.output(output_products(arrays["true"], y)).sum() + loss.latent(z[None]).sum()
    assert float(total.detach()) == pytest.approx(values["path_loss"], rel=1e-6)
    for leaf, name in ((y, "grad_pred"), (z, "grad_latent")):
        found = torch.autograd.grad(total, leaf, retain_graph=True)[0]
        expected = arrays[name]
        atol = 1e-6 * float(expected.abs().max())
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=atol)


def test_published_weights(golden):
    _, values = golden
    named = {name: weight for name, weight in values["parsed_weights"].items() if weight}
    assert parse_loss(PUBLISHED).weights == named


def test_padding_changes_nothing():
    x, y = draw(N, K), draw(N, K, seed=1)
    plain = output_products(x, y)
    wide = [torch.nn.functional.pad(values, (0, 3)) for values in (x, y)]
    rows = Rows.make(wide[0][None], torch.tensor([float(K)]))
    padded = predicted_products(wide[1][None], rows, keep=True)
    for name in ("correye", "mse", "neidist", "dist", "relmse", "corrtrace"):
        loss = Loss({name: 1.0})
        torch.testing.assert_close(loss.output(padded), loss.output(plain))


def test_products_of_linear_predictions():
    z, weight, bias = draw(1, 2 * N, L), draw(3, L, K, seed=1), draw(3, 1, K, seed=2)
    rows = Rows.make(draw(3, N, K, seed=3), torch.full((3,), float(K)))
    direct = predicted_products(z @ weight + bias, rows)
    found = linear_products(z, weight, bias, rows)
    for name in ("along", "y_square", "y_total"):
        torch.testing.assert_close(
            getattr(found, name), getattr(direct, name), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("n_targets", [1, 3], ids=["shared", "own"])
def test_gradient_of_linear_products(n_targets):
    leaves = [
        draw(*shape, seed=seed).double().requires_grad_()
        for seed, shape in enumerate([(n_targets, 6, 3), (3, 3, 5), (3, 1, 5)])
    ]
    assert torch.autograd.gradcheck(LinearProducts.apply, [*leaves, draw(3, 4, 5).double()])


def test_constant_rows_correlate_zero_and_leave_gradients_that_are_numbers():
    x, y = draw(4, K), draw(4, K, seed=1)
    x[0], y[1] = 2.0, 0.0
    y.requires_grad_()
    products = output_products(x, y)
    assert torch.all(products.correlations()[0, 0, :, 0] == 0)
    assert torch.all(products.correlations()[0, 0, 1] == 0)
    total = parse_loss(PUBLISHED).output(products).sum()
    assert torch.isfinite(torch.autograd.grad(total, y)[0]).all()


def test_perfect_prediction_has_no_gradient_that_is_no_number():
    x = draw(N, K)
    y = x.clone().requires_grad_()
    total = Loss({"neidist": 1.0, "dist": 1.0}).output(output_products(x, y)).sum()
    assert torch.isfinite(torch.autograd.grad(total, y)[0]).all()


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("correye+enceye", {"correye": 1, "enceye": 10}),
        ("correyeB+mse.w0.5", {"correye": 1, "mse": 0.5}),
        ("mse.w1e3 + latentsimloss", {"mse": 1000, "latentsimloss": 5000}),
        ("mse+latentdist.w78", {"mse": 1, "latentdist": 78}),
    ],
)
def test_loss_texts(text, weights):
    assert parse_loss(text).weights == weights


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("coreye", "Did you mean 'correye'"),
        ("mse+mse", "'mse' comes twice"),
        ("mse.w-1", "'-1' is no weight of 'mse'"),
        ("mse.wnan", "'nan' is no weight"),
        ("enceye", "looks at no prediction"),
        ("mse+latentnormloss", "'latentnormloss' has no weight"),
        ("", "is no term"),
    ],
)
def test_wrong_loss_texts(text, message):
    with pytest.raises(UsageError, match=message):
        parse_loss(text)


def test_all_that_is_wrong_with_a_loss_is_told():
    with pytest.raises(Problems, match=r"(?s)'foo' is no term.*'x' is no weight"):
        parse_loss("foo+mse.wx")


def test_distance_between_latents_by_value_and_by_participant():
    assert parse_loss("mse+latentsimloss.w100").between(16) == 100
    assert parse_loss("mse+latentdist.w2").between(16) == 32


def test_reference_programs_metrics_are_ours(golden):
    arrays, values = golden
    expected = {
        "top1": values["top1acc"], "top_n": values["top2acc"],
        "average_rank": values["avgrank"], "correlation": values["avgcorr"],
    }  # fmt: skip
    found = vars(evaluate_connectomes(arrays["true"], arrays["pred"], n_permutations=2))
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    # a network that predicts so: unit vectors as latents, and predictions as weights
    truth, predicted = arrays["true"][None], arrays["pred"]
    options = TrainingOptions(latent_size=len(predicted), dropout=0.0).resolved()
    network = Network.initial({"a": truth.shape[-1]}, ["all"], options, "cpu")
    network.encode = lambda *_: torch.eye(len(predicted))[None]
    network.decoders.tensors[0][0], network.decoders.tensors[1][0] = predicted, 0.0
    watched = validate(network, truth, parse_loss("mse")).means()
    for name in ("top1", "average_rank", "correlation"):
        assert watched[name] == pytest.approx(expected[name], rel=1e-5), name
    assert watched["loss"] == pytest.approx(values["mse(true,pred)"], rel=1e-5)
