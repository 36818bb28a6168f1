# SPDX-License-Identifier: MIT
from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from kraken_bids.errors import ModelError, Problems, UsageError
from kraken_bids.model.bundle import write_bundle
from kraken_bids.model.krakencoder import Krakencoder
from kraken_bids.model.layers import Layer
from kraken_bids.model.merging import merge_bundles
from kraken_bids.published import published_models

SC, FC, ADDED = "SCsdstream_toy_count", "FCcorr_toy_hpf", "FCpcorr_toy_hpf"


@pytest.fixture
def save(tmp_path, make_flavor):
    """Write a bundle of random or given flavors."""

    def write(folder, flavors, *, latent_size=3, provenance=None, **options):
        if not isinstance(flavors, dict):
            flavors = {flavor: make_flavor() for flavor in flavors}
        return write_bundle(
            tmp_path / folder,
            flavors=flavors,
            latent_size=latent_size,
            provenance={"checkpoints": {"x.pt": {"training": {"target_encoding": True}}}}
            if provenance is None
            else provenance,
            **options,
        )

    return write


def test_a_merged_model_predicts_what_its_parts_predict_bit_by_bit(save, tmp_path, rng):
    first, second = save("a", [SC, FC]), save("b", [ADDED])
    merged = merge_bundles([first, second], tmp_path / "m")
    assert merged.flavors == (SC, FC, ADDED)
    x = rng.normal(size=(5, 6)).astype(np.float32)
    old, new = (Krakencoder(bundle, device="cpu") for bundle in (first, merged))
    latents = old.encode({SC: x, FC: x})
    for flavor, latent in new.encode({SC: x, FC: x}).items():
        np.testing.assert_array_equal(latent, latents[flavor])
    for flavor, edges in new.decode(latents[SC], [SC, FC]).items():
        np.testing.assert_array_equal(edges, old.decode(latents[SC], [flavor])[flavor])
    added = Krakencoder(second, device="cpu").decode(latents[SC], [ADDED])[ADDED]
    np.testing.assert_array_equal(new.decode(latents[SC], [ADDED])[ADDED], added)


def test_what_was_merged_is_recorded_and_said_on_the_card(save, tmp_path):
    sources = [{"file": "x.npy", "sha256": "5" * 64}]
    first = save("a", [SC], provenance={"sources": sources})
    second = save("b", [FC], provenance={"latents_of": {"sha256": first.sha256}})
    merged = merge_bundles([first, second], tmp_path / "m", renamed={FC: ADDED})
    rows = merged.config["provenance"]["models"]
    assert [row["name"] for row in rows] == ["a", "b"]
    assert [row["sha256"] for row in rows] == [first.sha256, second.sha256]
    assert [row["flavors"] for row in rows] == [{SC: SC}, {ADDED: FC}]
    assert rows[0]["provenance"]["sources"] == sources
    card = (merged.path / "README.md").read_text()
    assert "merged of `a`, `b`" in card
    assert f"source `x.npy`, SHA-256 `{'5' * 64}`" in card


def test_the_same_weights_in_several_models_are_taken_once(save, tmp_path, make_flavor, caplog):
    shared = make_flavor()
    first = save("a", {SC: shared, FC: make_flavor()}, provenance={})
    second = save("b", {SC: shared, ADDED: make_flavor()}, provenance={})
    with caplog.at_level(logging.WARNING):
        merged = merge_bundles([first, second], tmp_path / "m")
    assert merged.flavors == (SC, FC, ADDED)
    assert not caplog.text  # what they share shows that their latents are the same


def test_different_weights_of_one_flavor_are_refused_preferred_or_renamed(
    save, tmp_path, make_flavor
):
    model = make_flavor()
    parameters = dict(model.transform.parameters)
    parameters["mean"] = parameters["mean"] + 1
    moved = replace(model, transform=replace(model.transform, parameters=parameters))
    unlike = [
        (replace(model, encoder=make_flavor().encoder), "weights"),
        (moved, "transform"),
        (replace(model, decoder=(Layer(model.decoder[0].weight),)), "decoder"),
    ]
    first = save("a", {SC: model})
    for other, what in unlike:
        second = save("b", {SC: other})
        message = (
            f"models 'a' and 'b' both have {SC}, with different {what} .*"
            f"--prefer a, or both with --rename b:{SC}=NEW"
        )
        with pytest.raises(ModelError, match=message):
            merge_bundles([first, second], tmp_path / "m")
        kept = merge_bundles([first, second], tmp_path / "m", preferred="b")
        np.testing.assert_array_equal(kept.encoder(SC)[0].weight, other.encoder[0].weight)
        both = merge_bundles([first, second], tmp_path / "m", renamed={f"b:{SC}": ADDED})
        assert both.flavors == (SC, ADDED)
        np.testing.assert_array_equal(both.encoder(ADDED)[0].weight, other.encoder[0].weight)


def test_flavors_are_chosen_and_ordered(save, tmp_path):
    models = [save("a", [SC, FC]), save("b", [ADDED])]
    assert merge_bundles(models, tmp_path / "m", flavors=[ADDED, SC]).flavors == (ADDED, SC)


def test_any_number_of_models_merges_and_a_merged_one_merges_again(save, tmp_path, caplog):
    models = [save(f"m{i}", [f"SCsdstream_toy{i}_count"]) for i in range(5)]
    merged = merge_bundles(models[:3], tmp_path / "first")
    again = merge_bundles([merged, *models[3:]], tmp_path / "second")
    assert len(again.flavors) == 5
    into_itself = merge_bundles([merged, models[3]], merged.path)
    assert len(into_itself.flavors) == 4
    into_itself.verify()
    assert not caplog.text


def test_latents_that_nothing_shows_to_be_common_are_warned_of(save, tmp_path, caplog):
    base = save("a", [SC], provenance={})
    with caplog.at_level(logging.WARNING):
        merge_bundles([base, save("b", [FC], provenance={})], tmp_path / "m")
    assert "nothing shows that latents of b are those of a" in caplog.text
    caplog.clear()
    for provenance in (
        {"latents_of": {"name": "a"}},
        {"latents_of": {"sha256": base.sha256}},
        {"checkpoints": {"x.pt": {"training": {"train_string": "9epoch_lr1_mse+targlatent_a"}}}},
    ):
        merge_bundles([base, save("b", [FC], provenance=provenance)], tmp_path / "m")
    assert not caplog.text


def test_of_published_models_it_is_known_whose_latents_they_give(save, tmp_path, caplog):
    def made_of(name):
        file = published_models()[name].checkpoints[0]
        return {"sources": [{"file": file.name, "sha256": file.sha256}]}

    core = save("core", [SC], provenance=made_of("krakencoder-2024"))
    added = save("added", [FC], provenance=made_of("krakencoder-2024-SCsdstream_shen268_count"))
    with caplog.at_level(logging.WARNING):
        merge_bundles([core, added], tmp_path / "m")
        merge_bundles([added, core], tmp_path / "m")
    assert not caplog.text


def test_latents_of_different_size_or_length_are_refused_together(
    save, tmp_path, make_flavor, rng
):
    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    other = replace(make_flavor(), encoder=(Layer(draw(5, 4)),), decoder=(Layer(draw(4, 5)),))
    models = [save("a", [SC]), save("b", {FC: other}, latent_size=5)]
    with pytest.raises(Problems, match=r"differ in size: a 3, b 5(.|\n)*a of length 1, b of any"):
        merge_bundles(models, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_transforms_between_groups_are_kept_where_they_cover_all_flavors(
    save, tmp_path, make_flavor
):
    between = {"sc->fc": make_flavor().encoder, "fc->sc": make_flavor().encoder}
    between = {key: (Layer(np.eye(3, dtype=np.float32)),) for key in between}
    both = {SC: make_flavor(group="sc"), FC: make_flavor(group="fc")}
    first = save("a", both, intergroup=between)
    covered = save("b", {ADDED: make_flavor(group="fc")})
    merged = merge_bundles([first, covered], tmp_path / "m")
    assert merged.intergroup == ("sc->fc", "fc->sc")
    assert merged.group(ADDED) == "fc"
    with pytest.raises(ModelError, match=r"\(fc, sc\), and model 'c' does not say to which FCpc"):
        merge_bundles([first, save("c", [ADDED])], tmp_path / "m")
    with pytest.raises(ModelError, match=r"'a' has transforms between groups .*Name it first"):
        merge_bundles([covered, first], tmp_path / "m")


def test_models_of_one_name_are_numbered(save, tmp_path):
    models = [save(name, [SC], name="model") for name in ("a", "b", "c")]
    with pytest.raises(ModelError, match=rf"'model' and 'model-2' both have .*model-2:{SC}=NEW"):
        merge_bundles(models, tmp_path / "m")
    merged = merge_bundles(models, tmp_path / "m", preferred="model-3")
    np.testing.assert_array_equal(merged.training_mean(SC), models[2].training_mean(SC))
    names = [row["name"] for row in merged.config["provenance"]["models"]]
    assert names == ["model", "model-2", "model-3"]


def test_names_that_mean_nothing_are_told(save, tmp_path):
    models = [save("a", [SC, FC]), save("b", [SC, ADDED])]
    cases = [
        ({"preferred": "c"}, "model 'c' is not among"),
        ({"preferred": "a", "flavors": ["FCcor_toy_hpf"]}, "in none of the models .*Did you mean"),
        ({"preferred": "a", "renamed": {SC: "x"}}, rf"in several models: a, b .*b:{SC}=x"),
        ({"preferred": "a", "renamed": {"x": "y"}}, "'x' is in none of the models"),
        ({"preferred": "a", "renamed": {f"c:{SC}": "y"}}, "Name the model as one of a, b"),
    ]
    for options, message in cases:
        with pytest.raises(UsageError, match=message):
            merge_bundles(models, tmp_path / "m", **options)
    with pytest.raises(UsageError, match="1 models are given"):
        merge_bundles(models[:1], tmp_path / "m")
    with pytest.raises(UsageError, match=r"is given twice \(.*/a\)"):
        merge_bundles([models[0], models[0]], tmp_path / "m")
