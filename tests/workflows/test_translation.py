# SPDX-License-Identifier: MIT
import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kraken_bids.atlases import load_atlas
from kraken_bids.bids.names import output_path
from kraken_bids.bids.writers import read_connectome, write_connectome
from kraken_bids.connectome.adaptation import fit_adaptation
from kraken_bids.connectome.edges import edges_to_matrix, matrix_to_edges
from kraken_bids.errors import UsageError
from kraken_bids.flavors import Flavor
from kraken_bids.model.adaptation_file import load_adaptations
from kraken_bids.model.evaluation import evaluate_connectomes
from kraken_bids.model.krakencoder import Krakencoder
from kraken_bids.model.training import train_krakencoder
from kraken_bids.plan import CohortSession
from kraken_bids.report.found import read_session
from kraken_bids.settings import TranslationOptions
from kraken_bids.workflows.translation import init_session_translation_wf, init_translation_wf

FC = ("FCcorr_fs86_hpf", "FCcorr_fs86_hpfgsr", "FCpcorr_fs86_hpf")
SC = ("SCifod2act_fs86_volnorm", "SCsdstream_fs86_volnorm")
FLAVORS = FC + SC
FUSIONS = ("fusion", "fusionSC", "fusionFC")
REGIONS = load_atlas("fs86").region_names
N_EDGES = 3655


def simulate(n, seed):
    """Connectomes whose flavors share five factors a participant, in a scale of their own."""
    population = np.random.default_rng(1)
    rng = np.random.default_rng(seed)
    factors = rng.standard_normal((n, 5))
    connectomes = {}
    for flavor in FLAVORS:
        mean = population.uniform(0.1, 1, N_EDGES)
        loadings = 0.1 * population.standard_normal((5, N_EDGES))
        noise = 0.05 * rng.standard_normal((n, N_EDGES))
        connectomes[flavor] = mean + factors @ loadings + noise
    return connectomes


def write_cohort(root, connectomes, *, participants, sessions=None, sites=()):
    """Write measured connectomes as a participant-level run does."""
    found = []
    for row, participant in enumerate(participants):
        session = sessions[row] if sessions else None
        entities = [("sub", participant), *([("ses", session)] if session else [])]
        files = []
        for name, edges in connectomes.items():
            if np.isnan(edges[row]).all():
                continue
            flavor = Flavor.parse(name)
            path = root / output_path(
                "connectome",
                entities,
                datatype=flavor.datatype,
                space="T1w",
                atlas=flavor.atlas,
                meas=flavor.meas,
            )
            matrix = edges_to_matrix(edges[row], diagonal=float(flavor.kind == "FCcorr"))
            write_connectome(path, matrix, REGIONS)
            files.append((name, path))
        site = sites[row] if sites else ""
        found.append(CohortSession(participant, session, tuple(files), site))
    return tuple(found)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    return train_krakencoder(
        simulate(40, seed=0),
        tmp_path_factory.mktemp("model") / "tiny",
        n_components=8,
        latent_size=16,
        epochs=60,
        learning_rate=0.02,
        dropout=0.1,
    )


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory):
    """A model that lacks two of the flavors."""
    return train_krakencoder(
        {name: edges for name, edges in simulate(40, seed=0).items() if name in (FC[0], SC[0])},
        tmp_path_factory.mktemp("model") / "small",
        n_components=8,
        latent_size=16,
        epochs=2,
    )


@pytest.fixture(scope="session")
def raw():
    """Six participants, shifted and scaled against the training cohort."""
    connectomes = {name: 1.3 * edges + 0.1 for name, edges in simulate(6, seed=8).items()}
    connectomes[FC[0]][4] = np.nan  # one flavor of a participant missing
    for name in SC:
        connectomes[name][5] = np.nan  # all structural ones
    lost = edges_to_matrix(connectomes[SC[0]][1], diagonal=np.nan)
    lost[3] = lost[:, 3] = np.nan  # one region
    connectomes[SC[0]][1] = matrix_to_edges(lost)
    return connectomes


@pytest.fixture(scope="session")
def cohort(tmp_path_factory, raw):
    root = tmp_path_factory.mktemp("out")
    return root, write_cohort(root, raw, participants=["01", "02", "03", "04", "05", "06"])


def run(sessions, bundle, tmp_path, *, name="predictions", batch_size=4, root=None, **options):
    """Run the group level; return the data set and the problems."""
    dataset_dir = tmp_path / name
    workflow = init_translation_wf(
        sessions=sessions,
        options=TranslationOptions(
            model_dir=bundle.path, model_sha256=bundle.sha256, device="cpu", **options
        ),
        dataset_dir=dataset_dir,
        sources_root=root,
        batch_size=batch_size,
    )
    return execute(workflow, tmp_path / f"work-{name}"), dataset_dir


def execute(workflow, work_dir):
    """Run a graph in one process and return the outputs of its last nodes."""
    workflow.base_dir = str(work_dir)
    workflow.config["execution"] = {"crashdump_dir": str(work_dir), "crashfile_format": "txt"}
    nodes = {node.name: node for node in workflow.run(plugin="Linear").nodes()}
    problems = nodes.get("evaluate", nodes["read"]).result.outputs
    return json.loads(Path(problems.problems_file).read_text("utf-8"))["problems"]


@pytest.fixture(scope="session")
def predicted(tmp_path_factory, cohort, bundle):
    root, sessions = cohort
    problems, dataset_dir = run(sessions, bundle, tmp_path_factory.mktemp("group"), root=root)
    assert problems == []
    return dataset_dir


def table(path):
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t"))


def prediction(dataset_dir, participant, source, target):
    flavor = Flavor.parse(target)
    return dataset_dir / output_path(
        "prediction",
        [("sub", participant)],
        datatype=flavor.datatype,
        atlas="fs86",
        meas=flavor.meas,
        desc=source,
    )


def files_of(folder):
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


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


@pytest.fixture(scope="session")
def by_hand(raw, bundle):
    """The same through the model's own functions: adapted edges, latents, predictions."""
    adapted = {}
    for name, edges in raw.items():
        mean = bundle.training_mean(name)
        present = ~np.isnan(edges).all(axis=1)
        fit = fit_adaptation(
            "meanfit+meanshift", np.nanmean(edges[present], axis=0), mean, n_participants=6
        )
        filled = np.where(np.isnan(edges), mean, fit.forward(edges)).astype(np.float32)
        filled[~present] = np.nan
        adapted[name] = filled
    latents = Krakencoder(bundle, device="cpu").encode(adapted)
    members = {"fusion": FLAVORS, "fusionSC": SC, "fusionFC": FC}
    return adapted, latents, members


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


def test_quality_is_that_of_whole_connectomes(predicted, by_hand):
    adapted, _, _ = by_hand
    rows = {
        (row["source"], row["target"]): row
        for row in table(predicted / "group/desc-kraken_qc.tsv")
    }
    assert len(rows) == 15
    for (source, target), row in rows.items():
        measured, found = [], []
        for index in range(6):
            path = prediction(predicted, f"0{index + 1}", source, target)
            if path.is_file() and not np.isnan(adapted[target][index]).any():
                measured.append(adapted[target][index])
                found.append(matrix_to_edges(read_connectome(path)[0]))
        mean = np.nanmean(adapted[target], axis=0)
        expected = evaluate_connectomes(np.stack(measured), np.stack(found), mean=mean)
        assert int(row["n_participants"]) == expected.n == len(measured)
        for name in ("correlation", "residual_correlation", "average_rank", "top1"):
            assert float(row[name]) == pytest.approx(getattr(expected, name), abs=1e-5), name
        for name in ("top1_chance", "average_rank_chance", "p_permutation"):
            assert float(row[name]) == pytest.approx(getattr(expected, name), rel=1e-4), name


def test_participants_are_identified_across_kinds_of_connectomes(predicted):
    rows = {
        (row["source"], row["target"]): row
        for row in table(predicted / "group/desc-kraken_qc.tsv")
    }
    there, back = rows["fusionSC", FC[1]], rows["fusionFC", SC[1]]
    assert (there["direction"], back["direction"]) == ("SC->FC", "FC->SC")
    assert rows["fusion", FC[0]]["direction"] == "all->FC"
    for row in (there, back):
        assert float(row["top1"]) > 2 * float(row["top1_chance"])
        assert float(row["average_rank"]) > float(row["average_rank_chance"])
        assert float(row["p_permutation"]) < 0.05


def test_participants_table_says_what_each_brought(predicted):
    rows = table(predicted / "group/desc-participant_qc.tsv")
    assert [row["n_flavors"] for row in rows] == ["5", "5", "5", "5", "4", "3"]
    assert [row["filled_edges"] for row in rows] == ["0", "85", "0", "0", "0", "0"]
    assert [row["n_inputs_fusionSC"] for row in rows] == ["2", "2", "2", "2", "2", "0"]
    assert rows[5]["correlation_fusionSC"] == "n/a"
    assert all(0.5 < float(row["explained"]) <= 1 for row in rows)
    described = json.loads((predicted / "group/desc-participant_qc.json").read_text("utf-8"))
    assert set(described) == set(rows[0])


def test_participants_table_compares_with_the_training_mean(predicted, raw, bundle):
    rows = table(predicted / "group/desc-participant_qc.tsv")
    for name in FLAVORS:
        mean = bundle.training_mean(name)
        for row, edges in zip(rows, raw[name], strict=True):
            there = ~np.isnan(edges)
            if not there.any():
                assert row[f"training_mean_r_{name}"] == "n/a"
                continue
            expected = np.corrcoef(edges[there], mean[there])[0, 1]
            assert float(row[f"training_mean_r_{name}"]) == pytest.approx(expected, abs=1e-5)


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


def test_session_level_writes_predictions_and_nothing_of_a_group(
    predicted, cohort, bundle, tmp_path
):
    root, sessions = cohort
    fitted = predicted / "group/desc-meanfit+meanshift_adaptation.safetensors"
    workflow = init_session_translation_wf(
        sessions=sessions[:1],
        options=TranslationOptions(
            model_dir=bundle.path,
            model_sha256=bundle.sha256,
            adaptation=str(fitted),
            device="cpu",
        ),
        dataset_dir=tmp_path / "one",
        sources_root=root,
    )
    assert execute(workflow, tmp_path / "work") == []
    files = files_of(tmp_path / "one")
    assert len(files) == 2 + 2 + 2 * 15
    assert not any(name.startswith("group") for name in files)
    path = prediction(tmp_path / "one", "01", "fusionSC", FC[0])
    expected = read_connectome(prediction(predicted, "01", "fusionSC", FC[0]))[0]
    np.testing.assert_allclose(read_connectome(path)[0], expected, atol=1e-6)
    sidecar = json.loads(path.with_suffix(".json").read_text("utf-8"))
    assert sidecar["AdaptationFile"] == fitted.name
    assert sidecar["CohortSize"] == 6


def test_session_level_refuses_to_fit(cohort, bundle, tmp_path):
    with pytest.raises(UsageError, match="'meanfit' is fitted on a cohort"):
        init_session_translation_wf(
            sessions=cohort[1][:1],
            options=TranslationOptions(model_dir=bundle.path, adaptation="meanfit", device="cpu"),
            dataset_dir=tmp_path,
        )


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


def possible(connectomes):
    """Correlations up to 1, and no fewer than no streamlines."""
    limits = {name: (-1, 1) if name in FC else (0, None) for name in connectomes}
    return {name: np.clip(edges, *limits[name]) for name, edges in connectomes.items()}


@pytest.fixture(scope="session")
def doubtful(tmp_path_factory, bundle):
    """A cohort of 24, four of whom are corrupted."""
    connectomes = possible(simulate(24, seed=21))
    shuffled = np.random.default_rng(2).permutation(86)
    matrix = edges_to_matrix(connectomes[FC[0]][3], diagonal=1.0)
    connectomes[FC[0]][3] = matrix_to_edges(matrix[shuffled][:, shuffled])
    connectomes[FC[1]][8, :5] = 1.7  # beyond what a correlation can be
    for name in SC:
        connectomes[name][12] = connectomes[name][13]  # another participant's
    lost = edges_to_matrix(connectomes[SC[0]][17], diagonal=np.nan)
    lost[:20] = lost[:, :20] = np.nan
    connectomes[SC[0]][17] = matrix_to_edges(lost)
    root = tmp_path_factory.mktemp("doubtful")
    sessions = write_cohort(root, connectomes, participants=[f"{n:02d}" for n in range(24)])
    problems, dataset_dir = run(
        sessions, bundle, tmp_path_factory.mktemp("judged"), root=root, predict_to=(FC[0],)
    )
    assert problems == []
    return dataset_dir


def trust(dataset_dir, participant):
    file = dataset_dir / f"sub-{participant}/sub-{participant}_desc-trust_qc.tsv"
    return {row["flavor"]: row for row in table(file)}


def test_corrupted_connectomes_are_doubted_and_only_they(doubtful):
    rows = {
        row["participant_id"]: row for row in table(doubtful / "group/desc-participant_qc.tsv")
    }
    unfit = {name[4:]: row["trust"] for name, row in rows.items() if row["trust"] != "fits"}
    assert set(unfit) == {"03", "08", "12", "17"}
    assert "unlike the training data" in unfit["03"]
    assert unfit["08"] == "unlike the training data"
    assert unfit["12"] == "disagrees with the other flavors"
    assert "largely filled in" in unfit["17"]
    assert trust(doubtful, "03")[FC[0]]["verdict"].startswith("unlike the training data")
    assert trust(doubtful, "08")[FC[1]]["reasons"].startswith("impossible_edges")
    assert trust(doubtful, "17")[SC[0]]["missing_regions"] == "20"
    assert rows["sub-08"]["doubtful_flavors"] == FC[1]
    assert rows["sub-08"]["n_doubtful"] == "1"


def test_measures_of_trust_are_those_of_the_functions(doubtful, predicted, bundle):
    rows = trust(doubtful, "05")
    assert list(rows) == list(FLAVORS)
    sidecar = json.loads((doubtful / "sub-05/sub-05_desc-trust_qc.json").read_text("utf-8"))
    assert sidecar["NumberOfSessionsJudgedBy"] == 24
    for name, row in rows.items():
        least, most = sidecar["Usual"][name]["explained"]
        assert least <= float(row["explained"]) <= (np.inf if most == "n/a" else most)
        latents = {
            one["source"]: np.array([float(one[f"z{k:03d}"]) for k in range(16)])
            for one in table(doubtful / "sub-05/sub-05_latent.tsv")
        }
        others = sum(latents[other] for other in FLAVORS if other != name)
        cosine = latents[name] @ others / np.linalg.norm(latents[name]) / np.linalg.norm(others)
        assert float(row["agreement"]) == pytest.approx(cosine, abs=1e-5)
    matches = {row["modality_match"] for row in rows.values()}
    assert len(matches) == 1
    assert float(matches.pop()) > 0.5
    # six participants are too few to be judged by each other, or to be matched
    assert {row["modality_match"] for row in trust(predicted, "01").values()} == {"n/a"}


def test_session_level_judges_by_what_holds_for_any_cohort(doubtful, bundle, tmp_path):
    connectomes = possible(simulate(1, seed=30))
    connectomes[FC[0]] = connectomes[FC[0]][:, ::-1]
    sessions = write_cohort(tmp_path / "measured", connectomes, participants=["01"])
    workflow = init_session_translation_wf(
        sessions=sessions,
        options=TranslationOptions(
            model_dir=bundle.path, model_sha256=bundle.sha256, adaptation="none", device="cpu"
        ),
        dataset_dir=tmp_path / "one",
        sources_root=tmp_path / "measured",
    )
    execute(workflow, tmp_path / "work")
    rows = trust(tmp_path / "one", "01")
    assert "training_mean_r" in rows[FC[0]]["reasons"]
    assert rows[SC[0]]["verdict"] == "fits"
    assert "match" not in rows[SC[0]]
