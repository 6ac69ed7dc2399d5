"""What a machine may do to a node: failing calls, no descriptors, jumping clocks, stops, Ctrl-C."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from netcore import BehaviorAgent, NetworkBehavior
from netcore import __file__ as package
from netcore._backend import BackendName
from netcore.process import stop_on_signals
from support.processes import REPO, environment
from support.virtual import Cluster, cluster_of
from tools.chaos.__main__ import main as chaos
from tools.chaos.victim import Victim, victims

DAY_MS = 86_400_000


class Ticks(NetworkBehavior):
    """Counts its ticks."""

    service_id = 70

    def __init__(self) -> None:
        self.count = 0

    def on_tick(self, agent: BehaviorAgent, now_ms: int, interval_ms: int) -> None:
        self.count += 1


@pytest.fixture
def cluster(backend: BackendName) -> Iterator[Cluster]:
    with cluster_of(backend) as cluster:
        yield cluster


# -- system calls that fail ----------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize(
    ("calls", "errno_name"),
    [
        ("accept4", "ENOBUFS"),
        ("recvfrom,recvmsg", "EINTR"),
        ("recvfrom,recvmsg", "ECONNRESET"),
        ("sendto,sendmsg", "EPIPE"),
        ("epoll_wait", "ENOMEM"),
        ("connect", "EHOSTUNREACH"),
    ],
)
def test_failing_system_calls_lose_nothing_that_is_not_counted(
    backend: BackendName, calls: str, errno_name: str
) -> None:
    some = ["--calls", calls, "--errnos", errno_name]
    assert chaos(["errno", "--backend", backend, *some]) == 0


def test_node_without_descriptors_says_so_and_does_not_spin(backend: BackendName) -> None:
    """Also regression: the line that said so imported logging, and that ended the node."""
    few = ["--seconds", "2", "--connections", "100", "--cpu-percent", "10"]
    assert chaos(["emfile", "--backend", backend, *few]) == 0


def test_node_with_little_memory_survives_a_flood(backend: BackendName) -> None:
    few = ["--seconds", "2", "--peers", "40"]
    assert chaos(["memory", "--backend", backend, *few]) == 0


def test_links_that_come_and_go_leave_nothing_behind(backend: BackendName) -> None:
    few = ["--cycles", "400", "--warm-up", "200"]
    assert chaos(["churn", "--backend", backend, *few]) == 0


# -- clocks --------------------------------------------------------------------------------------

#: Replaces the wall clock of a process: each look at it is a day before or behind the last.
WILD_CLOCK = """
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long looks;
static time_t wild(time_t now) { return now + (++looks % 2 ? 86400 : -86400); }
int clock_gettime(clockid_t clock, struct timespec *out) {
    int result = syscall(SYS_clock_gettime, clock, out);
    if (clock == CLOCK_REALTIME) out->tv_sec = wild(out->tv_sec);
    return result;
}
int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
"""

TALK = """
import sys, time
from support.nodes import Nodes, linked
first = time.time()
assert max(abs(time.time() - first) for _ in range(3)) > 80_000  # the clock is wild indeed
nodes = Nodes(sys.argv[1])
one, two = nodes.chain(2, dead_ms=500, ping_interval_ms=20, tick_ms=10)
end = time.monotonic() + 2
while time.monotonic() < end:
    nodes.turn()
assert nodes.send_until_echoed(one, 2, [b"x"] * 10) == [b"x"] * 10
for node in (one, two):
    stats = node.stats()
    assert (stats.links_closed, stats.suspects, len(node.connections)) == (0, 0, 1), stats
nodes.close()
print("calm")
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD and SYS_clock_gettime")
def test_wall_clock_that_jumps_by_days_disconnects_nobody(
    backend: BackendName, tmp_path: Path
) -> None:
    source, library = tmp_path / "wild.c", tmp_path / "wild.so"
    source.write_text(WILD_CLOCK)
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    env = {**environment(backend), "LD_PRELOAD": str(library)}
    command = [sys.executable, "-c", TALK, backend]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, cwd=REPO)
    assert (done.stdout, done.returncode) == ("calm\n", 0), done.stderr


def test_nothing_in_the_package_looks_at_the_wall_clock() -> None:
    wall = re.compile(r"time\.time\b|time_ns\b|datetime|gettimeofday|CLOCK_REALTIME|localtime")
    found = [
        f"{path.name}: {line.strip()}"
        for path in Path(package).parent.rglob("*.py*")
        if path.suffix in (".py", ".pyx", ".pxd")
        and path.name != "certs.py"  # a command: certificates are valid in people's time
        for line in path.read_text("utf-8").splitlines()
        if wall.search(line) and "monotonic_ns" not in line and "perf_counter_ns" not in line
    ]
    assert found == []


@pytest.mark.parametrize("start_ms", [2**31, 2**32, 2**40], ids=["2**31", "2**32", "2**40"])
def test_links_and_ticks_go_on_past_round_numbers_of_milliseconds(
    cluster: Cluster, start_ms: int
) -> None:
    cluster.now_ms = start_ms - 5_000
    ticks = Ticks()
    one, two = cluster.add(1, ticks), cluster.add(2)
    cluster.join(one, two)
    before = ticks.count
    cluster.advance(10_000)
    assert cluster.now_ms > start_ms
    assert 9 <= ticks.count - before <= 11
    for node in (one, two):
        stats = node.stats()
        assert (stats.links_closed, stats.suspects, len(node.connections)) == (0, 0, 1)
    one.agent(70).send_to_node(2, b"still there", to_service=99)
    cluster.settle()
    assert two.stats().dropped_no_service == 1


# -- stops ---------------------------------------------------------------------------------------


def test_minute_without_a_turn_is_one_tick_and_blames_nobody(cluster: Cluster) -> None:
    """As after SIGSTOP: all of this machine stood still, its neighbours as well."""
    ticks = Ticks()
    one, two, three = cluster.add(1, ticks), cluster.add(2), cluster.add(3)
    cluster.join(one, two)
    cluster.join(one, three)
    cluster.advance(3_000)
    before = ticks.count
    cluster.now_ms += 60_000
    for node in (one, two, three):
        node.poll(0)
    assert ticks.count == before + 1
    cluster.advance(5_000)
    assert 5 <= ticks.count - before <= 7
    assert len(one.connections) == 2
    assert [node.stats().links_closed for node in (one, two, three)] == [0, 0, 0]


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="there is no SIGSTOP")
def test_stopped_process_makes_one_tick_on_waking_and_keeps_its_links(
    backend: BackendName,
) -> None:
    options = {"tick_ms": 200, "dead_ms": 60_000}
    with victims(Victim(backend, node={"node": 1, **options})) as (one,):
        stopped = Victim(backend, node={"node": 2, **options}, keep=[one.address])
        with victims(stopped):
            one.until(lambda stats: stats["links"] == 1)
            before = stopped.until(lambda stats: stats["links"] == 1)
            os.kill(stopped.pid, signal.SIGSTOP)
            try:
                stop = time.monotonic()
                one.until(lambda stats: stats["suspects"] and time.monotonic() - stop > 5)
            finally:
                os.kill(stopped.pid, signal.SIGCONT)
            after = stopped.ask()
            # 25 came due meanwhile; one for all of them, and a few before and after.
            assert 1 <= after["ticks"] - before["ticks"] < 15
            assert (after["links_closed"], one.ask()["links_closed"]) == (0, 0)


# -- Ctrl-C --------------------------------------------------------------------------------------


def test_ctrl_c_at_any_instant_leaves_nothing_behind(backend: BackendName) -> None:
    few = ["--signals", "30", "--within-ms", "2000"]
    assert chaos(["sigint", "--backend", backend, *few]) == 0


@pytest.mark.parametrize("after", range(1, 5))
def test_ctrl_c_between_the_steps_of_run_restores_what_was_there(
    monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """A SIGINT whose handler is not in place, or not any more, raises between two steps."""
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    real = signal.signal
    calls = 0

    def interrupted(number: int, handler: object) -> object:
        nonlocal calls
        calls += 1
        old = real(number, handler)  # type: ignore[arg-type]
        # Pending, it strikes as soon as Python's own handler is there again.
        if calls >= after and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            raise KeyboardInterrupt
        return old

    monkeypatch.setattr(signal, "signal", interrupted)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        with pytest.raises(KeyboardInterrupt), stop_on_signals(lambda: None, writer):
            pass
        found = signal.set_wakeup_fd(-1)
        assert found == -1
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    finally:
        real(signal.SIGINT, handlers[0])
        real(signal.SIGTERM, handlers[1])
        os.close(reader)
        os.close(writer)
