# SPDX-License-Identifier: MIT
from __future__ import annotations

import logging

import numpy as np
import pytest

from kraken_bids.bids.cohort import find_cohort
from kraken_bids.bids.names import output_path
from kraken_bids.bids.writers import write_connectome
from kraken_bids.errors import InputError, Problems, UsageError
from kraken_bids.flavors import Flavor


@pytest.fixture
def add(tmp_path):
    """Write a connectome of two regions under its proper name."""

    def write(participant, flavor, *, session=None, space="T1w", desc="", **source):
        flavor = Flavor.parse(flavor)
        entities = [("sub", participant), *([("ses", session)] if session else [])]
        path = tmp_path / output_path(
            "connectome", [*entities, *source.items()], datatype=flavor.datatype,
            space=space, atlas=flavor.atlas, meas=flavor.meas, desc=desc,
        )  # fmt: skip
        write_connectome(path, np.eye(2), ["a", "b"])
        return path

    return write


def names(session):
    return [path.name for _, path in session.connectomes]


def test_connectomes_are_found_by_flavor(add, tmp_path):
    fc = add("01", "FCcorr_fs86_hpf", task="rest")
    sc = add("01", "SCifod2act_fs86_volnorm", space="ACPC")
    add("02", "FCcorr_fs86_hpf", task="rest")
    (tmp_path / "sub-03").mkdir()
    first, second = find_cohort(tmp_path)
    assert (first.label, first.site) == ("sub-01", "")
    assert first.connectomes == (("FCcorr_fs86_hpf", fc), ("SCifod2act_fs86_volnorm", sc))
    assert second.participant == "02"


def test_predicted_and_hidden_files_are_left_out(add, tmp_path):
    measured = add("01", "FCcorr_fs86_hpf", task="rest")
    add("01", "FCcorr_fs86_hpf", desc="fusion")
    measured.with_name(f".{measured.name}.abcdefgh").touch()
    (session,) = find_cohort(tmp_path)
    assert session.connectomes == (("FCcorr_fs86_hpf", measured),)


def test_other_pipelines_are_left_out_and_told(add, tmp_path, caplog):
    recipe = add("01", "FCcorr_fs86_hpf", task="rest")
    add("01", "FCcorr_fs86_hpf", task="rest", desc="simple")
    add("01", "FCcorr_fs86_hpfgsr", task="rest", desc="xcpd")
    add("02", "FCcorr_fs86_hpf", task="rest", desc="simple")
    with caplog.at_level(logging.WARNING):
        (session,) = find_cohort(tmp_path)
    assert session.connectomes == (("FCcorr_fs86_hpf", recipe),)
    assert "2 functional connectomes" in caplog.text
    assert "desc-simple" in caplog.text
    assert "With --denoising simple, the group level takes them" in caplog.text
    assert "desc-xcpd" in caplog.text
    assert "--denoising xcpd" not in caplog.text


def test_another_pipeline_is_taken_when_asked_for_with_all_structural_ones(add, tmp_path, caplog):
    add("01", "FCcorr_fs86_hpf", task="rest")
    add("01", "FCcorr_fs86_hpfgsr", task="rest")
    simple = add("01", "FCcorr_fs86_hpf", task="rest", desc="simple")
    sc = add("01", "SCifod2act_fs86_volnorm")
    add("02", "FCcorr_fs86_hpf", task="rest")
    with caplog.at_level(logging.WARNING):
        (session,) = find_cohort(tmp_path, mark="simple")
    assert session.connectomes == (("FCcorr_fs86_hpf", simple), ("SCifod2act_fs86_volnorm", sc))
    assert "desc-simple are used" in caplog.text
    assert "not validated" in caplog.text
    caplog.clear()
    assert len(find_cohort(tmp_path, mark="compcor")) == 1  # the structural one
    assert "are used" not in caplog.text


def test_sessions_and_participants_are_selected(add, tmp_path):
    for session in ("a", "b"):
        add("01", "FCcorr_fs86_hpf", session=session, task="rest")
    add("02", "FCcorr_fs86_hpf", task="rest")
    labels = [session.label for session in find_cohort(tmp_path)]
    assert labels == ["sub-01_ses-a", "sub-01_ses-b", "sub-02"]
    chosen = find_cohort(tmp_path, participants=("01",), sessions=("b",))
    assert [session.label for session in chosen] == ["sub-01_ses-b"]


def test_participants_without_connectomes_are_told(add, tmp_path, caplog):
    add("01", "FCcorr_fs86_hpf", task="rest")
    with caplog.at_level(logging.WARNING):
        assert len(find_cohort(tmp_path, participants=("01", "09"))) == 1
    assert "sub-09 has no measured connectomes" in caplog.text


def test_combined_runs_are_taken_before_single_ones(add, tmp_path):
    for run in ("1", "2"):
        add("01", "FCcorr_fs86_hpf", task="rest", run=run, dir="AP")
    with pytest.raises(Problems, match=r"2 runs but no combination.*Run the participant level"):
        find_cohort(tmp_path)
    combined = add("01", "FCcorr_fs86_hpf", task="rest")
    (session,) = find_cohort(tmp_path)
    assert session.connectomes == (("FCcorr_fs86_hpf", combined),)


def test_flavors_of_runs_that_were_not_combined_can_be_left_out(add, tmp_path, caplog):
    structural = add("01", "SCsdstream_fs86_volnorm")
    for run in ("1", "2"):
        for flavor in ("FCcorr_fs86_hpf", "FCpcorr_fs86_hpf"):
            add("01", flavor, task="rest", run=run)
    whole = add("02", "FCcorr_fs86_hpf", task="rest")
    with caplog.at_level(logging.WARNING):
        one, other = find_cohort(tmp_path, leave_out_uncombined=True)
    assert one.connectomes == (("SCsdstream_fs86_volnorm", structural),)
    assert other.connectomes == (("FCcorr_fs86_hpf", whole),)
    (told,) = caplog.messages
    assert "sub-01: 2 flavor(s) are left out: FCcorr_fs86_hpf has 2 runs but no" in told
    assert "Run the participant level again" in told


def test_a_single_run_needs_no_combination(add, tmp_path):
    only = add("01", "FCcorr_fs86_hpf", task="rest", run="1")
    (session,) = find_cohort(tmp_path)
    assert session.connectomes == (("FCcorr_fs86_hpf", only),)


def test_rest_is_taken_of_several_tasks(add, tmp_path):
    for task in ("nback", "rest"):
        add("01", "FCcorr_fs86_hpf", task=task)
    assert "task-rest" in names(*find_cohort(tmp_path))[0]
    assert "task-nback" in names(*find_cohort(tmp_path, tasks=("nback",)))[0]


def test_several_tasks_without_rest_are_ambiguous(add, tmp_path):
    for participant in ("01", "02"):
        for task in ("movie", "nback"):
            add(participant, "FCcorr_fs86_hpf", task=task)
    with pytest.raises(Problems, match=r"2 tasks: movie, nback.*--task-id movie") as problems:
        find_cohort(tmp_path)
    assert len(problems.value.problems) == 2
    assert isinstance(problems.value.problems[0], UsageError)


def test_a_task_that_was_not_measured_leaves_the_structural_connectomes(add, tmp_path):
    add("01", "FCcorr_fs86_hpf", task="nback")
    add("01", "SCifod2act_fs86_volnorm")
    (session,) = find_cohort(tmp_path, tasks=("rest",))
    assert [flavor for flavor, _ in session.connectomes] == ["SCifod2act_fs86_volnorm"]


def test_other_variants_are_chosen_by_name_and_told(add, tmp_path, caplog):
    for acq in ("b", "a"):
        add("01", "SCifod2act_fs86_volnorm", acq=acq)
    with caplog.at_level(logging.WARNING):
        (session,) = find_cohort(tmp_path)
    assert "acq-a" in names(session)[0]
    assert "acq-a" in caplog.text


def test_unknown_measures_are_left_out_and_told(add, tmp_path, caplog):
    path = add("01", "FCcorr_fs86_hpf", task="rest")
    path.rename(path.with_name(path.name.replace("FCcorrHPF", "coherence")))
    assert find_cohort(tmp_path) == ()
    assert "meas-coherence is no known flavor" in caplog.text


@pytest.fixture
def participants_file(tmp_path):
    path = tmp_path / "participants.tsv"
    path.write_text("participant_id\tsite\nsub-01\tBern\n02\tBasel\nsub-03\tn/a\n")
    return path


def test_sites_come_from_the_participants_table(add, tmp_path, participants_file):
    for participant in ("01", "02"):
        add(participant, "FCcorr_fs86_hpf", task="rest")
    found = find_cohort(tmp_path, adapt_by="site", participants_file=participants_file)
    assert [session.site for session in found] == ["Bern", "Basel"]


def test_a_participant_without_site_is_told(add, tmp_path, participants_file):
    for participant in ("01", "03", "04"):
        add(participant, "FCcorr_fs86_hpf", task="rest")
    with pytest.raises(Problems) as problems:
        find_cohort(tmp_path, adapt_by="site", participants_file=participants_file)
    told = "\n".join(map(str, problems.value.problems))
    assert "sub-03 has no value in column 'site'" in told
    assert "sub-04 has no value in column 'site'" in told
    assert "--participant-label" in told


def test_an_unknown_column_is_told_with_the_near_one(add, tmp_path, participants_file):
    add("01", "FCcorr_fs86_hpf", task="rest")
    with pytest.raises(UsageError, match=r"no column 'sites'.*Did you mean 'site'"):
        find_cohort(tmp_path, adapt_by="sites", participants_file=participants_file)


def test_sites_need_a_table(add, tmp_path):
    add("01", "FCcorr_fs86_hpf", task="rest")
    with pytest.raises(InputError, match=r"no participants.tsv.*--adapt-by site"):
        find_cohort(tmp_path, adapt_by="site", participants_file=tmp_path / "none.tsv")
