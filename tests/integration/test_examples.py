"""Every example runs by itself, on both backends, and prints what its text promises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import netcore
from netcore._backend import BackendName
from support.complaints import complaints
from support.source_tree import REPO

EXAMPLES = REPO / "examples"
DEADLINE_S = 30
MAX_LINES = 60

#: example -> lines that it prints, in this order, perhaps with others in between.
KEY_LINES = {
    "echo.py": [
        "node 2: connected to node 1",
        "node 1: b'one' from node 2",
        "answers: [b'one', b'two', b'three']",
        "sent: 3, dropped: 0",
    ],
    "key_store.py": [
        # The highest bytes of the node ids are 10, 50, 80, b0 and f0; the key's closest one wins.
        "apple (key 0xcf1f8a00) is green, says node 0xf0000001",
        "banana (key 0x67da524c) is yellow, says node 0x50000001",
        "cherry (key 0xeea53ebf) is red, says node 0xf0000001",
        "pear (key 0x653ec60d) is gold, says node 0x50000001",
        "plum (key 0xd9716562) is blue, says node 0xf0000001",
    ],
    "service_anycast.py": [
        "2 workers: done by node 2",
        "1 workers: done by node 3",
    ],
    "rpc.py": [
        "1 2 3 -> 6",
        "later -> here it is",
        "one two -> CallError 400 numbers, please",
        "sing -> NotHandled 2 service 20 does not handle this",
        "forget -> AnswerDropped 4 ",
    ],
    "handler_events.py": ["node 3 hears: node 2 says hello, three"],
    "custom_router.py": [
        "node 3 hears b'hello' from node 2",
        "the middle has relayed 1 message",
    ],
    "asyncio_host.py": ["[b'ONE', b'TWO']"],
    "simulated_network.py": [
        "node 4 counts 1, 2",
        "the other way round it counts 3",
        "its next incarnation counts 1",
        "the same seed, the same events: True",
    ],
}


def run_example(name: str, backend: BackendName) -> subprocess.CompletedProcess[str]:
    """Run an example in a process of its own, with every warning an error."""
    package = Path(netcore.__file__).resolve().parents[1]
    return subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / name],
        env={
            **os.environ,
            "NETCORE_PURE": "1" if backend == "pure" else "0",
            "PYTHONPATH": str(package),
        },
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


@pytest.mark.parametrize("name", sorted(KEY_LINES))
def test_example_run_by_itself_prints_its_key_lines(name: str, backend: BackendName) -> None:
    done = run_example(name, backend)

    assert (done.returncode, complaints(done.stderr)) == (0, "")
    printed = iter(done.stdout.splitlines())
    # Each one is looked for behind the one before it.
    assert [line for line in KEY_LINES[name] if line not in printed] == []


def test_examples_folder_holds_what_is_tested_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(KEY_LINES)


@pytest.mark.parametrize("name", sorted(KEY_LINES))
def test_example_text_fits_on_a_page(name: str) -> None:
    assert len((EXAMPLES / name).read_text("utf-8").splitlines()) <= MAX_LINES
