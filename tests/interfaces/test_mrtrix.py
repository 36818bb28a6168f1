# SPDX-License-Identifier: MIT
from __future__ import annotations

import shlex
import shutil

import pytest

from kraken_bids.errors import InputError, ResourceError
from kraken_bids.interfaces.mrtrix import (
    Convert,
    EstimateFODs,
    EstimateResponses,
    KeepPositive,
    MakeFiveTissue,
    MapDensity,
    MRtrixCommand,
    Track,
    WeighStreamlines,
    explain_failure,
)

#: What every command has, and the images of ``mrconvert``.
QUIET, TO = "-nthreads 0", "a.mif converted.mif -force"

ROOM = "Give a --work-dir on a disk with more room."
AGAIN = "Run again; if it was killed for memory or time, ask for more (--mem)."

needs_mrtrix = pytest.mark.skipif(shutil.which("mrinfo") is None, reason="MRtrix3 is not there")


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.mif", "b.mif", "m.nii.gz", "wm.txt", "gm.txt", "csf.txt", "x.bvec", "x.bval"):
        (tmp_path / name).touch()
    (tmp_path / "sub-01").mkdir()
    return tmp_path


def command(interface, folder):
    return interface.cmdline.replace(f"{folder}/", "")


def test_ifod2_command_is_that_of_the_training_recipe(files):
    track = Track(
        in_file="a.mif", out_file="ifod2act.tck", algorithm="iFOD2", act_file="b.mif",
        seed_dynamic="a.mif", n_streamlines=5_000_000, cutoff=0.06, max_length_mm=300.0,
        min_length_mm=2.5, step_mm=0.625, angle_degrees=45.0, random_seed=1, n_threads=8,
    )  # fmt: skip
    assert command(track, files) == (
        "tckgen -act b.mif -algorithm iFOD2 -angle 45 -cutoff 0.06 -maxlength 300 "
        "-minlength 2.5 -select 5000000 -nthreads 8 -seed_dynamic a.mif -step 0.625 a.mif "
        "ifod2act.tck -force"
    )


def test_one_thread_means_no_worker_threads(files):
    density = MapDensity(in_file="a.mif", template_file="b.mif", n_threads=1)
    assert "-nthreads 0" in density.cmdline


def test_seed_of_random_numbers_is_hashed_and_threads_are_not(files):
    def hashed(**inputs):
        interface = Track(
            in_file="a.mif", n_streamlines=9, cutoff=0.1, max_length_mm=9.0, min_length_mm=1.0,
            step_mm=1.0, angle_degrees=9.0, **inputs,
        )  # fmt: skip
        return interface.inputs.get_hashval()[1]

    assert hashed(random_seed=1) != hashed(random_seed=2)
    assert hashed(random_seed=1, n_threads=2) == hashed(random_seed=1)


def test_streamlines_are_weighed_by_one_thread_at_least(files):
    weigh = WeighStreamlines(in_file="a.mif", fod_file="b.mif")  # without any, all weights are 1
    assert "-nthreads 1 " in command(weigh, files)


def test_streamlines_are_weighed_within_the_tissues(files):
    weigh = WeighStreamlines(in_file="a.mif", fod_file="b.mif", act_file="b.mif", n_threads=4)
    assert command(weigh, files) == (
        "tcksift2 -act b.mif -out_mu mu.txt -nthreads 4 a.mif b.mif weights.txt -force"
    )


@pytest.mark.parametrize(
    ("n_shells", "lmax", "expected"),
    [
        (2, None, "wm.txt fod_wm.mif gm.txt fod_gm.mif csf.txt fod_csf.mif"),
        (1, None, "wm.txt fod_wm.mif csf.txt fod_csf.mif"),
        (2, 4, "wm.txt fod_wm.mif gm.txt fod_gm.mif csf.txt fod_csf.mif -lmax 4,0,0"),
        (1, 4, "wm.txt fod_wm.mif csf.txt fod_csf.mif -lmax 4,0"),
    ],
)
def test_one_shell_tells_two_tissues_apart(files, n_shells, lmax, expected):
    fods = EstimateFODs(
        in_file="a.mif", wm_response="wm.txt", gm_response="gm.txt", csf_response="csf.txt",
        n_shells=n_shells,
    )  # fmt: skip
    if lmax:
        fods.inputs.lmax = lmax
    assert command(fods, files) == f"dwi2fod -force msmt_csd a.mif {expected} -nthreads 0"


@pytest.mark.parametrize("n_shells", [1, 3])
def test_without_b0_there_is_white_matter_alone(files, n_shells):
    responses = EstimateResponses(in_file="a.mif", algorithm="tournier", mask_file="m.nii.gz")
    assert command(responses, files) == (
        "dwi2response tournier a.mif response_wm.txt -force -mask m.nii.gz -nthreads 0"
    )
    fods = EstimateFODs(
        in_file="a.mif", wm_response="wm.txt", algorithm="csd", n_shells=n_shells, lmax=4
    )
    assert command(fods, files) == (
        "dwi2fod -force csd a.mif wm.txt fod_wm.mif -lmax 4 -nthreads 0"
    )


@pytest.mark.parametrize(
    ("interface", "inputs", "expected"),
    [
        (EstimateResponses,
         {"in_file": "a.mif", "mask_file": "m.nii.gz", "wm_file": "w", "gm_file": "g",
          "csf_file": "c"},
         "dwi2response dhollander a.mif w g c -force -erode 3 -mask m.nii.gz -nthreads 0"),
        (Convert, {"in_file": "a.mif", "gradient_files": ("x.bvec", "x.bval"),
                   "datatype": "float32", "strides": [0, 0, 0, 1]},
         f"mrconvert -datatype float32 -fslgrad x.bvec x.bval {QUIET} -strides 0,0,0,1 {TO}"),
        (Convert, {"in_file": "a.mif", "coord": (3, 0), "axes": [0, 1, 2]},
         f"mrconvert -axes 0,1,2 -coord 3 0 {QUIET} {TO}"),
        (KeepPositive, {"in_file": "a.mif"},
         f"mrcalc a.mif 0 -max positive.mif -force {QUIET}"),
        (MakeFiveTissue, {"algorithm": "fsl", "in_file": "a.mif", "mask_file": "m.nii.gz"},
         f"5ttgen fsl a.mif five_tissue.nii.gz -force -mask m.nii.gz {QUIET}"),
        (MakeFiveTissue, {"algorithm": "hsvs", "subject_dir": "sub-01", "n_threads": 4},
         "5ttgen hsvs sub-01 five_tissue.nii.gz -force -nthreads 4"),
        (MapDensity, {"in_file": "a.mif", "template_file": "b.mif"},
         "tckmap -nthreads 0 -template b.mif a.mif density.nii.gz -force"),
    ],
)  # fmt: skip
def test_command_line(files, interface, inputs, expected):
    assert command(interface(**inputs), files) == expected


def test_missing_program_is_told_with_how_to_install_it(files):
    class Unknown(MRtrixCommand):
        _cmd = "no-such-program -symmetric"

    with pytest.raises(ResourceError, match=r"'no-such-program' is not there\. Install MRtrix3:"):
        Unknown().run()


def test_program_that_is_killed_is_told(files):
    class Killed(MRtrixCommand):
        _cmd = "bash -c 'kill -9 $$' #"

    with pytest.raises(ResourceError, match=r"bash was ended by signal SIGKILL .*--mem"):
        Killed().run()


@pytest.mark.parametrize(
    ("code", "stderr", "kind", "message"),
    [
        (1, "progress\n\x1b[01;31mtckgen: [ERROR] bad image\x1b[0m\nbye", InputError,
         "tckgen failed: tckgen: [ERROR] bad image (/w). Mend it."),
        (1, "a\n\nb\nc\nd", InputError, "tckgen failed: b; c; d (/w). Mend it."),
        (1, "", InputError, "tckgen failed: no message (/w). Mend it."),
        (1, "tckgen: [ERROR] No space left on device", ResourceError,
         f"tckgen: tckgen: [ERROR] No space left on device (/w). {ROOM}"),
        (137, "", ResourceError,
         f"tckgen was ended by signal SIGKILL (/w). {AGAIN}"),
    ],
)  # fmt: skip
def test_failure_is_one_message(code, stderr, kind, message):
    error = explain_failure("tckgen", code, stderr, where="/w", fix="Mend it.")
    assert type(error) is kind
    assert str(error) == message


@needs_mrtrix
def test_damaged_image_is_told_in_the_programs_own_words(files):
    with pytest.raises(InputError, match=r"mrconvert failed: mrconvert: \[ERROR\] .*a\.mif"):
        Convert(in_file="a.mif").run()


def test_paths_with_spaces_reach_the_program_whole(tmp_path, monkeypatch):
    folder = tmp_path / "a folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("a.mif", "x.bvec", "x.bval"):
        (folder / name).touch()
    image, *gradients = (str(folder / name) for name in ("a.mif", "x.bvec", "x.bval"))
    words = shlex.split(Convert(in_file=image, gradient_files=tuple(gradients)).cmdline)
    start = words.index("-fslgrad")
    assert words[start + 1 : start + 3] == gradients
    assert image in words
