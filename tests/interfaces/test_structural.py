# SPDX-License-Identifier: MIT
from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from kraken_bids.errors import InputError, ResourceError
from kraken_bids.images.gradient_check import AxisCheck
from kraken_bids.images.streamline_ends import AssignedStreamlines
from kraken_bids.interfaces import structural
from kraken_bids.interfaces.structural import (
    CheckDiffusion,
    CollectOverview,
    PrepareFiveTissue,
)

AFFINE = np.diag([2.0, 2, 2, 1])


def save(file, values, affine=AFFINE):
    nib.save(nib.Nifti1Image(values, affine), file)
    return str(file)


@pytest.fixture
def diffusion(tmp_path, monkeypatch):
    """Inputs of a series of 6 x 6 x 6 voxels and 8 volumes."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    bvals = np.array([0, 1000, 1000, 5, 2000, 2000, 2000, 1000])
    bvecs = rng.normal(size=(8, 3))
    bvecs /= np.linalg.norm(bvecs, axis=1, keepdims=True)
    np.savetxt(tmp_path / "dwi.bval", bvals[None], fmt="%d")
    np.savetxt(tmp_path / "dwi.bvec", bvecs.T, fmt="%.6f")
    values = rng.integers(1, 900, (6, 6, 6, 8)).astype(np.int16)
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
    assert np.loadtxt(bval_file).tolist() == [0, 1000, 1000, 0, 2000, 2000, 2000, 1000]
    assert np.loadtxt(bvec_file).shape == (3, 8)
    expected = nib.load(diffusion["dwi_file"]).get_fdata()[..., [0, 3]].mean(axis=-1)
    np.testing.assert_allclose(nib.load(outputs.b0_file).get_fdata(), expected)
    assert json.loads(Path(outputs.facts_file).read_text()) == {
        "n_volumes": 8,
        "n_b0": 2,
        "shells": "1000, 2000",
        "directions": "3, 3",
        "voxel_mm": 2.0,
        "bvec_gain": 1.0,
    }
    assert (outputs.response_algorithm, outputs.fod_algorithm) == ("dhollander", "msmt_csd")


def test_series_without_b0_has_one_tissue_and_that_is_told(diffusion, tmp_path):
    np.savetxt(tmp_path / "dwi.bval", np.array([[2000, 1000, 1000, 1000, 2000, 2000, 2000, 1000]]))
    bvecs = np.loadtxt(tmp_path / "dwi.bvec")
    np.savetxt(tmp_path / "dwi.bvec", bvecs / np.linalg.norm(bvecs, axis=0))
    outputs = CheckDiffusion(**diffusion).run().outputs
    assert (outputs.response_algorithm, outputs.fod_algorithm) == ("tournier", "csd")
    assert "no b = 0" in json.loads(Path(outputs.facts_file).read_text())["fods_bias"]
    expected = nib.load(diffusion["dwi_file"]).get_fdata()[..., [1, 2, 3, 7]].mean(axis=-1)
    np.testing.assert_allclose(nib.load(outputs.b0_file).get_fdata(), expected)


def test_wrong_b_vectors_are_refused_with_how_to_mend_them_unless_forced(caplog):
    wrong = AxisCheck(((0, 1, 2), (1, -1, 1)), 1.31, 5000, 8.0)
    message = r"b-vectors seem to be wrong: with the rows x, -y, z .* 31% more .*--force"
    with pytest.raises(InputError, match=message):
        structural.require_axes(wrong, bvec_file=Path("a.bvec"), force=False)
    structural.require_axes(wrong, bvec_file=Path("a.bvec"), force=True)
    assert "b-vectors seem to be wrong" in caplog.text


def test_gradients_of_another_series_are_refused(diffusion, tmp_path):
    np.savetxt(tmp_path / "dwi.bval", np.zeros((1, 5)))
    with pytest.raises(InputError, match="8 volumes, 5 b-values and 8 b-vectors"):
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


def test_overview_is_on_the_grid_of_its_background(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    regions = {"fs86": np.int16([[1, 2], [2, 0]])}
    AssignedStreamlines(regions, np.float32([3, 5])).save(tmp_path / "assignments.npz")
    tissues = np.zeros((12, 12, 12, 5), np.float32)
    tissues[..., 2] = 1
    fine = np.diag([1.0, 1, 1, 1])
    outputs = CollectOverview(
        background_file=save(tmp_path / "b0.nii.gz", np.ones((6, 6, 6), np.float32)),
        density_file=save(tmp_path / "tdi.nii.gz", np.full((6, 6, 6), 2, np.float32)),
        five_tissue_file=save(tmp_path / "5tt.nii.gz", tissues, fine),
        algorithms=["ifod2act"],
        assignments_files=[str(tmp_path / "assignments.npz")],
        fod_file=save(tmp_path / "fod.nii.gz", np.ones((12, 12, 12, 3), np.float32), fine),
    ).run().outputs  # fmt: skip
    with np.load(outputs.overview_file) as overview:
        assert overview["background"].shape == overview["density"].shape == (6, 6, 6)
        assert overview["five_tissue"].shape == (6, 6, 6, 5)
        assert overview["five_tissue"][..., 2].all()
        np.testing.assert_array_equal(overview["affine"], AFFINE)
        assert overview["lengths_ifod2act"].tolist() == [3, 5]
        assert overview["ends_ifod2act_fs86"].tolist() == [1, 2, *[0] * 84]
        assert overview["orientation"].shape == (6, 6, 6, 3)


def test_image_made_in_another_space_is_moved_and_not_interpolated(mask_file, tmp_path):
    """The way is 10 mm to the left (x grows to the left in ITK's frame)."""
    step = tmp_path / "xfm.txt"
    step.write_text(
        "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
        "Parameters: 1 0 0 0 1 0 0 0 1 -10 0 0\nFixedParameters: 0 0 0\n"
    )
    away = AFFINE.copy()
    away[0, 3] = 10
    made = save(tmp_path / "5tt.nii.gz", tissue_values(), away)
    steps = [{"file": str(step), "source": "fsnative", "target": "ACPC", "inverted": False}]
    prepare = PrepareFiveTissue(five_tissue_file=made, mask_file=mask_file, steps=steps)
    image = nib.load(prepare.run().outputs.out_file)
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-6)
    np.testing.assert_array_equal(image.get_fdata(), tissue_values())
