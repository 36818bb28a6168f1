# SPDX-License-Identifier: MIT
"""A run killed outright: whole files only, and the next run ends as if undisturbed."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

#: Seconds after which a run is killed: while labels are carried, series read, matrices written,
#: pages drawn, and once more after the first re-run has begun.
MOMENTS = (3.0, 6.0, 8.0, 5.0)


def contents(root: Path) -> dict[str, bytes]:
    """Visible files of a data set by path; logs differ from run to run."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
        and path.relative_to(root).parts[0] not in {"logs", ".kraken-bids"}
        and not path.name.startswith(".")
    }


def words(data: Path, results: Path, work: Path) -> list[str]:
    return [
        str(data), str(results), "participant", "--atlases", "fs86", "shen268", "--atlas-file",
        f"shen268={data / 'atlases' / 'shen268_dseg.nii.gz'}", "--participant-label", "01",
        "--pcorr-lambda", "fs86=0.06", "shen268=0.06",
        "--sloppy", "--streamlines", "500", "-w", str(work), "--nprocs", "2",
    ]  # fmt: skip


def works_in(process: Path, folder: Path) -> bool:
    """Whether an entry of /proc is a process that works in a folder."""
    try:
        return (process / "cwd").readlink().is_relative_to(folder)
    except OSError:
        return False


@pytest.fixture(scope="module")
def undisturbed(demo_data, tmp_path_factory):
    """What a run leaves that nobody disturbs."""
    root = tmp_path_factory.mktemp("undisturbed")
    command = [sys.executable, "-m", "kraken_bids"]
    subprocess.run(
        command + words(demo_data, root / "results", root / "work"),
        check=True,
        capture_output=True,
    )
    return contents(root / "results")


def test_killed_runs_leave_whole_files_and_the_next_one_finishes(demo_data, undisturbed, tmp_path):
    results, work = tmp_path / "results", tmp_path / "work"
    command = [sys.executable, "-m", "kraken_bids", *words(demo_data, results, work)]
    for moment in MOMENTS:
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as running:
            time.sleep(moment)
            running.send_signal(signal.SIGKILL)
        seen = contents(results)
        broken = [path for path, content in seen.items() if content != undisturbed.get(path)]
        assert not broken, f"after {moment} s"
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert contents(results) == undisturbed
    assert not [path for path in (results / "sub-01").rglob(".*") if path.is_file()]

    # killed after the last output, before the working folder was given back
    (folder := work / "participants_wf" / "sub_01_wf").mkdir(parents=True)
    mark = "from kraken_bids.claims import _own; print(_own())"
    ended = subprocess.run(
        [sys.executable, "-c", mark], check=True, capture_output=True, text=True
    )
    claim = folder.with_name(".sub_01_wf.claim")
    claim.write_text(ended.stdout.strip())
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 done before" in done.stderr
    assert not claim.exists()
    assert not folder.exists()


def test_interrupted_run_stops_its_programs_and_says_so(demo_data, tmp_path):
    results, work = tmp_path / "results", tmp_path / "work"
    command = [sys.executable, "-m", "kraken_bids", *words(demo_data, results, work)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        time.sleep(7)
        running.send_signal(signal.SIGTERM)
        _, told = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "interrupted" in told
    assert "Traceback" not in told
    assert not [entry for entry in Path("/proc").iterdir() if works_in(entry, work)]


#: Kills of a level, and how long they may take together: on a slow machine there are fewer.
N_KILLS, LEAST_KILLS, MAX_SECONDS = 20, 3, 60.0


def kill_at_random(command, results, undisturbed, *, seconds, seed):
    """Kill runs at random moments of the time that one takes; each leaves whole files only.

    A run that ends before it is killed has its marker taken away, so that the next one works.
    """
    rng = random.Random(seed)
    end, n_killed = time.monotonic() + MAX_SECONDS, 0
    for _ in range(N_KILLS):
        moment = rng.uniform(0.05, 1.0) * seconds
        if n_killed >= LEAST_KILLS and time.monotonic() + moment > end:
            break
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as running:
            try:
                running.wait(moment)
            except subprocess.TimeoutExpired:
                running.send_signal(signal.SIGKILL)
                n_killed += 1
        seen = contents(results)
        broken = [path for path, content in seen.items() if content != undisturbed.get(path)]
        assert not broken, f"seed {seed}, after {moment} s"
        if running.returncode == 0:
            for marker in results.rglob(".kraken-bids/*.json"):
                marker.unlink()
    return n_killed


def timed(command):
    """How long a command takes that must do its work."""
    start = time.monotonic()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return time.monotonic() - start


@pytest.fixture(scope="module")
def measured(demo_data, tmp_path_factory):
    """Connectomes of two participants, as the group level takes them; and how they are made."""
    root = tmp_path_factory.mktemp("measured")
    command = [
        sys.executable, "-m", "kraken_bids", str(demo_data), str(root / "results"), "participant",
        "--participant-label", "01", "02", "--modality", "func", "--atlases", "fs86",
        "-w", str(root / "work"), "--nprocs", "1",
    ]  # fmt: skip
    return command, timed(command), contents(root / "results"), root


def test_participant_level_killed_at_random(measured, demo_data):
    command, seconds, undisturbed, root = measured
    results = root / "killed"  # as deep as the others: links between data sets are relative
    command = [*command[:4], str(results), *command[5:-4], "-w", str(root / "w"), "--nprocs", "1"]
    assert kill_at_random(command, results, undisturbed, seconds=seconds, seed=1) >= LEAST_KILLS
    timed(command)
    assert contents(results) == undisturbed
    assert not [path for path in (results / "sub-01").rglob(".*") if path.is_file()]
    assert not list((root / "w").rglob(".*.claim*"))


def test_group_level_killed_at_random(measured, demo_data, small_model):
    root = measured[3]

    def group(name):
        results = root / name
        shutil.copytree(root / "results", results)
        return results / "derivatives" / "krakencoder-tiny", [
            sys.executable, "-m", "kraken_bids", str(demo_data), str(results), "group",
            "--model", str(small_model), "--output-label", "tiny", "--adaptation", "none",
            "-w", str(root / f"{name}_work"), "--nprocs", "1",
        ]  # fmt: skip

    predictions, command = group("undisturbed")
    seconds = timed(command)
    undisturbed = contents(predictions)
    predictions, command = group("killed_group")
    assert (
        kill_at_random(command, predictions, undisturbed, seconds=seconds, seed=2) >= LEAST_KILLS
    )
    timed(command)
    assert contents(predictions) == undisturbed
    assert not [
        path for path in predictions.rglob(".*") if path.is_file() and path.name != ".bidsignore"
    ]
    assert not list(root.rglob(".*.claim*"))
