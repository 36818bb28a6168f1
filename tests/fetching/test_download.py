# SPDX-License-Identifier: MIT
from __future__ import annotations

import hashlib
import signal
import socket
import subprocess
import sys
import threading
import urllib.request

import numpy as np
import pytest

from kraken_bids.atlases import PublishedFile
from kraken_bids.download import MAX_SILENCES, copy_verified, fetch, is_verified
from kraken_bids.errors import ResourceError

#: What the server sends.
CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


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
        (["promise"], [("promise", 0)]),
        (["long", "good"], [("long", 0), ("good", 0)]),
        (["chunked"], [("chunked", 0)]),
        (["slow"], [("slow", 0)]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value[0], str) else "",
)
def test_file_is_fetched_whole(published, server, tmp_path, kinds, requests):
    (path,) = fetch([published(*kinds)], tmp_path / "new")
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
        ("redirect", CONTENT[:1234], [("redirect", 1234), ("good", 1234)]),
    ],
    ids=[
        "range",
        "server without range",
        "range refused",
        "all there",
        "other bytes",
        "range after a redirect",
    ],
)
def test_interrupted_transfer_is_taken_up(published, server, tmp_path, kind, there, requests):
    partial_file(tmp_path, there)
    (path,) = fetch([published(kind)], tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.seen == requests
    assert left_in(tmp_path) == ["file.bin"]


def test_another_part_than_asked_for_is_not_taken(published, server, tmp_path):
    partial_file(tmp_path, CONTENT[:100])
    (path,) = fetch([published("otherpart", "good")], tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.seen == [("otherpart", 100), ("good", 100)]


def test_what_came_before_the_break_is_kept_for_the_next_time(published, server, tmp_path):
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
    (path,) = fetch([published("good")], tmp_path)
    assert server.seen[-1] == ("good", 1_000_000)
    assert path.read_bytes() == CONTENT


def test_verified_file_is_not_fetched_again(published, server, tmp_path):
    (tmp_path / "file.bin").write_bytes(CONTENT)
    fetch([published("missing")], tmp_path)
    assert server.seen == []


def test_altered_file_is_fetched_again(published, tmp_path):
    (tmp_path / "file.bin").write_bytes(CONTENT[:-1])
    (path,) = fetch([published("good")], tmp_path)
    assert path.read_bytes() == CONTENT


def test_change_of_a_verified_file_is_seen(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(CONTENT)
    assert is_verified(path, SHA256)
    path.write_bytes(CONTENT[:-1])
    assert not is_verified(path, SHA256)


def test_wrong_bytes_never_get_the_name(published, tmp_path):
    with pytest.raises(ResourceError, match=r"wrong/file\.bin: other bytes than published"):
        fetch([published("wrong")], tmp_path)
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


def test_status_of_a_refusal_is_told(published, tmp_path):
    with pytest.raises(ResourceError, match=r"HTTP status 404.*HTTP status 500"):
        fetch([published("missing", "broken")], tmp_path)


def test_silent_server_is_given_up(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/file"
        with pytest.raises(ResourceError, match="timed out"):
            fetch([PublishedFile("file.bin", url, SHA256)], tmp_path, timeout_s=0.2)


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY"])
def test_proxy_of_the_environment_is_used(server, tmp_path, monkeypatch, variable):
    monkeypatch.setenv(variable, server.url)
    file = PublishedFile("file.bin", "http://data.invalid/good/file.bin", SHA256)
    assert fetch([file], tmp_path)[0].read_bytes() == CONTENT
    assert server.seen == [("data.invalid good", 0)]


def test_proxy_is_asked_for_a_tunnel_to_a_secure_address(server, tmp_path, monkeypatch):
    monkeypatch.setenv("https_proxy", server.url)
    file = PublishedFile("file.bin", "https://data.invalid/good/file.bin", SHA256)
    with pytest.raises(ResourceError, match="Tunnel connection failed: 403"):
        fetch([file], tmp_path)
    assert server.seen == [("CONNECT", "data.invalid:443")]


def test_hosts_without_proxy_are_asked_directly(server, published, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    fetch([published("good")], tmp_path)
    assert server.seen == [("good", 0)]


def test_unwritable_folder_is_told_as_such(published, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ResourceError, match=r"cannot write.*KRAKEN_BIDS_RESOURCES"):
        fetch([published("good")], tmp_path / "file" / "folder")


def test_full_disk_is_told_as_such(published, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kraken_bids.download._receive", full)
    with pytest.raises(ResourceError, match="cannot write: No space left"):
        fetch([published("good")], tmp_path)


def test_progress_is_told(published, tmp_path):
    told = []
    fetch([published("good")], tmp_path, progress=lambda *values: told.append(values))
    assert told[-1] == ("file.bin", len(CONTENT), len(CONTENT))
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_processes_fetching_the_same_file_do_not_disturb_each_other(published, tmp_path):
    threads = [
        threading.Thread(target=fetch, args=([published("good")], tmp_path)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert [name for name in left_in(tmp_path) if not name.startswith(".")] == ["file.bin"]


def test_server_that_falls_silent_is_given_up_for_the_mirror(server, published, tmp_path):
    (path,) = fetch([published("hang", "missing", "good")], tmp_path, timeout_s=0.3)
    assert path.read_bytes() == CONTENT
    # What came before the silence is kept.
    assert [start for kind, start in server.seen if kind == "good"] == [1_000_000]


def test_body_without_end_does_not_fill_the_disk(published, tmp_path, monkeypatch):
    monkeypatch.setattr("kraken_bids.download.MAX_BYTES", 1_500_000)
    with pytest.raises(ResourceError, match="sent more than 1500000 bytes"):
        fetch([published("chunked")], tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 0


def test_one_file_that_fails_does_not_keep_the_others(server, published, tmp_path):
    files = [published("good", name=f"{number}.bin") for number in range(5)]
    files.insert(2, published("missing", "broken", name="lost.bin"))
    with pytest.raises(ResourceError, match=r"^lost\.bin cannot be fetched.*404.*500") as caught:
        fetch(files, tmp_path, jobs=3)
    assert [name for name in left_in(tmp_path) if not name.startswith(".")] == [
        f"{number}.bin" for number in range(5)
    ]
    assert "0.bin" not in caught.value.fix


def test_all_failures_are_told_together(published, tmp_path):
    files = [published("missing", name="one.bin"), published("wrong", name="two.bin")]
    with pytest.raises(ResourceError, match="2 files cannot be fetched") as caught:
        fetch(files, tmp_path)
    assert "one.bin cannot be fetched: http" in str(caught.value)
    assert "two.bin cannot be fetched: http" in str(caught.value)


def test_files_are_fetched_at_once(published, tmp_path):
    """The server answers none of three before all three are asked for."""
    files = [published("together", name=f"{number}.bin") for number in range(3)]
    paths = fetch(files, tmp_path, jobs=3)
    assert all(path.read_bytes() == CONTENT for path in paths)


def test_progress_of_files_fetched_at_once_is_told_by_one_thread_at_a_time(published, tmp_path):
    busy, told = threading.Lock(), []

    def progress(name, done, total):
        assert busy.acquire(blocking=False)
        told.append((name, done))
        busy.release()

    files = [published("good", name=f"{number}.bin") for number in range(4)]
    fetch(files, tmp_path, jobs=4, progress=progress)
    for file in files:
        steps = [done for name, done in told if name == file.name]
        assert steps == sorted(steps)
        assert steps[-1] == len(CONTENT)


def test_file_asked_for_twice_is_fetched_once(server, published, tmp_path):
    assert len(set(fetch([published("good")] * 2, tmp_path))) == 1
    assert server.seen == [("good", 0)]


def test_host_that_cannot_be_reached_is_not_asked_for_every_file(tmp_path):
    asked = []

    def opener(request, timeout):
        asked.append(request.host)
        raise TimeoutError("timed out")

    files = [
        PublishedFile(f"{number}.bin", f"http://a.invalid/{number}", SHA256,
                      (f"http://b.invalid/{number}",))
        for number in range(20)
    ]  # fmt: skip
    with pytest.raises(
        ResourceError, match=f"not asked, no connection to its host {MAX_SILENCES}"
    ):
        fetch(files, tmp_path, opener=opener, jobs=1)
    assert {host: asked.count(host) for host in asked} == dict.fromkeys(
        ("a.invalid", "b.invalid"), MAX_SILENCES
    )


def test_full_disk_stops_all_files(published, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kraken_bids.download._receive", full)
    files = [published("good", name=f"{number}.bin") for number in range(4)]
    with pytest.raises(ResourceError, match=r"cannot write: No space left.*on a disk with room"):
        fetch(files, tmp_path, jobs=2)


INTERRUPTED = """
import signal
import sys
from kraken_bids.atlases import PublishedFile
from kraken_bids.download import fetch
files = [PublishedFile(f"{n}.bin", f"{sys.argv[1]}/hang/{n}.bin", "0" * 64) for n in range(2)]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
try:
    fetch(files, __import__("pathlib").Path(sys.argv[2]), jobs=2,
          progress=lambda *told: print(*told, flush=True))
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_interruption_ends_at_once_and_keeps_what_came(server, tmp_path):
    command = [sys.executable, "-c", INTERRUPTED, server.url, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=10)
    assert process.returncode == 130, told
    assert told == b""
    assert all(name.endswith(".part") for name in left_in(tmp_path))


def test_copy_is_verified_and_whole(published, tmp_path):
    source = tmp_path / "elsewhere.bin"
    source.write_bytes(CONTENT)
    copy_verified(published("missing"), source, tmp_path / "folder")
    assert (tmp_path / "folder" / "file.bin").read_bytes() == CONTENT
    source.write_bytes(CONTENT[:-1])
    with pytest.raises(ResourceError, match="was changed while it was copied"):
        copy_verified(published("missing"), source, tmp_path / "other")
    assert not (tmp_path / "other" / "file.bin").exists()
