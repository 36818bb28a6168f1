# SPDX-License-Identifier: MIT
from __future__ import annotations

import doctest
import logging
import subprocess
import sys

import numpy as np
import pytest
import torch

import kraken_bids
from kraken_bids.connectome.edges import edges_to_matrix
from kraken_bids.errors import ModelError, ResourceError, UsageError
from kraken_bids.model import krakencoder
from kraken_bids.model.bundle import write_bundle
from kraken_bids.model.devices import Chain, Processor, TorchDevice
from kraken_bids.model.krakencoder import Krakencoder, load_flavor, resolve_device
from kraken_bids.model.layers import FlavorModel, Layer
from kraken_bids.model.network import Coder
from kraken_bids.model.transforms import PER_EDGE_MEAN, TRANSFORMS, Transform

SC, FC = "SCsdstream_toy_count", "FCcorr_toy_hpf"


@pytest.fixture
def model(tiny_bundle):
    return Krakencoder.from_pretrained(tiny_bundle.path, device="cpu")


@pytest.fixture
def edges(rng):
    """Connectomes of five participants."""
    return {flavor: rng.normal(size=(5, 6)) for flavor in (SC, FC)}


def _hand_made(tmp_path):
    """Two flavors of three and of three edges with small round weights."""
    first = Layer(np.float32([[1, 0, 2], [0, 1, -1]]), np.float32([0.5, -0.5]), ("normalize",))
    second = Layer(np.float32([[0, 1, 1], [1, -1, 0]]), np.float32([0, 1]), ("normalize",))
    decoder = Layer(np.float32([[1, 2], [-1, 0.5], [0, 3]]), np.float32([0.1, 0.2, 0.3]))
    flavors = {
        name: FlavorModel(3, Transform("none"), (encoder,), (decoder,))
        for name, encoder in ((SC, first), (FC, second))
    }
    write_bundle(tmp_path / "hand", flavors=flavors, latent_size=2, provenance={})
    return Krakencoder.from_pretrained(tmp_path / "hand", device="cpu")


def test_encode_fuse_and_decode_equal_a_case_computed_by_hand(tmp_path):
    model = _hand_made(tmp_path)
    x = {SC: np.array([[1, 2, 3], [0, 1, 0]]), FC: np.array([[2, 0, 1], [1, 1, -2]])}
    latents = model.encode(x)
    np.testing.assert_allclose(
        latents[SC], [[0.980581, -0.196116], [0.707107, 0.707107]], atol=1e-6
    )
    np.testing.assert_allclose(
        latents[FC], [[0.316228, 0.948683], [-0.707107, 0.707107]], atol=1e-6
    )
    fused = model.fuse(latents)
    np.testing.assert_allclose(fused, [[0.648404, 0.376284], [0, 0.707107]], atol=1e-6)
    np.testing.assert_allclose(
        model.decode(fused, [FC])[FC],
        [[1.500971, -0.260262, 1.428851], [1.514214, 0.553553, 2.421320]],
        atol=1e-6,
    )


def test_a_participant_without_a_flavor_stays_missing_and_fuses_the_rest(model, edges):
    edges[SC][1] = np.nan
    edges[SC][2] = edges[FC][2] = np.nan
    latents = model.encode(edges)
    assert np.isnan(latents[SC]).all(axis=1).tolist() == [False, True, True, False, False]
    found = {
        (p.source, p.target): p
        for p in model.predict(edges, fusions={"fusion": (SC, FC)}, targets=[FC])
    }
    assert found["fusion", FC].n_inputs.tolist() == [2, 1, 0, 2, 2]
    assert np.isnan(found["fusion", FC].edges).all(axis=1).tolist() == [0, 0, 1, 0, 0]
    np.testing.assert_allclose(
        found["fusion", FC].edges[1], found[FC, FC].edges[1], rtol=1e-4, atol=1e-4
    )
    assert found[SC, FC].n_inputs.tolist() == [1, 0, 0, 1, 1]


def test_batches_do_not_change_the_numbers(model, edges, monkeypatch):
    whole = model.encode(edges)
    decoded = model.decode(whole[SC])
    monkeypatch.setattr(krakencoder, "batch_rows", lambda n_edges: 2)
    for flavor, latent in model.encode(edges).items():
        np.testing.assert_allclose(latent, whole[flavor], atol=1e-6)
    for flavor, predicted in model.decode(whole[SC]).items():
        np.testing.assert_allclose(predicted, decoded[flavor], rtol=1e-5, atol=1e-4)


def test_variants_leave_out_the_target_and_empty_ones_are_said(model, edges, caplog):
    latents = model.encode(edges)
    with caplog.at_level(logging.WARNING):
        found = {
            (p.source, p.target): p.edges
            for p in model.predict(
                edges,
                fusions={"fusion": (SC, FC)},
                sources=["fusion"],
                variants=["noself", "noatlas"],
            )
        }
    assert set(found) == {(s, t) for s in ("fusion", "fusion.noself") for t in (SC, FC)}
    np.testing.assert_allclose(
        found["fusion.noself", FC], model.decode(latents[SC], [FC])[FC], rtol=1e-5
    )
    assert f"fusion.noatlas cannot predict {SC}, {FC}: no flavor is left" in caplog.text


def test_normalised_fusion_is_decoded_from_latents_of_length_one(model, edges):
    latents = model.encode(edges)
    (found,) = model.predict(
        edges, fusions={"both": (SC, FC)}, sources=["both"], targets=[SC], normalize=True
    )
    fused = model.fuse(latents, normalize=True)
    np.testing.assert_allclose(np.linalg.norm(fused, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(found.edges, model.decode(fused, [SC])[SC], rtol=1e-5)


def test_arrays_are_float32_and_arguments_are_left_alone(model, edges):
    before = {flavor: x.copy() for flavor, x in edges.items()}
    for x in edges.values():
        x.setflags(write=False)
    latents = model.encode(edges)
    assert {z.dtype for z in latents.values()} == {np.dtype("f4")}
    assert {y.dtype for y in model.decode(latents[FC]).values()} == {np.dtype("f4")}
    for flavor, x in edges.items():
        np.testing.assert_array_equal(x, before[flavor])


def test_matrices_and_lists_are_taken_as_well_as_triangles(model, edges):
    expected = model.encode(edges)
    matrices = {flavor: edges_to_matrix(x) for flavor, x in edges.items()}
    lists = {flavor: x.tolist() for flavor, x in edges.items()}
    for given in (matrices, lists):
        for flavor, latent in model.encode(given).items():
            np.testing.assert_allclose(latent, expected[flavor], atol=1e-6)
    latent = expected[SC].tolist()
    np.testing.assert_allclose(
        model.decode(latent, [FC])[FC], model.decode(expected[SC], [FC])[FC], rtol=1e-5
    )


def test_a_cohort_is_adapted_and_its_gaps_are_filled(model, edges):
    for flavor in edges:
        edges[flavor] = 2 + 3 * model.bundle.training_mean(flavor) + 0.1 * edges[flavor]
    edges[SC][1] = edges[FC][0, 2] = np.nan
    adapted = model.adapt(edges, "meanshift")
    mean = model.bundle.training_mean(SC)
    np.testing.assert_allclose(np.nanmean(adapted[SC], axis=0), mean, atol=1e-4)
    assert np.isnan(adapted[SC]).all(axis=1).tolist() == [False, True, False, False, False]
    assert adapted[FC][0, 2] == model.bundle.training_mean(FC)[2]
    assert np.isnan(edges[FC][0, 2])
    with pytest.raises(ModelError, match="the same for every person"):
        model.adapt({SC: edges[SC][:1]})


def test_the_example_of_the_docstring_runs(tiny_bundle):
    names = {"Krakencoder": kraken_bids.Krakencoder, "model_dir": tiny_bundle.path}
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(Krakencoder, "Krakencoder", globs=names)
    assert doctest.DocTestRunner().run(example).failed == 0


def test_neither_the_package_nor_a_model_on_a_processor_loads_torch(tiny_bundle):
    code = (
        "import sys, kraken_bids\n"
        "assert 'numpy' not in sys.modules\n"
        "kraken_bids.Krakencoder.from_pretrained(sys.argv[1], device='cpu').decode([[1, 2, 3]])\n"
        "assert not {'torch', 'scipy', 'safetensors'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tiny_bundle.path)], check=True)


def test_weights_that_were_cut_short_are_told(tiny_bundle):
    raw = tiny_bundle.weights_file.read_bytes()
    for damaged in (raw[:-4], b"\xff" * 8 + raw[8:], b""):
        tiny_bundle.weights_file.write_bytes(damaged)
        with pytest.raises(ResourceError, match="convert"):
            load_flavor(tiny_bundle, SC, Processor())


def test_some_edges_equal_those_of_all(rng, tmp_path):
    for number, kind in enumerate(TRANSFORMS):
        sizes = {"components": (4, 6)}
        sizes |= {name: (6,) for name in ("mean", "deviation") if kind in PER_EDGE_MEAN}
        values = {
            name: (0.5 + rng.random(sizes.get(name, (1,)))).astype("f4")
            for name in TRANSFORMS[kind].reference_keys
        }
        n_features = 4 if "components" in values else 6
        flavor = FlavorModel(
            6,
            Transform(kind, values),
            (Layer(np.ones((3, n_features), "f4")),),
            (Layer(np.ones((n_features, 3), "f4")),),
        )
        bundle = write_bundle(
            tmp_path / str(number), flavors={SC: flavor}, latent_size=3, provenance={}
        )
        loaded = load_flavor(bundle, SC, Processor())
        features = rng.random((5, n_features)).astype("f4")
        found = loaded.some_edges(features, slice(2, 5))
        expected = loaded.transform.inverse(features)[:, 2:5]
        np.testing.assert_allclose(found, expected, rtol=1e-5, err_msg=kind)


@pytest.mark.parametrize("name", ["relu", "tanh", "sigmoid", "normalize", "leaky_relu:0.2"])
def test_layers_compute_what_torch_computes(rng, name):
    layers = [
        Layer(rng.normal(size=(5, 4)).astype("f4"), rng.normal(size=5).astype("f4"), (name,)),
        Layer(rng.normal(size=(3, 5)).astype("f4"), None, ("normalize",)),
    ]
    x = rng.normal(size=(7, 4), scale=3).astype("f4")
    expected = Coder.from_layers(layers).eval()(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(Chain.from_layers(layers, Processor())(x), expected, atol=1e-6)
    device = TorchDevice("cpu")
    with device.computing():
        found = device.get(Chain.from_layers(layers, device)(device.put(x)))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_only_flavors_in_use_are_loaded(model, edges):
    model.encode({SC: edges[SC]})
    assert list(model._loaded) == [SC]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.update({"FCcorr_toi_hpf": x[FC]}), "'FCcorr_toi_hpf' is not in model"),
        (lambda x: x.update({FC: x[FC][:, :3]}), r"shape \(5, 3\) .* 6\) is needed \(FCcorr_toy"),
        (lambda x: x.update({FC: x[FC][0]}), r"shape \(6,\)"),
        (lambda x: x.update({FC: np.arange(16).reshape(1, 4, 4)}), r"matrix 0 is not symmetric"),
        (lambda x: x.update({FC: x[FC][:3]}), "numbers of participants differ"),
        (lambda x: x[FC].__setitem__((3, 2), np.nan), "1 values are NaN or infinite, in rows 3"),
        (lambda x: x[SC].__setitem__((slice(None), 2), np.inf), "in rows 0, 1, 2, 3, 4"),
    ],
    ids=["flavor", "edges", "one-row", "triangle", "rows", "nan", "infinite"],
)
def test_arrays_that_cannot_be_encoded_are_told(model, edges, change, message):
    change(edges)
    with pytest.raises(ModelError, match=message):
        model.encode(edges)


def test_members_of_fusions_are_named_as_on_the_command_line(model, edges, caplog):
    fusions = {"whole": ["all"], "structural": ["SC"], "atlas": ["toy"], "other": ["FC"]}
    with caplog.at_level(logging.WARNING):
        found = {p.source: p.edges for p in model.predict(edges, fusions=fusions, targets=[FC])}
        alone = {p.source for p in model.predict({SC: edges[SC]}, fusions=fusions, targets=[FC])}
    named = next(
        p.edges for p in model.predict(edges, fusions={"f": (SC, FC)}, sources=["f"], targets=[FC])
    )
    np.testing.assert_array_equal(found["whole"], named)
    np.testing.assert_array_equal(found["atlas"], named)
    np.testing.assert_array_equal(found["structural"], found[SC])
    assert "other" not in alone
    assert "Fusion other is left out" in caplog.text
    with pytest.raises(UsageError, match="'FCcor' names no flavor"):
        list(model.predict(edges, fusions={"f": ["FCcor"]}))


def test_wrong_latents_and_sources_are_told(model, edges):
    with pytest.raises(ModelError, match=r"shape \(2, 4\) .* latents of 3 values"):
        model.decode(np.zeros((2, 4)))
    with pytest.raises(UsageError, match="source 'fuson' is neither"):
        list(model.predict(edges, fusions={"fusion": (SC,)}, sources=["fuson"]))
    with pytest.raises(ModelError, match="'FCcorr_toi_hpf' is not in model"):
        model.decode(np.zeros((2, 3)), ["FCcorr_toi_hpf"])


def test_flavors_asked_for_must_be_in_the_model(tiny_bundle):
    model = Krakencoder.from_pretrained(tiny_bundle.path, [FC], device="cpu")
    assert set(model.decode(np.zeros((1, 3)))) == {FC}
    with pytest.raises(ModelError, match="'FCcorr_fs86_hpf' is not in model"):
        Krakencoder.from_pretrained(tiny_bundle.path, ["FCcorr_fs86_hpf"])


def test_devices_have_names():
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") in {"cpu", "cuda:0"}
    with pytest.raises(UsageError, match=r"device 'gpu' is unknown \(--device\)"):
        resolve_device("gpu")
    with pytest.raises(UsageError, match="device 'cuda:x' is unknown"):
        resolve_device("cuda:x")


def test_an_absent_gpu_is_told():
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    with pytest.raises(ResourceError, match=rf"finds {n_gpus} GPUs .*Use '--device cpu'"):
        resolve_device(f"cuda:{n_gpus}")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_and_cpu_agree(tiny_bundle, edges):
    on_cpu = Krakencoder.from_pretrained(tiny_bundle.path, device="cpu")
    on_gpu = Krakencoder.from_pretrained(tiny_bundle.path, device="cuda")
    for flavor, latent in on_cpu.encode(edges).items():
        np.testing.assert_allclose(on_gpu.encode(edges)[flavor], latent, atol=1e-5)
        for target, expected in on_cpu.decode(latent).items():
            found = on_gpu.decode(latent, [target])[target]
            assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_coders_give_back_their_weights():
    torch.manual_seed(0)
    coder = Coder.initial((5, 4, 3), activation="tanh", normalize=True, dropout=0.5)
    layers = coder.layers()
    assert [layer.activations for layer in layers] == [("tanh",), ("normalize",)]
    x = torch.rand(2, 5)
    again = Coder.from_layers(layers).eval()
    np.testing.assert_array_equal(coder.eval()(x).detach(), again(x).detach())
    coder.train()
    assert not np.array_equal(coder(x).detach(), again(x).detach())


def test_an_unknown_activation_is_no_silent_identity():
    layer = Layer(np.eye(2, dtype=np.float32), None, ("swish",))
    with pytest.raises(KeyError):
        Coder.from_layers([layer])(torch.zeros(1, 2))
