# SPDX-License-Identifier: MIT
"""What a run tells while it goes on, and the traces that it leaves."""

import logging

import pytest
from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from kraken_bids import progress as progress_module
from kraken_bids.errors import ResourceError
from kraken_bids.progress import Progress, duration, seconds_left, steps_by_session
from kraken_bids.traces import TRACE, read_trace


class Clock:
    """A clock that is set by hand, in seconds."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def told(caplog):
    """Lines that were logged."""
    caplog.set_level(logging.INFO, logger="kraken_bids")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.fixture
def sessions(clock, tmp_path):
    """Progress of some sessions of five steps each, the last one ``finish``."""

    def sessions(*labels, **options):
        names = {f"{label.replace('-', '_')}_wf": label for label in labels}
        steps = {
            label: {f"wf.{name}.{step}" for step in ("a", "b", "c", "d", "finish")}
            for name, label in names.items()
        }
        folders = {label: tmp_path / label for label in labels}
        return Progress(names, steps=steps, log_dirs=folders, clock=clock, **options)

    return sessions


def do(progress, clock, label, *steps, seconds=10):
    """Run steps one after the other."""
    for step in steps:
        node = f"wf.{label.replace('-', '_')}_wf.{step}"
        progress(node, "start")
        clock.now += seconds
        progress(node, "end")


ALL = ("a", "b", "c", "d", "finish")


def test_every_session_has_a_line_at_its_start_and_one_with_the_time_left(sessions, clock, told):
    with sessions("sub-01", "sub-02", "sub-03", "sub-04") as progress:
        do(progress, clock, "sub-01", "a", "b")
        do(progress, clock, "sub-02", "a")
        do(progress, clock, "sub-01", "c", "d", "finish", seconds=19)
        do(progress, clock, "sub-02", *ALL[1:], seconds=1)
    # sub-01 took 87 s, sub-02 has taken 67 so far, two others wait, two are worked on at a time:
    # (20 + 2 x 87) / 2
    assert told() == [
        "sub-01: started (1 of 4)",
        "sub-02: started (2 of 4)",
        "sub-01: done in 87 s (1 of 4; 1 at work, about 2 min left)",
        "sub-02: done in 71 s (2 of 4, about 3 min left)",
    ]


def test_line_of_a_session_that_is_done_says_what_it_lacks(sessions, clock, caplog):
    lacks = {"sub-01": [("sub-01", "run 2 has no mask"), ("sub-01", "no diffusion")]}
    with sessions("sub-01", "sub-02", lacks=lambda label: lacks.get(label, ())) as progress:
        caplog.set_level(logging.INFO, logger="kraken_bids")
        do(progress, clock, "sub-01", *ALL)
        do(progress, clock, "sub-02", *ALL)
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert told == [
        ("INFO", "sub-01: started (1 of 2)"),
        ("WARNING", "sub-01: done in 50 s, but for 2 problem(s) (1 of 2, about 50 s left)"),
        ("WARNING", "sub-01: run 2 has no mask"),
        ("WARNING", "sub-01: no diffusion"),
        ("INFO", "sub-02: started (2 of 2)"),
        ("INFO", "sub-02: done in 50 s (2 of 2)"),
    ]


def test_problems_of_a_single_session_are_left_to_the_end_that_follows(sessions, clock, told):
    with sessions("sub-01", lacks=lambda _: [("sub-01", "no diffusion")]) as progress:
        do(progress, clock, "sub-01", *ALL, seconds=1)
    assert told()[-1] == "sub-01: done in 5 s, but for 1 problem(s)"


def test_a_single_session_tells_of_its_steps(sessions, clock, told):
    with sessions("sub-01") as progress:
        do(progress, clock, "sub-01", *ALL, seconds=60)
    assert told() == [
        "sub-01: started, 5 steps",
        "sub-01: 1 of 5 steps in 60 s, about 4 min left if the others take as long",
        "sub-01: 2 of 5 steps in 2 min, about 3 min left if the others take as long",
        "sub-01: 3 of 5 steps in 3 min, about 2 min left if the others take as long",
        "sub-01: 4 of 5 steps in 4 min, about 60 s left if the others take as long",
        "sub-01: done in 5 min",
    ]


def test_failures_are_told_at_once_and_the_others_go_on(sessions, clock, told, tmp_path):
    with sessions("sub-01", "sub-02") as progress:
        do(progress, clock, "sub-01", "a")
        progress("wf.sub_01_wf.b", "exception")
        do(progress, clock, "sub-02", *ALL)
    progress.explain("sub-01", ["the image is cut short"])
    assert told()[1] == "sub-01: b failed"
    assert told()[-1] == "sub-02: done in 50 s (1 of 2)"
    failed, done = (read_trace(tmp_path / label / TRACE) for label in ("sub-01", "sub-02"))
    assert (failed.state, failed.failures) == ("failed", ("the image is cut short",))
    assert (done.state, done.n_done, done.n_steps, done.seconds) == ("done", 5, 5, 50.0)


def test_trace_follows_a_session(sessions, clock, tmp_path):
    with sessions("sub-01", "sub-02") as progress:
        do(progress, clock, "sub-01", "a", "b")
        progress("wf.sub_01_wf.c", "start")
        clock.now += 500
        progress.beat()
        trace = read_trace(tmp_path / "sub-01" / TRACE)
        assert (trace.state, trace.n_done, trace.at_work) == ("running", 2, ("c",))
        assert trace.seconds == 520
        assert not (tmp_path / "sub-02").exists()
    assert read_trace(tmp_path / "sub-01" / TRACE).state == "stopped"


def test_a_long_silence_is_broken(sessions, clock, told):
    with sessions("sub-01") as progress:
        progress("wf.sub_01_wf.a", "start")
        clock.now += 1000
        progress.beat()
        assert len(told()) == 1
        clock.now += 1000
        progress.beat()
        assert told()[1] == "at work: sub-01 (0 of 5 steps; a for 33 min)"
        progress.beat()
        assert len(told()) == 2


def test_interrupted_run_leaves_that_it_was(sessions, clock, tmp_path):
    def interrupted():
        with sessions("sub-01", "sub-02") as progress:
            do(progress, clock, "sub-01", *ALL)
            do(progress, clock, "sub-02", "a")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    states = [read_trace(tmp_path / label / TRACE).state for label in ("sub-01", "sub-02")]
    assert states == ["done", "stopped"]


def test_trace_that_cannot_be_written_is_told_once(sessions, clock, told, monkeypatch):
    def refuse(log_dir, trace):
        raise ResourceError("cannot be written: No space left on device", where=str(log_dir))

    monkeypatch.setattr(progress_module, "write_trace", refuse)
    with sessions("sub-01") as progress:
        do(progress, clock, "sub-01", *ALL)
    (line,) = (line for line in told() if "No space" in line)
    assert line.startswith("--status will not show this run: cannot be written")
    assert told()[-1] == "sub-01: done in 50 s"


def test_nodes_that_are_dissolved_are_no_steps():
    inner = pe.Workflow(name="sub_01_wf")
    fields = pe.Node(niu.IdentityInterface(fields=["x"]), name="inputnode")
    merge = pe.Node(niu.Merge(1), name="merge")
    inner.connect([(fields, merge, [("x", "in1")])])
    workflow = pe.Workflow(name="wf")
    workflow.add_nodes([inner])
    assert steps_by_session(workflow, {"sub_01_wf": "sub-01"}) == {
        "sub-01": {"wf.sub_01_wf.merge"}
    }  # fmt: skip
    alone = {"wf": "group"}
    assert steps_by_session(workflow, alone) == {"group": {"wf.sub_01_wf.merge"}}


def test_time_left_is_no_less_than_that_of_the_one_that_has_just_begun():
    assert seconds_left(100, at_work=[0, 90], n_waiting=0, n_at_once=2) == 100
    assert seconds_left(100, at_work=[], n_waiting=8, n_at_once=4) == 200


@pytest.mark.parametrize(
    ("seconds", "text"), [(89, "89 s"), (90, "2 min"), (5400, "1.5 h"), (172800, "2.0 days")]
)
def test_times_are_told_in_units_that_fit(seconds, text):
    assert duration(seconds) == text
