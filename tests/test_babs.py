# SPDX-License-Identifier: MIT
"""The configuration for BABS: what it hands to the program is understood by it."""

import shlex
from pathlib import Path

import yaml

from kraken_bids import __version__
from kraken_bids.cli import make_parser

CONFIG = Path(__file__).resolve().parents[1] / "containers" / "babs_kraken-bids.yaml"
#: Where a job has its copy of the project; a blank in it does no harm.
PROJECT = "/scratch/my jobs/ds"
#: Sections that BABS knows (its page on the configuration file).
SECTIONS = {
    "input_datasets", "bids_app_args", "singularity_args", "all_results_in_one_zip",
    "zip_foldernames", "cluster_resources", "script_preamble", "job_compute_space",
    "required_files", "alert_log_messages",
}  # fmt: skip


def test_configuration_is_a_command_line_of_ours():
    config = yaml.safe_load(CONFIG.read_text("utf-8"))
    assert set(config) <= SECTIONS
    options = dict(config["bids_app_args"])
    first, *_ = config["input_datasets"]
    bids_dir = f"{PROJECT}/inputs/data/{first}/{first}"
    options[options.pop("$SUBJECT_SELECTION_FLAG")] = "sub-01"
    # what BABS does not replace is handed on to a script, which knows its folder
    options = {
        key: value if value.startswith("$BABS_") else value.replace("$PWD", PROJECT)
        for key, value in options.items()
    }
    assert all(value.startswith("$BABS_") or "$" not in key + value
               for key, value in options.items())  # fmt: skip
    words = [word for pair in options.items() for word in shlex.split(" ".join(pair))]
    typed = make_parser().parse_args([bids_dir, "outputs", "participant", *words])
    names = [pair.partition("=")[0] for pair in typed.derivatives]
    assert names == list(config["input_datasets"])
    for name, folder in (pair.split("=") for pair in typed.derivatives):
        # a container starts elsewhere: the path is absolute
        assert folder == f"{PROJECT}/{config['input_datasets'][name]['path_in_babs']}/{name}"
    assert config["zip_foldernames"] == {"kraken-bids": __version__.replace(".", "-")}
