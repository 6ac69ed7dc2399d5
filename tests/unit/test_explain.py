"""What a router shows of its ways, and the reasons it gives."""

from __future__ import annotations

import dataclasses
import json

import pytest

from netcore import wire
from netcore.errors import LocalError
from netcore.explain import (
    KnownNode,
    KnownService,
    Route,
    known_nodes,
    known_routes,
    known_services,
    services_at,
)
from netcore.ids import build
from netcore.route import Metric
from netcore.routing import FIRST_SERVICE, LayeredRouter, RouterSync

A, B, C, D, E = 1, 2, 3, 4, 5


def linked(*links: tuple[int, int, int], router: LayeredRouter | None = None) -> LayeredRouter:
    """Return node A with links (conn id, neighbour, latency)."""
    router = LayeredRouter(A) if router is None else router
    for conn, node, latency_ms in links:
        router.set_direct(conn, node, Metric(latency_ms, (node,)))
    return router


def told(
    router: LayeredRouter, conn: int, node: int, latency_ms: int, place: int, metric: Metric
) -> None:
    """Let a neighbour announce one place."""
    router.apply_changes(conn, node, Metric(latency_ms, (node,)), {place: metric})


def route_to(router: LayeredRouter, destination: str) -> Route:
    return next(route for route in known_routes(router) if route.destination == destination)


def reasons(router: LayeredRouter, destination: str) -> list[tuple[int, str]]:
    return [(way.conn_id, way.why) for way in route_to(router, destination).candidates]


# -- routes ---------------------------------------------------------------------------------------


def test_lone_router_shows_nothing() -> None:
    router = LayeredRouter(A)
    assert (known_routes(router), known_nodes(router), known_services(router)) == ([], [], [])


def test_route_shows_the_choice_and_every_candidate() -> None:
    router = linked((10, B, 5), (20, C, 5))
    told(router, 10, B, 5, E, Metric(15, (E, D)))
    told(router, 20, C, 5, E, Metric(3, (E,), 2_000))
    route = route_to(router, "node 5")
    assert (route.nodes, route.service_id, route.is_local) == (range(5, 6), None, False)
    assert (route.via, route.alternate) == (C, B)
    assert (route.latency_ms, route.bandwidth_kbps, route.score) == (8, 2_000, 33)
    best, other = route.candidates
    assert (best.via, best.conn_id, best.path, best.role, best.why) == (
        C, 20, (C, E), "best", "best",
    )  # fmt: skip
    assert (best.latency_ms, best.bandwidth_kbps, best.score) == (8, 2_000, 33)
    assert (other.via, other.path, other.bandwidth_kbps) == (B, (B, D, E), None)
    assert (other.role, other.why) == ("alternate", "alternate: score 50 > 33")


def test_reasons_name_what_decided() -> None:
    router = linked((10, B, 10), (11, B, 10), (12, B, 30), (20, C, 10), (30, D, 10))
    for conn, node in ((20, C), (30, D)):
        told(router, conn, node, 10, B, Metric(5, (B,)))
    assert reasons(router, "node 2") == [
        (10, "best"),
        (11, "as good, younger link, over the same neighbour"),
        (20, "alternate: score 35 > 20"),
        (30, "score 35 > 20, visits the best one's neighbour"),
        (12, "score 40 > 20, over the same neighbour"),
    ]


@pytest.mark.parametrize(
    ("best", "loser", "why"),
    [
        (Metric(10, (E,)), Metric(0, (E, 9)), "alternate: same score, more hops: 3 > 2"),
        (
            Metric(10, (E,), 20_000),
            Metric(10, (E,), 15_000),
            "alternate: same score, less bandwidth: 15000 < 20000 kbps",
        ),
        (
            Metric(10, (E,), 20_000),
            Metric(10, (E,)),
            "alternate: same score, less bandwidth: not known",
        ),
        (Metric(10, (E,)), Metric(10, (E,)), "alternate: as good, higher neighbour id: 3 > 2"),
    ],
)
def test_reason_is_the_first_difference_in_the_order_of_the_choice(
    best: Metric, loser: Metric, why: str
) -> None:
    router = linked((10, B, 5), (20, C, 5))
    told(router, 10, B, 5, E, best)
    told(router, 20, C, 5, E, loser)
    assert reasons(router, "node 5") == [(10, "best"), (20, why)]


def test_last_resort_says_so_and_shows_what_the_way_takes() -> None:
    router = linked((10, B, wire.SUSPECT_LATENCY_MS + 5), (20, C, 5))
    told(router, 10, B, wire.SUSPECT_LATENCY_MS + 5, E, Metric(15, (E,)))
    told(router, 20, C, 5, D, Metric(3, (D,)))
    told(router, 20, C, 5, B, Metric(wire.SUSPECT_LATENCY_MS + 1, (B,)))
    last_resort = "the last resort, a link on the way is suspect"
    assert reasons(router, "node 5") == [(10, f"best: {last_resort}")]
    assert reasons(router, "node 2") == [
        (10, f"best: {last_resort}"),
        (20, f"alternate: score {wire.SUSPECT_LATENCY_MS + 26} > {wire.SUSPECT_LATENCY_MS + 15}"),
    ]
    told(router, 20, C, 5, E, Metric(3_000, (E,)))
    assert reasons(router, "node 5") == [(20, "best"), (10, f"alternate: {last_resort}")]
    assert route_to(router, "node 2").latency_ms == 5
    assert [way.latency_ms for way in route_to(router, "node 5").candidates] == [3_005, 20]
    latencies = {node.node_id: node.latency_ms for node in known_nodes(router)}
    assert latencies == {B: 5, C: 5, D: 8, E: 3_005}


def test_shorter_way_through_the_best_neighbour_is_no_alternate_and_says_so() -> None:
    router = linked((10, B, 1), (20, C, 1), (30, D, 50))
    told(router, 10, B, 1, E, Metric(1, (E,)))
    told(router, 20, C, 1, E, Metric(2, (E, B)))
    told(router, 30, D, 50, E, Metric(1, (E,)))
    assert reasons(router, "node 5") == [
        (10, "best"),
        (20, "score 33 > 22, visits the best one's neighbour"),
        (30, "alternate: score 71 > 22"),
    ]


def test_third_neighbour_is_spare_with_its_score() -> None:
    router = linked((10, B, 1), (20, C, 1), (30, D, 1))
    for conn, node, latency_ms in ((10, B, 1), (20, C, 5), (30, D, 9)):
        told(router, conn, node, 1, E, Metric(latency_ms, (E,)))
    assert reasons(router, "node 5")[2] == (30, "score 30 > 22")
    assert [way.role for way in route_to(router, "node 5").candidates] == [
        "best", "alternate", "spare",
    ]  # fmt: skip


def test_link_that_is_set_again_as_it_was_stays_the_best() -> None:
    router = linked((10, B, 5), (20, C, 5))
    linked((10, B, 5), router=router)
    assert reasons(router, "node 2") == [(10, "best")]
    dumped = json.loads(json.dumps(router.dump()))
    assert dumped["slots"][0]["candidates"][0]["role"] == "best"


def test_slot_names_the_nodes_it_stands_for() -> None:
    me = build(1, 2, 3, 4)
    router = LayeredRouter(me)
    for number, node in enumerate(
        (build(1, 2, 3, 9), build(1, 2, 8, 7), build(1, 9, 8, 7), build(255, 9, 8, 7))
    ):
        router.set_direct(10 + number, node, Metric(1, (node,)))
    rows = known_routes(router)
    assert [row.nodes for row in rows] == [
        range(build(1, 2, 3, 9), build(1, 2, 3, 9) + 1),
        range(build(1, 2, 8, 0), build(1, 2, 8, 255) + 1),
        range(build(1, 9, 0, 0), build(1, 9, 255, 255) + 1),
        range(build(255, 0, 0, 0), wire.MAX_NODE_ID + 1),
    ]
    assert [row.destination for row in rows[:2]] == [
        "node 16909065",
        "nodes 16910336..16910591",
    ]
    for row in rows:
        assert all(router.next(node) is not None for node in (row.nodes[0], row.nodes[-1]))


def test_own_service_stays_here_and_its_other_ways_wait() -> None:
    router = linked((10, B, 5))
    router.register_service(30)
    told(router, 10, B, 5, FIRST_SERVICE + 30, Metric(0, ()))
    route = route_to(router, "service 30")
    assert (route.service_id, route.is_local, route.via, route.score) == (30, True, None, None)
    assert reasons(router, "service 30") == [(10, "waits: this node offers the service")]
    assert route.lines()[0] == "service 30: offered here"
    router.unregister_service(30)
    assert route_to(router, "service 30").via == B


def test_route_as_text_has_a_line_for_each_candidate() -> None:
    router = linked((10, B, 5), (20, C, 5))
    told(router, 10, B, 5, E, Metric(15, (E, D)))
    told(router, 20, C, 5, E, Metric(3, (E,), 2_000))
    assert route_to(router, "node 5").lines() == [
        "node 5: over nodes 3 5, score 33; else over node 2",
        "  over 3 5: 8 ms, 2000 kbps, score 33: best",
        "  over 2 4 5: 20 ms, score 50: alternate: score 50 > 33",
    ]
    assert route_to(router, "node 3").lines()[0] == "node 3: over node 3, score 15"


def test_rows_are_frozen_and_become_plain_data() -> None:
    router = linked((10, B, 5))
    [row] = known_routes(router)
    with pytest.raises(AttributeError):
        row.via = C  # type: ignore[misc]
    assert dataclasses.asdict(row)["candidates"][0]["path"] == (B,)


# -- nodes ----------------------------------------------------------------------------------------


def test_nodes_are_those_on_the_ways() -> None:
    router = linked((10, B, 5))
    told(router, 10, B, 5, E, Metric(7, (E, D)))
    told(router, 10, B, 5, D, Metric(3, (D,)))
    told(router, 10, B, 5, FIRST_SERVICE + 30, Metric(3, (D,)))
    assert known_nodes(router) == [
        KnownNode(
            node_id=B, is_neighbour=True, via=B, path=(B,), latency_ms=5, services=()
        ),
        KnownNode(
            node_id=D, is_neighbour=False, via=B, path=(B, D), latency_ms=8, services=(30,)
        ),
        KnownNode(
            node_id=E, is_neighbour=False, via=B, path=(B, D, E), latency_ms=12, services=()
        ),
    ]  # fmt: skip


def test_node_that_no_way_leads_to_is_left_out() -> None:
    router = linked((10, B, 5))
    told(router, 10, B, 5, E, Metric(7, (E, D)))
    assert [node.node_id for node in known_nodes(router)] == [B, E]


def test_path_to_a_node_behind_a_slot_ends_where_knowledge_ends() -> None:
    near, far = build(0, 0, 7, 1), build(0, 0, 7, 2)
    router = linked((10, near, 1), (20, far, 9))
    one, other = known_nodes(router)
    assert (one.path, one.latency_ms) == ((near,), 1)
    # A frame for the other neighbour goes to its group, and so to the nearer of the two.
    assert (other.node_id, other.is_neighbour, other.via) == (far, True, near)
    assert (other.path, other.latency_ms) == ((near,), None)


def test_path_to_a_node_in_the_middle_of_its_own_slots_way_has_no_latency() -> None:
    gate, inner = build(0, 0, 7, 1), build(0, 0, 7, 2)
    router = linked((10, B, 1))
    told(router, 10, B, 1, 1 << 8 | 7, Metric(4, (inner, gate)))
    found = {node.node_id: (node.path, node.latency_ms) for node in known_nodes(router)}
    assert found[gate] == ((B, gate), None)
    assert found[inner] == ((B, gate, inner), 5)


# -- services -------------------------------------------------------------------------------------


def test_services_name_their_providers_the_one_in_use_first() -> None:
    router = linked((10, B, 5), (20, C, 1))
    router.register_service(31)
    told(router, 10, B, 5, FIRST_SERVICE + 30, Metric(0, ()))
    told(router, 20, C, 1, FIRST_SERVICE + 30, Metric(20, (D,)))
    told(router, 20, C, 1, FIRST_SERVICE + 31, Metric(0, ()))
    assert known_services(router) == [
        KnownService(service_id=30, is_local=False, via=B, nodes=(B, D)),
        KnownService(service_id=31, is_local=True, via=None, nodes=(A, C)),
    ]
    assert [services_at(router, node) for node in (A, B, C, D, E)] == [
        (31,), (30,), (31,), (30,), (),
    ]  # fmt: skip


def test_provider_heard_of_twice_is_named_once() -> None:
    router = linked((10, B, 5), (20, C, 1))
    for conn, node, latency_ms in ((10, B, 5), (20, C, 1)):
        told(router, conn, node, latency_ms, FIRST_SERVICE + 30, Metric(3, (D,)))
    assert known_services(router)[0].nodes == (D,)


@pytest.mark.parametrize("node", [-1, 1 << 32, "2"])
def test_services_at_refuses_what_is_no_node_id(node: int) -> None:
    with pytest.raises(LocalError):
        services_at(LayeredRouter(A), node)


def test_views_follow_a_withdrawn_link() -> None:
    router = linked((10, B, 5))
    router.apply_sync(10, B, Metric(5, (B,)), RouterSync(services={30: Metric(0, ())}))
    assert services_at(router, B) == (30,)
    router.del_direct(10)
    assert (known_routes(router), known_nodes(router), known_services(router)) == ([], [], [])
