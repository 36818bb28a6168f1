# SPDX-License-Identifier: MIT
import json
import os
from pathlib import Path

import numpy as np
import pytest
from nipype.pipeline import engine as pe

from kraken_bids.atlases import load_atlas
from kraken_bids.bids.writers import read_connectome, write_connectome
from kraken_bids.connectome.adaptation import fit_adaptation
from kraken_bids.connectome.edges import edges_to_matrix
from kraken_bids.errors import ModelError, ResourceError, UsageError
from kraken_bids.interfaces.cohort import (
    EvaluateTranslation,
    FitAdaptation,
    PublishTree,
    plain_adaptation,
)
from kraken_bids.interfaces.model_inputs import (
    fitted_adaptation,
    known_targets,
    load_fitted,
    uses_gpu,
)
from kraken_bids.interfaces.sessions import plain_session
from kraken_bids.interfaces.translation import ReadConnectomes, Translate, diagonal
from kraken_bids.model.adaptation_file import save_adaptations
from kraken_bids.model.bundle import write_bundle
from kraken_bids.model.evaluation import evaluate_connectomes
from kraken_bids.model.layers import FlavorModel, Layer
from kraken_bids.model.transforms import Transform
from kraken_bids.model.translation import CohortMeans, adapt_batch, fit_cohort
from kraken_bids.plan import CohortSession

FC, SC = "FCcorr_fs86_hpf", "SCsdstream_fs86_volnorm"
REGIONS = load_atlas("fs86").region_names
N_EDGES = 3655


@pytest.fixture
def rng():
    return np.random.default_rng(11)


@pytest.fixture
def bundle(tmp_path, rng):
    """A model with centred edges in place of a PCA: its predictions fill all edges."""

    def draw(*shape):
        return rng.normal(size=shape, scale=0.1).astype(np.float32)

    flavors = {
        name: FlavorModel(
            N_EDGES,
            Transform("cfeat", {"mean": draw(N_EDGES) + np.float32(1)}),
            (Layer(draw(6, N_EDGES), draw(6), ("normalize",)),),
            (Layer(draw(N_EDGES, 6), draw(N_EDGES)),),
        )
        for name in (FC, SC)
    }
    return write_bundle(tmp_path / "model", flavors=flavors, latent_size=6, provenance={})


@pytest.fixture
def raw(rng):
    return {name: rng.uniform(0, 2, (4, N_EDGES)) for name in (FC, SC)}


@pytest.fixture
def sessions(tmp_path, raw):
    rows = []
    for row in range(4):
        files = []
        for name, edges in raw.items():
            path = tmp_path / "out" / f"sub-{row}_{name}.tsv"
            write_connectome(path, edges_to_matrix(edges[row]), REGIONS)
            files.append((name, path))
        rows.append(CohortSession(str(row), None, tuple(files)))
    return rows


def run(interface, tmp_path, name, bundle, **inputs):
    """Run an interface in a folder of its own."""
    folder = tmp_path / name
    folder.mkdir()
    model = {
        "model_dir": str(bundle.path),
        "model_sha256": bundle.sha256,
        "fusions": [["fusion", ["all"]]],
        "cohort_flavors": [FC, SC],
    }
    return interface(**model, **inputs).run(cwd=str(folder)).outputs


def read(tmp_path, bundle, sessions):
    outputs = run(
        ReadConnectomes, tmp_path, "read", bundle, sessions=[plain_session(s) for s in sessions]
    )
    with np.load(outputs.edges_file) as stored:
        edges = {name: stored[name] for name in stored.files}
    return edges, json.loads(Path(outputs.problems_file).read_text("utf-8"))["problems"], outputs


def test_connectomes_are_read_in_the_order_of_the_sessions(tmp_path, bundle, sessions, raw):
    edges, problems, _ = read(tmp_path, bundle, sessions)
    assert problems == []
    np.testing.assert_allclose(edges[SC], raw[SC], rtol=1e-6)


def _other_regions(path):
    write_connectome(path, np.ones((86, 86)), [*REGIONS[1:], REGIONS[0]])


def _infinite(path):
    write_connectome(path, np.full((86, 86), np.inf), REGIONS)


def _empty(path):
    write_connectome(path, np.full((86, 86), np.nan), REGIONS)


def _asymmetric(path):
    matrix = np.ones((86, 86))
    matrix[0, 1] = 2
    write_connectome(path, matrix, REGIONS)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "cannot be read"),
        (lambda path: path.write_text(path.read_text()[:1000]), "not a whole labelled matrix"),
        (_other_regions, "not those of the atlas"),
        (_infinite, "holds infinite edges"),
        (_empty, "holds no edge at all"),
        (_asymmetric, "is not symmetric"),
    ],
    ids=["missing", "cut short", "other atlas", "infinite", "empty", "asymmetric"],
)
def test_unusable_file_is_a_problem_of_its_session_only(
    tmp_path, bundle, sessions, damage, message
):
    path = dict(sessions[2].connectomes)[SC]
    damage(path)
    edges, problems, _ = read(tmp_path, bundle, sessions)
    assert [(p["participant"], p["flavor"], p["where"]) for p in problems] == [
        ("2", SC, str(path))
    ]
    assert message in problems[0]["what"]
    assert problems[0]["fix"]
    assert list(np.isnan(edges[SC]).all(axis=1)) == [False, False, True, False]
    assert not np.isnan(edges[FC]).any()


def test_plain_session_changes_with_its_files(sessions):
    before = plain_session(sessions[0])
    path = Path(before["files"][0])
    os.utime(path, ns=(1, 1))
    assert plain_session(sessions[0]) != before


def test_whole_cohort_through_a_model_without_components(tmp_path, bundle, sessions):
    _, _, outputs = read(tmp_path, bundle, sessions)
    batches = [[plain_session(session) for session in sessions]]
    fit = run(
        FitAdaptation,
        tmp_path,
        "fit",
        bundle,
        sessions=batches,
        edges_files=[outputs.edges_file],
        adaptation="none",
    )
    translated = run(
        Translate,
        tmp_path,
        "translate",
        bundle,
        sessions=batches[0],
        edges_file=outputs.edges_file,
        means_file=fit.means_file,
    )
    evaluated = run(
        EvaluateTranslation,
        tmp_path,
        "evaluate",
        bundle,
        sessions=batches,
        sums_files=[translated.sums_file],
        problems_files=[outputs.problems_file],
        means_file=fit.means_file,
    )
    lines = (Path(evaluated.out_dir) / "group/desc-kraken_qc.tsv").read_text().splitlines()
    header, *rows = [line.split("\t") for line in lines]
    row = dict(zip(header, rows[0], strict=True))
    predicted = [
        read_connectome(
            Path(translated.out_dir)
            / f"sub-{n}/func/sub-{n}_atlas-fs86_meas-FCcorrHPF_desc-fusion_relmat.tsv"
        )[0][np.triu_indices(86, 1)]
        for n in range(4)
    ]
    with np.load(outputs.edges_file) as stored:
        expected = evaluate_connectomes(stored[FC], np.stack(predicted))
    assert (row["source"], row["target"]) == ("fusion", FC)
    assert float(row["correlation"]) == pytest.approx(expected.correlation, abs=1e-5)
    assert float(row["residual_correlation"]) == pytest.approx(
        expected.residual_correlation, abs=1e-5
    )


def test_flavor_of_one_participant_cannot_be_adapted_and_is_left_out(bundle, raw, caplog):
    raw[SC][1:] = np.nan
    means = CohortMeans()
    means.add(raw, ["a", "b", "c", "d"], [""] * 4)
    adaptations = fit_cohort(means, bundle, "meanshift")
    assert list(adaptations) == [FC]
    assert f"{SC} is left out: one participant only" in caplog.text
    adapted = adapt_batch(raw, bundle, adaptations=adaptations)
    assert np.isnan(adapted.edges[SC]).all()


def test_sessions_of_one_participant_are_no_cohort(bundle, raw):
    means = CohortMeans()
    means.add(raw, ["a"] * 4, [""] * 4)
    with pytest.raises(ModelError, match="fitted on one participant"):
        fit_cohort(means, bundle, "meanfit+meanshift")


def test_site_of_one_participant_is_refused(bundle, raw):
    means = CohortMeans()
    means.add(raw, ["a", "b", "c", "d"], ["x", "x", "x", "y"])
    with pytest.raises(ModelError, match=r"site 'y' has one participant.*--adapt-by"):
        fit_cohort(means, bundle, "meanshift")


@pytest.mark.parametrize("mode", ["none", "meanfit", "meanshift", "meanfit+meanshift"])
def test_mean_after_adaptation_is_that_of_the_adapted_edges(bundle, raw, mode):
    raw[SC][1, :85] = np.nan  # a region that one participant lacks
    raw[SC][:, 100] = np.nan  # an edge that nobody has
    sites = ["x", "y", "x", "y"]
    means = CohortMeans()
    means.add({name: edges[:3] for name, edges in raw.items()}, ["a", "b", "c"], sites[:3])
    means.add({name: edges[3:] for name, edges in raw.items()}, ["d"], sites[3:])
    adaptations = None if mode == "none" else fit_cohort(means, bundle, mode)
    adapted = adapt_batch(raw, bundle, adaptations=adaptations, sites=sites)
    assert list(adapted.n_filled[SC]) == [1, 86, 1, 1]
    np.testing.assert_allclose(
        means.adapted_mean(SC, adaptations, bundle.training_mean(SC)),
        adapted.edges[SC].mean(axis=0, dtype=np.float64),
        atol=1e-6,
    )


@pytest.fixture
def fitted_file(tmp_path, bundle, raw):
    path = tmp_path / "fitted.safetensors"
    fit = fit_adaptation(
        "meanfit", raw[FC].mean(axis=0), bundle.training_mean(FC), n_participants=4
    )
    save_adaptations(path, {FC: fit}, provenance={"model_sha256": bundle.sha256})
    return path


def test_fitted_file_of_other_flavors_is_refused(fitted_file, bundle, raw):
    means = CohortMeans()
    means.add({SC: raw[SC]}, list("abcd"), [""] * 4)
    with pytest.raises(ModelError, match=f"has {FC}, but none of the cohort's {SC}"):
        load_fitted(fitted_file, bundle, means)


def test_fitted_file_says_which_flavors_it_lacks(fitted_file, bundle, raw, caplog):
    means = CohortMeans()
    means.add(raw, list("abcd"), [""] * 4)
    assert list(load_fitted(fitted_file, bundle, means)) == [FC]
    assert f"lacks them: {SC}" in caplog.text


def test_file_that_is_no_adaptation_is_refused(tmp_path, bundle):
    path = tmp_path / "some.safetensors"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ResourceError, match="is no fitted adaptation"):
        load_fitted(path, bundle)


def test_adaptation_is_a_mode_or_a_file():
    assert plain_adaptation("meanfit") == {"adaptation": "meanfit"}
    assert plain_adaptation("a.safetensors") == {
        "adaptation": "file",
        "fitted_file": "a.safetensors",
    }
    assert fitted_adaptation("none") == {}
    assert fitted_adaptation("a.safetensors") == {"adaptation_file": "a.safetensors"}
    with pytest.raises(UsageError, match="is fitted on a cohort"):
        fitted_adaptation("meanshift")


def test_targets_of_unknown_atlases_are_left_out_and_said(caplog):
    assert known_targets([FC, "SCifod2act_cc200_count", "else"]) == [FC]
    assert "SCifod2act_cc200_count is not predicted" in caplog.text


@pytest.mark.parametrize(("flavor", "value"), [(FC, 1.0), ("FCpcorr_fs86_hpf", 0.0), (SC, 0.0)])
def test_diagonal_is_one_for_correlations_only(flavor, value):
    assert diagonal(flavor) == value


@pytest.mark.parametrize(("device", "expected"), [("cpu", False), ("cuda:0", True)])
def test_translation_counts_against_gpu_slots_on_a_gpu(device, expected):
    node = pe.Node(Translate(use_gpu=uses_gpu(device)), name="translate")
    assert node.is_gpu_node() is expected


def test_published_files_replace_those_before(tmp_path):
    tree = tmp_path / "tree"
    (tree / "sub-1" / "func").mkdir(parents=True)
    (tree / "sub-1" / "func" / "a.tsv").write_text("new")
    target = tmp_path / "out" / "sub-1" / "func" / "a.tsv"
    target.parent.mkdir(parents=True)
    target.write_text("old")
    outputs = PublishTree(in_dir=str(tree), out_dir=str(tmp_path / "out")).run().outputs
    assert outputs.out_files == [str(target)]
    assert target.read_text() == "new"
    assert [path.name for path in target.parent.iterdir()] == ["a.tsv"]


def test_publishing_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a.tsv").write_text("new")
    target = tmp_path / "out" / "a.tsv"
    target.parent.mkdir()
    target.write_text("old")

    def full_disk(source, place):
        Path(place).write_text("n")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full_disk)
    with pytest.raises(ResourceError, match="No space left on device"):
        PublishTree(in_dir=str(tree), out_dir=str(tmp_path / "out")).run()
    assert target.read_text() == "old"
    assert [path.name for path in target.parent.iterdir()] == ["a.tsv"]
