# SPDX-License-Identifier: MIT
"""Pages show hostile text as text, wherever it comes from: nothing of it becomes markup."""

from __future__ import annotations

from html.parser import HTMLParser
from importlib.resources import files

import numpy as np
import pytest

from kraken_bids.atlases import load_atlas
from kraken_bids.bids.names import output_path
from kraken_bids.bids.writers import write_connectome, write_json, write_table
from kraken_bids.report.html import render
from kraken_bids.report.pages import build_group_page, build_participant_page

#: Text that becomes an element, an attribute, a template or a formula where it is not escaped.
HOSTILE = (
    "<script>alert(1)</script>",
    "\" onmouseover=\"alert(1)\" x=\"",
    "' onerror='alert(1)' x='",
    "</title></style></table><img src=x onerror=alert(1)>",
    "javascript:alert(1)",
    "<svg/onload=alert(1)>",
    "<!-- <iframe src=//x>",
    "]]><a href=//x>",
    "{{ 7 * 7 }}{% raw %}",
    "$\\frac{$",
    "&lt;b&gt;",
    "\u202e\x00\x1b[31m",
)  # fmt: skip
#: Elements of our templates.
ELEMENTS = frozenset({
    "html", "head", "meta", "title", "style", "body", "header", "h1", "h2", "h3", "p", "nav", "ul",
    "li", "a", "main", "section", "table", "thead", "tbody", "caption", "tr", "th", "td", "div",
    "figure", "figcaption", "img", "details", "summary", "footer", "em", "strong", "code", "span",
    "dl", "dt", "dd", "aside", "ol", "br",
})  # fmt: skip
ATTRIBUTES = frozenset({
    "lang", "charset", "name", "content", "http-equiv", "class", "id", "href", "src", "alt",
    "width", "height", "aria-label", "aria-labelledby", "tabindex", "role", "loading", "scope",
    "colspan", "rowspan", "title", "open", "data-choice", "data-name",
})  # fmt: skip
#: The one script of the pages, which their policy allows by its SHA-256.
SCRIPT = (files("kraken_bids") / "data" / "report" / "tables.js").read_text("utf-8")
#: Ways in which a script would make markup or code of text.
DANGEROUS = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval", "Function(",
             "setTimeout", "fetch", "XMLHttpRequest", "import", "location", "</")  # fmt: skip


class Markup(HTMLParser):
    """What of a page is markup that our templates have not."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.strange, self.words = [], []
        self.feed(text.replace(f"<script>{SCRIPT}</script>", "", 1))
        self.close()

    def handle_starttag(self, tag, attrs):
        if tag not in ELEMENTS:
            self.strange.append(f"<{tag}>")
        for name, value in attrs:
            if name not in ATTRIBUTES or name.startswith("on"):
                self.strange.append(f"<{tag} {name}>")
            if name == "href" and not (value.startswith("#") or value.endswith(".html")):
                self.strange.append(f"href {value}")
            if name == "href" and (":" in value or value.startswith("/")):
                self.strange.append(f"href {value}")
            if name == "src" and not value.startswith("data:image/png;base64,"):
                self.strange.append(f"src {value}")

    def handle_comment(self, data):
        self.strange.append(f"<!--{data}")

    def unknown_decl(self, data):
        self.strange.append(f"<![{data}")

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(params=HOSTILE, ids=range(len(HOSTILE)))
def evil(request):
    return request.param


@pytest.fixture
def study(tmp_path, evil):
    """A data set whose every text is hostile, and predictions from it."""
    root = tmp_path / "measured"
    predicted = root / "derivatives" / "krakencoder-default"
    made = [{"Name": evil, "Version": evil, "Description": evil, "ConfigurationHash": evil}]
    sources = [{"URL": evil, "DOI": evil, "Version": evil}]
    description = {"Name": evil, "BIDSVersion": evil, "License": evil, "GeneratedBy": made,
                   "SourceDatasets": sources}  # fmt: skip
    for folder in (root, predicted):
        write_json(folder / "dataset_description.json", description)
    entities = [("sub", "01"), ("task", "rest")]
    names = load_atlas("fs86").region_names
    sidecar = {
        "Sources": [evil, {"a": evil}, None],
        "KrakencoderFlavor": evil,
        "Units": evil,
        "MissingNodes": [evil],
        "LabelOrigin": evil,
        "LabelOriginReason": evil,
        "Regularization": evil,
        "RegularizationSource": evil,
        "OffRecipe": evil,
        "DifferencesFromTraining": [evil],
        "Software": evil,
        "Origin": evil,
        "Model": {"Name": evil},
        "CohortSize": evil,
        "PartialCorrelation": evil,
    }
    for place, desc in ((root, ""), (predicted, "fusion")):
        row = "prediction" if desc else "connectome"
        path = place / output_path(row, entities, datatype="func", atlas="fs86",
                                   meas="FCcorrHPF", desc=desc)  # fmt: skip
        write_connectome(path, np.eye(86), names)
        write_json(path.with_suffix(".json"), sidecar)
    for row, datatype, desc in (("functional_qc", "func", "fc"), ("structural_qc", "dwi", "sc")):
        path = root / output_path(row, entities, datatype=datatype, desc=desc)
        write_table(path, ("fd_mean_mm", "n_volumes", evil), [("0.3", evil, evil)])
        regions = {"fs86": {"coverage": [0.2] * 86, "missing": [evil]},
                   evil: {"coverage": [0.2], "missing": [evil]}}  # fmt: skip
        meanings = {
            "fd_mean_mm": {"Description": evil},
            evil: {"Description": evil, "Units": evil},
        }
        write_json(path.with_suffix(".json"), {**meanings, "Regions": regions})
    group = predicted / "group"
    columns = ("source", "target", "direction", "n_participants", "correlation",
               "residual_correlation", "top1", "top1_chance", "average_rank",
               "average_rank_chance", "p_permutation")  # fmt: skip
    number = "0.5"
    write_table(
        group / "desc-kraken_qc.tsv",
        columns,
        [
            (evil, evil, evil, "1", *[number] * 7),
            ("fusion", "FCcorr_fs86_hpf", evil, "3", *[number] * 7),
        ],
    )
    write_table(
        group / "desc-participant_qc.tsv",
        ("participant_id", "session_id", "n_flavors", evil),
        [(evil, evil, evil, evil)],
    )
    write_table(
        group / "desc-fusion_latent.tsv",
        ("participant_id", "session_id", "z000", "z001"),
        [(evil, None, 1.0, 2.0), ("sub-01", evil, 2.0, 1.0), ("sub-02", "x", 0.0, 1.0)],
    )
    write_json(
        group / "desc-meanfit_adaptation.json",
        {"flavors": {evil: {"slope": 1.0, "intercept": 0.0, "r_squared": 0.9}}},
    )
    for logs_dir in (root / "logs" / "sub-01", predicted / "logs"):
        (logs_dir / "run").mkdir(parents=True)
        (logs_dir / "run" / "CITATION.md").write_text(f"# M\n\n{evil} *{evil}*\n\n- {evil}\n")
    write_table(
        predicted / output_path("latent", [("sub", "01")]),
        ("source", "n_inputs", "z000", "z001"),
        [(evil, evil, 1.0, 2.0), ("fusion", evil, 1.0, 2.0)],
    )
    return root, predicted


@pytest.mark.filterwarnings("ignore:constrained_layout:UserWarning", "ignore:Glyph:UserWarning")
def test_the_page_of_a_participant_shows_text_as_text(study, evil):
    page = build_participant_page(study[0], "01", problems=[evil])
    found = Markup(page)
    assert found.strange == []
    assert "".join(evil.split()).replace("\0", "") in "".join(page_text(found))


@pytest.mark.filterwarnings("ignore:constrained_layout:UserWarning", "ignore:Glyph:UserWarning")
def test_the_page_of_a_cohort_shows_text_as_text(study, evil):
    table = study[0] / "participants.tsv"
    columns = ("participant_id", evil, "site")
    write_table(table, columns, [("sub-01", "1", evil), ("sub-02", "2", "B"), (evil, "3", "C")])
    page = build_group_page(study[1], study[0], problems=[evil], participants_file=table)
    found = Markup(page)
    assert found.strange == []
    assert "".join(evil.split()).replace("\0", "") in "".join(page_text(found))


def page_text(found):
    """Words of a page without blanks; NUL is none of HTML's characters."""
    text = "".join("".join(found.words).split())
    return text.replace("\0", "").replace("\ufffd", "")


def test_every_template_is_filled_with_escaping():
    """Autoescaping depends on no file's extension, and no template switches it off."""
    for entry in (files("kraken_bids") / "data" / "report").iterdir():
        text = entry.read_text("utf-8")
        if entry.name.endswith(".js"):
            assert not [words for words in DANGEROUS if words in text]
            continue
        if entry.name == "base.html":
            assert text.count("<script>{{ script | safe }}</script>") == 1
            text = text.replace("<script>{{ script | safe }}</script>", "")
        for words in ("|safe", "| safe", "autoescape", "Markup", "<script", "javascript:"):
            assert words not in text.replace("{%- ", "{% "), entry.name
    page = render("group.html", _texts("<b>"))
    assert "<b>" not in page
    assert "&lt;b&gt;" in page


def _texts(evil):
    """As little as the page of a cohort needs."""
    from kraken_bids.report.html import Grid

    empty = Grid("")
    names = ("cohort", "participant_quality", "flavors", "similarity", "identification", "search",
             "adaptation", "spread", "motion", "latents", "trust", "doubts")  # fmt: skip
    figures = (
        "similarity_figures",
        "identification_figures",
        "prediction_figures",
        "search_figures",
        "adaptation_figures",
        "spread_figures",
        "motion_figures",
        "trust_figures",
        "latent_maps",
        "columns_left_out",
        "methods",
        "warnings",
        "sections",
    )
    return {
        "title": evil, "lead": evil, "prediction_text": evil, "provenance": [(evil, evil)],
        "n_sampled": evil, "trust_text": evil,
        **dict.fromkeys(names, empty), **dict.fromkeys(figures, ()),
    }  # fmt: skip


def test_the_judge_finds_markup():
    for text in HOSTILE[:1] + HOSTILE[3:4] + HOSTILE[5:6] + HOSTILE[7:8]:
        assert Markup(f"<p>{text}</p>").strange
    assert Markup(f'<img alt="{HOSTILE[1]}">').strange
    assert Markup('<a href="javascript:alert(1)">').strange
