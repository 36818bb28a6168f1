# SPDX-License-Identifier: MIT
from __future__ import annotations

import subprocess
import sys

import pytest

from kraken_bids.demo import tractography
from kraken_bids.demo.__main__ import main, make_parser
from kraken_bids.demo.model import make_model
from kraken_bids.errors import InputError, ResourceError


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from kraken_bids.demo.__main__ import make_parser; make_parser();"
        "print(sorted({'numpy', 'scipy', 'nibabel', 'nilearn', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_defaults_are_six_participants_and_a_cohort_of_150():
    assert make_parser().parse_args(["data", "out"]).participants == 6
    assert make_parser().parse_args(["model", "out", "--data", "in"]).participants == 150


def test_errors_become_exit_codes_with_their_message(tmp_path, capsys):
    assert main(["data", str(tmp_path / "x"), "--participants", "1"]) == 2
    assert "from 2 to 20" in capsys.readouterr().err


def test_model_wants_a_simulated_data_set(tmp_path):
    with pytest.raises(InputError, match=r"not a simulated data set.*kraken-demo data"):
        make_model(tmp_path / "model", tmp_path, progress=print)


def test_missing_mrtrix_is_told_with_its_remedy(tmp_path, monkeypatch, population):
    monkeypatch.setattr(tractography, "_write_series", lambda *_: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ResourceError, match=r"'mrconvert' is not there.*Install MRtrix3"):
        tractography.track_template(tmp_path, population, n_streamlines=10)
