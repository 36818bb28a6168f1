# SPDX-License-Identifier: MIT
"""B-vectors with two axes exchanged: refused before tracking; mended, the same line goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

pytestmark = pytest.mark.slow


def draw_bundles(
    shape: tuple[int, ...], voxel_mm: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Directions on the voxel axes, (X, Y, Z, 3), of straight bundles that run any way."""
    places = np.stack(np.indices(shape), axis=-1) * voxel_mm
    directions = np.zeros((*shape, 3))
    for _ in range(80):
        along = rng.normal(size=3)
        along /= np.linalg.norm(along)
        away = places - rng.uniform(0, 1, 3) * places[-1, -1, -1]
        distance = np.linalg.norm(away - (away @ along)[..., None] * along, axis=-1)
        directions[distance < 10] = along
    return directions


@pytest.fixture
def bvec_file(study: Path, rng: np.random.Generator) -> Path:
    """B-vectors of a participant whose fibres run in bundles; in the demo's they do not."""
    (dwi_file,) = study.glob("derivatives/qsiprep/sub-01/dwi/*_desc-preproc_dwi.nii.gz")
    stem = dwi_file.parent / dwi_file.name.removesuffix(".nii.gz")
    image = nib.load(dwi_file)
    bvecs = np.loadtxt(f"{stem}.bvec")
    if np.linalg.det(image.affine[:3, :3]) > 0:
        bvecs = bvecs * np.array([[-1], [1], [1]])  # FSL's frame
    directions = draw_bundles(image.shape[:3], np.linalg.norm(image.affine[:3, :3], axis=0), rng)
    signal = np.exp(-np.loadtxt(f"{stem}.bval") * (0.2e-3 + 1.5e-3 * (directions @ bvecs) ** 2))
    signal *= 1 + 0.02 * rng.normal(size=signal.shape)
    values = (image.get_fdata()[..., :1] * signal).astype(np.float32)
    dwi_file.unlink()
    nib.save(nib.Nifti1Image(values, image.affine), dwi_file)
    return Path(f"{stem}.bvec")


def test_exchanged_axes_are_refused_and_mended_ones_taken(
    study: Path, bvec_file: Path, run: Callable, listed: Callable, tmp_path: Path
) -> None:
    right = bvec_file.readlink()
    bvec_file.unlink()
    np.savetxt(bvec_file, np.loadtxt(right)[[1, 0, 2]], fmt="%.6f")
    words = [
        study, tmp_path / "results", "participant", "--participant-label", "01",
        "--modality", "dwi", "--atlases", "fs86", "--sloppy", "--streamlines", "300",
        "-w", tmp_path / "work",
    ]  # fmt: skip

    done = run(*words)
    assert done.code == 1, done.text
    assert "b-vectors seem to be wrong: with the rows y, x, z in place of x, y, z" in done.text
    assert str(bvec_file) in done.text
    assert "--force takes them as they are" in done.text
    assert "Traceback" not in done.text
    assert not [name for name in listed(tmp_path / "results") if name.endswith("_relmat.tsv")]

    bvec_file.unlink()
    bvec_file.symlink_to(right)
    done = run(*words)
    assert done.code == 0, done.text
    made = [name for name in listed(tmp_path / "results") if name.endswith("_relmat.tsv")]
    assert len(made) == 4
