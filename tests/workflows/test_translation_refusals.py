# SPDX-License-Identifier: MIT
"""What the group level leaves out, and what it refuses."""

import json
from dataclasses import replace

import pytest

from tests.workflows.cohort import FC, FLAVORS, SC, files_of, prediction, run, table, write_cohort


def test_flavors_that_the_model_lacks_are_left_out_and_said(
    cohort, small_bundle, tmp_path, caplog
):
    root, sessions = cohort
    _, dataset_dir = run(sessions, small_bundle, tmp_path, root=root, predict_to=(FC[0],))
    assert "model small lacks them: FCcorr_fs86_hpfgsr, FCpcorr_fs86_hpf" in caplog.text
    quality = json.loads((dataset_dir / "group/desc-kraken_qc.json").read_text("utf-8"))
    assert quality["FlavorsNotInModel"] == sorted({*FLAVORS} - {FC[0], SC[0]})
    assert "sub-06" in caplog.text  # has no structural flavor of the model


def test_broken_file_costs_one_flavor_of_one_participant(cohort, bundle, tmp_path, raw):
    sessions = write_cohort(
        tmp_path / "out", raw, participants=["01", "02", "03", "04", "05", "06"]
    )
    broken = dict(sessions[2].connectomes)[FC[2]]
    broken.write_text(broken.read_text("utf-8")[:5000], encoding="utf-8")
    problems, dataset_dir = run(sessions, bundle, tmp_path, predict_to=(FC[2],))
    assert [(p["participant"], p["flavor"], p["where"]) for p in problems] == [
        ("03", FC[2], str(broken))
    ]
    assert "not a whole labelled matrix" in problems[0]["what"]
    sidecar = prediction(dataset_dir, "03", "fusion", FC[2]).with_suffix(".json")
    assert FC[2] not in json.loads(sidecar.read_text("utf-8"))["PredictedFrom"]
    rows = table(dataset_dir / "group/desc-participant_qc.tsv")
    assert [row["n_problems"] for row in rows] == ["0", "0", "1", "0", "0", "0"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "fitted on one participant would map anybody onto the training mean"),
        ({"predict_to": ("FCcorr_fs68_hpf",)}, "Did you mean 'FCcorr_fs86_hpf'"),
        ({"predict_from": ("fusionCS",), "adaptation": "none"}, "Did you mean 'fusionSC'"),
    ],
    ids=["one participant", "unknown target", "unknown source"],
)
def test_what_cannot_be_done_is_refused(cohort, bundle, tmp_path, options, message):
    root, sessions = cohort
    with pytest.raises(Exception, match=message):
        run(sessions[:1], bundle, tmp_path, root=root, **options)
    assert files_of(tmp_path / "predictions") == {}


def test_model_without_any_measured_flavor_is_refused(cohort, small_bundle, tmp_path):
    _, sessions = cohort
    only = tuple(
        replace(
            session, connectomes=tuple(pair for pair in session.connectomes if pair[0] == SC[1])
        )
        for session in sessions[:3]
    )
    with pytest.raises(Exception, match="none of the flavors measured: SCsdstream_fs86_volnorm"):
        run(only, small_bundle, tmp_path)


def test_adaptation_of_another_model_is_refused(predicted, cohort, small_bundle, tmp_path):
    fitted = predicted / "group/desc-meanfit+meanshift_adaptation.safetensors"
    with pytest.raises(Exception, match="was fitted for another model than 'small'"):
        run(cohort[1], small_bundle, tmp_path, adaptation=str(fitted))
