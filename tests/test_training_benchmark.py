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
from PIL import Image

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


def read_table(told, first):
    """Cells of a table by row and column; `first` is the head of its first column."""
    head, *rows = (line.split("\t") for line in told[told.index(f"{first}\t") :].splitlines())
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows if len(row) > 1}


def test_speed_is_told_of_each_way_beside_the_replay():
    told = run("training", "speed", "--flavors", 2, "--components", 8, "--rounds", 1)
    table = read_table(told, "way")
    assert list(table) == ["replay", "replay, no diagnostics", "joint", "reference"]
    ratio = "times as fast as the replay, by the least"
    assert table["replay"][ratio] == table["replay"]["by the median"] == "1.0"
    for row in table.values():
        least, median = float(row["least"]), float(row["median"])
        assert 0 < least == median  # of one round
        # both are rounded
        assert float(row[ratio]) == pytest.approx(float(table["replay"]["least"]) / least, rel=0.2)


def test_quality_is_told_of_each_way():
    ways = ["joint,epochs=200", "joint,epochs=1,learning_rate=1e-9", "replay,epochs=1"]
    told = run("training_quality", "--participants", 40, 20, "--flavors", 2, "--components", 6,
               "--latent-size", 6, "--ways", *ways)  # fmt: skip
    assert "2 flavors, 32 train, 8 watched, 20 judged, 6 components" in told
    table = read_table(told, "way")
    trained, untrained, _ = table.values()
    for name in ("one rank", "fused rank", "fused residual r"):
        assert float(trained[name]) > float(untrained[name]) + 0.05


def test_curves_are_drawn(tmp_path):
    ways = ["joint,epochs=20", "replay,epochs=2"]
    told = run("training", "curves", "--participants", 30, "--held-out", 10, "--flavors", 2,
               "--components", 6, "--latent-size", 6, "--ways", *ways, "--figure",
               tmp_path / "c.png")  # fmt: skip
    table = read_table(told, "way")
    assert list(table) == ways
    assert [row["epochs"] for row in table.values()] == ["20", "2"]
    with Image.open(tmp_path / "c.png") as figure:
        assert figure.width > 2 * figure.height


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
