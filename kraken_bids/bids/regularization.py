# SPDX-License-Identifier: MIT
"""Files of a search for lambda at the group level: the search, and what is made with it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..atlases import load_atlas
from ..flavors import Flavor
from ..plan import Entities
from ..storage import load_json
from .files import parse_name
from .names import OFF_RECIPE, combined_entities, output_path
from .sidecars import SOFTWARE, connectome_sidecar
from .writers import write_connectome, write_json, write_table

#: Label of ``desc-`` of the tables of a search.
SEARCH_LABEL = "lambda"
#: What of a correlation's sidecar holds for the partial correlation, too.
INHERITED = (
    "NumberOfVolumes",
    "NumberOfRetainedVolumes",
    "RepetitionTime",
    "NumberOfRuns",
    "RetainedSeconds",
    "DegreesOfFreedom",
    "Denoising",
    "OffRecipe",
    "MeasureDescription",
)
#: Descriptions of the columns of a search.
SEARCH_COLUMNS: dict[str, str] = {
    "lambda": "Lambda tried: the share of the mean of the diagonal that is added to it",
    "error": "Mean over matrices of the distance between the precision matrix and the target: "
    "norm of the difference of their upper triangles",
}


def save_lambda_search(
    root: Path,
    flavor: Flavor,
    *,
    tried: NDArray[np.floating],
    errors: NDArray[np.floating],
    facts: Mapping[str, Any],
) -> list[Path]:
    """Write what a search for lambda tried and found.

    Parameters
    ----------
    root
        Data set.
    flavor
        That of the partial correlations.
    tried, errors
        (n,), in increasing order of lambda.
    facts
        Further keys of the sidecar: ``Regularization`` (the lambda found), the target, and so on.

    Returns
    -------
    list of Path
        Table and sidecar. Numbers of the table have all digits.
    """
    path = root / output_path(
        "lambda_search", atlas=flavor.atlas, meas=flavor.meas, desc=SEARCH_LABEL
    )
    rows = list(zip(tried.tolist(), errors.tolist(), strict=True))
    write_table(path, tuple(SEARCH_COLUMNS), rows, digits=17)
    content = {
        "Description": f"Search for the lambda of {flavor} on the cohort",
        **{name: {"Description": text} for name, text in SEARCH_COLUMNS.items()},
        "KrakencoderFlavor": str(flavor),
        **facts,
        "Software": SOFTWARE,
    }
    write_json(path.with_suffix(".json"), content)
    return [path, path.with_suffix(".json")]


def partial_path(correlation_file: Path, flavor: Flavor, session: Entities) -> PurePosixPath:
    """Path of a partial correlation, relative to its data set: that of the correlation.

    Examples
    --------
    >>> file = Path("func/sub-01_task-rest_space-T1w_atlas-fs86_meas-FCcorrHPF_relmat.tsv")
    >>> partial_path(file, Flavor.parse("FCpcorr_fs86_hpf"), (("sub", "01"),)).name
    'sub-01_task-rest_space-T1w_atlas-fs86_meas-FCpcorrHPF_relmat.tsv'
    """
    found = parse_name(correlation_file)
    source = dict(found.source)
    source.pop("meas", None)
    return output_path(
        "connectome",
        tuple((source | dict(session)).items()),
        datatype=flavor.datatype,
        space=found.label("space") or "",
        atlas=flavor.atlas,
        meas=flavor.meas,
        desc=found.label("desc") or "",
    )


def save_partial(
    root: Path,
    path: PurePosixPath,
    flavor: Flavor,
    matrix: NDArray[np.floating],
    *,
    lambda_: float,
    lambda_source: str,
    correlation_file: Path,
    sources: Iterable[str],
) -> Path:
    """Write a partial correlation that the group level has made.

    Parameters
    ----------
    root, path
        Data set, and the file in it: see `partial_path`.
    flavor
        What it is.
    matrix
        (n_regions, n_regions), NaN where a region is missing.
    lambda_, lambda_source
        Regularisation, and where it comes from.
    correlation_file
        What it was made from; numbers of volumes and runs are those of its sidecar.
    sources
        BIDS URI of that file.
    """
    names = load_atlas(flavor.atlas).region_names
    missing = [names[region] for region in np.flatnonzero(np.isnan(matrix).all(axis=0))]
    measured = read_sidecar(correlation_file)
    sidecar = connectome_sidecar(
        flavor,
        sources=sources,
        quality={
            f"pcorr_lambda_{flavor.atlas}": lambda_,
            f"pcorr_lambda_source_{flavor.atlas}": lambda_source,
        },
        missing=missing,
        mark=_mark(correlation_file),
    )
    sidecar |= {key: measured[key] for key in INHERITED if key in measured}
    write_connectome(root / path, matrix, names)
    write_json((root / path).with_suffix(".json"), sidecar)
    return root / path


def _mark(file: Path) -> str:
    """Pipeline that a measured connectome comes from, if it is not the models' recipe."""
    label = parse_name(file).label("desc") or ""
    return label if label in OFF_RECIPE else ""


def read_sidecar(file: Path) -> dict[str, Any]:
    """Read the JSON beside a file; empty if it is absent or damaged."""
    try:
        content = load_json(file.with_suffix(".json"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def withheld_atlases(session_dir: Path) -> list[str]:
    """Atlases of which a session has correlations, but for want of data no partial one.

    Runs of which the average has one do not count.

    Parameters
    ----------
    session_dir
        Folder of the session's outputs.
    """
    found: dict[tuple[Entities, str], bool] = {}
    for file in sorted(session_dir.glob("func/*_meas-FCcorrHPF_*relmat.tsv")):
        parts = parse_name(file)
        name = combined_entities(sorted(parts.entities))
        is_made = file.with_name(file.name.replace("FCcorrHPF", "FCpcorrHPF")).is_file()
        key = (name, parts.label("atlas") or "")
        found[key] = found.get(key, False) or is_made or not is_withheld(file)
    return list(dict.fromkeys(atlas for (_, atlas), is_made in found.items() if not is_made))


def is_withheld(correlation_file: Path) -> bool:
    """Whether no partial correlation was made of a correlation, for want of degrees of freedom."""
    return "PartialCorrelation" in read_sidecar(correlation_file)


def has_few_dof(correlation_file: Path) -> bool:
    """Whether a correlation has fewer degrees of freedom than regions, as its sidecar says.

    Where it does not say how many, the volumes of its runs bound them; unknown is not few.
    """
    sidecar = read_sidecar(correlation_file)
    if "PartialCorrelation" in sidecar:
        return True
    dof, n_kept = sidecar.get("DegreesOfFreedom"), sidecar.get("NumberOfRetainedVolumes")
    if not isinstance(dof, (int, float)):
        if not isinstance(n_kept, (int, float)):
            return False
        dof = n_kept - 1
    missing = sidecar.get("MissingNodes")
    atlas = parse_name(correlation_file).label("atlas") or ""
    n_regions = load_atlas(atlas).n_regions
    return bool(dof < n_regions - len(missing if isinstance(missing, list) else ()))


def read_lambda_source(file: Path) -> str:
    """Where the lambda of a measured partial correlation comes from: a key of `LAMBDA_SOURCES`.

    Files without that key were made elsewhere: ``given``.
    """
    source = read_sidecar(file).get("RegularizationSource")
    return str(source).split(" (")[0] if source else "given"


def read_lambda(file: Path) -> float | None:
    """Lambda of a measured partial correlation, as its sidecar says; None if it does not."""
    value = read_sidecar(file).get("Regularization")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:  # JSON has whole numbers of any length
        return None
    return number if math.isfinite(number) else None


def name_lambdas(counts: Mapping[float, int]) -> str:
    """Say which lambdas there are, and how often.

    Examples
    --------
    >>> name_lambdas({0.06: 2, 0.1: 1})
    '0.06 (2 sessions), 0.1 (1 session)'
    """
    words = [
        f"{value:.6g} ({n} session{'s' if n > 1 else ''})" for value, n in sorted(counts.items())
    ]
    return ", ".join(words)


def count_lambdas(files: Sequence[Path]) -> dict[float, int]:
    """How many of the files have which lambda; those that do not say it are not counted."""
    counts: dict[float, int] = {}
    for file in files:
        value = read_lambda(file)
        if value is not None:
            counts[value] = counts.get(value, 0) + 1
    return counts
