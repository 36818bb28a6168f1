# SPDX-License-Identifier: MIT
"""From parsed arguments to `Settings`; everything that is wrong is told at once."""

from __future__ import annotations

import argparse
import json
import logging
import re
import shutil
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from .atlases import atlas_names, default_atlas_names, load_atlas
from .errors import InputError, KrakenBIDSError, Problems, ResourceError, UsageError, suggest
from .flavors import MEASURED_RECIPES, Flavor
from .machine import (
    available_cores,
    available_memory_gb,
    default_work_dir,
    missing_five_tissue_programs,
    parse_memory,
)
from .published import published_extras
from .settings import (
    COCO439,
    DENOISING,
    FIVE_TISSUE,
    FunctionalOptions,
    RegularizationOptions,
    Resources,
    Selection,
    Settings,
    StructuralOptions,
    TranslationOptions,
)
from .storage import atomic_path

_log = logging.getLogger(__name__)

#: Input derivatives that ``-d NAME=PATH`` may name.
DERIVATIVES = (
    "fmriprep", "xcp_d", "qsiprep", "qsirecon", "tractograms", "timeseries", "connectomes",
)  # fmt: skip
#: Files that predicted connectomes are written to: tables, or one HDF5 file a session.
RELMAT_FORMATS = ("tsv", "h5")
#: Values of ``--adaptation`` other than a file.
ADAPTATION_MODES = ("none", "meanshift", "meanfit", "meanfit+meanshift")
#: Value of ``--pcorr-lambda`` that leaves lambda to the group level.
SEARCH = "search"
#: Values of options of the functional recipe, the default first.
RECIPE_CHOICES: dict[str, tuple[str, ...]] = {
    "denoising": DENOISING,
    "compcor": ("exact", "columns"),
    "gsr_source": ("grey_matter", "global_signal"),
    "outliers": ("recipe", "fmriprep"),
}
#: Queries of ``--bids-filter-file``.
FILTER_QUERIES = ("bold", "mask", "confounds", "anat", "dwi", "xfm")
#: Options that say what to do, not how: they are no part of a configuration file.
ACTIONS = frozenset({
    "dry_run", "status", "reports_only", "boilerplate_only", "config_file", "verbose", "quiet",
    "notrack", "skip_bids_validation", "bids_dir", "output_dir", "level",
})  # fmt: skip

T = TypeVar("T")


@dataclass
class _Reader:
    """Read one value after the other, collecting what is wrong."""

    problems: list[KrakenBIDSError] = field(default_factory=list)

    def read(self, function: Callable[[], T], default: T) -> T:
        try:
            return function()
        except Problems as several:
            self.problems += several.problems
        except KrakenBIDSError as problem:
            self.problems.append(problem)
        return default


def settings_from(namespace: argparse.Namespace, parser: argparse.ArgumentParser) -> Settings:
    """Turn parsed arguments into settings.

    Parameters
    ----------
    namespace
        As `kraken_bids.cli.make_parser` parses them.
    parser
        The parser; its defaults tell which options ``--config-file`` may fill.

    Raises
    ------
    KrakenBIDSError
        The one problem met, or `Problems` with all of them.
    """
    reader = _Reader()
    if namespace.config_file:
        reader.read(lambda: apply_config(namespace, parser, file=namespace.config_file), None)
    n = namespace
    bids_dir = reader.read(lambda: _existing_folder(n.bids_dir, "BIDS_DIR"), Path(n.bids_dir))
    output_dir = reader.read(lambda: _writable_folder(n.output_dir, "OUTPUT_DIR"), Path())
    flavors: tuple[str, ...] = ()
    ready, folders = _part_connectomes(n)
    measures = n.level == "participant" and not ready
    flavors = reader.read(lambda: _flavors(n.flavors, are_measured=measures), flavors)
    work_text = n.work_dir or str(default_work_dir())
    settings = Settings(
        bids_dir=bids_dir,
        output_dir=output_dir,
        work_dir=reader.read(lambda: _writable_folder(work_text, "--work-dir"), Path()),
        level=n.level,
        selection=_read_selection(n, reader),
        derivatives=reader.read(
            lambda: _named_paths(folders, "--derivatives", DERIVATIVES, _existing_folder),
            (),
        ),
        connectomes=reader.read(lambda: _ready_connectomes(ready), ()),
        subjects_dir=_optional(n.fs_subjects_dir, "--fs-subjects-dir", reader, _existing_folder),
        atlases=reader.read(lambda: _atlases(n.atlases, flavors), default_atlas_names()),
        atlas_files=reader.read(
            lambda: _named_paths(n.atlas_file, "--atlas-file", atlas_names(), _existing_file), ()
        ),
        coco439=reader.read(lambda: _coco439(n), "auto"),
        modalities=(n.modality,) if n.modality else ("func", "dwi"),
        flavors=flavors,
        functional=_read_functional(n, reader),
        structural=_read_structural(n, reader),
        translation=_read_translation(n, reader),
        resources=_read_resources(n, reader),
        plugin_file=_optional(n.use_plugin, "--use-plugin", reader, _existing_file),
        bids_database_dir=Path(n.bids_database_dir) if n.bids_database_dir else None,
        force=n.force,
        keep_work=n.keep_work,
        write_graph=n.write_graph,
        resource_monitor=n.resource_monitor,
        stop_on_first_crash=n.stop_on_first_crash,
    )
    settings = replace(settings, regularization=_read_regularization(n, settings, reader))
    settings = replace(settings, compared_model_dir=_compared_model_dir(n, settings))
    reader.read(lambda: _check_denoising(settings), None)
    reader.read(lambda: _check_folders(settings), None)
    reader.read(lambda: _check_programs(settings), None)
    if len(reader.problems) == 1:
        raise reader.problems[0]
    if reader.problems:
        raise Problems(reader.problems)
    return settings


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
    if settings.level == "participant" and "dwi" in settings.modalities:
        missing = missing_five_tissue_programs(source)
        if missing:
            raise ResourceError(
                f"not found: {', '.join(missing)}",
                where=f"--five-tissue {source}",
                fix="Install MRtrix3 and FSL and set FSLDIR, or leave the option out: tissues "
                "then come from FreeSurfer's labels.",
            )


def _existing_folder(text: str, option: str) -> Path:
    path = Path(text).expanduser().absolute()
    if not path.is_dir():
        raise InputError(f"there is no folder {text}", where=option, fix="Check the path.")
    return path


def _existing_file(text: str, option: str) -> Path:
    path = Path(text).expanduser().absolute()
    if not path.is_file():
        raise InputError(f"there is no file {text}", where=option, fix="Check the path.")
    return path


def _writable_folder(text: str, option: str) -> Path:
    path = Path(text).expanduser().absolute()
    try:
        with atomic_path(path / ".kraken-bids" / "probe"):
            pass
        (path / ".kraken-bids" / "probe").unlink(missing_ok=True)  # others probe, too
    except ResourceError as error:
        raise ResourceError(
            f"the folder {text} cannot be written: {error.what.partition(': ')[2]}",
            where=option,
            fix="Give a folder that you may write to.",
        ) from error
    return path


def _optional(
    text: str | None, option: str, reader: _Reader, check: Callable[[str, str], Path]
) -> Path | None:
    return reader.read(lambda: check(text, option), None) if text else None


def _pairs(texts: Iterable[str], option: str) -> list[tuple[str, str]]:
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UsageError(f"'{text}' is not NAME=VALUE", where=option, fix="Add the name.")
        if name in found:
            raise UsageError(f"'{name}' is given twice", where=option, fix="Leave one out.")
        found[name] = value
    return list(found.items())


def _named_paths(
    texts: Iterable[str],
    option: str,
    names: Iterable[str],
    check: Callable[[str, str], Path],
) -> tuple[tuple[str, Path], ...]:
    found, problems = [], []
    known = tuple(names)
    for name, value in _pairs(texts, option):
        try:
            if name not in known:
                raise UsageError(
                    f"'{name}' is unknown", where=option, fix=suggest(name, known) + "."
                )
            found.append((name, check(value, option)))
        except KrakenBIDSError as problem:
            problems.append(problem)
    if problems:
        raise Problems(problems)
    return tuple(found)


def _part_connectomes(n: argparse.Namespace) -> tuple[list[str], list[str]]:
    """What the participant level is given as ready-made connectomes, and the other derivatives."""
    prefix = "connectomes="
    if n.level != "participant":
        return [], list(n.derivatives)
    ready = [text.removeprefix(prefix) for text in n.derivatives if text.startswith(prefix)]
    return ready, [text for text in n.derivatives if not text.startswith(prefix)]


def _ready_connectomes(texts: Iterable[str]) -> tuple[str, ...]:
    """``PATH`` or ``FLAVOR=PATH`` of ready-made connectomes, with absolute paths that exist."""
    found, problems = [], []
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or Path(text).expanduser().exists():
            name, value = "", text
        path = Path(value).expanduser().absolute()
        if not path.exists():
            problems.append(
                InputError(
                    f"there is no file or folder {value}",
                    where=f"--derivatives connectomes={text}",
                    fix="Check the path; it may follow a flavor, as in "
                    "connectomes=FCcorr_fs86_hpf=PATH.",
                )
            )
        found.append(f"{name}={path}" if name else str(path))
    if problems:
        raise Problems(problems)
    return tuple(found)


def _atlases(names: Iterable[str], flavors: Iterable[str]) -> tuple[str, ...]:
    """Atlases asked for; else the default ones and those of the flavors asked for."""
    asked = {load_atlas(name).name for name in names}
    asked = asked or {*default_atlas_names(), *(Flavor.parse(name).atlas for name in flavors)}
    return tuple(name for name in atlas_names() if name in asked)


def _coco439(n: argparse.Namespace) -> str:
    """Whose labels of coco439 are taken; an image given leaves no choice."""
    value, option = str(n.coco439), "--coco439"
    if value not in COCO439:  # a configuration may say anything
        raise UsageError(
            f"'{value}' is none of its values", where=option, fix=suggest(value, COCO439) + "."
        )
    if value == "subject" and any(text.startswith("coco439=") for text in n.atlas_file):
        raise UsageError(
            "own labels and a given label image exclude each other",
            where=f"{option} subject, --atlas-file coco439=…",
            fix="Leave one of the two out.",
        )
    return value


def _labels(texts: Iterable[str], prefix: str) -> tuple[str, ...]:
    found: list[str] = []
    for text in texts:
        if text.startswith("@"):
            file = _existing_file(text[1:], f"--{prefix} list")
            found += _labels(file.read_text("utf-8").split(), prefix)
            continue
        label = text.removeprefix(f"{prefix}-")
        if not re.fullmatch(r"[A-Za-z0-9+]+", label):
            raise UsageError(
                f"'{text}' is not a BIDS label", fix="Labels hold letters, digits and + only."
            )
        found.append(label)
    return tuple(dict.fromkeys(found))


def _read_selection(n: argparse.Namespace, reader: _Reader) -> Selection:
    return Selection(
        participants=reader.read(lambda: _labels(n.participant_label, "sub"), ()),
        sessions=reader.read(lambda: _labels(n.session_id, "ses"), ()),
        tasks=reader.read(lambda: _labels(n.task_id, "task"), ()),
        runs=reader.read(lambda: _labels(n.run_id, "run"), ()),
        filters=reader.read(lambda: _filters(n.bids_filter_file), ()),
    )


def _filters(
    text: str | None,
) -> tuple[tuple[str, tuple[tuple[str, tuple[str | None, ...]], ...]], ...]:
    if not text:
        return ()
    option = "--bids-filter-file"
    file = _existing_file(text, option)
    try:
        content = json.loads(file.read_text("utf-8"))
        queries = {query: dict(entities) for query, entities in content.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(
            f"{file} is not a JSON object of queries: {error}",
            where=option,
            fix='Write it as {"bold": {"task": "rest"}}.',
        ) from error
    for query in queries:
        if query not in FILTER_QUERIES:
            raise UsageError(
                f"query '{query}' is unknown",
                where=f"{option} {file}",
                fix=suggest(query, FILTER_QUERIES) + ".",
            )
    return tuple(
        (query, tuple((entity, _accepted(value)) for entity, value in entities.items()))
        for query, entities in queries.items()
    )


def _accepted(value: Any) -> tuple[str | None, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(None if item is None else str(item) for item in values)


def _read_functional(n: argparse.Namespace, reader: _Reader) -> FunctionalOptions:
    default = FunctionalOptions()

    def lambdas() -> tuple[tuple[str, float], ...]:
        option = "--pcorr-lambda"
        given = dict(default.pcorr_lambda)
        for atlas, text in _pairs((t for t in n.pcorr_lambda if t != SEARCH), option):
            load_atlas(atlas)
            if text != SEARCH:
                given[atlas] = _number(text, option, least=0.0)
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
        min_coverage=reader.read(lambda: _share(n.min_coverage, "--min-coverage"), 0.0),
    )
    reader.read(lambda: _check_strategy(options), None)
    return options


def _fixed_lambdas(n: argparse.Namespace) -> set[str]:
    """Atlases whose lambda a person gave as a number."""
    pairs = (text.partition("=") for text in n.pcorr_lambda if text != SEARCH)
    return {atlas for atlas, _, value in pairs if value != SEARCH}


def _edge(text: Any, *, most: float) -> float:
    """Width of the filter's edge in Hz; one beyond the cut-off would let drifts pass."""
    value = _number(str(text), "--hpf-edge", least=0.0)
    if value > most:
        raise UsageError(
            f"an edge of {value:g} Hz is wider than the cut-off of the filter, {most:g} Hz",
            where="--hpf-edge",
            fix="Give a standard deviation in Hz, such as 0.0029, or fmriclean.",
        )
    return value


def _share(text: Any, option: str) -> float:
    value = _number(str(text), option, least=0.0)
    if value > 1:
        raise UsageError(
            f"'{text}' is no share", where=option, fix="Give a number from 0 to 1, such as 0.5."
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


def _read_regularization(
    n: argparse.Namespace, settings: Settings, reader: _Reader
) -> RegularizationOptions:
    given = dict(text.partition("=")[::2] for text in n.pcorr_lambda if text != SEARCH)
    asked = {atlas for atlas, text in given.items() if text == SEARCH}
    if SEARCH in n.pcorr_lambda:
        asked |= {atlas for atlas in settings.atlases if atlas not in given}
    searched = tuple(atlas for atlas in atlas_names() if atlas in asked)

    def targets() -> tuple[tuple[str, Path], ...]:
        return _named_paths(n.pcorr_target, "--pcorr-target", atlas_names(), _existing_file)

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


def _number(text: str, option: str, *, least: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not value >= least or value == float("inf"):
        raise UsageError(
            f"'{text}' is not a number of at least {least:g}", where=option, fix="Correct it."
        )
    return value


def parse_count(text: str) -> int:
    """Read a number of streamlines.

    Raises
    ------
    UsageError
        If it is not a positive whole number.

    Examples
    --------
    >>> parse_count("5M"), parse_count("20k"), parse_count("1500")
    (5000000, 20000, 1500)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmM]?)", text.strip())
    factor = {"": 1, "k": 1_000, "m": 1_000_000}[match[2].lower()] if match else 0
    count = float(match[1]) * factor if match else 0.0
    if count < 1 or count != int(count):
        raise UsageError(
            f"'{text}' is not a number of streamlines",
            where="--streamlines",
            fix="Write it as 5M, 20k or 20000.",
        )
    return int(count)


def _read_structural(n: argparse.Namespace, reader: _Reader) -> StructuralOptions:
    def radius() -> float:
        return _number(str(n.assignment_radius), "--assignment-radius", least=0.0)

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
    return str(path if "{" in value else _existing_file(value, option))


def _read_translation(n: argparse.Namespace, reader: _Reader) -> TranslationOptions:
    def adaptation() -> str:
        if n.adaptation in ADAPTATION_MODES:
            return str(n.adaptation)
        if n.adaptation == "meanfitshift":
            return "meanfit+meanshift"
        path = Path(n.adaptation).expanduser().absolute()
        if path.is_file():
            return str(path)
        raise UsageError(
            f"'{n.adaptation}' is neither a mode nor a file",
            where="--adaptation",
            fix=suggest(n.adaptation, ADAPTATION_MODES) + ".",
        )

    def fusions() -> tuple[tuple[str, tuple[str, ...]], ...]:
        pairs = _pairs(n.fusion, "--fusion")
        for name, _ in pairs:
            if not name.isalnum():
                raise UsageError(
                    f"'{name}' cannot be the name of a fusion",
                    where="--fusion",
                    fix="Use letters and digits only.",
                )
        return tuple((name, tuple(members.split(","))) for name, members in pairs)

    def label() -> str:
        name = n.output_label or Path(n.model or "krakencoder-2024").name
        label = re.sub(r"[^A-Za-z0-9]", "", name)
        if n.output_label and label != n.output_label:
            raise UsageError(
                f"'{n.output_label}' cannot be part of a folder's name",
                where="--output-label",
                fix="Use letters and digits only.",
            )
        return label.removeprefix("krakencoder") or "default"

    def device() -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", n.device):
            raise UsageError(
                f"device '{n.device}' is unknown",
                where="--device",
                fix="Give auto, cpu, cuda or cuda:0.",
            )
        return str(n.device)

    def relmat_format() -> str:
        if n.relmat_format not in RELMAT_FORMATS:  # a configuration may say anything
            raise UsageError(
                f"'{n.relmat_format}' is no format of connectomes",
                where="--relmat-format",
                fix=suggest(str(n.relmat_format), RELMAT_FORMATS) + ".",
            )
        return str(n.relmat_format)

    return TranslationOptions(
        model_dir=reader.read(lambda: _model_dir(n), None),
        adaptation=reader.read(adaptation, "none"),
        adapt_by=n.adapt_by,
        fusions=reader.read(fusions, ()),
        predict_from=tuple(n.predict_from),
        predict_to=reader.read(
            lambda: tuple(str(Flavor.parse(name)) for name in n.predict_to), ()
        ),
        label=reader.read(label, "default"),
        device=reader.read(device, "auto"),
        relmat_format=reader.read(relmat_format, "tsv"),
    )


def _flavors(names: Iterable[str], *, are_measured: bool) -> tuple[str, ...]:
    """Flavors asked for; the participant level is to measure them where none are ready-made."""
    flavors = [Flavor.parse(name) for name in names]
    measured = {processing for _, processing in MEASURED_RECIPES}
    for flavor in flavors:
        if are_measured and (flavor.kind, flavor.processing) not in MEASURED_RECIPES:
            raise UsageError(
                f"flavor '{flavor}' cannot be measured, only read and predicted",
                where="--flavors",
                fix=f"Processing that is measured: {', '.join(sorted(measured))}.",
            )
    return tuple(map(str, flavors))


def _model_dir(n: argparse.Namespace) -> Path | None:
    """Where the model is; fetched by name. None where no model is used, or fetched only later."""
    translates = n.level == "group" or (n.model and n.adaptation not in ADAPTATION_MODES[1:])
    if not translates or (n.level == "participant" and n.status):
        return None
    from .model.pretrained import find_held_model, find_model

    folder = Path(n.model_dir).expanduser().absolute() if n.model_dir else None
    name = n.model or "krakencoder-2024"
    if n.status or n.dry_run:
        return find_held_model(name, folder=folder)
    return find_model(name, folder=folder)


def _compared_model_dir(n: argparse.Namespace, settings: Settings) -> Path | None:
    """The model that measured connectomes are compared with: never fetched, never required."""
    given = settings.translation.model_dir
    if given is not None or n.level == "group" or n.status:
        return given
    from .model.pretrained import find_held_model

    folder = Path(n.model_dir).expanduser().absolute() if n.model_dir else None
    try:
        return find_held_model(n.model or "krakencoder-2024", folder=folder)
    except KrakenBIDSError as error:
        _log.warning("measured connectomes are not compared with a model: %s", error)
        return None


def _read_resources(n: argparse.Namespace, reader: _Reader) -> Resources:
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


def apply_config(
    namespace: argparse.Namespace, parser: argparse.ArgumentParser, *, file: str
) -> None:
    """Fill options that were not typed from a TOML file.

    Parameters
    ----------
    namespace
        Parsed arguments; changed.
    parser
        Its defaults tell what was not typed.
    file
        As given to ``--config-file``.

    Raises
    ------
    KrakenBIDSError
        If the file cannot be read or names unknown options.
    """
    option = "--config-file"
    path = _existing_file(file, option)
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}", where=option, fix="Mend it.") from error
    known = {action.dest for action in parser._actions} - ACTIONS - {"help", "version"}  # noqa: SLF001
    problems = [
        UsageError(
            f"option '{name}' is unknown", where=f"{option} {path}", fix=suggest(name, known) + "."
        )
        for name in content
        if name.replace("-", "_") not in known
    ]
    if problems:
        raise Problems(problems)
    for name, value in content.items():
        dest = name.replace("-", "_")
        if getattr(namespace, dest) == parser.get_default(dest):
            setattr(namespace, dest, value)


def config_text(namespace: argparse.Namespace) -> str:
    """The options in force as TOML that ``--config-file`` reads back."""
    import tomli_w

    values = {
        name: value
        for name, value in sorted(vars(namespace).items())
        if name not in ACTIONS and value not in (None, [], "", False)
    }
    return tomli_w.dumps(values)
