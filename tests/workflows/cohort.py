# SPDX-License-Identifier: MIT
"""A made-up cohort, measured as by the participant level, and how it is translated."""

import csv
import json
from pathlib import Path

import numpy as np

from kraken_bids.atlases import load_atlas
from kraken_bids.bids.names import output_path
from kraken_bids.bids.writers import write_connectome
from kraken_bids.connectome.edges import edges_to_matrix
from kraken_bids.flavors import Flavor
from kraken_bids.plan import CohortSession
from kraken_bids.settings import TranslationOptions
from kraken_bids.workflows.translation import init_translation_wf

FC = ("FCcorr_fs86_hpf", "FCcorr_fs86_hpfgsr", "FCpcorr_fs86_hpf")
SC = ("SCifod2act_fs86_volnorm", "SCsdstream_fs86_volnorm")
FLAVORS = FC + SC
FUSIONS = ("fusion", "fusionSC", "fusionFC")
REGIONS = load_atlas("fs86").region_names
N_EDGES = 3655


def simulate(n, seed):
    """Connectomes whose flavors share five factors a participant, in a scale of their own."""
    population = np.random.default_rng(1)
    rng = np.random.default_rng(seed)
    factors = rng.standard_normal((n, 5))
    connectomes = {}
    for flavor in FLAVORS:
        mean = population.uniform(0.1, 1, N_EDGES)
        loadings = 0.1 * population.standard_normal((5, N_EDGES))
        noise = 0.05 * rng.standard_normal((n, N_EDGES))
        connectomes[flavor] = mean + factors @ loadings + noise
    return connectomes


def possible(connectomes):
    """Correlations up to 1, and no fewer than no streamlines."""
    limits = {name: (-1, 1) if name in FC else (0, None) for name in connectomes}
    return {name: np.clip(edges, *limits[name]) for name, edges in connectomes.items()}


def write_cohort(root, connectomes, *, participants, sessions=None, sites=()):
    """Write measured connectomes as a participant-level run does."""
    found = []
    for row, participant in enumerate(participants):
        session = sessions[row] if sessions else None
        entities = [("sub", participant), *([("ses", session)] if session else [])]
        files = []
        for name, edges in connectomes.items():
            if np.isnan(edges[row]).all():
                continue
            flavor = Flavor.parse(name)
            path = root / output_path(
                "connectome",
                entities,
                datatype=flavor.datatype,
                space="T1w",
                atlas=flavor.atlas,
                meas=flavor.meas,
            )
            matrix = edges_to_matrix(edges[row], diagonal=float(flavor.kind == "FCcorr"))
            write_connectome(path, matrix, REGIONS)
            files.append((name, path))
        site = sites[row] if sites else ""
        found.append(CohortSession(participant, session, tuple(files), site))
    return tuple(found)


def run(sessions, bundle, tmp_path, *, name="predictions", batch_size=4, root=None, **options):
    """Run the group level; return the data set and the problems."""
    dataset_dir = tmp_path / name
    workflow = init_translation_wf(
        sessions=sessions,
        options=TranslationOptions(
            model_dir=bundle.path, model_sha256=bundle.sha256, device="cpu", **options
        ),
        dataset_dir=dataset_dir,
        sources_root=root,
        batch_size=batch_size,
    )
    return execute(workflow, tmp_path / f"work-{name}"), dataset_dir


def execute(workflow, work_dir):
    """Run a graph in one process and return the outputs of its last nodes."""
    workflow.base_dir = str(work_dir)
    workflow.config["execution"] = {"crashdump_dir": str(work_dir), "crashfile_format": "txt"}
    nodes = {node.name: node for node in workflow.run(plugin="Linear").nodes()}
    problems = nodes.get("evaluate", nodes["read"]).result.outputs
    return json.loads(Path(problems.problems_file).read_text("utf-8"))["problems"]


def table(path):
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t"))


def prediction(dataset_dir, participant, source, target):
    flavor = Flavor.parse(target)
    return dataset_dir / output_path(
        "prediction",
        [("sub", participant)],
        datatype=flavor.datatype,
        atlas="fs86",
        meas=flavor.meas,
        desc=source,
    )


def trust(dataset_dir, participant):
    file = dataset_dir / f"sub-{participant}/sub-{participant}_desc-trust_qc.tsv"
    return {row["flavor"]: row for row in table(file)}


def files_of(folder):
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
