"""Services that come and go while the nodes run, on virtual time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from netcore import ForceLocalRouter, LocalError, Node, NodeClosedError, NoRouteError, RouteRule
from netcore._backend import BackendName
from support.virtual import Cluster, Spy, cluster_of

SERVICE = 30
#: From the moment a provider says that it leaves: one batch per hop, and the way there.
TOLD_MS = 30


@pytest.fixture
def cluster(backend: BackendName) -> Iterator[Cluster]:
    with cluster_of(backend) as made:
        yield made


def provider() -> Spy:
    return Spy(SERVICE)


def line(cluster: Cluster, *offering: int, nodes: int = 4) -> list[Node]:
    """Return a line of nodes 1, 2, ..., some of which offer the service."""
    made = [
        cluster.add(number, Spy(10), *([provider()] if number in offering else []))
        for number in range(1, nodes + 1)
    ]
    cluster.chain(*made)
    return made


def used_by(node: Node) -> list[int]:
    """Return the providers that a node knows, the one in use first."""
    found = [service.nodes for service in node.services() if service.service_id == SERVICE]
    return list(found[0]) if found else []


def delivered(node: Node) -> int:
    """Return how many messages the service of a node got."""
    return node.stats().messages_delivered


def send(cluster: Cluster, node: Node) -> None:
    node.agent(10).send_to_service(SERVICE, b"")
    cluster.advance(10)


# -- which provider -------------------------------------------------------------------------------


def test_own_service_comes_first(cluster: Cluster) -> None:
    one, two, *_ = line(cluster, 1, 2)
    assert used_by(one) == [1, 2]
    send(cluster, one)
    assert (delivered(one), delivered(two)) == (1, 0)


def test_nearest_is_decided_by_metric_not_by_hops(cluster: Cluster) -> None:
    one, far, relay, near = (
        cluster.add(number, Spy(10), *([provider()] if number in (2, 4) else []))
        for number in (1, 2, 3, 4)
    )
    cluster.set_latency(one, far, 100)
    for a, b in ((one, far), (one, relay), (relay, near)):
        cluster.join(a, b)
    cluster.advance(3_000)
    assert used_by(one) == [4, 2]
    send(cluster, one)
    assert (delivered(far), delivered(near)) == (0, 1)


def test_nodes_and_services_at_show_what_can_be_reached(cluster: Cluster) -> None:
    one, *_ = line(cluster, 3)
    assert [(node.node_id, node.path, node.services) for node in one.nodes()] == [
        (2, (2,), (10,)),
        (3, (2, 3), (SERVICE,)),
        (4, (2, 3, 4), ()),
    ]
    assert [node.is_neighbour for node in one.nodes()] == [True, False, False]
    assert [one.services_at(number) for number in (1, 2, 3, 9)] == [
        (10,), (10,), (SERVICE,), (),
    ]  # fmt: skip


# -- register and unregister ----------------------------------------------------------------------


def test_unregistered_service_is_left_by_everybody_and_keeps_its_behavior(
    cluster: Cluster,
) -> None:
    one, two, _, four = line(cluster, 2, 4)
    assert used_by(one)[0] == 2
    two.agent(SERVICE).unregister_service()
    assert used_by(two) == [4]
    cluster.advance(TOLD_MS)
    assert used_by(one) == [4]
    send(cluster, one)
    send(cluster, two)
    assert (delivered(two), delivered(four)) == (0, 2)
    one.agent(10).send_to_node(2, b"", to_service=SERVICE)
    cluster.advance(10)
    assert delivered(two) == 1


def test_registered_again_it_is_used_again(cluster: Cluster) -> None:
    one, two, *_ = line(cluster, 2, 4)
    agent = two.agent(SERVICE)
    agent.unregister_service()
    cluster.advance(TOLD_MS)
    agent.register_service()
    assert used_by(two)[0] == 2
    cluster.advance(TOLD_MS)
    assert used_by(one)[0] == 2


def test_last_provider_that_leaves_is_no_route(cluster: Cluster) -> None:
    one, *_, four = line(cluster, 4)
    four.agent(SERVICE).unregister_service()
    four.agent(SERVICE).unregister_service()
    cluster.advance(TOLD_MS)
    assert used_by(one) == []
    with pytest.raises(NoRouteError):
        one.agent(10).send_to_service(SERVICE, b"")
    with pytest.raises(NoRouteError):
        four.agent(10).send_to_service(SERVICE, b"")


def test_service_can_start_unannounced(cluster: Cluster) -> None:
    def on_started(agent: Any) -> None:
        agent.unregister_service()
        agent.call_later(1_000, agent.register_service)

    one = cluster.add(1, Spy(10))
    two = cluster.add(2, Spy(SERVICE, started=on_started))
    cluster.join(one, two)
    cluster.advance(900)
    assert used_by(one) == []
    cluster.advance(100 + TOLD_MS)
    assert used_by(one) == [2]


def test_handler_registers_its_service_too(cluster: Cluster) -> None:
    spy = Spy(SERVICE, opened=lambda agent: agent.unregister_service())
    one, two = cluster.add(1, Spy(10)), cluster.add(2, spy)
    cluster.join(one, two)
    cluster.advance(TOLD_MS)
    assert used_by(one) == []


def test_call_by_service_follows_the_registration(cluster: Cluster) -> None:
    def answer(agent: Any, req: Any, res: Any) -> bool:
        res.ok(b"%d" % agent.local_node_id)
        return True

    one = cluster.add(1, Spy(10))
    two, three = (cluster.add(number, Spy(SERVICE, rpc=answer)) for number in (2, 3))
    cluster.chain(one, two, three)
    answers: list[bytes] = []
    for _ in range(2):
        one.agent(10).call(
            RouteRule.service(), SERVICE, b"", lambda found: answers.append(found.payload)
        )
        cluster.advance(10)
        two.agent(SERVICE).unregister_service()
        cluster.advance(TOLD_MS)
    assert answers == [b"2", b"3"]


def test_reserved_service_is_never_announced(cluster: Cluster) -> None:
    node = cluster.add(1)
    for ask in (node.agent(255).register_service, node.agent(255).unregister_service):
        with pytest.raises(LocalError, match="service 255 is netcore's own"):
            ask()


def test_router_that_cannot_take_a_service_back_says_so(cluster: Cluster) -> None:
    node = cluster.add(1, provider(), router=ForceLocalRouter())
    node.agent(SERVICE).register_service()
    with pytest.raises(LocalError, match="ForceLocalRouter cannot take a service back"):
        node.agent(SERVICE).unregister_service()


def test_closed_node_registers_nothing(cluster: Cluster) -> None:
    node = cluster.add(1, provider())
    agent = node.agent(SERVICE)
    node.close()
    with pytest.raises(NodeClosedError):
        agent.register_service()


# -- providers that vanish ------------------------------------------------------------------------


def star(cluster: Cluster) -> list[Node]:
    """Return a node and two providers beside it, the first of them nearer."""
    one, near, far = (
        cluster.add(1, Spy(10)), cluster.add(2, provider()), cluster.add(3, provider())
    )  # fmt: skip
    cluster.set_latency(one, far, 20)
    cluster.join(one, near)
    cluster.join(one, far)
    cluster.advance(3_000)
    assert used_by(one) == [2, 3]
    return [one, near, far]


def test_provider_that_closes_is_replaced_at_once(cluster: Cluster) -> None:
    one, near, far = star(cluster)
    near.close()
    cluster.settle()
    assert used_by(one) == [3]
    send(cluster, one)
    cluster.advance(50)
    assert delivered(far) == 1


def test_provider_that_falls_silent_is_replaced_when_it_is_suspect(cluster: Cluster) -> None:
    one, near, _ = star(cluster)
    cluster.frozen.add(near)
    silent_ms = cluster.now_ms
    cluster.until(lambda: used_by(one) == [3, 2])  # the silent one is the last resort
    assert cluster.now_ms - silent_ms <= 600


def test_provider_far_away_that_falls_silent_is_replaced_one_batch_a_hop_later(
    cluster: Cluster,
) -> None:
    nodes = line(cluster, 4, nodes=6)
    other = cluster.add(7, provider())
    cluster.chain(other, nodes[5], nodes[0])
    assert used_by(nodes[0])[0] == 7
    nodes[5].agent(10).close_node(7)
    cluster.advance(TOLD_MS)
    assert used_by(nodes[0])[0] == 4


# -- views of a node ------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", ["routes", "nodes", "services"])
def test_view_of_another_router_is_a_clear_error(cluster: Cluster, ask: str) -> None:
    node = cluster.add(1, router=ForceLocalRouter())
    with pytest.raises(LocalError, match="only a LayeredRouter can show its ways"):
        getattr(node, ask)()
    with pytest.raises(LocalError, match="this node uses ForceLocalRouter"):
        node.services_at(2)


def test_view_of_a_closed_node_is_refused(cluster: Cluster) -> None:
    node = cluster.add(1)
    node.close()
    with pytest.raises(NodeClosedError):
        node.routes()
