# SPDX-License-Identifier: MIT
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from kraken_bids.errors import ModelError, ResourceError, UsageError
from kraken_bids.model.bundle import convert_checkpoint
from kraken_bids.model.projection import PCAProjection, published_pair
from kraken_bids.model.transforms import Transform

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "model"
FLAVOR = "FCcorr_fs86_hpf"

# five participants, four edges, two components
X = np.array([[1, 2, 0, 1], [2, 1, 1, 0], [0, 3, 1, 2], [4, 1, 0, 2], [3, 3, 3, 0]])
SCORES = [
    [-21.546701, -18.137892],
    [10.997903, 0.619519],
    [-51.518885, -2.278391],
    [43.686441, -34.731771],
    [18.381241, 54.528535],
]


@pytest.fixture
def projection():
    return PCAProjection(
        mean_=np.float32([2, 2, 1, 1]),
        components_=np.float32([
            [0.922336, -0.351662, 0.058553, -0.149005],
            [0.037759, 0.420246, 0.787948, -0.448449],
        ]),
        input_scale_=4.552385,
        output_scale_=100.0,
        flavor="SCsdstream_toy_count",
        explained_variance_ratio_=0.863509,
        n_participants=5,
        pairs_with="some-model",
        provenance={"sources": [{"file": "x.npy", "sha256": "5" * 64}]},
    )


def test_scores_and_edges_are_those_computed_by_hand(projection):
    scores = projection.transform(X)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, SCORES, atol=1e-4)
    edges = projection.inverse_transform(scores)
    np.testing.assert_allclose(edges[0], [1.064113, 1.997942, 0.291952, 1.516444], atol=1e-5)
    np.testing.assert_allclose(edges[4], [2.865528, 2.748931, 3.004957, -0.237891], atol=1e-5)


def test_it_has_the_attributes_of_a_fitted_transformer(projection):
    assert (projection.n_features_in_, projection.n_components) == (4, 2)
    assert projection.n_components_ == 2
    assert projection.fit(X) is projection
    np.testing.assert_array_equal(projection.fit_transform(X), projection.transform(X))
    assert projection.get_feature_names_out().tolist() == ["pca0", "pca1"]


def test_a_missing_participant_stays_missing(projection):
    values = X.astype(float)
    values[2] = np.nan
    assert np.isnan(projection.transform(values)).any(axis=1).tolist() == [0, 0, 1, 0, 0]


@pytest.mark.parametrize("shape", [(4,), (2, 5), (1, 2, 4)])
def test_other_shapes_are_refused(projection, shape):
    with pytest.raises(ModelError, match=r"edges have shape .* expected \(participants, 4\)"):
        projection.transform(np.zeros(shape))
    with pytest.raises(ModelError, match=r"scores have shape .* expected \(participants, 2\)"):
        projection.inverse_transform(np.zeros(shape))


def test_what_was_saved_is_read(projection, tmp_path):
    folder = projection.save(tmp_path / "p", provenance={"note": "a test"})
    found = PCAProjection.from_pretrained(folder)
    for name in ("mean_", "components_"):
        np.testing.assert_array_equal(getattr(found, name), getattr(projection, name))
    np.testing.assert_array_equal(found.transform(X), projection.transform(X))
    for name in ("output_scale_", "flavor", "explained_variance_ratio_", "pairs_with"):
        assert getattr(found, name) == getattr(projection, name)
    assert found.provenance == {**projection.provenance, "note": "a test"}


def test_others_read_its_arrays_by_plain_names(projection, tmp_path):
    folder = projection.save(tmp_path / "p")
    p = load_file(folder / "model.safetensors")
    assert {name: array.shape for name, array in p.items()} == {
        "mean": (4,), "components": (2, 4), "input_scale": (1,), "output_scale": (1,),
    }  # fmt: skip
    # the formula of the card
    scores = p["output_scale"] * (((X - p["mean"]) @ p["components"].T) / p["input_scale"])
    np.testing.assert_allclose(scores, projection.transform(X), rtol=1e-5)


def test_torch_is_not_imported(projection, tmp_path):
    folder = projection.save(tmp_path / "p")
    code = (
        "import sys\n"
        "import numpy as np\n"
        "from kraken_bids.model.projection import PCAProjection\n"
        f"projection = PCAProjection.from_pretrained({str(folder)!r})\n"
        "scores = projection.transform(np.ones((3, 4)))\n"
        f"projection.inverse_transform(scores), projection.save({str(tmp_path / 'q')!r})\n"
        f"PCAProjection.from_reference({str(GOLDEN / 'mini_ioxfm.npy')!r}, {FLAVOR!r})\n"
        "assert 'torch' not in sys.modules and 'jax' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_transform_file_and_a_bundle_give_one_projection(tmp_path):
    file = GOLDEN / "mini_ioxfm.npy"
    found = PCAProjection.from_reference(file, "FCcov_fs86_hpf_FC")
    row = np.load(file, allow_pickle=True).item()[FLAVOR]
    np.testing.assert_array_equal(found.mean_, row["pca_input_mean"])
    np.testing.assert_array_equal(found.components_, row["pca_components"])
    assert found.input_scale_ == row["input_normscale"][0]
    assert found.explained_variance_ratio_ == row["pca_explained_variance_ratio"]
    assert (found.n_participants, found.pairs_with, found.flavor) == (43, "", FLAVOR)
    assert found.provenance["sources"][0]["file"] == "mini_ioxfm.npy"

    bundle = convert_checkpoint([GOLDEN / "mini.pt"], [file], tmp_path / "b", name="mini")
    of_bundle = PCAProjection.from_pretrained(bundle.path, FLAVOR)
    x = np.random.default_rng(0).random((2, 3655))
    np.testing.assert_array_equal(found.transform(x), of_bundle.transform(x))
    np.testing.assert_array_equal(found.transform(x), bundle.transform(FLAVOR).forward(
        x.astype(np.float32)
    ))  # fmt: skip
    assert of_bundle.pairs_with == "mini"
    card = (of_bundle.save(tmp_path / "p") / "README.md").read_text()
    assert bundle.sha256 in card
    assert "source `mini_ioxfm.npy`" in card


def test_published_files_know_the_model_that_they_pair_with():
    from kraken_bids.published import published_models

    models = published_models()
    addon = models["krakencoder-2024-SCsdstream_shen268_count"]
    assert published_pair(addon.transforms[0].sha256) == addon.name
    assert published_pair(models["krakencoder-2024"].transforms[0].sha256) == "krakencoder-2024"
    assert published_pair("0" * 64) == ""


def test_flavors_that_are_not_there_are_told(projection, tmp_path):
    file = GOLDEN / "mini_ioxfm.npy"
    with pytest.raises(UsageError, match=r"holds 5 flavors, and none is named .*Name one: FCcorr"):
        PCAProjection.from_reference(file)
    with pytest.raises(UsageError, match=r"'FCcorr_fs68_hpf' is not in it .*Did you mean"):
        PCAProjection.from_reference(file, "FCcorr_fs68_hpf")
    folder = projection.save(tmp_path / "p")
    with pytest.raises(UsageError, match="'x' is not in it"):
        PCAProjection.from_pretrained(folder, "x")
    with pytest.raises(ModelError, match="'cfeat', not a projection"):
        PCAProjection.from_transform(Transform("cfeat", {"mean": np.zeros(3)}), "x")


def test_folders_that_are_damaged_or_of_another_kind_are_told(projection, tmp_path, tiny_bundle):
    with pytest.raises(UsageError, match="neither a folder nor the name"):
        PCAProjection.from_pretrained(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ResourceError, match="holds neither a projection nor a bundle"):
        PCAProjection.from_pretrained(tmp_path / "empty")
    folder = projection.save(tmp_path / "p")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "format_version": 9}))
    with pytest.raises(ResourceError, match="has layout 9, this version reads 1"):
        PCAProjection.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for content in (whole[:-4], b"x" * len(whole), b""):
        weights.write_bytes(content)
        with pytest.raises(ResourceError, match="is damaged or was altered"):
            PCAProjection.from_pretrained(folder)


def test_a_projection_replaces_a_projection_and_nothing_else(projection, tmp_path, tiny_bundle):
    folder = projection.save(tmp_path / "p")
    assert projection.save(folder) == folder
    with pytest.raises(UsageError, match="exists and is not a pca-projection"):
        projection.save(tiny_bundle.path)
    tiny_bundle.verify()
    from kraken_bids.model.bundle import write_bundle

    with pytest.raises(UsageError, match="exists and is not a model bundle"):
        write_bundle(
            folder,
            flavors={"FCcorr_toy_hpf": tiny_bundle.flavor_model("FCcorr_toy_hpf")},
            latent_size=3,
            provenance={},
        )
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["p", "tiny"]
