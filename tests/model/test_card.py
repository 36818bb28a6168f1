# SPDX-License-Identifier: MIT
from __future__ import annotations

import re

import numpy as np
import pytest

from kraken_bids.model.bundle import write_bundle
from kraken_bids.model.card import sources_of
from kraken_bids.model.projection import PCAProjection
from kraken_bids.published import published_models

FLAVOR = "SCsdstream_shen268_count"
PUBLISHED = published_models()[f"krakencoder-2024-{FLAVOR}"].transforms[0]
SOURCE = {"file": PUBLISHED.name, "sha256": PUBLISHED.sha256}
SECTIONS = [
    "Description", "Intended use", "Out of scope", "Usage", "Training", "Provenance", "Authors",
    "Citation", "Licence and effective terms",
]  # fmt: skip


@pytest.fixture
def write(tmp_path, make_flavor):
    """Write a bundle; give the text of its card."""

    def run(provenance, name="m"):
        bundle = write_bundle(
            tmp_path / name, flavors={FLAVOR: make_flavor()}, latent_size=3, provenance=provenance
        )
        return (bundle.path / "README.md").read_text("utf-8")

    return run


def headings(card):
    return re.findall(r"^## (.*)$", card, re.MULTILINE)


def test_a_bundle_has_a_card_with_all_sections(write):
    card = write({"sources": [{"file": "x.pt", "sha256": "5" * 64}], "n_participants": 30})
    assert headings(card) == SECTIONS
    assert f"| `{FLAVOR}` | 6 | 4 | pca |" in card
    assert f"source `x.pt`, SHA-256 `{'5' * 64}`" in card
    assert "- n_participants: 30" in card
    assert "https://doi.org/10.1038/s41592-025-02706-2" in card
    assert "latent space of\n3 values (brought to length 1)" in card


def test_facts_on_training_are_written_for_people(write):
    options = {"hidden_sizes": [12, 8], "dropout": 0.5, "seed": 0}
    facts = {"final_loss": 266.34473419189453, "validation": {}, "split": {}, "options": options}
    card = write({**facts, "inputs": {"FCcorr_a_hpf": "fc.mat", "FCpcorr_a_hpf": "p.mat"}})
    section = card.partition("## Training\n")[2].partition("\n## ")[0]
    assert section.strip().splitlines() == [
        "- final_loss: 266.345",
        "- options: hidden_sizes 12 8, dropout 0.5, seed 0",
        "- inputs: FCcorr_a_hpf fc.mat, FCpcorr_a_hpf p.mat",
    ]


def test_terms_of_the_published_data_are_said_of_published_files_only(write):
    assert "Human Connectome Project" in write({"sources": [SOURCE]})
    own = write({"sources": [{"file": PUBLISHED.name, "sha256": "0" * 64}]}, "other")
    assert "Human Connectome Project" not in own
    assert "Who trained the model is not recorded" in own


def test_terms_follow_into_models_that_were_merged(write):
    merged = {"models": [{"name": "a", "sha256": "1", "provenance": {"sources": [SOURCE]}}]}
    assert "Human Connectome Project" in write(merged)
    nested = {"models": [{"name": "b", "sha256": "2", "provenance": merged}]}
    assert list(sources_of(nested)) == [SOURCE]
    assert list(sources_of({"sources": [SOURCE], **nested})) == [SOURCE]


def test_a_card_of_ones_own_is_kept_and_ours_is_renewed(write, tmp_path):
    assert "- epoch: 1" in write({"epoch": 1})
    assert "- epoch: 2" in write({"epoch": 2})
    (tmp_path / "m" / "README.md").write_text("# my model\n")
    assert write({"epoch": 3}) == "# my model\n"


def test_a_projection_has_a_card_with_all_sections(tmp_path):
    projection = PCAProjection(
        np.zeros(6, np.float32), np.zeros((2, 6), np.float32), 2.0, 100.0, FLAVOR,
        explained_variance_ratio_=0.5, n_participants=710,
        pairs_with=f"krakencoder-2024-{FLAVOR}", provenance={"sources": [SOURCE]},
    )  # fmt: skip
    card = (projection.save(tmp_path / "p") / "README.md").read_text("utf-8")
    assert headings(card) == SECTIONS
    for text in (
        f"model `krakencoder-2024-{FLAVOR}`", "It keeps 50.0% of", "Fitted on 710 participants",
        PUBLISHED.sha256, "Human Connectome Project", "safetensors.torch", "`components` (2, 6)",
    ):  # fmt: skip
        assert text in card


def test_what_is_not_known_is_not_said(tmp_path):
    plain = PCAProjection(np.zeros(6, np.float32), np.zeros((2, 6), np.float32), 2.0, 100.0, "x")
    card = (plain.save(tmp_path / "p") / "README.md").read_text("utf-8")
    assert "It keeps" not in card
    assert "takes and what its decoder" not in card
    assert "How many participants it was fitted on is not recorded" in card
