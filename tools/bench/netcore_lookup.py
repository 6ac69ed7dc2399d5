"""netcore's role that asks a routing table where to: from Python, and from C as the switch does."""

from __future__ import annotations

import importlib.util
import random
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Final

from netcore import BACKEND, _backend, wire

from . import build
from .process import Options, ready, say, wait_for_go

__all__ = ["lookup"]

_LOCAL: Final = 0x0A0B0C0D
_ARGUMENTS: Final = 1_024
_C_TIMES: Final = 5_000_000
_PYTHON_TIMES: Final = 100
_REPO: Final = Path(__file__).resolve().parents[2]
_SOURCE: Final = Path(__file__).with_name("lookup.pyx")

Table = _backend.kernels.RouteTable


def _tables() -> dict[str, Table]:
    """Return an empty table, one with one way to everything that one slot can lead to, a full one.

    Services: none, one, all.
    """
    tables = {name: Table(_LOCAL) for name in ("empty", "one entry", "full")}
    tables["one entry"].set_next(3, 1, 7, 1 << 24)
    tables["one entry"].set_service_next(9, 7, 1 << 24)
    full = tables["full"]
    for layer in range(wire.LAYERS):
        for index in range(wire.SLOTS):
            if index != _LOCAL >> 8 * layer & 0xFF:
                full.set_next(layer, index, 1 + layer * 256 + index, 5 + index)
    for service in range(wire.SERVICES):
        full.set_service_next(service, 3 + service, 5 + service)
    return tables


def _arguments(question: str) -> list[int]:
    """Return what is asked for: node ids of all layers in turn, any keys, any services."""
    rng = random.Random(1)
    if question == "service":
        return [rng.randrange(wire.SERVICES) for _ in range(_ARGUMENTS)]
    if question == "key":
        return [rng.randrange(1 << 32) for _ in range(_ARGUMENTS)]
    return [
        (_LOCAL ^ rng.randrange(1, 1 << 8 * (at % wire.LAYERS + 1))) & wire.MAX_U32
        for at in range(_ARGUMENTS)
    ]


def _from_python(ask: Callable[[int], object], arguments: list[int]) -> float:
    """Return the nanoseconds of one question, without those of the loop."""
    begin = time.perf_counter_ns()
    for _ in range(_PYTHON_TIMES):
        for _argument in arguments:
            pass
    middle = time.perf_counter_ns()
    for _ in range(_PYTHON_TIMES):
        for argument in arguments:
            ask(argument)
    end = time.perf_counter_ns()
    return ((end - middle) - (middle - begin)) / (_PYTHON_TIMES * len(arguments))


def _compiled() -> ModuleType:
    """Return the module that asks from C, built at the first use.

    Raises:
        BuildError: It cannot be built here.
    """
    if BACKEND != "fast":
        raise build.BuildError("the pure kernels cannot be asked from C")
    path = build.folder() / f"lookup{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not path.exists():
        _compile(path)
    spec = importlib.util.spec_from_file_location("lookup", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _compile(path: Path) -> None:
    if importlib.util.find_spec("Cython") is None:
        raise build.BuildError("Cython is not installed")
    source = path.with_name("lookup.c")
    build.run_tool(
        sys.executable, "-m", "cython", "-3", f"-I{_REPO}", "-o", str(source), str(_SOURCE)
    )
    build.run_tool(
        build.compiler(), "-O3", "-shared", "-fPIC", f"-I{sysconfig.get_path('include')}",
        "-o", str(path), str(source),
    )  # fmt: skip


def lookup(options: Options) -> None:
    """Ask all questions of all tables."""
    ready()
    wait_for_go()
    figures: dict[str, float] = {}
    said = ""
    module = None
    try:
        module = _compiled()
    except build.BuildError as error:
        said = str(error)
    for name, table in _tables().items():
        for question in ("node", "key", "service"):
            arguments = _arguments(question)
            ask = getattr(table, f"path_to_{question}")
            figures[f"{question}, {name}, Python"] = _from_python(ask, arguments)
            if module is not None:
                loop, _ = module.nanoseconds(table, "loop", arguments, _C_TIMES)
                whole, _ = module.nanoseconds(table, question, arguments, _C_TIMES)
                figures[f"{question}, {name}, C"] = max(0.0, whole - loop)
                figures["loop, C"] = loop
    say(messages=0, seconds=0, cpu=0, lost=0, nanoseconds=figures, not_compiled=said)
