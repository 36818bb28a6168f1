# SPDX-License-Identifier: MIT
"""Sessions, tasks, runs and variants, two of them damaged: all that can be made is made."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from kraken_bids.atlases import load_atlas
from tests.conftest import Study, write_json

SHAPE = (14, 14, 14)
AFFINE = np.array([[-4.0, 0, 0, 26], [0, 4, 0, -26], [0, 0, 4, -26], [0, 0, 0, 1]])
N_VOLUMES = 80

SCANS = {
    "a": (
        "task-rest_run-1",
        "task-rest_run-2",
        "task-rest_acq-mb",
        "task-nback_run-1",
        "task-nback_run-2",
        "task-movie_run-1",
        "task-movie_run-2",
    ),
    "b": ("task-rest_run-1", "task-rest_run-2", "task-nback_run-1"),
}
WITHOUT_CONFOUNDS = ("a", "task-nback_run-2")
CUT_SHORT = ("a", "task-movie_run-1")
AVERAGED = (("a", "task-rest"), ("b", "task-rest"))
MEASURES = ("FCcorrHPF", "FCcorrHPFGSR", "FCpcorrHPF")


def save(values: np.ndarray, path: Path) -> None:
    image = nib.Nifti1Image(values, AFFINE)
    if values.ndim == 4:
        image.header.set_zooms((4.0, 4.0, 4.0, 2.0))
        image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)


def write_scan(study: Study, session: str, source: str, rng: np.random.Generator) -> Path:
    """One run: noise with a slow common part, small motion. Gives the beginning of its names."""
    func = study.add_bold("01", session, source=source, n_volumes=N_VOLUMES)
    stem = func / f"sub-01_ses-{session}_{source}"
    common = np.cumsum(rng.normal(0, 2, N_VOLUMES))
    bold = rng.normal(800, 12, (*SHAPE, N_VOLUMES)) + common
    save(bold.astype(np.int16), Path(f"{stem}_space-T1w_desc-preproc_bold.nii.gz"))
    save(np.ones(SHAPE, np.uint8), Path(f"{stem}_space-T1w_desc-brain_mask.nii.gz"))
    names = ["trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"]
    steps = rng.normal(0, 0.01, (N_VOLUMES, 6)) * [1, 1, 1, 0.01, 0.01, 0.01]
    table = pd.DataFrame(np.cumsum(steps, axis=0), columns=names)
    table.to_csv(f"{stem}_desc-confounds_timeseries.tsv", sep="\t", index=False)
    return stem


def write_segmentation(study: Study) -> None:
    """White matter, CSF, and the 86 regions."""
    codes = np.zeros(SHAPE, np.int16)
    codes[:4], codes[4:8] = 2, 4
    regions = [region.code for region in load_atlas("fs86").regions]
    codes[8:] = np.resize(regions, codes[8:].shape)
    save(codes, study.add_anatomy() / "sub-01_desc-aparcaseg_dseg.nii.gz")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """The data set, measured by the program."""
    from tests.app.conftest import kraken

    root = tmp_path_factory.mktemp("variants")
    study, rng = Study(root / "study"), np.random.default_rng(11)
    write_segmentation(study)
    for session, sources in SCANS.items():
        for source in sources:
            stem = write_scan(study, session, source, rng)
            if (session, source) == WITHOUT_CONFOUNDS:
                Path(f"{stem}_desc-confounds_timeseries.tsv").unlink()
            if (session, source) == CUT_SHORT:
                bold = Path(f"{stem}_space-T1w_desc-preproc_bold.nii.gz")
                bold.write_bytes(bold.read_bytes()[: bold.stat().st_size // 2])
    words = [study.root, root / "out", "participant", "--atlases", "fs86", "--modality", "func",
             "--pcorr-lambda", "fs86=0.06",  # fewer volumes than regions
             "-w", root / "work", "--nprocs", 2]  # fmt: skip
    return root / "out", kraken(*words), lambda: kraken(*words)


def matrix_names() -> set[str]:
    good = [(s, source) for s, sources in SCANS.items() for source in sources]
    good = [scan for scan in good if scan not in {WITHOUT_CONFOUNDS, CUT_SHORT}]
    return {
        f"sub-01_ses-{session}_{source}_space-T1w_atlas-fs86_meas-{meas}_relmat.tsv"
        for session, source in (*good, *AVERAGED)
        for meas in MEASURES
    }


@pytest.mark.slow
def test_every_possible_output_is_there_and_no_other(outcome):
    out, done, _ = outcome
    assert done.code == 1, done.text
    assert {path.name for path in out.rglob("*_relmat.tsv")} == matrix_names()
    n_runs = sum(map(len, SCANS.values())) - 2
    assert len(list(out.rglob("*_timeseries.tsv"))) == 2 * n_runs
    assert len(list(out.rglob("func/*_qc.tsv"))) == n_runs + len(AVERAGED)
    for figure in ("qc", "coverage"):
        assert len(list(out.rglob(f"figures/*_desc-{figure}_bold.png"))) == n_runs
    for session in SCANS:
        assert (out / f"sub-01_ses-{session}.html").is_file()


@pytest.mark.slow
def test_each_problem_is_told_with_its_session_and_at_the_end(outcome):
    out, done, _ = outcome
    labels = ("sub-01_ses-a: ", "sub-01_ses-b: ")
    told = [line for line in done.text.splitlines() if line.startswith(labels)]
    (line,) = (number for number, text in enumerate(told) if "ses-a: done in " in text)
    assert re.search(r"done in .*, but for 2 problem\(s\) \(", told[line]), done.text
    assert sorted(told[line + 1 : line + 3]) == sorted(told[-2:]), done.text
    told = [line for line in told if not re.search(r": (started|done in .*) \(", line)]
    assert len(told) == 4, done.text
    told = told[-2:]
    (confounds,) = [line for line in told if "confounds" in line]
    (truncated,) = [line for line in told if "cut short" in line]
    stem = "sub-01_ses-a_{}"
    assert (
        f"{stem.format(WITHOUT_CONFOUNDS[1])}_desc-confounds_timeseries.tsv not found" in confounds
    )
    assert f"{stem.format(CUT_SHORT[1])}_space-T1w_desc-preproc_bold.nii.gz" in truncated
    assert "run fMRIPrep again" in confounds
    assert "Copy the file again" in truncated
    assert "Traceback" not in done.text
    page = (out / "sub-01_ses-a.html").read_text()
    assert "confounds_timeseries.tsv not found" in page
    assert "cut short" in page
    assert "not found" not in (out / "sub-01_ses-b.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("session", "task"), AVERAGED)
def test_runs_of_a_task_are_averaged_by_their_kept_volumes(outcome, session, task):
    folder = outcome[0] / "sub-01" / f"ses-{session}" / "func"

    def read(source: str) -> tuple[np.ndarray, float]:
        stem = folder / f"sub-01_ses-{session}_{source}_space-T1w_atlas-fs86_meas-FCcorrHPF_relmat"
        table = pd.read_csv(f"{stem}.tsv", sep="\t", index_col=0)
        kept = json.loads(Path(f"{stem}.json").read_text())["NumberOfRetainedVolumes"]
        return table.to_numpy(float), kept

    (one, n_one), (two, n_two) = (read(f"{task}_run-{number}") for number in (1, 2))
    average, n_kept = read(task)
    off = ~np.eye(len(one), dtype=bool)
    assert n_kept == n_one + n_two
    assert np.abs(one - two)[off].max() > 0.1
    expected = (n_one * one + n_two * two) / n_kept
    np.testing.assert_allclose(average[off], expected[off], atol=1e-6)


@pytest.mark.slow
def test_a_second_run_measures_nothing_and_tells_the_same(outcome):
    out, _, again = outcome
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*_relmat.tsv")}
    done = again()
    assert done.code == 1, done.text
    assert "2 done before, 1 with problems" in done.text
    assert "confounds_timeseries.tsv not found" in done.text
    assert "cut short" in done.text
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*_relmat.tsv")}


def write_denoised(study: Study, source: str, filters: object, rng: np.random.Generator) -> Path:
    """A series as XCP-D leaves it; gives the root of its data set."""
    write_scan(study, "a", source, rng)
    root = study.derivative("xcp_d", "XCP-D", "26.1.1")
    stem = root / "sub-01" / "ses-a" / "func" / f"sub-01_ses-a_{source}_space-T1w_desc-denoised"
    stem.parent.mkdir(parents=True, exist_ok=True)
    bold = rng.normal(0, 10, (*SHAPE, N_VOLUMES)).astype(np.float32)
    save(bold, Path(f"{stem}_bold.nii.gz"))
    content = {"RepetitionTime": 2.0, "NuisanceParameters": "acompcor", "SoftwareFilters": filters}
    write_json(Path(f"{stem}_bold.json"), content)
    return root


@pytest.mark.slow
def test_series_of_xcp_d_are_taken_if_they_fit_and_marked_if_forced(tmp_path):
    from tests.app.conftest import kraken

    study, rng = Study(tmp_path / "study"), np.random.default_rng(2)
    write_segmentation(study)
    high = {"High-pass filter": {"cutoff (Hz)": 0.01, "Filter order": 2}}
    band = {"Bandpass filter": {"Low-pass cutoff (Hz)": 0.08, "High-pass cutoff (Hz)": 0.01}}
    write_denoised(study, "task-rest", high, rng)
    root = write_denoised(study, "task-nback", band, rng)
    out = tmp_path / "out"
    words = [study.root, out, "participant", "--atlases", "fs86", "--modality", "func",
             "--pcorr-lambda", "fs86=0.06",  # fewer volumes than regions
             "-d", f"xcp_d={root}", "-w", tmp_path / "work", "--nprocs", 2]  # fmt: skip
    done = kraken(*words)
    assert done.code == 1, done.text
    assert "low-pass filtered at 0.08 Hz" in done.text
    assert "Traceback" not in done.text
    func = out / "sub-01" / "ses-a" / "func"
    stem = "sub-01_ses-a_task-{}_space-T1w_atlas-fs86_meas-{}"
    fitting = {f"{stem.format('rest', meas)}_relmat.tsv" for meas in ("FCcorrHPF", "FCpcorrHPF")}
    assert {path.name for path in func.glob("*_relmat.tsv")} == fitting
    sidecar = json.loads((func / f"{stem.format('rest', 'FCcorrHPF')}_relmat.json").read_text())
    assert sidecar["Denoising"]["DenoisedBy"].startswith("XCP-D: confounds acompcor")
    assert "OffRecipe" not in sidecar
    assert any("bids:xcp-d:" in source for source in sidecar["Sources"])

    done = kraken(*words, "--force")
    assert done.code == 0, done.text
    marked = {
        f"{stem.format('nback', meas)}_desc-xcpd_relmat.tsv"
        for meas in ("FCcorrHPF", "FCpcorrHPF")
    }
    assert {path.name for path in func.glob("*_relmat.tsv")} == fitting | marked
    name = f"{stem.format('nback', 'FCcorrHPF')}_desc-xcpd_relmat.json"
    sidecar = json.loads((func / name).read_text())
    assert "not the recipe" in sidecar["OffRecipe"]
    assert "low-pass 0.08 Hz" in sidecar["Denoising"]["DenoisedBy"]
    assert "xcpd" in (out / "descriptions.tsv").read_text()
    series = json.loads(
        (func / "sub-01_ses-a_task-rest_space-T1w_atlas-fs86_desc-hpf_timeseries.json").read_text()
    )
    assert series["SoftwareFilters"]["High-pass"]["Cutoff (Hz)"] == 0.01
    assert "XCP-D" in series["SoftwareFilters"]["High-pass"]["Kind"]

    # without a lambda that a person fixed, none is made of so few volumes, and none is left over
    plain = [word for word in words if word not in {"--pcorr-lambda", "fs86=0.06"}]
    done = kraken(*plain, "--force")
    assert done.code == 0, done.text
    *_, last, page = done.text.strip().splitlines()
    assert "sub-01_ses-a: without FCpcorr_fs86_hpf" in last
    assert done.text.count(last) == 1
    assert page == f"page: {out}/sub-01_ses-a.html"
    correlations = {name for name in fitting | marked if "FCcorr" in name}
    assert {path.name for path in func.glob("*_relmat.tsv")} == correlations
    sidecar = json.loads((func / f"{stem.format('rest', 'FCcorrHPF')}_relmat.json").read_text())
    assert sidecar["PartialCorrelation"].startswith("not made: ")
    assert "FCpcorr_fs86_hpf: not made: " in (out / "sub-01_ses-a.html").read_text()
    done = kraken(*plain, "--force")
    assert (done.code, done.text.strip().splitlines()[-2:]) == (0, [last, page])
    assert "1 done before" in done.text
