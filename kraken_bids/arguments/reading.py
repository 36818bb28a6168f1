# SPDX-License-Identifier: MIT
"""From parsed arguments to `Settings`; everything that is wrong is told at once."""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from ..atlases import atlas_names, default_atlas_names
from ..errors import Problems, ResourceError, UsageError
from ..machine import (
    available_cores,
    available_memory_gb,
    default_work_dir,
    missing_five_tissue_programs,
    parse_memory,
)
from ..plugin_file import check_plugin, read_plugin
from ..settings import Resources, Settings
from .config import apply_config
from .functional import read_functional, read_regularization
from .inputs import (
    DERIVATIVES,
    part_connectomes,
    read_atlases,
    read_coco439,
    read_connectomes,
    read_flavors,
    read_selection,
)
from .structural import read_structural
from .translation import compared_model_dir, read_translation
from .values import (
    Reader,
    existing_file,
    existing_folder,
    folder_to_be,
    named_paths,
    optional_path,
    writable_folder,
)


def settings_from(
    namespace: argparse.Namespace, parser: argparse.ArgumentParser, *, runs_here: bool = True
) -> Settings:
    """Turn parsed arguments into settings.

    Parameters
    ----------
    namespace
        As `kraken_bids.cli.make_parser` parses them.
    parser
        The parser; it tells which options ``--config-file`` may fill.
    runs_here
        Whether this machine does the work, and must have the programs that options need.

    Raises
    ------
    KrakenBIDSError
        The one problem met, or `Problems` with all of them.
    """
    reader = Reader()
    if namespace.config_file:
        reader.read(lambda: apply_config(namespace, parser, file=namespace.config_file), None)
    n = namespace
    bids_dir = reader.read(lambda: existing_folder(n.bids_dir, "BIDS_DIR"), Path(n.bids_dir))
    output_dir = reader.read(lambda: _own_folder(n.output_dir, "OUTPUT_DIR", n), Path())
    flavors: tuple[str, ...] = ()
    ready, folders = part_connectomes(n)
    measures = n.level == "participant" and not ready
    flavors = reader.read(lambda: read_flavors(n.flavors, are_measured=measures), flavors)
    work_text = n.work_dir or str(default_work_dir())
    settings = Settings(
        bids_dir=bids_dir,
        output_dir=output_dir,
        work_dir=reader.read(lambda: _own_folder(work_text, "--work-dir", n), Path()),
        level=n.level,
        selection=read_selection(n, reader),
        derivatives=reader.read(
            lambda: named_paths(folders, "--derivatives", DERIVATIVES, existing_folder),
            (),
        ),
        connectomes=reader.read(lambda: read_connectomes(ready), ()),
        subjects_dir=optional_path(
            n.fs_subjects_dir, "--fs-subjects-dir", reader, existing_folder
        ),
        atlases=reader.read(lambda: read_atlases(n.atlases, flavors), default_atlas_names()),
        atlas_files=reader.read(
            lambda: named_paths(n.atlas_file, "--atlas-file", atlas_names(), existing_file), ()
        ),
        coco439=reader.read(lambda: read_coco439(n), "auto"),
        modalities=(n.modality,) if n.modality else ("func", "dwi"),
        flavors=flavors,
        functional=read_functional(n, reader),
        structural=read_structural(n, reader),
        translation=read_translation(n, reader, flavors=flavors, bids_dir=bids_dir),
        resources=_read_resources(n, reader),
        plugin_file=optional_path(n.use_plugin, "--use-plugin", reader, existing_file),
        bids_database_dir=Path(n.bids_database_dir) if n.bids_database_dir else None,
        force=n.force,
        keep_work=n.keep_work,
        write_graph=n.write_graph,
        resource_monitor=n.resource_monitor,
        stop_on_first_crash=n.stop_on_first_crash,
    )
    settings = replace(settings, regularization=read_regularization(n, settings, reader))
    settings = replace(settings, compared_model_dir=compared_model_dir(n, settings))
    reader.read(lambda: _check_denoising(settings), None)
    reader.read(lambda: _check_folders(settings), None)
    if runs_here:
        reader.read(lambda: _check_programs(settings), None)
    if settings.plugin_file:
        reader.read(
            lambda: check_plugin(
                read_plugin(settings.plugin_file),
                work_dir=settings.work_dir,
                is_work_dir_given=bool(n.work_dir),
            ),
            None,
        )
    if len(reader.problems) == 1:
        raise reader.problems[0]
    if reader.problems:
        raise Problems(reader.problems)
    return settings


def _own_folder(text: str, option: str, namespace: argparse.Namespace) -> Path:
    """A folder of outputs or of work; made only where something will be written."""
    if namespace.status:  # others' runs may be looked at, too
        return Path(text).expanduser().absolute()
    return (folder_to_be if namespace.dry_run else writable_folder)(text, option)


def _check_folders(settings: Settings) -> None:
    if settings.output_dir == settings.bids_dir:
        raise UsageError(
            "OUTPUT_DIR is BIDS_DIR",
            where=str(settings.bids_dir),
            fix=f"Write to {settings.bids_dir / 'derivatives' / 'kraken-bids'}, for example.",
        )


def _check_denoising(settings: Settings) -> None:
    """Refuse a strategy for series that were denoised before."""
    given = {name for name, _ in settings.derivatives}
    if settings.functional.mark and settings.level == "participant" and "xcp_d" in given:
        raise UsageError(
            "series of XCP-D are denoised already",
            where="--denoising, --derivatives xcp_d",
            fix="Leave --denoising out, or give fMRIPrep's outputs in place of XCP-D's.",
        )


def _check_programs(settings: Settings) -> None:
    """Refuse options that need what is not installed."""
    if settings.resource_monitor and find_spec("psutil") is None:
        raise ResourceError(
            "psutil is not installed",
            where="--resource-monitor",
            fix="Install it (pip install psutil), or leave the option out.",
        )
    if settings.write_graph and shutil.which("dot") is None:
        raise ResourceError(
            "the program dot is not installed",
            where="--write-graph",
            fix="Install graphviz (sudo apt-get install graphviz), or leave the option out.",
        )
    source = settings.structural.five_tissue
    is_step = settings.level == "participant" and "dwi" in settings.modalities
    if is_step and settings.plugin_file is None:  # else steps may run on other machines
        missing = missing_five_tissue_programs(source)
        if missing:
            raise ResourceError(
                f"not found: {', '.join(missing)}",
                where=f"--five-tissue {source}",
                fix="Install MRtrix3 and FSL and set FSLDIR, or leave the option out: tissues "
                "then come from FreeSurfer's labels.",
            )


def _read_resources(n: argparse.Namespace, reader: Reader) -> Resources:
    def positive(value: int | None, option: str, default: int) -> int:
        if value is not None and value < 1:
            raise UsageError(f"{value} is too small", where=option, fix="Give 1 or more.")
        return value or default

    def memory() -> float:
        if n.mem_mb:
            return parse_memory(n.mem_mb, unit="M")
        return parse_memory(n.mem) if n.mem else available_memory_gb()

    n_procs = reader.read(lambda: positive(n.nprocs, "--nprocs", available_cores()), 1)
    omp = reader.read(lambda: positive(n.omp_nthreads, "--omp-nthreads", 1), 1)
    if omp > n_procs:
        reader.problems.append(
            UsageError(
                f"{omp} threads a program, but {n_procs} in all",
                where="--omp-nthreads, --nprocs",
                fix="Raise --nprocs or lower --omp-nthreads.",
            )
        )
    return Resources(n_procs=n_procs, omp_nthreads=omp, mem_gb=reader.read(memory, 1.0))
