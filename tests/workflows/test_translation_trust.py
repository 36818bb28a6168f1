# SPDX-License-Identifier: MIT
"""Whether connectomes can be trusted, judged by a cohort some of whom are corrupted."""

import json

import numpy as np
import pytest

from tests.workflows.cohort import FC, FLAVORS, SC, table, trust


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
