# SPDX-License-Identifier: MIT
"""One run a working folder, without locks; leftovers go, files of others stay."""

import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from kraken_bids import claims
from kraken_bids.claims import claimed, is_abandoned, remove_leftovers
from kraken_bids.errors import ResourceError
from kraken_bids.storage import atomic_path, is_running_here, process_mark


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "work" / "sub_01_wf"


@pytest.fixture
def claim(folder):
    return folder.with_name(".sub_01_wf.claim")


@pytest.fixture
def quick(monkeypatch):
    """Claims of other machines are watched for less than a second."""
    monkeypatch.setattr(claims, "TOUCH_SECONDS", 0.1)
    monkeypatch.setattr(claims, "ABANDONED_SECONDS", 0.6)


def ended_process():
    """Mark of a process of this machine that has ended."""
    code = "from kraken_bids.storage import process_mark; print(process_mark())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_claim_is_there_while_it_is_held_and_then_gone(folder, claim):
    with claimed([folder]):
        assert claim.read_text() == f"{socket.gethostname()} {process_mark()}"
    assert not claim.exists()


def test_folder_that_a_living_run_works_in_is_refused(folder, claim, tmp_path):
    other = tmp_path / "work" / "sub_02_wf"
    with claimed([folder]):
        with (
            pytest.raises(
                ResourceError, match=rf"another run \(process {os.getpid()} on .*--work"
            ),
            claimed([other, folder]),
        ):
            pass
        assert claim.exists()
    assert not list(claim.parent.iterdir())  # nor is the other one claimed any more


def test_claim_of_a_run_that_was_killed_is_taken_over(folder, claim):
    claim.parent.mkdir()
    claim.write_text(f"{socket.gethostname()} {ended_process()}")
    with claimed([folder]):
        assert claim.read_text().endswith(process_mark())
    assert not list(claim.parent.iterdir())


def test_number_of_a_process_that_is_used_again_is_no_living_run():
    place, number, start = process_mark().split("-")
    assert is_running_here(f"{place}-{number}-{start}")
    assert is_running_here(f"{place}-{number}-{int(start) - 1}") is False
    assert is_running_here(f"00000000-{number}-{start}") is None
    assert is_running_here("") is None


@pytest.mark.parametrize("content", ["node7 0123abcd-5-6", ""])
def test_untouched_claim_of_another_machine_is_taken_over(folder, claim, quick, content):
    claim.parent.mkdir()
    claim.write_text(content)
    os.utime(claim, (4e9, 4e9))  # that machine's clock is decades ahead
    with claimed([folder]):
        assert claim.read_text().endswith(process_mark())


def test_claim_that_another_machine_touches_is_respected(folder, claim, quick):
    claim.parent.mkdir()
    claim.write_text("node7 0123abcd-5-6")
    stopped = threading.Event()
    toucher = threading.Thread(target=claims._keep, args=([claim], stopped))
    toucher.start()
    try:
        with pytest.raises(ResourceError, match="process 5 on node7"), claimed([folder]):
            pass
    finally:
        stopped.set()
        toucher.join()
    assert claim.read_text() == "node7 0123abcd-5-6"


def test_of_many_that_start_at_once_one_has_the_folder(folder, claim):
    """Each holds an abandoned claim's place only if no other does."""
    claim.parent.mkdir()
    claim.write_text(f"{socket.gethostname()} {ended_process()}")
    code = (
        "import sys; from pathlib import Path; from kraken_bids.claims import claimed\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "with claimed([Path(sys.argv[1])]): print('mine', flush=True); sys.stdin.readline()"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder)], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )
        for _ in range(6)
    ]  # fmt: skip
    assert [run.stdout.readline() for run in runs] == ["ready\n"] * 6
    for run in runs:
        run.stdin.write("go\n")
        run.stdin.flush()
    end = time.monotonic() + 60
    while sum(run.poll() is None for run in runs) > 1 and time.monotonic() < end:
        time.sleep(0.05)
    assert [run.poll() is None for run in runs].count(True) == 1
    assert [run.communicate()[0] for run in runs].count("mine\n") == 1


def test_folder_of_a_process_that_has_ended_is_abandoned(folder, claim):
    claim.parent.mkdir()
    assert not is_abandoned(folder)
    claim.write_text(f"{socket.gethostname()} {ended_process()}")
    assert is_abandoned(folder)
    claim.write_text("node7 0123abcd-5-6")
    assert not is_abandoned(folder)
    claim.unlink()
    with claimed([folder]):
        assert not is_abandoned(folder)


def test_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(ResourceError, match=r"cannot be written.*--work-dir"),
        claimed([tmp_path / "file" / "sub_01_wf"]),
    ):
        pass


def test_temporary_files_of_killed_runs_are_removed_and_no_others(tmp_path):
    dead = tmp_path / "sub-01" / f".a.tsv.{ended_process()}.abcd1234"
    foreign = tmp_path / "sub-01" / ".a.tsv.0123abcd-5-6.abcd1234"
    old = tmp_path / "sub-01" / ".b.tsv.0123abcd-5-6.abcd1234"
    own = tmp_path / "sub-01" / ".some.body.elsefile"
    (tmp_path / "sub-01").mkdir()
    for file in (dead, foreign, old, own):
        file.write_text("half")
    os.utime(old, (time.time() - 2 * claims.LEFTOVER_SECONDS,) * 2)
    with atomic_path(tmp_path / "sub-01" / "c.tsv") as temporary:
        temporary.write_text("whole")
        remove_leftovers([tmp_path])
        assert sorted(path.name for path in (tmp_path / "sub-01").iterdir()) == sorted([
            foreign.name, own.name, temporary.name
        ])  # fmt: skip
    assert (tmp_path / "sub-01" / "c.tsv").read_text() == "whole"
