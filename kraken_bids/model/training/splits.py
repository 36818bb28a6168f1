# SPDX-License-Identifier: MIT
"""Who trains, who is watched while training, and who is kept for the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Names of the parts, as files of splits spell them.
PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """A partition of a cohort's participants.

    Parameters
    ----------
    train, validation, test
        Rows of the participants; no two parts share one.
    """

    train: NDArray[np.intp]
    validation: NDArray[np.intp]
    test: NDArray[np.intp]

    @classmethod
    def everyone(cls, n: int) -> Split:
        """All of n participants train."""
        nobody = np.empty(0, dtype=np.intp)
        return cls(np.arange(n), nobody, nobody)

    def labels(self) -> list[str]:
        """Name of the part by row."""
        found = [""] * (self.train.size + self.validation.size + self.test.size)
        for part in PARTS:
            for row in getattr(self, part).tolist():
                found[row] = part
        return found


def draw_split(
    n: int,
    *,
    validation: float = 0.0,
    test: float = 0.0,
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> Split:
    """Draw a split.

    Parameters
    ----------
    n
        Participants.
    validation, test
        Shares: of the participants that are not for the test, and of all.
    groups
        (n,) names of families, whose members stay together; None if all are singles.
    seed
        Of the draw.

    Returns
    -------
    Split
        Without groups and with seed 0 the one that the published program draws:
        ``argsort(random_sample(n))``, of which the first ``int(n (1 - test))`` are not for the
        test, and the same again among these.
    """
    members = _members(groups if groups is not None else [str(row) for row in range(n)])
    rest, tested = _cut(members, 1 - test, seed)
    trained, watched = _cut(rest, 1 - validation, seed)
    return Split(*(_rows(part) for part in (trained, watched, tested)))


def _members(groups: Sequence[str]) -> list[list[int]]:
    """Rows by group, in the order in which groups are first met."""
    found: dict[str, list[int]] = {}
    for row, name in enumerate(groups):
        found.setdefault(name, []).append(row)
    return list(found.values())


def _cut(
    members: Sequence[list[int]], share: float, seed: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Shuffle groups and take whole ones while they fit into a share of the participants."""
    # the published splits were drawn by NumPy's old generator
    order = np.argsort(np.random.RandomState(seed).random_sample(len(members)))
    shuffled = [members[place] for place in order]
    wanted = int(sum(map(len, members)) * share)
    first: list[list[int]] = []
    second: list[list[int]] = []
    taken = 0
    for group in shuffled:
        if taken + len(group) <= wanted:
            first.append(group)
            taken += len(group)
        else:
            second.append(group)
    return first, second


def _rows(members: Sequence[list[int]]) -> NDArray[np.intp]:
    return np.array([row for group in members for row in group], dtype=np.intp)
