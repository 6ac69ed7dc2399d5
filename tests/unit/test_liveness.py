"""Liveness of links: one end against a manual clock, then two ends with a network between them."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any, ClassVar

import pytest

from netcore import _backend, wire
from netcore._backend import BackendName
from netcore.config import NodeConfig
from netcore.liveness import (
    Action,
    Activity,
    Alive,
    Dead,
    Liveness,
    Probe,
    SendPing,
    Suspect,
)
from netcore.pingpong import decode_ping, decode_pong, encode_pong

LINK = 65_538  # any int
FLAG = wire.PING_FLAG_SUSPECT


def make_config(**changes: Any) -> NodeConfig:
    return NodeConfig(node_id=1, **changes)


class ByKey:
    """A Liveness whose links a test names by any int; their numbers are of the running backend."""

    make: ClassVar[Any] = None

    def __init__(self, config: NodeConfig, seed: int) -> None:
        self._live = Liveness(config, random.Random(seed))
        self._vitals: dict[int, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._live, name)

    def __len__(self) -> int:
        return len(self._live)

    def vitals(self, key: int) -> Any:
        if key not in self._vitals:
            self._vitals[key] = ByKey.make(key, 0, 0)
        return self._vitals[key]

    def add(self, key: int, now_ms: int, handshake_rtt_ms: float | None = None) -> None:
        self._live.add(self.vitals(key), now_ms, handshake_rtt_ms)

    def remove(self, key: int) -> None:
        if key in self._vitals:
            self._live.remove(self._vitals.pop(key))

    def srtt_ms(self, key: int) -> float | None:
        srtt_ms: float | None = self.vitals(key).srtt_ms
        return srtt_ms

    def suspect(self, key: int) -> bool:
        return bool(self.vitals(key).suspect)

    def on_ping(self, key: int, *args: int) -> int | None:
        return self._live.on_ping(self.vitals(key), *args)

    def on_pong(self, key: int, *args: int) -> float | None:
        return self._live.on_pong(self.vitals(key), *args)

    def probe(self, key: int, now_us: int) -> Probe | None:
        return self._live.probe(self.vitals(key), now_us)

    def poll(self, now_ms: int, now_us: int, activity: Activity) -> list[Action]:
        return self._live.poll(now_ms, now_us, activity)

    def is_answered(self, key: int, number: int) -> bool:
        return self._live.is_answered(self.vitals(key), number)


@pytest.fixture(autouse=True)
def _vitals_of_both_backends(backend: BackendName, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ByKey, "make", _backend.load(backend).Vitals)


class Bench:
    """One end with links that do only what a test says; polled exactly when it wants to be."""

    def __init__(self, *, links: int = 1, seed: int = 1, **config: int) -> None:
        self.now_ms = 10_000
        self.live = ByKey(make_config(**config), seed)
        self.keys = list(range(LINK, LINK + links))
        self.received = dict.fromkeys(self.keys, self.now_ms)
        self.sent = dict.fromkeys(self.keys, self.now_ms)
        self.hears: set[int] = set()  # links on which something arrives all the time
        self.sends: set[int] = set()  # links on which we send all the time
        self.log: list[tuple[int, Action]] = []
        for key in self.keys:
            self.live.add(key, self.now_ms)

    @property
    def now_us(self) -> int:
        return self.now_ms * 1_000 + 700

    def activity(self, key: int) -> tuple[int, int]:
        if key in self.hears:
            self.received[key] = self.now_ms
        if key in self.sends:
            self.sent[key] = self.now_ms
        return self.received[key], self.sent[key]

    def poll(self) -> list[Action]:
        actions = self.live.poll(self.now_ms, self.now_us, self.activity)
        for action in actions:
            self.log.append((self.now_ms, action))
            if isinstance(action, SendPing):
                self.sent[action.key] = self.now_ms
        return actions

    def run(self, ms: int) -> None:
        """Let time pass, polling whenever a deadline comes."""
        end_ms = self.now_ms + ms
        while (deadline_ms := self.live.next_deadline_ms()) is not None and deadline_ms <= end_ms:
            self.now_ms = max(self.now_ms, deadline_ms)
            self.poll()
        self.now_ms = end_ms

    def hear(self, key: int = LINK) -> None:
        self.received[key] = self.now_ms

    def ping(self, interval_ms: int = 200, flags: int = 0, key: int = LINK) -> int | None:
        """Let a PING arrive."""
        self.hear(key)
        return self.live.on_ping(key, 0, interval_ms, flags, self.now_ms)

    def pings(self, key: int = LINK) -> list[tuple[int, int, int, int]]:
        """Return (time, token, interval, flags) of the PINGs sent on a link."""
        return [
            (ms, *decode_ping(action.payload))
            for ms, action in self.log
            if isinstance(action, SendPing) and action.key == key
        ]

    def events(self) -> list[tuple[int, Action]]:
        """Return what happened except for PINGs, times counted from 10 s."""
        return [(ms - 10_000, a) for ms, a in self.log if not isinstance(a, SendPing)]

    def settle(self, rtt_us: int = 1_000) -> None:
        """Send the first PING and answer it, so that the round trip is known."""
        self.poll()
        _, token, _, _ = self.pings()[-1]
        self.hear()
        assert self.live.on_pong(LINK, token, self.now_us + rtt_us) is not None


# -- when PINGs go out -----------------------------------------------------------------------------


def test_add_pings_at_once_with_a_token_and_the_interval() -> None:
    bench = Bench()
    assert bench.live.next_deadline_ms() == 10_000
    [action] = bench.poll()
    assert isinstance(action, SendPing)
    assert (action.key, len(action.payload)) == (LINK, 11)
    assert action.payload[8:] == bytes.fromhex("00C8 00")
    assert action.payload[:8] != bytes(8)


def test_add_twice_raises_value_error() -> None:
    bench = Bench()
    with pytest.raises(ValueError, match="65538"):
        bench.live.add(LINK, 0)


def test_idle_link_pings_up_to_a_quarter_before_each_interval() -> None:
    bench = Bench()
    bench.hears.add(LINK)
    bench.run(60_000)
    times = [ms for ms, *_ in bench.pings()]
    gaps = [after - before for before, after in pairwise(times)]
    assert min(gaps) >= 150
    assert max(gaps) <= 200
    assert len(set(gaps)) > 10


def test_sending_postpones_the_ping() -> None:
    bench = Bench()
    bench.hears.add(LINK)
    bench.poll()
    bench.now_ms += 140
    bench.sent[LINK] = bench.now_ms
    bench.run(149)
    assert len(bench.pings()) == 1
    bench.run(51)
    assert len(bench.pings()) == 2


def test_ping_that_waits_in_a_full_queue_is_not_repeated_at_once() -> None:
    bench = Bench()
    bench.hears.add(LINK)
    for _ in range(1_000):
        bench.live.poll(bench.now_ms, bench.now_us, lambda key: (bench.now_ms, 10_000))
        deadline_ms = bench.live.next_deadline_ms()
        assert deadline_ms is not None
        assert deadline_ms >= bench.now_ms + 150
        bench.now_ms = deadline_ms


def test_tokens_of_an_idle_link_are_at_least_the_rtt_interval_apart() -> None:
    bench = Bench()
    bench.hears.add(LINK)
    bench.run(60_000)
    times = [ms for ms, token, _, _ in bench.pings() if token]
    gaps = [after - before for before, after in pairwise(times)]
    assert min(gaps) >= 1_000
    assert max(gaps) <= 1_200


def test_busy_link_sends_nothing_but_tokens() -> None:
    bench = Bench()
    bench.hears.add(LINK)
    bench.sends.add(LINK)
    bench.run(12_000)
    pings = bench.pings()
    assert all(token for _, token, _, _ in pings)
    assert [ms for ms, *_ in pings] == [10_000 + 1_200 * i for i in range(11)]


@pytest.mark.parametrize(
    ("links", "interval_ms"), [(1, 200), (200, 200), (201, 201), (1_000, 1_000), (5_000, 2_000)]
)
def test_interval_grows_with_the_links_up_to_its_bound(links: int, interval_ms: int) -> None:
    bench = Bench(links=links)
    assert bench.live.interval_ms == interval_ms
    actions = [action for action in bench.poll() if isinstance(action, SendPing)]
    assert [action.key for action in actions] == bench.keys
    assert {decode_ping(action.payload).interval_ms for action in actions} == {interval_ms}


def test_larger_interval_of_the_other_end_is_used() -> None:
    bench = Bench()
    bench.hears.add(LINK)
    bench.poll()
    bench.ping(interval_ms=1_000)
    bench.run(10_000)
    times = [ms for ms, *_ in bench.pings()][2:]
    gaps = [after - before for before, after in pairwise(times)]
    assert min(gaps) >= 750
    assert max(gaps) <= 1_000


def test_smaller_interval_of_the_other_end_is_not_used() -> None:
    bench = Bench(ping_interval_ms=500)
    bench.hears.add(LINK)
    bench.poll()
    bench.ping(interval_ms=20)
    bench.run(374)
    assert len(bench.pings()) == 1


def test_longer_interval_counts_only_after_it_was_announced() -> None:
    bench = Bench()
    bench.hears.add(LINK)
    bench.poll()
    for key in range(1, 1_000):
        bench.live.add(key, bench.now_ms)
        bench.received[key] = bench.sent[key] = bench.now_ms
        bench.hears.add(key)
    bench.run(200)  # the other end still expects us within 200 ms
    assert [interval_ms for _, _, interval_ms, _ in bench.pings()] == [200, 1_000]
    bench.run(749)
    assert len(bench.pings()) == 2


def test_thousand_idle_links_cost_a_bounded_number_of_pings() -> None:
    bench = Bench(links=1_000)
    bench.hears.update(bench.keys)
    polls = 0
    while bench.now_ms < 30_000:
        bench.poll()
        polls += 1
        bench.now_ms = bench.live.next_deadline_ms() or 0
    per_second = Counter(ms // 1_000 for ms, _ in bench.log)
    assert sum(per_second.values()) <= 20 * 1_334
    assert max(n for second, n in per_second.items() if second > 20) <= 1_300
    # They were all opened at once and have drifted apart: no burst is left.
    burst = Counter(ms for ms, _ in bench.log if ms >= 25_000)
    assert max(burst.values()) <= 50
    # Apart from PINGs nothing is looked at.
    assert polls <= len(bench.log) * 2


def test_link_is_asked_about_its_activity_about_once_per_ping() -> None:
    bench = Bench(links=100)
    bench.hears.update(bench.keys)
    asked = 0

    def activity(key: int) -> tuple[int, int]:
        nonlocal asked
        asked += 1
        return bench.activity(key)

    pings = 0
    while bench.now_ms < 20_000:
        for action in bench.live.poll(bench.now_ms, bench.now_us, activity):
            assert isinstance(action, SendPing)
            bench.sent[action.key] = bench.now_ms
            pings += 1
        bench.now_ms = bench.live.next_deadline_ms() or 0
    assert asked <= pings * 1.1


def test_same_seed_gives_the_same_actions() -> None:
    logs = []
    for _ in range(2):
        bench = Bench(links=20, seed=5)
        bench.hears.update(bench.keys[::2])
        bench.run(12_000)
        logs.append(bench.log)
    assert logs[0] == logs[1]


def test_no_link_wants_no_poll() -> None:
    bench = Bench(links=0)
    assert bench.live.next_deadline_ms() is None
    assert bench.poll() == []


def test_removed_link_is_forgotten() -> None:
    bench = Bench()
    bench.poll()
    bench.live.remove(LINK)
    bench.live.remove(LINK)
    assert len(bench.live) == 0
    assert bench.live.next_deadline_ms() is None
    assert bench.live.srtt_ms(LINK) is None
    assert not bench.live.suspect(LINK)


def test_links_that_come_and_go_do_not_pile_up() -> None:
    bench = Bench(links=0)
    for key in range(10_000):
        bench.live.add(key, bench.now_ms)
        bench.live.remove(key)
    assert len(bench.live._heap) <= 66


def test_flood_of_shrinking_intervals_does_not_pile_up() -> None:
    bench = Bench()
    bench.poll()
    for interval_ms in range(60_000, 300, -1):
        bench.ping(interval_ms)
    assert len(bench.live._heap) <= 68
    assert len(bench.poll()) <= 1


# -- what PINGs and PONGs do -----------------------------------------------------------------------


def test_ping_with_a_token_wants_it_back() -> None:
    bench = Bench()
    assert bench.live.on_ping(LINK, 0x0102030405060708, 200, 0, 0) == 0x0102030405060708


def test_ping_without_token_wants_no_answer() -> None:
    bench = Bench()
    assert bench.live.on_ping(LINK, 0, 200, 0, 0) is None


def test_frames_of_an_unknown_link_are_ignored() -> None:
    bench = Bench()
    assert bench.live.on_ping(1, 5, 200, 0, 0) is None
    assert bench.live.on_pong(1, 5, 0) is None
    assert bench.live.probe(1, 0) is None
    assert not bench.live.is_answered(1, 1)


def test_pong_with_our_token_measures_in_microseconds() -> None:
    bench = Bench()
    bench.poll()
    [(_, token, _, _)] = bench.pings()
    assert bench.live.srtt_ms(LINK) is None
    assert bench.live.on_pong(LINK, token, bench.now_us + 340) == 0.34
    assert bench.live.srtt_ms(LINK) == 0.34


def test_pong_with_a_foreign_token_is_ignored() -> None:
    bench = Bench()
    bench.poll()
    [(_, token, _, _)] = bench.pings()
    assert bench.live.on_pong(LINK, token ^ 1, bench.now_us) is None
    assert bench.live.on_pong(LINK, 0, bench.now_us) is None
    assert bench.live.srtt_ms(LINK) is None


def test_pong_twice_measures_once() -> None:
    bench = Bench()
    bench.poll()
    [(_, token, _, _)] = bench.pings()
    assert bench.live.on_pong(LINK, token, bench.now_us + 10) == 0.01
    assert bench.live.on_pong(LINK, token, bench.now_us + 90) is None


def test_pong_before_its_ping_counts_as_no_time() -> None:
    bench = Bench()
    bench.poll()
    [(_, token, _, _)] = bench.pings()
    assert bench.live.on_pong(LINK, token, bench.now_us - 10) == 0.0


def test_round_trips_are_smoothed_by_an_eighth() -> None:
    bench = Bench()
    bench.hears.add(LINK)
    bench.settle(rtt_us=8_000)
    bench.run(1_199)
    _, token, _, _ = next(ping for ping in bench.pings()[1:] if ping[1])
    sent_us = next(ms for ms, t, _, _ in bench.pings() if t == token) * 1_000 + 700
    assert bench.live.on_pong(LINK, token, sent_us + 16_000) == 16.0
    assert bench.live.srtt_ms(LINK) == 9.0


def test_handshake_round_trip_stands_until_the_first_pong() -> None:
    bench = Bench(links=0)
    bench.live.add(LINK, bench.now_ms, handshake_rtt_ms=4.0)
    bench.received[LINK] = bench.sent[LINK] = bench.now_ms
    assert bench.live.srtt_ms(LINK) == 4.0
    bench.settle(rtt_us=12_000)
    assert bench.live.srtt_ms(LINK) == 12.0


def test_token_older_than_dead_ms_is_stale() -> None:
    bench = Bench(dead_ms=2_000, ping_interval_ms=2_000)
    bench.poll()
    [(_, token, _, _)] = bench.pings()
    assert bench.live.on_pong(LINK, token, bench.now_us + 2_000_001) is None
    assert bench.live.on_pong(LINK, token, bench.now_us + 2_000_000) == 2_000.0


def test_at_most_four_tokens_are_outstanding() -> None:
    bench = Bench()
    tokens = []
    for _ in range(5):
        probe = bench.live.probe(LINK, bench.now_us)
        assert probe is not None
        tokens.append(decode_ping(probe.payload).token)
    assert bench.live.on_pong(LINK, tokens[0], bench.now_us) is None
    assert [bench.live.on_pong(LINK, token, bench.now_us) for token in tokens[1:]] == [0.0] * 4


def test_pong_makes_older_tokens_stale() -> None:
    bench = Bench()
    first, second = (bench.live.probe(LINK, bench.now_us) for _ in range(2))
    assert first is not None
    assert second is not None
    assert bench.live.on_pong(LINK, decode_ping(second.payload).token, bench.now_us) == 0.0
    assert bench.live.on_pong(LINK, decode_ping(first.payload).token, bench.now_us) is None


# -- suspect, alive, dead --------------------------------------------------------------------------


def test_silence_of_three_intervals_makes_suspect() -> None:
    bench = Bench()
    bench.settle()
    bench.run(599)
    assert bench.events() == []
    assert not bench.live.suspect(LINK)
    bench.run(1)
    assert bench.events() == [(600, Suspect(LINK))]
    assert bench.live.suspect(LINK)
    assert bench.live.suspects == 1


def test_silence_of_four_round_trips_makes_suspect_when_that_is_longer() -> None:
    bench = Bench(links=0)
    bench.live.add(LINK, bench.now_ms, handshake_rtt_ms=400.3)
    bench.received[LINK] = bench.sent[LINK] = bench.now_ms
    bench.run(1_601)
    assert bench.events() == []
    bench.run(1)
    assert bench.events() == [(1_602, Suspect(LINK))]


def test_silence_of_a_second_makes_suspect_while_the_round_trip_is_unknown() -> None:
    bench = Bench()
    bench.run(5_000)
    assert bench.events() == [(1_000, Suspect(LINK))]


def test_received_bytes_are_life_without_any_frame() -> None:
    bench = Bench()
    bench.settle()
    for _ in range(100):
        bench.run(599)
        bench.hear()
    assert bench.events() == []


def test_suspect_link_is_told_at_once_and_in_every_ping() -> None:
    bench = Bench()
    bench.settle()
    bench.run(2_000)
    assert [flags for ms, _, _, flags in bench.pings() if ms < 10_600] == [0] * 4
    flagged = [ping for ping in bench.pings() if ping[0] >= 10_600]
    assert flagged[0][0] == 10_600
    assert {flags for _, _, _, flags in flagged} == {FLAG}
    assert {token for _, token, _, _ in flagged} == {0}
    assert 7 <= len(flagged) <= 10


def test_life_again_makes_alive_and_is_told_at_once() -> None:
    bench = Bench()
    bench.settle()
    bench.run(1_000)
    bench.ping()
    bench.poll()
    assert bench.events() == [(600, Suspect(LINK)), (1_000, Alive(LINK))]
    assert bench.pings()[-1][0] == 11_000
    assert bench.pings()[-1][3] == 0
    assert not bench.live.suspect(LINK)


def test_life_again_without_a_ping_is_seen_within_an_interval() -> None:
    bench = Bench()
    bench.settle()
    bench.run(1_000)
    bench.hears.add(LINK)
    bench.run(200)
    assert [action for _, action in bench.events()] == [Suspect(LINK), Alive(LINK)]


def test_pong_on_a_suspect_link_is_looked_at_at_once() -> None:
    bench = Bench()
    bench.settle()
    bench.run(1_000)
    probe = bench.live.probe(LINK, bench.now_us)
    assert probe is not None
    bench.hear()
    bench.live.on_pong(LINK, decode_ping(probe.payload).token, bench.now_us)
    bench.poll()
    assert bench.events()[-1] == (1_000, Alive(LINK))


def test_round_trip_over_a_silence_is_no_measurement() -> None:
    bench = Bench()
    bench.settle(rtt_us=1_000)
    bench.hears.add(LINK)
    bench.run(1_200)
    bench.hears.clear()
    _, token, _, _ = [ping for ping in bench.pings() if ping[1]][-1]
    bench.run(1_000)
    assert bench.live.suspect(LINK)
    bench.hear()
    assert bench.live.on_pong(LINK, token, bench.now_us) is None
    assert bench.live.srtt_ms(LINK) == 1.0


def test_flag_of_the_other_end_makes_suspect_here() -> None:
    bench = Bench()
    bench.hears.add(LINK)
    bench.settle()
    bench.ping(flags=FLAG)
    bench.poll()
    assert bench.events() == [(0, Suspect(LINK))]
    assert {flags for _, _, _, flags in bench.pings()} == {0}


def test_flag_of_the_other_end_lasts_until_a_ping_without_it() -> None:
    bench = Bench()
    bench.hears.add(LINK)
    bench.settle()
    bench.ping(flags=FLAG)
    bench.run(5_000)
    assert bench.live.suspect(LINK)
    bench.ping(flags=FLAG)
    bench.poll()
    bench.ping()
    bench.poll()
    assert bench.events() == [(0, Suspect(LINK)), (5_000, Alive(LINK))]


def test_flag_gone_and_life_back_are_both_needed() -> None:
    bench = Bench()
    bench.settle()
    bench.ping(flags=FLAG)
    bench.run(1_000)  # silent since, too
    assert bench.events() == [(0, Suspect(LINK))]
    bench.hears.add(LINK)
    bench.run(1_000)
    assert bench.live.suspect(LINK)
    bench.ping()
    bench.poll()
    assert bench.events() == [(0, Suspect(LINK)), (2_000, Alive(LINK))]


def test_silence_of_dead_ms_makes_dead_once() -> None:
    bench = Bench()
    bench.settle()
    bench.run(9_999)
    assert bench.events() == [(600, Suspect(LINK))]
    bench.run(50_000)
    assert bench.events() == [(600, Suspect(LINK)), (10_000, Dead(LINK))]
    assert bench.live.next_deadline_ms() is None


def test_frames_on_a_dead_link_change_nothing() -> None:
    bench = Bench()
    probe = bench.live.probe(LINK, bench.now_us)
    assert probe is not None
    bench.run(10_000)
    bench.ping(flags=FLAG)
    bench.live.on_pong(LINK, decode_ping(probe.payload).token, bench.now_us)
    assert bench.live.next_deadline_ms() is None
    assert bench.poll() == []


@pytest.mark.parametrize("interval_ms", [1_000, 10_000, 60_000, 65_535])
def test_announced_interval_does_not_delay_the_death_notice(interval_ms: int) -> None:
    bench = Bench()
    bench.settle()
    bench.ping(interval_ms=interval_ms)
    bench.run(60_000)
    assert bench.events()[-1] == (10_000, Dead(LINK))


def test_slow_round_trips_do_not_delay_the_death_notice() -> None:
    bench = Bench(links=0)
    bench.live.add(LINK, bench.now_ms, handshake_rtt_ms=5_000.0)
    bench.received[LINK] = bench.sent[LINK] = bench.now_ms
    bench.run(60_000)
    assert bench.events() == [(10_000, Dead(LINK))]


def test_interval_above_a_third_of_dead_ms_makes_every_ping_ask() -> None:
    bench = Bench()
    bench.settle()
    bench.hears.add(LINK)
    bench.ping(interval_ms=60_000)
    bench.run(30_000)
    pings = bench.pings()[2:]
    assert len(pings) >= 8
    assert all(token for _, token, _, _ in pings)


def test_own_interval_is_at_most_a_third_of_dead_ms() -> None:
    bench = Bench(dead_ms=900, ping_interval_ms=2_000)
    assert bench.live.interval_ms == 300


def test_links_fall_silent_one_by_one() -> None:
    bench = Bench(links=3)
    bench.hears.update(bench.keys)
    bench.run(1_000)
    bench.hears.discard(LINK + 1)
    bench.run(2_000)
    assert [action for _, action in bench.events()] == [Suspect(LINK + 1)]


# -- intervals that shrink -------------------------------------------------------------------------


def shrunk_bench(silent_ms: int) -> Bench:
    """Return an end that heard, ``silent_ms`` ago, and just now announced 200 ms instead of 1 s."""
    bench = Bench(links=1_000)
    bench.hears.update(bench.keys)
    bench.settle()
    bench.run(1_500)
    bench.hears.discard(LINK)
    bench.hear()
    for key in bench.keys[1:]:
        bench.live.remove(key)
    before = len(bench.pings())
    while len(bench.pings()) == before:
        bench.run(1)
    bench.received[LINK] = bench.now_ms - silent_ms
    return bench


def test_shrunk_interval_grants_the_other_end_the_time_to_hear_of_it() -> None:
    bench = shrunk_bench(silent_ms=999)
    assert bench.pings()[-1][2] == 200
    bench.run(599)
    assert bench.events() == []


def test_shrunk_interval_makes_suspect_when_that_time_is_over() -> None:
    bench = shrunk_bench(silent_ms=999)
    bench.run(800)
    assert [action for _, action in bench.events()] == [Suspect(LINK)]


def test_intervals_that_shrink_again_and_again_do_not_hide_silence() -> None:
    bench = Bench()
    bench.settle()
    bench.poll()
    silent_since_ms = bench.now_ms
    for turn in range(3_000):
        bench.run(10)
        # A hostile end: it sends PINGs, but nothing of it counts as received.
        bench.live.on_ping(LINK, 0, 1_000 - turn % 2 * 500, 0, bench.now_ms)
    [(suspect_ms, _), (dead_ms, dead)] = bench.events()
    assert suspect_ms + 10_000 - silent_since_ms <= 3_010
    assert dead == Dead(LINK)
    assert dead_ms + 10_000 - silent_since_ms <= 10_010


def test_grant_of_a_shrunk_interval_does_not_outlast_the_next() -> None:
    bench = Bench()
    bench.settle()
    bench.ping(interval_ms=3_000)
    bench.ping(interval_ms=300)
    bench.run(950)  # the 3 s are granted for 900 ms
    bench.hear()
    heard_ms = bench.now_ms - 10_000
    bench.live.on_ping(LINK, 0, 250, 0, bench.now_ms)
    bench.run(5_000)
    suspect_ms = [ms for ms, action in bench.events() if isinstance(action, Suspect)][-1]
    assert 3 * 250 <= suspect_ms - heard_ms <= 3 * 300


def test_grant_is_the_longest_interval_lately_in_use() -> None:
    bench = Bench()
    bench.settle()
    bench.ping(600)
    bench.run(1_400)
    for interval_ms in (500, 1_000, 200):
        bench.live.on_ping(LINK, 0, interval_ms, 0, bench.now_ms)
    bench.run(599)
    assert bench.events() == []


def test_shorter_interval_of_the_other_end_is_used_at_once() -> None:
    bench = Bench()
    bench.settle()
    bench.ping(interval_ms=2_000)
    bench.run(1_000)
    bench.ping(interval_ms=200)
    bench.poll()
    assert [ms for ms, *_ in bench.pings()] == [10_000, 11_000]


# -- our own lateness ------------------------------------------------------------------------------


def test_own_absence_is_not_the_silence_of_others() -> None:
    bench = Bench(links=5)
    bench.hears.update(bench.keys)
    bench.run(5_000)
    bench.hears.clear()
    bench.now_ms += 30_000  # SIGSTOP ... SIGCONT, and nothing was read yet
    bench.poll()
    assert bench.events() == []


def test_silence_after_an_absence_counts_again() -> None:
    bench = Bench()
    bench.hears.add(LINK)
    bench.settle()
    bench.run(5_000)
    bench.hears.clear()
    bench.now_ms += 30_000
    bench.poll()
    resumed_ms = bench.now_ms
    bench.run(10_000)
    [(suspect_ms, _), (dead_ms, _)] = bench.events()
    assert 300 <= suspect_ms + 10_000 - resumed_ms <= 600
    assert 9_700 <= dead_ms + 10_000 - resumed_ms <= 10_000


def test_absence_before_a_byte_does_not_excuse_the_silence_after_it() -> None:
    bench = Bench()
    bench.hears.add(LINK)
    bench.settle()
    bench.run(5_000)
    bench.hears.clear()
    bench.now_ms += 30_000
    bench.hear()  # read before the poll, as the loop does it
    bench.poll()
    bench.run(599)
    assert bench.events() == []
    bench.run(1)
    assert [action for _, action in bench.events()] == [Suspect(LINK)]


def test_link_added_after_an_absence_starts_at_zero() -> None:
    bench = Bench()
    bench.hears.add(LINK)
    bench.run(1_000)
    bench.now_ms += 30_000
    bench.live.add(1, bench.now_ms, handshake_rtt_ms=1.0)
    bench.received[1] = bench.sent[1] = bench.now_ms
    bench.poll()
    bench.run(599)
    assert bench.events() == []
    bench.run(1)
    assert [action for _, action in bench.events()] == [Suspect(1)]


@pytest.mark.parametrize(("turn_ms", "latest_ms"), [(30, 10_030), (60, 13_000)])
def test_loop_always_a_little_behind_still_finds_the_dead(turn_ms: int, latest_ms: int) -> None:
    bench = Bench(links=100)
    bench.hears.update(bench.keys[1:])
    while bench.now_ms < 25_000:
        bench.now_ms += turn_ms
        bench.poll()
    assert [action for _, action in bench.events()] == [Suspect(LINK), Dead(LINK)]
    assert 10_000 <= bench.events()[1][0] <= latest_ms


def test_silence_long_after_an_absence_counts_from_the_last_byte() -> None:
    bench = Bench()
    bench.hears.add(LINK)
    bench.settle()
    bench.run(1_000)
    bench.now_ms += 30_000
    bench.run(1_000)
    bench.hears.clear()
    bench.hear()
    heard_ms = bench.now_ms - 10_000
    bench.run(1_000)
    assert bench.events() == [(heard_ms + 600, Suspect(LINK))]


def test_round_trip_over_our_own_absence_is_no_measurement() -> None:
    bench = Bench()
    bench.hears.add(LINK)
    bench.poll()
    [(_, token, _, _)] = bench.pings()
    bench.now_ms += 5_000
    assert bench.live.on_pong(LINK, token, bench.now_us) is None  # read before the poll
    assert bench.live.srtt_ms(LINK) is None


def test_round_trip_over_an_absence_seen_by_poll_is_no_measurement() -> None:
    bench = Bench()
    bench.hears.add(LINK)
    bench.poll()
    [(_, token, _, _)] = bench.pings()
    bench.now_ms += 5_000
    bench.poll()
    assert bench.live.on_pong(LINK, token, bench.now_us) is None
    _, token, _, _ = bench.pings()[-1]
    assert bench.live.on_pong(LINK, token, bench.now_us + 1_000) == 1.0


# -- probes ----------------------------------------------------------------------------------------


def answer_to(probe: Probe | None) -> int:
    assert probe is not None
    return decode_pong(encode_pong(decode_ping(probe.payload).token))


def test_probe_is_answered_by_its_own_token() -> None:
    bench = Bench()
    bench.settle()
    probe = bench.live.probe(LINK, bench.now_us)
    assert probe is not None
    assert not bench.live.is_answered(LINK, probe.number)
    bench.live.on_pong(LINK, answer_to(probe), bench.now_us)
    assert bench.live.is_answered(LINK, probe.number)


def test_probe_is_not_answered_by_an_older_token() -> None:
    bench = Bench()
    bench.poll()
    [(_, token, _, _)] = bench.pings()
    probe = bench.live.probe(LINK, bench.now_us)
    assert probe is not None
    bench.live.on_pong(LINK, token, bench.now_us)
    assert not bench.live.is_answered(LINK, probe.number)


def test_probe_is_answered_by_a_newer_token() -> None:
    bench = Bench()
    first = bench.live.probe(LINK, bench.now_us)
    second = bench.live.probe(LINK, bench.now_us)
    assert first is not None
    bench.live.on_pong(LINK, answer_to(second), bench.now_us)
    assert bench.live.is_answered(LINK, first.number)


def test_probe_that_outlives_the_turn_to_suspect_is_still_answered() -> None:
    bench = Bench()
    bench.settle()
    bench.run(500)
    probe = bench.live.probe(LINK, bench.now_us)
    assert probe is not None
    bench.run(150)
    assert bench.live.suspect(LINK)
    bench.live.on_pong(LINK, answer_to(probe), bench.now_us)
    assert bench.live.is_answered(LINK, probe.number)


def test_probe_of_a_suspect_link_carries_the_flag() -> None:
    bench = Bench()
    bench.settle()
    bench.run(1_000)
    probe = bench.live.probe(LINK, bench.now_us)
    assert probe is not None
    assert decode_ping(probe.payload).flags == FLAG


# -- two ends --------------------------------------------------------------------------------------


class End:
    """One node of a `World`, with one link (key 1) to the other, and perhaps idle others."""

    def __init__(self, name: str, seed: int, others: int, config: dict[str, int]) -> None:
        self.name = name
        self.live = ByKey(make_config(**config), seed)
        self.received_ms = 0
        self.sent_ms = 0
        self.others: dict[int, int] = dict.fromkeys(range(2, 2 + others), 0)  # last sent
        self.busy_until_ms = 0
        self.inbox: list[tuple[int, bytes]] = []
        self.log: list[tuple[int, str]] = []
        self.closed = False
        self.pings = 0

    def names(self) -> list[str]:
        return [name for _, name in self.log]


class World:
    """Two ends of one link, an ordered network with latency between them, one manual clock."""

    def __init__(
        self,
        latency_us: int = 500,
        seed: int = 1,
        hub: int = 0,
        a: dict[str, int] | None = None,
        busy: bool = False,
    ) -> None:
        self.busy = busy  # data flows all the time, in both directions
        self.now_us = 0
        self.latency_us = latency_us
        self.jitter_us = 0
        self.rng = random.Random(seed)
        self.cut: set[str] = set()  # names of ends whose frames get lost
        self.a = End("a", seed, 0, a or {})
        self.b = End("b", seed + 1, hub, {})
        self._flying: list[tuple[int, int, End, int, bytes]] = []
        self._flights = 0
        self._arrival_us = {"a": 0, "b": 0}
        for end in (self.a, self.b):
            for key in (1, *end.others):
                end.live.add(key, 0)

    @property
    def now_ms(self) -> int:
        return self.now_us // 1_000

    def send(self, end: End, kind: int, body: bytes) -> None:
        end.sent_ms = self.now_ms
        if end.name in self.cut or end.closed:
            return
        other = self.b if end is self.a else self.a
        at_us = self.now_us + self.latency_us + self.rng.randrange(self.jitter_us + 1)
        at_us = self._arrival_us[other.name] = max(at_us, self._arrival_us[other.name])
        self._flights += 1
        heapq.heappush(self._flying, (at_us, self._flights, other, kind, body))

    def run(self, ms: int) -> None:
        end_us = self.now_us + ms * 1_000
        while (next_us := self._next_us()) <= end_us:
            self.now_us = max(self.now_us, next_us)
            while self._flying and self._flying[0][0] <= self.now_us:
                _, _, end, kind, body = heapq.heappop(self._flying)
                end.inbox.append((kind, body))
            for end in (self.a, self.b):
                self._turn(end)
        self.now_us = end_us

    def _next_us(self) -> int:
        times = [1 << 62]
        if self._flying:
            times.append(self._flying[0][0])
        for end in (self.a, self.b):
            deadline_ms = end.live.next_deadline_ms()
            if end.inbox:
                deadline_ms = self.now_ms
            if deadline_ms is not None:
                times.append(max(deadline_ms, end.busy_until_ms) * 1_000)
        return min(times)

    def _turn(self, end: End) -> None:
        """Let one end do what a loop does: read everything, then run its timers."""
        if end.busy_until_ms > self.now_ms:
            return
        inbox, end.inbox = end.inbox, []
        for kind, body in inbox:
            if not end.closed:
                self._receive(end, kind, body)
        deadline_ms = end.live.next_deadline_ms()
        if deadline_ms is not None and deadline_ms <= self.now_ms:
            for action in end.live.poll(self.now_ms, self.now_us, self._activity(end)):
                self._act(end, action)

    def _receive(self, end: End, kind: int, body: bytes) -> None:
        end.received_ms = self.now_ms
        if kind == wire.KIND_PONG:
            end.live.on_pong(1, decode_pong(body), self.now_us)
            return
        token, interval_ms, flags = decode_ping(body)
        if (reply := end.live.on_ping(1, token, interval_ms, flags, self.now_ms)) is not None:
            self.send(end, wire.KIND_PONG, encode_pong(reply))

    def _activity(self, end: End) -> Callable[[int], tuple[int, int]]:
        def activity(key: int) -> tuple[int, int]:
            if key == 1:
                return (self.now_ms, self.now_ms) if self.busy else (end.received_ms, end.sent_ms)
            return self.now_ms, end.others[key]

        return activity

    def _act(self, end: End, action: Action) -> None:
        if action.key != 1:
            assert isinstance(action, SendPing)
            end.others[action.key] = self.now_ms
        elif isinstance(action, SendPing):
            end.pings += 1
            self.send(end, wire.KIND_PING, action.payload)
        else:
            end.log.append((self.now_ms, type(action).__name__))
            if isinstance(action, Dead):
                end.closed = True
                end.live.remove(1)


@pytest.mark.parametrize("latency_us", [50, 500, 5_000, 50_000, 300_000])
def test_two_idle_ends_stay_alive_and_agree_on_the_round_trip(latency_us: int) -> None:
    world = World(latency_us)
    world.run(60_000)
    assert world.a.log == world.b.log == []
    for end in (world.a, world.b):
        assert end.live.srtt_ms(1) == pytest.approx(2 * latency_us / 1_000, rel=0.05, abs=0.1)
        assert 290 <= end.pings <= 410


@pytest.mark.parametrize("sends", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_link_that_turns_slow_is_known_to_be_within_two_seconds(seed: int, sends: bool) -> None:
    world = World(latency_us=2_500, seed=seed, busy=sends)
    world.run(10_000 + 137 * seed)
    world.latency_us = 40_000
    world.run(2_000)
    for end in (world.a, world.b):
        assert end.live.srtt_ms(1) == pytest.approx(80, rel=0.1)


@pytest.mark.parametrize("seed", range(10))
def test_two_idle_ends_with_a_jittery_network_stay_alive(seed: int) -> None:
    world = World(latency_us=1_000, seed=seed)
    world.jitter_us = 300_000
    world.run(120_000)
    assert world.a.log == world.b.log == []


def test_two_ends_with_different_intervals_stay_alive() -> None:
    world = World(a={"ping_interval_ms": 1_500})
    world.run(60_000)
    assert world.a.log == world.b.log == []
    assert world.b.pings <= 60


def test_neighbour_with_an_interval_beyond_dead_ms_stays_alive() -> None:
    world = World(
        a={"ping_interval_ms": 60_000, "max_ping_interval_ms": 60_000, "dead_ms": 300_000}
    )
    world.run(120_000)
    assert world.a.log == world.b.log == []
    world.cut.add("a")
    world.run(11_000)
    assert world.b.names()[-1] == "Dead"


@pytest.mark.parametrize("hub", [500, 3_000])
def test_hub_that_grows_and_shrinks_does_not_become_suspect(hub: int) -> None:
    world = World(hub=hub)
    world.run(5_000)
    for key in world.b.others:
        world.b.live.remove(key)
    world.run(5_000)
    for key in world.b.others:
        world.b.live.add(key, world.now_ms)
    world.run(5_000)
    assert world.a.log == world.b.log == []


def test_loss_in_one_direction_makes_both_ends_suspect_and_one_dead() -> None:
    world = World()
    world.run(5_000)
    world.cut.add("a")
    world.run(9_000)
    assert world.a.names() == world.b.names() == ["Suspect"]
    suspect_at_b = world.b.log[0][0] - 5_000
    assert 400 <= suspect_at_b <= 600
    assert world.a.log[0][0] - world.b.log[0][0] <= 2
    world.run(1_100)
    assert world.b.names() == ["Suspect", "Dead"]


def test_loss_that_ends_makes_both_ends_alive() -> None:
    world = World()
    world.run(5_000)
    world.cut.add("a")
    world.run(3_000)
    world.cut.clear()
    world.run(3_000)
    assert world.a.names() == world.b.names() == ["Suspect", "Alive"]
    for end in (world.a, world.b):
        assert end.log[1][0] <= 8_000 + 205
        assert not end.live.suspect(1)


def test_loss_in_both_directions_makes_both_ends_dead_after_ten_seconds() -> None:
    world = World()
    world.run(5_000)
    world.cut.update("ab")
    world.run(11_000)
    for end in (world.a, world.b):
        [(suspect_ms, suspect), (dead_ms, dead)] = end.log
        assert (suspect, dead) == ("Suspect", "Dead")
        assert 400 <= suspect_ms - 5_000 <= 600
        assert 9_800 <= dead_ms - 5_000 <= 10_000


@pytest.mark.parametrize("busy_ms", [1_000, 5_000, 9_500])
def test_busy_neighbour_is_suspect_but_not_dead(busy_ms: int) -> None:
    world = World()
    world.run(5_000)
    world.b.busy_until_ms = 5_000 + busy_ms
    world.run(busy_ms - 1)
    assert world.a.names() == ["Suspect"]
    assert world.b.log == []
    world.run(3_000)
    # The busy one hears that it was missed, and then that it no longer is.
    assert world.a.names() == world.b.names() == ["Suspect", "Alive"]
    assert world.a.log[-1][0] <= 5_000 + busy_ms + 5
    assert world.b.log[-1][0] <= 5_000 + busy_ms + 5
    assert world.a.live.srtt_ms(1) == pytest.approx(1.0, rel=0.05)
    assert world.b.live.srtt_ms(1) == pytest.approx(1.0, rel=0.05)


def test_short_absence_of_a_neighbour_goes_unnoticed() -> None:
    world = World()
    for _ in range(50):
        world.run(1_000)
        world.b.busy_until_ms = world.now_ms + 300
    assert world.a.log == world.b.log == []


def test_both_ends_stopped_together_stay_alive() -> None:
    world = World()
    world.run(5_000)
    world.a.busy_until_ms = world.b.busy_until_ms = 125_000
    world.run(130_000)
    assert world.a.log == world.b.log == []


def test_stopped_node_with_a_vanished_neighbour_finds_out_after_it_resumed() -> None:
    world = World()
    world.run(5_000)
    world.a.busy_until_ms = 65_000
    world.cut.add("b")
    world.run(60_000)
    world.cut.add("a")
    world.run(11_000)
    assert world.a.names() == ["Suspect", "Dead"]
    assert world.a.log[0][0] >= 65_000 + 300
    assert world.a.log[1][0] >= 65_000 + 9_500
