"""Fixtures shared by the suite; every kernel test runs once per backend."""

from __future__ import annotations

import os
import re
import sysconfig
from collections.abc import Generator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import netcore
from netcore import _backend
from support.canary import find_canary

REPO = Path(__file__).resolve().parents[1]
FAST_DIR = Path(netcore.__file__).resolve().parent / "_fast"

_CIMPORT = re.compile(r"^ *(?:from|cimport) +([^#\n]*)", re.M)
_WORD = re.compile(r"\w+")


def pytest_report_header() -> str:
    return f"netcore: backend={netcore.BACKEND} from {Path(netcore.__file__).parent}"


def pytest_sessionstart() -> None:
    """Stop on the mistake that wastes the most time: testing yesterday's kernels."""
    if not FAST_DIR.is_relative_to(REPO):
        return
    # Builds for other interpreters may lie beside ours; they are not what runs here.
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    for source in FAST_DIR.glob("*.pyx"):
        built = source.with_name(source.stem + suffix)
        if built.exists() and _newest_source(source) > built.stat().st_mtime:
            pytest.exit(f"{source.name} is newer than its build: python tools/build.py", 4)


def _newest_source(source: Path) -> float:
    """Return the newest mtime among what Cython rebuilds this kernel for: .pyx and cimported .pxd.

    Comparing with all of _fast would never be satisfied: a build leaves the others' .so alone.
    """
    seen: set[Path] = set()
    todo = [source, source.with_suffix(".pxd")]
    while todo:
        path = todo.pop()
        if path in seen or not path.exists():
            continue
        seen.add(path)
        for line in _CIMPORT.findall(path.read_text("utf-8")):
            todo += [FAST_DIR / f"{name}.pxd" for name in _WORD.findall(line)]
    return max(path.stat().st_mtime for path in seen)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is the same whichever backend netcore itself has chosen."""
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec is not None and "backend" in callspec.params:
            item.add_marker(pytest.mark.own_backend)


@pytest.fixture(params=["pure", "fast"])
def backend(request: pytest.FixtureRequest) -> _backend.BackendName:
    """Name a backend; "fast" is skipped where not built, unless NETCORE_PURE=0 demands it."""
    name: _backend.BackendName = request.param
    try:
        _backend.load(name)
    except ModuleNotFoundError as exc:
        if os.environ.get("NETCORE_PURE") == "0":
            raise
        pytest.skip(f"compiled kernels not built: {exc}")
    return name


@pytest.fixture
def kernels(backend: _backend.BackendName) -> ModuleType:
    """Return the kernels of one backend; a test that uses it runs once per backend."""
    return _backend.load(backend)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, None]:
    """Fail whatever test makes netcore print or log a secret, whatever it is about."""
    outcome = yield
    report = outcome.get_result()
    for title, text in report.sections:
        if find_canary(text):
            report.outcome = "failed"
            report.longrepr = f"a secret of the tests is in {title!r}: {find_canary(text)}"
