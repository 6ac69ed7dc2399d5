"""The coverage-guided engine: atheris over kernels built by clang with AddressSanitizer.

``tools/build.py --fuzz`` builds them, in a tree of their own; the fuzzer runs there, in a process
that has the sanitizer's runtime loaded first.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

from .corpus import CORPUS
from .engine import MOST_BYTES
from .targets import make_target

#: Tells the process that it is the one with the runtime.
INSIDE = "NETCORE_FUZZ_INSIDE"
SECONDS_PER_INPUT = 1  # libFuzzer knows whole seconds only; the built-in engine is the strict one


def run_apart(name: str, inputs: int, seed: int, output: Path) -> int:
    """Build, then run the fuzzer on one target; return its exit code."""
    from tools.build import build_apart

    tree = build_apart("fuzz")
    found = output / "found" / name
    found.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tools.fuzz", name, "--guided"]
    command += ["--inputs", str(inputs), "--seed", str(seed), "--output", str(output.resolve())]
    return subprocess.run(command, cwd=tree, env=_environment(), check=False).returncode


def _environment() -> dict[str, str]:
    try:
        atheris = importlib.import_module("atheris")
    except ModuleNotFoundError:
        sys.exit("--guided needs atheris: pip install atheris")
    runtime = Path(atheris.path()) / "asan_with_fuzzer.so"
    options = "detect_leaks=0:allocator_may_return_null=1:quarantine_size_mb=16"
    return {
        **os.environ,
        INSIDE: "1",
        "LD_PRELOAD": str(runtime),
        "ASAN_OPTIONS": options,
        "PYTHONMALLOC": "malloc",
        "NETCORE_PURE": "0",
    }


def run_inside(name: str, inputs: int, seed: int, output: Path) -> None:
    """Run the fuzzer; it ends the process."""
    atheris = importlib.import_module("atheris")
    target = make_target(name, "fast")

    def one_input(data: bytes) -> None:
        target.reset()
        target.run(data)
        target.finish()

    arguments = [
        sys.argv[0],
        f"-runs={inputs}",
        f"-seed={seed + 1}",  # 0 is "any" there
        f"-timeout={SECONDS_PER_INPUT}",
        f"-malloc_limit_mb={MOST_BYTES >> 20}",
        "-rss_limit_mb=0",
        "-max_len=65536",
        f"-artifact_prefix={output}/{name}-",
        "-print_final_stats=1",
        str(output / "found" / name),
        str(CORPUS / name),
    ]
    atheris.Setup(arguments, one_input)
    atheris.Fuzz()
