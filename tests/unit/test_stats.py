"""Counters: frozen values, every name in one place, every one documented."""

from __future__ import annotations

import dataclasses
import json
from types import ModuleType

import pytest

from netcore import ConnectionStats, LinkStats, Node, NodeStats
from netcore._backend import BackendName
from netcore.stats import DROP_COUNTERS, SWITCH_COUNTERS
from support.virtual import Spy, cluster_of


def names(cls: type) -> set[str]:
    return {f.name for f in dataclasses.fields(cls)}


def test_switch_counts_exactly_what_the_list_says(kernels: ModuleType) -> None:
    node = Node(1, backend=kernels.NAME)
    assert tuple(node._switch.counters()) == SWITCH_COUNTERS
    assert set(node._switch.counters().values()) == {0}
    node.close()


def test_node_stats_has_every_counter_of_the_switch() -> None:
    assert set(SWITCH_COUNTERS) <= names(NodeStats)
    assert set(DROP_COUNTERS) <= set(SWITCH_COUNTERS)
    assert {name for name in names(NodeStats) if name.startswith("dropped_")} == set(DROP_COUNTERS)


@pytest.mark.parametrize("cls", [NodeStats, ConnectionStats])
def test_every_field_is_documented(cls: type) -> None:
    undocumented = {n for n in names(cls) if f"{n}: " not in (cls.__doc__ or "")}
    assert undocumented <= {"node_id"}


def test_dropped_is_the_sum_of_the_drop_counters() -> None:
    counts = {name: 10**number for number, name in enumerate(DROP_COUNTERS)}
    stats = NodeStats(backend="pure", node_id=1, **counts)
    assert stats.dropped == sum(counts.values())


def test_stats_are_frozen(backend: BackendName) -> None:
    with Node(1, backend=backend) as node:
        with pytest.raises(dataclasses.FrozenInstanceError):
            node.stats().messages_sent = 5  # type: ignore[misc]
        assert node.stats() == node.stats()


def test_stats_as_dict_is_plain_data(backend: BackendName) -> None:
    with Node(3, backend=backend) as node:
        data = node.stats().as_dict()
    assert json.loads(json.dumps(data)) == data
    assert (data["backend"], data["node_id"]) == (backend, 3)
    assert "links" not in data


def test_stats_of_a_new_node_are_all_zero(backend: BackendName) -> None:
    with Node(1, backend=backend) as node:
        data = node.stats().as_dict()
    del data["backend"], data["node_id"]
    assert set(data.values()) == {0}


def test_stats_can_be_read_after_close(backend: BackendName) -> None:
    with cluster_of(backend) as cluster:
        node, other = cluster.add(1, Spy()), cluster.add(2, Spy())
        cluster.join(node, other)
        node.agent(10).send_to_node(2, b"x")
        node.close()
        stats = node.stats()
        assert (stats.messages_sent, stats.links_opened, stats.links_closed) == (1, 1, 1)
        assert stats.links == ()


def test_link_stats_tell_about_each_link(backend: BackendName) -> None:
    with cluster_of(backend, latency_ms=2) as cluster:
        node, other = cluster.add(1, Spy()), cluster.add(2, Spy())
        conn_id = cluster.join(node, other)
        cluster.advance(100)
        before = node.connections[0]
        node.agent(10).send_to_conn(conn_id, bytes(92))
        cluster.advance(10)
        (link,) = node.connections
        assert isinstance(link, LinkStats)
        assert (link.conn_id, link.remote_node_id, link.is_outgoing) == (conn_id, 2, True)
        assert (link.suspect, link.closing, link.queued_bytes) == (False, False, 0)
        assert link.rtt_ms == 4.0
        assert link.remote_addr == str(other.addrs[0].endpoints[0])
        assert link.frames_sent == before.frames_sent + 1
        assert link.bytes_sent == before.bytes_sent + 4 + 8 + 92
        assert node.stats().links == node.connections


def test_bytes_of_both_ends_agree(backend: BackendName) -> None:
    with cluster_of(backend) as cluster:
        node, other = cluster.add(1, Spy()), cluster.add(2, Spy())
        cluster.join(node, other)
        for size in (0, 1, 1_000, 100_000):
            node.agent(10).send_to_node(2, bytes(size))
        cluster.advance(3_000)
        one, two = node.stats(), other.stats()
        assert one.bytes_sent == two.bytes_received
        assert two.bytes_sent == one.bytes_received
        assert node.connections[0].frames_sent == other.connections[0].frames_received


def test_closing_link_is_shown_as_such(backend: BackendName) -> None:
    with cluster_of(backend) as cluster:
        node, other = cluster.add(1, Spy()), cluster.add(2)
        conn_id = cluster.join(node, other)
        cluster.frozen.add(other)
        node.agent(10).close_conn(conn_id)
        cluster.settle()
        assert [link.closing for link in node.connections] == [True]


def test_dials_and_links_are_counted(backend: BackendName) -> None:
    with cluster_of(backend) as cluster:
        node, other = cluster.add(1, Spy()), cluster.add(2)
        cluster.join(node, other)
        node.connect("/memory/nobody")
        cluster.settle()
        node.agent(10).close_node(2)
        cluster.settle()
        stats = node.stats()
        assert (stats.dials, stats.dials_failed) == (2, 1)
        assert (stats.links_opened, stats.links_closed) == (1, 1)
