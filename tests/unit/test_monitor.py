"""Liveness of real links: measurements, suspicion, death, on both backends and a virtual clock."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from netcore import ConnectionStats, Node
from netcore._backend import BackendName
from netcore.transport.base import ChannelTarget
from netcore.transport.memory import MemoryChannel
from support.virtual import Cluster, Spy, cluster_of, until_refused


@pytest.fixture
def cluster(backend: BackendName) -> Iterator[Cluster]:
    with cluster_of(backend) as made:
        yield made


def measured(spy: Spy) -> list[ConnectionStats]:
    return spy.log.details("measured")


@pytest.mark.parametrize("latency_ms", [0, 1, 30, 400])
def test_measurement_tells_the_round_trip(backend: BackendName, latency_ms: int) -> None:
    with cluster_of(backend, latency_ms=latency_ms) as cluster:
        spies = Spy(), Spy()
        node, other = cluster.add(1, spies[0]), cluster.add(2, spies[1])
        cluster.join(node, other)
        cluster.advance(5_000)
        for spy in spies:
            assert {stats.rtt_ms for stats in measured(spy)} == {2.0 * latency_ms}
        assert [link.rtt_ms for link in (*node.connections, *other.connections)] == [
            2.0 * latency_ms
        ] * 2


def test_measurements_come_about_once_per_rtt_interval(cluster: Cluster) -> None:
    spy = Spy()
    node, other = cluster.add(1, spy, rtt_interval_ms=500), cluster.add(2)
    cluster.join(node, other)
    cluster.advance(10_000)
    assert 13 <= len(measured(spy)) <= 21


def test_measurement_says_whose_it_is_and_what_is_unknown(cluster: Cluster) -> None:
    spy = Spy()
    node = cluster.add(1, spy)
    conn_id = cluster.join(node, cluster.add(2))
    cluster.advance(2_000)
    stats = measured(spy)[-1]
    assert (stats.conn_id, stats.remote_node_id) == (conn_id, 2)
    assert (stats.loss, stats.over_use) == (None, None)
    assert (stats.suspect, stats.writable, stats.queued_bytes) == (False, True, 0)


def test_measurement_tells_the_rates(cluster: Cluster) -> None:
    spies = Spy(), Spy()
    node, other = cluster.add(1, spies[0]), cluster.add(2, spies[1])
    conn_id = cluster.join(node, other)
    for _ in range(50):
        node.agent(10).send_to_conn(conn_id, bytes(10_000))
        cluster.advance(100)
    sent = [stats.sent_bytes_per_s for stats in measured(spies[0])[1:]]
    received = [stats.received_bytes_per_s for stats in measured(spies[1])[1:]]
    assert all(90_000 < rate < 115_000 for rate in (*sent, *received) if rate is not None)
    assert len([rate for rate in (*sent, *received) if rate]) >= 6


def test_every_handler_of_a_link_gets_the_measurement(cluster: Cluster) -> None:
    log = (spy := Spy(10)).log
    node = cluster.add(1, spy, Spy(20, log))
    cluster.join(node, cluster.add(2))
    cluster.advance(3_000)
    for_10 = log.details("measured", service=10)
    assert for_10
    assert for_10 == log.details("measured", service=20)


def test_quiet_handler_gets_no_measurement(cluster: Cluster) -> None:
    spy = Spy(handlers="quiet")
    node = cluster.add(1, spy)
    cluster.join(node, cluster.add(2))
    cluster.advance(3_000)
    assert not measured(spy)


# -- silence -------------------------------------------------------------------------------------


def silenced(cluster: Cluster, **config: Any) -> tuple[Node, Spy, Node]:
    """Return a node, its spy, and a neighbour that fell silent just now."""
    spy = Spy()
    node = cluster.add(1, spy, **config)
    other = cluster.add(2, **config)
    cluster.join(node, other)
    cluster.advance(3_000)
    cluster.frozen.add(other)
    return node, spy, other


def test_silent_link_becomes_suspect_and_its_handlers_hear_at_once(cluster: Cluster) -> None:
    node, spy, _ = silenced(cluster)
    begin = cluster.now_ms
    cluster.until(lambda: measured(spy)[-1].suspect)
    # Three ping intervals of 200 ms since the last sign of life, which was up to one before.
    assert 400 <= cluster.now_ms - begin <= 600
    assert node.connections[0].suspect
    assert node.stats().suspects == 1
    assert [stats.suspect for stats in measured(spy)][-2:] == [False, True]


def test_route_leaves_a_suspect_link_at_once(cluster: Cluster) -> None:
    node, spy, other = silenced(cluster)
    detour = cluster.add(3)
    cluster.frozen.clear()
    cluster.join(node, detour)
    cluster.join(detour, other)
    cluster.advance(3_000)
    cluster.network.set_latency(*names(node, other), 10**9)
    cluster.until(lambda: measured(spy)[-1].suspect)
    assert node.router.path_to_node(2).node_id == 3


def names(one: Node, other: Node) -> tuple[str, str]:
    return one.addrs[0].endpoints[0].host, other.addrs[0].endpoints[0].host


def test_suspect_link_that_lives_again_is_told_at_once(cluster: Cluster) -> None:
    node, spy, _ = silenced(cluster)
    cluster.advance(2_000)
    cluster.frozen.clear()
    begin = cluster.now_ms
    cluster.until(lambda: not node.connections[0].suspect)
    assert cluster.now_ms - begin <= 250
    assert not measured(spy)[-1].suspect
    assert len(node.connections) == 1


def test_thawed_node_does_not_blame_its_neighbour(cluster: Cluster) -> None:
    spy = Spy()
    node, late = cluster.add(1), cluster.add(2, spy)
    cluster.join(node, late)
    cluster.advance(3_000)
    cluster.frozen.add(late)
    cluster.advance(5_000)
    cluster.frozen.clear()
    cluster.advance(3_000)
    # The other end said once that it had not heard us; our own absence is not its silence.
    assert len(late.connections) == 1
    assert not late.connections[0].suspect
    assert spy.log.of("disconnected") == []


def test_silent_link_is_dead_after_dead_ms(cluster: Cluster) -> None:
    node, spy, _ = silenced(cluster, dead_ms=3_000)
    begin = cluster.now_ms
    cluster.until(lambda: spy.log.of("disconnected"))
    assert 2_750 <= cluster.now_ms - begin <= 3_000
    assert not node.connections
    assert [hook for hook, _ in spy.log.order()][-2:] == ["closed", "disconnected"]


def test_dead_link_leaves_no_route(cluster: Cluster) -> None:
    node, spy, _ = silenced(cluster, dead_ms=1_000)
    cluster.until(lambda: spy.log.of("disconnected"))
    assert node.router.path_to_node(2).is_reject
    assert node.router.path_to_service(10).is_local


def test_dead_link_can_be_dialled_again(cluster: Cluster) -> None:
    node, spy, other = silenced(cluster, dead_ms=1_000)
    cluster.until(lambda: spy.log.of("disconnected"))
    cluster.frozen.clear()
    cluster.advance(2_000)
    cluster.join(node, other)
    cluster.advance(1_000)
    assert len(node.connections) == len(other.connections) == 1


def test_silence_of_one_direction_makes_both_ends_suspect(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    spies = Spy(), Spy()
    node, other = cluster.add(1, spies[0]), cluster.add(2, spies[1])
    cluster.join(node, other)
    cluster.advance(3_000)
    into_node = channels_of(node)
    monkeypatch.setattr(MemoryChannel, "_hand_over", deaf(into_node))
    cluster.advance(1_500)
    # It hears us; only the flag in our PINGs tells it that we do not hear it.
    assert node.connections[0].suspect
    assert other.connections[0].suspect
    monkeypatch.undo()
    cluster.advance(1_000)
    assert not node.connections[0].suspect
    assert not other.connections[0].suspect


def channels_of(node: Node) -> set[int]:
    """Return the ids of the channel ends that belong to a node."""
    return {id(obj) for obj in gc.get_objects() if is_end_of(obj, node)}


def is_end_of(obj: object, node: Node) -> bool:
    return type(obj) is MemoryChannel and obj._loop is node._loop


def deaf(ends: set[int]) -> Callable[[MemoryChannel, ChannelTarget, bytes | None], None]:
    """Return a replacement of ``_hand_over`` that swallows what comes to these ends."""
    hand_over = MemoryChannel._hand_over

    def swallow(channel: MemoryChannel, target: ChannelTarget, item: bytes | None) -> None:
        if id(channel) not in ends or item is None:
            hand_over(channel, target, item)
        else:
            channel._took(len(item))

    return swallow


def test_idle_links_stay_alive_for_ever(cluster: Cluster) -> None:
    spy = Spy()
    node, other = cluster.add(1, spy), cluster.add(2)
    cluster.join(node, other)
    cluster.advance(120_000)
    assert node.stats().suspects == other.stats().suspects == 0
    assert not any(stats.suspect for stats in measured(spy))


def test_idle_link_costs_about_one_ping_per_interval(cluster: Cluster) -> None:
    node, other = cluster.add(1, router=None), cluster.add(2)
    cluster.join(node, other)
    cluster.advance(5_000)
    before = node.stats().control_sent
    cluster.advance(10_000)
    # 50 intervals; PINGs are up to a quarter early; PONGs and digests come on top.
    assert 50 <= node.stats().control_sent - before <= 100


def test_links_that_ended_are_watched_no_more(cluster: Cluster) -> None:
    node, other = cluster.add(1, Spy()), cluster.add(2)
    for _ in range(20):
        cluster.join(node, other)
        node.agent(10).close_node(2)
        cluster.settle()
    assert len(node._plane.monitor._liveness) == len(other._plane.monitor._liveness) == 0
    cluster.advance(20_000)
    assert node.stats().suspects == 0


# -- a full queue --------------------------------------------------------------------------------


def test_link_that_refused_a_send_tells_when_it_has_drained(backend: BackendName) -> None:
    with cluster_of(backend, window_bytes=8_192) as cluster:
        spy = Spy()
        node = cluster.add(1, spy, write_high_bytes=20_000, write_low_bytes=5_000)
        other = cluster.add(2, Spy())
        conn_id = cluster.join(node, other)
        cluster.frozen.add(other)
        err = until_refused(lambda: node.agent(10).send_to_conn(conn_id, bytes(1_000)))
        cluster.settle()
        assert not spy.log.of("writable")
        cluster.frozen.clear()
        cluster.settle()
        assert (err.conn, err.limit) == (conn_id, 20_000)
        assert 20_000 <= err.queued < 20_000 + 1_016
        assert [e.conn for e in spy.log.of("writable")] == [conn_id]
        assert node.connections[0].sends_refused == 1
        assert node.stats().sends_refused == 1
