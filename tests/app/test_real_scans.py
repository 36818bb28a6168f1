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
from kraken_bids.flavors import CORE_FLAVORS

REAL = Path(os.environ.get("KRAKEN_SHARED_DIR", "")) / "real"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("real"),
    pytest.mark.skipif(
        "KRAKEN_SHARED_DIR" not in os.environ or not REAL.is_dir(),
        reason="KRAKEN_SHARED_DIR names no folder with real scans (real/)",
    ),
]

ATLASES = ("fs86", "shen268", "coco439")
#: Regions of which the BOLD series holds no voxel, by atlas.
N_OUTSIDE = {"fs86": 0, "shen268": 41, "coco439": 23}
TEMPLATE = "MNI152NLin6Asym"
BOLD = "sub-ds205s03_task-functionallocalizer_run-01"
DWI = "sub-ds114s01_ses-test"
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
    folder = root / "sub-ds205s03" / "func"
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
    folder = qsiprep / "sub-ds114s01" / "ses-test" / "dwi"
    folder.mkdir(parents=True)
    for extension in (".nii.gz", ".bval", ".bvec"):
        shutil.copyfile(
            REAL / f"{DWI_STEM}{extension}",
            folder / f"{DWI}_space-ACPC_desc-preproc_dwi{extension}",
        )
    mask = folder / f"{DWI}_space-ACPC_desc-brain_mask.nii.gz"
    shutil.copyfile(REAL / "ds000114_mask.nii.gz", mask)
    anatomy = qsiprep / "sub-ds114s01" / "anat"
    anatomy.mkdir(parents=True)
    # The label images are in the space of the scan already: nothing is to be moved.
    write_composite(
        anatomy / f"sub-ds114s01_from-{TEMPLATE}_to-ACPC_mode-image_xfm.h5", (np.eye(4),)
    )
    tissues = qsirecon / "sub-ds114s01" / "ses-test" / "anat"
    tissues.mkdir(parents=True)
    shutil.copyfile(
        REAL / "ds000114_5tt.nii.gz", tissues / f"{DWI}_space-ACPC_seg-hsvs_probseg.nii.gz"
    )


def bold_labels(atlas: str) -> np.ndarray:
    """An atlas on the grid of the BOLD series."""
    return np.asarray(nib.load(REAL / f"atlas-{atlas}_ds205.nii.gz").dataobj)


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
    told: dict[str, str]
    codes: dict[str, int]

    def connectome(self, participant: str, atlas: str, meas: str) -> np.ndarray:
        """A measured connectome."""
        (path,) = self.results.glob(f"sub-{participant}/**/*_atlas-{atlas}_meas-{meas}_relmat.tsv")
        return read_connectome(path, load_atlas(atlas).region_names)[0]

    def quality(self, participant: str) -> pd.Series:
        """Quality measures of a participant's one series."""
        (path,) = self.results.glob(f"sub-{participant}/**/*_qc.tsv")
        return pd.read_csv(path, sep="\t", na_values="n/a").iloc[0]


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
        "ds205s03": ["func", "ds205", "--compcor", "columns", "--gsr-source", "global_signal"],
        "ds114s01": ["dwi", "ds000114", "--sloppy", "--streamlines", N_STREAMLINES],
    }
    done = {}
    for participant, (modality, name, *more) in options.items():
        done[participant] = run(
            root / "data", results, "participant", "--participant-label", participant,
            "--modality", modality, *more, "-w", work, "--keep-work", "--nprocs", 2,
            "--atlas-file", *(f"{atlas}={REAL / f'atlas-{atlas}_{name}.nii.gz'}"
                              for atlas in ATLASES),
            "--model", small_model, "--adaptation", "none", "--output-label", "real",
        )  # fmt: skip
    return Scans(
        results, results / "derivatives" / "krakencoder-real", work,
        {key: value.text for key, value in done.items()},
        {key: value.code for key, value in done.items()},
    )  # fmt: skip


def test_both_scans_go_through(scans):
    assert scans.codes == {"ds205s03": 0, "ds114s01": 0}, scans.told
