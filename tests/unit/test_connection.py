"""Connection: one link's stream, its queues, its unfinished input, and how it ends."""

from __future__ import annotations

import gc
import os
import random
import socket
import tracemalloc
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from netcore import wire
from netcore.errors import FrameError
from netcore.records import Records
from support.sinks import (
    CONN_A,
    CONN_B,
    NODE_A,
    NODE_B,
    Channel,
    Rig,
    close_frame,
    direct,
    frame,
    read_all,
    to_node,
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


# -- receiving ------------------------------------------------------------------------------------


def test_frames_fed_byte_by_byte_are_all_handled(rig: Rig) -> None:
    conn, _ = rig.channel()
    _, out = rig.channel(CONN_B, NODE_B)
    stream = direct(b"1") + to_node(NODE_B, b"2") + frame(0x80, b"?") + PING_FRAME + direct(b"3")
    for at in range(len(stream)):
        conn.receive_data(stream[at : at + 1])
    rig.turn()
    assert rig.sink.payloads() == [b"1", b"3"]
    assert out.taken == to_node(NODE_B, b"2", ttl=63)
    assert rig.sink.of("control") == [(CONN_A, wire.KIND_PING, PING)]
    assert conn.frames_received == 5


def test_large_frame_fed_byte_by_byte_is_whole(rig: Rig) -> None:
    conn, _ = rig.channel()
    payload = random.Random(1).randbytes(70_000)
    stream = direct(payload) + direct(b"next")
    for at in range(len(stream)):
        conn.receive_data(stream[at : at + 1])
    assert rig.sink.payloads() == [payload, b"next"]


SIZES = [
    0, 1, 4_083, 4_084, 16_371, 16_372, 16_384, 32_755, 32_756, 32_757, 32_760, 32_768, 32_769,
    65_524, 65_536, 131_072, 262_132, 262_144, 300_000, (1 << 20) - 8,
]  # fmt: skip


@pytest.mark.parametrize("piece", [1_000, 4_096, 33_000, 1 << 21])
def test_payloads_of_all_sizes_arrive_through_a_socket(rig: Rig, piece: int) -> None:
    _, theirs = rig.link()
    sent = [bytes([i]) * size for i, size in enumerate(SIZES)]
    stream = b"".join(map(direct, sent))
    while stream:
        stream = stream[theirs.send(stream[:piece]) :]
        rig.turn()
    assert [len(payload) for payload in rig.sink.payloads()] == SIZES
    assert rig.sink.payloads() == sent


@pytest.mark.parametrize("piece", [1_000, 20_000, 33_000, 1 << 21])
def test_payloads_of_all_sizes_arrive_through_a_channel(rig: Rig, piece: int) -> None:
    conn, _ = rig.channel()
    sent = [bytes([i]) * size for i, size in enumerate(SIZES)]
    stream = b"".join(map(direct, sent))
    for at in range(0, len(stream), piece):
        conn.receive_data(stream[at : at + piece])
    assert rig.sink.payloads() == sent


@pytest.mark.parametrize("size", range(32_748, 32_773))
@pytest.mark.parametrize("missing", [1, 3, 4, 32_740])
def test_unfinished_frame_around_the_threshold_for_large_ones_is_finished(
    rig: Rig, size: int, missing: int
) -> None:
    _, theirs = rig.link()
    stream = direct(b"before") + direct(bytes(size))
    theirs.send(stream[:-missing])
    rig.turn(2)
    theirs.send(stream[-missing:])
    rig.turn(2)
    assert [len(payload) for payload in rig.sink.payloads()] == [6, size]


def test_data_given_by_a_channel_is_not_changed(rig: Rig) -> None:
    conn, _ = rig.channel()
    rig.channel(CONN_B, NODE_B)
    data = to_node(NODE_B, b"x")
    conn.receive_data(data)
    assert data == to_node(NODE_B, b"x", ttl=64)


def test_smallest_read_budget_still_takes_the_largest_frame(kernels: ModuleType) -> None:
    with Rig(kernels, read_budget_bytes=4_096) as rig:
        rig.switch.set_behavior(2, rig.sink.on_message, None)
        _, theirs = rig.link()
        payload = random.Random(2).randbytes((1 << 20) - 8)
        stream = direct(payload)
        while stream:
            stream = stream[theirs.send(stream[:50_000]) :]
            rig.turn(13)
        assert rig.sink.payloads() == [payload]


def test_one_turn_brings_no_more_than_the_read_budget(kernels: ModuleType) -> None:
    with Rig(kernels, read_budget_bytes=4_096) as rig:
        conn, theirs = rig.link()
        theirs.send(frame(0x80, bytes(60_000)))
        for turns in range(1, 12):
            rig.turn()
            assert conn.bytes_received == turns * 4_096


def test_memory_is_not_set_aside_for_what_a_frame_claims(kernels: ModuleType) -> None:
    with Rig(kernels, max_frame_bytes=wire.MAX_FRAME_BYTES) as rig:
        links = [rig.channel(i << 16, 0x0A000000 + i)[0] for i in range(1, 51)]
        start = direct(bytes(100))[8:] + bytes(50)
        links[0].receive_data(b"")  # the receive buffer is there
        tracemalloc.start()
        for conn in links:
            conn.receive_data((wire.MAX_FRAME_BYTES).to_bytes(4, "big") + start)
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert used < 50 * 32_768


def test_times_of_life_are_those_of_the_loop(rig: Rig) -> None:
    conn, _ = rig.channel()
    assert (conn.last_received_ms, conn.last_sent_ms) == (1_000, 1_000)
    rig.clock.now_ms = 1_300
    rig.turn()
    conn.receive_data(b"\x00")  # an incomplete frame is life, too
    assert (conn.last_received_ms, conn.last_sent_ms) == (1_300, 1_000)
    rig.clock.now_ms = 1_400
    send(rig, conn, b"")
    rig.turn()
    assert (conn.last_received_ms, conn.last_sent_ms) == (1_300, 1_400)


def test_rest_of_the_handshake_is_handled_in_the_next_turn(rig: Rig) -> None:
    rig.channel(rest=direct(b"1") + direct(b"2")[:5], start=False)[0].start()
    assert rig.sink.events == []
    rig.turn()
    assert rig.sink.payloads() == [b"1"]
    conn = rig.switch.find_connection(CONN_A)
    conn.receive_data(direct(b"2")[5:])
    assert rig.sink.payloads() == [b"1", b"2"]


def test_rest_is_handled_before_what_comes_later(rig: Rig) -> None:
    conn, theirs = rig.link(rest=direct(b"1") + direct(b"2")[:5], start=False)
    theirs.send(direct(b"2")[5:])
    conn.start()
    rig.turn()
    assert rig.sink.payloads() == [b"1", b"2"]


def test_end_of_the_stream_right_behind_the_rest_loses_nothing(rig: Rig) -> None:
    conn, theirs = rig.link(rest=direct(b"1") + close_frame(1, "bye"), start=False)
    theirs.close()
    conn.start()
    rig.turn(2)
    assert rig.sink.payloads() == [b"1"]
    assert rig.sink.of("closed") == [(CONN_A, 1, "bye")]


def test_receive_inside_a_hook_waits_until_the_hook_is_done(rig: Rig) -> None:
    conn, _ = rig.channel()
    other, _ = rig.channel(CONN_B, NODE_B)
    running: list[bytes] = []

    def hook(_agent: object, message: Any) -> None:
        assert not running
        running.append(message.payload)
        rig.sink.on_message(None, message)
        if message.payload == b"1":
            other.receive_data(direct(b"other"))
            conn.receive_data(direct(b"3"))
        running.clear()

    rig.switch.set_behavior(2, hook, None)
    conn.receive_data(direct(b"1") + direct(b"2"))
    rig.turn()
    assert sorted(rig.sink.payloads()) == [b"1", b"2", b"3", b"other"]
    assert rig.sink.payloads().index(b"2") < rig.sink.payloads().index(b"3")
    assert rig.counts() == {"messages_delivered": 4}


# -- interruptions --------------------------------------------------------------------------------


def interrupting(rig: Rig, *at: bytes) -> Callable[[object, Any], None]:
    """Return a hook that is interrupted at these payloads, after writing them down."""

    def hook(_agent: object, message: Any) -> None:
        rig.sink.on_message(None, message)
        if message.payload in at:
            raise KeyboardInterrupt

    return hook


def test_frames_behind_an_interrupted_hook_come_next_turn(rig: Rig) -> None:
    _, theirs = rig.link()
    rig.switch.set_behavior(2, interrupting(rig, b"1", b"2"), None)
    theirs.send(b"".join(direct(b"%d" % i) for i in range(5)) + direct(b"5")[:6])
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            rig.turn()
    rig.turn()
    assert rig.sink.payloads() == [b"0", b"1", b"2", b"3", b"4"]
    theirs.send(direct(b"5")[6:])
    rig.turn()
    assert rig.sink.payloads()[5:] == [b"5"]
    assert rig.counts() == {"messages_delivered": 6}


def test_interruption_of_a_large_message_keeps_what_is_behind_it(rig: Rig) -> None:
    conn, _ = rig.channel()
    large = b"x" * 100_000
    rig.switch.set_behavior(2, interrupting(rig, large), None)
    stream = direct(large) + direct(b"next")
    conn.receive_data(stream[:50_000])
    with pytest.raises(KeyboardInterrupt):
        conn.receive_data(stream[50_000:])
    rig.turn()
    assert rig.sink.payloads() == [large, b"next"]


def test_relayed_frames_around_an_interruption_are_relayed_once(rig: Rig) -> None:
    conn, _ = rig.channel()
    _, out = rig.channel(CONN_B, NODE_B)
    rig.switch.set_behavior(2, interrupting(rig, b"!"), None)
    with pytest.raises(KeyboardInterrupt):
        conn.receive_data(to_node(NODE_B, b"1") + direct(b"!") + to_node(NODE_B, b"2"))
    rig.turn(2)
    assert out.taken == to_node(NODE_B, b"1", ttl=63) + to_node(NODE_B, b"2", ttl=63)


def test_more_input_than_one_buffer_waits_behind_an_interruption(rig: Rig) -> None:
    _, theirs = rig.link()
    rig.switch.set_behavior(2, interrupting(rig, b"stop"), None)
    stream = direct(b"stop") + b"".join(direct(bytes(900)) for _ in range(200))
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    assert theirs.send(stream) == len(stream)
    with pytest.raises(KeyboardInterrupt):
        rig.turn()
    theirs.send(direct(b"last"))
    rig.turn(3)
    assert len(rig.sink.payloads()) == 202
    assert rig.sink.payloads()[-1] == b"last"


def test_end_of_the_stream_behind_an_interruption_loses_nothing(rig: Rig) -> None:
    _, theirs = rig.link()
    rig.switch.set_behavior(2, interrupting(rig, b"1", b"2"), None)
    theirs.send(direct(b"1") + direct(b"2") + direct(b"3") + close_frame())
    theirs.shutdown(socket.SHUT_WR)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            rig.turn()
    rig.turn(2)
    assert rig.sink.payloads() == [b"1", b"2", b"3"]
    assert rig.sink.of("closed") == [(CONN_A, wire.CLOSE_NORMAL, "")]


def test_exception_of_on_control_reaches_the_loop_and_the_next_frame_its_hook(
    kernels: ModuleType,
) -> None:
    with Rig(kernels) as rig:
        rig.switch.set_behavior(2, rig.sink.on_message, None)
        conn, theirs = rig.link()
        rig.sink.on_control_raises = ValueError("in on_control")
        theirs.send(PING_FRAME + direct(b"next"))
        rig.turn(2)
        assert [(where, str(error)) for where, error in rig.errors] == [
            ("on_ready", "in on_control")
        ]
        assert rig.sink.payloads() == [b"next"]
        assert conn.state == 0


# -- protocol errors ------------------------------------------------------------------------------

BROKEN = [
    ("too_big at byte 1", bytes.fromhex("00100001")),
    ("truncated at byte 3", bytes.fromhex("00000003 004001")),
    ("truncated at byte 8", bytes.fromhex("00000008 28400102 00000000")),
    ("bad_version at byte 0", bytes.fromhex("00000008 40400102 00000000")),
    ("bad_version at byte 0", bytes.fromhex("00010000 80") + bytes(65_535)),
    ("sealed at byte 0", bytes.fromhex("01000008 04400102 00000000")),
    ("sealed at byte 0", bytes.fromhex("00010000 04") + bytes(65_535)),
    ("bad_kind at byte 0", bytes.fromhex("03000000")),
    ("bad_kind at byte 0", bytes.fromhex("08000002 0000")),
    ("bad_kind at byte 0", bytes.fromhex("7f010000") + bytes(65_536)),
    ("truncated at byte 1", bytes.fromhex("12000001 00")),
    ("bad_body at byte 2", bytes.fromhex("120000cb") + bytes(203)),
]


@pytest.mark.parametrize(("text", "stream"), BROKEN, ids=range(len(BROKEN)))
@pytest.mark.parametrize("piece", [1 << 20, 20_000, 21])
def test_broken_frame_ends_the_link_and_the_neighbour_is_told(
    rig: Rig, text: str, stream: bytes, piece: int
) -> None:
    conn, out = rig.channel()
    data = direct(b"before") + stream
    for at in range(0, len(data), piece):
        conn.receive_data(data[at : at + piece])
    conn.receive_data(direct(b"after"))
    rig.turn()
    assert rig.sink.payloads() == [b"before"]
    assert rig.sink.of("closing") == [(CONN_A,)]
    assert rig.sink.of("closed") == [(CONN_A, wire.CLOSE_PROTOCOL_ERROR, text)]
    assert out.taken == close_frame(wire.CLOSE_PROTOCOL_ERROR, text)
    assert out.calls == ["close"]
    assert rig.counts()["protocol_errors"] == 1


def test_frame_error_of_the_sink_is_a_protocol_error(rig: Rig) -> None:
    conn, _ = rig.channel()
    rig.sink.on_control_raises = FrameError(wire.FRAME_BAD_BODY, 3)
    conn.receive_data(PING_FRAME + direct(b"after"))
    rig.turn()
    assert rig.sink.payloads() == []
    assert rig.sink.of("closed") == [(CONN_A, wire.CLOSE_PROTOCOL_ERROR, "bad_body at byte 3")]


def test_frame_as_large_as_allowed_is_taken_and_one_byte_more_refused(rig: Rig) -> None:
    conn, _ = rig.channel(max_frame_bytes=100)
    conn.receive_data(direct(bytes(92)))
    conn.receive_data(direct(bytes(93))[:4])
    rig.turn()
    assert len(rig.sink.payloads()) == 1
    assert rig.sink.of("closed") == [(CONN_A, wire.CLOSE_PROTOCOL_ERROR, "too_big at byte 1")]


# -- sending --------------------------------------------------------------------------------------


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


# -- polite ends ----------------------------------------------------------------------------------


def test_close_sends_what_is_queued_then_close_then_the_end(rig: Rig) -> None:
    conn, theirs = rig.link()
    send(rig, conn, b"last words")
    conn.close(1, "shutting down")
    assert conn.state == 1
    assert rig.sink.of("closing") == [(CONN_A,)]
    rig.turn()
    assert theirs.recv(100) == direct(b"last words") + close_frame(1, "shutting down")
    assert theirs.recv(100) == b""
    theirs.send(direct(b"mine") + close_frame())
    theirs.shutdown(socket.SHUT_WR)
    rig.turn(2)
    assert rig.sink.payloads() == [b"mine"]
    assert rig.sink.of("closed") == [(CONN_A, 1, "shutting down")]
    assert conn.state == 2


def test_close_of_the_neighbour_is_answered_and_told(rig: Rig) -> None:
    conn, theirs = rig.link()
    send(rig, conn, b"queued")
    theirs.send(direct(b"last") + close_frame(2, "replaced é"))
    theirs.shutdown(socket.SHUT_WR)
    rig.turn(2)
    assert rig.sink.payloads() == [b"last"]
    assert rig.sink.of("closed") == [(CONN_A, 2, "replaced é")]
    assert read_all(theirs) == direct(b"queued") + close_frame()
    assert rig.counts() == {
        "messages_sent": 1, "messages_delivered": 1, "control_sent": 1, "control_received": 1,
    }  # fmt: skip


@pytest.mark.parametrize("sealed", [False, True])
def test_close_from_both_ends_with_full_queues_loses_nothing(
    kernels: ModuleType, sealed: bool
) -> None:
    with Rig(kernels) as left, Rig(kernels) as right:
        ours, theirs = socket.socketpair()
        conns = []
        for rig, sock in ((left, ours), (right, theirs)):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
            rig.switch.set_behavior(2, rig.sink.on_message, None)
            records = Records(KEY, KEY) if sealed else None
            conn = rig.switch.add_connection(CONN_A, NODE_A, sock=sock, records=records)
            conn.start()
            conns.append(conn)
            for i in range(100):
                send(rig, conn, i.to_bytes(2, "big") * (i * 50))
            conn.close(0, "")
        for _ in range(400):
            left.turn()
            right.turn()
        for rig in (left, right):
            assert [len(payload) for payload in rig.sink.payloads()] == [
                i * 100 for i in range(100)
            ]
            assert rig.sink.of("closed") == [(CONN_A, wire.CLOSE_NORMAL, "")]
            assert "dropped_link_closed" not in rig.counts()


def test_closing_link_still_relays_what_arrives(rig: Rig) -> None:
    conn, _ = rig.channel()
    _, out = rig.channel(CONN_B, NODE_B)
    conn.close()
    rig.turn()
    conn.receive_data(to_node(NODE_B, b"x"))
    rig.turn()
    assert out.taken == to_node(NODE_B, b"x", ttl=63)


def test_neighbour_that_does_not_finish_in_time_is_left(rig: Rig) -> None:
    conn, theirs = rig.link()
    conn.close()
    rig.turn()
    rig.clock.now_ms += 999
    rig.turn()
    assert rig.sink.of("closed") == []
    rig.clock.now_ms += 1
    rig.turn()
    assert rig.sink.of("closed") == [
        (CONN_A, wire.CLOSE_LOST, "the neighbour did not finish in time")
    ]
    assert theirs.recv(100) == close_frame()
    assert rig.loop.timers == 0


def test_close_twice_is_one_close(rig: Rig) -> None:
    conn, out = rig.channel()
    conn.close(1, "first")
    conn.close(2, "second")
    conn.receive_data(close_frame(5, "theirs") * 2)
    rig.turn()
    conn.receive_eof()
    rig.turn()
    assert out.taken == close_frame(1, "first")
    assert out.calls == ["shutdown", "close"]
    assert rig.sink.of("closing") == [(CONN_A,)]
    assert rig.sink.of("closed") == [(CONN_A, 1, "first")]


def test_close_text_is_cut_at_a_character(rig: Rig) -> None:
    conn, out = rig.channel()
    conn.close(1, "x" + "é" * 150)  # 301 bytes; 200 would cut one in two
    rig.turn()
    assert out.taken == close_frame(1, "x" + "é" * 99)


def test_text_of_a_close_that_is_not_utf8_is_told_anyway(rig: Rig) -> None:
    conn, _ = rig.channel()
    conn.receive_data(bytes.fromhex("12000003 0001 ff"))
    rig.turn()
    conn.receive_eof()
    rig.turn()
    assert rig.sink.of("closed") == [(CONN_A, 1, "\ufffd")]


def test_control_frames_still_leave_while_closing(rig: Rig) -> None:
    conn, out = rig.channel(room=0)
    conn.close()
    conn.send_control(wire.KIND_PONG, PING[:8])
    out.room = 1_000
    conn.channel_writable()
    rig.turn()
    assert out.taken == frame(wire.KIND_PONG, PING[:8]) + close_frame()
    conn.send_control(wire.KIND_PONG, PING[:8])  # our stream has ended: nothing happens
    rig.turn()
    assert conn.control_queued_bytes == 0


# -- impolite ends --------------------------------------------------------------------------------


def test_end_without_close_is_a_lost_link(rig: Rig) -> None:
    _, theirs = rig.link()
    theirs.send(direct(b"before"))
    theirs.close()
    rig.turn(2)
    assert rig.sink.payloads() == [b"before"]
    assert rig.sink.of("closed") == [(CONN_A, wire.CLOSE_LOST, "the stream ended")]


def test_write_to_a_closed_socket_is_a_lost_link(rig: Rig) -> None:
    conn, theirs = rig.link()
    theirs.close()
    send(rig, conn, b"x")
    rig.turn()
    assert rig.sink.of("closed") == [(CONN_A, wire.CLOSE_LOST, "write failed: Broken pipe")]
    assert rig.counts() == {"messages_sent": 1, "dropped_link_closed": 1}


def test_reset_is_a_lost_link(rig: Rig) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    ours = socket.create_connection(listener.getsockname())
    theirs, _ = listener.accept()
    ours.setblocking(False)
    rig.switch.add_connection(CONN_A, NODE_A, sock=ours).start()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    theirs.close()  # with a reset, because nothing lingers
    listener.close()
    while not rig.sink.of("closed"):
        rig.loop.run_once(None)
    assert rig.sink.of("closed") == [
        (CONN_A, wire.CLOSE_LOST, "read failed: Connection reset by peer")
    ]


def test_channel_that_breaks_is_a_lost_link(rig: Rig) -> None:
    conn, out = rig.channel()
    out.error = OSError("gone")
    send(rig, conn, b"x")
    rig.turn()
    assert rig.sink.of("closed") == [(CONN_A, wire.CLOSE_LOST, "write failed: gone")]
    assert out.calls == ["close"]


def test_fail_drops_what_is_queued_and_says_why(rig: Rig) -> None:
    conn, out = rig.channel(room=0)
    send(rig, conn, b"1")
    rig.turn()
    out.room = 100
    conn.fail(wire.CLOSE_DEAD, "silence")
    conn.fail(wire.CLOSE_REPLACED, "too late")
    assert rig.sink.of("closing") == [(CONN_A,)]
    rig.turn()
    assert out.taken == close_frame(wire.CLOSE_DEAD, "silence")
    assert rig.sink.of("closed") == [(CONN_A, wire.CLOSE_DEAD, "silence")]
    assert rig.counts() == {"messages_sent": 1, "dropped_link_closed": 1}


def test_fail_says_nothing_in_the_middle_of_a_frame(rig: Rig) -> None:
    conn, out = rig.channel(room=5)
    send(rig, conn, b"1")
    rig.turn()
    out.room = 100
    conn.fail(wire.CLOSE_DEAD, "silence")
    rig.turn()
    assert out.taken == direct(b"1")[:5]


def test_fail_inside_a_hook_ends_the_link_after_it(rig: Rig) -> None:
    conn, _ = rig.channel()

    def hook(_agent: object, message: Any) -> None:
        rig.sink.on_message(None, message)
        conn.fail(wire.CLOSE_DEAD, "")
        assert rig.sink.of("closed") == []

    rig.switch.set_behavior(2, hook, None)
    conn.receive_data(direct(b"1") + direct(b"2"))
    rig.turn()
    assert rig.sink.payloads() == [b"1"]
    assert rig.sink.of("closed") == [(CONN_A, wire.CLOSE_DEAD, "")]


def test_end_of_a_link_is_told_once(rig: Rig) -> None:
    conn, _ = rig.channel()
    conn.fail(wire.CLOSE_DEAD, "")
    rig.turn()
    conn.fail(wire.CLOSE_DEAD, "")
    conn.close()
    conn.receive_data(direct(b"x"))
    conn.receive_eof()
    conn.channel_writable()
    conn.send_control(wire.KIND_PING, PING)
    rig.turn(2)
    assert rig.sink.of("closed") == [(CONN_A, wire.CLOSE_DEAD, "")]
    assert rig.sink.payloads() == []


# -- records --------------------------------------------------------------------------------------


def test_records_go_between_the_stream_and_the_frames(rig: Rig) -> None:
    conn, out = rig.channel(records=Records(KEY, OTHER_KEY))
    neighbour = Records(OTHER_KEY, KEY)
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
    conn, theirs = rig.link(records=Records(KEY, OTHER_KEY))
    neighbour = Records(OTHER_KEY, KEY)
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
    conn, _ = rig.channel(records=Records(KEY, OTHER_KEY))
    sealed = bytearray(Records(OTHER_KEY, KEY).seal(direct(b"x")))
    sealed[-1] ^= 1
    conn.receive_data(bytes(sealed))
    rig.turn()
    assert rig.sink.payloads() == []
    assert rig.sink.of("closed") == [(CONN_A, wire.CLOSE_PROTOCOL_ERROR, "bad_tag at byte 16")]


def test_reason_of_a_failure_is_sealed_too(rig: Rig) -> None:
    conn, out = rig.channel(records=Records(KEY, OTHER_KEY))
    conn.fail(wire.CLOSE_REPLACED, "newer")
    rig.turn()
    assert Records(OTHER_KEY, KEY).open(bytes(out.taken)) == close_frame(2, "newer")


# -- what is given back ---------------------------------------------------------------------------


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_ended_links_give_their_fd_back(rig: Rig) -> None:
    before = open_fds()
    for i in range(1, 21):
        conn, theirs = rig.link(i << 16, NODE_A)
        if i % 2:
            conn.fail(wire.CLOSE_DEAD, "")
        else:
            theirs.send(close_frame())
        theirs.close()
    rig.turn(3)
    assert len(rig.sink.of("closed")) == 20
    assert open_fds() == before
    assert rig.loop.sources == 0


def test_abandoned_link_closes_its_descriptor_only(rig: Rig) -> None:
    before = open_fds()
    conn, theirs = rig.link()
    conn.abandon()
    assert open_fds() == before + 1
    assert rig.sink.events == []
    theirs.close()


def test_ended_link_with_a_channel_is_freed_without_the_garbage_collector(rig: Rig) -> None:
    def links() -> int:
        kind = rig.kernels.Connection
        return sum(type(found) is kind for found in gc.get_objects())

    gc.collect()
    before = links()
    gc.disable()
    try:
        conn, out = rig.channel(room=0)
        send(rig, conn, bytes(100_000))
        conn.fail(wire.CLOSE_DEAD, "")
        rig.turn()
        del conn, out
        assert links() == before
    finally:
        gc.enable()


def test_ended_link_is_freed_without_the_garbage_collector(rig: Rig) -> None:
    class Owner:
        """Refers back to its link, as a plane's record of it does."""

    def links() -> int:
        kind = rig.kernels.Connection
        return sum(type(found) is kind for found in gc.get_objects())

    gc.collect()
    before = links()
    gc.disable()
    try:
        for i in range(1, 11):
            records = Records(KEY, KEY) if i % 2 else None
            conn, theirs = rig.link(i << 16, NODE_A, records=records)
            owner = Owner()
            owner.conn = conn  # type: ignore[attr-defined]
            conn.owner = owner
            conn.set_handler(2, rig.sink.on_message, owner)
            send(rig, conn, bytes(100_000))
            half = direct(bytes(40_000))[:35_000]
            theirs.send(Records(KEY, KEY).seal(half) if i % 2 else half)
            rig.turn()
            if i % 3:
                conn.close()
                rig.turn()
            conn.fail(wire.CLOSE_DEAD, "")
            rig.turn()
        del conn, theirs, owner
        assert links() == before
    finally:
        gc.enable()


def test_owner_is_any_object_and_forgotten_at_the_end(rig: Rig) -> None:
    conn, _ = rig.channel(owner="first")
    assert conn.owner == "first"
    conn.owner = "second"
    assert conn.owner == "second"
    conn.fail(wire.CLOSE_DEAD, "")
    rig.turn()
    assert conn.owner is None


def test_exception_of_on_closed_still_gives_everything_back(kernels: ModuleType) -> None:
    with Rig(kernels) as rig:
        conn, out = rig.channel(owner="x")

        def on_closed(*_: object) -> None:
            raise ValueError("in on_closed")

        rig.sink.on_closed = on_closed  # type: ignore[method-assign, assignment]
        conn.fail(wire.CLOSE_DEAD, "")
        rig.turn()
        assert [str(error) for _, error in rig.errors] == ["in on_closed"]
        assert (conn.owner, rig.switch.connections(), out.calls) == (None, [], ["close"])


def test_channel_is_told_its_target_at_the_start(rig: Rig) -> None:
    conn, out = rig.channel(start=False)
    assert isinstance(out, Channel)
    assert out.target is None
    conn.start()
    assert out.target is conn
