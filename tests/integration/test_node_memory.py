"""Node's own calls, over the memory transport, on both backends."""

from __future__ import annotations

import random
import select
import selectors
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from netcore import (
    AddressError,
    ForceLocalRouter,
    ForceNodeRouter,
    InsecureListenError,
    LayeredRouter,
    LocalError,
    MemoryNetwork,
    MemoryTransport,
    Node,
    NodeAddr,
    NodeClosedError,
    RouteRule,
    WaitTimeoutError,
    ids,
)
from netcore._backend import BackendName
from support.virtual import Cluster, Log, Spy, cluster_of


@pytest.fixture
def cluster(backend: BackendName) -> Iterator[Cluster]:
    with cluster_of(backend) as made:
        yield made


@pytest.fixture
def node(backend: BackendName) -> Iterator[Node]:
    """Return a node on real time, with a memory network of its own."""
    with Node(1, [Spy()], transports=[MemoryTransport(MemoryNetwork())], backend=backend) as made:
        yield made


# -- making one ----------------------------------------------------------------------------------


def test_node_says_who_it_is(node: Node, backend: BackendName) -> None:
    assert (node.node_id, node.backend, node.closed) == (1, backend, False)
    assert (node.addrs, node.connections) == ((), ())
    assert repr(node) == f"<Node 1 {backend} 0 links>"
    assert isinstance(node.router, LayeredRouter)


def test_node_that_cannot_be_made_leaves_nothing_behind(backend: BackendName) -> None:
    selector = selectors.SelectSelector()
    with pytest.raises(ValueError, match="is used by"):
        Node(1, [Spy(10), Spy(10)], backend=backend, selector=selector)
    assert not selector.get_map()
    selector.close()


def test_node_takes_any_selector_and_leaves_it_open(backend: BackendName) -> None:
    with selectors.SelectSelector() as selector:
        spy = Spy()
        with Node(1, [spy], transports=[], backend=backend, selector=selector) as node:
            node.agent(10).send_local(b"x")
            node.poll(0)
            with pytest.raises(LocalError, match="no file descriptor"):
                node.fileno()
        assert spy.log.details("message") == [b"x"]
        assert not selector.get_map()


def test_router_of_another_node_is_refused(backend: BackendName) -> None:
    with pytest.raises(LocalError, match="node 2's, this is node 1"):
        Node(1, router=LayeredRouter(2), backend=backend)


def test_injected_router_decides(cluster: Cluster) -> None:
    local, there = Spy(), Spy()
    one = cluster.add(1, local, router=ForceLocalRouter())
    cluster.join(one, cluster.add(2, there))
    one.agent(10).send_to_node(2, b"stays here")
    cluster.settle()
    assert local.log.details("message") == [b"stays here"]


def test_injected_router_forwards_over_its_link(cluster: Cluster) -> None:
    there = Spy()
    other = cluster.add(2, there)
    # Conn ids are given out in order: the first dial of a node over memory is this one.
    router = ForceNodeRouter(ids.make_conn_id(1, 1, outgoing=True), 2)
    one = cluster.add(1, Spy(), router=router)
    cluster.join(one, other)
    one.agent(10).send_to_service(10, b"goes there")
    cluster.settle()
    assert there.log.details("event") == [b"goes there"]


def test_router_that_is_a_subclass_is_asked_itself(cluster: Cluster) -> None:
    class Own(LayeredRouter):
        def path_to_node(self, dest: int) -> Any:
            asked.append(dest)
            return super().path_to_node(dest)

    asked: list[int] = []
    there = Spy()
    one = cluster.add(1, Spy(), router=Own(1))
    cluster.join(one, cluster.add(2, there))
    one.agent(10).send_to_node(2, b"x")
    cluster.settle()
    assert asked == [2]
    assert there.log.details("event") == [b"x"]


# -- listening and dialling ----------------------------------------------------------------------


def test_listen_returns_the_address_to_dial(node: Node) -> None:
    addr = node.listen("/memory/here")
    assert str(addr) == "1@/memory/here"
    other = node.listen(NodeAddr.parse("1@/memory/there"))
    assert node.addrs == (addr, other)


def test_listen_under_another_id_is_refused(node: Node) -> None:
    with pytest.raises(LocalError, match="names node 2; this is node 1"):
        node.listen("2@/memory/here")


def test_listen_on_a_taken_name_is_refused(node: Node) -> None:
    node.listen("/memory/here")
    with pytest.raises(OSError, match="in use"):
        node.listen("/memory/here")
    assert len(node.addrs) == 1


def test_listen_on_several_is_all_or_nothing(node: Node) -> None:
    node.listen("/memory/taken")
    with pytest.raises(OSError, match="in use"):
        node.listen("/memory/free/memory/taken")
    node.listen("/memory/free")


def test_listen_without_a_transport_is_refused(node: Node) -> None:
    with pytest.raises(LocalError, match="no transport that listens on"):
        node.listen("/ip4/127.0.0.1/tcp/0")


@pytest.mark.parametrize("where", ["/ip4/0.0.0.0/tcp/0", "/ip4/10.1.2.3/tcp/0", "/ip6/::/tcp/0"])
def test_listen_beyond_loopback_needs_a_secret(backend: BackendName, where: str) -> None:
    with Node(1, backend=backend) as node, pytest.raises(InsecureListenError, match="no secret"):
        node.listen(where)


@pytest.mark.parametrize("text", ["", "1", "1@", "/memory/", "nonsense", "-1@/memory/x"])
def test_address_that_is_none_is_refused(node: Node, text: str) -> None:
    for ask in (node.listen, node.connect):
        with pytest.raises(AddressError):
            ask(text)
    assert node.stats().dials == 0


def test_connect_before_the_first_poll_only_queues(cluster: Cluster) -> None:
    spy = Spy()
    one, other = cluster.add(1, spy), cluster.add(2)
    cluster.dial(one, other)
    assert spy.log.entries == []
    assert one.next_deadline_ms() == 0


def test_conn_ids_of_a_node_are_all_different(cluster: Cluster) -> None:
    one, other = cluster.add(1), cluster.add(2)
    conns = {cluster.dial(one, other) for _ in range(50)}
    assert len(conns) == 50
    assert all(ids.is_outgoing(conn_id) and ids.conn_protocol(conn_id) == 1 for conn_id in conns)


def test_address_with_alternatives_is_tried_in_order(cluster: Cluster) -> None:
    there = cluster.add(2)
    spy = Spy()
    one = cluster.add(1, spy)
    one.connect(f"2@/memory/nobody{there.addrs[0].endpoints[0]}")
    cluster.settle()
    assert [link.remote_node_id for link in one.connections] == [2]
    assert not spy.log.errors()


@pytest.mark.parametrize(("one", "other"), [("pure", "fast"), ("fast", "pure")])
def test_backends_understand_each_other(
    backend: BackendName, one: BackendName, other: BackendName
) -> None:
    with cluster_of(backend) as cluster:
        spies = Spy(), Spy()
        nodes = [
            cluster.add(number, spy, backend=kind, secret=b"0123456789abcdef")
            for number, spy, kind in zip((1, 2), spies, (one, other), strict=True)
        ]
        cluster.join(*nodes)
        for size in (0, 1, 1_000, 300_000):
            nodes[0].agent(10).send_to_node(2, bytes(size))
            nodes[1].agent(10).send_to_node(1, bytes(size))
        cluster.settle()
        for spy in spies:
            assert [len(payload) for payload in spy.log.details("event")] == [0, 1, 1_000, 300_000]


# -- turning -------------------------------------------------------------------------------------


def test_poll_returns_how_much_there_was(cluster: Cluster) -> None:
    one = cluster.add(1)
    one.poll(0)
    assert one.poll(0) == 0
    for _ in range(3):
        one.post(len, "")
    assert one.poll(0) == 3


def test_poll_waits_no_longer_than_asked(node: Node) -> None:
    node.poll(0)
    begin = time.monotonic()
    node.poll(0.01)
    assert time.monotonic() - begin < 0.9  # the next tick is up to a second away


@pytest.mark.parametrize("what", ["send", "close", "post", "connect", "stop"])
def test_work_asked_for_outside_a_hook_makes_the_descriptor_readable(node: Node, what: str) -> None:
    for _ in range(5):
        node.poll(0)
    assert not readable(node)
    asks = {
        "send": lambda: node.agent(10).send_local(b"x"),
        "close": lambda: node.agent(10).close_node(5),
        "post": lambda: node.post(print),
        "connect": lambda: node.connect("/memory/nobody"),
        "stop": node.stop,
    }
    asks[what]()
    assert readable(node)
    for _ in range(5):
        node.poll(0)
    assert not readable(node)


def readable(node: Node) -> bool:
    return bool(select.select([node.fileno()], [], [], 0)[0])


def test_next_deadline_is_the_time_to_the_next_timer(cluster: Cluster) -> None:
    one = cluster.add(1, Spy(), tick_ms=3_600_000)
    assert one.next_deadline_ms() == 0  # it has not started
    cluster.settle()
    one.agent(10).call_later(70, print)
    assert one.next_deadline_ms() == 70
    cluster.now_ms += 30
    assert one.next_deadline_ms() == 40
    cluster.now_ms += 100
    assert one.next_deadline_ms() == 0


def test_post_from_another_thread_wakes_the_node(node: Node) -> None:
    done: list[int] = []
    node.poll(0)
    thread = threading.Thread(target=node.post, args=(done.append, 1))
    thread.start()
    while not done:
        node.poll(None)
    thread.join()
    assert done == [1]


def test_post_runs_like_a_hook(cluster: Cluster) -> None:
    def fail() -> None:
        raise ValueError

    log = Log()
    one = cluster.add(1, Spy(10, log))
    one.post(log.wrap("post", lambda: one.agent(10).send_local(b"x")))
    one.post(fail)
    one.post(log.wrap("post"))
    cluster.settle()
    assert [hook for hook, _ in log.order()].count("post") == 2
    assert log.details("message") == [b"x"]
    assert one.stats().hook_errors == 1
    assert log.deepest == 1


def test_run_returns_after_stop(node: Node) -> None:
    node.post(node.stop)
    node.run()
    node.post(node.stop)
    node.run()  # and may be called again
    assert not node.closed


def test_stop_before_run_ends_it_at_once(node: Node) -> None:
    node.stop()
    node.run()


def test_run_returns_after_close_in_a_hook(backend: BackendName) -> None:
    spy = Spy(started=lambda agent: made.close())
    made = Node(1, [spy], transports=[], backend=backend)
    made.run()
    assert made.closed
    assert spy.log.order() == [("started", 10), ("stopped", 10)]


def test_stop_from_another_thread_ends_run(node: Node) -> None:
    thread = threading.Thread(target=node.run)
    thread.start()
    node.stop()
    thread.join(5)
    assert not thread.is_alive()


@pytest.mark.parametrize("what", ["poll", "listen", "connect", "run"])
def test_use_by_another_thread_is_refused(node: Node, what: str) -> None:
    node.poll(0)
    asks: dict[str, Any] = {
        "poll": lambda: node.poll(0),
        "listen": lambda: node.listen("/memory/x"),
        "connect": lambda: node.connect("/memory/x"),
        "run": node.run,
    }
    errors: list[BaseException] = []

    def work() -> None:
        try:
            asks[what]()
        except LocalError as exc:
            errors.append(exc)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    (err,) = errors
    assert "another thread" in str(err)
    assert "post() and stop()" in str(err)


# -- waiting -------------------------------------------------------------------------------------


@pytest.fixture
def neighbour(node: Node, backend: BackendName) -> Iterator[NodeAddr]:
    """Run node 2 in a thread, on the same network as ``node``; return its address."""
    network = node._host._transports[0].network  # type: ignore[attr-defined]
    other = Node(2, [Spy(20)], transports=[MemoryTransport(network)], backend=backend)
    addr = other.listen("/memory/two")
    thread = threading.Thread(target=other.run)
    thread.start()
    yield addr
    other.stop()
    thread.join()
    other.close(0)


def test_wait_connected_drives_the_node_until_the_link_is_up(
    node: Node, neighbour: NodeAddr
) -> None:
    node.connect(neighbour)
    node.wait_connected(2)
    assert [link.remote_node_id for link in node.connections] == [2]
    node.wait_connected(2, timeout_s=0)  # it is there: no waiting


@pytest.mark.parametrize(
    ("rule", "service"),
    [(RouteRule.node(2), 0), (RouteRule.service(), 20)],
    ids=["node", "service"],
)
def test_wait_route_drives_the_node_until_there_is_a_way(
    node: Node, neighbour: NodeAddr, rule: RouteRule, service: int
) -> None:
    node.connect(neighbour)
    node.wait_route(rule, service)
    node.agent(10).send(rule, b"x", to_service=20)


def test_wait_connected_that_does_not_happen_raises(node: Node) -> None:
    with pytest.raises(WaitTimeoutError, match=r"a link to node 9 did not happen within 0\.01 s"):
        node.wait_connected(9, timeout_s=0.01)


def test_wait_route_that_does_not_happen_raises(node: Node) -> None:
    with pytest.raises(WaitTimeoutError, match=r"RouteRule\.node\(9\) \(service 3\)") as caught:
        node.wait_route(RouteRule.node(9), 3, timeout_s=0)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.timeout_s == 0


def test_wait_inside_a_hook_raises(cluster: Cluster) -> None:
    def on_message(agent: Any, message: Any) -> None:
        with pytest.raises(RuntimeError, match="inside a hook"):
            one.wait_connected(2)
        with pytest.raises(RuntimeError, match="inside a hook"):
            one.wait_route(RouteRule.node(2))

    one = cluster.add(1, Spy(message=on_message))
    one.agent(10).send_local(b"")
    cluster.settle()
    assert one.stats().hook_errors == 0


# -- the end -------------------------------------------------------------------------------------


def test_everything_of_a_closed_node_raises_node_closed(node: Node) -> None:
    node.poll(0)
    node.close()
    node.close()
    assert node.closed
    assert repr(node).endswith("closed>")
    for ask in (
        lambda: node.poll(0),
        lambda: node.run(),
        lambda: node.listen("/memory/x"),
        lambda: node.connect("/memory/x"),
        lambda: node.post(print),
        lambda: node.call(RouteRule.node(1), 10, b""),
        lambda: node.wait_connected(2),
        lambda: node.wait_route(RouteRule.node(2)),
        lambda: node.fileno(),
        lambda: node.next_deadline_ms(),
        lambda: node.agent(10).send_local(b""),
    ):
        with pytest.raises(NodeClosedError):
            ask()


def test_stop_of_a_closed_node_does_nothing(node: Node) -> None:
    node.close()
    node.stop()


def test_closed_node_gives_its_names_back(cluster: Cluster) -> None:
    one = cluster.add(1, listen=False)
    one.listen("/memory/name")
    one.close()
    cluster.add(2, listen=False).listen("/memory/name")


def test_close_tells_the_neighbours(cluster: Cluster) -> None:
    spy = Spy()
    one, other = cluster.add(1), cluster.add(2, spy)
    cluster.join(one, other)
    begin = cluster.now_ms
    one.close()
    cluster.settle()
    assert spy.log.of("disconnected")
    assert cluster.now_ms == begin  # nobody had to wait for a timeout


def test_close_sends_what_was_queued(cluster: Cluster) -> None:
    there = Spy()
    one = cluster.add(1, Spy())
    cluster.join(one, cluster.add(2, there))
    for number in range(100):
        one.agent(10).send_to_node(2, b"%d" % number)
    one.close()
    cluster.settle()
    assert there.log.details("event") == [b"%d" % number for number in range(100)]


def test_close_with_a_silent_neighbour_is_bounded(backend: BackendName) -> None:
    network = MemoryNetwork()
    nodes = [
        Node(number, [Spy()], transports=[MemoryTransport(network)], backend=backend)
        for number in (1, 2)
    ]
    nodes[0].connect(nodes[1].listen("/memory/two"))
    while not all(each.connections for each in nodes):
        for each in nodes:
            each.poll(0)
    begin = time.monotonic()
    nodes[0].close(timeout_s=0.05)  # nobody polls the other one
    assert time.monotonic() - begin < 1
    assert nodes[0].closed
    nodes[1].close(0)


def test_close_on_virtual_time_does_not_wait_for_real_time(cluster: Cluster) -> None:
    one, other = cluster.add(1, Spy()), cluster.add(2)
    cluster.join(one, other)
    one.close(timeout_s=1e9)  # the other one gets no turn meanwhile
    assert one.closed


def test_context_manager_closes(backend: BackendName) -> None:
    spy = Spy()
    with Node(1, [spy], transports=[], backend=backend) as made:
        made.poll(0)
    assert made.closed
    assert spy.log.order() == [("started", 10), ("stopped", 10)]


def test_node_closes_when_its_block_raises(backend: BackendName) -> None:
    with pytest.raises(ZeroDivisionError), Node(1, transports=[], backend=backend) as made:
        raise ZeroDivisionError
    assert made.closed


# -- together ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_messages_reach_every_node_of_a_random_network(backend: BackendName, seed: int) -> None:
    rng = random.Random(seed)
    with cluster_of(backend, seed=seed, latency_ms=2) as cluster:
        spies = {number: Spy() for number in range(1, 9)}
        nodes = [cluster.add(number, spy) for number, spy in spies.items()]
        for number, each in enumerate(nodes[1:], 1):
            cluster.join(each, rng.choice(nodes[:number]))
        cluster.advance(3_000)
        for each in nodes:
            for dest in spies:
                each.agent(10).send_to_node(dest, b"%d" % each.node_id)
        cluster.advance(1_000)
        for number, spy in spies.items():
            everybody = sorted(spies)
            assert sorted(map(int, spy.log.details("event", "message"))) == everybody, number
        cluster.assert_nothing_lost()
        assert cluster.total("dropped") == 0


def test_new_way_is_found_when_a_link_is_closed(cluster: Cluster) -> None:
    there = Spy()
    one, two, three, four = (cluster.add(n, there if n == 4 else Spy()) for n in (1, 2, 3, 4))
    cluster.chain(one, two, four)
    cluster.chain(one, three, four)
    first = one.router.path_to_node(4).node_id
    one.agent(10).close_node(first)
    cluster.advance(1_000)
    one.agent(10).send_to_node(4, b"the other way")
    cluster.advance(10)
    assert there.log.details("event") == [b"the other way"]
    assert one.router.path_to_node(4).node_id == ({2, 3} - {first}).pop()
