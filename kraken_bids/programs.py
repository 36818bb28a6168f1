# SPDX-License-Identifier: MIT
"""Programs of others that steps call: looked for before anything is started."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence

from .console import n_of
from .errors import KrakenBIDSError, ResourceError
from .machine import missing_five_tissue_programs
from .plan import DiffusionRun, SessionPlan
from .plugin_file import read_plugin
from .settings import Settings

_log = logging.getLogger(__name__)


def check_programs(plans: Sequence[SessionPlan], settings: Settings) -> None:
    """Refuse to start steps whose programs are not there.

    With a plugin of ``--use-plugin`` that has steps done on other machines, which may have what
    this one lacks, it is a warning.

    Parameters
    ----------
    plans
        Sessions that are to be measured. Those without diffusion series and tractograms need no
        programs.
    settings
        Recipe and plugin.

    Raises
    ------
    ResourceError
        If programs, or files that they need, are missing; names all of them.
    """
    concerned = [plan for plan in plans if plan.diffusion]
    if not concerned:
        return
    from .interfaces.mrtrix import INSTALL

    needed, sources = _needed([run for plan in concerned for run in plan.diffusion], settings)
    mrtrix = [name for name in needed if shutil.which(name) is None]
    tissues = [name for source in sources for name in missing_five_tissue_programs(source)]
    fsl = [name for name in tissues if name not in needed]
    if not mrtrix + fsl:
        return
    fixes = [INSTALL] if mrtrix else []
    fixes += ["For --five-tissue fsl, install FSL and set FSLDIR."] if fsl else []
    problem = ResourceError(
        f"programs not found: {', '.join(mrtrix + fsl)}",
        where=f"for structural connectomes of {n_of(len(concerned), 'session')}",
        fix=" ".join([*fixes, "Functional connectomes need none of them (--modality func)."]),
    )
    plugin = read_plugin(settings.plugin_file)
    if plugin is None or not plugin.kind.is_cluster:
        raise problem
    _log.warning("on this machine, if not on the nodes that do the steps, %s", problem)


def tell_programs(plans: Sequence[SessionPlan], settings: Settings) -> None:
    """Say which programs are missing, and start nothing."""
    try:
        check_programs(plans, settings)
    except ResourceError as problem:
        _log.warning("%s", problem)


def _needed(runs: Sequence[DiffusionRun], settings: Settings) -> tuple[list[str], list[str]]:
    """Programs of MRtrix3 that runs need, and what ``5ttgen`` makes tissues by."""
    from kraken_bids.workflows.structural import needed_programs

    needed: dict[str, None] = {}
    sources: dict[str, None] = {}
    for run in runs:
        try:
            names = needed_programs(run, settings.structural)
        except KrakenBIDSError:  # told when the graph is made
            continue
        needed |= dict.fromkeys(names)
        if "5ttgen" in names and run.five_tissue_made is not None:
            sources[run.five_tissue_made.algorithm] = None
    return list(needed), list(sources)
