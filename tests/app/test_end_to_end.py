# SPDX-License-Identifier: MIT
"""The whole line through real MRtrix3: what is written, and that its numbers are right."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from kraken_bids.atlases import load_atlas
from kraken_bids.bids.writers import read_connectome
from kraken_bids.flavors import CORE_FLAVORS

pytestmark = pytest.mark.slow


def table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", na_values="n/a")


def measured(line, participant, datatype, atlas, meas):
    """A measured connectome."""
    pattern = f"sub-{participant}/{datatype}/*_atlas-{atlas}_meas-{meas}_relmat.tsv"
    (path,) = line.results.glob(pattern)
    return read_connectome(path, load_atlas(atlas).region_names)[0]


def test_both_levels_succeed(line):
    assert line.participant_level.code == 0, line.participant_level.text
    assert line.group_level.code == 0, line.group_level.text
    assert "Traceback" not in line.participant_level.text + line.group_level.text


def test_measured_outputs_are_just_those_expected(line, listed, expected):
    assert listed(line.results) == expected("measured", line.participants)


def test_predicted_outputs_are_just_those_expected(line, listed, expected):
    assert listed(line.predictions) == expected("predicted", line.participants)


def test_every_participant_has_all_connectomes_and_latents(line):
    for participant in line.participants:
        root = line.results / f"sub-{participant}"
        assert len(list(root.glob("func/*_relmat.tsv"))) == 9
        assert len(list(root.glob("dwi/*VN_relmat.tsv"))) == 6
        assert len(list(root.glob("dwi/*Count_relmat.tsv"))) == 6
        predicted = line.predictions / f"sub-{participant}"
        assert len(list(predicted.glob("*/*_relmat.tsv"))) == 45
        (latents,) = predicted.glob("*_latent.tsv")
        rows = table(latents)
        assert set(rows["source"]) == {
            *map(str, CORE_FLAVORS), "fusion", "fusionSC", "fusionFC",
        }  # fmt: skip
        values = rows.filter(regex=r"^z\d{3}$").to_numpy()
        assert values.shape == (18, 128)
        norms = np.linalg.norm(values[:15], axis=1)
        np.testing.assert_allclose(norms, 1, atol=1e-4)


@pytest.mark.parametrize("atlas", ["fs86", "shen268", "coco439"])
def test_functional_connectome_equals_nilearns(line, atlas):
    from nilearn.connectome import ConnectivityMeasure
    from sklearn.covariance import EmpiricalCovariance

    (path,) = line.results.glob(f"sub-01/func/*_atlas-{atlas}_desc-hpf_timeseries.tsv")
    series = table(path).to_numpy()
    (sidecar,) = line.results.glob("sub-01/func/*_desc-fc_qc.json")
    left_out = json.loads(sidecar.read_text())["OutlierVolumes"]
    kept = np.delete(series, left_out, axis=0)
    measure = ConnectivityMeasure(
        cov_estimator=EmpiricalCovariance(store_precision=False),
        kind="correlation",
        standardize=False,
    )
    theirs = measure.fit_transform([kept])[0]
    ours = measured(line, "01", "func", atlas, "FCcorrHPF")
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_parcellated_series_rest_on_the_region_means_of_nilearn(line):
    from nilearn.maskers import NiftiLabelsMasker

    (labels,) = line.results.glob("sub-01/func/*_atlas-fs86_dseg.nii.gz")
    (bold,) = line.data.glob(
        "derivatives/fmriprep/sub-01/func/*space-T1w_desc-preproc_bold.nii.gz"
    )
    masker = NiftiLabelsMasker(labels, standardize=None, keep_masked_labels=False)
    theirs = masker.fit_transform(bold)
    (node,) = line.work.rglob("sub_01_wf/functional_1_wf/parcellate")
    (made,) = node.glob("*.npz")
    with np.load(made) as arrays:
        ours = arrays["series/fs86"]
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize("algorithm", ["ifod2act", "sdstream"])
@pytest.mark.parametrize("atlas", ["fs86", "shen268", "coco439"])
def test_streamline_counts_equal_tck2connectomes(line, tmp_path, algorithm, atlas):
    kind = f"SC{algorithm}"
    (labels,) = line.results.glob(f"sub-01/dwi/*_atlas-{atlas}_dseg.nii.gz")
    tracts = [
        path for path in line.work.rglob("*.tck")
        if "sub_01_wf" in str(path) and algorithm in path.name
    ]  # fmt: skip
    out = tmp_path / "counts.csv"
    subprocess.run(
        ["tck2connectome", str(tracts[0]), str(labels), str(out), "-symmetric",
         "-zero_diagonal", "-assignment_radial_search", "4", "-quiet"],
        check=True,
    )  # fmt: skip
    theirs = np.loadtxt(out, delimiter=",")
    ours = measured(line, "01", "dwi", atlas, f"{kind}Count")
    (sidecar,) = line.results.glob(f"sub-01/dwi/*_atlas-{atlas}_meas-{kind}Count_relmat.json")
    n_streamlines = json.loads(sidecar.read_text())["StreamlineCount"]
    present = np.arange(len(theirs))
    scaled = theirs * 5e6 / n_streamlines
    np.testing.assert_allclose(np.nan_to_num(ours)[np.ix_(present, present)], scaled, rtol=1e-5)
    assert theirs.sum() > 0


@pytest.mark.parametrize("kind", ["SCifod2act", "SCsdstream"])
def test_volume_normalisation_follows_from_counts_and_label_volumes(line, kind):
    (labels,) = line.results.glob("sub-01/dwi/*_atlas-fs86_dseg.nii.gz")
    image = nib.load(labels)
    voxel_mm3 = abs(np.linalg.det(image.affine[:3, :3]))
    volumes = np.bincount(np.asarray(image.dataobj).ravel(), minlength=87)[1:] * voxel_mm3
    counts = measured(line, "01", "dwi", "fs86", f"{kind}Count")
    expected = 2 * counts * 1.953125 / (volumes[:, None] + volumes[None])
    np.testing.assert_allclose(
        measured(line, "01", "dwi", "fs86", f"{kind}VN"), expected, rtol=1e-4
    )


def test_participants_differ(line):
    first, second = (measured(line, name, "func", "fs86", "FCcorrHPF") for name in ("01", "02"))
    assert np.abs(first - second).max() > 0.05


def test_quality_of_predictions_covers_every_pair(line):
    rows = table(line.predictions / "group" / "desc-kraken_qc.tsv")
    assert len(rows) == 45
    assert set(rows["source"]) == {"fusion", "fusionSC", "fusionFC"}
    assert (rows["n_participants"] == 3).all()
    np.testing.assert_allclose(rows["top1_chance"], 1 / 3, rtol=1e-5)


@pytest.mark.parametrize("which", ["results", "predictions"])
def test_validator_finds_no_error(line, which):
    validator = Path(sys.executable).with_name("bids-validator-deno")
    done = subprocess.run(
        [validator, str(getattr(line, which)), "--format", "json"],
        check=False,
        capture_output=True,
        text=True,
    )
    issues = json.loads(done.stdout)["issues"]["issues"]
    errors = [issue for issue in issues if issue.get("severity") == "error"]
    assert not errors
    assert done.returncode == 0


@pytest.mark.parametrize("which", ["results", "predictions"])
def test_pybids_reads_the_data_set(line, which):
    from bids import BIDSLayout

    layout = BIDSLayout(getattr(line, which), validate=False, is_derivative=True)
    assert layout.get_subjects() == list(line.participants)
    found = layout.get(suffix="relmat", extension=".tsv", atlas="fs86", subject="01")
    assert found


def test_pages_are_there_and_need_nothing_from_outside(line):
    pages = [line.results / f"sub-{name}.html" for name in line.participants]
    pages.append(line.predictions / "group.html")
    for page in pages:
        text = page.read_text()
        assert "<img" in text
        assert 'src="http' not in text


def test_methods_of_a_participant_say_what_was_done_with_its_inputs(line):
    own = sorted(line.results.glob("logs/sub-01/*/CITATION.md"))[0].read_text("utf-8")
    cohort = (line.results / "logs" / "CITATION.md").read_text("utf-8")
    either = "where there was one"
    assert either in cohort
    assert either not in own
    assert "came from the participant's FreeSurfer segmentation" in own
    assert "several runs" not in own


def test_finished_participants_are_skipped(line, run):
    before = {path: path.stat().st_mtime_ns for path in line.results.rglob("*.tsv")}
    again = run(*line.participant_words())
    assert again.code == 0
    assert "0 done, 3 done before" in again.text
    once_more = run(*line.group_words())
    assert once_more.code == 0
    assert "already" in once_more.text
    assert {path: path.stat().st_mtime_ns for path in line.results.rglob("*.tsv")} == before


def test_status_and_dry_run_tell_and_write_nothing(line, run, listed):
    before = listed(line.results)
    assert "3 of 3 done" in run(*line.participant_words(), "--status").text
    assert "0 of 3 sessions are to be done" in run(*line.participant_words(), "--dry-run").text
    assert ": done" in run(*line.group_words(), "--status").text
    assert "predictions would go to" in run(*line.group_words(), "--dry-run").text
    assert listed(line.results) == before


@pytest.mark.parametrize(("action", "told"), [("--dry-run", "3 of 3 sessions are to be done"),
                                              ("--status", "0 of 3 done")])  # fmt: skip
def test_looking_before_the_first_run_makes_no_folder(line, run, tmp_path, action, told):
    words = line.participant_words()
    new = {line.results: tmp_path / "new" / "results", line.work: tmp_path / "new" / "work"}
    looked = run(*(new.get(word, word) for word in words), action)
    assert looked.code == 0
    assert told in looked.text
    assert not (tmp_path / "new").exists()


def test_the_group_level_can_be_asked_before_its_model_is_fetched(line, run, listed, tmp_path):
    before = listed(line.results)
    for action in ("--status", "--dry-run"):
        asked = run(
            str(line.data), str(line.results), "group", action, "--model-dir", str(tmp_path)
        )
        assert asked.code == 0
        assert "the model is not here yet" in asked.text
        assert "sub-01" in asked.text
    assert listed(line.results) == before


def test_nothing_is_written_to_the_home(line, run, tmp_path, monkeypatch):
    home, results = tmp_path / "home", tmp_path / "results"
    home.mkdir()
    shutil.copytree(line.results, results)
    monkeypatch.setenv("HOME", str(home))
    for name in ("MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    words = [results if word == line.results else word for word in line.group_words()]
    words[words.index(line.work)] = tmp_path / "work"
    assert run(*words, "--reports-only").code == 0
    assert list(home.rglob("*")) == []


def test_missing_output_is_made_again(line, run, tmp_path):
    copy = tmp_path / "results"
    shutil.copytree(line.results, copy)
    (gone,) = copy.glob("sub-02/func/*_atlas-fs86_meas-FCcorrHPF_relmat.tsv")
    content = gone.read_bytes()
    gone.unlink()
    words = line.participant_words()
    words[1] = copy
    done = run(*words, "--participant-label", "02")
    assert "1 done, 0 done before" in done.text, done.text
    assert gone.read_bytes() == content


def test_single_participant_is_predicted_with_a_fitted_adaptation(line, run, tmp_path):
    (fitted,) = line.predictions.glob("group/*_adaptation.safetensors")
    copy = tmp_path / "results"
    shutil.copytree(line.results, copy, ignore=shutil.ignore_patterns("derivatives"))
    words = line.participant_words()
    words[1] = copy
    done = run(
        *words, "--participant-label", "01", "--model", line.model, "--adaptation", fitted,
        "--output-label", "single",
    )  # fmt: skip
    assert done.code == 0, done.text
    single = copy / "derivatives" / "krakencoder-single"
    theirs = {path.name: path for path in line.predictions.glob("sub-01/*/*_relmat.tsv")}
    ours = {path.name: path for path in single.glob("sub-01/*/*_relmat.tsv")}
    assert ours.keys() == theirs.keys()
    for name, path in ours.items():
        expected, _ = read_connectome(theirs[name])
        # Batches of other sizes sum up in another order.
        scale = np.abs(expected).max()
        np.testing.assert_allclose(read_connectome(path)[0], expected, atol=1e-5 * scale)
    assert not (single / "group").exists()


def test_compressed_label_images_carry_no_time(line):
    # The time in a gzip header would make every run's files differ.
    for path in line.results.glob("sub-01/*/*_dseg.nii.gz"):
        assert path.read_bytes()[4:8] == bytes(4), path
        assert gzip.decompress(path.read_bytes())
