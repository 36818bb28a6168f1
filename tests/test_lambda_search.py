# SPDX-License-Identifier: MIT
"""``--pcorr-lambda search`` from the command line: options, targets, the run, the page."""

import json
import logging

import numpy as np
import pytest

from kraken_bids import lambda_search
from kraken_bids.arguments import config_text, settings_from
from kraken_bids.atlases import PublishedFile, load_atlas
from kraken_bids.bids.names import output_path
from kraken_bids.bids.writers import write_connectome, write_json
from kraken_bids.boilerplate import describe_methods
from kraken_bids.cli import main, make_parser
from kraken_bids.connectome.edges import matrix_to_edges
from kraken_bids.connectome.partial import mean_precision, partial_correlation
from kraken_bids.errors import InputError, Problems, ResourceError, UsageError
from kraken_bids.flavors import Flavor
from kraken_bids.lambda_search import (
    plan_lambda_search,
    published_targets,
    tell_later_search,
    tell_measured_lambdas,
    tell_unchosen,
)
from kraken_bids.model.training import train_krakencoder
from kraken_bids.plan import CohortSession
from kraken_bids.published import PublishedExtra, published_models
from kraken_bids.run_group import translation_key
from kraken_bids.settings import RegularizationOptions, TranslationOptions

CORR, PARTIAL = "FCcorr_fs86_hpf", "FCpcorr_fs86_hpf"
REGIONS = load_atlas("fs86").region_names


def correlations(n, seed, *, n_volumes=160):
    loadings = np.random.default_rng(1).normal(size=(8, 86))
    rng = np.random.default_rng(seed)
    series = (
        rng.normal(size=(n_volumes, 8)) @ loadings + 2 * rng.normal(size=(n_volumes, 86))
        for _ in range(n)
    )
    return np.stack([np.corrcoef(one, rowvar=False) for one in series])


def partial_of(matrix, lambda_):
    return partial_correlation(np.linalg.inv(matrix + lambda_ * np.eye(86)))


@pytest.fixture(scope="module")
def precision():
    return mean_precision(correlations(4, 7, n_volumes=1000))


@pytest.fixture
def target(tmp_path, precision):
    file = tmp_path / "precision.npy"
    np.save(file, precision)
    return file


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    matrices = correlations(12, 0)
    connectomes = {
        CORR: np.stack([matrix_to_edges(m) for m in matrices]),
        PARTIAL: np.stack([matrix_to_edges(partial_of(m, 0.06)) for m in matrices]),
    }
    folder = tmp_path_factory.mktemp("model") / "tiny"
    train_krakencoder(connectomes, folder, n_components=4, latent_size=8, epochs=2)
    return folder


@pytest.fixture
def data(tmp_path):
    """Folders of a study; three participants were measured with two lambdas."""
    bids_dir, out = tmp_path / "data", tmp_path / "out"
    bids_dir.mkdir()
    for label, matrix, lambda_ in zip("123", correlations(3, 3), (0.06, 0.06, 0.1), strict=True):
        for name, values in ((CORR, matrix), (PARTIAL, partial_of(matrix, lambda_))):
            flavor = Flavor.parse(name)
            path = out / output_path("connectome", [("sub", label)], datatype="func",
                                     space="T1w", atlas="fs86", meas=flavor.meas)  # fmt: skip
            write_connectome(path, values, REGIONS)
            facts = {"Regularization": lambda_} if name == PARTIAL else {}
            write_json(path.with_suffix(".json"), facts)
    return bids_dir, out


@pytest.fixture
def read(data, tmp_path):
    """Settings of a command line."""

    def read(*options, level="group"):
        parser = make_parser()
        words = [*data, level, "-w", tmp_path / "work", "--status", *options]
        return settings_from(parser.parse_args([str(word) for word in words]), parser)

    return read


@pytest.fixture
def group(data, model, tmp_path):
    """Run the group level; its exit code."""

    def group(*options):
        plugin = tmp_path / "plugin.json"
        plugin.write_text('{"plugin": "Linear"}')
        words = [*data, "group", "--model", model, "--output-label", "tiny", "-w",
                 tmp_path / "work", "--use-plugin", plugin, *options]  # fmt: skip
        return main([str(word) for word in words])

    return group


def session_files(out):
    return tuple(
        CohortSession(
            label,
            None,
            tuple(
                (name, out / f"sub-{label}/func/sub-{label}_space-T1w_atlas-fs86_meas-"
                 f"{Flavor.parse(name).meas}_relmat.tsv")
                for name in (CORR, PARTIAL)
            ),
        )
        for label in "123"
    )  # fmt: skip


def test_search_is_chosen_by_atlas_or_for_all(read):
    assert read().regularization == RegularizationOptions()
    assert read("--pcorr-lambda", "search").regularization.searched == (
        "fs86", "shen268", "coco439",
    )  # fmt: skip
    chosen = read("--pcorr-lambda", "search", "fs86=0.1")
    assert chosen.regularization.searched == ("shen268", "coco439")
    assert dict(chosen.functional.pcorr_lambda)["fs86"] == 0.1
    assert read("--pcorr-lambda", "coco439=search").regularization.searched == ("coco439",)


def test_measured_connectomes_do_not_depend_on_the_search(read):
    words = ["--pcorr-lambda", "search"]
    assert read(*words, level="participant").functional == read(level="participant").functional


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--pcorr-lambda", "fs68=search"], "Did you mean 'fs86'"),
        (["--pcorr-lambda", "fs86=search", "fs86=0.1"], "'fs86' is given twice"),
        (["--pcorr-lambda", "cocoyeo243=search"], "no target is published for atlas cocoyeo243"),
        (["--pcorr-target", "fs86=TARGET"], "of use only where lambda is searched"),
        (["--pcorr-lambda", "search", "--pcorr-target", "fs86=/no/file"], "no file /no/file"),
        (["--pcorr-lambda", "find"], "'find' is not NAME=VALUE"),
    ],
)
def test_wrong_options_are_explained(read, target, words, message):
    with pytest.raises((UsageError, InputError), match=message):
        read(*[word.replace("TARGET", str(target)) for word in words])


def test_single_participants_are_not_translated_with_a_search(data, model, tmp_path):
    parser = make_parser()
    words = [*data, "participant", "-w", tmp_path / "w", "--model", model, "--adaptation", "none"]
    words = [str(word) for word in words]
    assert settings_from(parser.parse_args(words), parser).translation.model_dir == model
    searched = parser.parse_args([*words, "--pcorr-lambda", "search"])
    with pytest.raises(UsageError, match="searched on a cohort, not on one participant"):
        settings_from(searched, parser)


def test_configuration_round_trips(data, tmp_path, target):
    parser = make_parser()
    words = [*map(str, data), "group", "--status", "-w", str(tmp_path / "w")]
    given = [*words, "--pcorr-lambda", "fs86=search", "--pcorr-target", f"fs86={target}"]
    namespace = parser.parse_args(given)
    first = settings_from(namespace, parser)
    file = tmp_path / "options.toml"
    file.write_text(config_text(namespace))
    again = settings_from(parser.parse_args([*words, "--config-file", str(file)]), parser)
    assert again.regularization == first.regularization
    assert first.regularization.targets == (("fs86", target),)


def test_key_depends_on_the_target_and_not_on_its_place(read, data, target, tmp_path, precision):
    sessions = session_files(data[1])

    def key(file):
        settings = read("--pcorr-lambda", "fs86=search", "--pcorr-target", f"fs86={file}")
        search = plan_lambda_search(settings, sessions)
        return translation_key(sessions, TranslationOptions(), search)

    (tmp_path / "b").mkdir()
    moved, other = tmp_path / "b" / target.name, tmp_path / "other.npy"
    moved.write_bytes(target.read_bytes())
    np.save(other, 2 * precision)
    plain = translation_key(sessions, TranslationOptions())
    assert key(target) == key(moved)
    assert len({plain, key(target), key(other)}) == 3


def published(monkeypatch, target, *, sha256="0" * 64):
    """Put a file in the place of the published target, or nothing that can be fetched."""
    file = PublishedFile("target.npy", "https://example.invalid/target.npy", sha256, ())
    extra = {"regtarget-fs86": PublishedExtra("regtarget-fs86", "target", (file,))}
    monkeypatch.setattr(lambda_search, "published_extras", lambda: extra)
    if target is not None:
        monkeypatch.setattr(lambda_search, "find_files", lambda files: (target,) * len(files))


def test_published_target_is_fetched(monkeypatch, read, data, target):
    published(monkeypatch, target)
    settings = read("--pcorr-lambda", "fs86=search")
    search = plan_lambda_search(settings, session_files(data[1]))
    assert (search.targets[0].name, search.targets[0].file) == ("regtarget-fs86", target)
    assert [dict(row) for row in search.correlations] == [
        {"fs86": dict(session.connectomes)[CORR]} for session in session_files(data[1])
    ]


def test_target_that_cannot_be_fetched_is_told(monkeypatch, read, data, tmp_path):
    published(monkeypatch, None)
    monkeypatch.setenv("KRAKEN_BIDS_RESOURCES", str(tmp_path / "resources"))
    settings = read("--pcorr-lambda", "fs86=search")

    def offline(files):
        raise ResourceError("cannot be fetched", where=files[0].url, fix="Put it there.")

    monkeypatch.setattr(lambda_search, "find_files", offline)
    with pytest.raises(ResourceError, match=r"example\.invalid/target\.npy") as caught:
        plan_lambda_search(settings, session_files(data[1]))
    told = str(caught.value)
    assert "target.npy, the target that lambda of fs86 is searched against, is not here" in told
    assert "kraken-model fetch regtarget-fs86" in told
    assert "--pcorr-lambda fs86=0.06" in told
    search = plan_lambda_search(settings, session_files(data[1]), fetch=False)
    assert search.targets[0].file is None


def test_targets_that_are_none_are_refused_together(read, data, tmp_path, precision):
    sessions = session_files(data[1])
    wrong, small = tmp_path / "wrong.npy", tmp_path / "small.npy"
    np.save(wrong, correlations(1, 0)[0])
    np.save(small, precision[:5, :5])
    shen = (("FCcorr_shen268_hpf", tmp_path / "s.tsv"),)
    sessions = (*sessions, CohortSession("4", None, shen))
    settings = read("--pcorr-lambda", "fs86=search", "shen268=search",
                    "--pcorr-target", f"fs86={wrong}", f"shen268={small}")  # fmt: skip
    with pytest.raises(Problems) as caught:
        plan_lambda_search(settings, sessions)
    assert "its diagonal is 1, as that of correlations" in str(caught.value)
    assert "has 5 regions, shen268 has 268" in str(caught.value)


def test_search_without_correlations_is_refused(read, data, target, caplog):
    words = ["--pcorr-lambda", "fs86=search", "--pcorr-target", f"fs86={target}"]
    without = [
        CohortSession(s.participant, None, s.connectomes[1:]) for s in session_files(data[1])
    ]
    with pytest.raises(InputError, match="no correlations to search lambda on for fs86"):
        plan_lambda_search(read(*words), without)
    with pytest.raises(InputError), caplog.at_level(logging.WARNING, "kraken_bids"):
        plan_lambda_search(read(*words), session_files(data[1]), model_flavors={CORR})
    assert f"the model lacks {PARTIAL}" in caplog.text


@pytest.fixture
def shen_sessions(tmp_path):
    """Write the sidecars of three sessions of shen268, with the lambda's source given."""

    def write(*sources, dof=500.0):
        sessions = []
        for label, source in zip("abc", sources, strict=False):
            stem = f"sub-{label}_atlas-shen268_meas-{{}}HPF_relmat"
            corr, partial = (
                tmp_path / f"{stem.format(kind)}.tsv" for kind in ("FCcorr", "FCpcorr")
            )
            write_json(corr.with_suffix(".json"), {"DegreesOfFreedom": dof})
            facts = {"Regularization": 0.06, "RegularizationSource": source}
            write_json(partial.with_suffix(".json"), facts)
            files = (("FCcorr_shen268_hpf", corr), ("FCpcorr_shen268_hpf", partial))
            sessions.append(CohortSession(label, None, files))
        return sessions

    return write


OUR_CHOICE = "default (our choice: none is published for this atlas)"


def test_lambda_that_nobody_chose_is_searched_where_the_model_has_a_target(
    monkeypatch, read, shen_sessions, target, caplog
):
    caplog.set_level(logging.INFO, "kraken_bids")
    monkeypatch.setattr(lambda_search, "find_files", lambda files: (target,) * len(files))
    monkeypatch.setattr(lambda_search, "_check_target", lambda atlas, file: None)
    settings, sessions = read(), shen_sessions(OUR_CHOICE, OUR_CHOICE)
    search = plan_lambda_search(settings, sessions, own_targets=("fs86", "shen268"))
    assert search.atlases == ("shen268",)
    assert search.targets[0].name == "regtarget-shen268"
    assert plan_lambda_search(settings, sessions) is None
    tell_unchosen(sessions, settings, searched=("shen268",))
    assert caplog.text == ""
    tell_unchosen(sessions, settings)
    assert "shen268 keep lambda 0.06, our choice" in caplog.text


def test_an_atlas_without_a_lambda_of_its_own_has_the_default(read, caplog, tmp_path):
    caplog.set_level(logging.INFO, "kraken_bids")
    settings = read("--atlases", "cocoyeo243")
    tell_later_search(settings)
    assert "lambda of cocoyeo243 is our choice, 0.06" in caplog.text
    partial = tmp_path / "sub-a_atlas-cocoyeo243_meas-FCpcorrHPF_relmat.tsv"
    facts = {"Regularization": 0.06, "RegularizationSource": OUR_CHOICE}
    write_json(partial.with_suffix(".json"), facts)
    tell_unchosen([CohortSession("a", None, (("FCpcorr_cocoyeo243_hpf", partial),))], settings)
    assert "cocoyeo243 keep lambda 0.06, our choice" in caplog.text


@pytest.mark.parametrize(
    ("words", "sources", "dof"),
    [
        ((), (OUR_CHOICE, "given (--pcorr-lambda)"), 500.0),
        (("--pcorr-lambda", "shen268=0.06"), (OUR_CHOICE, OUR_CHOICE), 500.0),
        (("--flavors", "FCpcorr_fs86_hpf"), (OUR_CHOICE, OUR_CHOICE), 500.0),
        ((), (OUR_CHOICE, OUR_CHOICE), 267.0),
    ],
    ids=["measured-with-a-given", "given", "not-asked-for", "few-dof"],
)
def test_lambda_is_not_searched_unasked_otherwise(read, shen_sessions, words, sources, dof):
    sessions = shen_sessions(*sources, dof=dof)
    assert plan_lambda_search(read(*words), sessions, own_targets=("shen268",)) is None


def test_search_that_nobody_has_data_for_is_refused(read, shen_sessions):
    settings = read("--pcorr-lambda", "shen268=search")
    with pytest.raises(InputError, match="all 2 of FCcorr_shen268_hpf have fewer degrees of fr"):
        plan_lambda_search(settings, shen_sessions(OUR_CHOICE, OUR_CHOICE, dof=267.0))


def test_search_and_a_fitted_adaptation_exclude_each_other(read, target, tmp_path):
    with pytest.raises(UsageError, match="have to have the lambda that the adaptation"):
        read("--pcorr-lambda", "fs86=search", "--adaptation", target)


def test_targets_are_those_of_the_model_itself(monkeypatch, model):
    assert published_targets(None) == published_targets(model) == ()
    known = next(iter(published_models().values()))
    monkeypatch.setattr("kraken_bids.model.card.published_sources", lambda config: [known])
    assert published_targets(model) == ("fs86",)  # the small model has no other atlas


def test_different_lambdas_are_told(read, data, caplog):
    sessions = session_files(data[1])
    tell_measured_lambdas(sessions, read())
    assert "several lambdas: 0.06 (2 sessions), 0.1 (1 session)" in caplog.text
    caplog.clear()
    tell_measured_lambdas(sessions, read(), searched=("fs86",))
    tell_measured_lambdas(sessions[:2], read())
    assert caplog.text == ""
    tell_measured_lambdas(sessions[:2], read("--pcorr-lambda", "fs86=0.2"))
    assert "fs86=0.2 has no effect at the group level" in caplog.text


def test_methods_text_speaks_of_the_search(read, target):
    searched = read("--pcorr-lambda", "fs86=search", "--pcorr-target", f"fs86={target}")
    assert "fs86 (own target)" in describe_methods(searched).markdown
    assert "one lambda an atlas" not in describe_methods(read()).markdown


def test_group_level_searches_and_is_done_then(group, data, target, capfd):
    words = ["--pcorr-lambda", "search", "--pcorr-target", f"fs86={target}"]
    dataset_dir = data[1] / "derivatives" / "krakencoder-tiny"
    assert group(*words, "--dry-run") == 0
    told = capfd.readouterr().err
    assert "FCpcorr_fs86_hpf is searched for: 3 matrices, target precision.npy" in told
    assert "shen268 is not searched for: the model lacks FCpcorr_shen268_hpf" in told
    assert not dataset_dir.exists()
    assert group(*words) == 0
    told = capfd.readouterr().err
    table = dataset_dir / "group" / "atlas-fs86_meas-FCpcorrHPF_desc-lambda_qc.tsv"
    facts = json.loads(table.with_suffix(".json").read_text("utf-8"))
    assert f"lambda of {PARTIAL}: {facts['Regularization']:.6g}, on 3 matrices" in told
    page = (dataset_dir / "group.html").read_text("utf-8")
    assert 'id="lambda"' in page
    assert "Lambda of fs86: the dashed line" in page
    assert "measured with several lambdas" not in page
    methods = next((dataset_dir / "logs").glob("*/CITATION.md")).read_text("utf-8")
    assert "no other is named: fs86 (own target)." in methods
    assert "desc-lambda" in (dataset_dir / "descriptions.tsv").read_text("utf-8")
    made = dataset_dir / "sub-3" / "func"
    assert (made / "sub-3_space-T1w_atlas-fs86_meas-FCpcorrHPF_relmat.tsv").is_file()
    assert group(*words) == 0
    assert "holds the predictions of this cohort and model already" in capfd.readouterr().err
    # without a search nothing of it stays
    assert group() == 0
    assert "several lambdas" in capfd.readouterr().err
    assert not table.exists()
    assert not list(made.glob("*_space-T1w_*"))
    page = (dataset_dir / "group.html").read_text("utf-8")
    assert 'id="lambda"' not in page
    assert "measured with several lambdas" in page
