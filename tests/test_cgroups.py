# SPDX-License-Identifier: MIT
"""Limits of control groups: of trees as kernels lay them out, and of real groups."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kraken_bids.cgroups import core_limits, memory_limits

MB = 1_000_000


def tree(tmp_path, *, cgroup, mounts, files):
    """A process's files in /proc and the groups that it sees."""
    proc = tmp_path / "proc"
    proc.mkdir()
    (proc / "cgroup").write_text(cgroup)
    lines = [
        f"{number} 1 0:{number} {top} {point} rw,nosuid shared:9 - {kind}"
        for number, (top, point, kind) in enumerate(mounts, 30)
    ]
    (proc / "mountinfo").write_text("\n".join([*lines, "22 1 8:1 / / rw - ext4 /dev/sda rw"]))
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return {"proc": proc, "root": tmp_path}


UNIFIED = ("/", "/sys/fs/cgroup", "cgroup2 cgroup2 rw,nsdelegate")


def test_every_level_of_version_2_counts(tmp_path):
    """As Slurm and systemd set them: a limit on the job's group, the process in one below."""
    job = "sys/fs/cgroup/system.slice/slurmstepd.scope/job_7"
    seen = tree(
        tmp_path,
        cgroup="0::/system.slice/slurmstepd.scope/job_7/step_batch/user\n",
        mounts=[UNIFIED],
        files={
            f"{job}/step_batch/user/memory.max": "max",
            f"{job}/memory.max": 8000 * MB,
            f"{job}/memory.high": 7000 * MB,
            f"{job}/step_batch/cpu.max": "max 100000",
            f"{job}/cpu.max": "350000 100000",
            "sys/fs/cgroup/elsewhere/memory.max": 1,
        },
    )
    assert sorted(memory_limits(**seen)) == [7000 * MB, 8000 * MB]
    assert core_limits(**seen) == [3.5]


def test_version_1_and_an_empty_version_2_are_told_apart(tmp_path):
    seen = tree(
        tmp_path,
        cgroup="4:memory:/slurm/uid_1/job_7\n2:cpu,cpuacct:/slurm/uid_1/job_7\n0::/\n",
        mounts=[
            ("/", "/sys/fs/cgroup/memory", "cgroup cgroup rw,memory"),
            ("/", "/sys/fs/cgroup/cpu,cpuacct", "cgroup cgroup rw,cpu,cpuacct"),
            ("/", "/sys/fs/cgroup/unified", "cgroup2 cgroup2 rw"),
        ],
        files={
            "sys/fs/cgroup/memory/slurm/uid_1/job_7/memory.limit_in_bytes": 4000 * MB,
            "sys/fs/cgroup/memory/memory.limit_in_bytes": 9223372036854771712,
            "sys/fs/cgroup/cpu,cpuacct/slurm/uid_1/job_7/cpu.cfs_quota_us": -1,
            "sys/fs/cgroup/cpu,cpuacct/slurm/uid_1/job_7/cpu.cfs_period_us": 100000,
            "sys/fs/cgroup/cpu,cpuacct/slurm/cpu.cfs_quota_us": 200000,
            "sys/fs/cgroup/cpu,cpuacct/slurm/cpu.cfs_period_us": 100000,
        },
    )
    assert memory_limits(**seen) == [4000 * MB]
    assert core_limits(**seen) == [2.0]


@pytest.mark.parametrize(
    ("top", "own"),
    [("/docker/abc", "/docker/abc"), ("/docker/abc", "/"), ("/", "/"), ("/", "/../../machine")],
    ids=["host's names", "own names", "own hierarchy", "a group outside"],
)
def test_a_container_sees_its_own_group_at_the_top(tmp_path, top, own):
    seen = tree(
        tmp_path,
        cgroup=f"4:memory:{own}\n",
        mounts=[(top, "/sys/fs/cgroup/memory", "cgroup cgroup rw,memory")],
        files={"sys/fs/cgroup/memory/memory.limit_in_bytes": 2000 * MB},
    )
    assert memory_limits(**seen) == [2000 * MB]


def test_machines_without_control_groups_have_no_limits(tmp_path):
    assert memory_limits(tmp_path, tmp_path) == core_limits(tmp_path, tmp_path) == []


# ---- real groups


@pytest.fixture
def group(request):
    """Make a group with limits: what to write, by version and file; skip where none may."""
    made = []

    def make(controller, **limits):
        for mount, files in (
            (Path("/sys/fs/cgroup") / controller, limits["v1"]),
            (Path("/sys/fs/cgroup"), limits["v2"]),
        ):
            folder = mount / f"kraken-bids-test-{os.getpid()}"
            try:
                if not (mount / "cgroup.procs").exists():
                    continue
                folder.mkdir()
                made.append(folder)
                for name, value in files.items():
                    (folder / name).write_text(str(value))
            except OSError as error:
                pytest.skip(f"no {controller} group can be made here: {error}")
            return folder
        pytest.skip(f"there is no {controller} hierarchy of control groups here")

    yield make
    for folder in made:
        deadline = time.monotonic() + 10
        while folder.exists() and time.monotonic() < deadline:
            with contextlib.suppress(OSError):  # busy until its last process is gone
                folder.rmdir()
            time.sleep(0.05)
        assert not folder.exists()


def run_in(group, code, folder):
    """Run Python code in a group; gives what it prints as JSON."""
    enter = f"import pathlib; pathlib.Path({str(group / 'cgroup.procs')!r}).write_text('0')\n"
    script = folder / "script.py"
    script.write_text(enter + code)
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "PBS", "NCPUS"))}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=True,
        env=environ, timeout=120,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def test_memory_of_a_real_group_is_the_default(group, tmp_path):
    folder = group(
        "memory",
        v1={"memory.limit_in_bytes": 1024**3},
        v2={"memory.max": 1024**3},
    )
    code = "from kraken_bids.machine import available_memory_gb; print(available_memory_gb())"
    assert run_in(folder, code, tmp_path) == pytest.approx(0.9 * 1024**3 / 1e9)


def test_cores_of_a_real_group_are_the_default(group, tmp_path):
    folder = group(
        "cpu",
        v1={"cpu.cfs_period_us": 100000, "cpu.cfs_quota_us": 100000},
        v2={"cpu.max": "100000 100000"},
    )
    code = (
        "from kraken_bids.machine import available_cores\n"
        "from kraken_bids.cgroups import core_limits\n"
        "print([available_cores(), *core_limits()])"
    )
    assert run_in(folder, code, tmp_path)[:2] == [1, 1.0]


#: A graph in which one step takes more memory than its group has, and another does not.
GREEDY = """
import json, sys
from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from pathlib import Path
from kraken_bids.execution import run_workflow
from kraken_bids.machine import available_memory_gb
from kraken_bids.settings import Resources

def take(n_megabytes):
    import numpy as np
    return int(np.ones(n_megabytes * 1_000_000, np.uint8).sum())

folder = Path({folder!r})
workflow = pe.Workflow(name="test_wf", base_dir=str(folder))
for name, size in (("modest", 1), ("greedy", 1000)):
    node = pe.Node(niu.Function(function=take, output_names=["n"]), name=name, mem_gb=0.3)
    node.inputs.n_megabytes = size
    workflow.add_nodes([node])
done = []
failures = run_workflow(
    workflow, resources=Resources(n_procs=1, mem_gb=available_memory_gb()),
    crash_dir=folder / "crashes",
    on_status=lambda node, status: done.append(node) if status == "end" else None,
)
print(json.dumps([done, [[failure.node, failure.message] for failure in failures]]))
"""


def test_step_that_outgrows_a_real_group_is_told_with_need_and_limit(group, tmp_path):
    limits = {"memory.limit_in_bytes": 500 * MB}
    if Path("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists():
        limits["memory.memsw.limit_in_bytes"] = 500 * MB
    folder = group("memory", v1=limits, v2={"memory.max": 500 * MB, "memory.swap.max": 0})
    done, failures = run_in(folder, GREEDY.format(folder=str(tmp_path)), tmp_path)
    assert done == ["test_wf.modest"]
    ((node, message),) = failures
    assert node == "test_wf.greedy"
    assert "a worker process was killed from outside" in message
    assert "step 'greedy' needs about 0.3 GB, the limit is 0.45 GB for 1 process(es)" in message
    assert "--mem" in message
