# SPDX-License-Identifier: MIT
"""What a run tells while it goes on and at its end."""

import logging

import pytest

from kraken_bids.errors import InputError
from kraken_bids.run import Outcome, Progress, new_run_id, read_plugin


@pytest.fixture
def told(caplog):
    """Lines that were logged."""
    caplog.set_level(logging.INFO, logger="kraken_bids")
    return caplog


def test_progress_tells_finished_sessions_and_time_left(told):
    progress = Progress({"sub_01_wf": "sub-01", "sub_02_wf": "sub-02"}, n_steps=10)
    for number in range(9):
        progress(f"wf.sub_01_wf.node_{number}", "start")
        progress(f"wf.sub_01_wf.node_{number}", "end")
    progress("wf.sub_01_wf.finish", "end")
    lines = [record.getMessage() for record in told.records]
    assert lines[-1] == "sub-01 done (1 of 2)"
    shares = [line.partition(" %")[0] for line in lines[:-1]]
    assert shares == ["20", "40", "60", "80"]


def test_progress_tells_failures_at_once(told):
    Progress({"sub_01_wf": "sub-01"}, n_steps=3)("wf.sub_01_wf.functional_wf.denoise", "exception")
    assert told.records[-1].getMessage() == "sub-01: functional_wf.denoise failed"


def test_exit_code_is_that_of_the_worst_session():
    outcome = Outcome(done=["sub-01"])
    assert outcome.tell() == 0
    outcome.fail("sub-02", "the image is cut short")
    assert outcome.tell() == 1


@pytest.mark.parametrize("content", ["{", "[]", '{"plugin_args": {}}'])
def test_plugin_file_that_is_none_is_refused(tmp_path, content):
    file = tmp_path / "plugin.json"
    file.write_text(content)
    with pytest.raises(InputError, match=r"not a plugin description.*MultiProc"):
        read_plugin(file)


def test_plugin_file_is_read(tmp_path):
    file = tmp_path / "plugin.json"
    file.write_text('{"plugin": "Linear"}')
    assert read_plugin(file) == {"plugin": "Linear", "plugin_args": {}}


def test_runs_have_names_of_their_own():
    assert new_run_id() != new_run_id()
