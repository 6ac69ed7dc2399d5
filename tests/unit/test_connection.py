"""Connection: what a link makes of the bytes that arrive."""

from __future__ import annotations

import random
import socket
import tracemalloc
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from netcore import wire
from netcore.errors import FrameError
from support.sinks import (
    CONN_A,
    CONN_B,
    NODE_A,
    NODE_B,
    Rig,
    close_frame,
    direct,
    frame,
    to_node,
)

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
    assert conn.bytes_received == rig.switch.counters()["bytes_received"] == 4 + 8 + 1 + 5
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


# -- the descriptor --------------------------------------------------------------------------------


def test_link_takes_the_descriptor_out_of_its_socket(rig: Rig) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        conn = rig.switch.add_connection(CONN_A, NODE_A, sock=ours)
        assert ours.fileno() == -1
        conn.start()
        conn.send_control(wire.KIND_PING, bytes(11))
        rig.turn()
        assert theirs.recv(100) == frame(wire.KIND_PING, bytes(11))
        conn.fail(wire.CLOSE_LOST, "")
        rig.turn()
        assert theirs.recv(100) == b""


def test_link_that_never_started_gives_its_descriptor_back(kernels: ModuleType) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        with Rig(kernels) as rig:
            rig.switch.add_connection(CONN_A, NODE_A, sock=ours)
        assert theirs.recv(100) == b""


def test_rest_of_the_handshake_leaves_with_the_first_frames(rig: Rig) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        ours.setblocking(False)
        conn = rig.switch.add_connection(CONN_A, NODE_A, sock=ours, unsent=b"READY")
        conn.start()
        conn.send_control(wire.KIND_PING, bytes(11))
        rig.turn()
        assert theirs.recv(100) == b"READY" + frame(wire.KIND_PING, bytes(11))
        conn.abandon()
