"""What the benchmark compiles for itself, in a folder that lives as long as the run."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

__all__ = ["CFLAGS", "BuildError", "compiler", "folder", "run_tool", "use"]

CFLAGS: Final = ("-O2", "-Wall", "-Wextra")

_VARIABLE: Final = "NETCORE_BENCH_BUILD"


class BuildError(Exception):
    """Something could not be compiled; the text says why."""


def folder() -> Path:
    """Return the folder for what is built; the runner sets it for all processes of a run."""
    given = os.environ.get(_VARIABLE)
    if given is None:
        given = os.environ[_VARIABLE] = tempfile.mkdtemp(prefix="netcore-bench-")
    return Path(given)


def use(path: Path) -> None:
    """Build there, in this process and in those that it starts."""
    os.environ[_VARIABLE] = str(path)


def compiler() -> str:
    """Return the system's C compiler.

    Raises:
        BuildError: There is none.
    """
    found = shutil.which(os.environ.get("CC", "cc"))
    if found is None:
        raise BuildError("no C compiler")
    return found


def run_tool(*command: str) -> str:
    """Run a compiler and return what it prints.

    Raises:
        BuildError: It failed.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        telling = [line for line in lines if "error" in line.lower()] or lines or ["no word why"]
        raise BuildError(f"{Path(command[0]).name} failed: {telling[0].strip()}")
    return done.stdout
