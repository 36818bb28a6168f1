# SPDX-License-Identifier: MIT
"""Running graphs: failures are told, the rest goes on, killed workers are noticed."""

import io
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from nipype.utils.filemanip import loadpkl

from kraken_bids.console import EVERYTHING
from kraken_bids.errors import ResourceError
from kraken_bids.execution import THREAD_VARIABLES, claim_folder, descendants, run_workflow
from kraken_bids.settings import Resources

pytestmark = pytest.mark.filterwarnings("ignore")  # forking in nipype's pool


def double(x):
    """Do something quick."""
    return 2 * x


def refuse(x):
    """Fail as our interfaces do."""
    from kraken_bids.errors import InputError

    raise InputError("the image is cut short", where="bold.nii.gz", fix="Copy it again.")


def vanish(x):
    """Be killed as by the kernel when memory runs out."""
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def exhaust(x):
    """Ask for more memory than the process may have."""
    import resource

    import numpy as np

    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()  # noqa: PTH123, SIM115
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 200_000_000, before[1]))
    try:
        return np.ones(10**9)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def overflow(x):
    """Write more than the process may."""
    import resource
    from pathlib import Path

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        Path("large").write_bytes(bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def make_workflow(tmp_path, **functions):
    """A graph of independent nodes, one a function."""
    workflow = pe.Workflow(name="test_wf", base_dir=str(tmp_path))
    workflow.add_nodes([
        pe.Node(niu.Function(function=function, output_names=["y"]), name=name)
        for name, function in functions.items()
    ])
    for name in functions:
        workflow.get_node(name).inputs.x = 1
    return workflow


def count_threads(x):
    """Say how many threads each library would take, those loaded before and those to come."""
    import os
    import subprocess
    import sys

    import numpy as np
    import torch
    from threadpoolctl import threadpool_info

    np.ones((200, 200)) @ np.ones((200, 200))
    code = (
        "import numpy, threadpoolctl; "
        "print(*{pool['num_threads'] for pool in threadpoolctl.threadpool_info()})"
    )
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return {
        "variables": {v for k, v in os.environ.items() if k.endswith("_NUM_THREADS")},
        "pools": {pool["num_threads"] for pool in threadpool_info()},
        "torch": torch.get_num_threads(),
        "program": set(map(int, child.stdout.split())),
    }


def test_libraries_keep_to_their_threads(tmp_path, monkeypatch):
    for name in THREAD_VARIABLES:  # as a person's or a site's profile may have set them
        monkeypatch.setenv(name, "7")
    workflow = make_workflow(tmp_path, count=count_threads)
    failures = run_workflow(
        workflow,
        resources=Resources(n_procs=2, omp_nthreads=1),
        crash_dir=tmp_path / "crashes",
    )
    assert not failures
    found = loadpkl(tmp_path / "test_wf" / "count" / "result_count.pklz").outputs.y
    assert found["variables"] == {"1"}
    assert found["torch"] == 1
    assert found["pools"] == found["program"] == {1}
    assert os.environ["MKL_NUM_THREADS"] == "7"  # as before the run


def test_sessions_are_ended_one_after_the_other(tmp_path):
    workflow = pe.Workflow(name="test_wf", base_dir=str(tmp_path))
    for session in ("a_wf", "b_wf", "c_wf"):
        steps = [
            pe.Node(niu.Function(function=double, output_names=["y"]), name=f"step_{number}")
            for number in range(3)
        ]
        steps[0].inputs.x = 1
        inner = pe.Workflow(name=session)
        inner.connect([(steps[0], steps[1], [("y", "x")]), (steps[1], steps[2], [("y", "x")])])
        workflow.add_nodes([inner])
    done = []
    run_workflow(
        workflow, resources=Resources(n_procs=1), crash_dir=tmp_path / "crashes",
        on_status=lambda node, status: done.append(node) if status == "end" else None,
    )  # fmt: skip
    assert done == [
        f"test_wf.{name}_wf.step_{number}" for name in "abc" for number in range(3)
    ]  # fmt: skip


def test_steps_at_a_time_need_no_more_than_the_limit(tmp_path):
    names = ("a", "b", "c", "d")
    workflow = make_workflow(tmp_path, **dict.fromkeys(names, double))
    for name in names:
        workflow.get_node(name)._mem_gb = 1.0
    at_work, most = set(), 0

    def watch(node, status):
        nonlocal most
        at_work.add(node) if status == "start" else at_work.discard(node)
        most = max(most, len(at_work))

    failures = run_workflow(
        workflow, resources=Resources(n_procs=4, mem_gb=2.5), crash_dir=tmp_path / "crashes",
        on_status=watch,
    )  # fmt: skip
    assert not failures
    assert most == 2


def test_step_larger_than_the_limit_is_told_before_the_start(tmp_path, caplog):
    workflow = make_workflow(tmp_path, small=double, large=double)
    workflow.get_node("large")._mem_gb = 3.5
    failures = run_workflow(
        workflow, resources=Resources(mem_gb=2.0), crash_dir=tmp_path / "crashes"
    )
    assert not failures
    (told,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert told.startswith("step 'large' needs about 3.5 GB, the limit is 2 GB (--mem)")


def test_failure_is_told_in_its_own_words_and_the_others_go_on(tmp_path):
    workflow = make_workflow(tmp_path, good=double, bad=refuse)
    seen = []
    failures = run_workflow(
        workflow,
        resources=Resources(),
        crash_dir=tmp_path / "crashes",
        on_status=lambda node, status: seen.append((node, status)),
    )
    assert [failure.node for failure in failures] == ["test_wf.bad"]
    assert failures[0].message == "the image is cut short (bold.nii.gz). Copy it again."
    assert ("test_wf.good", "end") in seen
    assert ("test_wf.bad", "exception") in seen


def test_killed_worker_is_noticed_and_the_others_go_on(tmp_path):
    workflow = make_workflow(tmp_path, bad=vanish)
    after = pe.Node(niu.Function(function=double, output_names=["y"]), name="good")
    after.inputs.x = 1
    workflow.add_nodes([after])
    failures = run_workflow(
        workflow, resources=Resources(n_procs=1), crash_dir=tmp_path / "crashes"
    )
    assert any("killed from outside" in failure.message for failure in failures)
    assert any("--mem" in failure.message for failure in failures)


def test_memory_that_ran_out_is_told_by_node_need_and_limit(tmp_path):
    workflow = make_workflow(tmp_path, good=double, greedy=exhaust)
    workflow.get_node("greedy")._mem_gb = 3.5
    failures = run_workflow(
        workflow, resources=Resources(n_procs=2, mem_gb=2.0), crash_dir=tmp_path / "crashes"
    )
    (failure,) = failures
    assert failure.node == "test_wf.greedy"
    assert "memory ran out (Unable to allocate 7.45 GiB for an array" in failure.message
    assert "'greedy' needs about 3.5 GB, the limit is 2 GB for 2 process(es)" in failure.message
    assert "--mem" in failure.message


def test_disk_without_room_is_told_by_step_and_folder(tmp_path):
    workflow = make_workflow(tmp_path, large=overflow)
    (failure,) = run_workflow(
        workflow, resources=Resources(n_procs=1), crash_dir=tmp_path / "crashes"
    )
    assert failure.message.startswith("step 'large' cannot write: File too large (working folder")
    assert str(tmp_path) in failure.message
    assert "--work-dir" in failure.message


def test_worker_killed_while_idle_does_no_harm(tmp_path):
    """The pool is found broken when the next step is handed to it."""
    workflow = make_workflow(tmp_path, first=double, second=double)
    workflow.connect(workflow.get_node("first"), "y", workflow.get_node("second"), "x")

    def kill_workers(node, status):
        if node.endswith("first") and status == "end":
            for pid in descendants(os.getpid()):
                if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.5)

    failures = run_workflow(
        workflow, resources=Resources(n_procs=1), crash_dir=tmp_path / "crashes",
        on_status=kill_workers,
    )  # fmt: skip
    assert not failures


@pytest.mark.parametrize("level", [logging.DEBUG, EVERYTHING])
def test_log_of_nipype_is_told_only_where_all_is(tmp_path, log, level):
    told = io.StringIO()
    log.handlers = [logging.StreamHandler(told)]
    log.setLevel(level)
    run_workflow(
        make_workflow(tmp_path, good=double), resources=Resources(n_procs=1),
        crash_dir=tmp_path / "crashes", log_file=tmp_path / "run.log",
    )  # fmt: skip
    assert "[Node] Executing" in (tmp_path / "run.log").read_text()
    assert ("[MultiProc]" in told.getvalue()) == (level == EVERYTHING)


def test_undisturbed_run_has_no_failures(tmp_path):
    workflow = make_workflow(tmp_path, good=double)
    assert not run_workflow(workflow, resources=Resources(), crash_dir=tmp_path / "crashes")


def test_orphan_in_a_work_folder_is_ended(tmp_path):
    # An orphan: its parent, a shell, ends at once.
    command = f"cd {tmp_path} && (sleep 60 >/dev/null 2>&1 & echo $!)"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    pid = int(done.stdout)
    claim_folder(tmp_path)
    assert not os.path.exists(f"/proc/{pid}/cwd")  # noqa: PTH110 - a broken link counts as there


def test_living_run_in_a_work_folder_is_respected(tmp_path):
    code = "import time; time.sleep(60)  # kraken_bids"
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path) as other:
        try:
            with pytest.raises(ResourceError, match=r"another run .* works in this folder"):
                claim_folder(tmp_path)
            assert other.poll() is None
            assert other.pid in descendants(os.getpid())
        finally:
            other.kill()


def test_parts_of_a_step_are_run_like_steps(tmp_path):
    workflow = pe.Workflow(name="test_wf", base_dir=str(tmp_path))
    many = pe.MapNode(niu.Function(function=double, output_names=["y"]), ["x"], name="many")
    many.inputs.x = [1, 2, 3]
    workflow.add_nodes([many])
    assert not run_workflow(workflow, resources=Resources(n_procs=2), crash_dir=tmp_path / "c")
