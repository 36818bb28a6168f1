# SPDX-License-Identifier: MIT
"""A cohort on a real Slurm: one node, started here in a folder of its own."""

import os
import shutil
import socket
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest

from kraken_bids.machine import available_cores

pytestmark = pytest.mark.slow

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel")
CONF = """\
ClusterName=kraken
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
PropagateResourceLimits=NONE
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0,batch_sched_delay=0
ReturnToService=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobcomp.log
MaxArraySize=5
KillWait=2
OverTimeLimit=0
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4000 State=UNKNOWN
PartitionName=lab Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait(true, seconds, what):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return
        time.sleep(0.2)
    pytest.fail(f"{what} did not happen in {seconds} s")


class Slurm:
    """What the tests ask of it."""

    def __init__(self, environ, folder):
        self.environ, self.folder = environ, folder

    def submit(self, *words):
        """Run ``kraken-submit``; gives exit code and all that it printed."""
        command = [sys.executable, "-m", "kraken_bids.submit", *map(str, words)]
        environ = {name: value for name, value in self.environ.items() if name != "LOGNAME"}
        done = subprocess.run(
            command, env={**environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
            check=False, timeout=120,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def run(self, *words):
        """Output of a command of Slurm."""
        return subprocess.run(
            words, env=self.environ, capture_output=True, text=True, check=True, timeout=30
        ).stdout

    def wait(self, *, seconds=90):
        """Wait until no job is left."""
        _wait(lambda: not self.run("squeue", "--noheader").strip(), seconds, "the end of all jobs")

    def states(self):
        """State of every job that has ended: (name, state), an entry a task."""
        fields = [
            dict(word.split("=", 1) for word in line.split() if "=" in word)
            for line in (self.folder / "jobcomp.log").read_text().splitlines()
        ]
        return sorted((item["Name"], item["JobState"]) for item in fields)

    def forget(self):
        """Forget the jobs that have ended."""
        (self.folder / "jobcomp.log").write_text("")


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """A running Slurm."""
    os.environ["PATH"] += ":/usr/sbin"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"Slurm is not installed: {', '.join(missing)} (apt: slurm-wlm, munge)")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(mode=0o755)
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(64))
    key.chmod(0o400)
    conf = folder / "slurm.conf"
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    conf.write_text(
        CONF.format(
            folder=folder, user=user, host=socket.gethostname().partition(".")[0],
            ports=(_free_port(), _free_port()), cpus=available_cores(),
        )
    )  # fmt: skip
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
    environ = {**os.environ, "SLURM_CONF": str(conf)}
    daemons = [
        ["munged", "--foreground", "--force", f"--key-file={key}",
         f"--socket={folder}/munge/socket", f"--pid-file={folder}/munge/pid",
         f"--log-file={folder}/munge/log", f"--seed-file={folder}/munge/seed"],
        ["slurmctld", "-D", "-c", "-f", str(conf)],
        ["slurmd", "-D", "-f", str(conf)],
    ]  # fmt: skip
    running = []
    try:
        for words in daemons:
            with (folder / f"{words[0]}.out").open("wb") as log:
                running.append(
                    subprocess.Popen(words, env=environ, stdout=log, stderr=subprocess.STDOUT)
                )
            if words[0] == "munged":
                _wait((folder / "munge" / "socket").exists, 10, "munged")
        lab = Slurm(environ, folder)

        def is_idle():
            told = subprocess.run(
                ["sinfo", "-h", "-o", "%t"], env=environ, capture_output=True, text=True,
                check=False,
            )  # fmt: skip
            return told.stdout.strip() == "idle"

        _wait(is_idle, 30, "an idle node")
        yield lab
    finally:
        for daemon in reversed(running):
            daemon.terminate()
            daemon.wait(timeout=20)


@pytest.fixture
def lab(slurm):
    """Slurm, with no jobs that other tests have left."""
    slurm.forget()
    return slurm


@pytest.fixture
def study(demo_data, tmp_path):
    """A data set of its own, of links: files may be replaced."""
    root = tmp_path / "study"
    root.mkdir()
    for path in sorted(demo_data.rglob("*")):
        target = root / path.relative_to(demo_data)
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.symlink_to(path)
    return root


@pytest.fixture
def words(study, small_model, tmp_path):
    """The command line: functional connectomes of one atlas are enough."""
    return [
        study, tmp_path / "out", "--scheduler", "slurm", "--time", "10m", "--nprocs", "1",
        "--mem", "1500M", "--group-nprocs", "1", "--group-mem", "1500M", "--group-time", "10m",
        "--modality", "func", "--atlases", "fs86", "--model", small_model,
        "--output-label", "tiny", "--adaptation", "none", "-w", tmp_path / "work",
    ]  # fmt: skip


def damage(study, participant):
    """Empty a participant's brain masks; gives what undoes it."""
    masks = {}
    for path in study.glob(f"derivatives/fmriprep/sub-{participant}/func/*-brain_mask.nii.gz"):
        masks[path] = path.readlink()
        image = nib.load(path)
        path.unlink()
        nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), path)
    assert masks

    def mend():
        for path, original in masks.items():
            path.unlink()
            path.symlink_to(original)

    return mend


def connectomes(out):
    """Names of the participants that have connectomes."""
    return sorted({path.name[:6] for path in out.glob("sub-*/func/*_relmat.tsv")})


def test_cohort_with_a_failing_participant_and_its_retry(lab, study, words, tmp_path):
    out = tmp_path / "out"
    mend = damage(study, "02")

    code, told = lab.submit(*words)
    assert code == 0, told
    assert "3 of 3 participants have work to do" in told
    lab.wait()
    assert lab.states() == [
        ("kraken", "COMPLETED"), ("kraken", "COMPLETED"), ("kraken", "FAILED"),
        ("kraken-group", "CANCELLED"),
    ]  # fmt: skip
    assert connectomes(out) == ["sub-01", "sub-03"]
    assert not (out / "derivatives" / "krakencoder-tiny" / "group.html").exists()

    mend()
    lab.forget()
    code, told = lab.submit(study, out, "--retry-failed")
    assert code == 0, told
    assert "1 of 3 participants have work to do" in told
    lab.wait()
    assert lab.states() == [("kraken", "COMPLETED"), ("kraken-group", "COMPLETED")]
    assert connectomes(out) == ["sub-01", "sub-02", "sub-03"]
    predicted = out / "derivatives" / "krakencoder-tiny"
    assert (predicted / "group.html").exists()
    assert len(list(predicted.glob("sub-*/sub-*_latent.tsv"))) == 3

    lab.forget()
    code, told = lab.submit(study, out, "participant", "--retry-failed")
    assert (code, lab.states()) == (0, [])
    assert "nothing to submit: all participants are done" in told


def test_job_that_its_time_limit_ended_is_retried(lab, study, words, tmp_path):
    out, flag, prologue = tmp_path / "out", tmp_path / "slow", tmp_path / "prologue.sh"
    flag.touch()
    prologue.write_text(f'[ "$SLURM_ARRAY_TASK_ID" != 2 ] || [ ! -e "{flag}" ] || sleep 600\n')
    short = [*words[:2], "participant", *words[2:], "--time", "1m", "--prologue", prologue]

    code, told = lab.submit(*short)
    assert code == 0, told
    code, told = lab.submit(study, out, "--retry-failed")
    assert code == 3
    assert "jobs of the last submission still wait or run" in told
    lab.wait(seconds=150)
    assert ("kraken", "TIMEOUT") in lab.states()

    flag.unlink()
    lab.forget()
    code, told = lab.submit(study, out, "--retry-failed")
    assert code == 0, told
    lab.wait()
    assert lab.states() == [("kraken", "COMPLETED")]
    assert connectomes(out) == ["sub-01", "sub-02", "sub-03"]


def test_group_level_of_those_that_succeeded(lab, study, words, tmp_path):
    damage(study, "02")
    code, told = lab.submit(*words, "--group-if", "ended")
    assert code == 0, told
    lab.wait()
    assert ("kraken-group", "COMPLETED") in lab.states()
    predicted = tmp_path / "out" / "derivatives" / "krakencoder-tiny"
    assert len(list(predicted.glob("sub-*/sub-*_latent.tsv"))) == 2


def test_arrays_are_cut_to_what_the_site_allows(slurm):
    """The tests' Slurm has MaxArraySize=5: indices up to 4."""
    code = (
        "from kraken_bids.submit.submission import site_array_size as size;"
        "from kraken_bids.submit.schedulers import SCHEDULERS; print(size(SCHEDULERS['slurm']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=slurm.environ, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "4"
