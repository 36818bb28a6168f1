# SPDX-License-Identifier: MIT
"""Tables of the group level: how good predictions are, and what each participant brought."""

import json

import numpy as np
import pytest

from kraken_bids.bids.writers import read_connectome
from kraken_bids.connectome.edges import matrix_to_edges
from kraken_bids.model.evaluation import evaluate_connectomes
from tests.workflows.cohort import FC, FLAVORS, SC, prediction, table


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
