"""How well nodes route: what sync costs, calm, and how fast traffic moves; on virtual time."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from netcore import Node, wire
from netcore._backend import BackendName
from netcore.route import Metric
from netcore.routing import FIRST_SERVICE, LayeredRouter
from netcore.services.sync_wire import Digest, decode, encode_full
from support.sync_net import Clock, Member
from support.virtual import Cluster, Spy, cluster_of

A, B, C = 1, 2, 3


@pytest.fixture
def cluster(backend: BackendName) -> Iterator[Cluster]:
    with cluster_of(backend) as made:
        yield made


class Watched(LayeredRouter):
    """Writes down every metric that a link was given."""

    def __init__(self, node_id: int) -> None:
        super().__init__(node_id)
        self.metrics: list[int] = []

    def set_direct(self, conn_id: int, node_id: int, metric: Metric) -> None:
        self.metrics.append(metric.latency_ms)
        super().set_direct(conn_id, node_id, metric)


def next_hop(node: Node, dest: Node) -> int | None:
    """Return the neighbour that messages for a node go to."""
    return next((route.via for route in node.routes() if dest.node_id in route.nodes), None)


def triangle(cluster: Cluster, *, direct_ms: int = 3, around_ms: int = 10) -> list[Node]:
    """Return three nodes that are all linked; from the first to the second, direct is better."""
    nodes = [cluster.add(number, Spy()) for number in (A, B, C)]
    one, two, relay = nodes
    cluster.set_latency(one, two, direct_ms)
    cluster.set_latency(one, relay, around_ms)
    cluster.set_latency(relay, two, around_ms)
    for a, b in ((one, two), (one, relay), (relay, two)):
        cluster.join(a, b)
    cluster.advance(5_000)
    assert next_hop(one, two) == B
    return nodes


# -- what sync costs ------------------------------------------------------------------------------


@pytest.mark.parametrize("places", [0, 100, 1_260])
def test_steady_sync_costs_less_than_100_bytes_per_second_and_link(places: int) -> None:
    member = Member(A, Clock())
    far = member.new_end(0x300, C, 2)
    near = member.new_end(0x200, B, 2)
    for end in (far, near):
        end.open()
        end.receive(encode_full(0, {})[0])
    for number in range(places):
        # 250 slots in each layer, then services
        place = FIRST_SERVICE + number - 1_000 if number >= 1_000 else number % 250 + 4
        place += 256 * (number // 250) if number < 1_000 else 0
        metric = Metric(number % 50, (9_000 + number, 20_000))
        member.router.apply_changes(0x300, C, Metric(2, (C,)), {place: metric})
    member.clock.advance(10_000)
    announced = len(member.router.announcements(B))
    assert announced >= places - 4  # but the slots that mean nothing to B
    near.agent.take()
    member.clock.advance(60_000)
    sent = near.agent.take()
    assert all(isinstance(decode(payload), Digest) for payload in sent)
    headers = wire.FRAME_HEADER_BYTES + 8  # and that of a direct message
    assert 0 < sum(len(payload) + headers for payload in sent) < 100 * 60


# -- calm -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "latency_ms"), [(1, 10), (2, 50), (3, 200)])
def test_jitter_of_fifteen_percent_for_five_minutes_changes_a_metric_at_most_once(
    cluster: Cluster, seed: int, latency_ms: int
) -> None:
    routers = [Watched(A), Watched(B)]
    one, two = (cluster.add(router.node_id, router=router) for router in routers)
    cluster.set_latency(one, two, latency_ms)
    cluster.join(one, two)
    cluster.advance(3_000)
    before = [len(router.metrics) for router in routers]
    rng = random.Random(seed)
    for _ in range(5 * 60 * 4):
        cluster.set_latency(one, two, round(latency_ms * rng.uniform(0.85, 1.15)))
        cluster.advance(250)
    changes = [len(r.metrics) - known for r, known in zip(routers, before, strict=True)]
    assert all(change <= 1 for change in changes), changes


# -- a link that turns slow -----------------------------------------------------------------------


@pytest.mark.parametrize("phase_ms", [0, 230, 470, 710, 940])
@pytest.mark.parametrize("is_busy", [False, True])
def test_link_that_goes_from_5_to_80_ms_loses_its_traffic_within_two_seconds(
    cluster: Cluster, phase_ms: int, is_busy: bool
) -> None:
    one, two, relay = triangle(cluster)
    cluster.advance(phase_ms)
    cluster.set_latency(one, two, 40)
    for _ in range(200):
        if is_busy:
            one.agent(10).send_to_node(B, b"")
        cluster.advance(10)
    assert next_hop(one, two) == C
    relayed = relay.stats().messages_relayed
    one.agent(10).send_to_node(B, b"")
    cluster.advance(100)
    assert relay.stats().messages_relayed == relayed + 1


def test_link_that_is_fast_again_gets_its_traffic_back_within_two_seconds(
    cluster: Cluster,
) -> None:
    one, two, _ = triangle(cluster)
    cluster.set_latency(one, two, 40)
    cluster.advance(5_000)
    assert next_hop(one, two) == C
    cluster.set_latency(one, two, 3)
    cluster.advance(2_000)
    assert next_hop(one, two) == B


# -- fail-over ------------------------------------------------------------------------------------


def test_lost_link_is_replaced_in_the_same_turn_before_any_sync(cluster: Cluster) -> None:
    one, two, _ = triangle(cluster)
    [route] = [route for route in one.routes() if B in route.nodes]
    assert (route.via, route.alternate) == (B, C)
    cluster.frozen.update(node for node in cluster.nodes if node is not one)
    now_ms, sent = cluster.now_ms, one.stats().control_sent
    one.agent(10).close_node(B)
    one.poll(0)
    assert (next_hop(one, two), cluster.now_ms) == (C, now_ms)
    assert one.stats().control_sent - sent <= 2  # the CLOSE, and a word to the third node
    one.agent(10).send_to_node(B, b"")
    cluster.frozen.clear()
    cluster.advance(100)
    assert two.stats().messages_delivered == 1


def test_link_found_broken_is_replaced_in_that_turn(cluster: Cluster) -> None:
    one, two, _ = triangle(cluster, direct_ms=0)
    two.close(0)
    turns = 0
    while len(one.connections) == 2 and all(not link.closing for link in one.connections):
        assert next_hop(one, two) == B
        one.poll(0)
        turns += 1
    assert turns <= 5
    assert next_hop(one, two) == C  # its own node is gone, but that is not known yet


def test_silence_of_three_heartbeats_moves_the_traffic(cluster: Cluster) -> None:
    one, two, relay = triangle(cluster, direct_ms=0, around_ms=1)
    cluster.advance(1_000)
    cluster.frozen.add(two)
    silent_ms = cluster.now_ms
    cluster.until(lambda: next_hop(one, two) != B)
    assert 400 <= cluster.now_ms - silent_ms <= 600
    assert one.stats().suspects == 1
    assert {link.remote_node_id for link in one.connections} == {B, C}
    assert relay.stats().links_closed == 0


def test_data_counts_as_life(cluster: Cluster) -> None:
    one, two, _ = triangle(cluster, direct_ms=0)
    for _ in range(50):
        two.agent(10).send_to_node(A, b"")
        cluster.advance(100)
    stats = one.stats()
    assert (stats.suspects, stats.messages_delivered) == (0, 50)
    pings_of_a_busy_link = two.stats().control_sent
    cluster.advance(5_000)
    assert two.stats().control_sent - pings_of_a_busy_link > 20


def test_node_that_was_silent_gets_its_routes_back_on_the_same_link(cluster: Cluster) -> None:
    one, two, _ = triangle(cluster, direct_ms=0)
    links = [link.conn_id for link in one.connections]
    cluster.frozen.add(two)
    cluster.advance(5_000)
    # Silent towards everybody: nothing is better than its own silent link.
    [best, *_] = next(route for route in one.routes() if B in route.nodes).candidates
    assert (best.via, best.why) == (B, "best: the last resort, a link on the way is suspect")
    cluster.frozen.clear()
    cluster.advance(300)
    assert next_hop(one, two) == B
    assert [link.conn_id for link in one.connections] == links
    assert one.stats().links_opened == 2


def test_silence_of_ten_seconds_ends_the_link(cluster: Cluster) -> None:
    one, two, _ = triangle(cluster, direct_ms=0)
    cluster.advance(1_000)
    cluster.frozen.add(two)
    cluster.advance(9_700)
    assert len(one.connections) == 2
    cluster.advance(400)
    assert [link.remote_node_id for link in one.connections] == [C]


@pytest.mark.parametrize("busy_ms", [700, 5_000, 9_500])
def test_busy_node_is_routed_round_and_blames_nobody(cluster: Cluster, busy_ms: int) -> None:
    # A and C reach each other over B or over D; B is away in a long hook.
    nodes = {number: cluster.add(number, Spy()) for number in (1, 2, 3, 4)}
    for a, b in ((1, 2), (2, 3), (1, 4), (4, 3)):
        cluster.join(nodes[a], nodes[b])
    cluster.advance(3_000)
    one, busy, far = nodes[1], nodes[2], nodes[3]
    assert next_hop(one, far) == 2
    cluster.frozen.add(busy)
    cluster.advance(busy_ms)
    assert next_hop(one, far) == 4
    cluster.frozen.clear()
    cluster.advance(500)
    assert next_hop(one, far) == 2
    assert one.stats().links_closed == busy.stats().links_closed == 0
    # It hears that it was missed, and never thinks of itself that the others were away.
    assert all(not link.suspect for node in nodes.values() for link in node.connections)
    one.agent(10).send_to_node(3, b"")
    cluster.advance(10)
    assert far.stats().messages_delivered == 1


def test_own_lateness_is_not_the_silence_of_the_others(cluster: Cluster) -> None:
    one, two, _ = triangle(cluster, direct_ms=0)
    cluster.advance(1_000)
    # The two others stand still as well, so nothing waits to be read that would prove their life.
    cluster.frozen.update(cluster.nodes)
    cluster.now_ms += 9_000
    one.poll(0)
    assert one.stats().suspects == 0
    assert next_hop(one, two) == B
