"""Links that a node keeps up: whole nodes, mostly on virtual time."""

from __future__ import annotations

import random
import resource
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from netcore import (
    AlreadyConnected,
    AuthenticationError,
    DestinationNotFound,
    DuplicateNodeId,
    ForceLocalRouter,
    HandlerRoute,
    KeptAddr,
    LocalError,
    MemoryNetwork,
    MemoryTransport,
    NetworkBehavior,
    Node,
    NodeAddr,
    NodeClosedError,
    OutgoingConnectionError,
    QueueFullError,
    SelfConnect,
    wire,
)
from netcore._backend import BackendName
from netcore.redial import FIRST_WAIT_MS, LONGEST_WAIT_MS, STABLE_MS
from netcore.transport import Resolver
from support.nodes import ANY, SECRET, Nodes, linked, nodes_of
from support.storm import peak_over_mean
from support.virtual import Cluster, Spy, cluster_of

#: Of node 2, wherever and as often as it lives.
HOME = "2@/memory/home"


@pytest.fixture
def cluster(backend: BackendName) -> Iterator[Cluster]:
    with cluster_of(backend) as made:
        yield made


@pytest.fixture
def nodes(backend: BackendName) -> Iterator[Nodes]:
    with nodes_of(backend) as made:
        yield made


def live(cluster: Cluster, *behaviors: NetworkBehavior, **options: Any) -> Node:
    """Add node 2 at its home."""
    node = cluster.add(2, *behaviors, listen=False, **options)
    node.listen("/memory/home")
    return node


def kept_by(node: Node) -> KeptAddr:
    """Return the one address that a node keeps."""
    (kept,) = node.kept
    return kept


def peers(node: Node) -> list[int]:
    return [link.remote_node_id for link in node.connections if not link.closing]


def up(cluster: Cluster, **options: Any) -> tuple[Node, Node, Spy]:
    """Return nodes 1 and 2 with a link that 1 keeps, and the spy of 1."""
    spy = Spy(**options)
    one, two = cluster.add(1, spy), live(cluster)
    one.connect(HOME, keep=True)
    cluster.advance(100)
    assert kept_by(one).state == "up"
    return one, two, spy


# -- up and down ---------------------------------------------------------------------------------


def test_first_attempt_is_made_at_once(cluster: Cluster) -> None:
    spy = Spy()
    one = cluster.add(1, spy)
    conn_id = one.connect(HOME, keep=True)
    cluster.settle()
    assert [(entry.conn, type(entry.detail)) for entry in spy.log.of("error")] == [
        (conn_id, DestinationNotFound)
    ]


def test_kept_link_comes_up_when_the_other_node_does(cluster: Cluster) -> None:
    one = cluster.add(1)
    one.connect(HOME, keep=True)
    cluster.advance(60_000)
    live(cluster)
    cluster.advance(LONGEST_WAIT_MS)
    assert peers(one) == [2]


def test_kept_link_comes_up_again_with_each_restart_of_the_other_node(cluster: Cluster) -> None:
    spy = Spy()
    one = cluster.add(1, spy)
    one.connect(HOME, keep=True)
    for _ in range(5):
        two = live(cluster)
        cluster.advance(LONGEST_WAIT_MS)
        assert (peers(one), peers(two)) == ([2], [1])
        two.close()
        cluster.settle()
        assert peers(one) == []
    assert len(spy.log.of("connected")) == len(spy.log.of("disconnected")) == 5


def test_kept_link_comes_up_again_when_the_other_node_fell_silent(cluster: Cluster) -> None:
    one, two, _ = up(cluster)
    cluster.frozen.add(two)
    cluster.advance(60_000)
    assert kept_by(one).state != "up"
    cluster.frozen.clear()
    cluster.advance(2 * LONGEST_WAIT_MS)
    assert (peers(one), peers(two)) == ([2], [1])


def test_stable_link_is_dialled_again_within_the_first_wait(cluster: Cluster) -> None:
    one, two, _ = up(cluster)
    cluster.advance(STABLE_MS)
    two.close()
    live(cluster)
    cluster.advance(FIRST_WAIT_MS)
    assert peers(one) == [2]


def test_each_attempt_has_a_conn_id_and_hooks_of_its_own(cluster: Cluster) -> None:
    spy = Spy()
    one = cluster.add(1, spy)
    one.connect(HOME, keep=True)
    cluster.advance(5_000)
    live(cluster)
    cluster.advance(LONGEST_WAIT_MS)
    asked, failed = (spy.log.of(hook) for hook in ("check_out", "error"))
    (link,) = spy.log.of("connected")
    conns = [entry.conn for entry in asked]
    assert len(set(conns)) == len(conns) == kept_by(one).attempts > 5
    assert [entry.conn for entry in failed] == conns[:-1]
    assert link.conn == conns[-1]
    stats = one.stats()
    assert (stats.dials, stats.redials, stats.kept) == (len(conns), len(conns) - 1, 1)


def test_attempts_follow_from_the_seed(backend: BackendName) -> None:
    def attempts(seed: int) -> list[int]:
        with cluster_of(backend, seed=seed) as cluster:
            spy = Spy(check_out=lambda *args: times.append(cluster.now_ms))
            times: list[int] = []
            cluster.add(1, spy).connect(HOME, keep=True)
            cluster.advance(100_000)
            return times

    assert attempts(1) == attempts(1) != attempts(2)


def test_node_that_is_linked_already_is_not_dialled(cluster: Cluster) -> None:
    one, two, spy = up(cluster)
    one.connect(f"2@/memory/nobody{HOME[2:]}", keep=True)
    one.connect("/memory/home", keep=True)
    cluster.advance(60_000)
    assert [kept.state for kept in one.kept] == ["up"] * 3
    assert [type(error) for error in spy.log.errors()] == [AlreadyConnected] * 2
    assert one.stats().redials == 0
    two.close()
    live(cluster)
    cluster.advance(60_000)
    assert [kept.state for kept in one.kept] == ["up"] * 3
    assert peers(one) == [2]


def test_link_dialled_by_the_other_node_stops_the_attempts(cluster: Cluster) -> None:
    one = cluster.add(1)
    one.connect(HOME, keep=True)
    cluster.advance(1_000)
    other = cluster.add(2)
    cluster.join(other, one)
    attempts = kept_by(one).attempts
    cluster.advance(120_000)
    assert (kept_by(one).state, kept_by(one).attempts) == ("up", attempts)
    other.close()
    live(cluster)
    cluster.advance(2 * LONGEST_WAIT_MS)
    assert peers(one) == [2]


def test_two_nodes_that_keep_each_other_have_one_link(cluster: Cluster) -> None:
    one = cluster.add(1, listen=False)
    one.listen("/memory/one")
    one.connect(HOME, keep=True)
    for _ in range(5):
        two = live(cluster)
        two.connect("1@/memory/one", keep=True)
        cluster.advance(LONGEST_WAIT_MS)
        assert (peers(one), peers(two)) == ([2], [1])
        assert (kept_by(one).state, kept_by(two).state) == ("up", "up")
        two.close()


def test_kept_parallel_link_is_wanted_beside_another(cluster: Cluster) -> None:
    one, two = cluster.add(1), live(cluster, Spy())
    cluster.join(two, one)
    one.connect(HOME, parallel=True, keep=True)
    cluster.advance(1_000)
    assert peers(one) == [2, 2]
    two.agent(10).close_conn(two.connections[1].conn_id)
    cluster.settle()
    assert peers(one) == [2]
    cluster.advance(LONGEST_WAIT_MS)
    assert peers(one) == [2, 2]


def test_agent_keeps_links_too(cluster: Cluster) -> None:
    spy = Spy(started=lambda agent: agent.connect_to(HOME, keep=True))
    one, two = cluster.add(1, spy), live(cluster)
    cluster.advance(100)
    two.close()
    live(cluster)
    cluster.advance(LONGEST_WAIT_MS)
    assert peers(one) == [2]


# -- the end of keeping --------------------------------------------------------------------------


#: The ways of a node's own code to end a link: agent of the behavior, the link.
CLOSINGS: dict[str, Callable[[Any, Any], object]] = {
    "close_conn": lambda agent, conn: agent.close_conn(conn.conn_id),
    "close_node": lambda agent, conn: agent.close_node(2),
    "sender": lambda agent, conn: conn.close(),
    "handler": lambda agent, conn: agent.send_to_handler(HandlerRoute.conn(conn.conn_id), "close"),
}


@pytest.mark.parametrize("way", CLOSINGS)
def test_link_that_this_node_closed_is_not_wanted_back(cluster: Cluster, way: str) -> None:
    links: list[Any] = []
    one, _, _ = up(
        cluster,
        connected=lambda agent, conn: links.append(conn),
        from_behavior=lambda agent, event: agent.close_conn(),
    )
    CLOSINGS[way](one.agent(10), links[0])
    cluster.advance(120_000)
    assert (one.kept, peers(one), one.stats().dials) == ((), [], 1)


def test_link_that_the_other_node_closed_is_wanted_back(cluster: Cluster) -> None:
    spy = Spy()
    one, two = cluster.add(1), live(cluster, spy)
    one.connect(HOME, keep=True)
    cluster.advance(100)
    two.agent(10).close_node(1)
    cluster.advance(LONGEST_WAIT_MS)
    assert (peers(one), len(spy.log.of("connected"))) == ([2], 2)


def test_link_closed_for_a_broken_routing_message_is_wanted_back(cluster: Cluster) -> None:
    one, _, _ = up(cluster)
    sync = one.agent(wire.SERVICE_ROUTER_SYNC)
    sync.close_conn(one.connections[0].conn_id)  # what router_sync does then
    cluster.advance(LONGEST_WAIT_MS)
    assert (peers(one), one.stats().links_opened) == ([2], 2)


def test_attempt_that_this_node_ends_is_the_last(cluster: Cluster) -> None:
    spy = Spy()
    one = cluster.add(1, spy)
    conn_id = one.connect(HOME, keep=True)
    one.agent(10).close_conn(conn_id)
    cluster.advance(120_000)
    assert [type(error) for error in spy.log.errors()] == [OutgoingConnectionError]
    assert one.kept == ()


def test_forgotten_link_stays_and_is_not_dialled_again(cluster: Cluster) -> None:
    one, two, _ = up(cluster)
    assert one.forget(HOME)
    cluster.advance(1_000)
    assert peers(one) == [2]
    two.close()
    live(cluster)
    cluster.advance(120_000)
    assert (peers(one), one.stats().dials) == ([], 1)


def test_forgotten_attempt_ends_in_an_error(cluster: Cluster) -> None:
    spy = Spy()
    one = cluster.add(1, spy)
    live(cluster)
    conn_id = one.connect(HOME, keep=True)
    assert one.agent(10).forget(NodeAddr.parse(HOME))
    cluster.advance(120_000)
    (entry,) = spy.log.of("error")
    assert (entry.conn, str(entry.detail)) == (conn_id, "its address was forgotten")
    assert (peers(one), one.kept) == ([], ())


def test_address_can_be_forgotten_where_its_failure_is_told(cluster: Cluster) -> None:
    def give_up(agent: Any, node_id: int | None, conn_id: int, err: Exception) -> None:
        states.append(kept_by(one).state)
        agent.forget(HOME)

    states: list[str] = []
    spy = Spy(error=give_up)
    one = cluster.add(1, spy)
    one.connect(HOME, keep=True)
    cluster.advance(120_000)
    assert (states, one.stats().dials) == (["waiting"], 1)


def test_forgetting_an_address_that_is_not_kept_is_told(cluster: Cluster) -> None:
    one, _, _ = up(cluster)
    assert not one.forget("2@/memory/elsewhere")
    assert kept_by(one).state == "up"


@pytest.mark.parametrize("when_ms", [0, 50, 1_000])
def test_closed_node_keeps_nothing(cluster: Cluster, when_ms: int) -> None:
    spy = Spy()
    one = cluster.add(1, spy)
    one.connect(HOME, keep=True)
    cluster.advance(when_ms)
    one.close()
    assert one.kept == ()
    assert len(spy.log.of("error")) == one.stats().dials
    with pytest.raises(NodeClosedError):
        one.forget(HOME)


def test_node_closed_before_its_first_turn_ends_its_one_attempt(cluster: Cluster) -> None:
    spy = Spy()
    one = cluster.add(1, spy)
    conn_id = one.connect(HOME, keep=True)
    one.close()
    assert [entry.conn for entry in spy.log.of("error")] == [conn_id]


# -- refusals and bounds -------------------------------------------------------------------------


def tries_for(cluster: Cluster, node: Node, ms: int) -> int:
    before = kept_by(node).attempts
    cluster.advance(ms)
    return kept_by(node).attempts - before


def test_wrong_secret_is_tried_on_rarely_and_logged_once(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    one = cluster.add(1, secret=b"one secret of 16 bytes")
    two = live(cluster, secret=SECRET)
    one.connect(HOME, keep=True)
    assert tries_for(cluster, one, 300_000) <= 40
    assert isinstance(kept_by(one).last_error, AuthenticationError)
    (line,) = [r.getMessage() for r in caplog.records if r.name == "netcore.redial"]
    assert line.startswith(f"node 1 cannot reach {HOME}: authentication failed")
    two.close()
    live(cluster, secret=b"one secret of 16 bytes")
    cluster.advance(2 * LONGEST_WAIT_MS)
    assert peers(one) == [2]


def test_node_id_in_use_is_tried_on_rarely(cluster: Cluster) -> None:
    two = live(cluster)
    cluster.join(cluster.add(1), two)
    twin = cluster.add(1)
    twin.connect(HOME, keep=True)
    cluster.advance(1_000)
    assert isinstance(kept_by(twin).last_error, DuplicateNodeId)
    assert tries_for(cluster, twin, 300_000) <= 40


@pytest.mark.parametrize("addr", ["2@/memory/home", "/memory/home"])
def test_own_address_is_tried_on_rarely(cluster: Cluster, addr: str) -> None:
    two = live(cluster)
    two.connect(addr, keep=True)
    assert tries_for(cluster, two, 300_000) <= 40
    assert isinstance(kept_by(two).last_error, SelfConnect)


def test_kept_addresses_are_bounded(cluster: Cluster) -> None:
    one = cluster.add(1, max_kept=2)
    for name in ("a", "b", "a"):
        one.connect(f"/memory/{name}", keep=True)
    with pytest.raises(QueueFullError, match=r"max_kept is full \(2\)"):
        one.connect("/memory/c", keep=True)
    stats = one.stats()
    assert (stats.kept, stats.kept_refused, stats.dials) == (2, 1, 3)
    one.forget("/memory/a")
    one.connect("/memory/c", keep=True)
    assert [str(kept.addr) for kept in one.kept] == ["/memory/b", "/memory/c"]


def test_address_is_not_kept_when_its_dial_cannot_be_queued(cluster: Cluster) -> None:
    one = cluster.add(1, max_commands=16)
    for _ in range(16):
        one.connect("/memory/a")
    with pytest.raises(LocalError, match="max_commands"):
        one.connect(HOME, keep=True)
    assert one.kept == ()


# -- a hub and its spokes ------------------------------------------------------------------------

SPOKES = 500
#: What a clock step may be: far below the windows that are looked at.
STEP_MS = 50


class Hub(NetworkBehavior):
    """Writes down when links come."""

    service_id = 10

    def __init__(self, came: list[int], clock: list[int]) -> None:
        self._came = came
        self._clock = clock

    def on_incoming_connection_connected(self, agent: Any, conn: Any) -> None:
        self._came.append(self._clock[0])


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process open what so many nodes need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * SPOKES
    if 0 <= hard < wanted:
        pytest.skip(f"this process may open {hard} files only")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
def test_spokes_of_a_hub_that_was_away_do_not_come_back_at_once(backend: BackendName) -> None:
    network = MemoryNetwork()
    clock = [0]

    def make(node_id: int, *behaviors: NetworkBehavior) -> Node:
        return Node(
            node_id,
            behaviors,
            ForceLocalRouter(),
            [MemoryTransport(network, f"n{node_id}")],
            backend=backend,
            clock_ms=lambda: clock[0],
            rng=random.Random(node_id),
            tick_ms=3_600_000,
            ping_interval_ms=60_000,
            max_ping_interval_ms=60_000,
            dead_ms=3_600_000,
        )

    def run(ms: int) -> None:
        for _ in range(ms // STEP_MS):
            clock[0] += STEP_MS
            while due := [node for node in living if node.next_deadline_ms() == 0]:
                for node in due:
                    node.poll(0)

    came: list[int] = []
    spokes = [make(number + 1) for number in range(SPOKES)]
    hub = make(0, Hub(came, clock))
    address = hub.listen("/memory/hub")
    living = [hub, *spokes]
    for spoke in spokes:
        spoke.connect(address, keep=True)
    run(STABLE_MS + STEP_MS)
    assert len(came) == SPOKES
    living.remove(hub)
    hub.close(0)
    run(10_000)
    came.clear()
    began_ms = clock[0]
    hub = make(0, Hub(came, clock))
    hub.listen("/memory/hub")
    living.append(hub)
    run(LONGEST_WAIT_MS)
    assert len(came) == len(hub.connections) == SPOKES
    assert peak_over_mean([at_ms - began_ms for at_ms in came]) <= 3
    for node in living:
        node.close(0)


# -- sockets -------------------------------------------------------------------------------------


def test_kept_link_over_tcp_comes_up_again_at_the_same_port(nodes: Nodes) -> None:
    one, two = nodes.add(1), nodes.add(2)
    addr = two.listen(ANY)
    one.connect(addr, keep=True)
    nodes.until(lambda: linked(one, two))
    for _ in range(2):
        two.close(timeout_s=0)
        failed = len(nodes.sinks[one].errors)
        nodes.until(lambda: len(nodes.sinks[one].errors) > failed)  # noqa: B023
        two = nodes.add(2)
        two.listen(addr)
        nodes.until(lambda: linked(one, two))  # noqa: B023
    assert nodes.send_until_echoed(one, 2, [b"back"]) == [b"back"]


def test_name_is_looked_up_for_each_attempt(nodes: Nodes) -> None:
    asked: list[str] = []

    def look_up(host: str, *args: Any, **options: Any) -> Any:
        asked.append(host)
        if len(asked) < 3:
            raise socket.gaierror("not yet")
        return socket.getaddrinfo("127.0.0.1", *args, **options)

    one, two = nodes.add(1), nodes.add(2)
    one._host._resolver = Resolver(one._loop, getaddrinfo=look_up)
    port = two.listen(ANY).endpoints[0].port
    one.connect(f"2@/dns/moving.example/tcp/{port}", keep=True)
    nodes.until(lambda: linked(one, two))
    assert asked == ["moving.example"] * 3
