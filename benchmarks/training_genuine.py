# SPDX-License-Identifier: MIT
"""How good trained models are beside a model that the published program itself has trained.

The golden numbers (folder of ``training_inputs``, ``training``, ``model`` and
``make_synthetic.py``) hold a simulated cohort of 60 participants and 5 flavors, the model that the
published program trained on 43 of them, and its record of the 5 whom it watched. Here each
schedule is trained on the same 43 with several seeds, through the same functions that
``kraken-model train`` calls, PCA included; and all models predict the watched, the 12 whom nobody
has seen, and new participants of the same simulated population::

    OMP_NUM_THREADS=1 python benchmarks/training_genuine.py GOLDEN --new 300 --seeds 5

The cohort is simulated again first and must be the one on file; the published program's model must
give the measures that its record says. Both are refused otherwise.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kraken_bids.formats.reading.opening import open_inputs
from kraken_bids.model.bundle import Bundle, convert_checkpoint
from kraken_bids.model.evaluation import evaluate_connectomes
from kraken_bids.model.krakencoder import Krakencoder
from kraken_bids.model.training import TrainingOptions, train_krakencoder
from kraken_bids.model.training.splits import Split

Cohort = Mapping[str, NDArray[np.float32]]

#: What the published program was asked for; the joint schedule keeps its own defaults.
SIZES = {"n_components": 32, "latent_size": 16}
PUBLISHED = {"epochs": 100, "learning_rate": 0.01}
#: Seeds of the simulation: of the cohort on file, and of new participants.
SEED_ON_FILE, SEED_NEW = 101, 303
#: Measures that the record has of those who were watched, and ours.
RECORDED = {
    "top1": "corrloss_OrigScale_val",
    "rank": "corrlossRank_OrigScale_val",
    "residual r": "avgcorr_resid_OrigScale_val",
}
#: Parameters that fields of `TrainingOptions` are read with.
_KINDS: Mapping[str, Any] = {"epochs": int, "batch_size": int, "loss": str, "precision": str}


def read_cohort(folder: Path, flavors: Sequence[str]) -> tuple[list[str], Cohort]:
    """Ids and (n, n_edges) by flavor of a folder of ``.mat`` files."""
    texts = [f"{name}={folder / name}.mat" for name in flavors]
    inputs = open_inputs(texts, {}, latent_size=0)
    ids = list(next(iter(inputs.values())).participants or ())
    return ids, {name: found.read(range(len(ids))) for name, found in inputs.items()}


def simulate(golden: Path, flavors: Sequence[str], n: int, seed: int) -> Cohort:
    """Participants of the population that the cohort on file is of."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, golden / "make_synthetic.py", "--out", folder, "--nocompress",
             "--n", str(n), "--seed", str(seed), "--set", "mini"],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        return read_cohort(Path(folder), flavors)[1]


def judge(bundle: Bundle, people: Cohort, mean: Cohort) -> dict[str, float]:
    """Mean measures over pairs of flavors, and over targets of the fused latents.

    Parameters
    ----------
    bundle
        Model.
    people
        Connectomes of those who are predicted.
    mean
        (n_edges,) by flavor, that residuals are without: of those who trained.
    """
    model = Krakencoder(bundle, device="cpu")
    found: dict[str, list[tuple[float, ...]]] = {}
    for one in model.predict(people, fusions={"fused": list(people)}):
        compared = evaluate_connectomes(
            people[one.target], one.edges, mean=mean[one.target], n_permutations=1
        )
        row = compared.top1, compared.average_rank, compared.residual_correlation
        found.setdefault("fused" if one.source == "fused" else "one", []).append(row)
    return {
        f"{key} {name}": float(np.mean([row[place] for row in found[key]]))
        for key in ("one", "fused")
        for place, name in enumerate(RECORDED)
    }


def read_way(text: str) -> tuple[str, dict[str, Any]]:
    """Read ``SCHEDULE,FIELD=VALUE,…`` such as ``joint,epochs=960``."""
    schedule, *pairs = text.split(",")
    given = dict(pair.split("=", 1) for pair in pairs)
    changes = {name: _KINDS.get(name, float)(value) for name, value in given.items()}
    published = PUBLISHED if schedule == "reference" else {}
    return schedule, {"schedule": schedule, **SIZES, **published, **changes}


def check_simulation(golden: Path, cohort: Cohort) -> None:
    """Refuse a program that simulates other participants than those on file."""
    n = len(next(iter(cohort.values())))
    again = simulate(golden, list(cohort), n, SEED_ON_FILE)
    for name, values in cohort.items():
        if not np.array_equal(values, again[name]):
            raise SystemExit(f"{name}: make_synthetic.py makes other numbers than are on file")


def check_record(found: Mapping[str, float], record: Mapping[str, NDArray[Any]]) -> None:
    """Refuse measures of the published program's model that are not those of its record."""
    for name, key in RECORDED.items():
        told = float(record[key][:, -1].mean())
        print(f"record of the watched, {name}: {told:.4f}, here {found[f'one {name}']:.4f}")
        if not np.isclose(told, found[f"one {name}"], atol=1e-3):
            raise SystemExit("the published program's model does not give what its record says")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("golden", type=Path, nargs="?",
                        default=os.environ.get("KRAKEN_GOLDEN_DIR", ""))  # fmt: skip
    parser.add_argument("--new", type=int, default=300, metavar="N")
    parser.add_argument("--seeds", type=int, default=5, metavar="N")
    parser.add_argument("--ways", nargs="+", default=["reference", "joint"],
                        metavar="SCHEDULE,FIELD=VALUE,…")  # fmt: skip
    arguments = parser.parse_args()
    golden: Path = arguments.golden
    torch.set_num_threads(1)
    record = np.load(golden / "training" / "mini_trainrecord.npz")
    flavors = list(dict.fromkeys(n.split("->")[0].strip() for n in record["trainpath_names"]))
    ids, cohort = read_cohort(golden / "training_inputs", flavors)
    if ids != [name.strip() for name in record["subjects"]]:
        raise SystemExit("training_inputs and the record are of other participants")
    check_simulation(golden, cohort)
    train, watched = record["subjidx_train"], record["subjidx_val"]
    unseen = np.setdiff1d(np.arange(len(ids)), [*train, *watched])
    mean = {name: values[train].mean(0) for name, values in cohort.items()}
    people = {
        "watched": {name: values[watched] for name, values in cohort.items()},
        "unseen": {name: values[unseen] for name, values in cohort.items()},
        "new": simulate(golden, flavors, arguments.new, SEED_NEW),
    }
    print(f"{len(flavors)} flavors, {len(train)} train, {len(watched)} watched, "
          f"{len(unseen)} unseen, {arguments.new} new")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        genuine = convert_checkpoint(
            [golden / "model" / "mini.pt"], [golden / "model" / "mini_ioxfm.npy"],
            Path(folder) / "genuine",
        )  # fmt: skip
        judged = {part: judge(genuine, group, mean) for part, group in people.items()}
        check_record(judged["watched"], record)
        for part, row in judged.items():
            print("\t".join(["participants", "way", "CPU s", *row])) if part == "watched" else None
            show(part, "published program", [{"CPU s": np.nan, **row}])
        for text in arguments.ways:
            rows: dict[str, list[dict[str, float]]] = {}
            for seed in range(arguments.seeds):
                _, changes = read_way(text)
                options = TrainingOptions(**changes, seed=seed)
                start = time.process_time()
                bundle = train_krakencoder(
                    cohort, Path(folder) / f"{text}-{seed}", options=options,
                    split=Split(train, watched, unseen),
                )  # fmt: skip
                seconds = time.process_time() - start
                for part, group in people.items():
                    row = {"CPU s": seconds, **judge(bundle, group, mean)}
                    rows.setdefault(part, []).append(row)
            for part, found in rows.items():
                show(part, text, found)


def show(part: str, way: str, rows: Sequence[Mapping[str, float]]) -> None:
    """Print a line: mean and standard deviation over seeds."""
    cells = []
    for name in rows[0]:
        values = [row[name] for row in rows]
        spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
        cells.append(f"{np.mean(values):.4f}{spread}")
    print("\t".join([part, way, *cells]), flush=True)


if __name__ == "__main__":
    main()
