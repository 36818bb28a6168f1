# SPDX-License-Identifier: MIT
"""A cohort on a node of a cluster: a real Slurm runs the Apptainer image, as an ordinary user."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.container

#: Runs until its standard input ends.
SLURM = """\
import pathlib, sys
from tests.app.slurm import running_slurm
with running_slurm(pathlib.Path("/share/slurm")):
    print("running", flush=True)
    sys.stdin.read()
"""
#: As this Python finds itself where it was lent to.
PYTHON = str(Path(sys.executable).resolve())


def environ(*folders):
    """Words that set what the user's programs need."""
    path = os.pathsep.join([*folders, sysconfig.get_path("purelib")])
    return ["env", f"PYTHONPATH={path}", "PYTHONDONTWRITEBYTECODE=1", "OMP_NUM_THREADS=1",
            "SLURM_CONF=/share/slurm/slurm.conf"]  # fmt: skip


class Login:
    """The machine that is submitted from, which is also the node."""

    def __init__(self, user, share):
        self.user, self.share = user, share

    def submit(self, *words):
        """Run ``kraken-submit``; give what it said."""
        return self.user(*environ("/source"), PYTHON, "-m", "kraken_bids.submit", *words)

    def wait(self, *, seconds=900):
        """Wait until no job is left; give (name, state) of each task."""
        end = time.monotonic() + seconds
        while self.user(*environ(), "squeue", "--noheader").strip():
            assert time.monotonic() < end, f"jobs have not ended in {seconds} s"
            time.sleep(2)
        log = self.share / "slurm" / "jobcomp.log"
        fields = [
            dict(word.split("=", 1) for word in line.split() if "=" in word)
            for line in log.read_text().splitlines()
        ]
        log.write_text("")
        return sorted((item["Name"], item["JobState"]) for item in fields)

    def logs(self):
        """What the jobs have said."""
        return "\n".join(
            path.read_text() for path in self.share.glob("cohort/logs/submit/*/*.log")
        )


@pytest.fixture(scope="module")
def login(user, user_words, apptainer_environ, share):
    """A running Slurm, and atlases that were fetched to the machine that is submitted from."""
    user("mkdir", "/share/slurm")
    user(
        *environ("/source"), "KRAKEN_BIDS_RESOURCES=/source/resources", PYTHON, "-c",
        "import sys; from kraken_bids.model_commands.cli import main; sys.exit(main())",
        "fetch", "shen268", "coco439", "--output", "/share/.cache/kraken-bids",
    )  # fmt: skip
    with subprocess.Popen(
        [*user_words, *environ(str(ROOT)), PYTHON, "-c", SLURM], env=apptainer_environ,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as daemons:  # fmt: skip
        assert daemons.stdout.readline() == "running\n"
        yield Login(user, share)
        daemons.stdin.close()
        daemons.wait(timeout=60)


def test_cohort_with_a_failing_participant_and_its_retry(login, sif, share, shared_study, user):
    """The line of the README: the array fails, is mended and retried, the group job follows."""
    masks = {
        path: path.read_bytes()
        for path in shared_study.glob("derivatives/fmriprep/sub-02/func/*-brain_mask.nii.gz")
    }
    assert masks
    for path in masks:
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), path)
    told = login.submit(
        "/share/data", "/share/cohort", "--scheduler", "slurm", "--container", sif,
        "--time", "20m", "--nprocs", "1", "--mem", "1500M", "--group-nprocs", "1",
        "--group-mem", "1500M", "--modality", "func", "--model", "/share/model",
        "--output-label", "demo", "--adaptation", "none", "-w", "/share/cohort-work",
        "--pcorr-lambda", "fs86=0.06", "shen268=0.06", "coco439=0.06",
    )  # fmt: skip
    assert "2 of 2 participants have work to do" in told
    assert login.wait() == [
        ("kraken", "COMPLETED"), ("kraken", "FAILED"), ("kraken-group", "CANCELLED"),
    ], login.logs()  # fmt: skip

    for path, whole in masks.items():
        path.write_bytes(whole)
    told = login.submit("/share/data", "/share/cohort", "--retry-failed")
    # what a job in the image has done counts as done here
    assert "1 of 2 participants have work to do" in told
    expected = [("kraken", "COMPLETED"), ("kraken-group", "COMPLETED")]
    assert login.wait() == expected, login.logs()
    out = share / "cohort"
    # 3 kinds of functional connectomes, 3 atlases, 2 participants
    assert len(list(out.glob("sub-*/func/*_relmat.tsv"))) == 18
    predicted = out / "derivatives" / "krakencoder-demo"
    assert (predicted / "group.html").is_file()
    assert len(list(predicted.glob("sub-*/sub-*_latent.tsv"))) == 2

    told = login.submit("/share/data", "/share/cohort", "--retry-failed")
    assert "nothing to submit: all participants and the group level are done" in told
    assert login.wait() == []
