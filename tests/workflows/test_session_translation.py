# SPDX-License-Identifier: MIT
"""The Krakencoder for single sessions, without a cohort."""

import json

import numpy as np
import pytest

from kraken_bids.bids.writers import read_connectome
from kraken_bids.errors import UsageError
from kraken_bids.settings import TranslationOptions
from kraken_bids.workflows.translation import init_session_translation_wf
from tests.workflows.cohort import (
    FC,
    SC,
    execute,
    files_of,
    possible,
    prediction,
    simulate,
    trust,
    write_cohort,
)


def test_session_level_writes_predictions_and_nothing_of_a_group(
    predicted, cohort, bundle, tmp_path
):
    root, sessions = cohort
    fitted = predicted / "group/desc-meanfit+meanshift_adaptation.safetensors"
    workflow = init_session_translation_wf(
        sessions=sessions[:1],
        options=TranslationOptions(
            model_dir=bundle.path,
            model_sha256=bundle.sha256,
            adaptation=str(fitted),
            device="cpu",
        ),
        dataset_dir=tmp_path / "one",
        sources_root=root,
    )
    assert execute(workflow, tmp_path / "work") == []
    files = files_of(tmp_path / "one")
    assert len(files) == 2 + 2 + 2 * 15
    assert not any(name.startswith("group") for name in files)
    path = prediction(tmp_path / "one", "01", "fusionSC", FC[0])
    expected = read_connectome(prediction(predicted, "01", "fusionSC", FC[0]))[0]
    np.testing.assert_allclose(read_connectome(path)[0], expected, atol=1e-6)
    sidecar = json.loads(path.with_suffix(".json").read_text("utf-8"))
    assert sidecar["AdaptationFile"] == fitted.name
    assert sidecar["CohortSize"] == 6


def test_session_level_refuses_to_fit(cohort, bundle, tmp_path):
    with pytest.raises(UsageError, match="'meanfit' is fitted on a cohort"):
        init_session_translation_wf(
            sessions=cohort[1][:1],
            options=TranslationOptions(model_dir=bundle.path, adaptation="meanfit", device="cpu"),
            dataset_dir=tmp_path,
        )


def test_session_level_judges_by_what_holds_for_any_cohort(doubtful, bundle, tmp_path):
    connectomes = possible(simulate(1, seed=30))
    connectomes[FC[0]] = connectomes[FC[0]][:, ::-1]
    sessions = write_cohort(tmp_path / "measured", connectomes, participants=["01"])
    workflow = init_session_translation_wf(
        sessions=sessions,
        options=TranslationOptions(
            model_dir=bundle.path, model_sha256=bundle.sha256, adaptation="none", device="cpu"
        ),
        dataset_dir=tmp_path / "one",
        sources_root=tmp_path / "measured",
    )
    execute(workflow, tmp_path / "work")
    rows = trust(tmp_path / "one", "01")
    assert "training_mean_r" in rows[FC[0]]["reasons"]
    assert rows[SC[0]]["verdict"] == "fits"
    assert "match" not in rows[SC[0]]
