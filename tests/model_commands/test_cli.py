# SPDX-License-Identifier: MIT
from __future__ import annotations

import subprocess
import sys

import pytest

from kraken_bids.model_commands.cli import SUBCOMMANDS, main


@pytest.mark.parametrize("row", SUBCOMMANDS, ids=lambda row: row.name)
def test_every_subcommand_has_help(row, capsys):
    with pytest.raises(SystemExit) as leaving:
        main([row.name, "--help"])
    assert leaving.value.code == 0
    assert row.help in " ".join(capsys.readouterr().out.split())


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom kraken_bids.model_commands.cli import main\n"
        "try:\n    main(['predict', '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'scipy', 'nipype', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_readers_may_stop_before_the_end():
    command = [sys.executable, "-m", "kraken_bids.model_commands.cli", "fetch", "--list"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, pipesize=4096
    ) as running:
        running.stdout.close()
        told = running.stderr.read()
    assert (running.returncode, told) == (0, "")


def test_unknown_model_gets_the_names_of_the_published_ones(tmp_path, capsys):
    words = ["predict", "--model", "krakencoder-2042", "--input", "FCcorr_fs86_hpf=a.mat"]
    assert main([*words, "--output", str(tmp_path / "out.npz")]) == 2
    told = capsys.readouterr().err
    assert "Did you mean 'krakencoder-2024'" in told
    assert "Traceback" not in told
