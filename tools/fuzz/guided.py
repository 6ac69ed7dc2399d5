"""The coverage-guided engine: atheris over kernels built by clang with AddressSanitizer.

``tools/build.py --fuzz`` builds them, in a tree of their own; the fuzzer runs there, in a process
that has the sanitizer's runtime loaded first. Its modules in Python are instrumented as they are
imported, so nothing of netcore may be imported here before that.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

from .corpus import CORPUS, SESSION_MAGIC, session_part
from .engine import MOST_BYTES
from .target import Target

SECONDS_PER_INPUT = 1  # libFuzzer knows whole seconds only; the built-in engine is the strict one


def run_apart(name: str, inputs: int, seconds: int, seed: int, output: Path) -> int:
    """Build, then run the fuzzer on one target; return its exit code."""
    from tools.build import build_apart

    tree = build_apart("fuzz")
    found = output.resolve() / "found" / name
    found.mkdir(parents=True, exist_ok=True)
    arguments = [
        f"-runs={inputs}",
        f"-max_total_time={seconds}",
        f"-seed={seed + 1}",  # 0 is "any" there
        f"-timeout={SECONDS_PER_INPUT}",
        f"-malloc_limit_mb={MOST_BYTES >> 20}",
        "-rss_limit_mb=0",
        "-max_len=65536",
        f"-artifact_prefix={output.resolve()}/{name}-",
        "-print_final_stats=1",
        str(found),
        str(CORPUS / name),
    ]
    session = output.resolve() / f"{name}-session"
    command = [sys.executable, "-P", "-m", __name__, name, str(session), *arguments]
    environment = _environment() | {"PYTHONPATH": str(tree)}
    return subprocess.run(command, cwd=tree, env=environment, check=False).returncode


def _environment() -> dict[str, str]:
    try:
        atheris = importlib.import_module("atheris")
    except ModuleNotFoundError:
        sys.exit("--guided needs atheris: pip install atheris")
    runtime = Path(atheris.path()) / "asan_with_fuzzer.so"
    options = "detect_leaks=0:allocator_may_return_null=1:quarantine_size_mb=16"
    return {
        **os.environ,
        "LD_PRELOAD": str(runtime),
        "ASAN_OPTIONS": options,
        "PYTHONMALLOC": "malloc",
        "NETCORE_PURE": "0",
    }


def run_inside(name: str, session: Path, arguments: list[str]) -> None:
    """Run the fuzzer; it ends the process."""
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["netcore"], enable_loader_override=False):
        targets = importlib.import_module(f"{__package__}.targets")
    with Sessions(targets.make_target(name, "fast"), session) as sessions:
        atheris.Setup([sys.argv[0], *arguments], sessions.one_input)
        atheris.Fuzz()


class Sessions:
    """Gives a target its inputs, and begins anew after as many as the target wants.

    The file has the session so far, and with it what led to the end of the process.
    """

    def __init__(self, target: Target, path: Path) -> None:
        self._target = target
        self._file = path.open("w+b", buffering=0) if target.session else None
        self._left = 0

    def __enter__(self) -> Sessions:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def one_input(self, data: bytes) -> None:
        """Run one."""
        if not self._left:
            self._begin()
        self._left -= 1
        if self._file is not None:
            self._file.write(session_part(data))
        self._target.run(data)
        if not self._left:
            self._target.finish()

    def _begin(self) -> None:
        self._left = self._target.session or 1
        if self._file is not None:
            self._file.seek(0)
            self._file.truncate()
            self._file.write(SESSION_MAGIC)
        self._target.reset()


if __name__ == "__main__":
    run_inside(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
