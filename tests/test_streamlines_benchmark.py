# SPDX-License-Identifier: MIT
"""What the benchmark of structural connectomes measures with, and how it extrapolates."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from kraken_bids.plan import DiffusionRun, LabelSource, SessionPlan
from kraken_bids.progress import Progress
from kraken_bids.settings import Settings, StructuralOptions
from kraken_bids.workflows.base import init_participants_wf

FILE = Path(__file__).parents[1] / "benchmarks" / "streamlines.py"

#: In place of ``tckgen``: holds 80 MB and fails.
GREEDY = f"#!{sys.executable} -S\nimport sys\nx = bytearray(80_000_000)\nsys.exit(3)\n"


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("streamlines_benchmark", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_growing_steps_follow_the_line_and_others_stay(benchmark):
    fewer = benchmark.Run(50_000, {"assign_ifod2act": 1.0, "track_sdstream": 30.0}, {})
    steps = {
        "assign_ifod2act": 2.5, "track_sdstream": 90.0, "overview": 1.0, "fods": 50.0,
        "draw_structural_1_wf": 2.0, "facts": 0.5, benchmark.BETWEEN: 4.0,
    }  # fmt: skip
    run = benchmark.Run(200_000, steps, {})
    # 4.8 million more are 32 times the 150,000 between both runs.
    assert benchmark.extrapolate(fewer, run, 5_000_000) == {
        "ends and lengths": 2.5 + 32 * 1.5,
        benchmark.TRACKING: 90.0 + 32 * 60.0,
        "figures": 2.0 + 1.0 + 32 * 1.0,
        benchmark.FODS: 50.0,
        benchmark.OTHER: 0.5,
        benchmark.BETWEEN: 4.0,
    }


def test_steps_are_metered_by_what_the_program_logs(benchmark):
    times = iter([10.0, 13.5, 14.0, 14.25])
    meter, log = benchmark.Meter(lambda: next(times)), logging.getLogger(benchmark.EVENTS)
    level = log.level
    log.addHandler(meter)
    log.setLevel(logging.DEBUG)
    names = [f"participants_wf.sub_01_wf.{name}" for name in ("structural_1_wf.connect", "finish")]
    progress = Progress({"sub_01_wf": "sub-01"}, steps={"sub-01": set(names)})
    try:
        for name in names:
            progress(name, "start")
            progress(name, "end")
    finally:
        log.removeHandler(meter)
        log.setLevel(level)
    assert meter.steps == {"connect": 3.5, "finish": 0.25}


def test_groups_are_of_steps_that_there_are(benchmark, tmp_path):
    def touch(name: str) -> Path:
        (tmp_path / name).touch()
        return tmp_path / name

    tissues = LabelSource("tissues", touch("aparc.nii.gz"), "ACPC", transforms=())
    run = DiffusionRun(
        entities=(("sub", "01"),), space="ACPC", dwi_file=touch("dwi.nii.gz"),
        bval_file=touch("dwi.bval"), bvec_file=touch("dwi.bvec"), mask_file=touch("mask.nii.gz"),
        labels=(LabelSource("fs86", touch("labels.nii.gz"), "ACPC"),), tissues=tissues,
        five_tissue_file=None,
    )  # fmt: skip
    settings = Settings(
        tmp_path, tmp_path, tmp_path, "participant", structural=StructuralOptions(sift2=True)
    )
    plan = SessionPlan("01", None, diffusion=(run,))
    workflow = init_participants_wf(
        [plan], settings=settings, keys={plan.label: "key"}, sources={}
    )
    steps = {name.rpartition(".")[2] for name in workflow.list_node_names()}
    assert set(benchmark.GROUPS) - steps == set()


def test_a_program_is_recorded_with_its_memory_and_its_exit_code(benchmark, tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    program = tmp_path / "real" / "tckgen"
    program.write_text(GREEDY)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    log = benchmark.put_recorders(tmp_path / "bin", ["tckgen"])
    step = tmp_path / "track_ifod2act"
    step.mkdir()
    done = subprocess.run(["tckgen", "-select", "20"], cwd=step, check=False)
    assert done.returncode == 3
    found = benchmark.read_records(log, ["track_ifod2act"])["track_ifod2act"]
    assert found.words == ["tckgen", "-select", "20"]
    assert 80e6 < found.peak_bytes < 160e6
    assert found.cpu_s > 0


def test_a_program_is_run_again_with_other_words(benchmark, tmp_path, monkeypatch):
    program = tmp_path / "tckgen"
    program.write_text('#!/bin/sh\necho "$@" > told\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    words = ["tckgen", "-maxlength", "200", "-select", "200", "fod.mif", "a.tck"]
    made = benchmark.Program(words, 1.0, 1)
    changes = {"-select 200": "50", "fod.mif": "other.mif"}
    benchmark.run_again("track_ifod2act", made, tmp_path, changes)
    told = (tmp_path / "track_ifod2act" / "told").read_text()
    assert told == "-maxlength 200 -select 50 other.mif a.tck\n"
