# SPDX-License-Identifier: MIT
"""The site is built without a warning, its links lead somewhere, and it asks no server."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

for package in ("sphinx", "furo", "myst_parser"):
    pytest.importorskip(package, reason="the site needs the extra 'docs'")

ROOT = Path(__file__).resolve().parents[2]
#: Attributes by which a browser fetches something without being asked.
FETCHED = {"img": "src", "script": "src", "iframe": "src", "source": "src", "link": "href"}


class Page(HTMLParser):
    """Targets, links, what is fetched, and the text of a page."""

    def __init__(self, text):
        super().__init__()
        self.targets, self.links, self.fetched, self.words = set(), [], [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.targets |= {found[name] for name in ("id", "name") if found.get(name)}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in FETCHED and FETCHED[tag] in found and found.get("rel") != "canonical":
            self.fetched.append(found[FETCHED[tag]])

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folder of the site, and what the builder said."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-E", "-W", "--keep-going", "-q",
               "-d", str(folder / "read"), str(ROOT / "docs"), str(folder / "html")]  # fmt: skip
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return folder / "html", done


@pytest.fixture(scope="module")
def site(built):
    """Every page by its path."""
    folder, done = built
    assert done.returncode == 0, done.stderr
    return {file: Page(file.read_text("utf-8")) for file in folder.rglob("*.html")}


def test_the_site_is_built_without_a_warning(built):
    _, done = built
    assert done.returncode == 0, done.stderr
    assert not done.stderr


def test_every_page_that_is_written_is_built(site, pages):
    assert set(pages) <= {file.stem for file in site}


def test_every_link_within_the_site_leads_somewhere(site):
    broken = []
    for file, page in site.items():
        for link in page.links:
            path, fragment = urldefrag(link)
            if urlsplit(path).scheme:
                continue
            target = (file.parent / unquote(path)).resolve() if path else file
            anchors = site[target].targets if target in site else set()
            if not target.is_file() or (fragment and unquote(fragment) not in anchors):
                broken.append(f"{file.name}: {link}")
    assert not broken


def test_nothing_is_fetched_from_elsewhere(site, built):
    folder, _ = built
    assert not [
        f"{file.name}: {address}"
        for file, page in site.items()
        for address in page.fetched
        if urlsplit(address).scheme in {"http", "https"} or address.startswith("//")
    ]
    for file in folder.rglob("*.css"):
        styles = file.read_text("utf-8")
        assert not re.findall(r"(?:@import|url\()\s*['\"]?(?:https?:)?//", styles), file.name
    for file in folder.rglob("*.html"):
        assert "mathjax" not in file.read_text("utf-8").lower()


def test_formulas_are_drawn_by_the_browser(site, built):
    folder, _ = built
    text = (folder / "numbers.html").read_text("utf-8")
    assert text.count('<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">') >= 6
    assert "{math}" not in text


def test_constants_stand_in_the_text(site, built):
    text = site[built[0] / "numbers.html"].text
    assert "cut-off, gain one half 0.01 Hz" in text
    assert "limit of the displacement 0.9 mm" in text
    assert "{value}" not in text


def test_the_python_interface_is_there_with_its_signatures(site, built):
    import kraken_bids

    text = site[built[0] / "python.html"].text
    for name in set(kraken_bids.__all__) - {"__version__"}:
        assert re.search(rf"class kraken_bids\. ?{name} ?\(", text)
    assert "encode ( connectomes : Connectomes ) → dict [ str , NDArray [ np.float32 ] ]" in text
    assert "NaN where the flavor is missing" in text
    assert "components_ – (n_components" in text  # not as a link called "components"


def test_the_picture_stands_in_the_page(site, built):
    page = site[built[0] / "contributing.html"]
    assert all(part in page.text for part in ("interfaces", "workflows", "connectome", "errors"))


def test_options_are_on_the_page_with_their_programs(site, built):
    page = site[built[0] / "options.html"]
    assert {"kraken-bids", "kraken-model-train", "kraken-submit"} <= page.targets
    assert "--pcorr-lambda" in page.text
    assert "--max-array-size" in page.text
