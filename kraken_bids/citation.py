# SPDX-License-Identifier: MIT
"""The methods text of a run, as files: Markdown, a page, and BibTeX."""

from __future__ import annotations

import functools
import importlib.metadata
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from .bids.writers import write_text
from .boilerplate import OWN_NAME, Methods, describe_methods
from .session_facts import SessionFacts
from .settings import Settings
from .storage import load_json

#: Packages that a text speaks of, by the name that it calls them.
_PACKAGES: dict[str, str] = {
    "Nipype": "nipype",
    "NumPy": "numpy",
    "SciPy": "scipy",
    "PyTorch": "torch",
    "nilearn": "nilearn",
}


def write_citation(
    folders: Iterable[Path],
    settings: Settings,
    *,
    dataset_dir: Path,
    facts: SessionFacts | None = None,
) -> None:
    """Write ``CITATION.md``, ``.html`` and ``.bib`` of a run.

    Parameters
    ----------
    folders
        Where they go: the logs of the run, and those of the data set.
    settings
        Those of the run.
    dataset_dir
        Root of the data set, whose description names the programs behind the inputs.
    facts
        Of one session, where the text is to be of it alone.
    """
    from .report.methods_page import CITATION, build_methods_page

    methods = gather_methods(settings, dataset_dir, facts)
    page = build_methods_page(methods.markdown)
    for folder in folders:
        file = folder / CITATION
        write_text(file, methods.markdown)
        write_text(file.with_suffix(".html"), page)
        write_text(file.with_suffix(".bib"), methods.bibtex)


def gather_methods(
    settings: Settings, dataset_dir: Path, facts: SessionFacts | None = None
) -> Methods:
    """Write the methods text with the versions of all programs that are here and were before."""
    return describe_methods(
        settings, versions=_versions(), inputs=_inputs(dataset_dir), facts=facts
    )


def _inputs(dataset_dir: Path) -> list[tuple[str, str]]:
    """Programs that a data set's description names behind it, and their versions."""
    try:
        description = load_json(dataset_dir / "dataset_description.json")
    except (OSError, ValueError):
        return []
    chain = description.get("GeneratedBy") if isinstance(description, dict) else None
    found = [(str(one.get("Name", "")), str(one.get("Version", "")))
             for one in chain or () if isinstance(one, Mapping)]  # fmt: skip
    return [pair for pair in dict.fromkeys(found) if pair[0] not in {"", OWN_NAME}]


@functools.cache
def _versions() -> dict[str, str]:
    """Versions of the packages and programs on this machine."""
    found = {}
    for name, package in _PACKAGES.items():
        try:
            found[name] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    mrtrix = _mrtrix_version()
    return {**found, **({"MRtrix3": mrtrix} if mrtrix else {})}


def _mrtrix_version() -> str:
    """Version of MRtrix3; empty where it is not installed."""
    program = shutil.which("mrinfo")
    if program is None:
        return ""
    try:
        told = subprocess.run([program, "-version"], capture_output=True, text=True, check=True,
                              timeout=60).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    match = re.search(r"mrinfo (\S+)", told)
    return match[1] if match else ""
