# SPDX-License-Identifier: MIT
from __future__ import annotations

import numpy as np
import pytest
import torch

from kraken_bids.errors import ModelError
from kraken_bids.model.transforms import TRANSFORMS, Transform, make_transform

#: Plausible parameters of every kind, four edges and (for PCA) two features.
PARAMETERS = {
    "mean": [1.0, 0.5, 2.0, 1.5],
    "components": [[0.6, 0.8, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]],
    "input_scale": [4.0],
    "output_scale": 100.0,
    "variance": np.float32(2.5),
    "deviation": [0.5, 1.0, 2.0, 4.0],
    "row_norm": [3.0],
    "minimum": [0.01],
    "log_mean": [-0.3],
    "log_deviation": [0.7],
    "output_mean": [0.5],
    "output_deviation": [0.1],
}


def make(kind: str) -> Transform:
    parameters = dict(PARAMETERS)
    if kind.startswith("zscore"):
        parameters |= {"mean": [1.2], "deviation": [0.6]}
    return make_transform(kind, parameters, where="test")


@pytest.mark.parametrize("kind", [kind for kind in TRANSFORMS if kind not in {"pca", "tsvd"}])
def test_inverse_undoes_forward(kind, rng):
    x = rng.uniform(0.1, 3.0, size=(5, 4)).astype(np.float32)
    transform = make(kind)
    np.testing.assert_allclose(transform.inverse(transform.forward(x)), x, rtol=2e-5)


@pytest.mark.parametrize("kind", ["pca", "tsvd"])
def test_projections_come_back_from_features(kind, rng):
    y = rng.normal(size=(5, 2)).astype(np.float32)
    transform = make(kind)
    np.testing.assert_allclose(transform.forward(transform.inverse(y)), y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", list(TRANSFORMS))
def test_torch_and_numpy_agree(kind, rng):
    x = rng.uniform(0.1, 3.0, size=(5, 4)).astype(np.float32)
    transform = make(kind)
    on_torch = Transform(kind, {k: torch.tensor(v) for k, v in transform.parameters.items()})
    y = transform.forward(x)
    np.testing.assert_allclose(on_torch.forward(torch.tensor(x)).numpy(), y, rtol=1e-5)
    np.testing.assert_allclose(
        on_torch.inverse(torch.tensor(y)).numpy(), transform.inverse(y), rtol=1e-5
    )


def test_pca_equals_a_case_computed_by_hand():
    # five rows of four edges, two components, feature scale 4.552385 to 100
    x = np.array([[1, 2, 0, 1], [2, 1, 1, 0], [0, 3, 1, 2], [4, 1, 0, 2], [3, 3, 3, 0]])
    components = [[0.922336, -0.351662, 0.058553, -0.149005],
                  [0.037759, 0.420246, 0.787948, -0.448449]]  # fmt: skip
    transform = make_transform(
        "pca",
        {
            "mean": [2, 2, 1, 1],
            "components": components,
            "input_scale": [4.552385],
            "output_scale": [100],
        },
        where="test",
    )
    y = transform.forward(x.astype(np.float32))
    np.testing.assert_allclose(
        y[[0, 4]], [[-21.546701, -18.137892], [18.381241, 54.528535]], rtol=1e-5
    )
    np.testing.assert_allclose(
        transform.inverse(y)[[0, 4]],
        [[1.064113, 1.997942, 0.291952, 1.516444], [2.865528, 2.748931, 3.004957, -0.237891]],
        rtol=1e-5,
    )


def test_values_below_the_least_positive_one_become_zero():
    transform = make("lognorm+rownorm")
    y = transform.forward(np.float32([[0.0, 0.005, 0.01, 1.0]]))
    assert y[0, :2].tolist() == [0.0, 0.0]
    expected = ((np.log10([0.01, 1.0]) + 0.3) / 0.7 * 0.1 + 0.5) / 3.0
    np.testing.assert_allclose(y[0, 2:], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "has_mean"),
    [("pca", True), ("cfeat", True), ("zfeat", True), ("cfeat+norm", True), ("zscore", False),
     ("none", False), ("tsvd", False), ("lognorm+rownorm", False)],
)  # fmt: skip
def test_training_mean_is_that_of_each_edge(kind, has_mean):
    mean = make(kind).training_mean
    if has_mean:
        np.testing.assert_array_equal(mean, np.float32(PARAMETERS["mean"]))
    else:
        assert mean is None


def test_the_name_lognorm_is_understood():
    assert make_transform("lognorm", PARAMETERS, where="test").kind == "lognorm+rownorm"


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("pcaa", {}, r"'pcaa' is unknown \(FC in f.npy\). Did you mean 'pca'"),
        ("pca", {"components": None}, "lacks its components"),
        ("pca", {"mean": [1.0, np.nan, 1.0, 1.0]}, "NaN, infinity or nothing as its mean"),
        ("pca", {"mean": [1.0, 2.0]}, "do not fit together"),
        ("pca", {"input_scale": [1.0, 2.0]}, "do not fit together"),
        ("zfeat", {"deviation": [1.0]}, "do not fit together"),
        ("tsvd", {"components": [1.0, 2.0]}, "do not fit together"),
    ],
)
def test_wrong_parameters_are_told(kind, changes, message):
    parameters = {k: v for k, v in {**PARAMETERS, **changes}.items() if v is not None}
    with pytest.raises(ModelError, match=message):
        make_transform(kind, parameters, where="FC in f.npy")
