"""Namespaces and links for tests and measurements: they carry, lose, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from support.source_tree import REPO
from tools.netlab import Lab, LabError, Shape, Space, why_not
from tools.netlab.__main__ import main
from tools.netlab.lab import remove_stale, spaces

DEADLINE_S = 30.0
#: Prints its port, sends back what it gets.
ECHO = """
import socket
server = socket.create_server(("", 0))
print(server.getsockname()[1], flush=True)
conn, _ = server.accept()
while data := conn.recv(65536):
    conn.sendall(data)
"""
#: Sends lines and prints how many came back; "silence" when nothing does.
ASK = """
import socket, sys
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
try:
    conn = socket.create_connection((host, port), timeout=float(sys.argv[4]))
    conn.sendall(b"x" * 100 * count)
    left = 100 * count
    while left:
        left -= len(conn.recv(65536))
    print("all")
except TimeoutError:
    print("silence")
"""
OWNER = """
import sys, time
from tools.netlab import Lab, Shape
with Lab() as lab:
    one, two = lab.space("one"), lab.space("two")
    lab.link(one, two, Shape(latency_ms=1))
    two.popen(["sleep", "1000"])
    print(one.name, two.name, flush=True)
    time.sleep(1000)
"""


@pytest.fixture(scope="module", autouse=True)
def needs_a_lab() -> None:
    """Skip with the reason where there can be no lab."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)


def talk(server: Space, client: Space, addr: str, *, timeout_s: float = DEADLINE_S) -> str:
    """Return whether 100 pieces over TCP from one namespace came back from the other."""
    with server.popen([sys.executable, "-c", ECHO]) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().decode().strip()
            command = [sys.executable, "-c", ASK, addr, port, "100", str(timeout_s)]
            return client.run(*command).strip()
        finally:
            process.kill()


def test_cable_carries_until_it_is_cut_and_again_when_it_is_healed() -> None:
    with Lab() as lab:
        one, two = lab.space("one"), lab.space("two")
        link = lab.link(one, two)
        assert link.a.addr.startswith("10.")
        assert talk(two, one, link.b.addr) == "all"
        link.cut()
        assert talk(two, one, link.b.addr, timeout_s=0.3) == "silence"
        link.heal()
        assert talk(two, one, link.b.addr) == "all"
        with pytest.raises(LabError, match="cable"):
            link.counts()


def test_shaped_link_carries_everything_over_its_loss() -> None:
    with Lab(seed=1) as lab:
        one, two = lab.space("one"), lab.space("two")
        link = lab.link(one, two, Shape(latency_ms=3, jitter_ms=1, loss=0.05, rate_kbps=20_000))
        assert talk(two, one, link.b.addr) == "all"
        there, back = link.counts()
        assert there.carried > 3
        assert back.carried > 3
        link.set_shape(Shape(loss=1.0))
        assert talk(two, one, link.b.addr, timeout_s=0.3) == "silence"
        assert link.counts()[0].lost > there.lost


def test_latency_of_a_shaped_link_is_at_least_what_was_asked_for() -> None:
    with Lab() as lab:
        one, two = lab.space("one"), lab.space("two")
        link = lab.link(one, two, Shape(latency_ms=100), Shape(latency_ms=50))
        started = time.monotonic()
        assert talk(two, one, link.b.addr) == "all"
        assert time.monotonic() - started > 0.3  # twice there and back: SYN, data


def test_what_a_killed_owner_leaves_behind_is_found_and_removed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, cwd=REPO)
    assert owner.stdout is not None
    try:
        names = owner.stdout.readline().decode().split()
        assert len(names) == 2
        assert all(spaces()[name] for name in names)
        remove_stale()
        assert all(name in spaces() for name in names)  # in use: not ours to remove
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        owner.stdout.close()
    assert not any(spaces().get(name, False) for name in names)
    assert main(["show"]) == 0
    said = capsys.readouterr().out
    assert main(["clean"]) == 0  # another lab may have removed them meanwhile
    assert not set(names) & set(spaces())
    assert names[0] in said or names[0] not in os.listdir("/run/netns")


def test_lab_is_gone_after_an_exception() -> None:
    names: list[str] = []

    def build_and_fail() -> None:
        with Lab() as lab:
            both = lab.space("one"), lab.space("two")
            lab.link(*both, Shape())
            names.extend(space.name for space in both)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_and_fail()
    assert len(names) == 2
    assert not set(names) & set(spaces())
