"""Greps over our own sources (the idea is msgspec's): mistakes that no linter here knows."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.layers import layer_of
from support.source_tree import FAST, PACKAGE, REPO, files, module_name, strip_cython, syntax

PYTHON = files(".py", ".pyi")
CYTHON = files(".pyx", ".pxd", under=FAST)
TEXT = files(".py", ".pyi", ".pyx", ".pxd", ".toml", ".md", ".in", ".cfg", ".yml", ".sh", "run")

#: Kernels that own file descriptors. Only the loop among them may also read a clock.
IO_KERNELS = ("netcore._pure.loop", "netcore._pure.switch", "netcore._pure.connection")

#: Modules whose calls make an outcome depend on more than the arguments.
IMPURE_CALLS = {"time", "random", "secrets", "uuid"}
IO_MODULES = {
    "asyncio",
    "multiprocessing",
    "select",
    "selectors",
    "socket",
    "ssl",
    "subprocess",
    "threading",
}
CODE_RUNNERS = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle"}


def package_modules() -> dict[str, Path]:
    return {module_name(path): path for path in files(".py", under=PACKAGE)}


def core_modules() -> list[Path]:
    """Return the files of layers 0 to 3 without the loop, which is the clock."""
    return [
        path
        for name, path in package_modules().items()
        if layer_of(name) <= 3 and name != "netcore._pure.loop"
    ]


def where(path: Path, line: int, what: str) -> str:
    return f"{path.relative_to(REPO).as_posix()}:{line}: {what}"


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, top-level name) of every absolute import, also those inside functions."""
    for node in ast.walk(syntax(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.lineno, (node.module or "").partition(".")[0]


def calls(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, what is called as it is written)."""
    for node in ast.walk(syntax(path)):
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func)


def test_core_calls_no_clock_and_no_random_source() -> None:
    found = []
    for path in core_modules():
        named = {alias for alias in names_from(path, IMPURE_CALLS) if alias[0].islower()}
        for line, called in calls(path):
            module = called.partition(".")[0]
            impure = module in IMPURE_CALLS and "." in called
            if impure or called in named or called in ("os.urandom", "os.getrandom"):
                found.append(where(path, line, called))
    assert not found


def names_from(path: Path, sources: set[str]) -> set[str]:
    """Return the local names bound by ``from <source> import ...``."""
    return {
        alias.asname or alias.name
        for node in ast.walk(syntax(path))
        if isinstance(node, ast.ImportFrom) and not node.level and node.module in sources
        for alias in node.names
    }


#: Imports for annotations only: the type of a setting that the shell uses. test_import.py sees to
#: it that nothing else comes of them.
NAMED_ONLY = {("netcore.config", "ssl")}


def test_core_imports_no_io() -> None:
    found = [
        where(path, line, module)
        for path in core_modules()
        if module_name(path) not in IO_KERNELS
        for line, module in imported_modules(path)
        if module in IO_MODULES and (module_name(path), module) not in NAMED_ONLY
    ]
    assert not found


def test_print_is_the_command_line_only() -> None:
    found = [
        where(path, line, called)
        for name, path in package_modules().items()
        if not re.search(r"\.(__main__|_?cli)(\.|_|$)", name)
        for line, called in calls(path)
        if called in ("print", "pprint", "pprint.pprint", "sys.stdout.write")
    ]
    found += [
        where(path, number, "print")
        for path in CYTHON
        for number, line in enumerate(quiet_lines(path), 1)
        if re.search(r"\b(print|printf)\s*\(", line)
    ]
    assert not found


def test_package_never_runs_received_code() -> None:
    found = [
        where(path, line, module)
        for path in package_modules().values()
        for line, module in imported_modules(path)
        if module in CODE_RUNNERS
    ]
    found += [
        where(path, line, called)
        for path in package_modules().values()
        for line, called in calls(path)
        if called in ("eval", "exec", "compile", "builtins.eval", "builtins.exec")
    ]
    found += [
        where(path, number, line.strip())
        for path in CYTHON
        for number, line in enumerate(quiet_lines(path), 1)
        if re.search(r"\b(pickle|marshal|shelve)\b|(?<!\.)\b(eval|exec)\s*\(", line)
    ]
    assert not found


def quiet_lines(path: Path) -> list[str]:
    return strip_cython(path.read_text("utf-8")).splitlines()


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: path.relative_to(REPO).as_posix())
def test_type_ignore_names_its_code(path: Path) -> None:
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline)
    bare = [
        token.start[0]
        for token in tokens
        if token.type == tokenize.COMMENT and re.search(r"#\s*type:\s*ignore(?!\[)", token.string)
    ]
    assert not bare


def test_text_has_no_path_of_one_machine() -> None:
    # Spelled so that it does not find itself.
    pattern = re.compile(r"(?<![\w./@])/(?:" + "|".join(["work", "farm", "root"]) + r"|home/\w+)/")
    found = [
        where(path, number, line.strip())
        for path in TEXT
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found


# -- Cython --------------------------------------------------------------------------------------

#: Types whose functions can raise without a word about it: Python objects.
OBJECTS = {"object", "bytes", "bytearray", "str", "list", "tuple", "dict", "set", "frozenset"}
OBJECTS |= {"type", "memoryview"}


def c_functions(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield (line, return type, whole header) of each cdef or cpdef function."""
    lines = strip_cython(text).splitlines()
    for at, line in enumerate(lines):
        start = re.match(r"\s*(?:cdef|cpdef)\s+(?!class\b|extern\b|enum\b|struct\b|union\b)", line)
        if start is None:
            continue
        header = line[start.end() :]
        for more in lines[at + 1 :]:
            if header.count("(") <= header.count(")"):
                break
            header += " " + more.strip()
        match = re.match(r"([^=(]*?)(\w+)\s*\((?!\s*\*)(.*)\)([^()]*)$", header)
        if match:
            kind = re.sub(r"\b(inline|public|api)\b", "", match[1]).strip()
            yield at + 1, kind, header


@pytest.mark.parametrize("path", CYTHON, ids=lambda path: path.name)
def test_c_function_says_noexcept_or_except(path: Path) -> None:
    silent = [
        where(path, line, header)
        for line, kind, header in c_functions(path.read_text("utf-8"))
        if returns_c_value(kind) and not re.search(r"\b(noexcept|except)\b", header)
    ]
    assert not silent


def returns_c_value(kind: str) -> bool:
    """Tell C values from objects; classes are CamelCase here, C types and structs lower case."""
    last = kind.split(".")[-1].split()
    return bool(last) and last[-1] not in OBJECTS and not last[-1][0].isupper()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("cdef int f(self, int a):\n", True),
        ("cdef inline uint32_t f(const uint8_t *p) nogil:\n", True),
        ("    cdef void f(\n        self,\n        int a,\n    ) noexcept:\n", False),
        ("    cdef int f(self) except -1\n", False),
        ("    cdef char *f(self)\n", True),
        ("    cdef bytes f(self)\n", False),
        ("    cdef Message f(self)\n", False),
        ("    cdef f(self):\n", False),
        ("    cdef int x = g(1)\n", False),
        ("    cdef unsigned char[4] x\n", False),
    ],
)
def test_c_function_grep_knows_a_silent_one(source: str, expected: bool) -> None:
    silent = [
        header
        for _, kind, header in c_functions(source)
        if returns_c_value(kind) and not re.search(r"\b(noexcept|except)\b", header)
    ]
    assert bool(silent) is expected
