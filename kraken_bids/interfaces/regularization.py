# SPDX-License-Identifier: MIT
"""Partial correlations with one lambda for a cohort: search it, and make them with it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    Directory,
    SimpleInterface,
    TraitedSpec,
    traits,
)
from numpy.typing import NDArray

from ..atlases import load_atlas
from ..bids.predictions import session_entities
from ..bids.regularization import partial_path, save_lambda_search, save_partial
from ..bids.sidecars import bids_uri
from ..bids.writers import read_connectome
from ..connectome.partial import (
    LambdaSearch,
    partial_correlation,
    regularized_precision,
    search_lambda,
)
from ..errors import InputError
from ..flavors import Flavor
from ..plan import CohortSession, LambdaSearchPlan
from .sessions import Row, file_stamp, identity, measured_lambdas, plain_session, problem_row

_log = logging.getLogger(__name__)

#: Where lambda is searched.
BOUNDS = (0.0, 1.0)


def correlated_session(
    session: CohortSession,
    correlations: Sequence[tuple[str, Path]],
    *,
    withheld: Sequence[str] = (),
    unchanged: Sequence[str] = (),
) -> dict[str, Any]:
    """Write a session in plain values, with the correlations that its partial ones come from.

    Parameters
    ----------
    session, correlations, withheld, unchanged
        As of `LambdaSearchPlan`.

    Returns
    -------
    dict
        As `plain_session`, and ``correlations``: file by atlas, ``correlation_stamps``,
        ``withheld``, ``unchanged``.
    """
    return {
        **plain_session(session),
        "label": session.label,
        "correlations": {atlas: str(file) for atlas, file in correlations},
        "correlation_stamps": [file_stamp(file) for _, file in correlations],
        "withheld": list(withheld),
        "unchanged": list(unchanged),
    }


def plain_search(plan: LambdaSearchPlan, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Write the search of each atlas in plain values, as `SearchLambda` takes it.

    Parameters
    ----------
    plan
        What is searched for; the targets are there.
    rows
        See `correlated_session`.

    Returns
    -------
    list of dict
        ``atlas``, ``target_file``, ``target_name``, ``target_sha256``, and ``files``: label, file
        and stamp of each session that has the correlations; ``few_dof``: labels of those that
        have too few degrees of freedom.
    """
    return [
        {
            "atlas": target.atlas,
            "target_file": str(target.file),
            "target_name": target.name,
            "target_sha256": target.sha256,
            "files": [
                [row["label"], row["correlations"][target.atlas],
                 file_stamp(Path(row["correlations"][target.atlas]))]
                for row in rows
                if target.atlas in row["correlations"]
            ],
            "few_dof": [row["label"] for row in rows if target.atlas in row["withheld"]],
        }
        for target in plan.targets
    ]  # fmt: skip


def read_correlation(file: Path, region_names: Sequence[str]) -> NDArray[np.float64]:
    """Read a correlation, (n_regions, n_regions), NaN rows and columns for missing regions.

    Raises
    ------
    InputError
        If the file cannot be read, is of another atlas, or holds no correlation.
    """
    from ..formats.reading.correlations import normalize

    matrix, _ = read_connectome(file, region_names)
    try:
        return normalize(matrix)
    except InputError as error:
        raise InputError(error.what, where=str(file), fix=error.fix) from error


class _SearchLambdaInputSpec(BaseInterfaceInputSpec):
    search = traits.Dict(mandatory=True, desc="what is searched on, see plain_search")


class _SearchLambdaOutputSpec(TraitedSpec):
    regularization = traits.Float(desc="lambda found")
    source = traits.Str(desc="how it was found, for sidecars")
    out_dir = Directory(desc="what goes into the data set")


class SearchLambda(SimpleInterface):
    """Find the lambda of an atlas for a cohort; the correlations are read one at a time."""

    input_spec = _SearchLambdaInputSpec
    output_spec = _SearchLambdaOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from ..formats.reading.correlations import read_target

        search, folder = self.inputs.search, Path(runtime.cwd)
        left_out: list[str] = []
        found = search_lambda(
            _complete(search, left_out),
            read_target(Path(search["target_file"])),
            bounds=BOUNDS,
            spool_dir=str(folder),
        )
        flavor = Flavor.parse(f"FCpcorr_{search['atlas']}_hpf")
        facts = _facts(found, search, left_out)
        save_lambda_search(
            folder / "tree", flavor, tried=found.tried, errors=found.errors, facts=facts
        )
        self._results["regularization"] = found.lambda_
        self._results["source"] = (
            f"searched on {found.n_matrices} matrices against {search['target_name']}"
        )
        self._results["out_dir"] = str(folder / "tree")
        return runtime


def _complete(search: Mapping[str, Any], left_out: list[str]) -> Iterator[NDArray[np.float64]]:
    """Correlations of all regions; labels of other sessions go to `left_out`."""
    names = load_atlas(search["atlas"]).region_names
    for label, file, _ in search["files"]:
        try:
            matrix = read_correlation(Path(file), names)
        except InputError:  # told where the partial correlation is to be made
            left_out.append(label)
            continue
        if np.isnan(matrix).any():
            left_out.append(label)
        else:
            yield matrix


def _facts(
    found: LambdaSearch, search: Mapping[str, Any], left_out: Sequence[str]
) -> dict[str, Any]:
    """What the sidecar of a search says."""
    return {
        "Regularization": found.lambda_,
        "SmallestError": found.error,
        "Target": {"Name": search["target_name"], "SHA256": search["target_sha256"]},
        "NumberOfMatrices": found.n_matrices,
        "LeftOut": list(left_out),
        "FewDegreesOfFreedom": list(search.get("few_dof", ())),
        "SmallestEigenvalue": found.smallest_eigenvalue,
        "Bounds": list(BOUNDS),
        "IsAtBound": found.lambda_ == BOUNDS[1],
    }


class _RegularizeInputSpec(BaseInterfaceInputSpec):
    sessions = traits.List(traits.Dict, mandatory=True, desc="see correlated_session")
    atlases = traits.List(traits.Str, mandatory=True, desc="atlases searched for")
    lambdas = traits.List(traits.Float, mandatory=True, desc="lambda of each")
    lambda_sources = traits.List(traits.Str, mandatory=True, desc="where each comes from")
    sources_root = traits.Str(desc="root of the data set of measured connectomes")
    sources_name = traits.Str(desc="name of that data set in DatasetLinks")


class _RegularizeOutputSpec(TraitedSpec):
    sessions = traits.List(
        traits.Dict, desc="sessions with the partial correlations made here, and their problems"
    )
    out_dir = Directory(desc="what goes into the data set")


class Regularize(SimpleInterface):
    """Make the partial correlations of a batch of sessions with the lambdas of the cohort."""

    input_spec = _RegularizeInputSpec
    output_spec = _RegularizeOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        folder = Path(runtime.cwd)
        (folder / "tree").mkdir(exist_ok=True)
        work = _Regularization(self.inputs, folder / "tree")
        self._results["sessions"] = [work.session(row) for row in self.inputs.sessions]
        self._results["out_dir"] = str(folder / "tree")
        return runtime


class _Regularization:
    """Sessions on their way from measured partial correlations to those of the cohort."""

    def __init__(self, inputs: Any, root: Path) -> None:
        self.inputs = inputs
        self.root = root
        self.lambdas = dict(zip(inputs.atlases, inputs.lambdas, strict=True))
        self.lambda_sources = dict(zip(inputs.atlases, inputs.lambda_sources, strict=True))

    def session(self, row: Row) -> dict[str, Any]:
        """Make a session's partial correlations; other measured ones are dropped."""
        problems: list[dict[str, str]] = []
        files = dict(zip(row["flavors"], row["files"], strict=True))
        made: dict[str, str] = {}
        for atlas, lambda_ in self.lambdas.items():
            if atlas in row["unchanged"]:
                continue
            name = f"FCpcorr_{atlas}_hpf"
            is_measured = files.pop(name, None) is not None
            if atlas in row["correlations"]:
                try:
                    made[name] = self._make(row, name, lambda_)
                except InputError as error:
                    _log.error("%s: %s", row["label"], error)
                    problems.append(problem_row(row, name, error))
            elif is_measured and atlas not in row["withheld"]:
                problems.append(problem_row(row, name, _without_correlations(row, name)))
        lambdas = {name: self.lambdas[Flavor.parse(name).atlas] for name in made}
        files |= {name: str(self.root / path) for name, path in made.items()}
        return {
            **row,
            "flavors": list(files),
            "files": list(files.values()),
            "stamps": [file_stamp(Path(file)) for file in files.values()],
            "made": made,
            "regularization": {**measured_lambdas(files, without=made), **lambdas},
            "problems": problems,
        }

    def _make(self, row: Row, name: str, lambda_: float) -> str:
        """Write one partial correlation; give its path in the data set."""
        flavor = Flavor.parse(name)
        file = Path(row["correlations"][flavor.atlas])
        correlation = read_correlation(file, load_atlas(flavor.atlas).region_names)
        path = partial_path(file, flavor, session_entities(*identity(row)))
        save_partial(
            self.root,
            path,
            flavor,
            partial_of_present(correlation, lambda_, where=str(file)),
            lambda_=lambda_,
            lambda_source=self.lambda_sources[flavor.atlas],
            correlation_file=file,
            sources=[self._uri(file)],
        )
        return str(path)

    def _uri(self, file: Path) -> str:
        """BIDS URI of a measured connectome; its name if it lies elsewhere."""
        root = self.inputs.sources_root
        if not root or not file.is_relative_to(root):
            return file.name
        return bids_uri(file, self.inputs.sources_name, Path(root))


def partial_of_present(
    correlation: NDArray[np.float64], lambda_: float, *, where: str
) -> NDArray[np.float64]:
    """Partial correlation of the regions that are there, NaN for the others.

    Parameters
    ----------
    correlation
        (n_regions, n_regions), NaN rows and columns for missing regions.
    lambda_
        Not negative.
    where
        File, for errors.

    Raises
    ------
    InputError
        If the correlation cannot be inverted.
    """
    kept = ~np.isnan(correlation).all(axis=0)
    block = np.ix_(kept, kept)
    whole = np.full(correlation.shape, np.nan)
    precision = regularized_precision(correlation[block], lambda_, where=where)
    whole[block] = partial_correlation(precision)
    return whole


def _without_correlations(row: Row, name: str) -> InputError:
    """Error of a session whose partial correlation is left out."""
    correlation = name.replace("FCpcorr", "FCcorr")
    return InputError(
        f"{name} is left out: without {correlation} it cannot be made with the cohort's lambda",
        where=row["label"],
        fix=f"Measure {correlation}, too, or {name} with the lambda that the group level names.",
    )
