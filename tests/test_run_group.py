# SPDX-License-Identifier: MIT
"""The group level run again with other options: what it deletes, when, and what pages show."""

import numpy as np
import pytest

from kraken_bids.atlases import load_atlas
from kraken_bids.bids.names import output_path
from kraken_bids.bids.writers import write_connectome
from kraken_bids.cli import main
from kraken_bids.connectome.edges import edges_to_matrix, n_edges
from kraken_bids.errors import InputError
from kraken_bids.flavors import Flavor
from kraken_bids.model.training import train_krakencoder
from kraken_bids.report import pages

FC, SC = "FCcorr_fs86_hpf", "SCifod2act_fs86_volnorm"
ATLAS = load_atlas("fs86")
LABELS = ("1", "2", "3")


def connectomes(n, seed):
    """Edges of some participants, positive as numbers of streamlines are."""
    rng = np.random.default_rng(seed)
    return {name: rng.random((n, n_edges(ATLAS.n_regions))) for name in (FC, SC)}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tiny"
    train_krakencoder(connectomes(12, 0), folder, n_components=4, latent_size=8, epochs=1)
    return folder


@pytest.fixture
def out(tmp_path):
    """A data set of measured connectomes."""
    out = tmp_path / "out"
    for name, rows in connectomes(len(LABELS), 1).items():
        flavor = Flavor.parse(name)
        for label, edges in zip(LABELS, rows, strict=True):
            path = out / output_path("connectome", [("sub", label)], datatype=flavor.datatype,
                                     space="T1w", atlas="fs86", meas=flavor.meas)  # fmt: skip
            write_connectome(path, edges_to_matrix(edges, diagonal=0.0), ATLAS.region_names)
    return out


@pytest.fixture
def group(out, model, tmp_path):
    """Run the group level in this process, for some target flavors; its exit code."""
    (tmp_path / "data").mkdir()
    plugin = tmp_path / "plugin.json"
    plugin.write_text('{"plugin": "Linear"}')
    words = [tmp_path / "data", out, "group", "--model", model, "--output-label", "tiny",
             "-w", tmp_path / "work", "--use-plugin", plugin]  # fmt: skip

    def group(*targets, options=()):
        return main([*map(str, words), "--predict-to", *targets, *options])

    return group


@pytest.fixture(autouse=True)
def drawn(monkeypatch, out):
    """Pages that are drawn, each with the number of structural predictions that lie there.

    Empty ones, for it takes long to draw them: `tests/test_lambda_search.py` looks into real ones.
    """
    drawn = []

    def draw_group(dataset_dir, *_arguments, **_options):
        return draw(dataset_dir / "group.html")

    def draw_participant(output_dir, participant, *_arguments, **_options):
        return draw(output_dir / f"sub-{participant}.html")

    def draw(page):
        drawn.append((page.stem, len(predictions(out, SC))))
        page.write_text("a page")
        return page

    monkeypatch.setattr(pages, "write_group_page", draw_group)
    monkeypatch.setattr(pages, "write_participant_page", draw_participant)
    return drawn


def predictions(out, name):
    """Tables of predicted connectomes of a flavor."""
    flavor = Flavor.parse(name)
    return sorted(out.glob(f"derivatives/*/sub-*/*/*_meas-{flavor.meas}_desc-*_relmat.tsv"))


ALL_ONCE = ["group", *(f"sub-{label}" for label in LABELS)]


def test_pages_are_drawn_once_after_stale_predictions_are_deleted(group, out, drawn, capfd):
    assert group(FC, SC) == 0
    n_files = 3 * len(LABELS)  # of three fusions
    assert drawn == [(name, n_files) for name in ALL_ONCE]
    kept = predictions(out, FC)
    drawn.clear()
    capfd.readouterr()
    assert group(FC) == 0
    assert drawn == [(name, 0) for name in ALL_ONCE]
    assert predictions(out, FC) == kept
    assert "removed 18 file(s) of an earlier run" in capfd.readouterr().err  # with sidecars
    drawn.clear()
    assert group(FC) == 0  # nothing left to do
    assert drawn == []
    assert group(FC, options=["--reports-only"]) == 0
    assert drawn == [(name, 0) for name in ALL_ONCE]


def test_run_that_fails_deletes_nothing(group, out, capfd):
    assert group(FC, SC) == 0
    before = predictions(out, SC)
    table = out / "derivatives/krakencoder-tiny/group/desc-kraken_qc.tsv"
    table.unlink()
    table.mkdir()  # no file can be put in its place
    assert group(FC) == 1
    assert predictions(out, SC) == before
    table.rmdir()
    assert group(FC) == 0
    assert predictions(out, SC) == []


def test_run_that_ends_between_deleting_and_its_mark_goes_on(group, out, monkeypatch, capfd):
    def broken(*_arguments, **_options):
        raise InputError("the page cannot be drawn (of the test)")

    assert group(FC, SC) == 0
    with monkeypatch.context() as patch:
        patch.setattr(pages, "write_group_page", broken)
        assert group(FC) == 1
    assert "the page cannot be drawn (of the test)" in capfd.readouterr().err
    assert len(predictions(out, FC)) == 3 * len(LABELS)
    assert group(FC) == 0
    assert predictions(out, SC) == []
    assert group(FC, SC) == 0  # the first one again is not taken for finished
    assert len(predictions(out, SC)) == 3 * len(LABELS)


def test_flavor_that_nobody_has_is_named_with_the_nearest_one(group, capfd):
    assert group(FC, options=["--flavors", FC, "FCcorr_fs68_hpf", "--dry-run"]) == 0
    told = capfd.readouterr()
    assert f"nobody has a measured FCcorr_fs68_hpf (--flavors). Did you mean '{FC}'?" in (
        told.out + told.err
    )
    assert f"nobody has a measured {FC}" not in told.out + told.err
