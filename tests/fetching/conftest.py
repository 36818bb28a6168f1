# SPDX-License-Identifier: MIT
"""A server that does all that servers do, and tables of files that it publishes."""

from __future__ import annotations

import functools
import hashlib
import http.server
import re
import threading
import urllib.parse

import numpy as np
import pytest

from kraken_bids import published as published_module
from kraken_bids.atlases import PublishedFile

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
    """``/good``, ``/wrong``, ``/missing``, ``/broken``, ``/cut`` (a third at a time), …"""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        address = urllib.parse.urlsplit(self.path)  # a proxy is asked for the whole of it
        name = address.path.strip("/").split("/")[0]
        start = int(re.findall(r"\d+", self.headers.get("Range", "0"))[0])
        self.server.seen.append((f"{address.netloc} {name}".strip(), start))
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

    def do_promise(self, start):
        """Promise more than there is."""
        rest = CONTENT[start:]
        self.answer(206 if start else 200, rest, promised=len(rest) + 1000, start=start)

    def do_long(self, start):
        """Send more than promised."""
        self.answer(200, CONTENT, promised=len(CONTENT) - 1000)

    def do_chunked(self, start):
        """Do not say how much there is."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in (CONTENT[:1_000_000], CONTENT[1_000_000:], b""):
            self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        self.close_connection = True

    def do_slow(self, start):
        """Send a little at a time, always before the time is up."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        for part in np.array_split(np.frombuffer(CONTENT, np.uint8), 4):
            self.wfile.write(part.tobytes())
            self.server.ended.wait(0.1)
        self.close_connection = True

    def do_hang(self, start):
        """Send a third and fall silent."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:1_000_000])
        self.wfile.flush()
        self.server.ended.wait(20)
        self.close_connection = True

    def do_together(self, start):
        """Answer as soon as three are waiting for an answer."""
        self.server.barrier.wait(10)
        self.do_good(start)

    def do_CONNECT(self):
        self.server.seen.append(("CONNECT", self.path))
        self.answer(403, b"no")

    def do_redirect(self, start):
        self.send_response(302)
        self.send_header("Location", "/good/file")
        self.send_header("Content-Length", "0")
        self.end_headers()
        self.close_connection = True

    def log_message(self, *arguments):
        pass


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """Say nothing of clients that went away: some tests do."""


@pytest.fixture
def server():
    with _Server(("127.0.0.1", 0), _Handler) as running:
        running.seen = []
        running.ended = threading.Event()
        running.barrier = threading.Barrier(3)
        running.url = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(
            target=functools.partial(running.serve_forever, poll_interval=0.02)
        )
        thread.start()
        yield running
        running.ended.set()
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def published(server):
    """Make a file that the server publishes at addresses of these kinds."""

    def publish(*kinds, name="file.bin", sha256=SHA256):
        url, *mirrors = [f"{server.url}/{kind}/{name}" for kind in kinds]
        return PublishedFile(name, url, sha256, tuple(mirrors))

    return publish


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two resource folders, a cache, and the reference program's folder."""
    found = [tmp_path / "system", tmp_path / "own", tmp_path / "cache" / "kraken-bids"]
    monkeypatch.setenv("KRAKEN_BIDS_RESOURCES", f"{found[0]}:{found[1]}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("KRAKENCODER_DATA", str(tmp_path / "reference"))
    return found


CACHED = (
    published_module.published_files,
    published_module.published_models,
    published_module.published_flavors,
    published_module.published_extras,
)


@pytest.fixture
def published_table(monkeypatch):
    """Put rows in the place of ``data/models.json``."""

    def replace(rows):
        monkeypatch.setattr(published_module, "_table", lambda: rows)
        for function in CACHED:
            function.cache_clear()
        return rows

    yield replace
    for function in CACHED:
        function.cache_clear()


@pytest.fixture
def table(server, published_table, monkeypatch):
    """Two published models, one with two flavors, and an extra; and a converter that lists."""

    def convert(checkpoints, transforms, out_dir, *, name):
        out_dir.mkdir(parents=True)
        names = [path.name for path in (*checkpoints, *transforms)]
        (out_dir / "config.json").write_text(f"{name} {names}")

    monkeypatch.setattr("kraken_bids.model.pretrained.convert_checkpoint", convert)
    rows = {
        "publication": dict.fromkeys(("citation", "address", "license", "terms"), "-")
        | {"authors": ["A", "B"]},
        "models": {
            "krakencoder-2024": {
                "description": "two flavors",
                "shares_latents_with": "",
                "checkpoints": ["chkpt.pt"],
                "flavors": {"FCcorr_fs86_hpf": "fs86.npy", "FCcorr_shen268_hpf": "shen268.npy"},
            },
            "krakencoder-2024-addon": {
                "description": "one flavor",
                "shares_latents_with": "krakencoder-2024",
                "checkpoints": ["addon.pt"],
                "flavors": {"SCsdstream_fs86_sift2": "addon.npy"},
            },
        },
        "extras": {"subject-split": {"description": "a split", "files": ["split.mat"]}},
        "files": {
            name: {"url": f"{server.url}/good/{name}", "sha256": SHA256, "mirrors": []}
            for name in ("chkpt.pt", "fs86.npy", "shen268.npy", "addon.pt", "addon.npy",
                         "split.mat")
        },
    }  # fmt: skip
    return published_table(rows)
