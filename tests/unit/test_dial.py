from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from netcore import wire
from netcore.address import Endpoint, NodeAddr
from netcore.errors import (
    AlreadyConnected,
    AuthenticationError,
    BehaviorRejected,
    DestinationNotFound,
    HandshakeTimeout,
    IdentityMismatch,
    OutgoingConnectionError,
    RemoteRejected,
    TooManyConnections,
    UnsupportedProtocol,
)
from netcore.transport import (
    Detached,
    Dial,
    Listener,
    MemoryNetwork,
    MemoryTransport,
    Negotiation,
    Stream,
    TcpTransport,
    Transport,
    UnixTransport,
    protocol_of,
)
from netcore.transport.base import StreamTarget
from support.hosts import FakeHost, World

A1 = "/ip4/10.0.0.1/tcp/1"
A2 = "/ip4/10.0.0.2/tcp/2"
A3 = "/ip6/::3/tcp/3"
REFUSED = OSError(errno.ECONNREFUSED, "Connection refused")


class Clock:
    def __init__(self) -> None:
        self.now_ms = 1_000

    def __call__(self) -> int:
        return self.now_ms


class ScriptStream:
    """A stream whose other end is played by the test."""

    protocol = wire.PROTOCOL_TCP

    def __init__(self, remote: Endpoint) -> None:
        self.remote: Endpoint | None = remote
        self.target: StreamTarget | None = None
        self.written = b""
        self.closed = False
        self.detached = False

    def set_target(self, target: StreamTarget) -> None:
        self.target = target

    def write(self, data: bytes) -> None:
        self.written += data

    def finish(self) -> None:
        self.closed = True

    def close(self) -> None:
        self.closed = not self.detached

    def detach_channel(self) -> Detached:
        raise AssertionError("nobody here speaks TLS")

    def detach(self) -> Detached:
        self.detached = True
        return Detached(None, None)

    def reject(self, code: int, text: bytes = b"") -> None:
        """Let the other end refuse."""
        assert self.target is not None
        self.target.on_data(
            bytes([wire.KIND_REJECT, 0, 0, 2 + len(text)]) + code.to_bytes(2, "big") + text
        )


class Connect:
    """A connect that the test brings to its end."""

    def __init__(self, endpoint: Endpoint, on_result: Callable[[Stream | OSError], None]) -> None:
        self.endpoint = endpoint
        self.cancelled = False
        self._on_result = on_result

    def cancel(self) -> None:
        self.cancelled = True

    def fail(self, error: OSError = REFUSED) -> None:
        self._on_result(error)

    def succeed(self) -> ScriptStream:
        stream = ScriptStream(self.endpoint)
        self._on_result(stream)
        return stream


class ScriptTransport(Transport):
    """Connects as the test says."""

    kinds = frozenset({"ip4", "ip6"})
    protocol = wire.PROTOCOL_TCP

    def __init__(self) -> None:
        self.connects: list[Connect] = []

    def listen(self, endpoint: Endpoint) -> Listener:
        raise NotImplementedError

    def connect(self, endpoint: Endpoint, on_result: Callable[[Stream | OSError], None]) -> Connect:
        self.connects.append(Connect(endpoint, on_result))
        return self.connects[-1]

    def close(self) -> None:
        pass

    def abandon(self) -> None:
        pass


class ScriptResolver:
    """Resolves as the test says."""

    def __init__(self) -> None:
        self.asked: list[Endpoint] = []
        self.cancelled = False
        self.on_result: Callable[[list[Endpoint] | OSError], None] = lambda result: None

    def resolve(self, endpoint: Endpoint, on_result: Any) -> ScriptResolver:
        self.asked.append(endpoint)
        self.on_result = on_result
        return self

    def cancel(self) -> None:
        self.cancelled = True


class Stage:
    """One dialling host, with everything around it scripted."""

    def __init__(self, kernels: ModuleType) -> None:
        self.clock = Clock()
        self.world = World(kernels, self.clock)
        self.transport = ScriptTransport()
        self.resolver = ScriptResolver()
        self.host: FakeHost = self.world.host(1, self.transport)
        self.host.resolver = self.resolver  # type: ignore[assignment]

    def dial(self, text: str, **how: Any) -> Dial:
        dial = self.host.dial(text, **how)
        self.world.turn()
        return dial

    def pass_time(self, ms: int) -> None:
        self.clock.now_ms += ms
        self.world.turn()

    @property
    def last(self) -> Connect:
        return self.transport.connects[-1]

    @property
    def tried(self) -> str:
        return "".join(str(connect.endpoint) for connect in self.transport.connects)


@pytest.fixture
def stage(kernels: ModuleType) -> Iterator[Stage]:
    stage = Stage(kernels)
    yield stage
    stage.world.close()


# -- which protocol ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (A1, wire.PROTOCOL_TCP),
        ("/dns/a.b/tcp/1", wire.PROTOCOL_TCP),
        ("/memory/m" + A1, wire.PROTOCOL_TCP),
        ("/memory/m/unix/a", wire.PROTOCOL_UNIX),
        ("/memory/m", None),
    ],
)
def test_protocol_of_is_that_of_the_first_endpoint_somebody_takes(
    text: str, expected: int | None
) -> None:
    assert protocol_of(NodeAddr.parse(text), [TcpTransport(), UnixTransport()]) == expected


# -- the order -----------------------------------------------------------------------------------


def test_start_does_nothing_before_the_loop_turns(stage: Stage) -> None:
    stage.host.dial(A1)
    assert stage.tried == ""


def test_alternatives_are_tried_in_order(stage: Stage) -> None:
    stage.dial(A1 + A2 + A3)
    for _ in range(3):
        stage.last.fail()
    assert stage.tried == A1 + A2 + A3
    assert isinstance(stage.host.error, DestinationNotFound)


def test_alternatives_after_the_one_that_answers_are_not_tried(stage: Stage) -> None:
    stage.dial(A1 + A2)
    stage.last.succeed()
    assert stage.tried == A1


def test_endpoints_that_no_transport_takes_are_left_out(stage: Stage) -> None:
    stage.dial("/memory/m" + A1 + "/unix/a")
    stage.last.fail()
    assert stage.tried == A1
    assert isinstance(stage.host.error, DestinationNotFound)


def test_address_that_no_transport_takes_is_an_unsupported_protocol(stage: Stage) -> None:
    stage.dial("/memory/m/unix/a")
    assert isinstance(stage.host.error, UnsupportedProtocol)
    assert "/memory/m/unix/a" in str(stage.host.error)


def test_name_is_tried_at_its_addresses_before_the_next_alternative(stage: Stage) -> None:
    stage.dial("/dns/a.b/tcp/9" + A3)
    assert stage.resolver.asked == [Endpoint("dns", "a.b", 9)]
    stage.resolver.on_result([Endpoint("ip4", "10.0.0.1", 1), Endpoint("ip4", "10.0.0.2", 2)])
    for _ in range(3):
        stage.last.fail()
    assert stage.tried == A1 + A2 + A3


def test_name_that_does_not_resolve_leads_to_the_next_alternative(stage: Stage) -> None:
    stage.dial("/dns/a.b/tcp/9" + A1)
    stage.resolver.on_result(OSError("no such name"))
    assert stage.tried == A1


def test_name_that_resolves_to_what_nobody_takes_is_an_unsupported_protocol(stage: Stage) -> None:
    stage.transport.kinds = frozenset({"ip4"})  # type: ignore[misc]
    stage.dial("/dns/a.b/tcp/9")
    stage.resolver.on_result([Endpoint("ip6", "::3", 3)])
    assert isinstance(stage.host.error, UnsupportedProtocol)


def test_look_up_out_of_time_is_cancelled_and_leads_on(stage: Stage) -> None:
    stage.dial("/dns/a.b/tcp/9" + A1)
    stage.pass_time(stage.host.config.resolve_timeout_ms - 1)
    assert not stage.resolver.cancelled
    stage.pass_time(1)
    assert stage.resolver.cancelled
    assert stage.tried == A1


def test_connect_out_of_time_is_cancelled_and_leads_on(stage: Stage) -> None:
    stage.dial(A1 + A2)
    stage.pass_time(stage.host.config.handshake_timeout_ms)
    assert stage.transport.connects[0].cancelled
    assert stage.tried == A1 + A2


def test_each_alternative_has_the_whole_timeout(stage: Stage) -> None:
    timeout = stage.host.config.handshake_timeout_ms
    stage.dial(A1 + A2)
    stage.pass_time(timeout)
    stage.pass_time(timeout - 1)
    assert not stage.host.down
    stage.pass_time(1)
    assert isinstance(stage.host.error, HandshakeTimeout)


def test_timeout_counts_from_the_connect(stage: Stage) -> None:
    timeout = stage.host.config.handshake_timeout_ms
    stage.dial(A1)
    stage.pass_time(timeout - 1)
    stage.last.succeed()
    assert not stage.host.down
    stage.pass_time(1)
    assert isinstance(stage.host.error, HandshakeTimeout)


# -- errors --------------------------------------------------------------------------------------


def reject(code: int) -> Callable[[Connect], None]:
    return lambda connect: connect.succeed().reject(code)


def silent(connect: Connect) -> None:
    connect.fail(OSError(errno.ETIMEDOUT, "Connection timed out"))


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (Connect.fail, DestinationNotFound),
        (silent, HandshakeTimeout),
        (reject(wire.REJECT_VERSION), UnsupportedProtocol),
        (reject(wire.REJECT_IDENTITY_MISMATCH), IdentityMismatch),
        (reject(wire.REJECT_AUTHENTICATION), AuthenticationError),
    ],
)
def test_error_of_the_place_leads_to_the_next_alternative(
    stage: Stage, act: Callable[[Connect], None], error: type[OutgoingConnectionError]
) -> None:
    stage.dial(A1 + A2)
    act(stage.last)
    assert stage.tried == A1 + A2
    stage.last.fail()
    assert isinstance(stage.host.error, error)


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (reject(wire.REJECT_BEHAVIOR), RemoteRejected),
        (reject(wire.REJECT_ALREADY_CONNECTED), AlreadyConnected),
        (reject(wire.REJECT_TOO_MANY_CONNECTIONS), TooManyConnections),
        (lambda connect: connect.fail(OSError(errno.EMFILE, "Too many")), TooManyConnections),
    ],
)
def test_error_of_a_node_ends_the_dial(
    stage: Stage, act: Callable[[Connect], None], error: type[OutgoingConnectionError]
) -> None:
    stage.dial(A1 + A2)
    act(stage.last)
    assert stage.tried == A1
    assert isinstance(stage.host.error, error)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_most_telling_error_is_reported_whatever_the_order(
    stage: Stage, order: tuple[int, int, int]
) -> None:
    acts: list[Callable[[Connect], None]]
    acts = [Connect.fail, silent, reject(wire.REJECT_AUTHENTICATION)]
    stage.dial(A1 + A2 + A3)
    for index in order:
        acts[index](stage.last)
    assert isinstance(stage.host.error, AuthenticationError)


def test_first_of_equally_telling_errors_is_reported(stage: Stage) -> None:
    stage.dial(A1 + A2)
    stage.last.fail()
    stage.last.fail()
    assert A1 in str(stage.host.error)


def test_error_of_an_os_error_without_words_is_its_text(stage: Stage) -> None:
    stage.dial(A1)
    stage.last.fail(OSError("AF_UNIX path too long"))
    assert "AF_UNIX path too long" in str(stage.host.error)


# -- the end -------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["at once", "resolving", "connecting", "shaking hands"])
def test_cancel_reports_its_error_once_and_stops_everything(stage: Stage, moment: str) -> None:
    dial = stage.host.dial("/dns/a.b/tcp/9" if moment == "resolving" else A1 + A2)
    stream = None
    if moment != "at once":
        stage.world.turn()
    if moment == "shaking hands":
        stream = stage.last.succeed()
    dial.cancel(BehaviorRejected("changed my mind"))
    dial.cancel(BehaviorRejected("and again"))
    assert isinstance(stage.host.error, BehaviorRejected)
    assert stage.host.error.reason == "changed my mind"
    assert stage.host.half_open.outgoing == 0
    assert stage.world.loop.timers == 0
    assert stream is None or stream.closed
    assert stage.resolver.cancelled == (moment == "resolving")
    assert all(connect.cancelled for connect in stage.transport.connects if stream is None)
    stage.world.turn()
    assert len(stage.transport.connects) <= 1


def test_negotiation_shows_through_while_it_lasts(stage: Stage) -> None:
    dial = stage.dial(A1 + A2, node=7)
    assert (dial.expected_node, dial.remote, dial.peer) == (7, None, None)
    assert not dial.hello_sent
    stream = stage.last.succeed()
    assert dial.hello_sent
    assert dial.remote == Endpoint("ip4", "10.0.0.1", 1)
    assert dial.negotiation is not None
    assert dial.negotiation.expected_node == 7
    stream.reject(wire.REJECT_AUTHENTICATION)
    assert not dial.hello_sent
    assert not dial.done
    assert dial.outgoing


def test_parallel_is_asked_for_in_the_hello(stage: Stage) -> None:
    stage.dial(A1, parallel=True)
    stream = stage.last.succeed()
    assert stream.written[11:13] == b"\x00\x01"


def test_host_that_fails_to_take_the_link_gets_its_stream_closed(kernels: ModuleType) -> None:
    world = World(kernels, Clock())
    network = MemoryNetwork()
    a, b = world.host(1, MemoryTransport(network)), world.host(2, MemoryTransport(network))
    b.listen("/memory/b")

    def fail(negotiation: Negotiation, accepted: object) -> None:
        raise ValueError("from the test")

    a.established = fail  # type: ignore[method-assign]
    dial = a.dial("/memory/b")
    with pytest.raises(ValueError, match="from the test"):
        world.until(lambda: False)
    assert dial.done
    assert dial.negotiation is not None
    assert dial.negotiation.stream.detach().channel is None  # closed
    world.close()
