# SPDX-License-Identifier: MIT
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kraken_bids.connectome.adaptation import fit_adaptation
from kraken_bids.model.adaptation_file import save_adaptations
from kraken_bids.model.bundle import open_bundle, write_bundle
from kraken_bids.model.krakencoder import Krakencoder
from kraken_bids.model.layers import FlavorModel, Layer
from kraken_bids.model.transforms import Transform
from kraken_bids.model_commands.cli import SUBCOMMANDS, main

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "model"
SC, FC = "SCsdstream_toy_count", "FCcorr_toy_hpf"
IDS = [f"p{i}" for i in range(25)]


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.fixture
def model_dir(tmp_path, rng):
    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    flavors = {
        name: FlavorModel(
            6,
            Transform("cfeat", {"mean": draw(6)}),
            (Layer(draw(3, 6), draw(3), ("normalize",)),),
            (Layer(draw(6, 3), draw(6)),),
        )
        for name in (SC, FC)
    }
    return write_bundle(tmp_path / "model", flavors=flavors, latent_size=3, provenance={}).path


@pytest.fixture
def edges(rng):
    return {flavor: rng.normal(size=(25, 6)).astype(np.float32) for flavor in (SC, FC)}


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
    assert f"{SC}: 5 of 25 participants are missing" in caplog.text
    assert f"{FC}: 1 missing edges of 1 participants take the training mean" in caplog.text
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
        (["--checkpoint", "x.pt"], 2, "one model is needed"),
        (["--input", "FCcorr_toi_hpf=x.npz"], 3, "'FCcorr_toi_hpf' is not in model"),
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


def test_convert_and_describe(tmp_path, capsys):
    assert main(
        ["convert", "--checkpoint", str(GOLDEN / "mini.pt"), "--transforms",
         str(GOLDEN / "mini_ioxfm.npy"), "--output", str(tmp_path / "b"), "--name", "mini"]
    ) == 0  # fmt: skip
    assert "5 flavors, SHA-256" in capsys.readouterr().out
    for what in (tmp_path / "b", GOLDEN / "mini.pt"):
        assert main(["describe", str(what)]) == 0
        told = capsys.readouterr().out
        assert "latents of 16 values" in told
        assert told.count("3655") == 5
        assert '"epoch": 99' in told
    assert main(["describe", str(tmp_path / "b"), "--verify"]) == 0
    with (tmp_path / "b" / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"x")
    capsys.readouterr()
    assert main(["describe", str(tmp_path / "b"), "--verify"]) == 3
    assert "was altered" in capsys.readouterr().err
    assert main(["describe", str(GOLDEN / "mini.pt"), "--verify"]) == 3


def test_a_failed_checkpoint_is_refused(tmp_path, capsys):
    code = main(
        ["convert", "--checkpoint", str(GOLDEN / "nan_example.pt"), "--transforms",
         str(GOLDEN / "mini_ioxfm.npy"), "--output", str(tmp_path / "b")]
    )  # fmt: skip
    assert code == 3
    assert "its training failed" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("row", SUBCOMMANDS, ids=lambda row: row.name)
def test_every_subcommand_has_help(row, capsys):
    with pytest.raises(SystemExit) as leaving:
        main([row.name, "--help"])
    assert leaving.value.code == 0
    assert row.help in " ".join(capsys.readouterr().out.split())


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom kraken_bids.model_commands.cli import main\n"
        "try:\n    main(['predict', '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'scipy', 'nipype', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_unknown_model_gets_the_names_of_the_published_ones(tmp_path, capsys):
    words = ["predict", "--model", "krakencoder-2042", "--input", "FCcorr_fs86_hpf=a.mat"]
    assert main([*words, "--output", str(tmp_path / "out.npz")]) == 2
    told = capsys.readouterr().err
    assert "Did you mean 'krakencoder-2024'" in told
    assert "Traceback" not in told
