# SPDX-License-Identifier: MIT
"""Lambda searched at the group level: the numbers are those of ``kraken-model pcorr``."""

import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kraken_bids.atlases import load_atlas
from kraken_bids.bids.names import output_path
from kraken_bids.bids.regularization import has_few_dof, partial_path, save_partial
from kraken_bids.bids.writers import read_connectome, write_connectome, write_json
from kraken_bids.connectome.edges import edges_to_matrix, matrix_to_edges
from kraken_bids.connectome.partial import mean_precision, partial_correlation, search_lambda
from kraken_bids.flavors import Flavor
from kraken_bids.lambda_search import plan_fitted_lambdas, plan_lambda_search
from kraken_bids.model.krakencoder import Krakencoder
from kraken_bids.model.training import train_krakencoder
from kraken_bids.model_commands.cli import main as kraken_model
from kraken_bids.plan import CohortSession, LambdaSearchPlan, LambdaTarget
from kraken_bids.settings import RegularizationOptions, Settings, TranslationOptions
from kraken_bids.workflows.translation import init_session_translation_wf, init_translation_wf

CORR, PARTIAL, SC = "FCcorr_fs86_hpf", "FCpcorr_fs86_hpf", "SCsdstream_fs86_volnorm"
REGIONS = load_atlas("fs86").region_names
LABELS = ("01", "02", "03", "04", "05")
LOST = 3  # region that sub-05 lacks


def correlations(n, seed, *, n_volumes=160):
    """Correlations of regions that share factors, as of scans with that many volumes."""
    loadings = np.random.default_rng(1).normal(size=(8, 86))
    rng = np.random.default_rng(seed)
    series = (
        rng.normal(size=(n_volumes, 8)) @ (loadings * rng.normal(1, 0.2, loadings.shape))
        + 2 * rng.normal(size=(n_volumes, 86))
        for _ in range(n)
    )
    return np.stack([np.corrcoef(one, rowvar=False) for one in series])


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """A mean precision of long scans."""
    file = tmp_path_factory.mktemp("target") / "precision.npy"
    np.save(file, mean_precision(correlations(4, 7, n_volumes=1000)))
    return file


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    matrices = correlations(20, 0)
    rng = np.random.default_rng(5)
    connectomes = {
        CORR: np.stack([matrix_to_edges(matrix) for matrix in matrices]),
        PARTIAL: np.stack([
            matrix_to_edges(partial_correlation(np.linalg.inv(m + 0.06 * np.eye(86))))
            for m in matrices
        ]),
        SC: rng.random((20, 3655)),
    }
    return train_krakencoder(
        connectomes,
        tmp_path_factory.mktemp("model") / "tiny",
        n_components=6,
        latent_size=8,
        epochs=3,
    )


def save(root, participant, name, matrix, **sidecar):
    flavor = Flavor.parse(name)
    path = root / output_path(
        "connectome", [("sub", participant), ("task", "rest")], datatype=flavor.datatype,
        space="T1w", atlas="fs86", meas=flavor.meas,
    )  # fmt: skip
    write_connectome(path, matrix, REGIONS)
    write_json(path.with_suffix(".json"), sidecar)
    return name, path


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Five participants; one lacks a region. Their own lambda is 0.06."""
    root = tmp_path_factory.mktemp("measured")
    sessions = []
    rng = np.random.default_rng(2)
    for label, matrix in zip(LABELS, correlations(len(LABELS), 3), strict=True):
        partial = partial_correlation(np.linalg.inv(matrix + 0.06 * np.eye(86)))
        structural = edges_to_matrix(rng.random(3655), diagonal=0.0)
        if label == "05":
            matrix[LOST] = matrix[:, LOST] = np.nan
            partial[LOST] = partial[:, LOST] = np.nan
        files = (
            save(root, label, CORR, matrix, NumberOfVolumes=160, Sources=["bids::x"]),
            save(root, label, PARTIAL, partial, Regularization=0.06),
            save(root, label, SC, structural),
        )
        sessions.append(CohortSession(label, None, files))
    return root, tuple(sessions)


def plan_of(sessions, target):
    sha256 = hashlib.sha256(target.read_bytes()).hexdigest()
    files = [dict(session.connectomes) for session in sessions]
    return LambdaSearchPlan(
        (LambdaTarget("fs86", target.name, sha256, target),),
        tuple((("fs86", own[CORR]),) if CORR in own else () for own in files),
    )


def run(sessions, bundle, folder, *, search=None, root=None, batch_size=2, **options):
    """Run the group level in one process; return data set and problems."""
    workflow = init_translation_wf(
        sessions=sessions,
        options=TranslationOptions(
            model_dir=bundle.path, model_sha256=bundle.sha256, device="cpu", **options
        ),
        dataset_dir=folder / "predictions",
        sources_root=root,
        search=search,
        batch_size=batch_size,
    )
    workflow.base_dir = str(folder / "work")
    workflow.config["execution"] = {"crashdump_dir": str(folder), "crashfile_format": "txt"}
    nodes = {node.name: node for node in workflow.run(plugin="Linear").nodes()}
    file = Path(nodes["evaluate"].result.outputs.problems_file)
    return folder / "predictions", read_json(file)["problems"]


@pytest.fixture(scope="module")
def predicted(tmp_path_factory, cohort, target, bundle):
    root, sessions = cohort
    dataset_dir, problems = run(
        sessions,
        bundle,
        tmp_path_factory.mktemp("group"),
        search=plan_of(sessions, target),
        root=root,
    )
    assert problems == []
    return dataset_dir


@pytest.fixture(scope="module")
def by_command(tmp_path_factory, cohort, target):
    """What ``kraken-model pcorr`` makes of the same matrices: table, lambda, matrices."""
    folder = tmp_path_factory.mktemp("command")
    matrices = [read_connectome(dict(s.connectomes)[CORR])[0] for s in cohort[1]]
    np.savez(folder / "in.npz", data=np.stack(matrices), subjects=list(LABELS))
    words = ["pcorr", "--input", f"{CORR}={folder / 'in.npz'}", "--target", target,
             "--output", folder / "out.npz", "--search-table", folder / "tried.tsv",
             "--threads", 1]  # fmt: skip
    assert kraken_model([str(word) for word in words]) == 0
    with np.load(folder / "out.npz") as stored:
        return rows_of(folder / "tried.tsv"), float(stored["lambda_raw"]), stored["data"]


def rows_of(file):
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t"))


def partial_file(dataset_dir, label):
    name = f"sub-{label}_task-rest_space-T1w_atlas-fs86_meas-FCpcorrHPF_relmat.tsv"
    return dataset_dir / f"sub-{label}" / "func" / name


def search_file(dataset_dir):
    return dataset_dir / "group" / "atlas-fs86_meas-FCpcorrHPF_desc-lambda_qc.tsv"


def read_json(file):
    return json.loads(file.with_suffix(".json").read_text("utf-8"))


def test_lambda_and_errors_are_those_of_the_command(predicted, by_command, target):
    table, lambda_, _ = by_command
    assert 0 < lambda_ < 1
    rows = rows_of(search_file(predicted))
    assert [row["lambda"] for row in rows] == [row["lambda"] for row in table]
    np.testing.assert_allclose(
        [float(row["error"]) for row in rows], [float(row["error"]) for row in table], rtol=1e-12
    )
    facts = read_json(search_file(predicted))
    assert facts["Regularization"] == lambda_
    assert facts["Target"]["Name"] == "precision.npy"
    assert facts["Target"]["SHA256"] == hashlib.sha256(target.read_bytes()).hexdigest()
    assert (facts["NumberOfMatrices"], facts["LeftOut"]) == (4, ["sub-05"])
    assert facts["IsAtBound"] is False


def test_partial_correlations_are_those_of_the_command(predicted, by_command):
    for label, expected in zip(LABELS, by_command[2], strict=True):
        matrix, _ = read_connectome(partial_file(predicted, label), REGIONS)
        np.testing.assert_array_equal(matrix.astype(np.float32), expected)
        assert np.isnan(matrix[LOST]).all() == (label == "05")


def test_error_is_the_mean_distance_of_the_precisions(predicted, cohort, target):
    goal = np.load(target)
    upper = np.triu_indices(86, 1)
    matrices = [read_connectome(dict(s.connectomes)[CORR])[0] for s in cohort[1][:4]]
    for row in rows_of(search_file(predicted))[1::7]:
        loaded = [np.linalg.inv(m + float(row["lambda"]) * np.eye(86)) for m in matrices]
        distances = [np.linalg.norm((one - goal)[upper]) for one in loaded]
        assert float(row["error"]) == pytest.approx(np.mean(distances), rel=1e-9)


def test_sidecars_say_which_lambda_was_used(predicted, by_command):
    lambda_ = by_command[1]
    made = read_json(partial_file(predicted, "05"))
    assert made["Regularization"] == lambda_
    assert made["MissingNodes"] == [REGIONS[LOST]]
    assert made["NumberOfVolumes"] == 160
    correlation = "sub-05/func/sub-05_task-rest_space-T1w_atlas-fs86_meas-FCcorrHPF_relmat.tsv"
    assert made["Sources"] == [f"bids:connectomes:{correlation}"]
    name = "sub-01/func/sub-01_atlas-fs86_meas-FCcorrHPF_desc-{}_relmat.json"
    sidecar = read_json(predicted / name.format("fusion"))
    assert sidecar["InputRegularization"] == {PARTIAL: lambda_}
    relative = partial_file(predicted, "01").relative_to(predicted)
    assert f"bids::{relative}" in sidecar["Sources"]
    assert read_json(predicted / name.format("fusionSC"))["InputRegularization"] == {}
    assert read_json(predicted / "sub-01/sub-01_latent.tsv")["InputRegularization"] == {
        PARTIAL: lambda_
    }


def settings_with(adaptation):
    translation = TranslationOptions(adaptation=str(adaptation))
    folders = {"bids_dir": Path(), "output_dir": Path(), "work_dir": Path()}
    return Settings(**folders, level="group", translation=translation)


@pytest.fixture(scope="module")
def fitted(predicted):
    return predicted / "group/desc-meanfit+meanshift_adaptation.safetensors"


def test_adaptation_says_its_lambda(fitted, by_command):
    assert read_json(fitted)["provenance"]["pcorr_lambda"] == {PARTIAL: by_command[1]}


def test_partial_correlations_of_another_lambda_are_made_like_those_fitted(
    tmp_path, predicted, fitted, by_command, cohort, bundle
):
    root, sessions = cohort
    assert plan_fitted_lambdas(settings_with("meanfit"), sessions) is None
    plan = plan_fitted_lambdas(settings_with(fitted), sessions)
    assert plan.fitted == (("fs86", by_command[1]),)
    dataset_dir, problems = run(
        sessions, bundle, tmp_path, search=plan, root=root, adaptation=str(fitted)
    )
    assert problems == []
    assert not search_file(dataset_dir).exists()
    for label in LABELS:
        made, before = (partial_file(folder, label) for folder in (dataset_dir, predicted))
        assert made.read_bytes() == before.read_bytes()
    sidecar = read_json(partial_file(dataset_dir, "01"))
    assert sidecar["RegularizationSource"] == f"adaptation {fitted.name}"
    assert "searched on 4 matrices" in read_json(before)["RegularizationSource"]
    again = dataset_dir / "group" / fitted.name
    assert read_json(again)["provenance"]["pcorr_lambda"] == {PARTIAL: by_command[1]}


def test_partial_correlations_of_the_fitted_lambda_stay(predicted, fitted, cohort):
    measured, made = cohort[1][0], partial_file(predicted, "01")
    rows = [(name, made if name == PARTIAL else file) for name, file in measured.connectomes]
    like = replace(measured, connectomes=tuple(rows))
    assert plan_fitted_lambdas(settings_with(fitted), [like]) is None
    plan = plan_fitted_lambdas(settings_with(fitted), [like, cohort[1][1]])
    assert plan.unchanged == (("fs86",), ())
    assert plan.correlations == ((), (("fs86", dict(cohort[1][1].connectomes)[CORR]),))


def test_single_participant_is_adapted_with_the_lambda_fitted(
    tmp_path, predicted, fitted, cohort, bundle, by_command
):
    root, sessions = cohort
    without = replace(
        sessions[1], connectomes=tuple(row for row in sessions[1].connectomes if row[0] != CORR)
    )
    for session, n_problems in ((sessions[0], 0), (without, 1)):
        workflow = init_session_translation_wf(
            sessions=(session,),
            options=TranslationOptions(
                model_dir=bundle.path, model_sha256=bundle.sha256, device="cpu",
                adaptation=str(fitted),
            ),
            dataset_dir=tmp_path / "predictions",
            sources_root=root,
            search=plan_fitted_lambdas(settings_with(fitted), [session]),
        )  # fmt: skip
        workflow.base_dir = str(tmp_path / session.label)
        nodes = {node.name: node for node in workflow.run(plugin="Linear").nodes()}
        problems = read_json(Path(nodes["read"].result.outputs.problems_file))["problems"]
        assert len(problems) == n_problems
    name = "sub-01/func/sub-01_atlas-fs86_meas-FCcorrHPF_desc-fusion_relmat.json"
    found, before = read_json(tmp_path / "predictions" / name), read_json(predicted / name)
    assert (
        found["InputRegularization"] == before["InputRegularization"] == {PARTIAL: by_command[1]}
    )
    table = name.replace(".json", ".tsv")
    np.testing.assert_allclose(
        read_connectome(tmp_path / "predictions" / table)[0],
        read_connectome(predicted / table)[0],
        atol=1e-5,
    )


def test_sessions_with_few_degrees_of_freedom_are_left_out(
    tmp_path, cohort, target, bundle, predicted, by_command
):
    root, sessions = cohort
    short = tmp_path / "sub-04_atlas-fs86_meas-FCcorrHPF_relmat.tsv"
    short.write_bytes(dict(sessions[3].connectomes)[CORR].read_bytes())
    write_json(short.with_suffix(".json"), {"DegreesOfFreedom": 85.0, "MissingNodes": []})
    assert has_few_dof(short)
    write_json(
        short.with_suffix(".json"), {"DegreesOfFreedom": 85.0, "MissingNodes": [REGIONS[0]]}
    )
    assert not has_few_dof(short)
    write_json(short.with_suffix(".json"), {"NumberOfRetainedVolumes": 86})
    assert has_few_dof(short)
    rows = [(name, short if name == CORR else file) for name, file in sessions[3].connectomes]
    changed = (*sessions[:3], replace(sessions[3], connectomes=tuple(rows)), sessions[4])
    settings = replace(
        settings_with("none"),
        regularization=RegularizationOptions(("fs86",), (("fs86", target),)),
    )
    plan = plan_lambda_search(settings, changed)
    assert plan.withheld == ((), (), (), ("fs86",), ())
    dataset_dir, problems = run(changed, bundle, tmp_path, search=plan, root=root)
    assert problems == []
    facts = read_json(search_file(dataset_dir))
    assert (facts["NumberOfMatrices"], facts["FewDegreesOfFreedom"]) == (3, ["sub-04"])
    assert facts["Regularization"] != by_command[1]
    assert not partial_file(dataset_dir, "04").exists()
    name = "sub-04/func/sub-04_atlas-fs86_meas-FCcorrHPF_desc-fusion_relmat.json"
    assert PARTIAL not in read_json(dataset_dir / name)["PredictedFrom"]


def test_model_is_given_the_matrices_made(tmp_path, cohort, target, bundle, by_command):
    root, sessions = cohort
    dataset_dir, _ = run(
        sessions[:4], bundle, tmp_path, search=plan_of(sessions[:4], target), root=root,
        adaptation="none", predict_from=(PARTIAL,), predict_to=(CORR,),
    )  # fmt: skip
    own, _ = read_connectome(partial_file(dataset_dir, "02"))
    made = {PARTIAL: matrix_to_edges(own)[np.newaxis].astype(np.float32)}
    expected = next(iter(Krakencoder(bundle, device="cpu").predict(made, targets=[CORR])))
    found = read_connectome(
        dataset_dir / "sub-02/func/sub-02_atlas-fs86_meas-FCcorrHPF_desc-FCpcorrHPFfs86_relmat.tsv"
    )[0]
    np.testing.assert_allclose(matrix_to_edges(found), expected.edges[0], atol=1e-5)


def test_number_of_sessions_at_a_time_does_not_matter(tmp_path, predicted, cohort, target, bundle):
    root, sessions = cohort
    other, _ = run(
        sessions, bundle, tmp_path, search=plan_of(sessions, target), root=root, batch_size=5
    )
    for first in sorted(predicted.rglob("*FCpcorrHPF_*")):
        if "desc-fusion" not in first.name:
            assert first.read_bytes() == (other / first.relative_to(predicted)).read_bytes()


def test_correlations_of_another_pipeline_keep_their_mark(tmp_path, cohort):
    measured = read_connectome(dict(cohort[1][0].connectomes)[CORR])[0]
    file = tmp_path / "sub-01_task-rest_space-T1w_atlas-fs86_meas-FCcorrHPF_desc-simple_relmat.tsv"
    write_json(file.with_suffix(".json"), {"Denoising": {"Strategy": "simple"}})
    flavor = Flavor.parse(PARTIAL)
    path = partial_path(file, flavor, (("sub", "01"),))
    assert path.name == file.name.replace("FCcorrHPF", "FCpcorrHPF")
    saved = save_partial(
        tmp_path, path, flavor, measured, lambda_=0.1, lambda_source="given",
        correlation_file=file, sources=(),
    )  # fmt: skip
    sidecar = read_json(saved)
    assert sidecar["Denoising"] == {"Strategy": "simple"}
    assert "not the recipe" in sidecar["OffRecipe"]


def test_measured_files_are_left_alone(cohort, predicted):
    root, sessions = cohort
    for session in sessions:
        file = dict(session.connectomes)[PARTIAL]
        assert read_json(file) == {"Regularization": 0.06}
        assert file.read_bytes() != partial_file(predicted, session.participant).read_bytes()
    assert not (root / "group").exists()


def test_nothing_changes_without_a_search(tmp_path, cohort, bundle):
    root, sessions = cohort
    dataset_dir, problems = run(sessions, bundle, tmp_path, root=root)
    assert problems == []
    assert not search_file(dataset_dir).exists()
    assert not partial_file(dataset_dir, "01").exists()
    sidecar = next(dataset_dir.glob("sub-01/func/*desc-fusion_relmat.json"))
    assert read_json(sidecar)["InputRegularization"] == {PARTIAL: 0.06}
    fitted = read_json(dataset_dir / "group/desc-meanfit+meanshift_adaptation.json")
    assert fitted["provenance"]["pcorr_lambda"] == {PARTIAL: 0.06}


def test_sessions_that_cannot_follow_are_told_and_left_out(tmp_path, cohort, target, bundle):
    root, sessions = cohort
    without = [(name, file) for name, file in sessions[1].connectomes if name != CORR]
    damaged = tmp_path / "sub-03_atlas-fs86_meas-FCcorrHPF_relmat.tsv"
    damaged.write_text("region\tA\n")
    replaced = [(name, damaged if name == CORR else f) for name, f in sessions[2].connectomes]
    changed = (
        sessions[0],
        replace(sessions[1], connectomes=tuple(without)),
        replace(sessions[2], connectomes=tuple(replaced)),
        sessions[3],
    )
    dataset_dir, problems = run(
        changed, bundle, tmp_path, search=plan_of(changed, target), root=root
    )
    told = {(row["participant"], row["flavor"]): row["what"] for row in problems}
    assert "cannot be made with the cohort's lambda" in told["02", PARTIAL]
    assert "not a whole labelled matrix" in told["03", PARTIAL]
    assert set(told) == {("02", PARTIAL), ("03", PARTIAL), ("03", CORR)}
    assert read_json(search_file(dataset_dir))["LeftOut"] == ["sub-03"]
    for label in ("02", "03"):
        assert not partial_file(dataset_dir, label).exists()
        sidecar = read_json(
            dataset_dir
            / f"sub-{label}/func/sub-{label}_atlas-fs86_meas-FCcorrHPF_desc-fusion_relmat.tsv"
        )
        assert PARTIAL not in sidecar["PredictedFrom"]


def test_partial_correlations_are_made_where_none_was_measured(tmp_path, cohort, target, bundle):
    root, sessions = cohort
    only = tuple(
        replace(s, connectomes=tuple(row for row in s.connectomes if row[0] != PARTIAL))
        for s in sessions[:4]
    )
    dataset_dir, problems = run(only, bundle, tmp_path, search=plan_of(only, target), root=root)
    assert problems == []
    matrices = [read_connectome(dict(s.connectomes)[CORR])[0] for s in only]
    expected = search_lambda(matrices, np.load(target)).lambda_
    assert read_json(search_file(dataset_dir))["Regularization"] == expected
    assert partial_file(dataset_dir, "01").is_file()
