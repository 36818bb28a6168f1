# SPDX-License-Identifier: MIT
"""``--use-plugin``: graphs as jobs of a real Slurm, and of pretended PBS and Grid Engine."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from nipype.pipeline.engine.utils import load_resultfile

from kraken_bids import cluster_plugins
from kraken_bids.errors import ResourceError
from kraken_bids.execution import run_workflow
from kraken_bids.plugin_file import Plugin
from kraken_bids.settings import Resources
from tests.app.conftest import damage
from tests.app.slurm import wait_until
from tests.app.test_restart import contents

pytestmark = pytest.mark.slow

ON_SLURM = pytest.mark.parametrize("name", ["SLURM", "SLURMGraph"])


def double(x):
    """Do something quick."""
    return 2 * x


def refuse(x):
    """Fail as our interfaces do."""
    from kraken_bids.errors import InputError

    raise InputError("the image is cut short", where="bold.nii.gz", fix="Copy it again.")


def given(x):
    """Say what the scheduler gave to this job."""
    import os

    names = ("SLURM_CPUS_PER_TASK", "SLURM_MEM_PER_NODE", "OMP_NUM_THREADS", "LOGNAME")
    return [os.environ.get(name) for name in names]


def cancel_oneself(x):
    """Be ended by the scheduler, as by a time limit."""
    import os
    import subprocess
    import time

    subprocess.run(["scancel", os.environ["SLURM_JOB_ID"]], check=True)
    time.sleep(60)


def make_node(name, function, **options):
    node = pe.Node(niu.Function(function=function, output_names=["y"]), name=name, **options)
    node.inputs.x = 1
    return node


def make_chain(folder, *steps):
    """A graph whose steps depend on one another: name and function of each."""
    workflow = pe.Workflow(name="test_wf", base_dir=str(folder))
    nodes = [make_node(name, function) for name, function in steps]
    workflow.add_nodes(nodes)
    for before, after in itertools.pairwise(nodes):
        workflow.connect(before, "y", after, "x")
    return workflow


def run(workflow, folder, name, *, events=None, **arguments):
    """Run a graph by a plugin; gives its failures."""
    note = events.append if events is not None else lambda _event: None
    return run_workflow(
        workflow, resources=Resources(), crash_dir=folder / "crashes",
        plugin=Plugin(name, arguments), log_file=folder / "run.log",
        on_status=lambda node, status: note((node.rpartition(".")[2], status)),
    )  # fmt: skip


def result(folder, name):
    """What a step gave."""
    return load_resultfile(folder / "test_wf" / name / f"result_{name}.pklz").outputs.y


@pytest.fixture
def cluster(lab, monkeypatch):
    """Slurm, for this process, which has no LOGNAME as under cron."""
    monkeypatch.setenv("SLURM_CONF", lab.environ["SLURM_CONF"])
    monkeypatch.delenv("LOGNAME", raising=False)
    yield lab
    left = lab.run("squeue", "--noheader")
    lab.run("scancel", "--user", str(os.getuid()))
    assert not left.strip()


@ON_SLURM
def test_failing_step_is_told_and_what_does_not_need_it_goes_on(cluster, tmp_path, name):
    workflow = make_chain(tmp_path, ("first", double), ("second", double))
    bad, never = make_node("bad", refuse), make_node("never", double)
    many = pe.MapNode(
        niu.Function(function=double, input_names=["x"], output_names=["y"]), ["x"], name="many"
    )
    many.inputs.x = [1, 2, 3]
    workflow.connect(bad, "y", never, "x")
    workflow.add_nodes([many])
    events = []
    failures = run(workflow, tmp_path, name, events=events)
    assert [failure.node for failure in failures] == ["test_wf.bad"]
    assert failures[0].message == "the image is cut short (bold.nii.gz). Copy it again."
    assert ("bad", "exception") in events
    ended = {node for node, status in events if status == "end"}
    assert {"first", "second", "many"} <= ended
    assert "never" not in ended
    assert result(tmp_path, "second") == 4
    assert result(tmp_path, "many") == [2, 4, 6]
    assert "LOGNAME" not in os.environ


@ON_SLURM
def test_job_asks_for_what_its_step_needs(cluster, tmp_path, name):
    workflow = pe.Workflow(name="test_wf", base_dir=str(tmp_path))
    workflow.add_nodes([make_node("large", given, n_procs=2, mem_gb=0.5), make_node("own", given)])
    assert not run(workflow, tmp_path, name)
    mebibytes = -(-(0.5 + cluster_plugins.START_GB) * 1e9 // 2**20)
    assert result(tmp_path, "large")[:3] == ["2", f"{mebibytes:.0f}", "2"]
    assert result(tmp_path, "own")[2] == "1"

    assert not run(
        make_chain(tmp_path / "b", ("own", given)), tmp_path, name, sbatch_args="--mem=300M -c 2"
    )
    assert result(tmp_path / "b", "own")[:2] == ["2", "300"]

    template = "#!/bin/sh\n#SBATCH --mem=222M"
    assert not run(make_chain(tmp_path / "c", ("own", given)), tmp_path, name, template=template)
    assert result(tmp_path / "c", "own")[:2] == [None, "222"]


@ON_SLURM
def test_job_that_the_scheduler_ended_is_told_and_a_stale_result_is_not_taken(
    cluster, tmp_path, name
):
    assert not run(make_chain(tmp_path, ("step", double), ("next", double)), tmp_path, name)
    workflow = make_chain(tmp_path, ("step", cancel_oneself), ("next", double))
    (failure,) = run(workflow, tmp_path, name)
    assert failure.node == "test_wf.step"
    assert "step 'step' ended without a result (it was cancelled: CANCELLED)" in failure.message
    assert "MiB and 1 core(s)" in failure.message
    assert "sbatch_args" in failure.message


@ON_SLURM
def test_second_run_takes_what_is_done(cluster, tmp_path, name):
    run(
        make_chain(tmp_path, ("first", double), ("second", double), ("bad", refuse)),
        tmp_path,
        name,
    )
    cluster.forget()
    again = make_chain(tmp_path, ("first", double), ("second", double), ("bad", double))
    assert not run(again, tmp_path / "again", name)
    assert result(tmp_path, "bad") == 8
    (job,) = cluster.states()  # one job: that of the step that had failed
    assert "bad" in job[0]


@ON_SLURM
def test_refused_job_is_told_in_the_words_of_the_scheduler(cluster, tmp_path, name):
    workflow = make_chain(tmp_path, ("first", double), ("second", double))
    with pytest.raises(ResourceError, match="invalid partition specified: nowhere"):
        run(workflow, tmp_path, name, sbatch_args="--partition=nowhere", **(
            {"max_tries": 1, "retry_timeout": 0.1} if name == "SLURM" else {}
        ))  # fmt: skip


#: A run of a step that lasts, as a person would start it.
LONG = """
import signal, sys
# where tests run in the background, SIGINT is ignored, which would be handed on
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from kraken_bids.execution import run_workflow
from kraken_bids.plugin_file import Plugin
from kraken_bids.settings import Resources

LAST = "def last(x):\\n    import time\\n    time.sleep(100)\\n"
folder = Path(sys.argv[2])
workflow = pe.Workflow(name="test_wf", base_dir=str(folder))
for name in ("one", "two"):
    node = pe.Node(niu.Function(function=LAST, output_names=["y"]), name=name)
    node.inputs.x = 1
    workflow.add_nodes([node])
try:
    run_workflow(workflow, resources=Resources(), crash_dir=folder, plugin=Plugin(sys.argv[1]))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize(
    ("name", "number"), [("SLURM", signal.SIGTERM), ("SLURMGraph", signal.SIGINT)]
)
def test_interrupted_run_takes_its_jobs_with_it(cluster, tmp_path, name, number):
    with subprocess.Popen([sys.executable, "-c", LONG, name, str(tmp_path)]) as process:
        wait_until(
            lambda: "RUNNING" in cluster.run("squeue", "--noheader", "--format=%T"), 60, "a job"
        )
        process.send_signal(number)
        assert process.wait(30) == 130
    assert not cluster.run("squeue", "--noheader").strip()


def words(study, root, *more):
    """The command line of two participants' functional connectomes of one atlas."""
    return [
        study, root / "out", "participant", "--modality", "func", "--atlases", "fs86",
        "--participant-label", "01", "02", "-w", root / "work", "--nprocs", "2", *more,
    ]  # fmt: skip


def kraken(*command):
    """Run ``kraken-bids`` without LOGNAME; gives exit code and what it said."""
    environ = {name: value for name, value in os.environ.items() if name != "LOGNAME"}
    done = subprocess.run(
        [sys.executable, "-m", "kraken_bids", *map(str, command)],
        env={**environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
        timeout=500,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def summary(told):
    """What a run says at its end of whom, without what differs from run to run."""
    lines = [re.sub(r"; details: .*", "", line) for line in told.splitlines()]
    return [line for line in lines if re.match(r"sub-02: (?!started|.* failed$)", line)] + [
        line for line in lines if re.match(r"\d+ done", line)
    ]


@pytest.fixture(scope="session")
def local(demo_data, tmp_path_factory):
    """The same participants on this machine: what was said, and the outputs."""
    root = tmp_path_factory.mktemp("local")
    study = root / "study"
    for path in sorted(demo_data.rglob("*")):
        target = study / path.relative_to(demo_data)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_dir():
            target.symlink_to(path)
    damage(study, "02")
    code, told = kraken(*words(study, root))
    assert code == 1, told
    return study, told, contents(root / "out")


@ON_SLURM
def test_participants_come_out_as_on_this_machine(cluster, local, tmp_path, name):
    study, told_here, outputs_here = local
    plugin = tmp_path / "plugin.yml"
    plugin.write_text(f"plugin: {name}\nplugin_args:\n  sbatch_args: --time=10\n")
    code, told = kraken(*words(study, tmp_path, "--use-plugin", plugin))
    assert code == 1, told
    assert summary(told) == summary(told_here)
    assert len(summary(told)) > 1
    outputs = contents(tmp_path / "out")
    assert outputs.keys() == outputs_here.keys()
    same = {path for path in outputs if outputs[path] == outputs_here[path]}
    # pages and descriptions name run ids, times and folders; every number must be the same
    assert not {path for path in outputs if path.endswith(".tsv")} - same
    assert any(path.endswith("_relmat.tsv") for path in same)


# ---- PBS and Grid Engine: programs that understand what the plugins say, and run it

QSUB = """\
#!/bin/sh
lab=$(dirname "$0")
number=$(($(cat "$lab/number" 2>/dev/null || echo 100) + 1))
echo $number > "$lab/number"
echo "$number $*" >> "$lab/submitted"
case "$*" in *refuse*) echo "qsub: Unknown queue refuse" >&2; exit 1;; esac
folder=$lab
while [ $# -gt 1 ]; do [ "$1" = -o ] && folder=$2; shift; done
run="sh $1 > $folder/job.o$number 2>&1; touch $lab/$number.done"
setsid sh -c "$run" </dev/null >/dev/null 2>&1 &
echo $! > "$lab/$number.pid"
"""
DIALECTS = {
    "PBS": {
        "qsub": QSUB + 'echo "$number.server"\n',
        "qstat": """\
#!/bin/sh
lab=$(dirname "$0")
[ -e "$lab/$2.done" ] || { echo "Job Id: $2.server"; echo "    job_state = R"; exit 0; }
echo "qstat: Unknown Job Id $2.server" >&2; exit 153
""",
    },
    "SGE": {
        "qsub": QSUB + 'echo "Your job $number (\\"name\\") has been submitted"\n',
        "qstat": """\
#!/bin/sh
lab=$(dirname "$0")
case "$*" in *-xml*) echo "<job_info><queue_info/></job_info>"; exit 0;; esac
echo "job-ID  prior   name       user         state submit/start at     queue  slots"
echo "------------------------------------------------------------------------------"
for pid in "$lab"/*.pid; do
    number=$(basename "$pid" .pid)
    [ -e "$lab/$number.done" ] || echo "    $number 0.5 step me r 11/22/2026 10:00:00 q@node 1"
done
""",
    },
}
QDEL = """\
#!/bin/sh
lab=$(dirname "$0")
for number in "$@"; do
    echo "$number" >> "$lab/deleted"
    kill -9 -- "-$(cat "$lab/$number.pid")"
    touch "$lab/$number.done"
done
"""


@pytest.fixture(params=sorted(DIALECTS))
def pretended(request, tmp_path, monkeypatch):
    """Folder of pretended programs that stand first on the path, and the plugin's name."""
    lab = tmp_path / "lab"
    lab.mkdir()
    for program, code in {**DIALECTS[request.param], "qdel": QDEL}.items():
        (lab / program).write_text(code)
        (lab / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{lab}:{os.environ['PATH']}")
    monkeypatch.delenv("LOGNAME", raising=False)
    monkeypatch.setattr(cluster_plugins, "RESULT_SECONDS", 1.0)
    return lab, request.param


def test_steps_are_jobs_of_qsub_with_their_needs(pretended, tmp_path):
    lab, name = pretended
    workflow = make_chain(tmp_path, ("first", double), ("second", double))
    bad = make_node("bad", refuse, n_procs=2, mem_gb=0.5)
    workflow.connect(bad, "y", make_node("never", double), "x")
    (failure,) = run(workflow, tmp_path, name, qsub_args="-q long")
    assert failure.message == "the image is cut short (bold.nii.gz). Copy it again."
    assert result(tmp_path, "second") == 4
    submitted = (lab / "submitted").read_text().splitlines()
    assert len(submitted) == 3
    assert all("-q long" in line for line in submitted)
    (large,) = (line for line in submitted if "-N bad" in line)
    wanted = {"PBS": "-l ncpus=2,mem=859mb", "SGE": "-pe smp 2 -l h_vmem=430M"}
    assert wanted[name] in large


def test_job_that_ended_without_a_result_is_told_with_its_last_words(pretended, tmp_path):
    _, name = pretended
    template = "#!/bin/sh\necho the node is sick\nexit 1"
    (failure,) = run(make_chain(tmp_path, ("step", double)), tmp_path, name, template=template)
    assert "step 'step' ended without a result" in failure.message
    assert "its last words: the node is sick" in failure.message


def test_refused_qsub_is_told(pretended, tmp_path):
    _, name = pretended
    with pytest.raises(ResourceError, match="qsub: Unknown queue refuse"):
        run(make_chain(tmp_path, ("step", double)), tmp_path, name, qsub_args="-q refuse",
            max_tries=1, retry_timeout=0.1)  # fmt: skip


def test_interrupted_run_deletes_its_jobs(pretended, tmp_path):
    lab, name = pretended
    with subprocess.Popen([sys.executable, "-c", LONG, name, str(tmp_path)]) as process:
        wait_until(lambda: len(list(lab.glob("*.pid"))) == 2, 60, "two jobs")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 130
    assert len((lab / "deleted").read_text().splitlines()) == 2


def test_all_that_is_wrong_is_told_before_the_start(study, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    plugin = tmp_path / "plugin.json"
    plugin.write_text(json.dumps({"plugin": "SLURM"}))
    command = [study, tmp_path / "out", "participant", "--use-plugin", plugin]
    code, told = kraken(*command)
    assert code == 2
    assert "needs sbatch, squeue, scontrol, scancel, not found on the PATH" in told
    assert "need a scratch folder that all nodes see" in told
    assert not list(Path(tmp_path / "out").glob("sub-*"))
