# SPDX-License-Identifier: MIT
from __future__ import annotations

import shutil
import subprocess

import nibabel as nib
import numpy as np
import pytest

from kraken_bids.images.fod_colours import orientation_colours


@pytest.mark.skipif(shutil.which("amp2sh") is None, reason="MRtrix3 is not there")
def test_colours_are_the_axes_that_fibres_run_along(tmp_path):
    """Fibres along x, y, z and in the plane of x and y, as harmonics by MRtrix3 itself."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(90, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    fibres = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0] / np.sqrt(2)])
    amplitudes = (fibres @ directions.T) ** 4
    nib.save(nib.Nifti1Image(amplitudes[:, None, None].astype("f4"), np.eye(4)),
             tmp_path / "amp.nii")  # fmt: skip
    angles = [np.arctan2(directions[:, 1], directions[:, 0]), np.arccos(directions[:, 2])]
    np.savetxt(tmp_path / "directions.txt", np.stack(angles, axis=1))
    for words in (
        ["amp2sh", "amp.nii", "sh.mif", "-lmax", "4", "-directions", "directions.txt"],
        ["mrconvert", "sh.mif", "kept.nii", "-coord", "3", "0,3,5"],
    ):
        subprocess.run([*words, "-quiet"], check=True, cwd=tmp_path)
    colours = orientation_colours(nib.load(tmp_path / "kept.nii").get_fdata())[:, 0, 0]
    assert colours[:3].argmax(axis=1).tolist() == [0, 1, 2]
    assert (np.sort(colours[:3], axis=1)[:, 1] < 0.2).all()
    assert colours[3, 0] == pytest.approx(colours[3, 1], abs=0.02)
    assert colours[3, 2] < 0.2


def test_no_fibre_is_black():
    assert not orientation_colours(np.zeros((2, 2, 2, 3))).any()
