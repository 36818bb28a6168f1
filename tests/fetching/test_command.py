# SPDX-License-Identifier: MIT
from __future__ import annotations

import io
import logging

import pytest

from kraken_bids import published
from kraken_bids.atlases import load_atlas
from kraken_bids.errors import Problems, ResourceError, UsageError
from kraken_bids.model_commands.cli import make_parser
from kraken_bids.model_commands.fetch import ProgressBars, ProgressLog, shown_progress


def command(*argv):
    arguments = make_parser(["fetch"]).parse_args(["fetch", *argv])
    return arguments.run(arguments)


@pytest.fixture
def printed(capsys):
    """Rows of what the command printed."""

    def read():
        return [line.split("\t") for line in capsys.readouterr().out.splitlines()]

    return read


def test_list_names_models_atlases_and_further_files(folders, printed):
    assert command("--list") == 0
    rows = {row[0]: row[1:] for row in printed()}
    assert rows.pop("name") == ["here", "files", "what"]
    extras = {"subject-split", "target-latents", "cfeat-transforms", "regtarget-fs86",
              "regtarget-shen268", "regtarget-coco439"}  # fmt: skip
    atlases = {"shen268", "coco439", "cocoyeo243"}
    assert len(rows) == 26 + len(extras) + len(atlases)
    assert extras | atlases | {"krakencoder-2024"} <= set(rows)
    assert {row[0] for row in rows.values()} == {"-"}
    assert rows["coco439"][1:] == ["2", load_atlas("coco439").description]


def test_list_says_what_is_here_already(folders, table, printed):
    folders[1].mkdir()
    (folders[1] / "addon.pt").write_text("looked for by name alone")
    command("krakencoder-2024", "subject-split")
    printed()
    command("--list")
    here = {row[0]: row[1] for row in printed()}
    assert here["krakencoder-2024"] == "bundle"
    assert here["krakencoder-2024-addon"] == "1 of 2"
    assert here["subject-split"] == "yes"


def test_list_of_flavors_has_a_row_for_each_of_44(printed):
    command("--list-flavors")
    header, *rows = printed()
    assert len(rows) == 44
    row = dict(zip(header, next(r for r in rows if r[0] == "SCsdstream_shen268_count"),
                   strict=True))  # fmt: skip
    assert row == {
        "flavor": "SCsdstream_shen268_count",
        "kind": "SCsdstream",
        "atlas": "shen268",
        "regions": "268",
        "processing": "count",
        "model": "krakencoder-2024-SCsdstream_shen268_count",
        "shares latents with": "krakencoder-2024",
        "checkpoint": "kraken_chkpt_SCsdstream_shen268_count_pc256_latent128_targlatent_20241029"
        "_ep000500.pt",
        "transform": "kraken_ioxfm_SCsdstream_shen268_count_pc256_710train.npy",
    }


def test_dry_run_says_from_where_and_where_to_and_asks_no_server(server, folders, table, printed):
    folders[1].mkdir()
    command("--output", str(folders[1]), "subject-split")
    server.seen.clear()
    printed()
    command("--dry-run", "krakencoder-2024", "subject-split", "addon.pt")
    assert printed() == [
        ["what", "from", "to"],
        *([name, f"{server.url}/good/{name}", str(folders[0] / name)]
          for name in ("chkpt.pt", "fs86.npy", "shen268.npy")),
        ["krakencoder-2024", "made of these files", str(folders[0] / "krakencoder-2024")],
        ["split.mat", "is here", str(folders[1] / "split.mat")],
        ["addon.pt", f"{server.url}/good/addon.pt", str(folders[0] / "addon.pt")],
    ]  # fmt: skip
    assert server.seen == []
    assert not folders[0].exists()


def test_a_model_brings_the_targets_of_its_partial_correlations(folders, printed):
    command("--dry-run", "krakencoder-2024")
    regtargets = [f"kraken_regtarget_FCpcorr_{atlas}_hpf_HCPYA710train.mat"
                  for atlas in ("fs86", "shen268", "coco439")]  # fmt: skip
    assert [row[0] for row in printed()][-3:] == regtargets
    command("--dry-run", "krakencoder-2024-SCsdstream_fs86_count")
    assert not any("regtarget" in row[0] for row in printed())


def test_targets_are_fetched_with_a_model(server, folders, table, published_table, printed):
    rows = published._table()
    rows["models"]["krakencoder-2024"]["flavors"]["FCpcorr_fs86_hpf"] = "fs86.npy"
    rows["extras"]["regtarget-fs86"] = {"description": "a target", "files": ["addon.npy"]}
    rows["extras"]["regtarget-coco439"] = {"description": "of none", "files": ["addon.pt"]}
    published_table(rows)
    command("krakencoder-2024")
    assert printed() == [[str(folders[0] / name)] for name in ("krakencoder-2024", "addon.npy")]
    command("krakencoder-2024", "regtarget-fs86", "--no-convert")
    assert [row[0].rpartition("/")[2] for row in printed()].count("addon.npy") == 1


def test_bundle_that_is_here_is_not_fetched_again(server, folders, table, printed):
    command("krakencoder-2024-addon")
    server.seen.clear()
    printed()
    command("--dry-run", "krakencoder-2024-addon")
    command("krakencoder-2024-addon")
    bundle = str(folders[0] / "krakencoder-2024-addon")
    assert printed()[1:] == [["krakencoder-2024-addon", "is here", bundle], [bundle]]
    assert server.seen == []


def test_what_was_fetched_is_printed(tmp_path, folders, table, printed, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command("krakencoder-2024", "subject-split", "--output", "here") == 0
    here = tmp_path / "here"
    assert printed() == [[str(here / "krakencoder-2024")], [str(here / "split.mat")]]


def test_one_file_is_fetched_by_its_exact_name(folders, table, printed):
    command("fs86.npy")
    assert printed() == [[str(folders[0] / "fs86.npy")]]


def test_a_flavor_needs_its_checkpoint_and_transform_alone(folders, table, printed, caplog):
    caplog.set_level(logging.INFO)
    command("--flavors", "FCcorr_shen268_hpf")
    assert printed() == [[str(folders[0] / name)] for name in ("chkpt.pt", "shen268.npy")]
    assert "no bundle of krakencoder-2024 is made: it needs 1 more file(s)" in caplog.text


def test_flavors_that_need_all_files_of_a_model_bring_its_bundle(folders, table, printed):
    command("--flavors", "SCsdstream_fs86_sift2count")
    assert printed()[-1] == [str(folders[0] / "krakencoder-2024-addon")]
    command("--flavors", "FCcorr_shen268_hpf", "FCcorr_fs86_hpf")
    assert printed()[-1] == [str(folders[0] / "krakencoder-2024")]


def test_files_alone_are_fetched_without_conversion(folders, table, printed):
    command("krakencoder-2024-addon", "--no-convert")
    assert printed() == [[str(folders[0] / name)] for name in ("addon.pt", "addon.npy")]


def test_all_that_is_published_is_fetched(server, folders, table, monkeypatch):
    monkeypatch.setattr("kraken_bids.fetch.atlas_names", lambda: ())
    command("--all")
    assert len(server.seen) == len(table["files"])
    assert {path.name for path in folders[0].iterdir()} == {
        *table["files"], "krakencoder-2024", "krakencoder-2024-addon"
    }  # fmt: skip


def test_files_held_elsewhere_are_copied_into_the_folder_given(
    server, tmp_path, folders, table, printed
):
    command("subject-split")
    server.seen.clear()
    command("subject-split", "--output", str(tmp_path / "kit"))
    assert printed()[-1] == [str(tmp_path / "kit" / "split.mat")]
    assert server.seen == []


def test_model_that_fails_does_not_keep_the_others(server, folders, table, printed):
    table["files"]["fs86.npy"]["url"] = f"{server.url}/missing/fs86.npy"
    with pytest.raises(ResourceError, match=r"fs86\.npy cannot be fetched.*404"):
        command("krakencoder-2024", "krakencoder-2024-addon", "subject-split")
    assert printed() == [
        [str(folders[0] / "krakencoder-2024-addon")],
        [str(folders[0] / "split.mat")],
    ]
    assert (folders[0] / "chkpt.pt").exists()
    assert not (folders[0] / "krakencoder-2024").exists()


def test_without_network_the_files_of_all_models_are_told_at_once(folders, table):
    for row in table["files"].values():
        row["url"] = "http://127.0.0.1:1/file"
    with pytest.raises(ResourceError, match="6 files cannot be fetched") as caught:
        command("krakencoder-2024", "krakencoder-2024-addon", "subject-split")
    assert f"put into {folders[0]} by hand" in caught.value.fix
    assert all(
        f"\n  {name}\n    from http://127.0.0.1:1/file" in caught.value.fix
        for name in table["files"]
    )


def test_conversion_that_fails_is_told_with_the_rest(server, folders, table, monkeypatch):
    def fail(*arguments, **options):
        raise ResourceError("cannot be written")

    monkeypatch.setattr("kraken_bids.model.pretrained.convert_checkpoint", fail)
    table["files"]["split.mat"]["url"] = f"{server.url}/missing/split.mat"
    with pytest.raises(Problems, match=r"split\.mat cannot be fetched[\s\S]*cannot be written"):
        command("krakencoder-2024-addon", "subject-split")


def test_all_wrong_arguments_are_told_at_once():
    with pytest.raises(Problems) as caught:
        command("shen286", "--flavors", "FCcorr_fs68_hpf", "SCnone", "--jobs", "0")
    assert [type(problem) for problem in caught.value.problems] == [UsageError] * 4
    text = str(caught.value)
    assert "0 is too small (--jobs)" in text
    assert "'shen286' cannot be fetched. Did you mean 'shen268'?" in text
    assert "no published model has the flavor 'FCcorr_fs68_hpf'" in text
    assert "flavor 'SCnone' is unknown" in text


def test_only_one_of_the_lists_can_be_asked_for(capsys):
    with pytest.raises(SystemExit, match="2"):
        command("--list", "--dry-run")
    assert "not allowed with" in capsys.readouterr().err


def test_log_tells_every_tenth_of_a_file(caplog):
    caplog.set_level(logging.INFO)
    log = ProgressLog()
    for done in range(0, 1001, 10):
        log("file.bin", done, 1000)
    assert [record.getMessage() for record in caplog.records] == [
        f"file.bin: {share}%" for share in range(10, 101, 10)
    ]


class Terminal(io.StringIO):
    """What a terminal would show."""

    def isatty(self):
        return True


def test_bars_are_drawn_on_a_terminal_alone():
    with shown_progress(io.StringIO()) as progress:
        assert isinstance(progress, ProgressLog)
    with shown_progress(Terminal()) as progress:
        assert isinstance(progress, ProgressBars)


def test_a_bar_shows_how_much_of_a_file_is_there():
    terminal = Terminal()
    with ProgressBars(terminal) as bars:
        bars("one.bin", 250_000, 1_000_000)
        bars("two.bin", 10, None)
        bars("one.bin", 1_000_000, 1_000_000)
    text = terminal.getvalue()
    assert "one.bin:  25%" in text
    assert "250k/1.00M" in text
    assert "two.bin: 10.0B" in text
