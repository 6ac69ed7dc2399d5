"""LayeredRouter, the two trivial routers, and the values they exchange."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from random import Random
from types import ModuleType
from typing import Any, cast

import pytest

from netcore import wire
from netcore.errors import LocalError
from netcore.route import Metric, RouteAction, RouteRule
from netcore.routing import (
    FIRST_SERVICE,
    ForceLocalRouter,
    ForceNodeRouter,
    LayeredRouter,
    Path,
    RouterSync,
    RouterTable,
)
from support.router_net import RouterNet, conn_of, random_links, random_zones

A, B, C, D, E = 1, 2, 3, 4, 5
TO_B, TO_B2, TO_C, TO_E = 0x102, 0x202, 0x103, 0x105
REJECT, LOCAL = RouteAction.REJECT, RouteAction.LOCAL


def router_a() -> LayeredRouter:
    """A router of node A with links to B (3 ms) and C (20 ms)."""
    router = LayeredRouter(A)
    router.set_direct(TO_B, B, Metric(3, (B,)))
    router.set_direct(TO_C, C, Metric(20, (C,)))
    return router


def sync(**layers_and_services: dict[int, Metric]) -> RouterSync:
    layers = tuple(layers_and_services.get(f"layer{i}", {}) for i in range(4))
    return RouterSync(layers, layers_and_services.get("services", {}))


# -- trivial routers, interface -------------------------------------------------------------------


def test_force_local_router_delivers_everything_here() -> None:
    router = ForceLocalRouter()
    for rule in (RouteRule.direct(), RouteRule.node(9), RouteRule.closest(9), RouteRule.service()):
        assert router.path_to(rule, 1) == LOCAL


def test_force_node_router_sends_everything_to_its_neighbour() -> None:
    router = ForceNodeRouter(TO_B, B)
    there = RouteAction.next_hop(TO_B, B)
    for rule in (RouteRule.node(9), RouteRule.closest(9), RouteRule.service()):
        assert router.path_to(rule, 1) == there
    assert router.path_to(RouteRule.direct(), 1) == LOCAL


@pytest.mark.parametrize(("conn", "node"), [(0, B), (1 << 64, B), (TO_B, -1), (TO_B, wire.NO_NODE)])
def test_force_node_router_refuses_what_is_no_neighbour(conn: int, node: int) -> None:
    with pytest.raises(LocalError):
        ForceNodeRouter(conn, node)


class OwnRouter(RouterTable):
    """What a user would write."""

    def path_to_node(self, dest: int) -> RouteAction:
        return RouteAction.next_hop(dest, dest)

    def path_to_key(self, key: int) -> RouteAction:
        return RouteAction.REJECT

    def path_to_service(self, service_id: int) -> RouteAction:
        return RouteAction.next_hop(service_id, 1)


def test_router_table_dispatches_a_rule_by_default() -> None:
    router = OwnRouter()
    router.register_service(3)
    assert router.path_to(RouteRule.node(7), 3) == RouteAction.next_hop(7, 7)
    assert router.path_to(RouteRule.closest(7), 3) == REJECT
    assert router.path_to(RouteRule.service(9), 3) == RouteAction.next_hop(3, 1)
    assert router.path_to(RouteRule.direct(), 3) == LOCAL


def test_router_table_without_a_method_says_so() -> None:
    class Lazy(RouterTable):
        pass

    for ask in ("path_to_node", "path_to_key", "path_to_service"):
        with pytest.raises(NotImplementedError):
            getattr(Lazy(), ask)(1)  # type: ignore[abstract]


# -- RouterSync -----------------------------------------------------------------------------------


def test_router_sync_is_a_frozen_value() -> None:
    entries = {5: Metric(1, (5,))}
    one = sync(layer0=entries)
    entries.clear()
    assert one == sync(layer0={5: Metric(1, (5,))})
    assert one != RouterSync()
    with pytest.raises(FrozenInstanceError):
        one.services = {}  # type: ignore[misc]
    with pytest.raises(TypeError):
        one.layers[0][6] = Metric(1, (6,))  # type: ignore[index]


def test_router_sync_refuses_wrong_shapes() -> None:
    with pytest.raises(LocalError, match="4 layers, not 1"):
        RouterSync(({},))
    with pytest.raises(LocalError, match=r"0\.\.255, not 256"):
        sync(layer3={256: Metric(1, (5,))})
    with pytest.raises(LocalError, match=r"0\.\.255, not -1"):
        sync(services={-1: Metric(1, (5,))})


def test_router_sync_places_are_inverse_to_of_places() -> None:
    one = sync(
        layer0={5: Metric(1, (5,))}, layer3={9: Metric(2, (6,))}, services={7: Metric(0, ())}
    )
    places = dict(one.places())
    assert sorted(places) == [0x005, 0x309, FIRST_SERVICE + 7]
    assert RouterSync.of_places(places) == one


# -- direct links ---------------------------------------------------------------------------------


def test_lone_router_owns_every_key_and_knows_no_way() -> None:
    router = LayeredRouter(A)
    assert router.path_to_node(A) == LOCAL
    assert router.path_to_node(B) == REJECT
    assert router.path_to_key(0xFFFFFFFF) == LOCAL
    assert router.path_to_service(1) == REJECT
    assert router.next(A) is None
    assert router.next(B) is None
    assert router.closest_node(B) is None


def test_direct_link_is_a_way_to_its_node() -> None:
    router = router_a()
    assert router.path_to_node(B) == RouteAction.next_hop(TO_B, B)
    assert router.path_to(RouteRule.node(C), 0) == RouteAction.next_hop(TO_C, C)
    assert router.next(B) == (TO_B, B)
    assert router.next_path(B) == Path(TO_B, B, Metric(3, (B,)))


def test_direct_link_into_a_zone_is_a_way_to_all_its_nodes() -> None:
    router = LayeredRouter(0x01020304)
    router.set_direct(TO_B, 0x05000001, Metric(3, (0x05000001,)))
    assert router.next(0x05FFFFFF) == (TO_B, 0x05000001)
    assert router.next(0x06FFFFFF) is None


def test_parallel_links_share_a_slot_and_the_better_one_wins() -> None:
    router = router_a()
    router.set_direct(TO_B2, B, Metric(2, (B,)))
    assert router.next(B) == (TO_B2, B)
    router.del_direct(TO_B2)
    assert router.next(B) == (TO_B, B)


@pytest.mark.parametrize(
    ("conn", "node", "metric"),
    [
        (0, B, Metric(1, (B,))),
        (TO_B, A, Metric(1, (A,))),
        (TO_B, wire.NO_NODE, Metric(1, (wire.NO_NODE,))),
        (TO_B, B, Metric(1, ())),
        (TO_B, B, Metric(1, (C,))),
        (TO_B, B, Metric(1, (B, C))),
    ],
)
def test_set_direct_refuses_what_is_no_link(conn: int, node: int, metric: Metric) -> None:
    router = LayeredRouter(A)
    with pytest.raises(LocalError):
        router.set_direct(conn, node, metric)
    assert router.dump()["links"] == []


def test_conn_id_with_another_node_is_another_link() -> None:
    router = router_a()
    router.apply_sync(TO_B, B, Metric(3, (B,)), sync(layer0={D: Metric(1, (D,))}))
    router.set_direct(TO_B, E, Metric(4, (E,)))
    assert router.next(B) is None
    assert router.next(D) is None
    assert router.next(E) == (TO_B, E)


def test_del_direct_of_an_unknown_link_is_ignored() -> None:
    router = router_a()
    router.take_changes()
    router.del_direct(0x999)
    assert router.take_changes() == set()


# -- choosing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Metric(29, (D,)), Metric(30, (D,))),
        # One hop is 10 ms.
        (Metric(39, (D,)), Metric(30, (D, E))),
        # The same score of 50: fewer hops.
        (Metric(40, (D,)), Metric(30, (D, E))),
        # A narrow link costs up to 1000 ms, an unknown bandwidth nothing.
        (Metric(30, (D,), 0), Metric(30, (D,), 10_000)),
        (Metric(30, (D,), 10_001), Metric(30, (D,), 10_000)),
        (Metric(1000, (D,)), Metric(1, (D,), 1)),
        # The same score: higher bandwidth.
        (Metric(30, (D,), 30_000), Metric(30, (D,), 20_000)),
    ],
)
def test_candidates_are_ordered_by_score_then_hops_then_bandwidth(
    one: Metric, other: Metric
) -> None:
    for better, worse in ((TO_B, TO_C), (TO_C, TO_B)):
        router = LayeredRouter(A)
        nodes = {TO_B: B, TO_C: C}
        for conn, metric in ((worse, other), (better, one)):
            node = nodes[conn]
            router.apply_sync(conn, node, Metric(0, (node,)), sync(layer0={D: metric}))
        assert router.next(D) == (better, nodes[better])


def test_equal_candidates_are_ordered_by_neighbour_then_conn() -> None:
    router = LayeredRouter(A)
    for conn, node in ((0x1, C), (0x9, B), (0x8, B)):
        router.apply_sync(conn, node, Metric(5, (node,)), sync(layer0={D: Metric(1, (D,))}))
    assert router.next(D) == (0x8, B)
    assert router.next(D, excepts=[B]) == (0x1, C)
    assert router.next(D, excepts={B, C}) is None


def test_alternate_is_the_best_way_over_another_neighbour() -> None:
    router = router_a()
    router.set_direct(TO_B2, B, Metric(4, (B,)))
    for conn, node in ((TO_B, B), (TO_B2, B), (TO_C, C)):
        latency_ms = 20 if node == C else 3
        link = Metric(latency_ms, (node,))
        router.apply_sync(conn, node, link, sync(layer0={D: Metric(1, (D,))}))
    assert router.table.slots()[2] == (0, D, TO_B, B, TO_C, C)


def test_alternate_around_the_best_neighbour_comes_before_a_shorter_one_through_it() -> None:
    router = router_a()
    router.set_direct(TO_E, E, Metric(90, (E,)))
    router.apply_sync(TO_B, B, Metric(3, (B,)), sync(layer0={D: Metric(1, (D,))}))
    router.apply_sync(TO_C, C, Metric(20, (C,)), sync(layer0={D: Metric(1, (D, B))}))
    assert router.table.path_to_node(D, B) == (wire.ACTION_NEXT, TO_C, C)
    router.apply_sync(TO_E, E, Metric(90, (E,)), sync(layer0={D: Metric(1, (D,))}))
    assert router.table.path_to_node(D, B) == (wire.ACTION_NEXT, TO_E, E)
    assert router.create_sync(B).layers[0][D] == Metric(91, (D, E))


# -- learning -------------------------------------------------------------------------------------


def test_apply_sync_prolongs_what_it_learns_by_the_link() -> None:
    router = router_a()
    router.apply_sync(TO_B, B, Metric(3, (B,)), sync(layer0={D: Metric(4, (D, E), 500)}))
    assert router.next_path(D) == Path(TO_B, B, Metric(7, (D, E, B), 500))


def test_apply_sync_saturates_the_latency() -> None:
    router = router_a()
    router.apply_sync(TO_B, B, Metric(3, (B,)), sync(layer0={D: Metric(wire.MAX_U32, (D,))}))
    path = router.next_path(D)
    assert path is not None
    assert path.metric.latency_ms == wire.MAX_U32


def test_apply_sync_withdraws_what_is_absent() -> None:
    router = router_a()
    link = Metric(3, (B,))
    router.apply_sync(TO_B, B, link, sync(layer0={D: Metric(1, (D,)), E: Metric(1, (E,))}))
    router.apply_sync(TO_B, B, link, sync(layer0={E: Metric(1, (E,))}))
    assert router.next(D) is None
    assert router.next(E) == (TO_B, B)
    assert router.next(B) == (TO_B, B)


def test_apply_sync_before_the_link_is_known_learns_without_a_direct_way() -> None:
    router = LayeredRouter(A)
    router.apply_sync(TO_B, B, Metric(3, (B,)), sync(layer0={D: Metric(1, (D,))}))
    assert router.next(D) == (TO_B, B)
    assert router.next(B) is None
    router.del_direct(TO_B)
    assert router.next(D) is None
    assert router.dump()["links"] == []


def test_apply_sync_of_nothing_over_an_unknown_link_leaves_no_trace() -> None:
    router = LayeredRouter(A)
    router.apply_sync(TO_B, B, Metric(3, (B,)), sync())
    assert router.dump()["links"] == []


def test_set_direct_on_a_known_link_rebases_what_was_learned() -> None:
    router = router_a()
    router.apply_sync(TO_B, B, Metric(3, (B,)), sync(layer0={D: Metric(4, (D,))}))
    router.set_direct(TO_B, B, Metric(30, (B,), 100))
    assert router.next_path(D) == Path(TO_B, B, Metric(34, (D, B), 100))
    assert router.next_path(B) == Path(TO_B, B, Metric(30, (B,), 100))


def test_apply_changes_leaves_the_rest_and_rebases_it() -> None:
    router = router_a()
    router.apply_sync(TO_B, B, Metric(3, (B,)), sync(layer0={D: Metric(4, (D,))}))
    router.apply_changes(TO_B, B, Metric(5, (B,)), {E: Metric(1, (E,)), 77: None})
    assert router.next_path(D) == Path(TO_B, B, Metric(9, (D, B)))
    assert router.next_path(E) == Path(TO_B, B, Metric(6, (E, B)))


@pytest.mark.parametrize(
    ("place", "metric"),
    [
        (D, Metric(1, (D, A))),  # this node
        (D, Metric(1, (D, B))),  # the sender
        (D, Metric(1, (D, E, D))),  # a repeat
        (D, Metric(1, tuple(range(10, 43)))),  # 33 hops
        (D, Metric(1, ())),  # a slot that the sender claims to be in
        (D, Metric(1, (wire.NO_NODE,))),
        (A, Metric(1, (D,))),  # this node's own slot
        (B, Metric(1, (D,))),  # the sender's own slot
        (0x100, Metric(1, (D,))),  # both ends' own slot
        (FIRST_SERVICE + 7, Metric(1, (A,))),
        (FIRST_SERVICE + 256, Metric(1, (D,))),
        (-1, Metric(1, (D,))),
    ],
)
def test_entry_that_breaks_a_rule_is_refused_and_withdraws(place: int, metric: Metric) -> None:
    router = router_a()
    fine = {D: Metric(1, (D,)), FIRST_SERVICE + 7: Metric(0, ())}
    router.apply_changes(TO_B, B, Metric(3, (B,)), fine)
    before = router.table.slots(), router.table.services()
    router.apply_changes(TO_B, B, Metric(3, (B,)), {place: metric})
    assert router.routes_refused == 1
    if place in fine:
        assert (router.table.slots(), router.table.services()) != before
        assert router.next(D) is None or router.path_to_service(7) == REJECT
    else:
        assert (router.table.slots(), router.table.services()) == before


def test_entries_of_layers_below_the_differing_one_are_refused() -> None:
    router = LayeredRouter(0x01020304)
    neighbour = 0x01050304
    router.apply_sync(
        TO_B,
        neighbour,
        Metric(3, (neighbour,)),
        sync(
            layer0={9: Metric(1, (0x01050309,))},
            layer1={9: Metric(1, (0x01050904,))},
            layer2={9: Metric(1, (0x01090000,))},
            layer3={9: Metric(1, (0x09000000,))},
        ),
    )
    assert router.routes_refused == 2
    assert [slot[:2] for slot in router.table.slots()] == [(2, 9), (3, 9)]


def test_entry_with_32_hops_is_accepted_and_not_announced_further() -> None:
    router = router_a()
    hops = tuple(range(10, 42))
    router.apply_sync(TO_B, B, Metric(3, (B,)), sync(layer0={10: Metric(1, hops)}))
    assert router.next(10) == (TO_B, B)
    assert 10 not in router.create_sync(C).layers[0]


def test_after_del_direct_nothing_mentions_the_link() -> None:
    router = router_a()
    learned = sync(layer0={D: Metric(1, (D,)), E: Metric(1, (E,))}, services={7: Metric(0, ())})
    router.apply_sync(TO_B, B, Metric(3, (B,)), learned)
    router.apply_sync(TO_C, C, Metric(20, (C,)), sync(layer0={D: Metric(1, (D,))}))
    router.del_direct(TO_B)
    text = json.dumps(router.dump()) + str(router.table.slots()) + str(router.table.services())
    assert str(TO_B) not in text
    assert router.table.slots() == [
        (0, C, TO_C, C, 0, wire.NO_NODE),
        (0, D, TO_C, C, 0, wire.NO_NODE),
    ]
    assert router.table.remove_conn(TO_B) == 0


# -- services -------------------------------------------------------------------------------------


def test_own_service_is_local_until_unregistered() -> None:
    router = router_a()
    router.apply_sync(TO_B, B, Metric(3, (B,)), sync(services={7: Metric(0, ())}))
    assert router.path_to_service(7) == RouteAction.next_hop(TO_B, B)
    router.register_service(7)
    router.register_service(7)
    assert router.path_to(RouteRule.service(), 7) == LOCAL
    router.unregister_service(7)
    router.unregister_service(7)
    assert router.path_to_service(7) == RouteAction.next_hop(TO_B, B)


@pytest.mark.parametrize("service", [-1, 256, True])
def test_register_service_refuses_what_is_no_service_id(service: int) -> None:
    with pytest.raises(ValueError, match=r"^a service id is an int in 0\.\.255, not "):
        LayeredRouter(A).register_service(service)


# -- telling --------------------------------------------------------------------------------------


def test_create_sync_lists_hops_up_to_but_without_this_node() -> None:
    router = router_a()
    router.register_service(7)
    router.apply_sync(
        TO_B, B, Metric(3, (B,)), sync(layer0={D: Metric(4, (D,))}, services={8: Metric(0, ())})
    )
    told = router.create_sync(C)
    assert told.layers[0] == {B: Metric(3, (B,)), D: Metric(7, (D, B))}
    assert told.services == {7: Metric(0, ()), 8: Metric(3, (B,))}


def test_create_sync_never_leads_through_the_receiver() -> None:
    router = router_a()
    router.apply_sync(TO_B, B, Metric(3, (B,)), sync(layer0={D: Metric(4, (D,))}))
    assert router.create_sync(B).layers[0] == {C: Metric(20, (C,))}
    router.apply_sync(TO_B, B, Metric(3, (B,)), sync(layer0={D: Metric(4, (D, C))}))
    assert router.create_sync(C).layers[0] == {B: Metric(3, (B,))}


def test_create_sync_tells_the_receiver_the_alternate_of_what_leads_over_it() -> None:
    router = router_a()
    router.apply_sync(TO_B, B, Metric(3, (B,)), sync(layer0={D: Metric(4, (D,))}))
    router.apply_sync(TO_C, C, Metric(20, (C,)), sync(layer0={D: Metric(5, (D,))}))
    assert router.create_sync(B).layers[0][D] == Metric(25, (D, C))
    assert router.create_sync(C).layers[0][D] == Metric(7, (D, B))


def test_create_sync_tells_nothing_that_this_node_would_not_do() -> None:
    # The best way leads over C and, later, through B; B's frames would go there, not to E.
    router = router_a()
    router.apply_sync(TO_C, C, Metric(20, (C,)), sync(layer0={D: Metric(1, (D, B))}))
    router.apply_sync(TO_E, E, Metric(200, (E,)), sync(layer0={D: Metric(1, (D,))}))
    assert D not in router.create_sync(B).layers[0]
    assert router.create_sync(E).layers[0][D] == Metric(21, (D, B, C))


def test_create_sync_leaves_out_layers_and_slots_that_mean_nothing_to_the_receiver() -> None:
    router = LayeredRouter(0x01020304)
    for conn, node in ((1, 0x01020305), (2, 0x01050000), (3, 0x09000000), (4, 0x01070000)):
        router.set_direct(conn, node, Metric(3, (node,)))
    told = router.create_sync(0x01050001)
    assert [list(layer) for layer in told.layers] == [[], [], [7], [9]]


@pytest.mark.parametrize("node", [A, -1, wire.NO_NODE])
def test_create_sync_is_for_a_neighbour(node: int) -> None:
    with pytest.raises(LocalError):
        LayeredRouter(A).create_sync(node)


def test_on_change_is_called_for_changes_only() -> None:
    router = LayeredRouter(A)
    calls: list[set[int]] = []
    router.on_change = lambda: calls.append(router.take_changes())
    router.set_direct(TO_B, B, Metric(3, (B,)))
    router.set_direct(TO_B, B, Metric(3, (B,)))
    router.register_service(7)
    router.apply_sync(TO_B, B, Metric(3, (B,)), sync(layer0={D: Metric(1, (D,))}))
    router.apply_sync(TO_B, B, Metric(3, (B,)), sync(layer0={D: Metric(1, (D,))}))
    router.del_direct(TO_B)
    assert calls == [{B}, {FIRST_SERVICE + 7}, {D}, {B, D}]


def test_change_of_hops_with_the_same_score_is_a_change() -> None:
    router = router_a()
    router.apply_sync(TO_B, B, Metric(3, (B,)), sync(layer0={D: Metric(1, (D, E))}))
    router.take_changes()
    router.apply_sync(TO_B, B, Metric(3, (B,)), sync(layer0={D: Metric(1, (D, 9))}))
    assert router.take_changes() == {D}


def test_only_what_changed_is_written(kernels: ModuleType) -> None:
    table = kernels.RouteTable(A)
    router = LayeredRouter(A, table)
    router.set_direct(TO_B, B, Metric(3, (B,)))
    router.set_direct(TO_C, C, Metric(20, (C,)))
    version = table.version
    router.set_direct(TO_C, C, Metric(21, (C,)))
    assert table.version == version
    router.apply_sync(TO_C, C, Metric(21, (C,)), sync(layer0={D: Metric(1, (D,))}))
    assert table.version == version + 1


# -- the table ------------------------------------------------------------------------------------


def test_use_table_writes_everything_into_the_other_one(kernels: ModuleType) -> None:
    router = router_a()
    router.register_service(7)
    router.apply_sync(
        TO_B, B, Metric(3, (B,)), sync(layer0={D: Metric(4, (D,))}, services={8: Metric(0, ())})
    )
    other = kernels.RouteTable(A)
    other.set_next(1, 9, 0x99, 9)
    other.set_service_next(9, 0x99, 9)
    other.set_service_local(10, True)
    before = router.table.slots(), router.table.services()
    router.use_table(other)
    assert router.table is other
    assert (other.slots(), other.services()) == before


def test_use_table_of_another_node_is_refused(kernels: ModuleType) -> None:
    with pytest.raises(LocalError, match="a table of node 2 is no use to 1"):
        LayeredRouter(A, kernels.RouteTable(B))


# -- questions ------------------------------------------------------------------------------------


def test_closest_node_answers_link_layer_and_slot() -> None:
    router = LayeredRouter(0x01020304)
    router.set_direct(TO_B, 0x81000001, Metric(3, (0x81000001,)))
    router.set_direct(TO_C, 0x01020306, Metric(3, (0x01020306,)))
    assert router.closest_node(0x80FFFFFF) == (TO_B, 0x81000001, 3, 0x81)
    assert router.closest_node(0x80FFFFFF, excepts=[0x81000001]) == (TO_C, 0x01020306, 0, 6)
    assert router.closest_node(0x01020307) == (TO_C, 0x01020306, 0, 6)
    assert router.closest_node(0x01020305) is None
    assert router.closest_node(0x01020307, excepts={0x01020306}) is None


def test_closest_node_with_an_excepted_neighbour_uses_the_other_way() -> None:
    router = router_a()
    router.apply_sync(TO_B, B, Metric(3, (B,)), sync(layer3={9: Metric(4, (0x09000000,))}))
    router.apply_sync(TO_C, C, Metric(20, (C,)), sync(layer3={9: Metric(4, (0x09000000,))}))
    assert router.closest_node(0x09000000) == (TO_B, B, 3, 9)
    assert router.closest_node(0x09000000, excepts=[B]) == (TO_C, C, 3, 9)


@pytest.mark.parametrize("key", [-1, 1 << 32])
def test_closest_node_refuses_what_is_no_key(key: int) -> None:
    with pytest.raises(LocalError):
        LayeredRouter(A).closest_node(key)


def test_dump_is_plain_data_with_every_candidate() -> None:
    router = router_a()
    router.set_direct(TO_B2, B, Metric(9, (B,)))
    router.register_service(7)
    learned = sync(layer0={B: Metric(4, (B,), 100)}, services={8: Metric(0, ())})
    router.apply_sync(TO_C, C, Metric(20, (C,)), learned)
    dump = json.loads(json.dumps(router.dump()))
    slots = {slot["index"]: slot["candidates"] for slot in dump["slots"]}
    assert [(c["conn_id"], c["score"], c["role"]) for c in slots[B]] == [
        (TO_B, 13, "best"),
        (TO_B2, 19, "spare"),
        (TO_C, 144, "alternate"),
    ]
    assert slots[B][2]["hops"] == [B, C]
    assert [(s["service_id"], s["local"], len(s["candidates"])) for s in dump["services"]] == [
        (7, True, 0),
        (8, False, 1),
    ]
    assert [(link["conn_id"], link["learned"]) for link in dump["links"]] == [
        (TO_B, 0),
        (TO_C, 2),
        (TO_B2, 0),
    ]


def test_dump_of_a_link_that_is_set_again_still_names_the_best() -> None:
    router = router_a()
    router.set_direct(TO_B, B, Metric(3, (B,)))
    router.set_direct(TO_B, B, Metric(3, (B,)))
    slots = cast(Any, router.dump()["slots"])
    roles = {c["conn_id"]: c["role"] for slot in slots for c in slot["candidates"]}
    assert roles[TO_B] == "best"


# -- any order of events --------------------------------------------------------------------------


def random_step(rnd: Random, router: LayeredRouter, nodes: list[int]) -> None:
    """Do anything that a router may be asked to take in."""
    at = rnd.randrange(12)
    conn, node = at + 1, nodes[at % 6]  # two parallel links to each neighbour
    link = Metric(rnd.randrange(5), (node,), rnd.choice([0, 0, 10, 1000]))

    def entry() -> Metric:
        hops = tuple(rnd.choices(nodes, k=rnd.randrange(4)))
        return Metric(rnd.randrange(5), hops, rnd.choice([0, 0, 10, 1000]))

    action = rnd.random()
    if action < 0.2:
        router.set_direct(conn, node, link)
    elif action < 0.3:
        router.del_direct(conn)
    elif action < 0.4:
        rnd.choice([router.register_service, router.unregister_service])(rnd.randrange(3))
    elif action < 0.6:
        layers = tuple({rnd.randrange(8): entry() for _ in range(rnd.randrange(8))} for _ in "0123")
        services = {rnd.randrange(3): entry() for _ in range(rnd.randrange(3))}
        router.apply_sync(conn, node, link, RouterSync(layers, services))
    else:
        changes = {
            rnd.randrange(8) | rnd.randrange(5) << 8: rnd.choice([None, entry()])
            for _ in range(rnd.randrange(6))
        }
        router.apply_changes(conn, node, link, changes)


@pytest.mark.parametrize("seed", range(20))
def test_router_is_consistent_after_any_order_of_events(seed: int) -> None:
    rnd = Random(seed)
    nodes = [2, 3, 4, 0x0105, 0x020006, 0x03000007, 8, 9]
    router = LayeredRouter(1)
    for _ in range(200):
        before = router.announcements(8), router.announcements(0x0105)
        router.take_changes()
        random_step(rnd, router, nodes)
        router.check()
        after = router.announcements(8), router.announcements(0x0105)
        changed = router.take_changes()
        for old, new in zip(before, after, strict=True):
            places = old.keys() | new.keys()
            assert {place for place in places if old.get(place) != new.get(place)} <= changed


def test_check_finds_a_table_that_was_changed_by_somebody_else() -> None:
    router = router_a()
    router.table.clear_next(0, B)
    with pytest.raises(AssertionError):
        router.check()


# -- networks -------------------------------------------------------------------------------------


def flat_network(seed: int) -> tuple[Random, RouterNet]:
    rnd = Random(seed)
    nodes = rnd.sample(range(256), rnd.randrange(4, 13))
    net = RouterNet(random_links(rnd, nodes, extra=rnd.randrange(12)))
    for router in net.routers.values():
        if rnd.random() < 0.3:
            router.register_service(7)
    return rnd, net


def check_shortest(net: RouterNet) -> None:
    """Every best path is as short as Dijkstra's, and its hops are where frames really go."""
    for dest in net.links:
        for node, score in net.scores([dest]).items():
            if node != dest:
                path = net.routers[node].next_path(dest)
                assert path is not None
                assert path.metric.score == score
                end, visited = net.walk(node, "path_to_node", dest)
                assert (end, visited[1:]) == ("local", list(reversed(path.metric.hops)))
    providers = [n for n, r in net.routers.items() if r.path_to_service(7) == LOCAL]
    for node, score in net.scores(providers).items():
        candidates = net.routers[node]._choices.chosen.get(FIRST_SERVICE + 7)
        if score:
            assert candidates is not None
            assert candidates[0].metric.score == score
            assert net.walk(node, "path_to_service", 7)[1][-1] in providers


@pytest.mark.parametrize("seed", range(40))
def test_random_network_settles_to_the_shortest_paths(seed: int) -> None:
    rnd, net = flat_network(seed)
    net.settle(rnd)
    check_shortest(net)


@pytest.mark.parametrize("seed", range(40))
def test_random_network_without_a_link_forgets_it_and_settles_again(seed: int) -> None:
    rnd, net = flat_network(seed)
    net.settle(rnd)
    a = rnd.choice(list(net.links))
    b = rnd.choice(list(net.links[a]))
    net.cut(a, b)
    net.settle(rnd)
    reached = {node: set(net.scores([node])) for node in net.links}
    for node, router in net.routers.items():
        router.check()
        for dest in net.links:
            if dest != node:
                assert (router.next(dest) is not None) == (node in reached[dest])
    for node, gone in ((a, b), (b, a)):
        assert str(conn_of(node, gone)) not in json.dumps(net.routers[node].dump())
    check_shortest(net)


@pytest.mark.parametrize("seed", range(40))
def test_fail_over_at_a_lost_link_never_goes_in_circles(seed: int) -> None:
    rnd, net = flat_network(seed)
    net.settle(rnd)
    a = rnd.choice(list(net.links))
    net.cut(a, rnd.choice(list(net.links[a])))
    for node in net.links:
        for dest in net.links:
            end, visited = net.walk(node, "path_to_node", dest)
            assert end != "loop", (node, dest, visited)
            assert max(visited.count(n) for n in visited) <= 2


@pytest.mark.parametrize("seed", range(20))
def test_zones_settle_and_each_key_has_exactly_one_owner(seed: int) -> None:
    rnd = Random(seed)
    net = RouterNet(random_zones(rnd))
    net.settle(rnd)
    nodes = list(net.links)
    for dest in nodes:
        for node in nodes:
            end, visited = net.walk(node, "path_to_node", dest)
            assert (end, visited[-1]) == ("local", dest)
            assert len(set(visited)) == len(visited)
    for _ in range(30):
        key = (
            rnd.getrandbits(32)
            if rnd.random() < 0.5
            else rnd.choice(nodes) ^ 1 << rnd.randrange(32)
        )
        owner = min(nodes, key=lambda n: n ^ key)
        for node in nodes:
            end, visited = net.walk(node, "path_to_key", key)
            assert (end, visited[-1]) == ("local", owner)
            hop = net.routers[node].closest_node(key)
            assert (
                hop is None
                if node == owner
                else hop is not None and hop[:2] == net.routers[node].table.path_to_key(key)[1:]
            )
    assert not any(router.routes_refused for router in net.routers.values())
