# SPDX-License-Identifier: MIT
from __future__ import annotations

import numpy as np
import pytest

from kraken_bids.connectome.adaptation import fit_adaptation
from kraken_bids.model.adaptation_file import (
    load_adaptations,
    load_provenance,
    save_adaptations,
)
from kraken_bids.model.bundle import open_bundle, write_bundle
from kraken_bids.model.krakencoder import Krakencoder
from kraken_bids.model.layers import FlavorModel, Layer
from kraken_bids.model.transforms import Transform
from kraken_bids.model_commands.cli import main

SC, FC = "SCsdstream_toy_count", "FCcorr_toy_hpf"
IDS = [f"p{i}" for i in range(25)]
SHIFT = ["--adaptation", "meanfit+meanshift"]


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.fixture
def model_dir(tmp_path, rng):
    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    rising = np.arange(6, dtype=np.float32)

    flavors = {
        name: FlavorModel(
            6,
            Transform("cfeat", {"mean": rising + draw(6) / 4}),
            (Layer(draw(3, 6), draw(3), ("normalize",)),),
            (Layer(draw(6, 3), draw(6)),),
        )
        for name in (SC, FC)
    }
    return write_bundle(tmp_path / "model", flavors=flavors, latent_size=3, provenance={}).path


@pytest.fixture
def edges(rng):
    rising = np.arange(6)
    return {flavor: (rising + rng.normal(size=(25, 6))).astype(np.float32) for flavor in (SC, FC)}


@pytest.fixture
def inputs(tmp_path, edges):
    """``--input`` arguments; the second file lists its participants backwards."""
    files = []
    for flavor, order in ((SC, slice(None)), (FC, slice(None, None, -1))):
        file = tmp_path / f"{flavor}.npz"
        np.savez(file, data=edges[flavor][order], subjects=IDS[order])
        files.append(f"{flavor}={file}")
    return files


@pytest.fixture
def predict(model_dir, inputs, tmp_path):
    """Run ``predict``; give its exit code and arrays."""

    def run(*arguments, inputs=inputs):
        output = tmp_path / "out.npz"
        code = main(
            ["predict", "--model", str(model_dir), "--input", *inputs, "--device", "cpu",
             "--output", str(output), *arguments]
        )  # fmt: skip
        arrays = dict(np.load(output)) if output.exists() else {}
        return code, arrays

    return run


def test_participants_of_all_files_are_matched_by_id(predict, model_dir, edges):
    code, found = predict("--fusion", "fusion=all")
    assert code == 0
    assert found["participants"].tolist() == IDS
    model = Krakencoder.from_pretrained(model_dir, device="cpu")
    for prediction in model.predict(edges, fusions={"fusion": (SC, FC)}):
        name = f"{prediction.source}__{prediction.target}"
        np.testing.assert_allclose(found.pop(name), prediction.edges, rtol=1e-5, atol=1e-5)
    assert list(found) == ["participants"]


def test_latents_go_out_and_come_in_again(predict, tmp_path):
    _, found = predict("--fusion", "fusion=all", "--only-fusion", "--latents")
    assert set(found) == {"participants", "fusion__encoded", f"fusion__{SC}", f"fusion__{FC}"}
    (tmp_path / "out.npz").rename(tmp_path / "latents.npz")
    code, again = predict("--predict-to", "FC", inputs=[f"encoded={tmp_path / 'latents.npz'}"])
    assert code == 0
    assert set(again) == {"participants", f"encoded__{FC}"}
    np.testing.assert_allclose(again[f"encoded__{FC}"], found[f"fusion__{FC}"], rtol=1e-6)


def test_latents_alone_need_no_decoding(predict):
    _, found = predict("--predict-to", "encoded")
    assert set(found) == {"participants", f"{SC}__encoded", f"{FC}__encoded"}


def test_self_predicts_each_flavor_from_itself(predict):
    _, found = predict("--predict-to", "self")
    assert set(found) == {"participants", f"{SC}__{SC}", f"{FC}__{FC}"}


def test_sources_and_variants_are_chosen(predict, caplog):
    code, found = predict(
        "--fusion", "both=all", "none=coco439_volnorm,SC", "--predict-from", "both", FC,
        "--fusion-variants", "noself", "noatlas", "--predict-to", SC,
    )  # fmt: skip
    assert code == 2  # a fusion's member that is no flavor
    code, found = predict(
        "--fusion", "both=all", "--predict-from", "both", FC,
        "--fusion-variants", "noself", "noatlas", "--predict-to", SC,
    )  # fmt: skip
    assert code == 0
    assert set(found) == {"participants", f"both__{SC}", f"both.noself__{SC}", f"{FC}__{SC}"}
    np.testing.assert_allclose(found[f"both.noself__{SC}"], found[f"{FC}__{SC}"], rtol=1e-6)
    assert "both.noatlas cannot predict" in caplog.text


@pytest.mark.parametrize("how", ["inputs", "source", "file"])
def test_adaptations_come_from_inputs_a_sample_or_a_file(
    predict, model_dir, edges, inputs, tmp_path, how
):
    bundle = open_bundle(model_dir)
    sample = edges if how == "inputs" else {f: 2 * x + 1 for f, x in edges.items()}
    fitted = {
        flavor: fit_adaptation(
            "meanfit+meanshift", x.mean(axis=0), bundle.training_mean(flavor), n_participants=25
        )
        for flavor, x in sample.items()
    }
    arguments = ["--adaptation", "meanfit+meanshift"]
    if how == "source":
        arguments.append("--adaptation-source")
        for flavor, x in sample.items():
            np.save(tmp_path / f"source-{flavor}.npy", x)
            arguments.append(f"{flavor}={tmp_path / f'source-{flavor}.npy'}")
    if how == "file":
        save_adaptations(tmp_path / "a.safetensors", fitted)
        arguments = ["--adaptation", str(tmp_path / "a.safetensors")]
    code, found = predict(*arguments, "--predict-to", "encoded")
    assert code == 0
    model = Krakencoder(bundle, device="cpu")
    for flavor, x in edges.items():
        expected = model.encode({flavor: fitted[flavor].forward(x)})[flavor]
        np.testing.assert_allclose(found[f"{flavor}__encoded"], expected, atol=2e-5)


def test_missing_participants_and_edges_are_told(predict, model_dir, edges, tmp_path, caplog):
    edges[FC][3, 2] = np.nan
    np.savez(tmp_path / "sc.npz", data=edges[SC][:20], subjects=IDS[:20])
    np.savez(tmp_path / "fc.npz", data=edges[FC], subjects=IDS)
    code, found = predict(
        "--fusion", "fusion=all",
        inputs=[f"{SC}={tmp_path / 'sc.npz'}", f"{FC}={tmp_path / 'fc.npz'}"],
    )  # fmt: skip
    assert code == 0
    assert f"{SC}: missing for 5 of 25 participants, with rows of NaN" in caplog.text
    assert f"{FC}: the training mean stands for 1 missing edge of 1 participant" in caplog.text
    assert np.isnan(found[f"{SC}__{FC}"]).all(axis=1).tolist() == [False] * 20 + [True] * 5
    np.testing.assert_allclose(
        found[f"fusion__{FC}"][20:], found[f"{FC}__{FC}"][20:], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--adaptation", "meanfi"], 2, "'meanfi' is unknown (--adaptation). Did you mean"),
        (["--only-fusion"], 2, "there is no fusion (--only-fusion)"),
        (["--fusion", "fusion"], 2, "'fusion' is not NAME=VALUE (--fusion)"),
        (["--fusion", "f=FC", "f=SC"], 2, "'f' is given twice"),
        (["--predict-from", "fuson"], 2, "source 'fuson' is neither an input nor a fusion"),
        (["--predict-to", "FCcor_toy_hpf"], 2, "'FCcor_toy_hpf' names no flavor"),
        (["--device", "tpu"], 2, "device 'tpu' is unknown"),
        (["--model", "nowhere"], 2, "neither a folder nor the name of a published model"),
        (["--output", "out.csv"], 2, "output 'out.csv' is of no kind"),
        (["--adaptation-source", "a=b"], 2, "there is no adaptation to fit"),
        (["--fit-on", "p1"], 2, "there is no adaptation to fit (--fit-on)"),
        (["--adapt-by", "site"], 2, "sites are a column of a table"),
        (["--save-adaptation", "a.json", *SHIFT], 2, "'a.json' is no name"),
        (["--nprocs", "0"], 2, "0 threads cannot compute"),
        (["--participant-label", "p1", "nobody"], 2, "participants nobody are in no input"),
        (["--fit-on", "sub-nobody", *SHIFT], 2, "nobody are in no input (--fit-on)"),
        (["--fit-on", "p1", *SHIFT], 3, "the same for every person"),
        (["--fusion", "encoded=all,encoded"], 2, "'encoded' is no input (--fusion)"),
        (["--checkpoint", "x.pt"], 2, "one model is needed"),
        (["--input", "FCcorr_toi_hpf=x.npz"], 2, "'FCcorr_toi_hpf' is not in this model"),
        (["--input", f"{SC}=none.npz"], 3, "does not exist"),
        (["--predict-to", "encoded", "--predict-from", "f", "--fusion", "f=FC"], 0, ""),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(predict, capsys, arguments, code, message):
    found, arrays = predict(*arguments)
    error = capsys.readouterr().err
    assert found == code
    assert message in error
    if code:
        assert error.count("\n") == 1
        assert not arrays


def test_all_problems_are_told_at_once(predict, capsys):
    code, arrays = predict(
        "--predict-to", "FCcor_toy_hpf", "--fusion", "f=FCcor", "--device", "tpu",
        "--output", "out.csv", "--input", f"{SC}=none.npz", "--adaptation", "meanfi",
    )  # fmt: skip
    error = capsys.readouterr().err
    assert (code, arrays) == (3, {})
    for part in (
        "'FCcor_toy_hpf' names",
        "'FCcor' names",
        "'tpu'",
        "out.csv",
        "none.npz",
        "'meanfi' is",
    ):
        assert error.count(part) == 1, part
    assert "Traceback" not in error


@pytest.fixture
def sites(tmp_path, edges, inputs):
    """A table in which every second participant is of another site, with another scale."""
    file = tmp_path / "participants.tsv"
    rows = [f"sub-{name}\t{'ab'[i % 2]}" for i, name in enumerate(IDS)]
    file.write_text("participant_id\tsite\n" + "\n".join(rows) + "\n")
    for flavor, text in zip((SC, FC), inputs, strict=True):
        edges[flavor][1::2] = 4 * edges[flavor][1::2] + 3
        np.savez(text.partition("=")[2], data=edges[flavor], subjects=IDS)
    return file


@pytest.mark.parametrize("saved", [False, True], ids=["fitted", "from-a-file"])
def test_predictions_come_back_in_the_scale_of_each_site(predict, edges, sites, tmp_path, saved):
    by = ["--adapt-by", "site", "--participants", str(sites)]
    what = ["--fusion", "f=all", "--predict-from", "f"]
    file = tmp_path / "fit.safetensors"
    code, plain = predict(*SHIFT, *by, *what, "--save-adaptation", str(file))
    assert code == 0
    how = ["--adaptation", str(file)] if saved else SHIFT
    code, back = predict(*how, *by, *what, "--predict-scale", "input")
    assert code == 0
    fits = load_adaptations(file)
    assert set(fits) == {f"{flavor}@{site}" for flavor in (SC, FC) for site in "ab"}
    for target in (SC, FC):
        for i, site in enumerate("ab"):
            np.testing.assert_allclose(
                back[f"f__{target}"][i::2],
                fits[f"{target}@{site}"].inverse(plain[f"f__{target}"][i::2]),
                rtol=1e-4, atol=1e-4,
            )  # fmt: skip
    assert back[f"f__{SC}"][1::2].std() > 2 * back[f"f__{SC}"][0::2].std()


def test_a_fit_by_site_asks_for_the_sites(predict, sites, tmp_path, capsys):
    file = tmp_path / "fit.safetensors"
    predict(*SHIFT, "--adapt-by", "site", "--participants", str(sites),
            "--save-adaptation", str(file))  # fmt: skip
    assert predict("--adaptation", str(file))[0] == 2
    assert "It was fitted by site: give --adapt-by" in capsys.readouterr().err


def test_targets_that_cannot_be_mapped_back_are_named_first(predict, capsys, inputs):
    code, arrays = predict(*SHIFT, "--predict-scale", "input", inputs=inputs[:1])
    assert (code, arrays) == (2, {})
    assert f"there is no adaptation of {FC} to map predictions back" in capsys.readouterr().err
    code, found = predict(
        *SHIFT, "--predict-scale", "input", "--predict-to", SC, inputs=inputs[:1]
    )
    assert (code, set(found)) == (0, {"participants", f"{SC}__{SC}"})


def test_an_adaptation_fitted_on_some_is_that_of_those(predict, edges, model_dir, tmp_path):
    (tmp_path / "ids.tsv").write_text(
        "participant_id\tage\n" + "".join(f"sub-{name}\t30\n" for name in IDS[:22])
    )
    file = tmp_path / "fit.safetensors"
    predict(*SHIFT, "--fit-on", str(tmp_path / "ids.tsv"), "--save-adaptation", str(file))
    for flavor, fit in load_adaptations(file).items():
        assert fit.n_participants == 22
        np.testing.assert_allclose(
            fit.source_mean, edges[flavor][:22].mean(axis=0, dtype=float), rtol=1e-6
        )
    assert load_provenance(file)["model_sha256"] == open_bundle(model_dir).sha256


def test_an_adaptation_of_another_model_is_refused(predict, tmp_path, capsys, edges):
    fit = fit_adaptation("meanfit", np.arange(6.0), np.arange(6.0), n_participants=30)
    file = tmp_path / "fit.safetensors"
    save_adaptations(file, {SC: fit, FC: fit}, provenance={"model_sha256": "0" * 64})
    assert predict("--adaptation", str(file))[0] == 3
    assert "was fitted for another model" in capsys.readouterr().err


def test_participants_are_chosen(predict, edges, caplog):
    _, everybody = predict("--predict-to", SC)
    code, found = predict("--predict-to", SC, "--participant-label", "sub-p3", "p20")
    assert code == 0
    assert found["participants"].tolist() == ["p3", "p20"]
    np.testing.assert_allclose(
        found[f"{FC}__{SC}"], everybody[f"{FC}__{SC}"][[3, 20]], rtol=1e-5, atol=1e-5
    )


def test_latents_take_part_in_a_fusion_that_names_them(predict, inputs, tmp_path):
    _, found = predict("--fusion", "fusion=all", "--only-fusion", "--latents")
    np.savez(tmp_path / "z.npz", encoded=found["fusion__encoded"], subjects=IDS)
    code, again = predict(
        "--fusion", f"f={SC},encoded", "g=all", "--predict-to", FC, "--latents", "--only-fusion",
        inputs=[inputs[0], f"encoded={tmp_path / 'z.npz'}"],
    )  # fmt: skip
    assert code == 0
    _, alone = predict("--predict-to", "encoded", inputs=inputs[:1])
    mean = (alone[f"{SC}__encoded"] + found["fusion__encoded"]) / 2
    np.testing.assert_allclose(again["f__encoded"], mean, atol=1e-6)
    np.testing.assert_allclose(again["g__encoded"], alone[f"{SC}__encoded"], atol=1e-6)
    assert {f"f__{FC}", f"g__{FC}"} < set(again)


def test_data_out_of_scale_are_doubted_and_familiar_ones_are_not(predict, edges, inputs, caplog):
    assert predict()[0] == 0
    assert "do not look like the training data" not in caplog.text
    np.savez(inputs[0].partition("=")[2], data=50 * edges[SC], subjects=IDS)
    assert predict()[0] == 0
    assert f"{SC}: the data do not look like the training data" in caplog.text
    assert f"{FC}: the data do not" not in caplog.text


def test_small_cohorts_are_warned_about_once(predict, caplog):
    predict(*SHIFT, "--participant-label", *IDS[:5])
    told = [r.message for r in caplog.records if "few participants" in r.message]
    (line,) = told
    assert line.startswith(f"Adaptations fitted on few participants: 5 with {FC}, {SC}; from 20")


def test_the_run_is_summed_up(predict, caplog):
    with caplog.at_level("INFO"):
        predict("--fusion", "fusion=all", "--latents")
    assert f"25 participants: 25 with {SC}, {FC}" in caplog.text
    assert (
        "out.npz: 6 predicted connectomes (source x target), latents of 3 sources" in caplog.text
    )


def test_nothing_to_predict_writes_nothing(predict, capsys, inputs):
    code, arrays = predict("--fusion", "fusionFC=FC", "--only-fusion", inputs=[inputs[0]])
    assert (code, arrays) == (2, {})
    assert "there is nothing to predict" in capsys.readouterr().err


def test_one_participant_is_refused_with_a_shift(predict, capsys, tmp_path, edges):
    np.savez(tmp_path / "one.npz", data=edges[SC][:1], subjects=IDS[:1])
    code, arrays = predict(
        "--adaptation", "meanfit+meanshift", inputs=[f"{SC}={tmp_path / 'one.npz'}"]
    )
    assert (code, arrays) == (3, {})
    assert "the same for every person" in capsys.readouterr().err
