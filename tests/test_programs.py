# SPDX-License-Identifier: MIT
"""Programs that steps call are looked for before the start, and only those."""

import json
import logging
from pathlib import Path

import pytest

from kraken_bids.cli import main
from kraken_bids.errors import ResourceError
from kraken_bids.interfaces.mrtrix import MRtrixCommand
from kraken_bids.plan import DiffusionRun, FiveTissueMaking, SessionPlan
from kraken_bids.programs import check_programs, tell_programs
from kraken_bids.settings import Settings, StructuralOptions
from kraken_bids.workflows.structural import init_structural_wf, needed_programs


@pytest.fixture
def no_programs(tmp_path, monkeypatch):
    """A machine without MRtrix3 and FSL; gives the folder of its programs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("FSLDIR", raising=False)
    return folder


def add_program(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).touch(mode=0o755)


@pytest.fixture
def make_run(tmp_path):
    """A diffusion run of files that are there, changed as a test wants it."""

    def file(name):
        (tmp_path / name).touch()
        return tmp_path / name

    def make(**changes):
        series = {key: file(key) for key in ("dwi_file", "bval_file", "bvec_file", "mask_file")}
        tissues = {"five_tissue_file": file("5tt.nii.gz")}
        plain = {"entities": (("sub", "01"),), "space": "ACPC", "labels": (), "tissues": None}
        return DiffusionRun(**{**plain, **series, **tissues, **changes})

    make.file = file
    return make


def settings(tmp_path, **changes) -> Settings:
    return Settings(tmp_path, tmp_path, tmp_path, "participant", **changes)


def changes_of(make_run, name):
    """What distinguishes a run from one that is tracked from the series with ready tissues."""
    file = make_run.file
    tracts = {algorithm: file(f"{algorithm}.tck") for algorithm in ("ifod2act", "sdstream")}
    unmade = {"dwi_file": None, "bval_file": None, "bvec_file": None}
    no_tissues = {"five_tissue_file": None}
    return {
        "series": {},
        "no tissues": no_tissues,
        "tissues to unpack": {"five_tissue_file": file("5tt.mif.gz")},
        "tissues to be made": {
            **no_tissues,
            "five_tissue_made": FiveTissueMaking("fsl", file("t1w.nii.gz"), file("mask.nii.gz")),
        },
        "one tractogram": {"tractograms": tuple(tracts.items())[1:]},
        "both tractograms": {"tractograms": tuple(tracts.items())},
        "tractograms alone": {**unmade, **no_tissues, "tractograms": tuple(tracts.items())},
        "tractograms and tissues": {
            "tractograms": tuple(tracts.items()), "five_tissue_file": file("5tt.mif"),
        },
        "ready FODs": {**unmade, "fod_file": file("fod.mif.gz")},
    }[name]  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"sift2": True}, {"sloppy": True}], ids=str)
@pytest.mark.parametrize(
    "name",
    ["series", "no tissues", "tissues to unpack", "tissues to be made", "one tractogram",
     "both tractograms", "tractograms alone", "tractograms and tissues", "ready FODs"],
)  # fmt: skip
def test_programs_looked_for_are_those_of_the_steps(make_run, name, options):
    run = make_run(**changes_of(make_run, name))
    chosen = StructuralOptions(n_streamlines=10, **options)
    workflow = init_structural_wf(run, options=chosen)
    nodes = [workflow.get_node(node) for node in workflow.list_node_names()]
    called = {
        node.interface.cmd.split()[0]
        for node in nodes
        if isinstance(node.interface, MRtrixCommand)
    }
    needed = needed_programs(run, chosen)
    assert set(needed) == called
    assert len(set(needed)) == len(needed)


def test_missing_programs_are_refused_with_all_their_names_and_a_way_out(
    make_run, tmp_path, no_programs
):
    plans = [SessionPlan(label, None, diffusion=(make_run(),)) for label in ("01", "02")]
    plans.append(SessionPlan("03", None))
    names = "mrconvert, dwi2response, dwi2fod, tckgen, tckmap"
    with pytest.raises(
        ResourceError, match=rf"programs not found: {names} \(.*2 sessions\)"
    ) as it:
        check_programs(plans, settings(tmp_path))
    for way in ("apt-get install mrtrix3", "conda install", "container", "--modality func"):
        assert way in it.value.fix
    assert "FSL" not in it.value.fix
    add_program(no_programs, "mrconvert", "dwi2response", "dwi2fod", "tckmap")
    with pytest.raises(ResourceError, match=r"programs not found: tckgen \("):
        check_programs(plans, settings(tmp_path))
    add_program(no_programs, "tckgen")
    check_programs(plans, settings(tmp_path))


def test_programs_that_five_tissues_are_made_with_are_told_with_the_others(
    make_run, tmp_path, no_programs
):
    run = make_run(**changes_of(make_run, "tissues to be made"))
    plans = [SessionPlan("01", None, diffusion=(run,))]
    names = "mrconvert, 5ttgen, dwi2response, .* tckmap, bet, fast, run_first_all, the env.*FSLDIR"
    with pytest.raises(ResourceError, match=rf"{names} \(.*1 session\).*install FSL"):
        check_programs(plans, settings(tmp_path))


def test_sessions_without_diffusion_need_no_programs(tmp_path, no_programs):
    check_programs([SessionPlan("01", None)], settings(tmp_path))
    check_programs([], settings(tmp_path))


def test_programs_of_other_machines_are_a_warning(make_run, tmp_path, no_programs, caplog):
    plans = [SessionPlan("01", None, diffusion=(make_run(),))]
    file = tmp_path / "plugin.json"
    file.write_text(json.dumps({"plugin": "SLURM"}))
    with caplog.at_level(logging.WARNING, logger="kraken_bids"):
        check_programs(plans, settings(tmp_path, plugin_file=file))
    (record,) = caplog.records
    assert "nodes" in record.message
    assert "tckgen" in record.message
    file.write_text(json.dumps({"plugin": "MultiProc"}))  # on this machine
    with pytest.raises(ResourceError, match="tckgen"):
        check_programs(plans, settings(tmp_path, plugin_file=file))


def test_a_trial_run_warns(make_run, tmp_path, no_programs, caplog):
    plans = [SessionPlan("01", None, diffusion=(make_run(),))]
    with caplog.at_level(logging.WARNING, logger="kraken_bids"):
        tell_programs(plans, settings(tmp_path))
    assert ["programs not found: mrconvert" in record.message for record in caplog.records] == [
        True
    ]


@pytest.fixture
def words(study, tmp_path):
    """Command line of a study with a diffusion and a functional series."""
    study.add_anatomy("01")
    study.add_bold("01")
    study.add_dwi("01")
    return [str(study.root), str(tmp_path / "out"), "participant", "--atlases", "fs86",
            "-w", str(tmp_path / "work")]  # fmt: skip


def test_a_run_without_its_programs_starts_nothing(words, tmp_path, no_programs, capsys):
    assert main(words) == 3
    told = capsys.readouterr().err
    (line,) = [line for line in told.splitlines() if line.startswith("kraken-bids: ")]
    assert "programs not found: mrconvert, dwi2response" in line
    assert not list((tmp_path / "out").glob("*.json"))
    assert not list((tmp_path / "work").glob("*_wf"))


def test_trial_runs_and_functional_ones_do_not_stop_at_missing_programs(
    words, tmp_path, no_programs, capsys
):
    main([*words, "--dry-run"])
    assert "programs not found: mrconvert" in capsys.readouterr().err
    main([*words, "--dry-run", "--modality", "func"])
    assert "programs not found" not in capsys.readouterr().err
