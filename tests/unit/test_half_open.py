"""HalfOpen: who gives way when all slots are taken, and what a source may spend."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any, cast

import pytest

from netcore.address import Endpoint, EndpointKind
from netcore.errors import HandshakeTimeout, OutgoingConnectionError
from netcore.transport import HalfOpen, Negotiation
from netcore.transport.half_open import (
    BURST_S,
    MAX_SOURCES,
    SILENT_GRACE_MS,
    SPOKEN_GRACE_MS,
    SourceBudget,
    source_of,
)

FLOOD = "192.0.2.66"
LONELY = "198.51.100.1"


class Clock:
    """The loop of a host, of which only the time is looked at."""

    now_ms = 1_000


class FakeNegotiation:
    """A handshake under way, as far as the account knows it."""

    def __init__(self, stage: Stage, host: str, kind: EndpointKind = "ip4") -> None:
        self.host = stage
        self.remote = Endpoint.of_canonical(kind, host, 1)
        self.peer: object | None = None
        self.error: OutgoingConnectionError | None = None

    def abort(self, error: OutgoingConnectionError) -> None:
        self.error = error
        self.host.half_open.discard(cast(Negotiation, self))

    @property
    def ended(self) -> bool:
        return self.error is not None


class Stage:
    """A host with its account."""

    def __init__(self, limit: int, budget_per_s: int = 1 << 20) -> None:
        self.loop = Clock()
        self.half_open = HalfOpen(limit, budget_per_s)

    def arrive(self, host: str, *, spoken: bool = False, verified: bool = False) -> Any:
        """Return the handshake of a newcomer, or None when it was refused."""
        newcomer: Any = FakeNegotiation(self, host)
        if not self.half_open.admit_incoming(newcomer.remote, self.loop.now_ms):
            return None
        self.half_open.add(newcomer)
        if spoken or verified:
            newcomer.peer = object()
        if verified:
            self.half_open.verified(newcomer)
        return newcomer

    def pass_time(self, ms: int) -> None:
        self.loop.now_ms += ms


# -- sources -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "host", "other", "same"),
    [
        ("ip4", "192.0.2.1", "192.0.2.1", True),
        ("ip4", "192.0.2.1", "192.0.2.2", False),
        ("ip6", "2001:db8::1", "2001:db8::ffff:1", True),
        ("ip6", "2001:db8::1", "2001:db8:0:1::1", False),
        ("ip6", "fe80::1%eth0", "fe80::2%eth1", True),
        ("unix", "/tmp/a", "/tmp/b", True),
        ("memory", "a", "b", True),
    ],
)
def test_source_is_an_address_a_prefix_or_a_whole_kind(
    kind: EndpointKind, host: str, other: str, same: bool
) -> None:
    one, two = (Endpoint.of_canonical(kind, name, 7) for name in (host, other))
    assert (source_of(one) == source_of(two)) is same


# -- who gives way -------------------------------------------------------------------------------


def test_newcomer_from_a_source_of_its_own_gets_in_at_once() -> None:
    stage = Stage(4)
    flood = [stage.arrive(FLOOD) for _ in range(4)]
    lonely = stage.arrive(LONELY)
    assert lonely is not None
    assert [each.ended for each in flood] == [True, False, False, False]
    assert isinstance(flood[0].error, HandshakeTimeout)
    assert "max_half_open" in str(flood[0].error)
    half_open = stage.half_open
    assert (half_open.incoming, half_open.evicted, half_open.refused) == (4, 1, 0)


def test_lonely_newcomer_stays_however_long_the_flood_goes_on() -> None:
    stage = Stage(8)
    for _ in range(8):
        stage.arrive(FLOOD)
    lonely = stage.arrive(LONELY)
    for _ in range(1_000):
        stage.arrive(FLOOD)
        stage.pass_time(10)
    assert not lonely.ended
    assert stage.half_open.incoming == 8
    assert stage.half_open.evicted + stage.half_open.refused == 1_001


def test_flood_from_many_sources_pushes_itself_out() -> None:
    stage = Stage(8)
    rng = random.Random(5)
    honest = [stage.arrive(LONELY) for _ in range(1)]
    for _ in range(2_000):
        stage.arrive(f"203.0.113.{rng.randrange(4)}")
        stage.pass_time(rng.randrange(3))
    assert not honest[0].ended


def test_silent_ones_go_before_those_who_said_their_name() -> None:
    stage = Stage(3)
    spoken = stage.arrive(FLOOD, spoken=True)
    silent = [stage.arrive(FLOOD) for _ in range(2)]
    assert stage.arrive(LONELY) is not None
    assert (spoken.ended, silent[0].ended, silent[1].ended) == (False, True, False)


def test_one_that_spoke_later_is_no_longer_silent() -> None:
    stage = Stage(3)
    first, second, third = (stage.arrive(FLOOD) for _ in range(3))
    first.peer = object()
    stage.arrive(LONELY)
    stage.arrive("198.51.100.2")
    assert (first.ended, second.ended, third.ended) == (False, True, True)


def test_source_with_the_most_pushes_out_no_silent_one_within_the_grace() -> None:
    stage = Stage(2)
    first = stage.arrive(FLOOD)
    stage.pass_time(SILENT_GRACE_MS - 1)
    stage.arrive(FLOOD)
    assert stage.arrive(FLOOD) is None
    assert not first.ended
    assert stage.half_open.refused == 1
    stage.pass_time(1)
    assert stage.arrive(FLOOD) is not None
    assert first.ended


def test_source_with_the_most_pushes_out_nobody_who_spoke_within_the_grace() -> None:
    stage = Stage(2)
    both = [stage.arrive(FLOOD, spoken=True) for _ in range(2)]
    stage.pass_time(SPOKEN_GRACE_MS - 1)
    assert stage.arrive(FLOOD) is None
    stage.pass_time(1)
    assert stage.arrive(FLOOD) is not None
    assert [each.ended for each in both] == [True, False]


def test_verified_ones_go_last_and_never_for_their_own_source() -> None:
    stage = Stage(3)
    known = [stage.arrive(FLOOD, verified=True) for _ in range(2)]
    stranger = stage.arrive(LONELY)
    stage.pass_time(60_000)
    newcomer = stage.arrive(FLOOD)
    assert newcomer is not None
    assert stranger.ended
    newcomer.peer = object()
    stage.half_open.verified(newcomer)
    assert stage.arrive(FLOOD) is None
    assert stage.arrive(LONELY) is not None
    assert [each.ended for each in known] == [True, False]


def test_slots_are_given_back_in_any_order() -> None:
    stage = Stage(50)
    rng = random.Random(3)
    alive: list[Any] = []
    for _ in range(5_000):
        stage.pass_time(rng.randrange(30))
        newcomer = stage.arrive(f"192.0.2.{rng.randrange(6)}")
        alive = [each for each in alive if not each.ended]
        if newcomer is not None:
            alive.append(newcomer)
            if rng.random() < 0.5:
                newcomer.peer = object()
        if alive and rng.random() < 0.3:
            stage.half_open.verified(cast(Negotiation, rng.choice(alive)))
        while alive and rng.random() < 0.45:
            stage.half_open.discard(alive.pop(rng.randrange(len(alive))))
        assert stage.half_open.incoming == len(alive) <= 50
    if not stage.half_open._sorted:
        stage.half_open._sort()
    crowds = stage.half_open._strangers, stage.half_open._known
    sizes = Counter(each.remote.host for each in alive)
    for host in sizes:
        assert sum(crowd.size_of(host) for crowd in crowds) == sizes[host]
    for each in alive:
        stage.half_open.discard(each)
    assert not stage.half_open._sorted
    for crowd in (stage.half_open._strangers, stage.half_open._known):
        assert not crowd
        assert crowd._by_size == [{}]
        assert not crowd._silent


@pytest.mark.parametrize("seed", range(5))
def test_who_gives_way_does_not_depend_on_when_sorting_began(seed: int) -> None:
    rng = random.Random(seed)
    stage, begun, pushed = Stage(40), 0, 0
    alive: dict[Any, int] = {}  # handshake -> since when
    for number in range(3_000):
        stage.pass_time(rng.randrange(400))
        was_sorted = stage.half_open._sorted
        newcomer = stage.arrive(f"192.0.2.{rng.randrange(6)}")
        begun += stage.half_open._sorted and not was_sorted
        gone = [each for each in alive if each.ended]
        if gone:
            pushed += 1
            assert_first_to_go(gone[0], alive)
            del alive[gone[0]]
        if newcomer is not None:
            alive[newcomer] = stage.loop.now_ms
            if rng.random() < 0.5:
                newcomer.peer = object()
        # Now and then all but a few end.
        while alive and rng.random() < (0.97 if number % 150 > 140 else 0.1):
            each = rng.choice(list(alive))
            stage.half_open.discard(each)
            del alive[each]
        assert stage.half_open.incoming == len(alive)
    assert begun > 5
    assert pushed > 500


def assert_first_to_go(victim: Any, alive: dict[Any, int]) -> None:
    """It is of the source that has the most, and the oldest of those who said nothing, if any."""
    sizes = Counter(each.remote.host for each in alive)
    assert sizes[victim.remote.host] == max(sizes.values())
    silent = [
        since
        for each, since in alive.items()
        if each.remote.host == victim.remote.host and each.peer is None
    ]
    assert (victim.peer is not None) if not silent else alive[victim] == min(silent)


def test_calm_node_sorts_nothing_and_a_full_one_stops_when_half_its_slots_are_free() -> None:
    stage = Stage(10)
    taken = [stage.arrive(f"192.0.2.{number}") for number in range(10)]
    assert not stage.half_open._sorted
    taken.append(stage.arrive("198.51.100.1"))
    assert stage.half_open._sorted
    alive = [each for each in taken if not each.ended]
    while len(alive) > 6:
        stage.half_open.discard(alive.pop())
    assert stage.half_open._sorted
    stage.half_open.discard(alive.pop())
    assert not stage.half_open._sorted
    assert stage.half_open.incoming == 5


def test_stream_without_an_address_is_forgotten_like_any_other() -> None:
    stage = Stage(2)
    alive: list[Any] = []
    for _ in range(5):
        nobody: Any = FakeNegotiation(stage, "192.0.2.1")
        nobody.remote = None
        stage.pass_time(1_000)
        assert stage.half_open.admit_incoming(None, stage.loop.now_ms)
        stage.half_open.add(nobody)
        alive.append(nobody)
    assert stage.half_open.evicted == 3
    assert [each.ended for each in alive] == [True] * 3 + [False] * 2


# -- the budget ----------------------------------------------------------------------------------


def test_source_may_spend_some_seconds_worth_at_once_and_its_rate_later() -> None:
    budget = SourceBudget(100)
    assert sum(budget.spend(FLOOD, 1_000) for _ in range(1_000)) == BURST_S * 100
    assert sum(budget.spend(FLOOD, 1_500) for _ in range(1_000)) == 50
    assert sum(budget.spend(LONELY, 1_500) for _ in range(1_000)) == BURST_S * 100


def test_token_given_back_can_be_spent_again() -> None:
    budget = SourceBudget(10)
    for _ in range(1_000):
        assert budget.spend(FLOOD, 0)
        budget.give_back(FLOOD)
    budget.give_back(LONELY)  # forgotten meanwhile: nothing to do
    assert sum(budget.spend(FLOOD, 0) for _ in range(100)) == BURST_S * 10


def test_sources_that_spend_nothing_are_forgotten_and_their_number_is_bounded() -> None:
    budget = SourceBudget(10)
    for number in range(MAX_SOURCES + 100):
        for _ in range(5):
            budget.spend(f"source {number}", 0)
    assert len(budget) == MAX_SOURCES
    budget.spend(FLOOD, BURST_S * 1_000 + 1)
    assert len(budget) == 1


def test_connections_beyond_the_budget_are_refused_and_counted() -> None:
    stage = Stage(10_000, budget_per_s=10)
    taken = [stage.arrive(FLOOD) for _ in range(100)]
    assert sum(each is not None for each in taken) == BURST_S * 10
    assert stage.half_open.over_budget == 100 - BURST_S * 10
    assert stage.arrive(LONELY) is not None


def test_whoever_proves_to_know_the_secret_costs_no_budget() -> None:
    stage = Stage(10_000, budget_per_s=1)
    for _ in range(1_000):
        member = stage.arrive(FLOOD, verified=True)
        assert member is not None
        stage.half_open.discard(member)
    assert stage.half_open.over_budget == 0


@pytest.mark.parametrize(
    ("kind", "host"),
    [("ip4", "127.0.0.1"), ("ip4", "127.8.8.8"), ("ip6", "::1"), ("unix", "/x"), ("memory", "x")],
)
def test_this_machines_own_processes_have_no_budget(kind: EndpointKind, host: str) -> None:
    half_open = HalfOpen(10, 1)
    remote = Endpoint.of_canonical(kind, host, 1)
    assert all(half_open.admit_incoming(remote, 0) for _ in range(100))
    assert half_open.over_budget == 0
