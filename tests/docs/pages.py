"""The documentation as its readers' machines see it: pages, their blocks of commands, links and tables."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
RUN = "run"
REAL_ACCOUNT = "needs a real account"
_TESTED = re.compile(r"tested by (?P<tests>.+)")
_TEST = re.compile(r"(?P<file>tests/[\w/]+\.py)::(?P<name>test_\w+)")
_MARKER = re.compile(r"<!--\s*(?P<text>.*?)\s*-->\s*")
_SHELLS = {"bash", "sh", "shell", "zsh", "shell-session", "terminal"}
# A line of a file that is written as a shell would read it: no command.
_SETTING = re.compile(r"\s*($|#|[A-Za-z_]+=)")
# What a command in a block without a language begins with.
_PROGRAMS = re.compile(
    r"\s*(\$ |sudo |telegram-gateway |make [a-z]|systemctl |journalctl |python3? -m |"
    r"deploy/bin/|apt-get |curl |docker)"
)
_parser = MarkdownIt("commonmark").enable("table")


@dataclass(frozen=True)
class Test:
    """A test that a marker names."""

    __test__ = False  # not one itself

    file: Path
    name: str


@dataclass(frozen=True)
class Block:
    """Commands that a reader is told to type. `marker` says who makes sure that they work."""

    page: Path
    line: int
    marker: str
    commands: tuple[str, ...]

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def tests(self) -> list[Test]:
        """The tests that the marker names; none where it names none."""
        named = _TESTED.fullmatch(self.marker)
        return (
            [Test(ROOT / found["file"], found["name"]) for found in _TEST.finditer(named["tests"])]
            if named
            else []
        )


def pages() -> list[Path]:
    """All pages: the README, how to contribute, and everything under docs."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def tokens(page: Path) -> list[Token]:
    """The page's parts, flat and in order."""
    return _parser.parse(page.read_text())


def blocks(page: Path) -> list[Block]:
    """The page's `console` blocks; without a marker, the marker is empty."""
    found = []
    for before, token in _pairs(tokens(page)):
        if token.type == "fence" and token.info.strip() == "console":
            marker = _MARKER.fullmatch(before.content) if before and before.type == "html_block" else None
            text = marker["text"] if marker else ""
            found.append(Block(page, _line(token), text, _commands(token.content)))
    return found


def unmarked(page: Path) -> list[str]:
    """Where the page has commands in any other form than a marked `console` block."""
    places = [
        f"{block.place}: no marker before the block" for block in blocks(page) if not _understood(block)
    ]
    name = page.relative_to(ROOT)
    for token in tokens(page):
        shell = token.type == "fence" and token.info.strip().split(" ")[0] in _SHELLS
        if shell and not all(map(_SETTING.match, token.content.splitlines())):
            places.append(f"{name}:{_line(token)}: a {token.info.strip()} block; make it a console block")
        plain = token.type == "code_block" or (token.type == "fence" and not token.info.strip())
        if plain and any(_PROGRAMS.match(line) for line in token.content.splitlines()):
            places.append(f"{name}:{_line(token)}: commands in a plain block; make it a console block")
    return places


def inline_code(page: Path) -> Iterator[str]:
    """What stands `between backticks` in the page's text."""
    for token in tokens(page):
        for child in token.children or ():
            if child.type == "code_inline":
                yield " ".join(child.content.split())


def links(page: Path) -> Iterator[str]:
    """Targets of the page's links and images, also of those written as HTML."""
    for token in tokens(page):
        if token.type == "html_block":
            yield from re.findall(r"(?:href|src)=\"([^\"]+)\"", token.content)
        for child in token.children or ():
            if child.type == "html_inline":
                yield from re.findall(r"(?:href|src)=\"([^\"]+)\"", child.content)
            for attribute in ("href", "src"):
                if (target := child.attrs.get(attribute)) is not None:
                    yield str(target)


def headings(page: Path) -> list[str]:
    """The page's headings, as text."""
    found = []
    for before, token in _pairs(tokens(page)):
        if before is not None and before.type == "heading_open":
            found.append("".join(child.content for child in token.children or ()))
    return found


def tables(page: Path) -> list[list[list[str]]]:
    """The page's tables: rows of cells, each cell as it is written; the first row is the head."""
    found: list[list[list[str]]] = []
    for before, token in _pairs(tokens(page)):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif before is not None and before.type in ("th_open", "td_open"):
            found[-1][-1].append(token.content)
    return found


def _understood(block: Block) -> bool:
    return block.marker in (RUN, REAL_ACCOUNT) or bool(block.tests)


def _commands(text: str) -> tuple[str, ...]:
    """Lines that begin with `$ `, with those that continue them; the others are what a command prints."""
    commands: list[str] = []
    continued = False
    for line in text.splitlines():
        if continued:
            commands[-1] += "\n" + line
        elif line.startswith("$ "):
            commands.append(line[2:])
        else:
            continue
        continued = line.endswith("\\")
    return tuple(commands)


def _line(token: Token) -> int:
    return token.map[0] + 1 if token.map else 0


def _pairs(items: Sequence[Token]) -> Iterator[tuple[Token | None, Token]]:
    before: Token | None = None
    for item in items:
        yield before, item
        before = item
