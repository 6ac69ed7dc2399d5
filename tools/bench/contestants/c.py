"""Bare sockets in C, compiled when the benchmark starts: what the others are compared with."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from tools.bench import build
from tools.bench.process import Options, Role, main

NAME: Final = "C"
REQUIRES: Final[tuple[str, ...]] = ()
EXTRAS: Final = ("busy",)
VARIANTS: Final = {"C": {}, "C unix": {"unix": "1"}}

_SOURCE: Final = Path(__file__).with_suffix(".c")


def _binary() -> Path:
    return build.folder() / "c"


def prepare() -> str:
    """Compile the program; return the compiler's name.

    Raises:
        BuildError: There is no compiler, or it failed.
    """
    if not _SOURCE.exists():
        raise build.BuildError(f"{_SOURCE.name} is not in this copy of the sources")
    compiler = build.compiler()
    build.run_tool(compiler, *build.CFLAGS, "-o", str(_binary()), str(_SOURCE))
    return build.run_tool(compiler, "--version").splitlines()[0] + " " + build.CFLAGS[0]


def _become(options: Options) -> None:
    if not _binary().exists():
        prepare()
    os.execv(_binary(), [str(_binary()), *sys.argv[1:]])


ROLES: Final[dict[str, Role]] = dict.fromkeys(
    (
        "sink", "source", "relay", "echo", "pinger", "callee", "caller", "fan_sink", "fan_source",
        "idle_server", "idle_client", "churn_server", "churn_client",
    ),
    _become,
)  # fmt: skip

if __name__ == "__main__":
    main(ROLES)
