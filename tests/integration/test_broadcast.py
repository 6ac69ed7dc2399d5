"""Broadcasts over whole networks: each provider within the level gets each one exactly once."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from netcore import BroadcastLevel, LocalError, NetworkBehavior, Node, RouteRule
from netcore._backend import BackendName
from netcore.ids import build, layer
from support.backends import fast_is_built
from support.virtual import Cluster, Log, Spy, cluster_of

SERVICE, OTHER = 10, 20


class Hearing(NetworkBehavior):
    """Writes down what it hears."""

    def __init__(self, service_id: int = SERVICE) -> None:
        self.service_id = service_id
        self.heard: Counter[tuple[int | None, bytes]] = Counter()
        self.agent: Any = None

    def on_started(self, agent: Any) -> None:
        self.agent = agent

    def on_message(self, agent: Any, message: Any) -> None:
        assert message.route.kind == RouteRule.services().kind
        self.heard[message.from_node, message.payload] += 1


class Net:
    """Nodes in zones, each zone connected within itself, and more links at random.

    Attributes:
        ears: The behavior of each node; two nodes of three offer SERVICE, the others OTHER.
        sent: (origin, payload, level) of every broadcast.
    """

    def __init__(self, cluster: Cluster, rnd: random.Random, size: int, **config: Any) -> None:
        self.cluster = cluster
        self.rnd = rnd
        self.config = config
        self.nodes: dict[int, Node] = {}
        self.ears: dict[int, Hearing] = {}
        self.links: set[tuple[int, int]] = set()
        self.sent: list[tuple[int, bytes, int]] = []
        while len(self.nodes) < size:
            geo1, geo2, group = rnd.choices((1, 2), k=3)
            self.add(build(geo1, geo2, group, rnd.randrange(1, 250)))
        # In the order of the ids, because all that share their first bytes stand together.
        for one, other in pairwise(sorted(self.nodes)):
            self.join(one, other)
        for _ in range(size):
            self.join(*rnd.sample(sorted(self.nodes), 2))

    def add(self, node_id: int) -> None:
        if node_id in self.nodes and not self.nodes[node_id].closed:
            return
        ear = Hearing(SERVICE if node_id % 3 else OTHER)
        fast = fast_is_built() and self.rnd.random() < 0.5
        backend: BackendName = "fast" if fast else "pure"
        self.nodes[node_id] = self.cluster.add(node_id, ear, backend=backend, **self.config)
        self.ears[node_id] = ear

    def join(self, one: int, other: int) -> None:
        pair = min(one, other), max(one, other)
        if pair not in self.links:
            self.links.add(pair)
            a, b = (str(self.nodes[n].addrs[0].endpoints[0]).rpartition("/")[2] for n in pair)
            self.cluster.network.set_latency(a, b, self.rnd.randrange(40))
            self.cluster.join(self.nodes[one], self.nodes[other])

    def restart(self, node_id: int) -> None:
        """End a node and begin another one with its id, at the same place."""
        self.nodes[node_id].close(0)
        self.cluster.advance(200)
        self.add(node_id)
        mine = [pair for pair in self.links if node_id in pair]
        self.links.difference_update(mine)
        for pair in mine:
            self.join(*pair)

    def broadcast(self, origin: int, level: int) -> None:
        payload = b"%d" % len(self.sent)
        self.ears[origin].agent.broadcast(payload, level=level, to_service=SERVICE)
        self.sent.append((origin, payload, level))

    def check_each_heard_exactly_once(self) -> None:
        heard = {
            (node_id, *key): count
            for node_id, ear in self.ears.items()
            for key, count in ear.heard.items()
        }
        expected = {
            (node_id, origin, payload): 1
            for origin, payload, level in self.sent
            for node_id, ear in self.ears.items()
            if ear.service_id == SERVICE and shared(origin, node_id) >= level
        }
        assert heard == expected

    def check_copies_add_up(self) -> None:
        total = self.cluster.total
        ended = ("broadcasts_received", "broadcasts_duplicate", "broadcasts_stale")
        assert total("broadcast_copies") == total("broadcast_copies_dropped") + sum(
            map(total, ended)
        )


def shared(one: int, other: int) -> int:
    """Return how many bytes two ids share, from the highest; 3 at most."""
    return next((3 - at for at in (3, 2, 1) if layer(one, at) != layer(other, at)), 3)


@pytest.fixture
def cluster(backend: BackendName) -> Iterator[Cluster]:
    with cluster_of(backend, latency_ms=5) as cluster:
        yield cluster


@pytest.mark.parametrize("seed", range(6))
def test_every_provider_within_the_level_hears_each_broadcast_once(seed: int) -> None:
    rnd = random.Random(seed)
    with cluster_of("pure", seed=seed) as cluster:
        net = Net(cluster, rnd, rnd.choice((2, 5, 9, 13)))
        for _ in range(60):
            net.broadcast(rnd.choice(sorted(net.nodes)), rnd.randrange(4))
            cluster.advance(rnd.choice((0, 0, 0, 1, 30)))
        cluster.advance(2_000)
        net.check_each_heard_exactly_once()
        net.check_copies_add_up()
        assert cluster.total("broadcast_copies_dropped") == 0
        cluster.assert_nothing_lost()


@pytest.mark.parametrize("seed", range(3))
def test_broadcasts_of_restarted_nodes_are_heard_once_too(seed: int) -> None:
    rnd = random.Random(seed)
    with cluster_of("pure", seed=seed) as cluster:
        net = Net(cluster, rnd, 8)
        for _ in range(4):
            for _ in range(10):
                net.broadcast(rnd.choice(sorted(net.nodes)), rnd.randrange(4))
            cluster.advance(1_000)
            net.check_each_heard_exactly_once()
            net.restart(rnd.choice(sorted(net.nodes)))
            net.sent.clear()
            for ear in net.ears.values():
                ear.heard.clear()


@pytest.mark.parametrize("seed", range(3))
def test_nobody_hears_twice_while_links_break_and_queues_run_over(seed: int) -> None:
    rnd = random.Random(seed)
    with cluster_of("pure", seed=seed, window_bytes=4_096) as cluster:
        net = Net(cluster, rnd, 9, write_high_bytes=4_096, write_low_bytes=1_024)
        refused = 0
        for step in range(300):
            origin = rnd.choice(sorted(net.nodes))
            try:
                net.ears[origin].agent.broadcast(
                    b"%d " % step + bytes(rnd.choice((0, 500, 3_000))), to_service=SERVICE
                )
            except LocalError:
                refused += 1
            if rnd.random() < 0.05:
                one, other = rnd.choice(sorted(net.links))
                net.ears[one].agent.close_node(other)
            cluster.advance(rnd.choice((0, 0, 0, 0, 20)))
        cluster.advance(15_000)
        assert max(max(ear.heard.values(), default=0) for ear in net.ears.values()) == 1
        assert cluster.total("broadcasts_sent") == 300 - refused
        assert cluster.total("broadcast_copies_dropped") > 0
        net.check_copies_add_up()


def test_broadcast_reaches_a_neighbour_that_is_suspect(cluster: Cluster) -> None:
    ears = [Hearing(), Hearing()]
    node, other = cluster.add(1, ears[0]), cluster.add(2, ears[1])
    cluster.join(node, other)
    cluster.frozen.add(other)
    cluster.advance(2_000)
    assert [link.suspect for link in node.connections] == [True]
    ears[0].agent.broadcast(b"still there?")
    cluster.frozen.clear()
    cluster.advance(100)
    assert ears[1].heard == {(1, b"still there?"): 1}


def test_broadcast_over_parallel_links_is_heard_once(cluster: Cluster) -> None:
    ears = [Hearing() for _ in range(3)]
    nodes = [cluster.add(number + 1, ear) for number, ear in enumerate(ears)]
    cluster.chain(*nodes)
    cluster.join(nodes[0], nodes[1], parallel=True)
    cluster.join(nodes[2], nodes[1], parallel=True)
    ears[0].agent.broadcast(b"x")
    cluster.advance(100)
    assert [sum(ear.heard.values()) for ear in ears] == [1, 1, 1]


def test_broadcast_crosses_nodes_without_the_service(cluster: Cluster) -> None:
    first, last = Hearing(), Hearing()
    cluster.chain(cluster.add(1, first), cluster.add(2), cluster.add(3), cluster.add(4, last))
    first.agent.send(RouteRule.services(), b"far")
    cluster.advance(100)
    assert first.heard == last.heard == {(1, b"far"): 1}


def test_zone_in_two_parts_is_reached_in_the_senders_part(cluster: Cluster) -> None:
    ears = [Hearing() for _ in range(3)]
    ids = [build(1, 0, 0, 1), build(2, 0, 0, 1), build(1, 0, 0, 2)]
    cluster.chain(*(cluster.add(number, ear) for number, ear in zip(ids, ears, strict=True)))
    ears[0].agent.broadcast(b"zone", level=BroadcastLevel.ZONE)
    cluster.advance(100)
    assert [sum(ear.heard.values()) for ear in ears] == [1, 0, 0]


def test_handler_sends_and_gets_broadcasts(cluster: Cluster) -> None:
    log = Log()
    opened = lambda agent: agent.send_routed(RouteRule.services(), b"new here")  # noqa: E731
    node, other = cluster.add(1, Spy(log=log)), cluster.add(2, Spy(opened=opened))
    cluster.join(other, node)
    cluster.advance(50)
    assert log.details("event") == [b"new here"]


def test_call_with_the_rule_of_a_broadcast_is_refused(cluster: Cluster) -> None:
    node = cluster.add(1, Hearing())
    node.poll(0)
    with pytest.raises(LocalError, match=r"one node: RouteRule\.services\(0\) leads to many"):
        node.agent(SERVICE).call(RouteRule.services(), SERVICE, b"", print)
    assert node.stats().calls_pending == 0


def test_route_of_a_broadcast_is_always_there(backend: BackendName) -> None:
    with Node(1, backend=backend) as node:
        node.wait_route(RouteRule.services(), SERVICE, timeout_s=0)
