"""Connection: how a link ends, politely or not, and what it gives back."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from netcore import wire
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
PING = bytes.fromhex("0000000000000001 00c8 00")


@pytest.fixture
def rig(kernels: ModuleType) -> Iterator[Rig]:
    with Rig(kernels) as found:
        found.switch.set_behavior(2, found.sink.on_message, None)
        yield found
        assert found.errors == []


def send(rig: Rig, conn: Any, payload: bytes) -> None:
    rig.switch.send_on(conn, payload, 1, 2)


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
            records = kernels.Records(KEY, KEY) if sealed else None
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
            records = rig.kernels.Records(KEY, KEY) if i % 2 else None
            conn, theirs = rig.link(i << 16, NODE_A, records=records)
            owner = Owner()
            owner.conn = conn  # type: ignore[attr-defined]
            conn.owner = owner
            conn.set_handler(2, rig.sink.on_message, owner)
            send(rig, conn, bytes(100_000))
            half = direct(bytes(40_000))[:35_000]
            theirs.send(rig.kernels.Records(KEY, KEY).seal(half) if i % 2 else half)
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


@pytest.mark.parametrize("ends", ["their end", "our fail"])
def test_exception_of_on_closing_does_not_keep_a_broken_link(
    kernels: ModuleType, ends: str
) -> None:
    with Rig(kernels) as rig:
        conn, theirs = rig.link()
        sources = rig.loop.sources

        def on_closing(*_: object) -> None:
            raise ValueError("in on_closing")

        rig.sink.on_closing = on_closing  # type: ignore[method-assign, assignment]
        if ends == "their end":
            theirs.close()  # can be read for ever: with the link the loop would never wait again
        else:
            with pytest.raises(ValueError, match="in on_closing"):
                conn.fail(wire.CLOSE_LOST, "the stream ended")
        rig.turn(2)
        assert rig.sink.of("closed") == [(CONN_A, wire.CLOSE_LOST, "the stream ended")]
        assert (rig.switch.connections(), rig.loop.sources) == ([], sources - 1)


def test_channel_is_told_its_target_at_the_start(rig: Rig) -> None:
    conn, out = rig.channel(start=False)
    assert isinstance(out, Channel)
    assert out.target is None
    conn.start()
    assert out.target is conn
