"""Port and Switch.originate: what a send puts on a link, and why it is refused."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from netcore import wire
from netcore.errors import (
    LocalError,
    MessageTooBigError,
    NodeClosedError,
    NoRouteError,
    QueueFullError,
    SendQueueFullError,
)
from netcore.route import RouteRule
from support.sinks import (
    CONN_A,
    CONN_B,
    NODE,
    NODE_A,
    NODE_B,
    Rig,
    to_node,
)

FAR = 0x0C000001  # a node that is nobody's neighbour


@pytest.fixture
def rig(kernels: ModuleType) -> Iterator[Rig]:
    with Rig(kernels) as found:
        yield found
        assert found.errors == []


def port(rig: Rig, service: int = 2, conn: Any = None) -> Any:
    return rig.kernels.Port(rig.switch, service, conn)


# -- sends: the bytes -----------------------------------------------------------------------------

SENDS: list[tuple[str, Callable[[Any], None], str]] = [
    (
        "node",
        lambda p: p.send_to_node(NODE_A, b"hi"),
        "00000012 28400202 00000000 01020304 0a000001 6869",
    ),
    (
        "node with everything",
        lambda p: p.send_to_node(NODE_A, b"", to_service=7, stream_id=0xDEADBEEF, meta=3, ttl=1),
        "00000010 2b010207 deadbeef 01020304 0a000001",
    ),
    (
        "key",
        lambda p: p.send_to_key(0x0AFFFFFF, b"hi", to_service=4),
        "00000012 38400204 00000000 01020304 0affffff 6869",
    ),
    (
        "service",
        lambda p: p.send_to_service(9, b"hi"),
        "00000012 30400209 00000000 01020304 00000000 6869",
    ),
    (
        "rule",
        lambda p: p.send(RouteRule.service(5), b"hi", to_service=9),
        "00000012 30400209 00000000 01020304 00000005 6869",
    ),
    (
        "conn",
        lambda p: p.send_to_conn(CONN_A, b"hi", stream_id=1),
        "0000000a 00400202 00000001 6869",
    ),
    (
        "own link",
        lambda p: p.send_on_link(b"hi", to_service=3, meta=1, ttl=5),
        "0000000a 01050203 00000000 6869",
    ),
    (
        "own link, reserved service",
        lambda p: p.send_on_link(b"hi", to_service=255),
        "0000000a 004002ff 00000000 6869",
    ),
]


@pytest.mark.parametrize(("send", "expected"), [s[1:] for s in SENDS], ids=[s[0] for s in SENDS])
def test_send_puts_these_bytes_on_the_link(
    rig: Rig, send: Callable[[Any], None], expected: str
) -> None:
    conn, out = rig.channel()
    rig.table.set_service_next(9, CONN_A, NODE_A)
    send(port(rig, 2, conn))
    rig.turn()
    assert out.taken.hex() == expected.replace(" ", "")
    assert conn.frames_sent == 1


def test_send_to_a_name_hashes_it(rig: Rig) -> None:
    _, out = rig.channel()
    rig.table.set_next(3, 0xC2, CONN_A, NODE_A)
    for key in ("name", b"name"):
        port(rig).send_to_key(key, b"")
    rig.turn()
    # XXH3-64 of "name" is 0c354ecdc24a77d5; its low half is the key.
    assert out.taken.hex() == 2 * "00000010384002020000000001020304c24a77d5"


def test_originate_sends_a_call(rig: Rig) -> None:
    _, out = rig.channel()
    rig.switch.originate(wire.KIND_CALL, wire.ROUTE_NODE, NODE_A, b"hi", 5, 6, 7, 2, 9)
    rig.turn()
    assert out.taken.hex() == "010000122a09050600000007010203040a0000016869"


def test_reply_goes_back_to_node_service_and_stream(rig: Rig) -> None:
    conn, out = rig.channel()
    rig.switch.set_behavior(2, lambda _agent, m: port(rig, 2).reply(m, b"yes"), None)
    conn.receive_data(bytes.fromhex("00000010 28400702 0000002a 0a000001 01020304"))
    rig.turn()
    # from service 2 to service 7, stream 42
    assert out.taken.hex() == "00000013284002070000002a010203040a000001796573"


def test_reply_to_nobody_has_no_route(rig: Rig) -> None:
    message = rig.kernels.Message(b"", from_node=None)
    with pytest.raises(NoRouteError, match="a sender that did not give its node id"):
        port(rig).reply(message, b"")


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_payload_may_be_anything_bytes_like(rig: Rig, make: Callable[[bytes], Any]) -> None:
    _, out = rig.channel()
    port(rig).send_to_node(NODE_A, make(b"hi"))
    rig.turn()
    assert out.taken.endswith(b"\x0a\x00\x00\x01hi")


def test_payload_of_every_other_byte_is_sent_as_such(rig: Rig) -> None:
    _, out = rig.channel()
    port(rig).send_to_node(NODE_A, memoryview(b"h-i-")[::2])
    rig.turn()
    assert out.taken.endswith(b"\x0a\x00\x00\x01hi")


@pytest.mark.parametrize("size", [2, 20_000])
def test_buffer_changed_after_the_send_is_sent_as_it_was(rig: Rig, size: int) -> None:
    _, out = rig.channel()
    buffer = bytearray(b"a" * size)
    port(rig).send_to_node(NODE_A, buffer)
    buffer[:] = b"b" * size
    rig.turn()
    assert out.taken.endswith(b"\x0a\x00\x00\x01" + b"a" * size)


def test_int_subclasses_are_numbers(rig: Rig) -> None:
    _, out = rig.channel()
    service = enum.IntEnum("service", {"PING": 9})
    port(rig, service["PING"]).send_to_node(NODE_A, b"", to_service=service["PING"])
    rig.turn()
    assert out.taken[4:8].hex() == "28400909"


def test_payloads_of_all_sizes_arrive_whole_and_in_order(rig: Rig) -> None:
    _, theirs = rig.link()
    p = port(rig)
    sizes = [0, 16_363, 16_364, 16_383, 16_384, 16_385, 1, 65_536, 100_000, 2]
    for i, size in enumerate(sizes):
        p.send_to_node(NODE_A, bytes([i]) * size)
    received = bytearray()
    expected = b"".join(
        to_node(NODE_A, bytes([i]) * size, from_node=NODE).replace(b"\x01\x02", b"\x02\x02", 1)
        for i, size in enumerate(sizes)
    )
    while len(received) < len(expected):
        rig.turn()
        received += theirs.recv(1 << 20)
    assert received == expected


# -- sends: the errors ----------------------------------------------------------------------------


def test_send_without_a_route_is_refused_by_name(rig: Rig) -> None:
    p = port(rig)
    rig.table.set_next(3, 0xFF, 0x99999900, FAR)
    with pytest.raises(NoRouteError, match="no route to node 201326593"):
        p.send_to_node(FAR, b"")
    with pytest.raises(NoRouteError, match="no route to the node closest to key 4294967295"):
        p.send_to_key(0xFFFFFFFF, b"")
    with pytest.raises(NoRouteError, match="no route to service 9"):
        p.send_to_service(9, b"")
    with pytest.raises(NoRouteError, match="a link that is closed or closing"):
        p.send_to_conn(CONN_A, b"")
    with pytest.raises(NoRouteError, match="a link that is closed or closing"):
        p.send_on_link(b"")
    assert rig.counts() == {"sends_refused": 5}


def test_send_over_a_closing_link_is_refused(rig: Rig) -> None:
    conn, _ = rig.channel()
    conn.close()
    p = port(rig, 2, conn)
    with pytest.raises(NoRouteError):
        p.send_to_node(NODE_A, b"")
    with pytest.raises(NoRouteError):
        p.send_on_link(b"")


def test_send_on_a_full_link_is_refused_with_numbers(rig: Rig) -> None:
    conn, _ = rig.channel(room=0)
    p = port(rig, 2, conn)
    p.send_on_link(bytes((1 << 20) - 12 - 1))  # one byte below the high watermark
    p.send_on_link(b"")
    with pytest.raises(SendQueueFullError) as caught:
        p.send_on_link(b"")
    assert (caught.value.conn, caught.value.queued, caught.value.limit) == (
        CONN_A, (1 << 20) + 11, 1 << 20,
    )  # fmt: skip
    with pytest.raises(SendQueueFullError):
        p.send_to_node(NODE_A, b"")
    assert conn.sends_refused == 2
    assert rig.counts() == {"messages_sent": 2, "sends_refused": 2}


def test_message_too_big_for_this_node_is_refused(rig: Rig) -> None:
    rig.channel()
    with pytest.raises(MessageTooBigError) as caught:
        port(rig).send_to_node(NODE_A, bytes((1 << 20) - 15))
    assert (caught.value.size, caught.value.limit) == ((1 << 20) + 1, 1 << 20)
    with pytest.raises(MessageTooBigError):
        port(rig).send_local(bytes(1 << 20))


def test_message_too_big_for_the_link_is_refused(rig: Rig) -> None:
    conn, out = rig.channel(max_frame_bytes=100)
    p = port(rig, 2, conn)
    p.send_on_link(bytes(92))
    p.send_to_node(NODE_A, bytes(84))
    sends: list[Callable[[], None]] = [
        lambda: p.send_on_link(bytes(93)), lambda: p.send_to_node(NODE_A, bytes(85)),
    ]  # fmt: skip
    for send in sends:
        with pytest.raises(MessageTooBigError, match="message of 101 bytes"):
            send()
    rig.turn()
    assert len(out.taken) == 2 * 104


def test_control_queue_of_a_link_is_bounded_for_reserved_services(rig: Rig) -> None:
    conn, _ = rig.channel(room=0)
    p = port(rig, 255, conn)
    p.send_on_link(bytes(256 * 1024 - 12))
    with pytest.raises(SendQueueFullError, match="262144 bytes wait"):
        p.send_on_link(b"")
    assert conn.sends_refused == 0
    assert rig.counts() == {"control_sent": 1, "sends_refused": 1}


def test_local_queue_is_bounded(rig: Rig) -> None:
    p = port(rig)
    for _ in range(2):
        p.send_local(bytes((1 << 19) - 16))
    with pytest.raises(QueueFullError) as caught:
        p.send_local(b"")
    assert (caught.value.queue, caught.value.limit) == ("local_queue_bytes", 1 << 20)
    assert rig.switch.local_pending == 2
    assert rig.counts() == {"messages_sent": 2, "sends_refused": 1}


def test_refused_sends_raise_what_was_given(rig: Rig) -> None:
    conn, _ = rig.channel()
    error = NodeClosedError()
    rig.switch.refuse_sends(error)
    p = port(rig, 2, conn)
    sends: list[Callable[[], None]] = [
        lambda: p.send_to_node(NODE_A, b""), lambda: p.send_to_node(NODE_A, "text"),
        lambda: p.send_local(b""), lambda: p.send_on_link(b"", ttl=0),
        lambda: p.send_to_service(999, b""),
    ]  # fmt: skip
    for send in sends:
        with pytest.raises(NodeClosedError) as caught:
            send()
        assert caught.value is error
    with pytest.raises(NodeClosedError):
        rig.switch.add_connection(CONN_B, NODE_B, sock=None, channel=None)


BAD_NUMBERS: list[tuple[dict[str, object], str]] = [
    ({"ttl": 0}, "ttl must be in 1..255, not 0"),
    ({"ttl": 256}, "ttl must be an int in 0..255, not 256"),
    ({"meta": 4}, "meta must be an int in 0..3, not 4"),
    ({"stream_id": -1}, "stream_id must be an int in 0..4294967295, not -1"),
    ({"stream_id": 1 << 70}, "stream_id must be an int in 0..4294967295, not 11805916207174113034"),
    ({"to_service": 256}, "to_service must be an int in 0..255, not 256"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "text"), BAD_NUMBERS)
def test_number_out_of_range_is_a_value_error(
    rig: Rig, options: dict[str, object], text: str
) -> None:
    conn, _ = rig.channel()
    p = port(rig, 2, conn)
    sends: list[Callable[[], None]] = [
        lambda: p.send_to_node(NODE_A, b"", **options), lambda: p.send_on_link(b"", **options),
        lambda: p.send_local(b"", **options),
    ]  # fmt: skip
    for send in sends:
        with pytest.raises(ValueError, match=text) as caught:
            send()
        assert type(caught.value) is ValueError
    assert rig.counts() == {}


@pytest.mark.parametrize("name", ["ttl", "meta", "stream_id", "to_service"])
@pytest.mark.parametrize("value", [True, 1.0, "1"])
def test_number_of_another_type_is_a_type_error(rig: Rig, name: str, value: object) -> None:
    rig.channel()
    with pytest.raises(TypeError, match=f"{name} must be an int in"):
        port(rig).send_to_node(NODE_A, b"", **{name: value})


@pytest.mark.parametrize("payload", ["text", None, 5, [1]])
def test_payload_that_is_not_bytes_like_is_a_type_error(rig: Rig, payload: object) -> None:
    rig.channel()
    with pytest.raises(TypeError, match="a payload is bytes, bytearray or memoryview, not "):
        port(rig).send_to_node(NODE_A, payload)


@pytest.mark.parametrize("node_id", [-1, wire.NO_NODE, True, "7", None])
def test_destination_that_is_not_a_node_id_is_a_local_error(rig: Rig, node_id: object) -> None:
    with pytest.raises(LocalError, match="a node id is an int in"):
        port(rig).send_to_node(node_id, b"")


@pytest.mark.parametrize("key", [-1, 1 << 32, True, None])
def test_key_that_is_not_one_is_a_local_error(rig: Rig, key: object) -> None:
    with pytest.raises(LocalError, match="a key is an int in"):
        port(rig).send_to_key(key, b"")


# -- messages to oneself --------------------------------------------------------------------------


def test_message_to_oneself_waits_for_the_end_of_the_turn(rig: Rig) -> None:
    rig.switch.set_behavior(3, rig.sink.on_message, None)
    port(rig, 2).send_local(b"hi", to_service=3, stream_id=5, meta=2, ttl=9)
    assert rig.switch.local_pending == 1
    assert rig.sink.events == []
    rig.turn()
    assert rig.sink.of("message") == [(None, b"hi", NODE, 2, 3, RouteRule.direct(), 5, 2, 9, True)]
    assert rig.counts() == {"messages_sent": 1, "messages_delivered": 1}


def test_message_routed_to_oneself_keeps_its_route(rig: Rig) -> None:
    rig.switch.set_behavior(2, rig.sink.on_message, None)
    rig.table.set_service_local(2, True)
    p = port(rig)
    p.send_to_node(NODE, b"1")
    p.send_to_key(NODE, b"2")
    p.send_to_service(2, b"3")
    rig.turn()
    assert [(event[1], event[5]) for event in rig.sink.of("message")] == [
        (b"1", RouteRule.node(NODE)), (b"2", RouteRule.closest(NODE)), (b"3", RouteRule.service()),
    ]  # fmt: skip


def test_call_to_oneself_has_no_link(rig: Rig) -> None:
    rig.switch.originate(wire.KIND_CALL, wire.ROUTE_NODE, NODE, b"request", 1, 2)
    rig.turn()
    assert rig.sink.of("call")[0][:3] == (None, b"request", NODE)


def test_message_to_oneself_for_a_reserved_service_is_a_message(rig: Rig) -> None:
    rig.switch.set_behavior(255, rig.sink.on_message, None)
    port(rig, 255).send_local(b"")
    rig.turn()
    assert rig.counts() == {"messages_sent": 1, "messages_delivered": 1}


def test_dropped_local_messages_are_counted(rig: Rig) -> None:
    p = port(rig)
    p.send_local(b"1")
    p.send_local(b"2")
    rig.switch.drop_local()
    assert rig.switch.local_pending == 0
    assert not rig.switch.deliver_local()
    assert rig.counts() == {"messages_sent": 2, "dropped_no_service": 2}
    p.send_local(bytes(1 << 19))  # the room is free again


def test_exception_of_a_hook_called_locally_is_told(rig: Rig) -> None:
    def hook(_agent: object, _message: object) -> None:
        raise ValueError("no")

    rig.switch.set_behavior(2, hook, None)
    port(rig).send_local(b"")
    rig.turn()
    assert rig.sink.of("hook error") == [("ValueError", "no")]


@pytest.mark.parametrize("thing", [None, 1, b"message", object()])
def test_reply_to_something_else_raises_a_type_error(rig: Rig, thing: Any) -> None:
    with pytest.raises(TypeError, match=f"a reply is to a Message, not to {type(thing).__name__}"):
        port(rig).reply(thing, b"")
