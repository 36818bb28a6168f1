# SPDX-License-Identifier: MIT
"""The way from one space to another over the transform files that are there.

Spaces are named so that one name means one space: ``T1w`` is the native anatomical image (that
of fMRIPrep's anatomical outputs, and of what QSIPrep calls ``anat``, ``orig`` or ``T1wNative``),
``ACPC`` the rotated one of QSIPrep, which QSIPrep before 0.24 calls ``T1w`` too. Templates have
their TemplateFlow names in all data sets.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..plan import TransformStep
from .files import FoundFile, select

NATIVE = "T1w"
ACPC = "ACPC"
BOLDREF = "boldref"
FSNATIVE = "fsnative"

#: What a program's labels mean, where that is not what they say.
SPACE_NAMES: dict[str, dict[str, str]] = {
    "fmriprep": {"anat": NATIVE, "scanner": BOLDREF},
    "qsiprep": {"T1w": ACPC, "T1wACPC": ACPC, "anat": NATIVE, "orig": NATIVE, "T1wNative": NATIVE},
    "qsirecon": {"T1w": ACPC, "T1wACPC": ACPC, "anat": NATIVE, "T1wNative": NATIVE},
}
#: Labels of `from-` and `to-` that are of no use: one of each volume or raw image.
UNUSED_SPACES: dict[str, frozenset[str]] = {
    "fmriprep": frozenset({"orig"}),
    "qsiprep": frozenset(),
    "qsirecon": frozenset({"orig"}),
}
#: Extensions of transforms, and of those whose inverse is exact.
TRANSFORM_EXTENSIONS = (".h5", ".txt", ".mat")
AFFINE_EXTENSIONS = frozenset({".txt", ".mat"})


def space_name(label: str | None, program: str) -> str:
    """What a program's label of a space means; a BOLD series without one is in ``boldref``."""
    if label is None:
        return BOLDREF if program == "fmriprep" else SPACE_NAMES[program]["T1w"]
    return SPACE_NAMES[program].get(label, label)


@dataclass(frozen=True)
class SpaceGraph:
    """Transform files as steps between spaces.

    Parameters
    ----------
    steps
        In order of preference: of two ways of the same length that is taken whose first step
        comes first.
    """

    steps: tuple[TransformStep, ...] = ()

    def __add__(self, other: SpaceGraph) -> SpaceGraph:
        return SpaceGraph(self.steps + other.steps)

    def route(self, source: str, target: str) -> tuple[TransformStep, ...] | None:
        """Shortest way, empty if both are one space, None if there is none."""
        ways: dict[str, tuple[TransformStep, ...]] = {source: ()}
        queue = deque([source])
        while queue and target not in ways:
            here = queue.popleft()
            for step in self.steps:
                if step.source == here and step.target not in ways:
                    ways[step.target] = (*ways[here], step)
                    queue.append(step.target)
        return ways.get(target)

    def require(
        self, source: str, target: str, *, participant: str, searched: Iterable[Path]
    ) -> tuple[TransformStep, ...]:
        """Shortest way.

        Raises
        ------
        InputError
            If there is none; says which file is missing, and where it was looked for.
        """
        found = self.route(source, target)
        if found is not None:
            return found
        legs = [(source, NATIVE), (NATIVE, target)]
        missing = [
            f"{participant}_{MISSING_FILES.get(leg, _template_file(leg))}"
            for leg in legs
            if leg[0] != leg[1] and self.route(*leg) is None
        ]
        raise InputError(
            f"no transform leads from {source} to {target}: {' and '.join(missing)} not found",
            where=", ".join(str(folder) for folder in searched) or participant,
            fix=_mend(source, target),
        )


#: The file that a program would have written for a leg of the way.
MISSING_FILES: dict[tuple[str, str], str] = {
    (NATIVE, ACPC): "from-anat_to-ACPC_mode-image_xfm.mat (QSIPrep)",
    (FSNATIVE, NATIVE): "from-fsnative_to-T1w_mode-image_xfm.txt (fMRIPrep)",
    (NATIVE, BOLDREF): "*_from-boldref_to-T1w_mode-image_desc-coreg_xfm.txt (fMRIPrep)",
}


def _template_file(leg: tuple[str, str]) -> str:
    return f"from-{leg[0]}_to-{leg[1]}_mode-image_xfm.h5 (fMRIPrep)"


def _mend(source: str, target: str) -> str:
    template = next((name for name in (source, target) if name.startswith("MNI")), "")
    if template:
        return (
            f"Run fMRIPrep with --output-spaces {template}:res-2 (it keeps what it has), or give "
            "both data sets with --derivatives fmriprep=PATH qsiprep=PATH."
        )
    return "Keep the transforms in the programs' outputs, or run them again."


def transform_steps(files: Iterable[FoundFile], program: str, *, func: bool = False) -> SpaceGraph:
    """Turn transform files into steps; affines can be gone both ways.

    Parameters
    ----------
    files
        Of one participant (and session), the preferred ones first.
    program
        Who wrote them.
    func
        Take those of a functional run instead of the anatomical ones.
    """
    forward, backward = [], []
    for file in select(files, suffix="xfm", extensions=TRANSFORM_EXTENSIONS):
        labels = (file.label("from"), file.label("to"))
        if None in labels or UNUSED_SPACES[program] & set(labels):
            continue
        if (file.datatype == "func") != func or file.label("mode") not in (None, "image"):
            continue
        source, target = (space_name(label, program) for label in labels)
        if source == target:
            continue
        forward.append(TransformStep(file.path, source, target))
        if file.extension in AFFINE_EXTENSIONS:
            backward.append(TransformStep(file.path, target, source, inverted=True))
    return SpaceGraph((*forward, *backward))


def template_steps(templateflow_dir: Path | None = None) -> SpaceGraph:
    """Steps between templates that TemplateFlow has fetched to this machine, if any.

    Parameters
    ----------
    templateflow_dir
        ``$TEMPLATEFLOW_HOME``, else ``~/.cache/templateflow``, if None. Nothing is fetched.
    """
    if templateflow_dir is None:
        home = os.environ.get("TEMPLATEFLOW_HOME") or "~/.cache/templateflow"
        templateflow_dir = Path(home).expanduser()
    steps = []
    for source, target in BRIDGES:
        file = templateflow_dir / f"tpl-{target}" / f"tpl-{target}_from-{source}_mode-image_xfm.h5"
        # Files that TemplateFlow has not fetched yet are there, but empty.
        if file.is_file() and file.stat().st_size:
            steps.append(TransformStep(file, source, target))
    return SpaceGraph(tuple(steps))


#: Templates between which TemplateFlow has transforms.
BRIDGES = (
    ("MNI152NLin6Asym", "MNI152NLin2009cAsym"),
    ("MNI152NLin2009cAsym", "MNI152NLin6Asym"),
)
