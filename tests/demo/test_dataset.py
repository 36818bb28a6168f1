# SPDX-License-Identifier: MIT
"""The simulated data set as files: names, headers, sidecars, spaces."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from kraken_bids.atlases import load_atlas
from kraken_bids.demo.dataset import TINY, write_dataset
from kraken_bids.demo.images import write_image
from kraken_bids.errors import UsageError

pytestmark = pytest.mark.slow

FMRIPREP = """\
anat/sub-01_desc-aparcaseg_dseg.nii.gz anat/sub-01_desc-aseg_dseg.nii.gz
anat/sub-01_desc-brain_mask.json anat/sub-01_desc-brain_mask.nii.gz
anat/sub-01_desc-preproc_T1w.json anat/sub-01_desc-preproc_T1w.nii.gz anat/sub-01_dseg.nii.gz
anat/sub-01_from-MNI152NLin6Asym_to-T1w_mode-image_xfm.h5
anat/sub-01_from-T1w_to-MNI152NLin6Asym_mode-image_xfm.h5
anat/sub-01_from-T1w_to-fsnative_mode-image_xfm.txt
anat/sub-01_from-fsnative_to-T1w_mode-image_xfm.txt
anat/sub-01_label-CSF_probseg.nii.gz anat/sub-01_label-GM_probseg.nii.gz
anat/sub-01_label-WM_probseg.nii.gz
func/sub-01_task-rest_desc-brain_mask.nii.gz
func/sub-01_task-rest_desc-confounds_timeseries.json
func/sub-01_task-rest_desc-confounds_timeseries.tsv
func/sub-01_task-rest_desc-coreg_boldref.nii.gz
func/sub-01_task-rest_from-boldref_to-T1w_mode-image_desc-coreg_xfm.txt
func/sub-01_task-rest_space-T1w_boldref.nii.gz
func/sub-01_task-rest_space-T1w_desc-brain_mask.json
func/sub-01_task-rest_space-T1w_desc-brain_mask.nii.gz
func/sub-01_task-rest_space-T1w_desc-preproc_bold.json
func/sub-01_task-rest_space-T1w_desc-preproc_bold.nii.gz"""

QSIPREP = """\
anat/sub-01_from-ACPC_to-MNI152NLin2009cAsym_mode-image_xfm.h5
anat/sub-01_from-ACPC_to-anat_mode-image_xfm.mat
anat/sub-01_from-MNI152NLin2009cAsym_to-ACPC_mode-image_xfm.h5
anat/sub-01_from-anat_to-ACPC_mode-image_xfm.mat anat/sub-01_space-ACPC_desc-aseg_dseg.nii.gz
anat/sub-01_space-ACPC_desc-brain_mask.json anat/sub-01_space-ACPC_desc-brain_mask.nii.gz
anat/sub-01_space-ACPC_desc-preproc_T1w.json anat/sub-01_space-ACPC_desc-preproc_T1w.nii.gz
anat/sub-01_space-ACPC_dseg.nii.gz anat/sub-01_space-ACPC_label-CSF_probseg.nii.gz
anat/sub-01_space-ACPC_label-GM_probseg.nii.gz anat/sub-01_space-ACPC_label-WM_probseg.nii.gz
dwi/sub-01_desc-confounds_timeseries.tsv dwi/sub-01_space-ACPC_desc-brain_mask.json
dwi/sub-01_space-ACPC_desc-brain_mask.nii.gz dwi/sub-01_space-ACPC_desc-image_qc.tsv
dwi/sub-01_space-ACPC_desc-preproc_dwi.b dwi/sub-01_space-ACPC_desc-preproc_dwi.b_table.txt
dwi/sub-01_space-ACPC_desc-preproc_dwi.bval dwi/sub-01_space-ACPC_desc-preproc_dwi.bvec
dwi/sub-01_space-ACPC_desc-preproc_dwi.json dwi/sub-01_space-ACPC_desc-preproc_dwi.nii.gz
dwi/sub-01_space-ACPC_dwiref.nii.gz"""


def digests(folder):
    """SHA-256 of every file."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*")) if path.is_file()
    }  # fmt: skip


def resample(sitk, moving, reference, transform):
    """Labels of `moving` on the grid of `reference`, as ITK resamples by a transform file."""
    return sitk.Resample(
        sitk.ReadImage(str(moving)), sitk.ReadImage(str(reference)),
        sitk.ReadTransform(str(transform)), sitk.sitkNearestNeighbor,
    )  # fmt: skip


@pytest.mark.parametrize(("name", "listing"), [("fmriprep", FMRIPREP), ("qsiprep", QSIPREP)])
def test_files_have_the_names_that_the_program_gives(tiny_demo, name, listing):
    root = tiny_demo / "derivatives" / name
    folder = root / "sub-01"
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == set(listing.split())
    description = json.loads((root / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"].lower() == name
    assert len(list(root.glob("sub-*"))) == 2


def test_data_set_and_derivatives_are_valid_bids(tiny_demo):
    validator = Path(sys.executable).with_name("bids-validator-deno")
    if not validator.exists():
        pytest.skip("bids-validator-deno is not installed")
    done = subprocess.run(
        [validator, tiny_demo, "--format", "json"], capture_output=True, text=True, check=False
    )
    issues = json.loads(done.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []


def test_root_lists_participants_and_labels(tiny_demo):
    rows = (tiny_demo / "participants.tsv").read_text().splitlines()
    assert [row.split("\t")[0] for row in rows] == ["participant_id", "sub-01", "sub-02"]
    table = (tiny_demo / "derivatives/fmriprep/desc-aparcaseg_dseg.tsv").read_text().splitlines()
    codes = {int(row.split("\t")[0]) for row in table[1:]}
    assert {region.code for region in load_atlas("fs86").regions} < codes


def test_series_has_header_and_sidecar_of_fmriprep(tiny_demo):
    stem = tiny_demo / "derivatives/fmriprep/sub-01/func/sub-01_task-rest_space-T1w_desc-"
    image = nib.load(f"{stem}preproc_bold.nii.gz")
    assert image.shape[3] == TINY.n_volumes
    assert image.get_data_dtype() == np.int16
    assert image.dataobj.slope != 1
    np.testing.assert_allclose(image.header.get_zooms(), (6, 6, 6, 2), rtol=1e-5)
    assert nib.affines.obliquity(image.affine).max() > np.radians(1)
    mask = nib.load(f"{stem}brain_mask.nii.gz")
    assert mask.shape == image.shape[:3]
    np.testing.assert_allclose(mask.affine, image.affine)
    sidecar = json.loads((stem.parent / f"{stem.name}preproc_bold.json").read_text())
    assert sidecar["RepetitionTime"] == 2.0
    assert sidecar["TaskName"] == "rest"
    assert sidecar["SkullStripped"] is False


def test_diffusion_volumes_and_gradients_agree(tiny_demo):
    stem = tiny_demo / "derivatives/qsiprep/sub-01/dwi/sub-01_space-ACPC_desc-preproc_dwi"
    image = nib.load(f"{stem}.nii.gz")
    assert "".join(nib.aff2axcodes(image.affine)) == "LPS"
    bvals, bvecs = np.loadtxt(f"{stem}.bval"), np.loadtxt(f"{stem}.bvec")
    assert image.shape[3] == bvals.size == bvecs.shape[1] == sum(TINY.shells.values())
    assert sorted(set(bvals)) == sorted(TINY.shells)
    world = np.loadtxt(f"{stem}.b")
    # Voxels run to the left and back, and x is negated for a positive determinant.
    np.testing.assert_allclose(world[:, :3] * [1, -1, 1], bvecs.T, atol=1e-6)


def test_all_regions_survive_on_the_grid_of_the_segmentation(tiny_demo):
    folder = tiny_demo / "derivatives/fmriprep/sub-02/anat"
    codes = np.asarray(nib.load(folder / "sub-02_desc-aparcaseg_dseg.nii.gz").dataobj)
    assert {region.code for region in load_atlas("fs86").regions} <= set(np.unique(codes))


@pytest.mark.parametrize("atlas", ["shen268", "coco439"])
def test_atlas_images_follow_the_transforms_into_the_participants_brain(tiny_demo, atlas):
    sitk = pytest.importorskip("SimpleITK")
    image = nib.load(tiny_demo / f"atlases/{atlas}_dseg.nii.gz")
    assert image.shape == (91, 109, 91)
    assert int(np.asarray(image.dataobj).max()) == load_atlas(atlas).n_regions
    anat = tiny_demo / "derivatives/fmriprep/sub-01/anat"
    segmentation = anat / "sub-01_desc-aparcaseg_dseg.nii.gz"
    moved = resample(
        sitk, tiny_demo / f"atlases/{atlas}_dseg.nii.gz", segmentation,
        anat / "sub-01_from-MNI152NLin6Asym_to-T1w_mode-image_xfm.h5",
    )  # fmt: skip
    labels = sitk.GetArrayFromImage(moved)
    codes = sitk.GetArrayFromImage(sitk.ReadImage(str(segmentation)))
    cortex = (codes >= 1000) | np.isin(codes, (8, 47, 10, 49, 11, 50, 12, 51))
    assert np.count_nonzero(labels[cortex]) > 0.93 * cortex.sum()
    bold = tiny_demo / "derivatives/fmriprep/sub-01/func"
    coarse = resample(
        sitk, tiny_demo / f"atlases/{atlas}_dseg.nii.gz",
        bold / "sub-01_task-rest_space-T1w_boldref.nii.gz",
        anat / "sub-01_from-MNI152NLin6Asym_to-T1w_mode-image_xfm.h5",
    )  # fmt: skip
    present = set(np.unique(sitk.GetArrayFromImage(coarse))) - {0}
    assert len(present) >= {"shen268": 268, "coco439": 430}[atlas]


def test_rigid_transform_takes_the_t1w_image_to_acpc_space(tiny_demo):
    sitk = pytest.importorskip("SimpleITK")
    native = tiny_demo / "derivatives/fmriprep/sub-01/anat/sub-01_desc-aseg_dseg.nii.gz"
    anat = tiny_demo / "derivatives/qsiprep/sub-01/anat"
    turned = anat / "sub-01_space-ACPC_desc-aseg_dseg.nii.gz"
    there = sitk.GetArrayFromImage(sitk.ReadImage(str(turned)))
    agreement = {}
    for name in ("from-anat_to-ACPC", "from-ACPC_to-anat"):
        moved = resample(sitk, native, turned, anat / f"sub-01_{name}_mode-image_xfm.mat")
        agreement[name] = np.mean((sitk.GetArrayFromImage(moved) == there)[there > 0])
    assert agreement["from-anat_to-ACPC"] > 0.85
    assert agreement["from-ACPC_to-anat"] < agreement["from-anat_to-ACPC"] - 0.2


def test_same_seed_gives_the_same_bytes_with_any_number_of_processes(tmp_path):
    size = replace(
        TINY, anatomy_mm=5.0, bold_mm=8.0, dwi_mm=9.0, n_volumes=40, shells={0: 1, 1000: 6}
    )
    for name, n_procs in (("one", 1), ("two", 2)):
        write_dataset(
            tmp_path / name, n_participants=2, n_runs=2, seed=1, size=size, n_procs=n_procs
        )
    first, second = digests(tmp_path / "one"), digests(tmp_path / "two")
    assert first == second
    runs = [name for name in first if "sub-01" in name and name.endswith("preproc_bold.nii.gz")]
    assert len(runs) == 2
    assert len({first[name] for name in runs}) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_images_keep_whole_numbers_and_their_scale(tmp_path):
    data = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    write_image(tmp_path / "a" / "x.nii.gz", data, np.eye(4), slope=0.5, sidecar={"A": 1})
    image = nib.load(tmp_path / "a" / "x.nii.gz")
    np.testing.assert_array_equal(image.dataobj.get_unscaled(), data)
    np.testing.assert_array_equal(image.get_fdata(), data / 2)
    assert json.loads((tmp_path / "a" / "x.json").read_text()) == {"A": 1}


@pytest.mark.parametrize("number", [1, 21])
def test_number_of_participants_has_limits(tmp_path, number):
    with pytest.raises(UsageError, match="from 2 to 20"):
        write_dataset(tmp_path / "x", n_participants=number)


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"not empty.*new folder"):
        write_dataset(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
