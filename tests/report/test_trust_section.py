# SPDX-License-Identifier: MIT
"""What the pages say of whether predictions can be trusted."""

import pytest

from kraken_bids.bids.trust_table import TrustRow, save_trust
from kraken_bids.errors import UsageError
from kraken_bids.report.canvas import encode_png
from kraken_bids.report.found import FoundSession
from kraken_bids.report.pages import build_group_page, build_participant_page
from kraken_bids.report.trust_section import (
    FEWEST_SESSIONS,
    basis_words,
    doubt_grid,
    draw_trust,
    find_trust,
    flavor_grid,
    session_grid,
    session_trust,
    session_warnings,
    trust_warnings,
)

FLAVORS = ("FCcorr_fs86_hpf", "SCsdstream_fs86_volnorm")


def save(root, label, *, concerns=None, match=2.0, n_sessions=30, session=None):
    """Write a session's table; the concerns are those of its structural flavor."""
    values = {"explained": 0.8, "distance": 1.1, "agreement": 0.7, "modality_match": match}
    usual = {"explained": (0.4, float("inf"), n_sessions)}
    rows = [TrustRow(name, values, (concerns or {}) if name == FLAVORS[1] else {}, usual)
            for name in FLAVORS]  # fmt: skip
    save_trust(root, [("sub", label), *([("ses", session)] if session else [])], rows)


@pytest.fixture
def dataset(tmp_path):
    for number in range(FEWEST_SESSIONS):
        save(tmp_path, f"{number:02d}")
    save(tmp_path, "90", concerns={"unlike": ["scale", "distance"]}, session="a")
    save(tmp_path, "91", concerns={"disagrees": ["match"], "filled": ["filled_share"]})
    return tmp_path


def test_sessions_that_do_not_fit_are_told_by_concern(dataset):
    found = find_trust(dataset)
    assert len(found) == FEWEST_SESSIONS + 2
    unlike, disagrees, filled = trust_warnings(found)
    assert unlike.what.endswith("unlike the training data")
    assert unlike.names == (f"sub-90_ses-a ({FLAVORS[1]})",)
    assert disagrees.names == filled.names == (f"sub-91 ({FLAVORS[1]})",)
    assert all(notice.meaning and notice.advice for notice in (unlike, disagrees, filled))


def test_flavors_are_counted_and_doubts_listed(dataset):
    found = find_trust(dataset)
    rows = [[cell.text for cell in row] for row in flavor_grid(found).rows]
    assert rows[0][:6] == [FLAVORS[0], "22", "22", "0", "0", "0"]
    assert rows[1][:6] == [FLAVORS[1], "22", "20", "1", "1", "1"]
    doubts = [[cell.text for cell in row] for row in doubt_grid(found).rows]
    assert [row[0] for row in doubts] == ["sub-90_ses-a", "sub-91"]
    assert doubts[0][3] == "scale, distance"


def test_cohort_whose_modalities_are_of_strangers_is_told(tmp_path):
    for number in range(FEWEST_SESSIONS):
        save(tmp_path, f"{number:02d}", match=0.1)
    (notice,) = trust_warnings(find_trust(tmp_path))
    assert "no better than those of strangers" in notice.what


def test_basis_says_whether_sessions_are_judged_by_each_other(dataset, tmp_path):
    assert "30 sessions" in basis_words(find_trust(dataset))
    save(tmp_path / "few", "01", n_sessions=0)
    assert "bounds that hold for any cohort" in basis_words(find_trust(tmp_path / "few"))


def test_session_has_its_own_table_and_warnings(dataset):
    found = session_trust(dataset, FoundSession("90", "a"))
    (notice,) = session_warnings(found, prefix="demo: ")
    assert (
        notice.what == "demo: verdict on 1 connectome: unlike the training data (distance, scale)"
    )
    assert notice.names == (FLAVORS[1],)
    grid = session_grid(found)
    assert grid.columns == ("flavor", "verdict", "reasons", "explained", "distance", "agreement")
    assert dict(grid.meanings)["distance"]
    assert session_trust(dataset, FoundSession("90", None)) is None


def test_damaged_table_is_left_out(dataset):
    (dataset / "sub-00" / "sub-00_desc-trust_qc.tsv").write_bytes(b"\xff\xfe\x00")
    (dataset / "sub-01" / "sub-01_desc-trust_qc.tsv").write_text("x\ty\n1\t2\n")
    (dataset / "sub-02" / "sub-02_desc-trust_qc.json").write_text("[1]")
    found = find_trust(dataset)
    assert len(found) == FEWEST_SESSIONS
    assert list(trust_warnings(found))


def test_figure_is_small_and_the_same_each_time(dataset):
    rows = [row for one in find_trust(dataset) for row in one.rows]
    sheets = [encode_png(draw_trust(rows)) for _ in range(2)]
    assert len(sheets[0]) < 90_000
    assert sheets[0] == sheets[1]
    with pytest.raises(UsageError, match="no connectome to draw"):
        draw_trust([])


def test_both_pages_show_it(cohort, tmp_path):
    output_dir, dataset_dir = cohort
    page = build_group_page(dataset_dir, output_dir)
    assert "There are no tables of trust" in page
    assert "There is no table of trust yet" in build_participant_page(output_dir, "01")
    file = dataset_dir / "sub-01" / "sub-01_desc-trust_qc.tsv"
    try:
        save(dataset_dir, "01", concerns={"disagrees": ["match"]})
        page = build_group_page(dataset_dir, output_dir)
        assert "1 of 1 session with connectomes that the model should not be trusted with" in page
        own = build_participant_page(output_dir, "01")
        assert (
            "krakencoder-default: verdict on 1 connectome: disagrees with the other flavors" in own
        )
    finally:
        file.unlink(missing_ok=True)
        file.with_suffix(".json").unlink(missing_ok=True)
