"""Strangers in numbers: slow ones, many at once, wrong secrets; the scenarios at a small scale."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from netcore._backend import BackendName
from netcore.transport import half_open
from support.nodes import ANY, OTHER_SECRET, SECRET, Nodes, linked, nodes_of, stranger
from tools.chaos.__main__ import main as chaos


@pytest.fixture
def nodes(backend: BackendName) -> Iterator[Nodes]:
    with nodes_of(backend) as nodes:
        yield nodes


def test_slow_strangers_are_closed_in_time_and_honest_nodes_get_in(backend: BackendName) -> None:
    few = ["--silent", "100", "--drip", "100", "--gone-s", "7", "--p99-ms", "1000"]
    assert chaos(["loris", "--backend", backend, *few]) == 0


def test_burst_of_connects_becomes_links(backend: BackendName) -> None:
    few = ["--connects", "300", "--within-s", "20"]
    assert chaos(["burst", "--backend", backend, *few]) == 0


def test_frames_that_cost_more_than_they_say(backend: BackendName) -> None:
    few = ["--frames", "20000", "--largest-kib", "256"]
    assert chaos(["frames", "--backend", backend, *few]) == 0


def test_silent_strangers_never_lock_an_honest_node_out(nodes: Nodes) -> None:
    limit = 20
    one = nodes.add(1, max_half_open=limit, handshake_timeout_ms=600_000)
    one.listen(ANY)
    crowd = []
    try:
        for _ in range(limit):
            crowd.append(stranger(one))
            one.poll(0)
        nodes.until(lambda: one.stats().half_open == limit)
        two = nodes.add(2)
        conn_id = 0

        def dial() -> bool:  # again, if the silent ones have only just come
            nonlocal conn_id
            if not conn_id or nodes.sinks[two].errors:
                nodes.sinks[two].errors.clear()
                conn_id = two.connect(one.addrs[0])
            return linked(one, two)

        nodes.until(dial)
        assert one.stats().half_open_evicted == 1
        assert one.stats().half_open == limit - 1
    finally:
        for sock in crowd:
            sock.close()


def test_wrong_secrets_from_one_source_use_up_its_budget(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(half_open, "has_budget", lambda source: True)  # though it is loopback
    one = nodes.add(1, secret=SECRET, accept_budget_per_s=1)
    two, three = nodes.add(2, secret=OTHER_SECRET), nodes.add(3, secret=SECRET)
    address = one.listen(ANY)
    for _ in range(3):  # a member has its tokens back
        three.connect(address)
        nodes.until(lambda: linked(one, three))
        three.agent(12).close_node(1)
        nodes.until(lambda: not one.connections and not three.connections)
    errors = nodes.sinks[two].errors
    for count in range(1, 9):
        two.connect(address)
        nodes.until(lambda count=count: len(errors) == count)  # type: ignore[misc]
    stats = one.stats()
    assert stats.accepts_over_budget + stats.handshakes_failed == 8
    assert 4 <= stats.handshakes_failed < 8


def test_budget_leaves_loopback_alone(nodes: Nodes) -> None:
    one = nodes.add(1, accept_budget_per_s=1)
    one.listen(ANY)
    for _ in range(50):
        with stranger(one) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n")
            sock.shutdown(socket.SHUT_WR)
            one.poll(0)
    nodes.until(lambda: one.stats().handshakes_failed == 50)
    assert one.stats().accepts_over_budget == 0
