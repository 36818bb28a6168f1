# SPDX-License-Identifier: MIT
"""Bad input: each problem is told with what, where and how to mend it; the others go on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

pytestmark = pytest.mark.slow

GOOD = "50"


def adopt(data: Path, study: Path, label: str) -> None:
    """Give a study a participant: links to the files of another, to be replaced one by one."""
    for program in ("fmriprep", "qsiprep"):
        source = data / "derivatives" / program / "sub-01"
        for path in sorted(source.rglob("*")):
            if path.is_file():
                name = str(path.relative_to(source)).replace("sub-01", f"sub-{label}")
                target = study / "derivatives" / program / f"sub-{label}" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(path)


def replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def find(study: Path, label: str, pattern: str) -> Path:
    (path,) = study.glob(f"derivatives/*/sub-{label}/{pattern}")
    return path


def drop_confounds(study: Path, label: str) -> None:
    path = find(study, label, "func/*_desc-confounds_timeseries.tsv")
    table = pd.read_csv(path, sep="\t", na_values="n/a").drop(columns=["trans_x", "rot_z"])
    path.unlink()
    table.to_csv(path, sep="\t", index=False, na_rep="n/a")


def change_grid(study: Path, label: str) -> None:
    path = find(study, label, "func/*_space-T1w_desc-brain_mask.nii.gz")
    image = nib.load(path)
    cropped = np.asarray(image.dataobj)[:-1]
    path.unlink()
    nib.save(nib.Nifti1Image(cropped, image.affine), path)


def cut_short(study: Path, label: str) -> None:
    path = find(study, label, "func/*_space-T1w_desc-preproc_bold.nii.gz")
    content = path.read_bytes()
    replace(path, content[: len(content) // 2])


def lose_bvals(study: Path, label: str) -> None:
    path = find(study, label, "dwi/*_desc-preproc_dwi.bval")
    replace(path, " ".join(path.read_text().split()[:-2]).encode())


def lose_functional(study: Path, label: str) -> None:
    shutil.rmtree(find(study, label, "func"))


def lose_diffusion(study: Path, label: str) -> None:
    shutil.rmtree(find(study, label, "dwi"))


#: Damage by participant, with words that must be told: what, where, how to mend it.
DAMAGE = {
    "51": (drop_confounds, ("trans_x", "rot_z", "desc-confounds_timeseries.tsv")),
    "52": (change_grid, ("voxels", "desc-brain_mask", "desc-preproc_bold")),
    "53": (cut_short, ("desc-preproc_bold.nii.gz", "cut short")),
    "54": (lose_bvals, ("25", "27", ".bval")),
    "55": (lose_functional, ("no functional data", "desc-preproc_bold.nii.gz")),
    "56": (lose_diffusion, ("no diffusion data", "desc-preproc_dwi.nii.gz")),
}


@pytest.fixture(scope="module")
def study(demo_data, tmp_path_factory):
    """A study in which every participant but one has something wrong."""
    root = tmp_path_factory.mktemp("bad") / "study"
    root.mkdir()
    for name in ("dataset_description.json",):
        shutil.copy(demo_data / name, root / name)
    for program in ("fmriprep", "qsiprep"):
        folder = root / "derivatives" / program
        folder.mkdir(parents=True)
        shutil.copy(demo_data / "derivatives" / program / "dataset_description.json", folder)
    adopt(demo_data, root, GOOD)
    for label, (damage, _) in DAMAGE.items():
        adopt(demo_data, root, label)
        damage(root, label)
    return root


@pytest.fixture(scope="module")
def outcome(study, tmp_path_factory):
    """One run over all of them, with one atlas and few streamlines."""
    import subprocess
    import sys

    root = tmp_path_factory.mktemp("bad_results")
    done = subprocess.run(
        [sys.executable, "-m", "kraken_bids", str(study), str(root / "results"), "participant",
         "--atlases", "fs86", "--sloppy", "--streamlines", "300", "-w", str(root / "work"),
         "--nprocs", "2", "--pcorr-lambda", "fs86=0.06"],
        check=False, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return root / "results", done.returncode, done.stdout + done.stderr


def test_exit_code_says_that_some_failed(outcome):
    _, code, told = outcome
    assert code == 1, told
    assert "1 done, 0 done before, 6 with problems" in told


def test_no_traceback_reaches_the_person(outcome):
    assert "Traceback" not in outcome[2]


@pytest.mark.parametrize("label", DAMAGE)
def test_problem_is_told_with_what_and_where(outcome, label):
    _, _, told = outcome
    lines = [line for line in told.splitlines() if line.startswith(f"sub-{label}: ")]
    assert lines, told
    for word in DAMAGE[label][1]:
        assert any(word in line for line in lines), (word, lines)
    assert any(line.rstrip().endswith(("]", ".")) for line in lines)


def test_good_participant_is_done(outcome):
    results, _, _ = outcome
    assert len(list(results.glob(f"sub-{GOOD}/func/*_relmat.tsv"))) == 3
    assert len(list(results.glob(f"sub-{GOOD}/dwi/*_relmat.tsv"))) == 4


@pytest.mark.parametrize("label", ["51", "52", "53", "55"])
def test_bad_functional_data_do_not_cost_the_structural_connectomes(outcome, label):
    results, _, _ = outcome
    assert len(list(results.glob(f"sub-{label}/dwi/*_relmat.tsv"))) == 4
    assert not list(results.glob(f"sub-{label}/func/*_relmat.tsv"))


@pytest.mark.parametrize("label", ["54", "56"])
def test_bad_diffusion_data_do_not_cost_the_functional_connectomes(outcome, label):
    results, _, _ = outcome
    assert len(list(results.glob(f"sub-{label}/func/*_relmat.tsv"))) == 3
    assert not list(results.glob(f"sub-{label}/dwi/*_relmat.tsv"))


@pytest.mark.parametrize("label", ["51", "53", "54"])
def test_page_of_a_failed_participant_names_the_problem(outcome, label):
    results, _, _ = outcome
    page = (results / f"sub-{label}.html").read_text()
    assert DAMAGE[label][1][-1].lstrip(".") in page


def test_group_level_goes_on_with_what_each_has(outcome, study, small_model, run, tmp_path):
    results = tmp_path / "results"
    shutil.copytree(outcome[0], results)
    done = run(
        study, results, "group", "--model", small_model, "--output-label", "bad",
        "-w", tmp_path / "work", "--nprocs", 2,
    )  # fmt: skip
    assert "Traceback" not in done.text
    predictions = results / "derivatives" / "krakencoder-bad"
    assert (predictions / "group.html").exists(), done.text
    # fusionFC has no members where the functional data are bad, and is left out there.
    sources = pd.read_csv(predictions / "sub-53" / "sub-53_latent.tsv", sep="\t")["source"]
    assert set(sources) == {
        "SCifod2act_fs86_volnorm", "SCsdstream_fs86_volnorm", "fusion", "fusionSC",
    }  # fmt: skip


def test_truncated_connectome_is_told_and_the_cohort_goes_on(
    outcome, study, small_model, run, tmp_path
):
    results = tmp_path / "results"
    shutil.copytree(outcome[0], results)
    (victim,) = results.glob("sub-54/func/*_atlas-fs86_meas-FCcorrHPF_relmat.tsv")
    content = victim.read_bytes()
    victim.write_bytes(content[: len(content) // 2])
    done = run(
        study, results, "group", "--model", small_model, "--output-label", "cut",
        "-w", tmp_path / "work", "--nprocs", 2,
    )  # fmt: skip
    assert done.code == 1, done.text
    assert "sub-54" in done.text
    assert victim.name in done.text
    assert (results / "derivatives" / "krakencoder-cut" / "group.html").exists()
    assert victim.read_bytes() == content[: len(content) // 2]


def test_target_that_the_model_lacks_is_refused(outcome, study, small_model, run, tmp_path):
    done = run(
        study, outcome[0], "group", "--model", small_model, "--predict-to",
        "SCifod2act_fs86_sift2", "-w", tmp_path / "work",
    )  # fmt: skip
    assert done.code == 3, done.text
    assert "SCifod2act_fs86_sift2" in done.text
    assert "Traceback" not in done.text


def test_cohort_of_one_cannot_be_adapted_to(outcome, study, small_model, run, tmp_path):
    done = run(
        study, outcome[0], "group", "--model", small_model, "--participant-label", GOOD,
        "-w", tmp_path / "work", "--output-label", "one",
    )  # fmt: skip
    assert done.code != 0
    assert "one participant" in done.text
    assert "Traceback" not in done.text


def test_altered_model_is_refused(study, small_model, run, outcome, tmp_path):
    altered = tmp_path / "model"
    shutil.copytree(small_model, altered)
    weights = altered / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    done = run(study, outcome[0], "group", "--model", altered, "-w", tmp_path / "work")
    assert done.code == 3, done.text
    assert str(altered) in done.text
    assert "Traceback" not in done.text


def test_missing_published_atlas_is_told_with_its_address(study, run, tmp_path, monkeypatch):
    monkeypatch.setenv("KRAKEN_BIDS_RESOURCES", str(tmp_path / "nothing"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    done = run(
        study, tmp_path / "out", "participant", "--atlases", "shen268", "-w", tmp_path / "work"
    )
    assert done.code == 3, done.text
    assert "shen268_MNI1mm_dil1.nii.gz" in done.text
    assert "Traceback" not in done.text
