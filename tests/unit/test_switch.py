"""Switch: which frame is delivered, relayed or dropped, and in which counter it ends."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from netcore import wire
from netcore.errors import (
    LocalError,
    NoRouteError,
)
from netcore.route import RouteAction, RouteRule
from netcore.stats import SWITCH_COUNTERS
from support.sinks import (
    CONN_A,
    CONN_B,
    NODE,
    NODE_A,
    NODE_B,
    Rig,
    direct,
    frame,
    to_key,
    to_node,
    to_service,
)

FAR = 0x0C000001  # a node that is nobody's neighbour


@pytest.fixture
def rig(kernels: ModuleType) -> Iterator[Rig]:
    with Rig(kernels) as found:
        yield found
        assert found.errors == []


def port(rig: Rig, service: int = 2, conn: Any = None) -> Any:
    return rig.kernels.Port(rig.switch, service, conn)


# -- delivery -------------------------------------------------------------------------------------


def test_direct_message_is_delivered_to_the_behavior_of_its_service(rig: Rig) -> None:
    conn, _ = rig.channel()
    rig.switch.set_behavior(2, rig.sink.on_message, "agent")
    # kind 0, 11 bytes: no flags, ttl 64, services 1 -> 2, stream 7, payload
    conn.receive_data(bytes.fromhex("0000000b 00400102 00000007 616263"))
    assert rig.sink.of("message") == [
        ("agent", b"abc", NODE_A, 1, 2, RouteRule.direct(), 7, 0, 64, True)
    ]
    assert rig.counts() == {"messages_delivered": 1}


def test_message_to_this_node_says_all_of_its_header(rig: Rig) -> None:
    conn, _ = rig.channel()
    rig.switch.set_behavior(34, rig.sink.on_message, None)
    # from node 1000, to this node (the "node" vector of docs/protocol.md)
    conn.receive_data(bytes.fromhex("00000012 2B422122 000000DE 000003E8 01020304 ABCD"))
    assert rig.sink.of("message") == [
        (None, b"\xab\xcd", 1000, 33, 34, RouteRule.node(NODE), 222, 3, 66, False)
    ]


def test_message_of_the_neighbour_itself_is_verified(rig: Rig) -> None:
    conn, _ = rig.channel()
    rig.switch.set_behavior(2, rig.sink.on_message, None)
    conn.receive_data(to_node(NODE, from_node=NODE_A) + to_node(NODE, from_node=NODE_B))
    assert [event[-1] for event in rig.sink.of("message")] == [True, False]


def test_handler_of_the_link_comes_before_the_behavior(rig: Rig) -> None:
    conn, _ = rig.channel()
    other, _ = rig.channel(CONN_B, NODE_B)
    rig.switch.set_behavior(2, rig.sink.on_message, "behavior")
    conn.set_handler(2, rig.sink.on_message, "handler")
    conn.receive_data(direct())
    other.receive_data(direct())
    conn.set_handler(2, None)
    conn.receive_data(direct())
    assert [event[0] for event in rig.sink.of("message")] == ["handler", "behavior", "behavior"]


def test_call_goes_to_the_sink_with_its_link(rig: Rig) -> None:
    conn, _ = rig.channel()
    rig.switch.set_behavior(2, rig.sink.on_message, None)
    conn.receive_data(to_node(NODE, b"request", kind=wire.KIND_CALL))
    assert rig.sink.of("call") == [
        (CONN_A, b"request", NODE_A, 1, 2, RouteRule.node(NODE), 0, 0, 64, True)
    ]
    assert rig.counts() == {"messages_delivered": 1}


def test_message_for_a_service_nobody_has_is_dropped(rig: Rig) -> None:
    conn, _ = rig.channel()
    conn.receive_data(direct() + to_node(NODE))
    assert rig.counts() == {"dropped_no_service": 2}


def test_behavior_taken_back_gets_nothing(rig: Rig) -> None:
    conn, _ = rig.channel()
    rig.switch.set_behavior(2, rig.sink.on_message, None)
    rig.switch.set_behavior(2, None)
    conn.receive_data(direct())
    assert rig.counts() == {"dropped_no_service": 1}


@pytest.mark.parametrize("offered", [True, False])
def test_direct_message_of_a_reserved_service_counts_as_control(rig: Rig, offered: bool) -> None:
    conn, _ = rig.channel()
    if offered:
        rig.switch.set_behavior(255, rig.sink.on_message, None)
    conn.receive_data(direct(to_service=255))
    assert rig.counts() == {"control_received": 1}
    assert len(rig.sink.of("message")) == offered


def test_routed_message_of_a_reserved_service_counts_as_message(rig: Rig) -> None:
    conn, _ = rig.channel()
    rig.table.set_service_local(255, True)
    conn.receive_data(to_service(255))
    assert rig.counts() == {"dropped_no_service": 1}


def test_exception_of_a_hook_is_told_and_the_next_message_arrives(rig: Rig) -> None:
    conn, _ = rig.channel()

    def hook(agent: object, message: Any) -> None:
        rig.sink.on_message(agent, message)
        raise ValueError(message.payload)

    rig.switch.set_behavior(2, hook, None)
    conn.receive_data(direct(b"1") + direct(b"2"))
    assert rig.sink.payloads() == [b"1", b"2"]
    assert rig.sink.of("hook error") == [("ValueError", "b'1'"), ("ValueError", "b'2'")]
    assert rig.counts() == {"messages_delivered": 2}
    assert conn.state == 0


def test_exception_of_on_call_is_told(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    conn, _ = rig.channel()

    def on_call(*_: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(rig.sink, "on_call", on_call)
    conn.receive_data(to_node(NODE, kind=wire.KIND_CALL))
    assert rig.sink.of("hook error") == [("KeyError", "'x'")]


def test_sink_drains_after_a_hook_that_asked_for_something(rig: Rig) -> None:
    conn, _ = rig.channel()
    drained: list[int] = []

    def hook(agent: object, message: Any) -> None:
        drained.append(rig.sink.drained)
        if message.payload == b"ask":
            rig.sink.commands.append("anything")

    rig.switch.set_behavior(2, hook, None)
    conn.receive_data(direct(b"ask") + direct() + direct())
    assert drained == [0, 1, 1]


def test_sends_to_oneself_in_a_hook_are_delivered_before_the_next_frame(rig: Rig) -> None:
    conn, _ = rig.channel()
    rig.switch.set_behavior(2, lambda _agent, m: port(rig, 3).send_local(b"in " + m.payload), None)
    rig.switch.set_behavior(3, rig.sink.on_message, None)
    conn.receive_data(direct(b"1") + direct(b"2"))
    assert rig.sink.payloads() == [b"in 1", b"in 2"]


# -- relaying -------------------------------------------------------------------------------------


def test_relayed_frame_loses_one_hop_and_nothing_else(rig: Rig) -> None:
    conn, _ = rig.channel()
    _, out = rig.channel(CONN_B, NODE_B)
    conn.receive_data(bytes.fromhex("00000012 2B422122 000000DE 000003E8 0B000001 ABCD"))
    rig.turn()
    assert out.taken.hex() == "000000122b412122000000de000003e80b000001abcd"
    assert rig.counts() == {"messages_relayed": 1}


def test_calls_are_relayed_like_messages(rig: Rig) -> None:
    conn, _ = rig.channel()
    _, out = rig.channel(CONN_B, NODE_B)
    conn.receive_data(to_node(NODE_B, b"x", kind=wire.KIND_CALL))
    rig.turn()
    assert out.taken == to_node(NODE_B, b"x", kind=wire.KIND_CALL, ttl=63)


def test_frames_for_several_next_hops_keep_their_order(rig: Rig) -> None:
    conn, _ = rig.channel()
    _, out_b = rig.channel(CONN_B, NODE_B)
    _, out_c = rig.channel(0x30200, 0x0C000001)
    rig.switch.set_behavior(2, rig.sink.on_message, None)
    order = [NODE_B, NODE_B, FAR, NODE_B, NODE, NODE_B, FAR, FAR, 0x0D000000, FAR, NODE_B]
    conn.receive_data(b"".join(to_node(node, bytes([i])) for i, node in enumerate(order)))
    rig.turn()
    assert out_b.taken == b"".join(to_node(NODE_B, bytes([i]), ttl=63) for i in (0, 1, 3, 5, 10))
    assert out_c.taken == b"".join(to_node(FAR, bytes([i]), ttl=63) for i in (2, 6, 7, 9))
    assert rig.sink.payloads() == [b"\x04"]
    assert rig.counts() == {
        "messages_delivered": 1, "messages_relayed": 9, "dropped_no_route": 1,
    }  # fmt: skip


def test_keys_and_services_are_relayed_by_the_table(rig: Rig) -> None:
    conn, _ = rig.channel()
    _, out = rig.channel(CONN_B, NODE_B)
    rig.table.set_service_next(9, CONN_B, NODE_B)
    conn.receive_data(to_key(0x0BFFFFFF, b"k") + to_service(9, b"s"))
    rig.turn()
    # ttl 63
    assert out.taken.hex() == (
        "0000000d183f0102000000000bffffff6b" + "0000000d103f0109000000000000000073"
    )


def test_change_of_the_table_in_a_hook_counts_for_the_next_frame(rig: Rig) -> None:
    conn, _ = rig.channel()
    _, out = rig.channel(CONN_B, NODE_B)

    def hook(_agent: object, _message: object) -> None:
        rig.table.clear_next(3, NODE_B >> 24)

    rig.switch.set_behavior(2, hook, None)
    conn.receive_data(to_node(NODE_B, b"1") + direct() + to_node(NODE_B, b"2"))
    rig.turn()
    assert out.taken == to_node(NODE_B, b"1", ttl=63)
    assert rig.counts() == {
        "messages_delivered": 1, "messages_relayed": 1, "dropped_no_route": 1,
    }  # fmt: skip


def test_close_of_the_next_hop_in_a_hook_counts_for_the_next_frame(rig: Rig) -> None:
    conn, _ = rig.channel()
    hop, out = rig.channel(CONN_B, NODE_B)
    rig.switch.set_behavior(2, lambda *_: hop.close(), None)
    conn.receive_data(to_node(NODE_B, b"1") + direct() + to_node(NODE_B, b"2"))
    rig.turn()
    assert out.taken == to_node(NODE_B, b"1", ttl=63) + bytes.fromhex("12000002 0000")
    assert rig.counts()["dropped_no_route"] == 1


def test_frames_of_all_sizes_are_relayed_whole(rig: Rig) -> None:
    conn, theirs = rig.link()
    _, out = rig.channel(CONN_B, NODE_B)
    sizes = [0, 1, 4075, 4076, 4077, 16383, 16384, 32748, 32749, 65515, 65516, 65517, 300_000]
    sent = [to_node(NODE_B, bytes([i]) * size) for i, size in enumerate(sizes)]
    feed(rig, theirs, b"".join(sent))
    rig.turn()
    expected = [to_node(NODE_B, bytes([i]) * size, ttl=63) for i, size in enumerate(sizes)]
    assert out.taken == b"".join(expected)
    assert rig.counts() == {"messages_relayed": len(sizes)}
    assert conn.frames_received == len(sizes)


def feed(rig: Rig, theirs: Any, data: bytes) -> None:
    """Send through a socket pair whose buffers are smaller than the data."""
    while data:
        data = data[theirs.send(data[:100_000]) :]
        rig.turn()


# -- drops: each counter --------------------------------------------------------------------------


def test_frame_to_an_unknown_node_is_dropped(rig: Rig) -> None:
    conn, _ = rig.channel()
    conn.receive_data(to_node(FAR))
    assert rig.counts() == {"dropped_no_route": 1}


def test_frame_whose_next_hop_is_gone_is_dropped(rig: Rig) -> None:
    conn, _ = rig.channel()
    rig.table.set_next(3, FAR >> 24, 0x99999900, FAR)
    conn.receive_data(to_node(FAR))
    assert rig.counts() == {"dropped_no_route": 1}


@pytest.mark.parametrize("ttl", [0, 1])
def test_frame_whose_hops_are_used_up_is_dropped_before_it_is_forwarded(rig: Rig, ttl: int) -> None:
    conn, _ = rig.channel()
    _, out = rig.channel(CONN_B, NODE_B)
    conn.receive_data(to_node(NODE_B) + to_node(NODE_B, ttl=ttl) + to_node(NODE_B, ttl=2))
    rig.turn()
    assert out.taken == to_node(NODE_B, ttl=63) + to_node(NODE_B, ttl=1)
    assert rig.counts() == {"messages_relayed": 2, "dropped_ttl_expired": 1}


def test_local_delivery_ignores_the_ttl(rig: Rig) -> None:
    conn, _ = rig.channel()
    rig.switch.set_behavior(2, rig.sink.on_message, None)
    conn.receive_data(to_node(NODE, ttl=0))
    assert rig.counts() == {"messages_delivered": 1}


def test_frame_is_not_relayed_to_the_neighbour_it_came_from(rig: Rig) -> None:
    conn, out = rig.channel()
    conn.receive_data(to_node(NODE_A))
    rig.turn()
    assert out.taken == b""
    assert rig.counts() == {"dropped_returned": 1}


def test_frame_is_not_relayed_over_another_link_to_the_same_neighbour(rig: Rig) -> None:
    conn, _ = rig.channel()
    _, parallel = rig.channel(CONN_B, NODE_A)
    conn.receive_data(to_node(NODE_A))
    rig.turn()
    assert parallel.taken == b""
    assert rig.counts() == {"dropped_returned": 1}


def test_alternate_is_used_instead_of_going_back(rig: Rig) -> None:
    conn, _ = rig.channel()
    _, out = rig.channel(CONN_B, NODE_B)
    rig.table.set_next(3, FAR >> 24, CONN_A, NODE_A, CONN_B, NODE_B)
    conn.receive_data(to_node(FAR))
    rig.turn()
    assert out.taken == to_node(FAR, ttl=63)


def test_frame_larger_than_the_next_hop_takes_is_dropped(rig: Rig) -> None:
    conn, _ = rig.channel()
    _, out = rig.channel(CONN_B, NODE_B, max_frame_bytes=116)
    conn.receive_data(to_node(NODE_B, bytes(100)) + to_node(NODE_B, bytes(101)))
    conn.receive_data(to_node(NODE_B, bytes(50_000)))
    rig.turn()
    assert out.taken == to_node(NODE_B, bytes(100), ttl=63)
    assert rig.counts() == {"messages_relayed": 1, "dropped_too_big": 2}


def test_frame_for_a_full_next_hop_is_dropped_and_counted_on_that_link(rig: Rig) -> None:
    conn, _ = rig.channel()
    hop, _ = rig.channel(CONN_B, NODE_B, room=0)
    one = to_node(NODE_B, bytes(1_000))  # 1020 bytes
    conn.receive_data(one * 2_000)
    accepted = -(-(1 << 20) // len(one))  # while less than write_high_bytes wait
    assert rig.counts() == {
        "messages_relayed": accepted, "dropped_relay_queue_full": 2_000 - accepted,
    }  # fmt: skip
    assert hop.relay_queue_full == 2_000 - accepted
    assert hop.queued_bytes == accepted * len(one)


def test_frames_queued_on_a_link_that_breaks_are_counted(rig: Rig) -> None:
    conn, _ = rig.channel()
    hop, _ = rig.channel(CONN_B, NODE_B, room=30)
    conn.receive_data(to_node(NODE_B, b"12345") * 3)
    rig.turn()
    hop.send_control(wire.KIND_PING, bytes(11))
    hop.fail(wire.CLOSE_DEAD, "silence")
    rig.turn()
    # The first frame has left, the second in part: that one and the third are lost.
    assert rig.counts()["dropped_link_closed"] == 2


# -- an injected router ---------------------------------------------------------------------------


class Router:
    def __init__(self) -> None:
        self.asked: list[tuple[RouteRule, int]] = []
        self.answer: Any = RouteAction.REJECT

    def path_to(self, rule: RouteRule, service_id: int) -> RouteAction:
        self.asked.append((rule, service_id))
        if isinstance(self.answer, Exception):
            raise self.answer
        answer: RouteAction = self.answer
        return answer


@pytest.fixture
def routed(kernels: ModuleType) -> Iterator[tuple[Rig, Router]]:
    router = Router()
    with Rig(kernels, router) as rig:
        yield rig, router


def test_router_is_asked_for_each_message_that_is_not_direct(routed: tuple[Rig, Router]) -> None:
    rig, router = routed
    conn, _ = rig.channel()
    conn.receive_data(direct() + to_node(FAR) + to_node(FAR) + to_key(5) + to_service(9))
    assert router.asked == [
        (RouteRule.node(FAR), 2), (RouteRule.node(FAR), 2), (RouteRule.closest(5), 2),
        (RouteRule.service(), 9),
    ]  # fmt: skip
    assert rig.counts() == {"dropped_no_route": 4, "dropped_no_service": 1}


def test_router_decides_where_frames_go(routed: tuple[Rig, Router]) -> None:
    rig, router = routed
    conn, _ = rig.channel()
    _, out = rig.channel(CONN_B, NODE_B)
    router.answer = RouteAction.next_hop(CONN_B, NODE_B)
    conn.receive_data(to_node(FAR) * 2)
    router.answer = RouteAction.LOCAL
    rig.switch.set_behavior(2, rig.sink.on_message, None)
    conn.receive_data(to_node(FAR, b"for me"))
    rig.turn()
    assert out.taken == to_node(FAR, ttl=63) * 2
    assert rig.sink.payloads() == [b"for me"]


def test_router_that_raises_is_told_and_the_frame_counted(routed: tuple[Rig, Router]) -> None:
    rig, router = routed
    conn, _ = rig.channel()
    router.answer = ValueError("no idea")
    conn.receive_data(to_node(FAR) * 2)
    assert rig.sink.of("hook error") == [("ValueError", "no idea")] * 2
    assert rig.counts() == {"dropped_router_error": 2}


def test_router_that_returns_nonsense_is_told(routed: tuple[Rig, Router]) -> None:
    rig, router = routed
    conn, _ = rig.channel()
    router.answer = None
    conn.receive_data(to_node(FAR))
    ((kind, text),) = rig.sink.of("hook error")
    assert (kind, "action" in text) == ("AttributeError", True)


@pytest.mark.parametrize("answer", [RouteAction(2, -1, 5), RouteAction(2, 1 << 70), RouteAction(9)])
def test_router_that_answers_with_an_impossible_link_drops(
    routed: tuple[Rig, Router], answer: RouteAction
) -> None:
    rig, router = routed
    conn, _ = rig.channel()
    router.answer = answer
    conn.receive_data(to_node(FAR))
    assert rig.counts() == {"dropped_no_route": 1}


def test_send_through_a_router_that_raises_has_no_route(routed: tuple[Rig, Router]) -> None:
    rig, router = routed
    router.answer = ValueError("no idea")
    with pytest.raises(NoRouteError, match="no route to node 201326593"):
        port(rig).send_to_node(FAR, b"")
    assert rig.sink.of("hook error") == [("ValueError", "no idea")]


# -- the set of links -----------------------------------------------------------------------------


def test_links_are_listed_oldest_first_until_they_have_ended(rig: Rig) -> None:
    conn_b, _ = rig.channel(CONN_B, NODE_B)
    conn_a, _ = rig.channel(CONN_A, NODE_A)
    assert rig.switch.connections() == [conn_b, conn_a]
    conn_b.close()
    assert rig.switch.find_connection(CONN_B) is conn_b
    conn_b.fail(wire.CLOSE_DEAD, "")
    assert rig.switch.connections() == [conn_b, conn_a]
    conn_a.fail(wire.CLOSE_DEAD, "")
    rig.turn()
    assert rig.switch.connections() == []
    assert rig.switch.find_connection(CONN_B) is None


def test_conn_id_in_use_is_refused(rig: Rig) -> None:
    rig.channel()
    with pytest.raises(LocalError, match=r"Conn\(out,tcp,1\) is in use"):
        rig.channel()


def test_conn_id_may_be_used_again_after_the_end(rig: Rig) -> None:
    old, _ = rig.channel()
    port(rig).send_to_node(NODE_A, b"")
    old.fail(wire.CLOSE_DEAD, "")
    rig.turn()
    _, out = rig.channel()
    port(rig).send_to_node(NODE_A, b"")
    rig.turn()
    assert len(out.taken) == 20


def test_links_whose_ids_share_their_low_bits_are_told_apart(rig: Rig) -> None:
    conns = [(1 + 1024 * i) << 16 | 0x200 for i in range(3)]
    outs = [rig.channel(conn, (0x0A + i) << 24)[1] for i, conn in enumerate(conns)]
    for _ in range(2):
        for i in range(3):
            port(rig).send_to_node((0x0A + i) << 24, bytes(i))
    rig.turn()
    assert [len(out.taken) for out in outs] == [40, 42, 44]


@pytest.mark.parametrize("both", [True, False])
def test_link_needs_exactly_one_stream(rig: Rig, both: bool) -> None:
    stream: Any = object() if both else None
    with pytest.raises(LocalError, match="a connection needs a socket or a channel, and not both"):
        rig.switch.add_connection(CONN_A, NODE_A, sock=stream, channel=stream)


def test_find_connection_of_anything_else_finds_nothing(rig: Rig) -> None:
    assert [rig.switch.find_connection(key) for key in (5, -1, 1 << 70, "x", None)] == [None] * 5


def test_counters_have_the_names_of_the_statistics(rig: Rig) -> None:
    counters = rig.switch.counters()
    assert tuple(counters) == SWITCH_COUNTERS
    assert set(counters.values()) == {0}


def test_bytes_are_counted_in_both_directions(rig: Rig) -> None:
    conn, _ = rig.channel()
    conn.receive_data(direct(b"12345"))
    port(rig).send_to_node(NODE_A, b"12345")
    rig.turn()
    counters = rig.switch.counters()
    assert (counters["bytes_received"], counters["bytes_sent"]) == (17, 25)
    assert (conn.bytes_received, conn.bytes_sent) == (17, 25)


def test_settings_can_be_read(rig: Rig) -> None:
    switch = rig.switch
    assert switch.loop is rig.loop
    assert (switch.node_id, switch.max_frame_bytes, switch.close_timeout_ms) == (
        NODE, 1 << 20, 1_000,
    )  # fmt: skip
    assert (switch.read_budget_bytes, switch.write_high_bytes, switch.write_low_bytes) == (
        1 << 18, 1 << 20, 1 << 18,
    )  # fmt: skip
    assert (switch.control_queue_bytes, switch.local_queue_bytes) == (1 << 18, 1 << 20)


@pytest.mark.parametrize("kind", [0x02, 0x80, 0xFF])
def test_frames_of_other_kinds_are_ignored_and_counted(rig: Rig, kind: int) -> None:
    conn, _ = rig.channel()
    rig.switch.set_behavior(2, rig.sink.on_message, None)
    conn.receive_data(frame(kind, b"") + frame(kind, bytes(50_000)) + direct(b"next"))
    assert rig.counts() == {"frames_ignored": 2, "messages_delivered": 1}
