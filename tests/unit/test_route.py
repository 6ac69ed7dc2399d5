"""RouteRule, RouteAction, Metric, HandlerRoute."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import pytest

from netcore import HandlerRoute, LocalError, Metric, RouteAction, RouteRule, key_of, wire

RULES = [
    (RouteRule.direct(), wire.ROUTE_DIRECT, 0),
    (RouteRule.node(7), wire.ROUTE_NODE, 7),
    (RouteRule.node(0xFFFF_FFFE), wire.ROUTE_NODE, 0xFFFF_FFFE),
    (RouteRule.closest(0xFFFF_FFFF), wire.ROUTE_KEY, 0xFFFF_FFFF),
    (RouteRule.service(), wire.ROUTE_SERVICE, 0),
    (RouteRule.service(9), wire.ROUTE_SERVICE, 9),
]


@pytest.mark.parametrize(("rule", "kind", "argument"), RULES, ids=repr)
def test_rule_has_its_kind_and_argument(rule: RouteRule, kind: int, argument: int) -> None:
    assert (rule.kind, rule.argument) == (kind, argument)
    assert rule == RouteRule(kind, argument)
    assert hash(rule) == hash(RouteRule(kind, argument))


def test_rules_are_compared_by_value() -> None:
    assert len({rule for rule, _, _ in RULES}) == len(RULES)
    assert RouteRule.node(1) != RouteRule.closest(1)
    assert RouteRule.node(1) != 1


def test_direct_ignores_its_argument() -> None:
    assert RouteRule(wire.ROUTE_DIRECT, 5) == RouteRule.direct()
    assert RouteRule.direct() is RouteRule.direct()


@pytest.mark.parametrize("name", ["name", b"name"])
def test_closest_hashes_names(name: str | bytes) -> None:
    assert RouteRule.closest(name) == RouteRule.closest(key_of("name"))


@pytest.mark.parametrize(
    "make",
    [
        lambda: RouteRule(5),
        lambda: RouteRule(-1),
        lambda: RouteRule(1, -1),
        lambda: RouteRule(1, 1 << 32),
        lambda: RouteRule.node(0xFFFF_FFFF),
        lambda: RouteRule.node(True),
        lambda: RouteRule.node(1.0),  # type: ignore[arg-type]
        lambda: RouteRule.node([]),  # type: ignore[arg-type]
        lambda: RouteRule.closest(-1),
        lambda: RouteRule.service(1 << 32),
    ],
)
def test_rule_out_of_range_raises(make: Any) -> None:
    RouteRule.node(1)  # is remembered, and equal to True and 1.0
    with pytest.raises(LocalError):
        make()


def test_rule_is_immutable() -> None:
    rule = RouteRule.node(1)
    with pytest.raises(AttributeError, match="immutable"):
        rule.argument = 2
    with pytest.raises(AttributeError, match="immutable"):
        del rule.kind
    with pytest.raises(AttributeError):
        rule.other = 1
    assert rule.argument == 1


@pytest.mark.parametrize("rule", [rule for rule, _, _ in RULES], ids=repr)
def test_rule_can_be_copied(rule: RouteRule) -> None:
    assert copy.deepcopy(rule) == pickle.loads(pickle.dumps(rule)) == rule


def test_rule_shows_how_it_is_made() -> None:
    shown = [repr(rule) for rule in (RouteRule.direct(), RouteRule.node(7), RouteRule.closest(8))]
    assert shown == ["RouteRule.direct()", "RouteRule.node(7)", "RouteRule.closest(8)"]


# -- actions -------------------------------------------------------------------------------------


def test_actions_are_compared_by_value() -> None:
    assert RouteAction.next_hop(5, 6) == RouteAction.next_hop(5, 6)
    assert RouteAction.next_hop(5, 6) != RouteAction.next_hop(5, 7)
    assert RouteAction.REJECT != RouteAction.LOCAL


def test_actions_know_what_they_are() -> None:
    three = (RouteAction.REJECT, RouteAction.LOCAL, RouteAction.next_hop(5, 6))
    assert [(a.is_reject, a.is_local, a.is_next) for a in three] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]
    assert (three[2].conn_id, three[2].node_id) == (5, 6)
    assert [repr(a) for a in three] == [
        "RouteAction.REJECT",
        "RouteAction.LOCAL",
        "RouteAction.next_hop(0x5, 6)",
    ]


def test_action_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RouteAction.LOCAL.action = 5  # type: ignore[misc]


# -- metrics -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("latency", "hops", "bandwidth", "score"),
    [
        (3, (2,), 0, 13),
        (0, (), 0, 0),
        (10, (3, 2), 10_000, 31),
        (10, (2,), 1, 1_020),
        (10, (2,), 10, 1_020),
        (10, (2,), 20, 520),
        (10, (2,), 10_001, 20),
    ],
)
def test_metric_score(latency: int, hops: tuple[int, ...], bandwidth: int, score: int) -> None:
    assert Metric(latency, hops, bandwidth).score == score


def test_metric_over_a_link_adds_up() -> None:
    path = Metric(5, [3], 1_000).over(Metric(7, [2], 500))  # type: ignore[arg-type]
    assert path == Metric(12, (3, 2), 500)


@pytest.mark.parametrize(("a", "b", "least"), [(0, 0, 0), (0, 9, 9), (9, 0, 9), (8, 9, 8)])
def test_metric_over_a_link_keeps_the_smaller_known_bandwidth(a: int, b: int, least: int) -> None:
    assert Metric(1, (1,), a).over(Metric(1, (2,), b)).bandwidth_kbps == least


def test_metric_saturates() -> None:
    assert Metric(1 << 40, ()).latency_ms == wire.MAX_U32
    assert Metric(-5, ()).latency_ms == 0
    assert Metric(wire.MAX_U32, (1,)).over(Metric(wire.MAX_U32, (2,))).latency_ms == wire.MAX_U32
    assert Metric(0, (), 1 << 40).bandwidth_kbps == wire.MAX_U32


# -- handler routes ------------------------------------------------------------------------------


def test_handler_route_names_a_link_or_a_node() -> None:
    assert (HandlerRoute.conn(5).conn_id, HandlerRoute.conn(5).node_id) == (5, None)
    assert (HandlerRoute.node(5).conn_id, HandlerRoute.node(5).node_id) == (None, 5)
    assert HandlerRoute.conn(5) != HandlerRoute.node(5)
