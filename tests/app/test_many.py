# SPDX-License-Identifier: MIT
"""Many jobs on one output folder at the same moment, some of them started twice by mistake."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

#: Participants, each measured by two jobs: sixteen at a time.
PARTICIPANTS = tuple(f"{number:02d}" for number in range(1, 9))


def job(data: Path, results: Path, work: Path, *participants: str) -> list[str]:
    """A job's command: functional connectomes of one atlas."""
    return [
        sys.executable, "-m", "kraken_bids", str(data), str(results), "participant",
        "--participant-label", *participants, "--modality", "func", "--atlases", "fs86",
        "-w", str(work), "--nprocs", "1", "--mem", "1500M",
    ]  # fmt: skip


def contents(root: Path) -> dict[str, bytes]:
    """Files of a data set by path, hidden ones and markers too; logs differ from run to run."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.relative_to(root).parts[0] != "logs"
    }


@pytest.fixture(scope="module")
def study(demo_data, tmp_path_factory):
    """Eight participants: the simulated ones under several names each."""
    root = tmp_path_factory.mktemp("cohort") / "data"
    originals = ("01", "02", "03")
    for path in sorted(demo_data.rglob("*")):
        if path.is_dir() or "sub-" not in str(path.relative_to(demo_data)):
            continue
        original = next(name for name in originals if f"sub-{name}" in str(path))
        for name in PARTICIPANTS[int(original) - 1 :: len(originals)]:
            target = root / str(path.relative_to(demo_data)).replace(
                f"sub-{original}", f"sub-{name}"
            )
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path)
    for path in demo_data.rglob("dataset_description.json"):
        shutil.copy(path, root / path.relative_to(demo_data))
    return root


@pytest.fixture(scope="module")
def undisturbed(study, tmp_path_factory):
    """What one run leaves that nobody disturbs."""
    # As deep as the results of the others: links between data sets are relative.
    root = study.parent / "alone"
    done = subprocess.run(
        job(study, root / "results", root / "work", *PARTICIPANTS),
        check=False, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return contents(root / "results")


def run_all(commands: list[list[str]], description: Path) -> tuple[list[tuple[int, str]], int]:
    """Start commands together; give how each ended, and how often the description was whole."""
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ
        )
        for command in commands
    ]
    n_seen = 0
    while any(process.poll() is None for process in running):
        if description.exists():  # once there, it is never away or cut
            json.loads(description.read_text("utf-8"))
            n_seen += 1
        time.sleep(0.005)
    return [(process.returncode, process.communicate()[0]) for process in running], n_seen


@pytest.mark.parametrize(
    ("participants", "works"),
    [(PARTICIPANTS, ("work", "work_again")), (PARTICIPANTS[:3], ("work", "work"))],
    ids=["own work folders", "the same ones"],
)
def test_jobs_at_once_each_started_twice(study, undisturbed, tmp_path, participants, works):
    """Of two that share a work folder one is refused; else both write, and the same."""
    root = study.parent / tmp_path.name
    results = root / "results"
    commands = [
        job(study, results, root / work, participant)
        for work in works
        for participant in participants
    ]
    ended, n_seen = run_all(commands, results / "dataset_description.json")
    assert n_seen > 100
    for code, told in ended:
        assert "Traceback" not in told
        if works[0] != works[1]:
            assert code == 0, told
        else:
            assert code == 0 or (code == 3 and "another run (process" in told), told
    pairs = zip(ended[: len(participants)], ended[len(participants) :], strict=True)
    assert all(0 in (first[0], second[0]) for first, second in pairs)
    others = tuple(f"sub-{name}" for name in PARTICIPANTS if name not in participants)
    assert contents(results) == {
        path: content
        for path, content in undisturbed.items()
        if not path.removeprefix(".kraken-bids/").startswith(others)
    }
    assert not [path for work in works for path in (root / work).rglob(".*.claim*")]


def test_jobs_that_translate_share_a_work_folder(study, small_model, tmp_path):
    """What one job removes at its end is not what another is working on."""
    words = ("--model", str(small_model), "--output-label", "tiny", "--adaptation", "none",
             "--predict-to", "FCcorr_fs86_hpf")  # fmt: skip
    seen = []
    for name, jobs in (("one", [PARTICIPANTS[:3]]), ("three", [[p] for p in PARTICIPANTS[:3]])):
        root = study.parent / f"{tmp_path.name}_{name}"
        results = root / "results"
        commands = [
            [*job(study, results, root / "work", *participants), *words] for participants in jobs
        ]
        ended, _ = run_all(commands, results / "dataset_description.json")
        for code, told in ended:
            assert code == 0, told
        seen.append({
            path: content
            for path, content in contents(results).items()
            # Markers of predictions carry paths and times of the connectomes.
            if "/logs/" not in path and "/.kraken-bids/" not in path
        })
    assert seen[0] == seen[1]
    assert any("krakencoder-tiny/sub-03" in path for path in seen[0])
