# SPDX-License-Identifier: MIT
"""A small model, and cohorts translated with it once for all tests."""

import numpy as np
import pytest

from kraken_bids.connectome.adaptation import fit_adaptation
from kraken_bids.connectome.edges import edges_to_matrix, matrix_to_edges
from kraken_bids.model.krakencoder import Krakencoder
from kraken_bids.model.training import train_krakencoder
from tests.workflows.cohort import FC, FLAVORS, SC, possible, run, simulate, write_cohort


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    return train_krakencoder(
        simulate(40, seed=0),
        tmp_path_factory.mktemp("model") / "tiny",
        n_components=8,
        latent_size=16,
        epochs=60,
        learning_rate=0.02,
        dropout=0.1,
    )


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory):
    """A model that lacks two of the flavors."""
    return train_krakencoder(
        {name: edges for name, edges in simulate(40, seed=0).items() if name in (FC[0], SC[0])},
        tmp_path_factory.mktemp("model") / "small",
        n_components=8,
        latent_size=16,
        epochs=2,
    )


@pytest.fixture(scope="session")
def raw():
    """Six participants, shifted and scaled against the training cohort."""
    connectomes = {name: 1.3 * edges + 0.1 for name, edges in simulate(6, seed=8).items()}
    connectomes[FC[0]][4] = np.nan  # one flavor of a participant missing
    for name in SC:
        connectomes[name][5] = np.nan  # all structural ones
    lost = edges_to_matrix(connectomes[SC[0]][1], diagonal=np.nan)
    lost[3] = lost[:, 3] = np.nan  # one region
    connectomes[SC[0]][1] = matrix_to_edges(lost)
    return connectomes


@pytest.fixture(scope="session")
def cohort(tmp_path_factory, raw):
    root = tmp_path_factory.mktemp("out")
    return root, write_cohort(root, raw, participants=["01", "02", "03", "04", "05", "06"])


@pytest.fixture(scope="session")
def predicted(tmp_path_factory, cohort, bundle):
    root, sessions = cohort
    problems, dataset_dir = run(sessions, bundle, tmp_path_factory.mktemp("group"), root=root)
    assert problems == []
    return dataset_dir


@pytest.fixture(scope="session")
def by_hand(raw, bundle):
    """The same through the model's own functions: adapted edges, latents, predictions."""
    adapted = {}
    for name, edges in raw.items():
        mean = bundle.training_mean(name)
        present = ~np.isnan(edges).all(axis=1)
        fit = fit_adaptation(
            "meanfit+meanshift", np.nanmean(edges[present], axis=0), mean, n_participants=6
        )
        filled = np.where(np.isnan(edges), mean, fit.forward(edges)).astype(np.float32)
        filled[~present] = np.nan
        adapted[name] = filled
    latents = Krakencoder(bundle, device="cpu").encode(adapted)
    members = {"fusion": FLAVORS, "fusionSC": SC, "fusionFC": FC}
    return adapted, latents, members


@pytest.fixture(scope="session")
def doubtful(tmp_path_factory, bundle):
    """A cohort of 24, four of whom are corrupted."""
    connectomes = possible(simulate(24, seed=21))
    shuffled = np.random.default_rng(2).permutation(86)
    matrix = edges_to_matrix(connectomes[FC[0]][3], diagonal=1.0)
    connectomes[FC[0]][3] = matrix_to_edges(matrix[shuffled][:, shuffled])
    connectomes[FC[1]][8, :5] = 1.7  # beyond what a correlation can be
    for name in SC:
        connectomes[name][12] = connectomes[name][13]  # another participant's
    lost = edges_to_matrix(connectomes[SC[0]][17], diagonal=np.nan)
    lost[:20] = lost[:, :20] = np.nan
    connectomes[SC[0]][17] = matrix_to_edges(lost)
    root = tmp_path_factory.mktemp("doubtful")
    sessions = write_cohort(root, connectomes, participants=[f"{n:02d}" for n in range(24)])
    problems, dataset_dir = run(
        sessions, bundle, tmp_path_factory.mktemp("judged"), root=root, predict_to=(FC[0],)
    )
    assert problems == []
    return dataset_dir
