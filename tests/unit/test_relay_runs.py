"""Runs of relayed frames over sockets: written past the queue or queued, they arrive whole."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from netcore import wire
from support.sinks import CONN_B, NODE_B, Rig, read_all, to_node


@pytest.fixture
def rig(kernels: ModuleType) -> Iterator[Rig]:
    with Rig(kernels, write_high_bytes=1 << 24) as rig:
        yield rig


def relayed(payload: bytes) -> bytes:
    """Return what becomes of ``to_node(NODE_B, payload)`` on its way."""
    return to_node(NODE_B, payload, ttl=63)


def frames_of(stream: bytes) -> list[bytes]:
    """Cut a stream into frames."""
    frames = []
    while stream:
        end = wire.FRAME_HEADER_BYTES + int.from_bytes(stream[1:4], "big")
        assert end <= len(stream)
        frames.append(stream[:end])
        stream = stream[end:]
    return frames


def narrow(rig: Rig) -> tuple[Any, socket.socket]:
    """Return a link to NODE_B whose socket takes little at a time."""
    return rig.link(CONN_B, NODE_B, sndbuf=4_096)


def receive(rig: Rig, theirs: socket.socket, n: int) -> bytes:
    """Turn until n bytes have come."""
    parts = []
    for _ in range(10_000):
        data = read_all(theirs)
        parts.append(data)
        n -= len(data)
        if n <= 0:
            return b"".join(parts)
        rig.turn()
    raise AssertionError(f"{n} bytes are missing")


@pytest.mark.parametrize("size", [0, 64, 1_024, 16_384, 40_000])
def test_relayed_run_larger_than_the_socket_arrives_whole(rig: Rig, size: int) -> None:
    source, _ = rig.channel()
    _, theirs = narrow(rig)
    payloads = [bytes([i % 251]) * size for i in range(1 + 250_000 // (size + 20))]
    source.receive_data(b"".join(to_node(NODE_B, payload) for payload in payloads))
    expected = b"".join(map(relayed, payloads))
    assert receive(rig, theirs, len(expected)) == expected
    assert rig.counts() == {"messages_relayed": len(payloads)}


def test_relayed_runs_of_any_sizes_keep_their_order_around_control_frames(rig: Rig) -> None:
    rng = random.Random(5)
    source, _ = rig.channel()
    conn, theirs = narrow(rig)
    expected: list[bytes] = []
    pings: list[bytes] = []
    got = b""
    for number in range(60):
        run = [rng.randbytes(rng.choice((0, 9, 300, 5_000, 70_000))) for _ in range(12)]
        source.receive_data(b"".join(to_node(NODE_B, payload) for payload in run))
        expected += map(relayed, run)
        if number % 3 == 0:
            pings.append(b"ping %d" % number)
            conn.send_control(wire.KIND_PING, pings[-1])
        if rng.random() < 0.5:
            rig.turn()
            got += read_all(theirs)
    total = sum(map(len, expected)) + sum(len(ping) + 4 for ping in pings)
    frames = frames_of(got + receive(rig, theirs, total - len(got)))
    assert [frame for frame in frames if frame[0] == 0] == expected
    assert [frame[4:] for frame in frames if frame[0] == wire.KIND_PING] == pings


def test_failed_link_counts_the_relayed_frames_that_did_not_leave_whole(rig: Rig) -> None:
    source, _ = rig.channel()
    conn, theirs = narrow(rig)
    payloads = [bytes(1_000)] * 200
    source.receive_data(b"".join(to_node(NODE_B, payload) for payload in payloads))
    rig.turn()
    left = conn.bytes_sent
    assert 0 < left < len(payloads) * 1_020
    conn.fail(wire.CLOSE_LOST, "test")
    rig.turn()
    whole = left // 1_020
    assert rig.counts()["dropped_link_closed"] == len(payloads) - whole
    assert len(read_all(theirs)) == left
