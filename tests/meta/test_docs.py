"""The documentation says what is there: code that runs, files and settings that exist, links."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import unicodedata
from dataclasses import MISSING, fields
from pathlib import Path
from typing import NamedTuple

import pytest

import netcore
from netcore import NodeConfig, wire
from netcore.stats import DROP_COUNTERS
from support.complaints import complaints
from support.source_tree import PACKAGE, REPO, files

README = REPO / "README.md"
GUIDE = REPO / "docs" / "guide.md"
ARCHITECTURE = REPO / "docs" / "architecture.md"
PROTOCOL = REPO / "docs" / "protocol.md"
PAGES = [README, REPO / "CHANGELOG.md", *sorted((REPO / "docs").glob("*.md"))]

RUN_COMMAND = "python -m pip install . && netcore demo"
TEST_COMMAND = "python -m pip install -e '.[test]' && python -m pytest"
DEADLINE_S = 30


def read(page: Path) -> str:
    return page.read_text("utf-8")


# -- code ----------------------------------------------------------------------------------------


class Block(NamedTuple):
    """A python block of a page, and the text block right behind it, which is what it prints."""

    name: str
    code: str
    output: str

    @property
    def is_program(self) -> bool:
        """Whether it is complete: it imports what it uses."""
        return re.search(r"^(from|import) netcore\b", self.code, re.M) is not None


def blocks(page: Path) -> list[Block]:
    """Return the python blocks of a page, named after the line that they begin at."""
    text = read(page)
    pattern = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.M | re.S)
    return [
        Block(f"{page.name}:{text.count(chr(10), 0, m.start()) + 1}", m[1], m[2] or "")
        for m in pattern.finditer(text)
    ]


BLOCKS = [*blocks(README), *blocks(GUIDE)]
PROGRAMS = [block for block in BLOCKS if block.is_program]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_code_block_compiles(block: Block) -> None:
    ast.parse(block.code, block.name)


@pytest.mark.parametrize("block", PROGRAMS, ids=lambda block: block.name)
def test_complete_program_prints_what_the_page_says(block: Block) -> None:
    package = Path(netcore.__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block.code],
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )

    assert (done.returncode, complaints(done.stderr)) == (0, "")
    assert done.stdout == block.output


def test_readme_has_a_complete_program_of_two_nodes() -> None:
    program = next(block for block in blocks(README) if block.is_program)

    assert len(re.findall(r"\bNode\(\d", program.code)) == 2
    assert len(program.code.splitlines()) <= 40


# -- commands ------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [RUN_COMMAND, TEST_COMMAND])
def test_readme_has_the_command_on_a_line_of_its_own(command: str) -> None:
    assert command in read(README).splitlines()


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert TEST_COMMAND in read(REPO / ".ci" / "run")


def test_readme_uses_options_that_the_node_command_has() -> None:
    from netcore.__main__ import make_parser

    commands = re.findall(r"^netcore (node .*)$", read(README), re.M)

    assert commands
    for command in commands:
        make_parser().parse_args(command.split())


# -- settings ------------------------------------------------------------------------------------


def table_rows(page: Path, first_column: str) -> list[list[str]]:
    """Return the cells of the table whose head begins with this column."""
    text = read(page)
    start = text.index(f"\n| {first_column} |") + 1
    table = text[start:].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def test_limits_table_of_the_readme_has_every_setting_with_its_default() -> None:
    rows = table_rows(README, "field")
    written = {row[0].strip("`"): row[1].strip("`") for row in rows}
    settings = {
        field.name: None if field.default is MISSING else field.default
        for field in fields(NodeConfig)
    }

    assert len(written) == len(rows)
    assert set(written) == set(settings)
    defaults = {name: ast.literal_eval(text) if text else None for name, text in written.items()}
    assert defaults == settings


def test_guide_explains_every_drop_counter() -> None:
    explained = {row[0].strip("`") for row in table_rows(GUIDE, "counter")}

    assert set(DROP_COUNTERS) <= explained


def test_counters_named_in_the_docs_exist() -> None:
    named = {name for page in PAGES for name in re.findall(r"`(dropped_\w+)`", read(page))}

    assert named <= set(DROP_COUNTERS)


# -- the wire ------------------------------------------------------------------------------------


def wire_numbers(prefix: str) -> dict[str, int]:
    """Return the constants of ``wire`` with a prefix, without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in vars(wire).items()
        if name.startswith(prefix)
    }


def test_protocol_page_has_every_frame_kind() -> None:
    written = {row[1]: int(row[0], 16) for row in table_rows(PROTOCOL, "kind")}
    # These two are bounds, not kinds.
    bounds = {"EXTENSION", "CONTROL"}

    assert written == {k: v for k, v in wire_numbers("KIND_").items() if k not in bounds}


@pytest.mark.parametrize("prefix", ["REJECT", "CLOSE", "RPC"])
def test_protocol_page_has_every_code(prefix: str) -> None:
    written = {row[1]: int(row[0]) for row in table_rows(PROTOCOL, f"code | {prefix}")}
    known = wire_numbers(f"{prefix}_")
    if prefix == "RPC":
        # Only the error codes; the rest is the layout of the envelope.
        known = {name: value for name, value in known.items() if name in written}
        assert sorted(known.values()) == list(range(1, wire.RPC_BUSY + 1))

    assert written == known


# -- the tree ------------------------------------------------------------------------------------


def tree() -> list[str]:
    """Return the paths in the tree of the architecture page, relative to the repository."""
    text = read(ARCHITECTURE).partition("## The tree")[2]
    found: list[str] = []
    folder = ""
    for line in text.partition("```text\n")[2].partition("```")[0].splitlines():
        names = line.strip().partition("  ")[0].split()
        if not names or names[0] == "--":
            continue
        if not line.startswith(" "):
            folder = names[0] if names[0].endswith("/") else ""
        base = folder if line.startswith(" ") else ""
        first = base + names[0]
        inner = first.rstrip("/").rpartition("/")[0]
        found += [first, *(f"{inner}/{name}".lstrip("/") for name in names[1:])]
    return found


def test_tree_names_only_what_exists() -> None:
    assert [path for path in tree() if not (REPO / path).exists()] == []


def test_tree_names_nothing_twice() -> None:
    paths = tree()

    assert sorted(paths) == sorted(set(paths))


def test_tree_has_every_source_file_of_the_package() -> None:
    sources = files(".py", ".pyx", ".pxd", ".pyi", under=PACKAGE)
    named = set(tree())

    assert [p for p in sources if p.relative_to(REPO).as_posix() not in named] == []


def test_tree_has_every_page_and_every_example() -> None:
    wanted = [*REPO.glob("docs/*.md"), *REPO.glob("examples/*.py"), *REPO.glob("*.md")]
    named = set(tree())

    assert [p for p in wanted if p.relative_to(REPO).as_posix() not in named] == []


# -- links ---------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, made as code hosts make them."""
    prose = re.sub(r"^```.*?^```$", "", read(page), flags=re.M | re.S)
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", prose, re.M)}


def slug(heading: str) -> str:
    kept = [
        char for char in heading.lower() if char in " -_" or unicodedata.category(char)[0] in "LN"
    ]
    return "".join(kept).replace(" ", "-")


def links(page: Path) -> list[str]:
    prose = re.sub(r"^```.*?^```$", "", read(page), flags=re.M | re.S)
    return re.findall(r"\]\(([^)\s]+)\)", prose)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_internal_links_resolve(page: Path) -> None:
    broken = []
    for link in links(page):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken
