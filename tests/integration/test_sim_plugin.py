"""The pytest plugin, as a user's test run sees it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import netcore

BEHAVIOR = """
import pytest
from netcore import NetworkBehavior

class Bad(NetworkBehavior):
    service_id = 10
    def on_message(self, agent, message):
        raise ValueError("bad behavior")

def provoke(net):
    net.topology.line(2, [Bad])
    net.settle()
    net[1].agent(10).send_to_node(2, b"")
    net.run(10)
"""


def run_pytest(folder: Path, code: str, *args: str) -> str:
    """Run a test file with the plugin and return what was printed."""
    (folder / "test_it.py").write_text(BEHAVIOR + code, "utf-8")
    package = Path(netcore.__file__).resolve().parents[1]
    command = [sys.executable, "-m", "pytest", "-p", "netcore.sim.pytest_plugin", "-v", *args]
    done = subprocess.run(
        [*command, "--strict-markers", "-p", "no:cacheprovider", "."],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


def test_fixture_is_a_network_with_the_seed_in_its_name(tmp_path: Path) -> None:
    code = "def test_it(netcore_sim):\n    assert netcore_sim.seed == 0\n    provoke\n"
    printed = run_pytest(tmp_path, code)

    assert "test_it.py::test_it[seed0] PASSED" in printed


def test_failed_seed_prints_the_line_that_replays_it(tmp_path: Path) -> None:
    code = (
        "@pytest.mark.netcore_sim(seeds=range(3))\n"
        "def test_it(netcore_sim):\n    assert netcore_sim.seed != 2\n"
    )
    printed = run_pytest(tmp_path, code)
    line = "pytest 'test_it.py::test_it[seed2]' --netcore-seed=2"
    assert line in printed
    assert "2 passed" in printed
    assert "1 failed" in printed

    again = run_pytest(tmp_path, code, "test_it.py::test_it[seed2]", "--netcore-seed=2")
    assert "1 failed" in again
    assert "passed" not in again


def test_seeds_of_the_command_line_go_before_those_of_the_marker(tmp_path: Path) -> None:
    code = (
        "@pytest.mark.netcore_sim(seeds=[77], tick_ms=50)\n"
        "def test_it(netcore_sim):\n"
        "    assert netcore_sim.add_node(1).config.tick_ms == 50\n"
    )
    assert "[seed77] PASSED" in run_pytest(tmp_path, code)
    assert "5 passed" in run_pytest(tmp_path, code, "--netcore-seeds=5")
    assert "[seed9] PASSED" in run_pytest(tmp_path, code, "--netcore-seed=9")


def test_hook_error_fails_the_test_unless_it_is_allowed(tmp_path: Path) -> None:
    code = (
        "def test_bad(netcore_sim):\n    provoke(netcore_sim)\n\n"
        "@pytest.mark.netcore_sim(allow_hook_errors=True)\n"
        "def test_allowed(netcore_sim):\n"
        "    provoke(netcore_sim)\n"
        "    assert len(netcore_sim.hook_errors) == 1\n"
    )
    printed = run_pytest(tmp_path, code)

    assert "hook errors: 1 (seed 0)" in printed
    assert "bad behavior" in printed
    assert "--netcore-seed=0" in printed
    assert "test_it.py::test_allowed[seed0] PASSED" in printed
    assert "1 error" in printed
