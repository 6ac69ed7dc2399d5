from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from netcore import wire
from netcore.address import Endpoint
from netcore.errors import (
    AuthenticationError,
    BehaviorRejected,
    DestinationNotFound,
    HandshakeTimeout,
    RemoteRejected,
)
from netcore.transport import MemoryNetwork, MemoryTransport, Negotiation
from netcore.transport.memory import POST_RETRY_MS, MemoryChannel, MemoryStream
from support.hosts import DEADLINE_S, FakeHost, World

SECRET = b"a secret of 23 bytes ok"


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now_ms = 1_000

    def __call__(self) -> int:
        return self.now_ms


class Target:
    """Writes down what a channel tells."""

    def __init__(self) -> None:
        self.heard: list[bytes | str] = []

    def receive_data(self, data: bytes) -> None:
        self.heard.append(data)

    def receive_eof(self) -> None:
        self.heard.append("eof")

    def channel_writable(self) -> None:
        self.heard.append("writable")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def world(kernels: ModuleType, clock: Clock) -> Iterator[World]:
    world = World(kernels, clock)
    yield world
    world.close()


def settle(world: World) -> None:
    """Run turns until nothing happens at this moment."""
    for _ in range(20):
        world.turn()


def pair(world: World, network: MemoryNetwork, **config: Any) -> tuple[FakeHost, FakeHost]:
    a = world.host(1, MemoryTransport(network, "a"), **config)
    return a, world.host(2, MemoryTransport(network, "b"), **config)


def channels(
    world: World, network: MemoryNetwork | None = None
) -> tuple[MemoryChannel, MemoryChannel, Target, Target]:
    """Return the two ends of a channel on one loop, and who listens there."""
    ends = MemoryChannel.pair(network or MemoryNetwork(), (world.loop, "a"), (world.loop, "b"))
    targets = (Target(), Target())
    for end, target in zip(ends, targets, strict=True):
        end.set_target(target)
    return *ends, *targets


# -- links ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", [None, SECRET], ids=["open", "auth"])
def test_dial_ends_in_one_link_on_both_sides(world: World, secret: bytes | None) -> None:
    a, b = pair(world, MemoryNetwork(), secret=secret)
    listener = b.listen("/memory/b")
    a.dial("/memory/b", node=2)
    settle(world)
    assert a.up[0].negotiation.remote == b.up[0].negotiation.remote == listener.endpoint
    assert b.up[0].negotiation.conn_id & 0xFFFF == wire.PROTOCOL_MEMORY << 8 | 1
    assert world.loop.timers == 0


def test_dial_over_latency_takes_its_round_trips(world: World, clock: Clock) -> None:
    a, b = pair(world, MemoryNetwork(latency_ms=10))
    b.listen("/memory/b")
    a.dial("/memory/b")
    ended: dict[str, int] = {}
    for _ in range(100):
        settle(world)
        for name, host in (("a", a), ("b", b)):
            if host.up:
                ended.setdefault(name, clock.now_ms - 1_000)
        clock.now_ms += 1
    # connect 20, HELLO 10 each way, AUTH 10: b has its link; READY 10 later a has its own.
    assert ended == {"b": 50, "a": 60}
    assert a.up[0].negotiation.rtt_ms == 20.0


def test_dial_is_the_same_every_time(kernels: ModuleType) -> None:
    def turns_until_up() -> int:
        world = World(kernels, Clock())
        a, b = pair(world, MemoryNetwork())
        b.listen("/memory/b")
        a.dial("/memory/b")
        count = 0
        while not (a.up and b.up):
            world.turn()
            count += 1
        world.close()
        return count

    assert len({turns_until_up() for _ in range(5)}) == 1


def test_refusal_reaches_the_dialling_side_with_its_reason(world: World) -> None:
    def refuse(negotiation: Negotiation) -> None:
        negotiation.reject(wire.REJECT_BEHAVIOR, "full for today")

    a, b = pair(world, MemoryNetwork())
    b.decision = refuse
    b.listen("/memory/b")
    a.dial("/memory/b")
    settle(world)
    assert isinstance(a.error, RemoteRejected)
    assert a.error.reason == "full for today"


def test_wrong_secret_is_an_authentication_error(world: World) -> None:
    network = MemoryNetwork()
    a = world.host(1, MemoryTransport(network), secret=SECRET)
    b = world.host(2, MemoryTransport(network))
    b.listen("/memory/b")
    a.dial("/memory/b")
    settle(world)
    assert isinstance(a.error, AuthenticationError)
    assert isinstance(b.error, AuthenticationError)


def test_silence_is_a_handshake_timeout(world: World, clock: Clock) -> None:
    a, b = pair(world, MemoryNetwork())
    b.decision = lambda negotiation: None
    b.listen("/memory/b")
    a.dial("/memory/b")
    settle(world)
    clock.now_ms += a.config.handshake_timeout_ms - 1
    settle(world)
    assert not a.down
    clock.now_ms += 1
    settle(world)
    assert isinstance(a.error, HandshakeTimeout)
    assert isinstance(b.error, HandshakeTimeout)


def test_dial_to_a_name_that_nobody_has_finds_nobody(world: World) -> None:
    a, _ = pair(world, MemoryNetwork())
    a.dial("/memory/c")
    settle(world)
    assert isinstance(a.error, DestinationNotFound)
    assert "/memory/c" in str(a.error)


def test_dial_to_another_network_finds_nobody(world: World) -> None:
    a = world.host(1, MemoryTransport(MemoryNetwork()))
    b = world.host(2, MemoryTransport(MemoryNetwork()))
    b.listen("/memory/b")
    a.dial("/memory/b")
    settle(world)
    assert isinstance(a.error, DestinationNotFound)


def test_dial_beyond_the_bound_of_handshakes_finds_nobody(world: World) -> None:
    network = MemoryNetwork()
    a = world.host(1, MemoryTransport(network))
    b = world.host(2, MemoryTransport(network), max_half_open=1)
    b.decision = lambda negotiation: None
    b.listen("/memory/b")
    for _ in range(2):
        a.dial("/memory/b")
    settle(world)
    assert isinstance(a.error, DestinationNotFound)
    assert b.half_open.refused == 1


def test_dial_to_nobody_cancelled_on_its_way_reports_that_only(world: World, clock: Clock) -> None:
    a, _ = pair(world, MemoryNetwork(latency_ms=10))
    dial = a.dial("/memory/c")
    settle(world)
    dial.cancel(BehaviorRejected("changed my mind"))
    clock.now_ms += 100
    settle(world)
    assert isinstance(a.error, BehaviorRejected)


def test_dial_cancelled_on_its_way_reaches_nobody(world: World, clock: Clock) -> None:
    a, b = pair(world, MemoryNetwork(latency_ms=10))
    b.listen("/memory/b")
    dial = a.dial("/memory/b")
    settle(world)
    dial.cancel(DestinationNotFound("changed my mind"))
    for _ in range(100):
        clock.now_ms += 1
        settle(world)
    assert len(a.down) == 1
    assert not a.up
    assert not b.up
    assert isinstance(b.error, DestinationNotFound)


def test_listener_closed_while_a_dial_is_on_its_way_refuses_it(world: World, clock: Clock) -> None:
    a, b = pair(world, MemoryNetwork(latency_ms=10))
    listener = b.listen("/memory/b")
    a.dial("/memory/b")
    settle(world)
    listener.close()
    listener.close()
    for _ in range(100):
        clock.now_ms += 1
        settle(world)
    assert isinstance(a.error, DestinationNotFound)
    assert not b.asked


def test_name_is_taken_until_its_listener_closes(world: World) -> None:
    a, b = pair(world, MemoryNetwork())
    listener = a.listen("/memory/x")
    with pytest.raises(OSError, match="in use"):
        b.listen("/memory/x")
    listener.close()
    b.listen("/memory/x")


def test_remove_of_a_listener_that_has_no_place_leaves_its_successor(world: World) -> None:
    network = MemoryNetwork()
    a, b = pair(world, network)
    old: Any = a.listen("/memory/x")
    old.close()
    new = b.listen("/memory/x")
    network.remove(old)
    assert network.find("x") is new


def test_default_network_is_one_per_process() -> None:
    assert MemoryTransport().network is MemoryTransport().network is MemoryNetwork.default()


def test_transport_without_a_name_takes_that_of_its_first_listener(world: World) -> None:
    transport = MemoryTransport(MemoryNetwork())
    host = world.host(1, transport)
    host.listen("/memory/first")
    host.listen("/memory/second")
    assert transport.name == "first"


def test_abandon_does_nothing(world: World) -> None:
    a, b = pair(world, MemoryNetwork())
    b.listen("/memory/b")
    b.transports[0].abandon()
    a.dial("/memory/b")
    settle(world)
    assert a.up


# -- channels ------------------------------------------------------------------------------------


def test_write_is_heard_in_a_later_turn_and_in_order(world: World) -> None:
    near, _, _, heard = channels(world)
    assert near.write(b"one") == 3
    assert near.write(b"two") == 3
    assert heard.heard == []
    settle(world)
    assert heard.heard == [b"one", b"two"]


def test_write_keeps_a_copy_of_what_may_change(world: World) -> None:
    near, _, _, heard = channels(world)
    data = bytearray(b"one")
    near.write(data)
    data[:] = b"two"
    settle(world)
    assert heard.heard == [b"one"]


def test_write_of_nothing_is_not_heard(world: World) -> None:
    near, _, _, heard = channels(world)
    assert near.write(b"") == 0
    settle(world)
    assert heard.heard == []


def test_latency_delays_each_write_by_itself(world: World, clock: Clock) -> None:
    near, _, _, heard = channels(world, MemoryNetwork(latency_ms=10))
    near.write(b"one")
    settle(world)
    clock.now_ms += 4
    near.write(b"two")
    settle(world)
    clock.now_ms += 6
    settle(world)
    assert heard.heard == [b"one"]
    clock.now_ms += 4
    settle(world)
    assert heard.heard == [b"one", b"two"]


def test_latency_of_two_names_is_theirs_in_both_directions(world: World, clock: Clock) -> None:
    network = MemoryNetwork(latency_ms=1)
    network.set_latency("b", "a", 5)
    near, far, at_near, at_far = channels(world, network)
    near.write(b"x")
    far.write(b"y")
    settle(world)
    clock.now_ms += 4
    settle(world)
    assert at_near.heard == at_far.heard == []
    clock.now_ms += 1
    settle(world)
    assert (at_near.heard, at_far.heard) == ([b"y"], [b"x"])


def test_lower_latency_does_not_overtake(world: World, clock: Clock) -> None:
    network = MemoryNetwork(latency_ms=10)
    near, _, _, heard = channels(world, network)
    near.write(b"one")
    settle(world)
    network.set_latency("a", "b", 0)
    near.write(b"two")
    settle(world)
    assert heard.heard == []
    clock.now_ms += 10
    settle(world)
    assert heard.heard == [b"one", b"two"]


def test_window_bounds_what_is_under_way_and_tells_when_there_is_room(world: World) -> None:
    network = MemoryNetwork(window_bytes=2_000)
    near, far, told, heard = channels(world, network)
    far.set_target(None)
    assert near.write(bytes(1_500)) == 1_500
    assert near.write(bytes(1_500)) == 500
    assert near.write(b"x") == 0
    settle(world)
    assert told.heard == []
    far.set_target(heard)
    settle(world)
    assert told.heard == ["writable"]
    assert near.write(b"x") == 1


def test_window_is_never_smaller_than_a_handshake() -> None:
    assert MemoryNetwork(window_bytes=1).window_bytes == 2 * wire.MAX_HANDSHAKE_BYTES


def test_window_with_room_again_before_anybody_was_told_tells_nothing(world: World) -> None:
    near, _, told, _ = channels(world, MemoryNetwork(window_bytes=2_000))
    near.write(bytes(2_000))
    assert near.write(b"x") == 0
    world.turn()  # taken; the telling is under way
    assert near.write(b"x") == 1
    settle(world)
    assert told.heard == []


def test_data_waits_for_a_target(world: World) -> None:
    near, far, _, heard = channels(world)
    far.set_target(None)
    near.write(b"one")
    settle(world)
    far.set_target(heard)
    assert heard.heard == []  # never from inside set_target
    settle(world)
    assert heard.heard == [b"one"]


def test_target_that_leaves_in_the_middle_gets_no_more(world: World) -> None:
    near, far, _, _ = channels(world)
    later = Target()

    class Leaving(Target):
        def receive_data(self, data: bytes) -> None:
            super().receive_data(data)
            far.set_target(None)

    leaving = Leaving()
    far.set_target(leaving)
    near.write(b"one")
    near.write(b"two")
    settle(world)
    far.set_target(later)
    settle(world)
    assert (leaving.heard, later.heard) == ([b"one"], [b"two"])


def test_target_that_raises_gets_the_rest_all_the_same(world: World) -> None:
    near, far, _, _ = channels(world)

    class Raising(Target):
        def receive_data(self, data: bytes) -> None:
            super().receive_data(data)
            if data == b"one":
                raise ValueError("from the test")

    raising = Raising()
    far.set_target(raising)
    near.write(b"one")
    near.write(b"two")
    with pytest.raises(ValueError, match="from the test"):
        settle(world)
    settle(world)
    assert raising.heard == [b"one", b"two"]


def test_shutdown_ends_one_direction_after_the_data(world: World) -> None:
    near, far, at_near, at_far = channels(world)
    near.write(b"last")
    near.shutdown()
    near.shutdown()
    with pytest.raises(BrokenPipeError):
        near.write(b"more")
    far.write(b"still here")
    settle(world)
    assert at_far.heard == [b"last", "eof"]
    assert at_near.heard == [b"still here"]


def test_close_lets_arrive_what_was_written_and_hears_no_more(world: World) -> None:
    near, far, at_near, at_far = channels(world)
    far.write(b"on its way")
    near.write(b"last")
    near.close()
    near.close()
    settle(world)
    assert at_near.heard == []
    assert at_far.heard == [b"last", "eof"]


def test_close_drops_what_was_on_its_way_here(world: World, clock: Clock) -> None:
    near, far, at_near, _ = channels(world, MemoryNetwork(latency_ms=10))
    far.write(b"on its way")
    settle(world)
    near.close()
    clock.now_ms += 10
    settle(world)
    assert at_near.heard == []


def test_write_to_a_closed_end_is_lost_without_a_word(world: World) -> None:
    near, far, _, _ = channels(world, MemoryNetwork(window_bytes=1_024))
    far.close()
    assert near.write(bytes(5_000)) == 5_000


def test_full_post_queue_of_the_other_loop_delays_and_loses_nothing(kernels: ModuleType) -> None:
    clock = Clock()
    near_loop, far_loop = kernels.Loop(clock=clock), kernels.Loop(clock=clock, max_posts=1)
    near, far = MemoryChannel.pair(MemoryNetwork(), (near_loop, "a"), (far_loop, "b"))
    heard = Target()
    far.set_target(heard)
    far_loop.post(lambda: None)
    near.write(b"one")
    far_loop.run_once(0)
    assert heard.heard == []
    clock.now_ms += POST_RETRY_MS
    near_loop.run_once(0)
    far_loop.run_once(0)
    assert heard.heard == [b"one"]
    near_loop.close()
    far_loop.close()


def test_two_threads_exchange_every_byte_in_order(kernels: ModuleType) -> None:
    total = 200_000
    network = MemoryNetwork(window_bytes=1_024)  # narrow, so that both wait for each other often
    loops = kernels.Loop(), kernels.Loop()
    ends = MemoryChannel.pair(network, (loops[0], "a"), (loops[1], "b"))
    data = bytes(range(256)) * (total // 256 + 1)
    peers = [Exchange(end, data[:total]) for end in ends]
    threads = [
        threading.Thread(target=peer.run, args=(loop,))
        for peer, loop in zip(peers, loops, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert all(peer.got == data[:total] for peer in peers)
    for loop in loops:
        loop.close()


class Exchange:
    """Sends everything and receives everything, on its own thread."""

    def __init__(self, channel: MemoryChannel, data: bytes) -> None:
        self.got = b""
        self._channel = channel
        self._data = data
        self._at = 0
        self._ended = False

    def run(self, loop: Any) -> None:
        self._channel.set_target(self)
        self.channel_writable()
        end = time.monotonic() + DEADLINE_S  # after a lost telling: the test sees what is missing
        while not (self._ended and self._at == len(self._data)) and time.monotonic() < end:
            loop.run_once(1_000)

    def channel_writable(self) -> None:
        while self._at < len(self._data):
            written = self._channel.write(self._data[self._at : self._at + 777])
            self._at += written
            if not written:
                return
        self._channel.shutdown()

    def receive_data(self, data: bytes) -> None:
        self.got += data

    def receive_eof(self) -> None:
        self._ended = True


# -- streams -------------------------------------------------------------------------------------


class Never:
    """Must not hear anything."""

    def on_data(self, data: bytes) -> None:
        raise AssertionError(data)

    def on_eof(self, error: OSError | None) -> None:
        raise AssertionError(error)


NEVER = Never()
MEMORY_A = Endpoint("memory", "a")


def after_close(stream: MemoryStream) -> None:
    stream.close()


def after_detach(stream: MemoryStream) -> None:
    stream.detach()


@pytest.mark.parametrize("end", [after_close, after_detach])
def test_stream_after_its_end_does_nothing(
    world: World, end: Callable[[MemoryStream], None]
) -> None:
    near, _, _, heard = channels(world)
    stream = MemoryStream(near, MEMORY_A)
    end(stream)
    stream.set_target(NEVER)
    stream.write(b"lost")
    stream.receive_data(b"lost")
    stream.receive_eof()
    stream.channel_writable()
    stream.finish()
    assert stream.detach().channel is None
    settle(world)
    assert b"lost" not in heard.heard


def test_write_into_a_stream_that_broke_leaves_the_news_to_its_end(world: World) -> None:
    near, _, _, _ = channels(world)
    stream = MemoryStream(near, MEMORY_A)
    near.shutdown()
    stream.write(b"a proof")  # raises nothing: on_eof says it
