# SPDX-License-Identifier: MIT
"""The methods text: its numbers are the code's, and its references are whole."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from kraken_bids.atlases import atlas_names
from kraken_bids.boilerplate import (
    ATLAS_KEYS,
    PROGRAM_KEYS,
    STRATEGIES,
    describe_methods,
)
from kraken_bids.boilerplate_structural import FIVE_TISSUE_KEYS, FIVE_TISSUE_WORDS
from kraken_bids.citation import gather_methods, write_citation
from kraken_bids.connectome.motion import DISPLACEMENT_LIMIT_MM
from kraken_bids.errors import ResourceError
from kraken_bids.images.tissue_masks import MIN_ERODED_VOXELS
from kraken_bids.references import as_bibtex, cite, references
from kraken_bids.report.methods_page import build_methods_page, find_methods
from kraken_bids.settings import (
    FunctionalOptions,
    RegularizationOptions,
    Settings,
    StructuralOptions,
    TranslationOptions,
)
from kraken_bids.workflows.structural import TRACKINGS


@pytest.fixture
def settings(tmp_path):
    return Settings(
        bids_dir=tmp_path,
        output_dir=tmp_path / "out",
        work_dir=tmp_path / "work",
        level="participant",
        atlases=("fs86", "shen268"),
    )


def all_settings(settings):
    """Settings that between them reach every part of the text."""
    for denoising in ("recipe", *STRATEGIES):
        for compcor in ("exact", "columns"):
            yield replace(
                settings, functional=FunctionalOptions(denoising=denoising, compcor=compcor)
            )
    for source in FIVE_TISSUE_WORDS:
        yield replace(settings, structural=StructuralOptions(five_tissue=source, sift2=True))
    yield replace(settings, atlases=atlas_names())
    yield replace(settings, derivatives=(("xcp_d", Path("x")), ("timeseries", Path("x"))),
                  connectomes=("x",))  # fmt: skip
    group = replace(settings, level="group", functional=FunctionalOptions(denoising="compcor"),
                    regularization=RegularizationOptions(searched=("fs86",)))  # fmt: skip
    for adaptation in ("none", "meanshift", "meanfit+meanshift", "earlier.safetensors"):
        yield replace(group, translation=TranslationOptions(adaptation=adaptation))


def test_every_citation_is_written_out_and_listed_and_in_the_bibtex(settings):
    inputs = [(name, "1.0") for name in PROGRAM_KEYS]
    told = {"Nipype": "1", "NumPy": "2", "SciPy": "3", "nilearn": "4", "PyTorch": "5"}
    cited = set()
    for one in all_settings(settings):
        methods = describe_methods(one, versions=told, inputs=inputs)
        text, _, listed = methods.markdown.partition("## References")
        assert "@" not in text
        keys = re.findall(r"^@\w+\{(\w+),$", methods.bibtex, re.MULTILINE)
        assert len(keys) == len(set(keys)) == listed.count("\n- ")
        for key in keys:
            assert references()[key].cited in text
            assert references()[key].listed in listed
        cited |= set(keys)
    assert cited == set(references())  # and none of them is left that nothing cites


@pytest.mark.parametrize("key", sorted(references()))
def test_references_are_whole(key):
    reference = references()[key]
    needed = {"author", "title", "year"}
    needed |= {"journal", "doi"} if reference.bibtex.startswith("@article") else {"booktitle"}
    assert needed <= set(reference.fields)
    assert key[-4:] == reference.fields["year"]
    assert key[:-4] == re.sub(r"[^a-z]", "", reference.cited.split(" et al")[0].split(",")[0]
                              .split(" and ")[0].lower())  # fmt: skip
    assert all("," in name for name in reference.fields["author"].replace(" and others", "")
               .split(" and "))  # fmt: skip
    assert re.fullmatch(r"10\.\d{4,}/\S+", reference.fields.get("doi", "10.1000/none"))
    assert reference.bibtex.count("{") == reference.bibtex.count("}")


def test_authors_are_told_as_in_a_text():
    assert references()["fischl2012"].cited == "Fischl, 2012"
    assert references()["whitfieldgabrieli2012"].cited == (
        "Whitfield-Gabrieli and Nieto-Castanon, 2012"
    )
    assert references()["esteban2019"].cited == "Esteban et al., 2019"
    assert references()["esteban2019"].listed.startswith(
        "Esteban O, Markiewicz CJ, Blair RW et al. fMRIPrep: a robust"
    )


def test_an_unknown_reference_is_refused():
    with pytest.raises(ResourceError, match="no reference 'nobody1900'"):
        cite("As usual [@nobody1900].")
    assert as_bibtex(()) == "\n"


def test_keys_are_of_what_there_is():
    assert set(ATLAS_KEYS) == set(atlas_names())
    assert set(FIVE_TISSUE_KEYS) < set(FIVE_TISSUE_WORDS)


def test_numbers_are_those_of_the_settings_and_the_code(settings):
    options = StructuralOptions(n_streamlines=123_456, assignment_radius_mm=3.25, random_seed=77)
    functional = FunctionalOptions(high_pass_hz=0.0123, skip_s=5.5, min_coverage=0.375)
    text = describe_methods(
        replace(settings, structural=options, functional=functional),
        versions={"MRtrix3": "3.0.3"},
    ).markdown
    for words in (
        "123,456 streamlines", "within 3.25 mm", "random numbers 77", "at 0.0123 Hz",
        "The first 5.5 s", "less than 38% of them", "*MRtrix3* 3.0.3", "1.953125 mm³",
        f"more than {DISPLACEMENT_LIMIT_MM:g} mm",
        f"{TRACKINGS['ifod2act'].angle_degrees:g} degrees a step",
        f"a step of {TRACKINGS['sdstream'].step_mm:g} mm",
    ):  # fmt: skip
        assert words in text
    quick = replace(settings, structural=StructuralOptions(sloppy=True))
    assert "for trying out" in describe_methods(quick).markdown
    assert "a step of" not in describe_methods(quick).markdown  # MRtrix3 chooses it


def test_every_atlas_has_its_lambda(settings):
    added = replace(settings, atlases=("fs86", "cocoyeo243"))
    text = describe_methods(added).markdown
    assert "with lambda 0.06 (fs86, the value of" in text
    assert "0.06 (cocoyeo243, chosen here" in text


def test_the_adaptation_is_told_as_it_is_done(settings):
    def text(adaptation, **changes):
        options = TranslationOptions(adaptation=adaptation, **changes)
        return describe_methods(replace(settings, level="group", translation=options)).markdown

    assert "left as they are" in text("none")
    assert "scaled" not in text("meanshift")
    assert "shifted" not in text("meanfit")
    both = text("meanfit+meanshift", adapt_by="site", predict_to=("FCcorr_fs86_hpf",))
    assert "scaled by the slope" in both
    assert "shifted so that" in both
    assert "each site on its own" in both
    assert "decoded into FCcorr_fs86_hpf." in both
    assert "fitted on a cohort before" in text("ours.safetensors")
    named = text("none", model_dir=Path("some/krakencoder-2024"), model_sha256="0123456789abcdef")
    assert "*krakencoder-2024* (SHA-256 0123456789ab…)" in named


class Text(HTMLParser):
    """Words of a page."""

    def __init__(self, page):
        super().__init__()
        self.words = []
        self.feed(page.partition("<body>")[2].partition("<script>")[0])
        self.text = " ".join(" ".join(self.words).split())

    def handle_data(self, data):
        self.words.append(data)


def test_files_hold_the_same_text_and_the_versions_of_what_is_here(settings, tmp_path):
    dataset_dir = tmp_path / "out"
    dataset_dir.mkdir()
    chain = [{"Name": "kraken-bids", "Version": "9"}, {"Name": "fMRIPrep", "Version": "25.2.4"},
             {"Name": "Ours", "Version": ""}, "damaged"]  # fmt: skip
    (dataset_dir / "dataset_description.json").write_text(json.dumps({"GeneratedBy": chain}))
    folders = [dataset_dir / "logs" / "sub-01" / "20300101-000000_a", dataset_dir / "logs"]
    write_citation(folders, settings, dataset_dir=dataset_dir)
    markdown = (folders[0] / "CITATION.md").read_text("utf-8")
    assert "preprocessed with *fMRIPrep* 25.2.4 (Esteban et al., 2019), *Ours*," in markdown
    assert re.search(r"\*Nipype\* \d+\.\d+", markdown)
    for name in ("CITATION.md", "CITATION.html", "CITATION.bib"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    assert "@article{esteban2019," in (folders[0] / "CITATION.bib").read_text("utf-8")
    page = (folders[0] / "CITATION.html").read_text("utf-8")
    words = re.sub(r"[*#]|^- ", "", markdown, flags=re.MULTILINE).split()
    shown = Text(page).text
    assert "".join(words) in shown.replace(" ", "")
    assert "<em>fMRIPrep</em>" in page


def test_without_a_description_no_inputs_are_named(settings, tmp_path):
    assert "from preprocessed data" in gather_methods(settings, tmp_path).markdown
    (tmp_path / "dataset_description.json").write_text("[")
    assert "from preprocessed data" in gather_methods(settings, tmp_path).markdown


def test_markup_in_a_methods_text_is_shown_as_text():
    page = build_methods_page("# A <b>\n\nSome <script>alert(1)</script> *<i>*.\n\n- <u>\n")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert "<em>&lt;i&gt;</em>" in page


def test_the_last_run_with_a_text_is_found(tmp_path):
    for run, text in (
        ("20300101-1", "# M\n\nold"),
        ("20300102-1", "# M\n\nnew"),
        ("20300103", ""),
    ):
        (tmp_path / run).mkdir()
        if text:
            (tmp_path / run / "CITATION.md").write_text(text)
    (tmp_path / "20300102-2").mkdir()
    (tmp_path / "20300102-2" / "CITATION.md").write_bytes(b"\xff\xfe\x00")
    (found,) = find_methods({"ours": tmp_path, "nothing": tmp_path / "none"})
    assert found.title == "ours"
    assert [block.items[0][0][0] for block in found.blocks] == ["new"]


def test_masks_that_erosion_would_empty_are_said_to_be_whole(settings):
    text = describe_methods(settings).markdown
    assert f"would have left fewer than {MIN_ERODED_VOXELS} voxels" in text


def test_given_label_images_are_named_where_they_are_used(settings):
    files = (("coco439", Path("c.nii.gz")), ("shen268", Path("s.nii.gz")))
    given = replace(settings, atlas_files=files)  # of these atlases, shen268 alone is asked for
    assert "Own label images were given for *shen268*." in describe_methods(given).markdown
    assert "Own label images" not in describe_methods(settings).markdown
    assert "Own label images" not in describe_methods(replace(given, level="group")).markdown
