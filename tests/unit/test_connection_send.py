"""Connection: what leaves, in which order, through streams that take what they like."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from netcore import wire
from support.sinks import (
    CONN_A,
    NODE_A,
    Rig,
    close_frame,
    direct,
    frame,
    read_all,
)

KEY = bytes(range(32))
OTHER_KEY = bytes(range(1, 33))
PING = bytes.fromhex("0000000000000001 00c8 00")
PING_FRAME = bytes.fromhex("1000000b 0000000000000001 00c8 00")


@pytest.fixture
def rig(kernels: ModuleType) -> Iterator[Rig]:
    with Rig(kernels) as found:
        found.switch.set_behavior(2, found.sink.on_message, None)
        yield found
        assert found.errors == []


def send(rig: Rig, conn: Any, payload: bytes) -> None:
    rig.switch.send_on(conn, payload, 1, 2)


def test_control_frames_overtake_queued_data_between_frames(rig: Rig) -> None:
    conn, out = rig.channel(room=15)
    send(rig, conn, b"first")  # 17 bytes, of which 15 leave
    send(rig, conn, b"second")
    rig.turn()
    conn.send_control(wire.KIND_PING, PING)
    rig.switch.send_on(conn, b"sync", 255, 255)
    out.room = 10_000
    conn.channel_writable()
    rig.turn()
    assert out.taken.hex() == (
        "0000000d00400102000000006669727374"  # what had begun is finished
        "1000000b000000000000000100c800"
        "0000000c0040ffff0000000073796e63"
        "0000000e00400102000000007365636f6e64"
    )


def test_begun_control_frame_is_finished_before_the_next(rig: Rig) -> None:
    conn, out = rig.channel(room=5)
    conn.send_control(wire.KIND_PING, PING)
    rig.turn()
    conn.send_control(wire.KIND_PONG, PING[:8])
    send(rig, conn, b"x")
    while len(out.taken) < 15 + 12 + 13:
        out.room = 1
        conn.channel_writable()
        rig.turn()
    assert out.taken == PING_FRAME + frame(wire.KIND_PONG, PING[:8]) + direct(b"x")


@pytest.mark.parametrize("size", [3_000, 30_000])
def test_control_frames_overtake_between_frames_of_a_full_socket(
    kernels: ModuleType, size: int
) -> None:
    with Rig(kernels, write_high_bytes=1 << 24) as rig:
        conn, theirs = rig.link()
        messages = [direct(bytes([i]) * size) for i in range(256)]
        for i in range(256):
            send(rig, conn, bytes([i]) * size)
            if i % 16 == 0:
                rig.turn()
        conn.send_control(wire.KIND_PING, PING)
        received = bytearray()
        while len(received) < sum(map(len, messages)) + len(PING_FRAME):
            rig.turn()
            received += read_all(theirs)
        at = received.index(PING_FRAME)
        assert at % len(messages[0]) == 0
        assert 0 < at < len(received) - len(PING_FRAME)
        assert received[:at] + received[at + len(PING_FRAME) :] == b"".join(messages)


@pytest.mark.parametrize("room", [1, 7, 1_000])
def test_queue_survives_any_partial_write(rig: Rig, room: int) -> None:
    conn, out = rig.channel(room=0)
    sizes = [0, 5, 900, 2_000, 30, 0, 1]
    for size in sizes:
        send(rig, conn, bytes(size))
    expected = b"".join(direct(bytes(size)) for size in sizes)
    assert conn.queued_bytes == len(expected)
    while len(out.taken) < len(expected):
        out.room = room
        conn.channel_writable()
        rig.turn()
        assert conn.queued_bytes == len(expected) - len(out.taken)
    assert out.taken == expected


def test_tiny_socket_buffer_gets_everything_in_order(rig: Rig) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    conn = rig.switch.add_connection(CONN_A, NODE_A, sock=ours)
    conn.start()
    rnd = random.Random(3)
    payloads = [rnd.randbytes(rnd.choice((0, 10, 1_000, 16_384, 40_000))) for _ in range(30)]
    for payload in payloads:
        send(rig, conn, payload)
    expected = b"".join(map(direct, payloads))
    received = bytearray()
    while len(received) < len(expected):
        rig.turn()
        received += read_all(theirs)
    theirs.close()
    assert received == expected
    assert conn.queued_bytes == 0
    assert conn.bytes_sent == len(expected)


def test_sends_of_a_turn_leave_together(rig: Rig) -> None:
    conn, channel = rig.channel()
    writes: list[int] = []
    original = channel.write

    def write(data: bytes) -> int:
        writes.append(len(data))
        return original(data)

    channel.write = write  # type: ignore[method-assign]
    for _ in range(10):
        send(rig, conn, b"x")
    rig.turn()
    assert writes == [130]


def test_link_that_refused_a_send_tells_when_it_has_drained(kernels: ModuleType) -> None:
    with Rig(kernels, write_high_bytes=4_096, write_low_bytes=1_000) as rig:
        conn, out = rig.channel(room=0)
        send(rig, conn, bytes(4_084))
        out.room = 3_095  # 1001 bytes stay
        conn.channel_writable()
        rig.turn()
        send(rig, conn, bytes(3_083))
        with pytest.raises(Exception, match="4096 bytes wait"):
            send(rig, conn, b"")
        rig.turn()
        assert rig.sink.of("writable") == []
        out.room = 3_096
        conn.channel_writable()
        rig.turn(2)
        assert rig.sink.of("writable") == [(CONN_A,)]
        assert conn.queued_bytes == 1_000


def test_link_that_refused_nothing_tells_nothing(rig: Rig) -> None:
    conn, _ = rig.channel()
    send(rig, conn, bytes(500_000))
    rig.turn()
    assert rig.sink.events == []


def test_unsent_bytes_of_the_handshake_leave_first(rig: Rig) -> None:
    conn, out = rig.channel(room=3, unsent=b"READY", start=False)
    send(rig, conn, b"x")
    assert conn.queued_bytes == 5 + 13
    conn.start()
    rig.turn()
    assert out.taken == b"REA"
    conn.send_control(wire.KIND_PING, PING)
    out.room = 100
    conn.channel_writable()
    rig.turn()
    assert out.taken == b"READY" + PING_FRAME + direct(b"x")


def test_unsent_bytes_leave_first_on_a_socket(rig: Rig) -> None:
    conn, theirs = rig.link(unsent=b"READY", start=False)
    send(rig, conn, b"x")
    conn.start()
    rig.turn()
    assert read_all(theirs) == b"READY" + direct(b"x")


def test_nothing_leaves_before_the_start(rig: Rig) -> None:
    conn, out = rig.channel(start=False)
    send(rig, conn, b"x")
    rig.turn()
    assert out.taken == b""
    conn.start()
    rig.turn()
    assert out.taken == direct(b"x")


def test_full_control_queue_ends_the_link(kernels: ModuleType) -> None:
    with Rig(kernels, control_queue_bytes=4_096) as rig:
        conn, _ = rig.channel(room=0)
        for _ in range(4_096 // 15 + 1):
            conn.send_control(wire.KIND_PING, PING)
        assert (conn.state, conn.control_queued_bytes) == (0, 4_110)
        conn.send_control(wire.KIND_PING, PING)
        conn.send_control(wire.KIND_PING, PING)
        assert rig.sink.of("closing") == [(CONN_A,)]
        rig.turn()
        assert rig.sink.of("closed") == [
            (CONN_A, wire.CLOSE_CONTROL_OVERFLOW, "control queue full")
        ]
        assert rig.counts()["control_overflows"] == 1


def test_blocking_channel_is_asked_again_when_it_says_so(rig: Rig) -> None:
    conn, out = rig.channel()
    out.error = BlockingIOError()
    send(rig, conn, b"x")
    rig.turn(2)
    assert out.taken == b""
    out.error = None
    conn.channel_writable()
    rig.turn()
    assert out.taken == direct(b"x")


# -- records --------------------------------------------------------------------------------------


def test_records_go_between_the_stream_and_the_frames(rig: Rig) -> None:
    conn, out = rig.channel(records=rig.kernels.Records(KEY, OTHER_KEY))
    neighbour = rig.kernels.Records(OTHER_KEY, KEY)
    send(rig, conn, b"to you")
    rig.turn()
    assert direct(b"to you") in out.taken
    assert neighbour.open(bytes(out.taken)) == direct(b"to you")
    sealed = neighbour.seal(direct(b"to me") + direct(b"and me"))
    for at in range(len(sealed)):
        conn.receive_data(sealed[at : at + 1])
    assert rig.sink.payloads() == [b"to me", b"and me"]
    assert conn.bytes_received == len(sealed)


def test_records_work_over_a_socket_with_large_messages(rig: Rig) -> None:
    conn, theirs = rig.link(records=rig.kernels.Records(KEY, OTHER_KEY))
    neighbour = rig.kernels.Records(OTHER_KEY, KEY)
    payload = random.Random(4).randbytes(200_000)
    stream = neighbour.seal(direct(payload) + direct(b"next"))
    while stream:
        stream = stream[theirs.send(stream[:60_000]) :]
        rig.turn()
    assert rig.sink.payloads() == [payload, b"next"]
    send(rig, conn, payload)
    received = bytearray()
    while len(received) < 200_012:
        rig.turn()
        received += neighbour.open(read_all(theirs))
    assert received == direct(payload)


def test_wrong_tag_ends_the_link_before_anything_is_handled(rig: Rig) -> None:
    conn, _ = rig.channel(records=rig.kernels.Records(KEY, OTHER_KEY))
    sealed = bytearray(rig.kernels.Records(OTHER_KEY, KEY).seal(direct(b"x")))
    sealed[-1] ^= 1
    conn.receive_data(bytes(sealed))
    rig.turn()
    assert rig.sink.payloads() == []
    assert rig.sink.of("closed") == [(CONN_A, wire.CLOSE_PROTOCOL_ERROR, "bad_tag at byte 16")]


@pytest.mark.parametrize("over", ["socket", "channel"])
def test_records_in_front_of_a_wrong_one_are_handled_first(rig: Rig, over: str) -> None:
    neighbour = rig.kernels.Records(OTHER_KEY, KEY)
    frames = direct(b"one") + direct(b"two") + direct(b"unfinished")[:9]
    stream = neighbour.seal(frames) + neighbour.seal(direct(b"bent"))[:-1] + b"?"
    records = rig.kernels.Records(KEY, OTHER_KEY)
    if over == "socket":
        _, theirs = rig.link(records=records)
        theirs.send(stream)
    else:
        conn, _ = rig.channel(records=records)
        conn.receive_data(stream)
    rig.turn(2)
    assert rig.sink.payloads() == [b"one", b"two"]
    assert rig.sink.of("closed") == [(CONN_A, wire.CLOSE_PROTOCOL_ERROR, "bad_tag at byte 19")]
    assert rig.counts()["protocol_errors"] == 1


def test_control_frames_overtake_what_is_not_sealed_yet(rig: Rig) -> None:
    conn, out = rig.channel(room=0, records=rig.kernels.Records(KEY, OTHER_KEY))
    for _ in range(4):
        send(rig, conn, bytes(100_000))
    rig.turn()
    conn.send_control(wire.KIND_PING, bytes(wire.PING_BYTES))
    out.room = 1 << 30
    conn.channel_writable()
    rig.turn()
    stream = rig.kernels.Records(OTHER_KEY, KEY).open(bytes(out.taken))
    message = direct(bytes(100_000))
    # The second one had begun: 128 KiB are sealed at once.
    assert stream == message * 2 + frame(wire.KIND_PING, bytes(wire.PING_BYTES)) + message * 2


@pytest.mark.parametrize("room", [0, 10, 32_787, 32_788, 131_148, 131_149, 262_296, 400_000])
def test_messages_cut_by_records_are_counted_once_when_the_link_fails(
    kernels: ModuleType, room: int
) -> None:
    with Rig(kernels) as rig:
        conn, out = rig.channel(room=room, records=kernels.Records(KEY, OTHER_KEY))
        for _ in range(5):
            send(rig, conn, bytes(100_000))
        rig.turn()
        conn.fail(wire.CLOSE_LOST, "")
        rig.turn()
        whole = len(kernels.Records(OTHER_KEY, KEY).open(bytes(out.taken))) // 100_012
        assert rig.counts().get("dropped_link_closed", 0) == 5 - whole


def test_reason_of_a_failure_is_sealed_too(rig: Rig) -> None:
    conn, out = rig.channel(records=rig.kernels.Records(KEY, OTHER_KEY))
    conn.fail(wire.CLOSE_REPLACED, "newer")
    rig.turn()
    assert rig.kernels.Records(OTHER_KEY, KEY).open(bytes(out.taken)) == close_frame(2, "newer")
