"""Every command in the documentation works: it is run here, or a test that is named beside it runs it."""

import ast
import re
import shlex
from pathlib import Path

import click
import pytest

from gateway.cli import cli
from tests.docs.conftest import Shell
from tests.docs.pages import ROOT, RUN, Block, Test, blocks, inline_code, pages, tables, unmarked

_ALL = [block for page in pages() for block in blocks(page)]
_RUN = {page: [block for block in blocks(page) if block.marker == RUN] for page in pages()}
_ASSIGNMENT = re.compile(r"\w+=\S*")
_PLACEHOLDER = re.compile(r"[A-Z][A-Z_-]*|…|\.\.\.")
_AROUND = {"systemctl", "mkdir", "cd", "export"}
# Words that stand before a program and are not one.
_PREFIXES = {"sudo", "env", "exec", "time", "timeout", "nohup"}


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _starts_own_servers(page: Path) -> bool:
    return any("stack up" in command for block in _RUN[page] for command in block.commands)


def _run_pages(own_servers: bool) -> list[Path]:
    return [page for page, found in _RUN.items() if found and _starts_own_servers(page) is own_servers]


@pytest.mark.parametrize("page", pages(), ids=_name)
def test_every_block_of_commands_says_who_tests_it(page: Path) -> None:
    assert not unmarked(page)


@pytest.mark.parametrize("page", _run_pages(own_servers=False), ids=_name)
async def test_the_commands_of_a_page_work_beside_a_running_gateway(page: Path, shell: Shell) -> None:
    await shell.run([command for block in _RUN[page] for command in block.commands])


@pytest.mark.parametrize("page", _run_pages(own_servers=True), ids=_name)
async def test_the_commands_of_a_page_work_where_there_is_nothing_yet(page: Path, bare_shell: Shell) -> None:
    await bare_shell.run([command for block in _RUN[page] for command in block.commands])


@pytest.mark.parametrize("block", [block for block in _ALL if block.tests], ids=lambda block: block.place)
def test_a_test_that_is_named_exists_and_is_about_the_command(block: Block) -> None:
    source = ""
    for test in block.tests:
        assert _defines(test), f"{block.place} names {test.file}::{test.name}, which is not there"
        source += test.file.read_text()
        beside = test.file.with_name("conftest.py")
        source += beside.read_text() if beside.exists() else ""
    if [test.name for test in block.tests] == [test_tasks_that_are_named_are_in_the_makefile.__name__]:
        return  # which reads every block itself
    # What stands around the thing itself, such as a unit that is stopped before a restore, need not be in it.
    around = [command for command in block.commands if _words(command)[0] in _AROUND]
    for command in around if len(around) == len(block.commands) else set(block.commands) - set(around):
        for word in _essential(command):
            assert word in source, (
                f"{block.place}: nothing in the named test is about {word!r} of {command!r}"
            )


@pytest.mark.parametrize("page", pages(), ids=_name)
def test_commands_and_options_that_are_named_exist(page: Path) -> None:
    lines = [command for block in blocks(page) for command in block.commands]
    written = [*lines, *(code for code in inline_code(page) if code.startswith("telegram-gateway "))]
    unknown = [problem for line in written for problem in _unknown(line)]
    assert not unknown


def test_every_command_is_listed() -> None:
    page = ROOT / "docs" / "commands.md"
    listed = {cells[0].strip("`").split("`")[0].split()[0] for cells in tables(page)[0][1:]}
    assert listed == set(cli.list_commands(click.Context(cli)))


@pytest.mark.parametrize("page", pages(), ids=_name)
def test_tasks_that_are_named_are_in_the_makefile(page: Path) -> None:
    written = [command for block in blocks(page) for command in block.commands] + list(inline_code(page))
    tasks = {words[1] for words in map(str.split, written) if words[:1] == ["make"] and len(words) > 1}
    described = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert tasks <= described, "`make help` does not list them"


def _defines(test: Test) -> bool:
    if not test.file.exists():
        return False
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    tree = ast.parse(test.file.read_text())
    return any(isinstance(node, functions) and node.name == test.name for node in ast.walk(tree))


def _words(command: str) -> list[str]:
    """The command's words, from its program on, up to where another command begins."""
    words = shlex.split(command.replace("\\\n", " "), comments=True)
    while words and (_ASSIGNMENT.fullmatch(words[0]) or words[0] in _PREFIXES or words[0].startswith("-")):
        if words[0] in ("sudo", "timeout") and len(words) > 1:
            words = words[1:]
            while words and (words[0].startswith("-") or words[0].isdigit()):
                words = words[2:] if words[0] in ("-u", "-g") else words[1:]
            continue
        words = words[1:]
    ends = [index for index, word in enumerate(words) if word in ("|", "||", "&&", ";", "&", ">", "<", "2>")]
    return words[: ends[0]] if ends else words


def _essential(command: str) -> list[str]:
    """What a test of this command cannot do without: its program, or what the program is asked to do."""
    words = _words(command)
    program = Path(words[0]).name
    if program == "telegram-gateway":
        return _subcommand(words)[0]
    if program in ("make", "systemctl", "docker-compose", "journalctl"):
        return [word for word in words[1:] if word[0].isalpha() and "=" not in word and not _variable(word)][
            :1
        ]
    if program == "pip":
        return [word for word in words[2:] if not word.startswith("-")]
    if program.startswith("python"):
        return [words[words.index("-m") + 1]] if "-m" in words else [Path(words[1]).name]
    return [program]


def _variable(word: str) -> bool:
    return bool(_PLACEHOLDER.fullmatch(word))


def _subcommand(words: list[str]) -> tuple[list[str], click.Command]:
    """The names of the subcommands, and the innermost of them."""
    names: list[str] = []
    command: click.Command = cli
    context = click.Context(cli)
    for word in words[1:]:
        if word.startswith("@"):  # whose settings the installed command takes
            continue
        if not isinstance(command, click.Group) or word.startswith("-"):
            break
        inner = command.get_command(context, word.rstrip(","))
        assert inner is not None, f"there is no telegram-gateway {' '.join([*names, word])}"
        names.append(word.rstrip(","))
        command = inner
    return names, command


def _unknown(line: str) -> list[str]:
    try:
        words = _words(line)
    except ValueError as error:
        return [f"{line!r} is no command line: {error}"]
    if not words or Path(words[0]).name != "telegram-gateway" or any(_variable(word) for word in words[1:3]):
        return []
    try:
        _, command = _subcommand(words)
    except AssertionError as error:
        return [str(error)]
    known = {"--help", *(option for parameter in command.params for option in parameter.opts)}
    if command is cli:
        known.add("--version")
    used = {word.strip("[]").partition("=")[0] for word in words if word.lstrip("[").startswith("--")}
    return [f"{line!r} uses {option}, which is not there" for option in sorted(used - known)]
