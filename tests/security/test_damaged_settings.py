# SPDX-License-Identifier: MIT
"""Damaged descriptions, sidecars, settings and records: read, or refused in our words."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import tomli_w

from kraken_bids.arguments.config import apply_config
from kraken_bids.arguments.inputs import read_selection
from kraken_bids.arguments.values import Reader
from kraken_bids.bids.derivatives import program_of, read_description
from kraken_bids.bids.files import parse_name, read_metadata
from kraken_bids.bids.regularization import (
    has_few_dof,
    is_withheld,
    read_lambda,
    read_lambda_source,
)
from kraken_bids.cli import make_parser
from kraken_bids.completion import is_finished, marked_problems
from kraken_bids.plugin_file import read_plugin
from kraken_bids.report.found import read_session
from kraken_bids.submit.submission import RECORD, read_record
from tests.security.damage import Make, Read


def _json(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def _description(folder: Path) -> tuple[Path, Read]:
    made = [{"Name": "fMRIPrep", "Version": "25.2", "Container": {"Type": "docker"}}]
    content = {"Name": "x", "BIDSVersion": "1.9", "GeneratedBy": made, "SourceDatasets": [{}]}
    path = _json(folder, "dataset_description.json", content)
    return path, lambda: program_of(read_description(folder))


def _sidecar(folder: Path) -> tuple[Path, Read]:
    content = {"RepetitionTime": 2.0, "SkullStripped": True, "Sources": ["bids::x"]}
    path = _json(folder, "sub-01/func/sub-01_task-rest_bold.json", content)
    image = parse_name(path.with_name("sub-01_task-rest_bold.nii.gz"))
    return path, lambda: read_metadata(image, folder)


def _measured_sidecar(folder: Path) -> tuple[Path, Read]:
    content = {"Regularization": 0.1, "RegularizationSource": "given", "DegreesOfFreedom": 90.0,
               "NumberOfRetainedVolumes": 100, "MissingNodes": ["a"]}  # fmt: skip
    path = _json(folder, "sub-01_atlas-fs86_meas-FCcorrHPF_relmat.json", content)
    matrix = path.with_suffix(".tsv")

    def read() -> None:
        for ask in (read_lambda, read_lambda_source, has_few_dof, is_withheld):
            ask(matrix)

    return path, read


def _config(folder: Path) -> tuple[Path, Read]:
    path = folder / "x.toml"
    path.write_text(tomli_w.dumps({"atlases": ["fs86"], "nprocs": 3, "work_dir": "w"}))
    parser = make_parser()

    def read() -> None:
        typed = parser.parse_args(["in", "out", "participant"])
        apply_config(typed, parser, file=str(path))

    return path, read


def _selection(which: str) -> Make:
    def make(folder: Path) -> tuple[Path, Read]:
        filters = _json(folder, "filters.json", {"bold": {"task": ["rest", None], "run": 1}})
        people = folder / "people.txt"
        people.write_text("sub-01\n02\n")
        typed = SimpleNamespace(
            participant_label=[f"@{people}"], session_id=[], task_id=[], run_id=[],
            bids_filter_file=str(filters),
        )  # fmt: skip

        def read() -> None:
            reader = Reader()
            read_selection(typed, reader)
            for problem in reader.problems:
                raise problem

        return {"filters": filters, "people": people}[which], read

    return make


def _plugin(folder: Path) -> tuple[Path, Read]:
    path = folder / "plugin.yml"
    path.write_text("plugin: MultiProc\nplugin_args:\n  n_procs: 2\n  memory_gb: 4\n")
    return path, lambda: read_plugin(path)


def _submission(folder: Path) -> tuple[Path, Read]:
    content = {"level": "participant", "scheduler": "slurm", "jobs": {"participants": "12"},
               "participants": ["01", "02"]}  # fmt: skip
    path = _json(folder, RECORD, content)
    return path, lambda: read_record(folder)


def _marker(folder: Path) -> tuple[Path, Read]:
    content = {"key": "k", "outputs": {"a.tsv": 3}, "problems": [["sub-01", "missing"]]}
    path = _json(folder, ".kraken-bids/sub-01.json", content)
    (folder / "a.tsv").write_text("abc")
    return path, lambda: (is_finished(folder, "sub-01", "k"), marked_problems(folder, "sub-01"))


def _page_source(folder: Path) -> tuple[Path, Read]:
    table = folder / "sub-01/func/sub-01_task-rest_desc-fc_qc.tsv"
    table.parent.mkdir(parents=True)
    table.write_text("n_volumes\tfd_mean_mm\n100\t0.2\n")
    content = {"n_volumes": {"Description": "volumes"}, "Regions": {"fs86": {"missing": ["a"]}}}
    path = _json(table.parent, "sub-01_task-rest_desc-fc_qc.json", content)
    return path, lambda: read_session(folder, "01", None)


KINDS: dict[str, Make] = {
    "dataset_description.json": _description,
    "sidecar": _sidecar,
    "sidecar of ours": _measured_sidecar,
    "configuration": _config,
    "filter file": _selection("filters"),
    "list of participants": _selection("people"),
    "plugin file": _plugin,
    "submission": _submission,
    "marker": _marker,
    "sidecar of a page": _page_source,
}


#: Readers for which damage is no error: what cannot be read is as if it were not there.
NEVER_REFUSED = frozenset({"sidecar of ours", "marker", "sidecar of a page"})


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_end_in_words(read_damaged, kind):
    assert read_damaged(kind, KINDS[kind], is_refused=kind not in NEVER_REFUSED) == []
