# SPDX-License-Identifier: MIT
from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import weakref
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open

from kraken_bids import storage
from kraken_bids.errors import ModelError, ResourceError, UsageError
from kraken_bids.model.bundle import open_bundle, write_bundle
from kraken_bids.model.layers import Layer
from kraken_bids.model.storage import write_arrays
from kraken_bids.storage import _exchange

FLAVORS = ("SCsdstream_toy_count", "FCcorr_toy_hpf")


def test_what_was_written_is_read(tmp_path, make_flavor):
    models = {"SCsdstream_toy_count": make_flavor(group="sc"), "demog_age": make_flavor()}
    write_bundle(
        tmp_path / "b", flavors=models, latent_size=3, provenance={"epoch": 7}, name="mini"
    )
    bundle = open_bundle(tmp_path / "b")

    assert (bundle.name, bundle.flavors, bundle.latent_size) == ("mini", tuple(models), 3)
    assert bundle.config["provenance"] == {"epoch": 7}
    assert bundle.n_edges("demog_age") == 6
    assert bundle.n_features("demog_age") == 4
    row = bundle.row("SCsdstream_toy_count")
    assert (row["kind"], row["atlas"], row["processing"]) == ("SCsdstream", "toy", "count")
    for flavor, model in models.items():
        found = bundle.flavor_model(flavor)
        assert found.group == model.group
        np.testing.assert_array_equal(
            bundle.training_mean(flavor), model.transform.parameters["mean"]
        )
        for name, array in model.transform.parameters.items():
            np.testing.assert_array_equal(found.transform.parameters[name], array)
        for layer, written in zip(
            found.encoder + found.decoder, model.encoder + model.decoder, strict=True
        ):
            np.testing.assert_array_equal(layer.weight, written.weight)
            np.testing.assert_array_equal(layer.bias, written.bias)
            assert layer.activations == written.activations


def test_the_same_model_gives_the_same_bytes(tmp_path, make_flavor):
    flavors = {"FCcorr_toy_hpf": make_flavor()}
    for name in ("a", "b"):
        write_bundle(tmp_path / name, flavors=flavors, latent_size=3, provenance={}, name="m")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_reading_a_bundle_needs_no_torch(tiny_bundle):
    code = (
        "import sys\n"
        "from kraken_bids.model.bundle import open_bundle\n"
        f"bundle = open_bundle({str(tiny_bundle.path)!r})\n"
        "bundle.training_mean('FCcorr_toy_hpf'), bundle.encoder('FCcorr_toy_hpf')\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_only_the_arrays_asked_for_are_read(tiny_bundle, monkeypatch):
    asked = []
    import safetensors

    opened = safetensors.safe_open

    class Spy:
        def __init__(self, *args, **kwargs):
            self.inner = opened(*args, **kwargs)

        def __enter__(self):
            self.inner.__enter__()
            return self

        def __exit__(self, *args):
            self.inner.__exit__(*args)

        def get_tensor(self, name):
            asked.append(name)
            return self.inner.get_tensor(name)

    monkeypatch.setattr(safetensors, "safe_open", Spy)
    tiny_bundle.training_mean("FCcorr_toy_hpf")
    assert asked == ["transform.FCcorr_toy_hpf.mean"]


def test_bytes_of_other_flavors_are_not_looked_at(tiny_bundle):
    expected = tiny_bundle.flavor_model(FLAVORS[0])
    content = bytearray(tiny_bundle.weights_file.read_bytes())
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    for name, row in header.items():
        if FLAVORS[1] in name:
            start, end = (8 + length + offset for offset in row["data_offsets"])
            content[start:end] = b"\xff" * (end - start)  # NaN
    tiny_bundle.weights_file.write_bytes(content)
    found = tiny_bundle.flavor_model(FLAVORS[0])
    np.testing.assert_array_equal(found.encoder[0].weight, expected.encoder[0].weight)
    np.testing.assert_array_equal(
        found.transform.parameters["components"], expected.transform.parameters["components"]
    )
    assert np.isnan(tiny_bundle.encoder(FLAVORS[1])[0].weight).all()


def test_a_flavors_arrays_lie_side_by_side(tiny_bundle):
    with safe_open(tiny_bundle.weights_file, framework="numpy") as weights:
        offsets = weights.offset_keys()
    owners = [name.split(".")[1] for name in offsets]
    assert owners == sorted(owners, key=FLAVORS.index)


class Counting(Mapping):
    """Flavors made when they are asked for, after the one before must have gone."""

    def __init__(self, names, make):
        self.names, self.make, self.alive = names, make, []

    def __getitem__(self, flavor):
        gc.collect()
        assert not [reference for reference in self.alive if reference() is not None]
        model = self.make()
        self.alive.append(weakref.ref(model))
        return model

    def __iter__(self):
        return iter(self.names)

    def __len__(self):
        return len(self.names)


def test_writing_holds_one_flavor_at_a_time(tmp_path, make_flavor):
    names = [f"SCsdstream_toy{i}_count" for i in range(4)]
    model = make_flavor()
    flavors = Counting(names, lambda: replace(model))
    bundle = write_bundle(tmp_path / "b", flavors=flavors, latent_size=3, provenance={})
    assert len(flavors.alive) == 2 * len(names)
    bundle.verify()
    assert bundle.flavors == tuple(names)


def test_arrays_that_were_not_announced_are_not_written(tmp_path):
    ones = np.ones((2, 3), np.float32)
    shapes = {"a": (2, 3), "b": (2,)}
    for arrays in ([("b", ones)], [("a", ones)], [("a", ones), ("b", ones)]):
        with pytest.raises(ValueError, match="announced"):
            write_arrays(tmp_path / "x.safetensors", shapes, arrays)


def test_a_bundle_is_never_absent_while_it_is_replaced(tmp_path, make_flavor, tiny_bundle):
    old = tmp_path / "old"
    old.mkdir()
    if not _exchange(old, tiny_bundle.path):
        pytest.skip("this disk cannot exchange two names")
    assert open_bundle(old).name == "tiny"
    assert not list(tiny_bundle.path.iterdir())
    _exchange(old, tiny_bundle.path)
    assert _write(tiny_bundle.path, make_flavor()).flavors == ("FCcorr_toy_hpf",)


def test_where_names_cannot_be_exchanged_a_bundle_is_renamed_twice(
    tmp_path, make_flavor, tiny_bundle, monkeypatch
):
    monkeypatch.setattr(storage.sys, "platform", "another")
    (tiny_bundle.path / "notes.txt").write_text("mine")
    bundle = _write(tiny_bundle.path, make_flavor())
    assert bundle.flavors == ("FCcorr_toy_hpf",)
    assert (bundle.path / "notes.txt").read_text() == "mine"
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny"]


def test_an_altered_bundle_is_found_out(tiny_bundle):
    tiny_bundle.verify()
    content = bytearray(tiny_bundle.weights_file.read_bytes())
    content[-1] ^= 1
    tiny_bundle.weights_file.write_bytes(content)
    with pytest.raises(
        ResourceError, match=r"was altered: its SHA-256 is .*Make the bundle again"
    ):
        tiny_bundle.verify()


def test_a_bundle_cut_short_is_found_out_on_reading(tiny_bundle):
    content = tiny_bundle.weights_file.read_bytes()
    tiny_bundle.weights_file.write_bytes(content[:-10])
    with pytest.raises(ResourceError, match=r"another size than its config\.json says"):
        tiny_bundle.encoder("FCcorr_toy_hpf")


def test_weights_that_are_no_safetensors_are_found_out(tiny_bundle):
    size = tiny_bundle.weights_file.stat().st_size
    tiny_bundle.weights_file.write_bytes(b"x" * size)
    with pytest.raises(ResourceError, match="cannot be read"):
        tiny_bundle.encoder("FCcorr_toy_hpf")


def test_other_folders_are_no_bundles(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ResourceError, match=r"is not a model bundle: .*kraken-model convert"):
            open_bundle(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("latent_size"), "lacks latent_size"),
        (lambda c: c["weights"].pop("sha256"), "lacks sha256"),
        (lambda c: c["flavors"]["FCcorr_toy_hpf"].pop("n_edges"), "n_edges of FCcorr_toy_hpf"),
        (
            lambda c: c["flavors"]["FCcorr_toy_hpf"].update(transform="magic"),
            "a known transform of FCcorr_toy_hpf",
        ),
        (lambda c: c.update(format_version=99), "layout 99"),
    ],
)
def test_a_config_that_lacks_something_is_told(tiny_bundle, change, message):
    file = tiny_bundle.path / "config.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))
    with pytest.raises(ResourceError, match=message):
        open_bundle(tiny_bundle.path)


def test_a_config_that_is_no_json_is_told(tiny_bundle):
    (tiny_bundle.path / "config.json").write_text("{")
    with pytest.raises(ResourceError, match=r"config\.json cannot be read"):
        open_bundle(tiny_bundle.path)


def test_an_unknown_flavor_is_told_with_the_nearest(tiny_bundle):
    with pytest.raises(ModelError, match=r"'FCcorr_toi_hpf' is not in model .*'FCcorr_toy_hpf'"):
        tiny_bundle.n_edges("FCcorr_toi_hpf")


def _write(out_dir, model, **options):
    arguments = {"latent_size": 3, "provenance": {}} | options
    return write_bundle(out_dir, flavors={"FCcorr_toy_hpf": model}, **arguments)


def test_models_that_cannot_be_are_refused(tmp_path, make_flavor):
    model = make_flavor()
    nan = Layer(np.full((3, 4), np.nan, dtype=np.float32), None)
    wrong = Layer(np.zeros((3, 5), dtype=np.float32))
    odd = Layer(model.encoder[0].weight, None, ("swish",))
    cases = [
        (replace(model, encoder=(nan,)), "12 of 12 weights are NaN"),
        (replace(model, encoder=(wrong,)), "do not lead from 4 to 3"),
        (replace(model, encoder=()), "has no layers"),
        (replace(model, encoder=(odd,)), "'swish' is unknown"),
        (replace(model, n_edges=10), "takes 6 edges, the model says 10"),
    ]
    for broken, message in cases:
        with pytest.raises(ModelError, match=message):
            _write(tmp_path / "b", broken)
    with pytest.raises(ModelError, match="do not lead from 4 to 5"):
        _write(tmp_path / "b", model, latent_size=5)
    with pytest.raises(ModelError, match="has no flavors"):
        write_bundle(tmp_path / "b", flavors={}, latent_size=3, provenance={})
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_when_writing_fails(tmp_path, make_flavor, tiny_bundle):
    before = tiny_bundle.sha256
    with pytest.raises(TypeError, match="not JSON serializable"):
        _write(tiny_bundle.path, make_flavor(), provenance={"x": object()})
    assert open_bundle(tiny_bundle.path).sha256 == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny"]


def test_a_bundle_is_replaced_and_other_files_in_it_are_kept(tmp_path, make_flavor, tiny_bundle):
    (tiny_bundle.path / "README.md").write_text("mine")
    bundle = _write(tiny_bundle.path, make_flavor())
    assert bundle.flavors == ("FCcorr_toy_hpf",)
    bundle.verify()
    assert (bundle.path / "README.md").read_text() == "mine"
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny"]


def test_folders_with_other_contents_are_not_touched(tmp_path, make_flavor):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("mine")
    with pytest.raises(UsageError, match="exists and is not a model bundle"):
        _write(tmp_path / "data", make_flavor())
    assert (tmp_path / "data" / "file").read_text() == "mine"
    with pytest.raises(UsageError, match="exists and is not a model bundle"):
        _write(tmp_path / "data" / "file", make_flavor())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_locked_folder_is_told(tmp_path, make_flavor):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ResourceError, match="cannot be written: Permission denied"):
            _write(tmp_path / "b", make_flavor())
    finally:
        tmp_path.chmod(0o700)


def test_a_folder_below_a_file_is_told(tmp_path, make_flavor):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot be written"):
        _write(tmp_path / "file" / "b", make_flavor())
