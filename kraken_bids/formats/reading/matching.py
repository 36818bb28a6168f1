# SPDX-License-Identifier: MIT
"""Inputs of several files brought to the same participants: by id, never by position."""

from __future__ import annotations

import difflib
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from ...errors import InputError, KrakenBIDSError, UsageError
from ..inputs import FlavorInput, MatchedInputs
from .checks import name_some
from .opening import raise_all

_log = logging.getLogger(__name__)

#: Ids shown of each input where they do not fit.
_N_EXAMPLES = 3


def match_inputs(inputs: Mapping[str, FlavorInput], *, must_overlap: bool = True) -> MatchedInputs:
    """Bring inputs to the same participants.

    Parameters
    ----------
    inputs
        By flavor.
    must_overlap
        Whether inputs of which no two share a participant are refused, or told only.

    Returns
    -------
    MatchedInputs
        All participants that any input has. How many each input lacks is logged.

    Raises
    ------
    InputError
        If an input is empty or has an id twice; if some inputs have ids and others none, or none
        has and their numbers differ; if ids differ by leading zeros only; if no participant is
        in more than one of several inputs. `Problems` if there are several.
    """
    raise_all(_problems_within(inputs))
    if any(found.participants is None for found in inputs.values()):
        return _match_by_position(inputs)
    ids = {name: found.participants or () for name, found in inputs.items()}
    participants = tuple(dict.fromkeys(text for texts in ids.values() for text in texts))
    raise_all(_zeros(ids))
    place = {text: number for number, text in enumerate(participants)}
    positions = {}
    for name, texts in ids.items():
        positions[name] = np.full(len(participants), -1, dtype=np.int64)
        positions[name][[place[text] for text in texts]] = np.arange(len(texts))
    matched = MatchedInputs(participants, dict(inputs), positions)
    _check_overlap(matched, ids, must_overlap=must_overlap)
    return matched


def _problems_within(inputs: Mapping[str, FlavorInput]) -> list[KrakenBIDSError]:
    """Find what is wrong with single inputs."""
    problems: list[KrakenBIDSError] = []
    if not inputs:
        problems.append(UsageError("no input is given", where="--input", fix="Add 'FLAVOR=FILE'."))
    for name, found in inputs.items():
        where = f"{name} in {found.where}"
        ids = found.participants
        if found.n == 0:
            problems.append(
                InputError("holds no participants", where=where, fix="Leave this input out.")
            )
        if ids is not None and len(set(ids)) < len(ids):
            twice = [text for text, count in Counter(ids).items() if count > 1]
            problems.append(
                InputError(
                    f"participants {name_some(twice)} come more than once",
                    where=where,
                    fix="Give each participant once.",
                )
            )
    return problems


def _match_by_position(inputs: Mapping[str, FlavorInput]) -> MatchedInputs:
    """Take rows of inputs without ids to be the same participants, if that can be."""
    without = [name for name, found in inputs.items() if found.participants is None]
    fix = "Store the ids as 'subjects' beside 'data' in every file."
    if len(without) < len(inputs):
        others = [name for name in inputs if name not in without]
        raise InputError(
            f"{name_some(without)}: no ids, while {name_some(others)} have them",
            where=name_some([inputs[name].where for name in without]),
            fix=fix,
        )
    numbers = {name: found.n for name, found in inputs.items()}
    if len(set(numbers.values())) > 1:
        listed = ", ".join(f"{name} has {n}" for name, n in numbers.items())
        raise InputError(f"numbers of participants differ and there are no ids: {listed}", fix=fix)
    if len(inputs) > 1:
        _log.warning(
            "The %d inputs have no ids: their rows are taken to be the same participants in the "
            "same order",
            len(inputs),
        )
    n = next(iter(numbers.values()))
    return MatchedInputs(
        participants=tuple(str(row + 1) for row in range(n)),
        inputs=dict(inputs),
        positions={name: np.arange(n, dtype=np.int64) for name in inputs},
    )


def _zeros(ids: Mapping[str, Sequence[str]]) -> list[KrakenBIDSError]:
    """Find ids of different inputs that differ by leading zeros only, such as ``007`` and ``7``.

    Two such ids are two participants only where an input has both.
    """
    alike: dict[str, dict[str, set[str]]] = {}
    for name, texts in ids.items():
        for text in texts:
            key = re.sub(r"(?<!\d)0+(?=\d)", "", text)
            alike.setdefault(key, {}).setdefault(text, set()).add(name)
    told = []
    for spellings in alike.values():
        if len(spellings) < 2:
            continue
        (one, first), (two, second) = list(spellings.items())[:2]
        if first - second and second - first:
            told.append(f"'{one}' in {min(first - second)} is '{two}' in {min(second - first)}")
    if not told:
        return []
    return [
        InputError(
            f"ids differ by leading zeros: {'; '.join(told[:_N_EXAMPLES])}"
            + (f" and {len(told) - _N_EXAMPLES} more" if len(told) > _N_EXAMPLES else ""),
            fix="Write the ids alike in all inputs; MATLAB drops zeros where ids are numbers.",
        )
    ]


def _check_overlap(
    matched: MatchedInputs, ids: Mapping[str, Sequence[str]], *, must_overlap: bool
) -> None:
    """Log what each input lacks; refuse inputs of which no two share a participant."""
    n = len(matched.participants)
    n_inputs = np.sum([matched.has(name) for name in matched.inputs], axis=0)
    if must_overlap and len(ids) > 1 and n_inputs.max(initial=0) < 2:
        shown = "; ".join(
            f"{name} has {', '.join(texts[:_N_EXAMPLES])}{', …' * (len(texts) > _N_EXAMPLES)}"
            for name, texts in ids.items()
        )
        raise InputError(
            f"no participant is in more than one of {len(ids)} inputs: {shown}",
            fix="Write the ids alike in all inputs, or give the inputs one by one.",
        )
    for name, texts in ids.items():
        has = matched.has(name)
        if len(ids) > 1 and n_inputs[has].max() < 2:
            _log.warning(
                "%s (%s): none of its %d participants (%s) is in another input",
                name, matched.inputs[name].where, len(texts), name_some(list(texts)),
            )  # fmt: skip
        elif len(texts) < n:
            _log.warning("%s: %d of %d participants lack it", name, n - len(texts), n)
        else:
            _log.debug("%s: all %d participants have it", name, n)


def select_participants(
    matched: MatchedInputs, participants: Sequence[str], *, option: str = "--participants"
) -> MatchedInputs:
    """Keep some participants, in the order of the inputs.

    Parameters
    ----------
    matched
        All.
    participants
        Ids to keep, with or without ``sub-``.
    option
        For messages.

    Raises
    ------
    UsageError
        If an id is in no input; all such ids are told.
    """
    asked = [text.strip().removeprefix("sub-") for text in participants]
    known = set(matched.participants)
    unknown = [text for text in dict.fromkeys(asked) if text not in known]
    if unknown or not asked:
        near = difflib.get_close_matches(unknown[0], matched.participants, n=1) if unknown else []
        raise UsageError(
            f"participants {name_some(unknown)} are in no input" if asked else "nobody is chosen",
            where=option,
            fix=(f"Did you mean '{near[0]}'? " if near else "")
            + f"The inputs have {name_some(list(matched.participants))}.",
        )
    chosen = set(asked)
    kept = np.flatnonzero([text in chosen for text in matched.participants])
    return MatchedInputs(
        participants=tuple(matched.participants[row] for row in kept.tolist()),
        inputs=matched.inputs,
        positions={name: positions[kept] for name, positions in matched.positions.items()},
    )
