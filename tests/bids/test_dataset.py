# SPDX-License-Identifier: MIT
from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import resources
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from kraken_bids.atlases import load_atlas
from kraken_bids.bids.cohort import find_cohort
from kraken_bids.bids.dataset import (
    dataset_link,
    write_if_different,
    write_measured_dataset,
    write_prediction_dataset,
)
from kraken_bids.bids.names import output_path
from kraken_bids.bids.predictions import add_to_session_file, save_session_sidecar
from kraken_bids.bids.sidecars import (
    connectome_sidecar,
    labels_sidecar,
    latent_sidecar,
    prediction_sidecar,
    quality_sidecar,
    timeseries_sidecar,
)
from kraken_bids.bids.writers import format_rows, write_connectome, write_json, write_table
from kraken_bids.flavors import CORE_FLAVORS
from kraken_bids.settings import TranslationOptions

ATLASES = ("fs86", "shen268")
FLAVORS = [flavor for flavor in CORE_FLAVORS if flavor.atlas in ATLASES]


@pytest.fixture
def settings(study):
    study.add_anatomy()
    study.add_bold()
    study.add_dwi()
    return study.settings(atlases=ATLASES)


def content(path):
    return json.loads(path.read_text("utf-8"))


# --------------------------------------------------------------- single files


def test_the_description_keeps_the_chain_and_links_to_the_inputs(settings, study):
    (study.root / "dataset_description.json").write_text(
        json.dumps({"Name": "raw", "BIDSVersion": "1.8.0", "Authors": ["A. One", "B. Two"]})
    )
    write_measured_dataset(settings)
    description = content(settings.output_dir / "dataset_description.json")
    assert description["DatasetType"] == "derivative"
    names = [item["Name"] for item in description["GeneratedBy"]]
    assert names == ["kraken-bids", "fMRIPrep", "QSIPrep"]
    assert description["DatasetLinks"] == {"fmriprep": "../fmriprep", "qsiprep": "../qsiprep"}
    assert description["Authors"] == ["A. One", "B. Two"]


def test_sources_and_license_come_from_the_inputs(settings, study):
    root = study.root / "derivatives" / "fmriprep"
    description = content(root / "dataset_description.json") | {
        "License": "CC0",
        "SourceDatasets": [{"DOI": "doi:10.1/x"}],
    }
    (root / "dataset_description.json").write_text(json.dumps(description))
    write_measured_dataset(settings)
    written = content(settings.output_dir / "dataset_description.json")
    assert written["License"] == "CC0"
    assert written["SourceDatasets"] == [{"DOI": "doi:10.1/x"}]


@pytest.mark.parametrize(
    ("folder", "root", "link"),
    [
        ("/study/derivatives/fmriprep", "/study/derivatives/kraken", "../fmriprep"),
        ("/study/out", "/study/out/derivatives/krakencoder-x", "../.."),
        ("/data/my prep", "/elsewhere/out", "file:///data/my%20prep"),
        ("/study/a b", "/study/out", "../a%20b"),
    ],
)
def test_links_are_relative_within_a_study(folder, root, link):
    assert dataset_link(Path(folder), Path(root)) == link


def test_atlases_are_described(settings):
    write_measured_dataset(settings)
    root = settings.output_dir
    header, first, *rest = (root / "atlas-fs86_dseg.tsv").read_text().splitlines()
    assert header.split("\t") == ["index", "name", "hemisphere"]
    assert first.split("\t") == ["1", load_atlas("fs86").region_names[0], "L"]
    assert len(rest) == 85
    card = content(root / "atlas-shen268_description.json")
    assert card["Name"] == card["AtlasName"] == "shen268"
    assert card["License"]
    assert any(link.startswith("https://") for link in card["ReferencesAndLinks"])
    assert not (root / "atlas-coco439_dseg.tsv").exists()


def test_nothing_is_written_twice(settings):
    files = write_measured_dataset(settings)
    before = {file: file.stat().st_mtime_ns for file in files}
    assert write_measured_dataset(settings) == files
    assert {file: file.stat().st_mtime_ns for file in files} == before


def test_jobs_may_write_the_same_files_at_once(settings):
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(write_measured_dataset, settings) for _ in range(8)]
        files = {file for job in jobs for file in job.result()}
    assert {file.name for file in files} == {
        path.name for path in settings.output_dir.iterdir() if path.is_file()
    }
    assert content(settings.output_dir / "dataset_description.json")["Name"]


def test_altered_files_are_put_right(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"\xff")
    write_if_different(path, "text")
    assert path.read_text() == "text"


def test_single_participants_write_no_table_of_the_cohort(settings):
    dataset_dir = settings.output_dir / "derivatives" / "krakencoder-x"
    write_prediction_dataset(settings, (), dataset_dir)
    assert not (dataset_dir / "participants.tsv").exists()
    assert (dataset_dir / ".bidsignore").exists()


def test_the_cohort_is_the_participants_table_of_the_predictions(settings):
    save_measured(settings)
    sessions = [replace(session, site="Bern") for session in find_cohort(settings.output_dir)]
    dataset_dir = settings.output_dir / "derivatives" / "krakencoder-x"
    write_prediction_dataset(replace(settings, level="group"), sessions, dataset_dir)
    assert (dataset_dir / "participants.tsv").read_text().splitlines() == [
        "participant_id\tn_sessions\tn_connectomes\tsite",
        "sub-01\t1\t10\tBern",
    ]
    description = content(dataset_dir / "dataset_description.json")
    assert description["DatasetLinks"] == {"connectomes": "../.."}
    names = [item["Name"] for item in description["GeneratedBy"]]
    assert names == ["kraken-bids", "fMRIPrep", "QSIPrep"]


@pytest.mark.parametrize(
    ("targets", "atlases"),
    [
        ((), {"fs86", "shen268", "coco439"}),
        (("FCcorr_cocoyeo243_hpf", "FCcorr_fs86_hpf", "other"), {"cocoyeo243", "fs86"}),
    ],
    ids=["default", "of the model"],
)
def test_atlases_that_a_model_predicts_are_described(settings, targets, atlases):
    dataset_dir = settings.output_dir / "derivatives" / "krakencoder-x"
    write_prediction_dataset(settings, (), dataset_dir, targets=targets)
    found = {path.name.split("_")[0] for path in dataset_dir.glob("atlas-*_dseg.tsv")}
    assert found == {f"atlas-{name}" for name in atlases}


def test_labels_of_own_fusions_are_explained(settings):
    options = TranslationOptions(
        fusions=(("mine", ("all",)),), predict_from=("mine", "FCcorr_fs86_hpf")
    )
    dataset_dir = settings.output_dir / "derivatives" / "krakencoder-x"
    write_prediction_dataset(replace(settings, translation=options), (), dataset_dir)
    table = (dataset_dir / "descriptions.tsv").read_text()
    assert "desc-mine\tFrom the fusion mine" in table
    assert "desc-FCcorrHPFfs86\tFrom the measured flavor FCcorr_fs86_hpf" in table
    assert "desc-meanfit+meanshift\t" in table


def test_every_label_of_a_run_is_explained(settings):
    predicted = settings.output_dir / "derivatives" / "krakencoder-x"
    write_measured_dataset(settings)
    write_prediction_dataset(settings, (), predicted)
    for level, dataset_dir in (("measured", settings.output_dir), ("predicted", predicted)):
        names = Path(__file__).parents[1] / "app" / f"expected_{level}.txt"
        labels = set(re.findall(r"desc-[A-Za-z0-9+]+", names.read_text("utf-8")))
        rows = (dataset_dir / "descriptions.tsv").read_text("utf-8").splitlines()
        assert labels
        assert not labels - {row.split("\t")[0] for row in rows}


def test_readme_lists_the_outputs(settings):
    write_measured_dataset(settings)
    readme = (settings.output_dir / "README.md").read_text()
    assert "sub-X/{func,dwi}/*_space-*_atlas-*_meas-*_relmat.tsv" in readme
    assert "sub-X/dwi/*_space-*_desc-*_assignments.npz" in readme


# ---------------------------------------------------------------- whole trees


def save_measured(settings):
    """A participant's outputs with all files that the participant level writes."""
    root = settings.output_dir
    write_measured_dataset(settings)
    bold = [("sub", "01"), ("task", "rest"), ("run", "1")]
    dwi = [("sub", "01"), ("dir", "AP")]
    places = {"func": (bold, "T1w"), "dwi": (dwi, "ACPC")}
    for flavor in FLAVORS:
        entities, space = places[flavor.datatype]
        path = root / output_path(
            "connectome", entities, datatype=flavor.datatype,
            space=space, atlas=flavor.atlas, meas=flavor.meas,
        )  # fmt: skip
        region_names = load_atlas(flavor.atlas).region_names
        write_connectome(path, np.eye(len(region_names)), region_names)
        write_json(path.with_suffix(".json"), connectome_sidecar(flavor))
    for atlas in ATLASES:
        _save_series(root, bold, atlas)
        for datatype, (entities, space) in places.items():
            path = root / output_path(
                "atlas_labels", entities, datatype=datatype, space=space, atlas=atlas
            )
            nib.save(nib.Nifti1Image(np.ones((3, 3, 3), np.int16), np.eye(4)), path)
            sidecar = path.with_name(path.name.replace(".nii.gz", ".json"))
            write_json(sidecar, labels_sidecar(atlas, space=space))
    for name, entities, desc in (("functional_qc", bold, "fc"), ("structural_qc", dwi, "sc")):
        path = root / output_path(name, entities, desc=desc)
        write_table(path, ["n_volumes"], [[10]])
        write_json(path.with_suffix(".json"), quality_sidecar(["n_volumes"]))
        figure = root / output_path("figure", entities, suffix="bold", desc="qc")
        figure.parent.mkdir(exist_ok=True)
        figure.write_bytes(b"png")
    for name in ("sub-01.html", "logs/sub-01/run/config.toml", ".kraken-bids/sub-01.json"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")


def _save_series(root, entities, atlas):
    names = load_atlas(atlas).region_names
    for desc in ("hpf", "hpfgsr"):
        path = root / output_path("timeseries", entities, space="T1w", atlas=atlas, desc=desc)
        rows = format_rows(np.zeros((3, len(names))))
        path.write_bytes(b"\n".join(["\t".join(names).encode(), *rows]) + b"\n")
        write_json(path.with_suffix(".json"), timeseries_sidecar(atlas, desc))


def save_predicted(settings):
    """All files that the group level writes."""
    root = settings.output_dir / "derivatives" / "krakencoder-x"
    settings = replace(settings, level="group")
    write_prediction_dataset(settings, find_cohort(settings.output_dir), root)
    latent = root / output_path("latent", [("sub", "01")])
    tables = {
        latent: latent_sidecar(),
        root / output_path("cohort_latent", desc="fusion"): latent_sidecar(cohort=True),
        root / output_path("prediction_qc", desc="kraken"): {},
    }
    for path, sidecar in tables.items():
        write_table(path, ["source", "z000"], [["fusion", 0.5]])
        write_json(path.with_suffix(".json"), sidecar)
    adaptation = root / output_path("adaptation", desc="meanfit+meanshift")
    adaptation.write_bytes(b"x")
    write_json(adaptation.with_suffix(".json"), {})
    for flavor in FLAVORS:
        region_names = load_atlas(flavor.atlas).region_names
        mean = root / output_path("cohort_mean", atlas=flavor.atlas, meas=flavor.meas, stat="mean")
        write_connectome(mean, np.eye(len(region_names)), region_names)
        for source in ("fusion", "fusionSC"):
            path = root / output_path(
                "prediction", [("sub", "01")], datatype=flavor.datatype,
                atlas=flavor.atlas, meas=flavor.meas, desc=source,
            )  # fmt: skip
            write_connectome(path, np.eye(len(region_names)), region_names)
            write_json(path.with_suffix(".json"), prediction_sidecar(flavor, source=source))
    edges = np.ones(3655, dtype=np.float32)
    stored = add_to_session_file(
        root, (("sub", "01"),), source="fusion", target=str(FLAVORS[0]), edges=edges, provenance={}
    )
    save_session_sidecar(root, (("sub", "01"),), [stored])
    (root / "group.html").write_text("x")
    return root


def validate(root):
    """Errors and warnings of the BIDS validator, by code."""
    program = Path(sys.executable).with_name("bids-validator-deno")
    found = str(program) if program.exists() else shutil.which("bids-validator-deno")
    assert found, "bids-validator-deno is not installed"
    done = subprocess.run(
        [found, str(root), "--format", "json"], capture_output=True, text=True, check=False
    )
    issues = json.loads(done.stdout)["issues"]["issues"]
    return {
        severity: [
            (issue["code"], issue.get("location"), issue.get("issueMessage"))
            for issue in issues
            if issue["severity"] == severity
        ]
        for severity in ("error", "warning")
    }


@pytest.mark.slow
def test_the_measured_data_set_is_valid(settings):
    save_measured(settings)
    assert validate(settings.output_dir)["error"] == []


@pytest.mark.slow
def test_the_prediction_data_set_is_valid(settings):
    save_measured(settings)
    assert validate(save_predicted(settings))["error"] == []


def test_pybids_reads_both_data_sets(settings):
    from bids.layout import BIDSLayout

    own = str(resources.files("kraken_bids") / "data" / "pybids_config.json")
    config = ["bids", "derivatives", own]
    save_measured(settings)
    predicted = save_predicted(settings)
    layout = BIDSLayout(settings.output_dir, validate=False, config=config)
    (file,) = layout.get(atlas="fs86", meas="FCcorrHPF", suffix="relmat", extension=".tsv")
    assert file.get_entities()["task"] == "rest"
    assert file.get_metadata()["RelationshipMeasure"] == "Pearson correlation"
    assert layout.get_subjects() == ["01"]
    layout = BIDSLayout(predicted, validate=False, config=config)
    found = layout.get(desc="fusionSC", suffix="relmat", extension=".tsv")
    assert {file.get_entities()["meas"] for file in found} == {flavor.meas for flavor in FLAVORS}
    means = layout.get(stat="mean", suffix="relmat", extension=".tsv")
    assert len(means) == len(FLAVORS)
