# SPDX-License-Identifier: MIT
"""What a run tells while it goes on and at its end."""

from kraken_bids.run import Outcome, new_run_id


def test_exit_code_is_that_of_the_worst_session():
    outcome = Outcome(done=["sub-01"])
    assert outcome.tell() == 0
    outcome.fail("sub-02", "the image is cut short")
    assert outcome.tell() == 1


def test_runs_have_names_of_their_own():
    assert new_run_id() != new_run_id()
