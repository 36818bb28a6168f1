# SPDX-License-Identifier: MIT
"""--status: a cohort whose participants are run by jobs of their own, on several machines."""

import os
import subprocess
import sys
import time

import pytest

from kraken_bids import fetch
from kraken_bids.cli import main
from kraken_bids.completion import mark_finished
from kraken_bids.errors import InputError
from kraken_bids.plan import ReadyConnectome, SessionPlan
from kraken_bids.status import group_status, status_report
from kraken_bids.traces import SILENT_SECONDS, TRACE, Trace, find_trace, read_trace, write_trace

#: A process of a machine that is not this one.
ELSEWHERE = {"machine": "node7", "process": "00000000-1234-5678"}


@pytest.fixture
def plan(tmp_path):
    """What is to be done for a participant."""

    def plan(name, **changes):
        ready = ReadyConnectome("FCcorr_fs86_hpf", (), "", tmp_path / "x.npy", "0")
        return SessionPlan(name, None, **{"connectomes": (ready,), **changes})

    return plan


@pytest.fixture
def leave(tmp_path):
    """Leave a trace of a session's run, silent for some time."""

    def leave(label, run="20260101-000000_0", *, silent_s=0.0, **values):
        folder = tmp_path / "logs" / label / run
        write_trace(folder, Trace(**{"state": "running", "n_steps": 60, **values}))
        now = time.time() - silent_s
        os.utime(folder / TRACE, (now, now))

    return leave


@pytest.fixture
def report(tmp_path):
    """Lines of the report on some sessions."""

    def report(*plans, done=()):
        keys = {one.label: "key" for one in plans}
        return status_report(plans, keys, frozenset(done), output_dir=tmp_path).splitlines()

    return report


def ended_process():
    """Mark of a process of this machine that has ended."""
    code = "from kraken_bids.storage import process_mark; print(process_mark())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_every_state_has_its_row_and_the_last_line_counts_them(plan, leave, report):
    leave("sub-01", state="done", n_done=60, seconds=7200.0)
    leave("sub-02", n_done=23, seconds=3600.0, started="2026-01-01 08:00", at_work=("track",),
          **ELSEWHERE)  # fmt: skip
    leave("sub-03", state="failed", failures=("the image is cut short (x.nii)", "another"))
    leave("sub-04", state="stopped", n_done=10)
    problem = InputError("no confounds", where="sub-06")
    lines = report(
        *(plan(f"0{number}") for number in range(1, 6)),
        plan("06", connectomes=(), problems=(problem,)),
        plan("07"),
        done=["sub-01"],
    )
    assert [line.split()[:1] for line in lines[:-1]] == [
        [word] for word in ("session", *(f"sub-0{number}" for number in range(1, 8)))
    ]
    assert lines[1].split(maxsplit=2)[1:] == ["done", "in 2.0 h"]
    assert lines[2].split(maxsplit=2)[1:] == [
        "running", "step 24 of 60 (track), since 2026-01-01 08:00, for 60 min, on node7",
    ]  # fmt: skip
    assert "failed       the image is cut short (x.nii) (and 1 more)" in lines[3]
    assert "stopped      at step 11 of 60: interrupted; run it again" in lines[4]
    assert lines[5].split() == ["sub-05", "not", "started"]
    assert "no inputs    1 problem(s) of its inputs: see --dry-run" in lines[6]
    # one hour for sub-02, two each for sub-05 and sub-07, by one job at a time
    assert lines[-1] == (
        "1 of 7 done, 1 running, 1 failed, 1 stopped, 2 not started, 1 no inputs; "
        "about 5.0 h left with 1 at a time"
    )


def test_run_elsewhere_that_falls_silent_was_killed(plan, leave, report):
    leave("sub-01", n_done=5, silent_s=SILENT_SECONDS - 30, **ELSEWHERE)
    leave("sub-02", n_done=5, silent_s=SILENT_SECONDS + 30, **ELSEWHERE)
    lines = report(plan("01"), plan("02"))
    assert lines[1].split()[1] == "running"
    assert "stopped      at step 6 of 60: its run on node7 was killed" in lines[2]


def test_run_here_is_asked_whether_it_lives(plan, leave, report):
    leave("sub-01", silent_s=SILENT_SECONDS + 30)  # ours: a machine that was asleep
    leave("sub-02", process=ended_process())
    lines = report(plan("01"), plan("02"))
    assert lines[1].split()[1] == "running"
    assert lines[2].split()[1] == "stopped"


def test_last_run_counts(plan, leave, report):
    leave("sub-01", "20260102-000000_b", state="failed", failures=("x",), silent_s=900)
    leave("sub-01", "20260101-000000_a", n_done=3)  # later, by a clock that is behind
    assert report(plan("01"))[1].split()[1] == "running"


def test_what_was_done_with_other_settings_is_told(plan, leave, report, tmp_path):
    leave("sub-01", state="done", n_done=60)
    output = tmp_path / "x.tsv"
    output.write_text("x")
    mark_finished(tmp_path, "sub-01", "other key", [output])
    assert "not started  inputs or settings have changed" in report(plan("01"))[1]


def test_sessions_done_before_there_were_traces_are_done(plan, report):
    lines = report(plan("01"), plan("02"), done=["sub-01"])
    assert lines[1].split() == ["sub-01", "done"]
    assert lines[-1] == "1 of 2 done, 1 not started"  # no time is known


@pytest.fixture
def without_images(study, tmp_path, monkeypatch):
    """``--status`` of two participants, one of them done, on a machine without atlas images."""
    for label in ("01", "02"):
        study.add_anatomy(label)
        study.add_bold(label)
    output = tmp_path / "out" / "sub-01" / "x.tsv"
    output.parent.mkdir(parents=True)
    output.write_text("x")
    mark_finished(tmp_path / "out", "sub-01", "key of a run with the images", [output])
    monkeypatch.setenv("KRAKEN_BIDS_RESOURCES", str(tmp_path / "resources"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("KRAKENCODER_DATA", raising=False)

    def refuse(files, *_arguments, **_options):
        raise AssertionError(f"fetches {files}")

    monkeypatch.setattr(fetch, "fetch", refuse)
    words = [study.root, tmp_path / "out", "participant", "-w", tmp_path / "work", "--status"]

    def ask(*options):
        return main([*map(str, words), "--modality", "func", *options])

    return ask


def test_status_fetches_no_atlas_and_says_what_that_leaves_open(without_images, tmp_path, capsys):
    assert without_images("--atlases", "fs86", "shen268", "coco439") == 0
    told = capsys.readouterr()
    assert [line.split(maxsplit=1) for line in told.out.splitlines()[-4:]] == [
        ["session", "state"],
        ["sub-01", "done"],
        ["sub-02", "not started"],
        ["1", "of 2 done, 1 not started"],
    ]
    assert "not known without the images of shen268, coco439" in told.err
    assert "kraken-model fetch shen268 coco439" in told.err
    (tmp_path / "out" / "sub-01" / "x.tsv").write_text("cut short")
    without_images("--atlases", "shen268")
    assert "0 of 2 done, 2 not started" in capsys.readouterr().out


def test_atlas_that_needs_no_image_leaves_nothing_open(without_images, capsys):
    assert without_images("--atlases", "fs86") == 0
    told = capsys.readouterr()
    assert "inputs or settings have changed" in told.out
    assert "not known" not in told.err


def test_asking_leaves_nothing_behind(plan, leave, report, tmp_path):
    leave("sub-01", n_done=5, **ELSEWHERE)
    before = sorted(tmp_path.rglob("*"))
    report(plan("01"), plan("02"))
    assert sorted(tmp_path.rglob("*")) == before


def test_group_level_says_how_far_it_is(tmp_path):
    assert group_status(tmp_path, "group", is_done=False) == f"{tmp_path}: to do"
    write_trace(tmp_path / "logs" / "run", Trace("running", 9, n_done=3, seconds=60.0,
                                                 started="2026-01-01 08:00"))  # fmt: skip
    told = group_status(tmp_path, "group", is_done=False)
    assert told.startswith(f"{tmp_path}: running (step 4 of 9, since 2026-01-01 08:00")
    assert group_status(tmp_path, "group", is_done=True) == f"{tmp_path}: done"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"state": "running"}', '{"n_steps": "x"}'])
def test_trace_that_is_none_says_nothing(tmp_path, content):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / TRACE).write_text(content)
    assert read_trace(find_trace(tmp_path)) is None
