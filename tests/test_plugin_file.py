# SPDX-License-Identifier: MIT
"""``--use-plugin``: what is read, and what is refused before anything is started."""

from types import SimpleNamespace

import pytest

from kraken_bids.cluster_plugins import START_GB, pbs_request, sge_request, slurm_request
from kraken_bids.errors import Problems, UsageError
from kraken_bids.plugin_file import PLUGINS, Plugin, check_plugin, read_plugin


@pytest.fixture
def write(tmp_path):
    """Write a plugin file; gives its path."""

    def write(text):
        file = tmp_path / "plugin.yml"
        file.write_text(text, "utf-8")
        return file

    return write


@pytest.mark.parametrize(
    "text",
    [
        '{"plugin": "SLURM", "plugin_args": {"sbatch_args": "--qos=long", "max_jobs": 20}}',
        "plugin: SLURM\nplugin_args:\n  sbatch_args: --qos=long\n  max_jobs: 20\n",
    ],
    ids=["json", "yaml"],
)
def test_plugin_files_are_those_of_fmriprep(write, text):
    plugin = read_plugin(write(text))
    assert plugin == Plugin("SLURM", {"sbatch_args": "--qos=long", "max_jobs": 20})


def test_no_file_is_no_plugin():
    assert read_plugin(None) is None


@pytest.mark.parametrize("name", sorted(PLUGINS))
def test_arguments_may_be_left_out(write, name):
    assert read_plugin(write(f"plugin: {name}\n")) == Plugin(name)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("plugin: [SLURM", r"plugin.yml is neither YAML nor JSON: .*--use-plugin"),
        ("SLURM", "is not a plugin description"),
        ("plugin_args: {}", "names no plugin"),
        ("plugin: SLURMgraph", r"SLURMgraph., which cannot be used .* Did you mean .SLURMGraph."),
        ("plugin: PBSGraph", "kraken-submit"),
        ("plugin: SLURM\nargs: {}", "unknown key 'args'"),
        ("plugin: SLURM\nplugin_args: --qos=long", "is no mapping"),
        ("plugin: SLURM\nplugin_args: {qsub_args: -q long}", "no argument 'qsub_args'"),
        ("plugin: SLURM\nplugin_args: {max_jobs: 0}", "max_jobs is 0.*whole number from 1"),
        ("plugin: SLURM\nplugin_args: {sbatch_args: 5}", "sbatch_args is 5.*Give a text"),
        ("plugin: SLURM\nplugin_args: {sbatch_args: '--comment=\"a'}", "closing quotation"),
        ("plugin: SLURM\nplugin_args: {template: none.sh}", "no template none.sh"),
    ],
)
def test_bad_file_is_told_with_what_to_do(write, text, told):
    with pytest.raises(UsageError, match=told):
        read_plugin(write(text))


def test_all_wrong_arguments_are_told_together(write):
    text = "plugin: SLURM\nplugin_args: {max_job: 3, template: 4}"
    with pytest.raises(Problems, match=r"(?s)Did you mean 'max_jobs'.*template is 4") as problem:
        read_plugin(write(text))
    assert problem.value.exit_code == 2


def test_cluster_needs_its_programs_and_a_shared_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Problems, match=r"(?s)needs qsub, qstat, qdel.*all nodes see") as problem:
        check_plugin(Plugin("PBS"), work_dir=tmp_path, is_work_dir_given=False)
    assert problem.value.exit_code == 2
    check_plugin(Plugin("MultiProc"), work_dir=tmp_path, is_work_dir_given=False)


def test_folder_that_schedulers_stumble_over_is_refused(tmp_path, monkeypatch):
    for program in PLUGINS["SGE"].programs:
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    check_plugin(Plugin("SGE"), work_dir=tmp_path, is_work_dir_given=True)
    with pytest.raises(UsageError, match=r"my work.*--work-dir"):
        check_plugin(Plugin("SGE"), work_dir=tmp_path / "my work", is_work_dir_given=True)


def node(n_procs=1, mem_gb=0.5, *, on_gpu=False):
    return SimpleNamespace(n_procs=n_procs, mem_gb=mem_gb, is_gpu_node=lambda: on_gpu)


MEBIBYTES = -(-int((0.5 + START_GB) * 1e9) // 2**20)


@pytest.mark.parametrize(
    ("request_of", "asking", "given", "expected"),
    [
        (slurm_request, node(2), "", f"--nodes=1 --ntasks=1 --cpus-per-task=2 --mem={MEBIBYTES}M"),
        (slurm_request, node(), "-t 60 -c 4", f"--mem={MEBIBYTES}M"),
        (slurm_request, node(), "--ntasks=1 --mem-per-cpu=2G", ""),
        (slurm_request, node(on_gpu=True), "-c 1 --mem=1G", "--gres=gpu:1"),
        (slurm_request, node(on_gpu=True), "-c 1 --mem=1G --gpus=2", ""),
        (pbs_request, node(2), "-q long", f"-l ncpus=2,mem={MEBIBYTES}mb"),
        (pbs_request, node(2), "-l mem=4gb", "-l ncpus=2"),
        (pbs_request, node(2), "-l select=1:ncpus=2", ""),
        (sge_request, node(1), "-q long", f"-l h_vmem={MEBIBYTES}M"),
        (sge_request, node(2), "-pe openmp 4", f"-l h_vmem={-(-MEBIBYTES // 2)}M"),
        (sge_request, node(2), "-l h_vmem=4G", "-pe smp 2"),
    ],
)
def test_a_step_asks_for_its_needs_and_leaves_what_was_asked_for(
    request_of, asking, given, expected
):
    assert request_of(asking, given) == expected
