# SPDX-License-Identifier: MIT
"""The errors that a person can mend.

    KrakenBIDSError
    ├── UsageError      what was typed: an option, a name, a combination
    ├── InputError      what the data set holds: a file missing, cut short or contradicting another
    ├── ResourceError   a model, atlas or program that is missing or altered; a full or locked disk
    └── ModelError      numbers that cannot be: NaN weights, a flavor that the model lacks

A message has three parts: what is wrong with the value met, where (path, participant, flavor,
option), and how to mend it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class KrakenBIDSError(Exception):
    """Base of all errors whose message alone is meant for a person.

    Parameters
    ----------
    what
        What is wrong, with the value met.
    where
        Path, participant, flavor or option concerned.
    fix
        How to mend it, as an imperative.
    """

    exit_code = 70

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        text = f"{what} ({where})" if where else what
        super().__init__(f"{text}. {fix}" if fix else text)


class UsageError(KrakenBIDSError):
    """An option or a combination of options that cannot be carried out."""

    exit_code = 2


class InputError(KrakenBIDSError):
    """An input file that is missing, damaged or in contradiction with another."""

    exit_code = 3


class ResourceError(KrakenBIDSError):
    """A model, atlas, program or folder that is missing, altered or not writable."""

    exit_code = 3


class ModelError(KrakenBIDSError):
    """Weights, transforms or inputs that a model cannot work with."""

    exit_code = 3


class Problems(KrakenBIDSError):
    """Several problems of one invocation, told together: as a list, if there are more than one."""

    def __init__(self, problems: Iterable[KrakenBIDSError]) -> None:
        self.problems = tuple(problems)
        dash = "- " if len(self.problems) > 1 else ""
        super().__init__("\n".join(f"{dash}{problem}" for problem in self.problems))
        self.exit_code = max(
            (problem.exit_code for problem in self.problems), default=KrakenBIDSError.exit_code
        )


def suggest(value: str, choices: Iterable[str]) -> str:
    """Say the nearest known value, or list all of them.

    Examples
    --------
    >>> suggest("fs68", ["fs86", "shen268"])
    "Did you mean 'fs86'? Known: fs86, shen268"
    """
    choices = sorted(choices)
    near = difflib.get_close_matches(value, choices, n=1)
    known = f"Known: {', '.join(choices)}"
    return f"Did you mean '{near[0]}'? {known}" if near else known
