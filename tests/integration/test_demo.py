"""The demo, run as users run it: its own checks are the test."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pytest

from netcore import _backend
from support.cli import Command, children_of, run_command, wait_gone

linux_only = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="asks /proc about child processes"
)


@pytest.fixture(scope="module")
def runs() -> dict[str, tuple[int, str, str]]:
    """Return the finished runs of the module, by backend: a run is looked at more than once."""
    return {}


@pytest.fixture
def run(
    runs: dict[str, tuple[int, str, str]], backend: _backend.BackendName, tmp_path: Path
) -> tuple[int, str, str]:
    """Return (exit code, stdout, stderr) of a short demo."""
    if backend not in runs:
        runs[backend] = run_command(
            "demo", "--plain", "--seconds", "2", cwd=tmp_path, backend=backend
        )
    return runs[backend]


def test_demo_ends_with_sums_that_agree(run: tuple[int, str, str]) -> None:
    code, out, err = run
    assert (code, err) == (0, ""), out + err
    assert "the sums agree" in out


def test_demo_prints_an_equation_that_holds(run: tuple[int, str, str]) -> None:
    pattern = (
        r"sent ([\d,]+) = delivered ([\d,]+) \+ dropped ([\d,]+) \+ lost with node \d: ([\d,]+)"
    )
    found = re.search(pattern, run[1])
    assert found is not None
    sent, *parts = (int(number.replace(",", "")) for number in found.groups())
    assert sent == sum(parts)


def test_demo_runs_on_the_backend_it_names(
    run: tuple[int, str, str], backend: _backend.BackendName
) -> None:
    assert f"{backend} kernels" in run[1].splitlines()[0]


def test_demo_calls_over_five_hops_and_then_two(run: tuple[int, str, str]) -> None:
    assert re.search(r"5 hops from end to end; .*, 5 hops [\d.]+ ms", run[1])
    assert "from node 1 to node 6 take 2 hops" in run[1]


def test_demo_tells_how_long_the_gap_was(run: tuple[int, str, str]) -> None:
    assert re.search(r"node \d to \d: over .*, then [\d.]+ ms of silence and \d+ lost", run[1])


def test_demo_explains_a_choice_before_and_after_the_kill(run: tuple[int, str, str]) -> None:
    before, after = re.findall(
        r"(?:before|now), as node \d sees it: node \d: over nodes? [\d ]+, score \d+.*\n"
        r"((?: +over [\d ]+: \d+ ms, score \d+: .*\n)+)",
        run[1],
    )
    assert re.search(r"score \d+: best\n", before)
    assert re.search(r"alternate: (score \d+ > \d+|same score, more hops|as good)", before)
    killed = re.search(r"node (\d) is killed", run[1])
    assert killed is not None
    ways = [re.findall(r"over ([\d ]+):", part) for part in (before, after)]
    assert any(killed[1] in way.split() for way in ways[0])
    assert all(killed[1] not in way.split() for way in ways[1])


def test_demo_into_a_pipe_has_no_escape_codes(run: tuple[int, str, str]) -> None:
    assert "\x1b" not in run[1]


def test_demo_with_a_frozen_relay_agrees_too(tmp_path: Path) -> None:
    code, out, err = run_command(
        "demo", "--seconds", "1", "--freeze", cwd=tmp_path, backend=_backend.BACKEND
    )
    assert (code, err) == (0, ""), out + err
    assert "hangs (SIGSTOP)" in out


def test_demo_with_backend_option_overrides_the_environment(tmp_path: Path) -> None:
    with Command("demo", "--backend", "pure", cwd=tmp_path, backend=_backend.BACKEND) as demo:
        assert "pure kernels" in demo.line_with("netcore")


def test_demo_beyond_its_deadline_fails_with_one_line(tmp_path: Path) -> None:
    code, _, err = run_command("demo", "--deadline", "0.001", cwd=tmp_path, backend="pure")
    assert code == 2
    assert re.fullmatch(r"netcore demo: not done within 0.001 s: still waiting for .*\n", err)


@linux_only
def test_demo_interrupted_ends_all_its_processes(tmp_path: Path) -> None:
    with Command("demo", "--plain", cwd=tmp_path, backend=_backend.BACKEND) as demo:
        demo.line_with("traffic starts")
        workers = children_of(demo.process.pid)
        demo.send(signal.SIGINT)
        code, _, err = demo.finish()
    assert (code, err) == (130, "netcore demo: interrupted\n")
    assert len(workers) == 6
    assert all(wait_gone(worker, timeout_s=0) for worker in workers)


@linux_only
def test_demo_killed_leaves_no_process_behind(tmp_path: Path) -> None:
    with Command("demo", "--plain", cwd=tmp_path, backend=_backend.BACKEND) as demo:
        demo.line_with("traffic starts")
        workers = children_of(demo.process.pid)
        demo.send(signal.SIGKILL)
        demo.finish()
    assert len(workers) == 6
    assert all(wait_gone(worker) for worker in workers)


@linux_only
def test_demo_whose_worker_dies_unasked_fails_and_says_which(tmp_path: Path) -> None:
    with Command("demo", "--plain", cwd=tmp_path, backend=_backend.BACKEND) as demo:
        demo.line_with("traffic starts")
        workers = children_of(demo.process.pid)
        os.kill(workers[0], signal.SIGKILL)
        code, _, err = demo.finish()
    assert code == 2
    assert "the process of node" in err
    assert all(wait_gone(worker, timeout_s=0) for worker in workers)
