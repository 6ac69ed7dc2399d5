"""Every bound of a node: reached, with a clear error, a counter, and a node that lives on."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from netcore import (
    MessageTooBigError,
    Node,
    QueueFullError,
    RouteAction,
    RouterTable,
    RouteRule,
    SendQueueFullError,
    wire,
)
from netcore._backend import BackendName
from netcore.transport.unix import UnixTransport
from support.campaign import SECRET, Traffic
from support.virtual import Cluster, RawPeer, Spy, cluster_of, until_refused


@pytest.fixture
def cluster(backend: BackendName) -> Iterator[Cluster]:
    with cluster_of(backend, window_bytes=4_096) as made:
        yield made


def fill(node: Node, conn_id: int, size: int = 1_000) -> SendQueueFullError:
    """Send on a link until it refuses."""
    err = until_refused(lambda: node.agent(10).send_to_conn(conn_id, bytes(size)))
    assert isinstance(err, SendQueueFullError)
    return err


# -- send queues ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 1_000, 60_000])
def test_send_queue_is_bounded_by_write_high_bytes_and_one_frame(
    cluster: Cluster, size: int
) -> None:
    there = Spy()
    node = cluster.add(1, Spy(), write_high_bytes=50_000, write_low_bytes=10_000)
    other = cluster.add(2, there)
    conn_id = cluster.join(node, other)
    cluster.frozen.add(other)
    err = fill(node, conn_id, size)
    frame = size + 12
    assert (err.conn, err.limit) == (conn_id, 50_000)
    assert 50_000 <= err.queued < 50_000 + frame
    assert node.connections[0].queued_bytes == err.queued
    sent = node.stats().messages_sent
    assert node.stats().sends_refused == node.connections[0].sends_refused == 1
    cluster.frozen.clear()
    cluster.settle()
    assert len(there.log.of("event")) == sent
    cluster.assert_nothing_lost()


def test_routed_send_meets_the_same_bound(cluster: Cluster) -> None:
    node = cluster.add(1, Spy(), write_high_bytes=5_000, write_low_bytes=10)
    other = cluster.add(2, Spy())
    cluster.join(node, other)
    cluster.frozen.add(other)
    err = until_refused(lambda: node.agent(10).send_to_node(2, bytes(100)))
    assert isinstance(err, SendQueueFullError)
    with pytest.raises(SendQueueFullError):
        node.agent(10).call(RouteRule.node(2), 10, b"", lambda answer: None)
    assert node.stats().sends_refused == 2
    assert node.stats().calls_pending == 0


def test_relay_to_a_full_queue_drops_and_counts_and_reads_on(cluster: Cluster) -> None:
    there = Spy()
    one = cluster.add(1, Spy())
    middle = cluster.add(2, Spy(), write_high_bytes=5_000, write_low_bytes=1_000)
    slow, quick = cluster.add(3, Spy()), cluster.add(4, there)
    cluster.chain(one, middle, slow)
    cluster.join(middle, quick)
    cluster.advance(500)
    cluster.frozen.add(slow)
    for number in range(50):
        one.agent(10).send_to_node(3, bytes(1_000))
        one.agent(10).send_to_node(4, b"%d" % number)
    cluster.settle()
    # One full next hop neither stops the reading nor the traffic to others.
    assert there.log.details("event") == [b"%d" % number for number in range(50)]
    dropped = middle.stats().dropped_relay_queue_full
    assert dropped > 30
    (to_slow,) = [link for link in middle.connections if link.remote_node_id == 3]
    assert to_slow.relay_queue_full == dropped
    assert to_slow.queued_bytes < 5_000 + 1_016 + 4
    cluster.frozen.clear()
    cluster.settle()
    cluster.assert_nothing_lost()


def test_control_queue_refuses_reserved_services_at_its_bound(cluster: Cluster) -> None:
    node = cluster.add(1, Spy(), control_queue_bytes=4_096)
    other = cluster.add(2)
    conn_id = cluster.join(node, other)
    cluster.frozen.add(other)

    def send() -> None:
        node.agent(10).send_to_conn(conn_id, bytes(500), to_service=250)
        node.poll(0)

    err = until_refused(send)
    assert isinstance(err, SendQueueFullError)
    assert (err.conn, err.limit) == (conn_id, 4_096)
    assert len(node.connections) == 1  # a service's excess does not cost the link


def test_control_queue_overflow_by_a_flood_of_pings_closes_the_link(cluster: Cluster) -> None:
    spy = Spy()
    node = cluster.add(1, spy, control_queue_bytes=4_096)
    peer = RawPeer(cluster, 9, node)
    peer.stop_reading()
    ping = (1).to_bytes(8, "big") + (200).to_bytes(2, "big") + b"\0"
    for _ in range(5_000):
        if node.connections:
            peer.frame(wire.KIND_PING, ping)
            cluster.settle()
    assert not node.connections
    assert node.stats().control_overflows == 1
    assert [hook for hook, _ in spy.log.order()][-2:] == ["closed", "disconnected"]


def test_queued_data_does_not_delay_pings(cluster: Cluster) -> None:
    node, other = cluster.add(1, Spy(), write_high_bytes=1 << 24), cluster.add(2, Spy())
    conn_id = cluster.join(node, other)
    for _ in range(10_000):
        node.agent(10).send_to_conn(conn_id, bytes(1_000))
    before = other.connections[0].frames_received
    peer_pings = node.stats().control_received
    # 10 MB through a 4 KiB window: more than one ping interval's worth of turns.
    for _ in range(50):
        cluster.now_ms += 50
        for each in cluster.nodes:
            each.poll(0)
    assert other.connections[0].frames_received > before
    assert node.stats().control_received > peer_pings
    assert node.connections[0].queued_bytes > 0
    assert node.stats().suspects == other.stats().suspects == 0


# -- queues inside the node ----------------------------------------------------------------------


def test_local_queue_is_bounded(cluster: Cluster) -> None:
    spy = Spy()
    node = cluster.add(1, spy, local_queue_bytes=4_096)
    err = until_refused(lambda: node.agent(10).send_local(bytes(100)))
    assert isinstance(err, QueueFullError)
    assert (err.queue, err.limit) == ("local_queue_bytes", 4_096)
    sent = node.stats().messages_sent
    assert 4_096 <= sent * 116 < 4_096 + 116
    assert node.stats().sends_refused == 1
    cluster.settle()
    assert len(spy.log.of("message")) == sent
    node.agent(10).send_local(b"again")
    cluster.settle()
    cluster.assert_nothing_lost()


def test_posts_are_bounded(cluster: Cluster) -> None:
    node = cluster.add(1, max_posts=5)
    cluster.settle()
    done: list[int] = []
    for number in range(5):
        node.post(done.append, number)
    with pytest.raises(QueueFullError) as caught:
        node.post(done.append, 5)
    assert (caught.value.queue, caught.value.limit) == ("max_posts", 5)
    assert node.stats().posts_refused == 1
    cluster.settle()
    assert done == [0, 1, 2, 3, 4]
    node.post(done.append, 6)


def test_posts_of_many_threads_all_arrive_or_are_refused(backend: BackendName) -> None:
    node = Node(1, backend=backend, transports=[], max_posts=50)
    done: list[int] = []
    refused = [0] * 4

    def post(number: int) -> bool:
        try:
            node.post(done.append, number)
        except QueueFullError:
            return False
        return True

    def work(thread: int) -> None:
        refused[thread] = 200 - sum(post(number) for number in range(200))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        node.poll(0)
    node.poll(0)
    node.poll(0)
    assert len(done) + sum(refused) == 800
    assert node.stats().posts_refused == sum(refused)
    node.close()


# -- frames --------------------------------------------------------------------------------------


def test_biggest_frame_passes_and_one_byte_more_is_refused(cluster: Cluster) -> None:
    there = Spy()
    node, other = cluster.add(1, Spy(), max_frame_bytes=5_000), cluster.add(2, there)
    conn_id = cluster.join(node, other)
    node.agent(10).send_to_conn(conn_id, bytes(4_992))
    node.agent(10).send_to_node(2, bytes(4_984))
    for send, size in (("send_to_conn", 4_993), ("send_to_node", 4_985)):
        target = conn_id if send == "send_to_conn" else 2
        with pytest.raises(MessageTooBigError) as caught:
            getattr(node.agent(10), send)(target, bytes(size))
        assert (caught.value.size, caught.value.limit) == (5_001, 5_000)
    cluster.settle()
    assert [len(payload) for payload in there.log.details("event")] == [4_992, 4_984]
    assert node.stats().sends_refused == 2


def test_frame_beyond_the_agreed_limit_closes_the_link(cluster: Cluster) -> None:
    spy = Spy()
    node = cluster.add(1, spy, max_frame_bytes=4_096)
    peer = RawPeer(cluster, 9, node)
    peer.write(bytes([wire.KIND_MESSAGE]) + (4_097).to_bytes(3, "big"))  # the length is enough
    cluster.settle()
    assert not node.connections
    assert node.stats().protocol_errors == 1
    assert spy.log.of("disconnected")


def test_message_too_big_for_a_later_link_is_dropped_and_counted(cluster: Cluster) -> None:
    one, middle = cluster.add(1, Spy()), cluster.add(2)
    last = cluster.add(3, Spy(), max_frame_bytes=4_096)
    cluster.chain(one, middle, last)
    one.agent(10).send_to_node(3, bytes(10_000))
    cluster.settle()
    assert middle.stats().dropped_too_big == 1
    cluster.assert_nothing_lost()


def test_read_budget_lets_others_have_their_turn(backend: BackendName) -> None:
    # Only sockets have a budget: the memory transport's window is one already.
    spies = {number: Spy() for number in (2, 3)}
    sink = Spy(20, handlers=None)
    nodes = [Node(1, [sink], backend=backend, read_budget_bytes=4_096)]
    nodes += [Node(number, [spy], backend=backend) for number, spy in spies.items()]
    addr = nodes[0].listen("/ip4/127.0.0.1/tcp/0")
    try:
        for node in nodes[1:]:
            node.connect(addr)
        while len(nodes[0].connections) < 2:
            for node in nodes:
                node.poll(0.001)
        for node in nodes[1:]:
            for number in range(64):
                node.agent(10).send_to_conn(
                    node.connections[0].conn_id, bytes([number]) * 1_000, to_service=20
                )
            node.poll(0)
        most = 0
        while len(sink.log.of("message")) < 128:
            before = len(sink.log.of("message"))
            nodes[0].poll(0.01)
            most = max(most, len(sink.log.of("message")) - before)
            for node in nodes[1:]:
                node.poll(0)
        assert 0 < most <= 2 * 5
    finally:
        for node in nodes:
            node.close(0)


# -- times ---------------------------------------------------------------------------------------


def test_polite_close_ends_after_close_timeout_ms(cluster: Cluster) -> None:
    spy = Spy()
    node, other = cluster.add(1, spy, close_timeout_ms=700), cluster.add(2)
    conn_id = cluster.join(node, other)
    cluster.frozen.add(other)
    begin = cluster.now_ms
    node.agent(10).close_conn(conn_id)
    cluster.until(lambda: spy.log.of("disconnected"))
    assert cluster.now_ms - begin == 700


def test_queue_of_a_link_that_ends_is_counted_as_dropped(cluster: Cluster) -> None:
    node, other = cluster.add(1, Spy(), close_timeout_ms=0), cluster.add(2, Spy())
    conn_id = cluster.join(node, other)
    cluster.frozen.add(other)
    for _ in range(100):
        node.agent(10).send_to_conn(conn_id, bytes(1_000))
    node.agent(10).close_conn(conn_id)
    cluster.advance(10)
    assert not node.connections
    dropped = node.stats().dropped_link_closed
    assert 90 <= dropped <= 100
    cluster.frozen.clear()
    cluster.advance(3_000)
    # What had left arrives, except for one frame that was cut in two.
    assert other.stats().messages_delivered in (100 - dropped, 100 - dropped - 1)


# -- hops ----------------------------------------------------------------------------------------


class Fixed(RouterTable):
    """Sends everything that is not for this node to one neighbour.

    Attributes:
        to: That neighbour; None: nowhere.
    """

    def __init__(self, node_id: int) -> None:
        self.node_id = node_id
        self.to: tuple[int, int] | None = None

    def path_to_node(self, dest: int) -> RouteAction:
        if dest == self.node_id:
            return RouteAction.LOCAL
        return RouteAction.REJECT if self.to is None else RouteAction.next_hop(*self.to)

    def path_to_key(self, key: int) -> RouteAction:
        return self.path_to_node(key)

    def path_to_service(self, service_id: int) -> RouteAction:
        return self.path_to_node(-1)

    def register_service(self, service_id: int) -> None:
        """Ignore it."""


def ring(cluster: Cluster, count: int) -> list[Node]:
    """Return nodes that pass everything on to the next one, round and round."""
    routers = [Fixed(number) for number in range(count)]
    nodes = [
        cluster.add(number, Spy(), router=router, write_high_bytes=1 << 20)
        for number, router in enumerate(routers)
    ]
    for number, router in enumerate(routers):
        after = nodes[(number + 1) % count]
        router.to = (cluster.join(nodes[number], after, parallel=True), after.node_id)
    return nodes


@pytest.mark.parametrize("ttl", [1, 2, 3, 7, 64, 255])
@pytest.mark.parametrize("count", [3, 4])
def test_frame_in_a_routing_loop_ends_by_its_ttl(cluster: Cluster, ttl: int, count: int) -> None:
    nodes = ring(cluster, count)
    nodes[0].agent(10).send_to_node(99, b"round and round", ttl=ttl)
    cluster.settle()
    assert cluster.total("messages_relayed") == ttl - 1
    assert cluster.total("dropped_ttl_expired") == 1
    assert nodes[ttl % count].stats().dropped_ttl_expired == 1
    cluster.assert_nothing_lost()


@pytest.mark.parametrize("ttl", [1, 2, 3, 4])
def test_ttl_counts_the_hops_and_not_the_delivery(cluster: Cluster, ttl: int) -> None:
    nodes = [cluster.add(number, Spy()) for number in range(1, 5)]
    cluster.chain(*nodes)
    for dest in (2, 3, 4):
        nodes[0].agent(10).send_to_node(dest, b"", ttl=ttl)
    cluster.settle()
    arrived = [node.stats().messages_delivered for node in nodes[1:]]
    assert arrived == [int(hops <= ttl) for hops in (1, 2, 3)]
    assert cluster.total("dropped_ttl_expired") == sum(hops > ttl for hops in (1, 2, 3))


def message(ttl: int, dest: int, payload: bytes = b"") -> bytes:
    """Return the body of a MESSAGE by node id from node 9, service 10 to 10."""
    head = bytes([0x28, ttl, 10, 10]) + bytes(4)  # V0, F, R=node
    return head + (9).to_bytes(4, "big") + dest.to_bytes(4, "big") + payload


@pytest.mark.parametrize("ttl", [0, 1])
def test_frame_with_no_hop_left_is_delivered_but_never_relayed(cluster: Cluster, ttl: int) -> None:
    spy = Spy()
    node, behind = cluster.add(1, spy), cluster.add(2, Spy())
    cluster.join(node, behind)
    peer = RawPeer(cluster, 9, node)
    peer.frame(wire.KIND_MESSAGE, message(ttl, 1, b"for you"))
    peer.frame(wire.KIND_MESSAGE, message(ttl, 2, b"pass it on"))
    cluster.settle()
    assert spy.log.details("event") == [b"for you"]
    assert node.stats().dropped_ttl_expired == 1
    assert behind.stats().messages_delivered == 0


def test_frame_is_never_relayed_to_where_it_came_from(cluster: Cluster) -> None:
    routers = Fixed(1), Fixed(2)
    one, other = (
        cluster.add(number, Spy(), router=router)
        for number, router in zip((1, 2), routers, strict=True)
    )
    routers[0].to = (cluster.join(one, other), 2)
    routers[1].to = (other.connections[0].conn_id, 1)
    one.agent(10).send_to_node(99, b"ping-pong")
    cluster.settle()
    assert other.stats().dropped_returned == 1
    assert one.stats().messages_delivered == 0
    cluster.assert_nothing_lost()


def test_message_without_a_way_on_is_counted_where_it_ends(cluster: Cluster) -> None:
    routers = Fixed(1), Fixed(2)
    one, other = (
        cluster.add(number, Spy(), router=router)
        for number, router in zip((1, 2), routers, strict=True)
    )
    routers[0].to = (cluster.join(one, other), 2)
    one.agent(10).send_to_node(99, b"")
    cluster.settle()
    assert other.stats().dropped_no_route == 1
    routers[1].to = (12345 << 16, 3)  # a link that does not exist
    one.agent(10).send_to_node(99, b"")
    cluster.settle()
    assert other.stats().dropped_no_route == 2
    cluster.assert_nothing_lost()


def test_message_for_a_service_that_is_not_there_is_counted(cluster: Cluster) -> None:
    node, other = cluster.add(1, Spy()), cluster.add(2)
    cluster.join(node, other)
    node.agent(10).send_to_node(2, b"", to_service=99)
    node.agent(10).send_local(b"", to_service=99)
    cluster.settle()
    assert other.stats().dropped_no_service == 1
    assert node.stats().dropped_no_service == 1
    cluster.assert_nothing_lost()


# -- conservation --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("mixed", [False, True], ids=["one backend", "mixed backends"])
def test_sent_is_delivered_plus_dropped_in_random_networks(
    backend: BackendName, mixed: bool, seed: int
) -> None:
    rng = random.Random(seed)
    latency_ms = rng.choice([0, 1, 20])
    window = rng.choice([2_048, 16_384, 262_144])
    with cluster_of(backend, seed=seed, latency_ms=latency_ms, window_bytes=window) as cluster:
        live_and_count(cluster, Traffic(cluster, rng, mixed=mixed))


@pytest.mark.parametrize("seed", range(20, 32))
@pytest.mark.parametrize("secret", [None, SECRET], ids=["open", "auth"])
def test_sent_is_delivered_plus_dropped_over_sockets_that_take_little(
    backend: BackendName,
    secret: bytes | None,
    seed: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = random.Random(seed)
    sndbuf = rng.choice([1, 20_000, 200_000])

    def configure(transport: object, sock: socket.socket, remote: object) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sndbuf)

    monkeypatch.setattr(UnixTransport, "configure", configure, raising=False)
    budget = rng.choice([4_096, 16_384, 262_144])
    with cluster_of(backend, seed=seed, folder=tmp_path) as cluster:
        traffic = Traffic(cluster, rng, mixed=True, secret=secret, read_budget_bytes=budget)
        live_and_count(cluster, traffic)


def live_and_count(cluster: Cluster, traffic: Traffic) -> None:
    for _ in range(60):
        traffic.step()
    traffic.quiet = True
    cluster.until(traffic.is_over)
    cluster.advance(1_000)
    cluster.assert_nothing_lost()
    assert traffic.undone == 0
    assert traffic.deepest == 1
    assert cluster.total("hook_errors") == 0
    assert cluster.total("messages_delivered") > 100
    assert all(link.queued_bytes == 0 for n in cluster.nodes for link in n.connections)
