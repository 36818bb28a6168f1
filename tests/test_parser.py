# SPDX-License-Identifier: MIT
"""Command lines that help: the nearest word, and completion by Tab in real shells."""

import shutil
import subprocess

import pytest

from kraken_bids.cli import main as kraken_bids
from kraken_bids.cli import make_parser
from kraken_bids.model_commands.cli import SUBCOMMANDS
from kraken_bids.model_commands.cli import main as kraken_model
from kraken_bids.model_commands.cli import make_parser as make_model_parser
from kraken_bids.parser import SHELLS
from kraken_bids.submit.cli import main as kraken_submit

PROGRAMS = {
    "kraken-bids": kraken_bids,
    "kraken-model": kraken_model,
    "kraken-submit": kraken_submit,
}


@pytest.mark.parametrize(
    ("program", "words", "near"),
    [
        ("kraken-bids", ["in", "out", "particpant"], "participant"),
        ("kraken-bids", ["in", "out", "group", "--device-", "cpu"], "--device"),
        ("kraken-bids", ["in", "out", "participant", "--modality", "fnc"], "func"),
        ("kraken-bids", ["in", "out", "participant", "--omp_nthread", "1"], "--omp-nthreads"),
        ("kraken-submit", ["in", "out", "--scheduler", "slum"], "slurm"),
        ("kraken-submit", ["in", "out", "--prtition", "long"], "--partition"),
        ("kraken-model", ["pedict"], "predict"),
        ("kraken-model", ["predict", "--model", "m", "--input", "x", "--output", "y", "--fusoin"],
         "--fusion"),
    ],
)  # fmt: skip
def test_misspelt_words_get_a_suggestion(program, words, near, capsys):
    with pytest.raises(SystemExit) as leaving:
        PROGRAMS[program](words)
    assert leaving.value.code == 2
    assert f"(did you mean {near}?)" in capsys.readouterr().err


def test_words_that_resemble_none_get_no_suggestion(capsys):
    with pytest.raises(SystemExit):
        kraken_bids(["in", "out", "xyzzy"])
    assert "did you mean" not in capsys.readouterr().err


def test_values_that_are_none_get_no_suggestion_of_their_option(capsys):
    with pytest.raises(SystemExit):
        kraken_model(["train", "--input", "x", "--output", "y", "--epochs", "2.5"])
    told = capsys.readouterr().err
    assert "argument --epochs: invalid int value: '2.5'" in told
    assert "did you mean" not in told


def test_help_is_grouped_and_shows_examples():
    text = make_parser().format_help()
    groups = ("which scans:", "inputs:", "connectomes:", "Krakencoder:", "execution:", "other:")
    assert [text.index(f"\n{group}\n") for group in groups] == sorted(
        text.index(f"\n{group}\n") for group in groups
    )
    examples = text[text.index("\nexamples:") :]
    assert all(word in examples for word in ("--dry-run", "--status", "-d fmriprep=", " group "))


@pytest.fixture
def script(tmp_path, capsys):
    """What a program prints for a shell, as a file."""

    def script(program, shell):
        with pytest.raises(SystemExit) as leaving:
            PROGRAMS[program](["--print-completion", shell])
        assert leaving.value.code in {None, 0}
        file = tmp_path / f"{program}.{shell}"
        file.write_text(capsys.readouterr().out)
        return file

    return script


def completed(script, *words):
    """What bash completes the last of some words to."""
    function = f"_shtab_{words[0].replace('-', '_')}"
    code = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
        f'{function} "$1" "${{!#}}" "${{COMP_WORDS[COMP_CWORD - 1]}}"; printf "%s\\n" '
        '"${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", code, "bash", str(script), *words],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {word.strip() for word in done.stdout.splitlines() if word.strip()}


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["kraken-bids", "--partic"], {"--participant-label"}),
        (["kraken-bids", "in", "out", "pa"], {"participant"}),
        (["kraken-bids", "in", "out", "participant", "--modality", ""], {"func", "dwi"}),
        (["kraken-bids", "in", "out", "participant", "--atlases", "sh"], {"shen268"}),
        (
            ["kraken-bids", "in", "out", "participant", "--flavors", "FCpcorr_"],
            {f"FCpcorr_{atlas}_hpf" for atlas in ("fs86", "shen268", "coco439")},
        ),
        (["kraken-submit", "in", "out", "--scheduler", "to"], {"torque"}),
        (["kraken-model", "ev"], {"evaluate"}),
        (["kraken-model", "predict", "--predict-t"], {"--predict-to"}),
    ],
)
def test_bash_completes(script, words, expected):
    assert completed(script(words[0], "bash"), *words) == expected


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_folders_and_files(script, tmp_path, monkeypatch):
    (tmp_path / "study").mkdir()
    (tmp_path / "strange.toml").touch()
    monkeypatch.chdir(tmp_path)
    file = script("kraken-bids", "bash")
    assert completed(file, "kraken-bids", "st") == {"study"}
    assert completed(file, "kraken-bids", "in", "out", "group", "--config-file", "str") == {
        "strange.toml"
    }


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_scripts_are_understood_by_their_shells(script, program, shell):
    file = script(program, shell)
    assert "--print-completion" in file.read_text()
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} to read it")
    subprocess.run([shell, "-n", str(file)], check=True, capture_output=True)


def test_every_subcommand_is_completed():
    text = make_model_parser((), is_whole=True).format_help()
    assert all(row.name in text for row in SUBCOMMANDS)
