# SPDX-License-Identifier: MIT
"""The group level draws the participants' pages again, with what it has made of them."""

from __future__ import annotations

import re

import pytest

from kraken_bids.plan import CohortSession
from kraken_bids.report.pages import build_participant_page, write_participant_page
from kraken_bids.report.prediction_section import ALL_PAIRS_BYTES, PAIR_BYTES, pair_bytes
from kraken_bids.workflows.group import init_pages_wf

FLAVORS = ("FCcorr_fs86_hpf", "SCifod2act_fs86_volnorm")
NOTE = "sub-01 has no field map (of the test)"


@pytest.fixture
def measured(fake, tmp_path, rng):
    """Two measured participants with their pages; the first page names a problem."""
    output_dir = tmp_path / "measured"
    fake.describe(output_dir, "Measured")
    matrices = {
        label: fake.make_participant(output_dir, label, rng, flavors=FLAVORS)
        for label in ("01", "02")
    }
    write_participant_page(output_dir, "01", notes=[NOTE])
    write_participant_page(output_dir, "02")
    return output_dir, matrices


def predict(fake, output_dir, matrices, rng):
    dataset_dir = output_dir / "derivatives" / "krakencoder-demo"
    fake.describe(dataset_dir, "Predicted")
    fake.make_predictions(dataset_dir, matrices, rng)
    for row, label in enumerate(("01", "02")):
        names = "\t".join(f"z{index:03d}" for index in range(8))
        cells = "\t".join(str(value) for value in rng.normal(size=8) + row)
        text = f"source\tn_inputs\t{names}\nfusion\t2\t{cells}\n"
        (dataset_dir / f"sub-{label}").mkdir(exist_ok=True)
        (dataset_dir / f"sub-{label}" / f"sub-{label}_latent.tsv").write_text(text)
    return dataset_dir


def test_pages_show_predictions_and_latents_after_the_group_level(fake, measured, rng, tmp_path):
    output_dir, matrices = measured
    page = output_dir / "sub-01.html"
    before = page.read_text("utf-8")
    assert "There are no predictions yet" in before
    dataset_dir = predict(fake, output_dir, matrices, rng)
    sessions = [CohortSession(label, None, ()) for label in ("01", "02", "elsewhere")]
    workflow = init_pages_wf(sessions=sessions, dataset_dir=dataset_dir, output_dir=output_dir)
    workflow.base_dir = str(tmp_path / "work")
    workflow.run()
    after = page.read_text("utf-8")
    assert "There are no predictions yet" not in after
    assert len(re.findall(r'alt="[^"]*measured and predicted from', after)) == 2
    assert "Latents of sub-01 on the first two principal components of 2 sessions" in after
    assert NOTE in before
    assert NOTE in after
    assert NOTE not in (output_dir / "sub-02.html").read_text("utf-8")
    assert (dataset_dir / "group.html").is_file()
    assert not (output_dir / "sub-elsewhere.html").exists()  # it was measured in another data set


def test_a_page_without_problems_forgets_those_of_before(measured):
    output_dir, _ = measured
    write_participant_page(output_dir, "01", notes=[])
    page = write_participant_page(output_dir, "01", notes=None)
    assert NOTE not in page.read_text("utf-8")


def test_of_one_modality_the_prediction_that_rests_on_it_is_shown(fake, measured, rng):
    output_dir, matrices = measured
    dataset_dir = predict(fake, output_dir, matrices, rng)
    for file in (dataset_dir / "sub-01").glob("*/*fusionSC*"):
        file.unlink()
    page = build_participant_page(output_dir, "01")
    assert 'alt="FCcorr_fs86_hpf, measured and predicted from fusion:' in page
    assert 'alt="SCifod2act_fs86_volnorm, measured and predicted from fusionFC:' in page


def test_pairs_of_a_page_share_its_size():
    assert pair_bytes(0) == pair_bytes(15) == PAIR_BYTES
    assert all(n * pair_bytes(n) <= ALL_PAIRS_BYTES for n in range(1, 200))
    # what else a page holds (measured: 0.65 MB) and base64 (a third) leave it below 2 MB
    assert ALL_PAIRS_BYTES * 4 / 3 + 0.65e6 < 2e6
