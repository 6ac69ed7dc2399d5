"""Build the compiled kernels in place, or for an instrument in a copy of the tree.

    python tools/build.py              rebuild what changed, beside the sources
    python tools/build.py --clean      remove every build from the tree, then stop
    python tools/build.py --trace      line-traced, for coverage of the .pyx

    python tools/build.py --asan       with AddressSanitizer
    python tools/build.py --ubsan      with UndefinedBehaviorSanitizer, and without -fwrapv
    python tools/build.py --memcheck   for valgrind: little optimized, with debug information
    python tools/build.py --fuzz       by clang, with AddressSanitizer and the coverage of libFuzzer

The last four go into build/asan, build/ubsan, ...: each a whole copy of the tree, so that kernels
that need an instrument are never those of the checkout. ``python -m tools.sanitize`` runs the tests
there, ``python -m tools.fuzz --guided`` the fuzzer.

A ``--trace`` build stays until the next plain build with ``--clean`` before it: a rebuild looks at
time stamps, not at flags.
"""

from __future__ import annotations

import argparse
import os
import runpy
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
FAST = REPO / "netcore" / "_fast"

#: Builds that go into a tree of their own.
INSTRUMENTS = ("asan", "ubsan", "memcheck", "fuzz")
#: What such a tree has of this one.
COPIED = ("netcore", "tests", "tools", "examples", "docs", ".ci")
#: What builds and runs leave behind.
LEFT_BEHIND = (".so", ".c", ".html", ".pyc")


def main(argv: list[str] | None = None) -> None:
    """Run one of the commands above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--clean", action="store_true", help="remove every build, build nothing")
    what.add_argument("--trace", action="store_true", help="line-traced, for coverage")
    for kind in INSTRUMENTS:
        what.add_argument(
            f"--{kind}",
            action="store_const",
            dest="instrument",
            const=kind,
            help=f"in build/{kind}",
        )
    options = parser.parse_args(argv)
    if options.clean:
        clean()
    elif options.instrument:
        print(f"built in {build_apart(options.instrument)}")
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


def fast_is_built() -> bool:
    """Say whether the compiled kernels are there; broken ones raise."""
    from netcore import _backend

    try:
        _backend.load("fast")
    except ModuleNotFoundError:
        return False
    return True


# -- builds for an instrument ----------------------------------------------------------------------


def tree_of(kind: str) -> Path:
    """Return where the tree of a build is."""
    return REPO / "build" / kind


def build_apart(kind: str) -> Path:
    """Bring the copy of the tree up to date and build its kernels; return where it is."""
    tree = tree_of(kind)
    copy_tree(tree)
    env = {**os.environ, "NETCORE_INSTRUMENT": kind, "NETCORE_PURE": "0"}
    if kind == "fuzz":
        env["CC"] = clang()
        env["CFLAGS"] = "-w"  # of what Cython makes and only gcc knows
    command = [sys.executable, "-W", "ignore", "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(command, cwd=tree, env=env, check=True)
    return tree


def copy_tree(tree: Path) -> None:
    """Copy what is newer here, and remove there what is gone here."""
    wanted = {path.relative_to(REPO) for path in _copied_files()}
    for path in wanted:
        there = tree / path
        if not there.exists() or there.stat().st_mtime != (REPO / path).stat().st_mtime:
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / path, there)
    for folder in COPIED:
        for there in (tree / folder).rglob("*"):
            gone = there.relative_to(tree) not in wanted and there.suffix not in LEFT_BEHIND
            if there.is_file() and gone:
                there.unlink()


def _copied_files() -> Iterator[Path]:
    for path in REPO.iterdir():
        if path.is_file() and path.suffix in (".toml", ".py", ".md", ".in"):
            yield path
    for folder in COPIED:
        for path in (REPO / folder).rglob("*"):
            if path.is_file() and path.suffix not in LEFT_BEHIND:
                yield path


def clang() -> str:
    """Return a clang: ``$CLANG``, else the first one on PATH, with or without its version."""
    names = [os.environ.get("CLANG", "clang"), *(f"clang-{n}" for n in range(30, 10, -1))]
    for name in names:
        if shutil.which(name):
            return name
    sys.exit("--fuzz needs clang (Debian: apt-get install clang libclang-rt-14-dev)")


if __name__ == "__main__":
    main()
