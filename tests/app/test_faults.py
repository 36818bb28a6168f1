# SPDX-License-Identifier: MIT
"""Full disks, vanishing folders, killed programs: told in words, mended by running again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

pytestmark = pytest.mark.slow

ENVIRON = {**os.environ, "OMP_NUM_THREADS": "1"}
#: Run a command with a disk of its own at a folder, then again when there is more room. Somebody
#: else fills the disk when a folder of this name is there; none if empty.
ON_SMALL_DISK = """\
set -eu
folder=$1 size=$2 kept=$3 filled_at=$4; shift 4
mkdir -p "$folder"
mount -t tmpfs -o "size=$size" none "$folder"
if [ -n "$filled_at" ]; then
    { until find "$folder" -name "$filled_at" | grep -q .; do sleep 0.02; done
      cat /dev/zero > "$folder/of-somebody-else"; } 2>/dev/null &
fi
code=0
"$@" || code=$?
rm -f "$folder/of-somebody-else"
mount -o remount,size=200m "$folder"
echo "first run: $code"
code=0
"$@" || code=$?
echo "second run: $code"
[ -z "$kept" ] || cp -a "$folder" "$kept"
"""


def job(data: Path, results: Path, work: Path) -> list[str]:
    """Command of a short run: functional connectomes of one participant and atlas."""
    return [
        sys.executable, "-m", "kraken_bids", str(data), str(results), "participant",
        "--participant-label", "01", "--modality", "func", "--atlases", "fs86",
        "-w", str(work), "--nprocs", "1", "--mem", "1500M",
    ]  # fmt: skip


def start(command: list[str], **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ENVIRON,
        **options,
    )


def run(command: list[str]) -> tuple[int, str]:
    """Exit code of a command, and all that it said."""
    with start(command) as process:
        told = process.communicate(timeout=300)[0]
    return process.returncode, told


def contents(root: Path) -> dict[str, bytes]:
    """Files of a data set by path, hidden ones too; logs differ from run to run."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.relative_to(root).parts[0] != "logs"
    }


def wait_for(pattern: str, folder: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a file or folder of some name is there."""
    end = time.monotonic() + 120
    while not next(folder.rglob(pattern), None):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, f"no {pattern}"
        time.sleep(0.02)


def works_in(process: Path, folder: Path) -> bool:
    """Whether an entry of /proc is a process that works in a folder."""
    try:
        return (process / "cwd").readlink().is_relative_to(folder)
    except OSError:
        return False


def kill_busy_worker(parent: int, work: Path) -> None:
    """Kill the child that computes a step, once there is one."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            if works_in(Path("/proc", child), work):
                os.kill(int(child), signal.SIGKILL)
                return
    pytest.fail("no worker was seen in the working folder")


@pytest.fixture(scope="module")
def study(demo_data, tmp_path_factory):
    """The first participant's files, in a data set that may be changed."""
    root = tmp_path_factory.mktemp("study") / "data"
    ignore = shutil.ignore_patterns("sub-02*", "sub-03*", "qsiprep")
    shutil.copytree(demo_data, root, ignore=ignore)
    return root


@pytest.fixture(scope="module")
def undisturbed(study):
    """What a run leaves that nobody disturbs."""
    code, told = run(job(study, study.parent / "alone", study.parent / "work"))
    assert code == 0, told
    return contents(study.parent / "alone")


@pytest.fixture
def results(study, tmp_path):
    """A folder as deep as the undisturbed results: links between data sets are relative."""
    return study.parent / tmp_path.name


@pytest.fixture
def on_small_disk():
    """Words that run a command with a small disk of its own."""
    words = ["unshare", "--mount"]
    if os.getuid():
        words += ["--user", "--map-root-user"]
    probe = [*words, "sh", "-c", "mount -t tmpfs none /mnt"]
    if subprocess.run(probe, check=False, capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    return [*words, "sh", "-c", ON_SMALL_DISK, "sh"]


@pytest.mark.parametrize("size", ["60k", "300k"])
def test_full_disk_of_the_outputs(study, undisturbed, on_small_disk, results, tmp_path, size):
    command = job(study, results, tmp_path / "work")
    kept = tmp_path / "kept"
    code, told = run([*on_small_disk, str(results), size, str(kept), "", *command])
    assert code == 0, told
    first, _, second = told.partition("first run: ")
    assert second.startswith(("1", "3")), told
    assert "No space left on device" in first
    assert str(results) in first
    assert "on a disk with room" in first
    assert "Traceback" not in told
    assert "second run: 0" in second
    assert contents(kept) == undisturbed


def test_full_disk_of_the_work_folder(study, undisturbed, on_small_disk, results, tmp_path):
    work = tmp_path / "work"
    command = job(study, results, work)
    code, told = run([*on_small_disk, str(work), "20m", "", "functional_1_wf", *command])
    assert code == 0, told
    first, _, second = told.partition("first run: ")
    assert second.startswith(("1", "3")), told
    assert "No space left on device" in first
    assert "--work-dir" in first
    assert "Traceback" not in told
    assert "second run: 0" in second
    assert contents(results) == undisturbed


def test_too_small_a_disk_for_the_work_folder(study, on_small_disk, results, tmp_path):
    work = tmp_path / "work"
    code, told = run([*on_small_disk, str(work), "600k", "", "", *job(study, results, work)])
    assert code == 0, told
    first, _, second = told.partition("first run: ")
    assert second.startswith("3"), told
    assert "need about" in first
    assert f"({work}). Give a --work-dir on a larger disk" in first
    assert "started" not in first
    assert "second run: 0" in second


def test_work_folder_deleted_while_running(study, undisturbed, results, tmp_path):
    work = tmp_path / "work"
    with start(job(study, results, work)) as process:
        wait_for("functional_1_wf", work, process)
        time.sleep(0.5)
        shutil.rmtree(work, ignore_errors=True)
        told = process.communicate(timeout=120)[0]
    assert process.returncode in {1, 3}, told
    assert "Traceback" not in told
    assert str(work) in told
    code, told = run(job(study, results, work))
    assert code == 0, told
    assert contents(results) == undisturbed


def test_worker_killed_for_memory_is_told_by_node_need_and_limit(
    study, undisturbed, results, tmp_path
):
    """As the kernel does: the process that computes is killed, its parent lives."""
    work = tmp_path / "work"
    with start(job(study, results, work)) as process:
        wait_for("parcellate", work, process)
        kill_busy_worker(process.pid, work)
        told = process.communicate(timeout=120)[0]
    assert process.returncode == 1, told
    assert "killed from outside" in told
    assert "needs about" in told
    assert "limit is 1.5 GB" in told
    assert "sub-01" in told
    assert "--mem" in told
    assert "Traceback" not in told
    code, told = run(job(study, results, work))
    assert code == 0, told
    assert contents(results) == undisturbed


def test_scheduler_ends_the_whole_job(study, undisturbed, results, tmp_path):
    """SIGTERM to every process of the job, as schedulers send it before they kill."""
    work = tmp_path / "work"
    with start(job(study, results, work), start_new_session=True) as process:
        wait_for("functional_1_wf", work, process)
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGTERM)
        told = process.communicate(timeout=60)[0]
    assert process.returncode == 130, told
    assert "interrupted; run again to go on from here" in told
    assert "Traceback" not in told
    assert not [entry for entry in Path("/proc").iterdir() if works_in(entry, work)]
    assert not list(work.rglob("*.claim"))
    code, told = run(job(study, results, work))
    assert code == 0, told
    assert contents(results) == undisturbed


def test_changed_input_is_measured_again_and_said(study, undisturbed, results, tmp_path):
    command = job(study, results, tmp_path / "work")
    assert run(command)[0] == 0
    (bold,) = study.rglob("func/sub-01*space-T1w*_desc-preproc_bold.nii.gz")
    original, state = bold.read_bytes(), bold.stat()
    image = nib.load(bold)
    values = np.asanyarray(image.dataobj)
    try:
        nib.save(type(image)(values[..., ::-1], image.affine, image.header), bold)
        code, told = run(command)
        assert code == 0, told
        assert "sub-01: inputs or settings have changed" in told
        assert "1 done, 0 done before" in told
        changed = contents(results)
        tables = [name for name in undisturbed if name.endswith("relmat.tsv")]
        assert tables
        assert not [name for name in tables if changed[name] == undisturbed[name]]
    finally:
        bold.write_bytes(original)
        os.utime(bold, ns=(state.st_atime_ns, state.st_mtime_ns))
    code, told = run(command)
    assert code == 0, told
    assert "sub-01: inputs or settings have changed" in told
    assert contents(results) == undisturbed


def test_clocks_that_disagree_do_not_matter(study, undisturbed, results, tmp_path):
    """Outputs that seem older, and newer, than their inputs; only a change counts."""
    command = job(study, results, tmp_path / "work")
    assert run(command)[0] == 0
    for seconds in (3e8, 4e9):
        for path in results.rglob("*"):
            os.utime(path, (seconds, seconds))
        code, told = run(command)
        assert code == 0, told
        assert "0 done, 1 done before" in told
    assert contents(results) == undisturbed
