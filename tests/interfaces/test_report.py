# SPDX-License-Identifier: MIT
"""Interfaces and factories of figures and pages."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kraken_bids.interfaces.report import BuildGroupPage, BuildPage, DrawFigure
from kraken_bids.workflows.report import init_group_report_wf, init_participant_report_wf


@pytest.fixture
def dataset_dir(tmp_path):
    folder = tmp_path / "data"
    (folder / "sub-01").mkdir(parents=True)
    (folder / "dataset_description.json").write_text(json.dumps({"Name": "Tiny"}))
    return folder


def test_a_figure_is_drawn_into_the_nodes_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = np.linspace(0, 0.4, 50)
    np.savez(
        tmp_path / "arrays.npz", repetition_time_s=2.0, framewise_displacement_mm=line, dvars=line,
        global_signal=line, is_outlier=line > 0.3, series=np.outer(line, np.arange(86)),
    )  # fmt: skip
    result = DrawFigure(kind="functional_qc", in_file=str(tmp_path / "arrays.npz")).run()
    assert result.outputs.out_file == str(tmp_path / "functional_qc.png")
    assert (tmp_path / "functional_qc.png").stat().st_size > 1000


def test_pages_are_written_into_the_data_set(dataset_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = BuildPage(output_dir=str(dataset_dir), participant="01", notes=["no <bold>"]).run()
    assert page.outputs.out_file == str(dataset_dir / "sub-01.html")
    assert "no &lt;bold&gt;" in (dataset_dir / "sub-01.html").read_text("utf-8")
    group = BuildGroupPage(output_dir=str(dataset_dir), dataset_dir=str(tmp_path)).run()
    assert group.outputs.out_file == str(tmp_path / "group.html")


def test_workflows_write_the_page_after_the_files(dataset_dir, tmp_path):
    workflows = [
        init_participant_report_wf(output_dir=dataset_dir, participant="01", session=None),
        init_group_report_wf(dataset_dir=dataset_dir, output_dir=dataset_dir, notes=["a note"]),
    ]
    for workflow in workflows:
        workflow.base_dir = str(tmp_path / "work")
        workflow.config["execution"] = {"crashdump_dir": str(tmp_path)}
        workflow.inputs.inputnode.wait_for = [str(dataset_dir / "x.tsv")]
        workflow.run()
    assert (dataset_dir / "sub-01.html").is_file()
    assert "a note" in (dataset_dir / "group.html").read_text("utf-8")
