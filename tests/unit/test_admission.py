"""Who gets a link: duplicates, restarts, dials that cross each other, on both backends."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from netcore import (
    AlreadyConnected,
    AuthenticationError,
    DestinationNotFound,
    DuplicateNodeId,
    HandshakeTimeout,
    IdentityMismatch,
    RemoteRejected,
    SelfConnect,
    TooManyConnections,
    UnsupportedProtocol,
)
from netcore._backend import BackendName
from support.campaign import SECRET, Campaign
from support.virtual import Cluster, Log, Spy, check_log, cluster_of

OTHER_SECRET = b"fedcba9876543210"


@pytest.fixture
def cluster(backend: BackendName) -> Iterator[Cluster]:
    with cluster_of(backend) as made:
        yield made


def only_error(log: Log) -> Exception:
    (err,) = log.errors()
    return err


# -- why a dial fails ----------------------------------------------------------------------------


def test_dial_to_nobody_is_destination_not_found(cluster: Cluster) -> None:
    spy = Spy()
    cluster.add(1, spy).connect("2@/memory/nobody")
    cluster.settle()
    assert isinstance(only_error(spy.log), DestinationNotFound)


def test_dial_to_the_own_id_is_self_connect(cluster: Cluster) -> None:
    spy = Spy()
    node = cluster.add(1, spy)
    cluster.dial(node, node)
    cluster.settle()
    assert isinstance(only_error(spy.log), SelfConnect)
    assert not spy.log.of("check_out")  # there is nothing to decide


def test_dial_to_the_own_address_is_self_connect(cluster: Cluster) -> None:
    spy = Spy()
    node = cluster.add(1, spy)
    node.connect(node.addrs[0].with_node_id(None))
    cluster.settle()
    assert isinstance(only_error(spy.log), SelfConnect)
    assert not node.connections


def test_dial_that_meets_another_node_is_identity_mismatch(cluster: Cluster) -> None:
    spy = Spy()
    node, other = cluster.add(1, spy), cluster.add(2)
    node.connect(other.addrs[0].with_node_id(3))
    cluster.settle()
    assert isinstance(only_error(spy.log), IdentityMismatch)


def test_dial_to_a_kind_of_address_without_transport_is_unsupported(cluster: Cluster) -> None:
    spy = Spy()
    cluster.add(1, spy).connect("2@/ip4/127.0.0.1/tcp/1")
    cluster.settle()
    assert isinstance(only_error(spy.log), UnsupportedProtocol)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(SECRET, OTHER_SECRET), (SECRET, None), (None, SECRET)],
    ids=["another", "only ours", "only theirs"],
)
def test_dial_with_the_wrong_secret_is_authentication_error(
    cluster: Cluster, ours: bytes | None, theirs: bytes | None
) -> None:
    spy, there = Spy(), Spy()
    node, other = cluster.add(1, spy, secret=ours), cluster.add(2, there, secret=theirs)
    cluster.dial(node, other)
    cluster.advance(100)
    assert isinstance(only_error(spy.log), AuthenticationError)
    assert not there.log.of("check_in", "connected")


def test_dial_with_the_same_secret_is_a_link_that_carries_messages(cluster: Cluster) -> None:
    there = Spy()
    node, other = cluster.add(1, Spy(), secret=SECRET), cluster.add(2, there, secret=SECRET)
    cluster.join(node, other)
    node.agent(10).send_to_node(2, bytes(100_000))
    cluster.settle()
    assert there.log.details("event") == [bytes(100_000)]


def test_dial_to_a_silent_node_is_handshake_timeout(cluster: Cluster) -> None:
    spy = Spy()
    node, other = cluster.add(1, spy, handshake_timeout_ms=700), cluster.add(2)
    cluster.frozen.add(other)
    begin = cluster.now_ms
    cluster.dial(node, other)
    cluster.until(lambda: spy.log.errors())
    assert isinstance(only_error(spy.log), HandshakeTimeout)
    assert cluster.now_ms == begin + 700


def test_dial_where_there_is_a_link_is_already_connected(cluster: Cluster) -> None:
    spy = Spy()
    node, other = cluster.add(1, spy), cluster.add(2)
    conn_id = cluster.join(node, other)
    cluster.dial(node, other)
    cluster.settle()
    assert isinstance(only_error(spy.log), AlreadyConnected)
    assert [link.conn_id for link in node.connections] == [conn_id]


def test_dial_to_an_anonymous_address_of_a_neighbour_is_already_connected(
    cluster: Cluster,
) -> None:
    spy, there = Spy(), Spy()
    node, other = cluster.add(1, spy), cluster.add(2, there)
    cluster.join(node, other)
    node.connect(other.addrs[0].with_node_id(None))
    cluster.advance(1_000)
    assert isinstance(only_error(spy.log), AlreadyConnected)
    assert len(there.log.of("check_in")) == 1  # the second got no AUTH


def test_two_dials_at_once_give_one_link(cluster: Cluster) -> None:
    spy, there = Spy(), Spy()
    node, other = cluster.add(1, spy), cluster.add(2, there)
    dialled = [cluster.dial(node, other) for _ in range(3)]
    cluster.advance(1_000)
    assert len(node.connections) == len(other.connections) == 1
    assert [type(err) for err in spy.log.errors()] == [AlreadyConnected] * 2
    check_log(spy.log, [10], dialled=dialled, closed=False)


def test_parallel_dial_gives_a_second_link(cluster: Cluster) -> None:
    spy = Spy()
    node, other = cluster.add(1, spy), cluster.add(2)
    conns = [cluster.join(node, other), cluster.join(node, other, parallel=True)]
    assert [link.conn_id for link in node.connections] == conns
    assert len(other.connections) == 2
    assert not spy.log.errors()


def test_parallel_dial_at_the_node_that_accepted_the_first(cluster: Cluster) -> None:
    node, other = cluster.add(1), cluster.add(2)
    cluster.join(node, other)
    cluster.join(other, node, parallel=True)
    assert len(node.connections) == len(other.connections) == 2


def test_dial_after_the_link_was_closed_is_a_new_link(cluster: Cluster) -> None:
    spy = Spy()
    node, other = cluster.add(1, spy), cluster.add(2)
    for _ in range(3):
        conn_id = cluster.join(node, other)
        node.agent(10).close_conn(conn_id)
        cluster.settle()
    assert not spy.log.errors()
    assert len(spy.log.of("disconnected")) == 3


def test_dial_while_the_old_link_closes_is_a_new_link(cluster: Cluster) -> None:
    spy = Spy()
    node, other = cluster.add(1, spy), cluster.add(2)
    conn_id = cluster.join(node, other)
    node.agent(10).close_conn(conn_id)
    node.agent(10).connect_to(other.addrs[0])
    cluster.advance(2_000)
    assert not spy.log.errors()
    assert len(node.connections) == len(other.connections) == 1


def test_dial_in_the_disconnected_hook_is_a_new_link(cluster: Cluster) -> None:
    other = cluster.add(2)
    spy = Spy(disconnected=lambda agent, conn: agent.connect_to(other.addrs[0]))
    node = cluster.add(1, spy)
    cluster.join(node, other)
    other_side = other.connections[0].conn_id
    for _ in range(3):
        node.agent(10).close_node(2)
        cluster.advance(500)
    assert len(node.connections) == 1
    assert other.connections[0].conn_id != other_side
    assert not spy.log.errors()


# -- dials that cross ----------------------------------------------------------------------------


@pytest.mark.parametrize("latency_ms", [0, 1, 7, 100, 400])
@pytest.mark.parametrize(("low", "high"), [(1, 2), (2, 1)], ids=["low first", "high first"])
@pytest.mark.parametrize("delay_ms", [0, 1, 50, 150, 250])
def test_crossing_dials_give_exactly_one_link(
    backend: BackendName, latency_ms: int, low: int, high: int, delay_ms: int
) -> None:
    with cluster_of(backend, latency_ms=latency_ms) as cluster:
        spies = {1: Spy(), 2: Spy()}
        nodes = {node_id: cluster.add(node_id, spies[node_id]) for node_id in (low, high)}
        dialled = {low: [cluster.dial(nodes[low], nodes[high])]}
        cluster.advance(delay_ms)
        dialled[high] = [cluster.dial(nodes[high], nodes[low])]
        cluster.advance(10_000)
        assert [len(node.connections) for node in nodes.values()] == [1, 1]
        assert [len(spy.log.of("connected")) for spy in spies.values()] == [1, 1]
        (err,) = spies[1].log.errors() + spies[2].log.errors()
        assert isinstance(err, AlreadyConnected)
        assert cluster.total("half_open") == 0
    for node_id, spy in spies.items():
        check_log(spy.log, [10], dialled=dialled[node_id])


def test_crossing_parallel_dials_give_two_links(backend: BackendName) -> None:
    with cluster_of(backend, latency_ms=10) as cluster:
        one, other = cluster.add(1), cluster.add(2)
        cluster.dial(one, other, parallel=True)
        cluster.dial(other, one, parallel=True)
        cluster.advance(5_000)
        assert len(one.connections) == len(other.connections) == 2


def test_crossing_dials_where_the_lower_one_is_refused_give_the_other_link(
    backend: BackendName,
) -> None:
    from netcore import ConnectionRejected

    def refuse(node: int, conn_id: int) -> None:
        raise ConnectionRejected("not from you")

    with cluster_of(backend, latency_ms=10) as cluster:
        low, high = Spy(), Spy(check_in=refuse)
        one, other = cluster.add(1, low), cluster.add(2, high)
        cluster.dial(one, other)
        cluster.dial(other, one)
        cluster.advance(5_000)
        assert isinstance(only_error(low.log), RemoteRejected)
        assert len(one.connections) == len(other.connections) == 1
        assert other.connections[0].is_outgoing


def test_ring_of_crossing_dials_gives_one_link_per_pair(backend: BackendName) -> None:
    with cluster_of(backend, latency_ms=3) as cluster:
        nodes = [cluster.add(node_id, Spy()) for node_id in range(5)]
        for one in nodes:
            for other in nodes:
                if one is not other:
                    cluster.dial(one, other)
        cluster.advance(10_000)
        for node in nodes:
            others = sorted(link.remote_node_id for link in node.connections)
            assert others == [n for n in range(5) if n != node.node_id]


# -- restarts and doubles ------------------------------------------------------------------------


def test_restarted_node_replaces_its_silent_link(cluster: Cluster) -> None:
    spy = Spy()
    node, old = cluster.add(1, spy), cluster.add(2)
    cluster.join(old, node)
    cluster.frozen.add(old)
    cluster.advance(50)
    begin = cluster.now_ms
    new_spy = Spy()
    new = cluster.add(2, new_spy)
    cluster.dial(new, node)
    cluster.until(lambda: new.connections)
    assert cluster.now_ms - begin <= 200
    assert not new_spy.log.errors()
    ends = [(e.hook, e.conn) for e in spy.log.of("connected", "disconnected")]
    assert [hook for hook, _ in ends] == ["connected", "disconnected", "connected"]
    assert ends[0][1] == ends[1][1] != ends[2][1]


def test_restarted_node_waits_four_round_trips_of_a_slow_link(backend: BackendName) -> None:
    with cluster_of(backend, latency_ms=100) as cluster:
        node, old = cluster.add(1, Spy()), cluster.add(2)
        cluster.join(old, node)
        cluster.advance(3_000)
        cluster.frozen.add(old)
        new = cluster.add(2, Spy())
        begin = cluster.now_ms
        cluster.dial(new, node)
        cluster.until(lambda: new.connections)
        # Two round trips of handshake, 4 x 200 ms of waiting, half a round trip for READY.
        assert 800 <= cluster.now_ms - begin <= 800 + 4 * 200 + 100


def test_restarted_node_gets_messages_over_the_new_link_only(cluster: Cluster) -> None:
    node, old = cluster.add(1, Spy()), cluster.add(2, Spy())
    cluster.join(old, node)
    cluster.frozen.add(old)
    there = Spy()
    new = cluster.add(2, there)
    cluster.dial(new, node)
    cluster.until(lambda: new.connections)
    cluster.advance(500)
    node.agent(10).send_to_node(2, b"welcome")
    cluster.settle()
    assert there.log.details("event") == [b"welcome"]


def test_second_living_node_with_the_same_id_is_told_so(cluster: Cluster) -> None:
    node, original = cluster.add(1, Spy()), cluster.add(2)
    conn_id = cluster.join(node, original)
    spy = Spy()
    double = cluster.add(2, spy)
    cluster.dial(double, node)
    cluster.advance(1_000)
    assert isinstance(only_error(spy.log), DuplicateNodeId)
    assert [link.conn_id for link in node.connections] == [conn_id]
    assert not double.connections
    assert node.stats().links_refused == 1


def test_second_living_node_cannot_use_parallel_to_get_in(cluster: Cluster) -> None:
    node, original = cluster.add(1, Spy()), cluster.add(2)
    cluster.join(node, original)
    spy = Spy()
    double = cluster.add(2, spy)
    cluster.dial(double, node, parallel=True)
    cluster.advance(1_000)
    assert isinstance(only_error(spy.log), DuplicateNodeId)


def test_restarted_node_is_let_in_where_max_links_is_reached(cluster: Cluster) -> None:
    node, old = cluster.add(1, Spy(), max_links=1), cluster.add(2)
    cluster.join(old, node)
    cluster.frozen.add(old)
    new = cluster.add(2)
    cluster.dial(new, node)
    cluster.advance(1_000)
    assert len(new.connections) == 1


def test_restarted_node_that_gives_up_leaves_the_old_link_alone(cluster: Cluster) -> None:
    node, old = cluster.add(1, Spy()), cluster.add(2)
    cluster.join(old, node)
    new = cluster.add(2, Spy())
    conn_id = cluster.dial(new, node)
    node_links = node.connections[0].conn_id
    for _ in range(3):  # until its AUTH is there and the old link has been asked
        cluster.settle()
    new.agent(10).close_conn(conn_id)
    cluster.advance(1_000)
    assert [link.conn_id for link in node.connections] == [node_links]
    assert node.stats().half_open == 0


def test_two_newcomers_for_one_silent_link_give_one_link(cluster: Cluster) -> None:
    node, old = cluster.add(1, Spy()), cluster.add(2)
    cluster.join(old, node)
    cluster.frozen.add(old)
    spies = Spy(), Spy()
    doubles = [cluster.add(2, spy) for spy in spies]
    for double in doubles:
        cluster.dial(double, node)
    cluster.advance(3_000)
    assert sorted(len(double.connections) for double in doubles) == [0, 1]
    (err,) = spies[0].log.errors() + spies[1].log.errors()
    assert isinstance(err, DuplicateNodeId)


# -- bounds --------------------------------------------------------------------------------------


def test_incoming_link_beyond_max_links_is_refused(cluster: Cluster) -> None:
    node = cluster.add(1, Spy(), max_links=2)
    spies = [Spy() for _ in range(4)]
    for number, spy in enumerate(spies):
        cluster.dial(cluster.add(10 + number, spy), node)
    cluster.advance(100)
    assert len(node.connections) == 2
    errors = [err for spy in spies for err in spy.log.errors()]
    assert [type(err) for err in errors] == [TooManyConnections] * 2
    assert node.stats().links_refused == 2


def test_dial_beyond_max_links_is_refused(cluster: Cluster) -> None:
    spy = Spy()
    node = cluster.add(1, spy, max_links=2)
    for number in range(4):
        cluster.dial(node, cluster.add(10 + number))
        cluster.settle()
    assert len(node.connections) == 2
    assert [type(err) for err in spy.log.errors()] == [TooManyConnections] * 2
    assert "max_links" in str(spy.log.errors()[0])


@pytest.mark.parametrize("latency_ms", [0, 5])
def test_dials_at_once_do_not_exceed_max_links(backend: BackendName, latency_ms: int) -> None:
    with cluster_of(backend, latency_ms=latency_ms) as cluster:
        spy = Spy()
        node = cluster.add(1, spy, max_links=2)
        dialled = [cluster.dial(node, cluster.add(10 + number)) for number in range(6)]
        for number in range(6):
            cluster.dial(cluster.add(20 + number), node)
        most = 0
        for _ in range(200):
            cluster.advance(1)
            most = max(most, len(node.connections))
        assert most == 2
        check_log(spy.log, [10], dialled=dialled, closed=False)


def test_link_that_ends_makes_room_for_another(cluster: Cluster) -> None:
    node = cluster.add(1, Spy(), max_links=1)
    for number in range(3):
        cluster.join(node, cluster.add(10 + number))
        node.agent(10).close_node(10 + number)
        cluster.settle()


def test_dial_beyond_max_half_open_is_too_many_connections(cluster: Cluster) -> None:
    spy = Spy()
    node, silent = cluster.add(1, spy, max_half_open=3), cluster.add(2)
    cluster.frozen.add(silent)
    for _ in range(5):
        cluster.dial(node, silent)
    cluster.settle()
    assert [type(err) for err in spy.log.errors()] == [TooManyConnections] * 2
    assert "max_half_open" in str(spy.log.errors()[0])
    assert node.stats().half_open == 3
    cluster.advance(6_000)
    assert node.stats().half_open == 0


def test_incoming_handshake_beyond_max_half_open_is_closed_and_counted(
    backend: BackendName,
) -> None:
    with cluster_of(backend, latency_ms=50) as cluster:
        node = cluster.add(1, max_half_open=2)
        spies = [Spy() for _ in range(5)]
        for number, spy in enumerate(spies):
            cluster.dial(cluster.add(10 + number, spy), node)
        cluster.advance(1_000)
        assert node.stats().half_open_refused == 3
        assert node.stats().half_open == 0
        assert [len(spy.log.errors()) for spy in spies] == [0, 0, 1, 1, 1]


def test_silent_stranger_is_let_go_after_the_handshake_timeout(cluster: Cluster) -> None:
    node, stranger = cluster.add(1, handshake_timeout_ms=500), cluster.add(2)
    cluster.dial(stranger, node)
    for _ in range(4):
        stranger.poll(0)
    cluster.frozen.add(stranger)
    cluster.advance(400)
    waiting = node.stats().half_open
    cluster.advance(200)
    assert (waiting, node.stats().half_open) == (1, 0)
    assert node.stats().handshakes_failed == 1


# -- everything at once --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(25))
def test_random_dials_and_closes_end_every_conn_id_exactly_once(
    backend: BackendName, seed: int
) -> None:
    rng = random.Random(seed)
    with cluster_of(backend, seed=seed, latency_ms=rng.choice([0, 0, 1, 20])) as cluster:
        campaign = Campaign(cluster, rng)
        for _ in range(120):
            campaign.step()
        cluster.frozen.clear()
        cluster.advance(20_000)
        campaign.check_living()
    campaign.check_all()
