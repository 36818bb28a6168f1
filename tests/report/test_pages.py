# SPDX-License-Identifier: MIT
"""Pages: the numbers, the warnings, safe text, no outside request."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from kraken_bids.atlases import load_atlas
from kraken_bids.report.anchors import ANCHORS, beyond
from kraken_bids.report.found import read_session
from kraken_bids.report.matrices import edge_correlation
from kraken_bids.report.pages import (
    build_group_page,
    build_participant_page,
    write_group_page,
    write_participant_page,
)

MISSING, FLAVORS = 7, 6  # as in the data sets of conftest.py
MEASURED = ("FCcorr_fs86_hpf", "FCcorr_fs86_hpfgsr", "FCpcorr_fs86_hpf")
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Tables, pictures, links and text of a page; fails on tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.pictures, self.links, self.ids, self.words = [], [], [], [], []
        self._open = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            self.tables[-1][-1].append("")
        elif tag == "img":
            self.pictures.append(attrs)
        if "href" in attrs:
            self.links.append(attrs["href"])
        if "id" in attrs:
            self.ids.append(attrs["id"])

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if self._open and {"td", "th"} & set(self._open):
            self.tables[-1][-1][-1] += data

    def table(self, first_column):
        return next(table for table in self.tables if table[0][0] == first_column)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def participant_page(cohort):
    return build_participant_page(cohort[0], "01")


@pytest.fixture(scope="module")
def group_page(cohort):
    return build_group_page(cohort[1], cohort[0])


@pytest.fixture(params=["participant", "group"])
def page(request, participant_page, group_page):
    return {"participant": participant_page, "group": group_page}[request.param]


def test_pages_need_no_other_file_and_no_network(page):
    found = Page(page)
    assert not re.search(r"(?:src|href|url|action)\s*[=(]\s*[\"']?\s*(?:https?:)?//", page)
    assert found.pictures
    assert all(picture["src"].startswith("data:image/png;base64,") for picture in found.pictures)
    assert len(page) < 2_000_000


def test_the_only_script_is_the_one_that_the_page_allows(page):
    (script,) = re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{digest}'" in policy
    assert "<script" not in page.replace(f"<script>{script}</script>", "")
    assert not re.search(r"\son[a-z]+\s*=", page.replace(script, ""))


def test_pictures_have_words_and_a_size(page):
    for picture in Page(page).pictures:
        assert len(picture["alt"]) > 10
        content = base64.b64decode(picture["src"].partition(",")[2])
        assert len(content) <= 260_000
        assert int(picture["width"]) > 100


def test_links_inside_the_page_lead_somewhere(page):
    found = Page(page)
    inner = [link[1:] for link in found.links if link.startswith("#")]
    assert inner
    assert set(inner) <= set(found.ids)


def test_participant_page_holds_the_numbers_of_quality(participant_page):
    found = Page(participant_page)
    rows = [row for table in found.tables for row in table]
    assert ["fd_mean_mm", "0.731", "meaning of fd_mean_mm", ANCHORS["fd_mean_mm"]] in rows
    assert ["n_volumes", "120", "meaning of n_volumes", ""] in rows
    assert ["n_b0", "3", "meaning of n_b0", ""] in rows


def test_participant_page_counts_what_was_made(participant_page):
    rows = Page(participant_page).table("session")
    assert rows[1] == ["sub-01", "1", "1", "3", "3", "15"]


def test_participant_page_names_missing_regions_and_unusual_measures(participant_page):
    text = Page(participant_page).text
    names = load_atlas("fs86").region_names
    assert "1 region of fs86 missing in the functional connectomes" in text
    assert names[MISSING] in text
    assert "1 region of fs86 less than half inside the image" in text
    assert names[20] in text
    assert "fd_mean_mm is 0.731 : the participant moved a lot" in text
    assert "kept_minutes is 3.61 : less than 5 minutes" in text


def test_page_with_functional_connectomes_says_how_they_differ(participant_page, empty, fake):
    words = "differ from those the published model was trained on"
    assert words in Page(participant_page).text
    entities = [("sub", "01")]
    fake.save_matrix(empty, "SCsdstream_fs86_volnorm", np.eye(86), "connectome", entities)
    assert words not in Page(build_participant_page(empty, "01")).text


def test_anchors_and_similarity_are_on_the_page(fake, empty, rng):
    fake.make_participant(empty, "02", rng)
    table = empty / "sub-02" / "func" / "sub-02_task-rest_desc-fc_qc.tsv"
    head, row = table.read_text().splitlines()
    names = [f"training_mean_r_FCcorr_{atlas}_hpf" for atlas in ("fs86", "shen268", "coco439")]
    table.write_text("\t".join([head, *names]) + f"\n{row}\t0.81\t0.05\tn/a\n")
    found = Page(build_participant_page(empty, "02"))
    assert any("beside published values" in picture["alt"] for picture in found.pictures)
    assert (
        f"{names[1]} is 0.05 : far less like the mean of the model's training data" in found.text
    )
    (grid,) = (table for table in found.tables if any("fd_mean_mm" in row for row in table))
    shown = {row[0]: row[1] for row in grid}
    assert (shown[names[0]], shown[names[1]]) == ("0.81", "0.05")
    assert names[2] not in shown  # without a value it is one of the other measures


def test_participant_page_says_the_correlation_of_predictions(cohort, participant_page):
    session = read_session(cohort[0], "01", None)
    predicted = read_session(cohort[1], "01", None).predicted
    item = next(
        found for found in predicted
        if (str(found.flavor), found.source) == ("FCcorr_fs86_hpf", "fusionSC")
    )  # fmt: skip
    matrices = [
        np.genfromtxt(found.file, skip_header=1)[:, 1:]
        for found in (session.matrix("FCcorr_fs86_hpf"), item)
    ]
    row = next(row for row in Page(participant_page).table("flavor") if "FCcorr_fs86_hpf" in row)
    assert float(row[2]) == pytest.approx(edge_correlation(*matrices), abs=1e-4)


def test_participant_page_shows_a_picture_for_every_connectome(participant_page):
    alts = [picture["alt"] for picture in Page(participant_page).pictures]
    functional, structural = (alt for alt in alts if alt.startswith("Matrices of "))
    assert all(name in functional for name in MEASURED)
    assert structural.count("SC") == FLAVORS - 3
    assert "SCifod2act_fs86_count" in structural
    assert sum("measured and predicted" in alt for alt in alts) == 5
    assert sum("desc-qc" in alt for alt in alts) == 2


def test_group_page_holds_identification_and_adaptation(group_page):
    found = Page(group_page)
    row = found.table("source")[1]
    assert row[:2] == ["fusion", "FCcorr_fs86_hpf"]
    assert row[5:9] == ["0.1235", "0.6667", "0.3333", "0.8123"]
    fit = next(row for row in found.table("flavor")[1:] if row[0] == "FCcorr_fs86_hpf")
    assert fit[2:] == ["3", "3"]
    slopes = [table for table in found.tables if "slope" in table[0]]
    numbers = ["0.9371", "0.002", "0.98", "n/a"]
    assert ["FCcorr_fs86_hpf", "", *numbers, "n/a", "n/a", "n/a"] in slopes[0]


def test_columns_are_aligned_as_a_whole(participant_page):
    headings = re.findall(r'<th scope="col"( class="right")?>(measure|value|meaning)</th>',
                          participant_page)  # fmt: skip
    assert {name: bool(right) for right, name in headings} == {
        "measure": False, "value": True, "meaning": False,
    }  # fmt: skip
    cells = re.findall(r'<td>n_volumes</td><td class="([a-z ]*)">', participant_page)
    assert set(cells) == {"number right"}


def test_group_page_says_who_lacks_what(group_page):
    text = Page(group_page).text
    assert "1 of 3 sessions without structural connectomes" in text
    assert "sub-03" in text
    assert "the cohort has 3 sessions" in text


def test_group_page_links_to_the_participants_pages(cohort, group_page):
    output_dir, dataset_dir = cohort
    page_file = output_dir / "sub-01.html"
    page_file.touch()
    page = write_group_page(dataset_dir, output_dir).read_text("utf-8")
    page_file.unlink()
    links = Page(page).links
    assert "../../sub-01.html" in links
    assert "../../sub-02.html" not in links
    assert len(page) == pytest.approx(len(group_page), abs=100)  # but for the link the same


@pytest.fixture
def empty(fake, tmp_path):
    fake.describe(tmp_path, "Empty")
    (tmp_path / "sub-01").mkdir()
    return tmp_path


def test_empty_data_sets_give_pages_that_say_so(empty):
    text = Page(build_participant_page(empty, "01")).text
    for line in ("no functional connectomes", "no structural connectomes", "no quality tables",
                 "no measured connectomes", "no predictions yet"):  # fmt: skip
        assert line in text
    text = Page(build_group_page(empty / "derivatives", empty)).text
    assert "1 of 1 session without predictions" in text
    assert "no table of prediction quality" in text


def test_markup_in_names_and_notes_is_shown_as_text(fake, empty):
    evil = "<script>alert(1)</script>"
    (empty / "sub-02").mkdir()
    path = fake.save_matrix(empty, "FCcorr_fs86_hpf", np.eye(86), "connectome", [("sub", "02")])
    path.with_suffix(".json").write_text(json.dumps({"Sources": [evil]}))
    quality = empty / "sub-02" / "func" / "sub-02_desc-fc_qc.tsv"
    quality.write_text(f"{evil}\n{evil}\n")
    regions = {evil: {"coverage": [0.2], "missing": [evil]}}
    quality.with_suffix(".json").write_text(json.dumps({"Regions": regions}))
    (empty / "dataset_description.json").write_text(json.dumps({"Name": evil}))
    for page in (
        build_participant_page(empty, "02", problems=[evil]),
        build_group_page(empty, empty, problems=[evil]),
    ):
        assert page.count("<script") == 1  # ours
        assert evil not in page
        assert "&lt;script&gt;" in page
        assert evil in Page(page).text


def test_damaged_files_become_warnings(fake, empty, rng):
    fake.make_participant(empty, "02", rng, flavors=("FCcorr_fs86_hpf", "FCcorr_fs86_hpfgsr"))
    folder = empty / "sub-02" / "func"
    for name in ("HPF", "HPFGSR"):
        file = folder / f"sub-02_task-rest_space-T1w_atlas-fs86_meas-FCcorr{name}_relmat.tsv"
        if name == "HPF":
            file.write_text(file.read_text("utf-8")[:1000])
    (folder / "sub-02_task-rest_desc-fc_qc.json").write_text("{")
    (folder / "sub-02_atlas-fs86_meas-mine_relmat.tsv").write_text("x")
    (empty / "sub-02" / "figures").mkdir()
    (empty / "sub-02" / "figures" / "sub-02_task-rest_desc-qc_bold.png").write_bytes(b"PNG")
    found = Page(build_participant_page(empty, "02"))
    assert "FCcorrHPF_relmat.tsv is not a whole labelled matrix" in found.text
    assert "'meas-mine' is unknown" in found.text
    assert not any("bold" in picture["alt"] for picture in found.pictures)
    panels = [row["alt"] for row in found.pictures if row["alt"].startswith("Matrices of ")]
    assert ["FCcorr_fs86_hpfgsr" in alt for alt in panels] == [True]


def mean_edges(page):
    """Mean edge of each functional connectome, as a page's tables say."""
    tables = [table for table in Page(page).tables if table[0][0] == "connectome"]
    return [row[3] for table in tables for row in table[1:]]


def test_of_several_runs_the_combined_connectome_is_shown(fake, empty):
    for run, value in (([("run", "1")], 0.1), ([("run", "2")], 0.2), ([], 0.3)):
        entities = [("sub", "01"), ("task", "rest"), *run]
        matrix = np.full((86, 86), value)
        fake.save_matrix(empty, "FCcorr_fs86_hpf", matrix, "connectome", entities, space="T1w")
    assert mean_edges(build_participant_page(empty, "01")) == ["0.3"]


def test_sessions_have_pages_of_their_own(fake, empty):
    for session, value in (("a", 0.1), ("b", 0.2)):
        entities = [("sub", "01"), ("ses", session)]
        fake.save_matrix(
            empty, "FCcorr_fs86_hpf", np.full((86, 86), value), "connectome", entities
        )
    page_file = write_participant_page(empty, "01", "b")
    assert page_file.name == "sub-01_ses-b.html"
    text = page_file.read_text("utf-8")
    assert mean_edges(text) == ["0.2"]
    assert "ses-a" not in Page(text).text
    assert mean_edges(build_participant_page(empty, "01")) == ["0.1", "0.2"]


def test_only_measures_outside_the_usual_are_told():
    values = {"fd_mean_mm": "0.1", "kept_minutes": "2", "task": "rest"}
    assert [(value, limit.column) for value, limit in beyond(values)] == [(2, "kept_minutes")]


@pytest.fixture
def marked(tmp_path, fake, rng):
    """A participant whose functional connectomes are of the recipe and of another pipeline."""
    fake.describe(tmp_path, "Measured")
    fake.make_participant(tmp_path, "05", rng)
    func = tmp_path / "sub-05" / "func"
    for file in sorted(func.iterdir()):
        name = file.name.replace("_relmat", "_desc-simple_relmat")
        name = name.replace("_desc-fc_qc", "_desc-fcSimple_qc")
        (func / name).write_bytes(file.read_bytes())
    return tmp_path


def test_connectomes_of_another_pipeline_are_named_apart(marked):
    both = Page(build_participant_page(marked, "05"))
    assert "3 connectomes marked desc-simple: denoised by the strategy simple" in both.text
    assert "functional run task-rest (simple)" in both.text
    n_pictures = len(both.pictures)
    for file in (marked / "sub-05" / "func").glob("*space-T1w_atlas-fs86_meas-*"):
        if "desc-simple" not in file.name:
            file.unlink()
    alone = Page(build_participant_page(marked, "05"))
    assert len(alone.pictures) == n_pictures
    assert "sub-05 has no functional connectomes" not in alone.text


def test_regions_left_out_for_coverage_are_missing_and_not_low(tmp_path, fake, rng):
    fake.describe(tmp_path, "Measured")
    fake.make_participant(tmp_path, "06", rng)
    sidecar = tmp_path / "sub-06" / "func" / "sub-06_task-rest_desc-fc_qc.json"
    content = json.loads(sidecar.read_text())
    low = content["Regions"]["fs86"]
    assert "1 region of fs86 less than half inside" in Page(
        build_participant_page(tmp_path, "06")
    ).text  # fmt: skip
    low["missing"] = [*low["missing"], load_atlas("fs86").region_names[20]]
    sidecar.write_text(json.dumps(content))
    assert "less than half inside" not in Page(build_participant_page(tmp_path, "06")).text
