# SPDX-License-Identifier: MIT
"""How good trained models are: each schedule and a replay of the published program, on one split.

A cohort is simulated from a seed that no default was chosen on. A part of it trains, a part is
watched, and the rest is looked at once, at the end: connectomes of its participants are predicted
on their own scale, from one flavor and from the mean latent of all, and compared with the
simulated ones (`kraken_bids.model.evaluation`)::

    OMP_NUM_THREADS=1 python benchmarks/training_quality.py --seed 2026
    OMP_NUM_THREADS=1 python benchmarks/training_quality.py --cohort other --flavors 4 \\
        --participants 510 200 --components 256 --latent-size 128 --ways joint reference
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from training import Replay, parse_way, timed_s

from kraken_bids.model.evaluation import evaluate_connectomes
from kraken_bids.model.training.losses import parse_loss
from kraken_bids.model.training.network import Network
from kraken_bids.model.training.pca import PCAFit, fit_pca
from kraken_bids.model.training.schedules import EPOCHS
from kraken_bids.model.training.validation import validate

Arrays = list[NDArray[np.float32]]

#: Kinds of cohorts: numbers of shared and own factors, their weakest strengths, and noise.
COHORTS = {
    "alike": {"n_shared": 10, "n_own": 40, "weakest": 0.4, "own": 1.2, "noise": 10.0},
    "other": {"n_shared": 30, "n_own": 15, "weakest": 0.2, "own": 0.8, "noise": 6.0},
}


def simulate(
    n: int, n_flavors: int, seed: int, *, n_shared: int, n_own: int, weakest: float, own: float,
    noise: float, n_edges: int = 3655,
) -> Arrays:  # fmt: skip
    """(n, n_edges) of each flavor: a mean, shared factors through a curve, own ones, and noise."""
    rng = np.random.default_rng([seed, 77])
    shared = rng.standard_normal((n, n_shared)) * np.linspace(1, weakest, n_shared)
    found = []
    for _ in range(n_flavors):
        private = rng.standard_normal((n, n_own)) * np.linspace(own, weakest, n_own)
        bent = shared + 0.5 * np.tanh(shared @ rng.standard_normal((n_shared, n_shared)) / 2)
        edges = 20 * rng.standard_normal(n_edges) + bent @ rng.standard_normal((n_shared, n_edges))
        edges += private @ rng.standard_normal((n_own, n_edges))
        found.append((edges + noise * rng.standard_normal(edges.shape)).astype(np.float32))
    return found


class Cohort:
    """A simulated cohort, its split, and its PCA features.

    Parameters
    ----------
    arguments
        As typed.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        n, n_test = arguments.participants
        everyone = simulate(
            n + n_test, arguments.flavors, arguments.seed, **COHORTS[arguments.cohort]
        )
        order = np.random.default_rng([arguments.seed, 78]).permutation(n + n_test)
        rows = order[: n - n // 5], order[n - n // 5 : n], order[n:]
        train, watched, self.test = ([values[part] for values in everyone] for part in rows)
        self.fits: list[PCAFit] = [fit_pca(values, arguments.components) for values in train]
        self.train = torch.from_numpy(np.stack([fit.scores for fit in self.fits]))
        self.watched, self.held_out = self._features(watched), self._features(self.test)

    def _features(self, values: Arrays) -> Tensor:
        pairs = zip(self.fits, values, strict=True)
        return torch.from_numpy(np.stack([fit.transform.forward(rows) for fit, rows in pairs]))

    @torch.no_grad()
    def judge(self, network: Network) -> dict[str, float]:
        """Means over pairs of flavors, and over targets of the fused latents, in connectomes."""
        latents = network.encode(network.encoders, self.held_out)
        n = len(latents)
        found: dict[str, list[tuple[float, ...]]] = {"one": [], "other": [], "fused": []}
        for target in range(n):
            for source in range(n):
                row = self._compare(network, latents[source], target)
                found["one"].append(row)
                if source != target:
                    found["other"].append(row)
            found["fused"].append(self._compare(network, latents.mean(0), target))
        names = ("top1", "rank", "residual r", "explained")
        return {
            f"{key} {name}": float(np.mean([row[place] for row in rows]))
            for key, rows in found.items()
            for place, name in enumerate(names)
        }

    def _compare(self, network: Network, z: Tensor, target: int) -> tuple[float, ...]:
        rows = torch.tensor([target])
        predicted = network.decoders.take(rows).forward(z[None])[0].numpy()
        transform = self.fits[target].transform
        truth, edges = self.test[target], np.asarray(transform.inverse(predicted))
        mean = transform.training_mean
        found = evaluate_connectomes(truth, edges, mean=mean, n_permutations=1)
        left = np.square(truth - edges, dtype=np.float64).sum()
        explained = 1 - left / np.square(truth - mean, dtype=np.float64).sum()
        return found.top1, found.average_rank, found.residual_correlation, float(explained)


def train(cohort: Cohort, text: str, arguments: argparse.Namespace) -> tuple[Network, float]:
    """Train in one way; give the network and CPU seconds."""
    name, options = parse_way(text, arguments.latent_size)
    options = replace(options, n_components=arguments.components).resolved()
    if name == "replay":
        replay = Replay(cohort.train, cohort.watched, options)
        seconds = timed_s(
            lambda: [replay.epoch(epoch, diagnostics=False) for epoch in range(options.epochs)]
        )
        return replay.network(), seconds
    sizes = {str(flavor): values.shape[-1] for flavor, values in enumerate(cohort.train)}
    network = Network.initial(sizes, ["all"] * len(cohort.train), options, "cpu")
    loss = parse_loss(options.loss)
    epochs = EPOCHS[options.schedule]
    seconds = timed_s(
        lambda: [epochs(network, cohort.train, loss, epoch) for epoch in range(options.epochs)]
    )
    return network, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cohort", choices=COHORTS, default="alike")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--participants", type=int, nargs=2, default=(256, 150),
                        metavar=("N", "TEST"))  # fmt: skip
    parser.add_argument("--flavors", type=int, default=3)
    parser.add_argument("--components", type=int, default=64)
    parser.add_argument("--latent-size", type=int, default=64)
    parser.add_argument("--ways", nargs="+", default=["joint", "reference", "replay"],
                        metavar="NAME,FIELD=VALUE,…")  # fmt: skip
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cohort = Cohort(arguments)
    n_train, n_watched, n_test = (x.shape[1] for x in (cohort.train, cohort.watched,
                                                        cohort.held_out))  # fmt: skip
    print(
        f"cohort {arguments.cohort}, seed {arguments.seed}: {arguments.flavors} flavors, "
        f"{n_train} train, {n_watched} watched, {n_test} judged, "
        f"{arguments.components} components"
    )
    for place, text in enumerate(arguments.ways):
        network, seconds = train(cohort, text, arguments)
        judged = cohort.judge(network)
        watched = validate(network, cohort.watched, parse_loss(network.options.loss)).means()
        facts = {"CPU s": seconds, "watched rank": watched["average_rank"], **judged}
        if not place:
            print("\t".join(["way", *facts]))
        print("\t".join([text, *(f"{value:.4f}" for value in facts.values())]), flush=True)


if __name__ == "__main__":
    main()
