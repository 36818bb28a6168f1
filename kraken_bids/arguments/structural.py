# SPDX-License-Identifier: MIT
"""Options of the structural recipe."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from ..errors import UsageError, suggest
from ..settings import FIVE_TISSUE, StructuralOptions
from .values import Reader, existing_file, parse_count, read_number


def read_structural(n: argparse.Namespace, reader: Reader) -> StructuralOptions:
    """How structural connectomes are made."""

    def radius() -> float:
        return read_number(str(n.assignment_radius), "--assignment-radius", least=0.0)

    return StructuralOptions(
        n_streamlines=reader.read(lambda: parse_count(n.streamlines), 1),
        assignment_radius_mm=reader.read(radius, 4.0),
        sloppy=n.sloppy,
        n_threads=n.omp_nthreads or 1,
        random_seed=n.random_seed,
        keep_tractograms=n.keep_tractograms,
        force=n.force,
        # To ask for such a connectome is to ask for the weights.
        sift2=n.sift2 or any("sift2" in name.lower() for name in n.flavors),
        keep_assignments=n.keep_assignments,
        five_tissue=reader.read(lambda: _five_tissue(str(n.five_tissue)), "auto"),
    )


def _five_tissue(value: str) -> str:
    """A source of the five-tissue image: a name, or a file that may hold labels in braces."""
    option = "--five-tissue"
    if value in FIVE_TISSUE:
        return value
    if not value.endswith((".nii", ".nii.gz", ".mif", ".mif.gz")):
        raise UsageError(
            f"'{value}' is neither a source nor a .nii or .mif image",
            where=option,
            fix=suggest(value, FIVE_TISSUE) + ".",
        )
    unknown = set(re.findall(r"\{(.*?)\}", value)) - {"participant", "session"}
    if unknown:
        raise UsageError(
            f"'{{{min(unknown)}}}' stands for nothing",
            where=f"{option} {value}",
            fix="Use {participant} and {session}; labels are put there without sub- and ses-.",
        )
    path = Path(value).expanduser().absolute()
    return str(path if "{" in value else existing_file(value, option))
