# SPDX-License-Identifier: MIT
from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from kraken_bids.atlases import load_atlas
from kraken_bids.errors import InputError
from kraken_bids.interfaces.mrtrix import Track
from kraken_bids.plan import DiffusionRun, LabelSource
from kraken_bids.settings import StructuralOptions
from kraken_bids.workflows.structural import (
    find_algorithms,
    find_reference,
    find_tracked,
    init_structural_wf,
)

needs_mrtrix = pytest.mark.skipif(shutil.which("tckgen") is None, reason="MRtrix3 is not there")

AFFINE = np.diag([4.0, 4, 4, 1])
AFFINE[:3, 3] = -36, -20, -24

#: Regions without a voxel in the phantom, one amid the others and the last (positions from 0).
MISSING = [29, 85]

N_STREAMLINES = 200


def write_phantom(folder: Path, shells: dict[int, int], *, segmented: bool) -> DiffusionRun:
    """A block of white matter between two caps of 43 regions, fibres along x, CSF on top.

    Tissues come as a FreeSurfer segmentation if `segmented`, else as a five-tissue image.
    """
    rng = np.random.default_rng(0)
    shape = (18, 8, 12)
    x, y, z = np.indices(shape)
    brain = (x > 0) & (x < 17) & (y > 0) & (y < 7) & (z > 0) & (z < 11)
    grey = brain & ((x < 4) | (x > 13))
    fluid = brain & ~grey & (z > 7)
    white = brain & ~grey & ~fluid
    bvals = np.repeat(list(shells), list(shells.values()))
    bvecs = rng.normal(size=(bvals.size, 3))
    bvecs /= np.linalg.norm(bvecs, axis=1, keepdims=True)
    # Tensor along x with 1.7 and 0.25, grey matter 0.8, CSF 3.0, all 10⁻³ mm²/s.
    signal = 1000 * (
        white[..., None] * np.exp(-bvals * (0.25e-3 + 1.45e-3 * bvecs[:, 0] ** 2))
        + 1.15 * grey[..., None] * np.exp(-bvals * 0.8e-3)
        + 2 * fluid[..., None] * np.exp(-bvals * 3e-3)
    )
    noise = rng.normal(0, 20, (2, *signal.shape))
    signal = np.hypot(signal + noise[0], noise[1])
    labels = np.zeros(shape, dtype=np.int16)
    for first, side in ((1, x < 9), (44, x >= 9)):
        index = np.flatnonzero(grey & side)
        labels.ravel()[index] = first + np.arange(index.size) * 43 // index.size
    labels[np.isin(labels, np.array(MISSING) + 1)] = 0
    five_tissue = np.stack([grey, 0 * grey, white, fluid, 0 * grey], axis=-1)
    codes = 1002 * grey + 2 * white + 24 * fluid

    def save(name: str, values: np.ndarray, dtype: type) -> Path:
        nib.save(nib.Nifti1Image(values.astype(dtype), AFFINE), folder / name)
        return folder / name

    np.savetxt(folder / "dwi.bval", bvals[None], fmt="%d")
    np.savetxt(folder / "dwi.bvec", (bvecs * [-1, 1, 1]).T, fmt="%.6f")
    segmentation = LabelSource("tissues", save("aparc.nii.gz", codes, np.int16), "ACPC")
    ready = save("5tt.nii.gz", five_tissue, np.float32)
    return DiffusionRun(
        entities=(("sub", "01"),),
        space="ACPC",
        dwi_file=save("dwi.nii.gz", signal, np.int16),
        bval_file=folder / "dwi.bval",
        bvec_file=folder / "dwi.bvec",
        mask_file=save("mask.nii.gz", brain, np.uint8),
        labels=(LabelSource("fs86", save("labels.nii.gz", labels, np.int16), "ACPC"),),
        tissues=segmentation if segmented else None,
        five_tissue_file=None if segmented else ready,
    )


def run_workflow(run: DiffusionRun, base_dir: Path, **options) -> Path:
    workflow = init_structural_wf(
        run, options=StructuralOptions(n_streamlines=N_STREAMLINES, **options)
    )
    workflow.base_dir = base_dir
    workflow.config["execution"] = {"crashdump_dir": str(base_dir)}
    workflow.run()
    return base_dir / "structural_wf"


def connectomes(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "connect" / "connectomes.npz", allow_pickle=False) as made:
        return dict(made)


def quality(folder: Path) -> dict:
    return json.loads((folder / "connect" / "qc.json").read_text())


@pytest.fixture(scope="module")
def phantom(tmp_path_factory) -> DiffusionRun:
    folder = tmp_path_factory.mktemp("phantom")
    return write_phantom(folder, {0: 4, 1000: 12, 2000: 20}, segmented=False)


@pytest.fixture(scope="module")
def one_shell(tmp_path_factory) -> DiffusionRun:
    folder = tmp_path_factory.mktemp("one_shell")
    return write_phantom(folder, {0: 3, 1500: 20}, segmented=True)


@pytest.fixture(scope="module")
def tracked(phantom, tmp_path_factory) -> Path:
    """The training recipe on the phantom: multi-shell, dynamic seeding."""
    return run_workflow(phantom, tmp_path_factory.mktemp("tracked"))


@pytest.fixture(scope="module")
def sloppy(one_shell, tmp_path_factory) -> Path:
    """Quick settings, one shell, tissues from a FreeSurfer segmentation."""
    return run_workflow(one_shell, tmp_path_factory.mktemp("sloppy"), sloppy=True)


@pytest.mark.slow
@needs_mrtrix
@pytest.mark.parametrize("algorithm", ["ifod2act", "sdstream"])
def test_counts_are_those_of_an_own_run_of_tck2connectome(tracked, tmp_path, algorithm):
    labels_file = tracked / "resample_labels" / "fs86_dseg.nii.gz"
    subprocess.run(
        [
            "tck2connectome", f"{tracked}/track_{algorithm}/{algorithm}.tck", labels_file,
            tmp_path / "counts.csv", "-symmetric", "-zero_diagonal",
            "-assignment_radial_search", "4", "-quiet",
        ],
        check=True,
    )  # fmt: skip
    counted = np.loadtxt(tmp_path / "counts.csv", delimiter=",", comments="#")
    count = connectomes(tracked)[f"SC{algorithm}_fs86_count"]
    # The program's table ends at the largest label present, 85; region 30 is a row of zeros in it.
    assert counted.shape == (85, 85)
    assert counted.sum() > N_STREAMLINES
    expected = np.zeros((86, 86))
    expected[:85, :85] = counted * 5e6 / N_STREAMLINES
    expected[MISSING] = np.nan
    expected[:, MISSING] = np.nan
    np.testing.assert_allclose(count, expected, rtol=1e-12)


@pytest.mark.slow
@needs_mrtrix
@pytest.mark.parametrize("algorithm", ["ifod2act", "sdstream"])
def test_volume_normalised_are_those_of_tck2connectome_on_training_voxels(
    tracked, tmp_path, algorithm
):
    labels_file = tracked / "resample_labels" / "fs86_dseg.nii.gz"
    assert nib.load(labels_file).header.get_zooms() == pytest.approx((1.25, 1.25, 1.25))
    subprocess.run(
        [
            "tck2connectome", f"{tracked}/track_{algorithm}/{algorithm}.tck", labels_file,
            tmp_path / "volnorm.csv", "-symmetric", "-zero_diagonal", "-scale_invnodevol",
            "-assignment_radial_search", "4", "-quiet",
        ],
        check=True,
    )  # fmt: skip
    scaled = np.loadtxt(tmp_path / "volnorm.csv", delimiter=",", comments="#")
    volnorm = np.nan_to_num(connectomes(tracked)[f"SC{algorithm}_fs86_volnorm"])[:85, :85]
    np.testing.assert_allclose(volnorm, scaled * 5e6 / N_STREAMLINES, rtol=1e-5)


@pytest.mark.slow
@needs_mrtrix
def test_streamlines_join_the_two_ends_of_the_block(tracked):
    for algorithm in ("ifod2act", "sdstream"):
        count = np.nan_to_num(connectomes(tracked)[f"SC{algorithm}_fs86_count"])
        assert count[:43, 43:].sum() > 0.95 * count.sum() / 2


@pytest.mark.slow
@needs_mrtrix
def test_quality_tells_series_tractograms_and_regions(tracked):
    measures = quality(tracked)
    assert measures["shells"] == "1000, 2000"
    assert measures["n_b0"] == 4
    for algorithm in ("ifod2act", "sdstream"):
        assert measures[f"{algorithm}_n_streamlines"] == N_STREAMLINES
        assert measures[f"{algorithm}_source"] == "tracked"
        assert measures[f"{algorithm}_bias"] == ""
        assert 30 < measures[f"{algorithm}_median_length_mm"] < 70
        shares = [
            measures[f"{algorithm}_fs86_{part}_fraction"]
            for part in ("assigned", "within_region", "unassigned")
        ]
        assert sum(shares) == pytest.approx(1)
        assert shares[0] > 0.7
    names = load_atlas("fs86").region_names
    assert measures["regions"]["fs86"]["missing"] == [names[index] for index in MISSING]


@pytest.mark.slow
@needs_mrtrix
def test_overview_holds_what_the_figures_need(tracked, phantom):
    shape = nib.load(phantom.mask_file).shape
    with np.load(tracked / "overview" / "overview.npz") as overview:
        assert overview["background"].shape == overview["density"].shape == shape
        assert overview["five_tissue"].shape == (*shape, 5)
        assert overview["density"].max() > 5
        assert overview["lengths_ifod2act"].shape == (N_STREAMLINES,)
        assert overview["lengths_sdstream"].shape == (N_STREAMLINES,)


@pytest.mark.slow
@needs_mrtrix
def test_dynamic_seeding_is_repeatable(tracked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fod_file = str(tracked / "fods" / "fod_wm.mif")
    Track(
        in_file=fod_file, seed_dynamic=fod_file, algorithm="SD_STREAM", cutoff=0.06,
        n_streamlines=N_STREAMLINES, max_length_mm=300.0, min_length_mm=6.25, step_mm=0.125,
        angle_degrees=60.0, downsample=3, random_seed=1,
    ).run()  # fmt: skip
    first = nib.streamlines.load(tracked / "track_sdstream" / "sdstream.tck").streamlines
    again = nib.streamlines.load("tracts.tck").streamlines
    np.testing.assert_array_equal(again.get_data(), first.get_data())


@pytest.mark.slow
@needs_mrtrix
def test_one_shell_makes_streamlines_too(sloppy):
    measures = quality(sloppy)
    assert measures["shells"] == "1500"
    for algorithm in ("ifod2act", "sdstream"):
        count = np.nan_to_num(connectomes(sloppy)[f"SC{algorithm}_fs86_count"])
        # Without a compartment of its own, grey matter is tracked through: some turn back in it.
        assert count[:43, 43:].sum() > 0.5 * count.sum() / 2


@pytest.mark.slow
@needs_mrtrix
def test_two_runs_give_the_same_counts(sloppy, one_shell, tmp_path):
    again = run_workflow(one_shell, tmp_path, sloppy=True)
    for name, matrix in connectomes(sloppy).items():
        assert matrix.tobytes() == connectomes(again)[name].tobytes()


@pytest.mark.slow
@needs_mrtrix
def test_quick_settings_are_told_as_a_bias(sloppy):
    assert quality(sloppy)["ifod2act_bias"] == "step 2 mm; seeding not dynamic"


@pytest.mark.slow
@needs_mrtrix
def test_ready_tractograms_need_no_diffusion_series(sloppy, one_shell, tmp_path):
    packed = tmp_path / "sub-01_model-ifod2_streamlines.tck.gz"
    tract = sloppy / "track_ifod2act" / "ifod2act.tck"
    packed.write_bytes(gzip.compress(tract.read_bytes()))
    run = DiffusionRun(
        one_shell.entities, "ACPC", None, None, None, one_shell.mask_file, one_shell.labels, None,
        tractograms=(("ifod2act", packed),),
    )  # fmt: skip
    folder = run_workflow(run, tmp_path, sloppy=True)
    made = connectomes(folder)
    assert sorted(made) == ["SCifod2act_fs86_count", "SCifod2act_fs86_volnorm"]
    for name, matrix in made.items():
        np.testing.assert_array_equal(matrix, connectomes(sloppy)[name])
    assert quality(folder)["ifod2act_source"] == f"given: {packed.name}"


@pytest.mark.slow
@needs_mrtrix
def test_sums_of_sift2_weights_are_those_of_tck2connectome(sloppy, one_shell, tmp_path):
    shutil.copytree(sloppy.parent, tmp_path / "copy")
    folder = run_workflow(one_shell, tmp_path / "copy", sloppy=True, sift2=True)
    made, before = connectomes(folder), connectomes(sloppy)
    assert len(made) == 8
    assert all(np.array_equal(made[name], before[name], equal_nan=True) for name in before)
    for algorithm in ("ifod2act", "sdstream"):
        weights = folder / f"weigh_{algorithm}" / "weights.txt"
        assert np.loadtxt(weights).std() > 0.1  # all 1 where it optimised nothing
        subprocess.run(
            [
                "tck2connectome", f"{folder}/track_{algorithm}/{algorithm}.tck",
                folder / "resample_labels" / "fs86_dseg.nii.gz", tmp_path / "sums.csv",
                "-symmetric", "-zero_diagonal", "-tck_weights_in", weights, "-quiet", "-force",
            ],
            check=True,
        )  # fmt: skip
        sums = np.loadtxt(tmp_path / "sums.csv", delimiter=",", comments="#")
        sift2 = np.nan_to_num(made[f"SC{algorithm}_fs86_sift2"])[: len(sums), : len(sums)]
        assert sums.sum() > 0
        np.testing.assert_allclose(sift2, sums * 5e6 / N_STREAMLINES, rtol=1e-4)
        assert quality(folder)[f"{algorithm}_sift2_mu"] > 0
    assert "-act" in (folder / "weigh_ifod2act" / "command.txt").read_text()
    assert "-act" not in (folder / "weigh_sdstream" / "command.txt").read_text()


def test_ready_tractograms_without_fods_are_not_weighed_and_that_is_told(tmp_path, caplog):
    tract, mask = tmp_path / "ready.tck", tmp_path / "mask.nii.gz"
    tract.touch()
    mask.touch()
    run = bare(tractograms=(("sdstream", tract),), mask_file=mask)
    names = init_structural_wf(run, options=StructuralOptions(sift2=True)).list_node_names()
    assert not any("weigh" in name for name in names)
    assert "neither a diffusion series nor FODs: no SIFT2 weights" in caplog.text


@pytest.mark.slow
@needs_mrtrix
def test_killed_tracking_leaves_nothing_that_a_second_run_stumbles_over(
    sloppy, one_shell, tmp_path
):
    folder = shutil.copytree(sloppy.parent, tmp_path / "copy") / "structural_wf"
    track = folder / "track_ifod2act"
    for file in [*track.glob("result_*"), *track.glob("_0x*.json")]:
        file.unlink()
    tract = track / "ifod2act.tck"
    tract.write_bytes(tract.read_bytes()[:2000])
    run_workflow(one_shell, tmp_path / "copy", sloppy=True)
    expected = connectomes(sloppy)
    for name, matrix in connectomes(folder).items():
        np.testing.assert_array_equal(matrix, expected[name])


def bare(**changes) -> DiffusionRun:
    fields = {
        "entities": (("sub", "01"),), "space": "ACPC", "dwi_file": None, "bval_file": None,
        "bvec_file": None, "mask_file": None, "labels": (), "tissues": None,
    }  # fmt: skip
    return DiffusionRun(**{**fields, **changes})


DWI, TRACTS, MAP = Path("dwi.nii.gz"), Path("streamlines.tck"), Path("probseg.nii.gz")


@pytest.mark.parametrize(
    ("run", "algorithms"),
    [
        (bare(dwi_file=DWI, five_tissue_file=MAP), ["ifod2act", "sdstream"]),
        (bare(dwi_file=DWI, probability_files=tuple((key, MAP) for key in ("GM", "WM", "CSF"))),
         ["ifod2act", "sdstream"]),
        (bare(tractograms=(("sdstream", TRACTS),)), ["sdstream"]),
        (bare(dwi_file=DWI, tractograms=(("ifod2act", TRACTS),)), ["ifod2act", "sdstream"]),
    ],
)  # fmt: skip
def test_algorithms_follow_from_the_inputs(run, algorithms):
    assert find_algorithms(run) == algorithms


def test_ifod2_is_left_out_without_tissues_and_that_is_told_once(phantom, caplog):
    run = DiffusionRun(**{**vars(phantom), "five_tissue_file": None})
    assert find_algorithms(run) == find_tracked(run) == ["sdstream"]
    assert caplog.text == ""
    init_structural_wf(run, options=StructuralOptions())
    missing = "no five-tissue image, FreeSurfer segmentation or tissue maps: no ifod2act"
    assert caplog.text.count(missing) == 1
    caplog.clear()
    init_structural_wf(phantom, options=StructuralOptions())
    assert "tissue maps" not in caplog.text


def test_run_without_series_and_tractograms_is_refused():
    with pytest.raises(InputError, match=r"neither a diffusion series nor.*\(sub-01\)\. Give"):
        find_algorithms(bare())


def test_reference_of_tractograms_is_what_lies_in_their_space():
    moved = LabelSource("fs86", Path("aparc.nii.gz"), "ACPC")
    assert find_reference(bare(mask_file=DWI, five_tissue_file=MAP)) == DWI
    assert find_reference(bare(labels=(moved,))) == Path("aparc.nii.gz")
    with pytest.raises(InputError, match=r"no image in the space ACPC .*streamlines\.tck"):
        find_reference(bare(tractograms=(("sdstream", TRACTS),)))


def test_only_what_is_missing_is_tracked(phantom, tmp_path):
    tract = tmp_path / "ready.tck"
    tract.touch()
    run = DiffusionRun(**{**vars(phantom), "tractograms": (("ifod2act", tract),)})
    names = init_structural_wf(run, options=StructuralOptions()).list_node_names()
    assert "track_sdstream" in names
    assert "track_ifod2act" not in names
    assert "five_tissue" not in names


def test_labels_are_held_against_the_series_wherever_they_come_from(phantom):
    codes = LabelSource("fs86", MAP, "T1w", codes="freesurfer")
    for changes in (
        {"labels": (codes,), "segmentation": codes},
        {
            "labels": (codes,),
            "segmentation": codes,
            "tractograms": (("ifod2act", phantom.mask_file),),
        },
        {},
    ):
        run = DiffusionRun(**{**vars(phantom), **changes})
        for force in (False, True):
            workflow = init_structural_wf(run, options=StructuralOptions(force=force))
            labels = workflow.get_node("resample_labels").inputs
            assert labels.mask_file == str(phantom.mask_file)
            assert labels.force is force


def test_quick_seeding_is_by_fibre_density(phantom):
    quick = init_structural_wf(phantom, options=StructuralOptions(sloppy=True)).list_node_names()
    full = init_structural_wf(phantom, options=StructuralOptions()).list_node_names()
    assert set(quick) - set(full) == {"total_density", "seeds"}
