# SPDX-License-Identifier: MIT
"""The files at the root of our data sets: what BIDS wants to know of a data set as a whole.

Every job writes them, at the same time as others do. Their contents depend on nothing but the
settings and the input data sets, so that all jobs write the same; each is put in place whole,
and only if it differs from what is there.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .. import __version__
from ..atlases import Atlas, atlas_names, default_atlas_names, load_atlas
from ..errors import InputError
from ..flavors import Flavor
from ..plan import CohortSession
from ..settings import Settings
from .derivatives import DESCRIPTION, find_derivatives, generated_by, read_description
from .inputs import wanted_atlases
from .names import OFF_RECIPE, OUTPUTS, READY_MARK, XCP_D_MARK, marked
from .regularization import SEARCH_LABEL
from .sidecars import VARIANTS
from .writers import write_text

_log = logging.getLogger(__name__)

BIDS_VERSION = "1.11.1"
#: Name of the measured data set in the links of the predictions.
MEASURED = "connectomes"

#: What BIDS does not know yet. Folders have no slash at the end: with one, the validator hides
#: the files in a folder but takes the folder itself for an error.
BIDSIGNORE = """\
*.html
**/figures
/group
*_timeseries.tsv
*_timeseries.json
*_relmat.*
*_streamlines.tck
*_assignments.*
*_latent.*
*_qc.tsv
*_qc.json
"""

#: Meaning of our labels of ``desc-``, by data set.
MEASURED_LABELS: dict[str, str] = {
    **{label: f"Series {text}" for label, text in VARIANTS.items()},
    "fc": "Quality of a functional run and of its connectomes",
    "sc": "Quality of a diffusion series and of its connectomes",
    "qc": "Figure of the quality of a series",
    "coverage": "Figure of the share of each region that a series covers",
    "ifod2act": "Streamlines of iFOD2 with anatomical constraints",
    "sdstream": "Streamlines of SD_STREAM",
}
PREDICTION_LABELS: dict[str, str] = {
    "kraken": "Quality of the predictions over the cohort",
    "participant": "Quality of the predictions by participant",
    "trust": "Whether predictions can be trusted, flavor by flavor",
    "fusion": "From the mean latent of all measured flavors",
    "fusionSC": "From the mean latent of the measured structural flavors",
    "fusionFC": "From the mean latent of the measured functional flavors",
}


@dataclass(frozen=True)
class DatasetInfo:
    """What the root files of a data set say.

    Parameters
    ----------
    name
        Its name.
    text
        What it holds, as the first paragraph of README.
    links
        Folder by name, for ``DatasetLinks`` and BIDS URIs.
    generated_by
        Programs behind the inputs, the latest first; ours is put before them.
    source_datasets
        ``SourceDatasets``.
    license, authors
        As the inputs have it; left out if empty.
    atlases
        Names of the atlases that have files in it.
    labels
        Meaning of the labels of ``desc-``.
    outputs
        Keys of `kraken_bids.bids.names.OUTPUTS` that it may hold.
    """

    name: str
    text: str
    links: tuple[tuple[str, Path], ...] = ()
    generated_by: tuple[Mapping[str, Any], ...] = ()
    source_datasets: tuple[Mapping[str, Any], ...] = ()
    license: str = ""
    authors: tuple[str, ...] = ()
    atlases: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    outputs: tuple[str, ...] = ()


def write_measured_dataset(settings: Settings) -> list[Path]:
    """Write the root files of the data set of measured connectomes.

    Returns
    -------
    list of Path
        The files, whether or not they had to be written.

    Raises
    ------
    KrakenBIDSError
        If the inputs cannot be found, or the folder cannot be written.
    """
    derivatives = find_derivatives(settings)
    descriptions = [dict(item.description) for item in derivatives]
    wanted = wanted_atlases(settings)
    return write_dataset_files(
        settings.output_dir,
        DatasetInfo(
            name="kraken-bids: measured connectomes",
            text="Functional and structural connectomes of single participants, measured from "
            "preprocessed scans.",
            links=tuple((item.name, item.root) for item in derivatives),
            generated_by=tuple(generated_by(derivatives)),
            source_datasets=_source_datasets(descriptions),
            license=_common_license(descriptions),
            authors=_authors(settings.bids_dir),
            atlases=tuple(dict.fromkeys(name for names in wanted.values() for name in names)),
            labels=tuple(_measured_labels(settings).items()),
            outputs=(
                "timeseries",
                "connectome",
                "atlas_labels",
                "tractogram",
                "assignments",
                "functional_qc",
                "structural_qc",
                "figure",
            ),
        ),
    )


def _measured_labels(settings: Settings) -> dict[str, str]:
    """Labels of this run, and of other pipelines whose outputs are there from earlier ones."""
    try:
        there = (settings.output_dir / "descriptions.tsv").read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        there = ""
    labels = dict(MEASURED_LABELS)
    for mark, text in OFF_RECIPE.items():
        is_forced = settings.force and mark in {XCP_D_MARK, READY_MARK}
        if is_forced or mark == settings.functional.mark or f"desc-{mark}\t" in there:
            labels[mark] = f"Connectomes of series {text}"
            labels |= {
                marked(label, mark): f"{MEASURED_LABELS[label]} ({text})"
                for label in ("fc", "qc", "coverage")
            }
            labels |= {
                marked("hpf", mark): f"Series {text}",
                marked("hpfgsr", mark): f"Series {text}, global signal regressed",
            }
    return labels


def write_prediction_dataset(
    settings: Settings,
    sessions: Iterable[CohortSession],
    dataset_dir: Path,
    *,
    targets: Iterable[str] = (),
    searched: Iterable[str] = (),
) -> list[Path]:
    """Write the root files of a data set of predictions.

    Parameters
    ----------
    settings
        Those of the run. At group level ``participants.tsv`` is written: the cohort. At
        participant level it is not: jobs that know one participant each would overwrite it.
    sessions
        The cohort.
    dataset_dir
        Root of the data set.
    targets
        Flavors that the model predicts where none are asked for: their atlases are described.
    searched
        Atlases whose partial correlations are made here, with a lambda searched for.
    """
    sessions, searched = tuple(sessions), tuple(searched)
    measured = _measured_description(settings.output_dir)
    options = settings.translation
    labels = {
        **PREDICTION_LABELS,
        **{name: f"From the fusion {name}" for name, _ in options.fusions
           if name not in PREDICTION_LABELS},
        **_flavor_labels(options.predict_from),
        options.adaptation: "Adaptation of the cohort to the model's training data",
        **({SEARCH_LABEL: "Search for lambda of the partial correlations"} if searched else {}),
    }  # fmt: skip
    if not options.adaptation.replace("+", "").isalnum():
        del labels[options.adaptation]  # a file, not a mode
    written = write_dataset_files(
        dataset_dir,
        DatasetInfo(
            name=f"kraken-bids: predicted connectomes ({options.label})",
            text="Latents and connectomes predicted by the Krakencoder. They depend on who was "
            "in the cohort and on the model.",
            links=((MEASURED, settings.output_dir),),
            generated_by=tuple(measured.get("GeneratedBy", ())),
            source_datasets=tuple(measured.get("SourceDatasets", ())),
            license=str(measured.get("License", "")),
            authors=tuple(measured.get("Authors", ())),
            atlases=_target_atlases(options.predict_to or targets, searched),
            labels=tuple(labels.items()),
            outputs=(
                "latent",
                "trust",
                "prediction_file" if options.relmat_format == "h5" else "prediction",
                "cohort_latent",
                "adaptation",
                "cohort_mean",
                "prediction_qc",
                *(("connectome", "lambda_search") if searched else ()),
            ),
        ),
    )
    if settings.level == "group":
        written += _write_participants(dataset_dir, sessions)
    return written


def _target_atlases(targets: Iterable[str], more: Iterable[str] = ()) -> tuple[str, ...]:
    """Atlases of flavors, those known here; without flavors the default ones; and more."""
    asked = {name.split("_")[1] for name in targets if name.count("_") == 2}
    wanted = {*(asked or default_atlas_names()), *more}
    return tuple(name for name in atlas_names() if name in wanted)


def _flavor_labels(names: Iterable[str]) -> dict[str, str]:
    flavors = [Flavor.parse(name) for name in names if "_" in name]
    return {flavor.label: f"From the measured flavor {flavor}" for flavor in flavors}


def write_dataset_files(root: Path, info: DatasetInfo) -> list[Path]:
    """Write all root files of a data set but ``participants.tsv``.

    Files: ``dataset_description.json``, ``.bidsignore``, ``README.md``, ``descriptions.tsv`` and
    ``.json``, and for each atlas ``atlas-<a>_dseg.tsv`` and ``.json`` and
    ``atlas-<a>_description.json``.
    """
    files = {
        DESCRIPTION: _json(dataset_description(root, info)),
        ".bidsignore": BIDSIGNORE,
        "README.md": _readme(info),
        "descriptions.tsv": _table(
            ("desc_id", "description"),
            [(f"desc-{label}", text) for label, text in sorted(info.labels)],
        ),
        "descriptions.json": _json({
            "Description": "Labels of the entity desc",
            "desc_id": {"Description": "Label of the entity desc"},
            "description": {"Description": "What files of that label hold"},
        }),
    }
    for name in info.atlases:
        files |= _atlas_files(load_atlas(name))
    for name, text in files.items():
        write_if_different(root / name, text)
    return [root / name for name in files]


def write_if_different(path: Path, text: str) -> None:
    """Write a text file, whole or not at all, unless it says just that already."""
    try:
        if path.read_text("utf-8") == text:
            return
    except (OSError, UnicodeDecodeError):
        pass
    write_text(path, text)


def dataset_description(root: Path, info: DatasetInfo) -> dict[str, Any]:
    """Make the contents of ``dataset_description.json``; keys without value are left out."""
    content = {
        "Name": info.name,
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "License": info.license,
        "Authors": list(info.authors),
        "GeneratedBy": _program_chain(info.generated_by),
        "SourceDatasets": [dict(item) for item in info.source_datasets],
        "DatasetLinks": {name: dataset_link(folder, root) for name, folder in info.links},
    }
    return {key: value for key, value in content.items() if value}


def _program_chain(earlier: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    ours = {
        "Name": "kraken-bids",
        "Version": __version__,
        "Description": "Connectomes from BIDS derivatives, measured and predicted",
    }
    return [ours, *(dict(item) for item in earlier if item.get("Name") != ours["Name"])]


def dataset_link(folder: Path, root: Path) -> str:
    """Address of a data set as seen from another.

    Relative where they lie in one study, so that the study can be moved as a whole (its folder
    holds the other's, or that one's up to two levels up); else a ``file://`` address.

    Examples
    --------
    >>> dataset_link(Path("/study/derivatives/fmriprep"), Path("/study/derivatives/kraken"))
    '../fmriprep'
    """
    folder, root = folder.absolute(), root.absolute()
    common = Path(os.path.commonpath([folder, root]))
    near = {root, *list(root.parents)[:2]} - {Path(root.anchor)}
    if common in near:
        return quote(os.path.relpath(folder, root))
    return folder.as_uri()


def _source_datasets(descriptions: Iterable[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """Public addresses that the inputs give for themselves and their sources, each once."""
    found: list[Mapping[str, Any]] = []
    for description in descriptions:
        if doi := description.get("DatasetDOI"):
            found.append({"DOI": doi})
        listed = description.get("SourceDatasets") or []
        found += [item for item in listed if isinstance(item, Mapping) and item]
    return tuple(item for place, item in enumerate(found) if item not in found[:place])


def _common_license(descriptions: Iterable[Mapping[str, Any]]) -> str:
    """The license of the inputs if those that name one agree, else empty."""
    licenses = {str(item["License"]) for item in descriptions if item.get("License")}
    return licenses.pop() if len(licenses) == 1 else ""


def _authors(bids_dir: Path) -> tuple[str, ...]:
    """Authors of the BIDS data set, if it says who they are."""
    try:
        listed = read_description(bids_dir).get("Authors") or ()
    except InputError:
        return ()
    return tuple(map(str, listed)) if isinstance(listed, list) else ()


def _measured_description(root: Path) -> Mapping[str, Any]:
    """Description of the measured data set; empty if connectomes came without one."""
    try:
        return read_description(root)
    except InputError as problem:
        _log.warning("where the connectomes come from is not known: %s", problem)
        return {}


def _atlas_files(atlas: Atlas) -> dict[str, str]:
    stem = f"atlas-{atlas.name}"
    rows = [(region.index, region.name, region.hemisphere) for region in atlas.regions]
    columns = {
        "index": {
            "Description": "Value in label images; place in the matrices, from 1",
            "Format": "integer",
        },
        "name": {"Description": "Name of the region, as in the matrices"},
        "hemisphere": {
            "Description": "Side of the brain",
            "Levels": {"L": "left", "R": "right", "B": "both or between"},
        },
    }
    description = {
        "Name": atlas.name,
        "AtlasName": atlas.name,
        "Description": atlas.description,
        "License": atlas.license,
        "ReferencesAndLinks": [
            *atlas.reference.split("; "),
            *(file.url for _, file in atlas.files),
        ],
        "Species": "Homo sapiens",
    }
    return {
        f"{stem}_dseg.tsv": _table(tuple(columns), rows),
        f"{stem}_dseg.json": _json(columns),
        f"{stem}_description.json": _json(description),
    }


def _write_participants(root: Path, sessions: Sequence[CohortSession]) -> list[Path]:
    """Write the cohort as ``participants.tsv``."""
    sites = any(session.site for session in sessions)
    by_participant: dict[str, list[CohortSession]] = {}
    for session in sessions:
        by_participant.setdefault(session.participant, []).append(session)
    columns = {
        "participant_id": {"Description": "Participant"},
        "n_sessions": {"Description": "Sessions with measured connectomes"},
        "n_connectomes": {"Description": "Measured connectomes in all sessions"},
        **({"site": {"Description": "Site that the adaptation was fitted for"}} if sites else {}),
    }
    rows = [
        (
            f"sub-{participant}",
            len(own),
            sum(len(session.connectomes) for session in own),
            *((own[0].site or "n/a",) if sites else ()),
        )
        for participant, own in sorted(by_participant.items())
    ]
    files = {
        "participants.tsv": _table(tuple(columns), rows),
        "participants.json": _json({"Description": "The cohort", **columns}),
    }
    for name, text in files.items():
        write_if_different(root / name, text)
    return [root / name for name in files]


def _readme(info: DatasetInfo) -> str:
    lines = [
        f"# {info.name}",
        "",
        info.text,
        "",
        f"Made by kraken-bids {__version__}.",
        "",
        "| file | content |",
        "|---|---|",
    ]
    for row in (OUTPUTS[key] for key in info.outputs):
        folder = {"group": "group/", "session": "sub-X/", "figures": "sub-X/figures/"}.get(
            row.folder, f"sub-X/{row.folder.format(datatype='{func,dwi}')}/"
        )
        labels = "".join(f"_{entity}-*" for entity in row.entities)
        suffix = row.suffix.format(suffix="*")
        stem = f"*{labels}_{suffix}" if row.folder != "group" else f"*{labels[1:]}_{suffix}"
        lines.append(f"| `{folder}{stem}{row.extension}` | {row.description} |")
    lines += [
        "",
        (
            "Matrices are symmetric; header and first column name the regions in the order of "
            "`atlas-<atlas>_dseg.tsv`. A region that is missing from an image keeps its row and "
            "column, filled with `n/a`."
        ),
        "",
        "Labels of `desc-` are explained in `descriptions.tsv`.",
    ]
    return "\n".join(lines) + "\n"


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = ["\t".join(map(str, row)) for row in (columns, *rows)]
    return "\n".join(lines) + "\n"
