# SPDX-License-Identifier: MIT
import csv
import json

import pytest

from kraken_bids.bids.trust_table import (
    CONCERNS,
    FITS,
    TRUST_COLUMNS,
    TrustRow,
    describe_concerns,
    save_trust,
)
from kraken_bids.model.trust import MEASURES
from kraken_bids.model.verdicts import RULES

ENTITIES = (("sub", "01"), ("ses", "a"))


@pytest.fixture
def rows():
    usual = {"explained": (0.5, float("inf"), 40), "distance": (0.2, 5.0, 40)}
    good = {"explained": 0.9, "distance": 1.0, "missing_regions": 0, "match": float("nan")}
    bad = {"explained": 0.1, "distance": 9.0, "missing_regions": 3, "match": -1.25}
    concerns = {"unlike": ["explained", "distance"], "disagrees": ["match"]}
    return [TrustRow("FCcorr_fs86_hpf", good, {}, usual),
            TrustRow("SCsdstream_fs86_volnorm", bad, concerns, usual)]  # fmt: skip


def test_concerns_and_measures_all_have_words():
    assert {rule.concern for rule in RULES} == set(CONCERNS)
    assert {rule.measure for rule in RULES} | set(MEASURES) <= set(TRUST_COLUMNS)
    assert describe_concerns(CONCERNS) == ", ".join(row.words for row in CONCERNS.values())


def test_table_has_a_row_a_flavor_and_a_verdict_in_words(tmp_path, rows):
    path, sidecar = save_trust(tmp_path, ENTITIES, rows)
    assert path == tmp_path / "sub-01/ses-a/sub-01_ses-a_desc-trust_qc.tsv"
    with path.open(encoding="utf-8", newline="") as lines:
        first, second = csv.DictReader(lines, delimiter="\t")
    assert first["verdict"] == FITS
    assert (first["reasons"], first["match"]) == ("n/a", "n/a")
    assert second["verdict"] == "unlike the training data, disagrees with the other flavors"
    assert second["reasons"] == "explained, distance, match"
    assert (second["explained"], second["missing_regions"]) == ("0.1", "3")
    assert "agreement" not in first  # nobody measured it
    described = json.loads(sidecar.read_text("utf-8"))
    assert set(first) <= set(described)


def test_sidecar_says_what_verdicts_mean_and_rest_on(tmp_path, rows):
    _, sidecar = save_trust(tmp_path, ENTITIES, rows)
    described = json.loads(sidecar.read_text("utf-8"))
    levels = described["verdict"]["Levels"]
    assert set(levels) == {FITS, *(row.words for row in CONCERNS.values())}
    assert described["NumberOfSessionsJudgedBy"] == 40
    assert described["Usual"]["FCcorr_fs86_hpf"] == {
        "explained": [0.5, "n/a"],
        "distance": [0.2, 5.0],
    }
