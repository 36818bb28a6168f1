# SPDX-License-Identifier: MIT
from __future__ import annotations

import itertools
import logging
from collections import OrderedDict
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from kraken_bids.errors import ModelError, ResourceError
from kraken_bids.model.bundle import convert_checkpoint
from kraken_bids.model.checkpoint import modern_name, read_checkpoint, read_transforms
from kraken_bids.model.krakencoder import Krakencoder

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "model"

N_EDGES, LATENT_SIZE = 10, 3
NAMES = ["SCsdstream_toy_count", "FCcorr_toy_hpf"]


class Normalize(nn.Module):
    def forward(self, x):
        return normalize(x, p=2, dim=1)


def _chain(sizes, *, activations, behind_all=None, dropout=0.5):
    """One half of a network: a module list in the order of the reference program."""
    modules = []
    for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        modules.append(nn.Linear(n_in, n_out))
        if dropout:
            modules.append(nn.Dropout(dropout))
        if i < len(sizes) - 2 and activations:
            modules.append(activations[i % len(activations)])
        if behind_all is not None:
            modules.append(behind_all)
    return nn.Sequential(*modules)


def save_checkpoint(file, encoders, decoders, between=(), names=NAMES, **options):
    """Write a checkpoint as the reference program does."""
    state = OrderedDict()
    lists = (
        ("encoder_list", encoders),
        ("decoder_list", decoders),
        ("intergroup_transform_list", between),
    )
    for prefix, chains in lists:
        for f, chain in enumerate(chains):
            for key, tensor in chain.state_dict().items():
                state[f"{prefix}.{f}.{key}"] = tensor
    content = {
        "state_dict": state,
        "krakencoder_version": "1.0.0 (2024-04-07)",
        "input_size_list": [N_EDGES] * len(names),
        "latentsize": LATENT_SIZE,
        "hiddenlayers": [],
        "dropout": 0.5,
        "latent_normalize": True,
        "intergroup_dropout": np.float64(0.5),
        "input_name_list": names,
        "input_transformation_info": "none",
        "epoch": 1999,
        "training_params": {"subjects": np.array(["a", "b"]), "losstype": "mse", "batchsize": 41},
    }
    torch.save({**content, **options}, file)
    return file


def make_halves(hidden=(), **options):
    sizes = [N_EDGES, *hidden, LATENT_SIZE]
    encoders = [_chain(sizes, **options) for _ in NAMES]
    del options["behind_all"]
    decoders = [_chain(sizes[::-1], **options) for _ in NAMES]
    return encoders, decoders


@pytest.mark.parametrize(
    ("hidden", "modules", "options"),
    [
        ((), {"activations": []}, {}),
        ((7,), {"activations": [nn.ReLU()]}, {"hiddenlayers": [7]}),
        ((7,), {"activations": [nn.ReLU()], "dropout": 0}, {"hiddenlayers": [7], "dropout": 0}),
        ((7,), {"activations": []}, {"hiddenlayers": [7], "skip_relu": True}),
        (
            (7, 5),
            {"activations": [nn.LeakyReLU(0.2)]},
            {"hiddenlayers": [7, 5], "leakyrelu_negative_slope": 0.2},
        ),
        (
            (7, 5, 6),
            {"activations": [nn.ReLU(), nn.Tanh()]},
            {"hiddenlayers": [7, 5, 6], "relu_tanh_alternate": True},
        ),
        (
            (7,),
            {"activations": [nn.ReLU()], "behind_all": nn.Tanh()},
            {"hiddenlayers": [7], "latent_activation": "tanh"},
        ),
        (
            (),
            {"activations": [], "behind_all": nn.Sigmoid()},
            {"latent_activation": "sigmoid", "latent_normalize": False},
        ),
    ],
    ids=["linear", "deep", "no-dropout", "skip-relu", "leaky", "alternate", "tanh", "sigmoid"],
)
def test_networks_of_all_shapes_compute_what_torch_computes(tmp_path, hidden, modules, options):
    torch.manual_seed(0)
    encoders, decoders = make_halves(hidden, **{"behind_all": None, **modules})
    file = save_checkpoint(tmp_path / "m.pt", encoders, decoders, **options)
    bundle = convert_checkpoint([file], [], tmp_path / "bundle")
    model = Krakencoder.from_pretrained(bundle.path, device="cpu")

    x = torch.rand(4, N_EDGES)
    for f, name in enumerate(NAMES):
        with torch.inference_mode():
            latent = encoders[f].eval()(x)
            if options.get("latent_normalize", True):
                latent = normalize(latent, p=2, dim=1)
            edges = decoders[f].eval()(latent)
        found = model.encode({name: x.numpy()})[name]
        np.testing.assert_allclose(found, latent, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(model.decode(found, [name])[name], edges, rtol=1e-4, atol=1e-5)


def test_transforms_between_groups_are_applied_before_fusion(tmp_path):
    torch.manual_seed(1)
    encoders, decoders = make_halves(activations=[], behind_all=None)
    sc_to_fc, fc_to_sc = (
        nn.Sequential(*(
            nn.Linear(3, 5),
            nn.Dropout(),
            nn.ReLU(),
            nn.Linear(5, 3),
            nn.Dropout(),
            nn.ReLU(),
        ))
        for _ in range(2)
    )
    file = save_checkpoint(
        tmp_path / "m.pt",
        encoders,
        decoders,
        [sc_to_fc, fc_to_sc],
        intergroup=True,
        intergroup_layers=[5],
        intergroup_inputgroup_list=["SC", "FC"],
        intergroup_transform_index_dict={"sc->fc": 0, "fc->sc": 1},
        intergroup_relu=True,
    )  # fmt: skip
    bundle = convert_checkpoint([file], [], tmp_path / "bundle")
    assert bundle.intergroup == ("sc->fc", "fc->sc")
    model = Krakencoder.from_pretrained(bundle.path, device="cpu")

    x = {name: np.random.default_rng(f).random((4, N_EDGES)) for f, name in enumerate(NAMES)}
    found = {
        (p.source, p.target): p.edges for p in model.predict(x, fusions={"fusion": tuple(NAMES)})
    }
    with torch.inference_mode():
        z = [
            normalize(encoders[f].eval()(torch.tensor(x[name]).float()))
            for f, name in enumerate(NAMES)
        ]
        mapped = normalize(sc_to_fc.eval()(z[0]))
        single = decoders[1].eval()(mapped)
        fused = decoders[1].eval()((mapped + z[1]) / 2)
        same_group = decoders[1](z[1])
    np.testing.assert_allclose(found[NAMES[0], NAMES[1]], single, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["fusion", NAMES[1]], fused, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[NAMES[1], NAMES[1]], same_group, rtol=1e-4, atol=1e-5)


def test_old_names_become_new_ones():
    assert {
        old: modern_name(old)
        for old in (
            "FCcov_fs86_hpf_FC", "FCcov_shen268_hpfgsr_FC", "FCpcorr_cocommpsuit439_hpf_FC",
            "fs86_sdstream_volnorm", "cocommpsuit439_ifod2act_volnorm",
            "SCifod2act_fs86_sift2count", "SCifod2act_fs86_volnorm", "FCcorr_fs86_hpf",
            "demog_age",
        )
    } == {
        "FCcov_fs86_hpf_FC": "FCcorr_fs86_hpf",
        "FCcov_shen268_hpfgsr_FC": "FCcorr_shen268_hpfgsr",
        "FCpcorr_cocommpsuit439_hpf_FC": "FCpcorr_coco439_hpf",
        "fs86_sdstream_volnorm": "SCsdstream_fs86_volnorm",
        "cocommpsuit439_ifod2act_volnorm": "SCifod2act_coco439_volnorm",
        "SCifod2act_fs86_sift2count": "SCifod2act_fs86_sift2",
        "SCifod2act_fs86_volnorm": "SCifod2act_fs86_volnorm",
        "FCcorr_fs86_hpf": "FCcorr_fs86_hpf",
        "demog_age": "demog_age",
    }  # fmt: skip


def test_what_a_checkpoint_says_of_people_and_paths_is_not_kept(tmp_path):
    encoders, decoders = make_halves(activations=[], behind_all=None)
    file = save_checkpoint(tmp_path / "m.pt", encoders, decoders)
    facts = read_checkpoint(file).facts
    assert facts["epoch"] == 1999
    assert facts["training"] == {"losstype": "mse", "batchsize": 41}


def test_nan_weights_are_refused(tmp_path):
    with pytest.raises(ModelError, match=r"weights are NaN .*its training failed \(encoder of FC"):
        convert_checkpoint(
            [GOLDEN / "nan_example.pt"], [GOLDEN / "mini_ioxfm.npy"], tmp_path / "b"
        )
    assert not (tmp_path / "b").exists()


def test_flavors_without_transform_are_named(tmp_path):
    with pytest.raises(ModelError, match=r"no transform for SCifod2act_cc200_count \(new.pt\)"):
        convert_checkpoint([GOLDEN / "new.pt"], [GOLDEN / "mini_ioxfm.npy"], tmp_path / "b")


def test_files_that_hold_no_krakencoder_are_told(tmp_path):
    torch.save({"state_dict": OrderedDict()}, tmp_path / "other.pt")
    with pytest.raises(ModelError, match="is not a Krakencoder checkpoint"):
        read_checkpoint(tmp_path / "other.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ModelError, match="is not a Krakencoder checkpoint"):
        read_checkpoint(tmp_path / "list.pt")
    np.save(tmp_path / "t.npy", np.array([1, "x"], dtype=object), allow_pickle=True)
    with pytest.raises(ResourceError, match="not a dictionary"):
        read_transforms([tmp_path / "t.npy"])
    np.save(tmp_path / "t.npy", np.array({"x": 3}), allow_pickle=True)
    with pytest.raises(ResourceError, match="holds no transforms by flavor"):
        read_transforms([tmp_path / "t.npy"])


def test_an_added_flavor_joins_and_a_second_one_of_a_name_is_left_out(tmp_path, caplog):
    torch.manual_seed(2)
    first = save_checkpoint(tmp_path / "a.pt", *make_halves(activations=[], behind_all=None))
    encoders, decoders = make_halves((4,), activations=[nn.ReLU()], behind_all=None)
    second = save_checkpoint(
        tmp_path / "b.pt", encoders, decoders, names=[NAMES[1], "FCpcorr_toy_hpf"]
    )
    with caplog.at_level(logging.WARNING):
        bundle = convert_checkpoint([first, second], [], tmp_path / "merged")
    assert bundle.flavors == (*NAMES, "FCpcorr_toy_hpf")
    assert f"{NAMES[1]}: that of an earlier file is taken, not {second}" in caplog.text
    alone = convert_checkpoint([first], [], tmp_path / "alone")
    np.testing.assert_array_equal(
        bundle.encoder(NAMES[1])[0].weight, alone.encoder(NAMES[1])[0].weight
    )
    assert len(bundle.encoder("FCpcorr_toy_hpf")) == 2


def test_models_of_different_latents_do_not_merge(tmp_path):
    file = save_checkpoint(tmp_path / "a.pt", *make_halves(activations=[], behind_all=None))
    with pytest.raises(ModelError, match=r"latents differ in size: a.pt 3, mini.pt 16"):
        convert_checkpoint([file, GOLDEN / "mini.pt"], [GOLDEN / "mini_ioxfm.npy"], tmp_path / "b")


def test_the_transform_of_another_atlas_is_refused(tmp_path):
    encoders, decoders = make_halves(activations=[], behind_all=None)
    file = save_checkpoint(
        tmp_path / "m.pt", encoders, decoders, input_transformation_info="cfeat"
    )
    rows = {name: {"type": "cfeat", "input_mean": np.zeros((1, 6))} for name in NAMES}
    np.save(tmp_path / "t.npy", np.array(rows), allow_pickle=True)
    with pytest.raises(ModelError, match=r"do not lead from 6 to 3 values \(encoder of SCsd"):
        convert_checkpoint([file], [tmp_path / "t.npy"], tmp_path / "b")


@pytest.mark.parametrize("extension", ["npy", "npz", "h5"])
def test_transform_files_of_all_formats_are_read(tmp_path, extension):
    file = tmp_path / f"t.{extension}"
    rows = {
        "FCcov_fs86_hpf_FC": {
            "type": "cfeat+norm",
            "input_mean": np.arange(4.0).reshape(1, 4),
            "input_rownorm_mean": np.array([2.5]),
            "train_subjects": np.array(["a", "b"]),
        }
    }
    if extension == "npy":
        np.save(file, np.array(rows), allow_pickle=True)
    elif extension == "npz":
        np.savez(file, transform_params=np.array(rows))
    else:
        with h5py.File(file, "w") as stored:
            group = stored.create_group("FCcov_fs86_hpf_FC")
            group.attrs["type"] = "cfeat+norm"
            group.attrs["input_rownorm_mean"] = 2.5
            group.create_dataset("input_mean", data=np.arange(4.0).reshape(1, 4))
    ((flavor, transform),) = read_transforms([file]).items()
    assert (flavor, transform.kind) == ("FCcorr_fs86_hpf", "cfeat+norm")
    np.testing.assert_array_equal(transform.training_mean, np.arange(4, dtype=np.float32))
    assert transform.parameters["row_norm"].tolist() == [2.5]


def test_a_damaged_hdf5_file_is_told(tmp_path):
    (tmp_path / "t.h5").write_bytes(b"x" * 100)
    with pytest.raises(ResourceError, match="damaged"):
        read_transforms([tmp_path / "t.h5"])
    with pytest.raises(ResourceError, match="does not exist"):
        read_transforms([tmp_path / "none.h5"])
