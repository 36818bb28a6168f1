# SPDX-License-Identifier: MIT
"""``kraken-model pcorr``: regularised partial correlations, or precisions, from correlations."""

from __future__ import annotations

import argparse
import logging
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..console import n_of
from ..errors import InputError, KrakenBIDSError, UsageError
from .pcorr_options import Request, add_arguments, collected, raise_all, read_request

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..connectome.partial import LambdaSearch
    from ..connectome.spectra import MatrixMean
    from ..formats.reading.correlations import Correlations
    from ..formats.writing.squares import MatrixFacts

__all__ = ["add_arguments", "run"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Cohort:
    """Correlations that were looked through.

    Parameters
    ----------
    source, request
        What was opened, and what is asked for.
    incomplete
        Ids of participants who lack regions.
    """

    source: Correlations
    request: Request
    incomplete: frozenset[str] = field(default_factory=frozenset)

    def matrix(self, position: int) -> NDArray[np.float64]:
        """Normalised matrix of one participant, NaN for missing regions."""
        from ..formats.reading.correlations import normalize

        typed = self.request.typed
        return normalize(
            self.source.read(position), keep_scale=typed.keep_scale, symmetrize=typed.symmetrize
        )

    def complete(self, chosen: Iterable[str]) -> Iterator[NDArray[np.float64]]:
        """Matrices of those chosen that have all regions."""
        for participant in chosen:
            if participant not in self.incomplete:
                yield self.matrix(self.source.participants.index(participant))


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``pcorr``."""
    from threadpoolctl import threadpool_limits

    request = read_request(arguments)
    cohort, target = _open(request)
    with threadpool_limits(1):  # a thread a matrix wastes less than many threads a matrix
        found = None
        if request.lambda_ is None:
            found = _search(cohort, target)
        raw = found.raw if found else request.lambda_
        facts = _facts(request, cohort, raw if raw is not None else math.nan)
        _write(cohort, facts)
    if found:
        print(f"{facts.lambda_!r}")
    return 0


def _open(request: Request) -> tuple[Cohort, NDArray[np.float64] | None]:
    """Open the inputs, look through all matrices, and tell of all problems."""
    from ..formats.reading.correlations import open_correlations, read_target
    from ..formats.writing.squares import check_matrix_output

    problems: list[KrakenBIDSError] = []
    target = None
    with collected(problems):
        target = read_target(request.target) if request.target else None
    try:
        source = open_correlations(request.file, name=request.name)
    except KrakenBIDSError as error:
        raise_all([*problems, error])
        raise
    raise_all([*problems, *_cohort_problems(source, target, request)])
    if request.typed.output:
        check_matrix_output(
            request.typed.output,
            participants=source.participants,
            facts=_facts(request, Cohort(source, request), 0.0),
        )
    if not source.has_ids:
        _log.warning("%s has no ids: participants are numbered", source.where)
    return _looked_through(Cohort(source, request)), target


def _cohort_problems(
    source: Correlations, target: NDArray[np.float64] | None, request: Request
) -> list[KrakenBIDSError]:
    from ..atlases import atlas_names, load_atlas
    from ..formats.reading.checks import name_some

    problems: list[KrakenBIDSError] = []
    if not source.participants:
        problems.append(
            InputError("holds nobody", where=source.where, fix="Give a file with participants.")
        )
    if target is not None and len(target) != source.n_regions:
        problems.append(
            InputError(
                f"has {len(target)} regions, the input has {source.n_regions}",
                where=f"--target {request.target}",
                fix="Give a target of the same atlas.",
            )
        )
    strangers = [name for name in request.search_on if name not in source.participants]
    if strangers:
        problems.append(
            UsageError(
                f"participants {name_some(strangers)} are not in {source.where}",
                where="--search-on",
                fix=f"It has {name_some(source.participants)}.",
            )
        )
    atlas = request.flavor.atlas if request.flavor else ""
    if atlas in atlas_names() and load_atlas(atlas).n_regions != source.n_regions:
        problems.append(
            InputError(
                f"holds matrices of {source.n_regions} regions, "
                f"{atlas} has {load_atlas(atlas).n_regions}",
                where=f"{request.name} in {source.where}",
                fix="Give the flavor that the file holds.",
            )
        )
    return problems


def _looked_through(cohort: Cohort) -> Cohort:
    """Look at every matrix once; tell of all that are no correlations."""
    import numpy as np

    from ..formats.reading.checks import name_some

    source = cohort.source
    errors: list[tuple[str, KrakenBIDSError]] = []
    incomplete: list[str] = []
    for position, participant in enumerate(source.participants):
        try:
            if np.isnan(cohort.matrix(position)).any():
                incomplete.append(participant)
        except InputError as error:
            errors.append((participant, error))
    problems = _told(errors, source.where)
    typed = cohort.request.typed
    if incomplete and typed.geometric and typed.output_mean:
        problems.append(
            InputError(
                f"participants {name_some(incomplete)} lack regions: there is no geometric mean",
                where=source.where,
                fix="Leave --geometric out, or give complete matrices.",
            )
        )
    raise_all(problems)
    if incomplete:
        _log.warning(
            "%s with missing regions, which stay NaN: %s",
            n_of(len(incomplete), "participant"),
            name_some(incomplete),
        )
    return Cohort(source, cohort.request, frozenset(incomplete))


def _told(errors: Sequence[tuple[str, KrakenBIDSError]], where: str) -> list[KrakenBIDSError]:
    """One error for all participants whose problems differ in numbers at most."""
    from ..formats.reading.checks import name_some

    alike: dict[str, list[tuple[str, KrakenBIDSError]]] = {}
    for participant, error in errors:
        alike.setdefault(re.sub(r"[-+.\d]+", "", error.what), []).append((participant, error))
    told: list[KrakenBIDSError] = []
    for group in alike.values():
        first = group[0][1]
        names = name_some([participant for participant, _ in group])
        example = " (the first)" if any(e.what != first.what for _, e in group) else ""
        told.append(
            InputError(f"participants {names}: {first.what}{example}", where=where, fix=first.fix)
        )
    return told


def _search(cohort: Cohort, target: NDArray[np.float64] | None) -> LambdaSearch:
    """Find lambda, say how, and write the table and the figure."""
    from ..connectome.partial import search_lambda

    typed = cohort.request.typed
    chosen = cohort.request.search_on or cohort.source.participants
    left_out = [name for name in chosen if name in cohort.incomplete]
    if left_out:
        _log.warning("%d of them are left out of the search", len(left_out))
    if len(left_out) == len(chosen):
        raise InputError(
            "no participant to search on has all regions",
            where=cohort.source.where,
            fix="Give --lambda a number, or correlations without missing regions.",
        )
    found = search_lambda(
        cohort.complete(chosen),
        target,
        grid_size=typed.grid_size,
        n_loops=typed.grid_loops,
        bounds=tuple(typed.lambda_range),
        geometric=typed.geometric,
        n_threads=cohort.request.n_threads,
    )
    _tell(found, cohort.request)
    _write_search(found, cohort)
    return found


def _tell(found: LambdaSearch, request: Request) -> None:
    target = request.target or "the mean precision of these participants"
    _log.info(
        "Lambda %.6g: mean distance %.6g to %s, %s",
        found.raw,
        found.error,
        target,
        n_of(found.n_matrices, "participant"),
    )
    low, high = request.typed.lambda_range
    if found.raw == high or (found.raw == low and low > 0):
        _log.warning("Lambda lies at the end of what was searched (%g to %g)", low, high)
    if found.smallest_eigenvalue < -1e-6:
        _log.warning(
            "There are negative eigenvalues, the smallest %.3g: the search takes them for 0",
            found.smallest_eigenvalue,
        )
    if found.smallest_eigenvalue < 1e-6 and request.target is None:
        _log.warning(
            "There are singular matrices (fewer volumes than regions?): their mean precision is "
            "a poor target; give --target"
        )


def _write_search(found: LambdaSearch, cohort: Cohort) -> None:
    from ..bids.writers import write_table
    from ..storage import atomic_path

    typed = cohort.request.typed
    if typed.search_table:
        rows = list(zip(found.tried.tolist(), found.errors.tolist(), strict=True))
        write_table(typed.search_table, ("lambda", "error"), rows, digits=17)
    if typed.figure:
        from ..report.canvas import save_png
        from ..report.search_figure import draw_search

        title = f"{n_of(found.n_matrices, 'participant')}, {cohort.source.n_regions} regions"
        drawing = draw_search(found.tried, found.errors, best=found.raw, title=title)
        with atomic_path(typed.figure) as temporary:
            save_png(drawing, temporary)


def _facts(request: Request, cohort: Cohort, raw: float) -> MatrixFacts:
    from ..formats.writing.squares import MatrixFacts

    decimals = request.typed.reference_rounding
    rounded = raw if decimals is None else round(raw, decimals)
    if rounded == 0 < raw:
        _log.warning("Lambda %g is rounded to 0: nothing is regularised", raw)
    return MatrixFacts(
        lambda_=rounded,
        lambda_raw=raw,
        kind=request.kind,
        n_regions=cohort.source.n_regions,
        flavor=request.flavor,
    )


def _write(cohort: Cohort, facts: MatrixFacts) -> None:
    """Compute all matrices, and write them and their mean."""
    from ..connectome.spectra import MatrixMean
    from ..formats.writing.squares import MATRIX_WRITERS, MEAN_WRITERS, fill_tree
    from ..model.storage import replaced_dir

    output, mean_file = cohort.request.typed.output, cohort.request.typed.output_mean
    if output is None and mean_file is None:
        return
    mean = MatrixMean(geometric=cohort.request.typed.geometric)
    matrices = _computed(cohort, facts)
    if mean_file is not None:
        matrices = _added(matrices, mean)
    participants = cohort.source.participants
    if output is None:
        for _ in matrices:
            pass
    elif output.suffix:
        MATRIX_WRITERS[output.suffix.lower()](output, participants, matrices, facts)
    else:
        with replaced_dir(output, names=(), kind="empty folder") as folder:
            fill_tree(folder, participants, matrices, facts)
    if mean_file is not None:
        MEAN_WRITERS[mean_file.suffix.lower()](mean_file, mean.result(), facts)
    written = [str(path) for path in (output, mean_file) if path]
    _log.info(
        "%s: %s of %s, lambda %.6g",
        ", ".join(written),
        facts.kind,
        n_of(len(participants), "participant"),
        facts.lambda_,
    )


def _added(
    matrices: Iterable[NDArray[np.float64]], mean: MatrixMean
) -> Iterator[NDArray[np.float64]]:
    """Pass matrices on that a mean is taken of."""
    for matrix in matrices:
        mean.add(matrix)
        yield matrix


def _computed(cohort: Cohort, facts: MatrixFacts) -> Iterator[NDArray[np.float64]]:
    """Partial correlations or precisions of all participants, in order.

    Raises
    ------
    KrakenBIDSError
        After the last one, if there are participants whose matrix cannot be inverted.
    """
    import numpy as np

    from ..connectome.partial import partial_correlation, regularized_precision
    from ..connectome.spectra import in_order
    from ..formats.writing.squares import PARTIAL

    def compute(matrix: NDArray[np.float64]) -> NDArray[np.float64] | InputError:
        kept = ~np.isnan(matrix).all(axis=0)
        block = np.ix_(kept, kept)
        try:
            result = regularized_precision(matrix[block], facts.lambda_)
        except InputError as error:
            return error
        whole = np.full(matrix.shape, np.nan)
        whole[block] = partial_correlation(result) if facts.kind == PARTIAL else result
        return whole

    source = cohort.source
    errors: list[tuple[str, KrakenBIDSError]] = []
    read = (cohort.matrix(position) for position in range(len(source.participants)))
    results = in_order(compute, read, n_threads=cohort.request.n_threads)
    for participant, result in zip(source.participants, results, strict=True):
        if isinstance(result, InputError):
            errors.append((participant, result))
        elif not errors:
            yield result
    raise_all(_told(errors, source.where))
