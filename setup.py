"""Build the optional compiled kernels; everything static is in pyproject.toml.

NETCORE_PURE        unset  compile; if that fails, warn and install the pure kernels
                    1      do not compile (the wheel is py3-none-any)
                    0      compile, and fail the build if that fails (CI, releases)
NETCORE_TRACE       1      line-traced kernels for Cython.Coverage; the .c stay by the .pyx
NETCORE_INSTRUMENT  asan, ubsan, memcheck or fuzz: kernels for one of these, which tools/build.py
                    builds in a copy of the tree
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

PURE = os.environ.get("NETCORE_PURE", "")
TRACE = os.environ.get("NETCORE_TRACE") == "1"
INSTRUMENT = os.environ.get("NETCORE_INSTRUMENT", "")
if PURE not in ("", "0", "1"):
    sys.exit(f"NETCORE_PURE must be unset, 0 or 1, not {PURE!r}")

SANITIZERS = {
    # clang's own: gcc has no -fsanitize=fuzzer-no-link.
    "fuzz": ["-fsanitize=fuzzer-no-link,address"],
    "asan": ["-fsanitize=address"],
    # CPython's -fwrapv makes signed overflow defined, and would hide it.
    "ubsan": ["-fsanitize=undefined", "-fno-wrapv"],
    "memcheck": [],
}
if INSTRUMENT and INSTRUMENT not in SANITIZERS:
    sys.exit(f"NETCORE_INSTRUMENT must be one of {', '.join(SANITIZERS)}, not {INSTRUMENT!r}")

DIRECTIVES = {
    "language_level": "3",
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
    "linetrace": TRACE,
}
MACROS = [("CYTHON_TRACE", "1"), ("CYTHON_TRACE_NOGIL", "1")] if TRACE else []
# -g0: a fifth of the size, and a faster build; -O3 is what CPython itself passes.
CFLAGS = ["-O3", "-g0"]
LDFLAGS = []
if TRACE:
    CFLAGS = ["-O0", "-g"]
elif INSTRUMENT:
    LDFLAGS = SANITIZERS[INSTRUMENT]
    CFLAGS = ["-O1", "-g", "-fno-omit-frame-pointer", *LDFLAGS]

BANNER = """\
**********************************************************************
* netcore: the compiled kernels were NOT built ({why}).
* Installing the pure-Python kernels: same behaviour, slower.
* NETCORE_PURE=0 makes this an error, NETCORE_PURE=1 asks for it.
**********************************************************************"""


class BuildKernels(build_ext):
    """Build every kernel or none, and say so when it is none."""

    def run(self):
        self.built = set()
        super().run()
        failed = sorted({ext.name for ext in self.extensions} - self.built)
        if failed:
            for ext in self.extensions:
                Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)
            print(BANNER.format(why="failed: " + ", ".join(failed)), file=sys.stderr)

    def build_extension(self, ext):
        super().build_extension(ext)
        self.built.add(ext.name)


def unsupported():
    """Return why this platform cannot have the compiled kernels, or None."""
    if sys.implementation.name != "cpython":
        return f"they need CPython, this is {sys.implementation.name}"
    if not sys.platform.startswith("linux"):
        return f"they need epoll, which {sys.platform} does not have"
    return None


def kernels():
    """Return one Extension per .pyx; setuptools runs Cython on them itself.

    Not ``cythonize()``: it rebuilds each Extension without its ``optional``, after which a missing
    compiler is fatal instead of a fallback.
    """
    if PURE == "1":
        return []
    why = unsupported()
    if why and PURE == "0":
        sys.exit(f"NETCORE_PURE=0 asks for the compiled kernels, but {why}")
    if why:
        print(BANNER.format(why=why), file=sys.stderr)
        return []
    return [kernel(path) for path in sorted(Path("netcore/_fast").glob("*.pyx"))]


def kernel(path):
    """Return the Extension of one .pyx."""
    ext = Extension(
        f"netcore._fast.{path.stem}",
        [path.as_posix()],
        define_macros=MACROS,
        extra_compile_args=CFLAGS,
        extra_link_args=LDFLAGS,
        optional=PURE != "0",
    )
    ext.cython_directives = DIRECTIVES
    ext.cython_c_in_temp = not TRACE  # Cython.Coverage finds a .c only beside its .pyx
    return ext


setup(ext_modules=kernels(), cmdclass={"build_ext": BuildKernels})
