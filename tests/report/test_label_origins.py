# SPDX-License-Identifier: MIT
from __future__ import annotations

from pathlib import Path

from kraken_bids.flavors import Flavor
from kraken_bids.report.cohort_summary import CohortSummary
from kraken_bids.report.found import FoundMatrix, FoundSession


def session(participant, origin):
    flavor = Flavor.parse("FCcorr_coco439_hpf")
    matrix = FoundMatrix(flavor, Path("a.tsv"), {}, {"LabelOrigin": origin})
    return FoundSession(participant, None, measured=(matrix,)), FoundSession(participant, None)


def label_warnings(*sessions):
    summary = CohortSummary(Path("a"), Path("a"))
    for measured, made in sessions:
        summary.add(measured, made)
    return [notice for notice in summary.warnings() if "coco439" in notice.what]


def test_own_and_group_labels_side_by_side_are_told():
    (notice,) = label_warnings(
        session("01", "participant"), session("02", "group"), session("03", "participant")
    )
    assert "own in 2 sessions and the group's in 1 session" in notice.what
    assert notice.names == ("sub-02",)


def test_labels_of_one_kind_are_no_news():
    assert not label_warnings(session("01", "group"), session("02", "group"))
