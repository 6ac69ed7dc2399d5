"""Nodes over TCP in one process: addresses, hops, sizes."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator

import pytest

from netcore import (
    AddressError,
    BehaviorAgent,
    DestinationNotFound,
    IdentityMismatch,
    LocalError,
    Message,
    MessageTooBigError,
    NetworkBehavior,
    RouteRule,
    SelfConnect,
    UnsupportedProtocol,
    WaitTimeoutError,
    wire,
)
from netcore._backend import BackendName
from support.nodes import (
    ANY,
    ECHO,
    SINK,
    Nodes,
    closed_port,
    has_ipv6,
    linked,
    nodes_of,
)

needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
#: Sizes at which something changes: kept inline, by reference, one read, one write, several.
SIZES = [0, 1, 63, 64, 65, 4_096, 65_535, 65_536, 65_537, 262_144]
#: A message that is routed to a node has a header of 16 bytes.
ROUTED_HEADER = 16


@pytest.fixture
def nodes(backend: BackendName) -> Iterator[Nodes]:
    with nodes_of(backend) as nodes:
        yield nodes


def content(size: int, seed: int = 0) -> bytes:
    """Return bytes in which every displacement shows."""
    return random.Random(seed).randbytes(size)


# -- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "/ip4/127.0.0.1/tcp/0",
        pytest.param("/ip6/::1/tcp/0", marks=needs_ipv6),
    ],
)
def test_node_at_a_loopback_address_is_reached(nodes: Nodes, address: str) -> None:
    one, two = nodes.add(1), nodes.add(2)
    nodes.join(one, two, address)
    assert nodes.send_until_echoed(one, 2, [b"hello"]) == [b"hello"]


@needs_ipv6
@pytest.mark.parametrize("host", ["/ip4/127.0.0.1", "/ip6/::1"])
def test_node_on_both_stacks_is_reached_by_either(nodes: Nodes, host: str) -> None:
    one, two = nodes.add(1), nodes.add(2, insecure=True)
    port = two.listen("/ip6/::/tcp/0").endpoints[0].port
    one.connect(f"2@{host}/tcp/{port}")
    nodes.until(lambda: linked(one, two))
    assert two.connections[0].remote_addr.startswith(host)
    assert nodes.send_until_echoed(one, 2, [b"hello"]) == [b"hello"]


def test_node_is_reached_by_a_name(nodes: Nodes) -> None:
    one, two = nodes.add(1), nodes.add(2)
    port = two.listen(ANY).endpoints[0].port
    one.connect(f"2@/dns/localhost/tcp/{port}")
    nodes.until(lambda: linked(one, two))
    assert nodes.send_until_echoed(one, 2, [b"hello"]) == [b"hello"]


def test_connect_with_a_dead_alternative_first_takes_the_second(nodes: Nodes) -> None:
    one, two = nodes.add(1), nodes.add(2)
    port = two.listen(ANY).endpoints[0].port
    one.connect(f"2@/ip4/127.0.0.1/tcp/{closed_port()}/ip4/127.0.0.1/tcp/{port}")
    nodes.until(lambda: linked(one, two))
    assert nodes.sinks[one].errors == []
    assert one.stats().dials == 1


def test_connect_with_another_node_at_the_first_alternative_takes_the_second(nodes: Nodes) -> None:
    one, two, three = nodes.add(1), nodes.add(2), nodes.add(3)
    wrong = three.listen(ANY).endpoints[0].port
    port = two.listen(ANY).endpoints[0].port
    one.connect(f"2@/ip4/127.0.0.1/tcp/{wrong}/ip4/127.0.0.1/tcp/{port}")
    nodes.until(lambda: linked(one, two))
    assert nodes.sinks[one].errors == []


def test_listen_on_several_endpoints_gives_all_of_them_to_dial(nodes: Nodes) -> None:
    one, two, three = nodes.add(1), nodes.add(2), nodes.add(3)
    addr = one.listen("/ip4/127.0.0.1/tcp/0/ip4/127.0.0.1/tcp/0")
    first, second = (endpoint.port for endpoint in addr.endpoints)
    assert first != second
    assert one.addrs == (addr,)
    two.connect(f"/ip4/127.0.0.1/tcp/{first}")
    three.connect(f"/ip4/127.0.0.1/tcp/{second}")
    nodes.until(lambda: linked(one, two) and linked(one, three))


def test_connect_without_a_node_id_learns_it(nodes: Nodes) -> None:
    one, two = nodes.add(1), nodes.add(2)
    host, port = "127.0.0.1", two.listen(ANY).endpoints[0].port
    conn_id = one.connect(f"/ip4/{host}/tcp/{port}")
    nodes.until(lambda: linked(one, two))
    assert [(c.conn_id, c.remote_node_id) for c in nodes.sinks[one].up] == [(conn_id, 2)]


def test_connect_to_another_node_than_expected_is_an_identity_mismatch(nodes: Nodes) -> None:
    one, two = nodes.add(1), nodes.add(2)
    conn_id = one.connect(two.listen(ANY).with_node_id(3))
    nodes.until(lambda: nodes.sinks[one].errors)
    node_id, failed, error = nodes.sinks[one].errors[0]
    assert (node_id, failed, type(error)) == (3, conn_id, IdentityMismatch)
    nodes.until(lambda: two.stats().handshakes_failed == 1)
    assert two.connections == ()


def test_connect_where_nobody_listens_finds_nobody(nodes: Nodes) -> None:
    one = nodes.add(1)
    one.connect(f"2@/ip4/127.0.0.1/tcp/{closed_port()}")
    nodes.until(lambda: nodes.sinks[one].errors)
    assert type(nodes.sinks[one].error) is DestinationNotFound


def test_connect_to_oneself_is_a_self_connect(nodes: Nodes) -> None:
    one = nodes.add(1)
    port = one.listen(ANY).endpoints[0].port
    one.connect(f"/ip4/127.0.0.1/tcp/{port}")
    nodes.until(lambda: nodes.sinks[one].errors)
    assert type(nodes.sinks[one].error) is SelfConnect


def test_connect_without_a_transport_for_it_is_unsupported(nodes: Nodes) -> None:
    one = nodes.add(1, transports=[])
    one.connect(f"2@/ip4/127.0.0.1/tcp/{closed_port()}")
    nodes.until(lambda: nodes.sinks[one].errors)
    assert type(nodes.sinks[one].error) is UnsupportedProtocol


def test_listen_under_another_node_id_raises(nodes: Nodes) -> None:
    with pytest.raises(LocalError, match="this is node 1"):
        nodes.add(1).listen("2@/ip4/127.0.0.1/tcp/0")


def test_listen_on_a_taken_port_raises_and_leaves_nothing_open(nodes: Nodes) -> None:
    one, two = nodes.add(1), nodes.add(2)
    taken = one.listen(ANY).endpoints[0].port
    free = closed_port()
    with pytest.raises(OSError, match="in use"):
        two.listen(f"/ip4/127.0.0.1/tcp/{free}/ip4/127.0.0.1/tcp/{taken}")
    assert two.addrs == ()
    two.connect(f"/ip4/127.0.0.1/tcp/{free}")
    nodes.until(lambda: nodes.sinks[two].errors)
    assert type(nodes.sinks[two].error) is DestinationNotFound


def test_connect_to_no_address_raises(nodes: Nodes) -> None:
    with pytest.raises(AddressError):
        nodes.add(1).connect("2@/ip4/127.0.0.1/udp/1")


def test_wait_connected_returns_when_the_link_is_up(nodes: Nodes) -> None:
    one, two = nodes.add(1), nodes.add(2)
    one.connect(two.listen(ANY))
    nodes.until(lambda: linked(one, two))
    one.wait_connected(2, timeout_s=0)


def test_wait_connected_without_a_link_times_out(nodes: Nodes) -> None:
    with pytest.raises(WaitTimeoutError, match="node 2"):
        nodes.add(1).wait_connected(2, timeout_s=0.02)


# -- hops ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 5])
def test_message_travels_over_every_hop_and_back(nodes: Nodes, count: int) -> None:
    chain = nodes.chain(count)
    payloads = [content(size) for size in SIZES]
    assert nodes.send_until_echoed(chain[0], count, payloads) == payloads
    relayed = [node.stats().messages_relayed for node in chain]
    assert relayed == [0, *[2 * len(payloads)] * (count - 2), 0]


def test_message_over_a_relay_names_its_sender_unverified(nodes: Nodes) -> None:
    one, two, three = nodes.chain(3)
    one.agent(SINK).send_to_node(3, b"far")
    one.agent(SINK).send_to_node(2, b"near")
    nodes.until(lambda: nodes.sinks[three].messages and nodes.sinks[two].messages)
    far, near = nodes.sinks[three].messages[0], nodes.sinks[two].messages[0]
    assert (far.from_node, far.sender_verified, far.ttl) == (1, False, 63)
    assert (near.from_node, near.sender_verified, near.ttl) == (1, True, 64)


def test_call_over_two_relays_is_answered(nodes: Nodes) -> None:
    one = nodes.chain(4)[0]
    answers: list[bytes] = []
    one.agent(SINK).call(RouteRule.node(4), 20, b"1 2 3", lambda a: answers.append(a.result()))
    nodes.until(lambda: answers)
    assert answers == [b"6"]


# -- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_echo_returns_every_byte(nodes: Nodes, size: int) -> None:
    one, two = nodes.add(1), nodes.add(2)
    nodes.join(one, two)
    payloads = [content(size, seed) for seed in range(3)]
    assert nodes.send_until_echoed(one, 2, payloads) == payloads


@pytest.mark.parametrize("limit", [4_096, wire.DEFAULT_MAX_FRAME_BYTES])
def test_largest_frame_passes_and_one_byte_more_raises(nodes: Nodes, limit: int) -> None:
    one, two = nodes.add(1, max_frame_bytes=limit), nodes.add(2, max_frame_bytes=limit)
    nodes.join(one, two)
    largest = content(limit - ROUTED_HEADER)
    assert nodes.send_until_echoed(one, 2, [largest]) == [largest]
    with pytest.raises(MessageTooBigError) as caught:
        one.agent(SINK).send_to_node(2, largest + b"!", to_service=ECHO)
    assert (caught.value.size, caught.value.limit) == (limit + 1, limit)
    assert nodes.send_until_echoed(one, 2, [b"goes on"]) == [b"goes on"]


def test_largest_frame_of_a_link_is_the_smaller_of_both_ends(nodes: Nodes) -> None:
    one, two = nodes.add(1), nodes.add(2, max_frame_bytes=8_192)
    nodes.join(one, two)
    with pytest.raises(MessageTooBigError) as caught:
        one.agent(SINK).send_to_node(2, bytes(8_193 - ROUTED_HEADER))
    assert (caught.value.size, caught.value.limit) == (8_193, 8_192)
    one.agent(SINK).send_to_node(2, bytes(8_192 - ROUTED_HEADER))
    nodes.until(lambda: nodes.sinks[two].messages)


def test_largest_configurable_frame_passes(nodes: Nodes) -> None:
    limit = wire.MAX_FRAME_BYTES
    options = {"max_frame_bytes": limit, "write_high_bytes": 64 << 20}
    one, two = nodes.add(1, **options), nodes.add(2, **options)
    nodes.join(one, two)
    payload = content(limit - ROUTED_HEADER)
    assert nodes.send_until_echoed(one, 2, [payload, b"behind"]) == [payload, b"behind"]


def test_many_messages_of_all_sizes_arrive_in_order(nodes: Nodes) -> None:
    one, two = nodes.add(1), nodes.add(2)
    nodes.join(one, two)
    rnd = random.Random(7)
    payloads = [content(rnd.choice([*SIZES, rnd.randrange(3_000)]), i) for i in range(300)]
    assert nodes.send_until_echoed(one, 2, payloads) == payloads


class Scribbler(NetworkBehavior):
    """Sends from one buffer and writes over it at once."""

    service_id = 30

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        buffer = bytearray(message.payload)
        agent.reply(message, buffer)
        buffer[:] = bytes(len(buffer))
        buffer.append(0)  # it is not held on to either


@pytest.mark.parametrize("size", [1, 64, 4_096, 200_000])
def test_payload_in_a_bytearray_is_copied_when_sent(nodes: Nodes, size: int) -> None:
    one, two = nodes.add(1), nodes.add(2, Scribbler())
    nodes.join(one, two)
    payload = content(size)
    one.agent(SINK).send_to_node(2, payload, to_service=30)
    nodes.until(lambda: nodes.sinks[one].messages)
    assert nodes.sinks[one].payloads == [payload]


@pytest.mark.parametrize("step", [1, 3])
def test_payload_in_a_memoryview_is_sent_as_its_bytes(nodes: Nodes, step: int) -> None:
    one, two = nodes.add(1), nodes.add(2)
    nodes.join(one, two)
    view = memoryview(content(9_000))[::step]
    one.agent(SINK).send_to_node(2, view, to_service=ECHO)
    nodes.until(lambda: nodes.sinks[one].messages)
    assert nodes.sinks[one].payloads == [view.tobytes()]


@pytest.mark.parametrize("payload", ["text", 5, None, [1]])
def test_payload_that_is_not_bytes_raises_and_sends_nothing(nodes: Nodes, payload: object) -> None:
    one, two = nodes.add(1), nodes.add(2)
    nodes.join(one, two)
    before = one.stats().messages_sent
    with pytest.raises(TypeError):
        one.agent(SINK).send_to_node(2, payload)  # type: ignore[arg-type]
    assert one.stats().messages_sent == before


def test_payloads_kept_by_a_hook_stay_as_they_came(nodes: Nodes) -> None:
    one, two = nodes.add(1), nodes.add(2)
    nodes.join(one, two)
    expected = [content(size, seed) for seed in range(20) for size in SIZES]
    kept = nodes.sinks[one]
    nodes.send_until_echoed(one, 2, expected)
    nodes.send_until_echoed(one, 2, [bytes(60_000)] * 50)  # over whatever buffers there are
    one.close()
    two.close()
    gc.collect()
    assert kept.payloads[: len(expected)] == expected
