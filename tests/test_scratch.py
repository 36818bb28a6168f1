# SPDX-License-Identifier: MIT
"""Room on the disk: asked for before the start, given back when streamlines are counted."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest

from kraken_bids.errors import ResourceError
from kraken_bids.interfaces.tractography import RELEASED, ReleaseFiles, hollow_out
from kraken_bids.plan import DiffusionRun, FunctionalRun, LabelSource, SessionPlan
from kraken_bids.scratch import (
    check_scratch,
    estimate_scratch,
    forget_released,
    tell_scratch,
    used_bytes,
)
from kraken_bids.settings import Resources, Settings, StructuralOptions

GB = 1_000_000_000


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def write_series(path: Path) -> Path:
    nib.save(nib.Nifti1Image(np.zeros((10, 10, 10, 20), np.int16), np.eye(4)), path)
    return path


def plans(tmp_path, n=3, **changes) -> list[SessionPlan]:
    dwi_file = write_series(tmp_path / "dwi.nii.gz")
    run = DiffusionRun(**{
        "entities": (("sub", "01"),), "space": "ACPC", "dwi_file": dwi_file, "bval_file": None,
        "bvec_file": None, "mask_file": None, "labels": (), "tissues": None,
        "five_tissue_file": tmp_path / "5tt.nii.gz", **changes,
    })  # fmt: skip
    return [SessionPlan(f"{number:02d}", None, diffusion=(run,)) for number in range(n)]


def settings(tmp_path, *, n_procs=1, **structural) -> Settings:
    return Settings(
        tmp_path, tmp_path, tmp_path, "participant",
        structural=StructuralOptions(**structural), resources=Resources(n_procs=n_procs),
    )  # fmt: skip


def test_two_tractograms_of_five_million_take_about_twenty_gigabytes(tmp_path):
    estimate = estimate_scratch(plans(tmp_path, 1), settings(tmp_path))
    assert 18 * GB < estimate.largest_bytes < 24 * GB
    # the series as 32-bit numbers, FODs and so on
    assert estimate.other_bytes == 1000 * (20 * 4 + 200)


@pytest.mark.parametrize(
    ("n_procs", "keep", "n_at_once"), [(1, False, 2), (4, False, 5), (16, False, 6), (1, True, 6)]
)
def test_room_is_for_those_worked_on_at_a_time(tmp_path, n_procs, keep, n_at_once):
    one = estimate_scratch(plans(tmp_path, 1), settings(tmp_path))
    asked = settings(tmp_path, n_procs=n_procs, keep_tractograms=keep)
    estimate = estimate_scratch(plans(tmp_path, 6), asked)
    assert estimate.n_at_once == n_at_once
    assert estimate.largest_bytes == n_at_once * one.largest_bytes
    assert estimate.other_bytes == 6 * one.other_bytes


def test_ready_tractograms_are_unpacked_only(tmp_path):
    packed = tmp_path / "a.tck.gz"
    packed.write_bytes(b"x" * 1000)
    ready = plans(tmp_path, 1, dwi_file=None, tractograms=(("sdstream", packed),))
    assert estimate_scratch(ready, settings(tmp_path)).needed_bytes == 1300


def test_too_little_room_is_told_with_both_numbers_before_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 7 * GB))
    with pytest.raises(
        ResourceError,
        match=r"the 3 session\(s\) need about 4\d\.\d GB .* of 2 session\(s\) at a time\), "
        r"7\.0 GB are free .*--work-dir .*--streamlines.*--nprocs",
    ):
        check_scratch(plans(tmp_path), settings(tmp_path))


def test_dry_run_tells_too_little_room_and_goes_on(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 7 * GB))
    tell_scratch(plans(tmp_path), settings(tmp_path))
    assert "7.0 GB are free" in caplog.text


def test_what_an_earlier_run_left_is_not_asked_for_again(tmp_path, monkeypatch):
    folder = tmp_path / "sub_01_wf"
    folder.mkdir()
    (folder / "a.tck").write_bytes(b"x" * 1_000_000)
    estimate = estimate_scratch(plans(tmp_path, 1), settings(tmp_path, n_streamlines=1000))
    free = estimate.needed_bytes - 900_000
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, free))
    check_scratch(plans(tmp_path, 1), settings(tmp_path, n_streamlines=1000), work_dirs=[folder])
    with pytest.raises(ResourceError):
        check_scratch(plans(tmp_path, 1), settings(tmp_path, n_streamlines=1000))


def test_functional_runs_take_little_for_each_volume_and_region(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    labels = tuple(LabelSource(name, tmp_path / "x.nii.gz", "T1w") for name in ("fs86", "shen268"))
    file = write_series(tmp_path / "bold.nii.gz")  # 20 volumes
    run = FunctionalRun((("sub", "01"),), "T1w", "", file, file, None, None, 2.0, labels, None)
    sessions = [SessionPlan(f"{number:02d}", None, functional=(run, run)) for number in range(50)]
    estimate = check_scratch(sessions, settings(tmp_path))
    assert estimate.needed_bytes == 100 * (5_000_000 + 26 * 20 * (86 + 268))
    assert "about 0.5 GB of scratch space, " in caplog.text
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(GB, GB, GB // 10))
    with pytest.raises(
        ResourceError, match=r"50 session\(s\) need about 0\.5 GB of scratch space, "
    ):
        check_scratch(sessions, settings(tmp_path))


def test_sessions_without_series_ask_for_nothing(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    check_scratch([SessionPlan("01", None)], settings(tmp_path))
    assert caplog.text == ""


def test_hollow_file_looks_the_same_and_takes_no_room(tmp_path):
    file = tmp_path / "a.tck"
    file.write_bytes(b"x" * 1_000_000)
    os.utime(file, ns=(1, 1_234_567_890_123_456_789))
    before = file.stat()
    hollow_out(file)
    after = file.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert used_bytes([tmp_path]) < 100_000


@pytest.fixture
def released(tmp_path, monkeypatch):
    """A session's folder of which one tractogram was given back; another is the person's own."""
    work_dir = tmp_path / "work" / "sub_01_wf"
    node = work_dir / "structural_wf" / "release"
    tract = work_dir / "structural_wf" / "track_ifod2act" / "ifod2act.tck"
    own = tmp_path / "own.tck"
    for file in (node / "x", tract, own):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"streamlines")
    monkeypatch.chdir(node)
    ReleaseFiles(in_files=[str(tract), str(own)], wait_for=["x"], key="now").run()
    return work_dir, tract, own


def test_only_files_of_the_workflow_are_given_back(released):
    work_dir, tract, own = released
    assert own.read_bytes() == b"streamlines"
    assert not tract.read_bytes().strip(b"\0")
    content = json.loads(next(work_dir.rglob(RELEASED)).read_text())
    assert content == {"key": "now", "files": [str(tract)]}


def test_given_back_stays_so_while_nothing_has_changed(released):
    work_dir, tract, _ = released
    forget_released({work_dir: "now"})
    assert tract.exists()


def test_given_back_is_made_again_when_settings_have_changed(released):
    work_dir, tract, own = released
    forget_released({work_dir: "other"})
    assert not tract.parent.exists()
    assert not list(work_dir.rglob(RELEASED))
    assert own.exists()
