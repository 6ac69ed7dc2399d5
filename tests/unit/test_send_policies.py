"""What a send does that meets a full queue, and the bound of all queues together."""

from __future__ import annotations

import random
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import pytest

from netcore import wire
from netcore.config import SEND_QUEUE_POLICIES
from netcore.errors import SendQueueFullError
from support.sinks import CONN_A, CONN_B, LIMITS, NODE_A, NODE_B, Rig, close_frame, to_node

KEY = bytes(range(32))
HIGH = 10_000
HEAD = 12  # of a direct message: header of the frame, header of the message


def numbered(number: int, size: int) -> bytes:
    return number.to_bytes(4, "big") * (size // 4)


def send(rig: Rig, conn: Any, number: int, size: int = 1_000 - HEAD) -> None:
    rig.switch.send_on(conn, numbered(number, size), 1, 2)


def numbers(stream: bytes) -> list[int]:
    """Return the numbers of the messages in a stream of whole frames; control frames are -1."""
    found, at = [], 0
    while at < len(stream):
        word = int.from_bytes(stream[at : at + 4], "big")
        end = at + 4 + (word & 0xFF_FFFF)
        assert end <= len(stream), "the stream ends inside a frame"
        if stream[at] == wire.KIND_MESSAGE:
            payload = stream[at + HEAD : end]
            assert payload == payload[:4] * (len(payload) // 4), "a frame was cut"
            found.append(int.from_bytes(payload[:4], "big"))
        else:
            found.append(-1)
        at = end
    return found


# -- the policies ----------------------------------------------------------------------------------


def test_error_refuses_and_drops_nothing(kernels: ModuleType) -> None:
    with Rig(kernels, write_high_bytes=HIGH) as rig:
        conn, channel = rig.channel(room=0)
        for number in range(10):
            send(rig, conn, number)
        with pytest.raises(SendQueueFullError):
            send(rig, conn, 10)
        channel.room = 1 << 20
        conn.channel_writable()
        rig.turn()
        assert numbers(bytes(channel.taken)) == list(range(10))
        assert rig.counts() == {"messages_sent": 10, "sends_refused": 1}
        assert (conn.sends_refused, conn.sends_dropped) == (1, 0)


def test_drop_newest_keeps_what_waits(kernels: ModuleType) -> None:
    with Rig(kernels, write_high_bytes=HIGH, send_queue_policy="drop_newest") as rig:
        conn, channel = rig.channel(room=0)
        for number in range(15):
            send(rig, conn, number)
        channel.room = 1 << 20
        conn.channel_writable()
        rig.turn()
        assert numbers(bytes(channel.taken)) == list(range(10))
        assert rig.counts() == {"messages_sent": 15, "dropped_send_queue_full": 5}
        assert (conn.sends_refused, conn.sends_dropped) == (0, 5)


def test_drop_oldest_keeps_what_is_new_and_what_has_begun(kernels: ModuleType) -> None:
    with Rig(kernels, write_high_bytes=HIGH, send_queue_policy="drop_oldest") as rig:
        conn, channel = rig.channel(room=0)
        send(rig, conn, 0)
        channel.room = 500
        rig.turn()  # half of the first one leaves
        for number in range(1, 15):
            send(rig, conn, number)
        channel.room = 1 << 20
        conn.channel_writable()
        rig.turn()
        # 500 bytes of the first and ten more wait at most.
        assert numbers(bytes(channel.taken)) == [0, *range(5, 15)]
        assert rig.counts() == {"messages_sent": 15, "dropped_send_queue_full": 4}
        assert conn.sends_dropped == 4


def test_drop_oldest_drops_the_newest_when_nothing_else_may_go(kernels: ModuleType) -> None:
    with Rig(kernels, write_high_bytes=HIGH, send_queue_policy="drop_oldest") as rig:
        conn, channel = rig.channel(room=0)
        send(rig, conn, 0, 60_000)
        channel.room = 100
        rig.turn()
        send(rig, conn, 1)
        channel.room = 1 << 20
        conn.channel_writable()
        rig.turn()
        assert numbers(bytes(channel.taken)) == [0]
        assert rig.counts() == {"messages_sent": 2, "dropped_send_queue_full": 1}


def test_drop_oldest_leaves_control_frames(kernels: ModuleType) -> None:
    with Rig(kernels, write_high_bytes=HIGH, send_queue_policy="drop_oldest") as rig:
        conn, channel = rig.channel(room=0)
        conn.send_control(wire.KIND_PING, bytes(11))
        for number in range(20):
            send(rig, conn, number)
        conn.send_control(wire.KIND_PONG, bytes(8))
        assert conn.control_queued_bytes == 15 + 12
        channel.room = 1 << 20
        conn.channel_writable()
        rig.turn()
        assert numbers(bytes(channel.taken)) == [-1, -1, *range(10, 20)]


def test_drop_oldest_takes_relayed_messages_too(kernels: ModuleType) -> None:
    with Rig(kernels, write_high_bytes=HIGH, send_queue_policy="drop_oldest") as rig:
        source, _ = rig.channel(CONN_B, NODE_B)
        conn, channel = rig.channel(room=0)
        source.receive_data(to_node(NODE_A, bytes(HIGH - 20), from_node=NODE_B))
        source.receive_data(to_node(NODE_A, b"no room", from_node=NODE_B))
        send(rig, conn, 7)
        channel.room = 1 << 20
        conn.channel_writable()
        rig.turn()
        assert numbers(bytes(channel.taken)) == [7]
        assert rig.counts() == {
            "messages_sent": 1, "messages_relayed": 1, "dropped_relay_queue_full": 1,
            "dropped_send_queue_full": 1,
        }  # fmt: skip
        assert (conn.relay_queue_full, conn.sends_dropped) == (1, 1)


def test_close_ends_the_link_with_a_reason_of_its_own(kernels: ModuleType) -> None:
    with Rig(kernels, write_high_bytes=HIGH, send_queue_policy="close") as rig:
        conn, channel = rig.channel(room=0)
        for number in range(12):
            send(rig, conn, number)
        # Nobody was called inside the send, and what waited is gone; the last one waits anew.
        assert rig.sink.events == []
        assert (conn.state, conn.queued_bytes) == (0, 1_000)
        channel.room = 1 << 20
        rig.turn()
        assert rig.sink.events == [
            ("closing", CONN_A), ("closed", CONN_A, wire.CLOSE_QUEUE_FULL, "send queue full"),
        ]  # fmt: skip
        assert bytes(channel.taken) == close_frame(wire.CLOSE_QUEUE_FULL, "send queue full")
        assert rig.counts() == {
            "messages_sent": 12, "dropped_link_closed": 12, "queue_overflows": 1,
        }  # fmt: skip
        assert rig.switch.queued_bytes == 0


def test_close_sends_no_frame_into_the_middle_of_another(kernels: ModuleType) -> None:
    with Rig(kernels, write_high_bytes=HIGH, send_queue_policy="close") as rig:
        conn, channel = rig.channel(room=0)
        send(rig, conn, 0)
        channel.room = 500
        rig.turn()
        for number in range(1, 12):
            send(rig, conn, number)
        channel.room = 1 << 20
        conn.channel_writable()
        rig.turn()
        assert len(channel.taken) == 500
        assert rig.sink.of("closed") == [(CONN_A, wire.CLOSE_QUEUE_FULL, "send queue full")]
        assert rig.counts()["dropped_link_closed"] == 12


@pytest.mark.parametrize("policy", SEND_QUEUE_POLICIES)
def test_a_link_that_met_its_bound_is_writable_again(kernels: ModuleType, policy: str) -> None:
    with Rig(kernels, write_high_bytes=HIGH, write_low_bytes=100, send_queue_policy=policy) as rig:
        conn, channel = rig.channel(room=0)
        for number in range(10):
            send(rig, conn, number)
        with pytest.raises(SendQueueFullError) if policy == "error" else nullcontext():
            send(rig, conn, 10)
        channel.room = 1 << 20
        conn.channel_writable()
        rig.turn()
        assert rig.sink.of("writable") == ([] if policy == "close" else [(CONN_A,)])


@pytest.mark.parametrize("sealed", [False, True], ids=["open", "auth"])
@pytest.mark.parametrize("seed", range(10))
def test_drop_oldest_never_cuts_a_frame_and_counts_each_loss(
    kernels: ModuleType, seed: int, sealed: bool
) -> None:
    rnd = random.Random(seed)
    high = rnd.choice((10_000, 100_000, 300_000))
    options = {"records": kernels.Records(KEY, KEY)} if sealed else {}
    with Rig(kernels, write_high_bytes=high, send_queue_policy="drop_oldest") as rig:
        conn, channel = rig.channel(room=0, **options)
        biggest = 0
        for number in range(400):
            size = rnd.choice((8, 400, 4_000, 16_384, 33_000, 70_000)) if number % 7 else 70_000
            send(rig, conn, number, size)
            biggest = max(biggest, conn.queued_bytes)
            if rnd.random() < 0.2:
                conn.send_control(wire.KIND_PING, bytes(11))
            if rnd.random() < 0.5:
                channel.room += rnd.choice((1, 10, 500, 17_000, 60_000))
                conn.channel_writable()
                rig.turn()
        assert biggest < high + 70_000 + HEAD
        channel.room = 1 << 30
        conn.channel_writable()
        rig.turn()
        stream = bytes(channel.taken)
        arrived = numbers(kernels.Records(KEY, KEY).open(stream) if sealed else stream)
        messages = [number for number in arrived if number >= 0]
        assert messages == sorted(set(messages))
        dropped = rig.counts()["dropped_send_queue_full"]
        assert dropped > 50
        assert len(messages) + dropped == 400
        assert conn.sends_dropped == dropped
        assert rig.switch.queued_bytes == 0


@pytest.mark.parametrize(
    ("policy", "lost"),
    [
        ("error", {"broadcast_copies_dropped": 1}),
        ("drop_newest", {"broadcast_copies_dropped": 1}),
        ("drop_oldest", {"dropped_send_queue_full": 1}),
        ("close", {"broadcast_copies_dropped": 1, "dropped_link_closed": 1, "queue_overflows": 1}),
    ],
)
def test_a_broadcast_of_this_node_obeys_the_policy_on_each_link(
    kernels: ModuleType, policy: str, lost: dict[str, int]
) -> None:
    with Rig(kernels, write_high_bytes=HIGH, send_queue_policy=policy) as rig:
        kernels.BroadcastDesk(1, 10).bind(rig.switch)
        full, channel = rig.channel(room=0)
        rig.channel(CONN_B, NODE_B)
        rig.switch.send_on(full, bytes(HIGH), 1, 2)
        kernels.Port(rig.switch, 5).broadcast(b"to all")
        channel.room = 1 << 20
        full.channel_writable()
        rig.turn()
        assert rig.counts() == {
            "messages_sent": 1, "broadcasts_sent": 1, "broadcast_copies": 2, **lost,
        }  # fmt: skip
        kept = policy == "drop_oldest"
        assert (b"to all" in channel.taken) == kept
        assert full.sends_dropped == (policy in ("drop_newest", "drop_oldest"))
        assert full.relay_queue_full == (policy == "error")


def test_an_unknown_policy_is_refused(kernels: ModuleType) -> None:
    with Rig(kernels) as rig:
        limits = {**LIMITS, "send_queue_policy": "block"}
        with pytest.raises(ValueError, match="no such send_queue_policy: 'block'"):
            kernels.Switch(rig.loop, rig.table, rig.sink, node_id=1, **limits)


# -- all queues together ---------------------------------------------------------------------------


def crowd(rig: Rig, sizes: dict[int, int]) -> dict[int, Any]:
    """Return links by number; so many bytes wait on each."""
    links = {}
    for number, size in sizes.items():
        conn, _ = rig.channel(number << 16, number << 24, room=0)
        rig.switch.send_on(conn, bytes(size - HEAD), 1, 2)
        links[number] = conn
    return links


def test_the_link_with_most_bytes_is_shed(kernels: ModuleType) -> None:
    with Rig(kernels, max_queued_bytes=100_000) as rig:
        links = crowd(rig, {0x11: 30_000, 0x12: 40_000, 0x13: 29_000})
        assert rig.switch.queued_bytes == 99_000
        rig.switch.send_on(links[0x13], bytes(1_000 - HEAD), 1, 2)  # just as many as may be
        assert rig.counts() == {"messages_sent": 4}
        rig.switch.send_on(links[0x13], bytes(1), 1, 2)
        assert rig.switch.queued_bytes == 60_000 + HEAD + 1
        assert rig.sink.events == []  # nobody is called inside a send
        rig.turn()
        closed = (0x12 << 16, wire.CLOSE_SHED, "most of max_queued_bytes waited for it")
        assert rig.sink.of("closed") == [closed]
        assert rig.counts() == {"messages_sent": 5, "dropped_link_closed": 1, "links_shed": 1}
        assert [conn.state for conn in links.values()] == [0, 2, 0]


def test_shedding_makes_some_room_and_goes_on_until_it_has(kernels: ModuleType) -> None:
    with Rig(kernels, max_queued_bytes=100_000) as rig:
        crowd(rig, {0x11 + i: 2_000 for i in range(50)})
        crowd(rig, {0x90: 2_000})
        # The oldest of the largest; down to 15/16 of the bound.
        assert rig.switch.queued_bytes == 92_000
        rig.turn()
        assert [conn for conn, *_ in rig.sink.of("closed")] == [(0x11 + i) << 16 for i in range(5)]
        assert rig.counts()["links_shed"] == 5


def test_relayed_bytes_count_and_the_source_may_be_the_one_to_go(kernels: ModuleType) -> None:
    with Rig(kernels, max_queued_bytes=100_000) as rig:
        links = crowd(rig, {0x11: 60_000, 0x12: 30_000})
        frames = [to_node(0x12 << 24, bytes(4_980)) for _ in range(5)]
        links[0x11].receive_data(b"".join(frames))
        # The third frame exceeds the bound; what lies behind it is not looked at any more.
        assert links[0x11].frames_received == 3
        rig.turn()
        assert [conn for conn, *_ in rig.sink.of("closed")] == [0x11 << 16]
        assert rig.counts() == {
            "messages_sent": 2, "messages_relayed": 3, "dropped_link_closed": 1, "links_shed": 1,
        }  # fmt: skip


def test_sealed_bytes_count(kernels: ModuleType) -> None:
    with Rig(kernels, max_queued_bytes=100_000) as rig:
        conn, channel = rig.channel(room=0, records=kernels.Records(KEY, KEY))
        rig.switch.send_on(conn, bytes(50_000 - HEAD), 1, 2)
        rig.turn()
        assert rig.switch.queued_bytes == 50_000 + 2 * 19  # two records
        channel.room = 10_000
        conn.channel_writable()
        rig.turn()
        assert rig.switch.queued_bytes == 40_000 + 2 * 19
        conn.fail(wire.CLOSE_LOST, "enough")
        rig.turn()
        assert rig.switch.queued_bytes == 0


def test_the_shared_payload_of_a_broadcast_counts_once(kernels: ModuleType) -> None:
    with Rig(kernels, max_queued_bytes=150_000) as rig:
        kernels.BroadcastDesk(1, 10).bind(rig.switch)
        channels = [rig.channel((0x11 + i) << 16, (0x11 + i) << 24, room=0)[1] for i in range(10)]
        kernels.Port(rig.switch, 5).broadcast(bytes(100_000))
        assert rig.switch.queued_bytes == 10 * (32 + 10_000)
        assert rig.counts() == {"broadcasts_sent": 1, "broadcast_copies": 10}
        for channel in channels:
            channel.room = 1 << 20
            channel.target.channel_writable()
        rig.turn()
        assert rig.switch.queued_bytes == 0
        assert [len(channel.taken) for channel in channels] == [100_032] * 10


def test_what_the_streams_take_leaves_before_a_link_is_shed(kernels: ModuleType) -> None:
    with Rig(kernels, max_queued_bytes=100_000) as rig:
        links = [rig.link((0x11 + i) << 16, (0x11 + i) << 24)[0] for i in range(20)]
        for conn in links:
            rig.switch.send_on(conn, bytes(8_000), 1, 2)
        assert rig.switch.queued_bytes < 100_000
        rig.turn()
        assert rig.counts() == {"messages_sent": 20}
        assert rig.switch.queued_bytes == 0


def test_without_a_bound_nothing_is_shed(kernels: ModuleType) -> None:
    with Rig(kernels, max_queued_bytes=0) as rig:
        crowd(rig, {0x11: 900_000, 0x12: 900_000, 0x13: 900_000})
        assert rig.switch.queued_bytes == 2_700_000
        assert rig.counts() == {"messages_sent": 3}
