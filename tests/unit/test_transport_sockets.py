from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from netcore.address import Endpoint
from netcore.errors import DestinationNotFound, HandshakeTimeout, LocalError, TooManyConnections
from netcore.transport import Negotiation, TcpTransport, UnixTransport, tcp
from netcore.transport.sockets import MAX_UNSENT_BYTES, READ, WRITE, SocketStream
from support.hosts import FakeHost, World, open_fds

ANY = "/ip4/127.0.0.1/tcp/0"
REMOTE = Endpoint("unix", "/peer")


class Target:
    """Writes down what a stream tells."""

    def __init__(self) -> None:
        self.heard: list[bytes | str] = []

    def on_data(self, data: bytes) -> None:
        self.heard.append(data)

    def on_eof(self, error: OSError | None) -> None:
        self.heard.append("eof" if error is None else type(error).__name__)


class ScriptSocket:
    """A socket whose methods a test replaces."""

    def __init__(self, sock: socket.socket, **methods: Callable[..., Any]) -> None:
        self._sock = sock
        self.__dict__.update(methods)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def raising(code: int) -> Callable[..., Any]:
    def fail(*args: object) -> Any:
        raise OSError(code, "from the test")

    return fail


class Stage:
    """One end of a socket pair as a stream; the test plays the other."""

    def __init__(self, kernels: ModuleType) -> None:
        self.world = World(kernels)
        self.transport = UnixTransport()
        self.host: FakeHost = self.world.host(1, self.transport)
        self.sock, self.far = socket.socketpair()
        self.far.settimeout(5)
        self.stream: SocketStream = self.transport.adopt(self.sock, REMOTE)
        self.target = Target()

    def listen(self) -> None:
        self.stream.set_target(self.target)

    def replace(self, **methods: Callable[..., Any]) -> None:
        self.stream._sock = ScriptSocket(self.sock, **methods)  # type: ignore[assignment]

    def fill(self) -> int:
        """Write until the kernel takes no more, around the stream."""
        filled = 0
        try:
            while True:
                filled += self.sock.send(bytes(65_536))
        except BlockingIOError:
            return filled

    def drain(self, size: int) -> bytes:
        """Read that many bytes while the loop turns."""
        data = b""
        self.far.setblocking(False)
        while len(data) < size:
            self.world.turn()
            try:
                data += self.far.recv(size - len(data))
            except BlockingIOError:
                continue
        self.far.settimeout(5)
        return data

    def close(self) -> None:
        self.stream.close()
        self.sock.close()
        self.far.close()
        self.world.close()


@pytest.fixture
def stage(kernels: ModuleType) -> Iterator[Stage]:
    stage = Stage(kernels)
    yield stage
    stage.close()


# -- the stream ----------------------------------------------------------------------------------


def test_write_goes_out_at_once(stage: Stage) -> None:
    stage.stream.write(b"hello")
    assert stage.far.recv(100) == b"hello"


def test_write_that_the_kernel_does_not_take_goes_out_later(stage: Stage) -> None:
    stage.listen()
    filled = stage.fill()
    stage.stream.write(b"last")
    assert stage.drain(filled + 4)[-4:] == b"last"
    assert stage.stream.detach().unsent == b""


def test_detach_hands_over_what_was_not_sent(stage: Stage) -> None:
    stage.listen()
    stage.fill()
    stage.stream.write(b"last")
    detached = stage.stream.detach()
    assert detached.sock is stage.sock
    assert detached.unsent == b"last"
    assert stage.world.loop.sources == 0


def test_write_keeps_a_bounded_number_of_bytes(stage: Stage) -> None:
    stage.fill()
    stage.stream.write(bytes(MAX_UNSENT_BYTES))
    with pytest.raises(LocalError):
        stage.stream.write(b"x")


def test_write_to_a_broken_stream_leaves_the_news_to_reading(stage: Stage) -> None:
    stage.listen()
    stage.far.close()
    stage.stream.write(b"lost")
    stage.world.until(lambda: stage.target.heard)
    assert stage.target.heard == ["eof"]


def test_read_passes_on_data_and_the_end(stage: Stage) -> None:
    stage.listen()
    stage.far.send(b"hello")
    stage.world.until(lambda: stage.target.heard)
    stage.far.close()
    stage.world.until(lambda: len(stage.target.heard) == 2)
    assert stage.target.heard == [b"hello", "eof"]


def test_read_that_breaks_passes_on_the_error(stage: Stage) -> None:
    stage.listen()
    stage.replace(recv=raising(errno.ECONNRESET))
    stage.stream._on_ready(READ)
    assert stage.target.heard == ["ConnectionResetError"]


def test_read_without_data_does_nothing(stage: Stage) -> None:
    stage.listen()
    stage.stream._on_ready(READ)
    assert stage.target.heard == []


def test_finish_waits_for_what_was_not_sent_then_for_the_other_end(stage: Stage) -> None:
    stage.listen()
    filled = stage.fill()
    stage.stream.write(b"last")
    stage.stream.finish()
    assert stage.host.half_open.lingering == 1
    assert stage.drain(filled + 4)[-4:] == b"last"
    assert stage.far.recv(1) == b""
    stage.far.send(b"forgotten")
    stage.world.turn()
    assert stage.host.half_open.lingering == 1
    stage.far.close()
    stage.world.until(lambda: not stage.host.half_open.lingering)
    assert stage.target.heard == []
    assert stage.world.loop.timers == 0


def test_finish_when_the_other_end_was_faster_closes(stage: Stage) -> None:
    stage.listen()
    stage.replace(shutdown=raising(errno.ENOTCONN))
    stage.stream.finish()
    assert stage.host.half_open.lingering == 0
    assert stage.world.loop.sources == 0


def test_finish_in_the_middle_of_both_events_reads_no_more(stage: Stage) -> None:
    stage.listen()
    filled = stage.fill()
    stage.stream.write(b"last")
    stage.stream.finish()
    stage.replace(shutdown=raising(errno.ENOTCONN))
    stage.far.recv(filled)
    stage.stream._on_ready(READ | WRITE)
    assert stage.host.half_open.lingering == 0


def test_finish_twice_waits_once(stage: Stage) -> None:
    stage.listen()
    stage.stream.finish()
    stage.stream.finish()
    assert (stage.host.half_open.lingering, stage.world.loop.timers) == (1, 1)


def test_finish_before_anybody_listens_closes(stage: Stage) -> None:
    stage.stream.finish()
    assert stage.far.recv(1) == b""


def test_stream_after_close_does_nothing(stage: Stage) -> None:
    stage.stream.close()
    stage.listen()
    stage.stream.write(b"lost")
    stage.stream.finish()
    stage.stream.close()
    stage.stream._on_ready(READ | WRITE)
    assert stage.stream.detach().sock is None
    assert stage.world.loop.sources == 0


# -- the negotiation over it ---------------------------------------------------------------------


def test_negotiation_after_its_end_hears_nothing(stage: Stage) -> None:
    negotiation = Negotiation(stage.host, stage.stream, conn_id=1, outgoing=False)
    negotiation.start()
    negotiation.abort(HandshakeTimeout())
    negotiation.on_data(b"late")
    negotiation.on_eof(None)
    negotiation.abort(DestinationNotFound())
    assert isinstance(stage.host.error, HandshakeTimeout)


def test_outgoing_negotiation_takes_no_decisions(stage: Stage) -> None:
    negotiation = Negotiation(stage.host, stage.stream, conn_id=0, outgoing=True)
    negotiation.start()
    negotiation.answer()
    negotiation.accept()
    negotiation.reject(1, "")
    assert not negotiation.done
    negotiation.abort(HandshakeTimeout())


# -- connecting and accepting --------------------------------------------------------------------


@pytest.fixture
def world(kernels: ModuleType) -> Iterator[World]:
    world = World(kernels)
    yield world
    world.close()


def test_connect_without_descriptors_fails_as_too_many(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = TcpTransport()
    host = world.host(1, transport)
    monkeypatch.setattr(transport, "open_socket", raising(errno.EMFILE))
    host.dial("/ip4/127.0.0.1/tcp/1")
    world.until(lambda: host.down)
    assert isinstance(host.error, TooManyConnections)


def test_connect_with_a_socket_that_takes_no_options_fails(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = TcpTransport()
    host = world.host(1, transport)
    monkeypatch.setattr(transport, "configure", raising(errno.EINVAL))
    before = open_fds()
    host.dial("/ip4/127.0.0.1/tcp/1")
    world.until(lambda: host.down)
    assert isinstance(host.error, DestinationNotFound)
    assert open_fds() == before


def test_accepted_socket_that_is_gone_already_is_closed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = TcpTransport()
    host = world.host(1, transport)
    endpoint = host.listen(ANY).endpoint
    monkeypatch.setattr(transport, "configure", raising(errno.EINVAL))
    with socket.create_connection((endpoint.host, endpoint.port), 5) as sock:
        world.turn(1_000)
        assert sock.recv(1) == b""
    assert host.half_open.incoming == 0


def test_accept_takes_a_bounded_number_per_turn(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("netcore.transport.sockets.ACCEPTS_PER_TURN", 1)
    host = world.host(1, TcpTransport())
    endpoint = host.listen(ANY).endpoint
    socks = [socket.create_connection((endpoint.host, endpoint.port), 5) for _ in range(3)]
    taken = []
    while host.half_open.incoming < 3:
        world.turn(1_000)
        taken.append(host.half_open.incoming)
    assert taken == [1, 2, 3]
    for sock in socks:
        sock.close()


def test_listener_closed_by_the_host_when_accept_fails_stays_closed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = world.host(1, TcpTransport())
    listener: Any = host.listen(ANY)
    listener._sock = ScriptSocket(listener._sock, accept=raising(errno.EMFILE))
    monkeypatch.setattr(host, "accept_failed", lambda error: listener.close())
    with socket.create_connection((listener.endpoint.host, listener.endpoint.port), 5):
        world.turn(1_000)
    assert (world.loop.sources, world.loop.timers) == (0, 0)


def test_configure_where_the_system_has_no_low_watermark_sets_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tcp, "_NOTSENT_LOWAT", None)
    with socket.socket() as sock:
        TcpTransport().configure(sock, Endpoint("ip4", "192.0.2.1", 1))
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize(
    ("kind", "host", "fixed"),
    [
        ("ip4", "127.0.0.1", True),
        ("ip4", "127.9.9.9", True),
        ("ip6", "::1", True),
        ("ip4", "192.0.2.1", False),
        ("ip6", "2001:db8::1", False),
    ],
)
def test_configure_sets_the_send_buffer_on_loopback_only(kind: Any, host: str, fixed: bool) -> None:
    with socket.socket() as sock, socket.socket() as other:
        TcpTransport().configure(sock, Endpoint(kind, host, 1))
        size = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        default = other.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        assert (size != default) is fixed
        assert not fixed or size >= tcp.LOOPBACK_SNDBUF_BYTES
