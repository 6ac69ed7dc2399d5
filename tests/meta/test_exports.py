"""What ``netcore`` offers is listed, importable and explained."""

from __future__ import annotations

import importlib
import inspect
from types import ModuleType

import pytest

import netcore
from netcore import _backend
from support.backends import fast_is_built
from support.source_tree import modules

PUBLIC = sorted(set(netcore.__all__) - {"__version__"})


def explained(thing: object) -> bool:
    """Say whether a class, function or module has a docstring somebody wrote."""
    doc = getattr(thing, "__doc__", None) or ""
    if isinstance(thing, type) and doc.startswith(f"{thing.__name__}("):
        return False  # a dataclass without a docstring gets its signature as one
    return bool(doc.strip())


def wants_docstring(thing: object) -> bool:
    if thing is int:
        return False  # what NodeId and the like are at run time
    return inspect.isclass(thing) or inspect.isroutine(thing) or inspect.ismodule(thing)


def test_all_lists_each_name_once() -> None:
    assert len(netcore.__all__) == len(set(netcore.__all__))


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_is_importable(name: str) -> None:
    assert hasattr(netcore, name)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_has_a_docstring(name: str) -> None:
    thing = getattr(netcore, name)
    assert not wants_docstring(thing) or explained(thing)


def test_star_import_binds_what_all_lists() -> None:
    assert set(dir(netcore)) >= set(netcore.__all__)


@pytest.mark.parametrize("name", sorted(set(_backend.load("pure").__all__) - {"NAME"}))
def test_kernel_name_has_a_docstring(kernels: ModuleType, name: str) -> None:
    assert explained(getattr(kernels, name))


@pytest.mark.parametrize("name", sorted(set(modules()) - {"netcore.__main__"}))
def test_module_all_names_exist(name: str) -> None:
    if is_compiled_package(name) and not fast_is_built():
        pytest.skip("compiled kernels not built")
    module = importlib.import_module(name)
    missing = [item for item in getattr(module, "__all__", ()) if not hasattr(module, item)]
    assert not missing


def is_compiled_package(name: str) -> bool:
    return name == "netcore._fast" or name.startswith("netcore._fast.")
