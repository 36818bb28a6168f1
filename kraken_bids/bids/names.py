# SPDX-License-Identifier: MIT
"""Every output's name: the only place where one is made.

`OUTPUTS` is the table; `output_path` formats a row of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..errors import UsageError, suggest

#: Order of entities in file names (BIDS 1.11, with BEP017's ``meas``).
ENTITY_ORDER: tuple[str, ...] = (
    "sub", "ses", "sample", "task", "tracksys", "acq", "nuc", "voi", "ce", "trc", "stain", "rec",
    "dir", "run", "mod", "echo", "flip", "inv", "mt", "part", "proc", "hemi", "space", "split",
    "recording", "chunk", "atlas", "seg", "scale", "res", "den", "meas", "stat", "label", "desc",
)  # fmt: skip

#: Entities that describe a derivative, not the scan that it comes from.
DERIVATIVE_ENTITIES = frozenset({
    "space", "res", "den", "desc", "atlas", "seg", "label", "meas", "stat",
})  # fmt: skip


#: Marks series of XCP-D that do not fit the recipe.
XCP_D_MARK = "xcpd"
#: Marks ready-made series that do not fit the recipe, or do not say how they were made.
READY_MARK = "ready"
#: What the label of ``desc-`` says of connectomes that were not made by the models' recipe.
OFF_RECIPE: dict[str, str] = {
    "simple": "denoised by the strategy simple: motion, white matter and CSF signals, cosines",
    "scrubbing": "denoised by the strategy scrubbing: as simple, moved volumes left out",
    "compcor": "denoised by the strategy compcor: motion, anatomical components, cosines",
    "icaaroma": "denoised by ICA-AROMA, then by white matter and CSF signals and cosines",
    XCP_D_MARK: "denoised by XCP-D otherwise than by high-pass filter and confounds alone",
    READY_MARK: "denoised by another program, not by high-pass filter and confounds alone or "
    "in a way that is not known",
}


def marked(desc: str, mark: str) -> str:
    """A label of ``desc-`` with the mark of another pipeline than the recipe, if there is one.

    Parameters
    ----------
    desc
        The label; empty for measured connectomes.
    mark
        A key of `OFF_RECIPE`, or empty.

    Examples
    --------
    >>> marked("hpf", "simple"), marked("hpf", ""), marked("", "simple")
    ('hpfSimple', 'hpf', 'simple')
    """
    return f"{desc}{mark.capitalize()}" if desc else mark


@dataclass(frozen=True)
class Output:
    """One row of the table of outputs.

    Parameters
    ----------
    folder
        ``{datatype}`` under the participant's (session's) folder, ``group`` or ``root``.
    suffix, extension
        As in BIDS.
    entities
        Entities beyond those of the source, in any order.
    description
        What the file holds, for README and reports.
    """

    folder: str
    suffix: str
    extension: str
    entities: tuple[str, ...]
    description: str


#: What is written, by name.
OUTPUTS: dict[str, Output] = {
    "timeseries": Output("func", "timeseries", ".tsv", ("space", "atlas", "desc"),
                         "denoised series, a column a region"),
    "connectome": Output("{datatype}", "relmat", ".tsv", ("space", "atlas", "meas"),
                         "measured connectome"),
    "atlas_labels": Output("{datatype}", "dseg", ".nii.gz", ("space", "atlas"),
                           "atlas labels on the grid of the data"),
    "tractogram": Output("dwi", "streamlines", ".tck", ("space", "desc"),
                         "streamlines, if they are kept"),
    "assignments": Output("dwi", "assignments", ".npz", ("space", "desc"),
                          "regions in which each streamline ends, if they are kept"),
    "functional_qc": Output("func", "qc", ".tsv", ("desc",), "quality of a functional run"),
    "structural_qc": Output("dwi", "qc", ".tsv", ("desc",), "quality of a diffusion series"),
    "latent": Output("session", "latent", ".tsv", (), "latents, a row a source"),
    "trust": Output("session", "qc", ".tsv", ("desc",),
                    "whether a session's predictions can be trusted, a row a flavor"),
    "prediction": Output("{datatype}", "relmat", ".tsv", ("atlas", "meas", "desc"),
                         "predicted connectome"),
    "prediction_file": Output("session", "relmat", ".h5", (),
                              "all predicted connectomes of a session"),
    "figure": Output("figures", "{suffix}", ".png", ("desc",), "figure of the participant's page"),
    "cohort_latent": Output("group", "latent", ".tsv", ("desc",),
                            "latents of the cohort, a row a participant"),
    "adaptation": Output("group", "adaptation", ".safetensors", ("desc",),
                         "adaptation to the cohort"),
    "cohort_mean": Output("group", "relmat", ".tsv", ("atlas", "meas", "stat"),
                          "mean measured connectome"),
    "lambda_search": Output("group", "qc", ".tsv", ("atlas", "meas", "desc"),
                            "search for lambda of the partial correlations"),
    "prediction_qc": Output("group", "qc", ".tsv", ("desc",), "quality of the predictions"),
}  # fmt: skip


def is_label(text: str) -> bool:
    """Whether a text can be the label of an entity: ASCII letters, digits and ``+``, up to 100.

    Examples
    --------
    >>> is_label("01"), is_label("../01"), is_label("")
    (True, False, False)
    """
    return re.fullmatch(r"[A-Za-z0-9+]{1,100}", text) is not None


def format_entities(entities: Iterable[tuple[str, str]]) -> str:
    """Write entities in BIDS order, as ``sub-01_task-rest``.

    Raises
    ------
    UsageError
        If an entity is unknown or a label holds other characters than letters, digits and ``+``.

    Examples
    --------
    >>> format_entities([("run", "1"), ("sub", "01")])
    'sub-01_run-1'
    """
    pairs = dict(entities)
    for key, label in pairs.items():
        if key not in ENTITY_ORDER:
            raise UsageError(f"entity '{key}' is unknown", fix=suggest(key, ENTITY_ORDER) + ".")
        if not label or not all(character.isalnum() or character == "+" for character in label):
            raise UsageError(
                f"label '{label}' of entity '{key}' cannot be part of a file name",
                fix="Use letters and digits only.",
            )
    return "_".join(f"{key}-{pairs[key]}" for key in ENTITY_ORDER if key in pairs)


def combined_entities(entities: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Leave out what tells the runs of one task and session apart."""
    return tuple((key, label) for key, label in entities if key not in {"run", "dir"})


def can_average(scans: Sequence[Iterable[tuple[str, str]]]) -> bool:
    """Whether there are several scans whose average has a name of its own.

    Examples
    --------
    >>> can_average([[("task", "rest"), ("run", "1")], [("task", "rest"), ("run", "2")]])
    True
    >>> can_average([[("task", "rest")], [("task", "rest"), ("run", "2")]])
    False
    """
    names = {tuple(scan) for scan in scans}
    return len(names) > 1 and not any(combined_entities(name) in names for name in names)


def output_path(
    name: str,
    entities: Iterable[tuple[str, str]] = (),
    *,
    datatype: str = "",
    suffix: str = "",
    extension: str = "",
    **labels: str,
) -> PurePosixPath:
    """Path of an output, relative to the root of its data set.

    Parameters
    ----------
    name
        A key of `OUTPUTS`.
    entities
        Entities of the source; ``sub`` (and ``ses``) say the folder.
    datatype, suffix
        Where the row leaves them open.
    extension
        In place of the row's, such as ``.json`` for the sidecar.
    labels
        Labels of the row's own entities; an empty one is left out.

    Examples
    --------
    >>> output_path("connectome", [("sub", "01"), ("task", "rest")], datatype="func",
    ...             space="T1w", atlas="fs86", meas="FCcorrHPF").name
    'sub-01_task-rest_space-T1w_atlas-fs86_meas-FCcorrHPF_relmat.tsv'
    """
    row = OUTPUTS[name]
    extra = {key: label for key, label in labels.items() if label}
    pairs: Mapping[str, str] = {**dict(entities), **extra}
    stem = format_entities(pairs.items())
    suffix = row.suffix.format(suffix=suffix)
    filename = f"{stem}_{suffix}{extension or row.extension}"
    if row.folder == "group":
        return PurePosixPath("group", filename)
    folder = PurePosixPath(f"sub-{pairs['sub']}")
    if row.folder == "figures":
        return folder / "figures" / filename
    if "ses" in pairs:
        folder /= f"ses-{pairs['ses']}"
    if row.folder != "session":
        folder /= row.folder.format(datatype=datatype)
    return folder / filename


def page_path(participant: str = "", session: str | None = None) -> PurePosixPath:
    """Path of a page, relative to the root of its data set; the cohort's without arguments.

    Examples
    --------
    >>> page_path("01", "test").name
    'sub-01_ses-test.html'
    """
    if not participant:
        return PurePosixPath("group.html")
    pairs = [("sub", participant), *([("ses", session)] if session else [])]
    return PurePosixPath(f"{format_entities(pairs)}.html")
