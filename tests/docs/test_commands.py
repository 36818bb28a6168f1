# SPDX-License-Identifier: MIT
"""Every command block of README and pages: run here, run by another test, or told why not.

Commands of ``kraken-model`` are run one after the other in one folder that holds what they speak
of; commands of ``kraken-bids`` and ``kraken-submit`` as ``--dry-run`` on a tiny study.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from kraken_bids import cli
from kraken_bids.connectome.functional import correlate, partial_correlation
from kraken_bids.model.training import train_krakencoder
from kraken_bids.model_commands import cli as model_cli
from kraken_bids.submit import cli as submit_cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "containers" / "README.md",
)  # fmt: skip

#: Commands that another test runs, with other paths.
RUN_ELSEWHERE = {
    "kraken-model fetch krakencoder-2024":
        "tests/fetching/test_command.py::test_what_was_fetched_is_printed",
    "kraken-bids /data/study /data/study/derivatives/kraken group -w /scratch/kraken":
        "tests/app/test_end_to_end.py::test_both_levels_succeed",
    "kraken-bids /data/study /data/study/derivatives/kraken participant --participant-label 03"
    " --model krakencoder-2024 --adaptation desc-meanfit+meanshift_adaptation.safetensors":
        "tests/app/test_end_to_end.py::test_single_participant_is_predicted_with_a_fitted_adaptation",
    "kraken-bids demo/data demo/results participant --dry-run"
    " --atlas-file shen268=demo/data/atlases/shen268_dseg.nii.gz"
    " coco439=demo/data/atlases/coco439_dseg.nii.gz":
        "tests/app/test_end_to_end.py::test_status_and_dry_run_tell_and_write_nothing",
    "kraken-bids demo/data demo/results group --model demo/krakencoder-demo --output-label demo":
        "tests/app/test_end_to_end.py::test_both_levels_succeed",
    "kraken-bids demo/data demo/results group --model demo/krakencoder-demo --output-label demo"
    " --status":
        "tests/app/test_end_to_end.py::test_status_and_dry_run_tell_and_write_nothing",
    "docker build -t kraken-bids --build-arg PIP_EXTRA_INDEX_URL=ADDRESS .":
        "tests/container/test_image.py::test_image_is_small",
    'docker run --rm --user "$(id -u):$(id -g)" -v DATA:/data:ro -v RESULTS:/out -v WORK:/scratch'
    " kraken-bids /data /out participant -w /scratch":
        "tests/container/test_image.py::test_both_levels_as_the_readme_says",
    "apptainer build kraken-bids.sif Singularity.def":
        "tests/container/test_apptainer.py::test_labels_and_help_say_what_it_is",
    "apptainer run --containall --cleanenv -B DATA:/data:ro -B RESULTS:/out -B WORK:/scratch"
    " kraken-bids.sif /data /out participant -w /scratch":
        "tests/container/test_apptainer.py::test_both_levels_without_network_or_home",
    "containers/build.sh build localhost/kraken-bids":
        "tests/container/test_image.py::test_image_is_small",
    "containers/build.sh save localhost/kraken-bids kraken-bids.tar":
        "tests/container/test_apptainer.py::test_labels_and_help_say_what_it_is",
    "apptainer build --build-arg BOOTSTRAP=docker-archive --build-arg IMAGE=kraken-bids.tar"
    " kraken-bids.sif Singularity.def":
        "tests/container/test_apptainer.py::test_labels_and_help_say_what_it_is",
    "apptainer build --fakeroot kraken-bids.sif containers/scratch.def":
        "tests/container/test_apptainer.py::test_image_from_scratch_is_the_same",
    "docker run --rm --read-only --tmpfs /tmp --network none --user 12345:12345"
    " --entrypoint /opt/kraken-bids/smoke_test.sh kraken-bids --full":
        "tests/container/test_image.py::test_smoke_test_passes",
    "apptainer test --containall --cleanenv kraken-bids.sif":
        "tests/container/test_apptainer.py::test_image_tests_itself",
    "python containers/boutiques.py --image kraken-bids > boutiques.json":
        "tests/container/test_boutiques.py::test_descriptor_is_valid",
    "bosh exec launch boutiques.json values.json --no-pull --user":
        "tests/container/test_image.py::test_boutiques_runs_the_image",
}  # fmt: skip
#: Why those of BABS are not run: tests/test_babs.py holds its configuration to our options.
BABS = "DataLad and git-annex, and half an hour of a cluster, are not for every check"
#: Commands that no test runs, and why.
NOT_RUN = {
    "git clone ADDRESS-OF-THIS-REPOSITORY kraken-bids": "tests run in a clone",
    "cd kraken-bids": "likewise",
    "source .venv/bin/activate": "tests run in that environment",
    "scripts/demo": "ten minutes; its steps are those of tests/app, and its set-up is tested in "
    "tests/test_scripts.py",
    "scripts/test": "runs this test",
    "datalad create kraken-ds": BABS,
    "cd kraken-ds && datalad containers-add kraken-bids-0-1-0 --url /path/to/kraken-bids.sif"
    " && cd ..": BABS,
    'babs init --container-ds "$PWD/kraken-ds" --container-name kraken-bids-0-1-0'
    ' --container-config "$PWD/babs_kraken-bids.yaml" --processing-level subject --queue slurm'
    ' "$PWD/project"': BABS,
    'babs check-setup "$PWD/project" --job-test': BABS,
    'babs submit "$PWD/project"': BABS,
    'babs status "$PWD/project"': BABS,
    'babs merge "$PWD/project"': BABS,
}  # fmt: skip


def read_commands(file, language="bash"):
    """Commands of a page, each in one line."""
    text = file.read_text("utf-8")
    blocks = re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = (line for block in blocks for line in block.replace("\\\n", " ").splitlines())
    return [" ".join(line.split()) for line in lines if line.strip()]


COMMANDS = list(dict.fromkeys(command for page in PAGES for command in read_commands(page)))
HERE = [command for command in COMMANDS if command not in {*RUN_ELSEWHERE, *NOT_RUN}]
MODEL = [command for command in HERE if command.startswith("kraken-model ")]
STUDY = [command for command in HERE if command.startswith(("kraken-bids ", "kraken-submit "))]
WRITING = [command for command in HERE if command.startswith("echo ")]


def test_every_command_is_run_or_told_why_not():
    known = ("kraken-model ", "kraken-bids ", "kraken-submit ", "echo ", "python benchmarks/")
    assert not [command for command in HERE if not command.startswith(known)]
    assert not ({*RUN_ELSEWHERE, *NOT_RUN} - set(COMMANDS)), "rows without a command"


def test_the_tests_named_are_there():
    for named in set(RUN_ELSEWHERE.values()):
        file, _, name = named.partition("::")
        tree = ast.parse((ROOT / file).read_text("utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the examples of ``kraken-model`` speak of, small."""
    root = tmp_path_factory.mktemp("examples")
    rng = np.random.default_rng(2)
    ids = [f"{number:02d}" for number in range(1, 7)]
    measured = {meas: [] for meas in MEASURED}
    for _ in ids:
        correlation = correlate(rng.normal(size=(400, 86)) + rng.normal(size=(400, 1)))
        streamlines = np.triu(rng.gamma(2.0, size=(86, 86)), k=1)
        streamlines = streamlines + streamlines.T
        measured["FCcorrHPF"].append(correlation)
        measured["FCcorrHPFGSR"].append(correlate(rng.normal(size=(400, 86))))
        measured["FCpcorrHPF"].append(partial_correlation(correlation))
        measured["SCifod2actVN"].append(streamlines)
        measured["SCsdstreamVN"].append(streamlines**2)
    write_results(root / "demo" / "results", ids, measured)
    upper = np.triu_indices(86, k=1)
    vectors = {
        MEASURED[meas]: np.array([matrix[upper] for matrix in matrices], dtype=np.float32)
        for meas, matrices in measured.items()
    }
    train_krakencoder(
        vectors, root / "demo" / "krakencoder-demo", n_components=4, latent_size=8, epochs=3
    )
    mine = [correlate(rng.normal(size=(300, 100))) for _ in ids]
    np.savez(root / "mine.npz", data=np.array(mine), subjects=ids)
    return root


MEASURED = {
    "FCcorrHPF": "FCcorr_fs86_hpf",
    "FCcorrHPFGSR": "FCcorr_fs86_hpfgsr",
    "FCpcorrHPF": "FCpcorr_fs86_hpf",
    "SCifod2actVN": "SCifod2act_fs86_volnorm",
    "SCsdstreamVN": "SCsdstream_fs86_volnorm",
}


def write_results(root, ids, measured):
    """Tables as the participant level writes them."""
    root.mkdir(parents=True)
    described = {"Name": "kraken-bids", "GeneratedBy": [{"Name": "kraken-bids"}]}
    (root / "dataset_description.json").write_text(json.dumps(described))
    names = [f"r{i}" for i in range(86)]
    for meas, matrices in measured.items():
        datatype, source = ("func", "_task-rest") if meas[0] == "F" else ("dwi", "")
        for participant, matrix in zip(ids, matrices, strict=True):
            parent = root / f"sub-{participant}" / datatype
            parent.mkdir(parents=True, exist_ok=True)
            stem = f"sub-{participant}{source}_space-T1w_atlas-fs86_meas-{meas}_relmat"
            rows = [
                "\t".join([name, *(f"{value:.6g}" for value in row)])
                for name, row in zip(names, matrix, strict=True)
            ]
            (parent / f"{stem}.tsv").write_text("\n".join(["\t".join(["", *names]), *rows]) + "\n")


def test_examples_of_kraken_model_work_in_their_order(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("KRAKEN_BIDS_RESOURCES", str(folder / "resources"))
    assert len(MODEL) > 10
    for command in MODEL:
        code = model_cli.main(shlex.split(command)[1:])
        assert code == 0, f"{command}: {capsys.readouterr().err[-2000:]}"
    made = np.load("predicted.npz", allow_pickle=False)
    assert made["fusionSC__FCcorr_fs86_hpf"].shape == (6, 3655)
    assert made["fusion__encoded"].shape == (6, 8)


@pytest.fixture
def scheduler(tmp_path, monkeypatch):
    """Stand-ins for Slurm's programs, which a dry run asks for and does not call."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sbatch", "squeue", "scancel", "sacct", "scontrol"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)


@pytest.fixture
def place(study, scheduler, tmp_path, monkeypatch):
    """A study, ready-made files, and where the paths of the commands lead here."""
    for participant in ("01", "02", "03"):
        study.add_anatomy(participant)
        study.add_bold(participant)
        study.add_dwi(participant)
        study.add_freesurfer(f"sub-{participant}")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    correlations = np.array([correlate(rng.normal(size=(300, 86))) for _ in range(2)])
    scipy.io.savemat("fc.mat", {"data": correlations, "subjects": ["01", "02"]})
    counts = rng.gamma(2.0, size=(2, 86, 86))
    np.savez("sc.npz", data=counts + counts.transpose(0, 2, 1), subjects=["01", "02"])
    series = tmp_path / "series" / "sub-01" / "func"
    series.mkdir(parents=True)
    stem = series / "sub-01_task-rest_atlas-fs86_desc-hpf_timeseries"
    table = "\n".join("\t".join(f"{v:.4f}" for v in row) for row in rng.normal(size=(200, 86)))
    header = "\t".join(f"region{i}" for i in range(86))
    stem.with_suffix(".tsv").write_text(f"{header}\n{table}\n")
    told = {
        "RepetitionTime": 2.0,
        "SoftwareFilters": {"High-pass": {"CutoffFrequency": 0.01}},
        "NuisanceParameters": ["trans_x"],
    }
    stem.with_suffix(".json").write_text(json.dumps(told))
    tracks = tmp_path / "tracks" / "sub-01" / "dwi"
    tracks.mkdir(parents=True)
    (tracks / "sub-01_space-ACPC_model-ifod2_streamlines.tck").write_bytes(b"not read yet")
    (tmp_path / "any").mkdir()
    (tmp_path / "kraken-bids.sif").touch()  # --dry-run opens no image
    for command in WRITING:
        subprocess.run(["bash", "-c", command], check=True)
    return {
        "/data/study": str(study.root),
        "/data/fmriprep": str(study.root / "derivatives" / "fmriprep"),
        "/data/qsiprep": str(study.root / "derivatives" / "qsiprep"),
        "/data/freesurfer": str(study.root / "derivatives" / "freesurfer"),
        "/data/": f"{tmp_path}/",
        "/scratch/": f"{tmp_path}/scratch-",
    }


@pytest.mark.parametrize("command", STUDY)
def test_commands_on_a_study_are_understood_and_find_it(command, place, folder, capsys):
    for path, here in place.items():
        command = command.replace(path, here)
    words = shlex.split(command)
    words += ["--atlases", "fs86", *(() if "--dry-run" in words else ("--dry-run",))]
    if words[0] == "kraken-submit":
        words += ["--model", str(folder / "demo" / "krakencoder-demo")]
    main = submit_cli.main if words[0] == "kraken-submit" else cli.main
    code = main(words[1:])
    told = capsys.readouterr()
    assert code == 0, told.err
    assert re.search(r"\b01\b", told.out + told.err)


def test_python_of_the_pages_works(folder, monkeypatch, rng):
    """The first block goes through the model, the second through a projection."""
    from kraken_bids import PCAProjection
    from kraken_bids.model.bundle import open_bundle
    from kraken_bids.model.weights import MappedWeights

    monkeypatch.chdir(folder)
    flavor = "SCifod2act_fs86_volnorm"
    bundle = open_bundle(Path("demo/krakencoder-demo"))
    transform = MappedWeights(bundle).transform(bundle, flavor)
    PCAProjection.from_transform(transform, flavor=flavor).save(folder / "projection")
    matrices = rng.gamma(2.0, size=(25, 86, 86))
    names = {"matrices": matrices + matrices.transpose(0, 2, 1),
             "edges": rng.gamma(2.0, size=(3, 3655))}  # fmt: skip
    for page in (ROOT / "docs" / "python.md", ROOT / "README.md"):
        text = page.read_text("utf-8")
        for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            exec(compile(block, str(page), "exec"), names)
    assert names["predicted"]["FCcorr_fs86_hpf"].shape == (25, 3655)
    assert names["scores"].shape == (3, 4)


@pytest.mark.parametrize(
    "command", [command for command in HERE if command.startswith("python benchmarks/")]
)
def test_benchmarks_named_are_there(command):
    words = [sys.executable, *shlex.split(command)[1:]]
    done = subprocess.run(words, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: " in done.stdout
