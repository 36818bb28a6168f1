# SPDX-License-Identifier: MIT
"""Ready FODs and tractograms of other formats through the real programs, and clean re-runs."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import stat
import zipfile
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from kraken_bids.plan import DiffusionRun, FiveTissueMaking, LabelSource
from kraken_bids.settings import StructuralOptions
from kraken_bids.workflows.structural import init_structural_wf

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("tckgen") is None, reason="MRtrix3 is not there"),
]

N_STREAMLINES = 100
AFFINE = np.diag([4.0, 4, 4, 1])
AFFINE[:3, 3] = -36, -20, -24


def write_phantom(folder: Path, bvals) -> DiffusionRun:
    """A block of white matter with fibres along x, between two caps of 43 regions each."""
    rng = np.random.default_rng(0)
    shape = (18, 8, 12)
    x, y, z = np.indices(shape)
    brain = (x > 0) & (x < 17) & (y > 0) & (y < 7) & (z > 0) & (z < 11)
    grey = brain & ((x < 4) | (x > 13))
    fluid = brain & ~grey & (z > 7)
    white = brain & ~grey & ~fluid
    bvals = np.array(bvals)
    bvecs = rng.normal(size=(bvals.size, 3))
    bvecs /= np.linalg.norm(bvecs, axis=1, keepdims=True)
    signal = 1000 * (
        white[..., None] * np.exp(-bvals * (0.25e-3 + 1.45e-3 * bvecs[:, 0] ** 2))
        + 1.15 * grey[..., None] * np.exp(-bvals * 0.8e-3)
        + 2 * fluid[..., None] * np.exp(-bvals * 3e-3)
    )
    noise = rng.normal(0, 20, (2, *signal.shape))
    labels = np.zeros(shape, dtype=np.int16)
    for first, side in ((1, x < 9), (44, x >= 9)):
        index = np.flatnonzero(grey & side)
        labels.ravel()[index] = first + np.arange(index.size) * 43 // index.size

    def save(name: str, values: np.ndarray, dtype: type) -> Path:
        nib.save(nib.Nifti1Image(values.astype(dtype), AFFINE), folder / name)
        return folder / name

    np.savetxt(folder / "dwi.bval", bvals[None], fmt="%d")
    np.savetxt(folder / "dwi.bvec", (bvecs * [-1, 1, 1]).T, fmt="%.6f")
    tissues = np.stack([grey, 0 * grey, white, fluid, 0 * grey], axis=-1)
    return DiffusionRun(
        entities=(("sub", "01"),),
        space="ACPC",
        dwi_file=save("dwi.nii.gz", np.hypot(signal + noise[0], noise[1]), np.int16),
        bval_file=folder / "dwi.bval",
        bvec_file=folder / "dwi.bvec",
        mask_file=save("mask.nii.gz", brain, np.uint8),
        labels=(LabelSource("fs86", save("labels.nii.gz", labels, np.int16), "ACPC"),),
        tissues=None,
        five_tissue_file=save("5tt.nii.gz", tissues, np.float32),
    )


def measure(run: DiffusionRun, base_dir: Path, *, key: str = "") -> Path:
    options = StructuralOptions(n_streamlines=N_STREAMLINES, sloppy=True)
    workflow = init_structural_wf(run, options=options, key=key)
    workflow.base_dir = base_dir
    workflow.config["execution"] = {"crashdump_dir": str(base_dir)}
    workflow.run()
    return base_dir / "structural_wf"


def connectomes(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "connect" / "connectomes.npz", allow_pickle=False) as made:
        return dict(made)


def same(one: Path, other: Path, algorithm: str = "SC") -> bool:
    expected = connectomes(other)
    return all(
        np.allclose(matrix, expected[name], rtol=1e-6, equal_nan=True)
        for name, matrix in connectomes(one).items()
        if name.startswith(algorithm)
    )


@pytest.fixture(scope="module")
def phantom(tmp_path_factory) -> DiffusionRun:
    return write_phantom(tmp_path_factory.mktemp("phantom"), [0, 0, 0] + [1500] * 20)


@pytest.fixture(scope="module")
def tracked(phantom, tmp_path_factory) -> Path:
    return measure(phantom, tmp_path_factory.mktemp("tracked"))


def test_ready_fods_give_what_the_series_gives(phantom, tracked, tmp_path):
    packed = tmp_path / "fod.mif.gz"
    packed.write_bytes(gzip.compress((tracked / "fods" / "fod_wm.mif").read_bytes()))
    none = dict.fromkeys(("dwi_file", "bval_file", "bvec_file"))
    run = replace(phantom, **none, fod_file=packed, notes=(("fods_bias", "FODs of others"),))
    folder = measure(run, tmp_path)
    assert same(folder, tracked)
    assert len(connectomes(folder)) == 4
    assert '"fods_bias": "FODs of others"' in (folder / "connect" / "qc.json").read_text()


def test_series_without_b0_is_tracked_with_one_tissue(tmp_path):
    run = write_phantom(tmp_path, [1000] * 8 + [2000] * 20)
    folder = measure(run, tmp_path)
    command = (folder / "fods" / "command.txt").read_text()
    assert "dwi2fod -force csd" in command
    assert "dwi2response tournier" in (folder / "responses" / "command.txt").read_text()
    assert "no b = 0" in (folder / "connect" / "qc.json").read_text()
    count = np.nan_to_num(connectomes(folder)["SCsdstream_fs86_count"])
    assert count[:43, 43:].sum() > 0.5 * count.sum() / 2


def write_trx(file: Path, streamlines) -> None:
    starts = np.concatenate([[0], np.cumsum([len(item) for item in streamlines])])
    points = np.concatenate(list(streamlines)).astype("<f4")
    header = {"DIMENSIONS": [18, 8, 12], "VOXEL_TO_RASMM": AFFINE.tolist(),
              "NB_VERTICES": len(points), "NB_STREAMLINES": len(streamlines)}  # fmt: skip
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("header.json", json.dumps(header))
        archive.writestr("positions.3.float32", points.tobytes())
        archive.writestr("offsets.uint64", starts.astype("<u8").tobytes())


@pytest.mark.parametrize("extension", ["trk", "trx", "tck.gz"])
def test_tractograms_of_other_formats_give_the_same(phantom, tracked, tmp_path, extension):
    tract = tracked / "track_sdstream" / "sdstream.tck"
    file = tmp_path / f"sub-01_model-sdstream_streamlines.{extension}"
    if extension == "trk":
        header = {"dimensions": np.array((18, 8, 12), "i2"), "voxel_to_rasmm": AFFINE,
                  "voxel_sizes": np.full(3, 4.0), "voxel_order": b"RAS"}  # fmt: skip
        nib.streamlines.save(nib.streamlines.load(tract).tractogram, str(file), header=header)
    elif extension == "trx":
        write_trx(file, nib.streamlines.load(tract).streamlines)
    else:
        file.write_bytes(gzip.compress(tract.read_bytes()))
    run = replace(
        phantom, dwi_file=None, bval_file=None, bvec_file=None, tractograms=(("sdstream", file),)
    )
    folder = measure(run, tmp_path, key="now")
    assert same(folder, tracked, "SCsdstream")
    assert file.stat().st_blocks > 0  # the person's own file stays


def test_tractograms_are_given_back_and_a_second_run_is_clean(phantom, tracked, tmp_path):
    folder = measure(phantom, tmp_path, key="now")
    tract = folder / "track_ifod2act" / "ifod2act.tck"
    made = (folder / "connect" / "connectomes.npz").stat().st_mtime_ns
    assert not tract.read_bytes().strip(b"\0")
    again = measure(phantom, tmp_path, key="now")
    assert (again / "connect" / "connectomes.npz").stat().st_mtime_ns == made
    assert same(again, tracked)


def program(folder: Path, name: str, script: str) -> Path:
    """A program in a folder that stands in for the one of that name."""
    file = folder / "bin" / name
    file.parent.mkdir()
    file.write_text(script)
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file


@pytest.mark.parametrize("algorithm", ["fsl", "hsvs"])
def test_image_that_5ttgen_makes_gives_what_the_same_ready_one_gives(
    phantom, tracked, tmp_path, monkeypatch, algorithm
):
    """The program that stands in copies the phantom's image to where it is told to."""
    script = f'#!/bin/sh\ncp {phantom.five_tissue_file} "$3"\n'
    folder = program(tmp_path, "5ttgen", script).parent
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "sub-01" / "mri").mkdir(parents=True)
    file = tmp_path / "sub-01" / "mri" / "aparc+aseg.mgz"
    making = FiveTissueMaking("hsvs", file)
    if algorithm == "fsl":
        making = FiveTissueMaking("fsl", phantom.mask_file, mask_file=phantom.mask_file)
    made = measure(replace(phantom, five_tissue_file=None, five_tissue_made=making), tmp_path)
    command = (made / "make_five_tissue" / "command.txt").read_text()
    source = making.file if algorithm == "fsl" else file.parents[1]
    assert command.startswith(f"5ttgen {algorithm} {source} five_tissue.nii.gz -force")
    assert same(made, tracked)


#: Programs in place of ``tckgen``: killed half-way, and one that selects nothing.
KILLED = "#!/bin/sh\nfor last; do file=$out; out=$last; done\necho junk > $file\nkill -9 $$\n"
EMPTY = (
    "#!/bin/sh\nfor last; do file=$out; out=$last; done\n"
    "printf 'mrtrix tracks\\ndatatype: Float32LE\\ncount: 0\\nfile: . 80\\nEND\\n' > $file\n"
    "dd if=/dev/zero bs=1 count=$((80 - $(wc -c < $file))) >> $file 2>/dev/null\n"
    "for i in 1 2 3; do printf '\\000\\000\\200\\177' >> $file; done\n"
)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (KILLED, "tckgen was ended by signal SIGKILL"),
        (EMPTY, "tckgen selected 0 streamlines of 100"),
    ],
    ids=["killed", "empty"],
)
def test_failed_tracking_is_told_and_the_next_run_is_clean(
    phantom, tracked, tmp_path, monkeypatch, caplog, script, message
):
    folder = program(tmp_path, "tckgen", script).parent
    with monkeypatch.context() as patched:
        patched.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        with pytest.raises(RuntimeError):
            measure(phantom, tmp_path)
    assert message in caplog.text
    assert same(measure(phantom, tmp_path), tracked)
