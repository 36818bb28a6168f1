# SPDX-License-Identifier: MIT
"""A cohort on a real Slurm."""

import subprocess
import sys

import pytest

from tests.app.conftest import damage

pytestmark = pytest.mark.slow


@pytest.fixture
def words(study, small_model, tmp_path):
    """The command line: functional connectomes of one atlas are enough."""
    return [
        study, tmp_path / "out", "--scheduler", "slurm", "--time", "10m", "--nprocs", "1",
        "--mem", "1500M", "--group-nprocs", "1", "--group-mem", "1500M", "--group-time", "10m",
        "--modality", "func", "--atlases", "fs86", "--model", small_model,
        "--output-label", "tiny", "--adaptation", "none", "-w", tmp_path / "work",
    ]  # fmt: skip


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
    code, told = lab.submit(study, out, "--retry-failed")
    assert (code, lab.states()) == (0, [])
    assert "nothing to submit: all participants and the group level are done" in told

    next((predicted / ".kraken-bids").rglob("group*")).unlink()  # as if the group job had failed
    code, told = lab.submit(study, out, "--retry-failed")
    assert code == 0, told
    lab.wait()
    assert lab.states() == [("kraken-group", "COMPLETED")]


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
