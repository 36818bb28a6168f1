# SPDX-License-Identifier: MIT
"""The scripts of every scheduler: as they have been read and found right, and sound shell."""

import shutil
import subprocess
from pathlib import Path

import pytest

from kraken_bids.errors import ResourceError
from kraken_bids.submit.jobs import Job, Request
from kraken_bids.submit.schedulers import SCHEDULERS
from kraken_bids.submit.scripts import group_script, participant_script

EXPECTED = Path(__file__).parent / "expected"
FOLDER = Path("/data/out/logs/submit/one")


def make_jobs():
    """An array of three tasks and a group job with a GPU."""
    array = Job(
        name="kraken",
        command=("kraken-bids", "/data/my study", "/data/out", "participant"),
        request=Request(4, 16.0, 1470, queue="long", account="lab", extra=("--odd",)),
        folder=FOLDER,
        list_file=FOLDER / "kraken.txt",
        n_tasks=3,
        at_once=2,
        prologue=("module load mrtrix3",),
    )
    group = Job(
        name="kraken-group",
        command=("kraken-bids", "/data/my study", "/data/out", "group"),
        request=Request(2, 8.0, 90, n_gpus=1),
        folder=FOLDER,
    )
    return array, group


def scripts(name):
    """Both scripts of a scheduler."""
    array, group = make_jobs()
    scheduler = SCHEDULERS[name]
    watched = () if scheduler.knows_success else (array,)
    return {
        "participant": participant_script(array, scheduler),
        "group": group_script(group, scheduler, arrays=watched),
    }


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("level", ["participant", "group"])
def test_scripts_are_those_expected(name, level):
    assert scripts(name)[level] == (EXPECTED / f"{name}-{level}.sh").read_text()


@pytest.mark.parametrize("file", sorted(EXPECTED.glob("*.sh")), ids=lambda file: file.stem)
@pytest.mark.parametrize("program", [("bash", "-n"), ("shellcheck", "--severity=style")])
def test_scripts_are_sound_shell(file, program):
    if shutil.which(program[0]) is None:
        pytest.skip(f"{program[0]} is not installed")
    done = subprocess.run([*program, file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def run_script(text, tmp_path, environ):
    """Run a script with a stand-in for kraken-bids that tells its arguments; code and output."""
    program = tmp_path / "kraken-bids"
    program.write_text('#!/bin/bash\nprintf "%s|" "$@"\n[ "$4" != --fail ]\n')
    program.chmod(0o755)
    script = tmp_path / "job.sh"
    script.write_text(text.replace("module load", ": module load"))
    path = f"{tmp_path}:/usr/bin:/bin"
    done = subprocess.run(
        ["bash", script], env={"PATH": path, **environ}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def local_array(tmp_path):
    """The array with its list in a folder that exists."""
    array, _ = make_jobs()
    list_file = tmp_path / "kraken.txt"
    list_file.write_text("01\n02 03\n04\n")
    return Job(**{**vars(array), "folder": tmp_path, "list_file": list_file})


@pytest.mark.parametrize("name", SCHEDULERS)
def test_task_takes_the_participants_of_its_line(name, tmp_path):
    scheduler = SCHEDULERS[name]
    text = participant_script(local_array(tmp_path), scheduler)
    code, told, _ = run_script(text, tmp_path, {scheduler.task_variable: "2"})
    assert code == 0
    assert told == "/data/my study|/data/out|participant|--participant-label|02|03|"


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("value", [None, "0", "undefined"])
def test_job_that_is_no_array_takes_the_first_line(name, value, tmp_path):
    scheduler = SCHEDULERS[name]
    text = participant_script(local_array(tmp_path), scheduler)
    environ = {} if value is None else {scheduler.task_variable: value}
    code, told, _ = run_script(text, tmp_path, environ)
    assert (code, told.split("|")[4]) == (0, "01")


@pytest.mark.parametrize("name", SCHEDULERS)
def test_task_without_a_line_fails(name, tmp_path):
    scheduler = SCHEDULERS[name]
    text = participant_script(local_array(tmp_path), scheduler)
    code, told, said = run_script(text, tmp_path, {scheduler.task_variable: "4"})
    assert (code, told) == (2, "")
    assert "names no participant" in said


def test_group_level_on_grid_engine_looks_whether_all_tasks_succeeded(tmp_path):
    scheduler = SCHEDULERS["sge"]
    array = local_array(tmp_path)
    _, group = make_jobs()
    text = group_script(group, scheduler, arrays=[array])
    for task in (1, 3):
        environ = {scheduler.task_variable: str(task)}
        assert run_script(participant_script(array, scheduler), tmp_path, environ)[0] == 0

    code, told, said = run_script(text, tmp_path, {})
    assert (code, told) == (1, "")
    assert "these tasks have failed: kraken:2" in said

    failing = Job(**{**vars(array), "command": (*array.command, "--fail")})
    environ = {scheduler.task_variable: "2"}
    assert run_script(participant_script(failing, scheduler), tmp_path, environ)[0] == 1
    assert run_script(text, tmp_path, {})[0] == 1

    assert run_script(participant_script(array, scheduler), tmp_path, environ)[0] == 0
    code, told, _ = run_script(text, tmp_path, {})
    assert (code, told) == (0, "/data/my study|/data/out|group|")


@pytest.mark.parametrize(
    ("name", "printed", "number"),
    [
        ("slurm", "1234\n", "1234"),
        ("slurm", "1234;cluster\n", "1234"),
        ("pbs", "1234[].server.site\n", "1234[].server.site"),
        ("pbs", "1234.server.site\n", "1234.server.site"),
        ("torque", "1234[].server\n", "1234[].server"),
        ("sge", "1234.1-3:1\n", "1234"),
        ("lsf", "Job <1234> is submitted to queue <long>.\n", "1234"),
    ],
)
def test_id_of_a_job_is_read(name, printed, number):
    assert SCHEDULERS[name].read_id(printed) == number


def test_no_id_is_told():
    with pytest.raises(ResourceError, match="gave no job id, but: queue closed"):
        SCHEDULERS["lsf"].read_id("queue closed")


@pytest.mark.parametrize(
    ("name", "ids", "all_must_succeed", "words"),
    [
        ("slurm", ["1", "2"], True, ["--dependency=afterok:1:2", "--kill-on-invalid-dep=yes"]),
        ("slurm", ["1"], False, ["--dependency=afterany:1", "--kill-on-invalid-dep=yes"]),
        ("pbs", ["1[].s"], True, ["-W", "depend=afterok:1[].s"]),
        ("torque", ["1[].s", "2.s"], True, ["-W", "depend=afterokarray:1[].s,afterok:2.s"]),
        ("sge", ["1", "2"], True, ["-hold_jid", "1,2"]),
        ("lsf", ["1", "2"], True, ["-w", "done(1) && done(2)"]),
        ("lsf", ["1"], False, ["-w", "ended(1)"]),
    ],
)
def test_waiting_for_other_jobs(name, ids, all_must_succeed, words):
    assert SCHEDULERS[name].waiting(ids, all_must_succeed) == words


@pytest.mark.parametrize(
    ("name", "printed", "is_queued"),
    [
        ("slurm", "  12_1 lab kraken me R 0:10 1 node\n", True),
        ("slurm", "", False),
        ("torque", "Job id  Name\n------  ----\n12[1].s kraken me 0 C long\n", False),
        ("torque", "12[1].s kraken me 0 C long\n12[2].s kraken me 0 R long\n", True),
        ("lsf", "12 me DONE long a b kraken[1] x\n12 me EXIT long a b kraken[2] x\n", False),
        ("lsf", "12 me DONE long a b kraken[1] x\n12 me PEND long a - kraken[2] x\n", True),
    ],
)
def test_jobs_that_have_ended_are_told_from_others(name, printed, is_queued):
    assert SCHEDULERS[name].is_queued(printed) is is_queued
