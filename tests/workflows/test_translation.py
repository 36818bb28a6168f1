# SPDX-License-Identifier: MIT
"""The group level's workflow: its predictions, latents and sidecars, from any way of reading."""

import json

import numpy as np
import pytest

from kraken_bids.bids.writers import read_connectome
from kraken_bids.connectome.edges import matrix_to_edges
from kraken_bids.flavors import Flavor
from kraken_bids.model.adaptation_file import load_adaptations
from kraken_bids.model.krakencoder import Krakencoder
from kraken_bids.report.found import read_session
from tests.workflows.cohort import (
    FC,
    FLAVORS,
    FUSIONS,
    REGIONS,
    SC,
    files_of,
    prediction,
    run,
    simulate,
    table,
    write_cohort,
)


def test_data_set_holds_the_expected_files_and_no_others(predicted):
    expected = {"group/desc-meanfit+meanshift_adaptation.safetensors"}
    tables = ["group/desc-kraken_qc", "group/desc-participant_qc"]
    tables += [f"group/desc-{fusion}_latent" for fusion in FUSIONS]
    meas = {name: Flavor.parse(name).meas for name in FLAVORS}
    tables += [f"group/atlas-fs86_meas-{label}_stat-mean_relmat" for label in meas.values()]
    for participant in ("01", "02", "03", "04", "05", "06"):
        tables.append(f"sub-{participant}/sub-{participant}_latent")
        tables.append(f"sub-{participant}/sub-{participant}_desc-trust_qc")
        for fusion in FUSIONS:
            if participant == "06" and fusion == "fusionSC":
                continue
            for name, label in meas.items():
                folder = Flavor.parse(name).datatype
                stem = f"sub-{participant}_atlas-fs86_meas-{label}_desc-{fusion}_relmat"
                tables.append(f"sub-{participant}/{folder}/{stem}")
    expected |= {f"{stem}.tsv" for stem in tables} | {f"{stem}.json" for stem in tables}
    expected.add("group/desc-meanfit+meanshift_adaptation.json")
    assert set(files_of(predicted)) == expected


@pytest.mark.parametrize("target", FLAVORS)
@pytest.mark.parametrize("source", FUSIONS)
def test_predictions_are_those_of_the_model(predicted, by_hand, bundle, source, target):
    _, latents, members = by_hand
    model = Krakencoder(bundle, device="cpu")
    for row, participant in enumerate(["01", "02", "03", "04", "05"]):
        own = [latents[name][row] for name in members[source]]
        fused = np.mean([latent for latent in own if not np.isnan(latent).any()], axis=0)
        expected = model.decode(fused[None], [target])[target][0]
        matrix, _ = read_connectome(prediction(predicted, participant, source, target), REGIONS)
        np.testing.assert_allclose(matrix_to_edges(matrix), expected, atol=2e-6)
        assert (np.diagonal(matrix) == (1 if target.startswith("FCcorr") else 0)).all()
        np.testing.assert_array_equal(matrix, matrix.T)


def test_latents_say_how_many_flavors_they_rest_on(predicted, by_hand):
    _, latents, _ = by_hand
    rows = {row["source"]: row for row in table(predicted / "sub-05/sub-05_latent.tsv")}
    assert list(rows) == [*FLAVORS[1:], *FUSIONS]
    assert {name: row["n_inputs"] for name, row in rows.items()} == {
        **dict.fromkeys(FLAVORS[1:], "1"),
        "fusion": "4",
        "fusionSC": "2",
        "fusionFC": "2",
    }
    written = [float(rows[SC[0]][f"z{index:03d}"]) for index in range(16)]
    np.testing.assert_allclose(written, latents[SC[0]][4], atol=1e-6)


def test_cohort_latents_leave_out_participants_without_members(predicted):
    rows = table(predicted / "group/desc-fusionSC_latent.tsv")
    assert [row["participant_id"] for row in rows] == [f"sub-0{n}" for n in range(1, 6)]
    assert rows[0]["session_id"] == "n/a"
    assert len(table(predicted / "group/desc-fusion_latent.tsv")) == 6


def test_sidecar_says_what_a_prediction_rests_on(predicted, cohort, bundle):
    path = prediction(predicted, "02", "fusion", FC[0]).with_suffix(".json")
    sidecar = json.loads(path.read_text("utf-8"))
    assert sidecar["Predicted"] is True
    assert sidecar["Model"] == {"Name": "tiny", "SHA256": bundle.sha256}
    assert sidecar["AdaptationFile"] == "bids::group/desc-meanfit+meanshift_adaptation.safetensors"
    assert sidecar["PredictedFrom"] == list(FLAVORS)
    assert sidecar["CohortSize"] == 6
    assert sidecar["MissingRegions"] == {"fs86": [REGIONS[3]]}
    assert sidecar["FilledEdges"] == {SC[0]: 85}
    name = "sub-02_space-T1w_atlas-fs86_meas-FCcorrHPF_relmat.tsv"
    assert sidecar["Sources"][0] == f"bids:connectomes:sub-02/func/{name}"


def test_sidecar_of_a_participant_without_a_flavor_leaves_it_out(predicted):
    path = prediction(predicted, "05", "fusion", FC[0]).with_suffix(".json")
    assert json.loads(path.read_text("utf-8"))["PredictedFrom"] == list(FLAVORS[1:])


def test_cohort_mean_is_that_of_the_measured_connectomes(predicted, raw):
    path = predicted / "group/atlas-fs86_meas-SCifod2actVN_stat-mean_relmat.tsv"
    matrix, _ = read_connectome(path, REGIONS)
    np.testing.assert_allclose(matrix_to_edges(matrix), np.nanmean(raw[SC[0]], axis=0), rtol=1e-5)


def test_adaptation_brings_the_cohort_to_the_training_mean(predicted, raw, bundle):
    fits = load_adaptations(predicted / "group/desc-meanfit+meanshift_adaptation.safetensors")
    assert set(fits) == set(FLAVORS)
    fit = fits[FC[1]]
    np.testing.assert_allclose(
        fit.forward(raw[FC[1]]).mean(axis=0), bundle.training_mean(FC[1]), atol=1e-5
    )
    assert fit.slope == pytest.approx(1 / 1.3, rel=0.15)


def test_same_inputs_give_the_same_bytes(predicted, cohort, bundle, tmp_path):
    root, sessions = cohort
    _, again = run(sessions, bundle, tmp_path, root=root)
    first, second = files_of(predicted), files_of(again)
    assert set(first) == set(second)
    assert [name for name in first if first[name].read_bytes() != second[name].read_bytes()] == []


def test_number_of_sessions_at_a_time_does_not_matter(predicted, cohort, bundle, tmp_path):
    root, sessions = cohort
    _, other = run(sessions, bundle, tmp_path, root=root, batch_size=1, predict_to=(SC[0],))
    found = [name for name in files_of(other) if name.endswith("_relmat.tsv")]
    assert len(found) == 5 * 3 + 2 + 5  # predictions, and means of the flavors
    for name in found:
        matrix = read_connectome(other / name)[0]
        np.testing.assert_allclose(matrix, read_connectome(predicted / name)[0], atol=1e-6)
    rows = table(other / "group/desc-kraken_qc.tsv")
    expected = [r for r in table(predicted / "group/desc-kraken_qc.tsv") if r["target"] == SC[0]]
    for row, same in zip(rows, expected, strict=True):
        assert float(row["average_rank"]) == float(same["average_rank"])
        assert float(row["correlation"]) == pytest.approx(float(same["correlation"]), abs=1e-5)


def test_fitted_file_gives_what_fitting_gave(predicted, cohort, bundle, tmp_path):
    root, sessions = cohort
    fitted = predicted / "group/desc-meanfit+meanshift_adaptation.safetensors"
    _, dataset_dir = run(
        sessions[:1], bundle, tmp_path, root=root, adaptation=str(fitted), predict_to=(FC[0],)
    )
    path = prediction(dataset_dir, "01", "fusion", FC[0])
    expected = read_connectome(prediction(predicted, "01", "fusion", FC[0]))[0]
    np.testing.assert_allclose(read_connectome(path)[0], expected, atol=1e-6)


def test_sessions_and_sites_are_kept_apart(bundle, tmp_path):
    raw = simulate(4, seed=3)
    for name in raw:
        raw[name][2:] += 0.4  # the second site measures more
    sessions = write_cohort(
        tmp_path / "out",
        raw,
        participants=["a", "a", "b", "c"],
        sessions=["1", "2", "1", "1"],
        sites=["x", "x", "y", "y"],
    )
    sessions += write_cohort(
        tmp_path / "out",
        {name: edges[:1] for name, edges in simulate(1, seed=4).items()},
        participants=["d"],
        sessions=["1"],
        sites=["x"],
    )
    _, dataset_dir = run(
        sessions, bundle, tmp_path, adaptation="meanshift", adapt_by="site", predict_to=(FC[0],)
    )
    fits = load_adaptations(dataset_dir / "group/desc-meanshift_adaptation.safetensors")
    assert {key.partition("@")[2] for key in fits} == {"x", "y"}
    assert fits[f"{FC[0]}@x"].n_participants == 2
    difference = fits[f"{FC[0]}@y"].source_mean - fits[f"{FC[0]}@x"].source_mean
    assert difference.mean() == pytest.approx(0.4, abs=0.1)
    assert (dataset_dir / "sub-a/ses-2/sub-a_ses-2_latent.tsv").is_file()
    rows = table(dataset_dir / "group/desc-participant_qc.tsv")
    assert [(row["participant_id"], row["session_id"], row["site"]) for row in rows] == [
        ("sub-a", "ses-1", "x"),
        ("sub-a", "ses-2", "x"),
        ("sub-b", "ses-1", "y"),
        ("sub-c", "ses-1", "y"),
        ("sub-d", "ses-1", "x"),
    ]


def test_single_flavors_may_be_sources(cohort, bundle, tmp_path):
    _, dataset_dir = run(
        cohort[1], bundle, tmp_path, predict_from=(SC[0], "fusionFC"), predict_to=(FC[0],)
    )
    assert prediction(dataset_dir, "01", Flavor.parse(SC[0]).label, FC[0]).is_file()
    rows = table(dataset_dir / "group/desc-kraken_qc.tsv")
    assert [(row["source"], row["n_participants"]) for row in rows] == [
        (SC[0], "4"),  # one lacks the source, one the target
        ("fusionFC", "5"),
    ]


def test_one_file_a_session_holds_what_the_tables_hold(tmp_path, cohort, bundle, predicted):
    root, sessions = cohort
    problems, dataset_dir = run(
        sessions, bundle, tmp_path, root=root, batch_size=4, relmat_format="h5"
    )
    assert problems == []
    assert not list(dataset_dir.glob("sub-*/*/*_relmat.*"))
    compared = 0
    for participant in ("01", "05", "06"):
        tables = read_session(predicted, participant, None).predicted
        stored = read_session(dataset_dir, participant, None).predicted
        names = [(item.flavor, item.source) for item in tables]
        assert [(item.flavor, item.source) for item in stored] == names
        for table_item, item in zip(tables, stored, strict=True):
            assert item.file == dataset_dir / f"sub-{participant}/sub-{participant}_relmat.h5"
            np.testing.assert_array_equal(
                item.read().astype(np.float32), table_item.read().astype(np.float32)
            )
            for key in ("Model", "PredictedFrom", "Sources", "NonNegative", "CohortSize"):
                assert item.sidecar[key] == table_item.sidecar[key]
            compared += 1
    assert compared == 2 * 15 + 10
