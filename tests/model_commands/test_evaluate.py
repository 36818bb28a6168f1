# SPDX-License-Identifier: MIT
"""``kraken-model evaluate``: against the reference program's metrics, and on a toy model."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kraken_bids.model.bundle import convert_checkpoint, write_bundle
from kraken_bids.model.evaluation import evaluate_connectomes
from kraken_bids.model.krakencoder import Krakencoder
from kraken_bids.model.layers import FlavorModel, Layer
from kraken_bids.model.metrics import METRICS
from kraken_bids.model.transforms import Transform
from kraken_bids.model_commands.cli import main

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
GOLDEN_FUSIONS = ("fusion=all", "fusionSC=SC", "fusionFC=FC")
SC, FC = "SCsdstream_toy_count", "FCcorr_toy_hpf"
IDS = [f"p{i:02}" for i in range(25)]


def read_table(path):
    with path.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def by_pair(rows):
    return {(row["source"], row["target"]): row for row in rows}


@pytest.fixture(scope="module")
def golden_run(tmp_path_factory):
    """Output folders by residual mean, of the reference program's case."""
    folder = tmp_path_factory.mktemp("golden")
    bundle = convert_checkpoint(
        [GOLDEN / "model" / "mini.pt"], [GOLDEN / "model" / "mini_ioxfm.npy"], folder / "model"
    )
    inputs = [
        f"{file.stem}={file}"
        for file in sorted((GOLDEN / "inputs").iterdir())
        if file.stem.startswith(("FC", "SC"))
    ]
    outputs = {}
    for mean in ("cohort", "training"):
        outputs[mean] = folder / mean
        code = main([
            "evaluate", "--model", str(bundle.path), "--input", *inputs,
            "--fusion", *GOLDEN_FUSIONS, "--adaptation", "meanfit+meanshift",
            "--residual-mean", mean, "--permutations", "0", "--device", "cpu",
            "--output", str(outputs[mean]),
        ])  # fmt: skip
        assert code == 0
    return outputs


@pytest.fixture(scope="module")
def golden_metrics():
    with np.load(GOLDEN / "cases" / "allpaths_metrics.npz") as stored:
        return dict(stored)


def compared():
    for metric in METRICS:
        if metric.reference:
            yield pytest.param("training", metric.name, metric.reference, id=metric.name)
    yield pytest.param(
        "cohort", "residual_correlation", "avgcorr_resid_cohort_OrigScale_val", id="cohort's mean"
    )


@pytest.mark.parametrize(("mean", "name", "field"), compared())
def test_metrics_are_the_reference_programs(golden_run, golden_metrics, mean, name, field):
    rows = by_pair(read_table(golden_run[mean] / "desc-kraken_metrics.tsv"))
    pairs = [tuple(path.split("->")) for path in golden_metrics["paths"].tolist()]
    assert set(rows) == set(pairs)
    found = [float(rows[pair][name]) for pair in pairs]
    # Six digits are written.
    np.testing.assert_allclose(found, golden_metrics[field], atol=2e-6)


def test_participants_are_told_apart_as_by_the_reference_program(golden_run, golden_metrics):
    rows = read_table(golden_run["training"] / "desc-kraken_identification.tsv")
    pairs = [tuple(path.split("->")) for path in golden_metrics["paths"].tolist()]
    for column, field in (
        ("correlation", "avgcorr_allsubj_OrigScale_val"),
        ("residual_correlation", "avgcorr_resid_allsubj_OrigScale_val"),
        ("rank", "corrlossRank_allsubj_OrigScale_val"),
    ):
        found: dict = {pair: [] for pair in pairs}
        for row in rows:
            found[row["source"], row["target"]].append(float(row[column]))
        values = np.array([found[pair] for pair in pairs])
        values = 1 - values / 12 if column == "rank" else values
        np.testing.assert_allclose(values, golden_metrics[field], atol=3e-6)


def test_best_match_is_the_own_one_where_it_ranks_first(golden_run):
    for row in read_table(golden_run["cohort"] / "desc-kraken_identification.tsv"):
        is_own = row["best_participant"] == row["participant_id"]
        assert is_own == (float(row["rank"]) == 0)
        assert float(row["best_correlation"]) >= float(row["correlation"])


def test_matrices_hold_the_metrics_and_their_averages(golden_run):
    rows = by_pair(read_table(golden_run["cohort"] / "desc-kraken_metrics.tsv"))
    for metric in METRICS:
        for line in read_table(golden_run["cohort"] / "matrices" / f"{metric.name}.tsv"):
            source, average = line.pop("source"), float(line.pop("average"))
            assert line == {
                target: row[metric.name] for (s, target), row in rows.items() if s == source
            }
            assert average == pytest.approx(np.mean([float(v) for v in line.values()]), rel=1e-5)


def test_every_column_is_described(golden_run):
    for name in ("desc-kraken_metrics", "desc-kraken_identification"):
        described = json.loads((golden_run["cohort"] / f"{name}.json").read_text("utf-8"))
        (first, *_) = read_table(golden_run["cohort"] / f"{name}.tsv")
        assert all(described[column]["Description"] for column in first)


def test_facts_of_the_run_are_kept(golden_run):
    facts = json.loads((golden_run["training"] / "desc-kraken_metrics.json").read_text("utf-8"))
    assert facts["ResidualMean"] == "training"
    assert facts["Adaptation"] == "meanfit+meanshift"
    assert facts["Fusions"]["fusionSC"] == ["SCifod2act_fs86_volnorm", "SCsdstream_fs86_volnorm"]
    fit = facts["AdaptationFits"]["SCifod2act_fs86_volnorm"]
    assert (fit["slope"], fit["n_participants"]) == (pytest.approx(0.556, abs=5e-4), 12)


def test_heat_map_is_drawn(golden_run):
    with Image.open(golden_run["cohort"] / "heatmap.png") as image:
        assert min(image.size) > 500


def make_flavor(rng, kind):
    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    transform = Transform(kind, {"mean": draw(6)} if kind == "cfeat" else {})
    return FlavorModel(
        6,
        transform,
        (Layer(draw(3, 6), draw(3), ("normalize",)),),
        (Layer(draw(6, 3), draw(6)),),
    )


@pytest.fixture
def model_dir(tmp_path, rng):
    """A model whose transforms are no PCA; that of FC keeps no training mean."""
    flavors = {SC: make_flavor(rng, "cfeat"), FC: make_flavor(rng, "none")}
    return write_bundle(tmp_path / "model", flavors=flavors, latent_size=3, provenance={}).path


@pytest.fixture
def edges(rng):
    return {flavor: rng.normal(size=(25, 6)).astype(np.float32) for flavor in (SC, FC)}


@pytest.fixture
def inputs(tmp_path, edges):
    """``--input`` arguments; the second file lists its participants backwards, without two."""
    files = []
    for flavor, order in ((SC, slice(None)), (FC, slice(None, 1, -1))):
        file = tmp_path / f"{flavor}.npz"
        np.savez(file, data=edges[flavor][order], subjects=IDS[order])
        files.append(f"{flavor}={file}")
    return files


@pytest.fixture
def evaluate(model_dir, inputs, tmp_path):
    """Run ``evaluate``; give its exit code and output folder."""

    def run(*arguments, inputs=inputs):
        out_dir = tmp_path / "out"
        code = main(
            ["evaluate", "--model", str(model_dir), "--input", *inputs, "--device", "cpu",
             "--output", str(out_dir), *arguments]
        )  # fmt: skip
        return code, out_dir

    return run


def test_other_transforms_and_missing_participants_are_compared(evaluate, model_dir, edges):
    code, out_dir = evaluate("--fusion", "both=all", "--permutations", "50")
    assert code == 0
    rows = by_pair(read_table(out_dir / "desc-kraken_metrics.tsv"))
    assert {pair: row["n_participants"] for pair, row in rows.items()} == {
        (SC, SC): "25", (FC, SC): "23", ("both", SC): "25",
        (SC, FC): "23", (FC, FC): "23", ("both", FC): "23",
    }  # fmt: skip
    model = Krakencoder.from_pretrained(model_dir, device="cpu")
    for source, target, kept in ((SC, SC, slice(0, None)), (SC, FC, slice(2, None))):
        latent = model.encode({source: edges[source][kept]})[source]
        predicted = model.decode(latent, [target])[target]
        expected = evaluate_connectomes(edges[target][kept], predicted, n_permutations=50)
        row = rows[source, target]
        for column, value in (
            ("correlation", expected.correlation),
            ("residual_correlation", expected.residual_correlation),
            ("top1", expected.top1),
            ("top_n", expected.top_n),
            ("average_rank", expected.average_rank),
            ("average_rank_chance", expected.average_rank_chance),
            ("p_permutation", expected.p_permutation),
        ):
            assert float(row[column]) == pytest.approx(value, abs=2e-6), column


def test_chosen_participants_alone_are_compared(evaluate, tmp_path, model_dir, edges):
    (tmp_path / "test.txt").write_text("\n".join(IDS[20:]), encoding="utf-8")
    code, out_dir = evaluate("--evaluate-on", str(tmp_path / "test.txt"), IDS[3])
    assert code == 0
    rows = read_table(out_dir / "desc-kraken_identification.tsv")
    assert {row["participant_id"] for row in rows} == {f"sub-{i}" for i in (IDS[3], *IDS[20:])}
    kept = [3, *range(20, 25)]
    model = Krakencoder.from_pretrained(model_dir, device="cpu")
    predicted = model.decode(model.encode({SC: edges[SC][kept]})[SC], [SC])[SC]
    expected = evaluate_connectomes(edges[SC][kept], predicted)
    row = by_pair(read_table(out_dir / "desc-kraken_metrics.tsv"))[SC, SC]
    assert float(row["residual_correlation"]) == pytest.approx(
        expected.residual_correlation, abs=2e-6
    )
    assert float(row["average_rank"]) == pytest.approx(expected.average_rank, abs=2e-6)


def test_sources_targets_and_guesses_are_chosen(evaluate):
    code, out_dir = evaluate(
        "--fusion", "both=all", "--predict-from", "both", "--fusion-variants", "noself",
        "--predict-to", FC, "--n-best", "5", "--permutations", "0",
    )  # fmt: skip
    assert code == 0
    rows = by_pair(read_table(out_dir / "desc-kraken_metrics.tsv"))
    assert set(rows) == {("both", FC), ("both.noself", FC)}
    assert rows["both.noself", FC]["members"] == SC
    assert rows["both", FC]["p_permutation"] == "n/a"
    assert float(rows["both", FC]["top_n_chance"]) == pytest.approx(5 / 23, abs=1e-6)
    facts = json.loads((out_dir / "desc-kraken_metrics.json").read_text("utf-8"))
    assert "among the 5 that" in facts["top_n"]["Description"]


def test_latents_are_a_source(evaluate, tmp_path, rng, inputs):
    file = tmp_path / "latents.npz"
    np.savez(file, data=rng.normal(size=(25, 3)).astype(np.float32), subjects=IDS)
    code, out_dir = evaluate(inputs=[inputs[0], f"encoded={file}"])
    assert code == 0
    rows = by_pair(read_table(out_dir / "desc-kraken_metrics.tsv"))
    assert set(rows) == {(SC, SC), ("encoded", SC)}


def test_a_second_run_replaces_the_files_of_the_first(evaluate):
    _, out_dir = evaluate("--permutations", "0")
    (out_dir / "notes.txt").write_text("mine", encoding="utf-8")
    before = sorted(path.name for path in out_dir.iterdir())
    code, _ = evaluate("--permutations", "0", "--predict-to", FC)
    assert code == 0
    assert sorted(path.name for path in out_dir.iterdir()) == before
    rows = read_table(out_dir / "desc-kraken_metrics.tsv")
    assert {row["target"] for row in rows} == {FC}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--n-best", "0", "--permutations", "-1"], ["--n-best", "--permutations"]),
        (["--predict-to", "encoded"], ["'encoded' is no flavor"]),
        (["--predict-to", "FCcorr_toy_hpfgsr"], ["names no flavor"]),
        (["--residual-mean", "training"], ["keeps no training mean of FCcorr_toy_hpf"]),
        (["--evaluate-on", "nobody", "p03"], ["nobody", "--evaluate-on"]),
        (["--fusion-variants", "noself"], ["there is no fusion"]),
    ],
    ids=["numbers", "latents", "unknown target", "no training mean", "unknown id", "no fusion"],
)
def test_what_cannot_be_is_refused_before_anything_is_written(evaluate, capsys, arguments, said):
    code, out_dir = evaluate(*arguments)
    message = capsys.readouterr().err
    assert code in {2, 3}
    for text in said:
        assert text in message
    assert not out_dir.exists()


def test_targets_that_were_not_measured_are_refused(evaluate, inputs, capsys):
    code, _ = evaluate("--predict-to", FC, inputs=inputs[:1])
    assert code == 2
    assert f"{FC} cannot be compared" in capsys.readouterr().err


def test_latents_alone_are_refused(evaluate, tmp_path, rng, capsys):
    file = tmp_path / "latents.npz"
    np.savez(file, data=rng.normal(size=(25, 3)).astype(np.float32), subjects=IDS)
    code, _ = evaluate(inputs=[f"encoded={file}"])
    assert code == 2
    assert "no measured flavor" in capsys.readouterr().err


def test_all_problems_are_told_at_once(evaluate, capsys, tmp_path):
    code, _ = evaluate("--n-best", "0", "--predict-to", "FCcorr", "--fusion", "x=nothing")
    message = capsys.readouterr().err
    assert code == 2
    assert "--n-best" in message
    assert "'nothing' names no flavor" in message
