"""What holds whatever happens: the invariants of the checklist, each by its number."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import pytest

from netcore import (
    AuthenticationError,
    HandlerRoute,
    LayeredRouter,
    LocalError,
    NetcoreError,
    Node,
    RouteRule,
    _backend,
    wire,
)
from netcore._backend import BackendName
from netcore.transport.memory import MemoryChannel, MemoryStream
from support.campaign import SECRET, Campaign, Traffic
from support.virtual import Cluster, Entry, Log, RawPeer, Spy, check_log, cluster_of, on


@pytest.fixture
def cluster(backend: BackendName) -> Iterator[Cluster]:
    with cluster_of(backend) as made:
        yield made


def layered(node: Node) -> LayeredRouter:
    assert isinstance(node.router, LayeredRouter)
    return node.router


def random_network(cluster: Cluster, rng: random.Random, ids: list[int]) -> list[Node]:
    """Return connected nodes with some more links than a tree has, their routes settled."""
    calm: dict[str, Any] = {
        "ping_interval_ms": 500,
        "dead_ms": 3_000,
        "tick_ms": 60_000,
    }  # for speed only
    nodes = [cluster.add(node_id, Spy(10), **calm) for node_id in ids]
    for number, node in enumerate(nodes[1:], 1):
        cluster.join(node, rng.choice(nodes[:number]))
    for _ in range(len(nodes) // 2):
        cluster.dial(*rng.sample(nodes, 2))
    cluster.advance(4_000)
    return nodes


# -- 1: everything that begins ends, once --------------------------------------------------------


@pytest.mark.parametrize("seed", range(100, 108))
def test_invariant_01_attempts_links_and_handlers_end_exactly_once(
    backend: BackendName, seed: int
) -> None:
    rng = random.Random(seed)
    with cluster_of(backend, seed=seed, latency_ms=rng.choice([0, 3])) as cluster:
        campaign = Campaign(cluster, rng)
        for _ in range(100):
            campaign.step()
    campaign.check_all()  # the nodes were closed in the middle of it


# -- 2: nothing after the end --------------------------------------------------------------------


def test_invariant_02_no_hook_for_a_link_after_its_disconnected(cluster: Cluster) -> None:
    agents: list[Any] = []
    conns: list[Any] = []
    log = Log()
    spy = Spy(10, log, opened=agents.append, connected=lambda agent, conn: conns.append(conn))
    node, other = cluster.add(1, spy), cluster.add(2, Spy())
    conn_id = cluster.join(node, other)
    other.agent(10).send_to_node(1, b"on its way")
    node.agent(10).close_conn(conn_id)
    cluster.settle()
    end = len(log.of("disconnected")) and len(log.entries)
    for ask in (
        lambda: agents[0].send_behavior("x"),
        lambda: agents[0].send_to_handler(HandlerRoute.conn(conn_id), "x"),
        lambda: agents[0].send(b"x"),
        lambda: agents[0].close_conn(),
        lambda: conns[0].send(b"x"),
        lambda: conns[0].close(),
        lambda: node.agent(10).send_to_handler(HandlerRoute.conn(conn_id), "x"),
    ):
        try_it(ask)
    cluster.advance(20_000)
    assert [entry for entry in log.entries[end:] if entry.conn == conn_id] == []


def try_it(ask: Any) -> None:
    with contextlib.suppress(LocalError):  # it is gone, and should say no more than that
        ask()


def test_invariant_02_nothing_at_all_after_on_stopped(cluster: Cluster) -> None:
    agents: list[Any] = []
    log = Log()
    spy = Spy(10, log, opened=agents.append)
    node, other = cluster.add(1, spy), cluster.add(2, Spy())
    conn_id = cluster.join(node, other)
    agent = node.agent(10)
    agent.call_later(5, log.wrap("later"))
    agent.call(RouteRule.node(2), 10, b"", log.wrap("done"))
    node.post(log.wrap("post"))
    node.close()
    end = len(log.entries)
    for ask in (
        lambda: agents[0].send_behavior("x"),
        lambda: agent.send_local(b"x"),
        lambda: agent.send_to_handler(HandlerRoute.conn(conn_id), "x"),
        lambda: agent.connect_to("/memory/nobody"),
        lambda: agent.call(RouteRule.node(1), 10, b"", log.wrap("done")),
        lambda: agent.call_later(1, log.wrap("later")),
        lambda: node.post(log.wrap("post")),
        lambda: node.poll(0),
    ):
        try_it(ask)
    other.agent(10).close_node(1)
    cluster.advance(20_000)
    assert log.entries[end - 1].hook == "stopped"
    assert log.entries[end:] == []


# -- 3: nothing ends the node --------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_invariant_03_hooks_that_raise_at_random_never_end_the_node(
    backend: BackendName, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    rng = random.Random(seed)

    def perhaps(*args: object) -> None:
        if rng.random() < 0.2:
            raise rng.choice([ValueError, KeyError, MemoryError, RecursionError, NetcoreError])

    reactions: dict[str, Any] = dict.fromkeys(
        ("started", "stopped", "tick", "connected", "disconnected", "error", "writable",
         "from_handler", "message", "rpc", "opened", "link_tick", "event", "measured",
         "from_other", "from_behavior", "closed", "check_in", "check_out"),
        perhaps,
    )  # fmt: skip
    with cluster_of(backend, seed=seed) as cluster:
        logs = [Log() for _ in range(4)]
        for number, log in enumerate(logs):
            cluster.add(number, Spy(10, log, **reactions), Spy(20, log), tick_ms=100)
        dialled: dict[int, list[int]] = {number: [] for number in range(4)}
        for _ in range(80):
            one, other = rng.sample(cluster.nodes, 2)
            dialled[one.node_id].append(cluster.dial(one, other))
            for conn in one.connections:
                one.agent(10).send_to_conn(conn.conn_id, b"x")
                one.agent(10).send_to_handler(HandlerRoute.conn(conn.conn_id), "x")
            one.agent(10).send_local(b"x")
            if rng.random() < 0.2:
                one.agent(20).close_node(other.node_id)
            cluster.advance(rng.choice([0, 50, 300]))
        assert all(not node.closed for node in cluster.nodes)
        assert cluster.total("hook_errors") > 100
        cluster.assert_nothing_lost()
        assert caplog.records
    for number, log in enumerate(logs):
        assert log.deepest == 1
        # Service 20 lives next to it undisturbed.
        undisturbed = Log()
        undisturbed.entries = [entry for entry in log.entries if entry.service == 20]
        check_log(undisturbed, [20], dialled=dialled[number])


def test_invariant_03_malformed_frames_end_their_link_and_nothing_else(cluster: Cluster) -> None:
    spy = Spy()
    node, friend = cluster.add(1, spy), cluster.add(2, Spy())
    cluster.join(friend, node)
    malformed = [
        (wire.KIND_MESSAGE, b""),
        (wire.KIND_MESSAGE, bytes(7)),
        (wire.KIND_MESSAGE, b"\xc0" + bytes(20)),  # another version
        (wire.KIND_MESSAGE, b"\x04" + bytes(20)),  # sealed
        (wire.KIND_MESSAGE, b"\x28" + bytes(8)),  # optional words are missing
        (wire.KIND_CALL, bytes(3)),
        (wire.KIND_BROADCAST, bytes(28)),  # no from_node
        (wire.KIND_BROADCAST, b"\x30" + bytes(26)),  # half a sequence number
        (wire.KIND_HELLO, bytes(80)),
        (wire.KIND_AUTH, b""),
        (wire.KIND_READY, b""),
        (0x05, b""),
        (wire.KIND_PING, b"short"),
        (wire.KIND_PONG, b"short"),
        (wire.KIND_CLOSE, b"x"),
        (wire.KIND_CLOSE, bytes(500)),
    ]
    for number, (kind, body) in enumerate(malformed):
        peer = RawPeer(cluster, 100 + number, node)
        peer.frame(kind, body)
        cluster.settle()
        assert [link.remote_node_id for link in node.connections] == [2], (kind, body)
        assert peer.ended
    assert node.stats().protocol_errors == len(malformed)
    friend.agent(10).send_to_node(1, b"still there")
    cluster.settle()
    assert spy.log.details("event") == [b"still there"]


def test_invariant_03_unknown_extension_frames_are_ignored_and_counted(cluster: Cluster) -> None:
    node = cluster.add(1, Spy())
    peer = RawPeer(cluster, 9, node)
    for kind in (0x80, 0x81, 0xFF):
        peer.frame(kind, b"from the future")
    cluster.settle()
    assert node.stats().frames_ignored == 3
    assert len(node.connections) == 1


@pytest.mark.parametrize("seed", range(20))
def test_invariant_03_random_bytes_never_end_the_node(backend: BackendName, seed: int) -> None:
    rng = random.Random(seed)
    with cluster_of(backend) as cluster:
        spy = Spy()
        node, friend = cluster.add(1, spy), cluster.add(2, Spy())
        cluster.join(friend, node)
        for number in range(30):
            peer = RawPeer(cluster, 100 + number, node)
            for _ in range(rng.randrange(1, 20)):
                kind = rng.choice([0, 0, 1, 1, 2, 0x10, 0x11, 0x12, 0x80, rng.randrange(256)])
                body = bytearray(rng.randbytes(rng.choice([0, 8, 11, 16, 40, 300])))
                if body and rng.random() < 0.8:
                    body[0] &= 0x3B  # a header of this version
                peer.frame(kind, bytes(body))
            if rng.random() < 0.5:
                peer.write(rng.randbytes(50))
            cluster.settle()
            peer.end()
            cluster.settle()
        friend.agent(10).send_to_node(1, b"still there")
        cluster.settle()
        assert spy.log.details("event")[-1] == b"still there"
        assert node.stats().hook_errors == 0


# -- 4: hops -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ttl", [0, 1, 2, 3, 64, 255])
def test_invariant_04_relay_writes_one_less_and_changes_nothing_else(
    cluster: Cluster, ttl: int
) -> None:
    node = cluster.add(1)
    sender, receiver = RawPeer(cluster, 9, node), RawPeer(cluster, 7, node)
    # V0 F R=node M=3, services 33 -> 34, stream 0xDE, from node 1000, to node 7.
    head, tail = b"\x2b", bytes.fromhex("21 22 000000de 000003e8 00000007") + b"payload"
    before = len(receiver.received)
    sender.frame(wire.KIND_MESSAGE, head + bytes([ttl]) + tail)
    cluster.settle()
    got = bytes(receiver.received[before:])
    if ttl < 2:
        assert got == b""
        assert node.stats().dropped_ttl_expired == 1
    else:
        body = head + bytes([ttl - 1]) + tail
        assert got == b"\0" + len(body).to_bytes(3, "big") + body


# -- 5: converged tables -------------------------------------------------------------------------

ID_SETS = {
    "one group": [0x01010100 + n for n in (1, 2, 3, 5, 8, 13, 21, 34, 55, 89)],
    "spread indices": [0x01010100 + n for n in (0, 255, 128, 64, 192, 7, 77)],
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ids", ID_SETS.values(), ids=ID_SETS)
def test_invariant_05_every_key_has_one_owner(
    backend: BackendName, ids: list[int], seed: int
) -> None:
    rng = random.Random(seed)
    with cluster_of(backend, seed=seed) as cluster:
        nodes = random_network(cluster, rng, ids)
        for _ in range(100):
            key = rng.randrange(1 << 32)
            owners = {follow(nodes, node, RouteRule.closest(key)) for node in nodes}
            assert owners == {min(ids, key=lambda node_id: xor_order(node_id, key))}


def xor_order(node_id: int, key: int) -> tuple[int, ...]:
    """Return by what the layers compare: each layer of the id with that of the key."""
    return tuple((node_id ^ key) >> shift & 0xFF for shift in (24, 16, 8, 0))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ids", ID_SETS.values(), ids=ID_SETS)
def test_invariant_05_next_hops_towards_any_node_are_loop_free(
    backend: BackendName, ids: list[int], seed: int
) -> None:
    with cluster_of(backend, seed=seed) as cluster:
        nodes = random_network(cluster, random.Random(seed), ids)
        for dest in ids:
            for node in nodes:
                assert follow(nodes, node, RouteRule.node(dest)) == dest


def follow(nodes: list[Node], start: Node, rule: RouteRule) -> int:
    """Return where a message ends that goes from table to table."""
    by_id = {node.node_id: node for node in nodes}
    at = start
    for _ in range(len(nodes) + 1):
        action = at.router.path_to(rule, 10)
        if action.is_local:
            return int(at.node_id)
        assert action.is_next, (at, rule)
        at = by_id[action.node_id]  # type: ignore[index]
    raise AssertionError(f"{rule} from {start} goes round in a loop")


@pytest.mark.parametrize("seed", range(3))
def test_invariant_05_split_horizon_holds_in_every_sync(backend: BackendName, seed: int) -> None:
    ids = ID_SETS["one group"]
    with cluster_of(backend, seed=seed) as cluster:
        for node in random_network(cluster, random.Random(seed), ids):
            for link in node.connections:
                sync = layered(node).create_sync(link.remote_node_id)
                metrics = [m for part in (*sync.layers, sync.services) for m in part.values()]
                assert metrics
                assert all(link.remote_node_id not in metric.hops for metric in metrics)


# -- 6: what is gone is forgotten ----------------------------------------------------------------


@pytest.mark.parametrize("how", ["closed", "dead"])
@pytest.mark.parametrize("seed", range(3))
def test_invariant_06_nothing_mentions_a_link_that_is_gone(
    backend: BackendName, seed: int, how: str
) -> None:
    rng = random.Random(seed)
    with cluster_of(backend, seed=seed) as cluster:
        nodes = random_network(cluster, rng, ID_SETS["one group"])
        gone = rng.choice(nodes)
        if how == "closed":
            gone.close()
        else:
            cluster.frozen.add(gone)
        cluster.advance(8_000)
        for node in nodes:
            if node is not gone:
                check_forgotten(node, gone)


def check_forgotten(node: Node, gone: Node) -> None:
    living = {link.conn_id for link in node.connections}
    assert gone.node_id not in {link.remote_node_id for link in node.connections}
    table = layered(node).table
    used = {conn for row in (*table.slots(), *table.services()) for conn in (row[2], row[4])}
    assert used - {0} <= living
    text = repr(layered(node).dump())
    assert f"'node_id': {gone.node_id}," not in text
    for link in node.connections:
        sync = layered(node).create_sync(link.remote_node_id)
        for part in (*sync.layers, sync.services):
            assert all(gone.node_id not in metric.hops for metric in part.values())


# -- 7: idempotent protocols ---------------------------------------------------------------------


@pytest.mark.parametrize("secret", [SECRET, None], ids=["auth", "open"])
def test_invariant_07_replayed_handshake_makes_no_second_link(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, secret: bytes | None
) -> None:
    node, friend = cluster.add(1, Spy(), secret=secret), cluster.add(2, Spy(), secret=secret)
    sent: list[bytes] = []
    write = MemoryStream.write

    def record(stream: MemoryStream, data: bytes) -> None:
        assert isinstance(stream._channel, MemoryChannel)
        if stream._channel._loop is friend._loop:
            sent.append(data)
        write(stream, data)

    monkeypatch.setattr(MemoryStream, "write", record)
    conn_id = cluster.join(friend, node)
    assert len(sent) == 2  # HELLO and AUTH
    links = [link.conn_id for link in node.connections]
    thief = Replay(cluster, node, sent)
    cluster.advance(1_000)
    assert [link.conn_id for link in node.connections] == links
    assert [link.conn_id for link in friend.connections] == [conn_id]
    assert node.stats().handshakes_failed == 1
    assert node.stats().half_open == 0
    assert thief.ended


class Replay:
    """Sends recorded bytes to a listener and does not look at the answers."""

    def __init__(self, cluster: Cluster, target: Node, data: list[bytes]) -> None:
        loop = _backend.load(cluster.backend).Loop(clock=lambda: cluster.now_ms)
        name = target.addrs[0].endpoints[0].host
        listener = cluster.network.find(name)
        assert listener is not None
        near, far = MemoryChannel.pair(cluster.network, (loop, "thief"), (listener.loop, name))
        self.loop, self.ended = loop, False
        cluster.peers.append(self)  # type: ignore[arg-type]
        near.set_target(self)
        listener.loop.post(listener.arrive, far, 0)
        for piece in data:
            near.write(piece)
            cluster.settle()

    def turn(self) -> bool:
        busy = self.loop.next_deadline_ms() == 0
        return bool(self.loop.run_once(0) or busy)

    def receive_data(self, data: bytes) -> None:
        pass

    def receive_eof(self) -> None:
        self.ended = True

    def channel_writable(self) -> None:
        pass


def test_invariant_07_handshake_in_single_bytes_makes_the_same_link(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand_over = MemoryChannel._hand_over

    def crumble(channel: MemoryChannel, target: Any, item: bytes | None) -> None:
        for at in range(len(item or b"")):
            if channel._target is not None and item is not None:
                hand_over(channel, channel._target, item[at : at + 1])
        if item is None:
            hand_over(channel, target, item)

    monkeypatch.setattr(MemoryChannel, "_hand_over", crumble)
    spy, there = Spy(), Spy()
    node, other = cluster.add(1, spy, secret=SECRET), cluster.add(2, there, secret=SECRET)
    conn_id = cluster.dial(node, other)
    cluster.settle()
    assert [(e.hook, e.conn) for e in spy.log.of("connected", "error")] == [("connected", conn_id)]
    assert len(there.log.of("connected")) == 1


def test_invariant_07_dials_that_fail_are_not_repeated_by_netcore(cluster: Cluster) -> None:
    spy = Spy()
    node = cluster.add(1, spy, secret=SECRET)
    stranger = cluster.add(2, Spy(), secret=b"another secret of 16")
    cluster.dial(node, stranger)
    cluster.advance(60_000)
    (err,) = spy.log.errors()
    assert isinstance(err, AuthenticationError)
    assert stranger.stats().handshakes_failed == 1


def test_invariant_07_request_runs_at_most_once(backend: BackendName) -> None:
    with cluster_of(backend, latency_ms=50) as cluster:
        spy = Spy(rpc=lambda agent, req, res: res.ok(b"") or True)
        node, other = cluster.add(1, Spy()), cluster.add(2, spy)
        cluster.join(node, other)
        ends: list[object] = []
        for timeout_ms in (10, 60, 5_000):
            node.agent(10).call(RouteRule.node(2), 10, b"", ends.append, timeout_ms)
        cluster.advance(20_000)
        assert len(spy.log.of("rpc")) == len(ends) == 3
        assert node.stats().answers_late == 2


# -- 9: bounded queues ---------------------------------------------------------------------------


def test_invariant_09_queues_stay_within_their_bounds_under_a_flood(backend: BackendName) -> None:
    with cluster_of(backend, window_bytes=4_096, latency_ms=5) as cluster:
        limit: dict[str, Any] = {
            "write_high_bytes": 20_000,
            "write_low_bytes": 5_000,
            "control_queue_bytes": 8_192,
        }
        nodes = [cluster.add(number, Spy(), **limit) for number in range(1, 5)]
        cluster.chain(*nodes)
        refused = 0
        for _ in range(200):
            for node in nodes:
                for dest in (1, 4):
                    for _ in range(10):
                        refused += not sent(node, dest, bytes(1_000))
            cluster.advance(2)
            for node in nodes:
                for conn in node._switch.connections():
                    assert conn.queued_bytes < 20_000 + 1_020
                    assert conn.control_queued_bytes < 8_192 + 4_096
        assert refused == cluster.total("sends_refused") > 1_000
        assert cluster.total("dropped_relay_queue_full") > 100
        assert cluster.total("suspects") == 0  # busy is not silent
        cluster.advance(20_000)
        cluster.assert_nothing_lost()


def sent(node: Node, dest: int, payload: bytes) -> bool:
    try:
        node.agent(10).send_to_node(dest, payload)
    except LocalError:
        return False
    return True


# -- 10: time and chance come from outside -------------------------------------------------------


def story(backend: BackendName, seed: int, begin_ms: int = 1_000_000) -> list[Any]:
    """Return everything that random nodes live through."""
    rng = random.Random(seed)
    with cluster_of(backend, seed=seed, latency_ms=3) as cluster:
        cluster.now_ms = begin_ms
        campaign = Campaign(cluster, rng)
        for _ in range(60):
            campaign.step()
    return [
        [plain(entry, begin_ms) for entry in log.entries if entry.hook != "measured"]
        for log in campaign.logs.values()
    ]


def plain(entry: Entry, begin_ms: int) -> tuple[object, ...]:
    """Return what can be compared: errors by their text, times from the beginning."""
    if entry.hook in ("tick", "link_tick"):
        return (entry.hook, entry.service, entry.conn, entry.detail - begin_ms)
    detail = str(entry.detail) if isinstance(entry.detail, Exception) else entry.detail
    return (entry.hook, entry.service, entry.conn, detail)


@pytest.mark.parametrize("seed", range(5))
def test_invariant_10_same_seed_gives_the_same_story(backend: BackendName, seed: int) -> None:
    assert story(backend, seed) == story(backend, seed)


@pytest.mark.parametrize("seed", range(5))
def test_invariant_10_time_is_what_the_clock_says(backend: BackendName, seed: int) -> None:
    assert story(backend, seed, 5) == story(backend, seed, 1 << 45)


@pytest.mark.parametrize("backend", ["fast"], indirect=True)
@pytest.mark.parametrize("seed", range(10))
def test_invariant_10_both_backends_tell_the_same_story(backend: BackendName, seed: int) -> None:
    assert story(backend, seed) == story("pure", seed)


@pytest.mark.parametrize("backend", ["fast"], indirect=True)
@pytest.mark.parametrize("seed", range(5))
def test_invariant_10_both_backends_count_the_same(backend: BackendName, seed: int) -> None:
    assert counts(backend, seed) == counts("pure", seed)


def counts(backend: BackendName, seed: int) -> list[dict[str, object]]:
    rng = random.Random(seed)
    with cluster_of(backend, seed=seed, latency_ms=2, window_bytes=8_192) as cluster:
        traffic = Traffic(cluster, rng, mixed=False)
        for _ in range(40):
            traffic.step()
        found = [node.stats().as_dict() for node in cluster.nodes]
    for each in found:
        del each["backend"]
    return found


def test_hooks_by_name_are_given_like_others(cluster: Cluster) -> None:
    log = Log()
    cluster.add(1, Spy(10, log, **on("started", log.wrap("reacted"))))
    cluster.settle()
    assert log.order() == [("started", 10), ("reacted", -1)]
