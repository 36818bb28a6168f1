# SPDX-License-Identifier: MIT
"""A trained model in the reference program's files, and its training against that program's."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from kraken_bids.formats.reading.opening import open_inputs
from kraken_bids.model.bundle import convert_checkpoint
from kraken_bids.model.reference import write_reference
from kraken_bids.model.training import train_krakencoder
from kraken_bids.model.training.splits import Split

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "model"
#: A full set: inputs and records of trainings, too.
FULL = Path(os.environ.get("KRAKEN_GOLDEN_DIR", "nowhere"))
FLAVORS = (
    "FCcorr_fs86_hpf", "FCcorr_fs86_hpfgsr", "FCpcorr_fs86_hpf", "SCsdstream_fs86_volnorm",
    "SCifod2act_fs86_volnorm",
)  # fmt: skip
#: What the golden model was trained with.
MINI = {
    "schedule": "reference", "n_components": 32, "latent_size": 16, "epochs": 100,
    "learning_rate": 0.01,
}  # fmt: skip


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model trained with the golden one's shapes, as files of the reference program."""
    folder = tmp_path_factory.mktemp("export")
    rng = np.random.default_rng(0)
    cohort = {name: rng.standard_normal((60, 3655)) for name in FLAVORS}
    bundle = train_krakencoder(cohort, folder / "model", **{**MINI, "epochs": 2})
    return bundle, write_reference(bundle, folder / "mine")


def test_exported_model_is_built_like_a_genuine_one(exported):
    found = torch.load(exported[1].checkpoint, weights_only=True)
    genuine = torch.load(GOLDEN / "mini.pt", weights_only=False)
    assert list(found) == [key for key in genuine if key != "optimizer"]
    for key, value in found.items():
        assert isinstance(genuine[key], type(value)), key
    shapes = [
        {key: (tensor.shape, tensor.dtype) for key, tensor in content["state_dict"].items()}
        for content in (found, genuine)
    ]
    assert shapes[0] == shapes[1]
    differ = {key for key in set(found) - {"state_dict", "training_params"}
              if found[key] != genuine[key]}  # fmt: skip
    assert differ <= {"epoch", "krakencoder_version"}
    assert set(found["training_params"]) <= set(genuine["training_params"])
    for key, expected in (("nbepochs", 2), ("learningrate", 0.01), ("batchsize", 41)):
        assert found["training_params"][key] == expected
    assert found["training_params"]["losstype"] == genuine["training_params"]["losstype"]


def test_exported_transforms_are_built_like_genuine_ones(exported):
    found = np.load(exported[1].transforms, allow_pickle=True).item()
    genuine = np.load(GOLDEN / "mini_ioxfm.npy", allow_pickle=True).item()
    assert list(found) == list(genuine)
    for flavor, row in genuine.items():
        assert set(row) - set(found[flavor]) <= {"train_subjects"}
        # a count, which files of published models have beside or in place of the ids
        assert set(found[flavor]) - set(row) == {"train_subject_count"}
        for key in set(found[flavor]) & set(row):
            if not isinstance(row[key], np.floating):
                assert type(found[flavor][key]) is type(row[key]), key
            if isinstance(row[key], np.ndarray):
                assert found[flavor][key].shape == row[key].shape, key


def test_exported_model_comes_back_bit_by_bit(exported, tmp_path):
    bundle, files = exported
    again = convert_checkpoint([files.checkpoint], [files.transforms], tmp_path / "b")
    for name in FLAVORS:
        for half in ("encoder", "decoder"):
            (mine,), (theirs,) = (getattr(b, half)(name) for b in (bundle, again))
            np.testing.assert_array_equal(mine.weight, theirs.weight)
            np.testing.assert_array_equal(mine.bias, theirs.bias)
            assert mine.activations == theirs.activations


@pytest.mark.slow
@pytest.mark.skipif(not (FULL / "training").is_dir(), reason="KRAKEN_GOLDEN_DIR is not set")
def test_training_ends_where_the_reference_programs_did(tmp_path):
    record = np.load(FULL / "training" / "mini_trainrecord.npz")
    folder = FULL / "training_inputs"
    inputs = open_inputs([f"{name}={folder}/{name}.mat" for name in FLAVORS], {}, latent_size=0)
    subjects = [name.strip() for name in record["subjects"].tolist()]
    assert all(list(found.participants) == subjects for found in inputs.values())
    paths = [f"{a}->{b}" for a in FLAVORS for b in FLAVORS]
    assert [name.strip() for name in record["trainpath_names"].tolist()] == paths
    nobody = np.empty(0, dtype=np.intp)
    bundle = train_krakencoder(
        {name: found.read(range(60)) for name, found in inputs.items()}, tmp_path / "m",
        split=Split(record["subjidx_train"], record["subjidx_val"], nobody), **MINI,
    )  # fmt: skip
    found = bundle.config["provenance"]["validation"]
    # tolerances: three times the spread over seeds; five participants watch
    for mine, theirs, tolerance in (
        ("loss", "loss_val", 90),
        ("top1", "corrloss_val", 0.045),
        ("average_rank", "corrlossRank_val", 0.015),
        ("correlation", "avgcorr_val", 0.02),
    ):
        assert found[mine] == pytest.approx(record[theirs][:, -1].mean(), abs=tolerance), mine
