# SPDX-License-Identifier: MIT
"""QSIRecon's connectivity files given to the participant level."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from kraken_bids.atlases import load_atlas
from kraken_bids.errors import InputError
from kraken_bids.formats.reading.opening import open_inputs
from kraken_bids.ready_connectomes import _of_size
from kraken_bids.ready_streamlines import described, volumes_mm3, with_volumes
from tests.app.conftest import kraken
from tests.conftest import write_json

REGIONS = load_atlas("fs86").regions
N = len(REGIONS)
#: Order of regions in QSIRecon's files, and the one that has no voxel (position in the atlas).
ORDER, GONE = np.random.default_rng(2).permutation(N), 17
COUNT, VOLNORM = "SCifod2act_fs86_count", "SCifod2act_fs86_volnorm"
VOXEL_MM = 2.0


def counts(seed: int = 0) -> np.ndarray:
    """Numbers of streamlines in the order of the atlas."""
    upper = np.triu(np.random.default_rng(seed).integers(1, 9000, (N, N)), 1)
    upper[GONE] = upper[:, GONE] = 0
    return (upper + upper.T).astype(float)


def n_voxels() -> np.ndarray:
    return np.where(np.arange(N) == GONE, 0, 3 + np.arange(N) % 11)


def write_qsirecon(root: Path, *, workflow="MRtrix3_act-HSVS", n_streamlines=10_000_000,
                   image_in="") -> Path:  # fmt: skip
    """A data set of QSIRecon as version 1 names it; gives the file of matrices."""
    description = {"Name": "qsirecon", "BIDSVersion": "1.10.0", "DatasetType": "derivative",
                   "GeneratedBy": [{"Name": "QSIRecon", "Version": "1.1.0"}]}  # fmt: skip
    data_set = root / "derivatives" / f"qsirecon-{workflow}"
    for folder in (root, data_set):
        write_json(folder / "dataset_description.json", description)
    dwi = data_set / "sub-01" / "dwi"
    dwi.mkdir(parents=True)
    stem = "sub-01_dir-AP_space-ACPC"
    matrix = counts()[np.ix_(ORDER, ORDER)]
    fields = {
        "atlas_fs86_region_ids": ORDER + 1,
        "atlas_fs86_radius2_count_connectivity": matrix,
        "atlas_fs86_sift_invnodevol_radius2_count_connectivity": matrix / 7,
        "atlas_fs86_radius2_meanlength_connectivity": matrix,
    }
    savemat(dwi / f"{stem}_model-ifod2_connectivity.mat", fields, long_field_names=True)
    labels = np.repeat(np.arange(1, N + 1), n_voxels())
    image = np.zeros((10, 10, 10), np.int16)
    image.ravel()[: labels.size] = labels
    images = (data_set.with_name(image_in) if image_in else data_set) / "sub-01" / "dwi"
    images.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-VOXEL_MM, VOXEL_MM, VOXEL_MM, 1])
    nib.save(nib.Nifti1Image(image, affine), images / f"{stem}_seg-fs86_dseg.nii.gz")
    if n_streamlines:
        header = (
            f"mrtrix tracks\nmethod: iFOD2\nact: 5tt.mif\nmin_dist: 30\ncount: {n_streamlines}"
        )
        name = f"{stem}_model-ifod2_streamlines.tck"
        (dwi / name).write_text(f"{header}\ndatatype: Float32LE\nfile: . 200\nEND\n")
    return dwi / f"{stem}_model-ifod2_connectivity.mat"


def opened(root: Path):
    return with_volumes(open_inputs([str(root)], {}, latent_size=0, option="-d"), _of_size)


def expected(n_streamlines: int = 10_000_000) -> tuple[np.ndarray, np.ndarray]:
    """Counts and volume-normalised counts, edge by edge from the formula."""
    scaled, volumes = counts() * 5e6 / n_streamlines, n_voxels() * VOXEL_MM**3
    volnorm = np.zeros((N, N))
    for i in range(N):
        for j in range(N):
            if i != j and GONE not in (i, j):
                volnorm[i, j] = 2 * scaled[i, j] * 1.953125 / (volumes[i] + volumes[j])
    volnorm[GONE] = volnorm[:, GONE] = np.nan
    return scaled, volnorm


@pytest.mark.parametrize("image_in", ["", "qsirecon-anat"])
def test_counts_are_scaled_and_divided_by_the_volumes_of_its_own_image(tmp_path, image_in):
    write_qsirecon(tmp_path, image_in=image_in)
    found = opened(tmp_path)
    assert sorted(found) == [COUNT, VOLNORM]
    for name, matrix in zip((COUNT, VOLNORM), expected(), strict=True):
        np.testing.assert_allclose(found[name].read_square(0), matrix, rtol=1e-12)
        edges = matrix[np.triu_indices(N, 1)]
        np.testing.assert_allclose(found[name].read([0])[0], edges, rtol=1e-6)


def test_without_the_number_of_streamlines_nothing_is_scaled_and_that_is_told(tmp_path):
    file = write_qsirecon(tmp_path, n_streamlines=0)
    np.testing.assert_array_equal(opened(tmp_path)[COUNT].read_square(0), counts())
    told = described(file, COUNT)
    assert "StreamlineCount" not in told
    assert "not scaled to 5 million" in told["DifferencesFromTraining"]


def test_without_label_image_there_is_no_volume_normalised_connectome(tmp_path, caplog):
    write_qsirecon(tmp_path)
    next(tmp_path.rglob("*_dseg.nii.gz")).unlink()
    assert list(opened(tmp_path)) == [COUNT]
    assert "no volume-normalised connectome, QSIRecon's label image" in caplog.text


def test_image_with_other_labels_than_the_matrices_is_refused(tmp_path):
    file = write_qsirecon(tmp_path)
    image = next(tmp_path.rglob("*_dseg.nii.gz"))
    values = np.asarray(nib.load(image).dataobj).copy()
    values[9, 9, 9] = 900
    nib.save(nib.Nifti1Image(values, np.eye(4)), image)
    with pytest.raises(InputError, match=r"values that the matrices do not name: 900"):
        volumes_mm3(file, COUNT)


@pytest.mark.slow
def test_participant_level_takes_them_with_their_bias(tmp_path):
    write_qsirecon(tmp_path / "qsirecon")
    (tmp_path / "bids").mkdir()
    done = kraken(tmp_path / "bids", tmp_path / "out", "participant", "--atlases", "fs86",
                  "-w", tmp_path / "work", "--nprocs", 1,
                  "-d", f"connectomes={tmp_path / 'qsirecon'}")  # fmt: skip
    assert done.code == 0, done.text
    assert "sift2volnorm of QSIRecon is left out" in done.text
    folder = tmp_path / "out" / "sub-01" / "dwi"
    tables = {path.name.split("meas-")[1].split("_")[0]: path
              for path in sorted(folder.glob("*_relmat.tsv"))}  # fmt: skip
    assert len(tables) == 2
    for path, matrix in zip(tables.values(), expected(), strict=True):
        table = pd.read_csv(path, sep="\t", index_col=0, na_values="n/a").to_numpy()
        matrix[GONE] = matrix[:, GONE] = np.nan if np.isnan(matrix[GONE, 0]) else 0
        np.testing.assert_allclose(table, matrix, rtol=1e-5)
    sidecar = json.loads(next(iter(tables.values())).with_suffix(".json").read_text())
    assert sidecar["StreamlineCount"] == 10_000_000
    assert sidecar["AssignmentRadius"] == 2
    assert "ends were assigned within 2 mm" in sidecar["DifferencesFromTraining"]
    assert sidecar["Origin"] == "given, not measured here; by QSIRecon"
