"""What a switch does with broadcasts: who gets a copy, who gets the message, what is counted."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from netcore import BroadcastLevel, LocalError, RouteRule, wire
from netcore.errors import (
    MessageTooBigError,
    NodeClosedError,
    QueueFullError,
    SendQueueFullError,
)
from support.sinks import NODE, NODE_A, NODE_B, Channel, Rig, close_frame, fields, frame, to_node

EPOCH = 0x1122_3344_5566_7788
ORIGIN = 0x0C000001
#: Neighbours that share 1, 2 and 3 bytes with NODE, 0x01020304.
SAME_ZONE, SAME_SUB_ZONE, SAME_GROUP = 0x01AA0001, 0x0102AA01, 0x010203AA


class BroadcastRig(Rig):
    """A switch with a desk, links to NODE_A and NODE_B, and a behavior for service 2."""

    def __init__(self, kernels: ModuleType, **limits: int) -> None:
        super().__init__(kernels, **limits)
        self.kernels.BroadcastDesk(EPOCH, 64).bind(self.switch)
        self.ids = 0
        self.a, self.to_a = self.join(NODE_A)
        self.b, self.to_b = self.join(NODE_B)
        self.port = kernels.Port(self.switch, 1)
        self.switch.set_behavior(2, self.sink.on_message, "agent")

    def __enter__(self) -> BroadcastRig:
        return self

    def join(self, node: int, room: int = 1 << 40, **options: Any) -> tuple[Any, Channel]:
        self.ids += 1
        conn_id, channel = self.ids << 16 | 0x200, Channel(room)
        conn = self.switch.add_connection(conn_id, node, channel=channel, **options)
        if node >> 24 != NODE >> 24:
            self.table.set_next(3, node >> 24, conn_id, node)
        conn.start()
        self.turn()
        return conn, channel


@pytest.fixture
def rig(kernels: ModuleType) -> Iterator[BroadcastRig]:
    with BroadcastRig(kernels) as rig:
        yield rig


def body(
    payload: bytes = b"x",
    *,
    origin: int = ORIGIN,
    level: int = 0,
    sequence: int = 0,
    epoch: int = 7,
    ttl: int = 64,
    service: int = 2,
) -> bytes:
    """Return the body of a broadcast of service 1."""
    head = bytes([0x30, ttl, 1, service, 0, 0, 0, 0]) + origin.to_bytes(4, "big")
    tail = bytes([level, 0, 0, 0]) + epoch.to_bytes(8, "big") + sequence.to_bytes(4, "big")
    return head + tail + payload


def cast(payload: bytes = b"x", **options: Any) -> bytes:
    """Return the frame of a broadcast."""
    return frame(wire.KIND_BROADCAST, body(payload, **options))


# -- the bytes -----------------------------------------------------------------------------------


def test_broadcast_is_written_as_the_protocol_says(rig: BroadcastRig) -> None:
    near, to_near = rig.join(SAME_GROUP)
    rig.port.broadcast(
        b"hi", level=BroadcastLevel.SUB_ZONE, to_service=34, stream_id=222, meta=3, ttl=66
    )
    rig.port.send(RouteRule.services(BroadcastLevel.GROUP), b"")
    rig.turn()
    first = bytes.fromhex("0200001e 33420122 000000de 01020304 02000000 1122334455667788 00000000")
    second = bytes.fromhex("0200001c 30400101 00000000 01020304 03000000 1122334455667788 00000001")
    assert to_near.taken == first + b"hi" + second
    assert near.frames_sent == 2


@pytest.mark.parametrize("size", [0, 1, 100, 16_383, 16_384, 40_000, 300_000])
def test_broadcast_of_any_size_is_relayed_and_delivered(rig: BroadcastRig, size: int) -> None:
    payload = bytes(range(256)) * (size // 256) + bytes(size % 256)
    data = cast(payload)
    for start in range(0, len(data), 50_000):
        rig.a.receive_data(data[start : start + 50_000])
    rig.turn()
    assert rig.to_b.taken == cast(payload, ttl=63)
    assert not rig.to_a.taken
    assert rig.sink.payloads() == [payload]


def test_broadcast_over_sockets_is_relayed(kernels: ModuleType) -> None:
    with BroadcastRig(kernels) as rig:
        conn, theirs = rig.link(0x0077_0200, 0x0D000001)
        theirs.sendall(cast(b"before") + to_node(NODE_A, b"m") + cast(b"x" * 20_000, sequence=1))
        for _ in range(20):
            rig.turn()
        expected = cast(b"before", ttl=63) + to_node(NODE_A, b"m", ttl=63)
        assert rig.to_a.taken == expected + cast(b"x" * 20_000, sequence=1, ttl=63)
        assert conn.frames_received == 3


def test_message_says_everything_about_its_broadcast(rig: BroadcastRig) -> None:
    rig.a.receive_data(cast(b"far", ttl=9))
    rig.a.receive_data(cast(b"near", origin=NODE_A, level=0))
    rig.port.broadcast(b"own", to_service=2, stream_id=5, meta=1, ttl=3)
    rig.turn()
    rule = RouteRule.services()
    assert rig.sink.of("message") == [
        ("agent", b"far", ORIGIN, 1, 2, rule, 0, 0, 9, False),
        ("agent", b"near", NODE_A, 1, 2, rule, 0, 0, 64, True),
        ("agent", b"own", NODE, 1, 2, rule, 5, 1, 3, True),
    ]


def test_reply_to_a_broadcast_goes_to_its_origin(rig: BroadcastRig) -> None:
    answering = rig.kernels.Port(rig.switch, 2)
    rig.switch.set_behavior(2, lambda agent, message: answering.reply(message, b"here"))
    rig.a.receive_data(cast(origin=NODE_A))
    rig.turn()
    assert rig.to_a.taken[4:6] == b"\x28\x40"  # a message to a node
    assert rig.to_a.taken.endswith(NODE_A.to_bytes(4, "big") + b"here")


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (body()[:7], "truncated at byte 7"),
        (body()[:15], "truncated at byte 15"),
        (body()[:16], "truncated at byte 16"),
        (body()[:27], "truncated at byte 27"),
        (b"\x70" + body()[1:], "bad_version at byte 0"),
        (b"\x34" + body()[1:], "sealed at byte 0"),
        (b"\x10" + body()[1:], "bad_body at byte 0"),  # no from_node
        (b"\x28" + body()[1:], "bad_body at byte 0"),  # to a node
        (b"\x20" + body()[1:], "bad_body at byte 0"),  # direct
        (body(origin=wire.NO_NODE), "bad_body at byte 8"),
        (body(level=4), "bad_body at byte 12"),
        (body()[:15] + b"\x01" + body()[16:], "bad_body at byte 12"),
        (body(level=BroadcastLevel.ZONE), "bad_body at byte 12"),  # another zone than this node's
        (body(origin=SAME_SUB_ZONE, level=BroadcastLevel.GROUP), "bad_body at byte 12"),
    ],
)
def test_malformed_broadcast_ends_its_link(rig: BroadcastRig, data: bytes, error: str) -> None:
    rig.a.receive_data(frame(wire.KIND_BROADCAST, data))
    rig.turn()
    assert rig.sink.of("closed") == [(rig.a.conn_id, wire.CLOSE_PROTOCOL_ERROR, error)]
    assert rig.counts() == {"protocol_errors": 1}
    assert not rig.to_b.taken
    assert rig.to_a.taken == close_frame(wire.CLOSE_PROTOCOL_ERROR, error)


# -- who gets a copy -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "reached"),
    [
        (BroadcastLevel.GLOBAL, {NODE_A, NODE_B, SAME_ZONE, SAME_SUB_ZONE, SAME_GROUP}),
        (BroadcastLevel.ZONE, {SAME_ZONE, SAME_SUB_ZONE, SAME_GROUP}),
        (BroadcastLevel.SUB_ZONE, {SAME_SUB_ZONE, SAME_GROUP}),
        (BroadcastLevel.GROUP, {SAME_GROUP}),
    ],
)
def test_broadcast_stays_within_its_level(rig: BroadcastRig, level: int, reached: set[int]) -> None:
    channels = {NODE_A: rig.to_a, NODE_B: rig.to_b}
    for node in (SAME_ZONE, SAME_SUB_ZONE, SAME_GROUP):
        channels[node] = rig.join(node)[1]
    relay, _ = rig.join(SAME_GROUP ^ 1)
    rig.port.broadcast(b"own", level=level)
    rig.turn()
    assert {node for node, channel in channels.items() if channel.taken} == reached
    for channel in channels.values():
        channel.taken.clear()
    relay.receive_data(cast(level=level, origin=NODE ^ 0x10))
    rig.turn()
    assert {node for node, channel in channels.items() if channel.taken} == reached


def test_relay_leaves_out_the_neighbour_it_came_from_and_the_origin(rig: BroadcastRig) -> None:
    _, beside_a = rig.join(NODE_A)
    _, to_origin = rig.join(ORIGIN)
    rig.a.receive_data(cast())
    rig.turn()
    assert rig.to_b.taken == cast(ttl=63)
    assert not rig.to_a.taken
    assert not beside_a.taken
    assert not to_origin.taken


def test_copy_that_comes_again_is_dropped(rig: BroadcastRig) -> None:
    rig.a.receive_data(cast())
    rig.b.receive_data(cast(ttl=3))
    rig.a.receive_data(cast())
    rig.turn()
    assert rig.sink.payloads() == [b"x"]
    assert rig.to_b.taken == cast(ttl=63)
    assert rig.counts() == {
        "broadcasts_received": 1,
        "broadcasts_delivered": 1,
        "broadcasts_duplicate": 2,
        "broadcast_copies": 1,
    }


def test_next_life_of_an_origin_is_heard_although_its_numbers_begin_again(
    rig: BroadcastRig,
) -> None:
    rig.a.receive_data(cast(b"one", epoch=5) + cast(b"two", epoch=6) + cast(b"one", epoch=5))
    rig.turn()
    assert rig.sink.payloads() == [b"one", b"two"]


def test_broadcast_far_behind_its_origins_newest_is_dropped_as_stale(rig: BroadcastRig) -> None:
    rig.a.receive_data(cast(sequence=5_000) + cast(sequence=5_000 - wire.BROADCAST_WINDOW))
    rig.turn()
    assert rig.counts()["broadcasts_stale"] == 1
    assert rig.sink.payloads() == [b"x"]


@pytest.mark.parametrize("epoch", [EPOCH, 5])
def test_own_broadcast_that_comes_back_is_dropped(rig: BroadcastRig, epoch: int) -> None:
    rig.a.receive_data(cast(origin=NODE, epoch=epoch))
    rig.turn()
    assert rig.counts() == {"broadcasts_duplicate": 1}
    assert not rig.to_b.taken


def test_origins_beyond_the_bound_are_forgotten_and_counted(rig: BroadcastRig) -> None:
    for origin in range(0x0D000000, 0x0D000000 + 70):
        rig.a.receive_data(cast(origin=origin))
    rig.turn()
    assert rig.counts()["broadcast_origins_forgotten"] == 6
    assert rig.counts()["broadcasts_delivered"] == 70


@pytest.mark.parametrize("ttl", [0, 1])
def test_broadcast_without_hops_left_is_delivered_and_goes_no_further(
    rig: BroadcastRig, ttl: int
) -> None:
    rig.a.receive_data(cast(ttl=ttl))
    rig.turn()
    assert rig.sink.payloads() == [b"x"]
    assert not rig.to_b.taken
    assert rig.counts()["broadcast_copies_dropped"] == 1


def test_ttl_of_one_reaches_the_neighbours(rig: BroadcastRig) -> None:
    rig.port.broadcast(b"x", ttl=1)
    rig.turn()
    assert rig.to_a.taken == rig.to_b.taken != b""
    assert rig.to_a.taken[5] == 1


def test_node_without_the_service_relays_and_delivers_nothing(rig: BroadcastRig) -> None:
    rig.a.receive_data(cast(service=9))
    rig.turn()
    assert rig.to_b.taken == cast(service=9, ttl=63)
    assert rig.counts() == {"broadcasts_received": 1, "broadcast_copies": 1}


def test_handler_of_the_link_gets_the_message(rig: BroadcastRig) -> None:
    rig.a.set_handler(2, rig.sink.on_message, "handler")
    rig.a.receive_data(cast())
    rig.turn()
    assert [agent for agent, *_ in rig.sink.of("message")] == ["handler"]


def test_copies_are_made_before_the_hook_runs(rig: BroadcastRig) -> None:
    queued = []
    rig.switch.set_behavior(2, lambda agent, message: queued.append(rig.b.queued_bytes))
    rig.a.receive_data(cast())
    assert queued == [len(cast())]


def test_hook_that_raises_is_told_to_the_sink(rig: BroadcastRig) -> None:
    def hook(agent: object, message: object) -> None:
        raise ValueError("out of a hook")

    rig.switch.set_behavior(2, hook)
    rig.a.receive_data(cast() + cast(sequence=1))
    assert rig.sink.of("hook error") == [("ValueError", "out of a hook")] * 2
    assert rig.counts()["broadcasts_delivered"] == 2


def test_hook_may_close_the_link_of_its_broadcast(rig: BroadcastRig) -> None:
    rig.switch.set_behavior(2, lambda agent, message: rig.a.fail(5, "by a hook"))
    rig.a.receive_data(cast() + cast(sequence=1))
    rig.turn()
    assert rig.counts()["broadcasts_delivered"] == 1
    assert rig.sink.of("closed") == [(rig.a.conn_id, 5, "by a hook")]


def test_closing_link_gets_no_copy(rig: BroadcastRig) -> None:
    rig.b.close()
    rig.port.broadcast(b"x")
    rig.turn()
    assert rig.to_b.taken == close_frame()
    assert rig.counts()["broadcast_copies"] == 1


def test_switch_without_a_desk_ignores_and_sends_none(kernels: ModuleType) -> None:
    with Rig(kernels) as rig:
        conn, _ = rig.channel()
        conn.receive_data(cast())
        assert rig.counts() == {"frames_ignored": 1}
        with pytest.raises(LocalError, match="nobody takes broadcasts here"):
            kernels.Port(rig.switch, 1).broadcast(b"x")


# -- sending -------------------------------------------------------------------------------------


def test_own_node_gets_its_broadcast_once_after_the_hook(rig: BroadcastRig) -> None:
    rig.port.broadcast(b"x", to_service=2)
    assert not rig.sink.payloads()
    rig.turn()
    assert rig.sink.payloads() == [b"x"]
    assert rig.counts() == {
        "broadcasts_sent": 1,
        "broadcasts_delivered": 1,
        "broadcast_copies": 2,
    }


def test_broadcast_of_a_node_without_links_is_no_error(kernels: ModuleType) -> None:
    with Rig(kernels) as rig:
        kernels.BroadcastDesk(EPOCH, 1).bind(rig.switch)
        kernels.Port(rig.switch, 1).broadcast(b"x")
        assert rig.counts() == {"broadcasts_sent": 1}


def test_own_broadcasts_that_wait_when_the_node_ends_are_counted(rig: BroadcastRig) -> None:
    rig.port.broadcast(b"x", to_service=2)
    rig.port.send_local(b"y", to_service=2)
    rig.switch.drop_local()
    counts = rig.counts()
    assert (counts["broadcast_copies_dropped"], counts["dropped_no_service"]) == (1, 1)


def test_full_link_loses_its_copy_and_the_others_get_theirs(kernels: ModuleType) -> None:
    with BroadcastRig(kernels, write_high_bytes=4_096, write_low_bytes=10) as rig:
        rig.to_b.room = 0
        for _ in range(4):
            rig.port.broadcast(bytes(1_000))
            rig.turn()
        rig.a.receive_data(cast(bytes(1_000)))
        assert rig.to_a.taken.count(b"\x02\0\x04\x04") == 4
        assert rig.b.relay_queue_full == 1
        counts = rig.counts()
        assert (counts["broadcasts_sent"], counts["broadcast_copies_dropped"]) == (4, 1)
        assert counts["broadcast_copies"] == 9


def test_send_is_refused_when_every_link_is_full_and_the_first_with_room_tells(
    kernels: ModuleType,
) -> None:
    with BroadcastRig(kernels, write_high_bytes=4_096, write_low_bytes=10) as rig:
        rig.to_a.room = rig.to_b.room = 0
        for _ in range(4):
            rig.port.broadcast(bytes(1_000), to_service=2)
        with pytest.raises(SendQueueFullError) as caught:
            rig.port.broadcast(bytes(1_000), to_service=2)
        assert (caught.value.conn, caught.value.limit) == (rig.b.conn_id, 4_096)
        rig.to_a.room = 1 << 20
        rig.a.channel_writable()
        rig.turn()
        assert rig.sink.of("writable") == [(rig.a.conn_id,)]
        assert len(rig.sink.payloads()) == 4
        assert rig.counts()["sends_refused"] == 1


def test_payload_too_big_for_every_link_is_refused(kernels: ModuleType) -> None:
    with Rig(kernels) as rig:
        kernels.BroadcastDesk(EPOCH, 1).bind(rig.switch)
        port = kernels.Port(rig.switch, 1)
        rig.channel(max_frame_bytes=5_000)
        with pytest.raises(MessageTooBigError) as caught:
            port.broadcast(bytes(4_973))
        assert (caught.value.size, caught.value.limit) == (5_001, 5_000)
        _, other = rig.channel(0x0002_0200, NODE_B)
        port.broadcast(bytes(4_973))
        rig.turn()
        assert len(other.taken) == 5_005
        assert rig.counts()["broadcast_copies_dropped"] == 1


def test_payload_too_big_for_this_node_is_refused(rig: BroadcastRig) -> None:
    with pytest.raises(MessageTooBigError) as caught:
        rig.port.broadcast(bytes((1 << 20) - 27))
    assert caught.value.size == (1 << 20) + 1
    rig.port.broadcast(bytes((1 << 20) - 28))
    assert rig.counts()["broadcasts_sent"] == 1


def test_full_local_queue_refuses_and_nothing_leaves(kernels: ModuleType) -> None:
    with BroadcastRig(kernels, local_queue_bytes=1_000) as rig:
        rig.port.broadcast(bytes(1_000), to_service=2)
        with pytest.raises(QueueFullError, match="local_queue_bytes"):
            rig.port.broadcast(b"", to_service=2)
        rig.port.broadcast(b"", to_service=9)
        counts = rig.counts()
        assert (counts["broadcasts_sent"], counts["broadcast_copies"]) == (2, 4)


def test_refused_broadcast_takes_no_number(rig: BroadcastRig) -> None:
    for options in ({"level": 4}, {"to_service": 256}, {"ttl": 0}, {"meta": 4}):
        with pytest.raises((LocalError, ValueError)):
            rig.port.broadcast(b"", **options)
    rig.port.broadcast(b"")
    rig.turn()
    assert rig.to_a.taken[-4:] == bytes(4)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"level": 4}, LocalError, r"a broadcast level is an int in 0\.\.3, not 4"),
        ({"level": -1}, LocalError, "not -1"),
        ({"level": "zone"}, LocalError, "not 'zone'"),
        ({"level": None}, LocalError, "not None"),
        ({"to_service": 256}, ValueError, "to_service"),
        ({"to_service": "2"}, TypeError, "to_service"),
        ({"stream_id": 1 << 32}, ValueError, "stream_id"),
        ({"meta": 4}, ValueError, "meta"),
        ({"ttl": 0}, ValueError, "ttl"),
        ({"ttl": 256}, ValueError, "ttl"),
        ({"payload": "text"}, TypeError, "payload"),
    ],
)
def test_bad_argument_is_refused_by_name(
    rig: BroadcastRig, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        rig.port.broadcast(**{"payload": b"", **options})


def test_closed_switch_sends_no_broadcast(rig: BroadcastRig) -> None:
    rig.switch.refuse_sends(NodeClosedError())
    with pytest.raises(NodeClosedError):
        rig.port.broadcast(b"x")


def test_message_of_a_broadcast_can_be_made_and_kept(kernels: ModuleType) -> None:
    import pickle

    message = kernels.Message(b"x", route=RouteRule.services(2), from_node=1)
    assert message.route == RouteRule.services(BroadcastLevel.SUB_ZONE)
    assert fields(pickle.loads(pickle.dumps(message))) == fields(message)


# -- what waits on a link that ends ----------------------------------------------------------------


@pytest.mark.parametrize("taken", [0, 1, 31, 32, 33, 100, 5_000])
@pytest.mark.parametrize("sealed", [False, True], ids=["open", "auth"])
def test_copies_on_a_link_that_ends_are_counted_apart_from_messages(
    kernels: ModuleType, taken: int, sealed: bool
) -> None:
    with BroadcastRig(kernels) as rig:
        records = kernels.Records(bytes(32), bytes(32)) if sealed else None
        conn, channel = rig.join(0x0D000001, room=0, records=records)
        for _ in range(3):
            rig.port.broadcast(bytes(20))
            rig.port.send_to_node(0x0D000001, bytes(20))
        rig.port.broadcast(bytes(20_000))
        channel.room = taken
        conn.channel_writable()
        rig.turn()
        conn.fail(wire.CLOSE_LOST, "gone")
        rig.turn()
        sizes = [52, 40, 52, 40, 52, 40, 20_032]
        whole = [sum(sizes[: i + 1]) <= taken for i in range(7)] if not sealed else [False] * 7
        counts = rig.counts()
        assert counts["broadcast_copies_dropped"] == 4 - sum(whole[::2])
        assert counts.get("dropped_link_closed", 0) == 3 - sum(whole[1::2])


# -- calls and rules -------------------------------------------------------------------------------


def test_rule_of_a_broadcast_is_a_value() -> None:
    assert RouteRule.services() == RouteRule.services(BroadcastLevel.GLOBAL)
    assert len({RouteRule.services(level) for level in range(4)} | {RouteRule.service(0)}) == 5
    assert repr(RouteRule.services(BroadcastLevel.ZONE)) == "RouteRule.services(1)"


@pytest.mark.parametrize("level", [4, -1, 1 << 40, "zone", None, 1.0])
def test_rule_of_an_unknown_level_is_refused(level: Any) -> None:
    with pytest.raises(LocalError):
        RouteRule.services(level)
