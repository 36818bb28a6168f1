# SPDX-License-Identifier: MIT
"""Which corrupted inputs the table of trust finds, and how many clean ones it doubts.

A cohort is simulated as the demo's is (functional connectomes from series of regions, structural
ones from a tractogram of the template: MRtrix3 is needed), a model is trained on a part of it, and
the rest is a cohort that the model has not seen. It is adapted, encoded and judged as the group
level does it: clean; with every tenth participant corrupted, in ten rounds so that each is once;
and corrupted as a whole::

    OMP_NUM_THREADS=1 python benchmarks/trust.py
    OMP_NUM_THREADS=1 python benchmarks/trust.py --cohort 20 --rounds 5
    OMP_NUM_THREADS=1 python benchmarks/trust.py --train 400 --components 128

Shares are of participants: a participant is doubted if any flavor is. Simulated participants
differ in five factors only; people differ in more ways, and their scans by more than noise.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from kraken_bids.atlases import load_atlas
from kraken_bids.connectome.edges import edges_to_matrix, matrix_to_edges
from kraken_bids.connectome.structural import TRAINING_VOXEL_MM3
from kraken_bids.demo.cohort import fs86_labels, simulate_functional, simulate_structural
from kraken_bids.demo.population import draw_factors, make_population
from kraken_bids.demo.regions import draw_atlas
from kraken_bids.demo.template import VOXEL_MM
from kraken_bids.demo.tractography import track_template
from kraken_bids.model.krakencoder import Krakencoder
from kraken_bids.model.training import train_krakencoder
from kraken_bids.model.translation import CohortMeans, adapt_batch, fit_cohort
from kraken_bids.model.trust import match_modalities, measure_batch
from kraken_bids.model.verdicts import find_bounds, find_concerns

Cohort = dict[str, NDArray[np.float64]]
#: Rounds in which a part of the cohort is corrupted, so that each participant is once.
N_PARTS = 10


def simulate(n: int, atlases: list[str], seed: int, n_volumes: int) -> Cohort:
    """Simulate (n, n_edges) by flavor."""
    labels = {name: fs86_labels() if name == "fs86" else draw_atlas(name) for name in atlases}
    population = make_population()
    factors = draw_factors(n, np.random.default_rng([seed, 10]))
    found = simulate_functional(
        labels, population, factors, n_volumes=n_volumes, rng=np.random.default_rng([seed, 11])
    )
    with tempfile.TemporaryDirectory() as folder:
        tractograms = track_template(Path(folder), population, n_streamlines=30_000)
    found |= simulate_structural(
        tractograms, labels, population, factors, n_streamlines=20_000,
        rng=np.random.default_rng([seed, 12]),
    )  # fmt: skip
    return {name: np.asarray(found[name], np.float64) for name in sorted(found)}


def atlas_of(flavor: str) -> str:
    return flavor.split("_")[1]


def reorder(edges: NDArray[np.float64], order: NDArray[np.intp]) -> NDArray[np.float64]:
    """Put regions of (n, n_edges) into another order, names staying where they are."""
    matrix = edges_to_matrix(edges)
    return np.asarray(matrix_to_edges(matrix[:, order][:, :, order]))


def shuffled(flavor: str, edges: NDArray, _others: NDArray) -> NDArray:
    n_regions = load_atlas(atlas_of(flavor)).n_regions
    return reorder(edges, np.random.default_rng(5).permutation(n_regions))


def alphabetical(flavor: str, edges: NDArray, _others: NDArray) -> NDArray:
    return reorder(edges, np.argsort(load_atlas(atlas_of(flavor)).region_names))


def sides_exchanged(flavor: str, edges: NDArray, _others: NDArray) -> NDArray:
    """Left regions where right ones belong: brains are alike on both sides, so this is subtle."""
    sides = np.array([region.hemisphere for region in load_atlas(atlas_of(flavor)).regions])
    order = np.arange(len(sides))
    left, right = order[sides == "L"], order[sides == "R"]
    n_pairs = min(len(left), len(right))
    order[left[:n_pairs]], order[right[:n_pairs]] = right[:n_pairs], left[:n_pairs]
    return reorder(edges, order)


def fisher_z(_flavor: str, edges: NDArray, _others: NDArray) -> NDArray:
    return np.arctanh(edges)


def counts(flavor: str, edges: NDArray, _others: NDArray) -> NDArray:
    """Streamlines, not divided by the volumes of their regions."""
    labels = fs86_labels() if atlas_of(flavor) == "fs86" else draw_atlas(atlas_of(flavor))
    volumes = np.bincount(labels[labels > 0] - 1) * VOXEL_MM**3
    first, second = np.triu_indices(len(volumes), 1)
    return edges * (volumes[first] + volumes[second]) / (2 * TRAINING_VOXEL_MM3)


def of_another(_flavor: str, _edges: NDArray, others: NDArray) -> NDArray:
    return others


def noisy(flavor: str, edges: NDArray, _others: NDArray) -> NDArray:
    """As much noise as edges differ from each other, within what is possible."""
    noise = np.random.default_rng(6).standard_normal(edges.shape)
    values = edges + noise * edges.std(axis=1, keepdims=True)
    return np.clip(values, *((-1, 1) if flavor.startswith("FC") else (0, None)))


@dataclass(frozen=True)
class Corruption:
    """What is done to which flavors; `apply` takes flavor, edges, and those of other people."""

    name: str
    apply: Callable[[str, NDArray, NDArray], NDArray]
    chosen: Callable[[str], bool]


def corruptions() -> Iterator[Corruption]:
    kinds: dict[str, Callable[[str], bool]] = {
        "FC of one atlas": lambda f: f.startswith("FC") and atlas_of(f) == "fs86",
        "SC of one atlas": lambda f: f.startswith("SC") and atlas_of(f) == "fs86",
        "one FC": lambda f: f == "FCcorr_fs86_hpf",
        "one SC": lambda f: f == "SCsdstream_fs86_volnorm",
        "all FC": lambda f: f.startswith("FC"),
        "all SC": lambda f: f.startswith("SC"),
    }
    for name, apply, chosen in (
        ("regions shuffled", shuffled, ("FC of one atlas", "SC of one atlas", "one FC")),
        ("regions by alphabet", alphabetical, ("FC of one atlas", "SC of one atlas")),
        ("left and right exchanged", sides_exchanged, ("all FC", "all SC", "one FC", "one SC")),
        ("Fisher z", fisher_z, ("all FC", "one FC")),
        ("counts, not volnorm", counts, ("all SC", "one SC")),
        ("noise", noisy, ("all FC", "one FC", "one SC")),
        ("another participant's", of_another, ("all SC", "all FC", "one SC", "one FC")),
    ):
        for kind in chosen:
            yield Corruption(f"{name}: {kind}", apply, kinds[kind])


def judge(model: Krakencoder, cohort: Cohort, mode: str) -> dict[str, list[dict]]:
    """Concerns of each participant by flavor, as the group level has them."""
    n = len(next(iter(cohort.values())))
    names, sites = [str(row) for row in range(n)], [""] * n
    fits = None
    if mode != "none":
        means = CohortMeans()
        means.add(cohort, names, sites)
        fits = fit_cohort(means, model.bundle, mode)
    adapted = adapt_batch(cohort, model.bundle, adaptations=fits, sites=sites)
    seen = model.encode_seen(adapted.edges)
    columns = measure_batch(cohort, adapted, seen, model.bundle)
    matches, modalities = match_modalities(list(seen), lambda f: seen[f].latent, model.bundle)
    found = {}
    for flavor, measures in columns.items():
        if modalities is not None:
            measures |= {"match": matches[flavor], "modality_match": modalities}
        bounds = find_bounds(flavor, measures)
        found[flavor] = [
            find_concerns({name: values[row] for name, values in measures.items()}, bounds)
            for row in range(n)
        ]
    return found


def doubted(
    concerns: Mapping[str, list[dict]], rows: NDArray[np.intp], flavors: list[str]
) -> tuple[float, float, float]:
    """Shares of some participants: doubted at all; as unlike, and as disagreeing."""
    any_, unlike, disagrees = (
        [any(test(concerns[flavor][row]) for flavor in flavors) for row in rows]
        for test in (bool, lambda c: "unlike" in c, lambda c: "disagrees" in c)
    )
    return float(np.mean(any_)), float(np.mean(unlike)), float(np.mean(disagrees))


def corrupt(cohort: Cohort, one: Corruption, rows: NDArray[np.intp], shift: int) -> Cohort:
    n = len(next(iter(cohort.values())))
    found = {}
    for flavor, edges in cohort.items():
        found[flavor] = edges
        if one.chosen(flavor):
            found[flavor] = edges.copy()
            found[flavor][rows] = one.apply(flavor, edges[rows], edges[(rows + shift) % n])
    return found


def report(
    model: Krakencoder, test: Cohort, size: int, rounds: int, mode: str
) -> Iterator[tuple[str, ...]]:
    """Rows of the table."""
    rng = np.random.default_rng(7)
    n = len(next(iter(test.values())))
    draws = [rng.permutation(n)[:size] for _ in range(rounds)]
    cohorts = [{name: edges[rows] for name, edges in test.items()} for rows in draws]
    everyone, flavors = np.arange(size), list(test)
    clean = np.mean([doubted(judge(model, c, mode), everyone, flavors) for c in cohorts], axis=0)
    yield ("clean", *(f"{100 * share:.1f}" for share in clean), "", "")
    for one in corruptions():
        chosen = [flavor for flavor in flavors if one.chosen(flavor)]
        found, whole, others = [], [], []
        for cohort in cohorts:
            for part in range(N_PARTS):
                rows = everyone[part::N_PARTS]
                concerns = judge(model, corrupt(cohort, one, rows, 1 + part), mode)
                found.append(doubted(concerns, rows, chosen))
                rest = np.setdiff1d(everyone, rows)
                others.append(doubted(concerns, rest, flavors)[0])
            concerns = judge(model, corrupt(cohort, one, everyone, 1), mode)
            whole.append(doubted(concerns, everyone, chosen)[0])
        yield (
            one.name, *(f"{100 * share:.0f}" for share in np.mean(found, axis=0)),
            f"{100 * np.mean(others):.1f}", f"{100 * np.mean(whole):.0f}",
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=150, help="participants that train")
    parser.add_argument("--test", type=int, default=150, help="participants that cohorts are of")
    parser.add_argument("--cohort", type=int, default=60, help="size of a cohort")
    parser.add_argument("--rounds", type=int, default=1, help="cohorts drawn")
    parser.add_argument("--atlases", nargs="+", default=["fs86", "shen268"])
    parser.add_argument("--volumes", type=int, default=220, help="of a run of 2 s each")
    parser.add_argument("--components", type=int, default=48)
    parser.add_argument("--epochs", type=int, default=240)
    parser.add_argument("--adaptation", default="meanfit+meanshift")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with threadpool_limits(1), tempfile.TemporaryDirectory() as folder:
        everyone = simulate(
            arguments.train + arguments.test, arguments.atlases, arguments.seed, arguments.volumes
        )
        bundle = train_krakencoder(
            {
                name: edges[: arguments.train].astype(np.float32)
                for name, edges in everyone.items()
            },
            Path(folder) / "model",
            n_components=arguments.components,
            epochs=arguments.epochs,
            seed=arguments.seed,
        )
        test = {name: edges[arguments.train :] for name, edges in everyone.items()}
        header = ("corruption: flavors", "doubted %", "unlike %", "disagrees %", "others %",
                  "whole cohort %")  # fmt: skip
        print(f"{header[0]:<45}" + "".join(f"{title:>15}" for title in header[1:]))
        rows = report(
            Krakencoder(bundle, device="cpu"), test, arguments.cohort, arguments.rounds,
            arguments.adaptation,
        )  # fmt: skip
        for name, *cells in rows:
            print(f"{name:<45}" + "".join(f"{cell:>15}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
