"""Links that are named lost: by whom, to whom, what is believed of it, and for how long."""

from __future__ import annotations

from random import Random

import pytest

from netcore import wire
from netcore.route import Metric
from netcore.routing import FIRST_SERVICE
from netcore.services.sync_losses import (
    DOUBT_MS,
    KNOWN_MS,
    LOSS_BURST,
    LOSS_INTERVAL_MS,
    MAX_LOSSES,
    OWN_INTERVAL_MS,
    Allowance,
    Losses,
)
from netcore.services.sync_state import EntrySet
from netcore.services.sync_wire import (
    Delta,
    Digest,
    Full,
    Lost,
    Request,
    SyncMessage,
    decode,
    encode_delta,
    encode_digest,
    encode_entry,
    encode_full,
    encode_lost,
)
from support.router_net import random_links
from support.sync_net import Clock, End, Member, SyncNet

A, B, C, D, E = 1, 2, 3, 4, 5
NOW_MS = 5_000


def entry(*hops: int, latency_ms: int = 1) -> bytes:
    """Return the entry for the node at the end of these hops."""
    return encode_entry(hops[0], Metric(latency_ms, hops))


def star(*neighbours: int) -> tuple[Member, list[End]]:
    """Node A with links, at rest, at ``NOW_MS``; everybody has had a full state."""
    member = Member(A, Clock())
    ends = [member.new_end(0x100 * node, node, 2) for node in neighbours]
    for end in ends:
        end.open()
        end.receive(encode_full(0, {})[0])
    member.clock.advance(NOW_MS)
    for end in ends:
        end.agent.take()
    return member, ends


def taken(member: Member, end: End) -> list[SyncMessage]:
    """Return what leaves over a link at this moment, without digests."""
    member.clock.advance(0)
    messages = [decode(payload) for payload in end.agent.take()]
    return [m for m in messages if m is not None and not isinstance(m, Digest)]


def lost(messages: list[SyncMessage]) -> list[tuple[dict[tuple[int, int], int], object]]:
    """Return what the messages name lost, and what they say behind it; there are no others."""
    assert all(isinstance(m, Lost) for m in messages)
    return [(m.losses, m.entries) for m in messages if isinstance(m, Lost)]


# -- when -----------------------------------------------------------------------------------------


def test_first_change_is_told_at_once_and_the_next_ones_together() -> None:
    member, [end] = star(B)
    member.router.register_service(7)
    assert end.agent.sent == []  # not inside the hook that changes it
    assert [type(m) for m in taken(member, end)] == [Delta]
    for service in (8, 9):
        member.router.register_service(service)
        assert taken(member, end) == []
        member.clock.advance(2)
    member.clock.advance(1)
    [delta] = taken(member, end)
    assert isinstance(delta, Delta)
    assert list(delta.entries) == [FIRST_SERVICE + 8, FIRST_SERVICE + 9]


# -- naming ---------------------------------------------------------------------------------------


def test_lost_link_is_named_in_the_message_with_what_changes() -> None:
    member, [one, two, other] = star(B, C, E)
    one.receive(encode_delta(1, {D: entry(D), 9: entry(9)})[0])
    other.receive(encode_delta(1, {9: entry(9, latency_ms=50)})[0])
    taken(member, two)
    member.clock.advance(100)
    one.close()
    # B and D go with the hop; 9 has another way now. Nothing of it needs a withdrawal.
    changed = encode_entry(9, Metric(52, (9, E)))
    assert lost(taken(member, two)) == [({(B, A): NOW_MS + 100}, {9: changed})]


def test_lost_link_is_not_named_while_another_one_to_the_same_node_is_left() -> None:
    member, [one, two] = star(B, C)
    again = member.new_end(0x201, B, 8)
    again.open()
    member.clock.advance(100)
    taken(member, two)
    one.close()
    [delta] = taken(member, two)
    assert isinstance(delta, Delta)
    assert member.service.stats().losses_named == 0


def test_suspect_link_is_named_lost_and_used_again_when_it_lives() -> None:
    member, [one, two] = star(B, C)
    one.measure(2, suspect=True)
    # In the same message: it is the last resort, for whoever has nothing else.
    last_resort = Metric(wire.SUSPECT_LATENCY_MS + 2, (B,))
    assert lost(taken(member, two)) == [({(B, A): NOW_MS}, {B: encode_entry(B, last_resort)})]
    member.clock.advance(20)
    one.measure(2)
    [delta] = taken(member, two)
    assert isinstance(delta, Delta)
    assert delta.entries == {B: encode_entry(B, Metric(2, (B,)))}


def test_suspect_link_is_not_named_lost_while_another_one_to_the_same_node_lives() -> None:
    member, [one, two] = star(B, C)
    again = member.new_end(0x201, B, 8)
    again.open()
    member.clock.advance(100)
    taken(member, two)
    one.measure(2, suspect=True)
    member.clock.advance(100)
    assert not any(isinstance(message, Lost) for message in taken(member, two))
    again.close()  # and with it the last one that is better than suspect
    assert [losses for losses, _ in lost(taken(member, two))] == [{(B, A): NOW_MS + 200}]
    member.clock.advance(300)
    one.close()
    assert [losses for losses, _ in lost(taken(member, two))] == [{(B, A): NOW_MS + 500}]
    assert member.router.next(B) is None


def test_what_a_silent_neighbour_said_of_a_hop_that_is_lost_is_not_the_last_resort() -> None:
    member, [one, two] = star(B, C)
    said = {D: entry(D), 9: entry(9, D), 10: entry(10)}
    one.receive(encode_delta(1, said)[0])
    one.measure(2, suspect=True)
    assert [n for n in said if member.router.next(n)] == [D, 9, 10]
    two.receive(encode_lost(1, {(9, D): 7}, {})[0])
    member.clock.advance(5_000)  # long after the doubt has ended
    assert [n for n in said if member.router.next(n)] == [D, 10]
    member.router.check()


def test_link_that_flaps_is_named_at_a_bounded_rate() -> None:
    member, [one, two] = star(B, C)
    for _ in range(100):
        one.measure(2, suspect=True)
        member.clock.advance(10)
        one.measure(2)
        member.clock.advance(10)
    named = [m for m in taken(member, two) if isinstance(m, Lost)]
    assert 1 <= len(named) <= 2_000 // OWN_INTERVAL_MS + 1
    assert member.service.stats().losses_named <= 2_000 // OWN_INTERVAL_MS + 1
    member.clock.advance(1_000)
    assert member.router.announcement(B, C) == Metric(2, (B,))


# -- hearing --------------------------------------------------------------------------------------


def test_loss_withdraws_what_the_neighbour_had_announced_over_that_hop() -> None:
    member, [end] = star(B)
    known: dict[int, bytes | None] = {
        D: entry(D, E),
        E: entry(E),
        9: entry(9, D, E),
        10: entry(10, E, D),
    }
    end.receive(encode_delta(1, known)[0])
    end.receive(encode_lost(2, {(D, E): 7}, {})[0])
    assert [n for n in (D, E, 9, 10) if member.router.next(n)] == [E, 10]
    end.receive(encode_lost(3, {(E, B): 8}, {D: entry(D, 9)})[0])
    assert [n for n in (D, E, 9, 10) if member.router.next(n)] == [D, 10]
    left = EntrySet()
    left.apply({D: entry(D, 9), 10: entry(10, E, D)})
    end.receive(encode_digest(4, left.digest))  # both ends keep the same account of it
    assert member.service.stats().mismatches == 0
    end.receive(encode_digest(5, left.digest + 1))
    assert member.service.stats().mismatches == 1


def test_ways_of_others_over_a_lost_hop_wait_until_they_have_heard_of_it() -> None:
    member, [one, two, three] = star(B, C, E)
    for end in (one, two):
        end.receive(encode_delta(1, {D: entry(D, 9)})[0])
    three.receive(encode_delta(1, {D: entry(D, 10, 11)})[0])
    one.receive(encode_lost(2, {(D, 9): 7}, {})[0])
    assert member.router.next(D) == (0x500, E)  # not the shorter one over C, which is outdated
    member.router.check()
    two.receive(encode_lost(2, {(D, 9): 7}, {D: entry(D, 9)})[0])  # the link is back: C says so
    assert member.router.next(D) == (0x300, C)
    member.router.check()


def test_doubt_ends_by_itself() -> None:
    member, [one, two] = star(B, C)
    for end in (one, two):
        end.receive(encode_delta(1, {D: entry(D, 9)})[0])
    one.receive(encode_lost(2, {(D, 9): 7}, {})[0])
    assert member.router.next(D) is None
    member.router.check()
    member.clock.advance(DOUBT_MS - 10)
    assert member.router.next(D) is None
    member.clock.advance(20)
    assert member.router.next(D) == (0x300, C)
    member.router.check()


def test_way_that_comes_while_its_hop_is_doubted_waits_as_well() -> None:
    member, [one, two] = star(B, C)
    one.receive(encode_delta(1, {D: entry(D, 9)})[0])
    one.receive(encode_lost(2, {(D, 9): 7}, {})[0])
    two.receive(encode_delta(1, {D: entry(D, 9), 8: entry(8, D, 9), 7: entry(7, 9)})[0])
    assert [n for n in (D, 8, 7) if member.router.next(n)] == [7]
    two.receive(encode_lost(2, {(D, 9): 7}, {D: entry(D, 9), 8: entry(8, D, 9)})[0])
    assert [n for n in (D, 8, 7) if member.router.next(n)] == [D, 8, 7]
    member.router.check()


def test_way_over_a_link_that_is_back_is_believed_at_once_behind_its_loss() -> None:
    member, [end, two] = star(B, C)
    end.receive(encode_delta(1, {D: entry(D, 9)})[0])
    taken(member, two)
    member.clock.advance(10)
    end.receive(encode_lost(2, {(D, 9): 7}, {})[0])
    end.receive(encode_delta(3, {D: entry(D, 9)})[0])
    assert member.router.next(D) == (0x200, B)
    # It is passed on as it came: first the loss, then the way.
    again = encode_entry(D, Metric(3, (D, 9, B)))
    assert lost(taken(member, two)) == [({(D, 9): 7}, {D: again})]


def test_loss_is_passed_on_to_whom_it_concerns_and_only_once() -> None:
    member, [one, two, three] = star(B, C, E)
    one.receive(encode_delta(1, {D: entry(D, C)})[0])  # C visits the way: it was not told of it
    taken(member, two)
    taken(member, three)
    member.clock.advance(10)
    one.receive(encode_lost(2, {(D, C): 7}, {})[0])
    assert lost(taken(member, three)) == [({(D, C): 7}, {})]
    three.receive(encode_lost(1, {(D, C): 7}, {})[0])
    member.clock.advance(10)
    assert taken(member, one) == taken(member, two) == []
    one.receive(encode_lost(3, {(D, C): 7}, {})[0])  # again, and an older one
    one.receive(encode_lost(4, {(D, C): 6}, {})[0])
    member.clock.advance(10)
    assert taken(member, three) == []
    assert member.service.stats().losses_heard == 1


def test_newer_loss_of_the_same_hop_is_passed_on_again() -> None:
    member, [one, two] = star(B, C)
    for serial in (0xFFFFFFFF, 0, 1):  # serials wrap around
        one.receive(encode_delta(2 * serial + 3 & 0xFFFFFFFF, {D: entry(D, 9)})[0])
        member.clock.advance(10)
        one.receive(encode_lost(2 * serial + 4 & 0xFFFFFFFF, {(D, 9): serial}, {})[0])
        said = [m.losses for m in taken(member, two) if isinstance(m, Lost)]
        assert said == [{(D, 9): serial}]
    assert member.service.stats().losses_heard == 3


def test_full_state_behind_a_loss_is_announced_with_it() -> None:
    member, [one] = star(B)
    one.receive(encode_delta(1, {D: entry(D, 9)})[0])
    one.receive(encode_lost(2, {(D, 9): 7}, {D: entry(D, 9), E: entry(E, 10)})[0])
    late = member.new_end(0x300, C, 2)
    late.open()
    first, full = taken(member, late)
    assert first == Lost(0, {(D, 9): 7}, {})
    assert isinstance(full, Full)
    assert full.seq == 1
    assert {D, E} <= full.entries.keys()


def test_loss_behind_a_gap_withdraws_and_asks_but_adds_nothing() -> None:
    member, [end] = star(B)
    end.receive(encode_delta(1, {D: entry(D, 9)})[0])
    end.receive(encode_lost(3, {(D, 9): 7}, {E: entry(E)})[0])
    assert member.router.next(D) is None
    assert member.router.next(E) is None
    assert taken(member, end)[0] == Request()
    end.receive(encode_full(4, {E: entry(E)})[0])
    assert member.router.next(E) == (0x200, B)


def test_repeated_loss_changes_nothing() -> None:
    member, [end] = star(B)
    message = encode_lost(1, {(D, 9): 7}, {})[0]
    end.receive(message)
    end.receive(encode_delta(2, {D: entry(D, 9)})[0])
    end.receive(message)
    assert member.router.next(D) == (0x200, B)
    assert member.service.stats().gaps == 0


# -- lies -----------------------------------------------------------------------------------------


def test_made_up_loss_of_an_own_link_is_answered_with_what_is_true() -> None:
    member, [one, two] = star(B, C)
    two.receive(encode_lost(1, {(B, A): 123_456}, {})[0])
    assert member.router.next(B) == (0x200, B)
    direct = encode_entry(B, Metric(2, (B,)))
    assert lost(taken(member, two)) == [({(B, A): 123_456}, {B: direct})]
    member.clock.advance(OWN_INTERVAL_MS)
    one.close()  # and when it is lost indeed, that is news to everybody
    assert lost(taken(member, two)) == [({(B, A): 123_457}, {})]


def test_made_up_loss_takes_a_way_for_a_second_at_most_and_never_one_that_others_confirm() -> None:
    member, [liar, honest] = star(B, C)
    honest.receive(encode_delta(1, {D: entry(D, 9)})[0])
    liar.receive(encode_lost(1, {(D, 9): 7}, {})[0])
    assert member.router.next(D) is None
    honest.receive(encode_lost(2, {(D, 9): 7}, {D: entry(D, 9)})[0])
    assert member.router.next(D) == (0x300, C)
    liar.receive(encode_lost(2, {(D, 9): 7}, {})[0])
    assert member.router.next(D) == (0x300, C)


def test_neighbour_that_names_hops_all_the_time_is_slowed_down_within_bounds() -> None:
    member, [liar, other] = star(B, C)
    number = 0
    for _ in range(50):
        hops = [(1_000 + number + at, 999) for at in range(20)]
        number += 20
        known = {D: entry(D, *hops[0][:1], 999)}
        liar.receive(encode_lost(2 * number, dict.fromkeys(hops, 7), {})[0])
        assert known
        member.clock.advance(10)
    stats = member.service.stats()
    passed = LOSS_BURST + 500 // LOSS_INTERVAL_MS
    assert LOSS_BURST <= stats.losses_heard <= passed + 1
    assert stats.losses_heard + stats.losses_limited == 1_000
    assert len(member.service.losses) <= MAX_LOSSES
    assert [m for m in taken(member, other) if isinstance(m, Lost)] == []  # concerns nobody


def test_loss_beyond_the_allowance_still_withdraws_what_its_teller_announced() -> None:
    member, [liar, other] = star(B, C)
    for end in (liar, other):
        end.receive(encode_delta(1, {D: entry(D, 9)})[0])
    burst = {(1_000 + at, 999): 7 for at in range(LOSS_BURST)}
    liar.receive(encode_lost(2, burst, {})[0])
    liar.receive(encode_lost(3, {(D, 9): 7}, {})[0])
    assert member.service.stats().losses_limited == 1
    assert member.router.next(D) == (0x300, C)


# -- the bookkeeping ------------------------------------------------------------------------------


def test_losses_beyond_the_bound_push_out_the_oldest_and_end_its_doubt() -> None:
    losses = Losses()
    for far in range(MAX_LOSSES):
        assert losses.hear((far, 999), 7, far) == []
    assert losses.hear((500, 999), 7, 500) == [(0, 999)]
    assert losses.serial_of((0, 999)) is None
    assert losses.serial_of((1, 999)) == 7
    assert len(losses) == MAX_LOSSES


def test_losses_end_after_a_second_and_are_forgotten_after_ten() -> None:
    losses = Losses()
    losses.hear((D, 9), 7, 100)
    assert losses.wait_ms(100) == DOUBT_MS
    assert list(losses.end(99 + DOUBT_MS)) == []
    assert list(losses.end(100 + DOUBT_MS)) == [(D, 9)]
    assert losses.wait_ms(2_000) is None
    assert not losses.is_news((D, 9), 7)
    assert list(losses.end(100 + KNOWN_MS)) == []
    assert losses.is_news((D, 9), 7)
    assert losses.serial_of((D, 9)) is None


def test_own_loss_has_a_serial_that_grows_whatever_others_have_said() -> None:
    losses = Losses()
    assert losses.name((D, A), 1_000)
    assert losses.serial_of((D, A)) == 1_000
    assert not losses.name((D, A), 1_000 + OWN_INTERVAL_MS - 1)
    losses.hear((D, A), 0x7000_0000, 1_300)
    assert losses.name((D, A), 1_300 + OWN_INTERVAL_MS)
    assert losses.serial_of((D, A)) == 0x7000_0001


def test_allowance_is_a_burst_and_then_one_per_interval() -> None:
    allowance = Allowance()
    assert sum(allowance.take(5_000) for _ in range(LOSS_BURST + 10)) == LOSS_BURST
    assert not allowance.take(5_000 + LOSS_INTERVAL_MS - 1)
    assert allowance.take(5_000 + LOSS_INTERVAL_MS)
    assert not allowance.take(5_000 + LOSS_INTERVAL_MS)


# -- networks -------------------------------------------------------------------------------------


def random_net(seed: int, nodes: int = 20) -> tuple[Random, SyncNet, dict[int, dict[int, int]]]:
    rnd = Random(seed)
    ids = rnd.sample(range(256), nodes)
    links = random_links(rnd, ids, extra=nodes)
    net = SyncNet(ids)
    for a in links:
        for b in links[a]:
            if a < b:
                net.join(a, b, links[a][b] % 20 + 2)
    net.clock.advance(3_000)
    return rnd, net, links


def reachable(links: dict[int, dict[int, int]], start: int) -> set[int]:
    seen, todo = {start}, [start]
    while todo:
        for peer in links[todo.pop()]:
            if peer not in seen:
                seen.add(peer)
                todo.append(peer)
    return seen


@pytest.mark.parametrize("seed", range(8))
def test_dead_node_is_gone_everywhere_within_the_time_that_one_word_takes(seed: int) -> None:
    rnd, net, links = random_net(seed)
    dead = rnd.choice(list(links))
    diameter_ms = max(
        path.metric.score
        for node in links
        for dest in links
        if (path := net.router(node).next_path(dest)) is not None
    )
    for end in net.ends.values():
        end.agent.take()
    for peer in list(links[dead]):
        net.cut(dead, peer)
        del links[dead][peer], links[peer][dead]
    net.clock.advance(diameter_ms + 50)
    for node in links:
        known = {dest for dest in links if net.router(node).next(dest)} | {node}
        assert known == reachable(links, node)
        net.router(node).check()
    for end in net.ends.values():
        # A loss crosses a link at most once in each direction.
        messages = [decode(payload) for payload in end.agent.take()]
        said = [loss for m in messages if isinstance(m, Lost) for loss in m.losses.items()]
        assert len(said) == len(set(said))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("away_ms", [0, 3, 40, 400])
def test_link_that_comes_back_is_used_again_everywhere_as_soon_as_the_word_is_there(
    seed: int, away_ms: int
) -> None:
    rnd, net, links = random_net(seed, nodes=12)
    a = rnd.choice(list(links))
    b = rnd.choice(list(links[a]))
    before = {
        (node, dest): net.router(node).next_path(dest)
        for node in links
        for dest in links
        if node != dest
    }
    scores = {pair: path.metric.score for pair, path in before.items() if path is not None}
    net.cut(a, b)
    net.clock.advance(away_ms)
    net.join(a, b, links[min(a, b)][max(a, b)] % 20 + 2)
    net.clock.advance(max(scores.values()) + 50)
    for (node, dest), score in scores.items():
        path = net.router(node).next_path(dest)
        assert path is not None
        assert path.metric.score == score
    net.clock.advance(20_000)
    assert sum(member.service.stats().mismatches for member in net.members.values()) == 0
    assert sum(member.service.stats().gaps for member in net.members.values()) == 0


def test_restarted_node_names_its_losses_with_newer_serials() -> None:
    net = SyncNet([A, B, C])
    net.join(A, B)
    net.join(B, C)
    net.clock.advance(100)
    net.cut(B, C)
    net.clock.advance(300)
    net.cut(A, B)
    net.members[B] = Member(B, net.clock)  # a new process on the same machine
    net.join(A, B)
    net.join(B, C)
    net.clock.advance(300)
    assert net.router(A).next(C) is not None
    heard = net.members[A].service.stats().losses_heard
    net.cut(B, C)
    net.clock.advance(100)
    assert net.router(A).next(C) is None
    assert net.members[A].service.stats().losses_heard == heard + 1
