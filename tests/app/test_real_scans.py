# SPDX-License-Identifier: MIT
"""Real scans, wrapped as fMRIPrep and QSIPrep would have left them: known readings are met.

The scans (of OpenNeuro's ds000205 and ds000114) and the atlases in their spaces are no part of the
project: the checks are skipped where ``KRAKEN_SHARED_DIR`` does not name a folder with ``real/``.
The BOLD series is a slab: the cerebellum and the brain stem lie mostly outside.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import linalg, ndimage

from kraken_bids.atlases import load_atlas
from kraken_bids.bids.writers import read_connectome, write_json, write_table
from kraken_bids.connectome.functional import homotopic_pairs
from kraken_bids.demo.transform_files import write_composite
from kraken_bids.flavors import CORE_FLAVORS, Flavor

REAL = Path(os.environ.get("KRAKEN_SHARED_DIR", "")) / "real"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "KRAKEN_SHARED_DIR" not in os.environ or not REAL.is_dir(),
        reason="KRAKEN_SHARED_DIR names no folder with real scans (real/)",
    ),
]

ATLASES = ("fs86", "shen268", "coco439")
#: Regions of which the BOLD series holds no voxel, by atlas.
N_OUTSIDE = {"fs86": 0, "shen268": 41, "coco439": 23}
TEMPLATE = "MNI152NLin6Asym"
FUNCTIONAL, STRUCTURAL = "ds205s03", "ds114s01"
#: How the files of a participant's scan name it.
SCANS = {FUNCTIONAL: "ds205", STRUCTURAL: "ds000114"}
BOLD = f"sub-{FUNCTIONAL}_task-functionallocalizer_run-01"
DWI = f"sub-{STRUCTURAL}_ses-test"
DWI_STEM = "ds000114_sub-01_ses-test_desc-trunc_dwi"
REPETITION_TIME_S = 2.2
N_COMPONENTS = 5
N_STREAMLINES = 20_000
#: Share of the pairs of regions that 20,000 streamlines join: read before with MRtrix3 alone.
KNOWN_DENSITY = {"fs86": 0.29, "shen268": 0.11, "coco439": 0.06}
#: Homotopic and mean interhemispheric correlation of the 86 regions, without linear trend and
#: frequencies below 0.01 Hz, nothing else regressed: read before with nilearn alone.
KNOWN_CORRELATION = {"homotopic": 0.78, "interhemispheric": 0.37}


def describe(root: Path, name: str) -> None:
    """Say who wrote a data set."""
    write_json(
        root / "dataset_description.json",
        {
            "Name": name,
            "BIDSVersion": "1.9.0",
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": name, "Version": "0.0.0"}],
        },
    )


def save_mask(path: Path, mask: np.ndarray, affine: np.ndarray) -> None:
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), affine), path)


def brain_of(mean: np.ndarray) -> np.ndarray:
    """Brain mask from the intensities of a mean volume: the largest bright body, closed."""
    bright = ndimage.binary_closing(mean > mean.mean(), iterations=2)
    bodies, _ = ndimage.label(bright)
    largest = bodies == np.bincount(bodies.ravel())[1:].argmax() + 1
    return ndimage.binary_fill_holes(largest)


def components_of(series: np.ndarray) -> np.ndarray:
    """First principal components of voxels' series, (n_volumes, N_COMPONENTS)."""
    centred = series - series.mean(axis=1, keepdims=True)
    _, _, right = linalg.svd(centred, full_matrices=False)
    return right[:N_COMPONENTS].T


def confounds_of(
    data: np.ndarray, brain: np.ndarray, labelled: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, dict]]:
    """Columns of a table of confounds and their sidecar, from the series alone.

    Motion was corrected before the series was published, and its parameters were not kept: they
    are 0 here. No segmentation comes with it either. Tissue components are those of the inner
    voxels of the brain that are in no region: the brightest tenth stands for CSF, which is bright
    in such images, the rest for white matter.
    """
    columns = {
        name: np.zeros(data.shape[3])
        for name in ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
    }
    columns["framewise_displacement"] = np.r_[np.nan, np.zeros(data.shape[3] - 1)]
    columns["global_signal"] = data[brain].mean(axis=0)
    sidecar: dict[str, dict] = {"global_signal": {"Method": "Mean"}}
    inner = ndimage.binary_erosion(brain, iterations=2) & ~labelled
    mean = data.mean(axis=3)
    is_bright = mean > np.percentile(mean[inner], 90)
    for tissue, voxels in (("CSF", inner & is_bright), ("WM", inner & ~is_bright)):
        for number, column in enumerate(components_of(data[voxels]).T):
            name = f"{tissue[0].lower()}_comp_cor_{number:02d}"
            columns[name] = column
            sidecar[name] = {"Method": "aCompCor", "Mask": tissue, "Retained": True}
    return columns, sidecar


def wrap_bold(root: Path) -> None:
    """Put the BOLD series where fMRIPrep would; its space is called that of the atlases.

    The published label images were brought into the space of the scan, so that labels and series
    share one space: whatever its name, no transform is needed.
    """
    describe(root, "fMRIPrep")
    folder = root / f"sub-{FUNCTIONAL}" / "func"
    folder.mkdir(parents=True)
    stem = str(folder / BOLD)
    source = REAL / f"{BOLD}_bold_volreg.nii.gz"
    series = f"{stem}_space-{TEMPLATE}_desc-preproc_bold"
    shutil.copyfile(source, f"{series}.nii.gz")
    write_json(Path(f"{series}.json"), {"RepetitionTime": REPETITION_TIME_S})
    image = nib.load(source)
    data = image.get_fdata(dtype=np.float32)
    brain = brain_of(data.mean(axis=3))
    save_mask(Path(f"{stem}_space-{TEMPLATE}_desc-brain_mask.nii.gz"), brain, image.affine)
    labelled = np.any([bold_labels(atlas) > 0 for atlas in ATLASES], axis=0)
    columns, sidecar = confounds_of(data, brain, labelled)
    rows = np.stack(list(columns.values()), axis=1).tolist()
    table = Path(f"{stem}_desc-confounds_timeseries.tsv")
    write_table(table, list(columns), rows, digits=10)
    write_json(table.with_suffix(".json"), sidecar)


def wrap_diffusion(qsiprep: Path, qsirecon: Path) -> None:
    """Put the diffusion series where QSIPrep would, its five tissues where QSIRecon would."""
    describe(qsiprep, "QSIPrep")
    describe(qsirecon, "QSIRecon")
    folder = qsiprep / f"sub-{STRUCTURAL}" / "ses-test" / "dwi"
    folder.mkdir(parents=True)
    for extension in (".nii.gz", ".bval", ".bvec"):
        shutil.copyfile(
            REAL / f"{DWI_STEM}{extension}",
            folder / f"{DWI}_space-ACPC_desc-preproc_dwi{extension}",
        )
    mask = folder / f"{DWI}_space-ACPC_desc-brain_mask.nii.gz"
    shutil.copyfile(REAL / "ds000114_mask.nii.gz", mask)
    anatomy = qsiprep / f"sub-{STRUCTURAL}" / "anat"
    anatomy.mkdir(parents=True)
    # The label images are in the space of the scan already: nothing is to be moved.
    write_composite(
        anatomy / f"sub-{STRUCTURAL}_from-{TEMPLATE}_to-ACPC_mode-image_xfm.h5", (np.eye(4),)
    )
    tissues = qsirecon / f"sub-{STRUCTURAL}" / "ses-test" / "anat"
    tissues.mkdir(parents=True)
    shutil.copyfile(
        REAL / "ds000114_5tt.nii.gz", tissues / f"{DWI}_space-ACPC_seg-hsvs_probseg.nii.gz"
    )


def label_file(atlas: str, participant: str) -> Path:
    """An atlas in the space of a participant's scan."""
    return REAL / f"atlas-{atlas}_{SCANS[participant]}.nii.gz"


def bold_labels(atlas: str) -> np.ndarray:
    """An atlas on the grid of the BOLD series."""
    return np.asarray(nib.load(label_file(atlas, FUNCTIONAL)).dataobj)


def outside(atlas: str) -> list[str]:
    """Names of the regions that the label image of the BOLD series lacks."""
    present = set(np.unique(bold_labels(atlas)).tolist())
    names = load_atlas(atlas).region_names
    return [name for index, name in enumerate(names, start=1) if index not in present]


@dataclass(frozen=True)
class Scans:
    """Both participants after the participant level, each with an invocation of its own."""

    results: Path
    predictions: Path
    work: Path
    words: dict[str, list[object]]
    done: dict[str, object]

    def connectome(self, participant: str, atlas: str, meas: str) -> np.ndarray:
        """A measured connectome."""
        pattern = f"sub-{participant}/**/*_atlas-{atlas}_meas-{meas}_relmat.tsv"
        (path,) = self.results.glob(pattern)
        return read_connectome(path, load_atlas(atlas).region_names)[0]

    def quality(self, participant: str) -> tuple[pd.Series, dict]:
        """Quality measures of a participant's one series, and their sidecar."""
        (path,) = self.results.glob(f"sub-{participant}/**/*_qc.tsv")
        sidecar = json.loads(path.with_suffix(".json").read_text())
        return pd.read_csv(path, sep="\t", na_values="n/a").iloc[0], sidecar


@pytest.fixture(scope="module")
def scans(run, small_model, tmp_path_factory):
    """The line, run over both scans."""
    root = tmp_path_factory.mktemp("real")
    derivatives = root / "data" / "derivatives"
    wrap_bold(derivatives / "fmriprep")
    wrap_diffusion(derivatives / "qsiprep", derivatives / "qsirecon")
    results, work = root / "results", root / "work"
    options = {
        # Without segmentation, tissues and grey matter are not known.
        FUNCTIONAL: [
            "func",
            "--compcor",
            "columns",
            "--gsr-source",
            "global_signal",
            "--pcorr-lambda",
            *(f"{atlas}=0.06" for atlas in ATLASES),
        ],
        STRUCTURAL: ["dwi", "--sloppy", "--streamlines", N_STREAMLINES],
    }
    words = {
        participant: [
            root / "data", results, "participant", "--participant-label", participant,
            "--modality", *more, "-w", work, "--keep-work", "--nprocs", 2, "--atlas-file",
            *(f"{atlas}={label_file(atlas, participant)}" for atlas in ATLASES),
            "--model", small_model, "--adaptation", "none", "--output-label", "real",
        ]
        for participant, more in options.items()
    }  # fmt: skip
    done = {participant: run(*words[participant]) for participant in words}
    predictions = results / "derivatives" / "krakencoder-real"
    return Scans(results, predictions, work, words, done)


def levels(matrix: np.ndarray) -> tuple[float, float]:
    """Mean homotopic and mean interhemispheric edge of the 86 regions."""
    regions = load_atlas("fs86").regions
    sides = np.array([region.hemisphere for region in regions])
    pairs = homotopic_pairs([region.name for region in regions], list(sides))
    assert len(pairs) == 43
    homotopic = matrix[pairs[:, 0], pairs[:, 1]].mean()
    return homotopic, matrix[np.ix_(sides == "L", sides == "R")].mean()


def n_filled(atlas: str) -> int:
    """Edges with a region outside."""
    n_regions = load_atlas(atlas).n_regions
    n_present = n_regions - N_OUTSIDE[atlas]
    return (n_regions * (n_regions - 1) - n_present * (n_present - 1)) // 2


def test_both_scans_go_through(scans):
    for done in scans.done.values():
        assert done.code == 0, done.text
        assert "1 done, 0 done before, 0 with problems" in done.text


def test_known_reading_of_homotopic_correlation_is_met(scans):
    from nilearn.signal import clean

    (node,) = scans.work.rglob(f"sub_{FUNCTIONAL}_wf/functional_1_wf/parcellate")
    (file,) = node.glob("*.npz")
    with np.load(file) as arrays:
        series = arrays["series/fs86"]
    filtered = clean(series, detrend=True, standardize=None, high_pass=0.01, t_r=REPETITION_TIME_S)
    homotopic, interhemispheric = levels(np.corrcoef(filtered.T))
    assert homotopic == pytest.approx(KNOWN_CORRELATION["homotopic"], abs=0.02)
    assert interhemispheric == pytest.approx(KNOWN_CORRELATION["interhemispheric"], abs=0.02)


@pytest.mark.parametrize("flavor", ["FCcorr_fs86_hpf", "FCcorr_fs86_hpfgsr", "FCpcorr_fs86_hpf"])
def test_homotopic_edges_stand_out_after_denoising(scans, flavor):
    measured = scans.connectome(FUNCTIONAL, "fs86", Flavor.parse(flavor).meas)
    homotopic, interhemispheric = levels(measured)
    assert homotopic > interhemispheric + 0.2
    told, _ = scans.quality(FUNCTIONAL)
    assert told[f"homotopic_{flavor}"] == pytest.approx(homotopic, rel=1e-4)


def test_denoising_lowers_but_keeps_the_homotopic_correlation(scans):
    homotopic, interhemispheric = levels(scans.connectome(FUNCTIONAL, "fs86", "FCcorrHPF"))
    assert 0.6 < homotopic < KNOWN_CORRELATION["homotopic"]
    assert 0.1 < interhemispheric < KNOWN_CORRELATION["interhemispheric"]


@pytest.mark.parametrize("atlas", ATLASES)
@pytest.mark.parametrize("meas", ["FCcorrHPF", "FCcorrHPFGSR", "FCpcorrHPF"])
def test_regions_outside_the_image_keep_their_places(scans, atlas, meas):
    matrix = scans.connectome(FUNCTIONAL, atlas, meas)
    n_regions = load_atlas(atlas).n_regions
    assert matrix.shape == (n_regions, n_regions)
    is_outside = np.isin(load_atlas(atlas).region_names, outside(atlas))
    assert is_outside.sum() == N_OUTSIDE[atlas]
    expected = is_outside[:, None] | is_outside[None]
    np.testing.assert_array_equal(np.isnan(matrix), expected)


@pytest.mark.parametrize("atlas", ATLASES)
def test_regions_outside_the_image_are_reported(scans, atlas):
    names = outside(atlas)
    told, sidecar = scans.quality(FUNCTIONAL)
    assert told[f"n_missing_regions_{atlas}"] == len(names) == N_OUTSIDE[atlas]
    assert told[f"n_missing_edges_{atlas}"] == n_filled(atlas)
    assert sidecar["Regions"][atlas]["missing"] == names
    for path in scans.results.glob(f"sub-*/func/*_atlas-{atlas}_*_relmat.json"):
        assert json.loads(path.read_text())["MissingNodes"] == names
    warning = f"{len(names)} of {load_atlas(atlas).n_regions} regions of {atlas} are missing"
    assert (warning in scans.done[FUNCTIONAL].text) == bool(names)
    page = (scans.results / f"sub-{FUNCTIONAL}.html").read_text()
    assert f"{len(names)} regions of {atlas} missing" in page or not names
    assert all(name in page for name in names)


@pytest.mark.parametrize("algorithm", ["ifod2act", "sdstream"])
@pytest.mark.parametrize("atlas", ATLASES)
def test_density_of_structural_connectomes_is_near_the_known_one(scans, atlas, algorithm):
    counts = scans.connectome(STRUCTURAL, atlas, f"SC{algorithm}Count")
    n_regions = load_atlas(atlas).n_regions
    assert counts.shape == (n_regions, n_regions)
    assert not np.isnan(counts).any()
    density = (counts[np.triu_indices(n_regions, 1)] > 0).mean()
    assert density == pytest.approx(KNOWN_DENSITY[atlas], rel=0.25)
    told, sidecar = scans.quality(STRUCTURAL)
    assert told[f"{algorithm}_{atlas}_density"] == pytest.approx(density, rel=1e-4)
    assert told[f"{algorithm}_n_streamlines"] == N_STREAMLINES
    assert sidecar["Regions"][atlas]["missing"] == []


@pytest.mark.parametrize("atlas", ATLASES)
def test_streamlines_that_end_in_grey_matter_end_in_regions(scans, atlas):
    # SD_STREAM is not held to grey matter: a fifth of its streamlines end elsewhere.
    told, _ = scans.quality(STRUCTURAL)
    names = ("assigned", "within_region", "unassigned")
    shares = [told[f"ifod2act_{atlas}_{name}_fraction"] for name in names]
    assert sum(shares[:2]) > 0.95
    assert sum(shares) == pytest.approx(1, abs=1e-4)


def test_every_measured_connectome_and_fusion_has_a_latent(scans):
    for participant, group in ((FUNCTIONAL, "FC"), (STRUCTURAL, "SC")):
        (path,) = scans.predictions.glob(f"sub-{participant}/**/*_latent.tsv")
        rows = pd.read_csv(path, sep="\t")
        flavors = [str(flavor) for flavor in CORE_FLAVORS if flavor.group == group]
        assert set(rows["source"]) == {*flavors, "fusion", f"fusion{group}"}
        values = rows.filter(regex=r"^z\d{3}$").to_numpy()
        assert values.shape == (len(flavors) + 2, 128)
        np.testing.assert_allclose(np.linalg.norm(values[:-2], axis=1), 1, atol=1e-4)


@pytest.mark.parametrize("participant", [FUNCTIONAL, STRUCTURAL])
def test_predictions_are_made_whole_and_marked(scans, participant):
    paths = list(scans.predictions.glob(f"sub-{participant}/**/*_relmat.tsv"))
    assert len(paths) == 2 * len(CORE_FLAVORS)
    missing, filled = {}, {}
    if participant == FUNCTIONAL:
        with_missing = [atlas for atlas in ATLASES if N_OUTSIDE[atlas]]
        missing = {atlas: outside(atlas) for atlas in with_missing}
        filled = {
            str(flavor): n_filled(flavor.atlas)
            for flavor in CORE_FLAVORS
            if flavor.group == "FC" and flavor.atlas in with_missing
        }
    for path in paths:
        sidecar = json.loads(path.with_suffix(".json").read_text())
        assert sidecar["Predicted"] is True
        assert sidecar["MissingRegions"] == missing
        assert sidecar["FilledEdges"] == filled
        atlas = sidecar["KrakencoderFlavor"].split("_")[1]
        matrix = read_connectome(path, load_atlas(atlas).region_names)[0]
        off_diagonal = ~np.eye(len(matrix), dtype=bool)
        assert np.isfinite(matrix[off_diagonal]).all()


def test_pages_show_predictions_and_participants_stay_finished(scans, run):
    for participant in (FUNCTIONAL, STRUCTURAL):
        (page,) = scans.results.glob(f"sub-{participant}*.html")
        assert "30 connectomes were predicted" in page.read_text()
        assert "1 of 1 done" in run(*scans.words[participant], "--status").text
