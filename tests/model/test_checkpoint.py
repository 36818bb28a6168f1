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
from kraken_bids.model.checkpoint import read_checkpoint
from kraken_bids.model.krakencoder import Krakencoder
from kraken_bids.model.transform_files import modern_name, read_transforms

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


@pytest.mark.parametrize(
    ("info", "is_untransformed"),
    [
        ("none", True),
        ("pc256", False),
        ("cfeat", False),
        (False, False),
        (None, False),
        (list("none"), True),  # what merging four flavors made of the word
        (list("pc256"), False),
    ],
)
def test_networks_that_take_edges_as_they_are_need_no_transforms(tmp_path, info, is_untransformed):
    halves = make_halves(activations=[], behind_all=None)
    file = save_checkpoint(tmp_path / "m.pt", *halves, input_transformation_info=info)
    assert read_checkpoint(file).is_untransformed is is_untransformed


def test_files_of_before_have_fewer_options_and_wider_numbers(tmp_path):
    torch.manual_seed(3)
    encoders, decoders = make_halves(activations=[], behind_all=None)
    file = save_checkpoint(tmp_path / "m.pt", encoders, decoders)
    content = torch.load(file, weights_only=False)
    kept = {"input_size_list", "latentsize", "latent_normalize", "dropout"}
    old = {key: content[key] for key in kept}
    old["input_name_list"] = ["fs86_sdstream_volnorm", "FCcov_fs86_hpf_FC"]
    old["state_dict"] = OrderedDict(
        (key, tensor.double()) for key, tensor in content["state_dict"].items()
    )
    torch.save(old, tmp_path / "old.pt")
    found = read_checkpoint(tmp_path / "old.pt")
    assert list(found.coders) == ["SCsdstream_fs86_volnorm", "FCcorr_fs86_hpf"]
    weight = found.coders["FCcorr_fs86_hpf"].encoder[0].weight
    assert weight.dtype == np.float32
    np.testing.assert_array_equal(weight, encoders[1][0].weight.detach())
    assert found.coders["FCcorr_fs86_hpf"].encoder[0].activations == ("normalize",)


def test_adversarial_flavors_compute_as_others_and_are_recorded(tmp_path):
    halves = make_halves(activations=[], behind_all=None)
    file = save_checkpoint(tmp_path / "m.pt", *halves, adversarial_boolean_list=[False, True])
    bundle = convert_checkpoint([file], [], tmp_path / "b")
    assert [bundle.flavor_model(name).is_adversarial for name in NAMES] == [False, True]
    plain = save_checkpoint(tmp_path / "p.pt", *halves)
    assert convert_checkpoint([plain], [], tmp_path / "p").sha256 == bundle.sha256


def save_adapter(file, inner_file, *, powers=0, bias=0.0, weight=1.0, **options):
    """Write the wrapper around a checkpoint that works on edges."""
    inner = torch.load(inner_file, weights_only=False)
    state = OrderedDict((f"inner_model.{key}", t) for key, t in inner.pop("state_dict").items())
    for half in ("encoder", "decoder"):
        for f in range(len(NAMES) if powers else 0):
            layer = f"{half}_outer_layer_list.{f}.0"
            state[f"{layer}.weights"] = torch.full((powers, N_EDGES), weight)
            state[f"{layer}.biases"] = torch.full((1, N_EDGES), bias)
    content = {
        "state_dict": state,
        "input_size_list": [N_EDGES] * len(NAMES),
        "dropout": 0,
        "linear_polynomial_order": powers,
        "leaky_relu": False,
        "inner_model_extra_dict": inner,
        "krakencoder_version": "1.0.0 (2024-04-07)",
    }
    torch.save({**content, **options}, file)
    return file


@pytest.mark.parametrize("powers", [0, 1])
def test_an_adapter_that_changes_nothing_is_its_inner_model(tmp_path, powers):
    inner = save_checkpoint(tmp_path / "m.pt", *make_halves(activations=[], behind_all=None))
    file = save_adapter(tmp_path / "a.pt", inner, powers=powers)
    expected = convert_checkpoint([inner], [], tmp_path / "inner")
    assert convert_checkpoint([file], [], tmp_path / "outer").sha256 == expected.sha256


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"powers": 1, "bias": 0.5}, "own layers change the edges"),
        ({"powers": 1, "weight": 2.0}, "own layers change the edges"),
        ({"powers": 2}, "own layers change the edges"),
        ({"powers": 1, "leaky_relu": True}, "own layers change the edges"),
        ({"inner_model_extra_dict": {"input_name_list": NAMES}}, "does not say what its inner"),
    ],
    ids=["bias", "weight", "square", "leaky", "unknown"],
)
def test_adapters_that_change_edges_are_refused(tmp_path, options, message):
    inner = save_checkpoint(tmp_path / "m.pt", *make_halves(activations=[], behind_all=None))
    file = save_adapter(tmp_path / "a.pt", inner, **options)
    with pytest.raises(ModelError, match=message + r".*a\.pt\). Give the inner checkpoint"):
        read_checkpoint(file)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"orig_input_size_list": [N_EDGES, 1]}, r"category of 10 values.*\(FCcorr_toy_hpf in"),
        ({"hiddenlayers": [7]}, r"has 1 layers in its encoder and 1 .* options say 2"),
        ({"input_size_list": [N_EDGES]}, r"lists 2 flavors \(2 different\), 1 sizes"),
        ({"adversarial_boolean_list": [True]}, r"1 adversarial flags"),
        (
            {"input_name_list": ["fs86_sdstream_volnorm", "SCsdstream_fs86_volnorm"]},
            r"lists 2 flavors \(1 different\)",
        ),
    ],
    ids=["category", "depth", "sizes", "flags", "names"],
)
def test_checkpoints_that_contradict_themselves_are_refused(tmp_path, options, message):
    halves = make_halves(activations=[], behind_all=None)
    file = save_checkpoint(tmp_path / "m.pt", *halves, **options)
    with pytest.raises(ModelError, match=message):
        read_checkpoint(file)


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


def test_nothing_in_a_bundle_says_who_was_trained_on_or_where(tmp_path):
    bundle = convert_checkpoint([GOLDEN / "mini.pt"], [GOLDEN / "mini_ioxfm.npy"], tmp_path / "b")
    texts = b"".join(file.read_bytes() for file in bundle.path.iterdir())
    training = torch.load(GOLDEN / "mini.pt", weights_only=False)["training_params"]
    secrets = [*training["subjects"], training["environment_string"], training["command"], "HOME="]
    for secret in secrets:
        assert secret.encode() not in texts


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
        tmp_path / "b.pt",
        encoders,
        decoders,
        names=[NAMES[1], "FCpcorr_toy_hpf"],
        hiddenlayers=[4],
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


def test_models_of_latents_with_and_without_length_1_do_not_merge(tmp_path):
    halves = make_halves(activations=[], behind_all=None)
    first = save_checkpoint(tmp_path / "a.pt", *halves)
    second = save_checkpoint(tmp_path / "b.pt", *halves, names=["x", "y"], latent_normalize=False)
    with pytest.raises(ModelError, match=r"differ: a.pt of length 1, b.pt of any length"):
        convert_checkpoint([first, second], [], tmp_path / "b")


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
    assert transform.n_participants == (None if extension == "h5" else 2)


_MEANS, _V = {"input_mean": np.array([[1.0, 2.0]])}, np.array([[0.6, 0.8]])
_MU = {"input_mean": 1.0, "input_stdev": 2.0}
_SCALES = {"input_normscale": 2.0, "output_normscale": 100.0}
_LOG = {
    "input_minimum_nonzero": 1.0,
    "input_logmean_nonzero": 0.0,
    "input_logstdev_nonzero": 1.0,
    "output_logmean_nonzero": 0.5,
    "output_logstdev_nonzero": 0.1,
    "input_rownorm_mean": 2.0,
}


@pytest.mark.parametrize(
    ("kind", "stored", "edges", "expected"),
    [
        ("none", {}, [3, 5], [3, 5]),
        # 100 * ((2 * 0.6 + 4 * 0.8) / 2)
        ("pca", {"pca_input_mean": [1.0, 1.0], "pca_components": _V, **_SCALES}, [3, 5], [220]),
        ("tsvd", {"tsvd_components": _V, **_SCALES}, [3, 5], [290]),
        ("norm", _SCALES, [3, 5], [150, 250]),
        ("varnorm", {"input_variance": 4.0}, [3, 5], [0.75, 1.25]),
        ("zscore", _MU, [3, 5], [1, 2]),
        ("zfeat", {**_MEANS, "input_stdev": np.array([[2.0, 3.0]])}, [3, 5], [1, 1]),
        ("cfeat", _MEANS, [3, 5], [2, 3]),
        ("cfeat+norm", {**_MEANS, "input_rownorm_mean": 4.0}, [3, 5], [0.5, 0.75]),
        ("cfeat+varnorm", {**_MEANS, "input_variance": 8.0}, [3, 5], [0.25, 0.375]),
        ("zscore+rownorm", {**_MU, "input_rownorm_mean": 4.0}, [3, 5], [0.25, 0.5]),
        # (log10(10) * 0.1 + 0.5) / 2, and 0 below the least positive value
        ("lognorm", _LOG, [10, 0.1], [0.3, 0]),
        ("lognorm+rownorm", _LOG, [10, 0.1], [0.3, 0]),
    ],
)
@pytest.mark.parametrize("as_array", [np.float32, lambda x: np.array([x])], ids=["0-d", "1-d"])
def test_transforms_of_all_kinds_compute_what_is_computed_by_hand(
    tmp_path, kind, stored, edges, expected, as_array
):
    row = {k: as_array(v) if isinstance(v, float) else v for k, v in stored.items()}
    np.save(tmp_path / "t.npy", np.array({"x": {"type": kind, **row}}), allow_pickle=True)
    transform = read_transforms([tmp_path / "t.npy"])["x"]
    found = transform.forward(np.float32([edges]))
    np.testing.assert_allclose(found, [expected], rtol=1e-6)
    if kind not in {"pca", "tsvd", "lognorm", "lognorm+rownorm"}:  # which lose a part
        np.testing.assert_allclose(transform.inverse(found), [edges], rtol=1e-6)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float64(0.25), 0.25),
        (np.array([0.25]), 0.25),
        (np.array([0.125, 0.125]), 0.25),
        (np.float64(np.nan), None),
        (None, None),
    ],
    ids=["scalar", "array", "by-component", "nan", "absent"],
)
def test_the_variance_that_a_transform_keeps_is_read(tmp_path, value, expected):
    row = {
        "type": "pca",
        "pca_input_mean": np.zeros(4),
        "pca_components": np.zeros((2, 4)),
        "input_normscale": np.float64(2),
        "output_normscale": np.array(100),
        "pca_explained_variance_ratio": value,
    }
    np.save(tmp_path / "t.npy", np.array({"x": row}), allow_pickle=True)
    transform = read_transforms([tmp_path / "t.npy"])["x"]
    assert transform.explained_variance == expected
    assert transform.parameters["output_scale"].tolist() == [100.0]


def test_a_damaged_hdf5_file_is_told(tmp_path):
    (tmp_path / "t.h5").write_bytes(b"x" * 100)
    with pytest.raises(ResourceError, match="damaged"):
        read_transforms([tmp_path / "t.h5"])
    with pytest.raises(ResourceError, match="does not exist"):
        read_transforms([tmp_path / "none.h5"])
