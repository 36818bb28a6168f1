# SPDX-License-Identifier: MIT
"""What goes wrong, mostly unseen, for a user of the reference program, and what we do instead.

Numbers are those of the list of problems that the project keeps; each is tried as a user would,
on a genuine small checkpoint. (26, an installation that fails, is tried by each set-up.)
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from kraken_bids.connectome.edges import edges_to_matrix
from kraken_bids.errors import Problems
from kraken_bids.formats.outputs import OutputFacts
from kraken_bids.formats.writing.opening import check_output
from kraken_bids.model_commands.cli import main

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
MINI = GOLDEN / "model" / "mini.pt"
TRANSFORMS = GOLDEN / "model" / "mini_ioxfm.npy"
FC, SC = "FCcorr_fs86_hpf", "SCifod2act_fs86_volnorm"
FLAVORS = (FC, "FCcorr_fs86_hpfgsr", "FCpcorr_fs86_hpf", SC, "SCsdstream_fs86_volnorm")
ADAPT = ("--adaptation", "meanfit+meanshift")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "mini"
    code = main(
        ["convert", "--checkpoint", str(MINI), "--transforms", str(TRANSFORMS),
         "--output", str(folder)]
    )  # fmt: skip
    assert code == 0
    return folder


def golden_file(flavor):
    (file,) = (GOLDEN / "inputs").glob(f"{flavor}.*")
    return file


def golden_matrices(flavor):
    """Matrices (12, 86, 86) and ids of the committed cohort."""
    file = golden_file(flavor)
    stored = loadmat(file, simplify_cells=True) if file.suffix == ".mat" else np.load(file)
    values = np.asarray(stored["data"], dtype=np.float32)
    if values.ndim == 2:
        values = edges_to_matrix(values).astype(np.float32)
    return values, [str(name).strip() for name in stored["subjects"]]


def inputs(*flavors):
    return [f"{flavor}={golden_file(flavor)}" for flavor in flavors]


def save(file, matrices, ids=None):
    fields = {"data": matrices, **({} if ids is None else {"subjects": ids})}
    np.savez(file, **fields)
    return file


@pytest.fixture
def predict(model_dir, tmp_path, capfd, caplog):
    """Run ``kraken-model predict``: exit code, arrays, and all that was said."""

    def run(*arguments, files, output="out.npz"):
        path = tmp_path / output
        caplog.clear()
        caplog.set_level("INFO")
        code = main(
            ["predict", "--model", str(model_dir), "--device", "cpu", "--output", str(path),
             "--input", *map(str, files), *map(str, arguments)]
        )  # fmt: skip
        arrays = dict(np.load(path)) if path.suffix == ".npz" and path.exists() else {}
        return code, arrays, caplog.text + capfd.readouterr().err

    return run


# --- silent wrong or useless results -------------------------------------------------------------


def small_cohort(tmp_path, n=12, *, ids=True):
    files = []
    for flavor in (FC, SC):
        matrices, names = golden_matrices(flavor)
        file = save(tmp_path / f"{flavor}.npz", matrices[:n], names[:n] if ids else None)
        files.append(f"{flavor}={file}")
    return files


def train(tmp_path, *arguments, files, output="trained"):
    return main(
        ["train", "--input", *files, "--output", str(tmp_path / output), "--device", "cpu",
         "--components", "4", *arguments]
    )  # fmt: skip


def weights(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


def test_01_dropout_that_zeroes_a_latent_does_not_ruin_the_training(tmp_path):
    # At latent size 2 every fourth row of every step is dropped whole.
    code = train(
        tmp_path, "--latent-size", "2", "--dropout", "0.5", "--epochs", "30",
        files=small_cohort(tmp_path),
    )  # fmt: skip
    assert code == 0
    for name, values in weights(tmp_path / "trained").items():
        assert np.isfinite(values).all(), name


def test_02_a_checkpoint_full_of_nan_is_refused(tmp_path, capfd):
    code = main(
        ["predict", "--checkpoint", str(GOLDEN / "model" / "nan_example.pt"),
         "--transforms", str(TRANSFORMS), "--input", *inputs(SC),
         "--output", str(tmp_path / "out.npz")]
    )  # fmt: skip
    assert code == 3
    assert "NaN" in capfd.readouterr().err
    assert not (tmp_path / "out.npz").exists()


def test_03_fewer_participants_than_a_batch_are_trained_on(tmp_path):
    files = small_cohort(tmp_path)
    for epochs in ("1", "20"):
        arguments = ("--latent-size", "4", "--epochs", epochs, "--batch-size", "41")
        assert train(tmp_path, *arguments, files=files, output=f"after{epochs}") == 0
    first, later = weights(tmp_path / "after1"), weights(tmp_path / "after20")
    moved = [np.abs(first[name] - later[name]).max() for name in first if "decoder" in name]
    assert min(moved) > 1e-4


def test_04_participants_are_matched_by_id_not_by_position(predict, tmp_path):
    matrices, names = golden_matrices(SC)
    backwards = save(tmp_path / "sc.npz", matrices[::-1], names[::-1])
    _, straight, _ = predict("--fusion", "fusion=all", files=inputs(FC, SC))
    _, turned, _ = predict("--fusion", "fusion=all", files=[*inputs(FC), f"{SC}={backwards}"])
    assert straight["participants"].tolist() == turned["participants"].tolist() == names
    for name in straight:
        if name != "participants":
            np.testing.assert_allclose(turned[name], straight[name], rtol=1e-5, atol=1e-6)


def test_05_one_participant_cannot_be_adapted_to_the_training_mean(predict, tmp_path):
    matrices, names = golden_matrices(SC)
    alone = save(tmp_path / "one.npz", matrices[:1], names[:1])
    code, found, told = predict(*ADAPT, files=[f"{SC}={alone}"])
    assert code == 3
    assert not found
    assert "same for every person" in told


def test_06_the_participants_chosen_for_the_fit_matter(predict, tmp_path):
    matrices, names = golden_matrices(SC)
    some = names[:6]
    code, chosen, _ = predict(*ADAPT, "--fit-on", *some, files=inputs(SC))
    assert code == 0
    _, everybody, _ = predict(*ADAPT, files=inputs(SC))
    sample = save(tmp_path / "sample.npz", matrices[:6], some)
    _, from_sample, _ = predict(*ADAPT, "--adaptation-source", f"{SC}={sample}", files=inputs(SC))
    name = f"{SC}__{FC}"
    np.testing.assert_allclose(chosen[name], from_sample[name], rtol=1e-5, atol=1e-6)
    assert np.abs(chosen[name] - everybody[name]).max() > 1e-3


def test_07_rows_and_ids_stay_together_when_participants_are_chosen(predict):
    _, names = golden_matrices(SC)
    _, everybody, _ = predict(files=inputs(SC))
    some = [names[7], names[2]]
    code, found, _ = predict("--participant-label", *some, files=inputs(SC))
    assert code == 0
    assert sorted(found["participants"].tolist()) == sorted(some)
    for row, name in enumerate(found["participants"]):
        expected = everybody[f"{SC}__{FC}"][names.index(name)]
        np.testing.assert_allclose(found[f"{SC}__{FC}"][row], expected, rtol=1e-5, atol=1e-6)


def test_08a_a_functional_connectome_given_as_a_structural_one_is_noticed(predict):
    doubt = "really data of that flavor"
    for taken_for, really in ((SC, FC), (FC, SC)):
        _, _, told = predict(*ADAPT, files=[f"{taken_for}={golden_file(really)}"])
        assert f"{taken_for}: the data look like {really[:2]}" in told
        assert doubt in told
        _, _, told = predict(files=[f"{taken_for}={golden_file(really)}"])
        assert f"{taken_for}: the data do not look like the training data" in told
    for flavor in FLAVORS:
        code, _, told = predict(*ADAPT, files=inputs(flavor))
        assert code == 0
        assert doubt not in told


@pytest.mark.parametrize("triangle", [np.tril, np.triu])
def test_08b_triangular_and_asymmetric_matrices_are_refused(predict, tmp_path, triangle):
    matrices, names = golden_matrices(SC)
    half = matrices.copy()
    half[3] = triangle(half[3])
    code, found, told = predict(files=[f"{SC}={save(tmp_path / 'half.npz', half, names)}"])
    assert code == 3
    assert not found
    assert names[3] in told
    assert "symmetric" in told or "triangle" in told


def test_09_a_misspelt_target_is_an_error(predict):
    code, found, told = predict("--predict-to", "FCcor_fs86", files=inputs(SC))
    assert code == 2
    assert not found
    assert "FCcor_fs86" in told
    assert "Did you mean" in told


def test_10_what_would_be_ignored_is_an_error(model_dir, predict, capfd):
    with pytest.raises(SystemExit) as leaving:
        main(["predict", "--model", str(model_dir), "--input", *inputs(SC)])
    assert leaving.value.code == 2
    assert "--output" in capfd.readouterr().err
    code, _, told = predict("--only-fusion", files=inputs(SC))
    assert code == 2
    assert "fusion" in told


def test_11_one_epoch_is_an_epoch(tmp_path):
    files = small_cohort(tmp_path)
    for seed_name, epochs in (("one", "1"), ("two", "2")):
        arguments = ("--latent-size", "4", "--epochs", epochs, "--learning-rate", "0.01")
        assert train(tmp_path, *arguments, files=files, output=seed_name) == 0
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert any(np.abs(one[name] - two[name]).max() > 0 for name in one if "encoder" in name)


def test_12_no_more_threads_than_cores_are_used(model_dir, tmp_path):
    code = (
        "import os, sys\n"
        "from kraken_bids.model_commands.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "import torch\n"
        "assert code == 0\n"
        "assert torch.get_num_threads() <= len(os.sched_getaffinity(0)), torch.get_num_threads()\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, "predict", "--model", str(model_dir), "--input", *inputs(SC),
         "--predict-to", "encoded", "--output", str(tmp_path / "out.npz")],
        check=True, capture_output=True,
    )  # fmt: skip


def test_13_predictions_come_back_in_the_scale_of_the_input_on_request(predict):
    flavors = (FC, SC)
    options = (*ADAPT, "--fusion", "fusion=all", "--only-fusion", "--predict-to", SC)
    _, training, _ = predict(*options, files=inputs(*flavors))
    code, own, _ = predict(*options, "--predict-scale", "input", files=inputs(*flavors))
    assert code == 0
    measured, _ = golden_matrices(SC)
    upper = np.triu_indices(86, 1)
    level = measured[:, upper[0], upper[1]].mean()
    name = f"fusion__{SC}"
    assert abs(own[name].mean() - level) < 0.05 * abs(level)
    assert abs(training[name].mean() - level) > 0.2 * abs(level)


def test_13b_fused_latents_are_brought_to_length_one_on_request(predict):
    options = ("--fusion", "fusion=all", "--only-fusion", "--predict-to", "encoded")
    _, plain, _ = predict(*options, files=inputs(*FLAVORS))
    _, unit, _ = predict(*options, "--fusion-normalize", files=inputs(*FLAVORS))
    assert np.linalg.norm(plain["fusion__encoded"], axis=1).max() < 0.99
    np.testing.assert_allclose(np.linalg.norm(unit["fusion__encoded"], axis=1), 1, rtol=1e-5)


# --- errors that name the wrong thing ------------------------------------------------------------


def test_14_a_flavor_that_the_model_lacks_is_named(predict):
    for wrong in ("SCifod2act_fs86_count", "gibberish"):
        code, _, told = predict(files=[f"{wrong}={golden_file(SC)}"])
        assert code == 2
        assert f"'{wrong}'" in told
        assert "SCifod2act_fs86_volnorm" in told
    with pytest.raises(SystemExit) as leaving:
        main(["predict", "--model", "x", "--output", "y.npz"])
    assert leaving.value.code == 2


def test_15_a_fusion_without_members_is_left_out_and_said(predict):
    code, found, told = predict(
        "--fusion", "fusionSC=SC", "fusionFC=FC", "--only-fusion", files=inputs(SC)
    )
    assert code == 0
    assert {name.split("__")[0] for name in found} == {"participants", "fusionSC"}
    assert "fusionFC" in told


def test_16_a_variant_with_nothing_left_is_left_out_and_said(predict):
    code, found, told = predict(
        "--fusion", "fusion=all", "--fusion-variants", "noatlas", files=inputs(FC, SC)
    )
    assert code == 0
    assert not any("noatlas" in name for name in found)
    assert "noatlas" in told


def test_17_missing_transforms_are_called_so(tmp_path, capfd):
    code = main(
        ["predict", "--checkpoint", str(MINI), "--input", *inputs(SC),
         "--output", str(tmp_path / "out.npz")]
    )  # fmt: skip
    assert code == 3
    assert "--transforms" in capfd.readouterr().err


def test_18_a_wrong_atlas_is_told_with_file_and_flavor(predict, tmp_path, rng):
    other = rng.normal(size=(12, 20, 20))
    _, names = golden_matrices(SC)
    file = save(tmp_path / "shen.npz", other + other.transpose(0, 2, 1), names)
    code, _, told = predict(files=[f"{SC}={file}"])
    assert code == 3
    assert "shen.npz" in told
    assert SC in told
    assert "86" in told


def test_18b_participants_may_come_last(predict, tmp_path):
    matrices, names = golden_matrices(SC)
    savemat(tmp_path / "last.mat", {"data": np.moveaxis(matrices, 0, 2), "subjects": names})
    _, straight, _ = predict(files=inputs(SC))
    code, found, _ = predict(files=[f"{SC}={tmp_path / 'last.mat'}"])
    assert code == 0
    np.testing.assert_allclose(found[f"{SC}__{FC}"], straight[f"{SC}__{FC}"], rtol=1e-5, atol=1e-6)


def test_19_files_may_hold_different_participants(predict, tmp_path):
    matrices, names = golden_matrices(SC)
    fewer = save(tmp_path / "sc.npz", matrices[:6], names[:6])
    options = ("--fusion", "fusion=all", "--only-fusion")
    code, found, told = predict(*options, files=[*inputs(FC), f"{SC}={fewer}"])
    assert code == 0
    assert SC in told
    assert "6 of 12" in told
    _, both, _ = predict(*options, files=inputs(FC, SC))
    _, alone, _ = predict(*options, files=inputs(FC))
    name = f"fusion__{SC}"
    np.testing.assert_allclose(found[name][:6], both[name][:6], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[name][6:], alone[name][6:], rtol=1e-5, atol=1e-6)


def test_20_a_missing_edge_concerns_that_edge_only(predict, tmp_path):
    matrices, names = golden_matrices(SC)
    holed = matrices.copy()
    holed[4, 10, 20] = holed[4, 20, 10] = np.nan
    file = save(tmp_path / "holed.npz", holed, names)
    code, found, told = predict(*ADAPT, files=[f"{SC}={file}"])
    assert code == 0
    assert all(np.isfinite(found[name]).all() for name in found if name != "participants")
    assert f"{SC}: the training mean stands for 1 missing edge of 1 participant" in told
    _, whole, _ = predict(*ADAPT, files=inputs(SC))
    difference = np.abs(found[f"{SC}__{FC}"] - whole[f"{SC}__{FC}"]).max()
    assert difference < 0.05 * np.abs(whole[f"{SC}__{FC}"]).max()


def test_21_a_mat_file_that_cannot_hold_the_output_is_refused_before_work():
    sources = [f"source{i}" for i in range(18)]
    facts = OutputFacts(
        n_edges={"FCcorr_coco439_hpf": 96_141, "SCifod2act_coco439_volnorm": 96_141},
        latent_size=128,
        connectomes=[
            (source, target)
            for source in sources
            for target in ("FCcorr_coco439_hpf", "SCifod2act_coco439_volnorm")
        ],
    )
    check_output(Path("all.mat"), n_participants=100, facts=facts)
    with pytest.raises(Problems, match=r"more than a MATLAB file can hold.*\.npz"):
        check_output(Path("all.mat"), n_participants=1000, facts=facts)
    check_output(Path("from_{input}.mat"), n_participants=1000, facts=facts)
    check_output(Path("all.npz"), n_participants=1000, facts=facts)


def test_22_fewer_participants_than_components_are_no_error_of_scikit_learn(tmp_path, capfd):
    files = small_cohort(tmp_path)
    code = main(
        ["train", "--input", *files, "--output", str(tmp_path / "m"), "--components", "256",
         "--latent-size", "4", "--epochs", "1", "--device", "cpu"]
    )  # fmt: skip
    told = capfd.readouterr().err
    assert "Traceback" not in told
    assert code == 3
    assert "256 components cannot be fitted to 12 participants" in told
    assert "1 to 11 components" in told


def test_23_training_data_need_no_ids(tmp_path):
    code = train(
        tmp_path, "--latent-size", "4", "--epochs", "1", files=small_cohort(tmp_path, ids=False)
    )
    assert code == 0


def test_24_partial_correlations_are_made_of_the_field_that_all_commands_read(tmp_path):
    matrices, names = golden_matrices(FC)
    file = save(tmp_path / "fc.npz", matrices, names)
    code = main([
        "pcorr",
        "--input",
        str(file),
        "--lambda",
        "0.1",
        "--output",
        str(tmp_path / "p.npz"),
    ])
    assert code == 0
    assert (tmp_path / "p.npz").is_file()


def test_25_adaptation_modes_are_listed(predict, capfd):
    code, _, told = predict("--adaptation", "zscore", files=inputs(SC))
    assert code == 2
    assert all(mode in told for mode in ("none", "meanshift", "meanfit", "meanfit+meanshift"))
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    shown = capfd.readouterr().out
    assert all(mode in shown for mode in ("none", "meanshift", "meanfit", "meanfit+meanshift"))


def test_27_which_of_several_latents_is_meant_is_asked_with_their_names(predict, tmp_path):
    predict(
        "--fusion", "fusion=all", "fusionSC=SC", "--only-fusion", "--predict-to", "encoded",
        files=inputs(FC, SC), output="latents.npz",
    )  # fmt: skip
    code, found, told = predict(files=[f"encoded={tmp_path / 'latents.npz'}"])
    assert code == 3
    assert not found
    assert "fusion" in told
    assert "fusionSC" in told


def test_nothing_is_left_behind_by_a_failure(predict, tmp_path, monkeypatch):
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    code, _, _ = predict("--predict-to", "FCcor_fs86", files=inputs(SC))
    assert code == 2
    assert list(empty.iterdir()) == []
    assert not list(tmp_path.glob(".*"))
