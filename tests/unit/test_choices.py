"""Choices: which way is used, and which are doubted; asked by way of the router."""

from __future__ import annotations

from random import Random

import pytest

from netcore import wire
from netcore.explain import known_routes
from netcore.route import Metric
from netcore.routing import MAX_LOST, LayeredRouter

TO_2, TO_3 = 0x102, 0x103


def doubting() -> LayeredRouter:
    """Node 1 with a way to 9 over 2 and node 5, and a longer one over 3 and node 6."""
    router = LayeredRouter(1)
    for conn, node, hops, ms in ((TO_2, 2, (9, 5), 1), (TO_3, 3, (9, 6), 50)):
        router.set_direct(conn, node, Metric(2, (node,)))
        router.apply_changes(conn, node, Metric(2, (node,)), {9: Metric(ms, hops)})
    router.take_changes()
    return router


def test_doubt_moves_places_to_ways_without_the_hop_and_names_them() -> None:
    router = doubting()
    assert router.next(9) == (TO_2, 2)
    assert router.doubt(9, 5) == {9}
    assert router.next(9) == (TO_3, 3)
    assert router.take_changes() == {9}
    router.check()
    assert router.doubt(9, 6) == {9}
    assert router.next(9) is None
    assert router.path_to_node(9).is_reject
    assert router.announcement(9, 4) is None
    router.check()


def test_doubt_also_takes_the_alternate() -> None:
    router = doubting()
    assert router.doubt(9, 6) == {9}
    assert router.chosen(9)[1] is None
    assert router.take_changes() == {9}
    router.check()


def test_doubt_of_a_hop_that_nobody_makes_names_and_changes_nothing() -> None:
    router = doubting()
    assert router.doubt(5, 9) == set()
    assert router.next(9) == (TO_2, 2)
    assert router.take_changes() == set()


def test_trust_brings_back_the_way_over_one_link_and_end_of_doubt_all() -> None:
    router = doubting()
    router.apply_changes(TO_3, 3, Metric(2, (3,)), {9: Metric(50, (9, 5))})
    router.doubt(9, 5)
    assert router.next(9) is None
    router.trust(9, 5, TO_3)
    router.trust(9, 5, TO_3)
    assert router.next(9) == (TO_3, 3)
    router.check()
    router.end_doubt(9, 5)
    router.end_doubt(9, 5)
    assert router.next(9) == (TO_2, 2)
    router.check()


def test_trust_ends_with_the_link() -> None:
    router = doubting()
    router.doubt(9, 5)
    router.trust(9, 5, TO_2)
    router.del_direct(TO_2)
    router.set_direct(TO_2, 2, Metric(2, (2,)))
    router.apply_changes(TO_2, 2, Metric(2, (2,)), {9: Metric(1, (9, 5))})
    assert router.next(9) == (TO_3, 3)
    router.check()


def test_doubt_of_an_own_hop_only_names_what_goes_over_it() -> None:
    router = doubting()
    assert router.doubt(2, 1) == {2, 9}
    assert router.next(9) == (TO_2, 2)
    router.check()


def test_closest_node_and_exceptions_pass_over_doubted_ways() -> None:
    router = doubting()
    router.doubt(9, 5)
    assert router.next(9, excepts=(3,)) is None
    router.doubt(9, 6)
    hop = router.closest_node(9)
    assert hop is None or hop[3] != 9
    router.check()


def test_doubted_way_says_why_it_is_not_used() -> None:
    router = doubting()
    router.doubt(9, 5)
    [route] = [route for route in known_routes(router) if 9 in route.nodes]
    whys = {candidate.via: candidate.why for candidate in route.candidates}
    assert whys == {2: "makes a hop that is said to be lost", 3: "best"}


def test_lost_neighbour_is_named_once_and_not_while_a_link_to_it_is_left() -> None:
    router = doubting()
    router.set_direct(TO_2 + 2, 2, Metric(9, (2,)))
    router.del_direct(TO_2)
    assert router.take_lost() == set()
    router.del_direct(TO_2 + 2)
    router.set_direct(TO_2, 2, Metric(2, (2,)))
    assert router.take_lost() == {2}
    assert router.take_lost() == set()


def test_lost_neighbours_of_a_router_that_nobody_asks_are_bounded() -> None:
    router = LayeredRouter(0)
    for node in range(1, MAX_LOST + 100):
        router.set_direct(TO_2, node, Metric(2, (node,)))
        router.del_direct(TO_2)
    assert len(router.take_lost()) == MAX_LOST


@pytest.mark.parametrize("seed", range(30))
def test_random_doubts_leave_what_follows_from_what_is_known(seed: int) -> None:
    rnd = Random(seed)
    router = LayeredRouter(0)
    doubted: set[tuple[int, int]] = set()
    for _ in range(300):
        conn = rnd.randrange(1, 5)
        link = Metric(conn, (conn,))
        far, near = rnd.sample(range(1, 9), 2)
        what = rnd.randrange(6)
        if what < 2:
            hops = rnd.sample([n for n in range(1, 9) if n != conn], rnd.randrange(1, 4))
            known = {hops[0]: Metric(rnd.randrange(50), tuple(hops))}
            router.apply_changes(conn, conn, link, known if rnd.random() < 0.8 else {hops[0]: None})
        elif what == 2:
            router.doubt(far, near)
            doubted.add((far, near))
        elif what == 3 and doubted:
            router.trust(*rnd.choice(sorted(doubted)), conn)
        elif what == 4 and doubted:
            router.end_doubt(*doubted.pop())
        elif rnd.random() < 0.3:
            router.del_direct(conn)
        router.check()


# -- the last resort ------------------------------------------------------------------------------


def test_alternate_over_a_suspect_link_comes_behind_one_that_visits_the_best_neighbour() -> None:
    router = LayeredRouter(1)
    suspect = wire.SUSPECT_LATENCY_MS + 1
    for conn, node, ms, hops in (
        (TO_2, 2, 1, (9,)),
        (TO_3, 3, 1, (9, 2)),
        (0x104, 4, suspect, (9,)),
    ):
        router.set_direct(conn, node, Metric(ms, (node,)))
        router.apply_changes(conn, node, Metric(ms, (node,)), {9: Metric(1, hops)})
    best, other = router.chosen(9)
    assert best is not None
    assert other is not None
    assert (best.node_id, other.node_id) == (2, 3)
    router.check()
    router.set_direct(TO_2, 2, Metric(suspect, (2,)))
    router.set_direct(TO_3, 3, Metric(suspect, (3,)))
    assert router.take_lost() == {2, 3}
    best, other = router.chosen(9)
    assert best is not None
    assert other is not None
    assert (best.node_id, other.node_id) == (2, 4)
    router.set_direct(TO_2, 2, Metric(suspect + 7, (2,)))
    assert router.take_lost() == set()  # it was suspect before
    router.del_direct(TO_2)
    assert router.take_lost() == {2}
    router.check()
