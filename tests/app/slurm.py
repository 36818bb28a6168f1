# SPDX-License-Identifier: MIT
"""A real Slurm of one node, in a folder of its own."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time

import pytest

from kraken_bids.machine import available_cores

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


def wait_until(true, seconds, what):
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
        wait_until(
            lambda: not self.run("squeue", "--noheader").strip(), seconds, "the end of all jobs"
        )

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


@contextlib.contextmanager
def running_slurm(folder):
    """Start Slurm in a folder; the test is skipped where it is not installed."""
    os.environ["PATH"] += ":/usr/sbin"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"Slurm is not installed: {', '.join(missing)} (apt: slurm-wlm, munge)")
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
                wait_until((folder / "munge" / "socket").exists, 10, "munged")
        lab = Slurm(environ, folder)

        def is_idle():
            told = subprocess.run(
                ["sinfo", "-h", "-o", "%t"], env=environ, capture_output=True, text=True,
                check=False,
            )  # fmt: skip
            return told.stdout.strip() == "idle"

        wait_until(is_idle, 30, "an idle node")
        yield lab
    finally:
        for daemon in reversed(running):
            daemon.terminate()
            daemon.wait(timeout=20)
