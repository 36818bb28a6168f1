# SPDX-License-Identifier: MIT
"""Options of the functional recipe, and of lambda."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..atlases import atlas_names, load_atlas
from ..errors import KrakenBIDSError, Problems, UsageError, suggest
from ..published import published_extras
from ..settings import DENOISING, FunctionalOptions, RegularizationOptions, Settings
from .values import Reader, existing_file, named_paths, read_number, read_pairs, read_share

#: Values of options of the functional recipe, the default first.
RECIPE_CHOICES: dict[str, tuple[str, ...]] = {
    "denoising": DENOISING,
    "compcor": ("exact", "columns"),
    "gsr_source": ("grey_matter", "global_signal"),
    "outliers": ("recipe", "fmriprep"),
}


#: Value of ``--pcorr-lambda`` that leaves lambda to the group level.
SEARCH = "search"


def read_functional(n: argparse.Namespace, reader: Reader) -> FunctionalOptions:
    """How functional connectomes are made."""
    default = FunctionalOptions()

    def lambdas() -> tuple[tuple[str, float], ...]:
        option = "--pcorr-lambda"
        given = dict(default.pcorr_lambda)
        for atlas, text in read_pairs((t for t in n.pcorr_lambda if t != SEARCH), option):
            load_atlas(atlas)
            if text != SEARCH:
                given[atlas] = read_number(text, option, least=0.0)
        return tuple(given.items())

    def chosen(dest: str) -> str:
        known = RECIPE_CHOICES[dest]
        value, option = str(getattr(n, dest)), f"--{dest.replace('_', '-')}"
        if value not in known:  # a configuration may say anything
            raise UsageError(
                f"'{value}' is none of its values", where=option, fix=suggest(value, known) + "."
            )
        return value

    choices = {
        dest: reader.read(lambda dest=dest: chosen(dest), known[0])  # type: ignore[misc]
        for dest, known in RECIPE_CHOICES.items()
    }
    rule = "fmriclean" if n.hpf_edge == "fmriclean" else "hz"
    edge_hz = default.high_pass_edge_hz
    if rule == "hz":
        edge_hz = reader.read(lambda: _edge(n.hpf_edge, most=default.high_pass_hz), edge_hz)
    options = FunctionalOptions(
        denoising=choices["denoising"],
        compcor=choices["compcor"],
        gsr_source=choices["gsr_source"],
        outliers=choices["outliers"],
        high_pass_edge_hz=edge_hz,
        edge_rule=rule,
        pcorr_lambda=reader.read(lambdas, default.pcorr_lambda),
        pcorr_given=tuple(name for name in atlas_names() if name in _fixed_lambdas(n)),
        min_coverage=reader.read(lambda: read_share(n.min_coverage, "--min-coverage"), 0.0),
        force=n.force,
    )
    reader.read(lambda: _check_strategy(options), None)
    return options


def _fixed_lambdas(n: argparse.Namespace) -> set[str]:
    """Atlases whose lambda a person gave as a number."""
    pairs = (text.partition("=") for text in n.pcorr_lambda if text != SEARCH)
    return {atlas for atlas, _, value in pairs if value != SEARCH}


def _edge(text: Any, *, most: float) -> float:
    """Width of the filter's edge in Hz; one beyond the cut-off would let drifts pass."""
    value = read_number(str(text), "--hpf-edge", least=0.0)
    if value > most:
        raise UsageError(
            f"an edge of {value:g} Hz is wider than the cut-off of the filter, {most:g} Hz",
            where="--hpf-edge",
            fix="Give a standard deviation in Hz, such as 0.0029, or fmriclean.",
        )
    return value


def _check_strategy(options: FunctionalOptions) -> None:
    """Refuse options of the recipe where another pipeline would not look at them."""
    default = FunctionalOptions()
    without = [
        option
        for option, name in (
            ("--compcor", "compcor"),
            ("--gsr-source", "gsr_source"),
            ("--outliers", "outliers"),
            ("--hpf-edge", "high_pass_edge_hz"),
            ("--hpf-edge", "edge_rule"),
        )
        if getattr(options, name) != getattr(default, name)
    ]
    if options.denoising != default.denoising and without:
        raise UsageError(
            f"the strategy {options.denoising} has its own regressors, outliers and filter",
            where=f"--denoising, {', '.join(dict.fromkeys(without))}",
            fix="Leave these options out, or use --denoising recipe.",
        )


def read_regularization(
    n: argparse.Namespace, settings: Settings, reader: Reader
) -> RegularizationOptions:
    """What the group level does about lambda."""
    given = dict(text.partition("=")[::2] for text in n.pcorr_lambda if text != SEARCH)
    asked = {atlas for atlas, text in given.items() if text == SEARCH}
    if SEARCH in n.pcorr_lambda:
        asked |= {atlas for atlas in settings.atlases if atlas not in given}
    searched = tuple(atlas for atlas in atlas_names() if atlas in asked)

    def targets() -> tuple[tuple[str, Path], ...]:
        return named_paths(n.pcorr_target, "--pcorr-target", atlas_names(), existing_file)

    options = RegularizationOptions(searched, reader.read(targets, ()))
    reader.read(lambda: _check_regularization(options, settings), None)
    return options


def _check_regularization(options: RegularizationOptions, settings: Settings) -> None:
    """Refuse targets without a search, and searches that cannot be done."""
    problems: list[KrakenBIDSError] = []
    own = dict(options.targets)
    problems += [
        UsageError(
            f"the target of {atlas} is of use only where lambda is searched",
            where="--pcorr-target",
            fix=f"Say --pcorr-lambda {atlas}={SEARCH}, or leave the target out.",
        )
        for atlas in own
        if atlas not in options.searched
    ]
    problems += [
        UsageError(
            f"no target is published for atlas {atlas}",
            where=f"--pcorr-lambda {SEARCH}",
            fix=f"Give one, --pcorr-target {atlas}=FILE, or --pcorr-lambda {atlas}=0.06.",
        )
        for atlas in options.searched
        if atlas not in own and f"regtarget-{atlas}" not in published_extras()
    ]
    if options.searched and Path(settings.translation.adaptation).is_file():
        problems.append(
            UsageError(
                "partial correlations have to have the lambda that the adaptation was fitted with",
                where=f"--pcorr-lambda {SEARCH}, --adaptation {settings.translation.adaptation}",
                fix="Leave the search out, or fit the adaptation again.",
            )
        )
    elif options.searched and settings.level != "group" and settings.translation.model_dir:
        problems.append(
            UsageError(
                "lambda is searched on a cohort, not on one participant",
                where=f"--pcorr-lambda {SEARCH}, --model",
                fix="Leave --model to the group level, or give the lambda that it found.",
            )
        )
    if problems:
        raise Problems(problems)
