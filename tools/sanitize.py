"""Run the tests on kernels built for an instrument.

    python -m tools.sanitize asan        AddressSanitizer, and LeakSanitizer in the end
    python -m tools.sanitize ubsan       UndefinedBehaviorSanitizer, signed overflow included
    python -m tools.sanitize memcheck    valgrind; suppressions for CPython are generated first
    python -m tools.sanitize asan tests/unit/test_codec.py -k header      these tests instead

Each builds its kernels first, in build/asan and so on; see tools/build.py. Ends with 1 when a test
fails or the instrument found something, which is printed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .build import build_apart, tree_of

#: What touches the kernels. Not the tests that compare the speed or the memory of a normal build.
KERNEL_TESTS = [
    "tests/unit/test_admission.py", "tests/unit/test_broadcast.py", "tests/unit/test_call_desk.py",
    "tests/unit/test_call_answers.py", "tests/unit/test_call_twins.py",
    "tests/unit/test_call_values.py", "tests/unit/test_calls.py", "tests/unit/test_codec.py",
    "tests/unit/test_codec_twins.py", "tests/unit/test_connection.py",
    "tests/unit/test_connection_end.py", "tests/unit/test_connection_send.py",
    "tests/unit/test_duplicate_filter.py", "tests/unit/test_early_writes.py",
    "tests/unit/test_fuzz.py", "tests/unit/test_hostile_arguments.py",
    "tests/unit/test_loop.py", "tests/unit/test_loop_run.py", "tests/unit/test_loop_wake.py",
    "tests/unit/test_plane.py", "tests/unit/test_port.py", "tests/unit/test_records.py",
    "tests/unit/test_relay_runs.py", "tests/unit/test_switch.py", "tests/unit/test_switch_twins.py",
    "tests/unit/test_table.py", "tests/unit/test_vitals.py",
]  # fmt: skip
INTEGRATION_TESTS = [
    "tests/integration/test_bounds.py", "tests/integration/test_broadcast.py",
    "tests/integration/test_mixed_backends.py", "tests/integration/test_node_memory.py",
    "tests/integration/test_node_tcp.py", "tests/integration/test_security.py",
    "tests/integration/test_tls.py", "tests/integration/test_tls_peers.py",
    "tests/integration/test_transport_tcp.py", "tests/integration/test_transport_unix.py",
]  # fmt: skip
#: valgrind takes forty times as long: these cover every kernel in about five minutes.
MEMCHECK_TESTS = [
    "tests/unit/test_broadcast.py", "tests/unit/test_call_values.py", "tests/unit/test_calls.py",
    "tests/unit/test_codec.py", "tests/unit/test_connection.py",
    "tests/unit/test_connection_end.py", "tests/unit/test_connection_send.py",
    "tests/unit/test_early_writes.py", "tests/unit/test_loop_run.py", "tests/unit/test_port.py",
    "tests/unit/test_records.py", "tests/unit/test_switch.py", "tests/unit/test_table.py",
    "tests/unit/test_vitals.py",
]  # fmt: skip
#: Of the tests that run once per backend only the compiled half, and whatever has no backend.
FAST_ONLY = "not pure"
#: Under valgrind none of those, either, that do the same at random many times, on both backends.
FEW_ONLY = "not pure and not twins_agree and not both_twins and not random and not sizes"
#: Of a sanitizer's log, and of valgrind's: the latter has nothing but findings.
FOUND = re.compile(r"ERROR|runtime error|^==\d+== ", re.M)
NEAR_LINES = 12
VALGRIND = re.compile(r"==\d+== ")
SUPPRESSION = re.compile(r"^\{\n.*?^\}\n", re.M | re.S)


def main(argv: Sequence[str] | None = None) -> int:
    """Build, then run."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.sanitize",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("instrument", choices=("asan", "ubsan", "memcheck"))
    parser.add_argument("tests", nargs=argparse.REMAINDER, help="for pytest")
    options = parser.parse_args(argv)
    tree = build_apart(options.instrument)
    tests = options.tests or _tests_of(options.instrument)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *tests]
    logs = tree_of(options.instrument) / "logs"
    logs.mkdir(exist_ok=True)
    for old in logs.iterdir():
        old.unlink()
    environment = _environment(options.instrument, logs)
    if options.instrument == "memcheck":
        command = [*_valgrind(logs, _suppressions(tree)), *command]
    code = subprocess.run(command, cwd=tree, env=environment, check=False).returncode
    found = _findings(logs)
    for text in found:
        print(text)
    print(f"{options.instrument}: tests ended with {code}, {len(found)} reports")
    return 1 if code or found else 0


def _tests_of(instrument: str) -> list[str]:
    if instrument == "memcheck":
        return [*MEMCHECK_TESTS, "-k", FEW_ONLY]
    return [*KERNEL_TESTS, *INTEGRATION_TESTS, "-k", FAST_ONLY]


def _environment(instrument: str, logs: Path) -> dict[str, str]:
    log = logs / "report"
    environment = {**os.environ, "NETCORE_PURE": "0", "PYTHONMALLOC": "malloc"}
    environment["NETCORE_FUZZ_INPUTS"] = "2000"
    if instrument == "asan":
        # Leaks end nothing here: what is to be seen is in the log, also of a child process.
        environment |= {
            "LD_PRELOAD": _runtime("libasan.so"),
            "ASAN_OPTIONS": f"detect_leaks=1:log_path={log}:allocator_may_return_null=1",
            "LSAN_OPTIONS": f"exitcode=0:suppressions={_leaks_of_cpython(logs.parent)}",
        }
    elif instrument == "ubsan":
        environment["UBSAN_OPTIONS"] = f"print_stacktrace=1:log_path={log}"
    return environment


def _leaks_of_cpython(tree: Path) -> Path:
    """Return a file that names what CPython itself never gives back."""
    path = tree / "lsan.supp"
    # Of tracemalloc, which the fuzzer's engine starts and stops.
    # And of what makes the certificates of the tests, on cffi and in Rust.
    path.write_text("leak:traceback_new\nleak:_cffi_backend\nleak:_rust.abi3\n", "utf-8")
    return path


def _runtime(name: str) -> str:
    compiler = os.environ.get("CC", "cc")
    found = subprocess.run(
        [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
    )
    return found.stdout.strip()


def _findings(logs: Path) -> list[str]:
    """Return what the instrument wrote, of this process and of its children."""
    texts = [path.read_text("utf-8", "replace") for path in sorted(logs.iterdir())]
    return [text for text in map(_ours, texts) if FOUND.search(text)]


def _ours(text: str) -> str:
    """Leave out of valgrind's log what has none of our C near the top of its stack.

    CPython did that, in a hook perhaps: ``int(b"0")`` reads a digit that it never set.
    """
    if not VALGRIND.match(text):
        return text
    blocks = re.split(r"^==\d+== *\n", text, flags=re.M)
    return "".join(b for b in blocks if "__pyx_" in "".join(b.splitlines()[:NEAR_LINES]))


# -- valgrind --------------------------------------------------------------------------------------


def _valgrind(logs: Path, suppressions: Path) -> list[str]:
    return [
        "valgrind",
        "--tool=memcheck",
        "--leak-check=no",  # AddressSanitizer finds leaks in a tenth of the time
        "--num-callers=30",
        f"--suppressions={suppressions}",
        f"--log-file={logs}/valgrind",
        "-q",
    ]


def _suppressions(tree: Path) -> Path:
    """Let valgrind say what it thinks of CPython without our kernels, and return it as a file."""
    path = tree / "cpython.supp"
    code = "import hashlib, hmac, json, logging, random, re, selectors, socket, struct, xxhash"
    program = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--version"]
    texts = ""
    for command in ([sys.executable, "-c", code], program):
        log = tree / "cpython.log"
        generate = ["valgrind", "-q", "--gen-suppressions=all", f"--log-file={log}"]
        environment = {**os.environ, "NETCORE_PURE": "1", "PYTHONMALLOC": "malloc"}
        subprocess.run([*generate, *command], env=environment, check=True, capture_output=True)
        texts += log.read_text("utf-8", "replace")
    blocks = dict.fromkeys(SUPPRESSION.findall(texts))
    assert not [block for block in blocks if "netcore" in block], "a suppression of our own code"
    path.write_text("".join(blocks), "utf-8")
    return path


if __name__ == "__main__":
    sys.exit(main())
