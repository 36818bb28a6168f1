# SPDX-License-Identifier: MIT
"""How a cohort of ``kraken-model`` is adapted: whom to fit on, or what was fitted before."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..bids.cohort import read_sites
from ..connectome.adaptation import Adaptation, resolve_mode
from ..errors import InputError, KrakenBIDSError, UsageError
from ..formats.inputs import MatchedInputs
from ..formats.reading.matching import select_participants
from ..model.adaptation_file import load_adaptations_for
from ..model.bundle import Bundle
from ..model.cohort_fit import FitSample, plan_fit
from ..model.fusion import PlannedSource
from ..model.translation import adaptation_key
from .given_inputs import open_matched, read_ids
from .input_lambdas import check_lambdas
from .options import ProblemList

#: How many ids a message names.
_N_NAMED = 5


def _sites(arguments: argparse.Namespace, participants: Sequence[str]) -> tuple[str, ...]:
    """Site of each participant; empty texts if sites are not told apart."""
    if not arguments.adapt_by:
        return ("",) * len(participants)
    table = read_sites(arguments.adapt_by, arguments.participants)
    without = [name for name in participants if name not in table]
    if without:
        more = f" and {len(without) - _N_NAMED} more" if len(without) > _N_NAMED else ""
        raise InputError(
            f"participants {', '.join(without[:_N_NAMED])}{more} have no value in column "
            f"'{arguments.adapt_by}'",
            where=str(arguments.participants),
            fix="Fill it in, or choose others with --participant-label.",
        )
    return tuple(table[name] for name in participants)


@dataclass(frozen=True, eq=False)
class SettledAdaptation:
    """How connectomes are adapted: whom to fit on, or what was fitted, and its keys."""

    mode: str
    sites: tuple[str, ...]
    sample: FitSample | None = None
    fits: Mapping[str, Adaptation] = field(default_factory=dict)
    keys: Sequence[str] = ()


def settle_adaptation(
    arguments: argparse.Namespace,
    bundle: Bundle,
    inputs: MatchedInputs,
    problems: ProblemList,
) -> SettledAdaptation:
    """Settle how connectomes are adapted."""
    flavors = tuple(name for name in inputs.inputs if name in bundle.flavors)
    if bool(arguments.adapt_by) != bool(arguments.participants):
        raise problems.error()  # which has been told
    sites = _sites(arguments, inputs.participants)
    if Path(arguments.adaptation).is_file():
        fits = _load_fits(Path(arguments.adaptation), bundle, inputs, flavors, sites)
        problems.add(check_lambdas(Path(arguments.adaptation), inputs, flavors))
        mode = next(iter(fits.values())).mode
        return SettledAdaptation(mode, sites, fits=fits, keys=tuple(fits))
    mode = resolve_mode(arguments.adaptation)
    if mode == "none" or not flavors:
        return SettledAdaptation("none", sites)
    without = [name for name in flavors if not bundle.row(name)["has_training_mean"]]
    problems.add(
        UsageError(
            f"flavor '{name}' has no training mean in model '{bundle.name}'",
            where="--adaptation",
            fix="Use '--adaptation none'.",
        )
        for name in without
    )
    fit_inputs, fit_sites = inputs, sites
    if arguments.adaptation_source:
        fit_inputs = open_matched(_source_texts(arguments, flavors), bundle, "--adaptation-source")
        fit_sites = _sites(arguments, fit_inputs.participants)
    chosen = np.ones(len(fit_inputs.participants), dtype=bool)
    if arguments.fit_on:
        wanted = select_participants(fit_inputs, read_ids(arguments.fit_on), option="--fit-on")
        chosen = np.isin(fit_inputs.participants, wanted.participants)
    sample = FitSample(mode, fit_inputs, chosen, fit_sites, not arguments.adaptation_source)
    keys, found = plan_fit(sample, flavors)
    problems.add(found)
    if not found:
        problems.add(_without_fit(keys, inputs, flavors, sites))
    return SettledAdaptation(mode, sites, sample=sample, keys=keys)


def _source_texts(arguments: argparse.Namespace, flavors: Sequence[str]) -> list[str]:
    """Texts of ``--adaptation-source``: ``all=FILE`` names none, one FILE alone the one input."""
    texts = [text.removeprefix("all=") for text in arguments.adaptation_source]
    if len(texts) == len(flavors) == 1 and "=" not in texts[0] and Path(texts[0]).is_file():
        return [f"{flavors[0]}={texts[0]}"]
    return texts


def _without_fit(
    keys: Iterable[str], inputs: MatchedInputs, flavors: Sequence[str], sites: tuple[str, ...]
) -> list[KrakenBIDSError]:
    """Name sites and flavors of the cohort that nobody in the sample stands for."""
    known = set(keys)
    labels = np.array(sites)
    lacking = [
        adaptation_key(flavor, site)
        for flavor in flavors
        for site in dict.fromkeys(sites)
        if adaptation_key(flavor, site) not in known
        # of one participant with the flavor, plan_fit has told or refused
        and int((inputs.has(flavor) & (labels == site)).sum()) > 1
    ]
    if not lacking:
        return []
    return [UsageError(
        f"nobody to fit on for {', '.join(lacking)}",
        where="--fit-on, --adaptation-source",
        fix="Choose participants of every site and flavor.",
    )]  # fmt: skip


def _load_fits(
    file: Path,
    bundle: Bundle,
    inputs: MatchedInputs,
    flavors: Sequence[str],
    sites: tuple[str, ...],
) -> dict[str, Adaptation]:
    """Read fitted adaptations and hold them against model and cohort."""
    fits = load_adaptations_for(file, bundle)
    labels = np.array(sites)
    needed = [
        adaptation_key(flavor, site)
        for flavor in flavors
        for site in dict.fromkeys(sites)
        if (inputs.has(flavor) & (labels == site)).any()
    ]
    missing = [key for key in needed if key not in fits]
    if missing:
        by_site = any("@" in key for key in fits) and not any(sites)
        raise UsageError(
            f"was not fitted for {', '.join(missing)}",
            where=str(file),
            fix="It was fitted by site: give --adapt-by and --participants."
            if by_site
            else "Fit it with these flavors and sites, or leave them out.",
        )
    return fits


def check_scale(
    keys: Iterable[str], plan: Mapping[str, Sequence[PlannedSource]], sites: Sequence[str]
) -> None:
    """Refuse targets that cannot be brought back to the scale of the inputs."""
    known = set(keys)
    wanted = [adaptation_key(target, site) for target in plan for site in dict.fromkeys(sites)]
    lacking = [key for key in wanted if key not in known]
    if lacking:
        raise UsageError(
            f"there is no adaptation of {', '.join(lacking)} to map predictions back through",
            where="--predict-scale input",
            fix="Give these flavors as inputs too, leave them out with --predict-to, or use "
            "'--predict-scale training'.",
        )
