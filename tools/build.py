"""Build the compiled kernels in place, beside their sources.

    python tools/build.py              rebuild what changed
    python tools/build.py --clean      remove every build from the tree, then stop
    python tools/build.py --asan       with AddressSanitizer and UBSan; says how to run the tests
    python tools/build.py --trace      line-traced, for coverage of the .pyx

``--asan`` and ``--trace`` builds stay until the next plain build with ``--clean`` before it:
a rebuild looks at time stamps, not at flags.
"""

from __future__ import annotations

import argparse
import os
import runpy
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
FAST = REPO / "netcore" / "_fast"


def main(argv: list[str] | None = None) -> None:
    """Run one of the commands above."""
    parser = argparse.ArgumentParser(description="Build the compiled kernels in place.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--clean", action="store_true", help="remove every build, build nothing")
    what.add_argument("--asan", action="store_true", help="with AddressSanitizer and UBSan")
    what.add_argument("--trace", action="store_true", help="line-traced, for coverage")
    options = parser.parse_args(argv)
    if options.clean:
        clean()
    elif options.asan:
        clean()
        build({"NETCORE_SANITIZE": "1"})
        print(asan_help())
    elif options.trace:
        clean()
        build({"NETCORE_TRACE": "1"})
    else:
        build({})


def clean() -> None:
    """Remove built kernels, generated C and the build folder."""
    for pattern in ("*.so", "*.c", "*.html"):
        for path in FAST.glob(pattern):
            path.unlink()
    shutil.rmtree(REPO / "build", ignore_errors=True)


def build(switches: dict[str, str]) -> None:
    """Run ``setup.py build_ext --inplace``; a kernel that does not compile is an error here."""
    os.environ.update(switches, NETCORE_PURE="0")
    os.chdir(REPO)
    sys.argv[:] = ["setup.py", "build_ext", "--inplace"]
    with warnings.catch_warnings():
        # setuptools calls its pyproject.toml table beta on each run; it is what we rely on.
        warnings.filterwarnings("ignore", message=r"(?s).*\[tool\.setuptools\]")
        runpy.run_path("setup.py", run_name="__main__")


def asan_help() -> str:
    """Return the command that runs the kernel tests on a sanitized build."""
    compiler = os.environ.get("CC", "cc")
    libraries = " ".join(
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    )
    return (
        f"LD_PRELOAD='{libraries}' ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc "
        f"NETCORE_PURE=0 {sys.executable} -m pytest tests/unit"
    )


if __name__ == "__main__":
    main()
