# SPDX-License-Identifier: MIT
from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from kraken_bids.errors import ModelError, UsageError
from kraken_bids.model.bundle import convert_checkpoint, write_bundle
from kraken_bids.model.layers import FlavorModel, Layer
from kraken_bids.model.reference import training_facts, write_reference
from kraken_bids.model.transforms import TRANSFORMS, Transform, make_transform

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "model"
N_EDGES, LATENT_SIZE = 6, 3
NAMES = ("SCsdstream_toy_count", "FCcorr_toy_hpf")

#: What a checkpoint holds that ours leave out, and why.
LEFT_OUT = {"optimizer"}  # nothing loads it


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    """The golden checkpoint's bundle, and the files written of it."""
    folder = tmp_path_factory.mktemp("mini")
    bundle = convert_checkpoint(
        [GOLDEN / "mini.pt"], [GOLDEN / "mini_ioxfm.npy"], folder / "b", name="mini"
    )
    return bundle, write_reference(bundle, folder / "out" / "again.pt")


@pytest.fixture(scope="module")
def original():
    return torch.load(GOLDEN / "mini.pt", weights_only=False)


def test_every_key_of_a_checkpoint_is_there_in_its_place_with_its_type(mini, original):
    # ours hold plain values only, so that torch loads them without running any code
    found = torch.load(mini[1].checkpoint, weights_only=True)
    assert list(found) == [key for key in original if key not in LEFT_OUT]
    for key, value in found.items():
        assert isinstance(original[key], type(value)), key
    same = set(found) - {"state_dict", "training_params"}
    assert {key: found[key] for key in same} == {key: original[key] for key in same}
    for key, value in found["training_params"].items():
        assert value == original["training_params"][key], key
    assert not {"subjects", "command", "environment_string"} & set(found["training_params"])


def test_weights_come_back_tensor_by_tensor(mini, original):
    found = torch.load(mini[1].checkpoint, weights_only=True)["state_dict"]
    assert list(found) == list(original["state_dict"])
    for key, tensor in original["state_dict"].items():
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key], tensor), key


def test_transforms_come_back_key_by_key(mini):
    found = np.load(mini[1].transforms, allow_pickle=True).item()
    expected = np.load(GOLDEN / "mini_ioxfm.npy", allow_pickle=True).item()
    assert list(found) == list(expected)
    for flavor, row in expected.items():
        assert set(row) ^ set(found[flavor]) == {"train_subjects", "train_subject_count"}
        assert found[flavor]["train_subject_count"] == len(row["train_subjects"])
        for key in set(row) & set(found[flavor]):
            assert type(found[flavor][key]) is type(row[key]), key
            if isinstance(row[key], np.ndarray):
                assert found[flavor][key].dtype == row[key].dtype
            np.testing.assert_array_equal(found[flavor][key], row[key], err_msg=key, strict=True)


def test_there_and_back_is_the_same_bundle(mini, tmp_path):
    bundle, files = mini
    again = convert_checkpoint([files.checkpoint], [files.transforms], tmp_path / "b", name="mini")
    assert again.sha256 == bundle.sha256
    different = {key for key in bundle.config if bundle.config[key] != again.config[key]}
    assert different == {"provenance"}
    (facts,) = again.config["provenance"]["checkpoints"].values()
    assert facts == bundle.config["provenance"]["checkpoints"]["mini.pt"]


def _draw(rng, sizes, after, *, bias=None):
    bias = bias or [True] * (len(sizes) - 1)
    return tuple(
        Layer(
            rng.normal(size=(n_out, n_in)).astype(np.float32),
            rng.normal(size=n_out).astype(np.float32) if has_bias else None,
            names,
        )
        for (n_in, n_out), names, has_bias in zip(
            itertools.pairwise(sizes), after, bias, strict=True
        )
    )


def _model(rng, *, encoder, decoder, hidden=(), transform=None, bias=None, **options):
    sizes = [N_EDGES, *hidden, LATENT_SIZE]
    return FlavorModel(
        N_EDGES,
        transform or Transform("none"),
        _draw(rng, sizes, encoder, bias=bias),
        _draw(rng, sizes[::-1], decoder, bias=bias and bias[::-1]),
        **options,
    )


def _there_and_back(folder, flavors, *, dropout=0.5, intergroup=None):
    provenance = {"checkpoints": {"x.pt": {"dropout": dropout}}}
    bundle = write_bundle(
        folder / "a", flavors=flavors, latent_size=LATENT_SIZE, provenance=provenance, name="m",
        intergroup=intergroup,
    )  # fmt: skip
    files = write_reference(bundle, folder / "m")
    again = convert_checkpoint([files.checkpoint], [files.transforms], folder / "b", name="m")
    return bundle, files, again


RELU, LEAKY, TANH, UNIT = ("relu",), ("leaky_relu:0.2",), ("tanh",), ("normalize",)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize(
    "options",
    [
        {"encoder": [UNIT], "decoder": [()]},
        {"encoder": [()], "decoder": [()]},
        {"encoder": [("sigmoid",)], "decoder": [()]},
        {"hidden": (5,), "encoder": [RELU, UNIT], "decoder": [RELU, ()]},
        {"hidden": (5,), "encoder": [(), UNIT], "decoder": [(), ()]},
        {"hidden": (5, 4), "encoder": [LEAKY, LEAKY, UNIT], "decoder": [LEAKY, LEAKY, ()]},
        {"hidden": (5, 4), "encoder": [RELU, TANH, UNIT], "decoder": [RELU, TANH, ()]},
        {
            "hidden": (5,),
            "encoder": [("relu", "tanh"), ("tanh", "normalize")],
            "decoder": [RELU, ()],
        },
        {"encoder": [UNIT], "decoder": [()], "bias": [False]},
        {
            "hidden": (5,),
            "encoder": [RELU, UNIT],
            "decoder": [RELU, ()],
            "bias": [False, True],
        },
        {"encoder": [UNIT], "decoder": [()], "group": "sc", "is_adversarial": True},
    ],
    ids=["linear", "unnormalised", "sigmoid", "deep", "skip-relu", "leaky", "alternate",
         "latent-tanh", "no-bias", "no-outer-bias", "adversarial"],
)  # fmt: skip
def test_networks_of_all_shapes_go_there_and_back(tmp_path, rng, options, dropout):
    flavors = {name: _model(rng, **options) for name in NAMES}
    bundle, _, again = _there_and_back(tmp_path, flavors, dropout=dropout)
    assert again.sha256 == bundle.sha256
    assert again.config["flavors"] == bundle.config["flavors"]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_layers_stand_where_the_reference_program_looks_for_them(tmp_path, rng, dropout):
    after = {"encoder": [("relu", "tanh"), ("tanh", "normalize")], "decoder": [RELU, ()]}
    flavors = {name: _model(rng, hidden=(5,), **after) for name in NAMES}
    _, files, _ = _there_and_back(tmp_path, flavors, dropout=dropout)
    drop = [nn.Dropout(dropout)] if dropout else []
    encoder = nn.Sequential(
        nn.Linear(6, 5), *drop, nn.ReLU(), nn.Tanh(), nn.Linear(5, 3), *drop, nn.Tanh()
    )
    decoder = nn.Sequential(nn.Linear(3, 5), *drop, nn.ReLU(), nn.Linear(5, 6), *drop)
    state = torch.load(files.checkpoint, weights_only=True)["state_dict"]
    for prefix, network in (("encoder_list.1.", encoder), ("decoder_list.0.", decoder)):
        part = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        network.load_state_dict(part, strict=True)


def test_transforms_between_groups_go_there_and_back(tmp_path, rng):
    flavors = {
        name: _model(rng, encoder=[UNIT], decoder=[()], group=name[:2].lower()) for name in NAMES
    }
    between = {
        key: _draw(rng, [3, 5, 3], [LEAKY, (*LEAKY, *UNIT)]) for key in ("sc->fc", "fc->sc")
    }
    bundle, files, again = _there_and_back(tmp_path, flavors, intergroup=between)
    assert again.sha256 == bundle.sha256
    assert again.config["intergroup"] == bundle.config["intergroup"]
    content = torch.load(files.checkpoint, weights_only=True)
    assert content["intergroup_layers"] == [5]
    assert content["intergroup_inputgroup_list"] == ["sc", "fc"]


@pytest.mark.parametrize("kind", TRANSFORMS)
def test_transforms_of_all_kinds_go_there_and_back(tmp_path, rng, kind):
    values = {
        name: {
            "components": rng.normal(size=(4, N_EDGES)),
            "mean": rng.normal(size=N_EDGES if kind not in {"zscore", "zscore+rownorm"} else 1),
            "deviation": rng.random(N_EDGES if kind == "zfeat" else 1) + 0.5,
        }.get(name, rng.random(1) + 0.5)
        for name in TRANSFORMS[kind].reference_keys
    }
    transform = make_transform(kind, values, where="", explained_variance=1 / 3, n_participants=7)
    sizes = [4 if "components" in values else N_EDGES, LATENT_SIZE]
    model = FlavorModel(
        N_EDGES, transform, _draw(rng, sizes, [UNIT]), _draw(rng, sizes[::-1], [()])
    )
    bundle, files, again = _there_and_back(tmp_path, {NAMES[0]: model})
    if kind != "none":  # the checkpoint says of itself that there is none
        assert again.config["flavors"] == bundle.config["flavors"]
    assert again.sha256 == bundle.sha256
    row = np.load(files.transforms, allow_pickle=True).item()[NAMES[0]]
    assert row["type"] == kind
    per_edge = kind in {"zfeat", "cfeat", "cfeat+norm", "cfeat+varnorm"}
    assert {key: value.shape for key, value in row.items() if isinstance(value, np.ndarray)} == {
        TRANSFORMS[kind].reference_keys[name]: (
            (4, N_EDGES)
            if name == "components"
            else (N_EDGES,)
            if (kind, name) == ("pca", "mean")
            else (1, N_EDGES)
            if per_edge and name in {"mean", "deviation"}
            else (1,)
        )
        for name in values
    }


def test_what_cannot_be_said_there_is_refused(tmp_path, rng):
    linear = _model(rng, encoder=[UNIT], decoder=[()])
    deep = _model(rng, hidden=(5,), encoder=[RELU, UNIT], decoder=[RELU, ()])
    odd = replace(linear, decoder=_draw(rng, [LATENT_SIZE, N_EDGES], [RELU]))
    for flavors, message in (
        ({NAMES[0]: linear, NAMES[1]: deep}, f"biases of {NAMES[1]} cannot be said .* {NAMES[0]}"),
        ({NAMES[0]: odd}, f"biases of {NAMES[0]} cannot be said in its format "),
    ):
        bundle = write_bundle(
            tmp_path / "b", flavors=flavors, latent_size=LATENT_SIZE, provenance={}
        )
        with pytest.raises(ModelError, match=message):
            write_reference(bundle, tmp_path / "out" / "m")
    between = {"sc->fc": _draw(rng, [3, 3], [("tanh",)])}
    bundle = write_bundle(
        tmp_path / "b", flavors={NAMES[0]: linear}, latent_size=LATENT_SIZE, provenance={},
        intergroup=between,
    )  # fmt: skip
    with pytest.raises(ModelError, match="layers between groups sc->fc cannot be said"):
        write_reference(bundle, tmp_path / "out" / "m")
    assert not (tmp_path / "out").exists()


def test_files_that_are_there_are_not_replaced(tmp_path, tiny_bundle):
    files = write_reference(tiny_bundle, tmp_path)
    assert files.checkpoint == tmp_path / "tiny.pt"
    assert files.transforms == tmp_path / "tiny_ioxfm.npy"
    with pytest.raises(UsageError, match=r"exists already \(.*tiny.pt\)"):
        write_reference(tiny_bundle, tmp_path / "tiny.pt")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "tiny", "tiny.pt", "tiny_ioxfm.npy",
    ]  # fmt: skip


def test_facts_of_our_own_training_are_said_in_its_words():
    options = {"dropout": 0.25, "epochs": 10, "batch_size": 41, "learning_rate": 0.1, "seed": 3}
    own = {"options": options, "n_participants": 60}
    expected = {
        "dropout": 0.25,
        "epoch": 9,
        "training": {
            "nbepochs": 10, "batchsize": 41, "learningrate": 0.1, "numsubjects_train": 60,
        },
    }  # fmt: skip
    assert training_facts(own) == expected
    assert training_facts({"models": [{"name": "a", "provenance": own}]}) == expected
    assert training_facts({}) == {"training": {}}
