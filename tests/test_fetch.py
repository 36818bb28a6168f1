# SPDX-License-Identifier: MIT
import argparse
import functools
import hashlib
import http.server
import re
import socket
import threading
import types
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from kraken_bids import fetch as fetch_module
from kraken_bids.atlases import PublishedFile, load_atlas
from kraken_bids.download import fetch, is_verified
from kraken_bids.errors import ResourceError, UsageError
from kraken_bids.fetch import (
    PublishedModel,
    find_atlas_file,
    find_files,
    published_models,
    resource_dir,
    resource_dirs,
)
from kraken_bids.model import pretrained as pretrained_module
from kraken_bids.model.pretrained import find_model
from kraken_bids.model_commands import fetch as fetch_command

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
    """``/good``, ``/wrong``, ``/missing``, ``/broken``, ``/cut`` (a third at a time), …"""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        name = self.path.strip("/").split("/")[0]
        start = int(re.findall(r"\d+", self.headers.get("Range", "0"))[0])
        self.server.seen.append((name, start))
        getattr(self, f"do_{name}")(start)

    def answer(self, status, body, *, promised=None, start=0):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if promised is None else promised))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def do_good(self, start):
        self.answer(206 if start else 200, CONTENT[start:], start=start)

    def do_norange(self, start):
        self.answer(200, CONTENT)

    def do_otherpart(self, start):
        self.answer(206 if start else 200, CONTENT[start:], start=start + 5)

    def do_wrong(self, start):
        self.answer(206 if start else 200, b"<html>Log in</html>", start=start)

    def do_missing(self, start):
        self.answer(404, b"no")

    def do_broken(self, start):
        self.answer(500, b"no")

    def do_complete(self, start):
        self.answer(416 if start else 200, b"" if start else CONTENT)

    def do_cut(self, start):
        rest = CONTENT[start:]
        self.answer(
            206 if start else 200, rest[: len(CONTENT) // 3], promised=len(rest), start=start
        )

    def do_empty(self, start):
        self.answer(206 if start else 200, b"", promised=len(CONTENT), start=start)

    def do_redirect(self, start):
        self.send_response(302)
        self.send_header("Location", "/good/file")
        self.send_header("Content-Length", "0")
        self.end_headers()
        self.close_connection = True

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as running:
        running.seen = []
        running.url = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(
            target=functools.partial(running.serve_forever, poll_interval=0.02)
        )
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def published(server, *kinds, name="file.bin", sha256=SHA256):
    url, *mirrors = [f"{server.url}/{kind}/{name}" for kind in kinds]
    return PublishedFile(name, url, sha256, tuple(mirrors))


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("kinds", "requests"),
    [
        (["good"], [("good", 0)]),
        (["redirect"], [("redirect", 0), ("good", 0)]),
        (["wrong", "good"], [("wrong", 0), ("good", 0)]),
        (["missing", "good"], [("missing", 0), ("good", 0)]),
        (["broken", "good"], [("broken", 0), ("good", 0)]),
        (["empty", "good"], [("empty", 0), ("good", 0)]),
        (["cut"], [("cut", 0), ("cut", 1_000_000), ("cut", 2_000_000)]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value[0], str) else "",
)
def test_file_is_fetched_whole(server, tmp_path, kinds, requests):
    (path,) = fetch([published(server, *kinds)], tmp_path / "new")
    assert path == tmp_path / "new" / "file.bin"
    assert path.read_bytes() == CONTENT
    assert server.seen == requests
    assert left_in(path.parent) == ["file.bin"]


def partial_file(folder, content):
    path = folder / f".file.bin.{SHA256[:8]}.part"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("kind", "there", "requests"),
    [
        ("good", CONTENT[:1234], [("good", 1234)]),
        ("norange", CONTENT[:1234], [("norange", 1234)]),
        ("complete", CONTENT[:1234], [("complete", 1234), ("complete", 0)]),
        ("complete", CONTENT, []),
        ("good", b"other bytes", [("good", 11), ("good", 0)]),
    ],
    ids=["range", "server without range", "range refused", "all there", "other bytes"],
)
def test_interrupted_transfer_is_taken_up(server, tmp_path, kind, there, requests):
    partial_file(tmp_path, there)
    (path,) = fetch([published(server, kind)], tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.seen == requests
    assert left_in(tmp_path) == ["file.bin"]


def test_another_part_than_asked_for_is_not_taken(server, tmp_path):
    partial_file(tmp_path, CONTENT[:100])
    (path,) = fetch([published(server, "otherpart", "good")], tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.seen == [("otherpart", 100), ("good", 100)]


def test_what_came_before_the_break_is_kept_for_the_next_time(server, tmp_path):
    dead = server.url.replace(str(server.server_port), "1")
    file = PublishedFile("file.bin", f"{server.url}/cut/file.bin", SHA256, (f"{dead}/x",))
    calls = []

    def opener(request, timeout):
        calls.append(request.full_url)
        if len(calls) > 1:
            raise ConnectionResetError("gone")
        return urllib.request.build_opener().open(request, timeout=timeout)

    with pytest.raises(ResourceError, match=r"broke off after 1000000 of 3000000 bytes.*gone"):
        fetch([file], tmp_path, opener=opener)
    assert not (tmp_path / "file.bin").exists()
    (path,) = fetch([published(server, "good")], tmp_path)
    assert server.seen[-1] == ("good", 1_000_000)
    assert path.read_bytes() == CONTENT


def test_verified_file_is_not_fetched_again(server, tmp_path):
    (tmp_path / "file.bin").write_bytes(CONTENT)
    fetch([published(server, "missing")], tmp_path)
    assert server.seen == []


def test_altered_file_is_fetched_again(server, tmp_path):
    (tmp_path / "file.bin").write_bytes(CONTENT[:-1])
    (path,) = fetch([published(server, "good")], tmp_path)
    assert path.read_bytes() == CONTENT


def test_change_of_a_verified_file_is_seen(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(CONTENT)
    assert is_verified(path, SHA256)
    path.write_bytes(CONTENT[:-1])
    assert not is_verified(path, SHA256)


def test_wrong_bytes_never_get_the_name(server, tmp_path):
    with pytest.raises(ResourceError, match=r"wrong/file\.bin: other bytes than published"):
        fetch([published(server, "wrong")], tmp_path)
    assert not (tmp_path / "file.bin").exists()


def test_without_network_all_files_addresses_and_the_folder_are_named(tmp_path):
    with socket.socket() as unused:  # bound and not listening: connections are refused
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        files = [
            PublishedFile("one.bin", f"{url}/one", SHA256, (f"{url}/mirror",)),
            PublishedFile("there.bin", f"{url}/there", SHA256),
            PublishedFile("two.bin", f"{url}/two", "0" * 64),
        ]
        (tmp_path / "there.bin").write_bytes(CONTENT)
        with pytest.raises(ResourceError, match=r"one\.bin cannot be fetched.*refused") as caught:
            fetch(files, tmp_path)
    text = caught.value.fix
    assert f"put into {tmp_path} by hand" in text
    assert f"one.bin\n    from {url}/one or {url}/mirror" in text
    assert f"two.bin\n    from {url}/two" in text
    assert "there.bin" not in text


def test_status_of_a_refusal_is_told(server, tmp_path):
    with pytest.raises(ResourceError, match=r"HTTP status 404.*HTTP status 500"):
        fetch([published(server, "missing", "broken")], tmp_path)


def test_silent_server_is_given_up(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/file"
        with pytest.raises(ResourceError, match="timed out"):
            fetch([PublishedFile("file.bin", url, SHA256)], tmp_path, timeout_s=0.2)


def test_proxy_of_the_environment_is_used(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setattr(_Handler, "do_http:", _Handler.do_good, raising=False)
    file = PublishedFile("file.bin", "http://data.invalid/file.bin", SHA256)
    assert fetch([file], tmp_path)[0].read_bytes() == CONTENT


def test_unwritable_folder_is_told_as_such(server, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ResourceError, match=r"cannot write.*KRAKEN_BIDS_RESOURCES"):
        fetch([published(server, "good")], tmp_path / "file" / "folder")


def test_full_disk_is_told_as_such(server, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kraken_bids.download._receive", full)
    with pytest.raises(ResourceError, match="cannot write: No space left"):
        fetch([published(server, "good")], tmp_path)


def test_progress_is_told(server, tmp_path):
    told = []
    fetch([published(server, "good")], tmp_path, progress=lambda *values: told.append(values))
    assert told[-1] == ("file.bin", len(CONTENT), len(CONTENT))
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_processes_fetching_the_same_file_do_not_disturb_each_other(server, tmp_path):
    threads = [
        threading.Thread(target=fetch, args=([published(server, "good")], tmp_path))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert [name for name in left_in(tmp_path) if not name.startswith(".")] == ["file.bin"]


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two resource folders and a cache."""
    found = [tmp_path / "system", tmp_path / "own", tmp_path / "cache" / "kraken-bids"]
    monkeypatch.setenv("KRAKEN_BIDS_RESOURCES", f"{found[0]}:{found[1]}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return found


def test_resource_folders_come_from_the_environment_then_the_cache(folders, monkeypatch):
    assert list(resource_dirs()) == folders
    monkeypatch.delenv("KRAKEN_BIDS_RESOURCES")
    assert resource_dirs() == (folders[2],)


def test_first_writable_folder_is_fetched_to(folders, monkeypatch):
    assert resource_dir() == folders[0]
    folders[0].write_text("not a folder")
    assert resource_dir() == folders[1]


def test_no_writable_folder_is_told_as_such(folders, monkeypatch):
    for folder in folders:
        folder.parent.mkdir(exist_ok=True)
        folder.write_text("not a folder")
    with pytest.raises(ResourceError, match=r"no folder to keep.*Set KRAKEN_BIDS_RESOURCES"):
        resource_dir()


def test_file_in_any_resource_folder_is_found(server, folders):
    folders[2].mkdir(parents=True)
    (folders[2] / "file.bin").write_bytes(CONTENT)
    assert find_files([published(server, "missing")]) == (folders[2] / "file.bin",)
    assert server.seen == []


def test_altered_file_in_a_resource_folder_is_left_aside(server, folders, caplog):
    folders[0].mkdir()
    (folders[0] / "file.bin").write_bytes(b"other")
    folders[1].mkdir()
    (folders[1] / "file.bin").write_bytes(CONTENT)
    assert find_files([published(server, "missing")]) == (folders[1] / "file.bin",)
    assert "SHA-256 differs" in caplog.text


def test_atlas_image_is_fetched_once(server, folders):
    atlas = types.SimpleNamespace(file=lambda role: published(server, "good", name=f"{role}.nii"))
    for _ in range(2):
        assert find_atlas_file(atlas, "labels") == folders[0] / "labels.nii"
    assert server.seen == [("good", 0)]


def test_role_that_an_atlas_lacks_is_refused():
    with pytest.raises(UsageError, match=r"shen268 has no published image 'volumes'"):
        find_atlas_file(load_atlas("shen268"), "volumes")
    with pytest.raises(UsageError, match=r"fs86 .*FreeSurfer segmentation"):
        find_atlas_file(load_atlas("fs86"), "labels")


def test_every_published_file_has_two_addresses_and_a_hash():
    models = published_models()
    assert len(models["krakencoder-2024"].checkpoints) == 1
    assert len(models["krakencoder-2024"].transforms) == 3
    files = {file for model in models.values() for file in model.files}
    assert len({file.sha256 for file in files}) == len(files)
    for file in files:
        assert re.fullmatch(r"[0-9a-f]{64}", file.sha256)
        assert re.fullmatch(r"https://osf\.io/download/\w+/", file.url)
        extension = Path(file.name).suffix
        assert re.fullmatch(rf"https://wcm\.box\.com/shared/static/\w{{32}}{re.escape(extension)}",
                            *file.mirrors)  # fmt: skip


@pytest.fixture
def model(server, monkeypatch):
    """A published model of two files and a converter that lists what it got."""
    files = [published(server, "good", name=name) for name in ("chkpt.pt", "ioxfm.npy")]
    tiny = PublishedModel("krakencoder-2024", "tiny", (files[0],), (files[1],))
    for module in (fetch_module, pretrained_module):
        monkeypatch.setattr(module, "published_models", lambda: {tiny.name: tiny})

    def convert(checkpoints, transforms, out_dir, *, name):
        out_dir.mkdir(parents=True)
        names = [path.name for path in (*checkpoints, *transforms)]
        (out_dir / "config.json").write_text(f"{name} {names}")

    monkeypatch.setattr("kraken_bids.model.pretrained.convert_checkpoint", convert)
    return tiny


def test_published_model_is_fetched_and_converted_once(server, folders, model):
    for _ in range(2):
        path = find_model("krakencoder-2024")
        assert path == folders[0] / "krakencoder-2024"
    assert (path / "config.json").read_text() == "krakencoder-2024 ['chkpt.pt', 'ioxfm.npy']"
    assert len(server.seen) == 2


def test_model_in_a_later_resource_folder_is_used(server, folders, model):
    path = folders[1] / "krakencoder-2024"
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    assert find_model("krakencoder-2024") == path
    assert server.seen == []


def test_model_is_kept_in_the_folder_given(server, folders, model, tmp_path):
    assert find_model("krakencoder-2024", folder=tmp_path / "mine") == (
        tmp_path / "mine" / "krakencoder-2024"
    )
    assert not folders[0].exists()


def test_folder_of_a_bundle_is_taken_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bundle").mkdir()
    with pytest.raises(ResourceError, match=r"no model bundle.*config\.json.*bundle"):
        find_model("bundle")
    Path("bundle/config.json").write_text("{}")
    assert find_model("bundle") == tmp_path / "bundle"


def test_unknown_model_is_refused_with_a_suggestion():
    with pytest.raises(UsageError, match=r"Did you mean 'krakencoder-2024'\?"):
        find_model("krakencoder-2042")


def command(*argv):
    parser = argparse.ArgumentParser()
    fetch_command.add_arguments(parser)
    return fetch_command.run(parser.parse_args(argv))


def test_command_lists_models_and_atlases(capsys):
    assert command("--list") == 0
    names = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
    assert {"krakencoder-2024", "shen268", "coco439"} <= set(names)
    assert "fs86" not in names


def test_command_fetches_into_a_folder_and_says_where(model, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command("krakencoder-2024", "--output", "here") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'here' / 'krakencoder-2024'}\n"


def test_command_refuses_an_unknown_name():
    with pytest.raises(UsageError, match=r"'shen286' cannot be fetched.*'shen268'"):
        command("shen286")
