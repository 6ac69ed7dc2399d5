"""Redialer by itself: no node, no socket, no clock but the test's."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from netcore import (
    AlreadyConnected,
    AuthenticationError,
    ConnId,
    DestinationNotFound,
    DuplicateNodeId,
    HandshakeTimeout,
    IdentityMismatch,
    NodeAddr,
    NodeId,
    OutgoingConnectionError,
    QueueFullError,
    RemoteRejected,
    SelfConnect,
    TooManyConnections,
    UnsupportedProtocol,
)
from netcore.redial import (
    FIRST_WAIT_MS,
    LONGEST_WAIT_MS,
    MIN_WAIT_MS,
    STABLE_MS,
    Redialer,
    wait_ms,
)
from support.storm import peak_over_mean

HUB = NodeAddr.parse("7@/memory/hub")
ANYBODY = HUB.with_node_id(None)
NOBODY = DestinationNotFound("nobody")


class Alarm:
    """A timer."""

    def __init__(self, fn: Callable[[], object]) -> None:
        self.fn: Callable[[], object] | None = fn

    def cancel(self) -> None:
        self.fn = None


class Clock:
    """The time and the timers of any number of nodes."""

    def __init__(self) -> None:
        self.now_ms = 0
        self._alarms: list[tuple[int, int, Alarm]] = []
        self._numbers = itertools.count()

    def call_later(self, delay_ms: int, fn: Callable[[], object]) -> Alarm:
        alarm = Alarm(fn)
        heapq.heappush(self._alarms, (self.now_ms + delay_ms, next(self._numbers), alarm))
        return alarm

    def run_until(self, end_ms: int) -> None:
        while self._alarms and self._alarms[0][0] <= end_ms:
            self.now_ms, _, alarm = heapq.heappop(self._alarms)
            if alarm.fn is not None:
                alarm.fn()
        self.now_ms = end_ms


class Dice(Random):
    """Rolls the highest number, and keeps the ranges."""

    def __init__(self) -> None:
        super().__init__(0)
        self.ranges: list[tuple[int, int]] = []

    def randint(self, a: int, b: int) -> int:
        self.ranges.append((a, b))
        return b


class Links:
    """Stands for the table of links."""

    def __init__(self) -> None:
        self.open: Counter[int] = Counter()

    def is_open_to(self, node_id: int) -> bool:
        return self.open[node_id] > 0


class World:
    """What a redialer asks and causes.

    Attributes:
        dialled: When, and under which conn id.
        answer: Called with the conn id of each redial.
        full: Whether commands are refused.
    """

    def __init__(
        self, rng: Random | None = None, *, clock: Clock | None = None, max_kept: int = 100
    ) -> None:
        self.clock = Clock() if clock is None else clock
        self.dice = Dice()
        self.links = Links()
        links: Any = self.links
        self.redialer = Redialer(NodeId(1), max_kept, links, rng or self.dice, self)
        self.dialled: list[tuple[int, int]] = []
        self.answer: Callable[[ConnId], object] = lambda conn_id: None
        self.full = False

    @property
    def now_ms(self) -> int:
        return self.clock.now_ms

    def call_later(self, delay_ms: int, fn: Callable[[], object]) -> Alarm:
        return self.clock.call_later(delay_ms, fn)

    def connect(self, addr: NodeAddr, *, parallel: bool) -> ConnId:
        if self.full:
            raise QueueFullError("max_commands", 16)
        conn_id = ConnId(1_000 + len(self.dialled))
        self.dialled.append((self.now_ms, conn_id))
        self.clock.call_later(0, lambda: self.answer(conn_id))
        return conn_id

    def keep(self, addr: NodeAddr = HUB, conn_id: int = 1, *, parallel: bool = False) -> None:
        self.redialer.check_room(addr, parallel=parallel)
        self.redialer.keep(addr, ConnId(conn_id), parallel=parallel)

    def open(self, conn_id: int, node_id: int = 7) -> None:
        self.links.open[node_id] += 1
        self.redialer.on_opened(conn_id, node_id)

    def close(self, conn_id: int, node_id: int = 7) -> None:
        self.links.open[node_id] -= 1
        self.redialer.on_closed(conn_id, node_id)

    def fail(self, conn_id: int, error: OutgoingConnectionError = NOBODY) -> None:
        self.redialer.on_failed(conn_id, error)

    def advance(self, ms: int) -> None:
        self.clock.run_until(self.now_ms + ms)

    @property
    def state(self) -> str:
        """That of the one address that there is."""
        (kept,) = self.redialer.stats()
        return kept.state


# -- waits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("failures", [*range(12), 10_000])
def test_wait_is_spread_from_the_floor_to_its_bound(failures: int) -> None:
    bound = min(30_000, 100 * 2 ** min(failures, 20))
    rng = Random(failures)
    waits = [wait_ms(failures, rng) for _ in range(2_000)]
    assert 10 <= min(waits) <= 10 + bound // 50
    assert bound - bound // 50 <= max(waits) <= bound
    assert abs(sum(waits) / len(waits) - (10 + bound) / 2) < bound / 20


def test_wait_follows_from_the_randomness_given() -> None:
    assert [wait_ms(5, Random(3)) for _ in range(3)] == [wait_ms(5, Random(3))] * 3


def test_wait_doubles_with_each_failure_up_to_the_longest() -> None:
    world = World()
    world.answer = world.fail
    world.keep()
    world.fail(1)
    world.advance(200_000)
    bounds = [high for _, high in world.dice.ranges]
    assert bounds[:10] == [100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000]
    assert set(bounds[9:]) == {LONGEST_WAIT_MS}
    assert {low for low, _ in world.dice.ranges} == {MIN_WAIT_MS}


def test_address_is_dialled_for_ever() -> None:
    world = World(Random(1))
    world.answer = world.fail
    world.keep()
    world.fail(1)
    world.advance(7 * 24 * 3_600_000)
    assert world.now_ms - world.dialled[-1][0] <= LONGEST_WAIT_MS
    assert len(world.dialled) > 7 * 24 * 3_600_000 / LONGEST_WAIT_MS


@pytest.mark.parametrize(("lived_ms", "bound"), [(STABLE_MS - 1, 800), (STABLE_MS, FIRST_WAIT_MS)])
def test_link_takes_the_waits_back_when_it_held(lived_ms: int, bound: int) -> None:
    world = World()
    world.answer = world.fail
    world.keep()
    world.fail(1)
    world.advance(100 + 200)  # two more attempts, and a third one that gets through
    world.answer = world.open
    world.advance(400)
    assert world.state == "up"
    world.advance(lived_ms)
    world.close(world.dialled[-1][1])
    assert world.dice.ranges[-1][1] == bound


def test_link_that_breaks_at_once_each_time_is_dialled_ever_more_rarely() -> None:
    def breaks(conn_id: int) -> None:
        world.open(conn_id)
        world.close(conn_id)

    world = World()
    world.answer = breaks
    world.keep()
    breaks(1)
    world.advance(200_000)
    assert world.dice.ranges[-1][1] == LONGEST_WAIT_MS


@pytest.mark.parametrize(
    "kind", [AuthenticationError, DuplicateNodeId, SelfConnect, UnsupportedProtocol]
)
def test_refusal_that_will_not_change_waits_up_to_the_longest_at_once(
    kind: type[OutgoingConnectionError],
) -> None:
    world = World()
    world.keep()
    world.fail(1, kind("no"))
    assert world.dice.ranges == [(MIN_WAIT_MS, LONGEST_WAIT_MS)]


@pytest.mark.parametrize(
    "kind",
    [DestinationNotFound, HandshakeTimeout, IdentityMismatch, RemoteRejected, TooManyConnections],
)
def test_failure_that_may_pass_begins_with_a_short_wait(
    kind: type[OutgoingConnectionError],
) -> None:
    world = World()
    world.keep()
    world.fail(1, kind("not now"))
    assert world.dice.ranges == [(MIN_WAIT_MS, FIRST_WAIT_MS)]


def test_wait_after_a_refusal_was_lifted_is_as_short_as_before_it() -> None:
    world = World()
    world.answer = world.fail
    world.keep()
    world.fail(1, AuthenticationError())
    world.advance(LONGEST_WAIT_MS)
    assert world.dice.ranges[1] == (MIN_WAIT_MS, 2 * FIRST_WAIT_MS)


# -- what counts as up ---------------------------------------------------------------------------


def test_link_that_the_other_node_dialled_stops_the_wait() -> None:
    world = World()
    world.keep()
    world.fail(1)
    world.open(50)
    assert world.state == "up"
    world.advance(100_000)
    assert world.dialled == []


def test_address_is_dialled_when_the_last_link_to_its_node_ends() -> None:
    world = World()
    world.keep()
    world.open(1)
    world.open(50)
    world.close(1)
    world.advance(1_000)
    assert (world.state, world.dialled) == ("up", [])
    world.close(50)
    world.advance(FIRST_WAIT_MS)
    assert (world.state, len(world.dialled)) == ("dialing", 1)


def test_attempt_that_finds_a_link_counts_as_up() -> None:
    world = World()
    world.keep()
    world.open(50)
    world.fail(1, AlreadyConnected())
    assert world.state == "up"
    world.close(50)
    assert world.state == "waiting"


def test_already_connected_without_a_link_here_is_a_failure() -> None:
    world = World()
    world.keep()
    world.fail(1, AlreadyConnected())
    assert world.state == "waiting"


def test_failed_attempt_to_a_node_that_dialled_meanwhile_counts_as_up() -> None:
    world = World()
    world.keep()
    world.open(50)
    world.fail(1, HandshakeTimeout())
    assert world.state == "up"


def test_address_without_a_node_takes_the_id_that_it_finds() -> None:
    world = World()
    world.keep(ANYBODY)
    world.open(50)
    world.redialer.on_failed(1, AlreadyConnected(), 7)
    (kept,) = world.redialer.stats()
    assert (kept.state, kept.node_id) == ("up", 7)


def test_address_without_a_node_is_not_dialled_while_the_node_found_there_has_a_link() -> None:
    world = World()
    world.keep(ANYBODY)
    world.open(1)
    world.close(1)
    world.open(50)
    world.advance(100_000)
    assert (world.state, world.dialled) == ("up", [])


def test_address_without_a_node_follows_when_another_one_lives_there() -> None:
    world = World()
    world.answer = lambda conn_id: world.open(conn_id, 8)
    world.keep(ANYBODY)
    world.open(1, 7)
    world.close(1, 7)
    world.advance(FIRST_WAIT_MS)
    (kept,) = world.redialer.stats()
    assert (kept.state, kept.node_id) == ("up", 8)
    world.open(50, 7)
    world.close(50, 7)
    assert world.state == "up"


def test_parallel_address_wants_its_own_link() -> None:
    world = World()
    world.keep(parallel=True)
    world.open(50)
    world.open(1)
    world.close(1)
    world.open(51)
    assert world.state == "waiting"
    world.advance(FIRST_WAIT_MS)
    assert len(world.dialled) == 1


def test_links_of_others_are_nobodys_affair() -> None:
    world = World()
    world.keep()
    world.fail(1)
    world.open(50, 8)
    world.close(50, 8)
    world.fail(51)
    assert world.state == "waiting"
    assert len(world.dice.ranges) == 1


# -- what users ask for --------------------------------------------------------------------------


def test_address_kept_twice_is_kept_once_and_dialled_now() -> None:
    world = World()
    world.keep()
    world.fail(1)
    world.keep(conn_id=2)
    (kept,) = world.redialer.stats()
    assert (kept.state, kept.conn_id, kept.attempts) == ("dialing", 2, 2)
    world.advance(10_000)
    assert world.dialled == []


@pytest.mark.parametrize("state", ["dialing", "waiting", "up"])
def test_forgotten_address_is_not_dialled(state: str) -> None:
    world = World()
    world.keep()
    if state == "waiting":
        world.fail(1)
    elif state == "up":
        world.open(1)
    assert world.state == state
    assert world.redialer.forget(HUB)
    if state == "up":
        world.close(1)
    elif state == "dialing":
        world.fail(1)
    world.advance(100_000)
    assert (world.dialled, len(world.redialer)) == ([], 0)


def test_forgetting_what_is_not_kept_says_so() -> None:
    world = World()
    world.keep()
    assert not world.redialer.forget(ANYBODY)
    assert len(world.redialer) == 1


def test_forgetting_an_address_forgets_its_parallel_link_too() -> None:
    world = World()
    world.keep()
    world.keep(conn_id=2, parallel=True)
    assert world.redialer.attempts_to(HUB) == [1, 2]
    assert world.redialer.forget(HUB)
    assert len(world.redialer) == 0


@pytest.mark.parametrize("opened", [False, True])
def test_closing_the_dial_or_the_link_ends_the_keeping(opened: bool) -> None:
    world = World()
    world.keep()
    if opened:
        world.open(1)
        world.links.open.clear()
    world.redialer.on_close_asked(1, 7 if opened else None)
    assert len(world.redialer) == 0


def test_closing_one_of_two_links_keeps_an_address_that_dialled_neither() -> None:
    world = World()
    world.keep()
    world.open(50)
    world.open(51)
    world.fail(1, AlreadyConnected())
    world.links.open[7] -= 1
    world.redialer.on_close_asked(50, 7)
    assert len(world.redialer) == 1
    world.links.open[7] -= 1
    world.redialer.on_close_asked(51, 7)
    assert len(world.redialer) == 0


def test_closing_a_node_forgets_all_its_addresses_and_no_others() -> None:
    world = World()
    other = NodeAddr.parse("8@/memory/other")
    world.keep(HUB, 1)
    world.keep(ANYBODY, 2)
    world.keep(other, 3)
    world.open(2)
    assert world.redialer.on_close_node_asked(7) == [1]
    assert [kept.addr for kept in world.redialer.stats()] == [other]


def test_one_address_too_many_is_refused_and_counted() -> None:
    world = World(max_kept=2)
    world.keep(HUB, 1)
    world.keep(ANYBODY, 2)
    with pytest.raises(
        QueueFullError, match=r"max_kept is full \(2\): forget an address"
    ) as caught:
        world.redialer.check_room(NodeAddr.parse("/memory/third"), parallel=False)
    assert (caught.value.limit, world.redialer.refused) == (2, 1)
    world.redialer.check_room(HUB, parallel=False)  # is there already


def test_attempt_that_finds_no_room_among_the_commands_is_made_later() -> None:
    world = World()
    world.keep()
    world.full = True
    world.fail(1)
    world.advance(FIRST_WAIT_MS)
    assert (world.state, world.dialled) == ("waiting", [])
    world.full = False
    world.advance(2 * FIRST_WAIT_MS)
    assert len(world.dialled) == 1


def test_closed_redialer_does_nothing_more() -> None:
    world = World()
    world.keep(HUB, 1)
    world.keep(ANYBODY, 2)
    world.fail(1)
    world.redialer.close()
    world.fail(2)
    world.advance(100_000)
    assert (world.dialled, world.redialer.stats()) == ([], ())


def test_kept_address_shows_how_it_is() -> None:
    world = World()
    world.keep()
    world.fail(1)
    world.advance(40)
    (kept,) = world.redialer.stats()
    assert (kept.addr, kept.parallel, kept.node_id, kept.conn_id) == (HUB, False, 7, None)
    assert (kept.state, kept.next_attempt_ms, kept.last_error) == ("waiting", 60, NOBODY)
    world.advance(60)
    (kept,) = world.redialer.stats()
    assert (kept.state, kept.next_attempt_ms, kept.conn_id) == ("dialing", None, 1_000)
    assert (kept.attempts, world.redialer.redials) == (2, 1)
    world.open(1_000)
    (kept,) = world.redialer.stats()
    assert (kept.state, kept.next_attempt_ms, kept.last_error) == ("up", None, None)


# -- the log -------------------------------------------------------------------------------------


def test_error_is_logged_when_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.answer = world.fail
    world.keep()
    world.fail(1)
    world.advance(100_000)
    world.answer = lambda conn_id: world.fail(conn_id, AuthenticationError("no"))
    world.advance(300_000)
    assert [record.getMessage() for record in caplog.records] == [
        "node 1 cannot reach 7@/memory/hub: nobody answers there: nobody; it will be dialled again",
        "node 1 cannot reach 7@/memory/hub: authentication failed: no; it will be dialled again",
    ]
    assert {(record.name, record.levelname) for record in caplog.records} == {
        ("netcore.redial", "WARNING")
    }


@pytest.mark.parametrize(("lived_ms", "lines"), [(STABLE_MS - 1, 1), (STABLE_MS, 2)])
def test_same_error_is_logged_again_after_a_link_that_held(
    caplog: pytest.LogCaptureFixture, lived_ms: int, lines: int
) -> None:
    world = World()
    world.answer = world.open
    world.keep()
    world.fail(1)
    world.advance(FIRST_WAIT_MS)
    world.advance(lived_ms)
    world.close(1_000)
    world.answer = world.fail
    world.advance(FIRST_WAIT_MS * 2)
    assert len(caplog.records) == lines


# -- many --------------------------------------------------------------------------------------


def came_back(outage_ms: int, seed: int, spokes: int = 500) -> list[int]:
    """Return when each spoke was back, from the hub's return on."""
    clock = Clock()
    back: list[int] = []
    for number in range(spokes):
        world = World(Random(seed * spokes + number), clock=clock)
        world.keep()
        world.open(1)

        def answer(conn_id: ConnId, world: World = world) -> None:
            if clock.now_ms < STABLE_MS + outage_ms:
                world.fail(conn_id)
            else:
                back.append(clock.now_ms - STABLE_MS - outage_ms)
                world.open(conn_id)

        world.answer = answer
        clock.call_later(STABLE_MS, lambda world=world: world.close(1))  # type: ignore[misc]
    clock.run_until(STABLE_MS + outage_ms + 2 * LONGEST_WAIT_MS)
    return back


@pytest.mark.parametrize("outage_ms", [0, 300, 1_000, 3_000, 10_000, 30_000, 120_000])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_hub_sees_at_most_three_times_the_mean_rate(outage_ms: int, seed: int) -> None:
    back = came_back(outage_ms, seed)
    assert len(back) == 500
    assert peak_over_mean(back) <= 3
    assert max(back) <= LONGEST_WAIT_MS
