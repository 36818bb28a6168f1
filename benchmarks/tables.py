# SPDX-License-Identifier: MIT
"""Labelled tables of connectomes: MB of text a second and core, against Python's own formatting.

Writes and reads matrices of the largest atlas through `kraken_bids.bids.writers`, and in the plain
way that it replaces: one ``%.7g`` pattern a row, and `numpy.array` of the cells of a row. CPU time
of one process, both in one run, the best of several rounds. The other kind of file,
``--relmat-format h5``, is written and read beside them.

    python benchmarks/tables.py --regions 439 --rounds 10
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kraken_bids.bids.prediction_file import add_prediction, read_matrix
from kraken_bids.bids.writers import read_connectome, write_connectome


def make_matrices(n_regions: int) -> dict[str, NDArray[np.float32]]:
    """One of each kind: correlations, streamline counts, and one with a missing region."""
    rng = np.random.default_rng(0)
    upper = np.triu(rng.normal(0.2, 0.2, (n_regions, n_regions)), 1)
    correlations = (upper + upper.T + np.eye(n_regions)).astype(np.float32)
    upper = np.triu(rng.poisson(3, (n_regions, n_regions)) * 1.0, 1)
    counts = (upper + upper.T).astype(np.float32)
    missing = correlations.copy()
    missing[5] = missing[:, 5] = np.nan
    return {"correlations": correlations, "counts": counts, "missing region": missing}


def write_plainly(path: Path, matrix: NDArray[np.floating], names: Sequence[str]) -> None:
    pattern = "\t".join(["%.7g"] * len(names))
    rows = [pattern % tuple(row) for row in matrix.astype(np.float64)]
    lines = ["\t".join(["region", *names])]
    lines += [
        f"{name}\t{row.replace('nan', 'n/a')}" for name, row in zip(names, rows, strict=True)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_plainly(path: Path) -> NDArray[np.float64]:
    rows = [line.split("\t")[1:] for line in path.read_text("utf-8").splitlines()[1:]]
    return np.array([
        np.array(["nan" if cell == "n/a" else cell for cell in row], dtype=np.float64)
        for row in rows
    ])


def cpu_s(work: Callable[[], object], rounds: int) -> float:
    """CPU time in s, the best of several rounds."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def measure(
    matrix: NDArray[np.float32], names: Sequence[str], rounds: int, folder: Path
) -> dict[str, float]:
    """CPU time in s of each way to write and read one matrix."""
    ours, plain, binary = (folder / name for name in ("ours.tsv", "plain.tsv", "all.h5"))
    edges = matrix[np.triu_indices(len(names), 1)]
    given = {"source": "fusion", "target": "FCcorr_atlas_hpf"}
    seconds = {
        "written": cpu_s(lambda: write_connectome(ours, matrix, names), rounds),
        "written plainly": cpu_s(lambda: write_plainly(plain, matrix, names), rounds),
        "read": cpu_s(lambda: read_connectome(ours), rounds),
        "read plainly": cpu_s(lambda: read_plainly(plain), rounds),
        "written h5": cpu_s(lambda: add_prediction(binary, "01", edges=edges, **given), rounds),
        "read h5": cpu_s(lambda: read_matrix(binary, **given), rounds),
        "MB": ours.stat().st_size / 1e6,
        "MB plainly": plain.stat().st_size / 1e6,
    }
    np.testing.assert_array_equal(read_connectome(ours)[0].astype(np.float32), matrix)
    binary.unlink()
    return seconds


def report(n_regions: int, rounds: int, folder: Path) -> Iterator[tuple[str, ...]]:
    """Rows of the report."""
    names = [f"region{number:03d}" for number in range(n_regions)]
    for kind, matrix in make_matrices(n_regions).items():
        found = measure(matrix, names, rounds, folder)
        for done in ("written", "read"):
            yield (
                kind, done, f"{found['MB']:.2f}", f"{found['MB'] / found[done]:.0f}",
                f"{found['MB plainly'] / found[f'{done} plainly']:.0f}",
                f"{found[f'{done} plainly'] / found[done]:.1f}",
                f"{found[done] / found[f'{done} h5']:.1f}",
            )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--regions", type=int, default=439)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    header = ("matrix", "", "MB", "MB/s", "MB/s plainly", "times as fast", "h5 times as fast")
    print("  ".join(f"{title:>14}" for title in header))
    with tempfile.TemporaryDirectory() as folder:
        for row in report(arguments.regions, arguments.rounds, Path(folder)):
            print("  ".join(f"{cell:>14}" for cell in row))


if __name__ == "__main__":
    main()
