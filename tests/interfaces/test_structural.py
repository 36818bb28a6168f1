# SPDX-License-Identifier: MIT
from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from kraken_bids.atlases import load_atlas
from kraken_bids.errors import InputError, ResourceError
from kraken_bids.interfaces import structural
from kraken_bids.interfaces.structural import (
    BuildConnectomes,
    CheckDiffusion,
    CollectOverview,
    MeasureTractogram,
    PrepareFiveTissue,
)

AFFINE = np.diag([2.0, 2, 2, 1])


def save(file, values, affine=AFFINE):
    nib.save(nib.Nifti1Image(values, affine), file)
    return str(file)


@pytest.fixture
def diffusion(tmp_path, monkeypatch):
    """Inputs of a series of 6 x 6 x 6 voxels and 7 volumes."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    bvals = np.array([0, 1000, 1000, 5, 2000, 2000, 2000])
    bvecs = rng.normal(size=(7, 3))
    bvecs /= np.linalg.norm(bvecs, axis=1, keepdims=True)
    np.savetxt(tmp_path / "dwi.bval", bvals[None], fmt="%d")
    np.savetxt(tmp_path / "dwi.bvec", bvecs.T, fmt="%.6f")
    values = rng.integers(1, 900, (6, 6, 6, 7)).astype(np.int16)
    return {
        "dwi_file": save(tmp_path / "dwi.nii.gz", values),
        "bval_file": str(tmp_path / "dwi.bval"),
        "bvec_file": str(tmp_path / "dwi.bvec"),
        "mask_file": save(tmp_path / "mask.nii.gz", np.ones((6, 6, 6), np.uint8)),
    }


def test_check_hands_on_gradients_mean_and_facts(diffusion):
    outputs = CheckDiffusion(**diffusion).run().outputs
    assert outputs.n_shells == 2
    assert outputs.erosion == 3
    bvec_file, bval_file = outputs.gradient_files
    assert np.loadtxt(bval_file).tolist() == [0, 1000, 1000, 0, 2000, 2000, 2000]
    assert np.loadtxt(bvec_file).shape == (3, 7)
    expected = nib.load(diffusion["dwi_file"]).get_fdata()[..., [0, 3]].mean(axis=-1)
    np.testing.assert_allclose(nib.load(outputs.b0_file).get_fdata(), expected)
    assert json.loads(Path(outputs.facts_file).read_text()) == {
        "n_volumes": 7,
        "n_b0": 2,
        "shells": "1000, 2000",
        "directions": "2, 3",
        "voxel_mm": 2.0,
    }


def test_gradients_of_another_series_are_refused(diffusion, tmp_path):
    np.savetxt(tmp_path / "dwi.bval", np.zeros((1, 5)))
    with pytest.raises(InputError, match="7 volumes, 5 b-values and 7 b-vectors"):
        CheckDiffusion(**diffusion).run()


def test_mask_on_another_grid_is_refused(diffusion, tmp_path):
    save(tmp_path / "mask.nii.gz", np.ones((6, 6, 5), np.uint8))
    with pytest.raises(InputError, match=r"6 x 6 x 6 voxels, its brain mask has 6 x 6 x 5"):
        CheckDiffusion(**diffusion).run()


def test_mask_elsewhere_is_refused(diffusion, tmp_path):
    moved = AFFINE.copy()
    moved[0, 3] = 3
    save(tmp_path / "mask.nii.gz", np.ones((6, 6, 6), np.uint8), moved)
    with pytest.raises(InputError, match=r"up to 3\.00 mm apart"):
        CheckDiffusion(**diffusion).run()


def test_series_cut_short_is_refused(diffusion, tmp_path):
    file = tmp_path / "dwi.nii.gz"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"cut short or damaged.*dwi\.nii\.gz"):
        CheckDiffusion(**diffusion).run()


def test_too_little_room_is_told_before_the_start(diffusion, monkeypatch):
    monkeypatch.setattr(structural.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    check = CheckDiffusion(**diffusion, n_streamlines=5_000_000, point_spacing_mm=[0.625, 0.375])
    message = r"take about \d+\.\d GB, 1\.0 GB are free .* --work-dir on a larger disk"
    with pytest.raises(ResourceError, match=message):
        check.run()


@pytest.fixture
def mask_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mask = np.zeros((6, 6, 6), np.uint8)
    mask[1:5, 1:5, 1:5] = 1
    return save(tmp_path / "mask.nii.gz", mask)


def tissue_values():
    values = np.zeros((6, 6, 6, 5), np.float32)
    values[1:5, 1:5, 1:3, 0] = 1
    values[1:5, 1:5, 3:5, 2] = 1
    return values


def test_five_tissue_image_is_made_from_freesurfer_labels(mask_file, tmp_path):
    labels = np.zeros((6, 6, 6), np.int16)
    labels[1:5, 1:5, 1:3], labels[1:5, 1:5, 3:5] = 1002, 41
    outputs = PrepareFiveTissue(
        labels_file=save(tmp_path / "aparc.nii.gz", labels), mask_file=mask_file
    ).run().outputs  # fmt: skip
    np.testing.assert_array_equal(nib.load(outputs.out_file).get_fdata(), tissue_values())


def test_five_tissue_image_is_made_from_maps(mask_file, tmp_path):
    values = tissue_values()
    files = [
        save(tmp_path / f"{name}.nii.gz", values[..., volume])
        for name, volume in (("GM", 0), ("WM", 2), ("CSF", 3))
    ]
    outputs = PrepareFiveTissue(probability_files=files, mask_file=mask_file).run().outputs
    np.testing.assert_array_equal(nib.load(outputs.out_file).get_fdata(), values)


def test_maps_of_different_grids_are_refused(mask_file, tmp_path):
    files = [
        save(tmp_path / f"{size}.nii.gz", np.ones((6, 6, size), np.float32)) for size in (6, 5, 4)
    ]
    with pytest.raises(InputError, match=r"tissue maps have shapes \(6, 6, 6\), \(6, 6, 5\)"):
        PrepareFiveTissue(probability_files=files, mask_file=mask_file).run()


def test_ready_five_tissue_image_is_handed_on(mask_file, tmp_path):
    ready = save(tmp_path / "5tt.nii.gz", tissue_values())
    outputs = PrepareFiveTissue(five_tissue_file=ready, mask_file=mask_file).run().outputs
    assert outputs.out_file == ready


def test_ready_image_of_three_volumes_is_refused(mask_file, tmp_path):
    ready = save(tmp_path / "5tt.nii.gz", tissue_values()[..., :3])
    with pytest.raises(InputError, match=r"shape \(6, 6, 6, 3\).*5tt\.nii\.gz"):
        PrepareFiveTissue(five_tissue_file=ready, mask_file=mask_file).run()


def test_tissues_in_another_space_are_refused(mask_file, tmp_path):
    moved = AFFINE.copy()
    moved[:3, 3] = 50
    ready = save(tmp_path / "5tt.nii.gz", tissue_values(), moved)
    with pytest.raises(InputError, match="tissues cover 0% of the diffusion brain mask"):
        PrepareFiveTissue(five_tissue_file=ready, mask_file=mask_file).run()


@pytest.fixture
def tractogram(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [np.array([[0, 0, 0], [0, 3, 4.0]]), np.array([[0, 0, 0], [0, 0, 1], [0, 0, 3.0]])]
    made = nib.streamlines.Tractogram(lines, affine_to_rasmm=np.eye(4))
    nib.streamlines.TckFile(made).save(str(tmp_path / "ready.tck"))
    return str(tmp_path / "ready.tck")


def test_tractogram_is_measured(tractogram):
    outputs = MeasureTractogram(in_file=tractogram, algorithm="sdstream").run().outputs
    assert outputs.tractogram_file == tractogram
    np.testing.assert_allclose(np.load(outputs.lengths_file), [5, 3])
    facts = json.loads(Path(outputs.facts_file).read_text())
    assert facts["sdstream_source"] == "given: ready.tck"
    assert facts["sdstream_n_streamlines"] == 2
    assert facts["sdstream_median_length_mm"] == 4
    assert facts["sdstream_bias"] == "seeding not dynamic"


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """Inputs of `BuildConnectomes`: fs86 without its last and third region; 8 streamlines."""
    monkeypatch.chdir(tmp_path)
    labels = np.zeros((90, 2, 1), np.int16)
    labels[:86, 0, 0] = np.arange(1, 87)
    labels[labels == 3] = 0
    labels[labels == 86] = 0
    table = np.zeros((86, 86))
    table[1, 2] = table[2, 1] = 6
    table[0, 5] = table[5, 0] = 1
    table[4, 4] = 1
    text = "# command_history: tck2connectome\n"
    text += "\n".join(",".join(f"{value:g}" for value in row) for row in table)
    (tmp_path / "counts.csv").write_text(text + "\n")
    volumes = [0.0 if index in {2, 85} else 8.0 for index in range(86)]
    (tmp_path / "volumes.json").write_text(json.dumps({"fs86": volumes}))
    (tmp_path / "facts.json").write_text(json.dumps({"n_volumes": 7}))
    mask = np.ones((45, 2, 1), np.uint8)
    return {
        "algorithms": ["sdstream"],
        "atlases": ["fs86"],
        "counts_files": [str(tmp_path / "counts.csv")],
        "labels_files": [save(tmp_path / "labels.nii.gz", labels)],
        "volumes_file": str(tmp_path / "volumes.json"),
        "facts_files": [str(tmp_path / "facts.json")],
        "mask_file": save(tmp_path / "mask.nii.gz", mask),
        "radius_mm": 4.0,
    }


def test_connectomes_have_all_regions_and_the_training_scale(counted):
    outputs = BuildConnectomes(**counted).run().outputs
    with np.load(outputs.connectomes_file) as made:
        assert sorted(made) == ["SCsdstream_fs86_count", "SCsdstream_fs86_volnorm"]
        count, volnorm = made["SCsdstream_fs86_count"], made["SCsdstream_fs86_volnorm"]
    assert count.shape == volnorm.shape == (86, 86)
    assert np.flatnonzero(np.isnan(np.diagonal(count))).tolist() == [2, 85]
    assert count[0, 1] == 6 * 5e6 / 8
    assert volnorm[0, 1] == pytest.approx(6 * 5e6 / 8 * 1.953125 / 8)


def test_quality_names_missing_and_idle_regions(counted):
    names = load_atlas("fs86").region_names
    quality = json.loads(Path(BuildConnectomes(**counted).run().outputs.qc_file).read_text())
    assert quality["n_volumes"] == 7
    assert quality["assignment_radius_mm"] == 4
    assert quality["sdstream_fs86_assigned_fraction"] == 6 / 8
    assert quality["sdstream_fs86_within_region_fraction"] == 1 / 8
    assert quality["sdstream_fs86_unassigned_fraction"] == 1 / 8
    regions = quality["regions"]["fs86"]
    assert regions["missing"] == [names[2], names[85]]
    assert regions["without_streamlines"]["sdstream"] == list(names[2:])
    assert regions["coverage"][0] == 1
    assert regions["coverage"][44] == 1
    assert regions["coverage"][45] == 0


def test_region_too_small_to_be_measured_counts_as_one_voxel(counted, tmp_path):
    volumes = json.loads(Path(counted["volumes_file"]).read_text())
    volumes["fs86"][0] = 0.0
    Path(counted["volumes_file"]).write_text(json.dumps(volumes))
    outputs = BuildConnectomes(**counted).run().outputs
    with np.load(outputs.connectomes_file) as made:
        # Voxels of 2 mm: 8 mm³.
        assert made["SCsdstream_fs86_volnorm"][0, 1] == pytest.approx(6 * 5e6 / 8 * 1.953125 / 8)
    regions = json.loads(Path(outputs.qc_file).read_text())["regions"]["fs86"]
    assert regions["volume_set_to_one_voxel"] == [load_atlas("fs86").region_names[0]]


def test_labels_beyond_the_atlas_are_refused(counted, tmp_path):
    np.savetxt(tmp_path / "counts.csv", np.ones((88, 88)), delimiter=",")
    with pytest.raises(InputError, match="holds label 87, the atlas has 86 regions"):
        BuildConnectomes(**counted).run()


def test_overview_is_on_the_grid_of_its_background(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "lengths.npy", np.array([3.0, 5.0]))
    tissues = np.zeros((12, 12, 12, 5), np.float32)
    tissues[..., 2] = 1
    fine = np.diag([1.0, 1, 1, 1])
    outputs = CollectOverview(
        background_file=save(tmp_path / "b0.nii.gz", np.ones((6, 6, 6), np.float32)),
        density_file=save(tmp_path / "tdi.nii.gz", np.full((6, 6, 6), 2, np.float32)),
        five_tissue_file=save(tmp_path / "5tt.nii.gz", tissues, fine),
        algorithms=["ifod2act"],
        lengths_files=[str(tmp_path / "lengths.npy")],
    ).run().outputs  # fmt: skip
    with np.load(outputs.overview_file) as overview:
        assert overview["background"].shape == overview["density"].shape == (6, 6, 6)
        assert overview["five_tissue"].shape == (6, 6, 6, 5)
        assert overview["five_tissue"][..., 2].all()
        np.testing.assert_array_equal(overview["affine"], AFFINE)
        assert overview["lengths_ifod2act"].tolist() == [3, 5]
