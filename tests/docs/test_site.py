"""The documentation builds as a site without a warning, leads nowhere dead, and needs no network."""

import functools
import html
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup
from myst_parser.mdit_to_docutils.base import default_slugify

from tests.docs.pages import ROOT, headings, links, pages

DIAGRAMS = sorted((ROOT / "docs" / "diagrams").glob("*.puml"))
_GITHUB_SIDE = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
_HERE = {"127.0.0.1", "localhost"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does it."""
    directory = tmp_path_factory.mktemp("site") / "docs"
    built = subprocess.run(
        # Not the setup before it: the tests run in what it made.
        ["make", "--assume-old=setup", "docs", f"SITE={directory}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return directory


def test_every_page_of_docs_is_in_the_site(site: Path) -> None:
    wanted = {page.relative_to(ROOT / "docs").with_suffix(".html") for page in (ROOT / "docs").rglob("*.md")}
    assert wanted <= {page.relative_to(site) for page in site.rglob("*.html")}


def test_no_link_of_the_site_is_dead(site: Path) -> None:
    dead = []
    for page in site.rglob("*.html"):
        for _, target in _targets(page):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc or target.startswith("data:"):
                continue
            file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if file.is_dir():
                file /= "index.html"
            if not file.exists():
                dead.append(f"{page.relative_to(site)} → {target}: no such file")
            elif parts.fragment and file.suffix == ".html" and unquote(parts.fragment) not in _anchors(file):
                dead.append(f"{page.relative_to(site)} → {target}: no such place on that page")
    assert not dead


def test_links_to_elsewhere_are_https_and_nothing_is_loaded_from_there(site: Path) -> None:
    wrong = []
    for page in site.rglob("*.html"):
        for kind, target in _targets(page):
            parts = urlsplit(target)
            if not parts.netloc:
                continue
            if kind != "a":
                wrong.append(f"{page.relative_to(site)} loads {target}")
            elif parts.scheme != "https" and parts.hostname not in _HERE:
                wrong.append(f"{page.relative_to(site)} → {target}")
    for style in site.rglob("*.css"):
        found = re.findall(r"(?:@import\s+|url\()[\"']?((?:https?:)?//[^\"')]+)", style.read_text())
        wrong += [f"{style.relative_to(site)} loads {target}" for target in found]
    assert not wrong


@pytest.mark.parametrize("diagram", DIAGRAMS, ids=lambda path: path.stem)
def test_every_diagram_is_drawn_and_shown(site: Path, diagram: Path) -> None:
    drawn = (site / "diagrams" / f"{diagram.stem}.svg").read_text()
    # PlantUML draws its complaints; a diagram that it understood has its title in it.
    title = re.search(r"^title (.+)$", diagram.read_text(), re.MULTILINE)
    assert title is not None
    shown = " ".join(html.unescape(" ".join(re.findall(r">([^<]+)<", drawn))).split())
    assert title[1] in shown
    assert any(f"diagrams/{diagram.name.replace('.puml', '.svg')}" in page.read_text() for page in pages())


def test_there_are_the_four_diagrams() -> None:
    names = {diagram.stem for diagram in DIAGRAMS}
    assert {"architecture", "message-flow", "deployment", "failure-recovery"} <= names


@pytest.mark.parametrize("page", _GITHUB_SIDE, ids=lambda path: path.name)
def test_no_link_beside_the_site_is_dead(page: Path) -> None:
    dead = []
    for target in links(page):
        parts = urlsplit(target)
        if parts.netloc:
            if parts.scheme != "https" and parts.hostname not in _HERE:
                dead.append(f"{target}: not https")
            continue
        file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        if not file.exists():
            dead.append(f"{target}: no such file")
        elif parts.fragment and parts.fragment not in {default_slugify(text) for text in headings(file)}:
            dead.append(f"{target}: no such heading")
    assert not dead


def _targets(page: Path) -> Iterator[tuple[str, str]]:
    for element in _soup(page).select("a[href], link[href], img[src], script[src]"):
        target = element.get("href") or element.get("src")
        if isinstance(target, str):
            yield element.name, target


@functools.cache
def _soup(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text(), "html.parser")


@functools.cache
def _anchors(page: Path) -> set[str]:
    return {str(element["id"]) for element in _soup(page).select("[id]")}
