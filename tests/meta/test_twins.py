"""The two backends offer the same thing: names, attributes, signatures, numbers."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from netcore import _backend, wire
from support.source_tree import FAST, files, strip_cython

PURE = _backend.load("pure")
NAMES = sorted(set(PURE.__all__) - {"NAME"})
CLASSES = [name for name in NAMES if isinstance(getattr(PURE, name), type)]
FUNCTIONS = [name for name in NAMES if name not in CLASSES]

#: Special methods that a user can notice; the others come and go with the implementation.
SPECIAL = (
    "__bool__",
    "__call__",
    "__contains__",
    "__enter__",
    "__eq__",
    "__exit__",
    "__getitem__",
    "__hash__",
    "__iter__",
    "__len__",
    "__next__",
    "__repr__",
)

#: (name, kind, default or a stand-in) of each parameter.
Parameter = tuple[str, str, object]


@pytest.fixture(scope="module")
def fast() -> ModuleType:
    try:
        return _backend.load("fast")
    except ModuleNotFoundError as exc:
        if exc.name and exc.name.startswith("netcore._fast."):
            pytest.skip(f"compiled kernels not built: {exc}")
        raise


# -- names, attributes ---------------------------------------------------------------------------


def test_fast_exports_the_names_of_pure(fast: ModuleType) -> None:
    assert sorted(fast.__all__) == sorted(PURE.__all__)
    assert not [name for name in PURE.__all__ if not hasattr(fast, name)]


def test_twins_say_which_one_they_are(fast: ModuleType) -> None:
    assert (PURE.NAME, fast.NAME) == ("pure", "fast")


@pytest.mark.parametrize("name", CLASSES)
def test_class_has_the_same_public_attributes(fast: ModuleType, name: str) -> None:
    assert public_attributes(getattr(fast, name)) == public_attributes(getattr(PURE, name))


@pytest.mark.parametrize("name", CLASSES)
def test_class_has_the_same_special_methods(fast: ModuleType, name: str) -> None:
    assert special_methods(getattr(fast, name)) == special_methods(getattr(PURE, name))


@pytest.mark.parametrize("name", CLASSES)
def test_class_has_the_same_kinds_of_attributes(fast: ModuleType, name: str) -> None:
    ours, theirs = getattr(PURE, name), getattr(fast, name)
    shared = set(dir(ours)) & set(dir(theirs))
    public = [attribute for attribute in sorted(shared) if not attribute.startswith("_")]
    assert [(a, callable(getattr(theirs, a))) for a in public] == [
        (a, callable(getattr(ours, a))) for a in public
    ]


def public_attributes(cls: type) -> set[str]:
    """Return the public names of a class, and those its constructor sets on ``self``."""
    found = {name for name in dir(cls) if not name.startswith("_")}
    for base in cls.__mro__[:-1]:
        init = vars(base).get("__init__")
        if dataclasses.is_dataclass(base):  # its fields are attributes of the class
            continue
        if inspect.isfunction(init):
            found |= set(_set_on_self(init))
    return found


def _set_on_self(function: object) -> Iterator[str]:
    source = textwrap.dedent(inspect.getsource(function))  # type: ignore[arg-type]
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
            and not node.attr.startswith("_")
        ):
            yield node.attr


def special_methods(cls: type) -> dict[str, bool]:
    """Return the special methods a class defines; False for one it switches off (= None)."""
    found = {}
    for name in SPECIAL:
        method = getattr(cls, name, None)
        if any(name in vars(base) for base in cls.__mro__[:-1]):
            found[name] = method is not None
    return found


@pytest.mark.parametrize("path", files(".pyx", under=FAST), ids=lambda path: path.stem)
def test_stub_names_are_in_the_compiled_module(fast: ModuleType, path: Path) -> None:
    stub = ast.parse(path.with_suffix(".pyi").read_text("utf-8"))
    named = [alias.name for node in stub.body for alias in getattr(node, "names", [])]
    module = importlib.import_module(f"{fast.__name__}.{path.stem}")
    assert not [name for name in named if not hasattr(module, name)]


# -- signatures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_has_the_same_signature(fast: ModuleType, name: str) -> None:
    assert parameters(getattr(fast, name)) == parameters(getattr(PURE, name))


@pytest.mark.parametrize("name", CLASSES)
def test_methods_have_the_same_signatures(fast: ModuleType, name: str) -> None:
    ours, theirs = getattr(PURE, name), getattr(fast, name)
    methods = [
        method
        for method in sorted(public_attributes(ours))
        if callable(getattr(ours, method, None)) and hasattr(theirs, method)
    ]
    assert {m: parameters(getattr(theirs, m)) for m in methods} == {
        m: parameters(getattr(ours, m)) for m in methods
    }


@pytest.mark.parametrize("name", CLASSES)
def test_constructor_has_the_same_parameters(fast: ModuleType, name: str) -> None:
    ours = getattr(PURE, name)
    expected = [
        (parameter.name, parameter.kind.description, parameter.default is not parameter.empty)
        for parameter in inspect.signature(ours).parameters.values()
    ]
    module = getattr(fast, name).__module__.rpartition(".")[2]
    assert constructor_in_pyx(FAST / f"{module}.pyx", name) == expected


def parameters(function: object) -> list[Parameter]:
    """Return what a caller can see of a signature; annotations do not count."""
    signature = inspect.signature(function)  # type: ignore[arg-type]
    return [
        (parameter.name, parameter.kind.description, _default(parameter))
        for parameter in signature.parameters.values()
    ]


def _default(parameter: inspect.Parameter) -> object:
    return "(none)" if parameter.default is parameter.empty else parameter.default


def constructor_in_pyx(path: Path, cls: str) -> list[tuple[str, str, bool]]:
    """Return (name, kind, has default) of each constructor parameter, read from the source.

    ``inspect`` cannot tell: the constructor of a cdef class is a C slot without a signature.
    """
    text = strip_cython(path.read_text("utf-8"))
    body = re.search(rf"^cdef class {cls}\b.*?(?=^\S|\Z)", text, re.M | re.S)
    assert body, f"no cdef class {cls} in {path.name}"
    heads = [re.search(rf"def __{name}__\s*\(", body[0]) for name in ("init", "cinit")]
    head = heads[0] or heads[1]
    if head is None:
        return []
    return list(_parameters_in_pyx(balanced(body[0][head.end() :])))


def balanced(text: str) -> str:
    """Return the text up to the parenthesis that closes the one before it."""
    depth = 1
    for at, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if depth == 0:
            return text[:at]
    raise AssertionError("parentheses do not balance")


def _parameters_in_pyx(text: str) -> Iterator[tuple[str, str, bool]]:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD.description
    for index, part in enumerate(filter(None, map(str.strip, _split(text)))):
        if index == 0:
            continue  # self
        if part == "*":
            kind = inspect.Parameter.KEYWORD_ONLY.description
        elif part.startswith("**"):
            yield part[2:], inspect.Parameter.VAR_KEYWORD.description, False
        elif part.startswith("*"):
            yield part[1:], inspect.Parameter.VAR_POSITIONAL.description, False
            kind = inspect.Parameter.KEYWORD_ONLY.description
        else:
            declared, equals, _ = part.partition("=")
            declared = re.sub(r"\b(not|or) None\b|:.*", "", declared, flags=re.S)
            yield re.findall(r"\w+", declared)[-1], kind, bool(equals)


def _split(text: str) -> Iterator[str]:
    depth = start = 0
    for at, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0:
            yield text[start:at]
            start = at + 1
    yield text[start:]


# -- numbers -------------------------------------------------------------------------------------


def constants_in(path: Path) -> dict[str, int]:
    """Return NAME -> value of every enumerator written in one Cython file."""
    found: dict[str, int] = {}
    inside: int | None = None
    for line in strip_cython(path.read_text("utf-8")).splitlines():
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            continue
        if inside is not None and indent > inside:
            for name, value in re.findall(r"(\w+)\s*=\s*([^,#]+)", line):
                found[name] = _number(value.strip(), found)
            continue
        inside = indent if re.match(r"\s*(cdef\s+|cpdef\s+)?enum\b.*:", line) else None
    return found


def _number(text: str, known: dict[str, int]) -> int:
    """Evaluate a C constant expression of integers, earlier names and operators."""
    text = re.sub(r"\b(0[xX][0-9a-fA-F]+|\d+)[uUlL]+\b", r"\1", text)
    return _fold(ast.parse(text, mode="eval").body, known)


def _fold(node: ast.expr, known: dict[str, int]) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.Name):
        return known[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_fold(node.operand, known)
    if isinstance(node, ast.BinOp):
        left, right = _fold(node.left, known), _fold(node.right, known)
        folded: dict[type, int] = {
            ast.Add: left + right,
            ast.Sub: left - right,
            ast.Mult: left * right,
            ast.BitOr: left | right,
            ast.BitAnd: left & right,
        }
        if isinstance(node.op, ast.LShift):
            return left << right
        return folded[type(node.op)]
    raise AssertionError(f"not a constant expression: {ast.unparse(node)}")


@pytest.mark.parametrize("path", files(".pyx", ".pxd", under=FAST), ids=lambda path: path.name)
def test_c_constants_equal_wire(path: Path) -> None:
    ours = constants_in(path)
    shared = {name: value for name, value in ours.items() if hasattr(wire, name)}
    assert shared == {name: getattr(wire, name) for name in shared}


@pytest.mark.parametrize("path", files(".pyx", ".pxd", under=FAST), ids=lambda path: path.name)
def test_c_macros_equal_wire(path: Path) -> None:
    """A number that does not fit an enumerator is a ``#define NETCORE_<name>`` instead."""
    macros = re.findall(r"^\s*#define NETCORE_(\w+) +(\S+)$", path.read_text("utf-8"), re.M)
    ours = {name: _number(value, {}) for name, value in macros if hasattr(wire, name)}
    assert ours == {name: getattr(wire, name) for name in ours}


@pytest.mark.parametrize("path", files(".pyx", ".pxd", under=FAST), ids=lambda path: path.name)
def test_c_error_codes_are_positions_in_frame_errors(path: Path) -> None:
    codes = {f"ERROR_{reason.upper()}": at for at, reason in enumerate(wire.FRAME_ERRORS, 1)}
    codes["ERROR_NONE"] = 0
    ours = {name: value for name, value in constants_in(path).items() if name in codes}
    assert ours == {name: codes[name] for name in ours}


def test_c_constants_of_one_name_agree_between_kernels() -> None:
    seen: dict[str, int] = {}
    for path in files(".pyx", ".pxd", under=FAST):
        for name, value in constants_in(path).items():
            assert seen.setdefault(name, value) == value, f"{name} in {path.name}"
