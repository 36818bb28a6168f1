# SPDX-License-Identifier: MIT
from __future__ import annotations

from pathlib import Path

from kraken_bids.flavors import Flavor
from kraken_bids.report.found import FoundMatrix, FoundSession
from kraken_bids.report.group_page import _label_origins


def session(participant, origin):
    flavor = Flavor.parse("FCcorr_coco439_hpf")
    matrix = FoundMatrix(flavor, Path("a.tsv"), {}, {"LabelOrigin": origin})
    return FoundSession(participant, None, measured=(matrix,)), FoundSession(participant, None)


def test_own_and_group_labels_side_by_side_are_told():
    (notice,) = _label_origins([
        session("01", "participant"), session("02", "group"), session("03", "participant"),
    ])  # fmt: skip
    assert "own in 2 sessions and the group's in 1 session" in notice.what
    assert notice.names == ("sub-02",)


def test_labels_of_one_kind_are_no_news():
    assert not list(_label_origins([session("01", "group"), session("02", "group")]))
