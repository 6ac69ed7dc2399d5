"""The router_sync service: neighbours that tell each other their paths."""

from __future__ import annotations

import json
import logging
from itertools import pairwise
from random import Random
from typing import cast

import pytest

from netcore import wire
from netcore._backend import kernels
from netcore.agent import ConnectionSender
from netcore.route import Metric, RouteRule
from netcore.routing import FIRST_SERVICE, LayeredRouter, RouterSync
from netcore.services.router_sync import RouterSyncService
from netcore.services.sync_wire import (
    Delta,
    Digest,
    Full,
    Request,
    SyncMessage,
    decode,
    encode_delta,
    encode_digest,
    encode_entry,
    encode_full,
    encode_request,
)
from support.router_net import Links, random_links
from support.sync_net import Clock, End, Member, SyncNet

A, B, C, D, E = 1, 2, 3, 4, 5


def opened(rtt_ms: float | None = 2) -> tuple[Member, End]:
    """Node A with one link, to B, whose first full state has gone out."""
    member = Member(A, Clock())
    end = member.new_end(0x200, B, rtt_ms)
    end.open()
    member.clock.advance(10)
    end.agent.take()
    return member, end


def decoded(payloads: list[bytes]) -> list[SyncMessage]:
    messages = [decode(payload) for payload in payloads]
    return [message for message in messages if message is not None]


def only_deltas(messages: list[SyncMessage]) -> list[Delta]:
    return [message for message in messages if isinstance(message, Delta)]


def latency_of(member: Member) -> int:
    path = member.router.next_path(B)
    assert path is not None
    return path.metric.latency_ms


# -- opening and closing --------------------------------------------------------------------------


def test_opened_link_is_a_direct_way_with_its_rtt() -> None:
    member, _ = opened(rtt_ms=7.6)
    path = member.router.next_path(B)
    assert path is not None
    assert path.metric == Metric(8, (B,))


def test_opened_link_without_a_measurement_is_a_way_of_last_resort() -> None:
    member, end = opened(rtt_ms=None)
    assert latency_of(member) == 1000
    end.measure(999.0)
    assert latency_of(member) == 999


def test_opened_link_tells_everything_once() -> None:
    member = Member(A, Clock())
    member.router.register_service(7)
    end = member.new_end(0x200, B, 2)
    end.open()
    assert end.agent.sent == []
    member.clock.advance(10)
    service = encode_entry(FIRST_SERVICE + 7, Metric(0, ()))
    assert decoded(end.agent.sent) == [Full(0, True, True, {FIRST_SERVICE + 7: service})]
    member.clock.advance(1000)
    assert len(end.agent.sent) == 1


def test_closed_link_is_forgotten() -> None:
    member, end = opened()
    end.receive(encode_full(0, {D: encode_entry(D, Metric(1, (D,)))})[0])
    assert member.router.next(D) == (0x200, B)
    end.close()
    assert member.router.next(D) is None
    assert member.router.next(B) is None
    end.agent.take()
    member.clock.advance(20_000)
    assert end.agent.sent == []


def test_new_link_to_the_same_node_starts_over() -> None:
    member, end = opened()
    end.receive(encode_full(7, {D: encode_entry(D, Metric(1, (D,)))})[0])
    end.close()
    again = member.new_end(0x300, B, 2)
    again.open()
    member.clock.advance(10)
    assert isinstance(decoded(again.agent.sent)[0], Full)
    again.receive(encode_full(0, {E: encode_entry(E, Metric(1, (E,)))})[0])
    assert member.router.next(D) is None
    assert member.router.next(E) == (0x300, B)


# -- the latency of a link ------------------------------------------------------------------------


def test_measured_rtt_becomes_the_metric_only_when_it_differs_enough() -> None:
    member, end = opened(rtt_ms=100)
    for rtt_ms, used_ms in ((120.0, 100), (None, 100), (126.0, 126), (101.0, 126), (94.0, 94)):
        end.measure(rtt_ms)
        assert latency_of(member) == used_ms


# -- changes --------------------------------------------------------------------------------------


def test_change_reaches_the_neighbour_within_ten_ms_without_a_tick() -> None:
    member, end = opened()
    member.router.register_service(7)
    assert end.agent.sent == []
    member.clock.advance(10)
    entry = encode_entry(FIRST_SERVICE + 7, Metric(0, ()))
    assert decoded(end.agent.take()) == [Delta(1, {FIRST_SERVICE + 7: entry})]
    member.router.unregister_service(7)
    member.clock.advance(10)
    assert decoded(end.agent.take()) == [Delta(2, {FIRST_SERVICE + 7: None})]


def test_changes_of_one_moment_travel_in_one_message() -> None:
    member, end = opened()
    for service in range(5):
        member.router.register_service(service)
    member.clock.advance(10)
    [delta] = only_deltas(decoded(end.agent.take()))
    assert len(delta.entries) == 5


def test_change_taken_back_at_once_is_not_told() -> None:
    member, end = opened()
    member.router.register_service(7)
    member.router.unregister_service(7)
    member.clock.advance(10)
    assert end.agent.sent == []


def test_place_that_keeps_changing_is_slowed_down_and_ends_right() -> None:
    member, end = opened()
    for turn in range(200):
        if turn % 2:
            member.router.unregister_service(7)
        else:
            member.router.register_service(7)
        member.clock.advance(10)
    deltas = only_deltas(decoded(end.agent.take()))
    assert 5 <= len(deltas) <= 5 + 2000 // 100
    member.clock.advance(200)
    told = deltas + only_deltas(decoded(end.agent.take()))
    assert told[-1].entries == {FIRST_SERVICE + 7: None}


def test_place_that_keeps_changing_does_not_hold_up_another_one() -> None:
    member, end = opened()
    for turn in range(20):
        if turn % 2:
            member.router.unregister_service(7)
        else:
            member.router.register_service(7)
        member.clock.advance(10)
    end.agent.take()
    member.router.register_service(8)
    member.clock.advance(10)
    deltas = only_deltas(decoded(end.agent.take()))
    assert [list(delta.entries) for delta in deltas] == [[FIRST_SERVICE + 8]]


def test_link_that_opens_does_not_use_up_the_others_burst() -> None:
    member, end = opened()
    member.router.register_service(7)
    member.clock.advance(10)
    for number in range(20):
        member.new_end(0x1000 + 2 * number, 100 + number, 2).open()
        member.clock.advance(10)
    end.agent.take()
    member.router.unregister_service(7)
    member.clock.advance(10)
    assert [d.entries for d in only_deltas(decoded(end.agent.sent))] == [{FIRST_SERVICE + 7: None}]


# -- a link that refuses --------------------------------------------------------------------------


def test_refused_change_leads_to_a_full_state_later() -> None:
    member, end = opened()
    end.agent.is_full = True
    member.router.register_service(7)
    member.clock.advance(10)
    assert member.service.stats().sends_refused == 1
    member.router.register_service(8)
    member.clock.advance(500)
    assert member.service.stats().sends_refused == 1
    end.agent.is_full = False
    member.clock.advance(600)
    [full] = decoded(end.agent.sent)
    assert isinstance(full, Full)
    assert list(full.entries) == [FIRST_SERVICE + 7, FIRST_SERVICE + 8]


def test_refused_full_state_is_tried_again_until_it_goes_out() -> None:
    member = Member(A, Clock())
    end = member.new_end(0x200, B, 2)
    end.agent.is_full = True
    end.open()
    member.clock.advance(2_500)
    assert member.service.stats().sends_refused >= 3
    end.agent.is_full = False
    member.clock.advance(1_100)
    assert [type(message) for message in decoded(end.agent.sent)].count(Full) == 1


def test_writable_link_gets_the_full_state_at_once() -> None:
    member, end = opened()
    end.agent.is_full = True
    member.router.register_service(7)
    member.clock.advance(10)
    end.agent.is_full = False
    member.service.on_connection_writable(member.agent, cast(ConnectionSender, end.agent))
    member.clock.advance(10)
    assert isinstance(decoded(end.agent.sent)[0], Full)


def test_writable_link_of_nobody_is_ignored() -> None:
    member, end = opened()
    end.close()
    member.service.on_connection_writable(member.agent, cast(ConnectionSender, end.agent))


def test_request_is_answered_with_the_full_state_at_a_bounded_rate() -> None:
    member, end = opened()
    member.router.register_service(7)
    member.clock.advance(10)
    end.agent.take()
    for _ in range(1000):
        end.receive(encode_request())
        member.clock.advance(10)
    fulls = [message for message in decoded(end.agent.take()) if isinstance(message, Full)]
    # 192 KiB at once and 64 KB a second, at 4 KiB for each small one
    assert 100 < len(fulls) < 48 + 10_000 * 64 // 4096 + 5


def test_more_changes_than_the_budget_become_one_full_state() -> None:
    member, end = opened()
    hops = tuple(range(1000, 1030))
    end.receive(encode_full(0, {})[0])
    other = member.new_end(0x300, C, 2)
    other.open()
    member.clock.advance(10)
    for turn in range(3):
        for place in range(1024, 1280):
            metric = Metric(10 + turn, (place, *hops))
            member.router.apply_changes(0x300, C, Metric(2, (C,)), {place: metric})
        for place in range(4, 256):
            metric = Metric(10 + turn, (place + 5000, *hops))
            member.router.apply_changes(0x300, C, Metric(2, (C,)), {place: metric})
        member.clock.advance(10)
    assert sum(map(len, end.agent.sent)) <= 192 * 1024 + 100 * 64
    member.clock.advance(5_000)
    messages = decoded(end.agent.take())
    last_full = max(n for n, message in enumerate(messages) if isinstance(message, Full))
    first_full = min(n for n, message in enumerate(messages) if isinstance(message, Full))
    entries = {}
    for message in messages[first_full : last_full + 1]:
        assert isinstance(message, Full)
        entries.update(message.entries)
    assert entries == {
        place: encode_entry(place, metric)
        for place, metric in member.router.announcements(B).items()
    }


# -- what the neighbour says ----------------------------------------------------------------------


def entry(node: int, latency_ms: int = 1) -> bytes:
    return encode_entry(node, Metric(latency_ms, (node,)))


def test_full_state_replaces_what_was_known() -> None:
    member, end = opened()
    end.receive(encode_full(0, {D: entry(D), E: entry(E)})[0])
    end.receive(encode_full(1, {E: entry(E)})[0])
    assert member.router.next(D) is None
    assert member.router.next(E) == (0x200, B)
    assert member.service.stats().fulls_received == 2


def test_full_state_in_pieces_takes_effect_with_the_last_one() -> None:
    member, end = opened()
    hops = tuple(range(1000, 1031))
    entries = {p: encode_entry(p, Metric(1, (p + 5000, *hops))) for p in range(4, 100)}
    messages = encode_full(0, entries)
    assert len(messages) > 2
    for message in messages[:-1]:
        end.receive(message)
    assert member.router.next(4) is None
    end.receive(messages[-1])
    assert member.router.next(4) == (0x200, B)
    assert member.router.next(99) == (0x200, B)


def test_delta_changes_only_what_it_names() -> None:
    member, end = opened()
    end.receive(encode_full(0, {D: entry(D), E: entry(E)})[0])
    end.receive(encode_delta(1, {D: None, 9: entry(9)})[0])
    assert member.router.next(D) is None
    assert member.router.next(E) == (0x200, B)
    assert member.router.next(9) == (0x200, B)


def test_numbers_of_messages_wrap_around() -> None:
    member, end = opened()
    end.receive(encode_full(0xFFFFFFFF, {D: entry(D)})[0])
    end.receive(encode_delta(0, {E: entry(E)})[0])
    assert member.router.next(E) == (0x200, B)
    assert member.service.stats().gaps == 0


def test_missing_delta_is_noticed_and_the_full_state_asked_for() -> None:
    member, end = opened()
    end.receive(encode_full(0, {D: entry(D)})[0])
    end.receive(encode_delta(2, {E: entry(E)})[0])
    end.receive(encode_delta(3, {9: entry(9)})[0])
    assert member.router.next(E) is None
    assert member.router.next(D) == (0x200, B)
    assert decoded(end.agent.take()) == [Request()]
    assert member.service.stats().gaps == 1
    end.receive(encode_full(4, {E: entry(E)})[0])
    end.receive(encode_delta(5, {9: entry(9)})[0])
    assert member.router.next(9) == (0x200, B)


def test_repeated_messages_change_nothing() -> None:
    member, end = opened()
    full, delta = encode_full(0, {D: entry(D)})[0], encode_delta(1, {D: None})[0]
    for message in (full, delta, delta, full, encode_digest(1, 77)):
        end.receive(message)
    assert member.router.next(D) is None
    assert member.service.stats().gaps == member.service.stats().mismatches == 0


def test_missing_piece_of_a_full_state_makes_the_rest_worthless() -> None:
    member, end = opened()
    hops = tuple(range(1000, 1031))
    entries = {p: encode_entry(p, Metric(1, (p + 5000, *hops))) for p in range(4, 100)}
    end.receive(encode_full(0, {D: entry(D)})[0])
    messages = encode_full(1, entries)
    for message in (messages[0], *messages[2:]):
        end.receive(message)
    assert member.router.next(99) is None
    assert decoded(end.agent.take()) == [Request()]


def test_delta_before_any_full_state_is_not_believed() -> None:
    member, end = opened()
    end.receive(encode_delta(0, {D: entry(D)})[0])
    assert member.router.next(D) is None
    member.clock.advance(4_000)
    assert Request() in decoded(end.agent.take())


def test_digest_that_fits_is_silently_accepted() -> None:
    member, end = opened()
    end.receive(encode_full(0, {})[0])
    end.receive(encode_digest(1, 0))
    assert end.agent.sent == []
    assert member.service.stats().mismatches == 0


def test_digest_that_does_not_fit_asks_for_the_full_state_once_a_second() -> None:
    member, end = opened()
    end.receive(encode_full(0, {D: entry(D)})[0])
    end.receive(encode_digest(1, 0xDEAD))
    assert decoded(end.agent.take()) == [Request()]
    assert member.service.stats().mismatches == 1
    end.receive(encode_full(2, {D: entry(D)})[0])
    end.receive(encode_digest(3, 0xDEAD))
    assert end.agent.take() == []
    member.clock.advance(1_000)
    end.receive(encode_full(4, {D: entry(D)})[0])
    end.receive(encode_digest(5, 0xDEAD))
    assert decoded(end.agent.take()) == [Request()]


def test_digests_go_out_every_few_seconds_spread_by_chance() -> None:
    member, end = opened()
    member.router.register_service(7)
    times = []
    for _ in range(30_000):
        member.clock.advance(1)
        if any(isinstance(message, Digest) for message in decoded(end.agent.take())):
            times.append(member.clock.now_ms)
    waits = [b - a for a, b in pairwise(times)]
    assert len(times) >= 8
    assert all(2_250 <= wait <= 3_750 for wait in waits)
    assert len(set(waits)) > 1


def test_digest_waits_until_a_full_state_that_is_due_has_gone_out() -> None:
    member, end = opened()
    end.agent.is_full = True
    member.router.register_service(7)
    member.clock.advance(5_000)
    end.agent.is_full = False
    member.clock.advance(5_000)
    messages = [m for m in decoded(end.agent.sent) if not isinstance(m, Request)]
    assert isinstance(messages[0], Full)
    assert isinstance(messages[1], Digest)


def test_neighbour_that_stops_talking_is_forgotten_except_as_a_neighbour() -> None:
    member, end = opened()
    end.receive(encode_full(0, {D: entry(D)})[0])
    member.clock.advance(14_000)
    assert member.router.next(D) == (0x200, B)
    member.clock.advance(5_000)
    assert member.router.next(D) is None
    assert member.router.next(B) == (0x200, B)
    assert member.service.stats().silences == 1
    end.receive(encode_full(9, {D: entry(D)})[0])
    assert member.router.next(D) == (0x200, B)


# -- bad and foreign messages ---------------------------------------------------------------------


def test_malformed_message_closes_the_link_and_is_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    member, end = opened()
    with caplog.at_level(logging.WARNING):
        end.receive(b"\x00")
    assert end.agent.closed
    assert member.service.stats().malformed == 1
    assert "bad_body at byte 0" in caplog.text


def test_message_of_a_later_version_is_ignored() -> None:
    member, end = opened()
    end.receive(b"\x80anything")
    assert not end.agent.closed
    assert member.service.stats().ignored == 1


@pytest.mark.parametrize(
    ("route", "verified"), [(RouteRule.node(A), True), (RouteRule.direct(), False)]
)
def test_message_of_somebody_else_than_the_neighbour_is_ignored(
    route: RouteRule, verified: bool
) -> None:
    member, end = opened()
    payload = encode_full(0, {D: entry(D)})[0]
    end.event(kernels.Message(payload, from_node=B, route=route, sender_verified=verified))
    assert member.router.next(D) is None
    assert member.service.stats().ignored == 1


def test_message_without_a_link_is_ignored() -> None:
    member, _ = opened()
    member.service.on_message(member.agent, kernels.Message(b"\x04", from_node=A))
    assert member.service.stats().ignored == 1


def test_lying_entries_are_refused_and_do_not_disturb_the_digest() -> None:
    member, end = opened()
    lie = encode_entry(D, Metric(0, (D, A)))
    end.receive(encode_full(0, {D: lie, E: entry(E)})[0])
    assert member.router.routes_refused == 1
    assert member.router.next(D) is None
    assert member.router.next(E) == (0x200, B)


# -- suspicion ------------------------------------------------------------------------------------


def test_suspect_link_is_the_last_resort_at_once_and_is_not_spoken_to() -> None:
    member, end = opened()
    end.receive(encode_full(0, {D: entry(D)})[0])
    end.measure(2, suspect=True)
    for node in (B, D):
        path = member.router.next_path(node)
        assert path is not None
        assert path.metric.is_last_resort
    end.measure(2, suspect=True)
    member.router.register_service(7)
    end.receive(encode_delta(1, {E: entry(E)})[0])
    member.clock.advance(10_000)
    assert end.agent.sent == []
    assert member.router.next(E) is None


def test_link_back_alive_starts_over_in_both_directions() -> None:
    member, end = opened()
    end.receive(encode_full(0, {D: entry(D)})[0])
    end.measure(2, suspect=True)
    member.router.register_service(7)
    member.clock.advance(1_000)
    end.measure(50)
    assert latency_of(member) == 50
    member.clock.advance(10)
    request, full = decoded(end.agent.take())
    assert request == Request()
    assert isinstance(full, Full)
    assert list(full.entries) == [FIRST_SERVICE + 7]
    end.receive(encode_full(5, {D: entry(D)})[0])
    assert member.router.next(D) == (0x200, B)


def test_link_back_alive_loses_what_the_neighbour_says_no_more() -> None:
    member, end = opened()
    end.receive(encode_full(0, {D: entry(D), E: entry(E)})[0])
    end.measure(2, suspect=True)
    member.clock.advance(1_000)
    end.measure(2)
    assert member.router.next(E) == (0x200, B)  # until it has spoken
    end.receive(encode_full(5, {D: entry(D)})[0])
    assert member.router.next(E) is None
    path = member.router.next_path(D)
    assert path is not None
    assert not path.metric.is_last_resort


def test_link_that_is_closing_does_not_come_back_as_a_suspect_one() -> None:
    member, end = opened()
    end.agent.is_open = False
    member.router.del_direct(0x200)  # as the plane does when a link begins to close
    end.measure(2, suspect=True)
    end.measure(2)
    assert member.router.next(B) is None


def test_link_suspect_twice_in_a_second_asks_again_when_that_is_over() -> None:
    member, end = opened()
    for _ in range(2):
        end.measure(2, suspect=True)
        end.measure(2)
    member.clock.advance(100)
    assert [m for m in decoded(end.agent.take()) if m == Request()] == [Request()]
    member.clock.advance(900)  # the answer to the first came too early, and the digest is far off
    assert decoded(end.agent.take()) == [Request()]
    end.receive(encode_full(5, {D: entry(D)})[0])
    assert member.router.next(D) == (0x200, B)


# -- starting and stopping ------------------------------------------------------------------------


def test_stopped_service_leaves_the_router_alone() -> None:
    member, end = opened()
    member.router.register_service(7)
    member.service.on_stopped(member.agent)
    member.clock.advance(1_000)
    assert member.router.on_change is None
    assert end.agent.sent == []
    member.service.on_stopped(member.agent)
    end.close()


def test_flush_that_comes_after_the_stop_does_nothing() -> None:
    member, end = opened()
    member.router.register_service(7)
    timer = member.service._timer
    member.service.on_stopped(member.agent)
    assert timer is not None
    member.service._flush()
    assert end.agent.sent == []


def test_what_was_there_before_the_start_is_told() -> None:
    router = LayeredRouter(A)
    router.register_service(7)
    service = RouterSyncService(router, Random(1))
    assert service.service_id == wire.SERVICE_ROUTER_SYNC
    assert router.take_changes() == {FIRST_SERVICE + 7}


def test_stop_without_anything_to_say_is_quiet() -> None:
    member = Member(A, Clock())
    member.service.on_stopped(member.agent)
    member.new_end(0x200, B, 2).open()
    member.clock.advance(10)
    assert member.router.next(B) == (0x200, B)


def test_link_that_closes_before_it_opened_is_forgotten() -> None:
    member = Member(A, Clock())
    member.new_end(0x200, B, 2).close()
    assert member.router.next(B) is None


# -- networks -------------------------------------------------------------------------------------


def network(seed: int) -> tuple[Random, Links, SyncNet]:
    rnd = Random(seed)
    nodes = rnd.sample(range(256), rnd.randrange(3, 10))
    links = random_links(rnd, nodes, extra=rnd.randrange(8))
    net = SyncNet(nodes)
    for member in net.members.values():
        if rnd.random() < 0.3:
            member.router.register_service(7)
    for a in links:
        for b in links[a]:
            if a < b:
                net.join(a, b, links[a][b], links[b][a])
    return rnd, links, net


def check_converged(links: Links, net: SyncNet) -> None:
    """Each node knows what the synchronous exchange of the same routers would teach it."""
    oracle = {node: LayeredRouter(node) for node in links}
    for node, router in oracle.items():
        if net.router(node).path_to_service(7).is_local:
            router.register_service(7)
        for neighbour in links[node]:
            conn = net.ends[node, neighbour].agent.conn_id
            router.set_direct(conn, neighbour, Metric(links[node][neighbour], (neighbour,)))
    for _ in range(len(links) + 2):
        for node in links:
            for neighbour in links[node]:
                conn = net.ends[neighbour, node].agent.conn_id
                link = Metric(links[neighbour][node], (node,))
                oracle[neighbour].apply_sync(conn, node, link, oracle[node].create_sync(neighbour))
    for node, router in oracle.items():
        assert net.router(node).table.slots() == router.table.slots()
        assert net.router(node).table.services() == router.table.services()
        for neighbour in links[node]:
            assert net.router(node).create_sync(neighbour) == router.create_sync(neighbour)


@pytest.mark.parametrize("seed", range(15))
def test_random_network_converges_without_ticks(seed: int) -> None:
    _, links, net = network(seed)
    net.clock.advance(3_000)
    check_converged(links, net)
    net.clock.advance(20_000)
    for member in net.members.values():
        stats = member.service.stats()
        assert (stats.mismatches, stats.gaps, stats.silences, stats.malformed) == (0, 0, 0, 0)


@pytest.mark.parametrize("seed", range(15))
def test_random_network_forgets_a_closed_link(seed: int) -> None:
    rnd, links, net = network(seed)
    net.clock.advance(3_000)
    a = rnd.choice(list(links))
    b = rnd.choice(list(links[a]))
    conns = [net.ends[a, b].agent.conn_id, net.ends[b, a].agent.conn_id]
    net.cut(a, b)
    del links[a][b], links[b][a]
    net.clock.advance(3_000)
    check_converged(links, net)
    for conn, node in zip(conns, (a, b), strict=True):
        known = [
            link["conn_id"] for link in json.loads(json.dumps(net.router(node).dump()))["links"]
        ]
        assert conn not in known


def walk(net: SyncNet, start: int, dest: int) -> tuple[str, list[tuple[int, int]]]:
    """Follow the tables as a frame would; return how it ends, and the hops."""
    neighbours = {end.agent.conn_id: key for key, end in net.ends.items()}
    hops: list[tuple[int, int]] = []
    at, came_from = start, wire.NO_NODE
    while at != dest:
        action, conn, node = net.router(at).table.path_to_node(dest, came_from)
        if action != wire.ACTION_NEXT or node == came_from or len(hops) > 64:
            return "lost", hops
        assert neighbours[conn] == (at, node)
        hops.append((at, node))
        at, came_from = node, at
    return "local", hops


@pytest.mark.parametrize("seed", range(30))
def test_random_network_uses_suspect_links_where_there_is_no_other_way(seed: int) -> None:
    rnd, links, net = network(seed)
    net.clock.advance(3_000)
    silent = set(
        rnd.sample([(a, b) for a in links for b in links[a] if a < b], rnd.choice((1, 1, 2)))
    )
    silent |= {(b, a) for a, b in silent}
    for a, b in silent:
        net.ends[a, b].agent.lose = lambda payload: True
        net.ends[a, b].measure(links[a][b], suspect=True)
    net.clock.advance(3_000)
    healthy = {a: [b for b in links[a] if (a, b) not in silent] for a in links}
    for start in links:
        near = {start}
        for _ in links:
            near |= {b for a in near for b in healthy[a]}
        for dest in links:
            end, hops = walk(net, start, dest)
            assert end == "local", (start, dest, hops)
            assert bool(silent & set(hops)) is (dest not in near)
    for a, b in silent:
        net.ends[a, b].agent.lose = lambda payload: False
        net.ends[a, b].measure(links[a][b])
    net.clock.advance(3_000)
    check_converged(links, net)


@pytest.mark.parametrize("seed", range(15))
def test_random_network_heals_after_losing_messages(seed: int) -> None:
    rnd, links, net = network(seed)
    for end in net.ends.values():
        end.agent.lose = lambda payload: rnd.random() < 0.3
    for _ in range(20):
        router = net.router(rnd.choice(list(links)))
        if router.path_to_service(9).is_local:
            router.unregister_service(9)
        else:
            router.register_service(9)
        net.clock.advance(rnd.randrange(300))
    for node in links:
        net.router(node).unregister_service(9)
    for end in net.ends.values():
        end.agent.lose = lambda payload: False
    net.clock.advance(15_000)
    check_converged(links, net)


def test_line_of_nodes_learns_a_new_service_within_its_batches() -> None:
    nodes = list(range(1, 11))
    net = SyncNet(nodes)
    for a, b in pairwise(nodes):
        net.join(a, b, 2)
    net.clock.advance(5_000)
    net.router(1).register_service(7)
    net.clock.advance(9 * (10 + 1))
    assert net.router(10).path_to_service(7).is_next
    net.router(1).unregister_service(7)
    net.clock.advance(9 * (10 + 1))
    assert net.router(10).path_to_service(7).is_reject


def test_restarted_neighbour_is_learned_afresh() -> None:
    net = SyncNet([A, B, C])
    net.join(A, B)
    net.join(B, C)
    net.router(C).register_service(7)
    net.clock.advance(100)
    assert net.router(A).path_to_service(7).is_next
    net.cut(B, C)
    net.members[C] = Member(C, net.clock)
    net.join(B, C)
    net.clock.advance(100)
    assert net.router(A).next(C) is not None
    assert net.router(A).path_to_service(7).is_reject


def test_router_sync_value_survives_the_wire() -> None:
    net = SyncNet([A, B, C])
    net.join(A, B)
    net.join(B, C)
    net.clock.advance(100)
    told = net.router(B).create_sync(A)
    assert told == RouterSync(({C: Metric(2, (C,))}, {}, {}, {}))
