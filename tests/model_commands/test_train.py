# SPDX-License-Identifier: MIT
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from kraken_bids.model.bundle import open_bundle
from kraken_bids.model.storage import file_sha256
from kraken_bids.model.training.records import read_log, read_pairs
from kraken_bids.model.typical import read_typical
from kraken_bids.model_commands.cli import main

FLAVORS = ("FCcorr_fs86_hpf", "SCsdstream_fs86_volnorm")
QUICK = ["--components", "4", "--latent-size", "8", "--epochs", "2", "--device", "cpu"]


@pytest.fixture
def inputs(tmp_path):
    """Two flavors of twelve participants; the second file has them in another order, one less."""
    rng = np.random.default_rng(2)
    ids = [f"p{index}" for index in range(12)]
    texts = []
    for flavor, order in zip(FLAVORS, (range(12), range(11, 0, -1)), strict=True):
        values = rng.standard_normal((12, 3655)).astype(np.float32)
        file = tmp_path / f"{flavor}.npz"
        np.savez(file, data=values[list(order)], subjects=[ids[row] for row in order])
        texts.append(f"{flavor}={file}")
    return texts


def test_train_makes_a_bundle_of_participants_with_all_flavors(inputs, tmp_path, caplog):
    assert main(["train", "--input", *inputs, "--output", str(tmp_path / "model"), *QUICK]) == 0
    bundle = open_bundle(tmp_path / "model")
    assert bundle.flavors == FLAVORS
    assert bundle.config["provenance"]["n_participants"] == 11
    assert "1 of 12 participants are left out" in caplog.text


def test_train_refuses_an_unknown_atlas(inputs, tmp_path, capsys):
    wrong = inputs[0].replace("fs86_hpf=", "fs68_hpf=")
    code = main(["train", "--input", wrong, "--output", str(tmp_path / "model"), *QUICK])
    assert code == 2
    assert "Did you mean 'fs86'" in capsys.readouterr().err


def test_train_takes_flavors_of_any_atlas(tmp_path):
    rng = np.random.default_rng(4)
    texts = []
    for flavor in ("FCcorr_mine7_hpf", "SCsdstream_mine7_volnorm"):
        np.savez(tmp_path / f"{flavor}.npz", data=rng.normal(size=(9, 21)), subjects=range(9))
        texts.append(str(tmp_path / f"{flavor}.npz"))  # the file's name tells the flavor
    assert main(["train", "--input", *texts, "--output", str(tmp_path / "model"), *QUICK]) == 0
    assert open_bundle(tmp_path / "model").n_edges("FCcorr_mine7_hpf") == 21


def test_train_refuses_an_atlas_of_another_size(inputs, tmp_path, capsys):
    wrong = inputs[0].replace("fs86_hpf=", "shen268_hpf=")
    code = main(["train", "--input", wrong, "--output", str(tmp_path / "model"), *QUICK])
    assert code == 3
    assert "holds 86 regions, atlas 'shen268' has 268" in capsys.readouterr().err


def test_train_leaves_out_participants_with_missing_edges(inputs, tmp_path, caplog):
    file = tmp_path / f"{FLAVORS[0]}.npz"
    content = dict(np.load(file))
    content["data"][3, 5] = np.nan
    np.savez(file, **content)
    assert main(["train", "--input", *inputs, "--output", str(tmp_path / "model"), *QUICK]) == 0
    assert f"{FLAVORS[0]}: participants p3 lack single edges" in caplog.text
    assert open_bundle(tmp_path / "model").config["provenance"]["n_participants"] == 10


def test_train_refuses_too_many_components(inputs, tmp_path, capsys):
    code = main([
        "train", "--input", *inputs, "--output", str(tmp_path / "model"),
        *QUICK, "--components", "64",
    ])  # fmt: skip
    assert code == 3
    assert "64 components cannot be fitted to 11 participants" in capsys.readouterr().err


def test_train_keeps_families_together_and_says_who_trained(inputs, tmp_path):
    table = tmp_path / "families.tsv"
    rows = [f"sub-p{index}\tfamily{index // 2}" for index in range(12)]
    table.write_text("\n".join(["participant_id\tfamily", *rows]) + "\n")
    code = main([
        "train", "--input", *inputs, "--output", str(tmp_path / "model"), *QUICK,
        "--components", "2", "--validation", "0.3", "--test", "0.2",
        "--group-column", f"{table}:family",
    ])  # fmt: skip
    assert code == 0
    written = (tmp_path / "model-training" / "split.tsv").read_text("utf-8").splitlines()[1:]
    part = dict(line.removeprefix("sub-").split("\t") for line in written)
    assert len(part) == 11
    assert set(part.values()) == {"train", "validation", "test"}
    assert all(part[f"p{i}"] == part[f"p{i + 1}"] for i in range(2, 11, 2))
    # the table of the split is read again, and gives the same model
    split = tmp_path / "model-training" / "split.tsv"
    again = ["--split", str(split), "--components", "2"]
    assert (
        main(["train", "--input", *inputs, "--output", str(tmp_path / "b"), *QUICK, *again]) == 0
    )
    provenance = [open_bundle(tmp_path / name).config["provenance"] for name in ("model", "b")]
    assert provenance[0]["n_participants"] == provenance[1]["n_participants"]


def test_train_refuses_a_folder_of_others_before_it_reads(inputs, tmp_path, capsys):
    for name in ("notes", "notes.txt"):
        other = tmp_path / name
        other.mkdir() if name == "notes" else other.touch()
        (other / "mine.txt").touch() if name == "notes" else None
        assert main(["train", "--input", *inputs, "--output", str(other), *QUICK]) == 2
        assert f"exists and is not a model bundle ({other})" in capsys.readouterr().err
        assert not (tmp_path / f"{name}-training").exists()


def test_bundle_says_on_what_it_was_trained(inputs, tmp_path):
    families = tmp_path / "families.tsv"
    rows = [f"p{index}\tf{index // 2}" for index in range(12)]
    families.write_text("\n".join(["participant_id\tfamily", *rows]) + "\n")
    words = ["train", "--input", *inputs, *QUICK, "--components", "2"]
    drawn = ["--validation", "0.3", "--group-column", f"{families}:family"]
    assert main([*words, "--output", str(tmp_path / "a"), *drawn]) == 0
    split = tmp_path / "a-training" / "split.tsv"
    assert main([*words, "--output", str(tmp_path / "b"), "--split", str(split)]) == 0
    found = [open_bundle(tmp_path / name) for name in "ab"]
    for bundle in found:
        files = {name: f"{name}.npz" for name in FLAVORS}
        assert bundle.config["provenance"]["inputs"] == files
        card = (bundle.path / "README.md").read_text("utf-8")
        assert f"- inputs: {FLAVORS[0]} {FLAVORS[0]}.npz" in card
        assert str(tmp_path) not in card + str(bundle.config)  # nobody's folders are told
        assert "p11" not in card + str(bundle.config)
    drawn, read = (bundle.config["provenance"]["split"] for bundle in found)
    assert drawn == {"validation": 0.3, "together": "family"}
    assert read == {"file": "split.tsv"}


def test_train_goes_on_exactly_after_kill_9(inputs, tmp_path):
    words = ["train", "--input", *inputs, *QUICK, "--epochs", "1500", "--checkpoint-every", "100"]
    table, output = tmp_path / "cut-training" / "training.tsv", ["--output", str(tmp_path / "cut")]
    command = [sys.executable, "-m", "kraken_bids.model_commands.cli", *words, *output]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as running:
        while running.poll() is None:
            if table.is_file() and b"\n150\t" in table.read_bytes():
                break
            time.sleep(0.01)
        running.kill()
    assert running.returncode == -signal.SIGKILL
    assert not (tmp_path / "cut").exists()
    with table.open("a") as stream:
        stream.write("4711\t0.")  # a line that was on its way
    assert main([*words, *output, "--resume"]) == 0
    assert main([*words, "--output", str(tmp_path / "whole")]) == 0
    cut, whole = (open_bundle(tmp_path / name) for name in ("cut", "whole"))
    assert cut.sha256 == whole.sha256
    logs = [read_log(tmp_path / f"{name}-training" / "training.tsv") for name in ("cut", "whole")]
    for column in ("epoch", "loss", "latent_distance_loss"):
        np.testing.assert_array_equal(logs[0][column], logs[1][column])


def test_train_draws_a_bar_with_loss_and_time_left(inputs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    words = ["train", "--input", *inputs, "--output", str(tmp_path / "m"), *QUICK]
    assert main([*words, "--epochs", "400"]) == 0
    drawn = re.findall(r"\r\[(#*)(-*)\] epoch (\d+) of 400, loss [\d.]+(, \d:\d\d left)?\x1b\[K",
                       capsys.readouterr().err)  # fmt: skip
    assert len(drawn) >= 2
    assert all(len(done) + len(left) == 30 for done, left, _, _ in drawn)
    assert all(len(done) == 30 * int(epoch) // 400 for done, _, epoch, _ in drawn)
    assert drawn[0][3] == ""  # nothing to tell it from yet
    assert [time_left != "" for *_, time_left in drawn[1:-1]] == [True] * (len(drawn) - 2)
    assert drawn[-1][2:] == ("400", "")


def test_train_takes_transforms_at_hand(inputs, tmp_path, capsys):
    words = ["train", "--input", *inputs, *QUICK]
    assert main([*words, "--output", str(tmp_path / "first"), "--components", "3"]) == 0
    reference = ["--to-reference", str(tmp_path / "r")]
    assert main(["convert", "--model", str(tmp_path / "first"), *reference]) == 0
    given = ["--transforms", str(tmp_path / "r_ioxfm.npy")]
    assert main([*words, "--output", str(tmp_path / "second"), *given]) == 0
    first, second = (open_bundle(tmp_path / name) for name in ("first", "second"))
    assert second.config["provenance"]["transforms"] == {
        "r_ioxfm.npy": file_sha256(tmp_path / "r_ioxfm.npy")
    }
    for flavor in FLAVORS:
        assert second.config["flavors"][flavor]["n_features"] == 3  # not the 4 components asked
        mine, theirs = (bundle.transform(flavor).parameters for bundle in (first, second))
        for name, values in mine.items():
            np.testing.assert_array_equal(values, theirs[name])
    other = [text.replace("fs86_hpf=", "mine86_hpf=") for text in inputs[:1]]
    assert main(["train", "--input", *other, "--output", str(tmp_path / "w"), *QUICK, *given]) == 2
    told = capsys.readouterr().err
    assert f"holds {FLAVORS[0]}, {FLAVORS[1]}, of which none is trained (--transforms)" in told


def test_train_goes_on_from_a_checkpoint(inputs, tmp_path):
    words = ["train", "--input", *inputs, "--output", str(tmp_path / "model"), *QUICK]
    assert main(words) == 0
    sha256 = open_bundle(tmp_path / "model").sha256
    assert main([*words, "--resume"]) == 0
    assert open_bundle(tmp_path / "model").sha256 == sha256
    assert (tmp_path / "model-training" / "training.tsv").is_file()


def test_train_tells_all_that_is_wrong_at_once(inputs, tmp_path, capsys):
    code = main([
        "train", "--input", *inputs, "--output", str(tmp_path / "model"), *QUICK,
        "--dropout", "2", "--loss", "foo", "--validation", "1", "--group-column", "nowhere.tsv:f",
    ])  # fmt: skip
    told = capsys.readouterr().err
    assert code == 3
    for text in ("--dropout", "'foo' is no term", "--validation", "nowhere.tsv"):
        assert text in told
    assert not (tmp_path / "model").exists()


def test_train_by_the_reference_schedule(inputs, tmp_path):
    code = main([
        "train", "--input", *inputs, "--output", str(tmp_path / "model"), *QUICK,
        "--schedule", "reference", "--batch-size", "5",
    ])  # fmt: skip
    assert code == 0
    options = open_bundle(tmp_path / "model").config["provenance"]["options"]
    assert options["loss"].startswith("correye+enceye.w10+neidist")
    assert options["learning_rate"] == 1e-4
    assert options["output_dropout"] == 0.5


@pytest.fixture
def base(inputs, tmp_path):
    """A model of the first flavor, and its latents in a file."""
    model = tmp_path / "base"
    assert main(["train", "--input", inputs[0], "--output", str(model), *QUICK]) == 0
    return model


@pytest.mark.parametrize("name", ["latents.npz", "latents.h5", "latents.mat"])
def test_train_adds_a_flavor_to_a_model(inputs, base, tmp_path, caplog, name):
    latents = tmp_path / name
    asked = ["--input", inputs[0], "--fusion", "fusion=all", "--only-fusion"]
    code = main([
        "predict", "--model", str(base), *asked, "--predict-to", "encoded",
        "--output", str(latents),
    ])  # fmt: skip
    assert code == 0
    code = main([
        "train", "--input", inputs[1], "--output", str(tmp_path / "new"), *QUICK[:2], *QUICK[4:],
        "--target-latents", str(latents), "--latents-of", str(base),
    ])  # fmt: skip
    assert code == 0
    assert "1 of 12 participants are left out" in caplog.text  # the flavor has eleven of them
    new = open_bundle(tmp_path / "new").config
    assert new["latent_size"] == 8  # that of the latents
    assert new["provenance"]["latents_of"]["sha256"] == open_bundle(base).sha256
    caplog.clear()
    both = ["--models", str(base), str(tmp_path / "new")]
    assert main(["merge", *both, "--output", str(tmp_path / "merged")]) == 0
    assert open_bundle(tmp_path / "merged").flavors == FLAVORS
    assert "nothing shows that latents" not in caplog.text


def test_train_in_mixed_precision(inputs, tmp_path, capsys):
    words = ["train", "--input", *inputs, *QUICK, "--device", "cpu"]
    for precision in ("float32", "bfloat16"):
        output = ["--output", str(tmp_path / precision), "--precision", precision]
        assert main([*words, *output]) == 0
    bundles = [open_bundle(tmp_path / precision) for precision in ("float32", "bfloat16")]
    for bundle in bundles:
        assert bundle.config["provenance"]["options"]["precision"] == bundle.path.name
        assert bundle.encoder(FLAVORS[0])[0].weight.dtype == np.float32
    assert bundles[0].sha256 != bundles[1].sha256
    losses = [bundle.config["provenance"]["final_loss"] for bundle in bundles]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    output = ["--output", str(tmp_path / "m"), "--precision", "bfloat16"]
    assert main([*words, *output, "--schedule", "reference"]) == 2
    assert "bfloat16 cannot be (--precision)" in capsys.readouterr().err


def test_train_matches_latents_by_id(inputs, tmp_path):
    rng = np.random.default_rng(3)
    latents, ids = rng.standard_normal((12, 8)), [f"sub-p{index}" for index in range(12)]
    shuffled = rng.permutation(12)
    models = []
    for name, order in (("a", np.arange(12)), ("b", shuffled)):
        file = tmp_path / f"{name}.tsv"
        header = "\t".join(["participant_id", *(f"z{place:03d}" for place in range(8))])
        rows = ["\t".join([ids[row], *map(repr, latents[row].tolist())]) for row in order]
        file.write_text("\n".join([header, *rows]) + "\n")
        words = ["train", "--input", *inputs, "--output", str(tmp_path / name), *QUICK]
        assert main([*words, "--target-latents", str(file)]) == 0
        models.append(open_bundle(tmp_path / name).sha256)
    assert models[0] == models[1]


def test_train_refuses_latents_that_do_not_fit(inputs, base, tmp_path, capsys):
    file = tmp_path / "latents.npz"
    np.savez(file, encoded=np.zeros((12, 5)), subjects=[f"p{index}" for index in range(12)])
    words = ["train", "--input", *inputs, "--output", str(tmp_path / "m"), *QUICK]
    assert main([*words, "--target-latents", str(file), "--intergroup"]) == 3
    told = capsys.readouterr().err
    assert "--intergroup" in told
    assert "5" in told
    assert "latents.npz" in told
    assert main([*words, "--latents-of", str(base)]) == 2
    assert "Add '--target-latents FILE'" in capsys.readouterr().err
    assert main([*words, "--target-latents", inputs[0]]) in {2, 3}
    assert "Give" in capsys.readouterr().err
    np.savez(file, encoded=np.zeros((3, 8)), subjects=["x", "y", "z"])
    assert main([*words, "--target-latents", str(file)]) == 3
    assert "none of 15 participants is in all 3 inputs" in (told := capsys.readouterr().err)
    assert "encoded has x, y, z" in told
    assert not (tmp_path / "m").exists()


def test_train_leaves_tables_and_figures(inputs, tmp_path):
    words = ["train", "--input", *inputs, "--output", str(tmp_path / "model"), *QUICK]
    folder = tmp_path / "model-training"
    assert main([*words, "--validation", "0.4", "--components", "3"]) == 0
    names = {"training.tsv", "training.png", "validation.tsv", "validation.png", "split.tsv",
             "checkpoint.npz"}  # fmt: skip
    assert {file.name for file in folder.iterdir()} == names
    pairs = read_pairs(folder / "validation.tsv")
    assert pairs.n == 5
    assert (pairs.sources, pairs.targets) == (FLAVORS, FLAVORS)
    said = open_bundle(tmp_path / "model").config["provenance"]["validation"]
    for name, value in said.items():
        assert pairs.values[name].mean() == pytest.approx(value, rel=1e-4)
    # the next training in this folder has nobody who watches: no table is left of others
    assert main(words) == 0
    assert {file.name for file in folder.iterdir()} == names - {"validation.tsv", "validation.png"}


def test_table_of_validation_is_that_of_the_weights_taken(inputs, tmp_path):
    words = ["train", "--input", *inputs, "--output", str(tmp_path / "model"), *QUICK[:4]]
    asked = ["--validation", "0.4", "--components", "3", "--epochs", "60", "--device", "cpu"]
    assert main([*words, *asked, "--early-stopping", "10"]) == 0
    provenance = open_bundle(tmp_path / "model").config["provenance"]
    log = read_log(tmp_path / "model-training" / "training.tsv")
    best = int(np.nanargmax(log["validation_average_rank"]))
    assert provenance["n_epochs"] == best + 1
    ranks = log["validation_average_rank"]
    assert provenance["validation"]["average_rank"] == pytest.approx(ranks[best], rel=1e-4)


def test_train_keeps_what_is_usual_of_those_who_watched(tmp_path):
    rng = np.random.default_rng(4)
    texts = []
    for flavor in ("FCcorr_mine7_hpf", "SCsdstream_mine7_volnorm"):
        np.savez(tmp_path / f"{flavor}.npz", data=rng.normal(size=(50, 21)), subjects=range(50))
        texts.append(str(tmp_path / f"{flavor}.npz"))
    words = ["train", "--input", *texts, *QUICK, "--validation"]
    for share, n_watched in (("0.5", 25), ("0.1", 0)):
        model = tmp_path / f"model{n_watched}"
        assert main([*words, share, "--output", str(model)]) == 0
        usual = read_typical(open_bundle(model), "FCcorr_mine7_hpf")
        assert {one.n for one in usual.values()} == ({n_watched} if n_watched else set())
