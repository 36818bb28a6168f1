# SPDX-License-Identifier: MIT
"""The benchmarks of training: what they refuse, and that they tell what they promise."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
#: A full set of golden numbers: inputs and records of trainings, too.
FULL = Path(os.environ.get("KRAKEN_GOLDEN_DIR", "nowhere"))


def run(name, *words):
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def genuine():
    spec = importlib.util.spec_from_file_location(
        "training_genuine", BENCHMARKS / "training_genuine.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_overhead_tells_all_that_a_training_does():
    told = run("training", "overhead", "--flavors", 2, "--components", 8, "--epochs", 20)
    shares = dict(re.findall(r"^([a-z ]+)\t.*\t([\d.]+)% of epochs$", told, re.MULTILINE))
    assert list(shares) == [
        "epochs", "looks at the watched", "table and checkpoints", "table of pairs", "figures",
    ]  # fmt: skip
    assert shares["epochs"] == "100.00"
    assert all(float(share) > 0 for share in shares.values())


def test_measures_that_the_record_does_not_have_are_refused(genuine):
    record = {key: np.array([[0.1, 0.5], [0.1, 0.7]]) for key in genuine.RECORDED.values()}
    found = {f"one {name}": 0.6 for name in genuine.RECORDED}  # means of the last epoch
    genuine.check_record(found, record)
    with pytest.raises(SystemExit, match="does not give what its record says"):
        genuine.check_record({**found, "one rank": 0.61}, record)


def test_another_simulation_is_refused(genuine, monkeypatch):
    cohort = {"FCcorr_fs86_hpf": np.zeros((3, 4))}
    monkeypatch.setattr(genuine, "simulate", lambda *_: cohort)
    genuine.check_simulation(Path(), cohort)
    with pytest.raises(SystemExit, match=r"FCcorr_fs86_hpf: .* other numbers"):
        genuine.check_simulation(Path(), {"FCcorr_fs86_hpf": np.ones((3, 4))})


@pytest.mark.slow
@pytest.mark.skipif(not (FULL / "training").is_dir(), reason="KRAKEN_GOLDEN_DIR is not set")
def test_models_are_held_against_the_published_programs():
    told = run("training_genuine", FULL, "--new", 50, "--seeds", 1, "--ways", "joint")
    rows = [line.split("\t") for line in told.splitlines() if "\t" in line]
    table = {(row[0], row[1]): dict(zip(rows[0][3:], map(float, row[3:]), strict=True))
             for row in rows[1:]}  # fmt: skip
    theirs, ours = table["new", "published program"], table["new", "joint"]
    for name in ("one rank", "one residual r", "fused rank", "fused residual r"):
        assert ours[name] > theirs[name] - 0.01
