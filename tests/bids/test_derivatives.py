# SPDX-License-Identifier: MIT
from __future__ import annotations

import logging

import pytest

from kraken_bids.bids.derivatives import (
    find_derivatives,
    generated_by,
    program_of,
    read_description,
)
from kraken_bids.errors import InputError, Problems


def found(study, **changes):
    return {item.name: item.root for item in find_derivatives(study.settings(**changes))}


def test_derivatives_are_found_by_who_generated_them(study):
    fmriprep = study.derivative("whatever", "fMRIPrep")
    qsiprep = study.derivative("qsiprep-26", "QSIPrep")
    study.derivative("other", "something else")
    (study.root / "derivatives" / "empty").mkdir()
    assert found(study) == {"fmriprep": fmriprep, "qsiprep": qsiprep}


def test_the_bids_folder_may_itself_be_a_derivative(study):
    root = study.derivative("fmriprep", "fMRIPrep")
    assert found(study, bids_dir=root) == {"fmriprep": root}


def test_workflows_of_qsirecon_are_found_inside_it(study):
    parent = study.derivative("qsirecon", "QSIRecon")
    nested = study.derivative("qsirecon/derivatives/qsirecon-MRtrix3_act-HSVS", "QSIRecon")
    expected = {"qsirecon": parent, "qsirecon-MRtrix3-act-HSVS": nested}
    assert found(study) == expected
    assert found(study, derivatives=(("qsirecon", parent),)) == expected


def test_a_named_derivative_is_not_looked_for(study):
    study.derivative("fmriprep", "fMRIPrep")
    named = study.derivative("elsewhere/fmriprep", "fMRIPrep")
    assert found(study, derivatives=(("fmriprep", named),)) == {"fmriprep": named}


def test_old_descriptions_are_understood():
    assert program_of({"PipelineDescription": {"Name": "fMRIPrep"}}) == "fmriprep"
    assert program_of({"GeneratedBy": [{"Name": "XCP-D"}, {"Name": "fMRIPrep"}]}) == "xcp_d"
    assert program_of({"GeneratedBy": [{"Name": "xcp_d"}]}) == "xcp_d"
    assert program_of({}) == ""


def test_two_outputs_of_one_program_are_ambiguous(study):
    study.derivative("fmriprep-23", "fMRIPrep")
    study.derivative("fmriprep-25", "fMRIPrep")
    with pytest.raises(Problems, match=r"2 outputs of fMRIPrep.*--derivatives fmriprep=PATH"):
        found(study)


def test_the_folder_of_another_program_is_refused(study):
    root = study.derivative("qsiprep", "QSIPrep")
    with pytest.raises(Problems, match=r"written by QSIPrep, not fMRIPrep.*Give it as qsiprep="):
        found(study, derivatives=(("fmriprep", root),))


def test_the_folder_of_an_unknown_program_is_taken_as_told(study, caplog):
    root = study.derivative("fmriprep", "our own conversion")
    with caplog.at_level(logging.WARNING):
        assert found(study, derivatives=(("fmriprep", root),)) == {"fmriprep": root}
    assert "our own conversion" in caplog.text


def test_a_folder_without_description_is_refused(study):
    root = study.root / "derivatives" / "fmriprep"
    root.mkdir(parents=True)
    with pytest.raises(Problems, match=r"there is no dataset_description.json.*Give the folder"):
        found(study, derivatives=(("fmriprep", root),))


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "cannot be read"), ("[]", "holds no JSON object")],
    ids=["cut short", "no object"],
)
def test_a_broken_description_is_refused(study, caplog, text, message):
    root = study.derivative("fmriprep", "fMRIPrep")
    (root / "dataset_description.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_description(root)
    assert found(study) == {}
    assert "left out" in caplog.text


def test_all_problems_are_told_together(study):
    root = study.derivative("qsiprep", "QSIPrep")
    wrong = (("fmriprep", root), ("qsiprep", study.root))
    with pytest.raises(Problems) as problems:
        found(study, derivatives=wrong)
    assert len(problems.value.problems) == 2


def test_the_chain_of_programs_has_each_once(study):
    study.derivative("fmriprep", "fMRIPrep", "25.2.4")
    study.derivative("qsirecon", "QSIRecon", "26.0.0")
    study.derivative("qsirecon/derivatives/qsirecon-a", "QSIRecon", "26.0.0")
    chain = generated_by(find_derivatives(study.settings()))
    assert [item["Name"] for item in chain] == ["fMRIPrep", "QSIRecon"]
