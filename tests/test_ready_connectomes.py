# SPDX-License-Identifier: MIT
"""Ready-made connectomes: read as kraken-model reads them, looked through, laid down."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kraken_bids.arguments import settings_from
from kraken_bids.atlases import load_atlas
from kraken_bids.bids.inputs import pairing_table, plan_sessions
from kraken_bids.bids.writers import write_connectome
from kraken_bids.cli import make_parser
from kraken_bids.connectome.edges import matrix_to_edges
from kraken_bids.errors import InputError, KrakenBIDSError, Problems
from kraken_bids.ready_connectomes import open_ready_cohort
from tests.conftest import write_json

NAMES = load_atlas("fs86").region_names
FC, SC = "FCcorr_fs86_hpf", "SCifod2act_fs86_volnorm"
MEAS = {FC: ("func", "FCcorrHPF"), SC: ("dwi", "SCifod2actVN")}


def matrix(seed, name=FC):
    rng = np.random.default_rng(seed)
    if name == FC:
        return np.corrcoef(rng.normal(size=(86, 120)))
    values = rng.random((86, 86))
    values = values + values.T
    np.fill_diagonal(values, 0)
    return values


def only(items):
    assert len(items) == 1, items
    return items[0]


def texts(session):
    return "\n".join(str(problem) for problem in session.problems)


@pytest.fixture
def tree(tmp_path):
    """Add a connectome as this program writes it; gives the folder to name."""
    root = tmp_path / "given"

    def add(participant="01", name=FC, values=None, *, source="task-rest_", sidecar=None):
        datatype, meas = MEAS[name]
        source = source if datatype == "func" else ""
        stem = f"sub-{participant}_{source}space-T1w_atlas-fs86_meas-{meas}_relmat"
        path = root / f"sub-{participant.partition('_ses-')[0]}" / datatype / f"{stem}.tsv"
        values = matrix(int(participant), name) if values is None else values
        write_connectome(path, values, NAMES)
        if sidecar:
            write_json(path.with_suffix(".json"), sidecar)
        return root

    return add


@pytest.fixture
def plan(study):
    def run(*texts, **changes):
        settings = study.settings(connectomes=tuple(map(str, texts)), **changes)
        cohort = open_ready_cohort(settings)
        plans = plan_sessions(
            settings, atlas_file=lambda atlas, role: None, connectomes=cohort.found
        )
        return cohort, plans

    return run


def test_a_tree_of_ours_keeps_its_names_and_what_is_known(tree, plan, tmp_path):
    known = {"Regularization": 0.06, "NumberOfVolumes": 300, "Software": "kraken-bids 1.0"}
    tree(sidecar={**known, "KrakencoderFlavor": FC, "Sources": ["elsewhere"]})
    root = tree("02", SC)
    cohort, (one, two) = plan(root)
    found = only(one.connectomes)
    assert found.flavor == FC
    assert found.entities == (("sub", "01"), ("task", "rest"))
    assert found.space == "T1w"
    assert found.file.name == "sub-01_task-rest_space-T1w_atlas-fs86_meas-FCcorrHPF_relmat.tsv"
    told = json.loads(found.known)
    assert told["Regularization"] == 0.06
    assert told["Origin"] == "given, not measured here; by kraken-bids 1.0"
    assert not {"Sources", "Software"} & set(told)
    assert only(two.connectomes).flavor == SC
    assert not one.problems + two.problems
    laid = only(cohort.lay_down(one, tmp_path / "laid").connectomes)
    values = np.load(laid.values_file)
    np.testing.assert_array_equal(values.astype(np.float32), matrix(1).astype(np.float32))
    assert "1 × ready" in pairing_table([one])


def test_what_changes_after_it_was_looked_through_is_refused(tree, plan, tmp_path):
    root = tree()
    cohort, plans = plan(root)
    tree(values=matrix(7))
    with pytest.raises(InputError, match="has changed while it was read"):
        cohort.lay_down(only(plans), tmp_path / "laid")


def test_missing_regions_are_named(tree, plan):
    values = matrix(1)
    values[4] = values[:, 4] = np.nan
    _, plans = plan(tree(values=values))
    assert json.loads(only(only(plans).connectomes).known)["MissingNodes"] == [NAMES[4]]


def stack(ids, name=FC):
    return {
        "data": np.stack([matrix(i, name) for i in range(len(ids))]),
        "subjects": np.array(ids),
    }


def test_files_of_a_cohort_are_told_their_flavor_by_hand(plan, tmp_path):
    np.savez(tmp_path / "fc.npz", **stack(["01_ses-a", "01_ses-b", "02_ses-a"]))
    sc = np.stack([matrix_to_edges(matrix(i, SC)) for i in range(3)])
    np.savez(tmp_path / "sc.npz", data=sc, subjects=["02_ses-a", "01_ses-a", "03_ses-a"])
    cohort, plans = plan(f"{FC}={tmp_path / 'fc.npz'}", f"{SC}={tmp_path / 'sc.npz'}")
    assert [p.label for p in plans] == [
        "sub-01_ses-a", "sub-01_ses-b", "sub-02_ses-a", "sub-03_ses-a",
    ]  # fmt: skip
    assert [item.flavor for item in plans[0].connectomes] == [FC, SC]
    assert plans[0].connectomes[0].entities == (("sub", "01"), ("ses", "a"))
    assert [item.flavor for item in plans[3].connectomes] == [SC]
    laid = cohort.lay_down(plans[0], tmp_path / "laid").connectomes
    np.testing.assert_allclose(np.load(laid[0].values_file), matrix(0), atol=1e-6)
    np.testing.assert_allclose(np.load(laid[1].values_file), matrix(1, SC), atol=1e-6)
    assert np.diag(np.load(laid[0].values_file)).tolist() == [1.0] * 86


def test_regions_are_ordered_by_their_names(plan, tmp_path):
    order = np.random.default_rng(3).permutation(86)
    (tmp_path / "given").mkdir()
    path = tmp_path / "given" / "sub-01_fc.csv"
    rows = [",".join(["", *(NAMES[place] for place in order)])]
    values = matrix(1)[np.ix_(order, order)]
    rows += [f"{NAMES[p]}," + ",".join(map(repr, map(float, row)))
             for p, row in zip(order, values, strict=True)]  # fmt: skip
    path.write_text("\n".join(rows) + "\n")
    cohort, plans = plan(f"{FC}={path.parent}")
    laid = cohort.lay_down(only(plans), tmp_path / "laid").connectomes
    np.testing.assert_allclose(np.load(only(laid).values_file), matrix(1), atol=1e-12)


def bad(change):
    values = matrix(1)
    change(values)
    return values


BAD = {
    "Fisher z": (np.arctanh(matrix(1) * 0.999), "on the diagonal"),
    "asymmetric": (bad(lambda values: values.__setitem__((3, 5), 0.99)), "not symmetric"),
    "other atlas": (matrix(1)[:50, :50], "holds 50 regions"),
    "infinite": (bad(lambda v: (v.__setitem__((3, 5), np.inf), v.__setitem__((5, 3), np.inf))),
                 "infinite"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_one_bad_matrix_is_told_and_the_others_go_on(tree, plan, case):
    values, message = BAD[case]
    tree("02")
    root = tree("03", SC)
    path = root / "sub-01" / "func" / "sub-01_task-rest_atlas-fs86_meas-FCcorrHPF_relmat.tsv"
    names = NAMES if len(values) == len(NAMES) else [f"V{place}" for place in range(len(values))]
    write_connectome(path, values, names)
    _, plans = plan(root)
    assert [len(p.connectomes) for p in plans] == [0, 1, 1]
    assert message in texts(plans[0])
    assert "01" in texts(plans[0])
    assert not plans[1].problems + plans[2].problems


SIDECARS = {
    "flavor": ({"KrakencoderFlavor": "FCcorr_fs86_hpfgsr"}, "it is FCcorr_fs86_hpfgsr, not"),
    "predicted": ({"Predicted": True}, "it was predicted"),
    "recipe": ({"OffRecipe": "denoised by XCP-D"}, "it is denoised by XCP-D"),
}


@pytest.mark.parametrize("case", SIDECARS)
def test_a_sidecar_that_speaks_against_it_is_believed(tree, plan, case):
    sidecar, message = SIDECARS[case]
    _, plans = plan(tree(sidecar=sidecar))
    assert message in texts(only(plans))


def test_flavors_modality_and_participants_are_chosen(tree, plan):
    for participant in ("01", "02"):
        tree(participant)
        root = tree(participant, SC)
    _, plans = plan(root, flavors=(SC,), participants=("02",))
    assert [item.flavor for item in only(plans).connectomes] == [SC]
    _, plans = plan(root, modalities=("func",))
    assert {item.flavor for p in plans for item in p.connectomes} == {FC}
    with pytest.raises(InputError, match="none of the flavors asked for"):
        plan(root, flavors=("FCcorr_fs86_hpfgsr",))
    with pytest.raises(Problems, match="participant '09'"):
        plan(root, participants=("09",))
    _, plans = plan(root, tasks=("nback",), flavors=(FC,))
    assert "is of task rest, not of nback" in texts(plans[0])


def test_files_without_ids_or_with_strange_ones_are_told(plan, tmp_path):
    np.savez(tmp_path / "fc.npz", data=stack(["1", "2"])["data"])
    with pytest.raises(InputError, match="has no ids of participants"):
        plan(f"{FC}={tmp_path / 'fc.npz'}")
    np.savez(tmp_path / "fc.npz", **stack(["a.b", "ab", "c"]))
    _, plans = plan(f"{FC}={tmp_path / 'fc.npz'}")
    assert [p.label for p in plans] == ["sub-ab", "sub-c"]
    assert "'a.b' cannot be part of a file's name" in texts(plans[0])
    assert [len(p.connectomes) for p in plans] == [1, 1]


def test_a_flavor_that_is_measured_too_is_told_and_neither_taken(study, tree, plan):
    for participant in ("01", "02"):
        study.add_anatomy(participant)
        study.add_bold(participant)
    tree()
    _, (one, two) = plan(tree("01", SC), modalities=("func", "dwi"))
    assert one.functional == ()
    assert [item.flavor for item in one.connectomes] == [SC]
    assert "FCcorr_fs86_hpf twice, from BOLD (sub-01_task-rest) and from connectomes" in texts(one)
    assert "neither is taken" in texts(one)
    assert (len(two.functional), two.problems) == (1, ())


def typed(study, *words):
    parser = make_parser()
    out = study.root.parent / "out"
    study.root.mkdir(parents=True, exist_ok=True)
    words = [str(study.root), str(out), *map(str, words), "-w", str(out / "work")]
    return settings_from(parser.parse_args(words), parser)


def test_the_command_line_takes_several_files_and_flavors_by_hand(study, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b.npz").write_bytes(b"")
    words = ["-d", f"connectomes={tmp_path / 'a'}", f"connectomes={FC}={tmp_path / 'b.npz'}"]
    settings = typed(study, "participant", *words, "--flavors", "SCifod2act_fs86_sift2")
    assert settings.connectomes == (str(tmp_path / "a"), f"{FC}={tmp_path / 'b.npz'}")
    assert settings.derivatives == ()
    settings = typed(study, "group", words[0], words[1], "--status")
    assert settings.connectomes == ()
    assert settings.derivatives == (("connectomes", tmp_path / "a"),)
    with pytest.raises(KrakenBIDSError, match="there is no file or folder"):
        typed(study, "participant", "-d", f"connectomes={FC}={tmp_path / 'c.npz'}")
