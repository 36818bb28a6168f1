# SPDX-License-Identifier: MIT
"""The search for lambda at the group level, before any work: targets, and who has correlations.

Also what is said of lambdas that were measured: participants of one cohort should have one.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Sequence
from pathlib import Path

from .atlases import load_atlas
from .bids.names import output_path
from .bids.regularization import SEARCH_LABEL, count_lambdas, name_lambdas, read_sidecar
from .errors import InputError, KrakenBIDSError, Problems
from .fetch import find_files, held_file, search_dirs
from .flavors import Flavor
from .plan import CohortSession, LambdaSearchPlan, LambdaTarget
from .published import published_extras
from .settings import FunctionalOptions, Settings

_log = logging.getLogger(__name__)


def plan_lambda_search(
    settings: Settings,
    sessions: Sequence[CohortSession],
    *,
    model_flavors: Collection[str] = (),
    fetch: bool = True,
) -> LambdaSearchPlan | None:
    """Find what a search for lambda needs; None if none is asked for.

    Parameters
    ----------
    settings
        Those of the run.
    sessions
        The cohort with all its connectomes, whichever of them are asked for.
    model_flavors
        Flavors of the model: partial correlations that it lacks are not made. Empty if not known.
    fetch
        Whether published targets are fetched if need be. Else those that are not here are left
        without a file, and files are not read.

    Raises
    ------
    KrakenBIDSError
        If there are no correlations to search on, or targets cannot be fetched or are none:
        `Problems` with all of them.
    """
    asked = settings.regularization.searched
    if not asked:
        return None
    atlases = [atlas for atlas in asked if _is_wanted(atlas, settings, sessions, model_flavors)]
    if not atlases:
        raise InputError(
            f"there are no correlations to search lambda on for {', '.join(asked)}",
            where="--pcorr-lambda search",
            fix="Leave the search out, or measure FCcorr_<atlas>_hpf first.",
        )
    targets, problems = [], []
    for atlas in atlases:
        try:
            targets.append(_find_target(atlas, settings, fetch=fetch))
        except KrakenBIDSError as problem:
            problems.append(problem)
    if problems:
        raise Problems(problems) if len(problems) > 1 else problems[0]
    correlations = tuple(_correlations(session, atlases) for session in sessions)
    return LambdaSearchPlan(tuple(targets), correlations)


def _correlations(session: CohortSession, atlases: Sequence[str]) -> tuple[tuple[str, Path], ...]:
    """Files of a session's correlations by atlas, those that it has."""
    files = dict(session.connectomes)
    named = ((atlas, f"FCcorr_{atlas}_hpf") for atlas in atlases)
    return tuple((atlas, files[name]) for atlas, name in named if name in files)


def _is_wanted(
    atlas: str,
    settings: Settings,
    sessions: Sequence[CohortSession],
    model_flavors: Collection[str],
) -> bool:
    """Whether an atlas' lambda would be of use; says why not."""
    partial = f"FCpcorr_{atlas}_hpf"
    reason = ""
    if settings.flavors and partial not in settings.flavors:
        reason = f"{partial} is not among --flavors"
    elif model_flavors and partial not in model_flavors:
        reason = f"the model lacks {partial}"
    elif not any(_correlations(session, [atlas]) for session in sessions):
        reason = f"nobody has FCcorr_{atlas}_hpf"
    if reason:
        _log.warning("lambda of %s is not searched for: %s", atlas, reason)
    return not reason


def _find_target(atlas: str, settings: Settings, *, fetch: bool) -> LambdaTarget:
    """Find, fetch and look at the target of an atlas."""
    own = dict(settings.regularization.targets).get(atlas)
    if own is not None:
        _check_target(atlas, own)
        return LambdaTarget(atlas, own.name, _sha256(own), own)
    name = f"regtarget-{atlas}"
    published = published_extras()[name].files[0]
    file = find_files([published])[0] if fetch else held_file(published, search_dirs())
    if file is not None:
        _check_target(atlas, file)
    return LambdaTarget(atlas, name, published.sha256, file)


def _check_target(atlas: str, file: Path) -> None:
    """Refuse what is no precision matrix, or that of another atlas."""
    from .formats.reading.correlations import read_target

    n_regions = load_atlas(atlas).n_regions
    target = read_target(file)
    if len(target) != n_regions:
        raise InputError(
            f"has {len(target)} regions, {atlas} has {n_regions}",
            where=f"--pcorr-target {atlas}={file}",
            fix="Give a target of the same atlas.",
        )


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def tell_search(search: LambdaSearchPlan) -> None:
    """Say what is searched for, on how many matrices and against what."""
    for target in search.targets:
        n_matrices = sum(target.atlas in dict(row) for row in search.correlations)
        _log.info(
            "lambda of FCpcorr_%s_hpf is searched for: %d matrices, target %s%s",
            target.atlas,
            n_matrices,
            target.name,
            "" if target.file else " (to be fetched)",
        )


def tell_found(search: LambdaSearchPlan, dataset_dir: Path) -> None:
    """Say what was found, and what is unusual of it."""
    for atlas, flavor in zip(search.atlases, map(Flavor.parse, search.flavors), strict=True):
        path = output_path("lambda_search", atlas=atlas, meas=flavor.meas, desc=SEARCH_LABEL)
        facts = read_sidecar(dataset_dir / path)
        found, left_out = float(facts["Regularization"]), facts["LeftOut"]
        _log.info("lambda of %s: %.6g, on %d matrices", flavor, found, facts["NumberOfMatrices"])
        if left_out:
            some = ", ".join(left_out[:5]) + (" …" if len(left_out) > 5 else "")
            _log.warning(
                "%d sessions are left out of the search for the lambda of %s, for regions are "
                "missing or the file cannot be used: %s",
                len(left_out),
                flavor,
                some,
            )
        if facts["IsAtBound"]:
            _log.warning("lambda of %s lies at the end of what was searched", flavor)


def tell_measured_lambdas(
    sessions: Sequence[CohortSession], settings: Settings, *, searched: Collection[str] = ()
) -> None:
    """Warn of partial correlations that were not measured with one lambda, or the one given.

    Parameters
    ----------
    sessions
        The cohort.
    settings
        Those of the run.
    searched
        Atlases whose partial correlations are made again.
    """
    files: dict[str, list[Path]] = {}
    for session in sessions:
        for name, file in session.connectomes:
            kind, atlas, _ = name.split("_")
            if kind == "FCpcorr" and atlas not in searched:
                files.setdefault(atlas, []).append(file)
    default, given = dict(FunctionalOptions().pcorr_lambda), dict(settings.functional.pcorr_lambda)
    for atlas, measured in files.items():
        counts = count_lambdas(measured)
        value = given.get(atlas)
        if len(counts) > 1:
            _log.warning(
                "partial correlations of %s were measured with several lambdas: %s. Measure them "
                "again with one, or say --pcorr-lambda %s=search",
                atlas,
                name_lambdas(counts),
                atlas,
            )
        elif counts and value not in {None, default.get(atlas), *counts}:
            _log.warning(
                "--pcorr-lambda %s=%g has no effect at the group level: partial correlations "
                "were measured with %s",
                atlas,
                value,
                name_lambdas(counts),
            )


def tell_adapted_lambdas(sessions: Sequence[CohortSession], adaptation: str) -> None:
    """Warn of partial correlations with another lambda than an adaptation was fitted on.

    Parameters
    ----------
    sessions
        What is to be adapted.
    adaptation
        A mode, or a fitted file: it names the lambda if that was searched for.
    """
    from .model.adaptation_file import load_provenance

    if not Path(adaptation).is_file():
        return
    fitted = load_provenance(Path(adaptation)).get("pcorr_lambda", {})
    for atlas, value in fitted.items():
        name = f"FCpcorr_{atlas}_hpf"
        files = [dict(s.connectomes)[name] for s in sessions if name in dict(s.connectomes)]
        counts = count_lambdas(files)
        if set(counts) - {value}:
            _log.warning(
                "%s was fitted on partial correlations of %s with lambda %r, but those to adapt "
                "have %s: measure them with --pcorr-lambda %s=%r",
                adaptation, atlas, value, name_lambdas(counts), atlas, value,
            )  # fmt: skip


def tell_later_search(settings: Settings) -> None:
    """Warn, at the participant level, that a search is the group level's."""
    searched = settings.regularization.searched
    given = dict(settings.functional.pcorr_lambda)
    if searched:
        words = ", ".join(f"{atlas} {given.get(atlas, 0.06):g}" for atlas in searched)
        _log.warning(
            "lambda is searched for at the group level; participants' partial correlations are "
            "measured with %s",
            words,
        )
