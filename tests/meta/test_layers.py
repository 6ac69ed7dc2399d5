"""Imports only point down (docs/architecture.md, "Who may import whom")."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from support.layers import has_layer, layer_of
from support.source_tree import FAST, files, module_name, modules, strip_cython, syntax

#: Upward imports that exist for annotations only and have no better place: (importer, imported).
ALLOWED_FOR_TYPING: frozenset[tuple[str, str]] = frozenset()


#: Below the shell, kernels come in as arguments. A router may also be used without a node, and
#: then makes a table of its own; what users see of calls are kernel classes.
CHOOSES_KERNELS = {"netcore.routing", "netcore.rpc"}


@dataclass(frozen=True)
class Import:
    """One import inside the package: of a module, and perhaps a name in it."""

    importer: str
    module: str
    name: str | None
    line: int
    typing_only: bool

    def __str__(self) -> str:
        what = f"{self.module}: {self.name}" if self.name else self.module
        return f"{self.importer}:{self.line} imports {what}"


def imports_of(name: str, path: Path, known: frozenset[str]) -> list[Import]:
    """Return the imports of the package's own modules in one file."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return [
        Import(name, module, what, node.lineno, typing_only)
        for node, typing_only in _import_nodes(syntax(path), False)
        for module, what in _targets(node, package, known)
        if module == "netcore" or module.startswith("netcore.")
    ]


def _import_nodes(
    tree: ast.AST, typing_only: bool
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, typing_only
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.body:
                yield from _import_nodes(ast.Module([child], []), True)
            for child in node.orelse:
                yield from _import_nodes(ast.Module([child], []), typing_only)
        else:
            yield from _import_nodes(node, typing_only)


def _targets(
    node: ast.Import | ast.ImportFrom, package: str, known: frozenset[str]
) -> Iterator[tuple[str, str | None]]:
    if isinstance(node, ast.Import):
        yield from ((alias.name, None) for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        parts = package.split(".")
        base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])])
    for alias in node.names:
        submodule = f"{base}.{alias.name}"
        yield (submodule, None) if submodule in known else (base, alias.name)


def all_imports() -> list[Import]:
    known = modules()
    names = frozenset(known) | {module_name(path) for path in FAST.glob("*.pyx")}
    return [found for name, path in known.items() for found in imports_of(name, path, names)]


def test_every_module_has_a_layer() -> None:
    unknown = [name for name in modules() if not has_layer(name)]
    assert not unknown, "add them to tests/support/layers.py"


def test_imports_never_point_up() -> None:
    upward = [
        str(found)
        for found in all_imports()
        if layer_of(found.module) > layer_of(found.importer)
        and not (found.typing_only and (found.importer, found.module) in ALLOWED_FOR_TYPING)
    ]
    assert not upward


def test_imports_have_no_cycle() -> None:
    graph: dict[str, set[str]] = {name: set() for name in modules()}
    for found in all_imports():
        if not found.typing_only and found.module != found.importer:
            graph[found.importer].add(found.module)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as exc:
        pytest.fail("import cycle: " + " -> ".join(reversed(exc.args[1])))


@pytest.mark.parametrize("twin", ["netcore._pure", "netcore._fast"])
def test_kernels_are_imported_by_backend_only(twin: str) -> None:
    strangers = [
        str(found)
        for found in all_imports()
        if (found.module + ".").startswith(twin + ".")
        and not (found.importer + ".").startswith(twin + ".")
        and found.importer != "netcore._backend"
        and not found.typing_only
    ]
    assert not strangers


def test_kernels_import_layer_0_only() -> None:
    outside = [
        str(found)
        for found in all_imports()
        if layer_of(found.importer) == 1
        and found.importer != "netcore._backend"
        and layer_of(found.module) > 0
        and twin_of(found.module) != twin_of(found.importer)
    ]
    assert not outside


def twin_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def test_backend_is_imported_by_the_shell() -> None:
    strangers = [
        str(found)
        for found in all_imports()
        if found.module == "netcore._backend"
        and layer_of(found.importer) < 4
        and found.importer not in CHOOSES_KERNELS
        and not found.typing_only
    ]
    assert not strangers


def test_services_use_public_names_only() -> None:
    private = [
        str(found)
        for found in all_imports()
        if layer_of(found.importer) == 3
        and layer_of(found.module) < 3
        and not found.typing_only
        and (found.name or found.module.rpartition(".")[2]).startswith("_")
    ]
    assert not private


@pytest.mark.parametrize("path", files(".pyx", ".pxd", under=FAST), ids=lambda path: path.name)
def test_compiled_kernel_imports_layer_0_and_kernels_only(path: Path) -> None:
    pattern = re.compile(r"^\s*(?:from\s+([\w.]+)\s+c?import\s+(.*)|c?import\s+([\w., ]+))", re.M)
    wrong = []
    for source, names, plain in pattern.findall(strip_cython(path.read_text("utf-8"))):
        for module in _pyx_modules(source, names, plain):
            inside = (module + ".").startswith("netcore._fast.")
            if module.startswith("netcore") and not inside and layer_of(module) > 0:
                wrong.append(module)
    assert not wrong


def _pyx_modules(source: str, names: str, plain: str) -> list[str]:
    if plain:
        return [part.split()[0] for part in plain.split(",")]
    dots = len(source) - len(source.lstrip("."))
    base = source.lstrip(".")
    if dots:
        root = ".".join(["netcore", "_fast"][: 3 - dots])
        base = f"{root}.{base}" if base else root
    if base == "netcore":
        return [f"netcore.{name}" for name in re.findall(r"\w+", names)]
    return [base]
